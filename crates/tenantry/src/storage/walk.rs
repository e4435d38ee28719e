//! Walking a directory, and measuring it.
//!
//! The application, and so perhaps its users, chose the names and the depth. Hence a walk doesn't
//! recurse, holds one descriptor open whatever the depth, and opens no path of several names.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::{Mounts, entries, open_dir, shown};
use super::errors::errno;
use super::stat::{self, Identity, identity, is_dir};
use crate::{Timestamp, Usage};

/// Number of files between two reports of progress.
pub(super) const PROGRESS_FILES: u64 = 1_000;

/// An entry on a walk.
pub(super) enum Visit<'v> {
    /// An entry of the directory `dir`, whose path below the top is `above`.
    Entry { dir: &'v OwnedFd, above: &'v Path, name: &'v CStr, stat: &'v Stat },
    /// A directory that can't be entered, because of its permissions or because a file system is
    /// mounted on it.
    Unreadable { above: &'v Path, name: &'v CStr },
}

/// A directory between the top and the current one.
struct Level {
    identity: Identity,
    /// Directories that are still to be entered.
    dirs: Vec<CString>,
}

impl Level {
    /// Visits the entries of a directory. Returns `None` if it can be opened and not entered, so
    /// that there is no way back up from it.
    fn visit(
        dir: &OwnedFd,
        above: &Path,
        visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        // Unlike `fstat`, this needs the permission to enter it.
        let itself = match fs::statat(dir, c".", AtFlags::empty()) {
            Err(Errno::ACCESS) => return Ok(None),
            itself => itself?,
        };
        let mut level = Self { identity: identity(&itself), dirs: Vec::new() };
        for entry in entries(dir)? {
            let (name, _) = entry?;
            let Some(stat) = stat::stat(dir, &*name)? else { continue };
            visit(Visit::Entry { dir, above, name: &name, stat: &stat })?;
            if is_dir(&stat) {
                level.dirs.push(name);
            }
        }
        Ok(Some(level))
    }
}

/// Visits everything below a directory, each directory before its entries. Skips entries that are
/// removed meanwhile.
pub(super) fn walk(
    top: OwnedFd,
    visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut above = PathBuf::new();
    let mut levels = Vec::new();
    match Level::visit(&top, &above, visit)? {
        Some(level) => levels.push(level),
        None => visit(Visit::Unreadable { above: &above, name: c"." })?,
    }
    let mut here = top;
    while let Some(this) = levels.last_mut() {
        if let Some(name) = this.dirs.pop() {
            match open_dir(&here, &*name, Mounts::Refuse) {
                Ok(dir) => {
                    above.push(shown(&name));
                    match Level::visit(&dir, &above, visit) {
                        // It was removed since it was opened.
                        Err(error) if errno(&error) == Some(Errno::NOENT) => drop(above.pop()),
                        level => match level? {
                            Some(level) => {
                                levels.push(level);
                                here = dir;
                            }
                            None => {
                                above.pop();
                                visit(Visit::Unreadable { above: &above, name: &name })?;
                            }
                        },
                    }
                }
                Err(error) => match errno(&error) {
                    // It was removed or replaced.
                    Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                    Some(Errno::ACCESS | Errno::PERM | Errno::XDEV) => {
                        visit(Visit::Unreadable { above: &above, name: &name })?;
                    }
                    _ => return Err(error),
                },
            }
            continue;
        }
        levels.pop();
        above.pop();
        if let Some(parent) = levels.last() {
            here = up(&here, parent.identity)?;
        }
    }
    Ok(())
}

/// Adds up the files below a directory. Fails with the error of `progress`, which ends it.
pub(super) fn measure(
    top: OwnedFd,
    measured_at: Timestamp,
    progress: &dyn Fn(&Usage) -> io::Result<()>,
) -> io::Result<Usage> {
    let mut measured =
        Usage { allocated_bytes: allocated(&fs::fstat(&top)?), ..Usage::empty(measured_at) };
    let mut linked = HashSet::new();
    walk(top, &mut |visit| {
        match visit {
            Visit::Unreadable { .. } => measured.unreadable += 1,
            Visit::Entry { stat, .. } if is_dir(stat) => {
                measured.allocated_bytes += allocated(stat)
            }
            // A file with several names counts once.
            Visit::Entry { stat, .. } if stat.st_nlink > 1 && !linked.insert(identity(stat)) => {}
            Visit::Entry { stat, .. } => {
                measured.files += 1;
                measured.apparent_bytes += u64::try_from(stat.st_size).unwrap_or_default();
                measured.allocated_bytes += allocated(stat);
                if measured.files.is_multiple_of(PROGRESS_FILES) {
                    progress(&measured)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(measured)
}

/// Opens the directory above. Fails if that isn't `parent`, since another program has moved this
/// one and there is no way back.
pub(super) fn up(dir: &OwnedFd, parent: Identity) -> io::Result<OwnedFd> {
    let up = fs::openat(dir, c"..", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if identity(&fs::fstat(&up)?) != parent {
        return Err(io::Error::other("a directory was moved while it was walked through"));
    }
    Ok(up)
}

fn allocated(stat: &Stat) -> u64 {
    // A block has 512 bytes here, whatever the file system's block size is.
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}
