//! Making, moving and removing the directory of one user.
//!
//! Each change is idempotent, so that it can be repeated after a crash.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs;
use rustix::io::Errno;

use super::Storage;
use super::beneath::{self, ATTEMPTS_MAX, Mounts, entries, make_dir, open_dir, sync, write_file};
use super::errors::{blocked, errno, refused, unavailable};
use super::inspect::Rights;
use super::layout::{PRIVATE, QUARANTINE, split};
use super::remove::{self, OnRemoved, Removal};
use super::rename_or_copy::{self, Move};
use super::stage::{self, Purpose};
use super::stat::stat;
use crate::domain::storage_path::COPY_PREFIX;
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

impl Storage {
    /// Opens a user's directory. Fails with `StorageLost` if it doesn't exist.
    pub(crate) fn dir(&self, path: &StoragePath) -> Result<OwnedFd> {
        open_dir(&self.storage, path.as_str(), Mounts::Enter).map_err(|error| {
            let roots = self.check_roots();
            roots.err().unwrap_or_else(|| refused(error))
        })
    }

    /// Returns whether a directory exists at a storage path.
    pub(crate) fn exists(&self, path: &StoragePath) -> Result<bool> {
        match open_dir(&self.storage, path.as_str(), Mounts::Enter) {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    /// Makes a user's directory and those above it.
    pub(crate) fn make(&self, path: &StoragePath) -> Result<()> {
        self.check_roots()?;
        self.make_lineage(path.as_str()).map(drop).map_err(refused)
    }

    /// Makes the directories of a path, and returns the last one. Syncs all of them, even those
    /// that exist: the process that made them may have crashed before it did.
    pub(super) fn make_lineage(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dirs = vec![self.storage.as_fd().try_clone_to_owned()?];
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if let Some(parent) = dirs.last() {
                dirs.push(make_dir(parent, name, self.owner, "make: a directory")?);
            }
        }
        // From the innermost one out, so that an entry never refers to a directory that isn't
        // durable.
        for dir in dirs.iter().rev() {
            sync(dir, "make: sync a directory")?;
        }
        dirs.pop().ok_or_else(|| io::Error::other("no directory"))
    }

    /// Checks that a user's directory can be moved to the trash. A lost one needs no move.
    pub(crate) fn check_can_trash(&self, id: UserId, path: &StoragePath) -> Result<()> {
        match open_dir(&self.storage, path.as_str(), Mounts::Refuse) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            opened => drop(opened.map_err(refused)?),
        }
        if stat(&self.trash, &*id.to_string()).map_err(refused)?.is_some() {
            return Err(blocked("the trash already has something under the user's id"));
        }
        let (above, last) = split(path);
        match self.above(above) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(()),
            parent => self.check_movable(&parent.map_err(refused)?, &text(last)?, &self.trash),
        }
    }

    /// Moves a user's directory to the trash, unless that was done. A lost one stays lost.
    pub(crate) fn to_trash(&self, id: UserId, path: &StoragePath) -> Result<()> {
        self.check_roots()?;
        let name = id.to_string();
        let (above, last) = split(path);
        let parent = match self.above(above) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => None,
            parent => Some(parent.map_err(refused)?),
        };
        let moved = Move {
            from: parent.as_ref(),
            name: text(last)?,
            to: &self.trash,
            new_name: text(&name)?,
            work: rename_or_copy::copy_name(id).map_err(refused)?,
            point: "trash: move the directory",
        };
        match self.move_entry(&moved) {
            // It is in the trash already. A directory at the old path was made since.
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::EXIST)) => {}
            done => done.map_err(refused)?,
        }
        if stat(&self.trash, &*name).map_err(refused)?.is_none() {
            if self.exists(path)? {
                return Err(unavailable(
                    "trash/ was removed while the store was open: open it again",
                ));
            }
            tracing::warn!(user = %id, "the directory of a deleted user is missing");
        }
        self.sync_both(&self.trash, parent.as_ref(), "trash: sync").map_err(refused)
    }

    /// Checks that nothing exists at the storage path of a user in the trash.
    pub(crate) fn check_is_free(&self, path: &StoragePath) -> Result<()> {
        if self.exists(path)? {
            return Err(blocked("something exists at the user's storage path"));
        }
        Ok(())
    }

    /// Checks that a directory can be moved from the trash, or from the [stage] of an import, to a
    /// user's storage path.
    pub(crate) fn check_can_restore(
        &self,
        id: UserId,
        path: &StoragePath,
        stage: Option<&str>,
    ) -> Result<()> {
        self.check_is_free(path)?;
        let in_trash = id.to_string();
        let (from, name) = stage.map_or((&self.trash, &*in_trash), |stage| (&self.data, stage));
        let (mut above, _) = split(path);
        // Missing directories will be made in the last one that exists, with its file system and
        // project.
        let parent = loop {
            match self.above(above) {
                Err(error) if errno(&error) == Some(Errno::NOENT) && !above.is_empty() => {
                    above = above.rsplit_once('/').map_or("", |(above, _)| above);
                }
                parent => break parent.map_err(refused)?,
            }
        };
        self.check_movable(from, &text(name)?, &parent)
    }

    /// Moves a user's directory back from the trash, or to its place from the [stage] of an import,
    /// unless that was done. A lost one stays lost.
    pub(crate) fn restore(
        &self,
        id: UserId,
        path: &StoragePath,
        stage: Option<&str>,
    ) -> Result<()> {
        let Some((stage, purpose)) = stage.and_then(|stage| Some((stage, stage::purpose(stage)?)))
        else {
            return self.move_to_place(id, path, None);
        };
        match purpose {
            Purpose::New => return self.move_to_place(id, path, Some(stage)),
            Purpose::Return => self.move_to_place(id, path, None)?,
            Purpose::Beside => {}
        }
        self.merge(id, path, stage)
    }

    /// Moves a directory from the trash, or a stage, to a user's storage path, unless that was
    /// done.
    fn move_to_place(&self, id: UserId, path: &StoragePath, stage: Option<&str>) -> Result<()> {
        self.check_roots()?;
        let in_trash = id.to_string();
        let (from, name) = stage.map_or((&self.trash, &*in_trash), |stage| (&self.data, stage));
        let (above, last) = split(path);
        for _ in 0..ATTEMPTS_MAX {
            let parent = self.make_lineage(above).map_err(refused)?;
            let moved = Move {
                from: Some(from),
                name: text(name)?,
                to: &parent,
                new_name: text(last)?,
                work: rename_or_copy::copy_name(id).map_err(refused)?,
                point: "restore: move the directory",
            };
            match self.move_entry(&moved) {
                // It is in its place already, or lost; or another program has removed the empty
                // directories above.
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                done => done.map_err(refused)?,
            }
            if stat(&parent, last).map_err(refused)?.is_none() {
                if stat(from, name).map_err(refused)?.is_some() {
                    continue;
                }
                tracing::warn!(user = %id, "the directory of a restored user is missing");
            }
            return self.sync_both(&parent, Some(from), "restore: sync").map_err(refused);
        }
        Err(blocked("another program keeps removing the directories above the user's"))
    }

    /// Removes the directory of a user in the trash. The caller [locks out
    /// backups](Self::lock_out_backups). `path` is where it was before the delete.
    pub(crate) fn remove(
        &self,
        id: UserId,
        path: &StoragePath,
        progress: OnRemoved<'_>,
    ) -> Result<Removal> {
        self.check_roots()?;
        let name = text(&id.to_string())?;
        let mut removal = remove::remove(&self.trash, &name, progress).map_err(refused)?;
        if removal.is_complete() {
            if matches!(self.exists(path), Ok(true)) {
                // Files put back at the old path would otherwise survive a purge that reported
                // success.
                let why = "another program has made something at the user's storage path since the delete";
                removal.left.push((PathBuf::new(), io::Error::other(why)));
            }
            sync(&self.trash, "remove: sync the trash").map_err(refused)?;
        }
        Ok(removal)
    }

    /// Checks that a directory can be given to a user: it exists, and no link or mount is on the
    /// way. Gives it and those above it the mode 0700, and syncs them.
    pub(crate) fn prepare_adoption(&self, path: &StoragePath) -> Result<()> {
        let mut dirs = vec![self.storage.as_fd().try_clone_to_owned().map_err(refused)?];
        for name in path.as_str().split('/') {
            let Some(parent) = dirs.last() else { continue };
            let dir =
                open_dir(parent, name, Mounts::Refuse).map_err(|error| match errno(&error) {
                    Some(Errno::NOENT) => {
                        Error::new(ErrorKind::NotFound, "there is no such directory under storage/")
                    }
                    _ => refused(error),
                })?;
            // Where the file system ignores case, it may be listed by a name that isn't
            // its own. Normalization makes no such difference: a path has one form.
            let is_spelled_so = entries(parent).and_then(|entries| {
                entries
                    .map(|entry| Ok(is_spelled(&entry?.0, name)))
                    .find(|is_so| !matches!(is_so, Ok(false)))
                    .transpose()
            });
            if is_spelled_so.map_err(refused)?.is_none() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "there is no such directory under storage/, but one that the file system takes for it: use its own spelling",
                ));
            }
            dirs.push(dir);
        }
        // Not before all of them are known to exist.
        dirs.iter().skip(1).try_for_each(fix_mode).map_err(refused)?;
        for dir in dirs.iter().rev() {
            sync(dir, "adopt: sync a directory").map_err(refused)?;
        }
        Ok(())
    }

    /// Returns whether a user's directory is empty or lost.
    pub(crate) fn is_empty(&self, path: &StoragePath) -> Result<bool> {
        match open_dir(&self.storage, path.as_str(), Mounts::Refuse) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(true),
            opened => beneath::is_empty(&opened.map_err(refused)?).map_err(refused),
        }
    }

    /// Removes a user's former directory, if it is empty. Returns whether nothing exists there now.
    pub(crate) fn discard(&self, path: &StoragePath) -> Result<bool> {
        let (above, last) = split(path);
        let parent = match self.above(above) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(true),
            parent => parent.map_err(refused)?,
        };
        match beneath::remove_dir(&parent, last, "adopt: remove the empty directory") {
            Err(error)
                if matches!(
                    errno(&error),
                    Some(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR)
                ) =>
            {
                return Ok(false);
            }
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            removed => removed.map_err(refused)?,
        }
        sync(&parent, "adopt: sync the directory above").map_err(refused)?;
        Ok(true)
    }

    /// Moves an entry of the data directory to `quarantine/NAME`, with a note of where it was,
    /// unless that was done.
    pub(crate) fn quarantine(&self, path: &Path, name: &str, note: &str) -> Result<()> {
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(blocked("there is no such path"));
        };
        let run = || {
            let quarantine =
                make_dir(&self.data, QUARANTINE, self.owner, "quarantine: make its directory")?;
            let place = make_dir(&quarantine, name, self.owner, "quarantine: make a place")?;
            write_file(
                &place,
                "note.json",
                note.as_bytes(),
                self.owner,
                "quarantine: write the note",
            )?;
            for dir in [place.as_fd(), quarantine.as_fd(), self.data.as_fd()] {
                sync(dir, "quarantine: sync the note")?;
            }
            let parent = match open_dir(&self.data, parent, Mounts::Enter) {
                Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(()),
                parent => parent?,
            };
            let moved = Move {
                from: Some(&parent),
                name: CString::new(last.as_bytes())?,
                to: &place,
                new_name: c"content".to_owned(),
                work: CString::new(COPY_PREFIX)?,
                point: "quarantine: move",
            };
            match self.move_entry(&moved) {
                Err(error)
                    if errno(&error) == Some(Errno::NOENT) && stat(&parent, last)?.is_none() => {}
                done => done?,
            }
            self.sync_both(&place, Some(&parent), "quarantine: sync")
        };
        run().map_err(refused)
    }
}

/// Returns whether a directory that is listed by this name is the one that a path of the store
/// names.
fn is_spelled(listed: &CStr, name: &str) -> bool {
    let listed = listed.to_str().ok();
    listed.is_some_and(|listed| {
        listed == name || StoragePath::normalized(listed).is_some_and(|form| form == name)
    })
}

/// Gives a directory the mode 0700, unless it has that.
fn fix_mode(dir: &OwnedFd) -> io::Result<()> {
    if !Rights::of(&fs::fstat(dir)?).are_private() {
        crate::failpoint::reach("adopt: change a mode");
        fs::fchmod(dir, PRIVATE)?;
    }
    Ok(())
}

/// Returns a name for a system call.
fn text(name: &str) -> Result<CString> {
    CString::new(name).map_err(|error| refused(error.into()))
}
