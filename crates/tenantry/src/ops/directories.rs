//! Making a user's directory, recording one that exists, and moving orphans to quarantine.

use super::intents::{Settled, quarantine_name, settle, settle_or_stop};
use super::paths::{is_orphan, path_state};
use super::stop::{Stop, not_found};
use crate::domain::directory::PathState;
use crate::domain::intent::{Action, Pending};
use crate::engine::{Snapshot, Tx};
use crate::storage::{Orphan, Storage, user_of_copy};
use crate::{Error, ErrorKind, Result, StoragePath, Usage, UsageChange, UserId};

/// Makes a user's directory after this transaction, unless the user has one.
pub(crate) fn make_directory(tx: &mut Tx<'_>, id: UserId) -> Result<(), Stop> {
    if let Settled::Later = settle(tx, id)? {
        // An intent to make it is what is wanted here, and its failure would be this caller's.
        let making = tx
            .intent_of(id)?
            .filter(|intent| intent.action == Action::Make(id))
            .ok_or(Stop::Later)?;
        tx.await_intent(Pending::Intent(making.seq));
        return Ok(());
    }
    let directory = tx.directory(id)?.ok_or_else(not_found)?;
    if directory.has_directory {
        return Ok(());
    }
    let is_taken = tx.storage()?.exists(&directory.path)?;
    if is_taken && directory.path != StoragePath::derived(id) {
        let message = "a directory that the store didn't make is at the user's storage path: adopt it, or move it away";
        return Err(Error::new(ErrorKind::StorageBlocked, message).into());
    }
    tx.record_intent(&Action::Make(id))?;
    Ok(())
}

/// Records that a user's directory exists, if it does.
pub(crate) fn record_directory(tx: &mut Tx<'_>, id: UserId) -> Result<(), Stop> {
    settle_or_stop(tx, id)?;
    let gone = || Error::new(ErrorKind::NotFound, "the user was removed in the meantime");
    let directory = tx.directory(id)?.ok_or_else(gone)?;
    let storage = tx.storage()?;
    if storage.exists(&directory.path)? {
        // So that it is on the disk.
        storage.make(&directory.path)?;
        tx.set_has_directory(id)?;
    }
    Ok(())
}

/// Adds to what a user's directory held when it was measured. Returns the sum, or `None` if it was
/// never measured.
pub(crate) fn adjust_usage(
    tx: &mut Tx<'_>,
    id: UserId,
    change: UsageChange,
) -> Result<Option<Usage>> {
    let Some(measured) = tx.usage(id)? else { return Ok(None) };
    let usage = Usage {
        files: measured.files.saturating_add_signed(change.files),
        apparent_bytes: measured.apparent_bytes.saturating_add_signed(change.apparent_bytes),
        allocated_bytes: measured.allocated_bytes.saturating_add_signed(change.allocated_bytes),
        ..measured
    };
    tx.set_usage(id, &usage)?;
    Ok(Some(usage))
}

/// Moves something to quarantine after this transaction, if it is still an orphan. Returns whether
/// it is.
pub(crate) fn quarantine(tx: &mut Tx<'_>, orphan: &Orphan) -> Result<bool, Stop> {
    // It may be just what an unfinished intent is about.
    if let Some(user) = user_of_orphan(tx, orphan)? {
        settle_or_stop(tx, user)?;
    }
    let path = Storage::relative_orphan(orphan);
    let is_orphan = is_orphan(tx, tx.storage()?, &path)?;
    if is_orphan {
        let name = quarantine_name(tx);
        tx.record_intent(&Action::Quarantine { path, name })?;
    }
    Ok(is_orphan)
}

/// Returns the user whose directory something in `storage/` or `trash/` may be, on its way between
/// the two.
pub(crate) fn user_of_orphan(tx: &Snapshot<'_>, orphan: &Orphan) -> Result<Option<UserId>> {
    Ok(match orphan {
        Orphan::InTrash(name) => {
            name.to_str().and_then(|name| name.parse().ok()).or(user_of_copy(name))
        }
        Orphan::InStorage(path) => {
            match path.to_str().map(|path| path_state(tx, path)).transpose()? {
                Some(PathState::Trashed(id)) => Some(id),
                _ => path.file_name().and_then(user_of_copy),
            }
        }
    })
}
