//! Making an archive out of the files of users.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::body::{Attempt, Body};
use super::container::unwritable;
use super::entry::What;
use super::format::{Manifest, PATH_BYTES_MAX};
use super::pax::{PAX_BYTES_MAX, Records};
use super::reader::{Kind, SeenPaths};
use super::temporary::{self, PrivateDir, parent};
use crate::content::{AtOffset, RecordingReader};
use crate::engine::settle;
use crate::progress::{Monitor, Progress};
use crate::storage::{Attributes, FileIdentity, Item, OpenFile, Ownership, Source};
use crate::{Error, ErrorKind, Result};

/// The beginning of the names of directories for copies of databases, and the name of a copy.
const COPIES: &str = ".tenantry-export-";
const COPY: &str = "copy.db";
/// At most this many entries that were left out are named.
const LEFT_OUT_NAMED_MAX: usize = 100;
/// Number of times that a file is read which changes in between.
const ATTEMPTS_MAX: usize = 3;

pub(super) struct ArchiveWriter {
    pub(super) body: Body,
    pub(super) left_out: Vec<(PathBuf, String)>,
    /// The number of entries that were left out, named or not.
    pub(super) count: u64,
    seen: SeenPaths,
    /// The files of one user that have several names, with their paths in the archive.
    linked: HashMap<FileIdentity, PathBuf>,
    dir: PathBuf,
    /// The directory for copies of databases, once there is one.
    copies: Option<PrivateDir>,
    monitor: Monitor,
}

impl ArchiveWriter {
    /// Writes into temporary files in this directory.
    pub(super) fn new(dir: &Path, monitor: &Monitor) -> Result<Self> {
        let body = Body::new(dir, monitor).map_err(unwritable)?;
        let (seen, linked, dir, monitor) =
            (SeenPaths::default(), HashMap::new(), dir.to_owned(), monitor.clone());
        Ok(Self { body, left_out: Vec::new(), count: 0, seen, linked, dir, copies: None, monitor })
    }

