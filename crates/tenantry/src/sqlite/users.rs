//! The SQL of single users. Each function is one operation that happens as a whole or not at all.

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::error::is_unique_violation;
use super::retired;
use super::values::blob;
use crate::domain::lookalike::{LookAlikes, skeleton};
use crate::domain::search_text::shown;
use crate::{
    Email, Error, ErrorKind, Imported, NewUser, OnConflict, Result, SignIn, StoragePath, Timestamp, User, UserId,
    UserUpdate,
};

/// The columns of a user, in the order in which [`from_row`] reads them. `email_folded` is the key, or NULL if that is the
/// address.
macro_rules! columns {
    () => {
        "id, email_folded, email, created_at, last_login_at, updated_at, version, storage_path"
    };
}
pub(super) use columns;

pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<User> {
    let id = UserId::from_random(Uuid::from_bytes(row.get(0)?));
    let address = row.get_ref(2)?.as_str()?;
    let key = row.get_ref(1)?.as_str_or_null()?.unwrap_or(address);
    let email = Email::from_stored(address, key).ok_or_else(|| damaged(2, Type::Text, "not an address"))?;
    Ok(User {
        id,
        email,
        created_at: timestamp(3, row.get(3)?)?,
        last_login_at: row.get::<_, Option<i64>>(4)?.map(|us| timestamp(4, us)).transpose()?,
        storage_path: storage_path(id, row.get_ref(7)?, 7)?,
        updated_at: timestamp(5, row.get(5)?)?,
        version: row.get(6)?,
    })
}

/// The storage path of a user whose column `storage_path` holds this.
pub(super) fn storage_path(id: UserId, value: ValueRef<'_>, column: usize) -> rusqlite::Result<StoragePath> {
    match value.as_str_or_null()? {
        None => Ok(StoragePath::derived(id)),
        Some(path) => path.parse().map_err(|error: Error| damaged(column, Type::Text, error)),
    }
}

fn timestamp(column: usize, us: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_unix_us(us).map_err(|error| damaged(column, Type::Integer, error))
}

/// A value that the program never wrote: another one did, or the file is damaged.
pub(super) fn damaged(
    column: usize,
    kind: Type,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, why.into())
}

/// Refuses a row whose number isn't higher than that of the row before it: the pages of the file are mixed up, and whoever
/// goes on behind this row goes round in a circle.
pub(super) fn check_order(before: i64, seq: i64, column: usize) -> rusqlite::Result<()> {
    if seq > before { Ok(()) } else { Err(damaged(column, Type::Integer, "the rows are not in their order")) }
}

pub(super) fn get(conn: &Connection, id: UserId) -> Result<Option<User>> {
    let mut statement =
        conn.prepare_cached(concat!("SELECT ", columns!(), " FROM users WHERE id = ?1 AND deleted_at IS NULL"))?;
    Ok(statement.query_row([blob(id)], from_row).optional()?)
}

pub(super) fn get_by_email(conn: &Connection, email: &Email) -> Result<Option<User>> {
    get_by_key(conn, email.key())
}

fn get_by_key(conn: &Connection, key: &str) -> Result<Option<User>> {
    let sql = concat!("SELECT ", columns!(), " FROM users WHERE email_key = ?1 AND deleted_at IS NULL");
    Ok(conn.prepare_cached(sql)?.query_row([key], from_row).optional()?)
}

