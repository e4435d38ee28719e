//! Restricts the SQL of an application's closures: they must not end their transaction, nor change
//! Tenantry's tables or the settings of the connection. SQLite calls an authorizer for every action
//! while it prepares a statement (<https://sqlite.org/c3ref/set_authorizer.html>); the store's own
//! statements are prepared with the guard lowered. The guard protects from mistakes, not from
//! malice: a closure is code of the program.
//!
//! Only [`GuardedConnection::commit`] commits, and only the transaction that was begun. After some
//! failures (a full disk, `ON CONFLICT ROLLBACK`) SQLite ends the transaction by itself, and later
//! statements of a closure would otherwise be committed without its earlier ones.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode};

use crate::{Error, ErrorKind, Result};

/// A connection that prepares only statements that an application may use, unless the guard is
/// lowered.
pub(super) struct GuardedConnection {
    conn: Connection,
    flags: Arc<Flags>,
}

/// The flags that the hooks of the connection read and set. Only the thread that uses the
/// connection accesses them; they are atomic because the hooks must be `Send`.
#[derive(Default)]
struct Flags {
    is_lowered: AtomicBool,
    may_commit: AtomicBool,
    was_rolled_back: AtomicBool,
}

impl GuardedConnection {
    #[allow(unused_mut, reason = "rusqlite 0.39 takes `&self` where 0.41 takes `&mut self`")]
    pub(super) fn new(mut conn: Connection) -> Result<Self> {
        let flags = Arc::new(Flags::default());
        let authorizer_flags = Arc::clone(&flags);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            let is_lowered = authorizer_flags.is_lowered.load(Ordering::Relaxed);
            if is_allowed(&context, is_lowered) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }))?;
        let commit_flags = Arc::clone(&flags);
        conn.commit_hook(Some(move || !commit_flags.may_commit.load(Ordering::Relaxed)))?;
        let rollback_flags = Arc::clone(&flags);
        conn.rollback_hook(Some(move || {
            rollback_flags.was_rolled_back.store(true, Ordering::Relaxed)
        }))?;
        Ok(Self { conn, flags })
    }

    /// Returns the connection with the guard up, for an application's closure.
    pub(super) fn guarded(&self) -> &Connection {
        &self.conn
    }

    /// Returns the connection with the guard lowered until the returned value is dropped, for the
    /// store's own statements.
    pub(super) fn unguarded(&self) -> Unguarded<'_> {
        Unguarded {
            guarded: self,
            was_lowered: self.flags.is_lowered.swap(true, Ordering::Relaxed),
        }
    }

    /// Begins a write transaction.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.unguarded().execute_batch("BEGIN IMMEDIATE")?;
        self.flags.was_rolled_back.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether the transaction that was begun is still open.
    pub(super) fn is_intact(&self) -> bool {
        !self.conn.is_autocommit() && !self.flags.was_rolled_back.load(Ordering::Relaxed)
    }

    /// Returns the number of rows that were changed on this connection since it was opened,
    /// triggers included. Changes that were rolled back count, except those of a failed statement
    /// (<https://sqlite.org/c3ref/total_changes.html>).
    pub(super) fn total_changes(&self) -> u64 {
        self.conn.total_changes()
    }

    /// Commits the open transaction.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.flags.may_commit.store(true, Ordering::Relaxed);
        let committed = self.unguarded().execute_batch("COMMIT");
        self.flags.may_commit.store(false, Ordering::Relaxed);
        committed
    }

    /// Rewrites the database file. Outside a transaction; SQLite begins and commits one of its own.
    pub(super) fn vacuum(&self) -> rusqlite::Result<()> {
        // It attaches the new database to the connection, which is otherwise forbidden.
        self.conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        self.flags.may_commit.store(true, Ordering::Relaxed);
        let vacuumed = self.unguarded().execute_batch("VACUUM");
        self.flags.may_commit.store(false, Ordering::Relaxed);
        self.conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        vacuumed
    }

    /// Rolls back, unless SQLite has done so already.
    pub(super) fn roll_back(&self) -> rusqlite::Result<()> {
        if self.conn.is_autocommit() { Ok(()) } else { self.unguarded().execute_batch("ROLLBACK") }
    }
}

impl Drop for GuardedConnection {
    /// SQLite rolls back an open transaction when a connection is closed, and calls the hook, which
    /// rusqlite 0.41 has freed by then.
    fn drop(&mut self) {
        let _ = self.conn.rollback_hook(None::<fn()>);
    }
}

pub(super) struct Unguarded<'c> {
    guarded: &'c GuardedConnection,
    was_lowered: bool,
}

impl Deref for Unguarded<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.guarded.conn
    }
}

impl Drop for Unguarded<'_> {
    fn drop(&mut self) {
        self.guarded.flags.is_lowered.store(self.was_lowered, Ordering::Relaxed);
    }
}

/// More users than any closure creates.
const SEQ_STEP_MAX: i64 = 1 << 40;

