//! Reads a whole store for a check, through a connection that changes nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use uuid::Uuid;

use super::busy_timeout::{LOCK_POLL, wait_while_busy};
use super::files::{database_in, with_suffix};
use super::open::connect::open_reader;
use super::open::identify::{check_current, identity};
use super::rows::storage_path;
use super::tx::Snapshot;
use crate::domain::directory::PathState;
use crate::domain::intent::Intent;
use crate::ops::directories::user_of_orphan;
use crate::ops::paths::{is_orphan, is_trashed_directory, path_state};
use crate::options::{DEFAULT_BUSY_TIMEOUT, Options};
use crate::storage::{Orphan, Storage, file_error};
use crate::{Email, ErrorKind, Result, StoragePath, UserId};

/// The partial indexes, with their tables and conditions. SQLite's integrity check looks up each
/// row in the index, but doesn't find superfluous entries of a partial index.
const PARTIAL_INDEXES: [(&str, &str, &str); 7] = [
    ("users", "users_email_key", "deleted_at IS NULL"),
    ("users", "users_storage_path", "storage_path IS NOT NULL"),
    ("users", "users_deletion_seq", "deletion_seq IS NOT NULL"),
    ("users", "users_deleted_email_key", "deleted_at IS NOT NULL"),
    ("users", "users_skeleton", "skeleton IS NOT NULL"),
    ("users", "tenantry_users_external_id", "external_id IS NOT NULL AND deleted_at IS NULL"),
    ("tenantry_retired_users", "tenantry_retired_users_storage_path", "storage_path IS NOT NULL"),
];

/// A store that is only read: opening it executes no intents, and upgrades and creates nothing.
pub(crate) struct Inspection {
    pub(super) conn: Connection,
    /// The version of the schema that an image had before it was upgraded.
    pub(super) version: Option<u32>,
}

/// A user, in the trash or not.
pub(crate) struct Row {
    pub(crate) id: UserId,
    /// Whether the address is acceptable, and the key is its key.
    pub(crate) key_fits: bool,
    /// `None` if the column holds no storage path.
    pub(crate) path: Option<StoragePath>,
    pub(crate) has_directory: bool,
    pub(crate) is_trashed: bool,
}

impl Inspection {
    /// Opens a store to read it.
    ///
    /// # Errors
    ///
    /// Those of opening a store; `Incompatible` if it has to be upgraded first.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        check_current(options)?;
        let leaves_log = std::fs::metadata(with_suffix(&database_in(&options.data_dir), "-wal"))
            .is_ok_and(|log| log.len() > 0);
        let conn = open_reader(options)?;
        if leaves_log {
            // A checkpoint would be a change.
            conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        Ok(Self { conn, version: None })
    }

    /// Begins a pass over the present state of the store. With `holding` it takes the write lock,
    /// so that no process moves a directory, unless other processes keep the lock for too long.
    pub(crate) fn begin_pass(&self, holding: bool) -> Result<()> {
        self.end_pass()?;
        if holding && self.lock()? {
            return Ok(());
        }
        Ok(self.conn.execute_batch("BEGIN")?)
    }

