//! Files that a command writes, and what it mustn't write over.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

use crate::descriptor;
use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::place::{Place, directory_of};
use crate::stdio::Patient;

/// What the name of a temporary file begins with.
const TEMPORARY: &str = ".tenantry-";
/// How many symbolic links are followed, as the kernel does.
const LINKS_MAX: u32 = 40;
/// The mode of a file that wasn't there: its content is personal data.
const NEW_MODE: u32 = 0o600;

/// A file that appears under its name when it is whole. What isn't a regular file, or is open
/// already, is written into as it is.
pub(crate) enum Target {
    Replacement { file: Unnamed, path: PathBuf },
    AsItIs { file: Patient },
}

impl Target {
    /// Begins to write the file that was named: `-` is standard output. Refuses a file of the store
    /// and `source`, from which is read.
    pub(crate) fn create(named: &Path, place: &Place, source: Option<&Path>) -> Result<Self, Failure> {
        let name = named.display();
        let failed = |error: io::Error| Failure::new(Exit::Failure, format!("{name}: {error}"));
        let source = source.and_then(|source| fs::metadata(source).ok());
        let refuse = |path: Option<&Path>, metadata: Option<&Metadata>| {
            if place.is_of_store(path, metadata) {
                return Err(Failure::new(Exit::Usage, format!("{name} is a file of the store; choose another")));
            }
            let is_same = |source: &Metadata, this: &Metadata| (source.dev(), source.ino()) == (this.dev(), this.ino());
            match (&source, metadata) {
                (Some(source), Some(this)) if source.is_file() && is_same(source, this) => {
                    Err(Failure::new(Exit::Usage, format!("{name} is the file to read; choose another")))
                }
                _ => Ok(()),
            }
        };
        let path = match resolve(named).map_err(failed)? {
            Resolved::Descriptor(number) => {
                let file = descriptor::duplicate(number).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
                refuse(path.as_deref(), Some(&metadata))?;
                return Ok(Self::AsItIs { file: Patient::new(file) });
            }
            Resolved::Path(path) => path,
        };
        let existing = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            metadata => Some(metadata.map_err(failed)?),
        };
        refuse(Some(&path), existing.as_ref())?;
        match existing {
            Some(metadata) if !metadata.is_file() => {
                let file = open_special(path, &metadata).map_err(failed)?;
                Ok(Self::AsItIs { file: Patient::new(file) })
            }
            existing => {
                let file = Unnamed::create(directory_of(&path))
                    .and_then(|unnamed| keep_access(unnamed.file(), existing.as_ref()).map(|()| unnamed));
                let file = file.map_err(|error| {
                    // The library's own message names the temporary file.
                    Failure::new(Exit::Failure, format!("{name}: the temporary file beside it can't be made: {error}"))
                })?;
                Ok(Self::Replacement { file, path })
            }
        }
    }

    /// Makes the file last, under its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let (file, path) = match self {
            Self::AsItIs { .. } => return Ok(()),
            Self::Replacement { file, path } => (file, path),
        };
        let failed = |error| Failure::io(path.display(), &error);
        file.file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(failed)?;
        File::open(directory_of(&path)).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl io::Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Replacement { file, .. } => file.file_mut().write(bytes),
            Self::AsItIs { file } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a place where no archive can be made: it has its name only when it is whole, so it has
/// to be a file, and none of the store's.
pub(crate) fn check_archive(named: &Path, place: &Place) -> Result<(), Failure> {
    let name = named.display();
    let path = match resolve(named).map_err(|error| Failure::new(Exit::Failure, format!("{name}: {error}")))? {
        Resolved::Descriptor(_) => {
            let message = format!("{name}: an archive has to be a file, which has its name only when it is whole");
            return Err(Failure::new(Exit::Usage, message));
        }
        Resolved::Path(path) => path,
    };
    if place.is_of_store(Some(&path), fs::symlink_metadata(&path).ok().as_ref()) {
        return Err(Failure::new(Exit::Usage, format!("{name} lies in the store; choose another place")));
    }
    Ok(())
}

/// Where a name leads.
pub(crate) enum Resolved {
    /// To an open file of this process.
    Descriptor(i32),
    /// To a path that is no symbolic link, where there may be nothing yet.
    Path(PathBuf),
}

/// Follows a name link by link. The link of an open file (`/dev/stdout`, `/dev/fd/3`,
/// `/proc/self/fd/3`) stands for the file and isn't followed: its text is only a description.
pub(crate) fn resolve(named: &Path) -> io::Result<Resolved> {
    if named == Path::new("-") {
        return Ok(Resolved::Descriptor(io::stdout().as_raw_fd()));
    }
    let mut path = named.to_owned();
    for _ in 0..LINKS_MAX {
        if let Some(number) = descriptor::number(&path) {
            return Ok(Resolved::Descriptor(number));
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() && !descriptor::is_magic(&path) => {
                // An absolute link takes the place of the whole path.
                path = directory_of(&path).join(fs::read_link(&path)?);
            }
            Ok(_) => return Ok(Resolved::Path(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Resolved::Path(path)),
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Opens what isn't a regular file. A named pipe may take its time: whoever reads it has to come
/// first.
fn open_special(path: PathBuf, metadata: &Metadata) -> io::Result<File> {
    if metadata.file_type().is_socket() {
        return UnixStream::connect(path).map(|stream| File::from(OwnedFd::from(stream)));
    }
    interrupt::unless_stopped(move || OpenOptions::new().write(true).open(path)).and_then(|opened| opened)
}

/// Gives a new file the owner, the group and the mode of the one that it replaces, as far as the
/// process may. A group that can't be kept gets no access.
fn keep_access(file: &File, existing: Option<&Metadata>) -> io::Result<()> {
    let Some(existing) = existing else { return file.set_permissions(Permissions::from_mode(NEW_MODE)) };
    let _ =
        fchown(file, Some(existing.uid()), Some(existing.gid())).or_else(|_| fchown(file, None, Some(existing.gid())));
    let is_same_group = file.metadata()?.gid() == existing.gid();
    let mode = existing.mode() & if is_same_group { 0o777 } else { 0o707 };
    file.set_permissions(Permissions::from_mode(mode))
}

/// A file without a name, so that nothing of it is left whatever ends the process. Where the file
/// system has none, a named one.
pub(crate) enum Unnamed {
    Unlinked { file: File, dir: PathBuf },
    Named(NamedTempFile),
}

impl Unnamed {
    fn create(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
            let file = File::from(file);
            // Without /proc it could never be named.
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

    /// Names the file, in place of whatever has the name.
    fn persist(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Named(file) => file.persist(path).map(drop).map_err(|error| error.error),
            Self::Unlinked { file, dir } => {
                // A link never replaces anything, and a rename does.
                let link = |path: &Path| {
                    rustix::fs::linkat(CWD, name_of(&file), CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
                };
                let named = tempfile::Builder::new().prefix(TEMPORARY).make_in(dir, link)?;
                named.into_temp_path().persist(path).map_err(|error| error.error)
            }
        }
    }
}

/// The name of an open file that has no other.
fn name_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}
