//! Definitions that all parts of the archive format share.

use std::path::Path;

use serde::Serialize;

use crate::{Error, ErrorKind, Result};

pub(super) const BLOCK: u64 = 512;
/// The longest path of an entry: less than one system call takes (`PATH_MAX`), since it is
/// relative.
pub(super) const PATH_BYTES_MAX: usize = 4_000;

/// The kind of an archive. The field `kind` of the manifest names it; that of a backup has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Backup,
    User,
}

/// The first line of a manifest, which describes the archive as a whole.
pub(super) trait Manifest: Serialize + Sized {
    const KIND: Kind;
    /// The version of the format that is written. All versions up to it are read.
    const FORMAT: u32;

    /// Parses the line, which is known to be of this kind and format.
    fn parse(line: &[u8]) -> Result<Self>;

    /// Returns the version of the archive's format.
    fn format(&self) -> u32;

    /// Returns the number of files, and the sum of their lengths.
    fn totals(&self) -> (u64, u64);

    /// Returns whether an archive of this kind may have an entry at this path, which is relative
    /// and has neither `.` nor `..`.
    fn is_place(path: &Path, is_dir: bool) -> bool;
}

pub(super) fn damaged(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
