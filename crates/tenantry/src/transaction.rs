//! The transactions that an application's closures get.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::domain::request::Once;
use crate::engine::reply::{Ran, Reply};
use crate::engine::{ReadSession, Tx, WriteSession};
use crate::ops::{adopt, requests, trash, upsert, users};
use crate::{
    ChangePage, ChangesCursor, Email, Error, Filter, Kept, ListQuery, NewUser, OnConflict, Page,
    RequestKey, Result, SignIn, StoragePath, Timestamp, TrashPage, TrashQuery, TrashedUser,
    Upserted, User, UserId, UserUpdate,
};

/// A consistent view of the store, through which a closure given to
/// [`Store::read`](crate::Store::read) reads.
///
/// All its calls see the same state, whatever other transactions write.
pub struct ReadTx<'c> {
    pub(crate) session: ReadSession<'c>,
}

impl<'c> ReadTx<'c> {
    pub(crate) fn new(session: ReadSession<'c>) -> Self {
        Self { session }
    }

    /// Returns the user with this id, if there is one.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn get(&self, id: UserId) -> Result<Option<User>> {
        self.session.run(|tx| tx.user(id))
    }

    /// Returns the users with these ids, each at the place of the id, or `None` there.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn get_many(&self, ids: &[UserId]) -> Result<Vec<Option<User>>> {
        self.session.run(|tx| tx.users_with_ids(ids))
    }

    /// Returns the user with this address, in whatever spelling, if there is one.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.session.run(|tx| tx.user_by_email(email))
    }

    /// Counts the users: about 15 ms for a million.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn count(&self) -> Result<u64> {
        self.session.run(|tx| tx.user_count())
    }

    /// Counts the users who meet a filter, as [`Store::count_where`](crate::Store::count_where)
    /// does.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn count_where(&self, filter: &Filter) -> Result<u64> {
        self.session.run(|tx| tx.count_where(filter))
    }

    /// Returns a page of users, as [`Store::list`](crate::Store::list) does.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn list(&self, query: &ListQuery) -> Result<Page> {
        self.session.run(|tx| tx.page(query))
    }

    /// Returns a page of the change feed, as [`Store::changes`](crate::Store::changes) does. In a
    /// write transaction, it holds the changes that were made in it so far.
    ///
    /// # Errors
    ///
    /// `CursorExpired`, `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn changes(&self, after: Option<&ChangesCursor>, limit: usize) -> Result<ChangePage> {
        self.session.run(|tx| tx.changes(after, limit))
    }

    /// Returns the place behind the newest change, from which to follow what happens after this
    /// snapshot.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn changes_cursor(&self) -> Result<ChangesCursor> {
        self.session.run(|tx| tx.changes_cursor())
    }

    /// Returns the user in the trash with this id, if there is one.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.session.run(|tx| tx.trashed(id))
    }

    /// Returns the users in the trash who have this address, as
    /// [`Store::find_in_trash`](crate::Store::find_in_trash) does.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn find_in_trash(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        self.session.run(|tx| tx.trashed_by_email(email))
    }

    /// Returns the users whose addresses are confusable with this one, as
    /// [`Store::confusables`](crate::Store::confusables) does.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn confusables(&self, email: &Email) -> Result<Vec<User>> {
        self.session.run(|tx| users::confusables(&tx, email))
    }

    /// Returns whether an address of a user isn't plain ASCII. Otherwise no address of plain ASCII
    /// has [confusable addresses](Self::confusables), and an import needn't look for any.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn has_non_ascii_addresses(&self) -> Result<bool> {
        self.session.run(|tx| tx.has_non_ascii_addresses())
    }

    /// Returns whether a user with this id was purged.
    ///
    /// # Errors
    ///
    /// `Busy`, `Io`, `Corrupt`.
    pub fn was_purged(&self, id: UserId) -> Result<bool> {
        self.session.run(|tx| tx.was_purged(id))
    }

    /// Returns a page of the trash, as [`Store::list_trash`](crate::Store::list_trash) does.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        self.session.run(|tx| tx.trash_page(query))
    }
}

