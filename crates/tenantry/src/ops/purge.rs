//! Purging: the row goes after the files, and then the database is rewritten.

use super::change::record_purge;
use super::intents::settle_or_stop;
use super::stop::{Stop, not_in_trash};
use crate::domain::directory::Directory;
use crate::domain::intent::{Action, Pending};
use crate::engine::Tx;
use crate::engine::verbs::BegunPurge;
use crate::{Error, ErrorKind, Result, StoragePath, UserId};

/// Begins to purge a user. Returns their storage path if there are files to be removed before it
/// can be [ended](end_purge).
pub(crate) fn begin_purge(tx: &mut Tx<'_>, id: UserId) -> Result<Option<StoragePath>, Stop> {
    tx.whole(|tx| {
        let begun = settle_or_stop(tx, id)?;
        let Directory { path, has_directory } =
            tx.trashed_directory(id)?.ok_or_else(not_in_trash)?;
        if !has_directory {
            end_purge(tx, id)?;
            return Ok(None);
        }
        if let Some(intent) = begun {
            // Perhaps it isn't durable yet.
            tx.encounter_intent(&intent);
        } else {
            // Files put back at the old path would otherwise survive a purge that reported success.
            tx.storage()?.check_is_free(&path)?;
            tx.try_to_remove_user(id)?;
            tx.record_intent(&Action::Purge(id))?;
        }
        Ok(Some(path))
    })
}

/// Begins to purge these users. Returns the outcome for each who is still in the trash: one that
/// fails leaves the others alone.
pub(crate) fn begin_purges(tx: &mut Tx<'_>, ids: &[UserId]) -> Result<Vec<BegunPurge>, Stop> {
    let mut begun = Vec::with_capacity(ids.len());
    for id in ids {
        match begin_purge(tx, *id) {
            // Restored, or purged by another caller, since they were listed.
            Err(Stop::Failed(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(Stop::Failed(error)) if is_single_user_error(&error) && !tx.is_over(&error) => {
                begun.push((*id, Err(error)))
            }
            path => begun.push((*id, Ok(path?))),
        }
    }
    Ok(begun)
}

fn is_single_user_error(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageBlocked | ErrorKind::Unfinished | ErrorKind::Constraint
    )
}

/// Removes a user whose files are gone, but for the id and a digest of the path. Returns whether
/// the user existed.
pub(crate) fn end_purge(tx: &mut Tx<'_>, id: UserId) -> Result<bool> {
    tx.whole(|tx| {
        let Some(Directory { path, .. }) = tx.trashed_directory(id)? else { return Ok(false) };
        let version = tx.version(id)?;
        tx.remove_user(id)?;
        tx.retire_id(id)?;
        if path != StoragePath::derived(id) {
            tx.retire_path(&path)?;
        }
        tx.remove_intent_of(id)?;
        tx.renew_erase_intent()?;
        record_purge(tx, id, version)?;
        Ok::<_, Error>(true)
    })
}

/// Ends the purges of these users. Returns how many of them were still to be ended.
pub(crate) fn end_purges(tx: &mut Tx<'_>, ids: &[UserId]) -> Result<u64> {
    ids.iter().try_fold(0, |count, id| Ok(count + u64::from(end_purge(tx, *id)?)))
}

/// Rewrites the database after this transaction, if users were purged since the last time.
pub(crate) fn erase(tx: &mut Tx<'_>) -> Result<()> {
    if tx.erase_intent()?.is_some() {
        tx.await_intent(Pending::Erase);
    }
    Ok(())
}
