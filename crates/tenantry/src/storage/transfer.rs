//! Reading the files of users for an archive.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::Storage;
use super::attributes::{self, Attributes};
use super::beneath::{Mounts, open_dir, shown};
use super::errors::{errno, refused};
use super::holes::{self, Segment};
use super::locks::{self, DatabaseLock};
use super::unpack::Unpacker;
use super::walk::{Visit, walk};
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

/// How long to sleep between two attempts to get a lock.
const LOCK_POLL: Duration = Duration::from_millis(1);
/// An entry of a user's directory, for an archive.
pub(crate) enum Item<'i> {
    /// The user's directory itself, or one in it.
    Directory {
        path: PathBuf,
        attributes: Attributes,
        is_top: bool,
    },
    /// A file, which can be read again until it doesn't change in between.
    File {
        path: PathBuf,
        source: Source<'i>,
    },
    /// A symbolic link, whatever its target is.
    Link {
        path: PathBuf,
        target: PathBuf,
        attributes: Attributes,
    },
    Pipe {
        path: PathBuf,
        attributes: Attributes,
    },
    /// An entry that can't be archived, with the reason.
    LeftOut {
        path: PathBuf,
        why: String,
    },
}

/// The place of a user's file.
#[derive(Clone, Copy)]
pub(crate) struct Source<'s> {
    dir: &'s OwnedFd,
    name: &'s CStr,
}

impl<'s> Source<'s> {
    pub(crate) fn new(dir: &'s OwnedFd, name: &'s CStr) -> Self {
        Self { dir, name }
    }

    /// Returns the file beside it whose name has this suffix.
    pub(crate) fn beside(&self, suffix: &str) -> io::Result<(&'s OwnedFd, CString)> {
        Ok((self.dir, locks::beside(self.name, suffix)?))
    }

    /// Opens the file; `None` if it doesn't exist any more. Locks a SQLite database as long as it
    /// is open.
    pub(crate) fn open(&self) -> io::Result<Option<OpenFile>> {
        // A file that was replaced by a pipe is opened without waiting for its writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match fs::openat(self.dir, self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => File::from(file?),
        };
        if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("the file was replaced while it was read"));
        }
        let held = if locks::is_database(&file)? {
            Some(DatabaseLock::of(self.dir, self.name, &file)?)
        } else {
            None
        };
        let stat = fs::fstat(&file)?;
        let (attributes, unread) = attributes_or(&stat, attributes::read(&file));
        Ok(Some(OpenFile { file, stat, attributes, unread, held }))
    }

    /// Returns whether the file hasn't changed since it was opened.
    pub(crate) fn is_unchanged(&self, opened: &OpenFile) -> io::Result<bool> {
        let moments = |stat: &Stat| {
            (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
        };
        if moments(&fs::fstat(&opened.file)?) != moments(&opened.stat) {
            return Ok(false);
        }
        opened.held.as_ref().map_or(Ok(true), |held| held.is_kept(self.dir, self.name))
    }
}

/// An open file of a user, with its metadata when it was opened.
pub(crate) struct OpenFile {
    file: File,
    stat: Stat,
    pub(crate) attributes: Attributes,
    /// The failure to read its extended attributes.
    pub(crate) unread: Option<io::Error>,
    held: Option<DatabaseLock>,
}

/// The identity of a file on one file system, as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
    /// Distinguishes it from a removed file whose inode number it got.
    made_at: (i64, u32),
}

impl OpenFile {
    pub(crate) fn length(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or_default()
    }

    /// Returns the identity, if the file has several names.
    pub(crate) fn identity(&self) -> io::Result<Option<FileIdentity>> {
        if self.stat.st_nlink < 2 {
            return Ok(None);
        }
        let made_at = match fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME) {
            Ok(found) => (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
            // A filter that refuses the call.
            Err(Errno::NOSYS | Errno::PERM) => (0, 0),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(FileIdentity { device: self.stat.st_dev, inode: self.stat.st_ino, made_at }))
    }

    /// Returns where the file has data. The rest is zeroes.
    pub(crate) fn segments(&self) -> io::Result<Vec<Segment>> {
        holes::segments(&self.file, &self.stat)
    }

    /// Returns a reader of these segments. It ends early if the file was truncated.
    pub(crate) fn data(&self, segments: Vec<Segment>) -> impl Read {
        Data { file: &self.file, segments: segments.into_iter(), here: Segment::default() }
    }