/// A write transaction, through which a closure given to [`Store::write`](crate::Store::write)
/// changes the store.
///
/// Each call is applied as a whole or not at all, and the closure may go on after one that failed.
/// The changes are committed if the closure returns `Ok`, and rolled back if it returns `Err` or
/// panics. All calls have the same time.
pub struct WriteTx<'c> {
    read: ReadTx<'c>,
    session: WriteSession<'c>,
    /// The first failure that the transaction may not survive, whatever the closure made of it.
    fault: Option<Error>,
}

impl<'c> WriteTx<'c> {
    pub(crate) fn new(session: WriteSession<'c>) -> Self {
        Self { read: ReadTx::new(session.read_session()), session, fault: None }
    }

    fn run<T, E: Into<Error>>(
        &mut self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T> {
        let fault = &mut self.fault;
        self.session.run(|tx| {
            operation(tx).map_err(Into::into).inspect_err(|error| {
                if fault.is_none() && tx.is_over(error) {
                    *fault = Some(error.clone());
                }
            })
        })
    }

    /// Returns the time of this transaction: whatever is created, changed or logged in within it
    /// gets this time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.session.now()
    }

    /// Runs an operation once, however often it is sent with this key: as
    /// [`Store::once`](crate::Store::once) does for one of the store's own.
    ///
    /// # Errors
    ///
    /// Those of the operation; `KeyReused` if another request was made with this key.
    pub fn once<T: Kept, E: From<Error>>(
        &mut self,
        key: RequestKey,
        operation: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let once = Once::new(key);
        if let Some(kept) = self.run(|tx| requests::kept(tx, &once))? {
            return Ok(kept);
        }
        let result = operation(self)?;
        self.run(|tx| requests::keep(tx, &once, &result))?;
        Ok(result)
    }

    /// Creates a user, as [`Store::create`](crate::Store::create) does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::create`](crate::Store::create).
    pub fn create(&mut self, user: &NewUser) -> Result<User> {
        self.run(|tx| users::create(tx, user))
    }

    /// Updates a user, as [`Store::update`](crate::Store::update) does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::update`](crate::Store::update).
    pub fn update(&mut self, id: UserId, update: &UserUpdate) -> Result<User> {
        self.run(|tx| users::update(tx, id, update))
    }

    /// Suspends a user, as [`Store::suspend`](crate::Store::suspend) does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::suspend`](crate::Store::suspend).
    pub fn suspend(&mut self, id: UserId) -> Result<User> {
        self.run(|tx| users::suspend(tx, id))
    }

    /// Lets a user sign in again, as [`Store::resume`](crate::Store::resume) does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::resume`](crate::Store::resume).
    pub fn resume(&mut self, id: UserId) -> Result<User> {
        self.run(|tx| users::resume(tx, id))
    }

    /// Deletes a user, as [`Store::delete`](crate::Store::delete) does. The directory is moved
    /// after the commit.
    ///
    /// # Errors
    ///
    /// Those of [`Store::delete`](crate::Store::delete).
    pub fn delete(&mut self, id: UserId) -> Result<User> {
        self.run(|tx| trash::delete(tx, id))
    }

    /// Restores a user, as [`Store::restore`](crate::Store::restore) does. The directory is moved
    /// after the commit.
    ///
    /// # Errors
    ///
    /// Those of [`Store::restore`](crate::Store::restore).
    pub fn restore(&mut self, id: UserId, email: Option<&Email>) -> Result<User> {
        self.run(|tx| trash::restore(tx, id, email))
    }

    /// Adopts a directory, as [`Store::adopt`](crate::Store::adopt) does. After
    /// [`create`](Self::create) in the same transaction, it creates a user on a directory that
    /// exists.
    ///
    /// # Errors
    ///
    /// Those of [`Store::adopt`](crate::Store::adopt).
    pub fn adopt(&mut self, id: UserId, path: &StoragePath) -> Result<User> {
        self.run(|tx| adopt::adopt(tx, id, path))
    }

