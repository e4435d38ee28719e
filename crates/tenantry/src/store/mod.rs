mod files;

use std::fmt;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cap_std::fs::Dir;
use tracing::instrument;

use crate::ambient::SystemAmbient;
use crate::options::{DEFAULT_BUSY_TIMEOUT, Durability, Options};
use crate::sqlite::{Engine, Upgrade};
use crate::storage::{Measured, Storage, TrashLock};
use crate::thread::on_thread;
use crate::{
    Ambient, Email, Error, ErrorKind, ListQuery, NewUser, Page, Purge, Purged, ReadTx, Result, SignIn, StoragePath,
    TrashPage, TrashQuery, TrashedUser, Usage, User, UserId, UserUpdate, WriteTx,
};

/// The users of an application, kept in a data directory.
///
/// A store is a handle: clones share one open database, and a program opens each data directory once. Its methods
/// are asynchronous and run under any executor; none of them needs a reactor or a timer.
///
/// **Writes** go through a queue to one thread, which writes whatever is queued with one wait for the disk. What a
/// write answered is on the disk: it outlives a crash of the program, and also a power cut unless
/// [`Durability::Normal`] was chosen. A write whose future is dropped after its first poll may happen or not.
///
/// **Reads** run on the thread that polls them, because the usual one is over sooner than any hand-over to another
/// thread: a few microseconds for one user, about 1 ms for a page of 1,000. A read sees every write that was answered
/// before it began. (The figures are those of `cargo run --release -p tenantry --example figures`.)
///
/// **Searches** are reads that inspect many users: a [`list`](Store::list) or [`pages`](Store::pages) with a filter,
/// [`count`](Store::count) and [`users_with_directory`](Store::users_with_directory). They run on two threads of the
/// store's own, started for the first of them, so they keep no executor from its sockets and timers. Further ones
/// wait in a queue, and get `Busy` if it is full. A search whose future is dropped ends at its next step.
///
/// **Blocking**: [`read`](Store::read) runs its closure on the thread that polls it, for as long as the closure takes.
/// A long one belongs on a thread for blocking work, as does what is done with the handles from
/// [`storage`](Store::storage), whose methods are blocking file calls.
///
/// Every operation can fail with these [kinds of errors](crate::ErrorKind), which the methods don't repeat: `Closed`
/// after [`close`](Store::close); `Busy` when another process holds the write lock, or when too many callers wait; `Full`
/// and `ReadOnly` for writes; `Io` and `Corrupt`; for writes `OutcomeUnknown`, which says that the transaction failed
/// at the end and may be there or not. After an I/O failure during a write, the store refuses further writes.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
}

