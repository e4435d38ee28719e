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
//! At any time the original or the copy is complete, even if another process moves one of the two
//! meanwhile: both are held by descriptors from the comparison on. The original is removed only if
//! both are at their names then, and otherwise both stay and the move fails. All of it happens
//! under the lock of the intent that requires it, so by one process at a time, and the other writes
//! of the store wait. A mount between the two places is refused: the operator has mounted it, and
//! can mount one file system for the whole data directory.
//!
//! No other program should write into the directory during the copy. The comparison notices a file
//! that is written until then, and the copy is made again, a few times. Writes between the
//! comparison and the removal are lost, as are writes through descriptors that stay open, which a
//! rename would have preserved.
//!
//! Rejected: a copy that is made before the lock is taken. Another process that opens the store
//! meanwhile executes the same intent, so the copy directory would need a lock of its own. Under
//! the lock the comparison would still read everything, because the times of a file don't show
//! writes through a mapping. And the writes of this process wait for its writer's thread in any
//! case.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, Access, AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::beneath::{
    self, Mounts, are_in_one_mount, make_dir, open_dir, rename, shown, sync, write_file,
};
use super::copy::{self, Comparison, Entry, Failure, compare};
use super::errors::{blocked, errno, refused};
use super::remove::{
    REMOVE_FILE, Removal, never_ends, open_accessible, remove_in_place, remove_opened,
};
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
            Err(error)
                if errno(&error) == Some(Errno::XDEV) && are_in_one_mount(from, moved.to)? => {}
            renamed => return renamed,
        }
        // File systems check this before they refuse the rename, but that isn't promised.
        if stat(moved.to, &*moved.new_name)?.is_some_and(|found| !beneath::is_placeholder(&found)) {
            return Err(Errno::EXIST.into());
        }
        tracing::info!("a user's directory can't be renamed within its file system: it is copied");
        let _kept_away = self.lock_out_backups(COPY_LOCK_TIMEOUT).map_err(io::Error::other)?;
        match self.copy(from, moved) {
            Ok((original, copy)) => self.finish(moved, Some((original, &copy))),
            Err(error) => {
                // The leftover takes space, which may be what is missing.
                if let Err(error) = clear(moved) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "an unfinished copy could not be removed"
                    );
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
        let original = moved.original()?;
        let content = Entry { dir: &work, name: CONTENT };
        if let Some(copy) = Held::find(content)? {
            // Without an original there is nothing to compare.
            if let Some(original) = &original
                && moved.difference(original, content, &copy, Comparison::Same)?.is_some()
            {
                return clear(moved).map(|()| false);
            }
            return self.finish(moved, original.map(|original| (original, &copy))).map(|()| true);
        }
        let Some(target) = Held::find(moved.target())? else {
            return clear(moved).map(|()| false);
        };
        if let Some(original) = &original
            && let Some(path) =
                moved.difference(original, moved.target(), &target, Comparison::Contained)?
        {
            let message = format!(
                "{path:?} was written where the user's directory was after it was copied to its new place: compare the two, and move the first one away"
            );
            return Err(io::Error::other(blocked(message)));
        }
        self.finish(moved, original.map(|original| (original, &target))).map(|()| true)
    }

    /// Makes a whole copy in the copy directory, and returns the original with it.
    fn copy(&self, from: &OwnedFd, moved: &Move<'_>) -> io::Result<(Held, Held)> {
        let mut different = PathBuf::new();
        for _ in 0..ATTEMPTS_MAX {
            clear(moved)?;
            let work = make_dir(moved.to, &*moved.work, self.owner, "copy: make a place")?;
            // Everything that is made in it would inherit this.
            attributes::forget_default_acl(&work)?;
            let content = Entry { dir: &work, name: CONTENT };
            let original = moved.original()?.ok_or(Errno::NOENT)?;
            match &original {
                Held::Directory(original) => self.copy_dir(original, &work)?,
                Held::File(_) => {
                    copy::copy_file(Entry { dir: from, name: &moved.name }, content)
                        .map_err(|error| failed(Failure { path: PathBuf::new(), error }))?
                }
            }
            crate::failpoint::reach(copy::SYNC);
            fs::syncfs(&work)?;
            let copy = Held::find(content)?.ok_or(Errno::NOENT)?;
            match moved.difference(&original, content, &copy, Comparison::Same)? {
                Some(path) => different = path,
                None => {
                    write_file(&work, WHOLE, b"", self.owner, "copy: mark it as whole")?;
                    sync(&work, "copy: sync the mark")?;
                    return Ok((original, copy));
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

    /// Gives a whole copy its name, unless it has that, and removes the original, which was
    /// compared with the copy.
    fn finish(&self, moved: &Move<'_>, compared: Option<(Held, &Held)>) -> io::Result<()> {
        let work = open_dir(moved.to, &*moved.work, Mounts::Refuse)?;
        if stat(&work, CONTENT)?.is_some() {
            rename(&work, CONTENT, moved.to, &*moved.new_name, "copy: name the directory")?;
        }
        sync(moved.to, "copy: sync the name")?;
        sync(&work, "copy: sync the name")?;
        if let Some(from) = moved.from {
            if let Some((original, copy)) = compared {
                moved.remove(from, original, copy)?;
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
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::ACCESS)) => {
                return Ok(());
            }
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
            let message = format!(
                "the user's directory can't be renamed to its place (EXDEV), and {path:?} in it {why}"
            );
            obstacle = Some(blocked(message));
            Err(io::Error::other("given up"))
        });
        match obstacle {
            Some(obstacle) => Err(obstacle),
            None => walked.map_err(refused),
        }
    }
}

/// An entry as it was when it was found, whatever has become of its name.
enum Held {
    Directory(OwnedFd),
    /// Anything else.
    File(Identity),
}

impl Held {
    /// Returns an entry, if it exists.
    fn find(entry: Entry<'_>) -> io::Result<Option<Self>> {
        Self::find_with(entry, |at, name| open_dir(at, name, Mounts::Refuse))
    }

    fn find_with(
        entry: Entry<'_>,
        open: impl FnOnce(&OwnedFd, &CStr) -> io::Result<OwnedFd>,
    ) -> io::Result<Option<Self>> {
        let Some(found) = stat(entry.dir, entry.name)? else { return Ok(None) };
        if !is_dir(&found) {
            return Ok(Some(Self::File(identity(&found))));
        }
        match open(entry.dir, entry.name) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(None),
            opened => opened.map(|dir| Some(Self::Directory(dir))),
        }
    }

    fn identity(&self) -> io::Result<Identity> {
        match self {
            Self::Directory(dir) => Ok(identity(&fs::fstat(dir)?)),
            Self::File(identity) => Ok(*identity),
        }
    }

    fn is_at(&self, entry: Entry<'_>) -> io::Result<bool> {
        let held = self.identity()?;
        Ok(stat(entry.dir, entry.name)?.is_some_and(|found| identity(&found) == held))
    }
}