/// Returns how many users live: SQLite counts the rows of a whole index fast, and those in the trash are few.
pub(super) fn count(conn: &Connection) -> Result<u64> {
    let sql = "SELECT (SELECT count(*) FROM users) - (SELECT count(*) FROM users WHERE deletion_seq IS NOT NULL)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Returns the living users whose addresses look like this one, which is another's or nobody's.
pub(super) fn look_alikes(conn: &Connection, email: &Email) -> Result<Vec<User>> {
    let LookAlikes { skeleton, in_ascii } = LookAlikes::of(shown(email.key()).as_ref());
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM users WHERE skeleton = ?1 AND deleted_at IS NULL AND email_key <> ?2 ORDER BY seq LIMIT ?3"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params![skeleton, email.key(), User::LOOK_ALIKES_MAX], from_row)?;
    let mut found: Vec<User> = rows.collect::<rusqlite::Result<_>>()?;
    // Users whose addresses are ASCII have no skeleton in the table.
    for key in in_ascii {
        if found.len() < User::LOOK_ALIKES_MAX
            && key != email.key()
            && let Some(user) = get_by_key(conn, &key)?
        {
            found.push(user);
        }
    }
    Ok(found)
}

/// Returns whether a user, alive or in the trash, has an address that isn't plain ASCII.
pub(super) fn has_non_ascii(conn: &Connection) -> Result<bool> {
    // Not IS NOT NULL, for which SQLite would go through the index.
    let sql = "SELECT 1 FROM users WHERE skeleton > '' LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_row([], |_| Ok(())).optional()?.is_some())
}

/// Returns the column `skeleton` of a user with this address.
fn skeleton_of(email: &Email) -> Option<String> {
    skeleton_of_key(email.key())
}

/// Returns the column `skeleton` of a user with this key.
pub(super) fn skeleton_of_key(key: &str) -> Option<String> {
    let shown = shown(key);
    (!shown.is_ascii()).then(|| skeleton(&shown))
}

pub(super) fn create(conn: &Connection, new: &NewUser, now: Timestamp, new_id: &dyn Fn() -> UserId) -> Result<User> {
    let version = new.version.unwrap_or(1);
    User::check_version(version)?;
    let id = match new.id {
        None => new_id(),
        Some(id) => {
            check_id_free(conn, id)?;
            id
        }
    };
    let derived = StoragePath::derived(id);
    // NULL in the table where the path is derived.
    let chosen = new.storage_path.as_ref().filter(|path| **path != derived);
    if let Some(path) = chosen
        && let Err(error) = check_path_free(conn, path)
    {
        // Who is there already is what a caller asks first.
        return Err(get_by_email(conn, &new.email)?.map_or(error, |other| email_taken(&other)));
    }
    let created_at = new.created_at.unwrap_or(now);
    let user = User {
        id,
        email: new.email.clone(),
        created_at,
        last_login_at: new.last_login_at,
        storage_path: chosen.cloned().unwrap_or(derived),
        updated_at: new.updated_at.unwrap_or(created_at),
        version,
    };
    let inserted = conn
        .prepare_cached(concat!(
            "INSERT INTO users (",
            columns!(),
            ", skeleton) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        ))?
        .execute(params![
            blob(id),
            user.email.folded(),
            user.email.as_str(),
            user.created_at.as_unix_us(),
            user.last_login_at.map(Timestamp::as_unix_us),
            user.updated_at.as_unix_us(),
            user.version,
            chosen.map(StoragePath::as_str),
            skeleton_of(&user.email),
        ]);
    match inserted {
        Ok(_) => Ok(user),
        Err(error) if is_unique_violation(&error) => Err(conflict(conn, &user)?.with_source(error)),
        Err(error) => Err(error.into()),
    }
}

/// Which of the unique values of this user somebody else has. (SQLite says so in a text, and in no code.)
fn conflict(conn: &Connection, user: &User) -> Result<Error> {
    Ok(if let Some(other) = get_by_email(conn, &user.email)? {
        email_taken(&other)
    } else if get(conn, user.id)?.is_some() {
        Error::new(ErrorKind::IdTaken, "another user has this id")
    } else {
        path_taken()
    })
}

pub(super) fn email_taken(by: &User) -> Error {
    Error::new(ErrorKind::EmailTaken, "another user has this email address").with_taken_by(by.id)
}

pub(super) fn path_taken() -> Error {
    Error::new(
        ErrorKind::PathTaken,
        "the storage path is, holds or lies within that of another user or of one who was deleted",
    )
}

fn check_id_free(conn: &Connection, id: UserId) -> Result<()> {
    if conn.prepare_cached("SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NOT NULL")?.exists([blob(id)])? {
        return Err(Error::new(ErrorKind::IdTaken, "a user in the trash has this id"));
    }
    if retired::was_purged(conn, id)? {
        return Err(Error::new(
            ErrorKind::IdTaken,
            "a user who was purged had this id; neither an id nor a storage path is ever used again",
        ));
    }
    Ok(())
}

/// Refuses a chosen path that is, holds or lies within one that was ever given out. Derived paths need no look:
/// they have a part of the namespace to themselves.
pub(super) fn check_path_free(conn: &Connection, path: &StoragePath) -> Result<()> {
    if path.is_reserved() {
        return Err(Error::new(
            ErrorKind::InvalidPath,
            "a storage path that begins with two hexadecimal digits is reserved for the user from whose id it is derived, and one with .tenantry for the store",
        ));
    }
    // Those in the trash keep theirs.
    let mut at = conn.prepare_cached("SELECT 1 FROM users WHERE storage_path = ?1")?;
    for ancestor in path.lineage() {
        if at.exists([ancestor])? {
            return Err(path_taken());
        }
    }
    if is_above_chosen(conn, path.as_str())? || retired::is_retired(conn, path)? {
        return Err(path_taken());
    }
    Ok(())
}

/// Whether a path lies above one that somebody chose.
pub(super) fn is_above_chosen(conn: &Connection, path: &str) -> Result<bool> {
    // '0' is the character after '/': what lies between is below the path.
    let mut below =
        conn.prepare_cached("SELECT 1 FROM users WHERE storage_path > ?1 || '/' AND storage_path < ?1 || '0'")?;
    Ok(below.exists([path])?)
}

pub(super) fn update(conn: &Connection, id: UserId, update: &UserUpdate, now: Timestamp) -> Result<User> {
    let user = get(conn, id)?.ok_or_else(not_found)?;
    if let Some(expected) = update.expected_version.filter(|expected| *expected != user.version) {
        let current = user.version;
        return Err(Error::new(
            ErrorKind::VersionMismatch { current },
            format!("the user has version {current}, not {expected}"),
        ));
    }
    match &update.email {
        Some(email) if *email != user.email => whole(conn, || set_email(conn, user, email, now)),
        _ => Ok(user),
    }
}

fn set_email(conn: &Connection, user: User, email: &Email, now: Timestamp) -> Result<User> {
    let user = with_email(user, email, now)?;
    let updated = conn
        .prepare_cached(
            "UPDATE users SET email_folded = ?2, email = ?3, updated_at = ?4, version = ?5, skeleton = ?6 WHERE id = ?1",
        )?
        .execute(params![
            blob(user.id),
            email.folded(),
            email.as_str(),
            user.updated_at.as_unix_us(),
            user.version,
            skeleton_of(email),
        ]);
    match updated {
        Ok(_) => Ok(user),
        Err(error) if is_unique_violation(&error) => Err(conflict(conn, &user)?.with_source(error)),
        Err(error) => Err(error.into()),
    }
}

/// The user with another address.
pub(super) fn with_email(mut user: User, email: &Email, now: Timestamp) -> Result<User> {
    next_version(&mut user, now)?;
    user.email = email.clone();
    Ok(user)
}

/// What every change of a user brings with it.
pub(super) fn next_version(user: &mut User, now: Timestamp) -> Result<()> {
    if user.version >= User::MAX_VERSION {
        return Err(Error::new(ErrorKind::InvalidUser, "the user has the highest version there is"));
    }
    // The clock may have been set back; the time of the last change isn't.
    user.updated_at = user.updated_at.max(now);
    user.version += 1;
    Ok(())
}

/// Runs an operation of more than one statement, or one that cascades to an application's tables with their triggers, so
/// that nothing of it stays if it fails and the closure that called it goes on.
pub(super) fn whole<T>(conn: &Connection, operation: impl FnOnce() -> Result<T>) -> Result<T> {
    let run = |sql| -> Result<()> { Ok(conn.prepare_cached(sql)?.execute([]).map(drop)?) };
    run("SAVEPOINT tenantry_whole")?;
    let result = operation();
    if result.is_err() && !conn.is_autocommit() {
        run("ROLLBACK TO tenantry_whole")?;
    }
    if !conn.is_autocommit() {
        run("RELEASE tenantry_whole")?;
    }
    result
}

/// Records a login at ?2, which only moves forward.
macro_rules! log_in_where {
    ($condition:literal) => {
        concat!(
            "UPDATE users SET last_login_at = max(coalesce(last_login_at, ?2), ?2) WHERE ",
            $condition,
            " AND deleted_at IS NULL RETURNING ",
            columns!()
        )
    };
}

pub(super) fn sign_in(conn: &Connection, email: &Email, now: Timestamp, new_id: &dyn Fn() -> UserId) -> Result<SignIn> {
    let known = conn
        .prepare_cached(log_in_where!("email_key = ?1"))?
        .query_row(params![email.key(), now.as_unix_us()], from_row)
        .optional()?;
    match known {
        Some(user) => Ok(SignIn { user, is_new: false }),
        None => {
            let new = NewUser { last_login_at: Some(now), ..NewUser::new(email.clone()) };
            Ok(SignIn { user: create(conn, &new, now, new_id)?, is_new: true })
        }
    }
}

pub(super) fn record_login(conn: &Connection, id: UserId, now: Timestamp) -> Result<User> {
    conn.prepare_cached(log_in_where!("id = ?1"))?
        .query_row(params![blob(id), now.as_unix_us()], from_row)
        .optional()?
        .ok_or_else(not_found)
}

pub(super) fn import(
    conn: &Connection,
    new: &NewUser,
    on_conflict: OnConflict,
    now: Timestamp,
    new_id: &dyn Fn() -> UserId,
) -> Result<Imported> {
    let error = match create(conn, new, now, new_id) {
        Ok(_) => return Ok(Imported::Created),
        Err(error) => error,
    };
    // A path in the reserved part of the namespace may be that of the user who is there.
    let may_be_known = matches!(
        error.kind(),
        ErrorKind::EmailTaken | ErrorKind::IdTaken | ErrorKind::PathTaken | ErrorKind::InvalidPath
    );
    if on_conflict == OnConflict::Fail || !may_be_known {
        return Err(error);
    }
    let by_id = new.id.map(|id| get(conn, id)).transpose()?.flatten();
    let by_email = get_by_email(conn, &new.email)?;
    match (on_conflict, by_id, by_email) {
        (OnConflict::Update, Some(user), _) => bring_to(conn, user, new, now),
        (OnConflict::Update, None, Some(user)) if new.id.is_none() => bring_to(conn, user, new, now),
        (OnConflict::Skip, Some(_), _) | (OnConflict::Skip, _, Some(_)) => Ok(Imported::Skipped),
        _ => Err(error),
    }
}

/// Gives an existing user the values of an imported row that can change.
fn bring_to(conn: &Connection, user: User, row: &NewUser, now: Timestamp) -> Result<Imported> {
    let fixed = |message| Err(Error::new(ErrorKind::Immutable, message));
    if row.created_at.is_some_and(|created_at| created_at != user.created_at) {
        return fixed("the user exists with another created_at, which is fixed");
    }
    if row.storage_path.as_ref().is_some_and(|path| *path != user.storage_path) {
        return fixed("the user exists with another storage_path, which is fixed");
    }
    let later_login = row.last_login_at.filter(|login| user.last_login_at.is_none_or(|known| known < *login));
    let other_email = user.email != row.email;
    let id = user.id;
    whole(conn, || {
        if other_email {
            set_email(conn, user, &row.email, now)?;
        }
        if let Some(login) = later_login {
            record_login(conn, id, login)?;
        }
        Ok(())
    })?;
    Ok(if other_email || later_login.is_some() { Imported::Updated } else { Imported::Unchanged })
}

/// Gives users the values of rows that can change, where the rows exchange addresses among themselves.
///
/// In between, each has a made-up address that no row can be in the way of: a key is unique after every statement.
pub(super) fn import_exchange(conn: &Connection, rows: &[NewUser], now: Timestamp) -> Result<Vec<Imported>> {
    whole(conn, || {
        let mut users = Vec::with_capacity(rows.len());
        for row in rows {
            let user = row.id.map(|id| get(conn, id)).transpose()?.flatten().ok_or_else(not_found)?;
            if user.email.key() != row.email.key() {
                conn.prepare_cached("UPDATE users SET email = ?2, email_folded = NULL WHERE id = ?1")?
                    .execute(params![blob(user.id), format!("{}@import.invalid", user.id)])?;
            }
            users.push(user);
        }
        users.into_iter().zip(rows).map(|(user, row)| bring_to(conn, user, row, now)).collect()
    })
}

pub(super) fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user")
}
