//! The descriptors that the command was started with, under the names that they have in the file
//! system.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};

use crate::place::directory_of;

/// Returns the number of the descriptor that a path stands for, such as 3 for `/dev/fd/3`.
///
/// `/dev/stdout` is a symbolic link to such a path, and no such path itself.
pub(crate) fn number(path: &Path) -> Option<i32> {
    let number = path.file_name()?.to_str()?.parse().ok().filter(|number: &i32| *number >= 0)?;
    let dir = fs::canonicalize(directory_of(path)).ok()?;
    let own = fs::canonicalize("/proc/self").ok()?;
    let below = dir.strip_prefix(own).ok()?;
    // Every thread has the same.
    let is_of_thread = below.starts_with("task") && below.components().count() == 3;
    (below == Path::new("fd") || is_of_thread && below.ends_with("fd")).then_some(number)
}

/// Returns whether a symbolic link is one of the kernel's own, whose text doesn't lead to what it
/// stands for.
pub(crate) fn is_magic(path: &Path) -> bool {
    let dir = fs::canonicalize(directory_of(path)).unwrap_or_default();
    dir.starts_with("/proc") && dir.ends_with("fd")
}

/// Duplicates a descriptor, so that its offset and its flags are shared with whoever gave it.
/// Refuses one that this process has opened itself.
#[allow(unsafe_code, reason = "the standard library has no safe way to name a descriptor by its number")]
pub(crate) fn duplicate(number: i32) -> io::Result<File> {
    // SAFETY: what is borrowed is only asked for its flags and duplicated, and both fail if it
    // isn't open. Those that aren't closed on exec were inherited, and nothing in this process
    // closes them.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    Ok(File::from(fcntl_dupfd_cloexec(borrowed, 3)?))
}
