//! The metadata of files: mode, owner, time of modification, and extended attributes with the POSIX
//! ACLs.
//!
//! Of the [extended attributes](https://man7.org/linux/man-pages/man7/xattr.7.html), the `user.`
//! namespace belongs to those who may write the file, and the two ACLs to its owner. The rest
//! belongs to the system, and isn't read.
//!
//! No symbolic link is followed. An entry that can't be opened without an effect, such as a pipe or
//! a device, is reached by an `O_PATH` descriptor and `/proc/self/fd`.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::ioctl;
use rustix::path::Arg;

use crate::failpoint;

/// The POSIX ACL of a file or directory.
const ACL: &CStr = c"system.posix_acl_access";
/// The POSIX ACL that new entries of a directory inherit.
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Enough for most lists of names and most values.
const USUAL_BYTES: usize = 1 << 10;
/// The kernel's limit for either (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`).
const BYTES_MAX: usize = 1 << 16;

/// The metadata of a file that is archived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The permissions, with the bits for set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
    pub(crate) modified: Modified,
    /// Sorted by name.
    pub(crate) extended: Vec<Extended>,
}

impl Attributes {
    /// Returns the attributes in `stat`, without the extended ones.
    pub(super) fn from_stat(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            owner: stat.st_uid,
            group: stat.st_gid,
            modified: Modified {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
            extended: Vec::new(),
        }
    }
}

/// When a file was modified, since 1970, with the resolution of the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modified {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extended {
    pub(crate) name: CString,
    pub(crate) value: Vec<u8>,
}

impl Extended {
    /// Returns whether attributes of this name are read and applied.
    pub(crate) fn is_taken(name: &CStr) -> bool {
        name.to_bytes().starts_with(b"user.") || Self::is_acl(name)
    }

    /// Returns whether it gives other users access to the file.
    pub(super) fn is_access(&self) -> bool {
        self.name.as_c_str() == ACL
    }

    fn is_acl(name: &CStr) -> bool {
        name == ACL || name == DEFAULT_ACL
    }
}

/// An attribute that the process may not set, or that the file system doesn't have.
#[derive(Debug)]
pub(crate) struct LostAttribute {
    pub(crate) attribute: Attribute,
    pub(crate) error: io::Error,
}

/// The kind of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Owner,
    Group,
    /// The bits for set-user-ID and set-group-ID.
    SetId,
    Extended(CString),
}

impl fmt::Display for LostAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            Attribute::Owner => write!(f, "the owner: {}", self.error),
            Attribute::Group => write!(f, "the group: {}", self.error),
            Attribute::SetId => write!(f, "the set-user-ID and set-group-ID bits: {}", self.error),
            Attribute::Extended(name) => {
                write!(
                    f,
                    "the extended attribute {}: {}",
                    name.to_bytes().escape_ascii(),
                    self.error
                )
            }
        }
    }
}

/// Reads the attributes of an open file or directory.
pub(crate) fn read(file: impl AsFd) -> io::Result<Attributes> {
    read_target(&Target::Open(file.as_fd()))
}

/// Reads the attributes of an entry of any type.
pub(crate) fn read_at(dir: impl AsFd, name: impl Arg) -> io::Result<Attributes> {
    read_target(&Target::named(dir, name)?)
}

/// Sets the attributes of an open file or directory, and returns those that can't be set.
pub(crate) fn apply(
    file: impl AsFd,
    attributes: &Attributes,
    point: &'static str,
) -> io::Result<Vec<LostAttribute>> {
    set(&Target::Open(file.as_fd()), attributes, point)
}

/// Sets the attributes of a new entry, and returns those that can't be set.
///
/// Fails if it was replaced: another user who may write in the directory could put a hard link to a
/// foreign file there, and be given that file.
pub(crate) fn apply_to_new(
    dir: impl AsFd,
    name: impl Arg,
    kind: FileType,
    attributes: &Attributes,
    point: &'static str,
) -> io::Result<Vec<LostAttribute>> {
    let target = Target::named(dir, name)?;
    let found = target.stat()?;
    if FileType::from_raw_mode(found.st_mode) != kind || found.st_nlink > 1 {
        return Err(io::Error::other("it was replaced as soon as it was made"));
    }
    set(&target, attributes, point)
}

