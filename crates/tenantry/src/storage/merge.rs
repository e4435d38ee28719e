//! Moving files of a backup into a directory that a user has.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::beneath::{Mounts, entries, is_placeholder, open_dir, remove_dir, shown, sync};
use super::errors::{errno, refused};
use super::layout::split;
use super::rename_or_copy::{self, Move};
use super::stat::{is_dir, stat};
use super::{Storage, locks, stage};
use crate::{Result, StoragePath, UserId};

const MOVE: &str = "restore: move a file";

/// A user's directory, if there is one, to compare with a backup.
#[derive(Debug)]
pub(crate) struct UserDirectory(Option<OwnedFd>);

/// The entry at a path in a user's directory.
#[derive(Debug)]
pub(crate) enum PathEntry {
    Missing,
    Directory,
    File(File),
    /// A symbolic link, with its target.
    Link(PathBuf),
    /// Anything else, or a path that leads over something that isn't a directory, or over a mount.
    Other,
}

impl UserDirectory {
    /// Returns that of a user without a directory.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    pub(crate) fn at(&self, path: &Path) -> Result<PathEntry> {
        self.look(path).map_err(refused)
    }

    /// Returns a file that SQLite would take for part of the same database as a file at this path.
    /// Parts of different databases must not come together.
    pub(crate) fn other_part(&self, path: &Path) -> Result<Option<PathBuf>> {
        self.find_other_part(path).map_err(refused)
    }

    fn find_other_part(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let bytes = path.as_os_str().as_bytes();
        for suffix in [locks::WAL, locks::JOURNAL, locks::SHM] {
            let Some(base) = bytes.strip_suffix(suffix.as_bytes()) else { continue };
            let base = Path::new(OsStr::from_bytes(base));
            if matches!(self.look(base)?, PathEntry::File(file) if locks::is_database(&file)?) {
                return Ok(Some(path.to_owned()));
            }
        }
        for suffix in [locks::WAL, locks::JOURNAL] {
            let beside = PathBuf::from(OsStr::from_bytes(&[bytes, suffix.as_bytes()].concat()));
            if matches!(self.look(&beside)?, PathEntry::File(file) if locks::is_log(&file)?) {
                return Ok(Some(beside));
            }
        }
        Ok(None)
    }

    fn look(&self, path: &Path) -> io::Result<PathEntry> {
        let Some(top) = &self.0 else { return Ok(PathEntry::Missing) };
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(PathEntry::Directory);
        };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let dir = match open_dir(top, above, Mounts::Refuse) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(PathEntry::Missing),
            Err(error)
                if matches!(errno(&error), Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV)) =>
            {
                return Ok(PathEntry::Other);
            }
            dir => dir?,
        };
        let Some(found) = stat(&dir, name)? else { return Ok(PathEntry::Missing) };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Ok(PathEntry::Directory),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY
                    | OFlags::NOFOLLOW
                    | OFlags::NONBLOCK
                    | OFlags::NOCTTY
                    | OFlags::CLOEXEC;
                match fs::openat(&dir, name, flags, Mode::empty()) {
                    Ok(file) => Ok(PathEntry::File(file.into())),
                    Err(Errno::NOENT) => Ok(PathEntry::Missing),
                    // It can't be read, or isn't a file any more.
                    Err(Errno::LOOP | Errno::ACCESS | Errno::PERM) => Ok(PathEntry::Other),
                    Err(error) => Err(error.into()),
                }
            }
            FileType::Symlink => {
                let target = fs::readlinkat(&dir, name, Vec::new())?;
                Ok(PathEntry::Link(OsStr::from_bytes(target.to_bytes()).into()))
            }
            _ => Ok(PathEntry::Other),
        }
    }
}

impl Storage {
    /// Opens a user's directory, in `storage/` or in the trash.
    pub(crate) fn present(&self, id: UserId, path: &StoragePath) -> Result<UserDirectory> {
        let in_trash = id.to_string();
        for (root, name) in [(&self.storage, path.as_str()), (&self.trash, &*in_trash)] {
            match open_dir(root, name, Mounts::Refuse) {
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                opened => return Ok(UserDirectory(Some(opened.map_err(refused)?))),
            }
        }
        Ok(UserDirectory(None))
    }

