//! Whose the files and directories are that the store makes, and what their owner may do with them.
//!
//! What root makes in the store of a service would lock the service out: a directory that only root may enter, a log
//! that only root may write. So root gives what it makes to the owner of the store, as SQLite does with its log. And
//! the umask takes away what a caller's other files shouldn't have; the owner's own rights it leaves here.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid};
use rustix::process::geteuid;

use super::beneath::PRIVATE;
use super::open_data_dir;

/// Who has made a file may read and write it, and nobody else.
pub(crate) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// To whom root gives what it makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ownership(Option<(Uid, Gid)>);

impl Ownership {
    /// Returns the ownership of what is made in the store in this data directory.
    pub(crate) fn of_store(data_dir: &Path) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::default());
        }
        Self::of_store_in(open_data_dir(data_dir)?)
    }

    /// Returns the same from a descriptor of the data directory.
    pub(super) fn of_store_in(data: impl AsFd) -> io::Result<Self> {
        Ok(if geteuid().is_root() { Self::of(&owner(data)?) } else { Self::default() })
    }

    /// Returns the ownership of what is made at this path: that of the next directory that exists, itself or above.
    pub(crate) fn of_place(path: &Path) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::default());
        }
        let exists = |path: &&Path| path.as_os_str().is_empty() || path.exists();
        let place = path.ancestors().find(exists).filter(|path| !path.as_os_str().is_empty());
        Ok(Self::of(&fs::stat(place.unwrap_or(Path::new(".")))?))
    }

    /// Returns the numbers of the owner and the group, if something is given away.
    pub(super) fn ids(self) -> Option<(u32, u32)> {
        self.0.map(|(user, group)| (user.as_raw(), group.as_raw()))
    }

    fn of(found: &Stat) -> Self {
        Self((found.st_uid != 0).then(|| (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid))))
    }

    /// Gives what root has made to the owner, unless that was done. A crash before it leaves it to the next attempt.
    pub(crate) fn give(self, made: impl AsFd) -> io::Result<()> {
        match self.0 {
            Some((user, group)) if fs::fstat(&made)?.st_uid == 0 => {
                Ok(fs::chownat(made, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
            }
            _ => Ok(()),
        }
    }

    /// Gives a new file the rights of this mode that the umask has taken away, and gives it to the owner.
    pub(crate) fn give_file(self, file: &File, mode: Mode) -> io::Result<()> {
        if !Mode::from_raw_mode(fs::fstat(file)?.st_mode).contains(mode) {
            fs::fchmod(file, mode)?;
        }
        self.give(file)
    }

    /// Makes a file that isn't there yet, for its owner alone.
    pub(crate) fn make_file(self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE.bits()).open(path)?;
        if let Err(error) = self.give_file(&file, PRIVATE_FILE) {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(file)
    }

    /// Gives the owner of a file the rights of [`PRIVATE_FILE`], even if it can't be opened for want of them.
    pub(crate) fn make_usable(self, path: &Path) -> io::Result<()> {
        let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        change_mode(&file, PRIVATE_FILE)?;
        self.give(file)
    }

    /// Makes a directory that isn't there yet, for its owner alone.
    pub(crate) fn make_private_dir(self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(PRIVATE.bits()).create(path)?;
        let made = self.give_private_dir(path);
        if made.is_err() {
            let _ = std::fs::remove_dir(path);
        }
        made
    }

    /// Gives a new directory the owner's rights that the umask has taken away, and gives it to the owner.
    pub(crate) fn give_private_dir(self, path: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty())?;
        if !Mode::from_raw_mode(fs::fstat(&dir)?.st_mode).contains(PRIVATE) {
            change_mode(&dir, PRIVATE)?;
        }
        self.give(dir)
    }
}

/// Returns the metadata of what says whose a store is: the database or, if that is root's or missing, the data
/// directory. In a container's volume the directory may be root's, and what is in it the service's.
pub(super) fn owner(data: impl AsFd) -> io::Result<Stat> {
    match super::stat(&data, "tenantry.db")? {
        Some(database) if database.st_uid != 0 => Ok(database),
        _ => Ok(fs::fstat(data)?),
    }
}

/// Returns the owner and the group of the store in this data directory.
pub(crate) fn owner_of_store(data_dir: &Path) -> io::Result<(u32, u32)> {
    let stat = owner(open_data_dir(data_dir)?)?;
    Ok((stat.st_uid, stat.st_gid))
}

/// Changes the mode of what a descriptor names, even if that couldn't be opened for anything.
pub(super) fn change_mode(named: impl AsFd, mode: Mode) -> io::Result<()> {
    // The detour through /proc is how the mode behind an O_PATH descriptor is changed before Linux 6.6.
    let path = format!("/proc/self/fd/{}", named.as_fd().as_raw_fd());
    Ok(fs::chmodat(CWD, path, mode, AtFlags::empty())?)
}