impl Move<'_> {
    /// Returns the original, if it exists, with the permissions to remove it.
    fn original(&self) -> io::Result<Option<Held>> {
        let Some(from) = self.from else { return Ok(None) };
        Held::find_with(Entry { dir: from, name: &self.name }, |at, name| open_accessible(at, name))
    }

    fn target(&self) -> Entry<'_> {
        Entry { dir: self.to, name: &self.new_name }
    }

    /// Returns where the original and a copy of it differ, below what is moved.
    fn difference(
        &self,
        original: &Held,
        entry: Entry<'_>,
        copy: &Held,
        how: Comparison,
    ) -> io::Result<Option<PathBuf>> {
        if original.identity()? == copy.identity()? {
            return Err(io::Error::other(blocked(
                "the user's directory was moved by hand while the store moved it",
            )));
        }
        let top = || PathBuf::from(".");
        match (original, copy, self.from) {
            (Held::Directory(original), Held::Directory(copy), _) => {
                compare(again(original)?, again(copy)?, how).map_err(failed)
            }
            (Held::File(original), Held::File(_), Some(from)) => {
                let is_same = copy::is_same_file(
                    Entry { dir: from, name: &self.name },
                    *original,
                    entry,
                    how,
                );
                let is_same = is_same.map_err(|error| failed(Failure { path: top(), error }))?;
                Ok((!is_same).then(top))
            }
            _ => Ok(Some(top())),
        }
    }

    /// Removes the original, which was compared with the copy. If another process has moved one of
    /// the two since, both stay.
    fn remove(&self, from: &OwnedFd, original: Held, copy: &Held) -> io::Result<()> {
        let source = Entry { dir: from, name: &self.name };
        if !copy.is_at(self.target())? || !original.is_at(source)? {
            let message =
                "another program moved the user's directory, or its copy, while the store moved it";
            return Err(io::Error::other(blocked(message)));
        }
        match original {
            Held::Directory(dir) => {
                removed(|removal| remove_opened(from, &self.name, dir, removal))
            }
            // Unlike a removal by its name, this fails if a directory was put there.
            Held::File(_) => match beneath::remove_file(from, &*self.name, REMOVE_FILE) {
                Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(()),
                removed => removed,
            },
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
        Some((path, error)) => Err(failed_to(
            "is copied to its place, but the original can't be removed",
            Failure { path, error },
        )),
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
            return Some((
                above.join(shown(name)),
                "can't be read, or a file system is mounted there",
            ));
        }
        Visit::Entry { .. } if is_root => return None,
        Visit::Entry { dir, above, name, stat } => (dir, above, name, stat),
    };
    let may = |access| fs::accessat(dir, name, access, AtFlags::EACCESS).is_ok();
    let is_own = |stat: &Stat| stat.st_uid == rustix::process::geteuid().as_raw();
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if !may(Access::READ_OK) => "can't be read",
        FileType::CharacterDevice | FileType::BlockDevice => {
            "is a device, which takes root to copy"
        }
        _ if is_dir(stat) && !is_own(stat) && !may(Access::WRITE_OK) => "can't be emptied",
        _ => return None,
    };
    Some((above.join(shown(name)), why))
}

