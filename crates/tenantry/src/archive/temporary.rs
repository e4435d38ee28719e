//! Room for what is read out of an archive and not kept.
//!
//! The image of the database may be too large for the memory, so it goes into a file. That has no name, so nothing is left of
//! it however the process ends. SQLite opens files by name only, so it has one for that moment.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::writer::parent;
use crate::sqlite::Inspection;
use crate::storage::{Ownership, PRIVATE_FILE, file_error};
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = ".tenantry-image-";

/// Runs what needs a directory for temporary files: in the system's or, if that can't be used or has no room, in the archive's.
pub(super) fn with_dir<T>(archive: &Path, mut run: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    let mut unusable = Vec::new();
    for dir in [std::env::temp_dir(), parent(archive).to_owned()] {
        let done = match clear(&dir) {
            Ok(()) => run(&dir),
            Err(error) => Err(file_error(error, "no such directory")),
        };
        match done {
            // The archive itself is read only, and what is wrong with that is `Corrupt`.
            Err(error) if matches!(error.kind(), ErrorKind::Full | ErrorKind::ReadOnly | ErrorKind::Io) => {
                unusable.push((dir, error));
            }
            done => return done,
        }
    }
    let dirs: Vec<String> = unusable.iter().map(|(dir, _)| dir.display().to_string()).collect();
    let message = format!("no directory can be used for temporary files, neither {}", dirs.join(" nor "));
    match unusable.into_iter().next() {
        Some((_, error)) => Err(Error::new(error.kind(), message).with_source(error)),
        None => Err(Error::new(ErrorKind::Io, message)),
    }
}

/// Removes the images that were left when a process was killed at the moment at which they had a name.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.filter_map(io::Result::ok) {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = sys::open(entry.path(), flags, Mode::empty()) else { continue };
            // Whoever has named it just now has the lock on it.
            if sys::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_file(&file) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}

fn is_file(file: &impl std::os::fd::AsFd) -> bool {
    sys::fstat(file).is_ok_and(|stat| sys::FileType::from_raw_mode(stat.st_mode) == sys::FileType::RegularFile)
}

/// An image while it is written.
pub(super) struct Image {
    dir: PathBuf,
    file: File,
    /// Where the file system knows no files without a name.
    named: Option<NamedTempFile>,
}

impl Image {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let failed = |error| file_error(error, "a temporary file can't be made");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, named) = match sys::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => (File::from(file), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let named = builder().tempfile_in(dir).map_err(failed)?;
                (named.as_file().try_clone().map_err(failed)?, Some(named))
            }
            Err(error) => return Err(failed(error.into())),
        };
        // SQLite opens it anew, for which the umask may have left no right.
        Ownership::default().give_file(&file, PRIVATE_FILE).map_err(failed)?;
        sys::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Self { dir: dir.to_owned(), file, named })
    }

    /// Opens what was written.
    pub(super) fn open(self) -> Result<Inspection> {
        let failed = |error| file_error(error, "a temporary file can't be opened");
        match self.named {
            Some(named) => Inspection::open_image(named.path()),
            None => {
                let itself = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let link = |path: &Path| Ok(sys::linkat(CWD, &*itself, CWD, path, AtFlags::SYMLINK_FOLLOW)?);
                // Unlinked when it is dropped.
                let named = builder().make_in(&self.dir, link).map_err(failed)?;
                Inspection::open_image(named.path())
            }
        }
    }
}

impl Write for Image {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).permissions(Permissions::from_mode(0o600));
    builder
}
