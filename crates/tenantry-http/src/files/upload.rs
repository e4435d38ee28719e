//! Writing a file, so that its name always has the whole old or the whole new content.
//!
//! The content goes into a file without a name (`O_TMPFILE`), which the kernel removes with its
//! last descriptor, whatever ends the upload. It is synced, given its name, and the directory is
//! synced. A name that exists can't be given to a second file, so then the new file gets a hidden
//! name first and is renamed. On a file system without `O_TMPFILE` it has the hidden name from the
//! beginning.
//!
//! A crash can leave a hidden name (`.tenantry-upload-` and a UUID). No listing shows it and no
//! request reaches it. The upload locks its file (`flock`), so a hidden file without a lock is a
//! leftover: the next listing of the directory removes it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps,
    UTIME_OMIT, flock, fstat, futimens, linkat, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use tenantry::cap_std::fs::Dir;
use tenantry::{Timestamp, UsageChange};
use uuid::Uuid;

use super::beneath::{failed, is, open_deepest, open_or_make, require_file, stat, sync};
use super::conditions::{Conditions, State};
use super::digest::Expected;
use super::ownership::give;
use super::path::HIDDEN;
use crate::problem::{Problem, Type};

/// Access for the owner alone, as everything in a store has it.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);
/// How often a rename is repeated when another program makes or removes the file between two steps.
const ATTEMPTS_MAX: usize = 10;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    /// The directory that it is in, and its name if it has one.
    dir: Dir,
    name: Option<String>,
    digests: Expected,
}

/// What an upload did.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) state: State,
    pub(super) is_new: bool,
    pub(super) change: UsageChange,
}

impl Upload {
    /// Begins an upload, in the deepest directory on the path that exists.
    pub(super) fn begin(root: &Dir, above: &str, digests: Expected) -> io::Result<Self> {
        let dir = open_deepest(root, above)?;
        match openat(&dir, c".", WRITE | OFlags::TMPFILE, PRIVATE_FILE) {
            Ok(file) => Self::new(file.into(), dir, None, digests),
            // The file system, or the kernel, has no files without a name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                Self::begin_named(dir, digests)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn begin_named(dir: Dir, digests: Expected) -> io::Result<Self> {
        let name = hidden_name();
        let file = openat(
            &dir,
            &name,
            WRITE | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW,
            PRIVATE_FILE,
        )?;
        Self::new(file.into(), dir, Some(name), digests)
    }

    fn new(file: File, dir: Dir, name: Option<String>, digests: Expected) -> io::Result<Self> {
        let upload = Self { file, dir, name, digests };
        flock(&upload.file, FlockOperation::NonBlockingLockExclusive)?;
        give(&upload.file, &upload.dir)?;
        Ok(upload)
    }

    /// Syncs the content, after which the upload can be given its name.
    pub(super) fn finish(mut self) -> Result<Complete, Problem> {
        std::mem::take(&mut self.digests).verify()?;
        // By the kernel's clock for files, which advances every few milliseconds, two contents of
        // one length could have the same entity tag.
        let now = Timestamp::now().as_unix_us();
        let modified = Timespec {
            tv_sec: now.div_euclid(1_000_000),
            tv_nsec: now.rem_euclid(1_000_000) * 1_000,
        };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: unchanged, last_modification: modified };
        futimens(&self.file, &times).map_err(|error| failed(error.into()))?;
        self.file.sync_all().map_err(failed)?;
        Ok(Complete(self))
    }

    fn try_name(&mut self, parent: &Dir, name: &str, replaces: bool) -> io::Result<()> {
        if !replaces {
            let Some(hidden) = &self.name else { return self.link(parent, name) };
            return match renameat_with(&self.dir, hidden, parent, name, RenameFlags::NOREPLACE) {
                // A file system without the flag: another process may make the file in between.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    Ok(renameat(&self.dir, hidden, parent, name)?)
                }
                renamed => Ok(renamed?),
            };
        }
        if self.name.is_none() {
            let hidden = hidden_name();
            self.link(&self.dir, &hidden)?;
            self.name = Some(hidden);
        }
        let Some(hidden) = &self.name else { return Err(Errno::NOENT.into()) };
        Ok(renameat(&self.dir, hidden, parent, name)?)
    }

    /// Gives the file without a name one that doesn't exist.
    fn link(&self, parent: &Dir, name: &str) -> io::Result<()> {
        // By its descriptor it may be linked without a privilege only through /proc.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(linkat(CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digests.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(&self.dir, name, AtFlags::empty());
        }
    }
}

fn hidden_name() -> String {
    #[allow(
        clippy::disallowed_methods,
        reason = "the name of a temporary file is no id of the store"
    )]
    let id = Uuid::new_v4();
    format!("{HIDDEN}{id}")
}

/// An upload whose content is on the disk.
#[derive(Debug)]
pub(super) struct Complete(Upload);

