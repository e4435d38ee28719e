//! One row of a file, and the reasons why it isn't a user or wasn't imported.

use std::borrow::Cow;
use std::fmt;

use tenantry::{ErrorKind, NewUser};

use crate::printable;

/// The longest row. No real one is longer, even with photographs and metadata in it. Without a
/// limit, a file without a line end or with an unclosed quote would be read into memory as a whole.
pub(crate) const ROW_BYTES_MAX: usize = 1 << 20;
/// The size of the buffers that a file is read through.
pub(crate) const IO_BYTES: usize = 64 << 10;

/// Holds a row that was read, good or bad.
#[non_exhaustive]
pub struct Row {
    /// The line on which it begins in the file, counted from 1.
    pub line: u64,
    /// The index in a JSON array, counted from 1.
    pub element: Option<u64>,
    pub(crate) original: Original,
    /// The user to import, or the reason why the row isn't a user.
    pub user: std::result::Result<NewUser, BadRow>,
}

/// Leaves out the content of the file, which may be personal data.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Row {
    /// Returns the row as it is in the file: the JSON object, or the CSV record.
    ///
    /// It is empty if the row was too long to be kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry_exchange::{Format, RowReader};
    ///
    /// let mut reader = RowReader::new(Format::Csv, &b"email,id\nada,\n"[..])?;
    /// let row = reader.next_row()?.expect("a row");
    /// assert_eq!(&*row.original(), b"ada,");
    /// # Ok::<(), tenantry_exchange::Error>(())
    /// ```
    #[must_use]
    pub fn original(&self) -> Cow<'_, [u8]> {
        match &self.original {
            Original::Json(text) => Cow::Borrowed(text),
            Original::Csv { record, separator } => {
                let mut csv = csv::WriterBuilder::new()
                    .flexible(true)
                    .delimiter(*separator)
                    .from_writer(Vec::new());
                // Writing to memory only fails if there is none left.
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

/// Reports why a row isn't a user.
#[non_exhaustive]
pub struct BadRow {
    /// The address as it is in the row: any text, or an empty one.
    pub address: String,
    /// The reason, with the name of the field and without control characters.
    pub reason: String,
}

/// Leaves out the address, which is personal data.
impl fmt::Debug for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BadRow").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Holds a row that wasn't imported, and the reason.
///
/// It is displayed as `line 3: ada@example.com: ` and the reason, or as `line 3, element 2: …` for
/// an element of a JSON array.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rejection {
    /// The row.
    pub row: Row,
    /// The reason, without control characters.
    pub reason: String,
    /// The kind of the reason; `InvalidUser` for a row that isn't a user.
    pub kind: ErrorKind,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row.element {
            Some(element) => write!(f, "line {}, element {element}: ", self.row.line)?,
            None => write!(f, "line {}: ", self.row.line)?,
        }
        // The address may be any text, and must not control a terminal.
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
