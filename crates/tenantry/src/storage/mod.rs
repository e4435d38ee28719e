//! The directories of the users: the one part of the program that knows where they are.
//!
//! ```text
//! DATA-DIR/
//!   storage/           the users' directories, each at the user's storage path
//!     .tenantry-store  the id of the store, so that the two are never mistaken for another's
//!   trash/ID           the directories of users in the trash
//!   quarantine/NAME    what a repair or an adoption moved out of the way: note.json and content
//!   .tenantry-import-NAME  the files of a user who is just being imported
//! ```
//!
//! A [`Storage`] holds descriptors of these since the store was opened, and everything is looked up from them
//! ([`beneath`]). Directories are moved within the data directory only, which is one file system, though perhaps one that
//! doesn't rename everything everywhere ([`moving`]).
//!
//! Each change can be made again, when a crash left open whether it was made: it looks for what is to be done still, and waits
//! for the disk in any case. What is to be changed when is decided by the engine, which has recorded it before.

mod attributes;
mod beneath;
mod copying;
mod in_place;
mod locks;
mod merge;
mod moving;
mod ownership;
mod probe;
mod stage;
mod survey;
mod target;
mod transfer;
mod tree;
mod unpack;

use std::borrow::Cow;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::domain::storage_path::WORK_PREFIX;
use crate::{Error, ErrorKind, Result, StoragePath, UserId};
pub(crate) use attributes::{Attributes, Extended, Modified};
pub(crate) use beneath::wait_for_file;
use beneath::{Mounts, entries, errno, make_dir, open_dir, rename, stat, sync};
pub(crate) use merge::{Present, Standing};
use moving::Move;
pub(crate) use moving::user_of_work;
pub(crate) use ownership::{Ownership, PRIVATE_FILE, owner_of_store};
pub(crate) use probe::Ways;
pub(crate) use stage::{Purpose, Stage, is_stage};
pub(crate) use survey::{EntryKind, Look, Rights, is_own_file};
pub(crate) use target::Target;
pub(crate) use transfer::{Identity, Item, KeptAway, Opened, SEGMENTS_MAX, Segment, Source};
pub(crate) use tree::{Measured, Removal};
pub(crate) use unpack::{AllUnset, Unpacking};

const STORAGE: &str = "storage";
const TRASH: &str = "trash";
const QUARANTINE: &str = "quarantine";
/// In `storage/`. No user's path may begin with `.tenantry`.
const MARKER: &str = ".tenantry-store";
/// The same, if the file system ignores case.
const MARKER_IN_CAPITALS: &str = ".TENANTRY-STORE";
/// Until it is written and on the disk.
const NEW_MARKER: &str = ".tenantry-store.new";

/// How often directories are made again that somebody removes at the same time.
const ATTEMPTS_MAX: usize = 100;

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Storage {
    /// As the program named it.
    data_dir: PathBuf,
    data: OwnedFd,
    storage: OwnedFd,
    trash: OwnedFd,
    /// Whose everything is that is made.
    owner: Ownership,
}

/// Something that belongs to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// A path below `storage/`.
    InStorage(PathBuf),
    /// A name in `trash/`.
    InTrash(OsString),
}

/// What the marker in `storage/` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Missing,
    Of(Uuid),
    /// There is one, but it can't be understood.
    Damaged,
}

