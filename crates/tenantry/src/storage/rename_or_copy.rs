//! Moving a file or directory by a rename or, where the file system refuses that, by a copy.
//!
//! Some file systems rename a directory only within a part of themselves, and fail with `EXDEV`
//! even though both places are in one mount: overlayfs for entries of a lower layer, XFS and ext4
//! between project quotas, btrfs between subvolumes. There the entry is copied into a *copy
//! directory* beside the target, then named, and then the original is removed:
//!
//! ```text
//! TARGET'S PARENT/.tenantry-copy-ID/
//!   content   the copy
//!   links     a name for each file that has several, while a directory is copied
//!   whole     exists once the copy is complete, compared with the original, and synced
//! ```
//!
//! | a crash leaves | so the next attempt |
//! |---|---|
//! | a copy directory without `whole` | removes it, and begins again |
//! | `whole` and `content` | compares again and continues, or begins again if they differ |
//! | `whole` and the target, no `content` | removes the original, if the target has all of it |
//!
//! At any time the original or the copy is complete. All of it happens under the lock of the intent
//! that requires it, so by one process at a time, and the other writes of the store wait. A mount
//! between the two places is refused: the operator has mounted it, and can mount one file system
//! for the whole data directory.
//!
//! No other program should write into the directory during the copy. The comparison notices a file
//! that is written until then, and the copy is made again, a few times. Writes between the
//! comparison and the removal are lost, as are writes through descriptors that stay open, which a
//! rename would have preserved.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, Access, AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::beneath::{self, Mounts, are_in_one_mount, make_dir, open_dir, rename, shown, sync, write_file};
use super::copy::{self, Comparison, Entry, Failure, compare};
use super::errors::{blocked, errno, refused};
use super::remove::{Removal, never_ends, open_accessible, remove_in_place, remove_opened};
use super::stat::{Identity, identity, is_dir, stat};
use super::walk::{Visit, walk};
use super::{Storage, attributes};
use crate::domain::storage_path::COPY_PREFIX;
use crate::{Error, ErrorKind, Result, UserId};

const CONTENT: &CStr = c"content";
const LINKS: &CStr = c"links";
const WHOLE: &str = "whole";

/// Number of times that a directory is copied into which another program writes meanwhile.
const ATTEMPTS_MAX: usize = 3;
/// How long a copy waits for a backup, which must not find the original half removed. The store's
/// writes wait as long, so it is enough for the short lock of a check and not for a backup.
const COPY_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// An entry that is to be moved.
pub(super) struct Move<'m> {
    /// The directory that it is in; `None` if that doesn't exist any more.
    pub(super) from: Option<&'m OwnedFd>,
    pub(super) name: CString,
    pub(super) to: &'m OwnedFd,
    pub(super) new_name: CString,
    /// The name of the copy directory.
    pub(super) work: CString,
    pub(super) point: &'static str,
}

/// Returns the name of the copy directory of a user's move.
pub(super) fn copy_name(user: UserId) -> io::Result<CString> {
    Ok(CString::new(format!("{COPY_PREFIX}{user}"))?)
}

/// Returns the user whose copy directory has this name.
pub(crate) fn user_of_copy(name: &std::ffi::OsStr) -> Option<UserId> {
    name.to_str()?.strip_prefix(COPY_PREFIX)?.parse().ok()
}

