//! Trying what a store needs of a file system before one is made: otherwise the first delete would
//! find that a directory can't be moved.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, RenameFlags};
use rustix::io::Errno;

use super::Storage;
use super::beneath::{self, Mounts, make_dir, open_dir, sync};
use super::errors::{errno, file_error, refused};
use super::layout::{EngineFiles, open_data_dir};
use super::ownership::Ownership;
use super::stage::{self, Stage};
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = ".tenantry-probe-";
const POINT: &str = "create: try the file system";

/// The ways in which directories of a data directory are opened and moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccessMethods {
    pub(crate) open_method: &'static str,
    pub(crate) move_method: &'static str,
}

impl AccessMethods {
    /// Tries everything that a store needs, in a data directory without one, while no other process
    /// makes one.
    ///
    /// # Errors
    ///
    /// `Incompatible` if the file system lacks something, with a description.
    pub(crate) fn probe(data_dir: &Path, files: EngineFiles) -> Result<Self> {
        let lacking = |what: &'static str| move |error: io::Error| lacking(what, error);
        let data = open_data_dir(data_dir).map_err(lacking("directories can't be opened"))?;
        let owner =
            Ownership::for_store_at(&data, files).map_err(lacking("directories have no owner"))?;
        let place =
            place(&data, owner).map_err(lacking("directories can't be made, opened and locked"))?;
        let top = open_dir(&data, place.name(), Mounts::Refuse)
            .map_err(lacking("directories can't be opened"))?;
        let move_method = try_move(&top, owner)
            .map_err(lacking("directories can't be moved without replacing others"))?;
        sync(&top, POINT).map_err(lacking("directories can't be synchronised with the disk"))?;
        Ok(Self { open_method: beneath::open_method(&data), move_method })
    }
}

impl Storage {
    /// Finds out how directories are opened and moved here, by moving one of its own.
    pub(crate) fn ways(&self) -> Result<AccessMethods> {
        self.check_roots()?;
        let place = place(&self.data, self.owner).map_err(refused)?;
        let top = open_dir(&self.data, place.name(), Mounts::Refuse).map_err(refused)?;
        let move_method = try_move(&top, self.owner).map_err(refused)?;
        Ok(AccessMethods { open_method: self.open_method(), move_method })
    }

    /// Returns how directories are opened here.
    pub(crate) fn open_method(&self) -> &'static str {
        beneath::open_method(&self.data)
    }
}

/// Makes a directory for the probe, which is removed when it is dropped, and removes leftovers of
/// crashes.
fn place(data: &OwnedFd, owner: Ownership) -> io::Result<Stage> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    stage::clear(data, &|name| name.starts_with(PREFIX), &|_, _| Ok(true))?;
    let new_name =
        || format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    Stage::make(data, owner, new_name, POINT)?.ok_or_else(|| {
        io::Error::other("another process keeps removing the directory of the probe")
    })
}

/// Moves an empty directory as users' directories are moved. Everything is empty, so that it can be
/// removed even if nothing can be moved.
fn try_move(top: &OwnedFd, owner: Ownership) -> io::Result<&'static str> {
    let [from, to] = ["from", "to"].map(|name| make_dir(top, name, owner, POINT));
    let (from, to) = (from?, to?);
    make_dir(&from, "moved", owner, POINT)?;
    crate::failpoint::reach(POINT);
    match fs::renameat_with(&from, "moved", &to, "moved", RenameFlags::NOREPLACE) {
        Ok(()) => Ok("renameat2"),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            beneath::rename(&from, "moved", &to, "moved", POINT)?;
            Ok("placeholder")
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the failure of a probe: a lack of the file system, or another one.
fn lacking(what: &'static str, error: io::Error) -> Error {
    match errno(&error) {
        Some(Errno::NOSPC | Errno::DQUOT) => refused(error),
        Some(
            Errno::ROFS
            | Errno::ACCESS
            | Errno::IO
            | Errno::NOENT
            | Errno::NOMEM
            | Errno::MFILE
            | Errno::NFILE,
        ) => file_error(error, "the data directory can't be used"),
        _ => Error::new(ErrorKind::Incompatible, what).with_source(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing_and_removes_what_crashes_have_left_of_others() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(format!("{PREFIX}1-0/to/moved"))).unwrap();
        std::fs::create_dir_all(dir.path().join("another's")).unwrap();
        let files = EngineFiles { database: "database", lock: "lock", shared: &[] };
        let ways = AccessMethods::probe(dir.path(), files).unwrap();
        assert_eq!(ways.move_method, "renameat2");
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["another's"]);
    }
}
