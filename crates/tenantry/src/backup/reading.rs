//! An archive while it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::archive::{Entry, damaged, unwritable};
use crate::content::{Content, Hashed};
use crate::storage::{Unpacking, file_error};
use crate::{Error, ErrorKind, Result};

/// The files that were read so far, each compared with what was announced.
pub(super) struct Reading<'p> {
    files: u64,
    bytes: u64,
    progress: &'p dyn Fn(u64, u64),
}

impl<'p> Reading<'p> {
    pub(super) fn new(progress: &'p dyn Fn(u64, u64)) -> Self {
        Self { files: 0, bytes: 0, progress }
    }

    /// Passes a file on.
    pub(super) fn copy(&mut self, announced: &Content, octets: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
        let mut hashed = Hashed::new(octets);
        io::copy(&mut hashed, output).map_err(unwritable)?;
        self.took(announced, &hashed.content())
    }

    /// Writes a file, or makes a directory.
    pub(super) fn unpack(
        &mut self,
        unpacking: &mut Unpacking,
        path: &Path,
        entry: &Entry,
        modified_at: u64,
        octets: &mut dyn Read,
    ) -> Result<()> {
        let Some(announced) = &entry.content else { return unpacking.directory(path) };
        let mut hashed = Hashed::new(octets);
        unpacking.file(path, entry.mode, modified_at, &mut hashed)?;
        self.took(announced, &hashed.content())
    }

    fn took(&mut self, announced: &Content, found: &Content) -> Result<()> {
        if announced != found {
            return Err(damaged("a file in the archive is not what the manifest announces: its hash differs"));
        }
        self.files += 1;
        self.bytes += found.size;
        (self.progress)(self.files, self.bytes);
        Ok(())
    }
}

/// The paths that there are in an archive so far, as digests (so some 20 bytes for each), and whether they are directories.
#[derive(Default)]
pub(super) struct Met(HashMap<[u8; 16], bool>);

impl Met {
    /// Whether a path lies directly in a directory that was met.
    pub(super) fn is_in_directory(&self, path: &Path) -> bool {
        path.parent().is_some_and(|above| self.0.get(&digest(above)) == Some(&true))
    }

    /// Lets nothing pass twice.
    pub(super) fn add(&mut self, path: &Path, is_dir: bool) -> Result<()> {
        if self.insert(path, is_dir) { Ok(()) } else { Err(damaged("the archive holds something twice")) }
    }

    /// Says whether it is new.
    pub(super) fn insert(&mut self, path: &Path, is_dir: bool) -> bool {
        self.0.insert(digest(path), is_dir).is_none()
    }
}

fn digest(path: &Path) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(path.as_os_str().as_bytes()).as_bytes()[..16]);
    digest
}

/// Opens an archive, which is what the message calls it if there is none.
pub(super) fn open(file: &Path, missing: &'static str) -> Result<File> {
    File::open(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, missing).with_source(error),
        _ => file_error(error, "the archive can't be read"),
    })
}