/// Removes the ACL that new entries of a directory would inherit.
pub(super) fn forget_default_acl(dir: &OwnedFd) -> io::Result<()> {
    match fs::fremovexattr(dir, DEFAULT_ACL) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Returns whether the file system may refuse to rename a directory within the same mount, as far
/// as that is known.
pub(super) fn may_need_copy(dir: &OwnedFd, to: &OwnedFd) -> io::Result<bool> {
    // The layer of a directory isn't known.
    if fs::fstatfs(to)?.f_type == OVERLAYFS {
        return Ok(true);
    }
    // Subvolumes of btrfs.
    if fs::fstat(dir)?.st_dev != fs::fstat(to)?.st_dev {
        return Ok(true);
    }
    let (Some(project), Some(target)) = (Project::of(dir), Project::of(to)) else {
        return Ok(false);
    };
    Ok(target.flags & Project::INHERITED != 0 && target.id != project.id)
}

/// From the kernel's `magic.h`.
const OVERLAYFS: fs::FsWord = 0x794c_7630;

/// The quota project of a directory (`struct fsxattr` in the kernel's `fs.h`).
#[repr(C)]
struct Project {
    flags: u32,
    extent_size: u32,
    extents: u32,
    id: u32,
    copied_extent_size: u32,
    padding: [u8; 8],
}

impl Project {
    /// New entries of a directory inherit its project.
    const INHERITED: u32 = 0x200;

    /// Returns `None` on file systems without projects.
    fn of(dir: &OwnedFd) -> Option<Self> {
        const GET: ioctl::Opcode = ioctl::opcode::read::<Project>(b'X', 31);
        #[allow(unsafe_code, reason = "there is no safe interface to a project id")]
        // SAFETY: the kernel writes a whole `struct fsxattr` or fails, and any bytes are a valid
        // one.
        let project = unsafe { ioctl::ioctl(dir, ioctl::Getter::<GET, Self>::new()) };
        project.ok()
    }
}

/// The file that has the attributes.
enum Target<'f> {
    /// A file or directory that is open for reading or writing.
    Open(BorrowedFd<'f>),
    /// An `O_PATH` descriptor, with its path below `/proc`.
    Named { path: CString, at: OwnedFd, is_link: bool },
}

impl Target<'_> {
    fn named(dir: impl AsFd, name: impl Arg) -> io::Result<Self> {
        let at = fs::openat(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let is_link = FileType::from_raw_mode(fs::fstat(&at)?.st_mode) == FileType::Symlink;
        let path = CString::new(format!("/proc/self/fd/{}", at.as_raw_fd()))?;
        Ok(Self::Named { path, at, is_link })
    }

    /// A symbolic link has neither a mode nor attributes of these namespaces.
    fn is_link(&self) -> bool {
        matches!(self, Self::Named { is_link: true, .. })
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        match self {
            Self::Open(file) => fs::fstat(file),
            Self::Named { at, .. } => fs::fstat(at),
        }
    }

    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => fs::flistxattr(file, buffer),
            Self::Named { path, .. } => fs::listxattr(path, buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => fs::fgetxattr(file, name, buffer),
            Self::Named { path, .. } => fs::getxattr(path, name, buffer),
        }
    }

    fn set(&self, extended: &Extended) -> rustix::io::Result<()> {
        let (name, value) = (&extended.name, &extended.value);
        match self {
            Self::Open(file) => fs::fsetxattr(file, name, value, XattrFlags::empty()),
            Self::Named { path, .. } => fs::setxattr(path, name, value, XattrFlags::empty()),
        }
    }

    fn give_to(
        &self,
        owner: Option<u32>,
        group: Option<u32>,
        point: &'static str,
    ) -> rustix::io::Result<()> {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        failpoint::reach(point);
        match self {
            Self::Open(file) => fs::fchown(file, owner, group),
            Self::Named { at, .. } => fs::chownat(at, c"", owner, group, AtFlags::EMPTY_PATH),
        }
    }

    fn set_mode(&self, mode: u32, point: &'static str) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        failpoint::reach(point);
        match self {
            Self::Open(file) => fs::fchmod(file, mode),
            Self::Named { path, .. } => fs::chmodat(fs::CWD, path, mode, AtFlags::empty()),
        }
    }

    fn set_modified(&self, modified: Modified) -> rustix::io::Result<()> {
        // Not `UTIME_OMIT`: FUSE file systems (bindfs) then set neither time, without an error.
        let found = self.stat()?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: found.st_atime,
                tv_nsec: i64::try_from(found.st_atime_nsec).unwrap_or_default(),
            },
            last_modification: Timespec {
                tv_sec: modified.seconds,
                tv_nsec: modified.nanoseconds.into(),
            },
        };
        match self {
            Self::Open(file) => fs::futimens(file, &times),
            Self::Named { at, .. } => fs::utimensat(at, c"", &times, AtFlags::EMPTY_PATH),
        }
    }
}

