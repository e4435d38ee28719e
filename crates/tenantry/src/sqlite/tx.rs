//! The primitives of a transaction: what the rules in `ops/` read and write rows by. Each is a
//! statement, or a few, and none decides anything.
//!
//! No signature names a type of this engine's, so another engine can offer the same.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use rusqlite::Connection;
use uuid::Uuid;

use super::error::Fault;
use super::rows::by_login::LoginListing;
use super::rows::changes::History;
use super::rows::counting::Counting;
use super::rows::listing::Listing;
pub(crate) use super::rows::users::Written;
use super::rows::{changes, counting, intents, paths, requests, tokens, trash, usage, users};
use crate::domain::change::NewChange;
use crate::domain::directory::{Directory, PathState};
use crate::domain::intent::{Action, Intent, Pending};
use crate::domain::request::{KeptRequest, RequestKey};
use crate::domain::token::TokenDigest;
use crate::storage::Storage;
use crate::{
    Actor, ChangeKind, ChangePage, ChangesCursor, Email, Error, Filter, HistoryPage, ListQuery,
    NewToken, Order, Page, Result, StoragePath, Timestamp, Token, TrashPage, TrashQuery,
    TrashedUser, Usage, User, UserId,
};

/// A connection to read by. All reads within one transaction see the same state.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot<'c> {
    conn: &'c Connection,
}

