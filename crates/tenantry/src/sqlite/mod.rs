//! The engine on SQLite, and what only embedders who want SQLite itself need.
//!
//! Everything else reaches it through [`Store`](crate::Store), which shows nothing of it. Here are
//! the two things that can't be had without naming the engine: the connection behind a transaction,
//! for applications that keep tables of their own in the same file, and the figures that
//! `tenantry status` prints.
//!
//! ```
//! # futures_lite::future::block_on(async {
//! # let dir = tempfile::tempdir()?;
//! use tenantry::{NewUser, Store, sqlite};
//!
//! let store = Store::open(dir.path().join("data")).await?;
//! store
//!     .write(|tx| {
//!         let ada = tx.create(&NewUser::new("ada@example.com".parse()?))?;
//!         let db = sqlite::connection(tx);
//!         db.execute_batch(
//!             "CREATE TABLE IF NOT EXISTS notes (
//!                 user_id BLOB REFERENCES users (id), text TEXT
//!             ) STRICT",
//!         )?;
//!         db.execute("INSERT INTO notes VALUES (?1, ?2)", (ada.id, "hello"))?;
//!         Ok::<_, tenantry::Error>(())
//!     })
//!     .await?;
//! # store.close().await?;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! Two rules hold for the process as a whole. Only one copy of SQLite may be linked into it, which
//! is why the one in use is re-exported as [`rusqlite`]. And the process must not open the
//! database's files with plain file calls, not even to copy them: POSIX releases all locks of a
//! process on a file when it closes any descriptor of it
//! (<https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>).

mod busy_timeout;
mod checkpoints;
mod engine;
mod erase;
mod error;
mod failed_sync;
mod files;
mod follow_up;
mod followers;
mod functions;
mod guard;
mod inspect;
mod open;
mod own_tables;
mod readers;
mod recovery;
mod rows;
mod searches;
mod session;
mod settle;
mod transactions;
mod tx;
mod values;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use rusqlite;
use rusqlite::Connection;

use crate::ReadTx;
pub(crate) use engine::Engine;
pub use engine::Status;
pub(crate) use error::schema_failure;
pub(crate) use files::ENGINE_FILES;
pub(crate) use followers::Follower;
pub(crate) use inspect::{Inspection, Row};
pub use open::upgrade::Upgrade;
pub use own_tables::migrate;
pub(crate) use session::{ReadSession, WriteSession};
pub(crate) use settle::settle;
pub(crate) use tx::{Snapshot, Tx, Written};

/// The connection behind a transaction, for tables of the application's own in the same file.
///
/// Tenantry's tables are `users` and those that begin with `tenantry_`. They can be read. A user
/// who was deleted stays in `users` until the purge, with the time in `deleted_at`; the view
/// `tenantry_living_users` has the others, each with `id`, `email`, `email_key`, `created_at`,
/// `last_login_at`, `updated_at`, `version`, `suspended_at`, `external_id`, `name` and
/// `attributes`. The view and its columns, and the columns `users.id`, `users.email`,
/// `users.email_key`, `users.created_at` and `users.deleted_at` stay as they are in every schema
/// version. A statement that would change one of these tables, end the transaction, make temporary
/// tables or change the settings of the connection is refused, as is a foreign key to a column
/// other than `users (id)`, at the end of the transaction.
///
/// Foreign keys to `users (id)` are enforced, and hold while the user is in the trash: a delete and
/// a restore touch no row of the application's, and rows may be added that refer to a deleted user.
/// The purge acts on them. With `ON DELETE CASCADE` the rows go with their user; without it a user
/// who has such rows can't be purged (`Constraint`), which is found out before a file is removed.
/// Triggers of the application's on its own tables run within that cascade. They run once more in a
/// trial of it that is taken back, and must change nothing outside of the database.
///
/// A purge ends with a [VACUUM](https://sqlite.org/lang_vacuum.html), which may give new rowids to
/// the rows of tables without an INTEGER PRIMARY KEY: don't refer to those.
#[must_use]
pub fn connection<'tx>(tx: &'tx ReadTx<'_>) -> &'tx Connection {
    tx.session.guarded()
}