fn read_target(target: &Target<'_>) -> io::Result<Attributes> {
    let stat = target.stat()?;
    let extended = if target.is_link() { Vec::new() } else { read_extended(target)? };
    Ok(Attributes { extended, ..Attributes::from_stat(&stat) })
}

fn read_extended(target: &Target<'_>) -> io::Result<Vec<Extended>> {
    let names = match filled(|buffer| target.list(buffer)) {
        // The file system has no extended attributes.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        names => names?,
    };
    let mut extended = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        if !Extended::is_taken(name) {
            continue;
        }
        match filled(|buffer| target.get(name, buffer)) {
            // Removed since the list was read.
            Err(Errno::NODATA) => {}
            value => extended.push(Extended { name: name.to_owned(), value: value? }),
        }
    }
    extended.sort();
    Ok(extended)
}

/// Calls a function that fills a buffer, and returns the filled part.
fn filled(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL_BYTES];
    let length = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(BYTES_MAX, 0);
            read(&mut buffer)?
        }
        length => length?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

fn set(
    target: &Target<'_>,
    attributes: &Attributes,
    point: &'static str,
) -> io::Result<Vec<LostAttribute>> {
    let mut unset = Vec::new();
    if target.is_link() {
        give(target, attributes, point, &mut unset)?;
        target.set_modified(attributes.modified)?;
        return Ok(unset);
    }
    let (acls, others): (Vec<_>, Vec<_>) =
        attributes.extended.iter().partition(|extended| Extended::is_acl(&extended.name));
    // These need write permission, which the mode may take away from the owner.
    set_extended(target, &others, &mut unset)?;
    let is_given = give(target, attributes, point, &mut unset)?;
    // After the owner, whose change clears these bits. They aren't meant for another owner.
    let set_id = (Mode::SUID | Mode::SGID).bits();
    let is_special = attributes.mode & set_id != 0;
    let plain = attributes.mode & !set_id;
    match target.set_mode(if is_given { attributes.mode } else { plain }, point) {
        // A hardened service may not set them (`RestrictSUIDSGID=`).
        Err(error @ Errno::PERM) if is_special && is_given => {
            target.set_mode(plain, point)?;
            unset.push(LostAttribute { attribute: Attribute::SetId, error: error.into() });
        }
        result => result?,
    }
    // After the mode, which would change their mask.
    set_extended(target, &acls, &mut unset)?;
    target.set_modified(attributes.modified)?;
    Ok(unset)
}

