//! Finds inherited file descriptors by their names in the file system, such as `/dev/stdout`.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};

use crate::data_dir::parent_dir;

/// Returns the number of the descriptor that a path refers to, such as 3 for `/dev/fd/3`.
///
/// `/dev/stdout` is a symbolic link to such a path, not such a path.
pub(crate) fn number(path: &Path) -> Option<i32> {
    let number = path.file_name()?.to_str()?.parse().ok().filter(|number: &i32| *number >= 0)?;
    let dir = fs::canonicalize(parent_dir(path)).ok()?;
    let own = fs::canonicalize("/proc/self").ok()?;
    let below = dir.strip_prefix(own).ok()?;
    // All threads share the descriptors.
    let is_thread = below.starts_with("task") && below.components().count() == 3;
    (below == Path::new("fd") || is_thread && below.ends_with("fd")).then_some(number)
}

/// Returns whether a symbolic link is a magic link of procfs, whose text isn't a path to its file.
pub(crate) fn is_magic(path: &Path) -> bool {
    let dir = fs::canonicalize(parent_dir(path)).unwrap_or_default();
    dir.starts_with("/proc") && dir.ends_with("fd")
}

/// Duplicates a descriptor, which shares its offset and flags with the parent process. Refuses one
/// that this process opened.
#[allow(
    unsafe_code,
    reason = "the standard library has no safe way to name a descriptor by its number"
)]
pub(crate) fn duplicate(number: i32) -> io::Result<File> {
    // SAFETY: the borrowed descriptor is only queried for its flags and duplicated, and both fail
    // if it isn't open. Descriptors without CLOEXEC were inherited, and nothing in this process
    // closes them.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    Ok(File::from(fcntl_dupfd_cloexec(borrowed, 3)?))
}
