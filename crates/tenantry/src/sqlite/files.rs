//! The files of a store's database: their names, and which of them exist.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::data_dir::access::{self, Access};
use crate::data_dir::watch::Watch;
use crate::storage::{EngineFiles, file_error};
use crate::{Result, failpoint};

/// The database in the data directory.
pub(super) const DATABASE: &str = "tenantry.db";
/// The lock of the store, beside it.
pub(super) const LOCK: &str = "tenantry.lock";
/// The same for the layers below the engine.
pub(crate) const ENGINE_FILES: EngineFiles = EngineFiles {
    database: DATABASE,
    lock: LOCK,
    shared: &[DATABASE, "tenantry.db-shm", "tenantry.db-wal", LOCK],
};
/// The store's own files in the data directory, of which none may be a symbolic link.
pub(super) const FILES: [&str; 5] =
    [DATABASE, LOCK, "tenantry.db-wal", "tenantry.db-shm", "tenantry.db-journal"];

/// Returns the path of the database in a data directory.
pub(super) fn database_in(data_dir: &Path) -> PathBuf {
    data_dir.join(DATABASE)
}

/// Returns the watch over the database, its WAL and the file that processes share its index by.
pub(super) fn watch(data_dir: &Path) -> Watch {
    let database = database_in(data_dir);
    Watch::new(["", "-wal", "-shm"].map(|suffix| with_suffix(&database, suffix)))
}

/// Determines whether a database can be written.
///
/// # Errors
///
/// Fails with `ReadOnly` if this process lacks the permission: SQLite must write beside the
/// database even to read one that other processes may be writing.
pub(super) fn access(database: &Path) -> Result<Access> {
    access::access(
        database,
        "no permission to write to the data directory, where SQLite keeps its log, also for reading",
        "no permission to write to the database file",
    )
}

/// The path of a file that belongs to the database file at `path`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn has_content(path: &Path, suffix: &str) -> bool {
    std::fs::metadata(with_suffix(path, suffix)).is_ok_and(|metadata| metadata.len() > 0)
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    failpoint::reach("create: sync a directory");
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| file_error(error, "a directory of the store can't be synchronised"))
}