    /// Returns the suffix of the WAL or journal, if the database has one and so isn't complete
    /// without it.
    pub(crate) fn log(&self) -> Option<&'static str> {
        self.held.as_ref().and_then(|held| held.log.as_ref()).map(|(_, suffix)| *suffix)
    }

    /// Returns whether SQLite may recover it. In a transaction over several databases it could
    /// remove foreign files.
    pub(crate) fn may_be_settled(&self) -> bool {
        self.held.as_ref().is_none_or(|held| !held.is_of_several)
    }

    /// Returns the database, and its WAL or journal.
    pub(crate) fn parts(&self) -> (&File, Option<&File>) {
        (&self.file, self.held.as_ref().and_then(|held| held.log.as_ref()).map(|(log, _)| log))
    }

    /// Opens a file of which only the content matters.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let stat = fs::fstat(&file)?;
        Ok(Self { file, stat, attributes: Attributes::default(), unread: None, held: None })
    }

    /// Returns a private copy of the file with its attributes.
    pub(crate) fn with_copy(&self, copy: File) -> io::Result<Self> {
        Ok(Self { attributes: self.attributes.clone(), ..Self::new(copy)? })
    }
}

struct Data<'f> {
    file: &'f File,
    segments: std::vec::IntoIter<Segment>,
    here: Segment,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.here.length == 0 {
            match self.segments.next() {
                Some(next) => self.here = next,
                None => return Ok(0),
            }
        }
        let length = usize::try_from(self.here.length).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..length], self.here.offset)?;
        self.here.offset += count as u64;
        self.here.length -= count as u64;
        Ok(count)
    }
}

/// Returns the attributes that were read or, with the failure, those of `stat`.
fn attributes_or(stat: &Stat, read: io::Result<Attributes>) -> (Attributes, Option<io::Error>) {
    read.map_or_else(
        |error| (Attributes::from_stat(stat), Some(error)),
        |attributes| (attributes, None),
    )
}

/// Locks out purges or backups of every process, as long as it lives.
#[derive(Debug)]
pub(crate) struct TrashLock {
    _trash: OwnedFd,
}

impl Storage {
    /// Locks out purges and other backups. Fails with `Busy` if one lasts longer than `timeout`.
    pub(crate) fn lock_out_purges(&self, timeout: Duration) -> Result<TrashLock> {
        let busy = || {
            Error::new(
                ErrorKind::Busy,
                "a purge, or another backup or export, is under way: try again later",
            )
        };
        self.lock_trash(FlockOperation::NonBlockingLockExclusive, timeout)?.ok_or_else(busy)
    }

    /// Locks out backups, but not purges. Fails with `Busy` if a backup lasts longer than
    /// `timeout`.
    pub(crate) fn lock_out_backups(&self, timeout: Duration) -> Result<TrashLock> {
        let busy = || {
            Error::new(
                ErrorKind::Busy,
                "a backup or the export of a user is under way: try again later",
            )
        };
        self.lock_trash(FlockOperation::NonBlockingLockShared, timeout)?.ok_or_else(busy)
    }

    /// Locks out purges and backups, if none is under way.
    pub(crate) fn try_lock_out_purges(&self, timeout: Duration) -> Option<TrashLock> {
        self.lock_trash(FlockOperation::NonBlockingLockExclusive, timeout).ok().flatten()
    }