/// Changes owner and group as far as the process may, and returns whether it may change both.
fn give(
    target: &Target<'_>,
    attributes: &Attributes,
    point: &'static str,
    unset: &mut Vec<LostAttribute>,
) -> io::Result<bool> {
    let (owner, group) = (attributes.owner, attributes.group);
    let stat = target.stat()?;
    if (stat.st_uid, stat.st_gid) == (owner, group) {
        return Ok(true);
    }
    let is_refused = |error: Errno| matches!(error, Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP);
    let error = match target.give_to(Some(owner), Some(group), point) {
        Err(error) if is_refused(error) => error,
        given => return Ok(given.map(|()| true)?),
    };
    if stat.st_uid != owner {
        unset.push(LostAttribute { attribute: Attribute::Owner, error: error.into() });
    }
    // An owner may give a file to one of their groups.
    if stat.st_gid != group {
        match target.give_to(None, Some(group), point) {
            Err(error) if is_refused(error) => {
                unset.push(LostAttribute { attribute: Attribute::Group, error: error.into() });
            }
            given => given?,
        }
    }
    Ok(false)
}

fn set_extended(
    target: &Target<'_>,
    extended: &[&Extended],
    unset: &mut Vec<LostAttribute>,
) -> io::Result<()> {
    for extended in extended {
        match target.set(extended) {
            // ext4 and btrfs report `ENOSPC` for one that is too large for them.
            Err(
                error @ (Errno::PERM
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::INVAL
                | Errno::RANGE
                | Errno::TOOBIG
                | Errno::NOSPC),
            ) => {
                unset.push(LostAttribute {
                    attribute: Attribute::Extended(extended.name.clone()),
                    error: error.into(),
                });
            }
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const POINT: &str = "a test";

    /// Grants the owner everything, the user with this number reading, and other users nothing.
    fn acl_for(user: u32) -> Vec<u8> {
        let mut acl = 2_u32.to_le_bytes().to_vec();
        let anybody = u32::MAX;
        let entries =
            [(1, 7, anybody), (2, 4, user), (4, 0, anybody), (16, 4, anybody), (32, 0, anybody)];
        for (tag, permissions, id) in entries {
            acl.extend(u16::to_le_bytes(tag));
            acl.extend(u16::to_le_bytes(permissions));
            acl.extend(u32::to_le_bytes(id));
        }
        acl
    }

    fn attributes(extended: &[(&CStr, &[u8])]) -> Attributes {
        let extended = extended
            .iter()
            .map(|(name, value)| Extended { name: (*name).into(), value: value.to_vec() });
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Attributes {
            mode: 0o740,
            owner: uid,
            group: gid,
            modified: Modified { seconds: 1_000_000_000, nanoseconds: 123_456_000 },
            extended: extended.collect(),
        }
    }

    fn open(path: &Path) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn what_is_applied_to_files_directories_and_pipes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let at_dir = open(dir.path());
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        fs::mknodat(&at_dir, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let acl = acl_for(1234);
        let large = vec![b'x'; 2_000];
        let of_file = attributes(&[
            (ACL, &acl),
            (c"user.a", b""),
            (c"user.b", b"\0\xff"),
            (c"user.long", &large),
        ]);
        let of_dir = attributes(&[(ACL, &acl), (DEFAULT_ACL, &acl), (c"user.a", b"1")]);
        let of_pipe = attributes(&[(ACL, &acl)]);
        for (name, kind, wanted) in
            [("file", FileType::RegularFile, &of_file), ("pipe", FileType::Fifo, &of_pipe)]
        {
            let unset = apply_to_new(&at_dir, name, kind, wanted, POINT).unwrap();
            assert!(unset.is_empty(), "{name}: {unset:?}");
            assert_eq!(&read_at(&at_dir, name).unwrap(), wanted, "{name}");
        }
        assert!(apply(open(&dir.path().join("dir")), &of_dir, POINT).unwrap().is_empty());
        for name in ["file", "dir"] {
            let path = dir.path().join(name);
            assert_eq!(read(open(&path)).unwrap(), read_at(&at_dir, name).unwrap());
            let mut wanted = read(open(&path)).unwrap();
            wanted.extended.retain(|extended| extended.name.as_c_str() != c"user.a");
            wanted.mode = 0o1750;
            wanted.extended.iter_mut().filter(|extended| extended.name.as_c_str() == ACL).for_each(
                |acl| {
                    // The mask, which the group's permissions are.
                    acl.value[4 + 3 * 8 + 2] = 5;
                },
            );
            assert!(apply(open(&path), &wanted, POINT).unwrap().is_empty());
            let found = read(open(&path)).unwrap();
            assert_eq!((found.mode, found.modified), (wanted.mode, wanted.modified));
            assert!(
                wanted.extended.iter().all(|extended| found.extended.contains(extended)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_file_that_its_owner_may_not_write_gets_its_attributes_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let wanted = Attributes { mode: 0o400, ..attributes(&[(c"user.a", b"1")]) };
        let file = File::options().write(true).open(dir.path().join("file")).unwrap();
        assert!(apply(&file, &wanted, POINT).unwrap().is_empty());
        assert_eq!(read(&file).unwrap(), wanted);
    }

    #[test]
    fn a_symbolic_link_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at_dir = open(dir.path());
        std::fs::write(dir.path().join("target"), "").unwrap();
        let before = attributes(&[(c"user.a", b"1")]);
        apply_to_new(&at_dir, "target", FileType::RegularFile, &before, POINT).unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        symlink("/nonexistent", dir.path().join("dangling")).unwrap();
        let mut wanted = attributes(&[(c"user.b", b"2")]);
        wanted.modified.seconds += 1;
        for link in ["link", "dangling"] {
            assert!(
                apply_to_new(&at_dir, link, FileType::Symlink, &wanted, POINT).unwrap().is_empty()
            );
            let found = read_at(&at_dir, link).unwrap();
            assert_eq!((found.modified, found.extended), (wanted.modified, Vec::new()), "{link}");
        }
        assert_eq!(read_at(&at_dir, "target").unwrap(), before);
    }

    /// Another user who may write in the directory replaces a new pipe by a hard link to root's
    /// file, to be given that file.
    #[test]
    fn what_took_the_place_of_something_new_gets_no_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let at_dir = open(dir.path());
        for name in ["file", "taken"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::hard_link(dir.path().join("file"), dir.path().join("other name")).unwrap();
        for name in ["pipe", "pipe of another"] {
            fs::mknodat(&at_dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }
        std::fs::hard_link(dir.path().join("pipe of another"), dir.path().join("its name"))
            .unwrap();
        for (name, kind) in [
            ("other name", FileType::Fifo),
            ("other name", FileType::RegularFile),
            ("taken", FileType::Fifo),
            ("its name", FileType::Fifo),
        ] {
            let before = read_at(&at_dir, name).unwrap();
            apply_to_new(&at_dir, name, kind, &attributes(&[]), POINT).unwrap_err();
            assert_eq!(read_at(&at_dir, name).unwrap(), before, "{name}");
        }
        apply_to_new(&at_dir, "pipe", FileType::Fifo, &attributes(&[]), POINT).unwrap();
    }

    #[test]
    fn attributes_of_the_system_are_not_taken() {
        for name in [
            c"security.capability",
            c"trusted.overlay.opaque",
            c"system.nfs4_acl",
            c"username",
            c"user",
        ] {
            assert!(!Extended::is_taken(name), "{name:?}");
        }
    }

    #[test]
    fn an_owner_that_may_not_be_given_is_reported_and_takes_the_special_bits_away() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let file = File::options().write(true).open(dir.path().join("file")).unwrap();
        // No user namespace maps this one.
        let wanted = Attributes { owner: u32::MAX - 1, mode: 0o4755, ..attributes(&[]) };
        let unset = apply(&file, &wanted, POINT).unwrap();
        let found = read(&file).unwrap();
        if rustix::process::geteuid().is_root() && unset.is_empty() {
            assert_eq!((found.owner, found.mode), (wanted.owner, 0o4755));
        } else {
            assert_eq!(unset[0].attribute, Attribute::Owner);
            assert_eq!((found.owner, found.mode), (attributes(&[]).owner, 0o755));
        }
    }
}