impl<'c> Snapshot<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn }
    }

    /// Returns the connection, for statements about the database itself.
    pub(super) fn conn(&self) -> &'c Connection {
        self.conn
    }

    pub(crate) fn user(&self, id: UserId) -> Result<Option<User>> {
        users::get(self.conn, id)
    }

    /// Returns the living users with these ids, each at the place of the id.
    pub(crate) fn users_with_ids(&self, ids: &[UserId]) -> Result<Vec<Option<User>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(users::MANY) {
            found
                .extend(users::get_many(self.conn, chunk)?.into_iter().map(|user| (user.id, user)));
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    /// Returns whether a living user meets a filter.
    pub(crate) fn is_met_by(&self, filter: &Filter, id: UserId) -> Result<bool> {
        counting::is_met_by(self.conn, filter, id)
    }

    pub(crate) fn count_where(&self, filter: &Filter) -> Result<u64> {
        if filter.is_empty() {
            return self.user_count();
        }
        let mut counting = Counting::new(filter)?;
        loop {
            if let Some(count) = counting.advance(self.conn)? {
                return Ok(count);
            }
        }
    }

    /// Runs the next step of a listing in the order of logins. Returns the page when it is
    /// complete.
    pub(super) fn advance_by_login(&self, listing: &mut LoginListing) -> Result<Option<Page>> {
        listing.advance(self.conn)
    }

    /// Runs the next step of a count, and returns it if it is complete.
    pub(super) fn advance_count(&self, counting: &mut Counting) -> Result<Option<u64>> {
        counting.advance(self.conn)
    }

    /// Returns the living user whose address has this key.
    pub(crate) fn user_by_key(&self, key: &str) -> Result<Option<User>> {
        users::get_by_key(self.conn, key)
    }

    pub(crate) fn user_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.user_by_key(email.key())
    }

    pub(crate) fn user_count(&self) -> Result<u64> {
        users::count(self.conn)
    }

    /// Returns at most `limit` living users whose addresses have this skeleton, but for the one
    /// with this key.
    pub(crate) fn users_with_skeleton(
        &self,
        skeleton: &str,
        key: &str,
        limit: usize,
    ) -> Result<Vec<User>> {
        users::with_skeleton(self.conn, skeleton, key, limit)
    }

    pub(crate) fn has_non_ascii_addresses(&self) -> Result<bool> {
        users::has_non_ascii(self.conn)
    }

    pub(crate) fn page(&self, query: &ListQuery) -> Result<Page> {
        if query.order == Order::LastLogin {
            let mut listing = LoginListing::new(query)?;
            loop {
                if let Some(page) = listing.advance(self.conn)? {
                    return Ok(page);
                }
            }
        }
        let mut listing = Listing::new(query)?;
        loop {
            if let Some(page) = listing.advance(self.conn)? {
                return Ok(page);
            }
        }
    }

    /// Runs the next step of a listing. Returns the page when it is complete.
    pub(super) fn advance(&self, listing: &mut Listing) -> Result<Option<Page>> {
        listing.advance(self.conn)
    }

    pub(crate) fn trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        trash::get(self.conn, id)
    }

    /// Returns a user in the trash, and whether they have a directory.
    pub(crate) fn trashed_with_directory(&self, id: UserId) -> Result<Option<(User, bool)>> {
        trash::get_with_directory(self.conn, id)
    }

    /// Returns the version of a user, alive or in the trash.
    pub(crate) fn version(&self, id: UserId) -> Result<u64> {
        users::version(self.conn, id)
    }

    pub(crate) fn is_trashed(&self, id: UserId) -> Result<bool> {
        trash::has(self.conn, id)
    }

    pub(crate) fn trashed_by_email(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        trash::with_key(self.conn, email.key(), TrashedUser::OF_ONE_ADDRESS_MAX)
    }

    pub(crate) fn trash_page(&self, query: &TrashQuery) -> Result<TrashPage> {
        trash::list(self.conn, query)
    }

    pub(crate) fn was_purged(&self, id: UserId) -> Result<bool> {
        paths::was_purged(self.conn, id)
    }

    pub(crate) fn directory(&self, id: UserId) -> Result<Option<Directory>> {
        paths::directory(self.conn, id)
    }

    /// Returns where the directory of a user in the trash was.
    pub(crate) fn trashed_directory(&self, id: UserId) -> Result<Option<Directory>> {
        paths::trashed_directory(self.conn, id)
    }

    /// Returns whether a user in the trash has this id, and a directory.
    pub(crate) fn has_trashed_directory(&self, id: UserId) -> Result<bool> {
        paths::is_in_trash(self.conn, id)
    }

    /// Returns the user who chose this path, or the one with this id whose path is derived.
    pub(crate) fn path_state(&self, path: &str, id: Option<UserId>) -> Result<Option<PathState>> {
        paths::state(self.conn, path, id)
    }

    pub(crate) fn is_path_chosen(&self, path: &str) -> Result<bool> {
        paths::is_chosen(self.conn, path)
    }

    pub(crate) fn is_above_chosen_path(&self, path: &str) -> Result<bool> {
        paths::is_above_chosen(self.conn, path)
    }

    pub(crate) fn is_path_chosen_in_other_spelling(&self, path: &StoragePath) -> Result<bool> {
        paths::is_chosen_in_other_spelling(self.conn, path)
    }

    /// Returns whether a path is, lies within or holds a retired one.
    pub(crate) fn is_path_retired(&self, path: &StoragePath) -> Result<bool> {
        paths::is_retired(self.conn, path)
    }

    pub(crate) fn is_path_retired_in_other_spelling(&self, path: &StoragePath) -> Result<bool> {
        paths::is_retired_in_other_spelling(self.conn, path)
    }

    pub(crate) fn is_above_retired_path(&self, path: &str) -> Result<bool> {
        paths::is_above_retired(self.conn, path)
    }

    /// Returns the id of the store.
    pub(crate) fn store_id(&self) -> Result<Uuid> {
        paths::store_id(self.conn)
    }

    /// Returns the place behind the newest change.
    pub(crate) fn changes_cursor(&self) -> Result<ChangesCursor> {
        changes::newest_cursor(self.conn)
    }

    /// Returns at most `limit` changes behind a place, or from the oldest one that is kept.
    pub(crate) fn changes(
        &self,
        after: Option<&ChangesCursor>,
        limit: usize,
    ) -> Result<ChangePage> {
        ChangePage::check_limit(limit)?;
        changes::page(self.conn, after, limit)
    }

    /// Runs the next step of a search for the changes of a user. Returns the page when it is
    /// complete.
    pub(super) fn advance_history(&self, history: &mut History) -> Result<Option<HistoryPage>> {
        history.advance(self.conn)
    }

    /// Returns the numbers of the oldest and of the newest change, if there is any.
    pub(crate) fn change_seqs(&self) -> Result<Option<(u64, u64)>> {
        changes::seqs(self.conn)
    }

    pub(crate) fn are_logins_in_changes(&self) -> Result<bool> {
        changes::are_logins_in(self.conn)
    }

    pub(crate) fn intents(&self) -> Result<Vec<Intent>> {
        intents::all(self.conn)
    }

    pub(crate) fn intent_count(&self) -> Result<u64> {
        intents::count(self.conn)
    }

    pub(crate) fn intent(&self, seq: i64) -> Result<Option<Intent>> {
        intents::get(self.conn, seq)
    }

    pub(crate) fn intent_of(&self, user: UserId) -> Result<Option<Intent>> {
        intents::find_by_user(self.conn, user)
    }

    pub(crate) fn erase_intent(&self) -> Result<Option<Intent>> {
        intents::erase(self.conn)
    }

    /// Returns whether an intent is about this stage of an import.
    pub(crate) fn needs_stage(&self, stage: &str) -> Result<bool> {
        intents::is_about_stage(self.conn, stage)
    }

    pub(crate) fn usage(&self, id: UserId) -> Result<Option<Usage>> {
        usage::get(self.conn, id)
    }

    pub(crate) fn top_usage(&self, limit: usize) -> Result<Vec<(User, Usage)>> {
        usage::top(self.conn, limit)
    }

    /// Returns the ids of users with a directory behind this place in the order of creation, and
    /// the next place.
    pub(crate) fn users_with_directory(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<UserId>, Option<i64>)> {
        usage::with_directory(self.conn, after, limit)
    }

    /// Returns what is kept of the request with this key, if that was within these times.
    pub(crate) fn kept_request(
        &self,
        key: &RequestKey,
        within: &RangeInclusive<Timestamp>,
    ) -> Result<Option<KeptRequest>> {
        requests::get(self.conn, key, within)
    }

    pub(crate) fn token_by_digest(&self, digest: &TokenDigest) -> Result<Option<Token>> {
        tokens::by_digest(self.conn, digest)
    }

    /// Returns the token with this name, by its newest secret.
    pub(crate) fn token_by_name(&self, name: &str) -> Result<Option<Token>> {
        tokens::by_name(self.conn, name)
    }

    /// Returns at most `limit` tokens with higher numbers.
    pub(crate) fn tokens_after(&self, number: i64, limit: usize) -> Result<Vec<Token>> {
        tokens::after(self.conn, number, limit)
    }
}

