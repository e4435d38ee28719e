//! Ids and paths that are never given out again.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::values::blob;
use crate::{Result, StoragePath, UserId};

/// Whether a user with this id was purged.
pub(super) fn was_purged(conn: &Connection, id: UserId) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM tenantry_retired_users WHERE id = ?1")?.exists([blob(id)])?)
}

/// Records that this path is never to be given out again.
pub(super) fn retire_path(conn: &Connection, path: &str) -> Result<()> {
    let store_id = store_id(conn)?;
    let mut insert = conn.prepare_cached(
        "INSERT INTO tenantry_retired_paths (digest, is_whole) VALUES (?1, ?2)
         ON CONFLICT (digest) DO UPDATE SET is_whole = max(is_whole, excluded.is_whole)",
    )?;
    for ancestor in StoragePath::lineage_of(path) {
        let is_whole = ancestor.len() == path.len();
        insert.execute(params![digest(store_id, ancestor), is_whole])?;
        // Whatever the file system is like: the store may be moved to one that ignores case.
        insert.execute(params![digest_of_folded(store_id, ancestor), is_whole])?;
    }
    Ok(())
}

/// Whether this path is, lies within or holds one that was retired.
pub(super) fn is_retired(conn: &Connection, path: &StoragePath) -> Result<bool> {
    is_any_retired(conn, path, digest)
}

/// The same on a file system that ignores case, but for paths that were retired before schema version 3.
pub(super) fn is_retired_otherwise_spelled(conn: &Connection, path: &StoragePath) -> Result<bool> {
    is_any_retired(conn, path, digest_of_folded)
}

/// Whether this directory lies above a path that was retired.
pub(super) fn is_above_retired(conn: &Connection, path: &str) -> Result<bool> {
    let mut find = conn.prepare_cached("SELECT 1 FROM tenantry_retired_paths WHERE digest = ?1 AND is_whole = 0")?;
    Ok(find.exists([digest(store_id(conn)?, path)])?)
}

/// Takes over the paths that schema version 1 kept of deleted users as they were.
pub(super) fn retire_paths_of_v1(conn: &Connection) -> Result<()> {
    let mut statement =
        conn.prepare_cached("SELECT storage_path FROM tenantry_retired_users WHERE storage_path IS NOT NULL")?;
    let paths: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for path in &paths {
        retire_path(conn, path)?;
    }
    if !paths.is_empty() {
        conn.execute("UPDATE tenantry_retired_users SET storage_path = NULL WHERE storage_path IS NOT NULL", [])?;
    }
    Ok(())
}

fn is_any_retired(conn: &Connection, path: &StoragePath, digest: fn(Uuid, &str) -> [u8; 16]) -> Result<bool> {
    let store_id = store_id(conn)?;
    let mut find = conn.prepare_cached("SELECT is_whole FROM tenantry_retired_paths WHERE digest = ?1")?;
    for ancestor in path.lineage() {
        let is_whole = find.query_row([digest(store_id, ancestor)], |row| row.get::<_, bool>(0)).optional()?;
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

/// The digest of a path as a file system has it that ignores case. No path begins with NUL, so it is that of no other path.
fn digest_of_folded(store_id: Uuid, path: &str) -> [u8; 16] {
    digest(store_id, &format!("\0{}", StoragePath::folded(path)))
}

pub(super) fn store_id(conn: &Connection) -> Result<Uuid> {
    Ok(Uuid::from_bytes(conn.prepare_cached("SELECT id FROM tenantry_store")?.query_row([], |row| row.get(0))?))
}
