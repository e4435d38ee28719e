//! Moving the log into the database: checkpoints (<https://sqlite.org/wal.html>, section 2.1).
//!
//! Left to itself SQLite has a commit do it, and all callers wait meanwhile: each page goes to a
//! place of its own, so to move 2,000 takes as long as twenty commits. Here a thread of its own
//! moves them in *rounds* beside the commits, which make the log longer meanwhile, but each round
//! has less left to move than the one before. After a few the writer's thread moves the rest
//! between two commits, and the next begins the log anew.
//!
//! Whoever moves pages waits for the disk too. SQLite itself does only when all of the log was
//! moved, and would leave the whole wait to the last step. If that wait fails, what is counted as
//! moved may never get to the disk: then no more is moved, and the log is kept, from which the next
//! opening moves everything again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::{Connection, ffi};

use super::error::with_quota_as_full;
use super::guard::GuardedConnection;
use super::readers::Readers;
use crate::engine::metrics::Counters;
use crate::{Error, ErrorKind, Result};

/// After how many pages in the log they are moved: 32 MB. With fewer, pages that change often are
/// moved more often; with more the log takes more room, and longer to recover after a crash.
const CHECKPOINT_PAGES: i64 = 8_000;
/// How many rounds there are before the writer's thread moves the rest. Each has about a third of
/// the one before, so that few pages are left then.
const ROUNDS: u32 = 4;
/// After how many pages more the writer's thread waits for a round, and moves the rest whatever it
/// is. So the log is bounded where commits are faster than the disk moves pages. Both together are
/// what is kept of the log's file.
const WAIT_PAGES: i64 = 8_000;
/// After how many pages more it is tried again if a reader needed what is in the log: often enough
/// for it not to get much longer than it has to, and not at every commit, since a reader may take
/// an hour.
const RETRY_PAGES: i64 = 1_000;

pub(super) struct Checkpoints {
    /// Opens the connection, when it is needed for the first time.
    readers: Arc<Readers>,
    counters: Arc<Counters>,
    conn: Option<GuardedConnection>,
    /// The thread of a round, which has the connection meanwhile.
    round: Option<JoinHandle<(GuardedConnection, Result<(), Failed>)>>,
    /// How many pages were in the log after the last commit.
    pages: i64,
    /// At how many the next are moved.
    due_at: i64,
    /// How many rounds there were since that was reached.
    rounds: u32,
    is_in_doubt: bool,
}

/// Why pages weren't moved.
enum Failed {
    /// Nothing that wasn't moved is counted as moved.
    ToMove(Error),
    /// What is counted as moved may not get to the disk, though the next wait for it should succeed
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

    /// Does what the log needs after a commit. An error that isn't of the files changes nothing: it
    /// is tried again.
    pub(super) fn after_commit(&mut self, writer: &GuardedConnection) -> Result<()> {
        if self.round.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_round()?;
        }
        let pages = pages_in_wal(writer)?;
        if pages < self.pages {
            // It was begun anew.
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
            // Another process may have failed to write what it has counted. A descriptor is told of
            // failures since it was opened, and the writer's is as old as the store.
            self.judge(sync_database(&writer.unguarded()).map_err(Failed::ToSync))?;
            if self.begin_round() {
                return Ok(());
            }
        }
        self.due_at = pages + RETRY_PAGES;
        self.rounds = 0;
        self.judge(checkpoint(writer, "PASSIVE", &self.counters).map(drop))
    }

    /// Moves all of the log into the database and truncates it. `Busy` if a reader is in the way,
    /// or another process.
    pub(super) fn truncate_wal(&mut self, writer: &GuardedConnection) -> Result<()> {
        self.end_round()?;
        let truncated = checkpoint(writer, "TRUNCATE", &self.counters).and_then(|is_complete| {
            let busy = || Error::new(ErrorKind::Busy, "a read that is under way keeps the log from being cut");
            if is_complete { Ok(()) } else { Err(Failed::ToMove(busy())) }
        });
        self.judge(truncated)
    }

    /// Waits for the round that is under way.
    fn end_round(&mut self) -> Result<()> {
        let Some(round) = self.round.take() else { return Ok(()) };
        let moved = match round.join() {
            Ok((conn, moved)) => {
                self.conn = Some(conn);
                moved
            }
            Err(_) => Err(Failed::ToMove(Error::new(
                ErrorKind::Internal,
                "a panic while the log was moved into the database",
            ))),
        };
        self.judge(moved)
    }

    /// Waits for the round that is under way, and closes the connection: the writer's is to be the
    /// last, which removes the log.
    pub(super) fn close(&mut self) -> Result<()> {
        let ended = self.end_round();
        self.conn = None;
        ended
    }

    /// Whether what is counted as moved may not be on the disk: then nobody may truncate the log.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// Answers `false` if there is no connection or no thread to be had.
    fn begin_round(&mut self) -> bool {
        let Some(conn) = self.take_connection() else { return false };
        let counters = Arc::clone(&self.counters);
        let round = move || {
            let moved = checkpoint(&conn, "PASSIVE", &counters).map(drop);
            (conn, moved)
        };
        self.round = thread::Builder::new().name("tenantry-checkpoint".to_owned()).spawn(round).ok();
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
                // Nor may another process begin the log anew for as long as this store is open: a
                // reader keeps it from that.
                self.conn = self.take_connection();
                if let Some(conn) = &self.conn {
                    let _ = conn.unguarded().execute_batch("BEGIN; SELECT count(*) FROM tenantry_store");
                }
                Err(error)
            }
        }
    }
}

/// How many pages are in the log, be they moved or not.
fn pages_in_wal(conn: &GuardedConnection) -> Result<i64> {
    Ok(conn.unguarded().query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?)
}

/// Moves pages in one of SQLite's ways, and waits for the disk. Answers whether it did all that
/// this way is to do: `PASSIVE` leaves what a reader needs where it is.
fn checkpoint(conn: &GuardedConnection, how: &str, counters: &Counters) -> Result<bool, Failed> {
    let began = Instant::now();
    let moved = move_pages(conn, how);
    counters.count_checkpoint(began.elapsed());
    moved
}

fn move_pages(conn: &GuardedConnection, how: &str) -> Result<bool, Failed> {
    let conn = conn.unguarded();
    let moved = conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| row.get(0));
    let is_busy: bool =
        moved.map_err(|error: rusqlite::Error| Failed::ToMove(with_quota_as_full(&conn, error.into())))?;
    // A part may have been moved.
    sync_database(&conn).map_err(Failed::ToSync)?;
    Ok(!is_busy)
}

/// Waits until the database file is on the disk, through SQLite's own descriptor: to close one of
/// our own would give up all of the process's locks on the file.
fn sync_database(conn: &Connection) -> Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    #[allow(unsafe_code, reason = "rusqlite has no safe interface to the file of a connection")]
    // SAFETY: the connection is borrowed and used by no other thread, so its file stays open.
    // SQLite answers this operation with a pointer to it (<https://sqlite.org/c3ref/file.html>),
    // and each file that is open has its methods.
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
