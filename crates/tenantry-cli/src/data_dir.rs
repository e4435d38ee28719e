//! Finds the data directory and opens the store in it.

use std::env;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tenantry::{ErrorKind, Store};

use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::stdio::report;

/// The directories of a store, which the command never writes files into.
const OWN_DIRECTORIES: [&str; 3] = ["storage", "trash", "quarantine"];

/// The data directory, and the options with which its store is opened.
pub(crate) struct DataDir {
    data_dir: PathBuf,
    snapshot_before_upgrade: bool,
    allow_network_fs: bool,
}

impl DataDir {
    /// Returns the named directory, or else the first one that the environment names. An empty
    /// variable is ignored.
    pub(crate) fn find(
        named: Option<PathBuf>,
        snapshot_before_upgrade: bool,
        allow_network_fs: bool,
    ) -> Result<Self, Failure> {
        let variable =
            |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // systemd separates several directories by colons.
        let service_dir =
            || variable("STATE_DIRECTORY").and_then(|dirs| env::split_paths(&dirs).next());
        let home_dir = || {
            let data_home = variable("XDG_DATA_HOME").filter(|dir| dir.is_absolute());
            data_home
                .or_else(|| Some(variable("HOME")?.join(".local/share")))
                .map(|dir| dir.join("tenantry"))
        };
        named
            .or_else(|| variable("TENANTRY_DATA_DIR"))
            .or_else(service_dir)
            .or_else(home_dir)
            .map(|data_dir| Self { data_dir, snapshot_before_upgrade, allow_network_fs })
            .ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    "no home directory: name the data directory with --data-dir",
                )
            })
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn allow_network_fs(&self) -> bool {
        self.allow_network_fs
    }

    /// Returns a directory relative to `storage/`, even if it was named by its path from here, as
    /// shells complete it.
    pub(crate) fn within_storage<'d>(&self, dir: &'d str) -> &'d str {
        let storage = self.data_dir.join("storage");
        let within = storage
            .to_str()
            .and_then(|storage| dir.strip_prefix(storage)?.strip_prefix('/'))
            .unwrap_or(dir);
        within.strip_suffix('/').unwrap_or(within)
    }

    /// Returns whether a file belongs to the store or is in one of its directories. It is
    /// identified by its path and, if it exists, by its inode, so that no other name hides it.
    pub(crate) fn belongs_to_store(
        &self,
        path: Option<&Path>,
        metadata: Option<&Metadata>,
    ) -> bool {
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let is_same = |metadata: &Metadata, other: &Path| {
            fs::metadata(other).is_ok_and(|other| identity(&other) == identity(metadata))
        };
        let own_files =
            fs::read_dir(&self.data_dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut own_files = own_files.filter(|path| is_own_name(path));
        if metadata.is_some_and(|metadata| own_files.any(|own| is_same(metadata, &own))) {
            return true;
        }
        let marker = self.data_dir.join("storage/.tenantry-store");
        if metadata.is_some_and(|metadata| is_same(metadata, &marker)) {
            return true;
        }
        // Each directory above is compared, so that neither a mount nor a case-insensitive file
        // system hides the store.
        let Some(path) = path else { return false };
        let Ok(dir) = fs::canonicalize(parent_dir(path)) else { return false };
        let full = path.file_name().map_or_else(|| dir.clone(), |name| dir.join(name));
        let mut below = full.as_path();
        dir.ancestors().any(|above| {
            let is_data_dir =
                fs::metadata(above).is_ok_and(|metadata| is_same(&metadata, &self.data_dir));
            let is_own = is_data_dir && is_own_name(below);
            below = above;
            let is_own_dir = OWN_DIRECTORIES.iter().map(|name| self.data_dir.join(name));
            is_own
                || fs::metadata(above).is_ok_and(|metadata| {
                    is_own_dir.into_iter().any(|own| is_same(&metadata, &own))
                })
        })
    }

    /// Opens the existing store.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        self.open_with(false).await
    }

    /// Opens the store. If there is none, creates it and reports that.
    pub(crate) async fn open_or_create(&self) -> Result<Store, Failure> {
        self.open_with(true).await
    }

    /// Creates an empty temporary store, to rehearse the first change of a new store on it. Returns
    /// `None` if the store exists, or if there is no place for a temporary one. A signal ends the
    /// command after the temporary store was removed.
    pub(crate) async fn scratch(&self) -> Result<Option<Scratch>, Failure> {
        if fs::symlink_metadata(self.data_dir.join("tenantry.db")).is_ok() {
            return Ok(None);
        }
        let interrupt = Interrupt::listen();
        let Ok(dir) = temporary_dir() else { return Ok(None) };
        let Ok(store) = Store::builder(dir.path()).allow_network_fs(true).open().await else {
            return Ok(None);
        };
        Ok(Some(Scratch { store, dir, interrupt }))
    }

    /// Opens the store, and reports whether it was created, upgraded or opened for reading only.
    async fn open_with(&self, create_if_missing: bool) -> Result<Store, Failure> {
        let opening = Store::builder(&self.data_dir)
            .create_if_missing(create_if_missing)
            .snapshot_before_upgrade(self.snapshot_before_upgrade)
            .allow_network_fs(self.allow_network_fs);
        // A store that is being created has temporary files, which a signal must not leave behind.
        let is_new =
            create_if_missing && fs::symlink_metadata(self.data_dir.join("tenantry.db")).is_err();
        let interrupt = is_new.then(Interrupt::listen);
        let store = opening.open().await.map_err(|error| self.explain(error))?;
        let user = rustix::process::getuid().as_raw();
        let store = store.as_actor(format!("command:{user}").parse()?);
        let dir = self.data_dir.display();
        if store.was_created() {
            report!("created a new store in {dir}");
        }
        if let Some(upgrade) = store.upgrade() {
            let snapshot = match &upgrade.snapshot {
                Some(snapshot) => format!("the earlier database is kept in {}", snapshot.display()),
                None => "no snapshot was taken".to_owned(),
            };
            report!(
                "upgraded the store in {dir} from schema {} to {}; {snapshot}",
                upgrade.from,
                upgrade.to
            );
        }
        if store.is_read_only() {
            report!("the file system is read-only: {dir} is opened for reading only");
        }
        if let Some(stopped) = interrupt.and_then(|interrupt| interrupt.check().err()) {
            store.close().await?;
            return Err(stopped);
        }
        Ok(store)
    }

    /// Converts an error of opening, and puts the data directory before the message.
    pub(crate) fn explain(&self, error: tenantry::Error) -> Failure {
        let dir = self.data_dir.display();
        if error.kind() == ErrorKind::StoreMissing {
            return Failure::new(
                Exit::NotFound,
                format!(
                    "there is no store in {dir}; `tenantry user create EMAIL` creates one, --data-dir names another"
                ),
            );
        }
        let Failure::Message { exit, message } = error.into() else { return Failure::BrokenPipe };
        Failure::Message { exit, message: format!("{dir}: {message}") }
    }
}

/// A temporary store, which is removed with its directory.
pub(crate) struct Scratch {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    // Dropped last.
    interrupt: Interrupt,
}

impl Scratch {
    /// Removes the store, and fails if a signal requested a stop.
    pub(crate) async fn remove(self) -> Result<(), Failure> {
        let Self { store, dir, interrupt } = self;
        store.close().await?;
        drop(dir);
        interrupt.check()
    }
}

impl Deref for Scratch {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// Creates a temporary directory that only this user can access, whatever the umask is.
pub(crate) fn temporary_dir() -> io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700))?;
    Ok(dir)
}

/// Returns whether the name of a file in the data directory is one of the store's.
fn is_own_name(path: &Path) -> bool {
    let name =
        path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.starts_with("tenantry.")
        || name.starts_with(".tenantry-")
        || OWN_DIRECTORIES.contains(&name.as_str())
}

/// Returns the parent directory of a path, or the current one if the path has none.
pub(crate) fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
