//! The engine: an open database, with its threads and connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::files::{database_in, watch, with_suffix};
use super::followers::{Follower, Followers};
use super::open::OpenReport;
use super::open::connect::journal_mode;
use super::open::write_image::write_image;
use super::readers::Readers;
use super::rows::by_login::LoginListing;
use super::rows::changes::History;
use super::rows::counting::Counting;
use super::rows::listing::Listing;
use super::rows::users::MANY;
use super::searches::Searches;
use super::tx::Snapshot;
use super::writer::{Shared, Writer};
use crate::domain::directory::Directory;
use crate::domain::request::Once;
use crate::domain::token::TokenSecret;
use crate::engine::metrics::{Counters, Metrics};
use crate::engine::token_cache::TokenCache;
use crate::engine::verbs::{RecordTokenUse, Verb};
use crate::ops::users::confusables;
use crate::options::Options;
use crate::storage::Storage;
use crate::{
    Actor, Ambient, Authentication, ChangePage, ChangesCursor, Email, Error, Filter, HistoryPage,
    ListQuery, Order, Page, ReadTx, Result, Timestamp, Token, TrashPage, TrashQuery, TrashedUser,
    Usage, User, UserId, WriteTx,
};

/// The description of a store's database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The database file.
    pub path: PathBuf,
    /// The id of the store, which `storage/.tenantry-store` holds too.
    pub store_id: Uuid,
    /// The version of the schema: the number of the last migration that was applied.
    pub schema_version: u32,
    /// The version of SQLite that is linked in.
    pub sqlite_version: &'static str,
    /// The journal mode, `wal`.
    pub journal_mode: String,
    /// Whether the store is open for reading only, because its file system is read-only.
    pub read_only: bool,
    /// How users' directories are opened: by one call of `openat2` or, if that is denied, by a
    /// `walk` from one to the next. `None` if they can't be used.
    pub open_method: Option<&'static str>,
    /// How they are moved: by one call of `renameat2` or, on a file system without it, with a
    /// `placeholder` that the directory then replaces. `None` if they can't be used or moved.
    pub move_method: Option<&'static str>,
    /// How many users there are.
    pub user_count: u64,
    /// The size of the database file in bytes.
    pub database_bytes: u64,
    /// The size of its write-ahead log in bytes.
    pub wal_bytes: u64,
}

/// An open database: the writer's thread, the readers, and the threads that search.
pub(crate) struct Engine {
    options: Options,
    pub(super) writer: Writer,
    readers: Arc<Readers>,
    pub(super) searches: Searches,
    followers: Arc<Followers>,
    storage: Arc<Result<Storage>>,
    ambient: Arc<dyn Ambient>,
    report: OpenReport,
    counters: Arc<Counters>,
    tokens: TokenCache,
}

impl Engine {
    pub(crate) async fn open(options: Options, ambient: Arc<dyn Ambient>) -> Result<Self> {
        let watch = Arc::new(watch(&options.data_dir));
        let counters = Arc::new(Counters::default());
        let readers = Arc::new(Readers::new(options.clone(), Arc::clone(&watch)));
        let followers = Arc::new(Followers::new(Arc::clone(&readers)));
        let shared = Shared {
            readers: Arc::clone(&readers),
            watch,
            followers: Arc::clone(&followers),
            counters: Arc::clone(&counters),
        };
        let (writer, storage, report) =
            Writer::start(options.clone(), Arc::clone(&ambient), shared).await?;
        let searches = Searches::new(Arc::clone(&readers));
        Ok(Self {
            options,
            writer,
            readers,
            searches,
            followers,
            storage,
            ambient,
            report,
            counters,
            tokens: TokenCache::default(),
        })
    }

    /// Returns what the opening did.
    pub(crate) fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Returns the users' directories, if they can be used.
    pub(crate) fn storage(&self) -> Result<&Storage> {
        self.storage.as_ref().as_ref().map_err(Error::clone)
    }

    /// Returns how long to wait for another process.
    pub(crate) fn busy_timeout(&self) -> Duration {
        self.options.busy_timeout
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ambient.now()
    }

    pub(crate) fn new_id(&self) -> UserId {
        self.ambient.new_id()
    }

    /// Returns bytes that nobody can guess.
    pub(crate) fn random(&self) -> Result<[u8; 32]> {
        self.ambient.random()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Performs a verb of the store, in one transaction with others.
    pub(crate) async fn apply<V: Verb>(&self, actor: Actor, verb: V) -> Result<V::Reply> {
        self.count(self.writer.apply(actor, verb, None).await)
    }

    /// Performs a verb once, however often it is sent.
    pub(crate) async fn apply_once<V: Verb>(
        &self,
        actor: Actor,
        verb: V,
        once: Once<V::Reply>,
    ) -> Result<V::Reply> {
        self.count(self.writer.apply(actor, verb, Some(once)).await)
    }

    pub(crate) async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.point(|tx| tx.user(id))
    }

