//! Importing a user: creating them, or dealing with the one who exists.

use super::change::{next_version, record_change};
use super::paths::check_spelling_of_new;
use super::stop::not_found;
use super::users::{insert, save};
use crate::engine::Tx;
use crate::{ChangeKind, Error, ErrorKind, NewUser, OnConflict, Result, Upserted, User};

pub(crate) fn upsert(tx: &mut Tx<'_>, new: &NewUser, on_conflict: OnConflict) -> Result<Upserted> {
    check_spelling_of_new(tx, new)?;
    let error = match insert(tx, new) {
        Ok(user) => {
            record_change(tx, &user, ChangeKind::Created)?;
            return Ok(Upserted::Created);
        }
        Err(error) => error,
    };
    // A path in the reserved part of the namespace may be that of the user who exists.
    let may_be_known = matches!(
        error.kind(),
        ErrorKind::EmailTaken | ErrorKind::IdTaken | ErrorKind::PathTaken | ErrorKind::InvalidPath
    );
    if on_conflict == OnConflict::Fail || !may_be_known {
        return Err(error);
    }
    let by_id = new.id.map(|id| tx.user(id)).transpose()?.flatten();
    let by_email = tx.user_by_email(&new.email)?;
    match (on_conflict, by_id, by_email) {
        (OnConflict::Update, Some(user), _) => bring_to(tx, user, new),
        (OnConflict::Update, None, Some(user)) if new.id.is_none() => bring_to(tx, user, new),
        (OnConflict::Skip, Some(_), _) | (OnConflict::Skip, _, Some(_)) => Ok(Upserted::Skipped),
        _ => Err(error),
    }
}

/// Gives an existing user the values of an imported row that can change.
fn bring_to(tx: &mut Tx<'_>, mut user: User, row: &NewUser) -> Result<Upserted> {
    let fixed = |message| Err(Error::new(ErrorKind::Immutable, message));
    if row.created_at.is_some_and(|created_at| created_at != user.created_at) {
        return fixed("the user exists with another created_at, which is fixed");
    }
    if row.storage_path.as_ref().is_some_and(|path| *path != user.storage_path) {
        return fixed("the user exists with another storage_path, which is fixed");
    }
    let later_login =
        row.last_login_at.filter(|login| user.last_login_at.is_none_or(|known| known < *login));
    let is_suspension = user.suspended_at.is_none() && row.suspended_at.is_some();
    let is_change = row.to_update().apply(&mut user) || is_suspension;
    if !is_change && later_login.is_none() {
        return Ok(Upserted::Unchanged);
    }
    if is_change {
        next_version(&mut user, tx.now())?;
    }
    user.suspended_at = user.suspended_at.or(row.suspended_at);
    // Of a suspended user too: it is a fact of another store, and not a sign-in.
    user.last_login_at = later_login.or(user.last_login_at);
    let user = tx.whole(|tx| save(tx, user))?;
    record_change(
        tx,
        &user,
        if is_suspension { ChangeKind::Suspended } else { ChangeKind::Updated },
    )?;
    Ok(Upserted::Updated)
}

/// Gives users the values of rows that can change, where the rows exchange addresses among
/// themselves.
///
/// In between, each has a made-up address that conflicts with no row: a key is unique after every
/// statement.
pub(crate) fn exchange(tx: &mut Tx<'_>, rows: &[NewUser]) -> Result<Vec<Upserted>> {
    tx.whole(|tx| {
        let mut users = Vec::with_capacity(rows.len());
        for row in rows {
            let user = row.id.map(|id| tx.user(id)).transpose()?.flatten().ok_or_else(not_found)?;
            if user.email.key() != row.email.key() {
                tx.set_address(user.id, &format!("{}@import.invalid", user.id))?;
            }
            users.push(user);
        }
        users.into_iter().zip(rows).map(|(user, row)| bring_to(tx, user, row)).collect()
    })
}
