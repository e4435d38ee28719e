//! Tokens: created, rotated, revoked.

use std::time::Duration;

use super::stop::not_found;
use crate::domain::token::TokenDigest;
use crate::engine::{Tx, Written};
use crate::{Error, ErrorKind, NewToken, Result, Timestamp, Token};

pub(crate) fn create(tx: &mut Tx<'_>, new: &NewToken, digest: &TokenDigest) -> Result<Token> {
    new.check()?;
    if let Some(id) = new.user_id {
        tx.user(id)?.ok_or_else(not_found)?;
    }
    insert(tx, new, digest)
}

fn insert(tx: &mut Tx<'_>, new: &NewToken, digest: &TokenDigest) -> Result<Token> {
    let expires_at = tx.now().checked_add(new.lifetime).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidToken,
            "the token would expire after the last time that can be stored",
        )
    })?;
    match tx.insert_token(new, digest, expires_at)? {
        Written::Done => tx.token_by_name(&new.name)?.ok_or_else(no_token),
        Written::Taken(error) => {
            let message = "a token of this name exists or was revoked; a name is never given to another token";
            Err(Error::new(ErrorKind::TokenExists, message).with_source(error))
        }
    }
}

/// Gives a token another secret, beside which those before stay valid for a while.
pub(crate) fn rotate(
    tx: &mut Tx<'_>,
    name: &str,
    overlap: Duration,
    (digest, created_by): (&TokenDigest, &str),
) -> Result<Token> {
    let before = tx.token_by_name(name)?.ok_or_else(no_token)?;
    if before.revoked_at.is_some() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "the token was revoked: create one of another name",
        ));
    }
    let new = NewToken {
        name: before.name.clone(),
        scopes: before.scopes,
        user_id: before.user_id,
        lifetime: before.lifetime(),
        created_by: created_by.to_owned(),
    };
    new.check()?;
    let last = tx.now().checked_add(overlap).unwrap_or(Timestamp::MAX);
    tx.whole(|tx| {
        tx.replace_token(name, last)?;
        insert(tx, &new, digest)
    })
}

/// Revokes the token with this name, or all without one. Returns how many secrets that were.
pub(crate) fn revoke(tx: &mut Tx<'_>, name: Option<&str>) -> Result<usize> {
    if let Some(name) = name {
        tx.token_by_name(name)?.ok_or_else(no_token)?;
    }
    tx.revoke_tokens(name)
}

fn no_token() -> Error {
    Error::new(ErrorKind::NotFound, "there is no token of this name")
}
