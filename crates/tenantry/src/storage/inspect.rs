//! Looking at what is there, for [`check`](crate::check), without changing it.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::beneath::{self, Mounts, open_dir};
use super::errors::{blocked, errno, refused};
use super::layout::{MARKER, NEW_MARKER, PRIVATE, QUARANTINE, STORAGE, TRASH};
use super::stat::{is_dir, stat};
use super::{Storage, ownership};
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

/// The files in the data directory that every program needs that has the store open.
const FILES: [&str; 4] = ["tenantry.db", "tenantry.db-shm", "tenantry.db-wal", "tenantry.lock"];

/// What stands at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory(Rights),
    Link,
    Other,
}

/// Who may use a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) mode: u32,
    pub(crate) owner: u32,
}

impl Rights {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { mode: Mode::from_raw_mode(stat.st_mode).bits() & 0o777, owner: stat.st_uid }
    }

    pub(crate) fn are_private(self) -> bool {
        self.mode == PRIVATE.bits()
    }
}

/// What a look at a user's directory finds.
pub(crate) enum DirectoryState {
    Directory(Rights),
    Missing,
    /// A symbolic link or something else that isn't a directory, at this many segments of the path.
    Blocked {
        segments: usize,
        is_link: bool,
    },
}

impl Storage {
    /// What stands at a user's storage path.
    pub(crate) fn inspect(&self, path: &StoragePath) -> io::Result<DirectoryState> {
        match open_dir(&self.storage, path.as_str(), Mounts::Enter) {
            Ok(dir) => return Ok(DirectoryState::Directory(Rights::of(&fs::fstat(&dir)?))),
            Err(error) => match errno(&error) {
                Some(Errno::NOENT) => return Ok(DirectoryState::Missing),
                // Where it ends, and at what, is looked for below.
                Some(Errno::ACCESS | Errno::LOOP | Errno::NOTDIR) => {}
                _ => return Err(error),
            },
        }
        // Where does it end?
        let mut here = None;
        for (index, name) in path.as_str().split('/').enumerate() {
            let above = here.as_ref().unwrap_or(&self.storage);
            let Some(found) = stat(above, name)? else { return Ok(DirectoryState::Missing) };
            if !is_dir(&found) {
                let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
                return Ok(DirectoryState::Blocked { segments: index + 1, is_link });
            }
            match open_dir(above, name, Mounts::Enter) {
                Ok(dir) => here = Some(dir),
                // There, but not even its owner may enter it.
                Err(error) if errno(&error) == Some(Errno::ACCESS) => {
                    return Ok(DirectoryState::Directory(Rights::of(&found)));
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("a directory changes while it is looked at"))
    }

    /// What is in a directory below `storage/`, in the order of names; nothing if it has gone meanwhile.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        match self.above(path) {
            Ok(dir) => list(&dir),
            // Gone meanwhile, or not to be read, which is told with the rights of it.
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ACCESS)) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// How many directories are in a directory below `storage/` or `trash/` that belongs to nobody, or 1 if there are none.
    pub(crate) fn weight(&self, path: &Path) -> u64 {
        let dirs = open_dir(&self.data, path, Mounts::Refuse).and_then(|dir| list(&dir));
        let is_dir = |entry: &&Entry| matches!(entry.kind, EntryKind::Directory(_));
        dirs.map_or(1, |entries| entries.iter().filter(is_dir).count().max(1) as u64)
    }

    /// What is in `trash/`.
    pub(crate) fn list_trash(&self) -> io::Result<Vec<Entry>> {
        list(&self.trash)
    }

