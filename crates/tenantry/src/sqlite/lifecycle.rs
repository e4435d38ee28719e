//! The SQL of users and their directories as one unit: making, deleting, restoring, purging, adopting.
//!
//! What these functions do to rows is one transaction; what is to follow in the file system they record as an
//! [intent](super::intents).

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ffi, params};
use uuid::Uuid;

use super::directory::{Directory, directory, trashed_directory};
use super::intents::{self, Action, Directories, of_user, record, remove, settle};
use super::retired::retire_path;
use super::users::{self, columns, damaged, email_taken, from_row, get, get_by_email, not_found, whole};
use super::values::blob;
use crate::{
    Cursor, Email, Error, ErrorKind, NewUser, Result, StoragePath, Timestamp, TrashPage, TrashQuery, TrashedUser,
    Usage, User, UserId,
};

/// Sees to it that the user's directory is made when this transaction is over.
pub(super) fn make_directory(
    conn: &Connection,
    directories: &Directories<'_>,
    id: UserId,
    now: Timestamp,
) -> Result<()> {
    if let Err(error) = settle(conn, directories, id) {
        // If it is just being made, that is what was wanted.
        let making = of_user(conn, id)?.filter(|intent| intent.action == Action::Make(id));
        if let (Some(intent), true) = (making, directories.is_too_early.get()) {
            directories.is_too_early.set(false);
            // If that fails, it is this caller's failure too.
            directories.recorded.borrow_mut().push(intent.seq);
            return Ok(());
        }
        return Err(error);
    }
    let directory = directory(conn, id)?.ok_or_else(not_found)?;
    if directory.is_made {
        return Ok(());
    }
    let is_there = directories.storage()?.exists(&directory.path)?;
    if is_there && directory.path != StoragePath::derived(id) {
        return Err(Error::new(
            ErrorKind::StorageBlocked,
            "a directory that the store didn't make stands at the user's storage path: adopt it, or move it away",
        ));
    }
    record(conn, directories, &Action::Make(id), now)
}

pub(super) fn delete(conn: &Connection, directories: &Directories<'_>, id: UserId, now: Timestamp) -> Result<User> {
    whole(conn, || {
        drop_making(conn, directories, id)?;
        settle(conn, directories, id)?;
        let user = get(conn, id)?.ok_or_else(not_found)?;
        let has_directory = directory(conn, id)?.is_some_and(|directory| directory.is_made)
            || has_unrecorded_directory(directories, &user);
        if has_directory {
            directories.storage()?.check_can_trash(id, &user.storage_path)?;
        }
        let deletion_seq: i64 = conn
            .prepare_cached("UPDATE tenantry_store SET last_deletion = last_deletion + 1 RETURNING last_deletion")?
            .query_row([], |row| row.get(0))?;
        conn.prepare_cached("UPDATE users SET deleted_at = ?2, deletion_seq = ?3, has_directory = ?4 WHERE id = ?1")?
            .execute(params![blob(id), now.as_unix_us(), deletion_seq, has_directory])?;
        if has_directory {
            record(conn, directories, &Action::Trash(id), now)?;
        }
        Ok(user)
    })
}

/// Takes back the intent to make a directory, if nothing has come of it yet: who is to be deleted needs none.
fn drop_making(conn: &Connection, directories: &Directories<'_>, id: UserId) -> Result<()> {
    let Some(intent) = of_user(conn, id)? else { return Ok(()) };
    if intent.action == Action::Make(id)
        && let (Some(directory), Ok(storage)) = (directory(conn, id)?, directories.storage())
        && !directories.recorded.borrow().contains(&intent.seq)
        && matches!(storage.exists(&directory.path), Ok(false))
    {
        remove(conn, intent.seq)?;
    }
    Ok(())
}

/// Whether a directory is at the path that is derived from the user's id, though their row doesn't know, as after an older
/// backup of the database was restored: it is theirs all the same.
fn has_unrecorded_directory(directories: &Directories<'_>, user: &User) -> bool {
    let storage = directories.storage().ok().filter(|_| user.storage_path == StoragePath::derived(user.id));
    storage.is_some_and(|storage| matches!(storage.exists(&user.storage_path), Ok(true)))
}

