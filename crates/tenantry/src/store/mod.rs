//! The contract: every operation of a store, what it promises and what it costs.

mod builder;
mod bulk;
mod changes;
mod directories;
mod files;
mod follow;
mod listing;
mod once;
mod purge;
mod tokens;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tracing::instrument;

use crate::engine::metrics::Metrics;
use crate::engine::verbs::{
    self, Create, CreateMany, Delete, RecordLogin, Restore, Resume, Suspend, Update, Verb,
};
use crate::engine::{Engine, Status, Upgrade};
use crate::{
    Actor, Email, Error, NewUser, ReadTx, Result, SignIn, TrashedUser, User, UserId, UserUpdate,
    WriteTx,
};
pub use builder::Builder;
pub use bulk::BulkOutcome;
pub use files::{open_dir_beneath, open_file_beneath};
pub use follow::Follow;
pub use listing::Pages;
pub use once::OnceStore;

/// The users of an application, kept in a data directory.
///
/// A store is a handle: clones share one open database, and a program opens each data directory
/// once. Its methods are asynchronous and run under any executor; none of them needs a reactor or a
/// timer.
///
/// **Writes** go through a queue to one thread, which commits whatever is queued with one `fsync`
/// (group commit). A write that has returned is durable: it survives a crash of the program, and a
/// power cut unless [`Durability::Normal`](crate::Durability::Normal) was chosen. A write whose
/// future is dropped after its first poll may happen or not.
///
/// **Reads** of one user or page run on the thread that polls them, because a hand-over to another
/// thread takes longer: a few microseconds for one user, about 1 ms for a page of 1,000. A read
/// sees every write that had returned before it began.
/// (`cargo run --release -p tenantry --example figures` measures these figures.)
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
/// # Errors
///
/// # Errors
///
/// Every operation can fail with these [kinds of errors](crate::ErrorKind), which the methods don't
/// repeat: `Closed` after [`close`](Store::close); `Busy` if another process holds the write lock
/// or too many callers wait; `Full` and `ReadOnly` for writes; `Io` and `Corrupt`; for writes
/// `OutcomeUnknown`, after which the change may exist or not. After an I/O failure during a write,
/// the store refuses further writes.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    actor: Actor,
}

impl Store {
    fn new(engine: Arc<Engine>) -> Self {
        Self { engine, actor: Actor::default() }
    }

