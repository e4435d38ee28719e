//! Reading the entries of an archive.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::container::{Details, unwritable};
use super::entry::{Entry, What};
use super::format::damaged;
use super::input::Input;
use super::sparse;
use crate::content::{Content, HashingReader};
use crate::progress::{Monitor, Progress};
use crate::storage::{Unpacker, file_error};
use crate::{Error, ErrorKind, Result};

/// Reads entries, and compares each file with the manifest.
pub(super) struct EntryReader {
    files: u64,
    bytes: u64,
    monitor: Monitor,
}

impl EntryReader {
    pub(super) fn new(monitor: &Monitor) -> Self {
        Self { files: 0, bytes: 0, monitor: monitor.clone() }
    }

    /// Copies a file.
    pub(super) fn copy(
        &mut self,
        announced: &Content,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<()> {
        let mut hashing = HashingReader::new(self.monitor.reader(input));
        io::copy(&mut hashing, output)
            .map_err(|error| file_error(error, "what is read from the archive can't be written"))?;
        self.took(announced, None, &hashing.content())
    }

    /// Reads an entry without writing it.
    pub(super) fn check(&mut self, entry: &Entry, input: &mut dyn Read) -> Result<()> {
        let Some(announced) = &entry.content else { return Ok(()) };
        let mut hashing = HashingReader::new(self.monitor.reader(input));
        if let Some(stored) = entry.stored {
            sparse::read_map(&mut hashing, announced.size, stored)?;
        }
        io::copy(&mut hashing, &mut io::sink()).map_err(unwritable)?;
        self.took(announced, entry.stored, &hashing.content())
    }

    /// Writes an entry.
    pub(super) fn unpack(
        &mut self,
        unpacking: &mut Unpacker,
        path: &Path,
        entry: &Entry,
        Details { what, attributes }: &Details,
        input: &mut dyn Read,
    ) -> Result<()> {
        let announced = match (what, &entry.content) {
            (What::File, Some(announced)) => announced,
            (What::Directory | What::File, _) => return unpacking.directory(path, attributes),
            (What::Symlink(target), _) => return unpacking.link(path, target, attributes),
            (What::HardLink(target), _) => return unpacking.hard_link(path, target),
            (What::Pipe, _) => return unpacking.pipe(path, attributes),
        };
        let mut hashing = HashingReader::new(self.monitor.reader(input));
        let segments = match entry.stored {
            Some(stored) => Some(sparse::read_map(&mut hashing, announced.size, stored)?),
            None => None,
        };
        let sparse = segments.as_deref().map(|segments| (segments, announced.size));
        unpacking.file(path, attributes, sparse, &mut hashing)?;
        self.took(announced, entry.stored, &hashing.content())
    }

    fn took(&mut self, announced: &Content, stored: Option<u64>, found: &Content) -> Result<()> {
        if announced.blake3 != found.blake3 || stored.unwrap_or(announced.size) != found.size {
            return Err(damaged("the hash of a file in the archive differs from the manifest"));
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(announced.size);
        self.monitor.report(Progress {
            files: self.files,
            bytes: self.bytes,
            ..Progress::default()
        })
    }
}

/// The type of an entry at a path in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    /// A link or a pipe.
    Other,
}

/// The paths in an archive so far, as digests (so some 20 bytes each), with the types of their
/// entries.
#[derive(Default)]
pub(super) struct SeenPaths {
    kinds: HashMap<[u8; 16], Kind>,
    /// The directory of the current user.
    top: PathBuf,
}

impl SeenPaths {
    /// Returns whether a path lies directly in a directory of the archive.
    pub(super) fn is_in_directory(&self, path: &Path) -> bool {
        path.parent().is_some_and(|above| self.kinds.get(&digest(above)) == Some(&Kind::Directory))
    }

    /// Adds an entry. Refuses a path twice, and a hard link to anything but an earlier file of the
    /// same user.
    pub(super) fn add(&mut self, path: &Path, what: &What) -> Result<()> {
        let kind = match what {
            What::Directory => Kind::Directory,
            What::File => Kind::File,
            What::Symlink(_) | What::Pipe => Kind::Other,
            What::HardLink(target) => {
                let is_met = self.kinds.get(&digest(target)) == Some(&Kind::File);
                if !(is_met && path.starts_with(&self.top) && target.starts_with(&self.top)) {
                    return Err(damaged(
                        "the archive holds a hard link to something that isn't a file of the same user",
                    ));
                }
                Kind::File
            }
        };
        if kind == Kind::Directory && !self.is_in_directory(path) {
            self.top = path.to_owned();
        }
        if self.insert(path, kind) {
            Ok(())
        } else {
            Err(damaged("the archive holds something twice"))
        }
    }

    /// Adds a path, unless it is known. Returns whether it was new.
    pub(super) fn insert(&mut self, path: &Path, kind: Kind) -> bool {
        match self.kinds.entry(digest(path)) {
            Slot::Occupied(_) => false,
            Slot::Vacant(slot) => {
                slot.insert(kind);
                true
            }
        }
    }
}

fn digest(path: &Path) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(path.as_os_str().as_bytes()).as_bytes()[..16]);
    digest
}

/// Opens an archive. `missing` is the message if it doesn't exist.
pub(super) fn open(file: &Path, missing: &'static str, monitor: &Monitor) -> Result<Input> {
    Input::open(file, monitor).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, missing).with_source(error),
        _ => file_error(error, "the archive can't be read"),
    })
}
