//! Reads and writes the users of a [Tenantry](tenantry) store as CSV, JSON Lines and JSON.
//!
//! The command `tenantry`, an HTTP service and the fuzz targets share this code. It uses only the
//! public API of the store, prints nothing and opens no files: it reads from any
//! [`Read`](std::io::Read), writes to any [`Write`](std::io::Write), and returns counts and reasons
//! as values.
//!
//! A [`RowReader`] reads rows in constant memory, and [chunks](RowReader::next_chunk) of them. An
//! [`Importer`] writes chunks into the store and counts the outcomes of their rows; a
//! [`RejectsWriter`] writes the rejected rows, so that they can be corrected and imported again. A
//! [`UserWriter`] writes users, and [`export`] writes all of them from one snapshot.
//!
//! # Examples
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
//! let (count, writer) = store
//!     .read(|tx| {
//!         let mut writer = UserWriter::new(Format::Csv, Vec::new()).map_err(Error::Io)?;
//!         let count = export(tx, &mut writer, |_| Ok::<_, Error>(()))?;
//!         Ok::<_, Error>((count, writer))
//!     })
//!     .await?;
//! assert_eq!(count, 1);
//! assert!(String::from_utf8(writer.finish()?)?.contains("ada@example.com"));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]
// A test may tell a long story.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

mod columns;
mod csv_rows;
mod decode;
mod error;
mod fields;
mod format;
mod formula;
mod import;
mod json_rows;
mod printable;
mod rejects;
mod row;
mod rows;
mod waiting;
mod write;

pub use columns::{Columns, Omissions};
pub use error::{Error, Result};
pub use format::Format;
pub use formula::escape_formula;
pub use import::{ConfusableUser, Importer, OnConfusable, Tally};
pub use printable::printable;
pub use rejects::RejectsWriter;
pub use row::{BadRow, Rejection, Row};
pub use rows::{Chunk, RowReader};
pub use write::{UserWriter, export};
