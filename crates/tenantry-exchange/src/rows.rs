//! Users as rows of CSV and JSON, on their way out of a file.

use std::io::Read;

use crate::columns::{Columns, PassedOver};
use crate::csv_rows::CsvRows;
use crate::json_rows::JsonRows;
use crate::row::Row;
use crate::{Format, Result};

/// How many rows are enough for a chunk: a transaction of them waits for the disk once, and takes
/// some 50 ms.
const CHUNK_ROWS: usize = 5_000;
/// How many octets of the file are enough for a chunk, whatever the number of rows.
const CHUNK_OCTETS: u64 = 1 << 20;

/// Some rows, in the order of the file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Chunk {
    /// The rows.
    pub rows: Vec<Row>,
    /// How much of the file was read up to its end, in octets.
    pub read_octets: u64,
    /// What was passed over up to its end, since the beginning of the file.
    pub passed_over: PassedOver,
    /// Why nothing follows: the file has ended, or it can't be read any further.
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
/// let nobody = reader.next_row()?.expect("a row");
/// assert_eq!(nobody.user.unwrap_err().reason, "email: missing");
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
    /// Begins to read a file whose columns or keys are called as [`FIELDS`](crate::FIELDS) are.
    ///
    /// # Errors
    ///
    /// `Invalid` if the file isn't text, `Header` if it has a header that can't be used; `Io` as
    /// `input` has it.
    pub fn new(format: Format, input: R) -> Result<Self> {
        Self::with_columns(format, Columns::default(), input)
    }

    /// Begins to read a file whose columns or keys are called otherwise.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
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
    /// `Invalid` and `Io`. They are of the file, not of a row: nothing can be read after them.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Json(rows) => rows.next(),
        }
    }

    /// Returns as many of the next rows as one transaction should take, and why nothing follows if
    /// that is so.
    ///
    /// # Errors
    ///
    /// As [`next_row`](Self::next_row), if there is no row before. Otherwise the failure is the
    /// chunk's [`end`](Chunk::end).
    pub fn next_chunk(&mut self) -> Result<Chunk> {
        let mut rows = Vec::new();
        let read_before = self.read_octets();
        let end = loop {
            if rows.len() == CHUNK_ROWS || self.read_octets() - read_before >= CHUNK_OCTETS {
                break None;
            }
            match self.next_row() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break Some(Ok(())),
                // The good rows before it are good all the same.
                Err(error) if !rows.is_empty() => break Some(Err(error)),
                Err(error) => return Err(error),
            }
        };
        Ok(Chunk { rows, read_octets: self.read_octets(), passed_over: self.passed_over().clone(), end })
    }

    /// Returns how much of the file was read so far, in octets.
    #[must_use]
    pub fn read_octets(&self) -> u64 {
        match &self.rows {
            Rows::Csv(rows) => rows.read_octets.get(),
            Rows::Json(rows) => rows.read_octets.get(),
        }
    }

    /// Returns what was passed over so far.
    #[must_use]
    pub fn passed_over(&self) -> &PassedOver {
        match &self.rows {
            Rows::Csv(rows) => &rows.passed_over,
            Rows::Json(rows) => &rows.passed_over,
        }
    }
}

#[cfg(test)]
mod tests;
