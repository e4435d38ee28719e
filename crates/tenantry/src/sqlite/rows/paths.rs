//! Statements on storage paths: where directories are, whose a path is, and which paths and ids are
//! retired.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::columns;
use crate::domain::directory::{Directory, PathState};
use crate::sqlite::values::blob;
use crate::{Result, StoragePath, UserId};

/// Returns where the directory of a living user is.
pub(crate) fn directory(conn: &Connection, id: UserId) -> Result<Option<Directory>> {
    directory_by(
        conn,
        "SELECT storage_path, has_directory FROM users WHERE id = ?1 AND deleted_at IS NULL",
        id,
    )
}

/// Returns where the directory of a user in the trash was.
pub(crate) fn trashed_directory(conn: &Connection, id: UserId) -> Result<Option<Directory>> {
    directory_by(
        conn,
        "SELECT storage_path, has_directory FROM users WHERE id = ?1 AND deleted_at IS NOT NULL",
        id,
    )
}

fn directory_by(conn: &Connection, sql: &str, id: UserId) -> Result<Option<Directory>> {
    let found = conn.prepare_cached(sql)?.query_row([blob(id)], |row| {
        Ok(Directory {
            path: columns::storage_path(id, row.get_ref(0)?, 0)?,
            has_directory: row.get(1)?,
        })
    });
    Ok(found.optional()?)
}

/// Records that a user has a directory.
pub(crate) fn set_has_directory(conn: &Connection, id: UserId) -> Result<()> {
    conn.prepare_cached("UPDATE users SET has_directory = 1 WHERE id = ?1")?.execute([blob(id)])?;
    Ok(())
}

/// Returns whether a user in the trash has this id, and a directory.
pub(crate) fn is_in_trash(conn: &Connection, id: UserId) -> Result<bool> {
    let sql = "SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NOT NULL AND has_directory = 1";
    Ok(conn.prepare_cached(sql)?.exists([blob(id)])?)
}

/// Returns the user, living or in the trash, who chose this path, or the one with this id whose
/// path is derived.
pub(crate) fn state(
    conn: &Connection,
    path: &str,
    id: Option<UserId>,
) -> Result<Option<PathState>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, has_directory, deleted_at IS NOT NULL FROM users WHERE storage_path = ?1
         UNION ALL
         SELECT id, has_directory, deleted_at IS NOT NULL FROM users WHERE id = ?2 AND storage_path IS NULL",
    )?;
    let state = statement.query_row((path, id.map(blob)), |row| {
        let id = UserId::from_random(Uuid::from_bytes(row.get(0)?));
        let (has_directory, is_trashed) = (row.get(1)?, row.get::<_, bool>(2)?);
        Ok(if is_trashed { PathState::Trashed(id) } else { PathState::Owned { id, has_directory } })
    });
    Ok(state.optional()?)
}

/// Returns whether a user, living or in the trash, chose this path.
pub(crate) fn is_chosen(conn: &Connection, path: &str) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM users WHERE storage_path = ?1")?.exists([path])?)
}

/// Returns whether a path lies above one that a user chose.
pub(crate) fn is_above_chosen(conn: &Connection, path: &str) -> Result<bool> {
    // '0' is the character after '/': paths between the two lie below the path.
    let sql = "SELECT 1 FROM users WHERE storage_path > ?1 || '/' AND storage_path < ?1 || '0'";
    Ok(conn.prepare_cached(sql)?.exists([path])?)
}