impl Storage {
    /// Opens the directories of the store with this id, and makes those that are missing. The first time that is
    /// done (`is_marked` isn't set yet) `storage/` gets the store's marker; later it has to have it.
    ///
    /// `Incompatible` if the marker is another store's; `StorageUnavailable` if `storage/` or the marker is missing.
    pub(crate) fn open(data_dir: &Path, store_id: Uuid, is_marked: bool) -> Result<Self> {
        let failed = |error| match errno(&error) {
            // As long as they are being made. Once they are, that needs no room.
            Some(Errno::NOSPC | Errno::DQUOT) => refused(error),
            _ => unavailable("the storage directory can't be used").with_source(error),
        };
        let data = open_data_dir(data_dir).map_err(failed)?;
        let owner = Ownership::of_store_in(&data).map_err(failed)?;
        for name in [STORAGE, TRASH] {
            match stat(&data, name).map_err(failed)? {
                Some(_) => {}
                None if is_marked => return Err(unavailable("storage/ or trash/ is missing")),
                None => {
                    make_dir(&data, name, owner, "open: make a directory of the store").map_err(failed)?;
                    sync(&data, "open: sync the data directory").map_err(failed)?;
                }
            }
        }
        let open = |name: &'static str| {
            open_dir(&data, name, Mounts::Refuse).map_err(|error| {
                unavailable(match errno(&error) {
                    Some(Errno::XDEV) => {
                        "a file system is mounted on storage/ or trash/: mount one for the whole data directory"
                    }
                    Some(Errno::ACCESS) => {
                        "no permission to use storage/ or trash/: run it as the owner of tenantry.db"
                    }
                    Some(Errno::LOOP) if name == STORAGE => {
                        "storage is a symbolic link: put the directory itself there"
                    }
                    Some(Errno::LOOP) => "trash is a symbolic link: put the directory itself there",
                    Some(Errno::NOTDIR) if name == STORAGE => "storage isn't a directory",
                    Some(Errno::NOTDIR) => "trash isn't a directory",
                    _ => "storage/ or trash/ can't be opened",
                })
                .with_source(error)
            })
        };
        let storage = Self { data_dir: data_dir.to_owned(), storage: open(STORAGE)?, trash: open(TRASH)?, owner, data };
        match storage.marker().map_err(failed)? {
            Marker::Of(id) if id == store_id => {}
            Marker::Missing if !is_marked => storage.mark(store_id).map_err(failed)?,
            Marker::Missing => return Err(unavailable("storage/ has no marker of a store")),
            Marker::Of(_) => {
                return Err(Error::new(
                    ErrorKind::Incompatible,
                    "the database and storage/ belong to different stores: bring back the one that fits; nothing was changed",
                ));
            }
            Marker::Damaged => return Err(unavailable("the marker of the store in storage/ is damaged")),
        }
        Ok(storage)
    }

    /// Refuses anything but a directory in the place of the store's own, before a store is made beside it. A link may lead
    /// to what isn't mounted, or is another's.
    pub(crate) fn refuse_other_than_directories(data_dir: &Path) -> Result<()> {
        match Self::other_than_directory(data_dir, &[STORAGE, TRASH, QUARANTINE]) {
            None => Ok(()),
            Some((_, what)) => Err(Error::new(ErrorKind::Incompatible, format!("{what}; nothing was changed"))),
        }
    }

    /// Which of `storage/` and `trash/` is there and is no directory, and what can be said of that.
    pub(crate) fn blocked_root(data_dir: &Path) -> Option<(&'static str, String)> {
        Self::other_than_directory(data_dir, &[STORAGE, TRASH])
    }

    fn other_than_directory(data_dir: &Path, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| {
            let what = match std::fs::symlink_metadata(data_dir.join(name)) {
                Ok(found) if found.is_symlink() => "is a symbolic link",
                Ok(found) if !found.is_dir() => "isn't a directory",
                // Whoever opens it reports what else is wrong.
                _ => return None,
            };
            Some((*name, format!("{name} {what}: put the directory itself there, or remove it")))
        })
    }

    /// Opens the directories as they are, to look at them. `None` if they aren't there, or are no directories.
    pub(crate) fn look(data_dir: &Path) -> io::Result<Option<Self>> {
        let data = open_data_dir(data_dir)?;
        let open = |name| match open_dir(&data, name, Mounts::Enter) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => Ok(None),
            Err(error) => Err(error),
        };
        let (Some(storage), Some(trash)) = (open(STORAGE)?, open(TRASH)?) else { return Ok(None) };
        let owner = Ownership::of_store_in(&data)?;
        Ok(Some(Self { data_dir: data_dir.to_owned(), storage, trash, owner, data }))
    }

    /// Which store the `storage/` in a data directory belongs to, if there is one.
    pub(crate) fn marker_in(data_dir: &Path) -> io::Result<Marker> {
        match open_dir(open_data_dir(data_dir)?, STORAGE, Mounts::Enter) {
            Ok(storage) => marker(&storage),
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => {
                Ok(Marker::Missing)
            }
            Err(error) => Err(error),
        }
    }

    /// Which store `storage/` belongs to.
    pub(crate) fn marker(&self) -> io::Result<Marker> {
        marker(&self.storage)
    }

    /// Whether the file system takes names for the same that differ in case. One that only ignores normalization does no
    /// harm: paths are normalized.
    pub(crate) fn ignores_case(&self) -> bool {
        // Asked where it matters: `storage/` itself, which may be of another kind than what is around it.
        matches!(stat(&self.storage, MARKER_IN_CAPITALS), Ok(Some(_)))
    }

    /// One process at a time.
    fn mark(&self, store_id: Uuid) -> io::Result<()> {
        self.write_file(&self.storage, NEW_MARKER, format!("{store_id}\n").as_bytes(), "open: write the marker")?;
        rename(&self.storage, NEW_MARKER, &self.storage, MARKER, "open: name the marker")?;
        sync(&self.storage, "open: sync the marker")
    }

    /// Writes a file that is on the disk, though perhaps not its name.
    fn write_file(&self, dir: &OwnedFd, name: &str, text: &[u8], point: &'static str) -> io::Result<()> {
        crate::failpoint::reach(point);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(dir, name, flags, PRIVATE_FILE) {
            // What a crash left. It isn't written to: it may be another name of somebody else's file, put there for root
            // to empty and to give away.
            Err(Errno::EXIST) => {
                fs::unlinkat(dir, name, AtFlags::empty())?;
                fs::openat(dir, name, flags, PRIVATE_FILE)?
            }
            file => file?,
        };
        let mut file = File::from(file);
        self.owner.give_file(&file, PRIVATE_FILE)?;
        file.write_all(text)?;
        file.sync_all()
    }

    /// The path of a user's directory, for those who can't do with a handle.
    pub(crate) fn path(&self, path: &StoragePath) -> PathBuf {
        self.data_dir.join(Self::relative(path))
    }

    /// A storage path as a path within the data directory.
    pub(crate) fn relative(path: &StoragePath) -> PathBuf {
        Self::relative_text(path.as_str())
    }

    pub(crate) fn relative_text(path: &str) -> PathBuf {
        Path::new(STORAGE).join(path)
    }

    /// The place of a user in the trash as a path within the data directory.
    pub(crate) fn relative_trash(id: UserId) -> PathBuf {
        Path::new(TRASH).join(id.to_string())
    }

    /// Something that belongs to nobody as a path within the data directory.
    pub(crate) fn relative_stray(stray: &Stray) -> PathBuf {
        match stray {
            Stray::InStorage(path) => Path::new(STORAGE).join(path),
            Stray::InTrash(name) => Path::new(TRASH).join(name),
        }
    }

    /// The same from a path.
    pub(crate) fn stray(path: &Path) -> Option<Stray> {
        if let Ok(path) = path.strip_prefix(STORAGE) {
            return Some(Stray::InStorage(path.to_owned()));
        }
        path.strip_prefix(TRASH).ok().map(|path| Stray::InTrash(path.as_os_str().to_owned()))
    }

    /// Opens a user's directory. `StorageLost` if it isn't there.
    pub(crate) fn dir(&self, path: &StoragePath) -> Result<OwnedFd> {
        open_dir(&self.storage, path.as_str(), Mounts::Enter).map_err(|error| {
            let roots = self.check_roots();
            roots.err().unwrap_or_else(|| refused(error))
        })
    }

    /// Whether anything stands at this path.
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

    /// Makes the directories of a path, and answers the last. All of them are on the disk then, also those that were
    /// made before: whoever made them may not have come to that.
    fn make_lineage(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dirs = vec![self.storage.as_fd().try_clone_to_owned()?];
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if let Some(parent) = dirs.last() {
                dirs.push(make_dir(parent, name, self.owner, "make: a directory")?);
            }
        }
        // From the inside out: at no time does a directory lead to one that isn't there.
        for dir in dirs.iter().rev() {
            sync(dir, "make: sync a directory")?;
        }
        dirs.pop().ok_or_else(|| io::Error::other("no directory"))
    }

    /// Makes sure that a user's directory can be moved to the trash. It may be lost: there is nothing to move then.
    pub(crate) fn check_can_trash(&self, id: UserId, path: &StoragePath) -> Result<()> {
        match open_dir(&self.storage, path.as_str(), Mounts::Refuse) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            opened => drop(opened.map_err(refused)?),
        }
        if stat(&self.trash, &*id.to_string()).map_err(refused)?.is_some() {
            return Err(blocked("something stands in the user's place in the trash already"));
        }
        let (above, last) = split(path);
        match self.above(above) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(()),
            parent => self.check_movable(&parent.map_err(refused)?, &text(last)?, &self.trash),
        }
    }

    /// Moves a user's directory to the trash, unless that has been done. What is lost stays so.
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
            work: moving::work_of(id).map_err(refused)?,
            point: "trash: move the directory",
        };
        match self.move_dir(&moved) {
            // That it is in the trash is what was wanted. What stands at the old place then was made since.
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::EXIST)) => {}
            done => done.map_err(refused)?,
        }
        if stat(&self.trash, &*name).map_err(refused)?.is_none() {
            if self.exists(path)? {
                return Err(unavailable("trash/ was removed while the store was open: open it again"));
            }
            tracing::warn!(user = %id, "the directory of a deleted user is missing");
        }
        self.sync_both(&self.trash, parent.as_ref(), "trash: sync").map_err(refused)
    }

    /// Makes sure that nothing stands at the storage path of a user in the trash.
    pub(crate) fn check_is_free(&self, path: &StoragePath) -> Result<()> {
        if self.exists(path)? {
            return Err(blocked("something stands at the user's storage path"));
        }
        Ok(())
    }

    /// Makes sure that a user's directory can be moved back from the trash, or to its place from the [stage] of an import.
    pub(crate) fn check_can_restore(&self, id: UserId, path: &StoragePath, stage: Option<&str>) -> Result<()> {
        self.check_is_free(path)?;
        let in_trash = id.to_string();
        let (from, name) = stage.map_or((&self.trash, &*in_trash), |stage| (&self.data, stage));
        let (mut above, _) = split(path);
        // What isn't there yet is made in, and like, the last one that is.
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

    /// Moves a user's directory back from the trash, or to its place from the [stage] of an import, unless that has been
    /// done. What is lost stays so.
    pub(crate) fn restore(&self, id: UserId, path: &StoragePath, stage: Option<&str>) -> Result<()> {
        self.check_roots()?;
        if let Some(stage) = stage.filter(|stage| stage::purpose(stage) != Some(Purpose::New)) {
            return self.merge(id, path, stage);
        }
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
                work: moving::work_of(id).map_err(refused)?,
                point: "restore: move the directory",
            };
            match self.move_dir(&moved) {
                // It is there already, or lost; or somebody has removed the directories above it, which were empty.
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
        Err(blocked("the directories above the user's are removed all the time"))
    }

    /// Refuses to go on with directories that were removed, or replaced, while the store was open.
    fn check_roots(&self) -> Result<()> {
        for root in [&self.storage, &self.trash] {
            if fs::fstat(root).map_err(|error| refused(error.into()))?.st_nlink == 0 {
                return Err(unavailable("storage/ or trash/ was removed while the store was open: open it again"));
            }
        }
        Ok(())
    }

    /// Removes the directory of a user in the trash, whose storage path this was. Backups have to be
    /// [kept away](Self::keep_backups_away).
    pub(crate) fn remove(&self, id: UserId, path: &StoragePath, progress: &dyn Fn(u64)) -> Result<Removal> {
        self.check_roots()?;
        let name = text(&id.to_string())?;
        let mut removal = tree::remove(&self.trash, &name, progress).map_err(refused)?;
        if removal.is_complete() {
            if matches!(self.exists(path), Ok(true)) {
                // Put back by somebody while the user was in the trash: it isn't gone, and nobody would know.
                let why = "something stands at the user's storage path, which somebody has put there: `tenantry check`";
                removal.left.push((PathBuf::new(), io::Error::other(why)));
            }
            sync(&self.trash, "remove: sync the trash").map_err(refused)?;
        }
        Ok(removal)
    }

    /// Makes sure that a directory can be given to a user: it is there, with no link and no other file system on
    /// the way. It and those above it get the right mode, and are on the disk then.
    pub(crate) fn prepare_adoption(&self, path: &StoragePath) -> Result<()> {
        let mut dirs = vec![self.storage.as_fd().try_clone_to_owned().map_err(refused)?];
        for name in path.as_str().split('/') {
            let Some(parent) = dirs.last() else { continue };
            let dir = open_dir(parent, name, Mounts::Refuse).map_err(|error| match errno(&error) {
                Some(Errno::NOENT) => Error::new(ErrorKind::NotFound, "there is no such directory under storage/"),
                _ => refused(error),
            })?;
            // Where the file system ignores case or normalization, it is there by a name that nobody would know again.
            let is_spelled_so = entries(parent).and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.0.to_bytes() == name.as_bytes()))
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
        // Only now that all of them are there.
        dirs.iter().skip(1).try_for_each(fix_mode).map_err(refused)?;
        for dir in dirs.iter().rev() {
            sync(dir, "adopt: sync a directory").map_err(refused)?;
        }
        Ok(())
    }

    /// Whether a user's directory holds nothing, or is lost.
    pub(crate) fn is_empty(&self, path: &StoragePath) -> Result<bool> {
        match open_dir(&self.storage, path.as_str(), Mounts::Refuse) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(true),
            opened => beneath::is_empty(&opened.map_err(refused)?).map_err(refused),
        }
    }

    /// Removes the directory that a user had before, if it is still empty. Says whether nothing stands there now.
    pub(crate) fn discard(&self, path: &StoragePath) -> Result<bool> {
        let (above, last) = split(path);
        let parent = match self.above(above) {
            Err(error) if errno(&error) == Some(Errno::NOENT) => return Ok(true),
            parent => parent.map_err(refused)?,
        };
        match beneath::remove_dir(&parent, last, "adopt: remove the empty directory") {
            Err(error) if matches!(errno(&error), Some(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR)) => {
                return Ok(false);
            }
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            removed => removed.map_err(refused)?,
        }
        sync(&parent, "adopt: sync the directory above").map_err(refused)?;
        Ok(true)
    }

    /// Moves something in the data directory, with a note of where it came from, to `quarantine/NAME`, unless that has
    /// been done.
    pub(crate) fn quarantine(&self, path: &Path, name: &str, note: &str) -> Result<()> {
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(blocked("there is no such path"));
        };
        let run = || {
            let quarantine = make_dir(&self.data, QUARANTINE, self.owner, "quarantine: make its directory")?;
            let place = make_dir(&quarantine, name, self.owner, "quarantine: make a place")?;
            self.write_file(&place, "note.json", note.as_bytes(), "quarantine: write the note")?;
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
                work: CString::new(WORK_PREFIX)?,
                point: "quarantine: move",
            };
            match self.move_dir(&moved) {
                Err(error) if errno(&error) == Some(Errno::NOENT) && stat(&parent, last)?.is_none() => {}
                done => done?,
            }
            self.sync_both(&place, Some(&parent), "quarantine: sync")
        };
        run().map_err(refused)
    }

    /// Adds up what a user's directory holds.
    pub(crate) fn measure(dir: OwnedFd, progress: &dyn Fn(u64)) -> Result<Measured> {
        tree::measure(dir, progress).map_err(refused)
    }

    fn above(&self, path: &str) -> io::Result<OwnedFd> {
        open_dir(&self.storage, if path.is_empty() { "." } else { path }, Mounts::Enter)
    }

    fn sync_both(&self, new: &OwnedFd, old: Option<&OwnedFd>, point: &'static str) -> io::Result<()> {
        sync(new, point)?;
        old.map_or(Ok(()), |old| sync(old, point))
    }
}

