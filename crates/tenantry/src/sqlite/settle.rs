//! Brings the WAL of a user's database into the copy of it that a backup holds.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::{Error, ErrorKind, Result};

/// Applies the WAL or journal of a database to its file, as SQLite does after a crash. No other
/// process may have it open.
///
/// No schema is read, so nothing in the database is executed.
pub(crate) fn settle(database: &Path, log: &Path) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = Connection::open_with_flags(database, flags)?;
    // The first read rolls back a journal or recovers a WAL. The last connection that is closed
    // runs the checkpoint.
    conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?;
    conn.close().map_err(|(_, error)| error)?;
    if std::fs::symlink_metadata(log).is_ok() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the log of a database could not be moved into it",
        ));
    }
    Ok(())
}
