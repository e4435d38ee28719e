//! Adoption: giving a user a directory that exists already below `storage/`.

use super::change::{next_version, record_change};
use super::intents::{quarantine_name, settle_or_stop};
use super::paths::{check_path_free, check_spelling};
use super::stop::{Stop, not_found};
use crate::domain::intent::Action;
use crate::engine::{Tx, Written};
use crate::{ChangeKind, Error, ErrorKind, Result, StoragePath, User, UserId};

pub(crate) fn adopt(tx: &mut Tx<'_>, id: UserId, path: &StoragePath) -> Result<User, Stop> {
    check_spelling(tx, path)?;
    let user = tx.whole(|tx| {
        settle_or_stop(tx, id)?;
        let mut user = tx.user(id)?.ok_or_else(not_found)?;
        let has_directory = tx.directory(id)?.is_some_and(|directory| directory.has_directory);
        let is_move = *path != user.storage_path;
        if is_move {
            check_path_free(tx, path)?;
        }
        let storage = tx.storage()?;
        if is_move && has_directory && !storage.is_empty(&user.storage_path)? {
            let message =
                "the user has a directory with files in it, which an adoption would leave behind: move them first";
            return Err(Error::new(ErrorKind::NotEmpty, message).into());
        }
        storage.prepare_adoption(path)?;
        if is_move {
            if has_directory {
                let name = quarantine_name(tx);
                tx.record_intent(&Action::Discard { user: id, path: user.storage_path.clone(), name })?;
            }
            if user.storage_path != StoragePath::derived(id) {
                tx.retire_path(&user.storage_path)?;
            }
            next_version(&mut user, tx.now())?;
            user.storage_path = path.clone();
        }
        match tx.update_user_with_directory(&user)? {
            Written::Done => Ok::<_, Stop>(user),
            Written::Taken(error) => Err(error.into()),
        }
    })?;
    record_change(tx, &user, ChangeKind::Adopted)?;
    Ok(user)
}