/// The state that the operations of one write transaction share.
#[derive(Debug, Default)]
pub(crate) struct TxState {
    /// Intents of earlier transactions up to this number are durable, and may be executed in this
    /// one.
    durable_intents: i64,
    /// Intents that were recorded in this transaction, to be executed after its commit.
    pending: Vec<Pending>,
    /// Intents of earlier transactions that were encountered, to be executed likewise.
    pub(super) encountered: Vec<i64>,
    /// The changes of users, for the figures: their kinds, and whether the user was brought back.
    pub(super) changes: Vec<(ChangeKind, bool)>,
    /// Whether logins are in the feed, once it was asked.
    has_logins: Option<bool>,
    /// Who does what the transaction does at present.
    pub(super) actor: Actor,
}

impl TxState {
    pub(super) fn new(durable_intents: i64) -> Self {
        Self { durable_intents, ..Self::default() }
    }

    /// Returns the present state, for [`go_back_to`](Self::go_back_to).
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.pending.len(), self.changes.len())
    }

    /// Returns the intents that were recorded since then.
    pub(super) fn pending_since(&self, (pending, _): (usize, usize)) -> &[Pending] {
        &self.pending[pending..]
    }

    /// Forgets the intents and changes since then, which were rolled back. An intent that was
    /// encountered stays one.
    pub(super) fn go_back_to(&mut self, (pending, changes): (usize, usize)) {
        self.pending.truncate(pending);
        self.changes.truncate(changes);
    }
}

/// A write transaction, as one operation has it.
pub(crate) struct Tx<'c> {
    snapshot: Snapshot<'c>,
    storage: &'c Result<Storage>,
    now: Timestamp,
    new_id: &'c dyn Fn() -> UserId,
    state: &'c mut TxState,
}

impl<'c> std::ops::Deref for Tx<'c> {
    type Target = Snapshot<'c>;

    fn deref(&self) -> &Snapshot<'c> {
        &self.snapshot
    }
}

