//! Storage paths on a file system that ignores case or normalization: two spellings of a path are one directory there.

use rusqlite::Connection;

use super::retired;
use super::users::{self, path_taken};
use crate::storage::Storage;
use crate::{NewUser, Result, StoragePath};

/// Refuses the path of a new user if the file system takes it, or a directory on the way to it, for that of another who
/// spells it otherwise. Reads every chosen path, since no index compares as a file system does.
pub(super) fn check_new(conn: &Connection, storage: &Result<Storage>, new: &NewUser) -> Result<()> {
    let Some(path) = &new.storage_path else { return Ok(()) };
    if !ignores_case(storage) || users::get_by_email(conn, &new.email)?.is_some() {
        // Whoever has the address is told of first.
        return Ok(());
    }
    check(conn, storage, path)
}

/// Refuses a path that is spelled otherwise than another user's that is the same to the file system, or than that of a user who
/// was purged.
pub(super) fn check(conn: &Connection, storage: &Result<Storage>, path: &StoragePath) -> Result<()> {
    if !ignores_case(storage) {
        return Ok(());
    }
    let mut statement = conn.prepare_cached("SELECT storage_path FROM users WHERE storage_path IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let other = row.get_ref(0)?.as_str();
        if other.is_ok_and(|other| StoragePath::is_spelled_otherwise(path.as_str(), other)) {
            return Err(path_taken());
        }
    }
    if retired::is_retired_otherwise_spelled(conn, path)? { Err(path_taken()) } else { Ok(()) }
}

fn ignores_case(storage: &Result<Storage>) -> bool {
    storage.as_ref().is_ok_and(Storage::ignores_case)
}