    pub(super) fn take(&mut self, item: Item<'_>) -> Result<()> {
        if let Item::Directory { path, is_top: false, .. }
        | Item::Link { path, .. }
        | Item::Pipe { path, .. }
        | Item::File { path, .. } = &item
            && !self.seen.is_in_directory(path)
        {
            // The archive has another entry there, and no reader accepts entries below that.
            self.leave_out(
                path.clone(),
                "its directory was something else when it was archived".to_owned(),
            );
            return Ok(());
        }
        match item {
            Item::LeftOut { path, why } => self.leave_out(path, why),
            Item::Directory { path, attributes, is_top } => {
                if is_top {
                    // A file that belongs to two users becomes two.
                    self.linked.clear();
                }
                self.add(&path, &What::Directory, attributes)?;
            }
            Item::Link { path, target, attributes } => {
                self.add(&path, &What::Symlink(target), attributes)?
            }
            Item::Pipe { path, attributes } => self.add(&path, &What::Pipe, attributes)?,
            Item::File { path, source } => {
                if self.is_taken(&path, Kind::File) {
                    self.take_file(path, source)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a private file, which belongs to the owner of the store.
    pub(super) fn take_image(
        &mut self,
        path: &Path,
        owner: (u32, u32),
        image: &File,
    ) -> Result<()> {
        let attributes =
            Attributes { mode: 0o600, owner: owner.0, group: owner.1, ..Attributes::default() };
        self.body.image(path, &attributes, image).map_err(unwritable)?;
        self.monitor.report(Progress {
            files: self.body.files,
            bytes: self.body.bytes,
            ..Progress::default()
        })
    }

    fn add(&mut self, path: &Path, what: &What, mut attributes: Attributes) -> Result<()> {
        let kind = if *what == What::Directory { Kind::Directory } else { Kind::Other };
        if self.is_taken(path, kind) {
            self.limit(path, &mut attributes);
            self.body.add(path, what, &attributes).map_err(unwritable)?;
        }
        Ok(())
    }

    /// Returns whether an entry can be added, and wasn't before.
    fn is_taken(&mut self, path: &Path, kind: Kind) -> bool {
        // Some file systems list a name twice if it is removed and made again in between. No reader
        // accepts a path twice.
        if !self.seen.insert(path, kind) {
            return false;
        }
        let fits = path.as_os_str().len() <= PATH_BYTES_MAX;
        if !fits {
            self.leave_out(path.to_owned(), "the path is too long for an archive".to_owned());
        }
        fits
    }

    /// Leaves out extended attributes that are larger than a reader accepts.
    fn limit(&mut self, path: &Path, attributes: &mut Attributes) {
        if Records::for_attributes(attributes).to_bytes().len() as u64 > PAX_BYTES_MAX / 2 {
            attributes.extended.clear();
            self.leave_out(
                path.to_owned(),
                "its extended attributes are too large for an archive".to_owned(),
            );
        }
    }

    fn take_file(&mut self, path: PathBuf, source: Source<'_>) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let attempt = match source.open() {
                Ok(Some(opened)) => self.attempt(&path, source, opened)?,
                Ok(None) => return Ok(()),
                Err(error) => Attempt::Unreadable(error),
            };
            match attempt {
                Attempt::Taken => {
                    return self.monitor.report(Progress {
                        files: self.body.files,
                        bytes: self.body.bytes,
                        ..Progress::default()
                    });
                }
                Attempt::Changed => {}
                Attempt::Unreadable(error) => {
                    self.leave_out(path, error.to_string());
                    return Ok(());
                }
            }
        }
        self.leave_out(path, "the file changes whenever it is read".to_owned());
        Ok(())
    }

    fn attempt(
        &mut self,
        path: &Path,
        source: Source<'_>,
        mut opened: OpenFile,
    ) -> Result<Attempt> {
        let identity = match opened.identity() {
            Ok(identity) => identity,
            Err(error) => return Ok(Attempt::Unreadable(error)),
        };
        if let Some(first) = identity.and_then(|identity| self.linked.get(&identity)) {
            let what = What::HardLink(first.clone());
            self.body.add(path, &what, &opened.attributes).map_err(unwritable)?;
            return Ok(Attempt::Taken);
        }
        let unread = opened.unread.take();
        self.limit(path, &mut opened.attributes);
        let attempt = match opened.log() {
            Some(suffix) => self.take_database(path, source, opened, suffix)?,
            None => self
                .body
                .file(path, &opened, &|| source.is_unchanged(&opened))
                .map_err(unwritable)?,
        };
        if let (Attempt::Taken, Some(identity)) = (&attempt, identity) {
            self.linked.insert(identity, path.to_owned());
        }
        if let (Attempt::Taken, Some(error)) = (&attempt, unread) {
            self.leave_out(
                path.to_owned(),
                format!("its extended attributes can't be read: {error}"),
            );
        }
        Ok(attempt)
    }

    /// Adds a database with a WAL or journal: SQLite recovers a copy, and that is archived.
    fn take_database(
        &mut self,
        path: &Path,
        source: Source<'_>,
        opened: OpenFile,
        suffix: &str,
    ) -> Result<Attempt> {
        let dir = match &self.copies {
            Some(dir) => dir.path(),
            None => {
                self.copies.insert(PrivateDir::new(COPIES, &self.dir).map_err(unwritable)?).path()
            }
        };
        let (copy, log) = (dir.join(COPY), dir.join(format!("{COPY}{suffix}")));
        let copied = copy_database(&opened, &copy, &log, &self.monitor)?;
        let is_whole = copied && source.is_unchanged(&opened).unwrap_or(false);
        let attempt = if !is_whole {
            Attempt::Changed
        } else if opened.may_be_settled() && settle(&copy, &log).is_ok() {
            let file =
                File::open(&copy).and_then(|file| opened.with_copy(file)).map_err(unwritable)?;
            self.body.file(path, &file, &|| Ok(true)).map_err(unwritable)?
        } else {
            // SQLite can't recover it, so it is archived as it is, with its WAL or journal.
            let attempt = self
                .body
                .file(path, &opened, &|| source.is_unchanged(&opened))
                .map_err(unwritable)?;
            if matches!(attempt, Attempt::Taken) {
                self.take_beside(path, source, suffix)?;
                if !opened.may_be_settled() {
                    // Its journal refers to a file that isn't archived. Without that, SQLite takes
                    // the transaction for complete.
                    let why = "a transaction over several databases was cut short in it: open it with its application";
                    self.leave_out(path.to_owned(), why.to_owned());
                }
            }
            attempt
        };
        for left in [copy, log] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unwritable(error));
                }
                _ => {}
            }
        }
        Ok(attempt)
    }

    /// Adds the WAL or journal of a database as a file.
    fn take_beside(&mut self, path: &Path, source: Source<'_>, suffix: &str) -> Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        match source.beside(suffix) {
            Err(error) => self.leave_out(path, error.to_string()),
            Ok((dir, name)) => self.take(Item::File { path, source: Source::new(dir, &name) })?,
        }
        Ok(())
    }

    pub(super) fn leave_out(&mut self, path: PathBuf, why: String) {
        self.count += 1;
        if self.left_out.len() < LEFT_OUT_NAMED_MAX {
            self.left_out.push((path, why));
        }
    }
}