#[cfg(test)]
mod tests {
    use std::fs as std_fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::storage::ownership::Ownership;

    /// A directory with an entry `from/ada` and its copy `to/ada`.
    struct Place {
        dir: tempfile::TempDir,
        from: OwnedFd,
        to: OwnedFd,
    }

    impl Place {
        fn new(make: impl Fn(&Path)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for parent in ["from", "to", "aside"] {
                std_fs::create_dir(dir.path().join(parent)).unwrap();
                make(&dir.path().join(parent).join("ada"));
            }
            let open = |name: &str| std_fs::File::open(dir.path().join(name)).unwrap().into();
            Self { from: open("from"), to: open("to"), dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn moved(&self) -> Move<'_> {
            Move {
                from: Some(&self.from),
                name: c"ada".to_owned(),
                to: &self.to,
                new_name: c"ada".to_owned(),
                work: c"work".to_owned(),
                point: "move: change a mode",
            }
        }

        /// Exchanges an entry with the one aside.
        fn swap(&self, path: &str) {
            let (place, aside) = (self.path(path), self.path("aside/ada"));
            fs::renameat_with(fs::CWD, &place, fs::CWD, &aside, fs::RenameFlags::EXCHANGE).unwrap();
        }
    }

    fn filled(dir: &Path) {
        std_fs::create_dir(dir).unwrap();
        std_fs::write(dir.join("notes.txt"), "of ada").unwrap();
    }

    fn is_filled(dir: &Path) -> bool {
        std_fs::read(dir.join("notes.txt")).is_ok_and(|content| content == b"of ada")
    }

