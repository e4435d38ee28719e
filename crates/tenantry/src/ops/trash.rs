//! Deleting a user and restoring one.

use super::change::record_change;
use super::intents::settle_or_stop;
use super::stop::{Stop, not_found, not_in_trash};
use super::users::{email_taken, with_email};
use crate::domain::intent::Action;
use crate::engine::{Tx, Written};
use crate::{ChangeKind, Email, Error, ErrorKind, Filter, Result, StoragePath, User, UserId};

pub(crate) fn delete(tx: &mut Tx<'_>, id: UserId) -> Result<User, Stop> {
    let user = tx.whole(|tx| {
        take_back_make(tx, id)?;
        settle_or_stop(tx, id)?;
        let user = tx.user(id)?.ok_or_else(not_found)?;
        let has_directory = tx.directory(id)?.is_some_and(|directory| directory.has_directory)
            || has_unrecorded_directory(tx, &user);
        if has_directory {
            tx.storage()?.check_can_trash(id, &user.storage_path)?;
        }
        tx.move_to_trash(id, has_directory)?;
        if has_directory {
            tx.record_intent(&Action::Trash(id))?;
        }
        Ok::<_, Stop>(user)
    })?;
    record_change(tx, &user, ChangeKind::Deleted)?;
    Ok(user)
}

/// Deletes a user if they meet the filter now.
pub(crate) fn delete_if(
    tx: &mut Tx<'_>,
    id: UserId,
    filter: &Filter,
) -> Result<Option<User>, Stop> {
    if tx.is_met_by(filter, id)? { delete(tx, id).map(Some) } else { Ok(None) }
}

/// Removes the intent to make a directory, if that has no effect yet: a user who is about to be
/// deleted needs none.
fn take_back_make(tx: &mut Tx<'_>, id: UserId) -> Result<()> {
    let Some(intent) = tx.intent_of(id)? else { return Ok(()) };
    if intent.action == Action::Make(id)
        && let (Some(directory), Ok(storage)) = (tx.directory(id)?, tx.storage())
        && !tx.is_recorded_here(&intent)
        && matches!(storage.exists(&directory.path), Ok(false))
    {
        tx.remove_intent(intent.seq)?;
    }
    Ok(())
}

/// Returns whether a directory exists at the path that is derived from the user's id, though their
/// row doesn't say so, as after an older backup of the database was restored. It is theirs all the
/// same.
fn has_unrecorded_directory(tx: &Tx<'_>, user: &User) -> bool {
    let storage = tx.storage().ok().filter(|_| user.storage_path == StoragePath::derived(user.id));
    storage.is_some_and(|storage| matches!(storage.exists(&user.storage_path), Ok(true)))
}

pub(crate) fn restore(tx: &mut Tx<'_>, id: UserId, email: Option<&Email>) -> Result<User, Stop> {
    let user = tx.whole(|tx| take_out(tx, id, email))?;
    record_change(tx, &user, ChangeKind::Restored)?;
    Ok(user)
}

/// Restores a user without recording the change.
pub(super) fn take_out(tx: &mut Tx<'_>, id: UserId, email: Option<&Email>) -> Result<User, Stop> {
    if settle_or_stop(tx, id)?.is_some() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "the user is being purged: there is no way back",
        )
        .into());
    }
    let (trashed, has_directory) = tx.trashed_with_directory(id)?.ok_or_else(not_in_trash)?;
    if let Some(other) = tx.user_by_email(email.unwrap_or(&trashed.email))? {
        return Err(email_taken(&other).into());
    }
    if has_directory {
        tx.storage()?.check_can_restore(id, &trashed.storage_path, None)?;
    }
    // With another address at once: the old one may be taken.
    let user = match email {
        Some(email) if *email != trashed.email => with_email(trashed, email, tx.now())?,
        _ => trashed,
    };
    if let Written::Taken(error) = tx.restore_user(&user)? {
        return Err(error.into());
    }
    if has_directory {
        tx.record_intent(&Action::Restore { user: id, stage: None })?;
    }
    Ok(user)
}
