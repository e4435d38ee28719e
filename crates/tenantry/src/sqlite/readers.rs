//! The connections that read.
//!
//! A read runs on the thread of its caller, unless it is one of the [searches](super::searches):
//! handing a point read of a few microseconds to another thread would cost several times what it
//! takes. So there are at most as many connections as threads read at once, and each thread takes
//! the one that was used last, whose page cache is warm, and whose statements are prepared.
//!
//! Every read begins a snapshot of its own, which in WAL mode holds all that was committed before
//! it: so a read sees every write that was answered. `query_only` keeps a reader from writing,
//! whatever SQL it is given.
//!
//! Rejected: a fixed pool with one connection a core (a thread that is blocked in a long export
//! would hold one of two), a connection a thread (they would never be closed), reading on the
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

/// How many connections may read at once; further readers wait for one, and get `Busy` after the
/// busy timeout. Each takes two file descriptors and up to 2 MB for its page cache.
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
    /// How many wait for a connection: to wake nobody is a system call too.
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
        // After a panic the place of the connection is free again; its state isn't known.
        self.give_back(result.is_ok().then_some(conn));
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a closure that may read more than once, in one snapshot.
    pub(super) fn read<T, E: From<Error>>(&self, f: impl FnOnce(ReadSession<'_>) -> Result<T, E>) -> Result<T, E> {
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

    /// Refuses reads from now on. Those that are under way end as if nothing had happened.
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
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.options.busy_timeout);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Busy, "too many reads are under way: try again"));
            }
            state.waiting += 1;
            state = self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Opens a connection that is in no list.
    pub(super) fn open(&self) -> Result<GuardedConnection> {
        self.watch.check()?;
        let conn = GuardedConnection::new(open_reader(&self.options)?)?;
        // Also if it is closed last: the log is the writer's affair.
        conn.unguarded().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // It must be the database that the others read.
        self.watch.check()?;
        Ok(conn)
    }

    /// Takes a connection back, or the place of one that is lost.
    fn give_back(&self, conn: Option<GuardedConnection>) {
        let mut state = self.lock();
        state.in_use -= 1;
        match conn {
            // What is dropped here is closed, which may take a while: not under the lock.
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