    /// Returns `None` if another descriptor has the lock.
    fn lock_trash(&self, how: FlockOperation, timeout: Duration) -> Result<Option<TrashLock>> {
        // A lock belongs to a descriptor, so each takes one of its own.
        let trash = open_dir(&self.trash, ".", Mounts::Refuse).map_err(refused)?;
        let deadline = Instant::now() + timeout;
        loop {
            match fs::flock(&trash, how) {
                Ok(()) => return Ok(Some(TrashLock { _trash: trash })),
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                // A check has the lock for a moment.
                Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_POLL),
                Err(error) => return Err(refused(error.into())),
            }
        }
    }

    /// Reads a user's directory, which may be moved to or from the trash during the call. Returns
    /// whether it was found.
    pub(crate) fn read_user(
        &self,
        id: UserId,
        path: &StoragePath,
        goes_to: &Path,
        mut take: impl FnMut(Item<'_>) -> Result<()>,
    ) -> Result<bool> {
        let in_trash = id.to_string();
        let places: [(&OwnedFd, &str); 3] = [
            (&self.storage, path.as_str()),
            (&self.trash, &in_trash),
            (&self.storage, path.as_str()),
        ];
        for (root, name) in places {
            match open_dir(root, name, Mounts::Enter) {
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                Err(error) => {
                    take(Item::LeftOut {
                        path: goes_to.to_owned(),
                        why: refused(error).to_string(),
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

    /// Returns the writer of the directories of a backup. `former` owned the store when it was
    /// backed up.
    pub(crate) fn unpack(&self, former: Option<(u32, u32)>) -> Result<Unpacker> {
        let top = open_dir(&self.data, ".", Mounts::Enter).map_err(refused)?;
        Unpacker::new(top, self.owner, former, "restore a backup: write the files")
    }

    /// Syncs everything that was written to the file system of the data directory.
    pub(crate) fn wait_for_disk(&self, point: &'static str) -> Result<()> {
        crate::failpoint::reach(point);
        fs::syncfs(&self.data).map_err(|error| refused(error.into()))
    }
}

/// Reads everything in a directory, each directory before its entries.
fn read_tree(
    dir: OwnedFd,
    goes_to: &Path,
    take: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let stat = fs::fstat(&dir).map_err(|error| refused(error.into()))?;
    let (attributes, unread) = attributes_or(&stat, attributes::read(&dir));
    take(Item::Directory { path: goes_to.to_owned(), attributes, is_top: true })?;
    report_unread(goes_to, unread, take)?;
    let mut failure = None;
    let walked = walk(dir, &mut |visit| {
        let taken = match visit {
            Visit::Unreadable { above, name } => {
                let path = goes_to.join(above).join(shown(name));
                take(Item::LeftOut { path, why: "the directory can't be entered".to_owned() })
            }
            Visit::Entry { dir, above, name, stat } => {
                let path = goes_to.join(above).join(shown(name));
                read_entry(path.clone(), Source::new(dir, name), stat, take)
                    .unwrap_or_else(|error| take(Item::LeftOut { path, why: error.to_string() }))
            }
        };
        taken.map_err(|error| {
            failure = Some(error);
            io::Error::other("given up")
        })
    });
    match (failure, walked) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        // One user who moves directories, or whose can't be read, doesn't keep all others out of
        // the backup.
        (None, Err(error)) => take(Item::LeftOut {
            path: goes_to.to_owned(),
            why: format!("not all of it could be read: {error}"),
        }),
    }
}

/// Reads an entry of a directory. Fails if that isn't possible; the inner result is that of `take`.
fn read_entry(
    path: PathBuf,
    source: Source<'_>,
    stat: &Stat,
    take: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> io::Result<Result<()>> {
    let Source { dir, name } = source;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::RegularFile {
        // A part of the database beside it.
        let is_taken = locks::is_database_file(dir, name)?;
        return Ok(if is_taken { Ok(()) } else { take(Item::File { path, source }) });
    }
    let (attributes, unread) = attributes_or(stat, attributes::read_at(dir, name));
    if unread.as_ref().is_some_and(|error| errno(error) == Some(Errno::NOENT))
        && kind != FileType::Directory
    {
        return Ok(Ok(()));
    }
    let named = path.clone();
    let taken = match kind {
        FileType::Directory => take(Item::Directory { path, attributes, is_top: false }),
        FileType::Symlink => match fs::readlinkat(dir, name, Vec::new()) {
            Err(Errno::NOENT) => return Ok(Ok(())),
            target => {
                let target = OsString::from_vec(target?.into_bytes()).into();
                take(Item::Link { path, target, attributes })
            }
        },
        FileType::Fifo => take(Item::Pipe { path, attributes }),
        FileType::Socket => {
            take(Item::LeftOut { path, why: "no archive can hold a socket".to_owned() })
        }
        _ => take(Item::LeftOut { path, why: "no archive of a user's holds a device".to_owned() }),
    };
    Ok(taken.and_then(|()| report_unread(&named, unread, take)))
}

/// Reports that extended attributes are missing. A file that was removed has none.
fn report_unread(
    path: &Path,
    unread: Option<io::Error>,
    take: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    match unread {
        Some(error) if errno(&error) != Some(Errno::NOENT) => {
            let why = format!("its extended attributes can't be read: {error}");
            take(Item::LeftOut { path: path.to_owned(), why })
        }
        _ => Ok(()),
    }
}
