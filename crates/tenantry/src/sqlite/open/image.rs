//! The image of a database in a backup, which is inspected like a store without directories.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::connect::{harden, immutable};
use super::identify::{StoreState, identify_schema, refuse_old_sqlite};
use super::upgrade::{SCHEMA_VERSION, migrate, refuse_other_references};
use crate::options::Options;
use crate::sqlite::functions;
use crate::sqlite::inspect::Inspection;
use crate::sqlite::tx::Snapshot;
use crate::{
    Email, Error, ErrorKind, ListQuery, Page, Result, TrashPage, TrashQuery, TrashedUser, User,
    UserId,
};

/// Where the [header](https://sqlite.org/fileformat.html#file_format_version_numbers) says that
/// there is a WAL.
const FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;

impl Inspection {
    /// Opens a private image, which may be unlinked afterwards. One of an older version is
    /// upgraded; [`schema_version`](Self::schema_version) returns the earlier version.
    ///
    /// # Errors
    ///
    /// `Incompatible` if it isn't that of a store, or of a newer one.
    pub(crate) fn open_image(path: &Path) -> Result<Self> {
        refuse_old_sqlite(rusqlite::version_number())?;
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let mut conn = Connection::open_with_flags(
            immutable(path),
            read_only | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        harden(&conn)?;
        let found = identify_schema(&conn, &Options::existing(path.to_owned()))?;
        let version = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        // The identification leaves its transaction open.
        conn.execute_batch("ROLLBACK")?;
        match found {
            // SQLite doesn't read the CHECK constraints of a read-only database, and so finds no
            // violation of them.
            StoreState::Current | StoreState::Unmarked if !has_log(path)? => {
                conn = open_alone(path)?
            }
            StoreState::Current | StoreState::Unmarked => {}
            StoreState::Nothing => {
                return Err(Error::new(ErrorKind::Corrupt, "the database in the archive is empty"));
            }
            StoreState::Older => conn = upgrade(path)?,
        }
        functions::register(&conn)?;
        conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA query_only = ON")?;
        Ok(Self { conn, version: Some(version) })
    }

    /// Makes reads fail once `is_to_end` returns true. It is called after each number of steps of
    /// SQLite's virtual machine.
    pub(crate) fn end_if(
        &mut self,
        steps: i32,
        is_to_end: impl FnMut() -> bool + Send + 'static,
    ) -> Result<()> {
        Ok(self.conn.progress_handler(steps, Some(is_to_end))?)
    }

    pub(crate) fn list(&self, query: &ListQuery) -> Result<Page> {
        Snapshot::new(&self.conn).page(query)
    }

    pub(crate) fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        Snapshot::new(&self.conn).trash_page(query)
    }

    pub(crate) fn get(&self, id: UserId) -> Result<Option<User>> {
        Snapshot::new(&self.conn).user(id)
    }

    pub(crate) fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        Snapshot::new(&self.conn).user_by_email(email)
    }

    pub(crate) fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        Snapshot::new(&self.conn).trashed(id)
    }
}

/// Brings an image to the schema of this program, without any other file beside it.
fn upgrade(path: &Path) -> Result<Connection> {
    if has_log(path)? {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the database in the archive has a log, which no image has",
        ));
    }
    let mut conn = open_alone(path)?;
    functions::register(&conn)?;
    refuse_other_references(&conn)?;
    // Whatever fails, the image is given up as a whole.
    conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")?;
    migrate(&mut conn)?;
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the database in the archive can't be upgraded",
        ));
    }
    Ok(conn)
}

/// Opens an image as a database that could be written. No other file is made beside it as long as
/// it isn't.
fn open_alone(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    harden(&conn)?;
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
    // The file is opened by the first read, which needs its name.
    let _: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(conn)
}

/// Whether the header says that the database has a WAL, which `VACUUM INTO` never makes.
fn has_log(path: &Path) -> Result<bool> {
    let mut header = [0; FORMAT_VERSIONS.end];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(|error| {
        crate::storage::file_error(error, "the image of the database can't be read")
    })?;
    Ok(header[FORMAT_VERSIONS] != [1, 1])
}
