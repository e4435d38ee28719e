//! Users on their way into a file.

use std::io::{self, Write};

use tenantry::{ListQuery, ReadTx, User};

use crate::error::of_csv;
use crate::{Error, FIELDS, Format, csv_safe};

/// Returns the values of [`FIELDS`] as texts; the time of a login that never was is empty.
fn values(user: &User) -> [String; 7] {
    [
        user.id.to_string(),
        user.email.to_string(),
        user.created_at.to_string(),
        user.last_login_at.map(|login| login.to_string()).unwrap_or_default(),
        user.storage_path.to_string(),
        user.updated_at.to_string(),
        user.version.to_string(),
    ]
}

/// Writes users, one after the other. It makes many small writes of JSON: give it a buffered
/// writer.
///
/// # Examples
///
/// See [the crate](crate).
pub struct UserWriter<W: Write> {
    sink: Sink<W>,
}

enum Sink<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Jsonl(W),
    Json { writer: W, is_empty: bool },
}

impl<W: Write> UserWriter<W> {
    /// Begins a file, with the header if it is CSV.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn new(format: Format, writer: W) -> io::Result<Self> {
        let sink = match format {
            Format::Jsonl => Sink::Jsonl(writer),
            Format::Json => Sink::Json { writer, is_empty: true },
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(FIELDS).map_err(of_csv)?;
                Sink::Csv(Box::new(csv))
            }
        };
        Ok(Self { sink })
    }

    /// Writes one user.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&mut self, user: &User) -> io::Result<()> {
        match &mut self.sink {
            Sink::Csv(csv) => {
                csv.write_record(values(user).iter().map(|value| csv_safe(value).into_owned())).map_err(of_csv)
            }
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
    /// Those of the writer.
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

/// Writes all users as of the moment of a read transaction, in the order of creation, and returns
/// how many.
///
/// After each page, `progress` is told how many there were so far; its failure ends the export.
///
/// # Errors
///
/// Those of the store and of the writer, and that of `progress`.
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
