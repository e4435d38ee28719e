//! Opening files beneath a directory, and changing directories in steps.
//!
//! No path starts at the root of the file system. A name is looked up from a descriptor of a
//! directory by [`openat2`](https://man7.org/linux/man-pages/man2/openat2.2.html). The kernel
//! refuses a symbolic link, and a path that leaves the directory (path traversal), at the moment of
//! opening, so there is no race between a check and its use. Where `openat2` is refused, as by the
//! seccomp filter of a hardened service, a [walk] takes its place, which is as safe.
//!
//! Each step that changes a directory has a [failpoint](crate::failpoint) before it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxFlags,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::layout::{PRIVATE, PRIVATE_FILE};
use super::ownership::{Ownership, change_mode};
use super::stat::{is_dir, stat};
use crate::failpoint::{self, Refusal};

/// The mode of a placeholder: an empty directory at the target of a move without
/// `RENAME_NOREPLACE`. No permission at all distinguishes one that a crash leaves from a directory
/// of an application. The sticky bit only shows a person what it is, if the file system keeps it.
const PLACEHOLDER: Mode = Mode::SVTX;

/// Number of times that directories are made again which another program removes.
pub(super) const ATTEMPTS_MAX: usize = 100;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether the kernel has no `openat2`. That doesn't change while the process lives.
static HAS_NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Whether a lookup may enter another mount.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounts {
    Enter,
    Refuse,
}

/// Opens the directory at `path` beneath `at`.
pub(super) fn open_dir(
    at: impl AsFd,
    path: impl Arg + Copy,
    mounts: Mounts,
) -> io::Result<OwnedFd> {
    open(at, path, DIRECTORY, mounts)
}

/// Opens the directory at `path` beneath `at`, in the same mount.
pub(crate) fn open_dir_within(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open_dir(at, path, Mounts::Refuse)
}

/// Opens the file at `path` beneath `at` for reading, in the same mount. It may be of any type: a
/// FIFO without a writer is opened at once, and a terminal doesn't become that of the process.
pub(crate) fn open_file_within(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open(at, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mounts::Refuse)
}

fn open(
    at: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    mounts: Mounts,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    if !HAS_NO_OPENAT2.load(Ordering::Relaxed) {
        match open_at_once(&at, path, flags, mounts) {
            Err(Errno::NOSYS) => HAS_NO_OPENAT2.store(true, Ordering::Relaxed),
            // A filter that refuses the call, or a kernel that doesn't know a flag. If the
            // directory itself refuses, the walk fails likewise.
            Err(Errno::PERM | Errno::INVAL) => {}
            opened => return Ok(opened?),
        }
    }
    Ok(path.into_with_c_str(|path| walk(&at, path, flags, mounts))?)
}

