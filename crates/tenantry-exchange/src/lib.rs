//! Users of a [Tenantry](tenantry) store as files: CSV, JSON Lines and JSON, read and written.
//!
//! The command `tenantry`, an HTTP service and the fuzz targets use the same code. It needs the store's public face
//! alone, prints nothing and opens no files: it reads from any [`Read`](std::io::Read), writes to any
//! [`Write`](std::io::Write), and returns counts and reasons as values.
//!
//! A [`RowReader`] reads rows in constant memory, and [chunks](RowReader::next_chunk) of them. An [`Importer`] writes
//! chunks into the store and counts what became of their rows; a [`RejectsWriter`] writes those that were rejected, so
//! that they can be corrected and imported. A [`UserWriter`] writes users, and [`export`] all of them as of one moment.
//!
//! ```
//! use tenantry::{OnConflict, Store};
//! use tenantry_exchange::{Error, Format, Importer, RowReader, UserWriter, export};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # pollster::block_on(async {
//! let store = Store::open(dir.path().join("data")).await?;
//! let file = &b"email,created_at\nada@example.com,2026-01-01T00:00:00Z\nbob,\n"[..];
//!
//! let mut reader = RowReader::new(Format::Csv, file)?;
//! let chunk = reader.next_chunk()?;
//! let importer = store
//!     .write(|tx| {
//!         let mut importer = Importer::new(OnConflict::Skip);
//!         importer.write(tx, chunk)?;
//!         Ok::<_, Error>(importer)
//!     })
//!     .await?;
//! assert_eq!((importer.tally().created, importer.tally().rejected), (1, 1));
//! assert_eq!(importer.rejected()[0].to_string(), "line 3: bob: email: the address has no @");
//!
//! let mut writer = UserWriter::new(Format::Csv, Vec::new())?;
//! let count = store.read(|tx| export(tx, &mut writer, |_| Ok::<_, Error>(()))).await?;
//! assert_eq!(count, 1);
//! assert!(String::from_utf8(writer.finish()?)?.contains("ada@example.com"));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod columns;
mod csv_rows;
mod decode;
mod error;
mod fields;
mod formula;
mod import;
mod json_rows;
mod printable;
mod rows;
mod waiting;
mod write;

use std::path::Path;

pub use columns::{Columns, PassedOver};
pub use error::{Error, Result};
pub use formula::csv_safe;
pub use import::{Importer, LookAlike, OnLookAlike, Rejection, RejectsWriter, Tally};
pub use printable::printable;
pub use rows::{BadRow, Chunk, Row, RowReader};
pub use write::{UserWriter, export};

/// The fields of a user, in the order in which they are written everywhere.
pub const FIELDS: [&str; 7] = ["id", "email", "created_at", "last_login_at", "storage_path", "updated_at", "version"];

/// How a file holds users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with a header that names [`FIELDS`].
    Csv,
    /// [JSON Lines](https://jsonlines.org): one object a line.
    Jsonl,
    /// One array of objects. What is read may be either: a file of JSON Lines or an array, which may be the member `users`
    /// of an object.
    Json,
}

impl Format {
    /// Returns what the name of a file says of its format: CSV if it ends with `.csv`, JSON if it ends with `.json`, else
    /// JSON Lines.
    ///
    /// ```
    /// use tenantry_exchange::Format;
    ///
    /// assert_eq!(Format::of("users.CSV".as_ref()), Format::Csv);
    /// assert_eq!(Format::of("users.json".as_ref()), Format::Json);
    /// assert_eq!(Format::of("-".as_ref()), Format::Jsonl);
    /// ```
    #[must_use]
    pub fn of(file: &Path) -> Self {
        match file.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("csv") => Self::Csv,
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            _ => Self::Jsonl,
        }
    }
}