impl Store {
    /// Opens the store in this data directory. If there is none, it is created, with the directory.
    ///
    /// Errors: those of [`Builder::open`].
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(data_dir).open().await
    }

    /// A builder, to open the store in this data directory with other settings than the defaults.
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder { options: Options::new(data_dir.into()), ambient: Arc::new(SystemAmbient) }
    }

    /// Whether opening it created the store.
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.engine.outcome().created
    }

    /// What opening it did to a store of an older version, if it was one.
    #[must_use]
    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.engine.outcome().upgraded.as_ref()
    }

    /// Whether the store is open for reading only, because its file system is read-only. Every write is `ReadOnly` then.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.engine.outcome().read_only
    }

    /// Creates a user.
    ///
    /// Errors: `EmailTaken`; `IdTaken` and `PathTaken` if an id or a path was given; `InvalidPath` if the path is in
    /// the part of the namespace that is [reserved](crate::StoragePath); `InvalidUser`.
    #[instrument(level = "debug", skip_all)]
    pub async fn create(&self, user: NewUser) -> Result<User> {
        self.engine.operate(move |tx| tx.create(&user)).await
    }

    /// Creates users in one transaction, and answers for each of them: one that fails leaves the others alone.
    /// The order is kept. The list is in memory and holds the write lock as a whole, so a large import is better
    /// divided, or done with [`write`](Store::write).
    ///
    /// Errors: the outer one is of the transaction, in which case no user was created; the inner ones are
    /// those of [`create`](Store::create).
    #[instrument(level = "debug", skip_all, fields(users = users.len()))]
    pub async fn create_many(&self, users: Vec<NewUser>) -> Result<Vec<Result<User>>> {
        self.engine
            .operate(move |tx| {
                let mut outcomes = Vec::with_capacity(users.len());
                for user in &users {
                    let outcome = tx.create(user);
                    if let Err(error) = &outcome
                        && !error.is_of_row()
                    {
                        return Err(error.clone());
                    }
                    outcomes.push(outcome);
                }
                Ok(outcomes)
            })
            .await
    }

    /// The user with this id, if there is one.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.engine.read_one(|tx| tx.get(id))
    }

    /// The user with this address, in whatever spelling, if there is one.
    #[instrument(level = "debug", skip_all)]
    pub async fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.engine.read_one(|tx| tx.get_by_email(email))
    }

    /// Changes a user, and answers how they are now. An update that changes nothing doesn't make a new version.
    ///
    /// Errors: `NotFound`; `VersionMismatch`, which carries the current version; `EmailTaken`.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn update(&self, id: UserId, update: UserUpdate) -> Result<User> {
        self.engine.operate(move |tx| tx.update(id, &update)).await
    }

    /// Moves a user to the trash, with their directory, and answers who that was. Their address is free at once; their id
    /// and their storage path stay theirs, as do the rows of the application's tables that refer to them, until the
    /// [purge](Store::purge).
    ///
    /// Errors: `NotFound`; `StorageBlocked` if the directory can't be moved, in which case nothing was done; `StorageUnavailable`;
    /// `Unfinished` if it could not be moved yet.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn delete(&self, id: UserId) -> Result<User> {
        self.engine.operate(move |tx| tx.delete(id)).await
    }

    /// Brings a user back from the trash, with their directory: the same id, the same storage path, the same place in
    /// the order of creation. With an `email` they get that as their new address.
    ///
    /// Errors: `NotFound` if there is no such user in the trash or a purge of them has begun; `EmailTaken` if somebody
    /// else has the address now, whom [`taken_by`](Error::taken_by) names; `StorageBlocked` if something stands at
    /// the storage path; `StorageUnavailable`; `Unfinished` if the directory could not be moved yet.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn restore(&self, id: UserId, email: Option<Email>) -> Result<User> {
        self.engine.operate(move |tx| tx.restore(id, email.as_ref())).await
    }

    /// The user in the trash with this id, if there is one.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.engine.read_one(|tx| tx.get_trashed(id))
    }

    /// The users in the trash who have this address, in whatever spelling: the one who was deleted last comes first, and
    /// at most [`TrashedUser::OF_ONE_ADDRESS_MAX`] are returned.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, email: tenantry::Email) -> Result<(), tenantry::Error> {
    /// if let Some(latest) = store.find_in_trash(&email).await?.first() {
    ///     store.restore(latest.user.id, None).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn find_in_trash(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        self.engine.read_one(|tx| tx.find_in_trash(email))
    }

    /// The users whose addresses look like this one, though they are others: their
    /// [skeletons](https://www.unicode.org/reports/tr39/#Confusable_Detection) are the same. Users in the trash aren't
    /// among them, and at most [`User::LOOK_ALIKES_MAX`] are returned.
    ///
    /// An address that is plain ASCII is compared with those of users that aren't. One that isn't is also compared with
    /// the addresses of ASCII that it passes for, in which whatever is ASCII in it stays as it is; of those with
    /// many such readings (a `1` for each `l`) the first 64 are looked for. That one address of ASCII looks like another,
    /// as `rn` looks like `m`, isn't found: too many people have both.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> Result<(), tenantry::Error> {
    /// store.create(tenantry::NewUser::new("coco@example.com".parse()?)).await?;
    /// // In Cyrillic letters.
    /// let alike = store.look_alikes(&"сосо@example.com".parse()?).await?;
    /// assert_eq!(alike[0].email.as_str(), "coco@example.com");
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn look_alikes(&self, email: &Email) -> Result<Vec<User>> {
        self.engine.read(|tx| tx.look_alikes(email))
    }

    /// A page of the trash, in the order of deletion.
    ///
    /// Errors: `InvalidQuery`.
    #[instrument(level = "debug", skip_all)]
    pub async fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        self.engine.read_one(|tx| tx.list_trash(query))
    }

    /// Destroys users in the trash for good: their files, and every trace of their rows in the database and its log,
    /// except for the id and a digest of the storage path, which nobody is ever given again. Rows of the application's
    /// tables that refer to them with `ON DELETE CASCADE` go with them.
    ///
    /// The files are removed on a thread of their own, and `progress` is called now and then with their number so far.
    /// Then the database is rewritten as a whole, in memory, and nobody else can write meanwhile (a second or two, and
    /// 160 MB, for a million users). If the future is dropped before the end, or something goes wrong, the users
    /// concerned stay in the trash, marked; they can only be purged, and the next opening of the store goes on with it.
    ///
    /// The disk may keep what was overwritten, and backups and exports keep what they hold.
    ///
    /// Errors: `NotFound` if there is no such user in the trash; `Constraint` if a row of the application's tables refers to
    /// them otherwise, in which case nothing was done; `StorageBlocked` if something stands at their storage path;
    /// `Busy` while a backup is made; `StorageUnavailable`; `Unfinished` if their directory can't be brought to the trash, or
    /// if their files are removed and that can't be recorded.
    /// Files that could not be removed are no error but in [`Purged::left`], and that the database could not be rewritten
    /// yet is in [`Purged::not_erased`].
    #[instrument(level = "debug", skip_all)]
    pub async fn purge(&self, whom: Purge, progress: impl Fn(u64) + Send + Sync + 'static) -> Result<Purged> {
        let progress = Arc::new(progress);
        let mut purged = Purged::default();
        // Without directories there is nothing that a backup could miss.
        let no_backups = match self.engine.storage() {
            Ok(storage) => Some(Arc::new(storage.lock_out_backups(self.engine.patience())?)),
            Err(_) => None,
        };
        match whom {
            Purge::User(id) => {
                let path = self.engine.operate(move |tx| tx.begin_purge(id)).await?;
                self.end_purge(vec![(id, Ok(path))], &mut purged, &progress, &no_backups).await?;
            }
            Purge::DeletedBefore(moment) => {
                let mut query =
                    TrashQuery { limit: ListQuery::MAX_LIMIT, deleted_before: Some(moment), ..TrashQuery::default() };
                loop {
                    let page = self.engine.read_one(|tx| tx.list_trash(&query))?;
                    let ids: Vec<UserId> = page.users.into_iter().map(|trashed| trashed.user.id).collect();
                    let begun = self.engine.operate(move |tx| begin_purges(tx, &ids)).await?;
                    self.end_purge(begun, &mut purged, &progress, &no_backups).await?;
                    if page.next_cursor.is_none() {
                        break;
                    }
                    query.cursor = page.next_cursor;
                }
            }
        }
        purged.not_erased = self.engine.operate(|tx| tx.erase()).await.err();
        Ok(purged)
    }

    /// Removes the files of users whose purge has begun, and then their rows. Some had no files, and are gone already.
    async fn end_purge(
        &self,
        begun: Vec<(UserId, Result<Option<StoragePath>>)>,
        purged: &mut Purged,
        progress: &Arc<impl Fn(u64) + Send + Sync + 'static>,
        no_backups: &Option<Arc<TrashLock>>,
    ) -> Result<()> {
        let mut with_files = Vec::new();
        for (user, path) in begun {
            match path {
                Ok(Some(path)) => with_files.push((user, path)),
                Ok(None) => purged.users += 1,
                // The others are not concerned.
                Err(error) => purged.leave(user, PathBuf::new(), std::io::Error::other(error)),
            }
        }
        let (engine, progress, mut files) = (Arc::clone(&self.engine), Arc::clone(progress), purged.files);
        let no_backups = no_backups.clone();
        let removals = on_thread(move || {
            // Also if nobody waits any more.
            let _no_backups = no_backups;
            let remove = |(id, path)| {
                let progress = |removed| progress(files + removed);
                let removal = engine.storage().and_then(|storage| storage.remove(id, &path, &progress));
                files += removal.as_ref().map_or(0, |removal| removal.files);
                (id, removal)
            };
            with_files.into_iter().map(remove).collect::<Vec<_>>()
        });
        let mut ended = Vec::new();
        for (user, removal) in removals.await? {
            match removal {
                Err(error) => purged.leave(user, PathBuf::new(), std::io::Error::other(error)),
                Ok(removal) => {
                    if removal.is_complete() {
                        ended.push(user);
                    }
                    removal.left.into_iter().for_each(|(path, error)| purged.leave(user, path, error));
                    purged.files += removal.files;
                    purged.elsewhere += u64::from(removal.is_elsewhere);
                }
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        let ended = self
            .engine
            .operate(move |tx| ended.iter().try_fold(0, |count, id| Ok(count + u64::from(tx.end_purge(*id)?))));
        // Whatever the reason: their files are gone, and the intent to purge them stands.
        purged.users += ended.await.map_err(|error| {
            let message = "the files are removed, but the users may still be in the trash: it is tried again when the store is opened";
            Error::new(ErrorKind::Unfinished, message).with_source(error)
        })?;
        Ok(())
    }

    /// The directory of a user: a handle, beneath which nothing can escape. It is made when it is first asked for.
    ///
    /// The handle is opened from the store's own, in one step in which the kernel refuses every symbolic link
    /// (`openat2`, <https://man7.org/linux/man-pages/man2/openat2.2.html>), or where that call isn't allowed segment by
    /// segment, each without following a link; and its methods follow links only within the directory. It stays good while the user is deleted and restored; files that are written through it
    /// after the user was deleted are in the trash with the others.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> Result<(), Box<dyn std::error::Error>> {
    /// let files = store.storage(ada.id).await?;
    /// files.write("notes.txt", "hello")?;
    /// assert!(files.open("../someone-else/notes.txt").is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: `NotFound`; `Unfinished` if it is on its way and can't be moved; `StorageLost` if it was made once and is
    /// missing; `StorageBlocked` if a symbolic link or something else stands on the way, or if there is a directory at a chosen path that the store didn't make
    /// (see [`adopt`](Store::adopt)); `StorageUnavailable`; `Full`, `ReadOnly`, `Io` if it can't be made.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn storage(&self, id: UserId) -> Result<Dir> {
        let mut is_settled = false;
        loop {
            let directory = self.engine.read_one(|tx| tx.directory(id))?;
            let directory = directory.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such user"))?;
            let storage = self.engine.storage()?;
            if !directory.is_made {
                self.engine.operate(move |tx| tx.make_directory(id)).await?;
                continue;
            }
            match storage.dir(&directory.path) {
                // It may just be on its way to or from the trash.
                Err(error) if error.kind() == ErrorKind::StorageLost && !is_settled => {
                    self.engine.operate(move |tx| tx.settle(id)).await?;
                    is_settled = true;
                }
                dir => return Ok(Dir::from_std_file(dir?.into())),
            }
        }
    }

    /// The path of a user's directory, which is made if it wasn't yet: for programs that can't be given a handle.
    ///
    /// Prefer [`storage`](Store::storage). A path is looked up anew by whoever uses it: if somebody can put a symbolic link
    /// into the directory, whatever the path is joined with can lead anywhere; and after the user is deleted it
    /// leads nowhere.
    ///
    /// Errors: those of [`storage`](Store::storage).
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn storage_path(&self, id: UserId) -> Result<PathBuf> {
        self.storage(id).await?;
        let directory = self.engine.read_one(|tx| tx.directory(id))?;
        let directory = directory.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such user"))?;
        Ok(self.engine.storage()?.path(&directory.path))
    }

    /// Gives a user a directory that is there already, under `storage/`: for applications that bring their users' files
    /// with them. The directory, and those above it, get the mode 0700.
    ///
    /// The directory that the user had before is removed if it is empty. A path that was chosen before is retired.
    /// To create a user on a directory, do both in one transaction:
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let path: tenantry::StoragePath = "customers/ada".parse()?;
    /// let new = tenantry::NewUser::new("ada@example.com".parse()?);
    /// let ada = store
    ///     .write(move |tx| {
    ///         let ada = tx.create(&new)?;
    ///         tx.adopt(ada.id, &path)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: `NotFound` if there is no such user or no such directory; `PathTaken` if it is, holds or lies within a
    /// directory that somebody has or had; `InvalidPath` if the path is reserved; `StorageBlocked` if a symbolic link or a
    /// mounted file system stands on the way; `NotEmpty` if the user has files already; `StorageUnavailable`.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn adopt(&self, id: UserId, path: StoragePath) -> Result<User> {
        self.engine.operate(move |tx| tx.adopt(id, &path)).await
    }

    /// Measures what a user's directory holds, by walking it, and keeps the result. A user who has none yet has nothing
    /// in it.
    ///
    /// It runs on a thread of its own, and `progress` is called now and then with the number of files so far. No link
    /// is followed, and no other file system entered below the directory.
    ///
    /// Errors: those of [`storage`](Store::storage); `Io` if the directory is rearranged meanwhile.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn measure_usage(&self, id: UserId, progress: impl Fn(u64) + Send + 'static) -> Result<Usage> {
        let directory = self.engine.read_one(|tx| tx.directory(id))?;
        let directory = directory.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such user"))?;
        // As for everybody who asks for it: it may just be on its way.
        let dir = if directory.is_made { Some(self.storage(id).await?) } else { None };
        let measured = match dir {
            None => Measured::default(),
            Some(dir) => on_thread(move || Storage::measure(dir.into_std_file().into(), &progress)).await??,
        };
        let usage = Usage {
            files: measured.files,
            apparent_bytes: measured.apparent_bytes,
            allocated_bytes: measured.allocated_bytes,
            unreadable: measured.unreadable,
            measured_at: self.engine.now(),
        };
        self.engine.operate(move |tx| tx.set_usage(id, &usage)).await?;
        Ok(usage)
    }

    /// What a user's directory held when it was last measured, if it ever was. See
    /// [`measured_at`](Usage::measured_at) for how old that is.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn usage(&self, id: UserId) -> Result<Option<Usage>> {
        self.engine.read_one(|tx| tx.usage(id))
    }

    /// The `limit` users whose directories took most on the disk when they were last measured, the largest first.
    #[instrument(level = "debug", skip_all)]
    pub async fn top_usage(&self, limit: usize) -> Result<Vec<(User, Usage)>> {
        self.engine.read_one(|tx| tx.top_usage(limit))
    }

    /// The ids of users whose directories were made, in the order of creation: those whom it makes sense to
    /// [measure](Store::measure_usage).
    #[instrument(level = "debug", skip_all)]
    pub async fn users_with_directory(&self) -> Result<Vec<UserId>> {
        let (mut users, mut after) = (Vec::new(), 0);
        let search = self.engine.search(move |tx| {
            let (mut some, next) = tx.with_directory(after, ListQuery::MAX_LIMIT)?;
            users.append(&mut some);
            Ok(match next {
                Some(next) => {
                    after = next;
                    None
                }
                None => Some(mem::take(&mut users)),
            })
        });
        search.await
    }

    /// How many users there are. It counts them, on a thread of the store's own: about 15 ms for a million.
    #[instrument(level = "debug", skip_all)]
    pub async fn count(&self) -> Result<u64> {
        self.engine.search(|tx| tx.count().map(Some)).await
    }

    /// Finds the user with this address or creates them, and records the login, in one step: however many sign in
    /// with the same new address at once, there is one user, and one answer that says it is new.
    #[instrument(level = "debug", skip_all)]
    pub async fn sign_in(&self, email: Email) -> Result<SignIn> {
        self.engine.operate(move |tx| tx.sign_in(&email)).await
    }

    /// Records that a user logged in now. The time of the last login only moves forward, also when the clock is set
    /// back. A login doesn't change `updated_at` and `version`.
    ///
    /// Errors: `NotFound`.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn record_login(&self, id: UserId) -> Result<User> {
        self.engine.operate(move |tx| tx.record_login(id)).await
    }

    /// A page of users in the order of creation.
    ///
    /// Following [`next_cursor`](Page::next_cursor) from page to page meets every user once who was there all the time,
    /// whatever is created and deleted meanwhile, and in the end those who were created meanwhile.
    ///
    /// A page without a filter is read on the calling thread. One with a filter is searched for on a thread of the
    /// store's own, and the search ends when the future is dropped.
    ///
    /// Errors: `InvalidQuery`.
    #[instrument(level = "debug", skip_all)]
    pub async fn list(&self, query: &ListQuery) -> Result<Page> {
        self.engine.list(query).await
    }

    /// All pages from the one that `query` asks for to the last.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let mut pages = store.pages(tenantry::ListQuery::default());
    /// while let Some(users) = pages.next().await? {
    ///     for user in users {
    ///         println!("{}", user.id);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn pages(&self, query: ListQuery) -> Pages {
        Pages { store: self.clone(), query: Some(query) }
    }

    /// Runs a closure in a read transaction: everything it reads is of one moment. It runs on the calling thread,
    /// and while it runs the write-ahead log can't be cut back, so it should end.
    ///
    /// For tables of the application's own in the same file see [`sqlite`](crate::sqlite).
    ///
    /// Errors: those of the closure. A panic in it reaches the caller.
    #[instrument(level = "debug", skip_all)]
    pub async fn read<T, E: From<Error>>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.engine.read(f)
    }

    /// Runs a closure in a write transaction of its own, on the writer's thread: what it does lasts if it returns
    /// `Ok`, and is undone if it returns `Err` or panics. Nobody else writes meanwhile, so it should be short.
    ///
    /// For tables of the application's own in the same file see [`sqlite`](crate::sqlite).
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, from: tenantry::UserId) -> tenantry::Result<()> {
    /// // Hand the address of one user over to a new one.
    /// let heir = store
    ///     .write(move |tx| {
    ///         let old = tx.delete(from)?;
    ///         tx.create(&tenantry::NewUser::new(old.email))
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: those of the closure, and `Constraint` if one of the application's deferred constraints fails at the
    /// end. A panic in the closure reaches the caller.
    #[instrument(level = "debug", skip_all)]
    pub async fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.engine.write(f).await
    }

    /// Closes the store for all its clones: new operations get `Closed`, those in the queue are answered, the
    /// write-ahead log is moved into the database file, and the files are closed. May be called more than once.
    ///
    /// A store whose clones are all dropped closes itself in the same way, but nobody waits for the end of it.
    ///
    /// Errors: none on SQLite. If the log can't be moved (the disk is full, a reader is in the way) nothing is lost: it
    /// stays, whoever opens the store next goes on with it, and the cause is logged as a warning.
    #[instrument(level = "debug", skip_all)]
    pub async fn close(&self) -> Result<()> {
        self.engine.close().await;
        Ok(())
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// How a store is opened.
pub struct Builder {
    options: Options,
    ambient: Arc<dyn Ambient>,
}

impl Builder {
    /// How long an operation waits for another process unless said otherwise.
    pub const DEFAULT_BUSY_TIMEOUT: Duration = DEFAULT_BUSY_TIMEOUT;

    /// Whether to create the store if there is none, which is the default. Otherwise opening it is `StoreMissing`, and
    /// nothing is created.
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.options.create_if_missing = create;
        self
    }

    /// What a write that was answered outlives; [`Durability::Full`] by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// The longest time an operation waits: whoever waits longer for another process has another problem.
    pub const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(3_600);

    /// How long an operation waits for another process that writes before it fails with `Busy`: at the most
    /// [`MAX_BUSY_TIMEOUT`](Self::MAX_BUSY_TIMEOUT), also if more is asked for.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.options.busy_timeout = timeout.min(Self::MAX_BUSY_TIMEOUT);
        self
    }

    /// Whether to keep the database as it was, in `backups/` in the data directory, before a store of an older version is upgraded,
    /// which is the default. It takes as much space again; if there is none, the store isn't upgraded. Nobody removes the
    /// snapshot but you, and it holds also whom a later purge destroys.
    #[must_use]
    pub fn snapshot_before_upgrade(mut self, snapshot: bool) -> Self {
        self.options.snapshot_before_upgrade = snapshot;
        self
    }

    /// Whether to open a store on a network file system (NFS, SMB and the like), which is refused by default: SQLite's
    /// locks and its log [don't hold there](https://sqlite.org/faq.html#q5), and nothing of what Tenantry promises does.
    #[must_use]
    pub fn allow_network_fs(mut self, allow: bool) -> Self {
        self.options.allow_network_fs = allow;
        self
    }

    /// Where the time and new ids come from; the operating system by default.
    #[must_use]
    pub fn ambient(mut self, ambient: Arc<dyn Ambient>) -> Self {
        self.ambient = ambient;
        self
    }

    /// Opens the store, creates or upgrades it if that is needed, and finishes what a crash left half done, be it a purge
    /// of many files.
    ///
    /// If the users' directories are missing (not mounted), it opens all the same: what needs them is `StorageUnavailable`.
    /// On a read-only file system it opens [for reading only](Store::is_read_only).
    ///
    /// Any number of programs on the same machine may have a store open at once. While it is open anywhere, a newer version
    /// of Tenantry that wants to upgrade it waits, and then gives up with `Busy`.
    ///
    /// Unless the program handles SIGXFSZ itself it is ignored from then on, so that a file size limit (`ulimit -f`)
    /// is an error, `Full`, and not the end of the program.
    ///
    /// Errors: `StoreMissing`; `Incompatible` if the file is of another application or of a newer version, or the
    /// directories are those of another store, in which case nothing is changed; `Busy` if another process takes too long to
    /// create or upgrade it, or has it open while it has to be upgraded; `NetworkFileSystem`; `ReadOnly` if there is no
    /// permission to write to the directory, or something has to be written on a read-only file system; `Corrupt`, `Full`, `Io`.
    pub async fn open(self) -> Result<Store> {
        Ok(Store { engine: Arc::new(Engine::open(self.options, self.ambient).await?) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The pages of a listing, one after the other: see [`Store::pages`].
#[derive(Debug)]
pub struct Pages {
    store: Store,
    query: Option<ListQuery>,
}

impl Pages {
    /// The users of the next page, or `None` after the last. After an error the same page can be asked for again.
    ///
    /// Errors: those of [`Store::list`].
    pub async fn next(&mut self) -> Result<Option<Vec<User>>> {
        let Some(query) = &self.query else { return Ok(None) };
        let page = self.store.list(query).await?;
        self.query =
            page.next_cursor.map(|cursor| ListQuery { cursor: Some(cursor), ..self.query.take().unwrap_or_default() });
        Ok((!page.users.is_empty()).then_some(page.users))
    }
}

/// Begins to purge these users, and answers the storage path of each who has files to be removed.
fn begin_purges(tx: &mut WriteTx<'_>, ids: &[UserId]) -> Result<Vec<(UserId, Result<Option<StoragePath>>)>> {
    let mut begun = Vec::with_capacity(ids.len());
    for id in ids {
        match tx.begin_purge(*id) {
            // Restored, or purged by somebody else, since they were listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // The others are not concerned.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::StorageBlocked | ErrorKind::Unfinished | ErrorKind::Constraint
                ) && !tx.is_too_early() =>
            {
                begun.push((*id, Err(error)));
            }
            path => begun.push((*id, Ok(path?))),
        }
    }
    Ok(begun)
}
