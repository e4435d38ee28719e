//! Copying a directory with everything in it, and comparing two of them.
//!
//! Both walk two directories side by side, with one descriptor of each open whatever the depth, and
//! go up again by `..`, which has to be the directory that they came from. They follow no symbolic
//! link, and enter no mount.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{self, Attribute, Attributes, LostAttribute};
use super::beneath::{BulkSync, Mounts, entries, make_dir, open_dir, shown};
use super::errors::errno;
use super::holes::data_from;
use super::ownership::Ownership;
use super::stat::{self, Identity, identity, is_dir};
use super::walk::up;
use crate::failpoint;

/// The part of a file that is held in memory.
const CHUNK_BYTES: usize = 1 << 20;
/// Number of times that a file is copied which changes meanwhile.
const ATTEMPTS_MAX: usize = 3;

const SET_ATTRIBUTES: &str = "copy: set attributes";
const MAKE_FILE: &str = "copy: make a file";
const MAKE_LINK: &str = "copy: make a link";
/// Of the whole file system or, where that isn't possible, of each file.
pub(super) const SYNC: &str = "copy: sync";

/// A failure, with the path below the directory.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

impl Failure {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        |error| Self { path: path.to_owned(), error }
    }
}

/// Copies all entries of a directory, and its attributes, into an empty one. `links` is an empty
/// directory of the same file system for files with several names. `owner` owns the directories
/// until they get their own owner, so that a crash leaves nothing that the store's owner can't
/// remove.
pub(super) fn copy(
    source: OwnedFd,
    copy: OwnedFd,
    links: &OwnedFd,
    owner: Ownership,
) -> Result<(), Failure> {
    let sync = BulkSync::detect(links).map_err(Failure::at(Path::new("")))?;
    walk(
        Pair { source, copy },
        &mut Copier { links, owner, files: FileCopier { sync, buffer: vec![0; CHUNK_BYTES] } },
    )
}

/// An entry of a directory.
#[derive(Clone, Copy)]
pub(super) struct Entry<'e> {
    pub(super) dir: &'e OwnedFd,
    pub(super) name: &'e CStr,
}

/// Copies an entry that isn't a directory to a name that doesn't exist, with its attributes. Fails
/// with `NOENT` if there is no such entry.
pub(super) fn copy_file(source: Entry<'_>, copy: Entry<'_>) -> io::Result<()> {
    let stat = stat::stat(source.dir, source.name)?.ok_or(Errno::NOENT)?;
    let sync = BulkSync::detect(copy.dir)?;
    FileCopier { sync, buffer: vec![0; CHUNK_BYTES] }.make(source, copy, &stat)?;
    sync.sync(copy.dir, SYNC)
}

