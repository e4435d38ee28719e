//! Statements on requests whose results are kept.

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::request::{KeptRequest, RequestKey};
use crate::sqlite::values::blob;
use crate::{Result, Timestamp, UserId};

/// Returns what is kept of the request with this key since a time.
pub(crate) fn get(
    conn: &Connection,
    key: &RequestKey,
    since: Timestamp,
) -> Result<Option<KeptRequest>> {
    let sql = "SELECT request, reply FROM tenantry_requests WHERE key = ?1 AND kept_at > ?2";
    let mut statement = conn.prepare_cached(sql)?;
    let kept = statement.query_row(params![key.key, since.as_unix_us()], |row| {
        Ok(KeptRequest { request: row.get(0)?, reply: row.get(1)? })
    });
    Ok(kept.optional()?)
}

/// Keeps the result of a request, instead of an older one with the same key.
pub(crate) fn insert(
    conn: &Connection,
    key: &RequestKey,
    reply: &str,
    user: UserId,
    at: Timestamp,
) -> Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO tenantry_requests (key, request, reply, user_id, kept_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![key.key, key.request, reply, blob(user), at.as_unix_us()])?;
    Ok(())
}

/// Removes those of the oldest requests, at most `limit`, that were kept before a time.
pub(crate) fn trim(conn: &Connection, before: Timestamp, limit: usize) -> Result<()> {
    conn.prepare_cached(
        "DELETE FROM tenantry_requests WHERE kept_at <= ?1
         AND seq IN (SELECT seq FROM tenantry_requests ORDER BY seq LIMIT ?2)",
    )?
    .execute(params![before.as_unix_us(), limit])?;
    Ok(())
}
