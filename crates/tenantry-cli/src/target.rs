//! Writes the files that a command creates, and refuses to overwrite files of the store.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

use crate::data_dir::{DataDir, parent_dir};
use crate::descriptor;
use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::stdio::InterruptibleFile;

/// The prefix of the names of temporary files.
const TEMPORARY: &str = ".tenantry-";
/// How many symbolic links are followed, as by the kernel.
const LINKS_MAX: u32 = 40;
/// The mode of a new file, whose content is personal data.
const NEW_MODE: u32 = 0o600;

/// A file that gets its name when it is complete. A file that isn't regular, or is open already, is
/// written in place.
pub(crate) enum Target {
    Replacement { file: TemporaryFile, path: PathBuf },
    InPlace { file: InterruptibleFile },
}

impl Target {
    /// Opens the named file for writing; `-` is standard output. Refuses a file of the store, and
    /// `source`, the file that is read.
    pub(crate) fn create(
        named: &Path,
        dir: &DataDir,
        source: Option<&Path>,
    ) -> Result<Self, Failure> {
        let name = named.display();
        let failed = |error: io::Error| Failure::new(Exit::Failure, format!("{name}: {error}"));
        let source = source.and_then(|source| fs::metadata(source).ok());
        let refuse = |path: Option<&Path>, metadata: Option<&Metadata>| {
            if dir.belongs_to_store(path, metadata) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("{name} is a file of the store; choose another"),
                ));
            }
            let is_same = |source: &Metadata, this: &Metadata| {
                (source.dev(), source.ino()) == (this.dev(), this.ino())
            };
            match (&source, metadata) {
                (Some(source), Some(this)) if source.is_file() && is_same(source, this) => {
                    Err(Failure::new(
                        Exit::Usage,
                        format!("{name} is the file to read; choose another"),
                    ))
                }
                _ => Ok(()),
            }
        };
        let path = match resolve(named).map_err(failed)? {
            Destination::Descriptor(number) => {
                let file = descriptor::duplicate(number).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
                refuse(path.as_deref(), Some(&metadata))?;
                return Ok(Self::InPlace { file: InterruptibleFile::new(file) });
            }
            Destination::Path(path) => path,
        };
        let existing = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            metadata => Some(metadata.map_err(failed)?),
        };
        refuse(Some(&path), existing.as_ref())?;
        match existing {
            Some(metadata) if !metadata.is_file() => {
                let file = open_special(path, &metadata).map_err(failed)?;
                Ok(Self::InPlace { file: InterruptibleFile::new(file) })
            }
            existing => {
                let file = TemporaryFile::create(parent_dir(&path)).and_then(|unnamed| {
                    copy_access(unnamed.file(), existing.as_ref()).map(|()| unnamed)
                });
                let file = file.map_err(|error| {
                    // The message of `tempfile` would name the temporary file.
                    Failure::new(
                        Exit::Failure,
                        format!("{name}: the temporary file beside it can't be created: {error}"),
                    )
                })?;
                Ok(Self::Replacement { file, path })
            }
        }
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let (file, path) = match self {
            Self::InPlace { .. } => return Ok(()),
            Self::Replacement { file, path } => (file, path),
        };
        let failed = |error| Failure::io(path.display(), &error);
        file.file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(failed)?;
        File::open(parent_dir(&path)).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl io::Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Replacement { file, .. } => file.file_mut().write(bytes),
            Self::InPlace { file } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a path for an archive that isn't a regular file or is in the store. An archive gets its
/// name only when it is complete.
pub(crate) fn check_archive(named: &Path, dir: &DataDir) -> Result<(), Failure> {
    let name = named.display();
    let path = match resolve(named)
        .map_err(|error| Failure::new(Exit::Failure, format!("{name}: {error}")))?
    {
        Destination::Descriptor(_) => {
            let message = format!(
                "{name}: an archive must be a regular file, which gets its name only when it is complete"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        Destination::Path(path) => path,
    };
    if dir.belongs_to_store(Some(&path), fs::symlink_metadata(&path).ok().as_ref()) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{name} is in the store; choose another place"),
        ));
    }
    Ok(())
}

