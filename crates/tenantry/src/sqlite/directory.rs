//! Where users' directories are, as the rows say.

use rusqlite::{Connection, OptionalExtension};

use super::users;
use super::values::blob;
use crate::{Result, StoragePath, UserId};

/// Where a user's directory is, and whether it was made.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: StoragePath,
    pub(crate) is_made: bool,
}

pub(super) fn directory(conn: &Connection, id: UserId) -> Result<Option<Directory>> {
    directory_in(conn, "SELECT storage_path, has_directory FROM users WHERE id = ?1 AND deleted_at IS NULL", id)
}

/// Where the directory of a user in the trash was, and whether it was made.
pub(super) fn trashed_directory(conn: &Connection, id: UserId) -> Result<Option<Directory>> {
    directory_in(conn, "SELECT storage_path, has_directory FROM users WHERE id = ?1 AND deleted_at IS NOT NULL", id)
}

fn directory_in(conn: &Connection, sql: &str, id: UserId) -> Result<Option<Directory>> {
    let found = conn.prepare_cached(sql)?.query_row([blob(id)], |row| {
        Ok(Directory { path: users::storage_path(id, row.get_ref(0)?, 0)?, is_made: row.get(1)? })
    });
    Ok(found.optional()?)
}
