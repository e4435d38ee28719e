//! The marker, a file in `storage/` that holds the id of the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::beneath::{Mounts, open_dir, rename, sync, write_file};
use super::errors::errno;
use super::layout::{
    MARKER, MARKER_IN_CAPITALS, NEW_MARKER, QUARANTINE, STORAGE, TRASH, open_data_dir,
};
use super::ownership::Ownership;
use super::stat::stat;
use crate::{Error, ErrorKind, Result};

/// The content of the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Missing,
    Id(Uuid),
    /// It exists and holds no id.
    Damaged,
}

impl Marker {
    /// Reads the marker of a data directory whose store may not exist.
    pub(crate) fn in_data_dir(data_dir: &Path) -> io::Result<Self> {
        match open_dir(open_data_dir(data_dir)?, STORAGE, Mounts::Enter) {
            Ok(storage) => Self::read(&storage),
            Err(error)
                if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) =>
            {
                Ok(Self::Missing)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the marker in `storage/`.
    pub(super) fn read(storage: &OwnedFd) -> io::Result<Self> {
        let file = match fs::openat(
            storage,
            MARKER,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Self::Missing),
            Err(Errno::LOOP) => return Ok(Self::Damaged),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        let read = file.take(64).read_to_string(&mut text);
        Ok(match (read, text.trim_end().parse()) {
            (Ok(_), Ok(id)) => Self::Id(id),
            _ => Self::Damaged,
        })
    }

    /// Writes the marker. The caller has locked out other processes.
    pub(super) fn write(storage: &OwnedFd, store_id: Uuid, owner: Ownership) -> io::Result<()> {
        write_file(
            storage,
            NEW_MARKER,
            format!("{store_id}\n").as_bytes(),
            owner,
            "open: write the marker",
        )?;
        rename(storage, NEW_MARKER, storage, MARKER, "open: name the marker")?;
        sync(storage, "open: sync the marker")
    }
}

/// Returns whether the file system ignores case. One that only ignores normalization does no harm,
/// since paths are normalized.
pub(super) fn ignores_case(storage: &OwnedFd) -> bool {
    // `storage/` may be on another kind of file system than the data directory.
    matches!(stat(storage, MARKER_IN_CAPITALS), Ok(Some(_)))
}

/// Fails if one of the store's directories is something else, before a store is made beside it. A
/// link may lead to a volume that isn't mounted, or to foreign files.
pub(crate) fn refuse_other_than_directories(data_dir: &Path) -> Result<()> {
    match other_than_directory(data_dir, &[STORAGE, TRASH, QUARANTINE]) {
        None => Ok(()),
        Some((_, what)) => {
            Err(Error::new(ErrorKind::Incompatible, format!("{what}; nothing was changed")))
        }
    }
}

/// Returns which of `storage/` and `trash/` exists and isn't a directory, with a description.
pub(crate) fn blocked_root(data_dir: &Path) -> Option<(&'static str, String)> {
    other_than_directory(data_dir, &[STORAGE, TRASH])
}

fn other_than_directory(data_dir: &Path, names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let what = match std::fs::symlink_metadata(data_dir.join(name)) {
            Ok(found) if found.is_symlink() => "is a symbolic link",
            Ok(found) if !found.is_dir() => "isn't a directory",
            // The caller that opens it reports any other failure.
            _ => return None,
        };
        Some((*name, format!("{name} {what}: put the directory itself there, or remove it")))
    })
}
