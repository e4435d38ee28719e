//! Temporary files and directories of archives, which don't outlive a killed process for long.
//!
//! Each one that has a name is locked by the process that made it. The kernel releases the lock
//! when the process ends, however that comes about, so the next process that makes one in the same
//! directory knows which ones are left over, and removes them.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempDir};

use crate::engine::Inspection;
use crate::storage::{Ownership, PRIVATE_FILE, file_error};
use crate::{Error, ErrorKind, Result};

/// The beginning of the name of an image of a database.
const IMAGE: &str = ".tenantry-image-";

/// How often something is made again that another process takes for a leftover in the moment before
/// it is locked.
const ATTEMPTS_MAX: usize = 100;

/// Returns the directory that a file is in, or is to be in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes the leftovers of killed processes, whose names begin like this, from a directory.
pub(super) fn clear(dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.filter_map(io::Result::ok) {
        if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = sys::open(entry.path(), flags, Mode::empty()).map(File::from) else {
            continue;
        };
        if sys::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // An attempt that fails leaves it to the next one. Neither call follows a symbolic link.
        let _ = match file.metadata() {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(entry.path()),
            Ok(found) if found.is_file() => std::fs::remove_file(entry.path()),
            _ => Ok(()),
        };
    }
    Ok(())
}

/// Makes and locks something, again if another process removes it before it is locked.
fn locked<T>(
    make: impl Fn() -> io::Result<(T, File)>,
    path: impl Fn(&T) -> &Path,
) -> io::Result<(T, File)> {
    for _ in 0..ATTEMPTS_MAX {
        let (made, file) = make()?;
        // Where the file system has no locks, no process takes it for a leftover, either.
        if sys::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            continue;
        }
        let found = std::fs::symlink_metadata(path(&made));
        let itself = file.metadata()?;
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (itself.dev(), itself.ino())) {
            return Ok((made, file));
        }
    }
    Err(io::Error::other("another process keeps removing it"))
}

fn builder(prefix: &str, mode: u32) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(mode));
    builder
}

/// A directory that only its owner can enter, whatever the umask is. It is removed when it is
/// dropped.
pub(super) struct PrivateDir {
    dir: TempDir,
    /// Released after the directory is removed.
    _lock: File,
}

impl PrivateDir {
    pub(super) fn new(prefix: &str, parent: &Path) -> io::Result<Self> {
        let make = || {
            let dir = builder(prefix, 0o700).tempdir_in(parent)?;
            Ownership::default().give_private_dir(dir.path())?;
            let lock = File::open(dir.path())?;
            Ok((dir, lock))
        };
        let (dir, lock) = locked(make, TempDir::path)?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Makes a file that only its owner can use, whatever the umask is. It is removed when it is
/// dropped.
pub(super) fn private_file(prefix: &str, parent: &Path) -> io::Result<NamedTempFile> {
    let make = || {
        let named = builder(prefix, PRIVATE_FILE.bits()).tempfile_in(parent)?;
        Ownership::default().give_file(named.as_file(), PRIVATE_FILE)?;
        let lock = named.as_file().try_clone()?;
        Ok((named, lock))
    };
    // The clone shares the lock, which the file itself goes on holding.
    locked(make, NamedTempFile::path).map(|(named, _)| named)
}

/// Runs `run` with a directory for temporary files: the system's or, if that can't be used or has
/// no room, the archive's.
pub(super) fn with_dir<T>(archive: &Path, mut run: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    let mut unusable = Vec::new();
    for dir in [std::env::temp_dir(), parent(archive).to_owned()] {
        let done = match clear(&dir, IMAGE) {
            Ok(()) => run(&dir),
            Err(error) => Err(file_error(error, "the directory can't be read")),
        };
        match done {
            // The archive itself is only read, and a failure of that is `Corrupt`.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Full
                        | ErrorKind::ReadOnly
                        | ErrorKind::PermissionDenied
                        | ErrorKind::Io
                ) =>
            {
                unusable.push((dir, error));
            }
            done => return done,
        }
    }
    let dirs: Vec<String> = unusable.iter().map(|(dir, _)| dir.display().to_string()).collect();
    let message =
        format!("no directory can be used for temporary files, neither {}", dirs.join(" nor "));
    match unusable.into_iter().next() {
        Some((_, error)) => Err(Error::new(error.kind(), message).with_source(error)),
        None => Err(Error::new(ErrorKind::Io, message)),
    }
}

/// The image of a database while it is written. It may be too large for memory.
///
/// Where the file system has files without a name (`O_TMPFILE`), it has none but for the moment in
/// which SQLite opens it.
pub(super) struct Image {
    dir: PathBuf,
    file: File,
    /// Where the file system has only files with a name.
    named: Option<NamedTempFile>,
}

impl Image {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let failed = |error| file_error(error, "a temporary file can't be made");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, named) = match sys::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => (File::from(file), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let named = private_file(IMAGE, dir).map_err(failed)?;
                (named.as_file().try_clone().map_err(failed)?, Some(named))
            }
            Err(error) => return Err(failed(error.into())),
        };
        // SQLite opens it again, for which the umask may have left no right.
        Ownership::default().give_file(&file, PRIVATE_FILE).map_err(failed)?;
        // It is locked before it has a name.
        sys::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        Ok(Self { dir: dir.to_owned(), file, named })
    }

    /// Opens the database that was written.
    pub(super) fn open(self) -> Result<Inspection> {
        let failed = |error| file_error(error, "a temporary file can't be opened");
        match self.named {
            Some(named) => Inspection::open_image(named.path()),
            None => {
                let itself = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let link = |path: &Path| {
                    Ok(sys::linkat(CWD, &*itself, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
                };
                // Its name is removed when it is dropped.
                let named =
                    builder(IMAGE, PRIVATE_FILE.bits()).make_in(&self.dir, link).map_err(failed)?;
                Inspection::open_image(named.path())
            }
        }
    }
}

impl Write for Image {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