    /// Moves the files of a stage into a user's directory, unless that was done. Nothing in the
    /// directory is replaced: files that would do so stay in the stage, which is removed.
    pub(super) fn merge(&self, id: UserId, path: &StoragePath, stage: &str) -> Result<()> {
        let (above, last) = split(path);
        let run = || {
            let parent = self.make_lineage(above)?;
            let moved = Move {
                from: Some(&self.data),
                name: CString::new(stage)?,
                to: &parent,
                new_name: CString::new(last)?,
                work: rename_or_copy::copy_name(id)?,
                point: MOVE,
            };
            // A crash may have interrupted the move of the whole stage.
            self.go_on(&moved)?;
            let staged = match open_dir(&self.data, stage, Mounts::Refuse) {
                // It was done before.
                Err(error) if errno(&error) == Some(Errno::NOENT) => None,
                staged => Some(staged?),
            };
            match (staged, stat(&parent, last)?.filter(|found| !is_placeholder(found))) {
                (None, _) => {}
                (Some(_), None) => self.move_entry(&moved)?,
                (Some(staged), Some(_)) => {
                    self.merge_dir(id, &staged, &open_dir(&parent, last, Mounts::Refuse)?)?;
                    if !remove_empty(&self.data, stage)? {
                        // The process that filled it removes it, or has ended.
                        stage::remove(&self.data, stage, &|_| Ok(true))?;
                    }
                }
            }
            self.sync_both(&parent, Some(&self.data), "restore: sync")
        };
        run().map_err(refused)
    }

    /// Moves the entries of one directory into another, unless one of the same name exists there,
    /// and removes the directories that are empty then.
    fn merge_dir(&self, id: UserId, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        let mut dirs = vec![PathBuf::from(".")];
        let mut visited = 0;
        while let Some(here) = dirs.get(visited).cloned() {
            visited += 1;
            let source = open_dir(from, &*here, Mounts::Refuse)?;
            let target = match open_dir(to, &*here, Mounts::Refuse) {
                // Another program has put something else there since.
                Err(error)
                    if matches!(
                        errno(&error),
                        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)
                    ) =>
                {
                    continue;
                }
                target => target?,
            };
            self.merge_entries(id, &source, &target, &mut |name| {
                dirs.push(here.join(shown(name)))
            })?;
            sync(&target, "restore: sync a directory")?;
            sync(&source, "restore: sync a directory")?;
        }
        // The innermost one first.
        for dir in dirs.iter().rev() {
            if let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) {
                remove_empty(&open_dir(from, above, Mounts::Refuse)?, name)?;
            }
        }
        Ok(())
    }

    /// Moves the entries of `source` itself, and reports its directories that exist in `target`.
    fn merge_entries(
        &self,
        id: UserId,
        source: &OwnedFd,
        target: &OwnedFd,
        descend: &mut dyn FnMut(&CStr),
    ) -> io::Result<()> {
        let to = |name: &CStr| -> io::Result<Move<'_>> {
            let (name, new_name, work) =
                (name.to_owned(), name.to_owned(), rename_or_copy::copy_name(id)?);
            Ok(Move { from: Some(source), name, to: target, new_name, work, point: MOVE })
        };
        // The copy that a crash has interrupted is made again: its original is still in the stage,
        // or its target exists.
        let interrupted = to(c"")?;
        if stat(target, &*interrupted.work)?.is_some() {
            rename_or_copy::clear(&interrupted)?;
        }
        for entry in entries(source)?.collect::<io::Result<Vec<_>>>()? {
            let (name, _) = entry;
            match self.move_entry(&to(&name)?) {
                Ok(()) => {}
                Err(error) if matches!(errno(&error), Some(Errno::EXIST | Errno::NOTEMPTY)) => {
                    if stat(source, &*name)?.is_some_and(|found| is_dir(&found)) {
                        descend(&name);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Removes a directory if it is empty. Returns whether it doesn't exist any more.
fn remove_empty(at: &OwnedFd, name: impl Arg) -> io::Result<bool> {
    match remove_dir(at, name, "restore: remove an empty directory") {
        Err(error) if matches!(errno(&error), Some(Errno::NOTEMPTY | Errno::EXIST)) => Ok(false),
        Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(true),
        removed => removed.map(|()| true),
    }
}
