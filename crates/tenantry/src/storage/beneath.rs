//! Opening what lies beneath a directory, and changing directories in steps.
//!
//! Nothing here takes a path from the root of the file system. A name is looked up from a descriptor of a directory
//! by `openat2` (<https://man7.org/linux/man-pages/man2/openat2.2.html>), and the kernel refuses it if a symbolic link is
//! met or the directory would be left: at the moment of opening, so that there is nothing to race against. To check a
//! path first and to open it then loses that race.
//!
//! What changes a directory is a step with a [point](crate::point) before it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::point;

/// Who made a directory may use it, and nobody else.
pub(super) const PRIVATE: Mode = Mode::RWXU;

/// Whether a file system that is mounted on the way may be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounts {
    Enter,
    Refuse,
}

/// Opens the directory at `path` beneath `at`.
pub(super) fn open_dir(at: impl AsFd, path: impl Arg + Copy, mounts: Mounts) -> io::Result<OwnedFd> {
    open(at, path, OFlags::RDONLY | OFlags::DIRECTORY, mounts)
}

fn open(at: impl AsFd, path: impl Arg + Copy, flags: OFlags, mounts: Mounts) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if mounts == Mounts::Refuse {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let flags = flags | OFlags::CLOEXEC;
    loop {
        match fs::openat2(&at, path, flags, Mode::empty(), resolve) {
            // The kernel couldn't make sure in the face of a rename: it asks for another attempt.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return Ok(opened?),
        }
    }
}

/// What stands at a name in a directory, a symbolic link being itself; `None` if there is nothing.
pub(super) fn stat(at: impl AsFd, name: impl Arg) -> io::Result<Option<Stat>> {
    match fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The names in a directory with what they are, as far as the file system says so at once.
pub(super) fn entries(dir: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<(CString, FileType)>> + use<>> {
    let entries = fs::Dir::read_from(dir)?;
    Ok(entries.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok((entry.file_name().to_owned(), entry.file_type()))),
        Err(error) => Some(Err(error.into())),
    }))
}

pub(super) fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    Ok(entries(dir)?.next().transpose()?.is_none())
}

/// Makes a private directory, unless something stands there already, and opens it.
pub(super) fn make_dir(at: impl AsFd, name: impl Arg + Copy, point: &'static str) -> io::Result<OwnedFd> {
    point::reach(point);
    match fs::mkdirat(&at, name, PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // The umask may have taken away even what the owner needs: now, or before a crash that came before this.
    if stat(&at, name)?.is_some_and(|made| is_dir(&made) && !Mode::from_raw_mode(made.st_mode).contains(PRIVATE)) {
        make_private(&at, name, "make: change a mode")?;
    }
    open_dir(at, name, Mounts::Enter)
}

/// Gives a directory the mode 0700, whatever it is now.
pub(super) fn make_private(at: impl AsFd, name: impl Arg + Copy, point: &'static str) -> io::Result<()> {
    point::reach(point);
    // A directory that can't be opened can still be named by a descriptor; the detour through /proc is how its mode is
    // changed before Linux 6.6.
    let dir = open(at, name, OFlags::PATH | OFlags::DIRECTORY, Mounts::Refuse)?;
    Ok(fs::chmodat(fs::CWD, format!("/proc/self/fd/{}", dir.as_raw_fd()), PRIVATE, AtFlags::empty())?)
}

/// Moves what stands at one name to another, where nothing may stand.
pub(super) fn rename(
    from: impl AsFd,
    name: impl Arg,
    to: impl AsFd,
    new_name: impl Arg,
    point: &'static str,
) -> io::Result<()> {
    point::reach(point);
    Ok(fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE)?)
}

/// Removes an empty directory.
pub(super) fn remove_dir(at: impl AsFd, name: impl Arg, point: &'static str) -> io::Result<()> {
    point::reach(point);
    Ok(fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

/// Removes what isn't a directory. A symbolic link is removed itself.
pub(super) fn remove_file(at: impl AsFd, name: impl Arg, point: &'static str) -> io::Result<()> {
    point::reach(point);
    Ok(fs::unlinkat(at, name, AtFlags::empty())?)
}

/// Waits until what was changed in a directory is on the disk.
pub(super) fn sync(dir: impl AsFd, point: &'static str) -> io::Result<()> {
    point::reach(point);
    Ok(fs::fsync(dir)?)
}

/// The error code, for what isn't a failure everywhere.
pub(super) fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// The name of an entry as people are shown it.
pub(super) fn shown(name: &CStr) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes()).into()
}
