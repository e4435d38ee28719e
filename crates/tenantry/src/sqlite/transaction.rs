use std::fmt;
use std::ops::Deref;

use uuid::Uuid;

use super::bring_back::bring_back;
use super::directory::{self, Directory};
use super::error::Fault;
use super::guard::GuardedConnection;
use super::inspect;
use super::intents::{self, Directories};
use super::rows::listing::Listing;
use super::{lifecycle, retired};
use super::{spelling, users};
use crate::storage::Orphan;
use crate::{
    Email, Error, Imported, ListQuery, NewUser, OnConflict, Page, Result, SignIn, StoragePath, Timestamp, TrashPage,
    TrashQuery, TrashedUser, Usage, User, UserId, UserUpdate,
};

/// A consistent view of the store in which a closure given to [`Store::read`](crate::Store::read) looks at it.
///
/// All its calls see the same moment, whatever is written meanwhile.
pub struct ReadTx<'c> {
    pub(super) conn: &'c GuardedConnection,
}

impl ReadTx<'_> {
    /// The user with this id, if there is one.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn get(&self, id: UserId) -> Result<Option<User>> {
        users::get(&self.conn.unguarded(), id)
    }

    /// The user with this address, in whatever spelling, if there is one.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        users::get_by_email(&self.conn.unguarded(), email)
    }

    /// How many users there are. It counts them: about 15 ms for a million.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn count(&self) -> Result<u64> {
        users::count(&self.conn.unguarded())
    }

    /// A page of users, as [`Store::list`](crate::Store::list) answers it.
    ///
    /// Errors: `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn list(&self, query: &ListQuery) -> Result<Page> {
        let mut listing = Listing::new(query)?;
        loop {
            if let Some(page) = listing.advance(&self.conn.unguarded())? {
                return Ok(page);
            }
        }
    }

    /// The user in the trash with this id, if there is one.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        lifecycle::get_trashed(&self.conn.unguarded(), id)
    }

    /// The users in the trash who have this address, in whatever spelling, as
    /// [`Store::find_in_trash`](crate::Store::find_in_trash) returns them.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn find_in_trash(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        lifecycle::find_in_trash(&self.conn.unguarded(), email)
    }

    /// The users whose addresses look like this one, as [`Store::look_alikes`](crate::Store::look_alikes) returns them.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn look_alikes(&self, email: &Email) -> Result<Vec<User>> {
        users::look_alikes(&self.conn.unguarded(), email)
    }

    /// Returns whether an address of a user isn't plain ASCII. Otherwise no address of plain ASCII has
    /// [look-alikes](Self::look_alikes), and an import needn't look for any.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn has_non_ascii_addresses(&self) -> Result<bool> {
        users::has_non_ascii(&self.conn.unguarded())
    }

    /// Whether a user with this id was purged.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn was_purged(&self, id: UserId) -> Result<bool> {
        retired::was_purged(&self.conn.unguarded(), id)
    }

    /// A page of the trash, as [`Store::list_trash`](crate::Store::list_trash) answers it.
    ///
    /// Errors: `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        lifecycle::list_trash(&self.conn.unguarded(), query)
    }

    pub(crate) fn directory(&self, id: UserId) -> Result<Option<Directory>> {
        directory::directory(&self.conn.unguarded(), id)
    }

    pub(crate) fn store_id(&self) -> Result<Uuid> {
        retired::store_id(&self.conn.unguarded())
    }

    /// Whether what lies in this stage of an import is still to be moved to its place.
    pub(crate) fn needs_stage(&self, stage: &str) -> Result<bool> {
        intents::is_about_stage(&self.conn.unguarded(), stage)
    }

    pub(crate) fn usage(&self, id: UserId) -> Result<Option<Usage>> {
        lifecycle::usage(&self.conn.unguarded(), id)
    }

    pub(crate) fn top_usage(&self, limit: usize) -> Result<Vec<(User, Usage)>> {
        lifecycle::top_usage(&self.conn.unguarded(), limit)
    }

    /// Users who have a directory, from a place in the order of creation on, and the next such place.
    pub(crate) fn with_directory(&self, after: i64, limit: usize) -> Result<(Vec<UserId>, Option<i64>)> {
        lifecycle::with_directory(&self.conn.unguarded(), after, limit)
    }
}

