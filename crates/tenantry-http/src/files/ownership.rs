//! Whose the files are that root makes.
//!
//! A service that runs as root in the store of another user would lock that user out of what it
//! makes. So root gives each new file to the owner of the directory that it is in.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Gid, Uid, fchown, fstat};
use rustix::process::geteuid;

/// Gives a new file or directory to the owner of the directory above it, if root has made it.
pub(super) fn give(made: impl AsFd, above: impl AsFd) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (made_stat, owner) = (fstat(&made)?, fstat(above)?);
    if made_stat.st_uid == 0 && owner.st_uid != 0 {
        fchown(made, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?;
    }
    Ok(())
}
