//! The files of users on their way into an archive.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::beneath::{Mounts, errno, open_dir, shown};
use super::locks::{self, Held};
use super::tree::{Visit, walk};
use super::unpack::Unpacking;
use super::{Storage, refused};
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

/// Into how many pieces of data a sparse file is divided: the map of it is held in memory.
pub(crate) const SEGMENTS_MAX: usize = 1 << 18;
/// Smaller holes are worth no piece: the usual block of a file system.
const HOLE_OCTETS_MIN: u64 = 4_096;
/// How long to sleep between two looks at a lock.
const LOCK_POLL: Duration = Duration::from_millis(1);
/// Something below a user's directory that goes into a backup.
pub(crate) enum Item<'i> {
    /// The user's directory itself, or one in it.
    Directory {
        path: PathBuf,
        attributes: Attributes,
        is_top: bool,
    },
    /// A file, which may be read as often as it takes to read it as it is at one moment.
    File {
        path: PathBuf,
        source: Source<'i>,
    },
    /// A symbolic link, wherever it leads.
    Link {
        path: PathBuf,
        target: PathBuf,
        attributes: Attributes,
    },
    Pipe {
        path: PathBuf,
        attributes: Attributes,
    },
    /// Something that isn't in the backup, and why.
    LeftOut {
        path: PathBuf,
        why: String,
    },
}

/// Where a file of a user is.
#[derive(Clone, Copy)]
pub(crate) struct Source<'s> {
    dir: &'s OwnedFd,
    name: &'s CStr,
}

impl<'s> Source<'s> {
    pub(crate) fn new(dir: &'s OwnedFd, name: &'s CStr) -> Self {
        Self { dir, name }
    }

    /// What is beside it under its name with this ending.
    pub(crate) fn beside(&self, suffix: &str) -> io::Result<(&'s OwnedFd, CString)> {
        Ok((self.dir, locks::beside(self.name, suffix)?))
    }

    /// Opens the file; `None` if it has gone. A SQLite database is kept as it is for as long as it is open.
    pub(crate) fn open(&self) -> io::Result<Option<Opened>> {
        // A file that has become a pipe meanwhile is opened without waiting for whoever writes to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match fs::openat(self.dir, self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => File::from(file?),
        };
        if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("the file was replaced while it was read"));
        }
        let held = if locks::is_database(&file)? { Some(Held::of(self.dir, self.name, &file)?) } else { None };
        let stat = fs::fstat(&file)?;
        let (attributes, unread) = attributes_or(&stat, attributes::of(&file));
        Ok(Some(Opened { file, stat, attributes, unread, held }))
    }

    /// Whether the file is still as it was when it was opened.
    pub(crate) fn is_unchanged(&self, opened: &Opened) -> io::Result<bool> {
        let moments =
            |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        if moments(&fs::fstat(&opened.file)?) != moments(&opened.stat) {
            return Ok(false);
        }
        opened.held.as_ref().map_or(Ok(true), |held| held.is_kept(self.dir, self.name))
    }
}

/// A file of a user that is open, with what it was when it was opened.
pub(crate) struct Opened {
    file: File,
    stat: Stat,
    pub(crate) attributes: Attributes,
    /// Why its extended attributes aren't among them.
    pub(crate) unread: Option<io::Error>,
    held: Option<Held>,
}

/// A file on one file system, as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// Tells it from one that got the number of a file that was removed meanwhile.
    made_at: (i64, u32),
}

impl Opened {
    pub(crate) fn length(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or_default()
    }

    /// What tells whether this is a file that was met under another name, if it has several.
    pub(crate) fn identity(&self) -> io::Result<Option<Identity>> {
        if self.stat.st_nlink < 2 {
            return Ok(None);
        }
        let made_at = match fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME) {
            Ok(found) => (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
            // A filter that refuses the call.
            Err(Errno::NOSYS | Errno::PERM) => (0, 0),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Identity { device: self.stat.st_dev, inode: self.stat.st_ino, made_at }))
    }

    /// Where the file has data, in their order. What is between them, and behind them up to its length, is zeroes.
    pub(crate) fn segments(&self) -> io::Result<Vec<Segment>> {
        let length = self.length();
        let is_allocated = u64::try_from(self.stat.st_blocks).unwrap_or_default() * 512 >= length;
        if is_allocated || length < HOLE_OCTETS_MIN {
            return Ok(vec![Segment { offset: 0, length }]);
        }
        let mut found = Segments::default();
        let mut here = 0;
        while here < length {
            let start = match fs::seek(&self.file, SeekFrom::Data(here)) {
                // There is nothing but a hole up to the end.
                Err(Errno::NXIO) => break,
                // The file system doesn't tell.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![Segment { offset: 0, length }]),
                start => start?.min(length),
            };
            let end = fs::seek(&self.file, SeekFrom::Hole(start))?.min(length);
            if end <= here {
                // It is being cut off, which is noticed in the end.
                break;
            }
            found.push(start, end);
            here = end;
        }
        Ok(found.segments)
    }

    /// The data of these segments, one after the other. Less if the file has become shorter.
    pub(crate) fn octets(&self, segments: Vec<Segment>) -> impl Read {
        Data { file: &self.file, segments: segments.into_iter(), here: Segment::default() }
    }

    /// Whether it is a database of which changes lie beside it, and so no file that may be taken alone.
    pub(crate) fn log(&self) -> Option<&'static str> {
        self.held.as_ref().and_then(|held| held.log.as_ref()).map(|(_, suffix)| *suffix)
    }

    /// Whether SQLite may be asked to settle it: a transaction over several databases names files to be removed.
    pub(crate) fn may_be_settled(&self) -> bool {
        self.held.as_ref().is_none_or(|held| !held.is_of_several)
    }

    /// The database and what has its changes.
    pub(crate) fn parts(&self) -> (&File, Option<&File>) {
        (&self.file, self.held.as_ref().and_then(|held| held.log.as_ref()).map(|(log, _)| log))
    }

    /// A file of which the content alone is of interest.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let stat = fs::fstat(&file)?;
        Ok(Self { file, stat, attributes: Attributes::default(), unread: None, held: None })
    }

    /// A copy of it that nobody else knows of.
    pub(crate) fn of_copy(&self, copy: File) -> io::Result<Self> {
        Ok(Self { attributes: self.attributes.clone(), ..Self::new(copy)? })
    }
}