fn open_at_once(
    at: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    mounts: Mounts,
) -> rustix::io::Result<OwnedFd> {
    if failpoint::is_refused(Refusal::Openat2, "") {
        return Err(Errno::NOSYS);
    }
    let mut resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if mounts == Mounts::Refuse {
        resolve |= ResolveFlags::NO_XDEV;
    }
    loop {
        match fs::openat2(&at, path, flags, Mode::empty(), resolve) {
            // A concurrent rename kept the kernel from a safe lookup.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// Returns how directories are opened here: `openat2` or `walk`.
pub(super) fn open_method(at: impl AsFd) -> &'static str {
    let is_refused = || {
        matches!(
            open_at_once(at, c".", DIRECTORY, Mounts::Refuse),
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL)
        )
    };
    if HAS_NO_OPENAT2.load(Ordering::Relaxed) || is_refused() { "walk" } else { "openat2" }
}

/// Opens a directory segment by segment, each from the descriptor of the one above and without
/// following links, so that no step leads anywhere but down. Returns the errors of `openat2`, but
/// refuses any `..`.
fn walk(at: impl AsFd, path: &CStr, flags: OFlags, mounts: Mounts) -> rustix::io::Result<OwnedFd> {
    let bytes = path.to_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut names: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').collect();
    if bytes.starts_with(b"/") || names.contains(&&b".."[..]) {
        return Err(Errno::XDEV);
    }
    names.retain(|name| !name.is_empty() && *name != b".");
    let last = names.pop().unwrap_or(b".");
    let mount = if mounts == Mounts::Refuse { Some(mount_of(&at)?) } else { None };
    let mut above: Option<OwnedFd> = None;
    for name in names {
        let here = above.as_ref().map_or(at.as_fd(), |above| above.as_fd());
        above = Some(step(here, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, mount)?);
    }
    step(above.as_ref().map_or(at.as_fd(), |above| above.as_fd()), last, flags, mount)
}

/// Opens an entry of a directory.
fn step(
    at: impl AsFd,
    name: &[u8],
    flags: OFlags,
    mount: Option<Mount>,
) -> rustix::io::Result<OwnedFd> {
    let opened = loop {
        match fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::INTR) => {}
            // With O_DIRECTORY the kernel reports a link as not a directory.
            Err(Errno::NOTDIR) => {
                let found = fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
                return Err(if is_link { Errno::LOOP } else { Errno::NOTDIR });
            }
            opened => break opened?,
        }
    };
    match mount {
        Some(mount) if !mount_of(&opened)?.is(mount) => Err(Errno::XDEV),
        _ => Ok(opened),
    }
}

/// The mount of a directory.
#[derive(Clone, Copy)]
struct Mount {
    device: u64,
    /// Distinguishes a directory from a bind mount of the same file system. It is the only proof of
    /// a mount: each subvolume of btrfs has a device of its own.
    id: Option<u64>,
}

impl Mount {
    fn is(self, other: Self) -> bool {
        match (self.id, other.id) {
            (Some(id), Some(other)) => id == other,
            _ => self.device == other.device,
        }
    }
}

fn mount_of(dir: impl AsFd) -> rustix::io::Result<Mount> {
    let device = fs::fstat(&dir)?.st_dev;
    let id = match fs::statx(&dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Some(found.stx_mnt_id),
        // Before Linux 5.8, or behind a filter.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => mount_id_in_proc(&dir),
        Err(error) => return Err(error),
    };
    Ok(Mount { device, id })
}

