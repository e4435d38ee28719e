//! Removing a directory from the inside out, without moving anything in it.
//!
//! It is for file systems on which a directory can't be moved to the top (see [`super::tree`]), and for what a comparison has to
//! recognize again after a crash.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType};
use rustix::io::Errno;

use super::beneath::{self, entries, errno, is_dir, shown};
use super::tree::{Identity, REMOVE_DIR, REMOVE_FILE, Removal, identity, open_accessible, up};

/// A directory on the way from the top to where the removal is.
struct Level {
    identity: Identity,
    /// Its name in the one above.
    name: CString,
    /// What is still to be entered.
    dirs: Vec<CString>,
    /// Whether something in it couldn't be removed, which was told.
    is_stuck: bool,
}

/// Removes a directory with everything in it, and returns whether it has gone. `origin` is how it is called where
/// something can't be removed.
pub(super) fn remove(
    at: &OwnedFd,
    name: &CStr,
    origin: &Path,
    removal: &mut Removal,
    progress: &dyn Fn(u64),
) -> io::Result<bool> {
    let mut removing = Removing { removal, progress, path: origin.to_owned() };
    let Some(top) = removing.enter(at, name) else { return Ok(!removing.is_left(at, name)?) };
    let mut levels = vec![removing.empty(&top, name)?];
    let mut here = top;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.dirs.pop() {
            removing.path.push(shown(&name));
            match removing.enter(&here, &name) {
                Some(dir) => {
                    levels.push(removing.empty(&dir, &name)?);
                    here = dir;
                }
                None => {
                    level.is_stuck |= removing.is_left(&here, &name)?;
                    removing.path.pop();
                }
            }
            continue;
        }
        let Some(left) = levels.pop() else { break };
        let parent = levels.last().map(|parent| up(&here, parent.identity)).transpose()?;
        let is_gone = !left.is_stuck && removing.remove_dir(parent.as_ref().unwrap_or(at), &left.name);
        let (Some(above), Some(parent)) = (levels.last_mut(), parent) else { return Ok(is_gone) };
        above.is_stuck |= !is_gone;
        here = parent;
        removing.path.pop();
    }
    Ok(true)
}

struct Removing<'r> {
    removal: &'r mut Removal,
    progress: &'r dyn Fn(u64),
    /// Where it is, as people are told.
    path: PathBuf,
}

impl Removing<'_> {
    /// Opens a directory. `None` if it has gone, wasn't one, or can't be opened.
    fn enter(&mut self, at: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
        match open_accessible(at, name) {
            Ok(dir) => Some(dir),
            Err(error) => {
                match errno(&error) {
                    Some(Errno::NOENT) => {}
                    Some(Errno::LOOP | Errno::NOTDIR) => drop(self.remove_file(at, name, self.path.clone())),
                    _ => self.removal.leave(self.path.clone(), error),
                }
                None
            }
        }
    }

    fn is_left(&self, at: &OwnedFd, name: &CStr) -> io::Result<bool> {
        Ok(beneath::stat(at, name)?.is_some())
    }

    /// Removes what isn't a directory.
    fn empty(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<Level> {
        let mut level =
            Level { identity: identity(&fs::fstat(dir)?), name: name.to_owned(), dirs: Vec::new(), is_stuck: false };
        let mut stuck: HashSet<CString> = HashSet::new();
        // What is removed while a directory is read may keep something else from being met.
        let mut has_removed = true;
        while has_removed {
            has_removed = false;
            level.dirs.clear();
            for entry in entries(dir)? {
                let (name, kind) = entry?;
                let is_directory = match kind {
                    FileType::Unknown => beneath::stat(dir, &*name)?.is_some_and(|stat| is_dir(&stat)),
                    kind => kind == FileType::Directory,
                };
                if is_directory {
                    level.dirs.push(name);
                } else if !stuck.contains(&name) {
                    if self.remove_file(dir, &name, self.path.join(shown(&name))) {
                        has_removed = true;
                    } else {
                        level.is_stuck = true;
                        stuck.insert(name);
                    }
                }
            }
        }
        Ok(level)
    }

    fn remove_file(&mut self, dir: &OwnedFd, name: &CStr, path: PathBuf) -> bool {
        match beneath::remove_file(dir, name, REMOVE_FILE) {
            Ok(()) => self.removal.count(self.progress),
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            Err(error) => {
                self.removal.leave(path, error);
                return false;
            }
        }
        true
    }

    fn remove_dir(&mut self, at: &OwnedFd, name: &CStr) -> bool {
        match beneath::remove_dir(at, name, REMOVE_DIR) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(Errno::NOENT) => true,
            Err(error) => {
                self.removal.leave(self.path.clone(), error);
                false
            }
        }
    }
}
