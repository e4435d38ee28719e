//! Executes the intents of a transaction after its commit.

use std::time::Instant;

use super::error::Fault;
use super::transactions::Transactions;
use super::tx::TxState;
use crate::domain::intent::{Action, Intent, Pending};
use crate::ops::intents::{execute, unfinished};
use crate::{Error, ErrorKind, Result};

/// The most intents that are executed in one transaction, so that other processes don't wait long
/// for the lock: each intent takes a few syncs.
const EXECUTED_MAX: usize = 64;

/// Executes committed intents, and removes them. Returns those that failed, with the errors for
/// their callers. They stay for the next opening. With `sync`, some may not be durable yet.
pub(super) fn execute_all(
    transactions: &mut Transactions,
    pending: &[Pending],
    sync: bool,
) -> Vec<(Pending, Error)> {
    let mut failures = Vec::new();
    if pending.is_empty() {
        return failures;
    }
    let mut executed = transactions.sync_if_needed(sync);
    let mut erasing = None;
    let mut done = 0;
    while executed.is_ok() && done < pending.len() {
        let some = &pending[done..pending.len().min(done + EXECUTED_MAX)];
        executed = execute_some(transactions, some, &mut erasing, &mut failures);
        done += if executed.is_ok() { some.len() } else { 0 };
    }
    executed = executed.map_err(|error| transactions.with_errno(error));
    if let Err(error) = &executed {
        transactions.fail(error);
        let message = "the change was made, but its part in the file system may be unfinished: the next opening tries again";
        let error = Error::new(ErrorKind::Unfinished, message).with_source(error.clone());
        failures.extend(pending[done..].iter().map(|pending| (*pending, error.clone())));
    }
    if let Some(intent) = erasing {
        let erased = executed.and_then(|()| transactions.erase(intent.seq));
        if let Err(error) = erased {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the database could not be rewritten"
            );
            transactions.fail(&error);
            failures.push((Pending::Erase, unfinished(&intent.action, error)));
        }
    }
    failures
}

/// Executes some in one transaction, but for erasing, whose intent goes to `erasing`.
fn execute_some(
    transactions: &mut Transactions,
    pending: &[Pending],
    erasing: &mut Option<Intent>,
    failures: &mut Vec<(Pending, Error)>,
) -> Result<()> {
    transactions.begin(Instant::now())?;
    let mut state = TxState::default();
    for pending in pending {
        let failed = transactions.with_tx(&mut state, |tx| {
            let Pending::Intent(seq) = *pending else {
                *erasing = tx.erase_intent()?;
                return Ok(None);
            };
            // If it doesn't exist, another process was faster.
            let Some(intent) = tx.intent(seq)? else { return Ok(None) };
            // A purge or an erasure only has to be durable here.
            if !intent.action.is_quick() {
                return Ok(None);
            }
            match execute(tx, &intent) {
                Err(error) if Fault::of(&error) == Fault::Local => Ok(Some((intent.action, error))),
                executed => executed.map(|()| None),
            }
        });
        if let Some((action, error)) = failed? {
            log_unfinished(&action, &error);
            failures.push((*pending, unfinished(&action, error)));
        }
    }
    transactions.commit_step("commit: the intents are done")
}

fn log_unfinished(action: &Action, error: &Error) {
    tracing::warn!(action = action.name(), error = error as &dyn std::error::Error, "unfinished");
}
