//! A copy of somebody else's database, made one file with its log.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::{Error, ErrorKind, Result};

/// Brings into the file of a database what its WAL or journal holds, as SQLite does after a crash.
/// Nobody else may know of it.
///
/// No schema is read, and so nothing is run that the database holds.
pub(crate) fn settle(database: &Path, log: &Path) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = Connection::open_with_flags(database, flags)?;
    // A journal is undone, and a WAL recovered, by whoever reads first. It is moved by whoever
    // closes last.
    conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?;
    conn.close().map_err(|(_, error)| error)?;
    if std::fs::symlink_metadata(log).is_ok() {
        return Err(Error::new(ErrorKind::Corrupt, "the log of a database could not be moved into it"));
    }
    Ok(())
}