impl Storage {
    /// Moves an entry to a name that doesn't exist, and continues an interrupted move. Fails with
    /// `NOENT` if there is no such entry, which may have been moved before.
    pub(super) fn move_entry(&self, moved: &Move<'_>) -> io::Result<()> {
        if self.go_on(moved)? {
            return Ok(());
        }
        let from = moved.from.ok_or(Errno::NOENT)?;
        match rename_dir(from, moved) {
            Err(error) if errno(&error) == Some(Errno::XDEV) && are_in_one_mount(from, moved.to)? => {}
            renamed => return renamed,
        }
        // File systems check this before they refuse the rename, but that isn't promised.
        if stat(moved.to, &*moved.new_name)?.is_some_and(|found| !beneath::is_placeholder(&found)) {
            return Err(Errno::EXIST.into());
        }
        tracing::info!("a user's directory can't be renamed within its file system: it is copied");
        let _kept_away = self.lock_out_backups(COPY_LOCK_TIMEOUT).map_err(io::Error::other)?;
        match self.copy(from, moved) {
            Ok(source) => self.finish(moved, Some(source)),
            Err(error) => {
                // The leftover takes space, which may be what is missing.
                if let Err(error) = clear(moved) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an unfinished copy could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Continues a copy that a crash has interrupted, if there is one. Returns whether that
    /// completed the move.
    pub(super) fn go_on(&self, moved: &Move<'_>) -> io::Result<bool> {
        Ok(stat(moved.to, &*moved.work)?.is_some() && self.take_up(moved)?)
    }

    /// Continues with the content of the copy directory.
    fn take_up(&self, moved: &Move<'_>) -> io::Result<bool> {
        let work = match open_dir(moved.to, &*moved.work, Mounts::Refuse) {
            // Not a copy directory.
            Err(error) if matches!(errno(&error), Some(Errno::LOOP | Errno::NOTDIR)) => {
                return clear(moved).map(|()| false);
            }
            work => work?,
        };
        if stat(&work, WHOLE)?.is_none() {
            return clear(moved).map(|()| false);
        }
        let _kept_away = self.lock_out_backups(COPY_LOCK_TIMEOUT).map_err(io::Error::other)?;
        let source = moved.source()?;
        if stat(&work, CONTENT)?.is_some() {
            // Without an original there is nothing to compare.
            if let Some(source) = &source
                && moved.difference(source, Entry { dir: &work, name: CONTENT }, Comparison::Same)?.is_some()
            {
                return clear(moved).map(|()| false);
            }
            return self.finish(moved, source).map(|()| true);
        }
        if stat(moved.to, &*moved.new_name)?.is_none() {
            return clear(moved).map(|()| false);
        }
        if let Some(source) = &source
            && let Some(path) = moved.not_contained(source)?
        {
            let message = format!(
                "{path:?} was written where the user's directory was after it was copied to its new place: compare the two, and move the first one away"
            );
            return Err(io::Error::other(blocked(message)));
        }
        self.finish(moved, source).map(|()| true)
    }

    /// Makes a whole copy in the copy directory, and returns the original.
    fn copy(&self, from: &OwnedFd, moved: &Move<'_>) -> io::Result<Original> {
        let mut different = PathBuf::new();
        for _ in 0..ATTEMPTS_MAX {
            clear(moved)?;
            let work = make_dir(moved.to, &*moved.work, self.owner, "copy: make a place")?;
            // Everything that is made in it would inherit this.
            attributes::forget_default_acl(&work)?;
            let content = Entry { dir: &work, name: CONTENT };
            let source = moved.source()?.ok_or(Errno::NOENT)?;
            match &source {
                Original::Directory(source) => self.copy_dir(source, &work)?,
                Original::File(_) => copy::copy_file(Entry { dir: from, name: &moved.name }, content)
                    .map_err(|error| failed(Failure { path: PathBuf::new(), error }))?,
            }
            crate::failpoint::reach(copy::SYNC);
            fs::syncfs(&work)?;
            match moved.difference(&source, content, Comparison::Same)? {
                Some(path) => different = path,
                None => {
                    write_file(&work, WHOLE, b"", self.owner, "copy: mark it as whole")?;
                    sync(&work, "copy: sync the mark")?;
                    return Ok(source);
                }
            }
        }
        let message = format!(
            "{different:?} in the user's directory is written while it is copied, since it can't be renamed to its place (EXDEV): stop what writes it"
        );
        Err(io::Error::other(blocked(message)))
    }

    fn copy_dir(&self, source: &OwnedFd, work: &OwnedFd) -> io::Result<()> {
        let content = make_dir(work, CONTENT, self.owner, "copy: make a directory")?;
        let links = make_dir(work, LINKS, self.owner, "copy: make a directory")?;
        copy::copy(again(source)?, content, &links, self.owner).map_err(failed)?;
        remove(work, LINKS)
    }

    /// Gives a whole copy its name, unless it has that, and removes the original: the entry that
    /// was compared with the copy, and not what may be at its name by now.
    fn finish(&self, moved: &Move<'_>, source: Option<Original>) -> io::Result<()> {
        let work = open_dir(moved.to, &*moved.work, Mounts::Refuse)?;
        if stat(&work, CONTENT)?.is_some() {
            rename(&work, CONTENT, moved.to, &*moved.new_name, "copy: name the directory")?;
        }
        sync(moved.to, "copy: sync the name")?;
        sync(&work, "copy: sync the name")?;
        if let Some(from) = moved.from {
            if let Some(source) = source {
                moved.remove(from, source)?;
            }
            sync(from, "copy: sync the removal")?;
        }
        clear(moved)?;
        sync(moved.to, "copy: sync the end")
    }

    /// Checks, as far as that is possible, that a directory can be moved even if that needs a copy:
    /// the process may copy everything in it, and no backup is reading it.
    pub(super) fn check_movable(&self, from: &OwnedFd, name: &CStr, to: &OwnedFd) -> Result<()> {
        let source = match open_dir(from, name, Mounts::Refuse) {
            // It is lost, or its mode has to be changed first.
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::ACCESS)) => return Ok(()),
            source => source.map_err(refused)?,
        };
        if !are_in_one_mount(from, to).map_err(refused)? {
            return Err(refused(Errno::XDEV.into()));
        }
        if !attributes::may_need_copy(&source, to).map_err(refused)? {
            return Ok(());
        }
        drop(self.lock_out_backups(Duration::ZERO)?);
        let mut obstacle = None;
        let walked = walk(source, &mut |visit| {
            let Some((path, why)) = obstacle_of(visit) else { return Ok(()) };
            let message =
                format!("the user's directory can't be renamed to its place (EXDEV), and {path:?} in it {why}");
            obstacle = Some(blocked(message));
            Err(io::Error::other("given up"))
        });
        match obstacle {
            Some(obstacle) => Err(obstacle),
            None => walked.map_err(refused),
        }
    }
}

/// The entry that is moved, as it was when it was found.
enum Original {
    Directory(OwnedFd),
    /// Anything else.
    File(Identity),
}

impl Move<'_> {
    /// Returns the original, if it exists.
    fn source(&self) -> io::Result<Option<Original>> {
        let Some(from) = self.from else { return Ok(None) };
        let Some(found) = stat(from, &*self.name)? else { return Ok(None) };
        if !is_dir(&found) {
            return Ok(Some(Original::File(identity(&found))));
        }
        match open_accessible(from, &self.name) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(None),
            opened => opened.map(|dir| Some(Original::Directory(dir))),
        }
    }

    /// Returns where the original and a copy of it differ, below what is moved.
    fn difference(&self, source: &Original, copy: Entry<'_>, how: Comparison) -> io::Result<Option<PathBuf>> {
        let top = || PathBuf::from(".");
        let is_copy_dir = stat(copy.dir, copy.name)?.is_some_and(|copy| is_dir(&copy));
        match (source, self.from) {
            (Original::Directory(source), _) if is_copy_dir => {
                compare(again(source)?, open_dir(copy.dir, copy.name, Mounts::Refuse)?, how).map_err(failed)
            }
            (Original::File(_), Some(from)) if !is_copy_dir => {
                let is_same = copy::is_same_file(Entry { dir: from, name: &self.name }, copy, how);
                let is_same = is_same.map_err(|error| failed(Failure { path: top(), error }))?;
                Ok((!is_same).then(top))
            }
            _ => Ok(Some(top())),
        }
    }

    /// Returns the path of an entry that the original has and the target lacks.
    fn not_contained(&self, source: &Original) -> io::Result<Option<PathBuf>> {
        let of_source = match source {
            Original::Directory(source) => identity(&fs::fstat(source)?),
            Original::File(identity) => *identity,
        };
        if stat(self.to, &*self.new_name)?.is_some_and(|target| identity(&target) == of_source) {
            return Err(io::Error::other(blocked("the user's directory was moved by hand while the store moved it")));
        }
        self.difference(source, Entry { dir: self.to, name: &self.new_name }, Comparison::Contained)
    }

    /// Removes the original. What may be at its name by now stays, unless it is an empty directory.
    fn remove(&self, from: &OwnedFd, source: Original) -> io::Result<()> {
        match source {
            Original::Directory(source) => removed(|removal| remove_opened(from, &self.name, source, removal)),
            Original::File(source) if stat(from, &*self.name)?.is_some_and(|found| identity(&found) == source) => {
                remove(from, &self.name)
            }
            Original::File(_) => Ok(()),
        }
    }
}

