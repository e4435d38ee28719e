//! Identifying files and directories.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Returns the metadata of an entry, without following a symbolic link; `None` if it doesn't exist.
pub(super) fn stat(at: impl AsFd, name: impl Arg) -> io::Result<Option<Stat>> {
    match fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Returns whether an entry is this directory.
pub(super) fn is_at(at: impl AsFd, name: impl Arg, dir: &OwnedFd) -> io::Result<bool> {
    let found = stat(at, name)?;
    Ok(found
        .is_some_and(|found| fs::fstat(dir).is_ok_and(|dir| identity(&dir) == identity(&found))))
}

/// The device and inode of a file or directory.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
