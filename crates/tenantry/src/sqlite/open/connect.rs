//! Connects to the database file, with the settings of every connection.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::data_dir::access::Access;
use crate::options::Options;
use crate::sqlite::error::with_quota_as_full;
use crate::sqlite::files::{access, database_in, has_content};
use crate::sqlite::functions;
use crate::storage::file_error;
use crate::{Error, ErrorKind, Result};

/// The offset of the bytes that say how the database file is written and read
/// (<https://sqlite.org/fileformat2.html#file_format_version_numbers>).
const WRITE_VERSION: usize = 18;
/// The value for WAL mode.
const IS_WAL: u8 = 2;
/// Number of statements that a connection keeps prepared: more than the store has.
const STATEMENTS_MAX: usize = 64;
/// The page cache of the connection that writes, in KiB: used as the store grows. A row in an index
/// lands on a random page, and with SQLite's default of 2 MB an import of a million users writes
/// each page to the WAL and reads it back many times. The import as a whole stays below 64 MiB with
/// it.
const WRITER_CACHE_KIB: u32 = 32 << 10;
/// The size to which a larger WAL is truncated. It is larger only after a large commit or a long
/// read (`checkpoints.rs`).
const WAL_KEPT_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
}

/// Opens a connection that can't write.
pub(crate) fn open_reader(options: &Options) -> Result<Connection> {
    connect(&database_in(&options.data_dir), options, Role::Reader)
}

pub(crate) fn connect(path: &Path, options: &Options, role: Role) -> Result<Connection> {
    let access = access(path)?;
    let conn = match access {
        Access::Write => {
            let conn = Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            harden(&conn)?;
            conn
        }
        Access::Read => connect_read_only(path)?,
    };
    functions::register(&conn)?;
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    conn.execute_batch("PRAGMA foreign_keys = ON")?;
    let set_up = if role == Role::Reader || access == Access::Read {
        conn.execute_batch("PRAGMA query_only = ON")
    } else {
        // `checkpoints.rs` runs checkpoints, not the commit that fills the WAL.
        conn.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = {WAL_KEPT_BYTES};
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA cache_size = -{WRITER_CACHE_KIB};
             PRAGMA secure_delete = ON"
        ))
    };
    set_up.map_err(|error| with_quota_as_full(&conn, error.into()))?;
    Ok(conn)
}

/// Opens a connection that changes nothing, and makes no file on a read-only file system.
pub(crate) fn connect_read_only(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = if access(path)? == Access::Write {
        Connection::open_with_flags(path, flags)?
    } else if has_content(path, "-wal") {
        if !has_content(path, "-shm") {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the file system is read-only, and the store's log (tenantry.db-wal) was not moved into the database before: mount it writable once, or copy both files elsewhere",
            ));
        }
        Connection::open_with_flags(path, flags)?
    } else {
        // To read, SQLite makes a WAL and a file that shares its index, unless the database is
        // immutable (<https://sqlite.org/wal.html>, section 9).
        Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    harden(&conn)?;
    Ok(conn)
}

/// Returns the journal mode. On a read-only file system SQLite itself reports `delete`, since it
/// opens the database as immutable.
pub(crate) fn journal_mode(conn: &Connection, path: &Path, is_read_only: bool) -> Result<String> {
    if is_read_only && !has_content(path, "-wal") {
        // No connection of this process has a lock on the file that closing it would end.
        let header = read_header(path)
            .map_err(|error| file_error(error, "the database file can't be read"))?;
        if header[WRITE_VERSION..][..2] == [IS_WAL; 2] {
            return Ok("wal".to_owned());
        }
    }
    Ok(conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?)
}

fn read_header(path: &Path) -> std::io::Result<[u8; WRITE_VERSION + 2]> {
    let mut header = [0; WRITE_VERSION + 2];
    File::open(path)?.read_exact(&mut header)?;
    Ok(header)
}

/// Returns the [URI](https://sqlite.org/uri.html) of an immutable database.
pub(crate) fn immutable(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // Writing to a String can't fail.
            byte => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Hardens a connection, so that a hostile or damaged file can do no more than fail
/// (<https://sqlite.org/security.html>).
pub(crate) fn harden(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY",
    )?;
    Ok(())
}