    /// Takes the write lock as writers do, and returns whether it did. Writes nothing.
    fn lock(&self) -> Result<bool> {
        self.conn.execute_batch("PRAGMA query_only = OFF; PRAGMA busy_timeout = 0")?;
        let deadline = Instant::now() + DEFAULT_BUSY_TIMEOUT;
        let begun = wait_while_busy(deadline, || Ok(self.conn.execute_batch("BEGIN IMMEDIATE")?));
        let locked = match begun {
            // No process writes a store that can't be written.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Busy | ErrorKind::ReadOnly | ErrorKind::PermissionDenied
                ) =>
            {
                Ok(false)
            }
            begun => begun.map(|()| true),
        };
        self.conn.execute_batch("PRAGMA query_only = ON")?;
        self.conn.busy_timeout(DEFAULT_BUSY_TIMEOUT)?;
        locked
    }

    /// Ends the pass, if one has begun.
    pub(crate) fn end_pass(&self) -> Result<()> {
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        Ok(())
    }

    /// Waits until all of these intents are executed, at most for this long.
    pub(crate) fn wait_for(&self, seqs: &[i64], timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // Even if there are none: a writer that waits for the lock gets a turn.
            thread::sleep(3 * LOCK_POLL);
            let left = self.intents()?;
            if Instant::now() >= deadline || !left.iter().any(|intent| seqs.contains(&intent.seq)) {
                return Ok(());
            }
        }
    }

    /// Returns the primitives by which the rules read.
    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.conn)
    }

    /// Returns the store's id, and whether `storage/` has its marker. `None` if the store was never
    /// opened for writing.
    pub(crate) fn identity(&self) -> Result<Option<(Uuid, bool)>> {
        identity(&self.conn)
    }

    pub(crate) fn schema_version(&self) -> Result<u32> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        Ok(self.conn.query_row("PRAGMA user_version", [], |row| row.get(0))?)
    }

    /// Returns whether a path within the data directory is the directory of a user, in the trash or
    /// not.
    pub(crate) fn is_user_directory(&self, path: &Path) -> Result<bool> {
        let state = match Storage::orphan(path) {
            Some(Orphan::InStorage(path)) => {
                path.to_str().map(|path| self.path_state(path)).transpose()?
            }
            Some(Orphan::InTrash(name)) => return is_trashed_directory(&self.snapshot(), &name),
            None => None,
        };
        Ok(matches!(state, Some(PathState::Owned { has_directory: true, .. })))
    }

    /// Returns the findings of SQLite's own integrity check.
    pub(crate) fn damages(&self) -> Result<Vec<String>> {
        let mut statement = self.conn.prepare("PRAGMA integrity_check")?;
        let lines: Vec<String> =
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut damages: Vec<String> = lines.into_iter().filter(|line| line != "ok").collect();
        if damages.is_empty() {
            for (table, index, condition) in PARTIAL_INDEXES {
                let counts = format!(
                    "SELECT (SELECT count(*) FROM {table} WHERE +{condition}),
                            (SELECT count(*) FROM {table} INDEXED BY {index} WHERE {condition})"
                );
                let (rows, entries): (i64, i64) =
                    self.conn.query_row(&counts, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if rows != entries {
                    damages.push(format!("{entries} instead of {rows} entries in index {index}"));
                }
            }
        }
        Ok(damages)
    }

    /// Returns the rows whose foreign keys refer to missing rows.
    pub(crate) fn dangling_references(&self) -> Result<Vec<String>> {
        let mut statement = self.conn.prepare("PRAGMA foreign_key_check")?;
        let found = statement.query_map([], |row| {
            let (table, row_id, parent) =
                (row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?);
            let row_id =
                row_id.map_or_else(|| "a row".to_owned(), |row_id| format!("row {row_id}"));
            Ok(format!("{row_id} of {table} refers to a row of {parent} that isn't there"))
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// Visits every user, in the trash or not.
    pub(crate) fn each_row(&self, mut visit: impl FnMut(Row) -> Result<()>) -> Result<()> {
        let mut statement = self
            .conn
            .prepare("SELECT id, email, email_key, storage_path, has_directory, deleted_at IS NOT NULL FROM users")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = UserId::from_random(Uuid::from_bytes(row.get(0)?));
            let (email, key) = (row.get_ref(1)?, row.get_ref(2)?);
            let email = email.as_str().ok().and_then(|email| Email::parse_accepted(email).ok());
            visit(Row {
                id,
                key_fits: email
                    .is_some_and(|email| key.as_str().is_ok_and(|key| key == email.key())),
                path: storage_path(id, row.get_ref(3)?, 3).ok(),
                has_directory: row.get(4)?,
                is_trashed: row.get(5)?,
            })?;
        }
        Ok(())
    }

    pub(crate) fn intents(&self) -> Result<Vec<Intent>> {
        self.snapshot().intents()
    }

    pub(crate) fn path_state(&self, path: &str) -> Result<PathState> {
        path_state(&self.snapshot(), path)
    }

    /// Returns whether a user's directory isn't at its place, and no intent is about to move it.
    pub(crate) fn is_lost(&self, storage: &Storage, id: UserId) -> Result<bool> {
        let living = self.snapshot().directory(id)?;
        let is_trashed = living.is_none();
        let directory = if is_trashed { self.snapshot().trashed_directory(id)? } else { living };
        let Some(directory) = directory.filter(|directory| directory.has_directory) else {
            return Ok(false);
        };
        let is_on_its_way = self.snapshot().intent_of(id)?.is_some();
        let is_in_place = matches!(storage.exists(&directory.path), Ok(true));
        let is_in_trash = storage
            .is_in_trash(id)
            .map_err(|error| file_error(error, "the trash can't be read"))?;
        Ok(!match (is_on_its_way, is_trashed) {
            (true, _) => is_in_place || is_in_trash,
            (false, true) => is_in_trash,
            (false, false) => is_in_place,
        })
    }

    /// Returns whether a path within the data directory is an orphan now, and no intent is about to
    /// move it.
    pub(crate) fn is_orphaned(&self, storage: &Storage, path: &Path) -> Result<bool> {
        let tx = self.snapshot();
        let user =
            Storage::orphan(path).map(|orphan| user_of_orphan(&tx, &orphan)).transpose()?.flatten();
        let is_on_its_way = user.map(|user| tx.intent_of(user)).transpose()?.flatten().is_some();
        Ok(!is_on_its_way && is_orphan(&tx, storage, path)?)
    }

    /// Returns whether a user's row lacks the record of their directory, and no intent is about to
    /// record it.
    pub(crate) fn is_unrecorded(&self, id: UserId) -> Result<bool> {
        let directory = self.snapshot().directory(id)?;
        let is_known = directory.is_none_or(|directory| directory.has_directory);
        Ok(!is_known && self.snapshot().intent_of(id)?.is_none())
    }

    /// Returns whether a name in `trash/` is that of a user in the trash who has a directory.
    pub(crate) fn is_trashed_directory(&self, name: &OsStr) -> Result<bool> {
        is_trashed_directory(&self.snapshot(), name)
    }
}
