//! Creating users, changing and suspending them, and recording logins.

use super::change::{next_version, record_change};
use super::paths::{check_path_free, check_spelling_of_new, path_taken};
use super::stop::not_found;
use crate::domain::confusable::ConfusableForms;
use crate::domain::search_text::shown;
use crate::engine::{Snapshot, Tx, Written};
use crate::{
    ChangeKind, Email, Error, ErrorKind, Filter, NewUser, Result, SignIn, StoragePath, Timestamp,
    User, UserId, UserUpdate,
};

pub(crate) fn create(tx: &mut Tx<'_>, new: &NewUser) -> Result<User> {
    check_spelling_of_new(tx, new)?;
    let user = insert(tx, new)?;
    record_change(tx, &user, ChangeKind::Created)?;
    Ok(user)
}

/// Creates a user for each of these. One that fails leaves the others alone.
pub(crate) fn create_many(tx: &mut Tx<'_>, users: &[NewUser]) -> Result<Vec<Result<User>>> {
    let mut outcomes = Vec::with_capacity(users.len());
    for new in users {
        let outcome = create(tx, new);
        match &outcome {
            Err(error) if !error.is_row_error() => return Err(error.clone()),
            _ => outcomes.push(outcome),
        }
    }
    Ok(outcomes)
}

/// Updates each of these users. One that fails leaves the others alone.
pub(crate) fn update_many(
    tx: &mut Tx<'_>,
    updates: &[(UserId, UserUpdate)],
) -> Result<Vec<Result<User>>> {
    let mut outcomes = Vec::with_capacity(updates.len());
    for (id, changes) in updates {
        let outcome = update(tx, *id, changes);
        match &outcome {
            Err(error) if !error.is_row_error() => return Err(error.clone()),
            _ => outcomes.push(outcome),
        }
    }
    Ok(outcomes)
}

/// Creates a user without recording the change.
pub(super) fn insert(tx: &mut Tx<'_>, new: &NewUser) -> Result<User> {
    new.check()?;
    let id = match new.id {
        None => tx.new_id(),
        Some(id) => {
            check_id_free(tx, id)?;
            id
        }
    };
    let chosen = new.storage_path.as_ref().filter(|path| **path != StoragePath::derived(id));
    if let Some(path) = chosen
        && let Err(error) = check_path_free(tx, path)
    {
        // That the user exists already is what a caller asks first.
        return Err(tx.user_by_email(&new.email)?.map_or(error, |other| email_taken(&other)));
    }
    let user = new.to_user(id, tx.now());
    match tx.insert_user(&user)? {
        Written::Done => Ok(user),
        Written::Taken(error) => Err(conflict(tx, &user)?.with_source(error)),
    }
}

fn check_id_free(tx: &Snapshot<'_>, id: UserId) -> Result<()> {
    if tx.is_trashed(id)? {
        return Err(Error::new(ErrorKind::IdTaken, "a user in the trash has this id"));
    }
    if tx.was_purged(id)? {
        return Err(Error::new(
            ErrorKind::IdTaken,
            "a user who was purged had this id; neither an id nor a storage path is ever used again",
        ));
    }
    Ok(())
}

/// Returns which of the unique values of this user another user has.
fn conflict(tx: &Snapshot<'_>, user: &User) -> Result<Error> {
    Ok(if let Some(other) = tx.user_by_email(&user.email)? {
        email_taken(&other)
    } else if tx.user(user.id)?.is_some() {
        Error::new(ErrorKind::IdTaken, "another user has this id")
    } else {
        path_taken()
    })
}

pub(super) fn email_taken(by: &User) -> Error {
    Error::new(ErrorKind::EmailTaken, "another user has this email address").with_taken_by(by.id)
}

pub(crate) fn update(tx: &mut Tx<'_>, id: UserId, update: &UserUpdate) -> Result<User> {
    let mut user = tx.user(id)?.ok_or_else(not_found)?;
    if let Some(expected) = update.expected_version.filter(|expected| *expected != user.version) {
        let current = user.version;
        return Err(Error::new(
            ErrorKind::VersionMismatch { current },
            format!("the user has version {current}, not {expected}"),
        ));
    }
    if !update.apply(&mut user) {
        return Ok(user);
    }
    next_version(&mut user, tx.now())?;
    let user = tx.whole(|tx| save(tx, user))?;
    record_change(tx, &user, ChangeKind::Updated)?;
    Ok(user)
}