pub(super) fn restore(
    conn: &Connection,
    directories: &Directories<'_>,
    id: UserId,
    email: Option<&Email>,
    now: Timestamp,
) -> Result<User> {
    whole(conn, || {
        if settle(conn, directories, id)?.is_some() {
            return Err(Error::new(ErrorKind::NotFound, "the user is being purged: there is no way back"));
        }
        let (trashed, has_directory) = conn
            .prepare_cached(concat!(
                "SELECT ",
                columns!(),
                ", has_directory FROM users WHERE id = ?1 AND deleted_at IS NOT NULL"
            ))?
            .query_row([blob(id)], |row| Ok((from_row(row)?, row.get::<_, bool>(8)?)))
            .optional()?
            .ok_or_else(not_in_trash)?;
        if let Some(other) = get_by_email(conn, email.unwrap_or(&trashed.email))? {
            return Err(email_taken(&other));
        }
        if has_directory {
            directories.storage()?.check_can_restore(id, &trashed.storage_path, None)?;
        }
        // With another address at once: the old one may be taken.
        let user = match email {
            Some(email) if *email != trashed.email => users::with_email(trashed, email, now)?,
            _ => trashed,
        };
        conn.prepare_cached(
            "UPDATE users SET deleted_at = NULL, deletion_seq = NULL, email_folded = ?2, email = ?3, updated_at = ?4,
                version = ?5, skeleton = ?6
             WHERE id = ?1",
        )?
        .execute(params![
            blob(id),
            user.email.folded(),
            user.email.as_str(),
            user.updated_at.as_unix_us(),
            user.version,
            users::skeleton_of_key(user.email.key()),
        ])?;
        if has_directory {
            record(conn, directories, &Action::Restore { user: id, stage: None }, now)?;
        }
        Ok(user)
    })
}

/// Creates a user whose files, if there are any, an archive has brought into a stage.
pub(super) fn import(
    conn: &Connection,
    directories: &Directories<'_>,
    new: &NewUser,
    stage: Option<&str>,
    now: Timestamp,
    new_id: &dyn Fn() -> UserId,
) -> Result<User> {
    whole(conn, || {
        let user = users::create(conn, new, now, new_id)?;
        if let Some(stage) = stage {
            directories.storage()?.check_can_restore(user.id, &user.storage_path, Some(stage))?;
            conn.prepare_cached("UPDATE users SET has_directory = 1 WHERE id = ?1")?.execute([blob(user.id)])?;
            record(conn, directories, &Action::Restore { user: user.id, stage: Some(stage.to_owned()) }, now)?;
        }
        Ok(user)
    })
}

/// Begins to purge a user. If there are files to be removed before it can be [ended](end_purge), answers their storage path.
pub(super) fn begin_purge(
    conn: &Connection,
    directories: &Directories<'_>,
    id: UserId,
    now: Timestamp,
) -> Result<Option<StoragePath>> {
    whole(conn, || {
        let begun = settle(conn, directories, id)?;
        let Directory { path, is_made } = trashed_directory(conn, id)?.ok_or_else(not_in_trash)?;
        if !is_made {
            end_purge(conn, id, now)?;
            return Ok(None);
        }
        if let Some(intent) = begun {
            // Perhaps not on the disk yet.
            directories.met.borrow_mut().push(intent.seq);
        } else {
            // What somebody has put back there would stay, though everybody were told that it is gone.
            directories.storage()?.check_is_free(&path)?;
            try_to_remove_row(conn, id)?;
            record(conn, directories, &Action::Purge(id), now)?;
        }
        Ok(Some(path))
    })
}

/// Forgets a user whose files are gone, except for the id and a digest of the path. Says whether it was still to be done.
pub(super) fn end_purge(conn: &Connection, id: UserId, now: Timestamp) -> Result<bool> {
    whole(conn, || {
        let Some(Directory { path, .. }) = trashed_directory(conn, id)? else { return Ok(false) };
        remove_row(conn, id)?;
        conn.prepare_cached("INSERT INTO tenantry_retired_users (id) VALUES (?1)")?.execute([blob(id)])?;
        if path != StoragePath::derived(id) {
            retire_path(conn, path.as_str())?;
        }
        conn.prepare_cached("DELETE FROM tenantry_intents WHERE user_id = ?1")?.execute([blob(id)])?;
        // Not to be acted on at once: one will do for many users. A new one each time, because another process may
        // just have acted on the one that is there, and be about to remove it.
        conn.prepare_cached("DELETE FROM tenantry_intents WHERE action = 'erase'")?.execute([])?;
        conn.prepare_cached("INSERT INTO tenantry_intents (action, recorded_at) VALUES ('erase', ?1)")?
            .execute([now.as_unix_us()])?;
        Ok(true)
    })
}

