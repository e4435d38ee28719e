//! Storage paths: which may be chosen, and whose a path is.

use std::ffi::OsStr;
use std::path::Path;

use crate::domain::directory::PathState;
use crate::engine::{Snapshot, Tx};
use crate::storage::{Orphan, Storage};
use crate::{Error, ErrorKind, NewUser, Result, StoragePath, UserId};

pub(super) fn path_taken() -> Error {
    Error::new(
        ErrorKind::PathTaken,
        "the storage path is, holds or lies within that of another user or of one who was deleted",
    )
}

/// Refuses a chosen path that is, holds or lies within one that was ever given out. Derived paths
/// have a part of the namespace to themselves.
pub(super) fn check_path_free(tx: &Snapshot<'_>, path: &StoragePath) -> Result<()> {
    if path.is_reserved() {
        return Err(Error::new(
            ErrorKind::InvalidPath,
            "a storage path that begins with two hexadecimal digits is reserved for the user from whose id it is derived, and one with .tenantry for the store",
        ));
    }
    for ancestor in path.lineage() {
        if tx.is_path_chosen(ancestor)? {
            return Err(path_taken());
        }
    }
    if tx.is_above_chosen_path(path.as_str())? || tx.is_path_retired(path)? {
        return Err(path_taken());
    }
    Ok(())
}

/// Refuses the path of a new user if the file system takes it, or a directory on the way to it, for
/// that of another user who spells it otherwise.
pub(super) fn check_spelling_of_new(tx: &Tx<'_>, new: &NewUser) -> Result<()> {
    let Some(path) = &new.storage_path else { return Ok(()) };
    if !ignores_case(tx) || tx.user_by_email(&new.email)?.is_some() {
        // That the address is taken is reported first.
        return Ok(());
    }
    check_spelling(tx, path)
}

/// Refuses a path that the file system takes for that of another user, or of one who was purged,
/// who spells it otherwise.
pub(super) fn check_spelling(tx: &Tx<'_>, path: &StoragePath) -> Result<()> {
    let is_taken = ignores_case(tx)
        && (tx.is_path_chosen_in_other_spelling(path)?
            || tx.is_path_retired_in_other_spelling(path)?);
    if is_taken { Err(path_taken()) } else { Ok(()) }
}

fn ignores_case(tx: &Tx<'_>) -> bool {
    tx.storage().is_ok_and(Storage::ignores_case)
}

/// Returns what the rows say about a path below `storage/`.
pub(crate) fn path_state(tx: &Snapshot<'_>, path: &str) -> Result<PathState> {
    // The user from whose id the path is derived, or the one who chose it.
    let id = path.rsplit('/').next().and_then(|name| name.parse::<UserId>().ok());
    let id = id.filter(|id| StoragePath::derived(*id).as_str() == path);
    if let Some(state) = tx.path_state(path, id)? {
        return Ok(state);
    }
    let is_above = StoragePath::is_above_derived(path)
        || tx.is_above_chosen_path(path)?
        || tx.is_above_retired_path(path)?;
    Ok(if is_above { PathState::Above } else { PathState::Orphan })
}

/// Returns whether a name in `trash/` is that of a user in the trash who has a directory.
pub(crate) fn is_trashed_directory(tx: &Snapshot<'_>, name: &OsStr) -> Result<bool> {
    let id = name.to_str().and_then(|name| name.parse().ok());
    id.map_or(Ok(false), |id| tx.has_trashed_directory(id))
}

/// Returns whether a path within the data directory, below `storage/` or in `trash/`, exists and is
/// an orphan.
pub(crate) fn is_orphan(tx: &Snapshot<'_>, storage: &Storage, path: &Path) -> Result<bool> {
    let Some(is_dir) = storage.is_dir_at(path)? else { return Ok(false) };
    match Storage::orphan(path) {
        Some(Orphan::InStorage(path)) => {
            let state = path.to_str().map_or(Ok(PathState::Orphan), |path| path_state(tx, path))?;
            Ok(match state {
                PathState::Orphan => true,
                // The directory of a user in the trash is in the trash.
                PathState::Trashed(_) => true,
                // Anything but a directory isn't theirs, and in the way of one.
                PathState::Above | PathState::Owned { has_directory: false, .. } => !is_dir,
                PathState::Owned { has_directory: true, .. } => false,
            })
        }
        Some(Orphan::InTrash(name)) => Ok(!(is_dir && is_trashed_directory(tx, &name)?)),
        None => Ok(false),
    }
}
