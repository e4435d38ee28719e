//! One row of a file, and why it is no user or was not imported.

use std::borrow::Cow;
use std::fmt;

use tenantry::{ErrorKind, NewUser};

use crate::printable;

/// No honest row is longer, photographs and metadata that nobody needs included. Without a limit, a
/// file without a line end, or with a quote that is never closed, would be read into memory as a
/// whole.
pub(crate) const ROW_OCTETS_MAX: usize = 1 << 20;
/// As much as is read from a file at a time.
pub(crate) const IO_OCTETS: usize = 64 << 10;

/// A row that was read, good or bad.
#[non_exhaustive]
pub struct Row {
    /// The line on which it begins in the file, counted from 1.
    pub line: u64,
    /// Which element of a JSON array it is, counted from 1.
    pub element: Option<u64>,
    pub(crate) original: Original,
    /// The user to import, or why there is none.
    pub user: std::result::Result<NewUser, BadRow>,
}

/// Without what was in the file, which may be anybody's address.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Row {
    /// Returns what was in the file: the object of JSON, or the fields of CSV as one record. It is
    /// empty if it was too long to be kept.
    #[must_use]
    pub fn original(&self) -> Cow<'_, [u8]> {
        match &self.original {
            Original::Json(text) => Cow::Borrowed(text),
            Original::Csv { record, separator } => {
                let mut csv = csv::WriterBuilder::new().flexible(true).delimiter(*separator).from_writer(Vec::new());
                // Writing to memory fails for no other reason than that there is none.
                let written = csv.write_byte_record(record).is_ok();
                let mut line = csv.into_inner().ok().filter(|_| written).unwrap_or_default();
                line.pop();
                Cow::Owned(line)
            }
        }
    }
}

pub(crate) enum Original {
    Csv { record: csv::ByteRecord, separator: u8 },
    Json(Vec<u8>),
}

/// Why a row is no user.
#[non_exhaustive]
pub struct BadRow {
    /// The address as it is in the row, which may be anything, or nothing.
    pub address: String,
    /// What is wrong, with the name of the field. It has no control characters.
    pub reason: String,
}

/// Without the address.
impl fmt::Debug for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BadRow").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// A row that wasn't imported, and why.
///
/// It is written as `line 3: ada@example.com: `, or `line 3, element 2: ` for what is in a JSON
/// array, and the reason.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rejection {
    /// The row.
    pub row: Row,
    /// What is wrong with it. It has no control characters.
    pub reason: String,
    /// Of which kind that is; a row that is no user is `InvalidUser`.
    pub kind: ErrorKind,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row.element {
            Some(element) => write!(f, "line {}, element {element}: ", self.row.line)?,
            None => write!(f, "line {}: ", self.row.line)?,
        }
        // The address may be anything, so it is written as no terminal could misunderstand.
        let address = match &self.row.user {
            Ok(user) => printable(user.email.as_str()),
            Err(bad) => printable(&bad.address),
        };
        if !address.is_empty() {
            write!(f, "{address}: ")?;
        }
        f.write_str(&self.reason)
    }
}
