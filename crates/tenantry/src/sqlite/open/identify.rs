//! Identifies a database file, without changing a byte of it.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::connect::connect_read_only;
use super::upgrade::SCHEMA_VERSION;
use crate::data_dir::access;
use crate::options::Options;
use crate::sqlite::error::{is_left_in_transaction, schema_failure, with_quota_as_full};
use crate::sqlite::files::{DATABASE, FILES, database_in};
use crate::sqlite::rows::SELECT_ALL;
use crate::storage::file_error;
use crate::{Error, ErrorKind, Result};

/// `Tnry`, as V1 of the schema sets it.
const APPLICATION_ID: i32 = 0x546E_7279;
/// Statements that are prepared and never run. One that can't be prepared means a damaged schema,
/// with which statements of the store would fail as if they were mistakes.
const SCHEMA: [&str; 10] = [
    SELECT_ALL,
    "SELECT id, email, email_key, created_at, last_login_at, updated_at, version, suspended_at, external_id, name, attributes FROM tenantry_living_users",
    "SELECT id, storage_path FROM tenantry_retired_users",
    "SELECT digest, is_whole FROM tenantry_retired_paths",
    "SELECT only_row, id, is_marked, log_syncs, last_deletion, changes_epoch, has_logins_in_changes FROM tenantry_store",
    "SELECT seq, at, kind, user_id, version, actor FROM tenantry_changes",
    "SELECT seq, user_id, action, path, name, recorded_at FROM tenantry_intents",
    "SELECT user_id, measured_at, files, apparent_bytes, allocated_bytes, unreadable FROM tenantry_usage",
    "SELECT number, name, digest, scopes, user_id, created_at, expires_at, last_used_at, revoked_at, replaced_at, created_by FROM tenantry_tokens",
    "SELECT seq, key, request, reply, user_id, kept_at FROM tenantry_requests",
];
/// Older ones can lose a committed transaction: <https://sqlite.org/wal.html#walresetbug>.
const OLDEST_SQLITE: i32 = 3_051_003;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreState {
    /// No file, or an empty one.
    Nothing,
    Older,
    /// Its directories were never set up: the first opening was interrupted.
    Unmarked,
    Current,
}

/// Identifies the database file of a store, without changing it.
pub(crate) fn identify(options: &Options) -> Result<StoreState> {
    let incompatible = |message| Err(Error::new(ErrorKind::Incompatible, message));
    access::refuse_links(&options.data_dir, &FILES)?;
    let path = database_in(&options.data_dir);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return incompatible(format!("{DATABASE} is not a file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(StoreState::Nothing);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return incompatible("the data directory is not a directory".to_owned());
        }
        Err(error) => return Err(file_error(error, "the database file can't be reached")),
    }
    let conn = connect_read_only(&path)?;
    identify_schema(&conn, options).map_err(|error| with_quota_as_full(&conn, error))
}

/// Identifies the schema of a database.
pub(crate) fn identify_schema(conn: &Connection, options: &Options) -> Result<StoreState> {
    let incompatible = |message| Err(Error::new(ErrorKind::Incompatible, message));
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;

    // One snapshot, so that a change of another process between two statements doesn't matter.
    conn.execute_batch("BEGIN")?;
    let application_id: i32 = match conn.query_row("PRAGMA application_id", [], |row| row.get(0)) {
        // A store never has a rollback journal: it is made under another name.
        Err(error) if is_left_in_transaction(&error) => {
            return incompatible(
                "another application has left the database in the middle of a transaction"
                    .to_owned(),
            );
        }
        application_id => application_id.map_err(schema_failure)?,
    };
    let version: i32 =
        conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(schema_failure)?;
    let objects =
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let objects = objects.map_err(schema_failure)?;
    match (application_id, version) {
        (0, 0) if objects == 0 => Ok(StoreState::Nothing),
        (APPLICATION_ID, SCHEMA_VERSION) => {
            for columns in SCHEMA {
                conn.prepare(columns).map_err(schema_failure)?;
            }
            match identity(conn)? {
                Some((_, true)) => Ok(StoreState::Current),
                _ => Ok(StoreState::Unmarked),
            }
        }
        (APPLICATION_ID, _) if (1..SCHEMA_VERSION).contains(&version) => Ok(StoreState::Older),
        (APPLICATION_ID, ..) if version > SCHEMA_VERSION => incompatible(format!(
            "the store has schema version {version} and this program knows up to {SCHEMA_VERSION}: use a newer tenantry; nothing was changed"
        )),
        (APPLICATION_ID, ..) => {
            incompatible("the store's schema version is missing; nothing was changed".to_owned())
        }
        _ => incompatible(
            "the database belongs to another application; nothing was changed".to_owned(),
        ),
    }
}

/// Returns the store's id, and whether `storage/` has its marker. `None` if its first opening was
/// interrupted.
pub(crate) fn identity(conn: &Connection) -> Result<Option<(Uuid, bool)>> {
    let found = conn.query_row("SELECT id, is_marked FROM tenantry_store", [], |row| {
        Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?))
    });
    Ok(found.optional()?)
}

/// Fails unless there is a store that needs no upgrade.
pub(crate) fn check_current(options: &Options) -> Result<()> {
    match identify(options)? {
        StoreState::Current => Ok(()),
        StoreState::Nothing => Err(store_missing()),
        StoreState::Unmarked => Ok(()),
        StoreState::Older => Err(Error::new(
            ErrorKind::Incompatible,
            "the store is of an older version: open it for writing to upgrade it",
        )),
    }
}

pub(crate) fn store_missing() -> Error {
    Error::new(ErrorKind::StoreMissing, "there is no store at this place")
}

/// Fails if the program is linked with an SQLite that can lose commits: an embedder may link
/// another version than the bundled one.
pub(crate) fn refuse_old_sqlite(version: i32) -> Result<()> {
    if version >= OLDEST_SQLITE {
        return Ok(());
    }
    let message =
        "the program is linked with an SQLite older than 3.51.3, which can lose what was committed";
    Err(Error::new(ErrorKind::Incompatible, message))
}
