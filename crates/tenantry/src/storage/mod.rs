//! The users' directories. All system calls on them are here.
//!
//! ```text
//! DATA-DIR/
//!   storage/           the users' directories, each at the user's storage path
//!     .tenantry-store  the marker: the id of the store that `storage/` belongs to
//!   trash/ID           the directories of users in the trash
//!   quarantine/NAME    orphans that a repair or an adoption has moved: note.json and content
//!   .tenantry-import-NAME  a stage: the files of a user whose import is under way
//! ```
//!
//! A [`Storage`] holds descriptors of these as long as the store is open, and looks up every name
//! from one of them ([`beneath`]). Directories are moved within the data directory only, which is
//! one file system, though not every file system renames a directory everywhere in it
//! ([`rename_or_copy`]).
//!
//! Each change is idempotent: it does whatever is still to be done, and syncs in any case. So it
//! can be repeated after a crash. The engine decides when, and has recorded an intent before.

mod attributes;
mod beneath;
mod copy;
mod errors;
mod holes;
mod inspect;
mod layout;
mod locks;
mod marker;
mod merge;
mod ownership;
mod probe;
mod remove;
mod rename_or_copy;
mod stage;
mod stat;
mod target;
mod transfer;
mod unpack;
mod user_directory;
mod walk;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs;
use rustix::io::Errno;
use uuid::Uuid;

use crate::{Error, ErrorKind, Result, StoragePath, Timestamp, Usage, UserId};
pub(crate) use attributes::{Attributes, Extended, Modified};
use beneath::{Mounts, make_dir, open_dir, sync};
pub(crate) use beneath::{open_dir_within, open_file_within, wait_for_file};
pub(crate) use errors::file_error;
use errors::{errno, refused, unavailable};
pub(crate) use holes::{SEGMENTS_MAX, Segment};
pub(crate) use inspect::{DirectoryState, EntryKind, is_own_file};
pub(crate) use layout::{EngineFiles, PRIVATE_FILE};
use layout::{STORAGE, TRASH, open_data_dir};
pub(crate) use marker::{Marker, blocked_root, refuse_other_than_directories};
pub(crate) use merge::{PathEntry, UserDirectory};
pub(crate) use ownership::{Ownership, owner_of_store};
pub(crate) use probe::AccessMethods;
pub(crate) use remove::{Removal, never_ends};
pub(crate) use rename_or_copy::user_of_copy;
pub(crate) use stage::{Purpose, Stage, is_stage};
use stat::stat;
pub(crate) use target::Target;
pub(crate) use transfer::{FileIdentity, Item, OpenFile, Source, TrashLock};
pub(crate) use unpack::{LostAttributes, Unpacker};
use walk::measure;

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Storage {
    /// As the application named it.
    data_dir: PathBuf,
    data: OwnedFd,
    storage: OwnedFd,
    trash: OwnedFd,
    /// The owner of everything that is made.
    owner: Ownership,
    /// The names of the engine's files beside them.
    files: EngineFiles,
}

/// An entry of `storage/` or `trash/` that no row refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// A path below `storage/`.
    InStorage(PathBuf),
    /// A name in `trash/`.
    InTrash(OsString),
}

/// Opens `storage/` or `trash/`.
///
/// # Errors
///
/// `StorageUnavailable`, with what is there instead.
fn open_part(data: &OwnedFd, name: &'static str, files: EngineFiles) -> Result<OwnedFd> {
    open_dir(data, name, Mounts::Refuse).map_err(|error| {
        let message = match errno(&error) {
            Some(Errno::ACCESS) => {
                let owner = files.database;
                let message = format!(
                    "no permission to use storage/ or trash/: run it as the owner of {owner}"
                );
                return unavailable(message).with_source(error);
            }
            Some(Errno::XDEV) => {
                "a file system is mounted on storage/ or trash/: mount one for the whole data \
                 directory"
            }
            Some(Errno::LOOP) if name == STORAGE => {
                "storage is a symbolic link: put the directory itself there"
            }
            Some(Errno::LOOP) => "trash is a symbolic link: put the directory itself there",
            Some(Errno::NOTDIR) if name == STORAGE => "storage isn't a directory",
            Some(Errno::NOTDIR) => "trash isn't a directory",
            _ => "storage/ or trash/ can't be opened",
        };
        unavailable(message).with_source(error)
    })
}

