//! Moving the log into the database: checkpoints (<https://sqlite.org/wal.html>, section 2.1).
//!
//! Left to itself SQLite has a commit do it, and all callers wait meanwhile: each page goes to a place of its own, so to move
//! 2,000 takes as long as twenty commits. Here a thread of its own moves them in *rounds* beside the commits, which make
//! the log longer meanwhile, but each round has less left to move than the one before. After a few the writer's thread moves
//! the rest between two commits, and the next begins the log anew.
//!
//! A round waits for the disk itself. SQLite doesn't when it has moved only a part, so that everything would be left to
//! the last step. If the disk fails, then nothing may be moved any more: what is counted as moved may have been lost, and
//! is still in the log, from which the next opening moves all of it again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, ffi};

use super::error::Fault;
use super::guard::GuardedConnection;
use super::readers::Readers;
use crate::{Error, ErrorKind, Result};

/// After how many pages in the log they are moved: 32 MB. With fewer, pages that change often are moved more often.
const PAGES: u32 = 8_000;
/// How many rounds there are before the writer's thread moves the rest.
const ROUNDS: u32 = 4;
/// After how many pages more the writer's thread waits for a round, and moves the rest whatever it is. So the log is
/// bounded where commits are faster than the disk moves pages.
const WAIT_PAGES: u32 = 8_000;

pub(super) struct Checkpoints {
    /// Opens the connection, when it is needed for the first time.
    readers: Arc<Readers>,
    conn: Option<GuardedConnection>,
    /// The thread of a round, which has the connection meanwhile.
    round: Option<JoinHandle<(GuardedConnection, Result<()>)>>,
    /// How many pages were in the log after the last commit.
    pages: u32,
    /// At how many the next are moved.
    due_at: u32,
    /// How many rounds there were since then.
    rounds: u32,
    has_failed: bool,
}

impl Checkpoints {
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        Self { readers, conn: None, round: None, pages: 0, due_at: PAGES, rounds: 0, has_failed: false }
    }

    /// Does what the log needs after a commit. The error is of the files, or tells that the disk is full: then nothing is
    /// lost and it is tried again.
    pub(super) fn after_commit(&mut self, writer: &GuardedConnection) -> Result<()> {
        if self.round.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_round()?;
        }
        let pages = pages_in_log(writer)?;
        if pages < self.pages {
            // It was begun anew.
            self.due_at = PAGES;
            self.rounds = 0;
        }
        self.pages = pages;
        if pages < self.due_at {
            return Ok(());
        }
        if pages >= self.due_at.saturating_add(WAIT_PAGES) {
            self.end_round()?;
        } else if self.round.is_some() || (self.rounds < ROUNDS && self.begin_round()) {
            return Ok(());
        }
        // A reader may need what is in the log for long, so that it goes on to grow: to try at every commit would be in vain.
        self.due_at = pages.saturating_add(PAGES);
        self.rounds = 0;
        let moved = move_pages(writer);
        self.note(moved)
    }

    /// Waits for the round that is under way.
    pub(super) fn end_round(&mut self) -> Result<()> {
        let Some(round) = self.round.take() else { return Ok(()) };
        let moved = match round.join() {
            Ok((conn, moved)) => {
                self.conn = Some(conn);
                moved
            }
            Err(_) => Err(Error::new(ErrorKind::Internal, "a panic while the log was moved into the database")),
        };
        self.note(moved)
    }

    /// Waits for the round that is under way, and closes the connection: the writer's is to be the last, which removes the log.
    pub(super) fn close(&mut self) -> Result<()> {
        let ended = self.end_round();
        self.conn = None;
        ended
    }

    /// Whether what is counted as moved may have been lost: then nobody may cut the log.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Answers `false` if there is no connection or no thread to be had.
    fn begin_round(&mut self) -> bool {
        let Some(conn) = self.conn.take().or_else(|| self.readers.open().ok()) else { return false };
        let round = move || {
            let moved = move_pages(&conn).and_then(|()| sync_database(&conn.unguarded()));
            (conn, moved)
        };
        self.round = thread::Builder::new().name("tenantry-checkpoint".to_owned()).spawn(round).ok();
        self.rounds += 1;
        self.round.is_some()
    }

    fn note(&mut self, moved: Result<()>) -> Result<()> {
        self.has_failed |= moved.as_ref().is_err_and(|error| Fault::of(error) == Fault::OfTheFiles);
        moved
    }
}

/// How many pages are in the log, be they moved or not.
fn pages_in_log(conn: &GuardedConnection) -> Result<u32> {
    let conn = conn.unguarded();
    let mut statement = conn.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
    Ok(statement.query_row([], |row| row.get(1))?)
}

/// Moves what no reader needs where it is. If another process is at it, it is left to that.
fn move_pages(conn: &GuardedConnection) -> Result<()> {
    let conn = conn.unguarded();
    let mut statement = conn.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
    Ok(statement.query_row([], |_| Ok(()))?)
}

/// Waits until the database file is on the disk, through SQLite's own descriptor: to close one of our own would give up all
/// of the process's locks on the file.
fn sync_database(conn: &Connection) -> Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    #[allow(unsafe_code, reason = "rusqlite has no safe interface to the file of a connection")]
    // SAFETY: the connection is borrowed and used by no other thread, so its file stays open. SQLite answers
    // this operation with a pointer to it (<https://sqlite.org/c3ref/file.html>), and each file that is open has its methods.
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
