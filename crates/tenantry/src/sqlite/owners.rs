//! Whose something in `storage/` or `trash/` is, as the rows say.

use std::ffi::OsStr;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::values::blob;
use super::{retired, users};
use crate::storage::{Orphan, Storage};
use crate::{Result, StoragePath, UserId};

/// Whose a path below `storage/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    User {
        id: UserId,
        has_directory: bool,
    },
    /// Of a user in the trash, whose directory isn't here but in the trash.
    Trashed(UserId),
    /// It lies above a path that somebody has or had.
    Above,
    Nobody,
}

pub(super) fn owner(conn: &Connection, path: &str) -> Result<Owner> {
    // The user from whose id the path is derived, or the one who chose it.
    let of_id = path.rsplit('/').next().and_then(|name| name.parse::<UserId>().ok());
    let of_id = of_id.filter(|id| StoragePath::derived(*id).as_str() == path);
    let mut of_users = conn.prepare_cached(
        "SELECT id, has_directory, deleted_at IS NOT NULL FROM users WHERE storage_path = ?1
         UNION ALL
         SELECT id, has_directory, deleted_at IS NOT NULL FROM users WHERE id = ?2 AND storage_path IS NULL",
    )?;
    let of_users = of_users.query_row((path, of_id.map(blob)), |row| {
        let id = UserId::from_random(Uuid::from_bytes(row.get(0)?));
        let (has_directory, is_trashed) = (row.get(1)?, row.get::<_, bool>(2)?);
        Ok(if is_trashed { Owner::Trashed(id) } else { Owner::User { id, has_directory } })
    });
    if let Some(owner) = of_users.optional()? {
        return Ok(owner);
    }
    let is_above = StoragePath::is_above_derived(path)
        || users::is_above_chosen(conn, path)?
        || retired::is_above_retired(conn, path)?;
    Ok(if is_above { Owner::Above } else { Owner::Nobody })
}

pub(super) fn is_of_trashed(conn: &Connection, name: &OsStr) -> Result<bool> {
    let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { return Ok(false) };
    let mut statement =
        conn.prepare_cached("SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NOT NULL AND has_directory = 1")?;
    Ok(statement.exists([blob(id)])?)
}

/// Whether something stands at a path within the data directory, below `storage/` or in `trash/`, and is nobody's.
pub(super) fn belongs_to_nobody(conn: &Connection, storage: &Storage, path: &Path) -> Result<bool> {
    let Some(is_dir) = storage.is_dir_at(path)? else { return Ok(false) };
    match Storage::orphan(path) {
        Some(Orphan::InStorage(path)) => {
            let owner = path.to_str().map_or(Ok(Owner::Nobody), |path| owner(conn, path))?;
            Ok(match owner {
                Owner::Nobody => true,
                // Of a user in the trash, the directory is in the trash.
                Owner::Trashed(_) => true,
                // What isn't a directory isn't theirs, and in the way of one.
                Owner::Above | Owner::User { has_directory: false, .. } => !is_dir,
                Owner::User { has_directory: true, .. } => false,
            })
        }
        Some(Orphan::InTrash(name)) => Ok(!(is_dir && is_of_trashed(conn, &name)?)),
        None => Ok(false),
    }
}