/// Returns whether an entry that isn't a directory is still the one with this identity, and has the
/// content of another entry.
pub(super) fn is_same_file(
    source: Entry<'_>,
    source_identity: Identity,
    copy: Entry<'_>,
    how: Comparison,
) -> io::Result<bool> {
    let Some(stat) = stat::stat(source.dir, source.name)? else { return Ok(false) };
    if identity(&stat) != source_identity {
        return Ok(false);
    }
    match Comparer::new(how).compare(source, copy, &stat) {
        Ok(()) => Ok(true),
        Err(error) if error.get_ref().is_some_and(|error| error.is::<Difference>()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How two entries have to agree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// Both have the same entries.
    Same,
    /// The second has all entries of the first.
    Contained,
}

/// Compares two directories, files by their content, and returns the path of the first difference.
pub(super) fn compare(
    source: OwnedFd,
    copy: OwnedFd,
    how: Comparison,
) -> Result<Option<PathBuf>, Failure> {
    match walk(Pair { source, copy }, &mut Comparer::new(how)) {
        Ok(()) => Ok(None),
        Err(Failure { path, error })
            if error.get_ref().is_some_and(|error| error.is::<Difference>()) =>
        {
            Ok(Some(path))
        }
        Err(failure) => Err(failure),
    }
}

/// Corresponding directories.
struct Pair {
    source: OwnedFd,
    copy: OwnedFd,
}

/// A directory between the top and the current one.
struct Level {
    source: Identity,
    copy: Identity,
    /// Those of the source when it was entered.
    attributes: Attributes,
    /// Directories that are still to be entered.
    dirs: Vec<CString>,
}

trait Visitor {
    /// Visits an entry that isn't a directory.
    fn file(&mut self, pair: &Pair, name: &CStr, stat: &Stat) -> io::Result<()>;
    /// Opens the copy of a directory.
    fn open(&mut self, copy: &OwnedFd, name: &CStr) -> io::Result<OwnedFd>;
    /// Called after all entries of a directory, with their number in the source.
    fn listed(&mut self, pair: &Pair, count: usize) -> io::Result<()>;
    /// Called after everything below a directory.
    fn leave(&mut self, copy: &OwnedFd, attributes: &Attributes) -> io::Result<()>;
}

impl Level {
    fn visit(pair: &Pair, above: &Path, visitor: &mut dyn Visitor) -> Result<Self, Failure> {
        let here = || {
            let identities =
                (identity(&fs::fstat(&pair.source)?), identity(&fs::fstat(&pair.copy)?));
            Ok((identities, attributes::read(&pair.source)?, entries(&pair.source)?))
        };
        let ((source, copy), attributes, entries) = here().map_err(Failure::at(above))?;
        let mut level = Self { source, copy, attributes, dirs: Vec::new() };
        let mut count = 0;
        for entry in entries {
            let (name, _) = entry.map_err(Failure::at(above))?;
            let mut meet = || -> io::Result<()> {
                // The comparison finds entries that are removed meanwhile.
                let Some(stat) = stat::stat(&pair.source, &*name)? else { return Ok(()) };
                count += 1;
                if is_dir(&stat) {
                    level.dirs.push(name.clone());
                    return Ok(());
                }
                visitor.file(pair, &name, &stat)
            };
            meet().map_err(|error| Failure { path: above.join(shown(&name)), error })?;
        }
        visitor.listed(pair, count).map_err(Failure::at(above))?;
        Ok(level)
    }
}

fn walk(top: Pair, visitor: &mut dyn Visitor) -> Result<(), Failure> {
    let mut above = PathBuf::new();
    let mut levels = vec![Level::visit(&top, &above, visitor)?];
    let mut here = top;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.dirs.pop() {
            above.push(shown(&name));
            match enter(&here, &name, visitor).map_err(Failure::at(&above))? {
                Some(next) => {
                    levels.push(Level::visit(&next, &above, visitor)?);
                    here = next;
                }
                None => drop(above.pop()),
            }
            continue;
        }
        let Some(left) = levels.pop() else { break };
        // First, since the attributes may take away the permission for it.
        let next = levels.last().map(|parent| {
            let source = up(&here.source, parent.source)?;
            Ok(Pair { source, copy: up(&here.copy, parent.copy)? })
        });
        let next = next.transpose().map_err(Failure::at(&above))?;
        visitor.leave(&here.copy, &left.attributes).map_err(Failure::at(&above))?;
        above.pop();
        if let Some(next) = next {
            here = next;
        }
    }
    Ok(())
}

/// Opens a directory and its copy. Returns `None` if it was removed or replaced.
fn enter(here: &Pair, name: &CStr, visitor: &mut dyn Visitor) -> io::Result<Option<Pair>> {
    let source = match open_dir(&here.source, name, Mounts::Refuse) {
        Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => {
            return Ok(None);
        }
        source => source?,
    };
    Ok(Some(Pair { source, copy: visitor.open(&here.copy, name)? }))
}

struct Copier<'l> {
    /// Holds a name for each file of the source that has several: the file's inode number, at its
    /// copy. So they take no memory.
    links: &'l OwnedFd,
    owner: Ownership,
    files: FileCopier,
}

/// Copies everything that isn't a directory.
struct FileCopier {
    sync: BulkSync,
    buffer: Vec<u8>,
}

impl Visitor for Copier<'_> {
    fn file(&mut self, pair: &Pair, name: &CStr, stat: &Stat) -> io::Result<()> {
        let (source, copy) = (Entry { dir: &pair.source, name }, Entry { dir: &pair.copy, name });
        if stat.st_nlink == 1 {
            return self.files.make(source, copy, stat);
        }
        let number = format!("{}-{}", stat.st_dev, stat.st_ino);
        failpoint::reach(MAKE_LINK);
        match fs::linkat(self.links, &*number, &pair.copy, name, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            linked => return Ok(linked?),
        }
        self.files.make(source, copy, stat)?;
        failpoint::reach(MAKE_LINK);
        match fs::linkat(&pair.copy, name, self.links, &*number, AtFlags::empty()) {
            // It was removed while it was copied.
            Err(Errno::NOENT) => Ok(()),
            linked => Ok(linked?),
        }
    }

    fn open(&mut self, copy: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
        make_dir(copy, name, self.owner, "copy: make a directory")
    }

    fn listed(&mut self, _: &Pair, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, copy: &OwnedFd, attributes: &Attributes) -> io::Result<()> {
        all_set(attributes::apply(copy, attributes, SET_ATTRIBUTES)?)?;
        self.files.sync.sync(copy, SYNC)
    }
}

