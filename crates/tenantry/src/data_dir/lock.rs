//! The lock file of a store.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, OFlags};
use rustix::process::geteuid;

use super::access::Access;
use crate::Result;
use crate::storage::{EngineFiles, Ownership, PRIVATE_FILE, file_error};

/// A lock that each process holds as long as it has the store open, shared with the others. A
/// process that creates or upgrades the store holds it exclusively, so no process goes on with a
/// store that a newer program has changed. It ends with the process at the latest.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    /// Whether the file was made for this lock.
    is_new: bool,
}

/// The outcome of an attempt to take the lock.
#[derive(Debug)]
pub(crate) enum Taken {
    Locked(Lock),
    /// On a read-only file system, where no process writes, there is no lock to take.
    NotNeeded,
    /// Another process is in the way.
    Blocked,
}

impl Lock {
    /// Takes the lock without waiting, after making its file in the data directory if there is
    /// none.
    pub(crate) fn try_take(
        data_dir: &Path,
        files: EngineFiles,
        is_exclusive: bool,
        access: Access,
    ) -> Result<Taken> {
        if access == Access::Read {
            return Ok(Taken::NotNeeded);
        }
        let failed = |error| file_error(error, "the lock file of the store can't be used");
        let path = data_dir.join(files.lock);
        let Some((file, is_new)) = open_lock(&path, data_dir, files).map_err(failed)? else {
            return Ok(Taken::Blocked);
        };
        match if is_exclusive { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => {
                // A process that fails to create a store removes the file, as the last to have the
                // lock.
                let named =
                    std::fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino()));
                let locked =
                    file.metadata().map(|found| (found.dev(), found.ino())).map_err(failed)?;
                Ok(match named {
                    Ok(named) if named == locked => Taken::Locked(Self { file, path, is_new }),
                    _ => Taken::Blocked,
                })
            }
            Err(TryLockError::WouldBlock) => Ok(Taken::Blocked),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Removes the file if it was made for this exclusive lock: there is no store to be locked.
    pub(crate) fn remove_if_new(&self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Makes an exclusive lock a shared one. Another process may get the lock in between
    /// ([flock](https://man7.org/linux/man-pages/man2/flock.2.html) gives up one kind of lock
    /// before it takes the other).
    pub(crate) fn share(&self) -> Result<()> {
        self.file
            .lock_shared()
            .map_err(|error| file_error(error, "the lock file of the store can't be used"))
    }
}

/// Opens the lock file, and returns whether it was made for that. `None` if the data directory has
/// gone.
fn open_lock(
    path: &Path,
    data_dir: &Path,
    files: EngineFiles,
) -> std::io::Result<Option<(File, bool)>> {
    use std::io::ErrorKind::{AlreadyExists, NotFound, PermissionDenied};

    let mut options = OpenOptions::new();
    // A pipe in its place is opened without waiting for a process that reads from it.
    options.write(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    loop {
        match options.open(path) {
            Err(error) if error.kind() == NotFound => {}
            // A crash has left it, or another process is about to finish it: it lacks the rights
            // that the umask took.
            Err(error) if error.kind() == PermissionDenied && is_own_and_closed(path)? => {
                Ownership::default().make_usable(path)?;
                return Ok(Some((options.open(path)?, false)));
            }
            opened => return Ok(Some((opened?, false))),
        }
        match Ownership::for_store(data_dir, files).and_then(|owner| owner.make_file(path)) {
            Err(error) if error.kind() == AlreadyExists => {}
            // The process that made the directory couldn't make a store in it.
            Err(error) if error.kind() == NotFound => return Ok(None),
            made => return Ok(Some((made?, true))),
        }
    }
}

/// Returns whether a file is empty and belongs to this process, which nevertheless may not use it.
fn is_own_and_closed(path: &Path) -> std::io::Result<bool> {
    let found = fs::lstat(path)?;
    let is_closed = !fs::Mode::from_raw_mode(found.st_mode).contains(PRIVATE_FILE);
    let is_file = fs::FileType::from_raw_mode(found.st_mode) == fs::FileType::RegularFile;
    Ok(is_file && is_closed && found.st_size == 0 && found.st_uid == geteuid().as_raw())
}