/// A write transaction in which a closure given to [`Store::write`](crate::Store::write) changes the store.
///
/// Each call happens as a whole or not at all, and the closure may go on after one that failed. What the closure did
/// lasts if it returns `Ok`, and is undone if it returns `Err` or panics. All its calls see the same time.
pub struct WriteTx<'c> {
    read: ReadTx<'c>,
    now: Timestamp,
    new_id: &'c dyn Fn() -> UserId,
    directories: &'c Directories<'c>,
    /// The first failure that was not of one operation alone, whatever the closure made of it.
    fault: Option<Error>,
}

impl<'c> WriteTx<'c> {
    pub(super) fn new(
        conn: &'c GuardedConnection,
        now: Timestamp,
        new_id: &'c dyn Fn() -> UserId,
        directories: &'c Directories<'c>,
    ) -> Self {
        Self { read: ReadTx { conn }, now, new_id, directories, fault: None }
    }

    /// Whether an operation has met what is to be done first, after which the job is run again.
    pub(crate) fn is_too_early(&self) -> bool {
        self.directories.is_too_early.get()
    }

    pub(super) fn take_fault(&mut self) -> Option<Error> {
        self.fault.take()
    }

    fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && self.fault.is_none()
            && Fault::of(error) != Fault::Local
        {
            self.fault = Some(error.clone());
        }
        result
    }

    /// The time of this transaction: what is created, changed or logged in within it bears this time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// As [`Store::create`](crate::Store::create).
    pub fn create(&mut self, user: &NewUser) -> Result<User> {
        let conn = self.read.conn.unguarded();
        let result = spelling::check_new(&conn, self.directories.storage, user)
            .and_then(|()| users::create(&conn, user, self.now, self.new_id));
        drop(conn);
        self.note(result)
    }

    /// As [`Store::update`](crate::Store::update).
    pub fn update(&mut self, id: UserId, update: &UserUpdate) -> Result<User> {
        let result = users::update(&self.read.conn.unguarded(), id, update, self.now);
        self.note(result)
    }

    /// As [`Store::delete`](crate::Store::delete). The directory follows when the transaction is committed.
    pub fn delete(&mut self, id: UserId) -> Result<User> {
        let result = lifecycle::delete(&self.read.conn.unguarded(), self.directories, id, self.now);
        self.note(result)
    }

    /// As [`Store::restore`](crate::Store::restore). The directory follows when the transaction is committed.
    pub fn restore(&mut self, id: UserId, email: Option<&Email>) -> Result<User> {
        let result = lifecycle::restore(&self.read.conn.unguarded(), self.directories, id, email, self.now);
        self.note(result)
    }

    /// As [`Store::adopt`](crate::Store::adopt). After [`create`](Self::create) in the same transaction, it creates a
    /// user on a directory that exists.
    pub fn adopt(&mut self, id: UserId, path: &StoragePath) -> Result<User> {
        let name = || self.quarantine_name();
        let conn = self.read.conn.unguarded();
        let result = spelling::check(&conn, self.directories.storage, path)
            .and_then(|()| lifecycle::adopt(&conn, self.directories, id, path, self.now, &name));
        drop(conn);
        self.note(result)
    }

    /// A name in quarantine that nothing has: when, and something random.
    fn quarantine_name(&self) -> String {
        let when: String = self.now.to_string().chars().take(19).filter(|char| *char != ':').collect();
        let random = (self.new_id)().to_string();
        format!("{when}Z-{}", &random[..8])
    }

    /// Creates a user who comes with files, in a stage from where they are moved when the transaction is committed.
    pub(crate) fn import_with_files(&mut self, user: &NewUser, stage: Option<&str>) -> Result<User> {
        let conn = self.read.conn.unguarded();
        let result = spelling::check_new(&conn, self.directories.storage, user)
            .and_then(|()| lifecycle::import(&conn, self.directories, user, stage, self.now, self.new_id));
        drop(conn);
        self.note(result)
    }

    /// Brings back a user, from the trash if they may be there, with files in a stage from where they are moved when the transaction
    /// is committed.
    pub(crate) fn bring_back(&mut self, id: UserId, may_be_trashed: bool, stage: Option<&str>) -> Result<User> {
        let conn = self.read.conn.unguarded();
        let result = bring_back(&conn, self.directories, id, may_be_trashed, stage, self.now);
        drop(conn);
        self.note(result)
    }

    pub(crate) fn make_directory(&mut self, id: UserId) -> Result<()> {
        let result = lifecycle::make_directory(&self.read.conn.unguarded(), self.directories, id, self.now);
        self.note(result)
    }

    /// Finishes what is unfinished about a user's directory.
    pub(crate) fn settle(&mut self, id: UserId) -> Result<()> {
        let result = intents::settle(&self.read.conn.unguarded(), self.directories, id).map(drop);
        self.note(result)
    }

    pub(crate) fn begin_purge(&mut self, id: UserId) -> Result<Option<StoragePath>> {
        let result = lifecycle::begin_purge(&self.read.conn.unguarded(), self.directories, id, self.now);
        self.note(result)
    }

    pub(crate) fn end_purge(&mut self, id: UserId) -> Result<bool> {
        let result = lifecycle::end_purge(&self.read.conn.unguarded(), id, self.now);
        self.note(result)
    }

    pub(crate) fn erase(&mut self) -> Result<()> {
        let result = lifecycle::erase(&self.read.conn.unguarded(), self.directories);
        self.note(result)
    }

    /// Moves something that belongs to nobody to quarantine when the transaction is committed. Says whether it does.
    pub(crate) fn quarantine(&mut self, orphan: &Orphan) -> Result<bool> {
        let name = self.quarantine_name();
        let result = inspect::quarantine(&self.read.conn.unguarded(), self.directories, orphan, self.now, name);
        self.note(result)
    }

    /// Records that a user's directory is there, if it is.
    pub(crate) fn record_directory(&mut self, id: UserId) -> Result<()> {
        let result = inspect::record_directory(&self.read.conn.unguarded(), self.directories, id);
        self.note(result)
    }

    pub(crate) fn set_usage(&mut self, id: UserId, usage: &Usage) -> Result<()> {
        let result = lifecycle::set_usage(&self.read.conn.unguarded(), id, usage);
        self.note(result)
    }

    /// As [`Store::sign_in`](crate::Store::sign_in).
    pub fn sign_in(&mut self, email: &Email) -> Result<SignIn> {
        let result = users::sign_in(&self.read.conn.unguarded(), email, self.now, self.new_id);
        self.note(result)
    }

    /// As [`Store::record_login`](crate::Store::record_login).
    pub fn record_login(&mut self, id: UserId) -> Result<User> {
        let result = users::record_login(&self.read.conn.unguarded(), id, self.now);
        self.note(result)
    }

    /// Creates the user, or deals with the one who has the id, the address or the storage path already.
    ///
    /// With [`OnConflict::Update`] the user who is there, found by the id if one is given and else by the address, gets
    /// the given address and, if it is later, the given last login. Their id, time of creation and storage path are
    /// fixed: if others are given, that is `Immutable`. The given `updated_at` and `version` say how things were
    /// elsewhere and don't count.
    ///
    /// Errors: those of [`create`](Self::create) with [`OnConflict::Fail`]; `Immutable`, and the conflicts that an
    /// update can't settle, with [`OnConflict::Update`].
    pub fn import(&mut self, user: &NewUser, on_conflict: OnConflict) -> Result<Imported> {
        let conn = self.read.conn.unguarded();
        let result = spelling::check_new(&conn, self.directories.storage, user)
            .and_then(|()| users::import(&conn, user, on_conflict, self.now, self.new_id));
        drop(conn);
        self.note(result)
    }

    /// Updates users who exchange addresses among themselves, all or none, as [`import`](Self::import) does each with
    /// [`OnConflict::Update`]: in any order, one of them would find the address taken.
    ///
    /// Every row has the id of an existing user. A trigger of an application's sees each user whose address changes with
    /// `ID@import.invalid` in between.
    ///
    /// Errors: `NotFound` if there is no user with a row's id; those of `import`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # futures_lite::future::block_on(async {
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// use tenantry::NewUser;
    ///
    /// let ada = store.create(NewUser::new("ada@example.com".parse()?)).await?;
    /// let bob = store.create(NewUser::new("bob@example.com".parse()?)).await?;
    /// let rows = [
    ///     NewUser { id: Some(ada.id), ..NewUser::new(bob.email) },
    ///     NewUser { id: Some(bob.id), ..NewUser::new(ada.email.clone()) },
    /// ];
    /// store.write(move |tx| tx.import_exchange(&rows)).await?;
    /// assert_eq!(store.get_by_email(&ada.email).await?.map(|user| user.id), Some(bob.id));
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn import_exchange(&mut self, users: &[NewUser]) -> Result<Vec<Imported>> {
        let result = users::import_exchange(&self.read.conn.unguarded(), users, self.now);
        self.note(result)
    }
}

impl<'c> Deref for WriteTx<'c> {
    type Target = ReadTx<'c>;

    fn deref(&self) -> &ReadTx<'c> {
        &self.read
    }
}

impl fmt::Debug for ReadTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadTx")
    }
}

impl fmt::Debug for WriteTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteTx")
    }
}
