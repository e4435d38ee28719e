//! Statements on intents.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::columns::{damaged, timestamp};
use crate::domain::intent::{Action, Intent};
use crate::sqlite::values::blob;
use crate::storage::is_stage;
use crate::{Error, ErrorKind, Result, Timestamp, UserId};

macro_rules! intent_columns {
    () => {
        "seq, action, user_id, path, name, recorded_at"
    };
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Intent> {
    let user = || Ok::<_, rusqlite::Error>(UserId::from_random(Uuid::from_bytes(row.get(2)?)));
    let path = || row.get::<_, Vec<u8>>(3);
    // It becomes the name of a directory, and the database may come from a forged backup.
    let name = || {
        let name: String = row.get(4)?;
        if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) {
            let error =
                Error::new(ErrorKind::Corrupt, "an intent has a name that no file can have");
            return Err(damaged(4, Type::Text, error));
        }
        Ok(name)
    };
    let action = match row.get_ref(1)?.as_str()? {
        "make" => Action::Make(user()?),
        "trash" => Action::Trash(user()?),
        "restore" => {
            let stage: Option<String> = row.get(4)?;
            if stage.as_ref().is_some_and(|stage| !is_stage(stage)) {
                let error = Error::new(
                    ErrorKind::Corrupt,
                    "an intent is about the stage of an import that can't be one",
                );
                return Err(damaged(4, Type::Text, error));
            }
            Action::Restore { user: user()?, stage }
        }
        "purge" => Action::Purge(user()?),
        "discard" => {
            let path = String::from_utf8(path()?).map_err(|error| damaged(3, Type::Blob, error))?;
            let path = path.parse().map_err(|error: Error| damaged(3, Type::Blob, error))?;
            Action::Discard { user: user()?, path, name: name()? }
        }
        "quarantine" => {
            let path = path()?;
            // Path traversal: what is moved lies beneath the data directory. Compared as bytes,
            // since a foreign directory's name need not be UTF-8 and `Path` overlooks `.` and
            // doubled slashes.
            let is_beneath =
                |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
            if !path.split(|byte| *byte == b'/').all(is_beneath) {
                return Err(damaged(3, Type::Blob, "not a path beneath the data directory"));
            }
            Action::Quarantine { path: std::ffi::OsString::from_vec(path).into(), name: name()? }
        }
        "erase" => Action::Erase,
        _ => return Err(damaged(1, Type::Text, "no action that this version knows")),
    };
    Ok(Intent { seq: row.get(0)?, action, recorded_at: timestamp(row, 5)? })
}

/// Records an intent, and returns its number.
pub(crate) fn insert(conn: &Connection, action: &Action, at: Timestamp) -> Result<i64> {
    let (path, name) = match action {
        Action::Discard { path, name, .. } => (Some(path.as_str().as_bytes()), Some(name)),
        Action::Quarantine { path, name } => (Some(path.as_os_str().as_bytes()), Some(name)),
        Action::Restore { stage, .. } => (None, stage.as_ref()),
        _ => (None, None),
    };
    conn.prepare_cached(
        "INSERT INTO tenantry_intents (action, user_id, path, name, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![action.name(), action.user().map(blob), path, name, at.as_unix_us()])?;
    Ok(conn.last_insert_rowid())
}

pub(crate) fn find_by_user(conn: &Connection, user: UserId) -> Result<Option<Intent>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        intent_columns!(),
        " FROM tenantry_intents WHERE user_id = ?1"
    ))?;
    Ok(statement.query_row([blob(user)], from_row).optional()?)
}

pub(crate) fn get(conn: &Connection, seq: i64) -> Result<Option<Intent>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        intent_columns!(),
        " FROM tenantry_intents WHERE seq = ?1"
    ))?;
    Ok(statement.query_row([seq], from_row).optional()?)
}

/// Returns whether there are intents that are executed within a transaction.
pub(crate) fn are_any_quick(conn: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM tenantry_intents WHERE action NOT IN ('purge', 'erase')";
    Ok(conn.prepare_cached(sql)?.exists([])?)
}

/// Returns whether an intent is about this stage of an import.
pub(crate) fn is_about_stage(conn: &Connection, stage: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM tenantry_intents WHERE action = 'restore' AND name = ?1";
    Ok(conn.prepare_cached(sql)?.exists([stage])?)
}

/// Returns the number of the last intent, 0 if there is none.
pub(crate) fn last(conn: &Connection) -> Result<i64> {
    let mut statement =
        conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM tenantry_intents")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

pub(crate) fn erase(conn: &Connection) -> Result<Option<Intent>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        intent_columns!(),
        " FROM tenantry_intents WHERE action = 'erase'"
    ))?;
    Ok(statement.query_row([], from_row).optional()?)
}

/// Returns all intents, in the order in which they were recorded.
pub(crate) fn all(conn: &Connection) -> Result<Vec<Intent>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        intent_columns!(),
        " FROM tenantry_intents ORDER BY seq"
    ))?;
    let intents = statement.query_map([], from_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(intents)
}

pub(crate) fn remove(conn: &Connection, seq: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM tenantry_intents WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

/// Removes the intent about a user, if there is one.
pub(crate) fn remove_of_user(conn: &Connection, user: UserId) -> Result<()> {
    conn.prepare_cached("DELETE FROM tenantry_intents WHERE user_id = ?1")?
        .execute([blob(user)])?;
    Ok(())
}

/// Records the intent to erase anew, with another number: another process may just have executed
/// the one that exists, and be about to remove it.
pub(crate) fn renew_erase(conn: &Connection, at: Timestamp) -> Result<()> {
    conn.prepare_cached("DELETE FROM tenantry_intents WHERE action = 'erase'")?.execute([])?;
    conn.prepare_cached("INSERT INTO tenantry_intents (action, recorded_at) VALUES ('erase', ?1)")?
        .execute([at.as_unix_us()])?;
    Ok(())
}

/// Gives the intent about a user this stage. Returns whether there is such an intent.
pub(crate) fn set_stage(conn: &Connection, user: UserId, stage: &str) -> Result<bool> {
    let mut statement =
        conn.prepare_cached("UPDATE tenantry_intents SET name = ?2 WHERE user_id = ?1")?;
    Ok(statement.execute(params![blob(user), stage])? > 0)
}

/// Returns how many intents there are.
pub(crate) fn count(conn: &Connection) -> Result<u64> {
    Ok(conn
        .prepare_cached("SELECT count(*) FROM tenantry_intents")?
        .query_row([], |row| row.get(0))?)
}
