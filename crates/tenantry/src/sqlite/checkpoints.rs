//! Checkpoints: move pages from the WAL into the database (<https://sqlite.org/wal.html>, section
//! 2.1).
//!
//! By itself, SQLite runs a checkpoint in a commit, and all callers wait for it: its pages are
//! written at random, so 2,000 of them take as long as twenty commits. Here a thread of its own
//! runs checkpoints in *rounds* beside the commits. The commits extend the WAL in the meantime, but
//! each round has fewer pages left than the one before. After a few rounds the writer's thread
//! moves the rest between two commits, and the next commit restarts the WAL.
//!
//! Every checkpoint syncs the database. SQLite itself syncs only after a complete one, which would
//! leave the whole wait to the last step. If the sync fails, pages that count as moved may never
//! reach the disk. Then checkpoints end, and the WAL is kept, from which the next opening moves
//! everything again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::{Connection, ffi};

use super::error::with_quota_as_full;
use super::guard::GuardedConnection;
use super::readers::Readers;
use crate::engine::metrics::Counters;
use crate::{Error, ErrorKind, Result};

/// Number of pages in the WAL at which a checkpoint begins: 32 MB. With fewer, pages that change
/// often are moved more often; with more, the WAL takes more space, and more time to recover after
/// a crash.
const CHECKPOINT_PAGES: i64 = 8_000;
/// Number of rounds before the writer's thread moves the rest. Each has about a third of the pages
/// of the one before, so that few are left then.
const ROUNDS: u32 = 4;
/// Number of pages above the threshold at which the writer's thread waits for the round and moves
/// the rest, whatever its size. So the WAL is bounded even if commits are faster than checkpoints.
/// The sum of both is the size to which the WAL's file is truncated.
const WAIT_PAGES: i64 = 8_000;
/// Number of pages after which a checkpoint that a reader was in the way of is tried again: often
/// enough that the WAL doesn't grow much longer than necessary, and not at every commit, since a
/// reader may take an hour.
const RETRY_PAGES: i64 = 1_000;

pub(super) struct Checkpoints {
    /// Opens the connection, when it is needed for the first time.
    readers: Arc<Readers>,
    counters: Arc<Counters>,
    conn: Option<GuardedConnection>,
    /// The thread of a round, which owns the connection until it ends.
    round: Option<JoinHandle<(GuardedConnection, Result<(), Failed>)>>,
    /// Number of pages in the WAL after the last commit.
    pages: i64,
    /// Number of pages at which the next checkpoint is due.
    due_at: i64,
    /// Number of rounds since that was reached.
    rounds: u32,
    is_in_doubt: bool,
}

/// The failure of a checkpoint.
enum Failed {
    /// No page counts as moved that wasn't.
    ToMove(Error),
    /// Pages that count as moved may never reach the disk, even if the next sync succeeds
    /// (<https://lwn.net/Articles/752063/>).
    ToSync(Error),
}

impl Checkpoints {
    pub(super) fn new(readers: Arc<Readers>, counters: Arc<Counters>) -> Self {
        Self {
            readers,
            counters,
            conn: None,
            round: None,
            pages: 0,
            due_at: CHECKPOINT_PAGES,
            rounds: 0,
            is_in_doubt: false,
        }
    }