fn marker(storage: &OwnedFd) -> io::Result<Marker> {
    let file = match fs::openat(
        storage,
        MARKER,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Marker::Missing),
        Err(Errno::LOOP) => return Ok(Marker::Damaged),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    Ok(match (read, text.trim_end().parse()) {
        (Ok(_), Ok(id)) => Marker::Of(id),
        _ => Marker::Damaged,
    })
}

/// The data directory, which may be reached over links: where it is was said by whoever runs the program.
fn open_data_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Gives a directory the mode 0700, unless it has it.
fn fix_mode(dir: &OwnedFd) -> io::Result<()> {
    if !Rights::of(&fs::fstat(dir)?).are_private() {
        crate::failpoint::reach("adopt: change a mode");
        fs::fchmod(dir, beneath::PRIVATE)?;
    }
    Ok(())
}

/// The path above and the last segment.
fn split(path: &StoragePath) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()))
}

/// A name as the system takes it.
fn text(name: &str) -> Result<CString> {
    CString::new(name).map_err(|error| refused(error.into()))
}

/// The failure of a file operation outside the users' directories.
pub(crate) fn file_error(error: io::Error, message: impl Into<Cow<'static, str>>) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    Error::new(kind, message).with_source(error)
}

fn unavailable(message: &'static str) -> Error {
    Error::new(ErrorKind::StorageUnavailable, message)
}

