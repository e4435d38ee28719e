//! Users who come with files: out of the archive of one user, or of a backup.

use super::change::{record_brought_back, record_change};
use super::intents::settle_or_stop;
use super::paths::check_spelling_of_new;
use super::stop::{Stop, not_found};
use super::trash::take_out;
use super::users::insert;
use crate::domain::intent::Action;
use crate::engine::Tx;
use crate::{ChangeKind, Error, ErrorKind, NewUser, Result, StoragePath, User, UserId};

/// Creates a user whose files, if there are any, are in a stage.
pub(crate) fn create_with_files(
    tx: &mut Tx<'_>,
    new: &NewUser,
    stage: Option<&str>,
) -> Result<User> {
    check_spelling_of_new(tx, new)?;
    let user = tx.whole(|tx| {
        let user = insert(tx, new)?;
        if let Some(stage) = stage {
            tx.storage()?.check_can_restore(user.id, &user.storage_path, Some(stage))?;
            tx.set_has_directory(user.id)?;
            tx.record_intent(&Action::Restore { user: user.id, stage: Some(stage.to_owned()) })?;
        }
        Ok::<_, Error>(user)
    })?;
    record_change(tx, &user, ChangeKind::Created)?;
    Ok(user)
}

/// Restores a user who is in the trash, if they may be, and moves the files in a stage into their
/// directory after this transaction, beside those in it.
pub(crate) fn bring_back(
    tx: &mut Tx<'_>,
    id: UserId,
    may_be_trashed: bool,
    stage: Option<&str>,
) -> Result<User, Stop> {
    let user = tx.whole(|tx| {
        settle_or_stop(tx, id)?;
        let is_trashed = tx.is_trashed(id)?;
        if is_trashed && !may_be_trashed {
            return Err(
                Error::new(ErrorKind::NotFound, "the user was deleted in the meantime").into()
            );
        }
        let directory = if is_trashed { tx.trashed_directory(id)? } else { tx.directory(id)? };
        let directory = directory.ok_or_else(not_found)?;
        if stage.is_some()
            && !directory.has_directory
            && (is_trashed || directory.path != StoragePath::derived(id))
        {
            // A directory that the store didn't make isn't theirs.
            tx.storage()?.check_is_free(&directory.path)?;
        }
        let user = if is_trashed {
            take_out(tx, id, None)?
        } else {
            tx.user(id)?.ok_or_else(not_found)?
        };
        let Some(stage) = stage else { return Ok(user) };
        tx.storage()?;
        tx.set_has_directory(id)?;
        // A user has one intent at most: that of the restore, if they had a directory.
        if !tx.set_stage_of_intent(id, stage)? {
            tx.record_intent(&Action::Restore { user: id, stage: Some(stage.to_owned()) })?;
        }
        Ok::<_, Stop>(user)
    })?;
    record_brought_back(tx, &user)?;
    Ok(user)
}
