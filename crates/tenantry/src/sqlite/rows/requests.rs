//! Statements on requests whose results are kept.

use std::ops::RangeInclusive;

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::request::{KeptRequest, RequestKey};
use crate::sqlite::values::blob;
use crate::{Result, Timestamp, UserId};

/// Returns what is kept of the request with this key, if that was within these times.
pub(crate) fn get(
    conn: &Connection,
    key: &RequestKey,
    within: &RangeInclusive<Timestamp>,
) -> Result<Option<KeptRequest>> {
    let sql =
        "SELECT request, reply FROM tenantry_requests WHERE key = ?1 AND kept_at BETWEEN ?2 AND ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let (first, last) = (within.start().as_unix_us(), within.end().as_unix_us());
    let kept = statement.query_row(params![key.key, first, last], |row| {
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

/// Removes those of the oldest requests, at most `limit`, that weren't kept within these times.
pub(crate) fn trim(
    conn: &Connection,
    within: &RangeInclusive<Timestamp>,
    limit: usize,
) -> Result<()> {
    conn.prepare_cached(
        "DELETE FROM tenantry_requests WHERE kept_at NOT BETWEEN ?1 AND ?2
         AND seq IN (SELECT seq FROM tenantry_requests ORDER BY seq LIMIT ?3)",
    )?
    .execute(params![within.start().as_unix_us(), within.end().as_unix_us(), limit])?;
    Ok(())
}
