//! The engine: a database that is open, with all threads and connections that it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::files::{database_in, watch, with_suffix};
use super::open::Outcome;
use super::open::connect::journal_mode;
use super::open::write_image::write_image;
use super::readers::Readers;
use super::rows::listing::Listing;
use super::searches::Searches;
use super::transaction::{ReadTx, WriteTx};
use super::writer::Writer;
use super::{retired, users};
use crate::options::Options;
use crate::storage::Storage;
use crate::{Ambient, Error, Filter, ListQuery, Page, Result, Timestamp, UserId};

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

/// A database that is open: the writer's thread, the readers and the threads that search.
pub(crate) struct Engine {
    options: Options,
    pub(super) writer: Writer,
    readers: Arc<Readers>,
    pub(super) searches: Searches,
    storage: Arc<Result<Storage>>,
    ambient: Arc<dyn Ambient>,
    outcome: Outcome,
}

impl Engine {
    pub(crate) async fn open(options: Options, ambient: Arc<dyn Ambient>) -> Result<Self> {
        let watch = Arc::new(watch(&options.data_dir));
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
        write_image(&self.options, image, (steps, is_to_end))
    }

    pub(crate) async fn close(&self) {
        self.searches.close();
        self.writer.refuse();
        self.searches.ended().await;
        self.writer.close().await;
    }

    pub(super) fn status(&self) -> Result<Status> {
        let path = database_in(&self.options.data_dir);
        let size = |suffix| std::fs::metadata(with_suffix(&path, suffix)).map_or(0, |metadata| metadata.len());
        let (database_bytes, wal_bytes) = (size(""), size("-wal"));
        let storage = self.storage().ok();
        // It takes a directory to be found out.
        let movable = storage.filter(|_| !self.outcome.read_only);
        let move_method = movable.and_then(|storage| storage.ways().ok()).map(|ways| ways.move_method);
        self.readers.read(|tx| {
            let conn = tx.conn.unguarded();
            Ok(Status {
                store_id: retired::store_id(&conn)?,
                schema_version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
                sqlite_version: rusqlite::version(),
                journal_mode: journal_mode(&conn, &path, self.outcome.read_only)?,
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
