//! Reads users from a file, row by row.

use std::io::Read;

use crate::columns::{Columns, Omissions};
use crate::csv_rows::CsvRows;
use crate::json_rows::JsonRows;
use crate::row::Row;
use crate::{Format, Result};

/// The most rows of a chunk: one transaction of them takes some 50 ms, and syncs the disk once.
const CHUNK_ROWS: usize = 5_000;
/// The size of the file after which a chunk ends, however few rows it has.
const CHUNK_BYTES: u64 = 1 << 20;

/// Holds some rows, in the order of the file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Chunk {
    /// The rows.
    pub rows: Vec<Row>,
    /// How many bytes of the file had been read at the end of the chunk.
    pub bytes_read: u64,
    /// The omissions from the beginning of the file to the end of the chunk.
    pub omissions: Omissions,
    /// `None` if more rows follow, `Some(Ok)` at the end of the file, `Some(Err)` where the file
    /// can't be read any further.
    pub end: Option<Result<()>>,
}

/// Reads the rows of a file one at a time, in constant memory.
///
/// # Examples
///
/// ```
/// use tenantry_exchange::{Format, RowReader};
///
/// let mut reader = RowReader::new(Format::Jsonl, &b"{\"email\":\"ada@example.com\"}\n{}\n"[..])?;
/// let ada = reader.next_row()?.expect("a row");
/// assert_eq!((ada.line, ada.user.is_ok()), (1, true));
/// let empty = reader.next_row()?.expect("a row");
/// assert_eq!(empty.user.unwrap_err().reason, "email: missing");
/// assert!(reader.next_row()?.is_none());
/// # Ok::<(), tenantry_exchange::Error>(())
/// ```
pub struct RowReader<R: Read> {
    rows: Rows<R>,
}

enum Rows<R: Read> {
    Csv(Box<CsvRows<R>>),
    Json(Box<JsonRows<R>>),
}

impl<R: Read> RowReader<R> {
    /// Opens a file whose columns or keys are named as in [`User::FIELDS`](tenantry::User::FIELDS).
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::Error::Invalid) if the file isn't text, [`Header`](crate::Error::Header)
    /// if its header can't be used, [`Io`](crate::Error::Io) if `input` fails.
    pub fn new(format: Format, input: R) -> Result<Self> {
        Self::with_columns(format, Columns::default(), input)
    }

    /// Opens a file whose columns or keys have other names.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// See [`Columns`].
    pub fn with_columns(format: Format, columns: Columns, input: R) -> Result<Self> {
        let rows = match format {
            Format::Csv => Rows::Csv(Box::new(CsvRows::new(columns, input)?)),
            Format::Jsonl | Format::Json => Rows::Json(Box::new(JsonRows::new(columns, input)?)),
        };
        Ok(Self { rows })
    }

    /// Returns the next row, or `None` after the last.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::Error::Invalid) and [`Io`](crate::Error::Io). They concern the file and
    /// not a row: nothing can be read after them.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Json(rows) => rows.next(),
        }
    }

    /// Returns as many of the next rows as one transaction should take.
    ///
    /// # Errors
    ///
    /// As for [`next_row`](Self::next_row), if the chunk has no row before the failure. Otherwise
    /// the failure is in the chunk's [`end`](Chunk::end).
    ///
    /// # Examples
    ///
    /// See [the crate](crate).
    pub fn next_chunk(&mut self) -> Result<Chunk> {
        let mut rows = Vec::new();
        let read_before = self.bytes_read();
        let end = loop {
            if rows.len() == CHUNK_ROWS || self.bytes_read() - read_before >= CHUNK_BYTES {
                break None;
            }
            match self.next_row() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break Some(Ok(())),
                // The rows before the failure are good.
                Err(error) if !rows.is_empty() => break Some(Err(error)),
                Err(error) => return Err(error),
            }
        };
        Ok(Chunk { rows, bytes_read: self.bytes_read(), omissions: self.omissions().clone(), end })
    }

    /// Returns how many bytes of the file have been read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        match &self.rows {
            Rows::Csv(rows) => rows.bytes_read.get(),
            Rows::Json(rows) => rows.bytes_read.get(),
        }
    }

    /// Returns what has been left out so far.
    #[must_use]
    pub fn omissions(&self) -> &Omissions {
        match &self.rows {
            Rows::Csv(rows) => &rows.omissions,
            Rows::Json(rows) => &rows.omissions,
        }
    }
}

#[cfg(test)]
mod tests;
