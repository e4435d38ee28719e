//! How a store is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Store;
use crate::ambient::SystemAmbient;
use crate::engine::Engine;
use crate::options::{DEFAULT_BUSY_TIMEOUT, Durability, Options};
use crate::{Ambient, Result};

impl Store {
    /// Opens the store in this data directory. If there is none, it is created, with the directory.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let store = tenantry::Store::open("data").await?;
    /// # Ok(()) }
    /// ```
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(data_dir).open().await
    }

    /// Returns a builder, which opens the store in this data directory with other settings than the
    /// defaults.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let store = tenantry::Store::builder("data").create_if_missing(false).open().await?;
    /// # Ok(()) }
    /// ```
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder { options: Options::new(data_dir.into()), ambient: Arc::new(SystemAmbient) }
    }
}

/// The settings with which a store is opened.
pub struct Builder {
    options: Options,
    ambient: Arc<dyn Ambient>,
}

impl Builder {
    /// The default [`busy_timeout`](Self::busy_timeout).
    pub const DEFAULT_BUSY_TIMEOUT: Duration = DEFAULT_BUSY_TIMEOUT;

    /// Sets whether a missing store is created, which is the default. Otherwise the opening fails
    /// with `StoreMissing`, and nothing is created.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let opened = tenantry::Store::builder("data").create_if_missing(false).open().await;
    /// if opened.is_err_and(|error| error.kind() == tenantry::ErrorKind::StoreMissing) {
    ///     println!("there is no store yet");
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.options.create_if_missing = create;
        self
    }

    /// Sets what a write that has returned survives; [`Durability::Full`] by default.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let fast = tenantry::Durability::Normal;
    /// let store = tenantry::Store::builder("data").durability(fast).open().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// The longest [`busy_timeout`](Self::busy_timeout): a process that holds the write lock for
    /// longer isn't going to release it.
    pub const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(3_600);

    /// Sets how long an operation waits for the write lock of another process before it fails with
    /// `Busy`: at most [`MAX_BUSY_TIMEOUT`](Self::MAX_BUSY_TIMEOUT), even if more is asked for.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let timeout = std::time::Duration::from_secs(30);
    /// let store = tenantry::Store::builder("data").busy_timeout(timeout).open().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.options.busy_timeout = timeout.min(Self::MAX_BUSY_TIMEOUT);
        self
    }

    /// Sets whether a store of an older version is copied to `backups/` in the data directory
    /// before it is upgraded, which is the default. The copy takes as much space again; without
    /// that space the store isn't upgraded. The store never removes the copy, which keeps users
    /// whom a later purge destroys.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let store = tenantry::Store::builder("data").snapshot_before_upgrade(false).open().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn snapshot_before_upgrade(mut self, snapshot: bool) -> Self {
        self.options.snapshot_before_upgrade = snapshot;
        self
    }

    /// Sets whether a store on a network file system (NFS, SMB and the like) is opened, which is
    /// refused by default: SQLite's locks and its WAL [don't hold
    /// there](https://sqlite.org/faq.html#q5), and so none of Tenantry's guarantees.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let store = tenantry::Store::builder("data").allow_network_fs(true).open().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn allow_network_fs(mut self, allow: bool) -> Self {
        self.options.allow_network_fs = allow;
        self
    }

    /// Sets the source of the time and of new ids; the operating system by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::{Ambient, Timestamp, UserId};
    ///
    /// #[derive(Debug)]
    /// struct FixedClock(Timestamp);
    ///
    /// impl Ambient for FixedClock {
    ///     fn now(&self) -> Timestamp {
    ///         self.0
    ///     }
    ///
    ///     fn new_id(&self) -> UserId {
    ///         tenantry::uuid::Uuid::new_v4().try_into().expect("a UUID of version 4")
    ///     }
    /// }
    ///
    /// # fn example() -> tenantry::Result<()> {
    /// let clock = FixedClock("2026-01-01T00:00:00Z".parse()?);
    /// let builder = tenantry::Store::builder("data").ambient(std::sync::Arc::new(clock));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn ambient(mut self, ambient: Arc<dyn Ambient>) -> Self {
        self.ambient = ambient;
        self
    }

    /// Opens the store, creates or upgrades it if necessary, and completes what a crash
    /// interrupted.
    ///
    /// If the users' directories are missing (not mounted), the store opens all the same, and
    /// operations on directories fail with `StorageUnavailable`. On a read-only file system it
    /// opens [for reading only](Store::is_read_only).
    ///
    /// Any number of programs on the same machine may have a store open at once. While one has it
    /// open, a newer version of Tenantry that has to upgrade it waits for the busy timeout, then
    /// fails with `Busy`.
    ///
    /// Unless the program handles SIGXFSZ itself, the signal is ignored from then on, so that a
    /// file size limit (`ulimit -f`) is the error `Full` and doesn't kill the process.
    ///
    /// # Errors
    ///
    /// - `StoreMissing`.
    /// - `Incompatible` if the file is of another application or of a newer version, or the
    ///   directories are those of another store. Nothing is changed then.
    /// - `Busy` if another process takes too long to create or upgrade the store, or has it open
    ///   while it has to be upgraded.
    /// - `NetworkFileSystem`.
    /// - `PermissionDenied` if the process may not write to the directory.
    /// - `ReadOnly` if something has to be written on a read-only file system.
    /// - `Corrupt`, `Full`, `Io`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> tenantry::Result<()> {
    /// let store = tenantry::Store::builder("data").open().await?;
    /// # Ok(()) }
    /// ```
    pub async fn open(self) -> Result<Store> {
        Ok(Store::new(Arc::new(Engine::open(self.options, self.ambient).await?)))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}
