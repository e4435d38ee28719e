//! Keeps the SQL of an application's closures from what is Tenantry's: ending the transaction that the closure runs
//! in, changing Tenantry's tables or the settings of the connection. SQLite asks an authorizer about every action
//! while it prepares a statement (<https://sqlite.org/c3ref/set_authorizer.html>); the store's own statements
//! are prepared with the guard lowered.
//!
//! Nor does anything but [`GuardedConnection::commit`] commit. After some failures (a full disk) SQLite ends the
//! transaction by itself, and what a closure did from then on would otherwise be committed statement by statement.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::Result;

/// The savepoint in which an operation runs beside others.
pub(super) const SAVEPOINT: &str = "tenantry_operation";

/// A connection on which only what is allowed to an application can be prepared, unless the guard is lowered.
pub(super) struct GuardedConnection {
    conn: Connection,
    // Only the thread that uses the connection reads or writes it; it is atomic because the authorizer must be `Send`.
    raised: Arc<AtomicBool>,
    may_commit: Arc<AtomicBool>,
}

impl GuardedConnection {
    pub(super) fn new(mut conn: Connection) -> Result<Self> {
        let raised = Arc::new(AtomicBool::new(true));
        let is_raised = Arc::clone(&raised);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if is_raised.load(Ordering::Relaxed) && is_ours(&context) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        let may_commit = Arc::new(AtomicBool::new(false));
        let commit_allowed = Arc::clone(&may_commit);
        conn.commit_hook(Some(move || !commit_allowed.load(Ordering::Relaxed)))?;
        Ok(Self { conn, raised, may_commit })
    }

    /// Commits the transaction that is open.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.may_commit.store(true, Ordering::Relaxed);
        let committed = self.own().execute_batch("COMMIT");
        self.may_commit.store(false, Ordering::Relaxed);
        committed
    }

    /// The connection with the guard up: what an application's closure may have.
    pub(super) fn guarded(&self) -> &Connection {
        &self.conn
    }

    /// The connection with the guard down for as long as the answer lives: for the store's own statements.
    pub(super) fn own(&self) -> Lowered<'_> {
        Lowered { guarded: self, was_raised: self.raised.swap(false, Ordering::Relaxed) }
    }

    pub(super) fn into_inner(self) -> Connection {
        self.raised.store(false, Ordering::Relaxed);
        self.conn
    }
}

pub(super) struct Lowered<'c> {
    guarded: &'c GuardedConnection,
    was_raised: bool,
}

impl Deref for Lowered<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.guarded.conn
    }
}

impl Drop for Lowered<'_> {
    fn drop(&mut self) {
        self.guarded.raised.store(self.was_raised, Ordering::Relaxed);
    }
}

/// Whether an action touches what is Tenantry's.
fn is_ours(context: &AuthContext<'_>) -> bool {
    match context.action {
        AuthAction::Transaction { .. } | AuthAction::Attach { .. } | AuthAction::Detach { .. } => true,
        // They would outlive the closure on a connection that others use, and hide tables of the same name.
        AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTrigger { .. } => true,
        AuthAction::Savepoint { savepoint_name, .. } => savepoint_name.eq_ignore_ascii_case(SAVEPOINT),
        AuthAction::Pragma { pragma_name, pragma_value } => !is_harmless_pragma(pragma_name, pragma_value),
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::CreateView { view_name: table_name }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::AlterTable { table_name, .. } => is_our_table(table_name),
        _ => false,
    }
}

fn is_our_table(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "users" || name == "sqlite_sequence" || name.starts_with("tenantry_")
}

/// Pragmas that only read, or that end with the transaction.
fn is_harmless_pragma(name: &str, value: Option<&str>) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "table_info" | "table_xinfo" | "table_list" | "index_list" | "index_info" | "index_xinfo"
        | "foreign_key_list" | "foreign_key_check" | "defer_foreign_keys" => true,
        "foreign_keys" | "application_id" | "user_version" | "schema_version" | "page_count" | "page_size"
        | "freelist_count" | "journal_mode" | "synchronous" | "data_version" => value.is_none(),
        _ => false,
    }
}