impl Complete {
    /// Gives the file its name, if the conditions still hold. The caller keeps other requests of
    /// this process away from the name.
    pub(super) fn name(
        mut self,
        root: &Dir,
        above: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<Written, Problem> {
        let parent = open_or_make(root, above).map_err(failed)?;
        let mut attempts = 0;
        let old = loop {
            let old = stat(&parent, name)?;
            old.as_ref().map_or(Ok(()), require_file)?;
            conditions.check_change(old.as_ref().map(State::of).as_ref())?;
            attempts += 1;
            match self.0.try_name(&parent, name, old.is_some()) {
                Ok(()) => break old,
                Err(error) if is(&error, Errno::EXIST) && conditions.requires_absence() => {
                    return Err(Problem::new(Type::PreconditionFailed, "there is such a file"));
                }
                Err(error) if is(&error, Errno::EXIST) && attempts < ATTEMPTS_MAX => {}
                Err(error) => return Err(failed(error)),
            }
        };
        // It isn't a leftover to be removed any more.
        self.0.name = None;
        sync(&parent).map_err(failed)?;
        let new = fstat(&self.0.file).map_err(|error| failed(error.into()))?;
        Ok(Written {
            state: State::of(&new),
            is_new: old.is_none(),
            change: change(Some(&new), old.as_ref()),
        })
    }
}

/// Returns how many bytes become free when a file is replaced or removed.
pub(super) fn freed(old: Option<&Stat>) -> u64 {
    change(None, old).apparent_bytes.unsigned_abs()
}

/// Returns what a user's usage gains when one file takes the place of another.
pub(super) fn change(new: Option<&Stat>, old: Option<&Stat>) -> UsageChange {
    // A file with other names stays, and still counts once.
    let old = old.filter(|old| old.st_nlink <= 1);
    let count = |stat: Option<&Stat>| i64::from(stat.is_some());
    let length = |stat: Option<&Stat>| stat.map_or(0, |stat| stat.st_size);
    // A block has 512 bytes here, whatever the file system's block size is.
    let allocated = |stat: Option<&Stat>| stat.map_or(0, |stat| stat.st_blocks.saturating_mul(512));
    UsageChange {
        files: count(new) - count(old),
        apparent_bytes: length(new).saturating_sub(length(old)),
        allocated_bytes: allocated(new).saturating_sub(allocated(old)),
    }
}

/// Removes a hidden file, unless an upload holds it.
pub(super) fn remove_leftover(dir: &Dir, name: &std::ffi::CStr) -> io::Result<bool> {
    let flags =
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => unlinkat(dir, name, AtFlags::empty())?,
        Err(Errno::AGAIN) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use axum::http::header::IF_NONE_MATCH;
    use tenantry::cap_std::ambient_authority;

    use super::*;

    fn conditions(headers: &HeaderMap) -> Conditions {
        Conditions::of(headers).unwrap()
    }

    /// The kernel would take the time of its last tick, which other contents have as well.
    #[test]
    fn an_upload_is_modified_when_it_is_complete_to_the_microsecond() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let mut upload = Upload::begin(&dir, "", Expected::default()).unwrap();
        upload.write_all(b"content").unwrap();
        let before = Timestamp::now();
        let complete = upload.finish().unwrap();
        assert!(Timestamp::from(complete.0.file.metadata().unwrap().modified().unwrap()) >= before);
    }

    /// On file systems without `O_TMPFILE`, such as those of FUSE.
    #[test]
    fn an_upload_with_a_name_is_renamed_and_removed_if_it_fails() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let names = || -> Vec<_> {
            std::fs::read_dir(root.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let begin = |content: &str| {
            let mut upload =
                Upload::begin_named(dir.try_clone().unwrap(), Expected::default()).unwrap();
            upload.write_all(content.as_bytes()).unwrap();
            assert!(names().iter().any(|name| name.starts_with(HIDDEN)));
            upload
        };
        let none = HeaderMap::new();
        for (content, is_new) in [("one", true), ("two", false)] {
            let written = begin(content)
                .finish()
                .unwrap()
                .name(&dir, "made/deep", "file", &conditions(&none))
                .unwrap();
            assert_eq!(written.is_new, is_new);
            assert_eq!(dir.read_to_string("made/deep/file").unwrap(), content);
        }
        drop(begin("broken off"));
        let absent = HeaderMap::from_iter([(IF_NONE_MATCH, "*".parse().unwrap())]);
        let refused =
            begin("three").finish().unwrap().name(&dir, "made/deep", "file", &conditions(&absent));
        assert!(refused.is_err());
        assert_eq!(
            (names(), dir.read_to_string("made/deep/file").unwrap()),
            (vec!["made".to_owned()], "two".to_owned())
        );
    }

    /// Another process makes the file between the check and the link.
    #[test]
    fn a_file_that_appears_in_the_last_moment_is_replaced_unless_none_may_exist() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let begin = || Upload::begin(&dir, "", Expected::default()).unwrap();
        for mut upload in
            [begin(), Upload::begin_named(dir.try_clone().unwrap(), Expected::default()).unwrap()]
        {
            std::fs::write(root.path().join("file"), "of another process").unwrap();
            let error = upload.try_name(&dir, "file", false).unwrap_err();
            assert!(is(&error, Errno::EXIST), "{error}");
            assert_eq!(dir.read_to_string("file").unwrap(), "of another process");
            upload.try_name(&dir, "file", true).unwrap();
            assert_eq!(dir.read_to_string("file").unwrap(), "");
        }
    }

    #[test]
    fn a_leftover_is_removed_once_no_upload_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let upload = Upload::begin_named(dir.try_clone().unwrap(), Expected::default()).unwrap();
        let name = std::ffi::CString::new(upload.name.clone().unwrap()).unwrap();
        assert!(!remove_leftover(&dir, &name).unwrap());
        // As a crash does: the lock goes, the name stays.
        let copy = upload.file.try_clone().unwrap();
        flock(&copy, FlockOperation::Unlock).unwrap();
        assert!(remove_leftover(&dir, &name).unwrap());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
