//! Statements on tokens.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::columns::{check_order, damaged, timestamp};
use super::users::{Written, written};
use crate::domain::token::TokenDigest;
use crate::sqlite::values::blob;
use crate::{NewToken, Result, Timestamp, Token, UserId};

/// The columns in the order in which [`token`] reads them.
macro_rules! token_columns {
    () => {
        "number, name, scopes, user_id, created_at, expires_at, last_used_at, revoked_at, created_by"
    };
}

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let time =
        |column| row.get::<_, Option<i64>>(column)?.map(|_| timestamp(row, column)).transpose();
    Ok(Token {
        number: row.get(0)?,
        name: row.get(1)?,
        scopes: row
            .get_ref(2)?
            .as_str()?
            .parse()
            .map_err(|error: crate::Error| damaged(2, Type::Text, error))?,
        user_id: row
            .get::<_, Option<[u8; 16]>>(3)?
            .map(|id| UserId::from_random(Uuid::from_bytes(id))),
        created_at: timestamp(row, 4)?,
        expires_at: timestamp(row, 5)?,
        last_used_at: time(6)?,
        revoked_at: time(7)?,
        created_by: row.get(8)?,
    })
}

pub(crate) fn by_digest(conn: &Connection, digest: &TokenDigest) -> Result<Option<Token>> {
    let sql = concat!("SELECT ", token_columns!(), " FROM tenantry_tokens WHERE digest = ?1");
    Ok(conn.prepare_cached(sql)?.query_row([digest], token).optional()?)
}

/// Returns the newest secret of the token with this name.
pub(crate) fn by_name(conn: &Connection, name: &str) -> Result<Option<Token>> {
    let sql = concat!(
        "SELECT ",
        token_columns!(),
        " FROM tenantry_tokens WHERE name = ?1 AND replaced_at IS NULL"
    );
    Ok(conn.prepare_cached(sql)?.query_row([name], token).optional()?)
}

/// Returns at most `limit` tokens with higher numbers, in their order.
pub(crate) fn after(conn: &Connection, number: i64, limit: usize) -> Result<Vec<Token>> {
    let sql = concat!(
        "SELECT ",
        token_columns!(),
        " FROM tenantry_tokens WHERE number > ?1 ORDER BY number LIMIT ?2"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let mut walked_to = number;
    let rows = statement.query_map(params![number, limit], |row| {
        let token = token(row)?;
        check_order(walked_to, token.number, 0)?;
        walked_to = token.number;
        Ok(token)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn insert(
    conn: &Connection,
    new: &NewToken,
    digest: &TokenDigest,
    (created_at, expires_at): (Timestamp, Timestamp),
) -> Result<Written> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO tenantry_tokens (name, digest, scopes, user_id, created_at, expires_at, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    written(statement.execute(params![
        new.name,
        digest,
        new.scopes.to_string(),
        new.user_id.map(blob),
        created_at.as_unix_us(),
        expires_at.as_unix_us(),
        new.created_by,
    ]))
}

/// Lets all secrets of a token end at a time at the latest, the newest of which is replaced.
pub(crate) fn replace(
    conn: &Connection,
    name: &str,
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    conn.prepare_cached(
        "UPDATE tenantry_tokens
         SET expires_at = min(expires_at, ?3), replaced_at = coalesce(replaced_at, ?2) WHERE name = ?1",
    )?
    .execute(params![name, at.as_unix_us(), expires_at.as_unix_us()])?;
    Ok(())
}

/// Revokes the secrets of the token with this name, or all without one. Returns how many weren't
/// revoked before.
pub(crate) fn revoke(conn: &Connection, name: Option<&str>, at: Timestamp) -> Result<usize> {
    let sql = "UPDATE tenantry_tokens SET revoked_at = ?2 WHERE (?1 IS NULL OR name = ?1) AND revoked_at IS NULL";
    Ok(conn.prepare_cached(sql)?.execute(params![name, at.as_unix_us()])?)
}

/// Records that a token was used. The time only moves forward.
pub(crate) fn set_used(conn: &Connection, number: i64, at: Timestamp) -> Result<()> {
    let sql = "UPDATE tenantry_tokens SET last_used_at = max(coalesce(last_used_at, ?2), ?2) WHERE number = ?1";
    conn.prepare_cached(sql)?.execute(params![number, at.as_unix_us()])?;
    Ok(())
}
