//! Writes users into a file.

use std::io::{self, Write};

use tenantry::{ListQuery, ReadTx, User};

use crate::error::csv_io_error;
use crate::{Error, Format, escape_formula};

/// Writes users, one after the other.
///
/// It makes many small writes, so `W` should be buffered.
///
/// # Examples
///
/// ```
/// use tenantry::User;
/// use tenantry_exchange::{Format, UserWriter};
///
/// let ada: User = serde_json::from_str(
///     r#"{"id":"3fa2b1c4-0000-4000-8000-000000000001","email":"+ada@example.com",
///         "created_at":"2026-11-23T14:43:28Z","last_login_at":null,"storage_path":"ada",
///         "updated_at":"2026-11-23T14:43:28Z","version":1}"#,
/// )?;
/// let mut writer = UserWriter::new(Format::Csv, Vec::new())?;
/// writer.write(&ada)?;
/// let csv = String::from_utf8(writer.finish()?)?;
/// assert!(csv.starts_with("id,email,"));
/// // Escaped against formula injection.
/// assert!(csv.contains(",'+ada@example.com,"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct UserWriter<W: Write> {
    sink: Sink<W>,
}

enum Sink<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Jsonl(W),
    Json { writer: W, is_empty: bool },
}

impl<W: Write> UserWriter<W> {
    /// Begins a file. One of CSV gets its header.
    ///
    /// # Errors
    ///
    /// The errors of `writer`.
    pub fn new(format: Format, writer: W) -> io::Result<Self> {
        let sink = match format {
            Format::Jsonl => Sink::Jsonl(writer),
            Format::Json => Sink::Json { writer, is_empty: true },
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(User::FIELDS).map_err(csv_io_error)?;
                Sink::Csv(Box::new(csv))
            }
        };
        Ok(Self { sink })
    }

    /// Writes one user.
    ///
    /// # Errors
    ///
    /// The errors of the writer.
    pub fn write(&mut self, user: &User) -> io::Result<()> {
        match &mut self.sink {
            Sink::Csv(csv) => csv
                .write_record(
                    user.field_texts().iter().map(|value| escape_formula(value).into_owned()),
                )
                .map_err(csv_io_error),
            Sink::Jsonl(writer) => {
                serde_json::to_writer(&mut *writer, user)?;
                writer.write_all(b"\n")
            }
            Sink::Json { writer, is_empty } => {
                writer.write_all(if std::mem::take(is_empty) { b"[\n" } else { b",\n" })?;
                Ok(serde_json::to_writer(&mut *writer, user)?)
            }
        }
    }

    /// Ends the file, flushes it and returns the writer.
    ///
    /// # Errors
    ///
    /// The errors of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut writer = match self.sink {
            Sink::Csv(csv) => csv.into_inner().map_err(csv::IntoInnerError::into_error)?,
            Sink::Jsonl(writer) => writer,
            Sink::Json { mut writer, is_empty } => {
                writer.write_all(if is_empty { b"[]\n" } else { b"\n]\n" })?;
                writer
            }
        };
        writer.flush()?;
        Ok(writer)
    }
}

/// Writes all users of a snapshot in the order of creation, and returns their number.
///
/// After each page, `progress` gets the number of users so far. If it fails, the export ends.
///
/// # Errors
///
/// The errors of the store, of the writer and of `progress`.
///
/// # Examples
///
/// See [the crate](crate).
pub fn export<W: Write, E: From<Error>>(
    tx: &ReadTx<'_>,
    writer: &mut UserWriter<W>,
    mut progress: impl FnMut(u64) -> Result<(), E>,
) -> Result<u64, E> {
    let mut query = ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() };
    let mut count = 0;
    loop {
        let page = tx.list(&query).map_err(Error::Store)?;
        page.users.iter().try_for_each(|user| writer.write(user)).map_err(Error::Io)?;
        count += page.users.len() as u64;
        progress(count)?;
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok(count),
        }
    }
}
