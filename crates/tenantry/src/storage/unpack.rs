//! Writing the files of users out of an archive.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Attribute, Attributes, LostAttribute};
use super::beneath::{BulkSync, Mounts, make_dir, open_dir};
use super::errors::{file_error, refused};
use super::holes::Segment;
use super::layout::PRIVATE;
use super::ownership::Ownership;
use crate::{Error, ErrorKind, Result};

/// The bits of a file's mode that are restored. Without set-user-ID and set-group-ID no user gets
/// another one's permissions by running a file of an archive.
const FILE_MODE: u32 = 0o777;
/// The bits of a directory's mode that are restored. There set-group-ID and sticky only decide on
/// the entries.
const DIRECTORY_MODE: u32 = 0o3777;

/// At most this many lost attributes are named.
const LOST_NAMED_MAX: usize = 100;

/// The attributes that could not be set.
#[derive(Debug, Default)]
pub(crate) struct LostAttributes {
    /// The first of them, with the file or directory and the reason.
    pub(crate) named: Vec<(PathBuf, String)>,
    /// Their number, named or not.
    pub(crate) count: u64,
}

/// Writes the files of an archive below a directory into which no other process writes.
///
/// No name is looked up through a symbolic link, not even one from the archive. A directory gets
/// its attributes once all entries have been written. Before [`Self::finish`] everything is
/// accessible for its owner alone.
pub(crate) struct Unpacker {
    top: OwnedFd,
    point: &'static str,
    /// The latest directory, by its path: the next file is likely in it, too.
    last: Option<(PathBuf, OwnedFd)>,
    owner: Ownership,
    /// The owner and the group of everything.
    ids: (u32, u32),
    /// The owner of the store when it was archived, if owners are restored: their files go to the
    /// new owner.
    former: Option<(u32, u32)>,
    /// The directories of one user whose attributes are still to be set, each before those in it.
    directories: Vec<(PathBuf, Attributes)>,
    lost: LostAttributes,
    sync: BulkSync,
}

impl Unpacker {
    pub(super) fn new(
        top: OwnedFd,
        owner: Ownership,
        former: Option<(u32, u32)>,
        point: &'static str,
    ) -> Result<Self> {
        let stat = fs::fstat(&top).map_err(|error| refused(error.into()))?;
        let ids = owner.ids().unwrap_or((stat.st_uid, stat.st_gid));
        let sync = BulkSync::detect(&top).map_err(refused)?;
        let (directories, lost) = (Vec::new(), LostAttributes::default());
        Ok(Self { top, point, last: None, owner, ids, former, directories, lost, sync })
    }

    /// Makes a directory, and those above it.
    pub(crate) fn directory(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let mut attributes = attributes.clone();
        attributes.mode &= DIRECTORY_MODE;
        if !self.directories.first().is_some_and(|(top, _)| path.starts_with(top)) {
            self.finish_user()?;
            // A user's directory itself belongs to the store, and is private.
            attributes.mode = PRIVATE.bits();
            attributes.extended.retain(|extended| !extended.is_access());
        }
        self.open(path)?;
        self.directories.push((path.to_owned(), attributes));
        Ok(())
    }

    /// Sets the remaining attributes, and returns all that could not be set.
    pub(crate) fn finish(mut self) -> Result<LostAttributes> {
        self.finish_user()?;
        Ok(self.lost)
    }

