//! Writes images of a database: of backups and of the snapshot before an upgrade.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::connect::open_reader;
use crate::options::Options;
use crate::sqlite::error::with_quota_as_full;
use crate::storage::{Ownership, file_error};
use crate::{Error, ErrorKind, Result};

/// Writes an image of a store's database as it is now to a file that doesn't exist yet.
///
/// `is_to_end` is asked once in so many steps of the virtual machine, and ends the operation with
/// an error.
pub(crate) fn write_image(
    options: &Options,
    image: &Path,
    (steps, is_to_end): (i32, impl FnMut() -> bool + Send + 'static),
) -> Result<()> {
    #[allow(unused_mut, reason = "rusqlite 0.39 takes `&self` where 0.41 takes `&mut self`")]
    let mut conn = open_reader(options)?;
    conn.progress_handler(steps, Some(is_to_end))?;
    conn.execute_batch("PRAGMA query_only = OFF")?;
    write_image_of(&conn, image, Ownership::default())
        .map_err(|error| with_quota_as_full(&conn, error))
}

/// Writes an image of the database of this connection to a file that doesn't exist yet, readable by
/// nobody else.
pub(crate) fn write_image_of(conn: &Connection, image: &Path, owner: Ownership) -> Result<()> {
    let failed = |error| file_error(error, "the image of the database can't be written");
    owner.make_file(image).map_err(failed)?;
    let image = image
        .to_str()
        .ok_or_else(|| Error::new(ErrorKind::Io, "the path of the image isn't UTF-8"))?;
    // It attaches the image, and writes to that.
    let attached = conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    let written = conn.execute("VACUUM INTO ?1", [image]);
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, attached)?;
    written?;
    Ok(())
}
