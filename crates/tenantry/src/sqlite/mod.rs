//! The engine on SQLite, and what only embedders who want SQLite itself need.
//!
//! Everything else reaches it through [`Store`], which shows nothing of it. Here are the two things that can't be had
//! without naming the engine: the connection behind a transaction, for applications that keep tables of their own
//! in the same file, and the figures that `tenantry status` prints.
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
//!         db.execute_batch("CREATE TABLE IF NOT EXISTS notes (user_id BLOB REFERENCES users (id), text TEXT) STRICT")?;
//!         db.execute("INSERT INTO notes VALUES (?1, ?2)", (ada.id, "hello"))?;
//!         Ok::<_, tenantry::Error>(())
//!     })
//!     .await?;
//! # store.close().await?;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! Two rules hold for the process as a whole. Only one copy of SQLite may be linked into it, which is why the one in
//! use is re-exported as [`rusqlite`]. And nobody may open the database's files with plain file calls, not even to
//! copy them: POSIX ends all locks of a process on a file when it closes any descriptor of it
//! (<https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>).

mod bring_back;
mod checkpoints;
mod error;
mod functions;
mod guard;
mod image;
mod inspect;
mod intents;
mod lifecycle;
mod listing;
mod open;
mod place;
mod readers;
mod searches;
mod settle;
mod spelling;
mod transaction;
mod upgrade;
mod users;
mod values;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use rusqlite;
use rusqlite::Connection;
use uuid::Uuid;

use crate::storage::Storage;
use crate::{Ambient, Error, ErrorKind, Filter, ListQuery, Page, Result, Store, Timestamp, UserId};
pub(crate) use inspect::{Inspection, Owner, Row};
pub(crate) use intents::Action;
pub(crate) use open::{Options, of_schema};
pub(crate) use settle::settle;
pub use transaction::{ReadTx, WriteTx};
pub use upgrade::Upgrade;

use listing::Listing;
use place::Watch;
use readers::Readers;
use searches::Searches;
use writer::Writer;

/// The connection behind a transaction, for tables of the application's own in the same file.
///
/// Tenantry's tables are `users` and those that begin with `tenantry_`. They can be read. A user who was deleted stays in
/// `users` until the purge, with the time in `deleted_at`; the view `tenantry_living_users` has the others, each with
/// `id`, `email`, `email_key`, `created_at`, `last_login_at`, `updated_at` and `version`. The view and its columns,
/// and the columns `users.id`, `users.email`, `users.email_key`, `users.created_at` and `users.deleted_at` stay as they are
/// in every schema version. A statement that would change one of these tables, end the transaction, make temporary tables or
/// change the settings of the connection is refused, as is a foreign key to a column other than `users (id)`, at the end of
/// the transaction.
///
/// Foreign keys to `users (id)` are enforced, and hold while the user is in the trash: a delete and a restore touch no row
/// of the application's, and rows may be added that refer to a deleted user. The purge acts on them. With `ON DELETE
/// CASCADE` the rows go with their user; without it a user who has such rows can't be purged (`Constraint`), which is found
/// out before a file is removed. Triggers of the application's on its own tables run within that cascade. They run once more
/// in a trial of it that is taken back, and must change nothing outside of the database.
///
/// A purge ends with a [VACUUM](https://sqlite.org/lang_vacuum.html), which may give new rowids to the rows of tables without
/// an INTEGER PRIMARY KEY: don't refer to those.
#[must_use]
pub fn connection<'tx>(tx: &'tx ReadTx<'_>) -> &'tx Connection {
    tx.conn.guarded()
}

/// What there is to know of a store's database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The database file.
    pub path: PathBuf,
    /// The id of the store, which also stands in `storage/.tenantry-store`.
    pub store_id: Uuid,
    /// The version of the schema: the number of the newest migration that was applied.
    pub schema_version: u32,
    /// The version of SQLite that is linked in.
    pub sqlite_version: &'static str,
    /// The journal mode, `wal`.
    pub journal_mode: String,
    /// Whether the store is open for reading only, because its file system is read-only.
    pub read_only: bool,
    /// How users' directories are opened: by one call of `openat2`, or where that is refused by a `walk` from one to the next.
    /// `None` if they can't be used.
    pub open_method: Option<&'static str>,
    /// How they are moved: by one call of `renameat2`, or where the file system can't do that in one step with a
    /// `placeholder` that the directory then replaces. `None` if they can't be used, or not moved.
    pub move_method: Option<&'static str>,
    /// How many users there are.
    pub user_count: u64,
    /// The size of the database file in bytes.
    pub database_bytes: u64,
    /// The size of its write-ahead log in bytes.
    pub wal_bytes: u64,
}