    /// Finds or creates a user and records the login, as [`Store::sign_in`](crate::Store::sign_in)
    /// does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::sign_in`](crate::Store::sign_in).
    pub fn sign_in(&mut self, email: &Email) -> Result<SignIn> {
        self.run(|tx| users::sign_in(tx, email))
    }

    /// Records a login, as [`Store::record_login`](crate::Store::record_login) does.
    ///
    /// # Errors
    ///
    /// Those of [`Store::record_login`](crate::Store::record_login).
    pub fn record_login(&mut self, id: UserId) -> Result<User> {
        self.run(|tx| users::record_login(tx, id))
    }

    /// Creates the user, or applies the policy for one who has the id, the address or the storage
    /// path already.
    ///
    /// With [`OnConflict::Update`] the existing user, found by the id if one is given and else by
    /// the address, gets the given address, external id, name and attributes and, if it is later,
    /// the given last login. A given time of suspension suspends them; if they are suspended they
    /// stay so since then. What isn't given stays as it is. Their id, time of creation and storage
    /// path are fixed: others fail with `Immutable`. The given `updated_at` and `version` are those
    /// of another store and are ignored.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create) with [`OnConflict::Fail`]; `Immutable`, and the conflicts
    /// that an update can't settle, with [`OnConflict::Update`].
    pub fn upsert(&mut self, user: &NewUser, on_conflict: OnConflict) -> Result<Upserted> {
        self.run(|tx| upsert::upsert(tx, user, on_conflict))
    }

    /// Updates users who exchange addresses among themselves, all or none, as
    /// [`upsert`](Self::upsert) does each with [`OnConflict::Update`]: in any order, one of them
    /// would find the address taken.
    ///
    /// Every row has the id of an existing user. A trigger of an application's sees each user whose
    /// address changes with `ID@import.invalid` in between.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no user with a row's id; those of `upsert`.
    ///
    /// # Examples
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
    /// store.write(move |tx| tx.upsert_exchange(&rows)).await?;
    /// assert_eq!(store.get_by_email(&ada.email).await?.map(|user| user.id), Some(bob.id));
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn upsert_exchange(&mut self, users: &[NewUser]) -> Result<Vec<Upserted>> {
        self.run(|tx| upsert::exchange(tx, users))
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

/// An application's closure that writes, and the way back to its caller.
pub(crate) trait Closure: Send {
    /// Runs the closure, which can be done once, and keeps its result.
    fn run(&mut self, session: WriteSession<'_>) -> Ran;
    /// Sends the result: see [`Reply::send`].
    fn send_result(self: Box<Self>, committed: Result<()>, ran_alone: bool);
}

/// A closure that hasn't run yet, or its result.
pub(crate) struct ClosureCall<F, T, E> {
    pub(crate) closure: Option<F>,
    pub(crate) reply: Reply<T, E>,
}

impl<F, T, E> Closure for ClosureCall<F, T, E>
where
    F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send + 'static,
{
    fn run(&mut self, session: WriteSession<'_>) -> Ran {
        let Some(closure) = self.closure.take() else { return Ran::Failed(None) };
        let mut tx = WriteTx::new(session);
        let run = catch_unwind(AssertUnwindSafe(|| closure(&mut tx)));
        // A closure may ignore a failure, or wrap it in an error of its own.
        let ran = match (tx.fault.take(), &run) {
            (Some(fault), _) => Ran::Broken(fault),
            (None, Ok(Ok(_))) => Ran::Done,
            (None, Ok(Err(error))) => match (error as &dyn Any).downcast_ref::<Error>() {
                Some(error) if tx.session.run(|tx| tx.is_over(error)) => Ran::Broken(error.clone()),
                error => Ran::Failed(error.cloned()),
            },
            (None, Err(_)) => Ran::Failed(None),
        };
        self.reply.keep(run);
        ran
    }

    fn send_result(self: Box<Self>, committed: Result<()>, ran_alone: bool) {
        self.reply.send(committed, ran_alone);
    }
}