/// Removes the row of a user, with the rows of an application's tables that go with it.
///
/// # Errors
///
/// Fails with [`ErrorKind::Constraint`] if other rows of these refer to it, or a trigger of theirs refuses it.
fn remove_row(conn: &Connection, id: UserId) -> Result<()> {
    let refuse = || {
        let message = "rows of the application's own tables hold the user, so that the user can't be purged";
        Error::new(ErrorKind::Constraint, message)
    };
    let was_unresolved = has_unresolved_references(conn);
    match conn.prepare_cached("DELETE FROM users WHERE id = ?1")?.execute([blob(id)]).map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::Constraint => Err(refuse().with_source(error)),
        // The commit would refuse it, and with it what others do in this transaction.
        Ok(_) if !was_unresolved && has_unresolved_references(conn) => Err(refuse()),
        removed => removed.map(drop),
    }
}

/// Removes the row and takes it back: after the files are removed it must be possible.
fn try_to_remove_row(conn: &Connection, id: UserId) -> Result<()> {
    conn.prepare_cached("SAVEPOINT tenantry_trial")?.execute([])?;
    // After a failure the caller's savepoint undoes this one too.
    remove_row(conn, id)?;
    conn.prepare_cached("ROLLBACK TO tenantry_trial")?.execute([])?;
    conn.prepare_cached("RELEASE tenantry_trial")?.execute([])?;
    Ok(())
}

/// Returns whether rows refer to others that aren't there, which only the commit refuses
/// ([deferred constraints](https://sqlite.org/foreignkeys.html#fk_deferred)).
fn has_unresolved_references(conn: &Connection) -> bool {
    let (mut unresolved, mut unused) = (0, 0);
    #[allow(unsafe_code, reason = "rusqlite has no safe interface to this function")]
    // SAFETY: the handle belongs to a connection that is borrowed, and the function only writes to these two numbers.
    let code = unsafe {
        ffi::sqlite3_db_status(conn.handle(), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut unresolved, &mut unused, 0)
    };
    code == ffi::SQLITE_OK && unresolved != 0
}

/// Has the database rewritten after this transaction, if users were purged since the last time.
pub(super) fn erase(conn: &Connection, directories: &Directories<'_>) -> Result<()> {
    if intents::erase(conn)?.is_some() {
        directories.recorded.borrow_mut().push(intents::ERASE);
    }
    Ok(())
}

pub(super) fn adopt(
    conn: &Connection,
    directories: &Directories<'_>,
    id: UserId,
    path: &StoragePath,
    now: Timestamp,
    new_name: &dyn Fn() -> String,
) -> Result<User> {
    whole(conn, || {
        settle(conn, directories, id)?;
        let mut user = get(conn, id)?.ok_or_else(not_found)?;
        let has_directory = directory(conn, id)?.is_some_and(|directory| directory.is_made);
        let is_move = *path != user.storage_path;
        if is_move {
            users::check_path_free(conn, path)?;
        }
        let storage = directories.storage()?;
        if is_move && has_directory && !storage.is_empty(&user.storage_path)? {
            return Err(Error::new(
                ErrorKind::NotEmpty,
                "the user has a directory with files in it, which an adoption would leave behind: move them first",
            ));
        }
        storage.prepare_adoption(path)?;
        if is_move {
            if has_directory {
                let discard = Action::Discard { user: id, path: user.storage_path.clone(), name: new_name() };
                record(conn, directories, &discard, now)?;
            }
            if user.storage_path != StoragePath::derived(id) {
                retire_path(conn, user.storage_path.as_str())?;
            }
            users::next_version(&mut user, now)?;
            user.storage_path = path.clone();
        }
        conn.prepare_cached(
            "UPDATE users SET storage_path = ?2, has_directory = 1, updated_at = ?3, version = ?4 WHERE id = ?1",
        )?
        .execute(params![blob(id), chosen(&user), user.updated_at.as_unix_us(), user.version])?;
        Ok(user)
    })
}

