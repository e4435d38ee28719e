//! Statements on single users.

use rusqlite::{Connection, OptionalExtension, ffi, params, params_from_iter};

use super::columns::{user, with_values};
use crate::sqlite::error::is_unique_violation;
use crate::sqlite::values::blob;
use crate::{Error, ErrorKind, Result, Timestamp, User, UserId};

/// The outcome of a statement that gives a user unique values.
#[derive(Debug)]
pub(crate) enum Written {
    Done,
    /// Another user has one of the values. SQLite says which in a text, and in no code.
    Taken(Error),
}

pub(crate) fn get(conn: &Connection, id: UserId) -> Result<Option<User>> {
    let sql =
        concat!("SELECT ", user_columns!(), " FROM users WHERE id = ?1 AND deleted_at IS NULL");
    Ok(conn.prepare_cached(sql)?.query_row([blob(id)], user).optional()?)
}

/// How many users [`get_many`] gets at most.
pub(crate) const MANY: usize = 64;

/// Returns the living users with these ids, at most [`MANY`], in any order.
pub(crate) fn get_many(conn: &Connection, ids: &[UserId]) -> Result<Vec<User>> {
    const SQL: &str = concat!(
        "SELECT ",
        user_columns!(),
        " FROM users WHERE deleted_at IS NULL AND id IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
         ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
         ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let Some(last) = ids.last() else { return Ok(Vec::new()) };
    // One statement for any number: the last id again and again finds nobody else.
    let ids = ids.iter().chain(std::iter::repeat(last)).take(MANY).map(|id| blob(*id));
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query_map(params_from_iter(ids), user)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn get_by_key(conn: &Connection, key: &str) -> Result<Option<User>> {
    let sql = concat!(
        "SELECT ",
        user_columns!(),
        " FROM users WHERE email_key = ?1 AND deleted_at IS NULL"
    );
    Ok(conn.prepare_cached(sql)?.query_row([key], user).optional()?)
}

/// Returns the version of a user, alive or in the trash.
pub(crate) fn version(conn: &Connection, id: UserId) -> Result<u64> {
    Ok(conn
        .prepare_cached("SELECT version FROM users WHERE id = ?1")?
        .query_row([blob(id)], |row| row.get(0))?)
}

/// Returns how many users live: SQLite counts the rows of a whole index fast, and those in the
/// trash are few.
pub(crate) fn count(conn: &Connection) -> Result<u64> {
    let sql = "SELECT (SELECT count(*) FROM users) - (SELECT count(*) FROM users WHERE deletion_seq IS NOT NULL)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Returns at most `limit` living users with this skeleton, but for the one with this key.
pub(crate) fn with_skeleton(
    conn: &Connection,
    skeleton: &str,
    key: &str,
    limit: usize,
) -> Result<Vec<User>> {
    let sql = concat!(
        "SELECT ",
        user_columns!(),
        " FROM users WHERE skeleton = ?1 AND deleted_at IS NULL AND email_key <> ?2 ORDER BY seq LIMIT ?3"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params![skeleton, key, limit], user)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Returns whether a user, alive or in the trash, has an address that isn't plain ASCII.
pub(crate) fn has_non_ascii(conn: &Connection) -> Result<bool> {
    // Not IS NOT NULL, for which SQLite would go through the index.
    Ok(conn.prepare_cached("SELECT 1 FROM users WHERE skeleton > '' LIMIT 1")?.exists([])?)
}

pub(crate) fn insert(conn: &Connection, user: &User) -> Result<Written> {
    let sql = concat!(
        "INSERT INTO users (",
        user_columns!(),
        ", ",
        written_columns!(),
        ") VALUES (",
        placeholders!(),
        ")"
    );
    let mut statement = conn.prepare_cached(sql)?;
    written(with_values(user, |values| statement.execute(values)))
}

/// Gives a user, alive or in the trash, all values that can change.
pub(crate) fn update(conn: &Connection, user: &User) -> Result<Written> {
    let mut statement =
        conn.prepare_cached(concat!("UPDATE users SET ", changed_columns!(), " WHERE id = ?1"))?;
    written(with_values(user, |values| statement.execute(values)))
}

/// Updates a user who has a directory from now on.
pub(crate) fn update_with_directory(conn: &Connection, user: &User) -> Result<Written> {
    let sql = concat!("UPDATE users SET ", changed_columns!(), ", has_directory = 1 WHERE id = ?1");
    let mut statement = conn.prepare_cached(sql)?;
    written(with_values(user, |values| statement.execute(values)))
}

/// Updates a user in the trash, who lives from now on.
pub(crate) fn restore(conn: &Connection, user: &User) -> Result<Written> {
    let sql = concat!(
        "UPDATE users SET ",
        changed_columns!(),
        ", deleted_at = NULL, deletion_seq = NULL WHERE id = ?1"
    );
    let mut statement = conn.prepare_cached(sql)?;
    written(with_values(user, |values| statement.execute(values)))
}

pub(super) fn written(executed: rusqlite::Result<usize>) -> Result<Written> {
    match executed {
        Ok(_) => Ok(Written::Done),
        Err(error) if is_unique_violation(&error) => Ok(Written::Taken(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// Gives a user an address that is its own key.
pub(crate) fn set_address(conn: &Connection, id: UserId, address: &str) -> Result<()> {
    conn.prepare_cached("UPDATE users SET email = ?2, email_folded = NULL WHERE id = ?1")?
        .execute(params![blob(id), address])?;
    Ok(())
}

/// Records a login at ?2, which only moves forward, of a user who isn't suspended.
macro_rules! log_in_where {
    ($condition:literal) => {
        concat!(
            "UPDATE users SET last_login_at = max(coalesce(last_login_at, ?2), ?2) WHERE ",
            $condition,
            " AND deleted_at IS NULL AND suspended_at IS NULL RETURNING ",
            user_columns!()
        )
    };
}

pub(crate) fn log_in(conn: &Connection, id: UserId, at: Timestamp) -> Result<Option<User>> {
    let mut statement = conn.prepare_cached(log_in_where!("id = ?1"))?;
    Ok(statement.query_row(params![blob(id), at.as_unix_us()], user).optional()?)
}

pub(crate) fn log_in_by_key(conn: &Connection, key: &str, at: Timestamp) -> Result<Option<User>> {
    let mut statement = conn.prepare_cached(log_in_where!("email_key = ?1"))?;
    Ok(statement.query_row(params![key, at.as_unix_us()], user).optional()?)
}

/// Removes the row of a user, with the rows of an application's tables that go with it.
///
/// # Errors
///
/// Fails with [`ErrorKind::Constraint`] if other rows of these refer to it, or a trigger of theirs
/// refuses it.
pub(crate) fn remove(conn: &Connection, id: UserId) -> Result<()> {
    let refuse = || {
        let message =
            "rows of the application's own tables hold the user, so that the user can't be purged";
        Error::new(ErrorKind::Constraint, message)
    };
    let was_unresolved = has_unresolved_references(conn);
    match conn
        .prepare_cached("DELETE FROM users WHERE id = ?1")?
        .execute([blob(id)])
        .map_err(Error::from)
    {
        Err(error) if error.kind() == ErrorKind::Constraint => Err(refuse().with_source(error)),
        // The commit would refuse it, and with it the other operations of this transaction.
        Ok(_) if !was_unresolved && has_unresolved_references(conn) => Err(refuse()),
        removed => removed.map(drop),
    }
}

/// Removes the row and takes that back. Fails as [`remove`] would.
pub(crate) fn try_to_remove(conn: &Connection, id: UserId) -> Result<()> {
    conn.prepare_cached("SAVEPOINT tenantry_trial")?.execute([])?;
    // After a failure the caller's savepoint undoes this one too.
    remove(conn, id)?;
    conn.prepare_cached("ROLLBACK TO tenantry_trial")?.execute([])?;
    conn.prepare_cached("RELEASE tenantry_trial")?.execute([])?;
    Ok(())
}

/// Returns whether rows refer to others that don't exist, which only the commit refuses
/// ([deferred constraints](https://sqlite.org/foreignkeys.html#fk_deferred)).
fn has_unresolved_references(conn: &Connection) -> bool {
    let (mut unresolved, mut unused) = (0, 0);
    #[allow(unsafe_code, reason = "rusqlite has no safe interface to this function")]
    // SAFETY: the handle belongs to a connection that is borrowed, and the function only writes to
    // these two numbers.
    let code = unsafe {
        ffi::sqlite3_db_status(
            conn.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &mut unresolved,
            &mut unused,
            0,
        )
    };
    code == ffi::SQLITE_OK && unresolved != 0
}
