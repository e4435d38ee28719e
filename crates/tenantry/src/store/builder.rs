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
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(data_dir).open().await
    }

    /// Returns a builder, to open the store in this data directory with other settings than the
    /// defaults.
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder { options: Options::new(data_dir.into()), ambient: Arc::new(SystemAmbient) }
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

    /// Whether to create the store if there is none, which is the default. Otherwise opening it is
    /// `StoreMissing`, and nothing is created.
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

    /// The longest time an operation waits: whoever waits longer for another process has another
    /// problem.
    pub const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(3_600);

    /// How long an operation waits for another process that writes before it fails with `Busy`: at
    /// the most [`MAX_BUSY_TIMEOUT`](Self::MAX_BUSY_TIMEOUT), also if more is asked for.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.options.busy_timeout = timeout.min(Self::MAX_BUSY_TIMEOUT);
        self
    }

    /// Whether to keep the database as it was, in `backups/` in the data directory, before a store
    /// of an older version is upgraded, which is the default. It takes as much space again; if
    /// there is none, the store isn't upgraded. Nobody removes the snapshot but you, and it holds
    /// also whom a later purge destroys.
    #[must_use]
    pub fn snapshot_before_upgrade(mut self, snapshot: bool) -> Self {
        self.options.snapshot_before_upgrade = snapshot;
        self
    }

    /// Whether to open a store on a network file system (NFS, SMB and the like), which is refused
    /// by default: SQLite's locks and its log [don't hold there](https://sqlite.org/faq.html#q5),
    /// and nothing of what Tenantry promises does.
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

    /// Opens the store, creates or upgrades it if that is needed, and finishes what a crash left
    /// half done, be it a purge of many files.
    ///
    /// If the users' directories are missing (not mounted), it opens all the same: what needs them
    /// is `StorageUnavailable`. On a read-only file system it opens [for reading
    /// only](Store::is_read_only).
    ///
    /// Any number of programs on the same machine may have a store open at once. While it is open
    /// anywhere, a newer version of Tenantry that wants to upgrade it waits, and then gives up with
    /// `Busy`.
    ///
    /// Unless the program handles SIGXFSZ itself it is ignored from then on, so that a file size
    /// limit (`ulimit -f`) is an error, `Full`, and not the end of the program.
    ///
    /// Errors: `StoreMissing`; `Incompatible` if the file is of another application or of a newer
    /// version, or the directories are those of another store, in which case nothing is changed;
    /// `Busy` if another process takes too long to create or upgrade it, or has it open while it
    /// has to be upgraded; `NetworkFileSystem`; `PermissionDenied` if the process may not write
    /// to the directory; `ReadOnly` if something has to be written on a read-only file system;
    /// `Corrupt`, `Full`, `Io`.
    pub async fn open(self) -> Result<Store> {
        Ok(Store { engine: Arc::new(Engine::open(self.options, self.ambient).await?) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}