impl<'c> Tx<'c> {
    pub(super) fn new(
        conn: &'c Connection,
        storage: &'c Result<Storage>,
        now: Timestamp,
        new_id: &'c dyn Fn() -> UserId,
        state: &'c mut TxState,
    ) -> Self {
        Self { snapshot: Snapshot::new(conn), storage, now, new_id, state }
    }

    /// Returns the time of the transaction.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns an id that was never returned before.
    pub(crate) fn new_id(&self) -> UserId {
        (self.new_id)()
    }

    /// Returns the users' directories, if they can be used.
    pub(crate) fn storage(&self) -> Result<&'c Storage> {
        self.storage.as_ref().map_err(Error::clone)
    }

    /// Runs an operation of more than one statement, or one that cascades to an application's
    /// tables with their triggers, so that nothing of it stays if it fails and the closure that
    /// called it goes on.
    pub(crate) fn whole<T, E: From<Error>>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run("SAVEPOINT tenantry_whole")?;
        let before = self.state.mark();
        let result = operation(self);
        if result.is_err() {
            self.state.go_back_to(before);
            if !self.snapshot.conn.is_autocommit() {
                self.run("ROLLBACK TO tenantry_whole")?;
            }
        }
        if !self.snapshot.conn.is_autocommit() {
            self.run("RELEASE tenantry_whole")?;
        }
        result
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.snapshot.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Returns whether the transaction can't go on after this failure of one of its operations.
    pub(crate) fn is_over(&self, error: &Error) -> bool {
        Fault::of(error) != Fault::Local
    }

    pub(crate) fn insert_user(&mut self, user: &User) -> Result<Written> {
        users::insert(self.conn, user)
    }

    /// Gives a user all values that can change.
    pub(crate) fn update_user(&mut self, user: &User) -> Result<Written> {
        users::update(self.conn, user)
    }

    /// Updates a user who has a directory from now on.
    pub(crate) fn update_user_with_directory(&mut self, user: &User) -> Result<Written> {
        users::update_with_directory(self.conn, user)
    }

    /// Gives a user an address that is its own key.
    pub(crate) fn set_address(&mut self, id: UserId, address: &str) -> Result<()> {
        users::set_address(self.conn, id, address)
    }

    /// Records a login, which only moves forward. Returns the user, if there is one who isn't
    /// suspended.
    pub(crate) fn log_in(&mut self, id: UserId, at: Timestamp) -> Result<Option<User>> {
        users::log_in(self.conn, id, at)
    }

    pub(crate) fn log_in_by_email(&mut self, email: &Email, at: Timestamp) -> Result<Option<User>> {
        users::log_in_by_key(self.conn, email.key(), at)
    }

    pub(crate) fn move_to_trash(&mut self, id: UserId, has_directory: bool) -> Result<()> {
        trash::delete(self.conn, id, self.now, has_directory)
    }

    /// Updates a user in the trash, who lives from now on.
    pub(crate) fn restore_user(&mut self, user: &User) -> Result<Written> {
        users::restore(self.conn, user)
    }

    /// Removes the row of a user, with the rows of the application's tables that go with it.
    pub(crate) fn remove_user(&mut self, id: UserId) -> Result<()> {
        users::remove(self.conn, id)
    }

    /// Removes the row of a user and takes that back. Fails as [`remove_user`](Self::remove_user)
    /// would.
    pub(crate) fn try_to_remove_user(&mut self, id: UserId) -> Result<()> {
        users::try_to_remove(self.conn, id)
    }

    pub(crate) fn set_has_directory(&mut self, id: UserId) -> Result<()> {
        paths::set_has_directory(self.conn, id)
    }

    pub(crate) fn retire_id(&mut self, id: UserId) -> Result<()> {
        paths::retire_id(self.conn, id)
    }

    /// Records that a path, and those above it, are never given out again.
    pub(crate) fn retire_path(&mut self, path: &StoragePath) -> Result<()> {
        paths::retire_path(self.conn, path.as_str())
    }

    /// Records the figures of a user's directory. Does nothing if the user was deleted in the
    /// meantime.
    pub(crate) fn set_usage(&mut self, id: UserId, usage: &Usage) -> Result<()> {
        usage::set(self.conn, id, usage)
    }

    /// Records an intent, which is executed after the commit.
    pub(crate) fn record_intent(&mut self, action: &Action) -> Result<()> {
        let seq = intents::insert(self.conn, action, self.now)?;
        self.state.pending.push(Pending::Intent(seq));
        Ok(())
    }

    /// Executes an intent after the commit of this transaction as if it had been recorded in it: if
    /// it fails, this operation fails.
    pub(crate) fn await_intent(&mut self, pending: Pending) {
        self.state.pending.push(pending);
    }

    /// Executes an intent of an earlier transaction after the commit of this one.
    pub(crate) fn encounter_intent(&mut self, intent: &Intent) {
        self.state.encountered.push(intent.seq);
    }

    pub(crate) fn is_recorded_here(&self, intent: &Intent) -> bool {
        self.state.pending.contains(&Pending::Intent(intent.seq))
    }

    /// Returns whether an intent is durable, so that it may be executed within this transaction.
    pub(crate) fn is_durable(&self, intent: &Intent) -> bool {
        intent.seq <= self.state.durable_intents && !self.is_recorded_here(intent)
    }

    pub(crate) fn remove_intent(&mut self, seq: i64) -> Result<()> {
        intents::remove(self.conn, seq)
    }

    pub(crate) fn remove_intent_of(&mut self, user: UserId) -> Result<()> {
        intents::remove_of_user(self.conn, user)
    }

    /// Gives the intent about a user this stage. Returns whether there is such an intent.
    pub(crate) fn set_stage_of_intent(&mut self, user: UserId, stage: &str) -> Result<bool> {
        intents::set_stage(self.conn, user, stage)
    }

    /// Records that the database is to be rewritten, without executing that yet: once will do for
    /// many users.
    pub(crate) fn renew_erase_intent(&mut self) -> Result<()> {
        intents::renew_erase(self.conn, self.now)
    }

    /// Keeps the result of a request, which is about this user.
    pub(crate) fn keep_request(
        &mut self,
        key: &RequestKey,
        reply: &str,
        user: UserId,
    ) -> Result<()> {
        requests::insert(self.conn, key, reply, user, self.now)
    }

    /// Removes those of the oldest requests, at most `limit`, that weren't kept within these times.
    pub(crate) fn trim_requests(
        &mut self,
        within: &RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<()> {
        requests::trim(self.conn, within, limit)
    }

    pub(crate) fn insert_token(
        &mut self,
        new: &NewToken,
        digest: &TokenDigest,
        expires_at: Timestamp,
    ) -> Result<Written> {
        tokens::insert(self.conn, new, digest, (self.now, expires_at))
    }

    /// Lets all secrets of a token end at this time at the latest, since there will be a newer one.
    pub(crate) fn replace_token(&mut self, name: &str, expires_at: Timestamp) -> Result<()> {
        tokens::replace(self.conn, name, self.now, expires_at)
    }

    /// Revokes the token with this name, or all without one. Returns how many secrets that were.
    pub(crate) fn revoke_tokens(&mut self, name: Option<&str>) -> Result<usize> {
        tokens::revoke(self.conn, name, self.now)
    }

    pub(crate) fn record_token_use(&mut self, number: i64) -> Result<()> {
        tokens::set_used(self.conn, number, self.now)
    }

    /// Writes a change of a user, who has this version after it, into the feed, unless it is a
    /// login and those aren't in it.
    pub(crate) fn insert_change(
        &mut self,
        user_id: UserId,
        version: u64,
        kind: ChangeKind,
        is_brought_back: bool,
    ) -> Result<()> {
        self.state.changes.push((kind, is_brought_back));
        if kind == ChangeKind::LoggedIn && !self.has_logins_in_changes()? {
            return Ok(());
        }
        changes::insert(
            self.conn,
            &NewChange { at: self.now, kind, user_id, version },
            &self.state.actor,
        )
    }

    fn has_logins_in_changes(&mut self) -> Result<bool> {
        // Another process may change that between two transactions.
        if let Some(has_logins) = self.state.has_logins {
            return Ok(has_logins);
        }
        let has_logins = changes::are_logins_in(self.conn)?;
        self.state.has_logins = Some(has_logins);
        Ok(has_logins)
    }

    /// Sets whether logins are written into the feed from this transaction on.
    pub(crate) fn set_logins_in_changes(&mut self, are_in: bool) -> Result<()> {
        self.state.has_logins = None;
        changes::set_logins(self.conn, are_in)
    }
}