    /// Sets the attributes of the latest user's directories.
    fn finish_user(&mut self) -> Result<()> {
        // No directory is entered after this, since its mode may forbid that.
        self.leave_last()?;
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let name = if path.as_os_str().is_empty() { Path::new(".") } else { &*path };
            let dir = open_dir(&self.top, name, Mounts::Enter).map_err(refused)?;
            let unset = attributes::apply(&dir, &self.adjusted(&attributes), self.point)
                .map_err(unwritable)?;
            self.note(&path, unset);
            self.sync(&dir)?;
        }
        Ok(())
    }

    fn open(&mut self, path: &Path) -> Result<&OwnedFd> {
        let dir = match self.last.take() {
            Some((last, dir)) if last == path => dir,
            last => {
                self.last = last;
                self.leave_last()?;
                let mut here = open_dir(&self.top, ".", Mounts::Enter).map_err(refused)?;
                for name in path {
                    let made = make_dir(&here, name, self.owner, self.point).map_err(refused)?;
                    self.sync(&here)?;
                    here = made;
                }
                here
            }
        };
        Ok(&self.last.insert((path.to_owned(), dir)).1)
    }

    /// Finishes the latest directory, for now.
    fn leave_last(&mut self) -> Result<()> {
        self.last.take().map_or(Ok(()), |(_, dir)| self.sync(dir))
    }

    /// Syncs a file or directory, unless a `syncfs` in the end includes it.
    fn sync(&self, file: impl AsFd) -> Result<()> {
        self.sync.sync(file, self.point).map_err(unwritable)
    }

    /// Writes a file that doesn't exist, and makes its directory if necessary. The bytes of a
    /// sparse file are those of its segments.
    pub(crate) fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        sparse: Option<(&[Segment], u64)>,
        input: &mut dyn Read,
    ) -> Result<()> {
        let (above, name) = split(path)?;
        let mut attributes = self.adjusted(attributes);
        attributes.mode &= FILE_MODE;
        let (point, sync, dir) = (self.point, self.sync, self.open(above)?);
        crate::failpoint::reach(point);
        let mut write = || -> io::Result<Vec<LostAttribute>> {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(fs::openat(dir, &*name, flags, Mode::RUSR | Mode::WUSR)?);
            match sparse {
                None => drop(io::copy(input, &mut file)?),
                Some((segments, length)) => write_segments(segments, length, input, &mut file)?,
            }
            let unset = attributes::apply(&file, &attributes, point)?;
            sync.sync(&file, point)?;
            Ok(unset)
        };
        let unset = write().map_err(unwritable)?;
        self.note(path, unset);
        Ok(())
    }

    /// Makes a hard link to a file that was written.
    pub(crate) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let ((above, name), (target_above, target_name)) = (split(path)?, split(target)?);
        let target_above =
            if target_above.as_os_str().is_empty() { Path::new(".") } else { target_above };
        let target_dir = open_dir(&self.top, target_above, Mounts::Enter).map_err(refused)?;
        let (point, dir) = (self.point, self.open(above)?);
        crate::failpoint::reach(point);
        match fs::linkat(&target_dir, &*target_name, dir, &*name, AtFlags::empty()) {
            // Some file systems have no hard links, and all limit their number.
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            linked => return linked.map_err(|error| unwritable(error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&target_dir, &*target_name, flags, Mode::empty());
        self.copy(path, file.map_err(|error| unwritable(error.into()))?.into())
    }

    /// Makes a hard link to a file elsewhere on the file system.
    pub(crate) fn name_again(&mut self, path: &Path, file: File) -> Result<()> {
        let (above, name) = split(path)?;
        let (point, dir) = (self.point, self.open(above)?);
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        crate::failpoint::reach(point);
        match fs::linkat(fs::CWD, &*itself, dir, &*name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(unwritable(Errno::EXIST.into())),
            // It may be on another file system, have been removed, or belong to another user.
            Err(_) => self.copy(path, file),
        }
    }

    /// Writes a copy of a file.
    fn copy(&mut self, path: &Path, mut file: File) -> Result<()> {
        let attributes = attributes::read(&file).map_err(unwritable)?;
        file.rewind().map_err(unwritable)?;
        self.file(path, &attributes, None, &mut file)
    }

    /// Makes a symbolic link, whatever its target is.
    pub(crate) fn link(
        &mut self,
        path: &Path,
        target: &Path,
        attributes: &Attributes,
    ) -> Result<()> {
        let (above, name) = split(path)?;
        let attributes = self.adjusted(attributes);
        let (point, dir) = (self.point, self.open(above)?);
        crate::failpoint::reach(point);
        let made = fs::symlinkat(target, dir, &*name).map_err(io::Error::from);
        let unset = made
            .and_then(|()| {
                attributes::apply_to_new(dir, &*name, FileType::Symlink, &attributes, point)
            })
            .map_err(unwritable)?;
        self.note(path, unset);
        Ok(())
    }

    /// Makes a pipe.
    pub(crate) fn pipe(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let (above, name) = split(path)?;
        let mut attributes = self.adjusted(attributes);
        attributes.mode &= FILE_MODE;
        let (point, dir) = (self.point, self.open(above)?);
        crate::failpoint::reach(point);
        let made = fs::mknodat(dir, &*name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(io::Error::from);
        let unset = made
            .and_then(|()| {
                attributes::apply_to_new(dir, &*name, FileType::Fifo, &attributes, point)
            })
            .map_err(unwritable)?;
        self.note(path, unset);
        Ok(())
    }

    /// Returns the attributes with the owner that they get here.
    fn adjusted(&self, attributes: &Attributes) -> Attributes {
        let of =
            |former: u32, archived: u32, now: u32| if archived == former { now } else { archived };
        let (owner, group) = match self.former {
            None => self.ids,
            Some(former) => (
                of(former.0, attributes.owner, self.ids.0),
                of(former.1, attributes.group, self.ids.1),
            ),
        };
        Attributes { owner, group, ..attributes.clone() }
    }

    fn note(&mut self, path: &Path, unset: Vec<LostAttribute>) {
        // Only a restore by root restores owners.
        for unset in unset
            .into_iter()
            .filter(|unset| !matches!(unset.attribute, Attribute::Owner | Attribute::Group))
        {
            self.lost.count += 1;
            if self.lost.named.len() < LOST_NAMED_MAX {
                let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
                self.lost.named.push((path.to_owned(), unset.to_string()));
            }
        }
    }
}

fn write_segments(
    segments: &[Segment],
    length: u64,
    input: &mut dyn Read,
    file: &mut File,
) -> io::Result<()> {
    for segment in segments {
        file.seek(SeekFrom::Start(segment.offset))?;
        let count = io::copy(&mut Read::take(&mut *input, segment.length), file)?;
        if count != segment.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    file.set_len(length)
}

fn split(path: &Path) -> Result<(&Path, CString)> {
    let name = path
        .file_name()
        .and_then(|name| CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name)).ok());
    let (Some(above), Some(name)) = (path.parent(), name) else {
        return Err(Error::new(ErrorKind::Corrupt, "a file in the archive has no name"));
    };
    Ok((above, name))
}

fn unwritable(error: io::Error) -> Error {
    file_error(error, "the files of the archive can't be written")
}
