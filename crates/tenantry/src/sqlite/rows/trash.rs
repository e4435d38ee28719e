//! Statements on users in the trash.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::columns::{USER_COLUMNS, check_order, timestamp, user};
use crate::sqlite::values::blob;
use crate::{Cursor, Result, Timestamp, TrashPage, TrashQuery, TrashedUser, User, UserId};

/// The columns after those of a user.
const DELETED_AT: usize = USER_COLUMNS;
const IS_BEING_PURGED: usize = USER_COLUMNS + 1;
const DELETION_SEQ: usize = USER_COLUMNS + 2;

/// The columns of a user in the trash, in the order in which [`trashed`] reads them.
macro_rules! trashed_columns {
    () => {
        concat!(
            user_columns!(),
            ", deleted_at, EXISTS (
                SELECT 1 FROM tenantry_intents AS intent WHERE intent.user_id = users.id AND intent.action = 'purge'
             )"
        )
    };
}

fn trashed(row: &Row<'_>) -> rusqlite::Result<TrashedUser> {
    let (user, deleted_at) = (user(row)?, timestamp(row, DELETED_AT)?);
    Ok(TrashedUser { user, deleted_at, is_being_purged: row.get(IS_BEING_PURGED)? })
}

pub(crate) fn get(conn: &Connection, id: UserId) -> Result<Option<TrashedUser>> {
    let sql = concat!(
        "SELECT ",
        trashed_columns!(),
        " FROM users WHERE id = ?1 AND deleted_at IS NOT NULL"
    );
    Ok(conn.prepare_cached(sql)?.query_row([blob(id)], trashed).optional()?)
}

/// Returns a user in the trash, and whether they have a directory.
pub(crate) fn get_with_directory(conn: &Connection, id: UserId) -> Result<Option<(User, bool)>> {
    let sql = concat!(
        "SELECT ",
        user_columns!(),
        ", has_directory FROM users WHERE id = ?1 AND deleted_at IS NOT NULL"
    );
    let found = conn
        .prepare_cached(sql)?
        .query_row([blob(id)], |row| Ok((user(row)?, row.get(USER_COLUMNS)?)));
    Ok(found.optional()?)
}

/// Returns whether a user with this id is in the trash.
pub(crate) fn has(conn: &Connection, id: UserId) -> Result<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NOT NULL")?
        .exists([blob(id)])?)
}

/// Returns the users in the trash with this key, the one who was deleted last first.
pub(crate) fn with_key(conn: &Connection, key: &str, limit: usize) -> Result<Vec<TrashedUser>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        trashed_columns!(),
        " FROM users WHERE email_key = ?1 AND deleted_at IS NOT NULL ORDER BY deletion_seq DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![key, limit], trashed)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn list(conn: &Connection, query: &TrashQuery) -> Result<TrashPage> {
    query.check()?;
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        trashed_columns!(),
        ", deletion_seq FROM users WHERE deletion_seq > ?1 AND deleted_at < ?2 ORDER BY deletion_seq LIMIT ?3"
    ))?;
    let after = query.cursor.map_or(0, Cursor::seq);
    let before = query.deleted_before.map_or(i64::MAX, Timestamp::as_unix_us);
    let one_more = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
    let mut walked_to = after;
    let rows = statement.query_map([after, before, one_more], |row| {
        let seq = row.get(DELETION_SEQ)?;
        check_order(walked_to, seq, DELETION_SEQ)?;
        walked_to = seq;
        Ok((trashed(row)?, seq))
    })?;
    let mut rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let has_more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next_cursor = rows.last().filter(|_| has_more).map(|(_, seq)| Cursor::after(*seq));
    Ok(TrashPage { users: rows.into_iter().map(|(user, _)| user).collect(), next_cursor })
}

/// Moves a user to the trash.
pub(crate) fn delete(
    conn: &Connection,
    id: UserId,
    at: Timestamp,
    has_directory: bool,
) -> Result<()> {
    let deletion_seq: i64 = conn
        .prepare_cached(
            "UPDATE tenantry_store SET last_deletion = last_deletion + 1 RETURNING last_deletion",
        )?
        .query_row([], |row| row.get(0))?;
    conn.prepare_cached(
        "UPDATE users SET deleted_at = ?2, deletion_seq = ?3, has_directory = ?4 WHERE id = ?1",
    )?
    .execute(params![blob(id), at.as_unix_us(), deletion_seq, has_directory])?;
    Ok(())
}
