//! One entry of a user's directory: opened, identified and removed from the handle of the directory
//! above it, so that no step leads through a link.

use std::fs::File;
use std::io;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use tenantry::cap_std::fs::Dir;
use tenantry::{Error, ErrorKind, open_dir_beneath, open_file_beneath};

use super::ownership::give;
use crate::problem::{Problem, Type};

/// Access for the owner alone, as everything in a store has it.
const PRIVATE_DIR: Mode = Mode::RWXU;

/// Opens a file for reading, if it is a regular one.
pub(super) fn open(dir: &Dir, above: &str, name: &str) -> Result<(File, Stat), Problem> {
    let parent = open_parent(dir, above).map_err(failed)?;
    // Opening a device could have an effect, so it is identified before as well.
    require_file(&stat(&parent, name)?.ok_or_else(no_such_file)?)?;
    let file = open_file_beneath(&parent, name).map_err(failed)?;
    let stat = fstat(&file).map_err(|error| failed(error.into()))?;
    require_file(&stat)?;
    Ok((file, stat))
}

/// Opens a directory, by an empty path the user's own.
pub(super) fn open_parent(dir: &Dir, path: &str) -> io::Result<Dir> {
    open_dir_beneath(dir, if path.is_empty() { "." } else { path })
}

/// Opens the deepest directory on a path that exists.
pub(super) fn open_deepest(dir: &Dir, path: &str) -> io::Result<Dir> {
    match open_parent(dir, path) {
        Err(error) if is(&error, Errno::NOENT) && !path.is_empty() => {
            open_deepest(dir, path.rsplit_once('/').map_or("", |(above, _)| above))
        }
        opened => opened,
    }
}

/// Opens a directory, and makes it and those above it if they are missing. What it makes is on the
/// disk when it returns.
pub(super) fn open_or_make(dir: &Dir, path: &str) -> io::Result<Dir> {
    match open_parent(dir, path) {
        Err(error) if is(&error, Errno::NOENT) && !path.is_empty() => {}
        opened => return opened,
    }
    let mut here = open_parent(dir, "")?;
    for name in path.split('/') {
        here = match open_dir_beneath(&here, name) {
            Err(error) if is(&error, Errno::NOENT) => {
                match mkdirat(&here, name, PRIVATE_DIR) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let made = open_dir_beneath(&here, name)?;
                give(&made, &here)?;
                sync(&here)?;
                made
            }
            opened => opened?,
        };
    }
    Ok(here)
}

/// Syncs the names in a directory. A handle of cap-std's may be one that can't be synced, so it is
/// opened anew.
pub(super) fn sync(dir: &Dir) -> io::Result<()> {
    let dir =
        openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(dir)?)
}

/// Identifies an entry without following a link. Returns `None` if it doesn't exist.
pub(super) fn stat(parent: &Dir, name: &str) -> Result<Option<Stat>, Problem> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

/// Refuses what isn't a regular file.
pub(super) fn require_file(stat: &Stat) -> Result<(), Problem> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Problem::new(Type::NotAFile, "a directory has this name")),
        FileType::Symlink => Err(Problem::new(
            Type::RefusedFile,
            "a symbolic link has this name, and none is followed",
        )),
        _ => Err(Problem::new(
            Type::RefusedFile,
            "what has this name is neither a file nor a directory",
        )),
    }
}

/// Removes a file.
pub(super) fn remove(parent: &Dir, name: &str) -> Result<(), Problem> {
    unlinkat(parent, name, AtFlags::empty())
        .map_err(io::Error::from)
        .and_then(|()| sync(parent))
        .map_err(failed)
}

pub(super) fn no_such_file() -> Problem {
    Problem::new(Type::Store(ErrorKind::NotFound), "there is no such file")
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// Returns the problem of a failed operation on a user's file.
pub(super) fn failed(error: io::Error) -> Problem {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => no_such_file(),
        Some(Errno::NOTDIR) => {
            Problem::new(Type::NotAFile, "a file is on the path where a directory is expected")
        }
        Some(Errno::ISDIR | Errno::NOTEMPTY) => {
            Problem::new(Type::NotAFile, "a directory has this name")
        }
        Some(Errno::LOOP) => {
            Problem::new(Type::RefusedFile, "a symbolic link is on the path, and none is followed")
        }
        Some(Errno::XDEV) => {
            Problem::new(Type::RefusedFile, "another file system is mounted on the path")
        }
        Some(Errno::NXIO) => {
            Problem::new(Type::RefusedFile, "what has this name is neither a file nor a directory")
        }
        Some(Errno::NAMETOOLONG | Errno::ILSEQ) => Problem::new(
            Type::Store(ErrorKind::InvalidPath),
            "the file system doesn't take this name",
        ),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Problem::new(
            Type::InsufficientStorage,
            "there is no room on the disk; nothing was written",
        ),
        _ => Error::from(error).into(),
    }
}