/// Suspends a user, unless they are suspended.
pub(crate) fn suspend(tx: &mut Tx<'_>, id: UserId) -> Result<User> {
    let user = tx.user(id)?.ok_or_else(not_found)?;
    let since = tx.now();
    match user.suspended_at {
        None => set_suspended_at(tx, user, Some(since), ChangeKind::Suspended),
        Some(_) => Ok(user),
    }
}

/// Suspends a user if they meet the filter now.
pub(crate) fn suspend_if(tx: &mut Tx<'_>, id: UserId, filter: &Filter) -> Result<Option<User>> {
    if tx.is_met_by(filter, id)? { suspend(tx, id).map(Some) } else { Ok(None) }
}

/// Lets a user sign in again.
pub(crate) fn resume(tx: &mut Tx<'_>, id: UserId) -> Result<User> {
    let user = tx.user(id)?.ok_or_else(not_found)?;
    match user.suspended_at {
        Some(_) => set_suspended_at(tx, user, None, ChangeKind::Resumed),
        None => Ok(user),
    }
}

fn set_suspended_at(
    tx: &mut Tx<'_>,
    mut user: User,
    at: Option<Timestamp>,
    kind: ChangeKind,
) -> Result<User> {
    next_version(&mut user, tx.now())?;
    user.suspended_at = at;
    let user = tx.whole(|tx| save(tx, user))?;
    record_change(tx, &user, kind)?;
    Ok(user)
}

/// Gives a user all values that can change, without recording the change.
pub(super) fn save(tx: &mut Tx<'_>, user: User) -> Result<User> {
    match tx.update_user(&user)? {
        Written::Done => Ok(user),
        Written::Taken(error) => Err(conflict(tx, &user)?.with_source(error)),
    }
}

/// Returns the user with another address, and so with another version.
pub(super) fn with_email(mut user: User, email: &Email, now: Timestamp) -> Result<User> {
    next_version(&mut user, now)?;
    user.email = email.clone();
    Ok(user)
}

pub(crate) fn sign_in(tx: &mut Tx<'_>, email: &Email) -> Result<SignIn> {
    match tx.log_in_by_email(email, tx.now())? {
        Some(user) => {
            record_change(tx, &user, ChangeKind::LoggedIn)?;
            Ok(SignIn { user, is_new: false })
        }
        None => {
            let new = NewUser { last_login_at: Some(tx.now()), ..NewUser::new(email.clone()) };
            match create(tx, &new) {
                // A living user has the address, and was not logged in.
                Err(error) if error.kind() == ErrorKind::EmailTaken => Err(suspended()),
                created => Ok(SignIn { user: created?, is_new: true }),
            }
        }
    }
}

pub(crate) fn record_login(tx: &mut Tx<'_>, id: UserId) -> Result<User> {
    let Some(user) = tx.log_in(id, tx.now())? else {
        return Err(if tx.user(id)?.is_some() { suspended() } else { not_found() });
    };
    record_change(tx, &user, ChangeKind::LoggedIn)?;
    Ok(user)
}

fn suspended() -> Error {
    Error::new(ErrorKind::Suspended, "the user is suspended")
}

/// Returns the living users whose addresses are confusable with this one.
pub(crate) fn confusables(tx: &Snapshot<'_>, email: &Email) -> Result<Vec<User>> {
    let ConfusableForms { skeleton, in_ascii } = ConfusableForms::of(shown(email.key()).as_ref());
    let mut found = tx.users_with_skeleton(&skeleton, email.key(), User::CONFUSABLES_MAX)?;
    // Users whose addresses are ASCII have no skeleton in the table.
    for key in in_ascii {
        if found.len() < User::CONFUSABLES_MAX
            && key != email.key()
            && let Some(user) = tx.user_by_key(&key)?
        {
            found.push(user);
        }
    }
    Ok(found)
}