/// Renames an entry. Moving a directory writes its `..`, for which an application may have removed
/// the permission: it is given back, so that an intent can't get stuck.
fn rename_dir(from: &OwnedFd, moved: &Move<'_>) -> io::Result<()> {
    let rename = || rename(from, &*moved.name, moved.to, &*moved.new_name, moved.point);
    match rename() {
        Err(error)
            if errno(&error) == Some(Errno::ACCESS)
                && beneath::make_private(from, &*moved.name, "move: change a mode").is_ok() =>
        {
            rename()
        }
        renamed => renamed,
    }
}

/// Removes the copy directory. The mark goes first, so that what a crash leaves isn't taken for a
/// whole copy.
pub(super) fn clear(moved: &Move<'_>) -> io::Result<()> {
    if let Ok(work) = open_dir(moved.to, &*moved.work, Mounts::Refuse) {
        match beneath::remove_file(&work, WHOLE, "copy: remove the mark") {
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            removed => {
                removed?;
                sync(&work, "copy: sync the mark")?;
            }
        }
    }
    remove(moved.to, &moved.work)
}

fn again(dir: &OwnedFd) -> io::Result<OwnedFd> {
    open_dir(dir, c".", Mounts::Refuse)
}

fn remove(at: &OwnedFd, name: &CStr) -> io::Result<()> {
    removed(|removal| remove_in_place(at, name, Path::new(""), removal, &never_ends))
}

