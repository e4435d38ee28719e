//! Rows on their way into the store.

use std::fmt;
use std::io::{self, Write};

use tenantry::{ErrorKind, Imported, OnConflict, WriteTx};

use crate::error::of_csv;
use crate::{Chunk, Error, Result, Row, csv_safe, printable};

/// What has become of the rows of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Users who were created.
    pub created: u64,
    /// Users who were there and were changed.
    pub updated: u64,
    /// Users who were there with the row's values already.
    pub unchanged: u64,
    /// Users who were there and were left as they are.
    pub skipped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Rows without any value, which were passed over.
    pub empty: u64,
}

/// Writes rows into a store and counts what becomes of them.
///
/// A transaction that is undone leaves counts and rejected rows behind that aren't true. Keep the [tally](Self::tally) of
/// the last one that was committed, and end the import.
///
/// # Examples
///
/// See [the crate](crate).
#[derive(Debug)]
pub struct Importer {
    on_conflict: OnConflict,
    tally: Tally,
    rejected: Vec<Rejection>,
}

impl Importer {
    /// Creates an importer with nothing counted yet.
    #[must_use]
    pub fn new(on_conflict: OnConflict) -> Self {
        Self { on_conflict, tally: Tally::default(), rejected: Vec::new() }
    }

    /// Checks a chunk before there is a transaction, or a store.
    ///
    /// # Errors
    ///
    /// `Rejected` for the first row that is no user if the policy is [`OnConflict::Fail`].
    pub fn check(&self, chunk: &mut Chunk) -> Result<()> {
        match chunk.rows.iter().position(|row| row.user.is_err()) {
            Some(bad) if self.on_conflict == OnConflict::Fail => {
                let row = chunk.rows.swap_remove(bad);
                let reason = row.user.as_ref().err().map(|bad| bad.reason.clone()).unwrap_or_default();
                Err(Error::Rejected(Box::new(Rejection { row, reason, kind: ErrorKind::InvalidUser })))
            }
            _ => Ok(()),
        }
    }

    /// Writes the rows of a chunk, each as [`WriteTx::import`] does.
    ///
    /// # Errors
    ///
    /// `Rejected` for the first row that is rejected if the policy is [`OnConflict::Fail`]; `Store` for a failure that
    /// isn't one of the row. The transaction must be undone then.
    pub fn write(&mut self, tx: &mut WriteTx<'_>, chunk: Chunk) -> Result<()> {
        self.tally.empty = chunk.empty_rows;
        for row in chunk.rows {
            let imported = match &row.user {
                Ok(user) => tx.import(user, self.on_conflict),
                Err(bad) => {
                    let (reason, kind) = (bad.reason.clone(), ErrorKind::InvalidUser);
                    self.reject(Rejection { row, reason, kind })?;
                    continue;
                }
            };
            match imported {
                Ok(Imported::Created) => self.tally.created += 1,
                Ok(Imported::Updated) => self.tally.updated += 1,
                Ok(Imported::Unchanged) => self.tally.unchanged += 1,
                Ok(Imported::Skipped) => self.tally.skipped += 1,
                Err(error) if is_of_row(error.kind()) => {
                    self.reject(Rejection { row, reason: error.to_string(), kind: error.kind() })?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn reject(&mut self, rejection: Rejection) -> Result<()> {
        if self.on_conflict == OnConflict::Fail {
            return Err(Error::Rejected(Box::new(rejection)));
        }
        self.tally.rejected += 1;
        self.rejected.push(rejection);
        Ok(())
    }

    /// Returns what has become of the rows so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns the rows that were rejected and not [taken](Self::take_rejected) yet.
    #[must_use]
    pub fn rejected(&self) -> &[Rejection] {
        &self.rejected
    }

    /// Takes the rows that were rejected, so that they don't pile up in memory.
    pub fn take_rejected(&mut self) -> Vec<Rejection> {
        std::mem::take(&mut self.rejected)
    }
}

/// Whether a failure is of a row, so that the next row can be imported all the same.
fn is_of_row(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::EmailTaken
            | ErrorKind::IdTaken
            | ErrorKind::PathTaken
            | ErrorKind::VersionMismatch { .. }
            | ErrorKind::Immutable
            | ErrorKind::NotEmpty
            | ErrorKind::Exists
            | ErrorKind::Constraint
            | ErrorKind::InvalidEmail
            | ErrorKind::InvalidId
            | ErrorKind::InvalidPath
            | ErrorKind::InvalidTimestamp
            | ErrorKind::InvalidUser
    )
}

/// A row that wasn't imported, and why.
///
/// It is written as `line 3: ada@example.com: ` and the reason.
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
        write!(f, "line {}: ", self.row.line)?;
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

/// Writes the rows that were rejected as CSV with the columns `line`, `reason` and `row`: the line of a JSON Lines file,
/// or the fields of a CSV file as they were there.
pub struct RejectsWriter<W: Write> {
    csv: csv::Writer<W>,
}

impl<W: Write> RejectsWriter<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut rejects = Self { csv: csv::Writer::from_writer(writer) };
        rejects.record(["line", "reason", "row"])?;
        Ok(rejects)
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&mut self, rejection: &Rejection) -> io::Result<()> {
        let original = rejection.row.original();
        let line = rejection.row.line.to_string();
        self.record([&line, &csv_safe(&rejection.reason), &csv_safe(&String::from_utf8_lossy(&original))])
    }

    fn record(&mut self, fields: [&str; 3]) -> io::Result<()> {
        self.csv.write_record(fields).map_err(of_csv)
    }

    /// Ends the file, flushes it and returns the writer.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut writer = self.csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
        writer.flush()?;
        Ok(writer)
    }
}
