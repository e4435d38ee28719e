//! What all parts of the format of archives share.

use std::path::Path;

use serde::Serialize;

use crate::{Error, ErrorKind, Result};

pub(super) const BLOCK: u64 = 512;
/// The longest path of an entry: what one system call takes, with some room for what it is relative to.
pub(super) const PATH_BYTES_MAX: usize = 4_000;

/// What an archive is of. A backup's manifest doesn't say so; every other does, in the field `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Backup,
    User,
}

/// The first line of a manifest: what the archive is as a whole.
pub(super) trait Manifest: Serialize + Sized {
    const KIND: Kind;
    /// The version of the format of this kind that is written. All up to it are read.
    const FORMAT: u32;

    /// Reads the line, of which it is known that it is of this kind and format.
    fn parse(line: &[u8]) -> Result<Self>;

    /// The version of the format of this archive.
    fn format(&self) -> u32;

    /// How many files there are, and the sum of their lengths.
    fn totals(&self) -> (u64, u64);

    /// Whether something may be at this path, which is relative and has neither `.` nor `..` in it.
    fn is_place(path: &Path, is_dir: bool) -> bool;
}

pub(super) fn damaged(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