impl Storage {
    /// Opens the directories of the store with this id, and makes missing ones. The first opening
    /// (`is_marked` isn't set yet) writes the marker into `storage/`; every later one requires it.
    ///
    /// # Errors
    ///
    /// `Incompatible` if the marker holds the id of another store; `StorageUnavailable` if
    /// `storage/` or the marker is missing.
    pub(crate) fn open(
        data_dir: &Path,
        files: EngineFiles,
        store_id: Uuid,
        is_marked: bool,
    ) -> Result<Self> {
        let failed = |error| match errno(&error) {
            // A full disk matters only until the directories exist.
            Some(Errno::NOSPC | Errno::DQUOT) => refused(error),
            _ => unavailable("the storage directory can't be used").with_source(error),
        };
        let data = open_data_dir(data_dir).map_err(failed)?;
        let owner = Ownership::for_store_at(&data, files).map_err(failed)?;
        for name in [STORAGE, TRASH] {
            match stat(&data, name).map_err(failed)? {
                Some(_) => {}
                None if is_marked => return Err(unavailable("storage/ or trash/ is missing")),
                None => {
                    make_dir(&data, name, owner, "open: make a directory of the store")
                        .map_err(failed)?;
                    sync(&data, "open: sync the data directory").map_err(failed)?;
                }
            }
        }
        let storage = Self {
            data_dir: data_dir.to_owned(),
            storage: open_part(&data, STORAGE, files)?,
            trash: open_part(&data, TRASH, files)?,
            owner,
            data,
            files,
        };
        match storage.marker().map_err(failed)? {
            Marker::Id(id) if id == store_id => {}
            Marker::Missing if !is_marked => {
                Marker::write(&storage.storage, store_id, owner).map_err(failed)?
            }
            Marker::Missing => return Err(unavailable("storage/ has no marker of a store")),
            Marker::Id(_) => {
                return Err(Error::new(
                    ErrorKind::Incompatible,
                    "the database and storage/ belong to different stores: bring back the one that fits; nothing was changed",
                ));
            }
            Marker::Damaged => {
                return Err(unavailable("the marker of the store in storage/ is damaged"));
            }
        }
        Ok(storage)
    }

    /// Opens the directories without making any. Returns `None` if they don't exist, or aren't
    /// directories.
    pub(crate) fn open_existing(data_dir: &Path, files: EngineFiles) -> io::Result<Option<Self>> {
        let data = open_data_dir(data_dir)?;
        let open = |name| match open_dir(&data, name, Mounts::Enter) {
            Ok(dir) => Ok(Some(dir)),
            Err(error)
                if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        let (Some(storage), Some(trash)) = (open(STORAGE)?, open(TRASH)?) else { return Ok(None) };
        let owner = Ownership::for_store_at(&data, files)?;
        Ok(Some(Self { data_dir: data_dir.to_owned(), storage, trash, owner, data, files }))
    }

    /// Reads the marker in `storage/`.
    pub(crate) fn marker(&self) -> io::Result<Marker> {
        Marker::read(&self.storage)
    }

    /// Returns whether the file system ignores case.
    pub(crate) fn ignores_case(&self) -> bool {
        marker::ignores_case(&self.storage)
    }

    /// Returns the path of a user's directory, for callers that can't use a handle.
    pub(crate) fn path(&self, path: &StoragePath) -> PathBuf {
        self.data_dir.join(Self::relative(path))
    }

    /// Returns a storage path relative to the data directory.
    pub(crate) fn relative(path: &StoragePath) -> PathBuf {
        Self::relative_text(path.as_str())
    }

    pub(crate) fn relative_text(path: &str) -> PathBuf {
        Path::new(STORAGE).join(path)
    }

    /// Returns the path of a user's directory in the trash, relative to the data directory.
    pub(crate) fn relative_trash(id: UserId) -> PathBuf {
        Path::new(TRASH).join(id.to_string())
    }

    /// Returns the path of an orphan, relative to the data directory.
    pub(crate) fn relative_orphan(orphan: &Orphan) -> PathBuf {
        match orphan {
            Orphan::InStorage(path) => Path::new(STORAGE).join(path),
            Orphan::InTrash(name) => Path::new(TRASH).join(name),
        }
    }

    /// Returns the orphan at a path relative to the data directory, if it is in `storage/` or
    /// `trash/`.
    pub(crate) fn orphan(path: &Path) -> Option<Orphan> {
        if let Ok(path) = path.strip_prefix(STORAGE) {
            return Some(Orphan::InStorage(path.to_owned()));
        }
        path.strip_prefix(TRASH).ok().map(|path| Orphan::InTrash(path.as_os_str().to_owned()))
    }

    /// Fails if the directories were removed or replaced while the store was open.
    fn check_roots(&self) -> Result<()> {
        for root in [&self.storage, &self.trash] {
            if fs::fstat(root).map_err(|error| refused(error.into()))?.st_nlink == 0 {
                return Err(unavailable(
                    "storage/ or trash/ was removed while the store was open: open it again",
                ));
            }
        }
        Ok(())
    }

    /// Adds up the files in a user's directory.
    pub(crate) fn measure(
        dir: OwnedFd,
        measured_at: Timestamp,
        progress: &dyn Fn(&Usage) -> io::Result<()>,
    ) -> Result<Usage> {
        measure(dir, measured_at, progress).map_err(refused)
    }

    fn above(&self, path: &str) -> io::Result<OwnedFd> {
        open_dir(&self.storage, if path.is_empty() { "." } else { path }, Mounts::Enter)
    }

    fn sync_both(
        &self,
        new: &OwnedFd,
        old: Option<&OwnedFd>,
        point: &'static str,
    ) -> io::Result<()> {
        sync(new, point)?;
        old.map_or(Ok(()), |old| sync(old, point))
    }
}