    /// The story: a process swapped a link with the user's directory while the store copied. The
    /// link was found and copied, and then the directory was removed, which was at its name again.
    #[test]
    fn neither_is_removed_if_another_entry_is_at_the_name_of_the_original_or_of_its_copy() {
        let kinds: [fn(&Path); 3] = [
            filled,
            |path| symlink("elsewhere", path).unwrap(),
            |path| {
                std_fs::write(path, "a file").unwrap();
            },
        ];
        for (kind, make) in kinds.into_iter().enumerate() {
            for swapped in ["from/ada", "to/ada"] {
                for put_in_place in kinds {
                    let place = Place::new(make);
                    let moved = place.moved();
                    let (original, copy) =
                        (moved.original().unwrap().unwrap(), Held::find(moved.target()).unwrap());
                    let aside = place.path("aside/ada");
                    let _ = std_fs::remove_dir_all(&aside).or_else(|_| std_fs::remove_file(&aside));
                    put_in_place(&aside);
                    place.swap(swapped);
                    let error = moved.remove(&place.from, original, &copy.unwrap()).unwrap_err();
                    assert_eq!(
                        refused(error).kind(),
                        ErrorKind::StorageBlocked,
                        "{kind} {swapped}"
                    );
                    for path in ["from/ada", "to/ada", "aside/ada"] {
                        let found = std_fs::symlink_metadata(place.path(path)).unwrap();
                        assert!(
                            !found.is_dir() || is_filled(&place.path(path)),
                            "{kind} {swapped} {path}"
                        );
                    }
                }
            }
            let place = Place::new(make);
            let moved = place.moved();
            let (original, copy) =
                (moved.original().unwrap().unwrap(), Held::find(moved.target()).unwrap().unwrap());
            moved.remove(&place.from, original, &copy).unwrap();
            assert_eq!(std_fs::read_dir(place.path("from")).unwrap().count(), 0);
            assert!(place.path("to/ada").symlink_metadata().is_ok());
        }
    }

    /// The story: the target was compared by its name, where the original itself was by then.
    #[test]
    fn an_original_is_not_its_own_copy() {
        let place = Place::new(filled);
        let moved = place.moved();
        let original = moved.original().unwrap().unwrap();
        let target = Held::find(moved.target()).unwrap().unwrap();
        assert!(
            moved
                .difference(&original, moved.target(), &target, Comparison::Contained)
                .unwrap()
                .is_none()
        );
        std_fs::write(place.path("from/ada/more.txt"), "").unwrap();
        std_fs::rename(place.path("to/ada"), place.path("to/other")).unwrap();
        std_fs::rename(place.path("from/ada"), place.path("to/ada")).unwrap();
        // Held by their descriptors, both are what they were.
        let difference =
            moved.difference(&original, moved.target(), &target, Comparison::Contained).unwrap();
        assert_eq!(difference.as_deref(), Some(Path::new("more.txt")));
        let itself = Held::find(moved.target()).unwrap().unwrap();
        let error = moved
            .difference(&original, moved.target(), &itself, Comparison::Contained)
            .unwrap_err();
        assert_eq!(refused(error).kind(), ErrorKind::StorageBlocked);
    }

    #[test]
    fn a_file_that_was_replaced_since_it_was_found_is_not_the_one_that_was_copied() {
        let place = Place::new(|path| std_fs::write(path, "of ada").unwrap());
        let time = std::time::UNIX_EPOCH;
        for parent in ["from", "to", "aside"] {
            let file =
                std_fs::File::options().write(true).open(place.path(parent).join("ada")).unwrap();
            file.set_modified(time).unwrap();
        }
        let moved = place.moved();
        let original = moved.original().unwrap().unwrap();
        let copy = Held::find(moved.target()).unwrap().unwrap();
        let difference =
            || moved.difference(&original, moved.target(), &copy, Comparison::Same).unwrap();
        assert_eq!(difference(), None);
        place.swap("from/ada");
        assert_eq!(difference().as_deref(), Some(Path::new(".")));
    }

    #[test]
    fn a_cleared_copy_directory_leaves_nothing() {
        let place = Place::new(filled);
        let work = make_dir(&place.to, c"work", Ownership::default(), "a test").unwrap();
        write_file(&work, WHOLE, b"", Ownership::default(), "a test").unwrap();
        filled(&place.path("to/work/content"));
        clear(&place.moved()).unwrap();
        assert!(!place.path("to/work").exists() && is_filled(&place.path("to/ada")));
    }
}