/// Part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Segments of a file, of which there are never too many: the smallest holes are taken for data then.
#[derive(Default)]
struct Segments {
    segments: Vec<Segment>,
    hole_min: u64,
}

impl Segments {
    fn push(&mut self, start: u64, end: u64) {
        self.hole_min = self.hole_min.max(HOLE_OCTETS_MIN);
        match self.segments.last_mut() {
            Some(last) if start - last.end() < self.hole_min => last.length = end - last.offset,
            _ => self.segments.push(Segment { offset: start, length: end - start }),
        }
        if self.segments.len() > SEGMENTS_MAX {
            self.hole_min *= 2;
            for segment in std::mem::take(&mut self.segments) {
                self.push(segment.offset, segment.end());
            }
        }
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

/// Those that were read, or else those that are known anyway, and why.
fn attributes_or(stat: &Stat, read: io::Result<Attributes>) -> (Attributes, Option<io::Error>) {
    read.map_or_else(|error| (Attributes::from_stat(stat), Some(error)), |attributes| (attributes, None))
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
                    take(Item::LeftOut { path: goes_to.to_owned(), why: refused(error).to_string() })?;
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

    /// What writes the directories of a backup that is restored. `former` owned the store when it was backed up.
    pub(crate) fn unpack(&self, former: Option<(u32, u32)>) -> Result<Unpacking> {
        let top = open_dir(&self.data, ".", Mounts::Enter).map_err(refused)?;
        Unpacking::new(top, self.owner, former, "restore a backup: write the files")
    }

    /// Waits until everything that was written to the file system of the data directory is on the disk.
    pub(crate) fn wait_for_disk(&self, point: &'static str) -> Result<()> {
        crate::failpoint::reach(point);
        fs::syncfs(&self.data).map_err(|error| refused(error.into()))
    }
}

/// Hands over everything in a directory, each directory before what is in it.
fn read_tree(dir: OwnedFd, goes_to: &Path, take: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
    let stat = fs::fstat(&dir).map_err(|error| refused(error.into()))?;
    let (attributes, unread) = attributes_or(&stat, attributes::of(&dir));
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
        // One user who rearranges their directories, or whose can't be read, doesn't keep all others out of the backup.
        (None, Err(error)) => {
            take(Item::LeftOut { path: goes_to.to_owned(), why: format!("not all of it could be read: {error}") })
        }
    }
}

/// Hands over one entry of a directory. Fails if it can't be read; what comes of handing it over is the result.
fn read_entry(
    path: PathBuf,
    source: Source<'_>,
    stat: &Stat,
    take: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> io::Result<Result<()>> {
    let Source { dir, name } = source;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::RegularFile {
        // Part of the database beside it.
        let is_taken = locks::is_of_database(dir, name)?;
        return Ok(if is_taken { Ok(()) } else { take(Item::File { path, source }) });
    }
    let (attributes, unread) = attributes_or(stat, attributes::at(dir, name));
    if unread.as_ref().is_some_and(|error| errno(error) == Some(Errno::NOENT)) && kind != FileType::Directory {
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
        FileType::Socket => take(Item::LeftOut { path, why: "no archive can hold a socket".to_owned() }),
        _ => take(Item::LeftOut { path, why: "no archive of a user's holds a device".to_owned() }),
    };
    Ok(taken.and_then(|()| report_unread(&named, unread, take)))
}

/// Says that extended attributes are missing in the archive. What has gone meanwhile has none.
fn report_unread(path: &Path, unread: Option<io::Error>, take: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
    match unread {
        Some(error) if errno(&error) != Some(Errno::NOENT) => {
            let why = format!("its extended attributes can't be read: {error}");
            take(Item::LeftOut { path: path.to_owned(), why })
        }
        _ => Ok(()),
    }
}
