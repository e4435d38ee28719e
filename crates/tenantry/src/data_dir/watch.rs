//! Notices that open files were removed or replaced.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs;

use crate::{Error, ErrorKind, Result};

/// Identifies the file that has a name: its device and its number there.
type FileId = (u64, u64);

/// Remembers which files had these names when they were opened. A file that has lost its name goes
/// on taking writes, which no other process sees, and locks on it exclude no other process.
#[derive(Debug)]
pub(crate) struct Watch {
    paths: [PathBuf; 3],
    opened: OnceLock<[Option<FileId>; 3]>,
}

impl Watch {
    pub(crate) fn new(paths: [PathBuf; 3]) -> Self {
        Self { paths, opened: OnceLock::new() }
    }

    /// Takes the files that have the names now for those that are to keep them.
    pub(crate) fn begin(&self) {
        self.opened.get_or_init(|| self.identify());
    }

    /// Fails with `Replaced` if other files have the names, or none.
    pub(crate) fn check(&self) -> Result<()> {
        match self.opened.get() {
            Some(opened) if *opened != self.identify() => Err(Error::new(
                ErrorKind::Replaced,
                "the database's files were removed or replaced while the store was open: nothing more is written to them",
            )),
            _ => Ok(()),
        }
    }

    fn identify(&self) -> [Option<FileId>; 3] {
        self.paths.each_ref().map(|path| fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino)))
    }
}