impl FileCopier {
    fn make(&mut self, source: Entry<'_>, copy: Entry<'_>, stat: &Stat) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile {
            return self.copy_file(source, copy);
        }
        failpoint::reach(MAKE_FILE);
        match kind {
            FileType::Symlink => {
                let target = match fs::readlinkat(source.dir, source.name, Vec::new()) {
                    Err(Errno::NOENT) => return Ok(()),
                    target => target?,
                };
                fs::symlinkat(&*target, copy.dir, copy.name)?;
            }
            _ => fs::mknodat(copy.dir, copy.name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        let attributes = attributes::read_at(source.dir, source.name)?;
        all_set(attributes::apply_to_new(copy.dir, copy.name, kind, &attributes, SET_ATTRIBUTES)?)
    }

    fn copy_file(&mut self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        let Some(mut source) = open_file(from.dir, from.name)? else { return Ok(()) };
        failpoint::reach(MAKE_FILE);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = File::from(fs::openat(to.dir, to.name, flags, Mode::RUSR | Mode::WUSR)?);
        for _ in 0..ATTEMPTS_MAX {
            let before = fs::fstat(&source)?;
            // Shares the blocks, where the file system can.
            if fs::ioctl_ficlone(&copy, &source).is_err() {
                self.fill(&source, &copy, size(&before))?;
            }
            if moments(&before) == moments(&fs::fstat(&source)?) {
                let attributes = attributes::read(&source)?;
                all_set(attributes::apply(&copy, &attributes, SET_ATTRIBUTES)?)?;
                return self.sync.sync(&copy, SYNC);
            }
            copy.set_len(0)?;
            // It may have been replaced.
            let Some(again) = open_file(from.dir, from.name)? else { return Ok(()) };
            source = again;
        }
        Err(io::Error::other("the file changes during every copy"))
    }

    /// Copies the content of a file, without its holes.
    fn fill(&mut self, source: &File, copy: &File, size: u64) -> io::Result<()> {
        let mut at = 0;
        while let Some((start, end)) = data_from(source, at, size)? {
            at = start;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let count = source.read_at(&mut self.buffer[..wanted], at)?;
                if count == 0 {
                    // It was truncated, which the comparison of its metadata notices.
                    return Ok(());
                }
                copy.write_all_at(&self.buffer[..count], at)?;
                at += count as u64;
            }
        }
        copy.set_len(size)
    }
}

/// Fails if an attribute of the file couldn't be set. An owner that the process may not set is no
/// failure: the file stays with the process's own.
fn all_set(unset: Vec<LostAttribute>) -> io::Result<()> {
    for unset in unset {
        match unset.attribute {
            Attribute::Extended(_) => {
                return Err(io::Error::new(unset.error.kind(), unset.to_string()));
            }
            _ => tracing::debug!(%unset, "an attribute is lost while a directory is copied"),
        }
    }
    Ok(())
}

/// Opens a file for reading. Returns `None` if it doesn't exist.
fn open_file(dir: &OwnedFd, name: &CStr) -> io::Result<Option<File>> {
    // A file that was replaced by a pipe is opened without waiting for its writer.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => File::from(file?),
    };
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("the file was replaced"));
    }
    Ok(Some(file))
}

/// Opens a symbolic link itself, so that its target and its identity are of the same one.
fn open_link(link: Entry<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(link.dir, link.name, flags, Mode::empty()) {
        Err(Errno::NOENT) => different(),
        opened => Ok(opened?),
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn moments(stat: &Stat) -> (u64, i128, i128) {
    let nanoseconds =
        |seconds, nanoseconds| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    (
        size(stat),
        nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    )
}

/// The difference of two directories, as an error.
#[derive(Debug)]
struct Difference;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the copy differs")
    }
}

impl std::error::Error for Difference {}

struct Comparer {
    how: Comparison,
    buffers: [Vec<u8>; 2],
}

impl Visitor for Comparer {
    fn file(&mut self, pair: &Pair, name: &CStr, stat: &Stat) -> io::Result<()> {
        self.compare(Entry { dir: &pair.source, name }, Entry { dir: &pair.copy, name }, stat)
    }

