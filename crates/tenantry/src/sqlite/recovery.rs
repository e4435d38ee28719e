//! Recovery at an opening: executes the intents that a crash or a failure left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::follow_up::execute_all;
use super::rows::intents;
use super::transactions::Transactions;
use super::tx::TxState;
use crate::domain::intent::{Action, Pending};
use crate::ops::purge::end_purge;
use crate::storage::never_ends;
use crate::{Result, UserId};

/// How long a check may hold the lock that tells an opening whether a process is purging.
const CHECK_MAX: Duration = Duration::from_millis(100);

/// Executes the remaining intents. One that fails again is left for the next opening.
pub(super) fn recover(transactions: &mut Transactions) {
    let left = match intents::all(&transactions.own()) {
        Ok(left) => left,
        Err(error) => {
            return tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the intents can't be read"
            );
        }
    };
    if left.is_empty() {
        return;
    }
    tracing::info!(intents = left.len(), "executing the intents that an earlier process left");
    let quick = left.iter().filter(|intent| intent.action.is_quick());
    let quick: Vec<_> = quick.map(|intent| Pending::Intent(intent.seq)).collect();
    execute_all(transactions, &quick, true);
    // A process that is purging completes the purge itself.
    let storage = Arc::clone(&transactions.storage);
    let no_purge = storage.as_ref().as_ref().map(|storage| storage.try_lock_out_purges(CHECK_MAX));
    if matches!(no_purge, Ok(None)) {
        return;
    }
    if let Err(error) = transactions.sync_wal(Instant::now()) {
        return tracing::warn!(
            error = &error as &dyn std::error::Error,
            "purges could not be finished"
        );
    }
    for intent in &left {
        if let (Action::Purge(user), Ok(_)) = (&intent.action, &no_purge)
            && let Err(error) = finish_purge(transactions, *user)
        {
            transactions.fail(&error);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a purge could not be finished"
            );
        }
    }
    execute_all(transactions, &[Pending::Erase], false);
}

fn finish_purge(transactions: &mut Transactions, user: UserId) -> Result<()> {
    let storage = Arc::clone(&transactions.storage);
    let storage = storage.as_ref().as_ref().map_err(Clone::clone)?;
    let directory = super::rows::paths::trashed_directory(&transactions.own(), user)?;
    let Some(directory) = directory else { return Ok(()) };
    if !storage.remove(user, &directory.path, &never_ends)?.is_complete() {
        return Ok(());
    }
    transactions.begin(Instant::now())?;
    let mut state = TxState::default();
    transactions.with_tx(&mut state, |tx| end_purge(tx, user))?;
    transactions.commit_purge(&state)
}
