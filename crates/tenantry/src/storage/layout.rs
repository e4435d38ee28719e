//! The names in a data directory, and the modes of everything that a store makes there.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use crate::StoragePath;

pub(super) const STORAGE: &str = "storage";
pub(super) const TRASH: &str = "trash";
pub(super) const QUARANTINE: &str = "quarantine";
/// In `storage/`. No user's path may begin with `.tenantry`.
pub(super) const MARKER: &str = ".tenantry-store";
/// The same, if the file system ignores case.
pub(super) const MARKER_IN_CAPITALS: &str = ".TENANTRY-STORE";
/// Until it is written and on the disk.
pub(super) const NEW_MARKER: &str = ".tenantry-store.new";

/// Who made a directory may use it, and nobody else.
pub(super) const PRIVATE: Mode = Mode::RWXU;

/// Who has made a file may read and write it, and nobody else.
pub(crate) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The data directory, which may be reached over links: where it is was said by whoever runs the program.
pub(super) fn open_data_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The path above and the last segment.
pub(super) fn split(path: &StoragePath) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()))
}