    /// Whether a directory stands at a path within the data directory; `None` if nothing does.
    pub(crate) fn is_dir_at(&self, path: &Path) -> Result<Option<bool>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        match open_dir(&self.data, parent, Mounts::Enter) {
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => Ok(None),
            parent => {
                let found = parent.and_then(|parent| stat(&parent, name)).map_err(refused)?;
                Ok(found.map(|found| is_dir(&found)))
            }
        }
    }

    /// Whether the directory of a user in the trash is there.
    pub(crate) fn is_in_trash(&self, id: UserId) -> io::Result<bool> {
        Ok(stat(&self.trash, &*id.to_string())?.is_some())
    }

    /// The directories that hold the users', and `quarantine/` if there is one.
    pub(crate) fn roots(&self) -> io::Result<Vec<Entry>> {
        let mut roots = Vec::new();
        for name in [STORAGE, TRASH, QUARANTINE] {
            if let Some(found) = stat(&self.data, name)? {
                roots.push(Entry { name: name.into(), kind: kind(&found) });
            }
        }
        Ok(roots)
    }

    /// Those of the directories that hold the users' on which another file system is mounted.
    pub(crate) fn mounted_roots(&self) -> io::Result<Vec<&'static str>> {
        let mut mounted = Vec::new();
        for name in [STORAGE, TRASH] {
            match open_dir(&self.data, name, Mounts::Refuse) {
                Err(error) if errno(&error) == Some(Errno::XDEV) => mounted.push(name),
                Err(error) if errno(&error) != Some(Errno::NOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(mounted)
    }

    /// Whose the store is, and so everything in it ought to be.
    pub(crate) fn owner(&self) -> io::Result<u32> {
        Ok(ownership::owner(&self.data)?.st_uid)
    }

    /// The files of the store that belong to somebody else, with who that is.
    pub(crate) fn files_of_others(&self) -> io::Result<Vec<(&'static str, u32)>> {
        let owner = self.owner()?;
        let mut files = Vec::new();
        for name in FILES {
            if let Some(found) = stat(&self.data, name)?.filter(|found| found.st_uid != owner) {
                files.push((name, found.st_uid));
            }
        }
        Ok(files)
    }

    /// Gives one of the store's own files or directories to the owner of the store, with no link on the way. What is in
    /// a user's directory stays as it is: the application may have reasons.
    pub(crate) fn give_to_owner(&self, path: &Path) -> Result<()> {
        let give = || -> io::Result<()> {
            let owner = ownership::owner(&self.data)?;
            let (user, group) = (Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)));
            if FILES.iter().any(|name| Path::new(name) == path) {
                // OpenFile only to name it: to close another descriptor would end SQLite's locks.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(&self.data, path, flags, Mode::empty())?;
                let found = fs::fstat(&file)?;
                if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_nlink > 1 {
                    // Whoever may write in the data directory has perhaps put a name of another's file there.
                    return Err(io::Error::other(blocked("it is no file, or has another name (a hard link)")));
                }
                return Ok(fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH)?);
            }
            let dir = beneath::open_path(&self.data, path)?;
            Ok(fs::chownat(dir, "", user, group, AtFlags::EMPTY_PATH)?)
        };
        give().map_err(|error| match errno(&error) {
            Some(Errno::PERM) => {
                Error::new(ErrorKind::PermissionDenied, "only root can change the owner").with_source(error)
            }
            _ => refused(error),
        })
    }

    /// Gives a directory within the data directory the mode 0700, with no link on the way.
    pub(crate) fn make_private(&self, path: &Path) -> Result<()> {
        beneath::make_private(&self.data, path, "repair: change a mode").map_err(refused)
    }
}

fn list(dir: &OwnedFd) -> io::Result<Vec<Entry>> {
    let names: Vec<(CString, FileType)> = beneath::entries(dir)?.collect::<io::Result<_>>()?;
    let mut entries = Vec::with_capacity(names.len());
    for (name, _) in &names {
        if let Some(found) = stat(dir, &**name)? {
            let name = composed(dir, name, &names)?.unwrap_or_else(|| name.as_bytes().to_vec());
            entries.push(Entry { name: OsString::from_vec(name), kind: kind(&found) });
        }
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// The name that a path of the store has for an entry, where the file system lists another one: HFS+
/// stores names decomposed. Where normalization counts, that name is of another entry or of none.
fn composed(dir: &OwnedFd, name: &CStr, names: &[(CString, FileType)]) -> io::Result<Option<Vec<u8>>> {
    let Some(composed) = name.to_str().ok().and_then(StoragePath::normalized) else { return Ok(None) };
    let is_listed = names.iter().any(|(other, _)| other.to_bytes() == composed.as_bytes());
    let is_taken_for_it = !is_listed && stat(dir, &*composed)?.is_some();
    Ok(is_taken_for_it.then(|| composed.into_bytes()))
}

fn kind(found: &Stat) -> EntryKind {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => EntryKind::Directory(Rights::of(found)),
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

/// Whether this name in `storage/` is the store's own.
pub(crate) fn is_own_file(name: &OsStr) -> bool {
    name == MARKER || name == NEW_MARKER
}
