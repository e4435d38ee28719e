//! Users of a [Tenantry](tenantry) store as files: CSV, JSON Lines and JSON, read and written.
//!
//! The command `tenantry`, an HTTP service and the fuzz targets use the same code. It needs the
//! store's public face alone, prints nothing and opens no files: it reads from any
//! [`Read`](std::io::Read), writes to any [`Write`](std::io::Write), and returns counts and reasons
//! as values.
//!
//! A [`RowReader`] reads rows in constant memory, and [chunks](RowReader::next_chunk) of them. An
//! [`Importer`] writes chunks into the store and counts what became of their rows; a
//! [`RejectsWriter`] writes those that were rejected, so that they can be corrected and imported. A
//! [`UserWriter`] writes users, and [`export`] all of them as of one moment.
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
mod format;
mod formula;
mod import;
mod json_rows;
mod printable;
mod row;
mod rows;
mod waiting;
mod write;

pub use columns::{Columns, PassedOver};
pub use error::{Error, Result};
pub use format::{FIELDS, Format};
pub use formula::csv_safe;
pub use import::{Importer, LookAlike, OnLookAlike, RejectsWriter, Tally};
pub use printable::printable;
pub use row::{BadRow, Rejection, Row};
pub use rows::{Chunk, RowReader};
pub use write::{UserWriter, export};