/// The file that a name leads to.
pub(crate) enum Destination {
    /// An open file of this process.
    Descriptor(i32),
    /// A path that isn't a symbolic link, and may not exist yet.
    Path(PathBuf),
}

/// Follows symbolic links one by one. A link to an open file (`/dev/stdout`, `/dev/fd/3`,
/// `/proc/self/fd/3`) isn't followed, because its text is only a description.
pub(crate) fn resolve(named: &Path) -> io::Result<Destination> {
    if named == Path::new("-") {
        return Ok(Destination::Descriptor(io::stdout().as_raw_fd()));
    }
    let mut path = named.to_owned();
    for _ in 0..LINKS_MAX {
        if let Some(number) = descriptor::number(&path) {
            return Ok(Destination::Descriptor(number));
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() && !descriptor::is_magic(&path) => {
                // An absolute link replaces the whole path.
                path = parent_dir(&path).join(fs::read_link(&path)?);
            }
            Ok(_) => return Ok(Destination::Path(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Destination::Path(path));
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Opens a file that isn't regular. Opening a named pipe blocks until a reader opens it.
fn open_special(path: PathBuf, metadata: &Metadata) -> io::Result<File> {
    if metadata.file_type().is_socket() {
        return UnixStream::connect(path).map(|stream| File::from(OwnedFd::from(stream)));
    }
    interrupt::until_signal(move || OpenOptions::new().write(true).open(path))
        .and_then(|opened| opened)
}

/// Gives a new file the owner, group and mode of the file that it replaces, as far as the process
/// is permitted. If the group can't be kept, it gets no access.
fn copy_access(file: &File, existing: Option<&Metadata>) -> io::Result<()> {
    let Some(existing) = existing else {
        return file.set_permissions(Permissions::from_mode(NEW_MODE));
    };
    let _ = fchown(file, Some(existing.uid()), Some(existing.gid()))
        .or_else(|_| fchown(file, None, Some(existing.gid())));
    let is_same_group = file.metadata()?.gid() == existing.gid();
    let mode = existing.mode() & if is_same_group { 0o777 } else { 0o707 };
    file.set_permissions(Permissions::from_mode(mode))
}

/// A temporary file. It has no name, so that nothing is left if the process is killed, unless the
/// file system requires one.
pub(crate) enum TemporaryFile {
    Unlinked { file: File, dir: PathBuf },
    Named(NamedTempFile),
}

impl TemporaryFile {
    fn create(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
            let file = File::from(file);
            // Without /proc the file can't be linked later.
            if fs::symlink_metadata(name_of(&file)).is_ok() {
                return Ok(Self::Unlinked { file, dir: dir.to_owned() });
            }
        }
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir).map(Self::Named)
    }

    fn file(&self) -> &File {
        match self {
            Self::Unlinked { file, .. } => file,
            Self::Named(file) => file.as_file(),
        }
    }

    fn file_mut(&mut self) -> &mut File {
        match self {
            Self::Unlinked { file, .. } => file,
            Self::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives the file its name, and replaces a file that has it.
    fn persist(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Named(file) => file.persist(path).map(drop).map_err(|error| error.error),
            Self::Unlinked { file, dir } => {
                // A link can't replace a file, but a rename can.
                let link = |path: &Path| {
                    rustix::fs::linkat(CWD, name_of(&file), CWD, path, AtFlags::SYMLINK_FOLLOW)
                        .map_err(io::Error::from)
                };
                let named = tempfile::Builder::new().prefix(TEMPORARY).make_in(dir, link)?;
                named.into_temp_path().persist(path).map_err(|error| error.error)
            }
        }
    }
}

/// Returns the path of an open file in procfs.
fn name_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}
