//! Locking a user's SQLite database while it is read.
//!
//! These are SQLite's own locks: of the [file](https://www.sqlite.org/lockingv3.html) and, of a
//! database with a WAL, of its [`-shm`](https://www.sqlite.org/walformat.html#wal_locks). They
//! belong to a descriptor and not to the process, so they exclude writers in this process, too.
//! Nothing is written, and no file made.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::stat::stat;

/// The first bytes of a database (<https://www.sqlite.org/fileformat2.html#magic_header_string>).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The first bytes of a rollback journal, and the last ones of a journal of several databases.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// The first bytes of a WAL (<https://www.sqlite.org/fileformat2.html#walformat>).
const WAL_MAGIC: [u8; 4] = [0x37, 0x7f, 0x06, 0x82];
const WAL_MAGIC_BIG_ENDIAN: [u8; 4] = [0x37, 0x7f, 0x06, 0x83];

/// Locked by a writer that is about to change the file, so that no more readers begin.
const PENDING: Range = Range { start: 0x4000_0000, length: 1 };
/// Locked by a writer during its transaction.
const RESERVED: Range = Range { start: 0x4000_0001, length: 1 };
/// Locked by readers, and as a whole by a writer that changes the file.
const SHARED: Range = Range { start: 0x4000_0002, length: 510 };
/// In the `-shm`. The first byte keeps a checkpoint from running, the second the WAL from being
/// reset.
const WAL_READERS: Range = Range { start: 123, length: 2 };

/// How long to wait for a transaction that is changing the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to sleep between two attempts.
const POLL: Duration = Duration::from_millis(1);

/// The suffixes of a database's other files. The first two hold changes, the last one is made again
/// when it is missing.
pub(crate) const WAL: &str = "-wal";
pub(crate) const JOURNAL: &str = "-journal";
pub(super) const SHM: &str = "-shm";

#[derive(Clone, Copy)]
struct Range {
    start: i64,
    length: i64,
}

/// A database whose file and WAL or journal no writer changes, except that it may append to the
/// WAL.
pub(crate) struct DatabaseLock {
    shm: Option<File>,
    /// The file with changes that the database doesn't have, and its suffix.
    pub(super) log: Option<(File, &'static str)>,
    /// Whether the changes are part of a transaction over several databases.
    pub(crate) is_of_several: bool,
}

impl DatabaseLock {
    /// Locks the database in `file`, which has the name `name` in `dir`.
    pub(super) fn of(dir: &OwnedFd, name: &CStr, file: &File) -> io::Result<Self> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            if let Some(held) = Self::attempt(dir, name, file)? {
                return Ok(held);
            }
            unlock(file)?;
            if Instant::now() >= deadline {
                return Err(io::Error::other(
                    "the database is locked by a transaction that takes too long",
                ));
            }
            // The release of another process's lock can't be waited for.
            thread::sleep(POLL);
        }
    }

    fn attempt(dir: &OwnedFd, name: &CStr, file: &File) -> io::Result<Option<Self>> {
        if !(share(file, PENDING)? && share(file, SHARED)?) {
            return Ok(None);
        }
        set(file, libc::F_UNLCK, PENDING)?;
        // From now on SQLite removes neither of these.
        let shm = open(dir, &beside(name, SHM)?)?;
        if let Some(shm) = &shm
            && !share(shm, WAL_READERS)?
        {
            return Ok(None);
        }
        let is_written = |log: &File| Ok::<_, io::Error>(log.metadata()?.len() > 0);
        if let Some(wal) = open(dir, &beside(name, WAL)?)?
            && is_written(&wal)?
        {
            return Ok(Some(Self { shm, log: Some((wal, WAL)), is_of_several: false }));
        }
        let mut held = Self { shm, log: None, is_of_several: false };
        // A journal belongs to an interrupted transaction, or to a writer that hasn't changed the
        // file yet.
        if let Some(journal) = open(dir, &beside(name, JOURNAL)?)?
            && begins_with(&journal, &JOURNAL_MAGIC)?
            && is_free(file, RESERVED)?
        {
            let end = journal.metadata()?.len() - JOURNAL_MAGIC.len() as u64;
            let mut last = JOURNAL_MAGIC;
            last.fill(0);
            journal.read_exact_at(&mut last, end)?;
            held.is_of_several = end > 0 && last == JOURNAL_MAGIC;
            held.log = Some((journal, JOURNAL));
        }
        Ok(Some(held))
    }

    /// Returns whether no writer can have changed the file. One that has begun to use a WAL since
    /// isn't excluded by the lock on the `-shm`.
    pub(super) fn is_kept(&self, dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
        Ok(self.shm.is_some() || stat(dir, &*beside(name, SHM)?)?.is_none())
    }
}

/// Returns whether a file is a database.
pub(super) fn is_database(file: &File) -> io::Result<bool> {
    begins_with(file, MAGIC)
}

/// Returns whether a file is a WAL or journal.
pub(super) fn is_log(file: &File) -> io::Result<bool> {
    Ok(begins_with(file, &JOURNAL_MAGIC)?
        || begins_with(file, &WAL_MAGIC)?
        || begins_with(file, &WAL_MAGIC_BIG_ENDIAN)?)
}

/// Returns whether a file is part of a database beside it, with which it is archived.
pub(super) fn is_database_file(dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let bytes = name.to_bytes();
    let suffixes = [WAL, JOURNAL, SHM].into_iter();
    let Some(base) = suffixes.filter_map(|suffix| bytes.strip_suffix(suffix.as_bytes())).next()
    else {
        return Ok(false);
    };
    Ok(match open(dir, &CString::new(base)?) {
        Ok(Some(file)) => is_database(&file)?,
        // Reported for the database itself.
        Ok(None) | Err(_) => false,
    })
}

/// Returns the name of a file beside a database.
pub(super) fn beside(name: &CStr, suffix: &str) -> io::Result<CString> {
    Ok(CString::new([name.to_bytes(), suffix.as_bytes()].concat())?)
}

/// Opens a regular file, if there is one.
fn open(dir: &OwnedFd, name: &CStr) -> io::Result<Option<File>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        file => File::from(file?),
    };
    let is_file = FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::RegularFile;
    Ok(is_file.then_some(file))
}

fn begins_with<const N: usize>(file: &File, magic: &[u8; N]) -> io::Result<bool> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| bytes == *magic),
    }
}

/// Takes a shared lock, unless another descriptor has it exclusively.
fn share(file: &File, range: Range) -> io::Result<bool> {
    set(file, libc::F_RDLCK, range)
}

fn unlock(file: &File) -> io::Result<()> {
    set(file, libc::F_UNLCK, Range { start: 0, length: 0 }).map(drop)
}

fn set(file: &File, kind: libc::c_int, range: Range) -> io::Result<bool> {
    match control(file, libc::F_OFD_SETLK, kind, range) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether no other descriptor has a lock.
fn is_free(file: &File, range: Range) -> io::Result<bool> {
    Ok(control(file, libc::F_OFD_GETLK, libc::F_WRLCK, range)? == libc::F_UNLCK)
}

fn control(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    range: Range,
) -> io::Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start,
        l_len: range.length,
        l_pid: 0,
    };
    #[allow(unsafe_code, reason = "there is no safe interface to the locks of a descriptor")]
    // SAFETY: the descriptor is open, and the structure outlives the call, which keeps nothing of
    // it.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if code == -1 { Err(io::Error::last_os_error()) } else { Ok(lock.l_type.into()) }
}
