//! The connections that read.
//!
//! A read runs on its caller's thread, unless it is one of the [searches](super::searches): handing
//! a point read of a few microseconds to another thread would take several times as long. So there
//! are at most as many connections as threads that read at once, and each thread takes the one that
//! was used last, whose page cache is warm and whose statements are prepared.
//!
//! Every read begins a snapshot of its own, which in WAL mode contains everything that was
//! committed before: so a read sees every write that has returned. `query_only` prevents writes on
//! these connections, whatever SQL they are given.
//!
//! Rejected: a fixed pool with one connection per core (a thread that is blocked in a long export
//! would hold one of two), a connection per thread (they would never be closed), reading on the
//! writer's connection (every read would wait for an fsync).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::config::DbConfig;

use super::guard::GuardedConnection;
use super::open::connect::open_reader;
use super::session::ReadSession;
use super::tx::Snapshot;
use crate::data_dir::watch::Watch;
use crate::engine::queue::closed;
use crate::options::Options;
use crate::{Error, ErrorKind, Result};

/// The most connections that read at once. Further readers wait for one, and fail with `Busy` after
/// the busy timeout. Each takes two file descriptors and up to 2 MB for its page cache.
const READERS_MAX: usize = 32;

pub(super) struct Readers {
    options: Options,
    watch: Arc<Watch>,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    /// The one that was used last is at the end.
    idle: Vec<GuardedConnection>,
    in_use: usize,
    /// Number of threads that wait for a connection: a notification without one is a wasted system
    /// call.
    waiting: usize,
    closed: bool,
}

impl Readers {
    pub(super) fn new(options: Options, watch: Arc<Watch>) -> Self {
        Self { options, watch, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs one statement, which is a snapshot by itself.
    pub(super) fn read_one<T>(&self, f: impl FnOnce(Snapshot<'_>) -> Result<T>) -> Result<T> {
        let conn = self.take()?;
        let result = catch_unwind(AssertUnwindSafe(|| f(Snapshot::new(&conn.unguarded()))));
        // After a panic the state of the connection isn't known, so it is closed.
        self.give_back(result.is_ok().then_some(conn));
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a closure that may read more than once, in one snapshot.
    pub(super) fn read<T, E: From<Error>>(
        &self,
        f: impl FnOnce(ReadSession<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let conn = self.take()?;
        if let Err(error) = conn.unguarded().execute_batch("BEGIN") {
            self.give_back(None);
            return Err(Error::from(error).into());
        }
        let result = catch_unwind(AssertUnwindSafe(|| f(ReadSession::new(&conn))));
        // A connection that can't leave its snapshot is of no use to the next reader.
        let ended = conn.roll_back().is_ok();
        self.give_back(ended.then_some(conn));
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Returns how many connections are in use.
    pub(super) fn in_use(&self) -> usize {
        self.lock().in_use
    }

    /// Refuses further reads. Those in progress are completed.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle.clear();
        self.returned.notify_all();
    }

    fn take(&self) -> Result<GuardedConnection> {
        let mut state = self.lock();
        let mut deadline = None;
        loop {
            if state.closed {
                return Err(closed());
            }
            if let Some(conn) = state.idle.pop() {
                state.in_use += 1;
                return Ok(conn);
            }
            if state.in_use < READERS_MAX {
                state.in_use += 1;
                drop(state);
                return self.open().inspect_err(|_| self.give_back(None));
            }
            let deadline =
                *deadline.get_or_insert_with(|| Instant::now() + self.options.busy_timeout);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Busy, "too many reads are under way: try again"));
            }
            state.waiting += 1;
            state =
                self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Opens a connection that isn't counted.
    pub(super) fn open(&self) -> Result<GuardedConnection> {
        self.watch.check()?;
        let conn = GuardedConnection::new(open_reader(&self.options)?)?;
        // Even if it is closed last: only the writer runs checkpoints.
        conn.unguarded().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // It must be the database that the others read.
        self.watch.check()?;
        Ok(conn)
    }

    /// Takes a connection back. `None` is one that was closed.
    fn give_back(&self, conn: Option<GuardedConnection>) {
        let mut state = self.lock();
        state.in_use -= 1;
        match conn {
            // Closing it may take a while, so it isn't done under the lock.
            Some(conn) if state.closed => {
                drop(state);
                drop(conn);
                return;
            }
            Some(conn) => state.idle.push(conn),
            None => {}
        }
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.returned.notify_one();
        }
    }

    /// A panic can't leave the state half changed, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