fn mount_id_in_proc(dir: impl AsFd) -> Option<u64> {
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Returns whether two directories are in one mount. If so, only the file system itself refuses a
/// rename between them (`EXDEV`).
pub(super) fn are_in_one_mount(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    Ok(mount_of(one)?.is(mount_of(other)?))
}

/// Lists the names in a directory, with their types as far as the file system reports them at once.
pub(super) fn entries(
    dir: &OwnedFd,
) -> io::Result<impl Iterator<Item = io::Result<(CString, FileType)>> + use<>> {
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

/// Makes a private directory, unless an entry of the name exists, and opens it. Root gives it to
/// the owner of the store.
pub(super) fn make_dir(
    at: impl AsFd,
    name: impl Arg + Copy,
    owner: Ownership,
    point: &'static str,
) -> io::Result<OwnedFd> {
    failpoint::reach(point);
    let is_new = match fs::mkdirat(&at, name, PRIVATE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    // The umask may have removed the owner's permissions, now or before a crash.
    if stat(&at, name)?
        .is_some_and(|made| is_dir(&made) && !Mode::from_raw_mode(made.st_mode).contains(PRIVATE))
    {
        make_private(&at, name, "make: change a mode")?;
    }
    let dir = open_dir(&at, name, Mounts::Enter)?;
    if let Err(error) = owner.give(&dir) {
        if is_new {
            // A directory of root's would lock out the owner.
            let _ = fs::unlinkat(at, name, AtFlags::REMOVEDIR);
        }
        return Err(error);
    }
    Ok(dir)
}

/// Gives a directory the mode 0700.
pub(super) fn make_private(
    at: impl AsFd,
    name: impl Arg + Copy,
    point: &'static str,
) -> io::Result<()> {
    failpoint::reach(point);
    // `O_PATH` opens a directory that can't be opened otherwise.
    change_mode(open_path(at, name)?, PRIVATE)
}

/// Writes and syncs a file, but not its name.
pub(super) fn write_file(
    dir: &OwnedFd,
    name: &str,
    text: &[u8],
    owner: Ownership,
    point: &'static str,
) -> io::Result<()> {
    failpoint::reach(point);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match fs::openat(dir, name, flags, PRIVATE_FILE) {
        // A leftover of a crash. It isn't written to: it could be a hard link to a foreign file
        // that root would empty and give away.
        Err(Errno::EXIST) => {
            fs::unlinkat(dir, name, AtFlags::empty())?;
            fs::openat(dir, name, flags, PRIVATE_FILE)?
        }
        file => file?,
    };
    let mut file = File::from(file);
    owner.give_file(&file, PRIVATE_FILE)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Opens a directory with `O_PATH`, which needs no permission on it.
pub(super) fn open_path(at: impl AsFd, name: impl Arg + Copy) -> io::Result<OwnedFd> {
    open(at, name, OFlags::PATH | OFlags::DIRECTORY, Mounts::Refuse)
}

/// Moves an entry to a name that doesn't exist.
pub(super) fn rename(
    from: impl AsFd,
    name: impl Arg + Copy,
    to: impl AsFd,
    new_name: impl Arg + Copy,
    point: &'static str,
) -> io::Result<()> {
    failpoint::reach(point);
    if failpoint::is_refused(Refusal::Rename, point) {
        return Err(Errno::XDEV.into());
    }
    let renamed = match failpoint::is_refused(Refusal::NoReplace, point) {
        true => Err(Errno::INVAL),
        false => fs::renameat_with(&from, name, &to, new_name, RenameFlags::NOREPLACE),
    };
    match renamed {
        // Some file systems don't know the flag, and some filters the call.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        // An attempt without the flag may have been interrupted.
        Err(Errno::EXIST) if stat(&to, new_name)?.is_some_and(|found| is_placeholder(&found)) => {}
        renamed => return Ok(renamed?),
    }
    rename_in_steps(from, name, to, new_name, point)
}

/// Moves an entry without `RENAME_NOREPLACE`, under the locks that exclude other processes of this
/// program. A rename replaces an empty directory and nothing else, so a placeholder is made first.
/// After a crash between the steps the next attempt continues.
fn rename_in_steps(
    from: impl AsFd,
    name: impl Arg + Copy,
    to: impl AsFd,
    new_name: impl Arg + Copy,
    point: &'static str,
) -> io::Result<()> {
    let source = stat(&from, name)?.ok_or(Errno::NOENT)?;
    let target = stat(&to, new_name)?;
    if target.as_ref().is_some_and(|found| !is_placeholder(found)) {
        return Err(Errno::EXIST.into());
    }
    failpoint::reach(point);
    if !is_dir(&source) {
        if target.is_some() {
            return Err(Errno::EXIST.into());
        }
        return Ok(fs::renameat(from, name, to, new_name)?);
    }
    if target.is_none() {
        fs::mkdirat(&to, new_name, PLACEHOLDER)?;
        if !stat(&to, new_name)?.is_some_and(|made| is_placeholder(&made)) {
            // The file system keeps no modes, so that after a crash a placeholder couldn't be
            // recognized.
            fs::unlinkat(&to, new_name, AtFlags::REMOVEDIR)?;
            return Err(Errno::INVAL.into());
        }
        failpoint::reach(point);
    }
    match fs::renameat(from, name, &to, new_name) {
        Ok(()) => Ok(()),
        Err(error) => {
            // Fails if it isn't empty, and then it stays.
            let _ = fs::unlinkat(&to, new_name, AtFlags::REMOVEDIR);
            Err(if error == Errno::NOTEMPTY { Errno::EXIST } else { error }.into())
        }
    }
}

/// Returns whether an entry is a placeholder. bindfs drops the sticky bit, so the permissions alone
/// count.
pub(super) fn is_placeholder(found: &Stat) -> bool {
    is_dir(found)
        && !Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXU | Mode::RWXG | Mode::RWXO)
}

/// Removes an empty directory.
pub(super) fn remove_dir(at: impl AsFd, name: impl Arg, point: &'static str) -> io::Result<()> {
    failpoint::reach(point);
    Ok(fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

/// Removes an entry that isn't a directory; of a symbolic link, the link itself.
pub(super) fn remove_file(at: impl AsFd, name: impl Arg, point: &'static str) -> io::Result<()> {
    failpoint::reach(point);
    Ok(fs::unlinkat(at, name, AtFlags::empty())?)
}

/// Syncs a file or directory.
pub(super) fn sync(dir: impl AsFd, point: &'static str) -> io::Result<()> {
    failpoint::reach(point);
    Ok(fs::fsync(dir)?)
}

/// How many files become durable: all at once in the end, or each by itself.
///
/// `syncfs` does nothing, without an error, on a FUSE file system: the kernel doesn't ask the
/// process behind it (`fuse_sync_fs`).
#[derive(Clone, Copy, Debug)]
pub(super) struct BulkSync {
    has_syncfs: bool,
}

impl BulkSync {
    /// Finds out which way the file system of a file or directory takes.
    pub(super) fn detect(file: impl AsFd) -> io::Result<Self> {
        Ok(Self { has_syncfs: fs::fstatfs(file)?.f_type != FUSE })
    }

    /// Syncs one file or directory, unless a `syncfs` in the end includes it.
    pub(super) fn sync(self, file: impl AsFd, point: &'static str) -> io::Result<()> {
        if self.has_syncfs { Ok(()) } else { sync(file, point) }
    }
}

/// Syncs a file, unless a `syncfs` in the end includes it.
pub(crate) fn wait_for_file(file: &File) -> io::Result<()> {
    BulkSync::detect(file)?.sync(file, "restore a backup: sync the files")
}

/// From the kernel's `magic.h`.
const FUSE: fs::FsWord = 0x6573_5546;

/// Returns the name of an entry for a message.
pub(super) fn shown(name: &CStr) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::fs as std_fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::errors::errno;
    use super::*;

    const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let opened = fs::open(dir.path(), FLAGS, Mode::empty()).unwrap();
        (dir, opened)
    }

    #[test]
    fn both_ways_of_opening_refuse_the_same_with_the_same_errors() {
        let (dir, at) = dir();
        std_fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std_fs::write(dir.path().join("a/file"), "").unwrap();
        for (link, to) in [("link", "b"), ("outside", "/"), ("up", ".."), ("dangling", "nowhere")] {
            symlink(to, dir.path().join("a").join(link)).unwrap();
        }
        let cases: &[(&CStr, Option<Errno>)] = &[
            (c"a", None),
            (c"a/b", None),
            (c"./a//b/.", None),
            (c"a/b/", None),
            (c".", None),
            (c"", Some(Errno::NOENT)),
            (c"a/c", Some(Errno::NOENT)),
            (c"c/b", Some(Errno::NOENT)),
            (c"a/file", Some(Errno::NOTDIR)),
            (c"a/file/b", Some(Errno::NOTDIR)),
            (c"a/link", Some(Errno::LOOP)),
            (c"a/outside", Some(Errno::LOOP)),
            (c"a/outside/tmp", Some(Errno::LOOP)),
            (c"a/up/a", Some(Errno::LOOP)),
            (c"a/dangling", Some(Errno::LOOP)),
            (c"..", Some(Errno::XDEV)),
            (c"a/../..", Some(Errno::XDEV)),
            (c"a/b/../../../etc", Some(Errno::XDEV)),
            (c"/", Some(Errno::XDEV)),
            (c"/etc", Some(Errno::XDEV)),
        ];
        for mounts in [Mounts::Enter, Mounts::Refuse] {
            for (path, refusal) in cases {
                let ways =
                    [open_at_once(&at, *path, FLAGS, mounts), walk(&at, path, FLAGS, mounts)];
                let inodes = ways.map(|opened| opened.map(|dir| fs::fstat(dir).unwrap().st_ino));
                assert_eq!(inodes[0], inodes[1], "{path:?}");
                assert_eq!(inodes[1].err(), *refusal, "{path:?}");
            }
        }
        // A path that stays within the directory is refused as well, since no caller needs it.
        assert_eq!(walk(&at, c"a/../a", FLAGS, Mounts::Enter).unwrap_err(), Errno::XDEV);
    }

    /// A child process would keep a lock on it otherwise.
    #[test]
    fn no_descriptor_is_left_to_a_child_process() {
        let (dir, at) = dir();
        std_fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let opened = [
            open_dir(&at, c"a/b", Mounts::Refuse).unwrap(),
            open_path(&at, c"a/b").unwrap(),
            walk(&at, c"a/b", DIRECTORY, Mounts::Refuse).unwrap(),
            make_dir(&at, c"new", Ownership::default(), "a test").unwrap(),
        ];
        for dir in opened {
            assert!(rustix::io::fcntl_getfd(dir).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn both_ways_of_opening_see_another_mount() {
        let root = fs::open("/", FLAGS, Mode::empty()).unwrap();
        for path in [c"proc", c"proc/self/fd"] {
            let errors = [
                open_at_once(&root, path, FLAGS, Mounts::Refuse),
                walk(&root, path, FLAGS, Mounts::Refuse),
            ];
            // `self` is a link, behind the mount.
            assert_eq!(errors.map(|opened| opened.unwrap_err()), [Errno::XDEV; 2], "{path:?}");
        }
        assert!(walk(&root, c"proc", FLAGS, Mounts::Enter).is_ok());
    }

    #[test]
    fn a_directory_is_moved_in_steps_onto_nothing_or_what_an_earlier_attempt_left() {
        let (dir, at) = dir();
        let path = |name: &str| dir.path().join(name);
        let filled = |name: &str| {
            std_fs::create_dir(path(name)).unwrap();
            std_fs::write(path(name).join("notes.txt"), name).unwrap();
        };
        let moved =
            |from: &str, to: &str| rename_in_steps(&at, from, &at, to, "move: change a mode");
        filled("one");
        moved("one", "two").unwrap();
        assert_eq!(
            (path("one").exists(), std_fs::read_to_string(path("two/notes.txt")).unwrap()),
            (false, "one".into())
        );
        // An empty directory of an application.
        std_fs::create_dir(path("empty")).unwrap();
        filled("three");
        std_fs::write(path("file"), "").unwrap();
        symlink("nowhere", path("link")).unwrap();
        for taken in ["empty", "three", "file", "link"] {
            assert_eq!(errno(&moved("two", taken).unwrap_err()), Some(Errno::EXIST), "{taken}");
            assert!(path("two/notes.txt").exists());
        }
        // A missing source leaves no placeholder.
        assert_eq!(errno(&moved("gone", "four").unwrap_err()), Some(Errno::NOENT));
        assert!(!path("four").exists());
        // A crash after the first step: either way continues.
        for (from, to, at_once) in [("two", "four", false), ("three", "five", true)] {
            fs::mkdirat(&at, to, PLACEHOLDER).unwrap();
            if at_once {
                rename(&at, from, &at, to, "move: change a mode")
            } else {
                moved(from, to)
            }
            .unwrap();
            assert!(path(to).join("notes.txt").exists() && !path(from).exists());
            assert_ne!(std_fs::metadata(path(to)).unwrap().permissions().mode() & 0o7777, 0o1000);
        }
        // A failure of the last step undoes the first.
        std_fs::create_dir(path("four/within")).unwrap();
        let within = fs::open(path("four/within"), FLAGS, Mode::empty()).unwrap();
        let error =
            rename_in_steps(&at, "four", &within, "new", "move: change a mode").unwrap_err();
        assert_eq!(errno(&error), Some(Errno::INVAL));
        assert!(!path("four/within/new").exists());
        // A file replaces nothing.
        assert_eq!(errno(&moved("file", "link").unwrap_err()), Some(Errno::EXIST));
        moved("file", "elsewhere").unwrap();
    }
}