/// Copies a database and its WAL or journal. Returns whether they could be read, and fails if they
/// can't be written.
fn copy_database(opened: &OpenFile, copy: &Path, log: &Path, monitor: &Monitor) -> Result<bool> {
    let (file, changes) = opened.parts();
    for (from, to) in std::iter::once((file, copy)).chain(changes.map(|changes| (changes, log))) {
        let mut to = Ownership::default().make_file(to).map_err(unwritable)?;
        let mut input = RecordingReader::new(AtOffset::new(from));
        let copied = io::copy(&mut monitor.reader(&mut input), &mut to);
        if input.failure().is_some() {
            return Ok(false);
        }
        copied.map_err(unwritable)?;
    }
    Ok(true)
}

/// Writes the archive under a temporary name, and renames it once it is synced. Returns its size.
pub(super) fn finish<M: Manifest>(
    body: Body,
    manifest: &M,
    file: &Path,
    prefix: &str,
) -> Result<u64> {
    let (dir, monitor) = (parent(file), body.monitor.clone());
    let mut output = temporary::private_file(prefix, dir).map_err(unwritable)?;
    body.finish(manifest, output.as_file_mut()).map_err(unwritable)?;
    output.as_file().sync_all().map_err(unwritable)?;
    let archive_bytes = output.as_file().metadata().map_err(unwritable)?.len();
    // From here on the archive can exist.
    monitor.check()?;
    output.persist_noclobber(file).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => unwritable(failed.error),
    })?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| {
        // The name may not be durable, and another attempt would fail since it exists.
        let _ = std::fs::remove_file(file);
        unwritable(error)
    })?;
    Ok(archive_bytes)
}

/// Refuses a file that exists, before anything is done for it, and removes what killed processes
/// have left beside it.
///
/// One that appears later is found when the archive gets its name.
pub(super) fn prepare(file: &Path, prefix: &str) -> Result<()> {
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(exists());
    }
    if let Err(error) = temporary::clear(parent(file), prefix) {
        // The directory may be writable and not readable.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "leftovers of other processes can't be looked for"
        );
    }
    Ok(())
}

fn exists() -> Error {
    Error::new(ErrorKind::Exists, "there is a file of that name already")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    /// XFS lists a name twice that is removed and made again in between. Such an archive could
    /// never be read.
    #[test]
    fn what_a_file_system_lists_twice_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "hello").unwrap();
        let at = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut writer = ArchiveWriter::new(dir.path(), &Monitor::silent()).unwrap();
        for _ in 0..2 {
            let attributes = Attributes::default();
            writer
                .take(Item::Directory { path: "files".into(), attributes, is_top: true })
                .unwrap();
            let source = Source::new(&at, c"lock");
            writer.take(Item::File { path: "files/lock".into(), source }).unwrap();
        }
        assert_eq!((writer.body.files, writer.body.bytes, writer.count), (1, 5, 0));
    }

    /// A path that was a file when it was listed, and a directory when it was listed again, made an
    /// archive with files in a file.
    #[test]
    fn nothing_is_taken_that_lies_in_no_directory_of_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["changing", "in it"] {
            std::fs::write(dir.path().join(name), "hello").unwrap();
        }
        let at = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut writer = ArchiveWriter::new(dir.path(), &Monitor::silent()).unwrap();
        let directory = |path: &str, is_top| Item::Directory {
            path: path.into(),
            attributes: Attributes::default(),
            is_top,
        };
        writer.take(directory("files", true)).unwrap();
        writer
            .take(Item::File {
                path: "files/changing".into(),
                source: Source::new(&at, c"changing"),
            })
            .unwrap();
        writer.take(directory("files/changing", false)).unwrap();
        writer
            .take(Item::File {
                path: "files/changing/in it".into(),
                source: Source::new(&at, c"in it"),
            })
            .unwrap();
        assert_eq!((writer.body.files, writer.count), (1, 1));
        assert_eq!(writer.left_out[0].0, Path::new("files/changing/in it"));
    }
}