    fn open(&mut self, copy: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
        match open_dir(copy, name, Mounts::Refuse) {
            Err(error)
                if matches!(errno(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) =>
            {
                different()
            }
            opened => opened,
        }
    }

    fn listed(&mut self, pair: &Pair, count: usize) -> io::Result<()> {
        if self.how == Comparison::Contained {
            return Ok(());
        }
        let mut in_copy = 0;
        for entry in entries(&pair.copy)? {
            entry?;
            in_copy += 1;
        }
        if in_copy == count { Ok(()) } else { different() }
    }

    fn leave(&mut self, _: &OwnedFd, _: &Attributes) -> io::Result<()> {
        Ok(())
    }
}

impl Comparer {
    fn new(how: Comparison) -> Self {
        Self { how, buffers: [vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]] }
    }

    /// Fails with [`Difference`] if a file, link, pipe or device differs from its copy, or isn't
    /// the one with these metadata any more.
    fn compare(&mut self, source: Entry<'_>, copy: Entry<'_>, stat: &Stat) -> io::Result<()> {
        let Some(found) = stat::stat(copy.dir, copy.name)? else { return different() };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let moments = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        let is_newer = self.how == Comparison::Same && moments(stat) != moments(&found);
        if kind != FileType::from_raw_mode(found.st_mode) || is_newer {
            return different();
        }
        let is_same = match kind {
            FileType::RegularFile => {
                let both = (open_file(source.dir, source.name)?, open_file(copy.dir, copy.name)?);
                let (Some(source), Some(copy)) = both else { return different() };
                identity(&fs::fstat(&source)?) == identity(stat)
                    && self.hold_the_same(&source, &copy)?
            }
            FileType::Symlink => {
                let (source, copy) = (open_link(source)?, open_link(copy)?);
                let target = |link| fs::readlinkat(link, c"", Vec::new());
                identity(&fs::fstat(&source)?) == identity(stat)
                    && target(&source)? == target(&copy)?
            }
            _ => stat.st_rdev == found.st_rdev,
        };
        if is_same { Ok(()) } else { different() }
    }

    fn hold_the_same(&mut self, source: &File, copy: &File) -> io::Result<bool> {
        let size_of = |file: &File| io::Result::Ok(size(&fs::fstat(file.as_fd())?));
        let size = size_of(source)?;
        if size != size_of(copy)? {
            return Ok(false);
        }
        let [one, other] = &mut self.buffers;
        let mut at = 0;
        loop {
            // Holes at the same place are equal.
            let starts = [data_from(source, at, size)?, data_from(copy, at, size)?];
            let Some(start) = starts.into_iter().flatten().map(|(start, _)| start).min() else {
                return Ok(true);
            };
            let wanted = usize::try_from(size - start).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let cut = |error: io::Error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other(Difference),
                _ => error,
            };
            source.read_exact_at(&mut one[..wanted], start).map_err(cut)?;
            copy.read_exact_at(&mut other[..wanted], start).map_err(cut)?;
            if one[..wanted] != other[..wanted] {
                return Ok(false);
            }
            at = start + wanted as u64;
        }
    }
}

fn different<T>() -> io::Result<T> {
    Err(io::Error::other(Difference))
}

#[cfg(test)]
mod tests {
    use std::fs as std_fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// As deep as the directories of the other tests of hostile directories.
    const LEVELS: usize = 5_000;
    /// Too small for a walk that recurses.
    const SMALL_STACK_BYTES: usize = 256 << 10;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { dir: tempfile::tempdir().unwrap() };
            for name in ["source", "copy", "links"] {
                std_fs::create_dir(place.path(name)).unwrap();
            }
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn open(&self, name: &str) -> OwnedFd {
            File::open(self.path(name)).unwrap().into()
        }

        fn copy(&self) {
            copy(self.open("source"), self.open("copy"), &self.open("links"), Ownership::default())
                .unwrap();
        }

