//! The SQL of a user who is brought back with files out of a backup.

use rusqlite::{Connection, params};

use super::directory::{directory, trashed_directory};
use super::intents::{Action, Directories, record, settle};
use super::lifecycle;
use super::users::{self, not_found, whole};
use super::values::blob;
use crate::{Error, ErrorKind, Result, StoragePath, Timestamp, User, UserId};

/// Restores a user who is in the trash, if they may be there, and has what a stage holds moved into their directory, beside what is
/// there.
pub(super) fn bring_back(
    conn: &Connection,
    directories: &Directories<'_>,
    id: UserId,
    may_be_trashed: bool,
    stage: Option<&str>,
    now: Timestamp,
) -> Result<User> {
    whole(conn, || {
        settle(conn, directories, id)?;
        let is_trashed = lifecycle::get_trashed(conn, id)?.is_some();
        if is_trashed && !may_be_trashed {
            return Err(Error::new(ErrorKind::NotFound, "the user was deleted meanwhile"));
        }
        let directory = match is_trashed {
            true => trashed_directory(conn, id)?,
            false => directory(conn, id)?,
        };
        let directory = directory.ok_or_else(not_found)?;
        if stage.is_some() && !directory.is_made && (is_trashed || directory.path != StoragePath::derived(id)) {
            // A directory that the store didn't make isn't theirs.
            directories.storage()?.check_is_free(&directory.path)?;
        }
        let user = match is_trashed {
            true => lifecycle::restore(conn, directories, id, None, now)?,
            false => users::get(conn, id)?.ok_or_else(not_found)?,
        };
        let Some(stage) = stage else { return Ok(user) };
        directories.storage()?;
        conn.prepare_cached("UPDATE users SET has_directory = 1 WHERE id = ?1")?.execute([blob(id)])?;
        // A user has one intent at most: that of the restore, if they had a directory.
        let mut name_stage = conn.prepare_cached("UPDATE tenantry_intents SET name = ?2 WHERE user_id = ?1")?;
        if name_stage.execute(params![blob(id), stage])? == 0 {
            record(conn, directories, &Action::Restore { user: id, stage: Some(stage.to_owned()) }, now)?;
        }
        Ok(user)
    })
}