/// What stands in the column `storage_path`: nothing if the path is derived.
fn chosen(user: &User) -> Option<&str> {
    (user.storage_path != StoragePath::derived(user.id)).then_some(user.storage_path.as_str())
}

/// The columns of a user in the trash, in the order in which [`trashed`] reads them.
macro_rules! trashed_columns {
    () => {
        concat!(
            columns!(),
            ", deleted_at, EXISTS (
                SELECT 1 FROM tenantry_intents AS intent WHERE intent.user_id = users.id AND intent.action = 'purge'
             )"
        )
    };
}

fn not_in_trash() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user in the trash")
}

pub(super) fn list_trash(conn: &Connection, query: &TrashQuery) -> Result<TrashPage> {
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
        let seq = row.get(10)?;
        users::check_order(walked_to, seq, 10)?;
        walked_to = seq;
        Ok((trashed(row)?, seq))
    })?;
    let mut rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let has_more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next_cursor = rows.last().filter(|_| has_more).map(|(_, seq)| Cursor::after(*seq));
    Ok(TrashPage { users: rows.into_iter().map(|(user, _)| user).collect(), next_cursor })
}

pub(super) fn get_trashed(conn: &Connection, id: UserId) -> Result<Option<TrashedUser>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        trashed_columns!(),
        " FROM users WHERE id = ?1 AND deleted_at IS NOT NULL"
    ))?;
    Ok(statement.query_row([blob(id)], trashed).optional()?)
}

/// Returns the users in the trash with this address, the one who was deleted last first.
pub(super) fn find_in_trash(conn: &Connection, email: &Email) -> Result<Vec<TrashedUser>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        trashed_columns!(),
        " FROM users WHERE email_key = ?1 AND deleted_at IS NOT NULL ORDER BY deletion_seq DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![email.key(), TrashedUser::OF_ONE_ADDRESS_MAX], trashed)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn trashed(row: &Row<'_>) -> rusqlite::Result<TrashedUser> {
    let deleted_at = Timestamp::from_unix_us(row.get(8)?).map_err(|error| damaged(8, Type::Integer, error))?;
    Ok(TrashedUser { user: from_row(row)?, deleted_at, is_being_purged: row.get(9)? })
}

/// Ids of users who have a directory, in the order of creation, with the place to go on at.
pub(super) fn with_directory(conn: &Connection, after: i64, limit: usize) -> Result<(Vec<UserId>, Option<i64>)> {
    let mut statement = conn.prepare_cached(
        "SELECT id, seq FROM users WHERE seq > ?1 AND has_directory = 1 AND deleted_at IS NULL ORDER BY seq LIMIT ?2",
    )?;
    let mut walked_to = after;
    let rows = statement.query_map(params![after, limit], |row| {
        let seq = row.get(1)?;
        users::check_order(walked_to, seq, 1)?;
        walked_to = seq;
        Ok((UserId::from_random(Uuid::from_bytes(row.get(0)?)), seq))
    })?;
    let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(_, seq)| *seq);
    Ok((rows.into_iter().map(|(id, _)| id).collect(), next))
}

pub(super) fn set_usage(conn: &Connection, id: UserId, usage: &Usage) -> Result<()> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    // Nothing, if the user was deleted meanwhile.
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
        measured_at: Timestamp::from_unix_us(row.get(first + 4)?)
            .map_err(|error| damaged(first + 4, Type::Integer, error))?,
    })
}

pub(super) fn usage(conn: &Connection, id: UserId) -> Result<Option<Usage>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        usage_columns!(),
        " FROM tenantry_usage JOIN users ON users.id = tenantry_usage.user_id
         WHERE tenantry_usage.user_id = ?1 AND users.deleted_at IS NULL"
    ))?;
    Ok(statement.query_row([blob(id)], |row| usage_from_row(row, 0)).optional()?)
}

/// The users who take most, as far as they were measured.
pub(super) fn top_usage(conn: &Connection, limit: usize) -> Result<Vec<(User, Usage)>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        ", ",
        usage_columns!(),
        " FROM tenantry_usage JOIN users ON users.id = tenantry_usage.user_id AND users.deleted_at IS NULL
         ORDER BY tenantry_usage.allocated_bytes DESC, users.seq LIMIT ?1"
    ))?;
    let rows = statement.query_map([limit], |row| Ok((from_row(row)?, usage_from_row(row, 8)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
