//! Parses and resolves the users who are named on the command line.

use tenantry::{Email, ReadTx, Store, TrashedUser, User, UserId};
use tenantry_exchange::printable;

use crate::failure::{Exit, Failure};
use crate::human;
use crate::output::pluralize;

/// A user on the command line: an id or an address.
#[derive(Clone)]
pub(crate) enum UserRef {
    Id(UserId),
    Email(Email),
}

impl UserRef {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if text.contains('@') {
            return Ok(Self::Email(text.parse()?));
        }
        text.parse().map(Self::Id).map_err(|_| {
            let text = printable(text);
            Failure::new(
                Exit::Invalid,
                format!("\"{text}\" is neither an email address nor the id of a user, a UUID of version 4"),
            )
        })
    }

    /// Finds the user in a store, or fails with the reason why there is none.
    pub(crate) async fn find_in(&self, store: &Store) -> Result<User, Failure> {
        let user = self.clone();
        store.read(move |tx| user.find(tx)).await
    }

    /// Finds the user, or fails with the reason why there is none.
    pub(crate) fn find(&self, tx: &ReadTx<'_>) -> Result<User, Failure> {
        match self {
            Self::Id(id) => match tx.get(*id)? {
                Some(user) => Ok(user),
                None => Err(missing(tx, *id, "there is no user with this id")?),
            },
            Self::Email(email) => match tx.get_by_email(email)? {
                Some(user) => Ok(user),
                None => Err(missing_email(tx, email)?),
            },
        }
    }
}

/// Returns why there is no living user with an id: the user may be in the trash, or was purged.
fn missing(tx: &ReadTx<'_>, id: UserId, otherwise: &str) -> Result<Failure, Failure> {
    let message = match tx.get_trashed(id)? {
        Some(trashed) => in_trash(&trashed),
        None if tx.was_purged(id)? => "the user who had this id was purged".to_owned(),
        None => otherwise.to_owned(),
    };
    Ok(Failure::new(Exit::NotFound, message))
}

/// Returns why there is no living user with an address: earlier ones may be in the trash.
fn missing_email(tx: &ReadTx<'_>, email: &Email) -> Result<Failure, Failure> {
    let message = match &tx.find_in_trash(email)?[..] {
        [] => "there is no user with this email address; `tenantry user list --contains TEXT` searches".to_owned(),
        [trashed] => in_trash(trashed),
        [latest, others @ ..] => {
            let others = pluralize(others.len() as u64, "other user");
            format!("{}; {others} in the trash had this address before", in_trash(latest))
        }
    };
    Ok(Failure::new(Exit::NotFound, message))
}

fn in_trash(trashed: &TrashedUser) -> String {
    let id = trashed.user.id;
    if trashed.is_being_purged {
        return format!(
            "the user is being purged and can't be restored; `tenantry user purge {id}` continues the purge"
        );
    }
    let since = human::time_with_age(trashed.deleted_at);
    format!(
        "the user has been in the trash since {since}; `tenantry user restore {id}` brings them back"
    )
}