/// The state of Tenantry's tables that a closure could change without the authorizer's knowledge:
/// taken before it runs, and checked before the commit.
pub(super) struct TablesBefore {
    schema_version: i64,
    /// Number of tables, indexes and so on with a reserved name.
    objects: i64,
    /// The last numbers in the order of creation, and of intents.
    last_seqs: [i64; 2],
}

impl TablesBefore {
    pub(super) fn of(conn: &GuardedConnection) -> Result<Self> {
        let conn = conn.unguarded();
        let mut statement = conn.prepare_cached(
            "SELECT (SELECT schema_version FROM pragma_schema_version),
                    (SELECT count(*) FROM sqlite_schema WHERE name = 'users' OR name LIKE 'tenantry\\_%' ESCAPE '\\'),
                    (SELECT max(seq) FROM sqlite_sequence WHERE name = 'users'),
                    (SELECT max(seq) FROM sqlite_sequence WHERE name = 'tenantry_intents')",
        )?;
        let tables = statement.query_row([], |row| {
            let last = |column| {
                Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.unwrap_or_default())
            };
            Ok(Self {
                schema_version: row.get(0)?,
                objects: row.get(1)?,
                last_seqs: [last(2)?, last(3)?],
            })
        })?;
        Ok(tables)
    }

    /// Refuses changes that a closure has made to them by other means.
    pub(super) fn check(&self, conn: &GuardedConnection) -> Result<()> {
        let refuse = |message| Error::new(ErrorKind::Constraint, message);
        let now = Self::of(conn)?;
        let steps =
            now.last_seqs.iter().zip(self.last_seqs).map(|(now, before)| now.wrapping_sub(before));
        if !steps.into_iter().all(|step| (0..=SEQ_STEP_MAX).contains(&step)) {
            return Err(refuse(
                "the order of creation was changed in sqlite_sequence: it would skip users, or end",
            ));
        }
        if now.schema_version == self.schema_version {
            return Ok(());
        }
        if now.objects != self.objects {
            return Err(refuse(
                "a table was given a name that is reserved: users, or one that begins with tenantry_",
            ));
        }
        // With a foreign key to a column that isn't unique, every statement fails that has to check
        // the key.
        for sql in [
            "DELETE FROM users",
            "UPDATE users SET id = id, email = email, deleted_at = deleted_at",
        ] {
            if let Err(error) = conn.unguarded().prepare(sql) {
                let message = match error.sqlite_error_code() {
                    Some(ErrorCode::AuthorizationForStatementDenied) => {
                        "a trigger of the application's would change users"
                    }
                    _ => {
                        "users could no longer be changed: a foreign key refers to another column than users (id)"
                    }
                };
                return Err(refuse(message).with_source(error));
            }
        }
        Ok(())
    }
}

fn is_allowed(context: &AuthContext<'_>, is_lowered: bool) -> bool {
    if is_lowered {
        // A trigger of the application's on a table that the store's statement cascades to is the
        // application's SQL.
        return context.accessor.is_none() || !changes_reserved_schema_or_rows(&context.action);
    }
    match context.action {
        AuthAction::Transaction { .. } | AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            false
        }
        // They would outlive the closure on a shared connection, and hide tables of the same name.
        AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTrigger { .. } => false,
        AuthAction::Savepoint { savepoint_name, .. } => !is_reserved_name(savepoint_name),
        AuthAction::Pragma { pragma_name, pragma_value } => {
            is_harmless_pragma(pragma_name, pragma_value)
        }
        ref action => !changes_reserved_schema_or_rows(action),
    }
}

fn changes_reserved_schema_or_rows(action: &AuthAction<'_>) -> bool {
    match *action {
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. } => is_reserved_name(table_name),
        AuthAction::CreateView { view_name } => is_reserved_name(view_name),
        AuthAction::CreateIndex { index_name: name, table_name }
        | AuthAction::DropIndex { index_name: name, table_name }
        | AuthAction::CreateTrigger { trigger_name: name, table_name } => {
            is_reserved_name(name) || is_reserved_name(table_name)
        }
        _ => false,
    }
}

/// Returns whether a name in the schema is reserved for Tenantry.
fn is_reserved_name(name: &str) -> bool {
    let is_prefix = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    name.eq_ignore_ascii_case("users") || is_prefix("tenantry_")
}

/// Returns whether a pragma only reads, or ends with the transaction.
fn is_harmless_pragma(name: &str, value: Option<&str>) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "table_info" | "table_xinfo" | "table_list" | "index_list" | "index_info" | "index_xinfo"
        | "foreign_key_list" | "foreign_key_check" | "defer_foreign_keys" | "integrity_check"
        // ALTER TABLE … ADD COLUMN runs it by itself.
        | "quick_check" => true,
        "foreign_keys" | "application_id" | "user_version" | "schema_version" | "page_count" | "page_size"
        | "freelist_count" | "journal_mode" | "synchronous" | "data_version" => value.is_none(),
        _ => false,
    }
}