    /// Returns users by their ids: few on this thread, more by a search.
    pub(crate) async fn get_many(&self, ids: Vec<UserId>) -> Result<Vec<Option<User>>> {
        if ids.len() <= MANY {
            return self.point(|tx| tx.users_with_ids(&ids));
        }
        let mut users = Vec::with_capacity(ids.len());
        let step = move |tx: Snapshot<'_>| {
            let chunk = &ids[users.len()..ids.len().min(users.len() + MANY)];
            users.append(&mut tx.users_with_ids(chunk)?);
            Ok((users.len() == ids.len()).then(|| std::mem::take(&mut users)))
        };
        self.search(step).await
    }

    pub(crate) async fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.point(|tx| tx.user_by_email(email))
    }

    pub(crate) async fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.point(|tx| tx.trashed(id))
    }

    pub(crate) async fn find_in_trash(&self, email: &Email) -> Result<Vec<TrashedUser>> {
        self.point(|tx| tx.trashed_by_email(email))
    }

    pub(crate) async fn confusables(&self, email: &Email) -> Result<Vec<User>> {
        self.count(self.readers.read(|session| session.run(|tx| confusables(&tx, email))))
    }

    pub(crate) async fn directory(&self, id: UserId) -> Result<Option<Directory>> {
        self.point(|tx| tx.directory(id))
    }

    pub(crate) async fn usage(&self, id: UserId) -> Result<Option<Usage>> {
        self.point(|tx| tx.usage(id))
    }

    /// Returns whether an intent is about this stage of an import.
    pub(crate) fn needs_stage(&self, stage: &str) -> Result<bool> {
        self.point(|tx| tx.needs_stage(stage))
    }

    pub(crate) async fn tokens_after(&self, number: i64, limit: usize) -> Result<Vec<Token>> {
        self.point(|tx| tx.tokens_after(number, limit))
    }

    /// Identifies the token whose secret a text is.
    pub(crate) fn authenticate(&self, secret: &str) -> Result<Authentication> {
        let Some(digest) = TokenSecret::digest_of(secret) else {
            return Ok(Authentication::Malformed);
        };
        // Before the look-up, so that the lease isn't longer than whoever revokes it waits.
        let (began, now) = (Instant::now(), self.now());
        if let Some(token) = self.tokens.get(&digest, began) {
            return Ok(Authentication::at(token, now));
        }
        let Some(token) = self.point(|tx| tx.token_by_digest(&digest))?.map(Arc::new) else {
            return Ok(Authentication::Unknown);
        };
        let authentication = Authentication::at(Arc::clone(&token), now);
        if let Authentication::Valid(_) = authentication {
            let number = token.number;
            if self.tokens.keep(digest, token, began, now) && !self.report.read_only {
                self.writer.offer(RecordTokenUse(number));
            }
        }
        Ok(authentication)
    }

    /// Runs one statement that reads, on this thread: a point read takes less time than a
    /// hand-over.
    fn point<T>(&self, read: impl FnOnce(Snapshot<'_>) -> Result<T>) -> Result<T> {
        self.count(self.readers.read_one(read))
    }

    /// Reads one state of the store on this thread, which is one that may block.
    pub(crate) fn snapshot<T>(&self, read: impl FnOnce(Snapshot<'_>) -> Result<T>) -> Result<T> {
        self.count(self.readers.read(|session| session.run(read)))
    }

    /// Returns a page: without a filter on this thread, unless many users in the trash are in
    /// between, with one by a search.
    pub(crate) async fn list(&self, query: &ListQuery) -> Result<Page> {
        let listed = async {
            if query.order == Order::LastLogin {
                let mut listing = LoginListing::new(query)?;
                return self.searches.run(move |tx| tx.advance_by_login(&mut listing)).await;
            }
            let mut listing = Listing::new(query)?;
            if query.filter.is_empty()
                && let Some(page) = self.readers.read_one(|tx| tx.advance(&mut listing))?
            {
                return Ok(page);
            }
            self.searches.list(listing).await
        };
        self.count(listed.await)
    }

    pub(crate) async fn changes(
        &self,
        after: Option<&ChangesCursor>,
        limit: usize,
    ) -> Result<ChangePage> {
        // Two statements, of one state.
        self.snapshot(|tx| tx.changes(after, limit))
    }

    pub(crate) async fn changes_cursor(&self) -> Result<ChangesCursor> {
        self.snapshot(|tx| tx.changes_cursor())
    }

    #[cfg(test)]
    pub(super) fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    pub(crate) fn follow(&self, after: Option<ChangesCursor>) -> Follower {
        Follower::new(Arc::clone(&self.followers), after)
    }

    pub(crate) async fn are_logins_in_changes(&self) -> Result<bool> {
        self.point(|tx| tx.are_logins_in_changes())
    }

    /// Returns the changes of a user, the newest first.
    pub(crate) async fn history(
        &self,
        user: UserId,
        after: Option<ChangesCursor>,
        limit: usize,
    ) -> Result<HistoryPage> {
        ChangePage::check_limit(limit)?;
        let mut history = History::new(user, after, limit);
        self.search(move |tx| tx.advance_history(&mut history)).await
    }

    pub(crate) async fn user_count(&self) -> Result<u64> {
        self.search(|tx| tx.user_count().map(Some)).await
    }

    pub(crate) async fn count_where(&self, filter: &Filter) -> Result<u64> {
        if filter.is_empty() {
            return self.user_count().await;
        }
        let mut counting = self.count(Counting::new(filter))?;
        self.search(move |tx| tx.advance_count(&mut counting)).await
    }

    pub(crate) async fn list_trash(&self, query: TrashQuery) -> Result<TrashPage> {
        self.search(move |tx| tx.trash_page(&query).map(Some)).await
    }

    pub(crate) async fn top_usage(&self, limit: usize) -> Result<Vec<(User, Usage)>> {
        self.search(move |tx| tx.top_usage(limit).map(Some)).await
    }

    pub(crate) async fn users_with_directory(&self) -> Result<Vec<UserId>> {
        let (mut users, mut after) = (Vec::new(), 0);
        let step = move |tx: Snapshot<'_>| {
            let (mut some, next) = tx.users_with_directory(after, ListQuery::MAX_LIMIT)?;
            users.append(&mut some);
            Ok(match next {
                Some(next) => {
                    after = next;
                    None
                }
                None => Some(std::mem::take(&mut users)),
            })
        };
        self.search(step).await
    }

    /// Runs a read that takes long on a thread of the store's own, by bounded steps until one
    /// returns a result.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        step: impl FnMut(Snapshot<'_>) -> Result<Option<T>> + Send + 'static,
    ) -> Result<T> {
        self.count(self.searches.run(step).await)
    }

    /// Runs an application's closure that reads, on a thread for blocking work: it may take long.
    pub(crate) async fn read<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        closure: impl FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let readers = Arc::clone(&self.readers);
        blocking::unblock(move || readers.read(|session| closure(&ReadTx::new(session)))).await
    }

    /// Runs an application's closure on the writer's thread, in a transaction of its own.
    pub(crate) async fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        actor: Actor,
        closure: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.writer.run_alone(actor, closure).await
    }

    /// Writes an image of the present database to a new file. Fails once `is_to_end` returns true,
    /// which is called after each number of steps.
    pub(crate) fn write_image(
        &self,
        image: &Path,
        (steps, is_to_end): (i32, impl FnMut() -> bool + Send + 'static),
    ) -> Result<()> {
        write_image(&self.options, image, (steps, is_to_end))
    }

    pub(crate) async fn close(&self) {
        self.searches.close();
        self.followers.close();
        self.followers.ended().await;
        self.writer.refuse();
        self.searches.ended().await;
        self.writer.close().await;
    }

    /// Counts the failure of an operation.
    fn count<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.counters.count_error(error.kind()))
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let counted = self.readers.read(|session| {
            session.run(|tx| Ok::<_, Error>((tx.intent_count()?, tx.change_seqs()?)))
        });
        let (open_intents, seqs) =
            counted.map_or((None, None), |(intents, seqs)| (Some(intents), seqs));
        Metrics {
            queue_depth: number(self.writer.queue_depth()),
            readers_in_use: number(self.readers.in_use()),
            wal_bytes: self.size("-wal"),
            open_intents,
            oldest_change: seqs.map(|(oldest, _)| oldest),
            newest_change: seqs.map(|(_, newest)| newest),
            followers: number(self.followers.count()),
            ..self.counters.snapshot()
        }
    }

    fn size(&self, suffix: &str) -> u64 {
        let path = with_suffix(&database_in(&self.options.data_dir), suffix);
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        let (database_bytes, wal_bytes) = (self.size(""), self.size("-wal"));
        let storage = self.storage().ok();
        let read_only = self.report.read_only;
        // It takes a directory to be found out.
        let movable = storage.filter(|_| !read_only);
        let move_method =
            movable.and_then(|storage| storage.ways().ok()).map(|ways| ways.move_method);
        let open_method = storage.map(Storage::open_method);
        let path = database_in(&self.options.data_dir);
        let read = move |tx: Snapshot<'_>| {
            let conn = tx.conn();
            Ok(Some(Status {
                store_id: tx.store_id()?,
                schema_version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
                sqlite_version: rusqlite::version(),
                journal_mode: journal_mode(conn, &path, read_only)?,
                read_only,
                open_method,
                move_method,
                user_count: tx.user_count()?,
                path: path.clone(),
                database_bytes,
                wal_bytes,
            }))
        };
        self.search(read).await
    }
}