fn removed(remove: impl FnOnce(&mut Removal) -> io::Result<bool>) -> io::Result<()> {
    let mut removal = Removal::default();
    remove(&mut removal)?;
    match removal.left.into_iter().next() {
        None => Ok(()),
        Some((path, error)) => {
            Err(failed_to("is copied to its place, but the original can't be removed", Failure { path, error }))
        }
    }
}

fn failed(failure: Failure) -> io::Error {
    failed_to("can't be renamed to its place (EXDEV), and copying it fails", failure)
}

/// Returns the failure with its kind, and with the path in the user's directory.
fn failed_to(what: &str, Failure { path, error }: Failure) -> io::Error {
    let kind = match errno(&error) {
        Some(errno) => refused(errno.into()).kind(),
        None => ErrorKind::Io,
    };
    let message = format!("the user's directory {what} at {path:?}: {error}");
    io::Error::other(Error::new(kind, message).with_source(error))
}

/// Returns an entry that can't be copied, with the reason.
fn obstacle_of(visit: Visit<'_>) -> Option<(PathBuf, &'static str)> {
    let is_root = rustix::process::geteuid().is_root();
    let (dir, above, name, stat) = match visit {
        Visit::Unreadable { above, name } => {
            return Some((above.join(shown(name)), "can't be read, or a file system is mounted there"));
        }
        Visit::Entry { .. } if is_root => return None,
        Visit::Entry { dir, above, name, stat } => (dir, above, name, stat),
    };
    let may = |access| fs::accessat(dir, name, access, AtFlags::EACCESS).is_ok();
    let is_own = |stat: &Stat| stat.st_uid == rustix::process::geteuid().as_raw();
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if !may(Access::READ_OK) => "can't be read",
        FileType::CharacterDevice | FileType::BlockDevice => "is a device, which takes root to copy",
        _ if is_dir(stat) && !is_own(stat) && !may(Access::WRITE_OK) => "can't be emptied",
        _ => return None,
    };
    Some((above.join(shown(name)), why))
}
