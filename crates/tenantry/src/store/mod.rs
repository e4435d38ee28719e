//! The contract: every operation of a store, what it promises and what it costs.

mod builder;
mod directories;
mod files;
mod listing;
mod purge;

use std::fmt;
use std::sync::Arc;

use tracing::instrument;

use crate::engine::metrics::Metrics;
use crate::engine::verbs::{self, Create, CreateMany, Delete, RecordLogin, Restore, Resume, Suspend, Update};
use crate::engine::{Engine, Status, Upgrade};
use crate::{Email, Error, NewUser, ReadTx, Result, SignIn, TrashedUser, User, UserId, UserUpdate, WriteTx};
pub use builder::Builder;
pub use listing::Pages;

/// The users of an application, kept in a data directory.
///
/// A store is a handle: clones share one open database, and a program opens each data directory
/// once. Its methods are asynchronous and run under any executor; none of them needs a reactor or a
/// timer.
///
/// **Writes** go through a queue to one thread, which writes whatever is queued with one wait for
/// the disk. What a write answered is on the disk: it outlives a crash of the program, and also a
/// power cut unless [`Durability::Normal`](crate::Durability::Normal) was chosen. A write whose
/// future is dropped after its first poll may happen or not.
///
/// **Reads** of one user or page run on the thread that polls them, because they are over sooner
/// than any hand-over to another thread: a few microseconds for one user, about 1 ms for a page of
/// 1,000. A read sees every write that was answered before it began. (The figures are those of
/// `cargo run --release -p tenantry --example figures`.)
///
/// **Searches** are reads that inspect many users: a [`list`](Store::list) or
/// [`pages`](Store::pages) with a filter, [`count`](Store::count),
/// [`list_trash`](Store::list_trash), [`top_usage`](Store::top_usage),
/// [`users_with_directory`](Store::users_with_directory) and [`status`](Store::status). They run on
/// two threads of the store's own, started for the first of them, so they keep no executor from its
/// sockets and timers. Further ones wait in a queue, and get `Busy` if it is full. A search whose
/// future is dropped ends at its next step.
///
/// **Closures** given to [`read`](Store::read) run on a thread for blocking work, those given to
/// [`write`](Store::write) on the writer's thread. The methods of the handles from
/// [`directory`](Store::directory) are blocking file calls, for which there is
/// [`with_directory`](Store::with_directory).
///
/// Every operation can fail with these [kinds of errors](crate::ErrorKind), which the methods don't
/// repeat: `Closed` after [`close`](Store::close); `Busy` when another process holds the write
/// lock, or when too many callers wait; `Full` and `ReadOnly` for writes; `Io` and `Corrupt`; for
/// writes `OutcomeUnknown`, which says that the transaction failed at the end and may be there or
/// not. After an I/O failure during a write, the store refuses further writes.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
}

