//! The files of users on their way into a backup and out of it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::beneath::{Mounts, errno, is_dir, make_dir, open_dir, shown};
use super::tree::{Visit, walk};
use super::{Ownership, PRIVATE_FILE, Storage, file_error, refused};
use crate::content::{Content, Hashed};
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

/// Files up to this size are read into memory before they go into a backup, larger ones into a temporary file.
const IN_MEMORY_OCTETS_MAX: usize = 8 << 20;
/// How long to sleep between two looks at a lock.
const LOCK_POLL: Duration = Duration::from_millis(1);
/// How often a file is read again that changes while it is read.
const ATTEMPTS_MAX: usize = 3;

/// Something below a user's directory that goes into a backup.
pub(crate) enum Item<'i> {
    /// The user's directory itself, or one in it.
    Directory { path: PathBuf, mode: u32 },
    /// A file as it was at one moment.
    File { path: PathBuf, mode: u32, modified_at: u64, content: Content, octets: &'i mut dyn Read },
    /// Something that can't be in a backup, and why.
    LeftOut { path: PathBuf, why: String, ought_to_be_in: bool },
}

/// Keeps purges or backups away, in every process, for as long as it lives.
#[derive(Debug)]
pub(crate) struct KeptAway {
    _trash: OwnedFd,
}

impl Storage {
    /// Keeps purges away. `Busy` if one is under way for too long, or another backup.
    pub(crate) fn keep_purges_away(&self, patience: Duration) -> Result<KeptAway> {
        let busy =
            || Error::new(ErrorKind::Busy, "a purge, or another backup or export, is under way: try again later");
        self.lock_trash(FlockOperation::NonBlockingLockExclusive, patience)?.ok_or_else(busy)
    }

    /// Keeps backups away, but not other purges. `Busy` if a backup is under way for too long.
    pub(crate) fn keep_backups_away(&self, patience: Duration) -> Result<KeptAway> {
        let busy = || Error::new(ErrorKind::Busy, "a backup or the export of a user is under way: try again later");
        self.lock_trash(FlockOperation::NonBlockingLockShared, patience)?.ok_or_else(busy)
    }

    /// If nobody is purging just now, nor making a backup: for as long as the answer lives, nobody does.
    pub(crate) fn with_no_purge(&self, patience: Duration) -> Option<KeptAway> {
        self.lock_trash(FlockOperation::NonBlockingLockExclusive, patience).ok().flatten()
    }

    /// `None` if somebody else has the lock.
    fn lock_trash(&self, how: FlockOperation, patience: Duration) -> Result<Option<KeptAway>> {
        // A descriptor of its own: the lock is the descriptor's.
        let trash = open_dir(&self.trash, ".", Mounts::Refuse).map_err(refused)?;
        let deadline = Instant::now() + patience;
        loop {
            match fs::flock(&trash, how) {
                Ok(()) => return Ok(Some(KeptAway { _trash: trash })),
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                // A check looks for a moment whether anybody has it.
                Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_POLL),
                Err(error) => return Err(refused(error.into())),
            }
        }
    }

    /// Reads a user's directory, which is at one of two places and may be moved from one to the other meanwhile. Says
    /// whether it was found.
    pub(crate) fn read_user(
        &self,
        id: UserId,
        path: &StoragePath,
        goes_to: &Path,
        mut take: impl FnMut(Item<'_>) -> Result<()>,
    ) -> Result<bool> {
        let in_trash = id.to_string();
        let places: [(&OwnedFd, &str); 3] =
            [(&self.storage, path.as_str()), (&self.trash, &in_trash), (&self.storage, path.as_str())];
        for (root, name) in places {
            match open_dir(root, name, Mounts::Enter) {
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                Err(error) => {
                    take(Item::LeftOut {
                        path: goes_to.to_owned(),
                        why: refused(error).to_string(),
                        ought_to_be_in: true,
                    })?;
                    return Ok(true);
                }
                Ok(dir) => {
                    read_tree(dir, goes_to, &mut take)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What writes the directories of a backup that is restored.
    pub(crate) fn unpack(&self) -> Result<Unpacking> {
        let top = open_dir(&self.data, ".", Mounts::Enter).map_err(refused)?;
        Ok(Unpacking::new(top, self.owner, "restore a backup: write the files"))
    }

    /// Waits until everything that was written to the file system of the data directory is on the disk.
    pub(crate) fn wait_for_disk(&self, point: &'static str) -> Result<()> {
        crate::point::reach(point);
        fs::syncfs(&self.data).map_err(|error| refused(error.into()))
    }
}

/// Writes the files of an archive below a directory where nobody else writes. All of it is for its owner alone, whatever mode is
/// announced.
pub(crate) struct Unpacking {
    top: OwnedFd,
    owner: Ownership,
    point: &'static str,
    /// The directory that was written to last, by its path: the next file is likely in it, too.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Unpacking {
    pub(super) fn new(top: OwnedFd, owner: Ownership, point: &'static str) -> Self {
        Self { top, owner, point, last: None }
    }

    /// Makes a directory, with those above it.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<()> {
        self.open(path).map(drop)
    }

    fn open(&mut self, path: &Path) -> Result<&OwnedFd> {
        let dir = match self.last.take() {
            Some((last, dir)) if last == path => dir,
            _ => {
                let mut here = open_dir(&self.top, ".", Mounts::Enter).map_err(refused)?;
                for name in path {
                    here = make_dir(&here, name, self.owner, self.point).map_err(refused)?;
                }
                here
            }
        };
        Ok(&self.last.insert((path.to_owned(), dir)).1)
    }

    /// Writes a file that isn't there yet, into a directory that is made if need be.
    pub(crate) fn file(&mut self, path: &Path, mode: u32, modified_at: u64, octets: &mut dyn Read) -> Result<()> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(ErrorKind::Corrupt, "a file in the archive has no name"));
        };
        let (point, owner, dir) = (self.point, self.owner, self.open(above)?);
        crate::point::reach(point);
        let mut write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(mode & 0o100) | PRIVATE_FILE;
            let mut file = File::from(fs::openat(dir, name, flags, mode)?);
            owner.give_file(&file, mode)?;
            io::copy(octets, &mut file)?;
            let time = Timespec { tv_sec: i64::try_from(modified_at).unwrap_or_default(), tv_nsec: 0 };
            Ok(fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
        };
        write().map_err(|error| file_error(error, "the files of the archive can't be written"))
    }
}