        fn compare(&self, how: Comparison) -> Option<PathBuf> {
            compare(self.open("source"), self.open("copy"), how).unwrap()
        }
    }

    fn filled() -> Place {
        let place = Place::new();
        let source = place.path("source");
        std_fs::create_dir_all(source.join("a/b")).unwrap();
        std_fs::write(source.join("a/file"), vec![b'x'; CHUNK_BYTES + 17]).unwrap();
        std_fs::write(source.join("a/b/small"), "small").unwrap();
        std_fs::hard_link(source.join("a/file"), source.join("other name")).unwrap();
        symlink("../../outside", source.join("a/link")).unwrap();
        let sparse = File::create(source.join("sparse")).unwrap();
        sparse.write_all_at(b"middle", 30 << 20).unwrap();
        sparse.set_len(60 << 20).unwrap();
        std_fs::create_dir(source.join("empty")).unwrap();
        place
    }

    #[test]
    fn a_copy_holds_the_same_with_holes_links_and_names_of_one_file() {
        let place = filled();
        place.copy();
        assert_eq!(place.compare(Comparison::Same), None);
        let of = |path: &str| std_fs::symlink_metadata(place.path("copy").join(path)).unwrap();
        assert_eq!(of("a/file").ino(), of("other name").ino());
        assert_eq!(
            std_fs::read_link(place.path("copy/a/link")).unwrap(),
            Path::new("../../outside")
        );
        let from = std_fs::metadata(place.path("source/sparse")).unwrap();
        assert_eq!(of("sparse").size(), from.size());
        assert!(of("sparse").blocks() < 1_000, "{} blocks", of("sparse").blocks());
        assert_eq!(std_fs::read(place.path("copy/sparse")).unwrap()[30 << 20..][..7], *b"middle\0");
        assert_eq!(
            of("a/file").modified().unwrap(),
            std_fs::metadata(place.path("source/a/file")).unwrap().modified().unwrap()
        );
    }

    #[test]
    fn every_difference_is_found() {
        type Change = fn(&Path) -> io::Result<()>;
        // The change to the copy, where it is found, and where if the copy may have more entries.
        let changes: &[(Change, &str, Option<&str>)] = &[
            (|copy| std_fs::write(copy.join("new"), ""), "", None),
            (|copy| std_fs::create_dir(copy.join("a/new")), "a", None),
            (|copy| std_fs::remove_file(copy.join("a/b/small")), "a/b/small", Some("a/b/small")),
            (|copy| std_fs::remove_dir(copy.join("empty")), "", Some("empty")),
            (
                |copy| {
                    std_fs::remove_dir(copy.join("empty"))
                        .and_then(|()| std_fs::write(copy.join("empty"), ""))
                },
                "empty",
                Some("empty"),
            ),
            (|copy| std_fs::write(copy.join("a/b/small"), "SMALL"), "a/b/small", Some("a/b/small")),
            (|copy| std_fs::write(copy.join("a/b/small"), "smal"), "a/b/small", Some("a/b/small")),
            (
                |copy| {
                    File::options()
                        .write(true)
                        .open(copy.join("sparse"))?
                        .write_all_at(b"x", 1 << 20)
                },
                "sparse",
                Some("sparse"),
            ),
            (
                |copy| File::options().write(true).open(copy.join("sparse"))?.set_len(59 << 20),
                "sparse",
                Some("sparse"),
            ),
            (
                |copy| {
                    std_fs::remove_file(copy.join("a/link"))
                        .and_then(|()| symlink("inside", copy.join("a/link")))
                },
                "a/link",
                Some("a/link"),
            ),
        ];
        for (number, (change, path, in_contained)) in changes.iter().enumerate() {
            let place = filled();
            place.copy();
            change(&place.path("copy")).unwrap();
            // The content counts even if the time of modification is equal.
            for name in ["a/b/small", "sparse"] {
                let time =
                    std_fs::metadata(place.path("source").join(name)).unwrap().modified().unwrap();
                if let Ok(file) = File::options().write(true).open(place.path("copy").join(name)) {
                    file.set_modified(time).unwrap();
                }
            }
            assert_eq!(
                place.compare(Comparison::Same).as_deref(),
                Some(Path::new(path)),
                "change {number}"
            );
            let rest = place.compare(Comparison::Contained);
            assert_eq!(rest.as_deref(), in_contained.map(Path::new), "change {number}");
        }
        let place = filled();
        place.copy();
        File::options()
            .write(true)
            .open(place.path("source/a/b/small"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(place.compare(Comparison::Same).as_deref(), Some(Path::new("a/b/small")));
    }

    #[test]
    fn no_tree_is_too_deep_to_be_copied_compared_and_removed() {
        let deep = || {
            let place = Place::new();
            let mut here = place.open("source");
            for _ in 0..LEVELS {
                here = make_dir(&here, c"level", Ownership::default(), "a test").unwrap();
            }
            fs::openat(&here, c"file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
            place.copy();
            assert_eq!(place.compare(Comparison::Same), None);
            let mut removal = super::super::remove::Removal::default();
            for name in [c"source", c"copy"] {
                let top = File::open(place.dir.path()).unwrap().into();
                let is_gone = super::super::remove::remove_in_place(
                    &top,
                    name,
                    Path::new(""),
                    &mut removal,
                    &super::super::remove::never_ends,
                );
                assert!(is_gone.unwrap());
            }
            assert_eq!((removal.files, removal.left.len()), (2, 0));
        };
        std::thread::Builder::new()
            .stack_size(SMALL_STACK_BYTES)
            .spawn(deep)
            .unwrap()
            .join()
            .unwrap();
    }
}