impl Store {
    /// Whether opening it created the store.
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.engine.report().created
    }

    /// What opening it did to a store of an older version, if it was one.
    #[must_use]
    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.engine.report().upgraded.as_ref()
    }

    /// Whether the store is open for reading only, because its file system is read-only. Every
    /// write is `ReadOnly` then.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.engine.report().read_only
    }

    /// Creates a user.
    ///
    /// Errors: `EmailTaken`; `IdTaken` and `PathTaken` if an id or a path was given; `InvalidPath`
    /// if the path is in the part of the namespace that is [reserved](crate::StoragePath);
    /// `InvalidUser`.
    #[instrument(level = "debug", skip_all)]
    pub async fn create(&self, user: NewUser) -> Result<User> {
        self.engine.apply(Create(user)).await
    }

    /// Creates users in one transaction, and answers for each of them: one that fails leaves the
    /// others alone. The order is kept. The list is in memory and holds the write lock as a whole,
    /// so a large import is better divided, or done with [`write`](Store::write).
    ///
    /// Errors: the outer one is of the transaction, in which case no user was created; the inner
    /// ones are those of [`create`](Store::create).
    #[instrument(level = "debug", skip_all, fields(users = users.len()))]
    pub async fn create_many(&self, users: Vec<NewUser>) -> Result<Vec<Result<User>>> {
        self.engine.apply(CreateMany(users)).await
    }

    /// The user with this id, if there is one.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.engine.get(id).await
    }

    /// The user with this address, in whatever spelling, if there is one.
    #[instrument(level = "debug", skip_all)]
    pub async fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.engine.get_by_email(email).await
    }

    /// Changes a user, and answers how they are now. An update that changes nothing doesn't make a
    /// new version.
    ///
    /// Errors: `NotFound`; `VersionMismatch`, which carries the current version; `EmailTaken`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// use tenantry::{NewUser, Set, UserUpdate};
    ///
    /// let ada = store.create(NewUser::new("ada@example.com".parse()?)).await?;
    /// let attributes = Set::To(r#"{"plan":"pro"}"#.parse()?);
    /// let name = Set::To("Ada Lovelace".parse()?);
    /// let update = UserUpdate { name, attributes, ..UserUpdate::default() };
    /// let ada = store.update(ada.id, update).await?;
    /// assert_eq!(ada.version, 2);
    /// let update = UserUpdate { name: Set::Clear, ..UserUpdate::default() };
    /// let ada = store.update(ada.id, update).await?;
    /// assert!(ada.name.is_none() && ada.attributes.is_some());
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn update(&self, id: UserId, update: UserUpdate) -> Result<User> {
        self.engine.apply(Update(id, update)).await
    }

    /// Suspends a user: until they are [resumed](Store::resume), they don't sign in and no login of
    /// theirs is recorded. Everything else goes on: they are found and listed, can be changed, and
    /// their directory can be used. A user who is suspended stays as they are, with their version.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// store.suspend(ada.id).await?;
    /// let refused = store.sign_in(ada.email.clone()).await.unwrap_err();
    /// assert_eq!(refused.kind(), tenantry::ErrorKind::Suspended);
    /// store.resume(ada.id).await?;
    /// assert!(!store.sign_in(ada.email).await?.is_new);
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn suspend(&self, id: UserId) -> Result<User> {
        self.engine.apply(Suspend(id)).await
    }

    /// Lets a user sign in again who is [suspended](Store::suspend). One who isn't stays as they
    /// are.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    ///
    /// # Examples
    ///
    /// See [`suspend`](Store::suspend).
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn resume(&self, id: UserId) -> Result<User> {
        self.engine.apply(Resume(id)).await
    }

    /// Moves a user to the trash, with their directory, and answers who that was. Their address is
    /// free at once; their id and their storage path stay theirs, as do the rows of the
    /// application's tables that refer to them, until the [purge](Store::purge).
    ///
    /// Errors: `NotFound`; `StorageBlocked` if the directory can't be moved, in which case nothing
    /// was done; `StorageUnavailable`; `Unfinished` if it could not be moved yet.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn delete(&self, id: UserId) -> Result<User> {
        self.engine.apply(Delete(id)).await
    }

    /// Brings a user back from the trash, with their directory: the same id, the same storage path,
    /// the same place in the order of creation. With an `email` they get that as their new address.
    ///
    /// Errors: `NotFound` if there is no such user in the trash or a purge of them has begun;
    /// `EmailTaken` if somebody else has the address now, whom [`taken_by`](Error::taken_by) names;
    /// `StorageBlocked` if something stands at the storage path; `StorageUnavailable`; `Unfinished`
    /// if the directory could not be moved yet.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn restore(&self, id: UserId, email: Option<Email>) -> Result<User> {
        self.engine.apply(Restore(id, email)).await
    }

    /// The user in the trash with this id, if there is one.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.engine.get_trashed(id).await
    }

    /// The users in the trash who have this address, in whatever spelling: the one who was deleted
    /// last comes first, and at most [`TrashedUser::OF_ONE_ADDRESS_MAX`] are returned.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, email: tenantry::Email) -> tenantry::Result<()> {
    /// if let Some(latest) = store.find_in_trash(&email).await?.first() {
    ///     store.restore(latest.user.id, None).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn find_in_trash(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        self.engine.find_in_trash(email).await
    }

    /// The users whose addresses look like this one, though they are others: their
    /// [skeletons](https://www.unicode.org/reports/tr39/#Confusable_Detection) are the same. Users
    /// in the trash aren't among them, and at most [`User::CONFUSABLES_MAX`] are returned.
    ///
    /// An address that is plain ASCII is compared with those of users that aren't. One that isn't
    /// is also compared with the addresses of ASCII that it passes for, in which whatever is ASCII
    /// in it stays as it is; of those with many such readings (a `1` for each `l`) the first 64 are
    /// looked for. That one address of ASCII looks like another, as `rn` looks like `m`, isn't
    /// found: too many people have both.
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> Result<(), tenantry::Error> {
    /// store.create(tenantry::NewUser::new("coco@example.com".parse()?)).await?;
    /// // In Cyrillic letters.
    /// let alike = store.confusables(&"сосо@example.com".parse()?).await?;
    /// assert_eq!(alike[0].email.as_str(), "coco@example.com");
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn confusables(&self, email: &Email) -> Result<Vec<User>> {
        self.engine.confusables(email).await
    }

    /// Finds the user with this address or creates them, and records the login, in one step:
    /// however many sign in with the same new address at once, there is one user, and one answer
    /// that says it is new.
    ///
    /// Errors: `Suspended`, if the user who has the address is; then nothing is written.
    #[instrument(level = "debug", skip_all)]
    pub async fn sign_in(&self, email: Email) -> Result<SignIn> {
        self.engine.apply(verbs::SignIn(email)).await
    }

    /// Records that a user logged in now. The time of the last login only moves forward, also when
    /// the clock is set back. A login doesn't change `updated_at` and `version`.
    ///
    /// Errors: `NotFound`; `Suspended`, and then nothing is written.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn record_login(&self, id: UserId) -> Result<User> {
        self.engine.apply(RecordLogin(id)).await
    }

    /// Runs a closure in a read transaction, on a thread for blocking work: everything it reads is
    /// of one state. While it runs the write-ahead log can't be cut back, so it should end. A
    /// closure that runs already goes on if the future is dropped.
    ///
    /// For tables of the application's own in the same file see [`sqlite`](crate::sqlite).
    ///
    /// # Errors
    ///
    /// Those of the closure. A panic in it reaches the caller.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tenantry::{Error, TrashQuery};
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// // Both counts are of one state.
    /// let (users, trash) = store
    ///     .read(|tx| Ok::<_, Error>((tx.count()?, tx.list_trash(&TrashQuery::default())?)))
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn read<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.engine.read(f).await
    }

    /// Runs a closure in a write transaction of its own, on the writer's thread: what it does lasts
    /// if it returns `Ok`, and is undone if it returns `Err` or panics. Nobody else writes
    /// meanwhile, so it should be short.
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
    /// Errors: those of the closure, and `Constraint` if one of the application's deferred
    /// constraints fails at the end. A panic in the closure reaches the caller.
    #[instrument(level = "debug", skip_all)]
    pub async fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.engine.write(f).await
    }

    /// Returns the figures of the store: what it has done since it was opened, and its present
    /// state.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// let metrics = store.metrics();
    /// assert_eq!((metrics.commits, metrics.changes["created"]), (1, 1));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.engine.metrics()
    }

    /// Returns what there is to know of the store's database. Counts the users, see
    /// [`count`](Self::count).
    ///
    /// # Errors
    ///
    /// `Closed`, `Busy`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let status = store.status().await?;
    /// println!("{}: {} users", status.path.display(), status.user_count);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn status(&self) -> Result<Status> {
        self.engine.status().await
    }

    /// Closes the store for all its clones: new operations get `Closed`, those in the queue are
    /// answered, the write-ahead log is moved into the database file, and the files are closed. May
    /// be called more than once.
    ///
    /// A store whose clones are all dropped closes itself in the same way, but nobody waits for the
    /// end of it.
    ///
    /// Errors: none on SQLite. If the log can't be moved (the disk is full, a reader is in the way)
    /// nothing is lost: it stays, whoever opens the store next goes on with it, and the cause is
    /// logged as a warning.
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
