//! Performs the verbs of the store: which rule each of them is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::stop::Stop;
use super::{adopt, bring_back, directories, intents, purge, requests, tokens, trash, users};
use crate::engine::Tx;
use crate::engine::reply::Ran;
use crate::engine::verbs::{self, Call, Request, Verb, with_call};
use crate::storage::Stage;
use crate::{Error, Result};

/// A verb that a transaction can perform. It may do so again, if what it did was undone.
trait Perform: Verb {
    fn perform(&self, tx: &mut Tx<'_>) -> Result<Self::Reply, Stop>;
}

macro_rules! perform {
    ($($verb:ident($($argument:pat),*), $tx:ident => $operation:expr;)+) => {
        $(
            impl Perform for verbs::$verb {
                fn perform(&self, $tx: &mut Tx<'_>) -> Result<Self::Reply, Stop> {
                    let Self($($argument),*) = self;
                    Ok($operation?)
                }
            }
        )+
    };
}

perform! {
    Create(new), tx => users::create(tx, new);
    CreateMany(users), tx => users::create_many(tx, users);
    Update(id, update), tx => users::update(tx, *id, update);
    UpdateMany(updates), tx => users::update_many(tx, updates);
    Suspend(id), tx => users::suspend(tx, *id);
    Resume(id), tx => users::resume(tx, *id);
    SuspendIf(id, filter), tx => users::suspend_if(tx, *id, filter);
    Delete(id), tx => trash::delete(tx, *id);
    DeleteIf(id, filter), tx => trash::delete_if(tx, *id, filter);
    Restore(id, email), tx => trash::restore(tx, *id, email.as_ref());
    BeginPurge(id), tx => purge::begin_purge(tx, *id);
    BeginPurges(ids), tx => purge::begin_purges(tx, ids);
    EndPurges(ids), tx => purge::end_purges(tx, ids);
    Erase(), tx => purge::erase(tx);
    MakeDirectory(id), tx => directories::make_directory(tx, *id);
    Settle(id), tx => intents::settle_or_stop(tx, *id).map(drop);
    Adopt(id, path), tx => adopt::adopt(tx, *id, path);
    SetUsage(id, usage), tx => tx.set_usage(*id, usage);
    AdjustUsage(id, change), tx => directories::adjust_usage(tx, *id, *change);
    SetLoginsInChanges(are_in), tx => tx.set_logins_in_changes(*are_in);
    SignIn(email), tx => users::sign_in(tx, email);
    RecordLogin(id), tx => users::record_login(tx, *id);
    RecordDirectory(id), tx => directories::record_directory(tx, *id);
    Quarantine(orphan), tx => directories::quarantine(tx, orphan);
    CreateWithFiles(new, stage), tx => bring_back::create_with_files(tx, new, handed_over(stage));
    BringBack(id, may_be_trashed, stage), tx => {
        bring_back::bring_back(tx, *id, *may_be_trashed, handed_over(stage))
    };
    CreateToken(new, digest), tx => tokens::create(tx, new, digest);
    RotateToken(name, overlap, digest, by), tx => tokens::rotate(tx, name, *overlap, (digest, by));
    RevokeTokens(name), tx => tokens::revoke(tx, name.as_deref());
    RecordTokenUse(number), tx => requests::record_token_use(tx, *number);
}

/// Returns the name of a stage, whose files are this transaction's affair from now on, even if no
/// caller waits any more.
fn handed_over(stage: &Option<Arc<Stage>>) -> Option<&str> {
    let stage = stage.as_ref()?;
    stage.hand_over();
    Some(stage.name())
}

/// Performs a request, and keeps its result for the caller.
pub(crate) fn perform(request: &mut Request, tx: &mut Tx<'_>) -> Ran {
    with_call!(request, call => perform_call(call, tx))
}

fn perform_call<V: Perform>(call: &mut Call<V>, tx: &mut Tx<'_>) -> Ran {
    let run = catch_unwind(AssertUnwindSafe(|| match &call.once {
        None => call.verb.perform(tx),
        Some(once) => requests::perform_once(tx, once, |tx| call.verb.perform(tx)),
    }));
    let ran = match &run {
        Ok(Ok(_)) => Ran::Done,
        Ok(Err(Stop::Later)) => Ran::Later,
        Ok(Err(Stop::Failed(error))) if tx.is_over(error) => Ran::Broken(error.clone()),
        Ok(Err(Stop::Failed(error))) => Ran::Failed(Some(error.clone())),
        Err(_) => Ran::Failed(None),
    };
    call.reply.keep(run.map(|result| result.map_err(Error::from)));
    ran
}
