//! The owners and modes of everything that the store makes.
//!
//! A directory or a WAL that root makes in the store of a service would lock the service out. So
//! root gives what it makes to the owner of the store, as SQLite does with its WAL. The umask may
//! restrict other users, but not the owner's own permissions.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::layout::{EngineFiles, PRIVATE, PRIVATE_FILE, open_data_dir};
use super::stat::stat;

/// The owner to whom root gives what it makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ownership(Option<(Uid, Gid)>);

impl Ownership {
    /// Returns the ownership of new files in the store in this data directory.
    pub(crate) fn for_store(data_dir: &Path, files: EngineFiles) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::default());
        }
        Self::for_store_at(open_data_dir(data_dir)?, files)
    }

    /// Returns the same from a descriptor of the data directory.
    pub(super) fn for_store_at(data: impl AsFd, files: EngineFiles) -> io::Result<Self> {
        Ok(if geteuid().is_root() {
            Self::from_stat(&owner(data, files)?)
        } else {
            Self::default()
        })
    }

    /// Returns the owner and the group, if root has to give files away.
    pub(super) fn ids(self) -> Option<(u32, u32)> {
        self.0.map(|(user, group)| (user.as_raw(), group.as_raw()))
    }

    fn from_stat(found: &Stat) -> Self {
        Self(
            (found.st_uid != 0).then(|| (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid))),
        )
    }

    /// Gives a new file of root's to the owner, unless that was done. After a crash the next
    /// attempt does it.
    pub(crate) fn give(self, made: impl AsFd) -> io::Result<()> {
        match self.0 {
            Some((user, group)) if fs::fstat(&made)?.st_uid == 0 => {
                Ok(fs::chownat(made, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
            }
            _ => Ok(()),
        }
    }

    /// Gives a new file to the owner, with all permissions of this mode, whatever the umask is.
    pub(crate) fn give_file(self, file: &File, mode: Mode) -> io::Result<()> {
        if !Mode::from_raw_mode(fs::fstat(file)?.st_mode).contains(mode) {
            fs::fchmod(file, mode)?;
        }
        self.give(file)
    }

    /// Makes a private file that doesn't exist.
    pub(crate) fn make_file(self, path: &Path) -> io::Result<File> {
        let file =
            OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE.bits()).open(path)?;
        if let Err(error) = self.give_file(&file, PRIVATE_FILE) {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(file)
    }

    /// Gives a file the mode [`PRIVATE_FILE`], even if it can't be opened without.
    pub(crate) fn make_usable(self, path: &Path) -> io::Result<()> {
        let file =
            fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        change_mode(&file, PRIVATE_FILE)?;
        self.give(file)
    }

    /// Makes a private directory that doesn't exist.
    pub(crate) fn make_private_dir(self, path: &Path) -> io::Result<()> {
        let (above, name) = open_above(path)?;
        self.make_private_dir_in(&above, name)
    }

    /// Makes a private directory that doesn't exist. It belongs to the owner of the directory
    /// above.
    pub(crate) fn make_dir_like_parent(path: &Path) -> io::Result<()> {
        let (above, name) = open_above(path)?;
        let owner = if geteuid().is_root() {
            Self::from_stat(&fs::fstat(&above)?)
        } else {
            Self::default()
        };
        owner.make_private_dir_in(&above, name)
    }

    /// Works from a descriptor of the directory above. A user who can change the path to it could
    /// otherwise replace it once the new directory is made, and be given another directory of
    /// root's.
    fn make_private_dir_in(self, above: &OwnedFd, name: &OsStr) -> io::Result<()> {
        fs::mkdirat(above, name, PRIVATE)?;
        let made = self.give_private_dir_in(above, name);
        if made.is_err() {
            let _ = fs::unlinkat(above, name, AtFlags::REMOVEDIR);
        }
        made
    }

    /// Gives a new directory to the owner, with the mode 0700, whatever the umask is.
    pub(crate) fn give_private_dir(self, path: &Path) -> io::Result<()> {
        let (above, name) = open_above(path)?;
        self.give_private_dir_in(&above, name)
    }

    fn give_private_dir_in(self, above: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::openat(above, name, flags, Mode::empty())?;
        if !Mode::from_raw_mode(fs::fstat(&dir)?.st_mode).contains(PRIVATE) {
            change_mode(&dir, PRIVATE)?;
        }
        self.give(dir)
    }
}

/// Opens the directory above a path, following links, and returns it with the last segment.
fn open_above(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    // The directory at a path that ends in `..` exists.
    let name = path.file_name().ok_or(Errno::EXIST)?;
    let above =
        path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((fs::open(above, flags, Mode::empty())?, name))
}

/// Returns the metadata that decides who owns a store: that of the database or, if that is root's
/// or missing, of the data directory. In a container's volume, the directory may be root's and its
/// content the service's.
pub(super) fn owner(data: impl AsFd, files: EngineFiles) -> io::Result<Stat> {
    match stat(&data, files.database)? {
        Some(database) if database.st_uid != 0 => Ok(database),
        _ => Ok(fs::fstat(data)?),
    }
}

/// Returns the owner and the group of the store in this data directory.
pub(crate) fn owner_of_store(data_dir: &Path, files: EngineFiles) -> io::Result<(u32, u32)> {
    let stat = owner(open_data_dir(data_dir)?, files)?;
    Ok((stat.st_uid, stat.st_gid))
}

/// Changes the mode of a file that may not be open for anything.
pub(super) fn change_mode(named: impl AsFd, mode: Mode) -> io::Result<()> {
    // Before Linux 6.6, the mode behind an `O_PATH` descriptor can be changed only through /proc.
    let path = format!("/proc/self/fd/{}", named.as_fd().as_raw_fd());
    Ok(fs::chmodat(CWD, path, mode, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::RenameFlags;

    use super::*;

    /// Few enough for every run. The window is narrow: a version that works with paths may pass.
    const ROUNDS: usize = 2_000;
    const NOBODY: u32 = 65_534;

    #[test]
    fn what_is_anothers_than_roots_stays_whose_it_is() {
        if !geteuid().is_root() {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: only root can give away a directory\n",
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let owner = Ownership(Some((Uid::from_raw(1_000), Gid::from_raw(1_000))));
        for (before, after) in [(0, 1_000), (NOBODY, NOBODY)] {
            std::os::unix::fs::chown(dir.path(), Some(before), Some(before)).unwrap();
            owner.give(File::open(dir.path()).unwrap()).unwrap();
            assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), after);
        }
    }

    /// Root has made `above/made`, and before it is given away, `above` leads to where root's own
    /// `made` is.
    #[test]
    fn a_directory_of_roots_is_not_given_away_in_a_race_with_who_controls_the_one_above() {
        if !geteuid().is_root() {
            // Past the test harness, which keeps what a test that succeeds prints.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: only root can give away a directory\n",
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let (theirs, roots) = (at("theirs/made"), at("roots/made"));
        std::fs::create_dir_all(&roots).unwrap();
        std::fs::create_dir_all(at("theirs")).unwrap();
        std::os::unix::fs::chown(at("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
        symlink("roots", at("link")).unwrap();
        let their_dir = File::open(at("theirs")).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    fs::renameat_with(CWD, at("theirs"), CWD, at("link"), RenameFlags::EXCHANGE)
                        .unwrap();
                }
            });
            let theirs_is_given = (0..ROUNDS).filter(|_| {
                let owner = Ownership(Some((Uid::from_raw(NOBODY), Gid::from_raw(NOBODY))));
                // Something exists there already, or the one above is a link at the wrong moment.
                let _ = owner.make_private_dir(&theirs);
                let _ = Ownership::make_dir_like_parent(&theirs);
                // By the descriptor: a path may lead to what is root's by now.
                let made = fs::statat(&their_dir, "made", AtFlags::SYMLINK_NOFOLLOW);
                let _ = fs::unlinkat(&their_dir, "made", AtFlags::REMOVEDIR);
                made.is_ok_and(|made| made.st_uid == NOBODY)
            });
            let count = theirs_is_given.count();
            is_over.store(true, Ordering::Relaxed);
            assert!(count > 0, "nothing was ever made");
        });
        assert_eq!(std::fs::metadata(&roots).unwrap().uid(), 0);
    }
}