fn blocked(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::StorageBlocked, message)
}

/// The failure of an operation on a user's directory.
fn refused(error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    let (kind, message) = match errno(&error) {
        Some(Errno::NOENT) => (ErrorKind::StorageLost, "the user's directory is missing, though it was made"),
        Some(Errno::LOOP) => (ErrorKind::StorageBlocked, "a symbolic link stands on the way to the user's directory"),
        Some(Errno::NOTDIR) => {
            (ErrorKind::StorageBlocked, "something that isn't a directory stands on the way to the user's directory")
        }
        Some(Errno::XDEV | Errno::BUSY) => {
            (ErrorKind::StorageBlocked, "a file system is mounted on the user's directory or on the way to it")
        }
        Some(Errno::EXIST | Errno::NOTEMPTY) => {
            (ErrorKind::StorageBlocked, "something stands where the user's directory is to be moved")
        }
        Some(Errno::NOSPC | Errno::DQUOT) => (ErrorKind::Full, "the disk is full"),
        Some(Errno::ROFS) => (ErrorKind::ReadOnly, "the storage directory is read-only"),
        Some(Errno::ACCESS | Errno::PERM) => (ErrorKind::ReadOnly, "no permission to use the user's directory"),
        _ => (ErrorKind::Io, "an operation on the user's directory failed"),
    };
    Error::new(kind, message).with_source(error)
}