    /// Runs what the WAL needs after a commit. After an error that isn't of the files, the next
    /// call tries again.
    pub(super) fn after_commit(&mut self, writer: &GuardedConnection) -> Result<()> {
        if self.round.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_round()?;
        }
        let pages = pages_in_wal(writer)?;
        if pages < self.pages {
            // A commit has restarted the WAL.
            self.due_at = CHECKPOINT_PAGES;
            self.rounds = 0;
        }
        self.pages = pages;
        if pages < self.due_at {
            return Ok(());
        }
        if pages >= self.due_at + WAIT_PAGES {
            self.end_round()?;
        } else if self.round.is_some() {
            return Ok(());
        } else if self.rounds < ROUNDS {
            self.rounds += 1;
            // Another process may have failed to write pages that count as moved. The kernel
            // reports failures since a descriptor was opened, and the writer's is as old as the
            // store.
            self.judge(sync_database(&writer.unguarded()).map_err(Failed::ToSync))?;
            if self.begin_round() {
                return Ok(());
            }
        }
        self.due_at = pages + RETRY_PAGES;
        self.rounds = 0;
        self.judge(checkpoint(writer, "PASSIVE", &self.counters).map(drop))
    }

    /// Moves the whole WAL into the database and truncates it. Fails with `Busy` if a reader or
    /// another process is in the way.
    pub(super) fn truncate_wal(&mut self, writer: &GuardedConnection) -> Result<()> {
        self.end_round()?;
        let truncated = checkpoint(writer, "TRUNCATE", &self.counters).and_then(|is_complete| {
            let busy = || {
                Error::new(
                    ErrorKind::Busy,
                    "a read in progress prevents the log from being truncated",
                )
            };
            if is_complete { Ok(()) } else { Err(Failed::ToMove(busy())) }
        });
        self.judge(truncated)
    }

    /// Waits for the round in progress.
    fn end_round(&mut self) -> Result<()> {
        let Some(round) = self.round.take() else { return Ok(()) };
        let moved = match round.join() {
            Ok((conn, moved)) => {
                self.conn = Some(conn);
                moved
            }
            Err(_) => Err(Failed::ToMove(Error::new(ErrorKind::Internal, "a checkpoint panicked"))),
        };
        self.judge(moved)
    }

    /// Waits for the round in progress, and closes the connection: the writer's must be the last,
    /// which removes the WAL.
    pub(super) fn close(&mut self) -> Result<()> {
        let ended = self.end_round();
        self.conn = None;
        ended
    }

    /// Returns whether pages that count as moved may not be on the disk. Then the WAL must not be
    /// truncated.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// Begins a round. Returns `false` if no connection or no thread is available.
    fn begin_round(&mut self) -> bool {
        let Some(conn) = self.take_connection() else { return false };
        let counters = Arc::clone(&self.counters);
        let round = move || {
            let moved = checkpoint(&conn, "PASSIVE", &counters).map(drop);
            (conn, moved)
        };
        self.round =
            thread::Builder::new().name("tenantry-checkpoint".to_owned()).spawn(round).ok();
        self.round.is_some()
    }

    fn take_connection(&mut self) -> Option<GuardedConnection> {
        self.conn.take().or_else(|| self.readers.open().ok())
    }

    fn judge(&mut self, moved: Result<(), Failed>) -> Result<()> {
        match moved {
            Ok(()) => Ok(()),
            Err(Failed::ToMove(error)) => Err(error),
            Err(Failed::ToSync(error)) => {
                self.is_in_doubt = true;
                // Nor may another process restart the WAL while this store is open: a read
                // transaction prevents that.
                self.conn = self.take_connection();
                if let Some(conn) = &self.conn {
                    let _ = conn
                        .unguarded()
                        .execute_batch("BEGIN; SELECT count(*) FROM tenantry_store");
                }
                Err(error)
            }
        }
    }
}

/// Returns the number of pages in the WAL, moved or not.
fn pages_in_wal(conn: &GuardedConnection) -> Result<i64> {
    Ok(conn.unguarded().query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?)
}

/// Runs a checkpoint in one of SQLite's modes, and syncs the database. Returns whether it was
/// complete for its mode: `PASSIVE` leaves the pages that a reader needs.
fn checkpoint(conn: &GuardedConnection, how: &str, counters: &Counters) -> Result<bool, Failed> {
    let began = Instant::now();
    let moved = move_pages(conn, how);
    counters.count_checkpoint(began.elapsed());
    moved
}

fn move_pages(conn: &GuardedConnection, how: &str) -> Result<bool, Failed> {
    let conn = conn.unguarded();
    let moved = conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| row.get(0));
    let is_busy: bool = moved.map_err(|error: rusqlite::Error| {
        Failed::ToMove(with_quota_as_full(&conn, error.into()))
    })?;
    // Some pages may have been moved even so.
    sync_database(&conn).map_err(Failed::ToSync)?;
    Ok(!is_busy)
}

/// Syncs the database file through SQLite's own descriptor: closing another descriptor of the file
/// would release all locks of the process on it.
fn sync_database(conn: &Connection) -> Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    #[allow(unsafe_code, reason = "rusqlite has no safe interface to the file of a connection")]
    // SAFETY: the connection is borrowed and used by no other thread, so its file stays open.
    // For this operation SQLite returns a pointer to it (<https://sqlite.org/c3ref/file.html>), and
    // each open file has its methods.
    let code = unsafe {
        let code = ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        );
        let methods = if file.is_null() { None } else { (*file).pMethods.as_ref() };
        match methods.and_then(|methods| methods.xSync) {
            Some(sync) if code == ffi::SQLITE_OK => sync(file, ffi::SQLITE_SYNC_NORMAL),
            _ => ffi::SQLITE_IOERR,
        }
    };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into())
    }
}
