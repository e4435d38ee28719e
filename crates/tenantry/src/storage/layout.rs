//! The names in a data directory, and the modes of everything that the store makes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use crate::StoragePath;

pub(super) const STORAGE: &str = "storage";
pub(super) const TRASH: &str = "trash";
pub(super) const QUARANTINE: &str = "quarantine";
/// The marker, in `storage/`. No storage path may begin with `.tenantry`.
pub(super) const MARKER: &str = ".tenantry-store";
/// The same file, if the file system ignores case.
pub(super) const MARKER_IN_CAPITALS: &str = ".TENANTRY-STORE";
/// The marker until it is synced.
pub(super) const NEW_MARKER: &str = ".tenantry-store.new";

/// The names of the engine's files in a data directory. The engine hands them in: the layers above
/// it name it, and this one is below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineFiles {
    /// The file that makes a data directory a store, and whose owner owns the store.
    pub(crate) database: &'static str,
    /// The lock file of the store.
    pub(crate) lock: &'static str,
    /// The files that every process needs that has the store open.
    pub(crate) shared: &'static [&'static str],
}

/// Access for the owner alone.
pub(super) const PRIVATE: Mode = Mode::RWXU;

/// Access for the owner alone.
pub(crate) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a data directory. Links to it are followed, since the caller has chosen it.
pub(super) fn open_data_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Splits a storage path into the path above and the last segment.
pub(super) fn split(path: &StoragePath) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()))
}
