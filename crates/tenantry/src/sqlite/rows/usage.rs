//! Statements on the users' directories and what they held when they were measured.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::columns::{USER_COLUMNS, check_order, timestamp, user};
use crate::sqlite::values::blob;
use crate::{Result, Usage, User, UserId};

/// Returns the ids of users who have a directory, in the order of creation, and the place to go on
/// at.
pub(crate) fn with_directory(
    conn: &Connection,
    after: i64,
    limit: usize,
) -> Result<(Vec<UserId>, Option<i64>)> {
    let mut statement = conn.prepare_cached(
        "SELECT id, seq FROM users WHERE seq > ?1 AND has_directory = 1 AND deleted_at IS NULL ORDER BY seq LIMIT ?2",
    )?;
    let mut walked_to = after;
    let rows = statement.query_map(params![after, limit], |row| {
        let seq = row.get(1)?;
        check_order(walked_to, seq, 1)?;
        walked_to = seq;
        Ok((UserId::from_random(Uuid::from_bytes(row.get(0)?)), seq))
    })?;
    let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(_, seq)| *seq);
    Ok((rows.into_iter().map(|(id, _)| id).collect(), next))
}

pub(crate) fn set(conn: &Connection, id: UserId, usage: &Usage) -> Result<()> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    // Nothing, if the user was deleted in the meantime.
    conn.prepare_cached(
        "INSERT OR REPLACE INTO tenantry_usage
            (user_id, measured_at, files, apparent_bytes, allocated_bytes, unreadable)
         SELECT id, ?2, ?3, ?4, ?5, ?6 FROM users WHERE id = ?1 AND deleted_at IS NULL",
    )?
    .execute(params![
        blob(id),
        usage.measured_at.as_unix_us(),
        number(usage.files),
        number(usage.apparent_bytes),
        number(usage.allocated_bytes),
        number(usage.unreadable),
    ])?;
    Ok(())
}

macro_rules! usage_columns {
    () => {
        "tenantry_usage.files, tenantry_usage.apparent_bytes, tenantry_usage.allocated_bytes, tenantry_usage.unreadable, tenantry_usage.measured_at"
    };
}

fn usage_from_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        files: row.get(first)?,
        apparent_bytes: row.get(first + 1)?,
        allocated_bytes: row.get(first + 2)?,
        unreadable: row.get(first + 3)?,
        measured_at: timestamp(row, first + 4)?,
    })
}

pub(crate) fn get(conn: &Connection, id: UserId) -> Result<Option<Usage>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        usage_columns!(),
        " FROM tenantry_usage JOIN users ON users.id = tenantry_usage.user_id
         WHERE tenantry_usage.user_id = ?1 AND users.deleted_at IS NULL"
    ))?;
    Ok(statement.query_row([blob(id)], |row| usage_from_row(row, 0)).optional()?)
}

/// Returns the users whose directories took most when they were measured.
pub(crate) fn top(conn: &Connection, limit: usize) -> Result<Vec<(User, Usage)>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        user_columns!(),
        ", ",
        usage_columns!(),
        " FROM tenantry_usage JOIN users ON users.id = tenantry_usage.user_id AND users.deleted_at IS NULL
         ORDER BY tenantry_usage.allocated_bytes DESC, users.seq LIMIT ?1"
    ))?;
    let rows =
        statement.query_map([limit], |row| Ok((user(row)?, usage_from_row(row, USER_COLUMNS)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