/// Returns whether a user chose a path that differs from this one in spelling alone. Reads every
/// chosen path, since no index compares as a file system does.
pub(crate) fn is_chosen_in_other_spelling(conn: &Connection, path: &StoragePath) -> Result<bool> {
    let mut statement =
        conn.prepare_cached("SELECT storage_path FROM users WHERE storage_path IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let other = row.get_ref(0)?.as_str();
        if other.is_ok_and(|other| StoragePath::is_spelled_otherwise(path.as_str(), other)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Records that a user was purged, whose id is never given out again.
pub(crate) fn retire_id(conn: &Connection, id: UserId) -> Result<()> {
    conn.prepare_cached("INSERT INTO tenantry_retired_users (id) VALUES (?1)")?
        .execute([blob(id)])?;
    Ok(())
}

/// Returns whether a user with this id was purged.
pub(crate) fn was_purged(conn: &Connection, id: UserId) -> Result<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM tenantry_retired_users WHERE id = ?1")?
        .exists([blob(id)])?)
}

/// Records that this path is never to be given out again.
pub(crate) fn retire_path(conn: &Connection, path: &str) -> Result<()> {
    let store_id = store_id(conn)?;
    let mut insert = conn.prepare_cached(
        "INSERT INTO tenantry_retired_paths (digest, is_whole) VALUES (?1, ?2)
         ON CONFLICT (digest) DO UPDATE SET is_whole = max(is_whole, excluded.is_whole)",
    )?;
    for ancestor in StoragePath::lineage_of(path) {
        let is_whole = ancestor.len() == path.len();
        insert.execute(params![digest(store_id, ancestor), is_whole])?;
        // On every file system: the store may be moved to one that ignores case.
        insert.execute(params![digest_of_folded(store_id, ancestor), is_whole])?;
    }
    Ok(())
}

/// Returns whether this path is, lies within or holds a retired one.
pub(crate) fn is_retired(conn: &Connection, path: &StoragePath) -> Result<bool> {
    is_any_retired(conn, path, digest)
}

/// Returns the same for a file system that ignores case, but for paths that were retired before
/// schema version 3.
pub(crate) fn is_retired_in_other_spelling(conn: &Connection, path: &StoragePath) -> Result<bool> {
    is_any_retired(conn, path, digest_of_folded)
}

/// Returns whether this directory lies above a retired path.
pub(crate) fn is_above_retired(conn: &Connection, path: &str) -> Result<bool> {
    let mut find = conn.prepare_cached(
        "SELECT 1 FROM tenantry_retired_paths WHERE digest = ?1 AND is_whole = 0",
    )?;
    Ok(find.exists([digest(store_id(conn)?, path)])?)
}

/// Takes over the paths that schema version 1 kept of deleted users as they were.
pub(crate) fn retire_paths_of_v1(conn: &Connection) -> Result<()> {
    let mut statement = conn.prepare_cached(
        "SELECT storage_path FROM tenantry_retired_users WHERE storage_path IS NOT NULL",
    )?;
    let paths: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for path in &paths {
        retire_path(conn, path)?;
    }
    if !paths.is_empty() {
        conn.execute(
            "UPDATE tenantry_retired_users SET storage_path = NULL WHERE storage_path IS NOT NULL",
            [],
        )?;
    }
    Ok(())
}

fn is_any_retired(
    conn: &Connection,
    path: &StoragePath,
    digest: fn(Uuid, &str) -> [u8; 16],
) -> Result<bool> {
    let store_id = store_id(conn)?;
    let mut find =
        conn.prepare_cached("SELECT is_whole FROM tenantry_retired_paths WHERE digest = ?1")?;
    for ancestor in path.lineage() {
        let is_whole =
            find.query_row([digest(store_id, ancestor)], |row| row.get::<_, bool>(0)).optional()?;
        if is_whole == Some(true) || (is_whole.is_some() && ancestor == path.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn digest(store_id: Uuid, path: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(store_id.as_bytes());
    hasher.update(path.as_bytes());
    let mut digest = [0; 16];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

/// Returns the digest of a path for a file system that ignores case. No path begins with NUL, so it
/// differs from those of all paths.
fn digest_of_folded(store_id: Uuid, path: &str) -> [u8; 16] {
    digest(store_id, &format!("\0{}", StoragePath::folded(path)))
}

/// Returns the id of the store.
pub(crate) fn store_id(conn: &Connection) -> Result<Uuid> {
    Ok(Uuid::from_bytes(
        conn.prepare_cached("SELECT id FROM tenantry_store")?.query_row([], |row| row.get(0))?,
    ))
}
