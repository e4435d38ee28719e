//! Reading the state of directories for a [check](crate::check), without changing them.

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

/// An entry of a directory.
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

/// The mode and the owner of a directory.
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

/// The state of a user's directory.
pub(crate) enum DirectoryState {
    Directory(Rights),
    Missing,
    /// A symbolic link, or something else that isn't a directory, at this segment of the path.
    Blocked {
        segments: usize,
        is_link: bool,
    },
}

impl Storage {
    /// Returns the state of the directory at a storage path.
    pub(crate) fn inspect(&self, path: &StoragePath) -> io::Result<DirectoryState> {
        match open_dir(&self.storage, path.as_str(), Mounts::Enter) {
            Ok(dir) => return Ok(DirectoryState::Directory(Rights::of(&fs::fstat(&dir)?))),
            Err(error) => match errno(&error) {
                Some(Errno::NOENT) => return Ok(DirectoryState::Missing),
                // The segment is found below.
                Some(Errno::ACCESS | Errno::LOOP | Errno::NOTDIR) => {}
                _ => return Err(error),
            },
        }
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
                // It exists, but not even its owner may enter it.
                Err(error) if errno(&error) == Some(Errno::ACCESS) => {
                    return Ok(DirectoryState::Directory(Rights::of(&found)));
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("a directory changes while it is inspected"))
    }

    /// Returns the entries of a directory below `storage/`, by name; none if it was removed
    /// during the call.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        match self.above(path) {
            Ok(dir) => list(&dir),
            // It was removed, or can't be read, which the check of its mode reports.
            Err(error)
                if matches!(
                    errno(&error),
                    Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ACCESS)
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the number of directories in an orphan, or 1 if there are none.
    pub(crate) fn weight(&self, path: &Path) -> u64 {
        let dirs = open_dir(&self.data, path, Mounts::Refuse).and_then(|dir| list(&dir));
        let is_dir = |entry: &&Entry| matches!(entry.kind, EntryKind::Directory(_));
        dirs.map_or(1, |entries| entries.iter().filter(is_dir).count().max(1) as u64)
    }

    /// Returns the entries of `trash/`.
    pub(crate) fn list_trash(&self) -> io::Result<Vec<Entry>> {
        list(&self.trash)
    }

    /// Returns whether an entry of the data directory is a directory; `None` if it doesn't exist.
    pub(crate) fn is_dir_at(&self, path: &Path) -> Result<Option<bool>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        match open_dir(&self.data, parent, Mounts::Enter) {
            Err(error)
                if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) =>
            {
                Ok(None)
            }
            parent => {
                let found = parent.and_then(|parent| stat(&parent, name)).map_err(refused)?;
                Ok(found.map(|found| is_dir(&found)))
            }
        }
    }

    /// Returns whether the directory of a user in the trash exists.
    pub(crate) fn is_in_trash(&self, id: UserId) -> io::Result<bool> {
        Ok(stat(&self.trash, &*id.to_string())?.is_some())
    }

    /// Returns `storage/`, `trash/` and `quarantine/`, as far as they exist.
    pub(crate) fn roots(&self) -> io::Result<Vec<Entry>> {
        let mut roots = Vec::new();
        for name in [STORAGE, TRASH, QUARANTINE] {
            if let Some(found) = stat(&self.data, name)? {
                roots.push(Entry { name: name.into(), kind: kind(&found) });
            }
        }
        Ok(roots)
    }

    /// Returns which of `storage/` and `trash/` have another file system mounted on them.
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

    /// Returns the owner of the store, and so of everything in it.
    pub(crate) fn owner(&self) -> io::Result<u32> {
        Ok(ownership::owner(&self.data, self.files)?.st_uid)
    }

    /// Returns the files of the store that have another owner, with that owner.
    pub(crate) fn files_of_others(&self) -> io::Result<Vec<(&'static str, u32)>> {
        let owner = self.owner()?;
        let mut files = Vec::new();
        for &name in self.files.shared {
            if let Some(found) = stat(&self.data, name)?.filter(|found| found.st_uid != owner) {
                files.push((name, found.st_uid));
            }
        }
        Ok(files)
    }

    /// Gives one of the store's own files or directories to the owner of the store, without
    /// following links. The content of a user's directory stays as it is: the application may have
    /// reasons.
    pub(crate) fn give_to_owner(&self, path: &Path) -> Result<()> {
        let give = || -> io::Result<()> {
            let owner = ownership::owner(&self.data, self.files)?;
            let (user, group) =
                (Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)));
            if self.files.shared.iter().any(|name| Path::new(name) == path) {
                // Opened with `O_PATH`, since closing another descriptor would release SQLite's
                // locks.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(&self.data, path, flags, Mode::empty())?;
                let found = fs::fstat(&file)?;
                if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
                    || found.st_nlink > 1
                {
                    // Another user who may write in the data directory could have made a hard link
                    // to a foreign file.
                    return Err(io::Error::other(blocked(
                        "the file isn't a regular one, or has another name (a hard link)",
                    )));
                }
                return Ok(fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH)?);
            }
            let dir = beneath::open_path(&self.data, path)?;
            Ok(fs::chownat(dir, "", user, group, AtFlags::EMPTY_PATH)?)
        };
        give().map_err(|error| match errno(&error) {
            Some(Errno::PERM) => {
                Error::new(ErrorKind::PermissionDenied, "only root can change the owner")
                    .with_source(error)
            }
            _ => refused(error),
        })
    }

    /// Gives a directory of the data directory the mode 0700, without following links.
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

/// The name that a path of the store has for an entry, where the file system lists another one:
/// HFS+ stores names decomposed. Where normalization counts, that name is of another entry or of
/// none.
fn composed(
    dir: &OwnedFd,
    name: &CStr,
    names: &[(CString, FileType)],
) -> io::Result<Option<Vec<u8>>> {
    let Some(composed) = name.to_str().ok().and_then(StoragePath::normalized) else {
        return Ok(None);
    };
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

/// Returns whether an entry of `storage/` is a file of the store itself.
pub(crate) fn is_own_file(name: &OsStr) -> bool {
    name == MARKER || name == NEW_MARKER
}
