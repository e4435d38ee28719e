//! The verbs of the store that write: data, not closures, so that an engine sees what it is to do,
//! may run it again, and may put several of one kind into one statement. What each does is in
//! `ops/`.

use std::sync::Arc;
use std::time::Duration;

use super::reply::Reply;
use crate::domain::request::Once;
use crate::domain::token::TokenDigest;
use crate::storage::{Orphan, Stage};
use crate::{
    Email, Filter, NewToken, NewUser, Result, StoragePath, Token, Usage, UsageChange, User, UserId,
    UserUpdate,
};

/// A user whose purge has begun, or why it hasn't. The storage path if there are files to be
/// removed.
pub(crate) type BegunPurge = (UserId, Result<Option<StoragePath>>);

/// A write with its arguments.
pub(crate) trait Verb: Sized + Send + 'static {
    type Reply: Send + 'static;

    /// Returns the verb with the way back to its caller, as a request of any kind: one that is
    /// performed once, if there is a key for that.
    fn request(self, reply: Reply<Self::Reply>, once: Option<Once<Self::Reply>>) -> Request;
}

/// A verb, and the way back to its caller.
pub(crate) struct Call<V: Verb> {
    pub(crate) verb: V,
    pub(crate) reply: Reply<V::Reply>,
    /// How the result is kept, if the verb is performed once however often it is sent.
    pub(crate) once: Option<Once<V::Reply>>,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident($($argument:ty),*) -> $reply:ty;)+) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name($(pub(crate) $argument),*);

            impl Verb for $name {
                type Reply = $reply;

                fn request(self, reply: Reply<$reply>, once: Option<Once<$reply>>) -> Request {
                    Request::$name(Call { verb: self, reply, once })
                }
            }
        )+

        /// A queued verb, of whatever kind.
        pub(crate) enum Request {
            $($name(Call<$name>),)+
        }

        /// Runs `$body` with the call in a request, whatever its kind.
        macro_rules! with_call {
            ($request:expr, $call:ident => $body:expr) => {
                match $request {
                    $($crate::engine::verbs::Request::$name($call) => $body,)+
                }
            };
        }
    };
}

verbs! {
    Create(NewUser) -> User;
    /// Creates users, of whom each may fail by itself.
    CreateMany(Vec<NewUser>) -> Vec<Result<User>>;
    Update(UserId, UserUpdate) -> User;
    /// Updates users, of whom each may fail by itself.
    UpdateMany(Vec<(UserId, UserUpdate)>) -> Vec<Result<User>>;
    Suspend(UserId) -> User;
    Resume(UserId) -> User;
    /// Suspends a user, unless they don't meet the filter any more.
    SuspendIf(UserId, Arc<Filter>) -> Option<User>;
    Delete(UserId) -> User;
    /// Deletes a user, unless they don't meet the filter any more.
    DeleteIf(UserId, Arc<Filter>) -> Option<User>;
    /// Restores a user from the trash, with another address if one is given.
    Restore(UserId, Option<Email>) -> User;
    /// Begins to purge a user, and returns the storage path if there are files to be removed.
    BeginPurge(UserId) -> Option<StoragePath>;
    BeginPurges(Vec<UserId>) -> Vec<BegunPurge>;
    /// Ends the purges of users whose files are gone, and returns how many were still to be ended.
    EndPurges(Vec<UserId>) -> u64;
    /// Rewrites the database, if users were purged since the last time.
    Erase() -> ();
    MakeDirectory(UserId) -> ();
    /// Finishes what is unfinished about a user's directory.
    Settle(UserId) -> ();
    Adopt(UserId, StoragePath) -> User;
    SetUsage(UserId, Usage) -> ();
    /// Adds to what was measured, and returns the sum, if it was measured.
    AdjustUsage(UserId, UsageChange) -> Option<Usage>;
    /// Sets whether logins are in the change feed.
    SetLoginsInChanges(bool) -> ();
    SignIn(Email) -> crate::SignIn;
    RecordLogin(UserId) -> User;
    /// Records that a user's directory exists, if it does.
    RecordDirectory(UserId) -> ();
    /// Moves something to quarantine, and returns whether it is still an orphan.
    Quarantine(Orphan) -> bool;
    /// Creates a user whose files are in a stage, if there are any.
    CreateWithFiles(NewUser, Option<Arc<Stage>>) -> User;
    /// Brings back a living user, or one in the trash if the flag is set, with the files in a
    /// stage.
    BringBack(UserId, bool, Option<Arc<Stage>>) -> User;
    CreateToken(NewToken, TokenDigest) -> Token;
    /// Gives a token another secret, with how long those before stay valid, and who does so.
    RotateToken(String, Duration, TokenDigest, String) -> Token;
    /// Revokes the token with this name, or all without one, and returns how many secrets that
    /// were.
    RevokeTokens(Option<String>) -> usize;
    /// Records that the token with this number was used.
    RecordTokenUse(i64) -> ();
}
#[allow(clippy::single_component_path_imports, reason = "it gives the macro a path")]
pub(crate) use with_call;

impl Request {
    /// Forgets the result of a run that was undone.
    pub(crate) fn forget(&mut self) {
        with_call!(self, call => call.reply.forget());
    }

    /// Sends the result: see [`Reply::send`].
    pub(crate) fn send_result(self, committed: Result<()>, ran_alone: bool) {
        with_call!(self, call => call.reply.send(committed, ran_alone));
    }
}