/// What there is to know of a store's database. Counts the users, see [`Store::count`].
///
/// Errors: `Closed`, `Busy`, `Io`, `Corrupt`.
pub async fn status(store: &Store) -> Result<Status> {
    store.engine().status()
}

/// A database that is open: the writer's thread, the readers and the threads that search.
pub(crate) struct Engine {
    options: Options,
    writer: Writer,
    readers: Arc<Readers>,
    searches: Searches,
    storage: Arc<Result<Storage>>,
    ambient: Arc<dyn Ambient>,
    outcome: Outcome,
}

/// What opening a store came to.
pub(crate) struct Outcome {
    pub(crate) created: bool,
    pub(crate) upgraded: Option<Upgrade>,
    pub(crate) read_only: bool,
}

impl Engine {
    pub(crate) async fn open(options: Options, ambient: Arc<dyn Ambient>) -> Result<Self> {
        let watch = Arc::new(Watch::new(&options));
        let readers = Arc::new(Readers::new(options.clone(), Arc::clone(&watch)));
        let (writer, storage, outcome) =
            Writer::start(options.clone(), Arc::clone(&ambient), Arc::clone(&readers), watch).await?;
        let searches = Searches::new(Arc::clone(&readers));
        Ok(Self { options, writer, readers, searches, storage, ambient, outcome })
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The users' directories, if they can be used.
    pub(crate) fn storage(&self) -> Result<&Storage> {
        self.storage.as_ref().as_ref().map_err(Error::clone)
    }

    /// How long to wait for another process.
    pub(crate) fn patience(&self) -> Duration {
        self.options.busy_timeout
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ambient.now()
    }

    pub(crate) fn new_id(&self) -> UserId {
        self.ambient.new_id()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Runs one statement that reads, on this thread.
    pub(crate) fn read_one<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.readers.read_one(f)
    }

    /// Runs an application's closure that reads, on this thread.
    pub(crate) fn read<T, E: From<Error>>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.readers.read(f)
    }

    /// Returns a page: without a filter on this thread, unless many users in the trash are in between, with one by a search.
    pub(crate) async fn list(&self, query: &ListQuery) -> Result<Page> {
        let mut listing = Listing::new(query)?;
        if query.filter == Filter::default()
            && let Some(page) = self.readers.read_one(|tx| listing.advance(&tx.conn.unguarded()))?
        {
            return Ok(page);
        }
        self.search(move |tx| listing.advance(&tx.conn.unguarded())).await
    }

    /// Runs a read that takes long on a thread of the store's own, by bounded steps until one returns a result.
    pub(crate) async fn search<T: Send + 'static>(
        &self,
        step: impl FnMut(&ReadTx<'_>) -> Result<Option<T>> + Send + 'static,
    ) -> Result<T> {
        self.searches.run(step).await
    }

    /// Runs an operation of the store's on the writer's thread, in one transaction with others.
    pub(crate) async fn operate<T: Send + 'static>(
        &self,
        operation: impl FnMut(&mut WriteTx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.operate(operation).await
    }

    /// Runs an application's closure on the writer's thread, in a transaction of its own.
    pub(crate) async fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        closure: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.writer.run_alone(closure).await
    }

    /// Writes an image of the database as it is now to a file that isn't there yet. Fails if it is to end, which is asked
    /// every so many steps of SQLite's virtual machine.
    pub(crate) fn write_image(
        &self,
        image: &Path,
        (steps, is_to_end): (i32, impl FnMut() -> bool + Send + 'static),
    ) -> Result<()> {
        open::write_image(&self.options, image, (steps, is_to_end))
    }

    pub(crate) async fn close(&self) {
        self.searches.close();
        self.writer.refuse();
        self.searches.ended().await;
        self.writer.close().await;
    }

    fn status(&self) -> Result<Status> {
        let path = self.options.database();
        let size = |suffix| std::fs::metadata(open::with_suffix(&path, suffix)).map_or(0, |metadata| metadata.len());
        let (database_bytes, wal_bytes) = (size(""), size("-wal"));
        let storage = self.storage().ok();
        // It takes a directory to be found out.
        let movable = storage.filter(|_| !self.outcome.read_only);
        let move_method = movable.and_then(|storage| storage.ways().ok()).map(|ways| ways.move_method);
        self.readers.read(|tx| {
            let conn = tx.conn.unguarded();
            Ok(Status {
                store_id: lifecycle::store_id(&conn)?,
                schema_version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
                sqlite_version: rusqlite::version(),
                journal_mode: open::journal_mode(&conn, &path, self.outcome.read_only)?,
                read_only: self.outcome.read_only,
                open_method: storage.map(Storage::open_method),
                move_method,
                user_count: users::count(&conn)?,
                path,
                database_bytes,
                wal_bytes,
            })
        })
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed")
}