    /// Returns whether the opening created the store.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// if store.was_created() {
    ///     store.create(tenantry::NewUser::new("admin@example.com".parse()?)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.engine.report().created
    }

    /// Returns what the opening did to a store of an older version, if it was one.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// if let Some(upgrade) = store.upgrade() {
    ///     println!("upgraded from version {}", upgrade.from);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.engine.report().upgraded.as_ref()
    }

    /// Returns whether the store is open for reading only, because its file system is read-only.
    /// Every write fails with `ReadOnly` then.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// if store.is_read_only() {
    ///     println!("users can be read, but not changed");
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.engine.report().read_only
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// - `EmailTaken`, or with a given id or path `IdTaken` and `PathTaken`.
    /// - `InvalidPath` if the path is in the [reserved](crate::StoragePath) part of the namespace.
    /// - `InvalidUser`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let ada = store.create(tenantry::NewUser::new("Ada@example.com".parse()?)).await?;
    /// assert_eq!(ada.version, 1);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn create(&self, user: NewUser) -> Result<User> {
        self.apply(Create(user)).await
    }

    /// Creates users in one transaction, and returns a result for each of them, in the same order:
    /// one that fails leaves the others alone. The list is in memory and holds the write lock as a
    /// whole, so divide a large import, or use [`write`](Store::write).
    ///
    /// # Errors
    ///
    /// The outer error concerns the transaction: no user was created. The inner ones are those of
    /// [`create`](Store::create).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tenantry::NewUser;
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let [ada, bob] = ["ada@example.com".parse()?, "bob@example.com".parse()?];
    /// let new = vec![NewUser::new(ada), NewUser::new(bob)];
    /// for created in store.create_many(new).await? {
    ///     println!("{}", created?.id);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(users = users.len()))]
    pub async fn create_many(&self, users: Vec<NewUser>) -> Result<Vec<Result<User>>> {
        self.apply(CreateMany(users)).await
    }

    /// Returns the user with this id. `None` if there is none, or they are in the trash.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, id: tenantry::UserId) -> tenantry::Result<()> {
    /// if let Some(user) = store.get(id).await? {
    ///     println!("{} since {}", user.email, user.created_at);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.engine.get(id).await
    }

    /// Returns the user with this address, in whatever spelling. `None` if there is none, or they
    /// are in the trash.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let ada = store.get_by_email(&"ADA@example.com".parse()?).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.engine.get_by_email(email).await
    }

    /// Updates a user and returns the new state. An update without a change keeps the version.
    ///
    /// # Errors
    ///
    /// `NotFound`; `VersionMismatch`, which carries the current version; `EmailTaken`.
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
        self.apply(Update(id, update)).await
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
        self.apply(Suspend(id)).await
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
        self.apply(Resume(id)).await
    }

    /// Moves a user to the trash, with their directory, and returns them. Their address is free at
    /// once. Their id and storage path stay theirs, as do the rows of the application's tables that
    /// refer to them, until the [purge](Store::purge).
    ///
    /// # Errors
    ///
    /// - `NotFound`.
    /// - `StorageBlocked` if the directory can't be moved. Then nothing was done.
    /// - `StorageUnavailable`.
    /// - `Unfinished` if the directory could not be moved yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// store.delete(ada.id).await?;
    /// assert!(store.get(ada.id).await?.is_none());
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn delete(&self, id: UserId) -> Result<User> {
        self.apply(Delete(id)).await
    }

    /// Restores a user from the trash, with their directory: the same id, the same storage path,
    /// the same place in the order of creation. An `email` becomes their new address.
    ///
    /// # Errors
    ///
    /// - `NotFound` if there is no such user in the trash, or their purge has begun.
    /// - `EmailTaken` if another user has the address by now, whom [`taken_by`](Error::taken_by)
    ///   names.
    /// - `StorageBlocked` if something else is at the storage path.
    /// - `StorageUnavailable`.
    /// - `Unfinished` if the directory could not be moved yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// store.delete(ada.id).await?;
    /// store.restore(ada.id, None).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn restore(&self, id: UserId, email: Option<Email>) -> Result<User> {
        self.apply(Restore(id, email)).await
    }

    /// Returns the user in the trash with this id.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, id: tenantry::UserId) -> tenantry::Result<()> {
    /// if let Some(trashed) = store.get_trashed(id).await? {
    ///     println!("deleted at {}", trashed.deleted_at);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.engine.get_trashed(id).await
    }

    /// Returns the users in the trash who have this address, in whatever spelling, the last deleted
    /// first, and at most [`TrashedUser::OF_ONE_ADDRESS_MAX`].
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
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

    /// Returns the users whose addresses are confusable with this one: other addresses with the
    /// same [skeleton](https://www.unicode.org/reports/tr39/#Confusable_Detection). Users in the
    /// trash aren't among them, and at most [`User::CONFUSABLES_MAX`] are returned.
    ///
    /// An ASCII address is compared with those of users that aren't ASCII. Any other is also
    /// compared with the ASCII addresses that it resembles; of those with many such readings (a `1`
    /// for each `l`) the first 64 are looked up. Two ASCII addresses aren't compared, such as `rn`
    /// and `m`: too many people have both.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// store.create(tenantry::NewUser::new("coco@example.com".parse()?)).await?;
    /// // In Cyrillic letters.
    /// let confusable = store.confusables(&"сосо@example.com".parse()?).await?;
    /// assert_eq!(confusable[0].email.as_str(), "coco@example.com");
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn confusables(&self, email: &Email) -> Result<Vec<User>> {
        self.engine.confusables(email).await
    }

    /// Finds the user with this address or creates them, and records the login, in one step: if
    /// several callers sign in with the same new address at once, one user is created, and one of
    /// the callers gets [`SignIn::is_new`].
    ///
    /// # Errors
    ///
    /// `Suspended` if the user who has the address is. Then nothing was written.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let signed_in = store.sign_in("ada@example.com".parse()?).await?;
    /// if signed_in.is_new {
    ///     println!("welcome, {}", signed_in.user.email);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn sign_in(&self, email: Email) -> Result<SignIn> {
        self.apply(verbs::SignIn(email)).await
    }

    /// Records a login of now. The time of the last login only moves forward, even if the clock is
    /// set back. A login changes neither `updated_at` nor `version`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Suspended`. Then nothing was written.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// let ada = store.record_login(ada.id).await?;
    /// assert!(ada.last_login_at.is_some());
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn record_login(&self, id: UserId) -> Result<User> {
        self.apply(RecordLogin(id)).await
    }

    /// Runs a closure in a read transaction, on a thread for blocking work: everything that it
    /// reads is of one state. While it runs, checkpoints can't truncate the WAL, so it should end.
    /// A closure that has begun goes on even if the future is dropped.
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

    /// Runs a closure in a write transaction of its own, on the writer's thread. Its changes are
    /// committed if it returns `Ok`, and rolled back if it returns `Err` or panics. Other writers
    /// wait for it, so it should be short.
    ///
    /// For tables of the application's own in the same file see [`sqlite`](crate::sqlite).
    ///
    /// # Errors
    ///
    /// Those of the closure, and `Constraint` if one of the application's deferred constraints
    /// fails at the end. A panic in the closure reaches the caller.
    ///
    /// # Examples
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
    #[instrument(level = "debug", skip_all)]
    pub async fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.engine.write(self.actor.clone(), f).await
    }

    /// Returns the data directory, as it was named when the store was opened.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// let store = tenantry::Store::open(dir.path()).await?;
    /// assert_eq!(store.data_dir(), dir.path());
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.engine.data_dir()
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

    /// Returns a description of the store's database. Counts the users, see [`count`](Self::count).
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

    /// Closes the store for all its clones. New operations fail with `Closed`, those in the queue
    /// are completed, a checkpoint moves the WAL into the database file, and the files are closed.
    /// Closing is idempotent.
    ///
    /// A store whose clones are all dropped closes itself in the same way, in the background.
    ///
    /// # Errors
    ///
    /// None on SQLite. If the checkpoint fails (a full disk, a reader in another process) nothing
    /// is lost: the WAL stays for the next process that opens the store, and the cause is logged as
    /// a warning.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// store.close().await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn close(&self) -> Result<()> {
        self.engine.close().await;
        Ok(())
    }

    /// Performs a verb as the actor of this handle.
    pub(crate) async fn apply<V: Verb>(&self, verb: V) -> Result<V::Reply> {
        self.engine.apply(self.actor.clone(), verb).await
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
