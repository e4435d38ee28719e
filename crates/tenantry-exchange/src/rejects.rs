//! Writes the rows that an import rejected.

use std::io::{self, Write};

use crate::error::csv_io_error;
use crate::{Rejection, escape_formula};

/// Writes rejected rows as CSV with the columns `line`, `reason` and `row`.
///
/// The column `row` holds the JSON object, or the fields of a CSV file as they were there.
///
/// Against formula injection, a row that begins like a formula gets an apostrophe, unless it has
/// one in the file. An import removes it, so the rows can be put below the header of their file and
/// imported again.
///
/// # Examples
///
/// ```
/// use tenantry::{OnConflict, Store};
/// use tenantry_exchange::{Error, Format, Importer, RejectsWriter, RowReader};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// let store = Store::open(dir.path().join("data")).await?;
/// let chunk = RowReader::new(Format::Csv, &b"email\nada\n"[..])?.next_chunk()?;
/// let importer = store
///     .write(|tx| {
///         let mut importer = Importer::new(OnConflict::Skip);
///         importer.write(tx, chunk)?;
///         Ok::<_, Error>(importer)
///     })
///     .await?;
/// let mut writer = RejectsWriter::new(Vec::new())?;
/// importer.rejected().iter().try_for_each(|rejection| writer.write(rejection))?;
/// let rejects = String::from_utf8(writer.finish()?)?;
/// assert_eq!(rejects, "line,reason,row\n2,email: the address has no @,ada\n");
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct RejectsWriter<W: Write> {
    csv: csv::Writer<W>,
}

impl<W: Write> RejectsWriter<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    ///
    /// The errors of `writer`.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut rejects = Self { csv: csv::Writer::from_writer(writer) };
        rejects.record(["line", "reason", "row"])?;
        Ok(rejects)
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// The errors of the writer.
    pub fn write(&mut self, rejection: &Rejection) -> io::Result<()> {
        let line = rejection.row.line.to_string();
        let reason = match rejection.row.element {
            Some(element) => format!("element {element}: {}", rejection.reason),
            None => rejection.reason.clone(),
        };
        let original = rejection.row.original();
        let original = String::from_utf8_lossy(&original);
        // An import removes one apostrophe only, so a second one would stay.
        let row = if original.starts_with('\'') {
            original
        } else {
            escape_formula(&original).into_owned().into()
        };
        self.record([&line, &escape_formula(&reason), &row])
    }

    fn record(&mut self, fields: [&str; 3]) -> io::Result<()> {
        self.csv.write_record(fields).map_err(csv_io_error)
    }

    /// Ends the file, flushes it and returns the writer.
    ///
    /// # Errors
    ///
    /// The errors of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut writer = self.csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
        writer.flush()?;
        Ok(writer)
    }
}