fn read_tree(dir: OwnedFd, goes_to: &Path, take: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
    let mode = fs::fstat(&dir).map_err(|error| refused(error.into()))?.st_mode & 0o777;
    take(Item::Directory { path: goes_to.to_owned(), mode })?;
    let mut failure = None;
    let walked = walk(dir, &mut |visit| {
        let item = match visit {
            Visit::Unreadable { above, name } => {
                let path = goes_to.join(above).join(shown(name));
                take(Item::LeftOut { path, why: "the directory can't be entered".to_owned(), ought_to_be_in: true })
            }
            Visit::Entry { dir, above, name, stat } => {
                let path = goes_to.join(above).join(shown(name));
                if is_dir(stat) {
                    take(Item::Directory { path, mode: stat.st_mode & 0o777 })
                } else if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    match settled(dir, name) {
                        Ok(Some((content, mut octets, stat))) => {
                            let (mode, octets) = (stat.st_mode & 0o777, &mut octets);
                            let modified_at = u64::try_from(stat.st_mtime).unwrap_or_default();
                            take(Item::File { path, mode, modified_at, content, octets })
                        }
                        Ok(None) => Ok(()),
                        Err(error) => take(Item::LeftOut { path, why: error.to_string(), ought_to_be_in: true }),
                    }
                } else {
                    take(Item::LeftOut {
                        path,
                        why: "it is neither a file nor a directory".to_owned(),
                        ought_to_be_in: false,
                    })
                }
            }
        };
        item.map_err(|error| {
            failure = Some(error);
            io::Error::other("given up")
        })
    });
    match (failure, walked) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        // One user who rearranges their directories, or whose can't be read, doesn't keep all others out of the backup.
        (None, Err(error)) => take(Item::LeftOut {
            path: goes_to.to_owned(),
            why: format!("not all of it could be read: {error}"),
            ought_to_be_in: true,
        }),
    }
}

/// A file's content as it was at one moment, with what it was; `None` if it has gone.
fn settled(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<Option<(Content, impl Read + use<>, Stat)>> {
    // A file that has become a pipe meanwhile is opened without waiting for whoever writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS_MAX {
        let file = match fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => File::from(file?),
        };
        let before = fs::fstat(&file)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a file any more"));
        }
        let length = u64::try_from(before.st_size).unwrap_or_default();
        let mut spool = tempfile::spooled_tempfile(IN_MEMORY_OCTETS_MAX);
        let mut hashed = Hashed::new((&file).take(length + 1));
        let count = io::copy(&mut hashed, &mut spool)?;
        let after = fs::fstat(&file)?;
        let moments =
            |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        if count == length && moments(&before) == moments(&after) {
            spool.flush()?;
            spool.rewind()?;
            return Ok(Some((hashed.content(), spool, after)));
        }
    }
    Err(io::Error::other("it changes all the time"))
}
