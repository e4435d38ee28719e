//! Requests that are performed once, however often they are sent.
//!
//! The result is kept in the transaction of the change itself. So after a crash both are there or
//! neither is, and of two that are sent at once, by whatever processes, the second finds the result
//! of the first. A failure isn't kept: the next attempt is a new one.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::stop::Stop;
use crate::domain::request::{Once, RequestKey};
use crate::engine::Tx;
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many results that have expired one request removes: one more than it adds, so that they get
/// fewer.
const TRIMMED_BY_A_REQUEST: usize = 2;
/// How many are removed whenever the use of a token is recorded, which happens once an hour even if
/// no client sends keys any more.
const TRIMMED_BY_A_TOKEN: usize = 1_000;

/// Performs a request, or returns what it came to before.
pub(crate) fn perform_once<R>(
    tx: &mut Tx<'_>,
    once: &Once<R>,
    perform: impl FnOnce(&mut Tx<'_>) -> Result<R, Stop>,
) -> Result<R, Stop> {
    if let Some(reply) = kept(tx, once)? {
        return Ok(reply);
    }
    let reply = perform(tx)?;
    keep(tx, once, &reply)?;
    Ok(reply)
}

/// Returns what a request came to before.
pub(crate) fn kept<R>(tx: &Tx<'_>, once: &Once<R>) -> Result<Option<R>> {
    let Some(kept) = tx.kept_request(&once.key, &kept_within(tx))? else { return Ok(None) };
    if kept.request != once.key.request {
        return Err(Error::new(ErrorKind::KeyReused, "another request was made with this key"));
    }
    let reply = (once.read)(&kept.reply).map_err(|error| {
        Error::new(ErrorKind::Internal, "the result that was kept can't be read").with_source(error)
    })?;
    Ok(Some(reply))
}

/// Keeps what a request came to.
pub(crate) fn keep<R>(tx: &mut Tx<'_>, once: &Once<R>, reply: &R) -> Result<()> {
    let json = (once.write)(reply).map_err(|error| {
        Error::new(ErrorKind::Internal, "the result can't be kept").with_source(error)
    })?;
    tx.keep_request(&once.key, &json, (once.user_id)(reply))?;
    trim(tx, TRIMMED_BY_A_REQUEST)
}

/// Records that a token was used, and removes results that have expired.
pub(crate) fn record_token_use(tx: &mut Tx<'_>, number: i64) -> Result<()> {
    tx.record_token_use(number)?;
    trim(tx, TRIMMED_BY_A_TOKEN)
}

fn trim(tx: &mut Tx<'_>, limit: usize) -> Result<()> {
    let within = kept_within(tx);
    tx.trim_requests(&within, limit)
}

/// Returns when what is still kept was kept. The times may be ahead, for a clock that is set back.
fn kept_within(tx: &Tx<'_>) -> RangeInclusive<Timestamp> {
    let now = tx.now();
    let young = RequestKey::KEPT_FOR - Duration::from_micros(1);
    now.saturating_sub(young)..=now.saturating_add(Timestamp::CLOCK_AHEAD_MAX)
}
