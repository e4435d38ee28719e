//! The writer's connection: how transactions begin and end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::busy_timeout::wait_while_busy;
use super::checkpoints::Checkpoints;
use super::error::{is_shared_memory_failure, with_quota_as_full};
use super::followers::Followers;
use super::guard::{GuardedConnection, Unguarded};
use super::rows::changes::{self, Retention};
use super::rows::intents;
use super::tx::{Tx, TxState};
use crate::data_dir::lock::Lock;
use crate::data_dir::watch::Watch;
use crate::engine::metrics::Counters;
use crate::options::Options;
use crate::storage::Storage;
use crate::{Ambient, Durability, Error, ErrorKind, Result, failpoint};

/// Which changes the feed keeps: those of 30 days, so that a consumer that is switched off over a
/// holiday goes on where it was; and a million, which is 40 MB, so that a consumer of a quiet store
/// never has to list its users again, and the history of a user goes back far.
const RETENTION: Retention =
    Retention { age: Duration::from_secs(30 * 24 * 3_600), count: 1_000_000, step: 2_048 };
/// After so many changes the oldest are removed: half as many as may be removed then, so that the
/// feed doesn't grow beyond the retention. To remove them with each group would cost each a page.
const CHANGES_BETWEEN_TRIMS: usize = 1_024;

/// How a transaction ended.
pub(super) enum Ended {
    Committed,
    /// Rolled back before the commit, so nothing was written; with the cause, unless it is that of
    /// the operation.
    Undone(Option<Error>),
    /// The transaction couldn't be committed, so nothing was written.
    Refused(Error),
    /// The commit failed otherwise.
    Unknown(Error),
}

impl Ended {
    /// Returns the outcome for the members of the group.
    pub(super) fn result(&self) -> Result<()> {
        match self {
            Self::Committed => Ok(()),
            Self::Undone(Some(error)) | Self::Refused(error) | Self::Unknown(error) => {
                Err(error.clone())
            }
            Self::Undone(None) => {
                Err(Error::new(ErrorKind::Internal, "the transaction was rolled back"))
            }
        }
    }
}

pub(super) struct Transactions {
    pub(super) conn: GuardedConnection,
    pub(super) options: Options,
    pub(super) ambient: Arc<dyn Ambient>,
    watch: Arc<Watch>,
    pub(super) storage: Arc<Result<Storage>>,
    /// Why writes are refused, if they are.
    pub(super) refusal: Option<Error>,
    /// Whether the disk was full at the last write.
    pub(super) was_full: bool,
    pub(super) checkpoints: Checkpoints,
    /// How many changes were written since the oldest were removed.
    untrimmed: usize,
    followers: Arc<Followers>,
    pub(super) counters: Arc<Counters>,
    /// Dropped after the connection is closed.
    _lock: Option<Lock>,
}

impl Transactions {
    #[allow(clippy::too_many_arguments, reason = "each is a part of the writer, made elsewhere")]
    pub(super) fn new(
        conn: Connection,
        options: Options,
        ambient: Arc<dyn Ambient>,
        watch: Arc<Watch>,
        storage: Result<Storage>,
        checkpoints: Checkpoints,
        followers: Arc<Followers>,
        counters: Arc<Counters>,
        lock: Option<Lock>,
    ) -> Result<Self> {
        // `begin` does the waiting.
        conn.busy_timeout(Duration::ZERO)?;
        let conn = GuardedConnection::new(conn)?;
        let (storage, refusal) = (Arc::new(storage), None);
        Ok(Self {
            conn,
            options,
            ambient,
            watch,
            storage,
            refusal,
            was_full: false,
            checkpoints,
            // A process that writes little never comes to so many.
            untrimmed: CHANGES_BETWEEN_TRIMS,
            followers,
            counters,
            _lock: lock,
        })
    }

    /// Refuses all writes, since the file system is read-only.
    pub(super) fn refuse_as_read_only(&mut self) {
        let message = "the store is open for reading only: its file system is read-only";
        self.refusal = Some(Error::new(ErrorKind::ReadOnly, message));
    }

    /// Returns the connection for statements of the store's own.
    pub(super) fn own(&self) -> Unguarded<'_> {
        self.conn.unguarded()
    }

    /// Runs an operation of the store's own in the transaction that has begun.
    pub(super) fn with_tx<T>(
        &self,
        state: &mut TxState,
        operation: impl FnOnce(&mut Tx<'_>) -> T,
    ) -> T {
        let new_id = || self.ambient.new_id();
        operation(&mut Tx::new(&self.own(), &self.storage, self.ambient.now(), &new_id, state))
    }

    /// Begins a transaction, waiting for other processes up to the busy timeout.
    pub(super) fn begin(&mut self, waiting_since: Instant) -> Result<()> {
        if std::mem::take(&mut self.was_full) && self.refusal.is_none() {
            // A WAL that can't grow has to begin anew, and SQLite does that only after a write that
            // worked.
            self.truncate_wal();
        }
        if let Some(error) = &self.refusal {
            return Err(error.clone());
        }
        self.wait_while_busy(waiting_since, || Ok(self.conn.begin()?))?;
        self.watch.check().inspect_err(|error| {
            self.roll_back();
            self.latch(error);
        })
    }

    /// Begins the transaction of a job that may execute intents itself, and returns up to which
    /// number they are durable.
    pub(super) fn begin_alone(&mut self, waiting_since: Instant) -> Result<i64> {
        let mut durable_intents = 0;
        if self.refusal.is_none() && intents::are_any_quick(&self.own())? {
            durable_intents = self.sync_wal(waiting_since)?;
        }
        self.begin(waiting_since)?;
        Ok(durable_intents)
    }

    pub(super) fn wait_while_busy(
        &self,
        waiting_since: Instant,
        attempt: impl Fn() -> Result<()>,
    ) -> Result<()> {
        wait_while_busy(waiting_since + self.options.busy_timeout, attempt)
    }

    /// Commits a group of writes.
    pub(super) fn commit(&mut self, state: &TxState) -> Ended {
        if let Err(error) = self.trim_changes(state) {
            return self.undo(Ended::Undone(Some(self.with_errno(error))));
        }
        failpoint::reach("commit: the rows");
        let error = match self.conn.commit() {
            // A commit is worth nothing if the files were removed before it.
            Ok(()) => match self.watch.check() {
                Ok(()) => {
                    self.counters.count_commit();
                    self.count_changes(state);
                    return Ended::Committed;
                }
                Err(error) => {
                    self.latch(&error);
                    return Ended::Undone(Some(error));
                }
            },
            Err(error) => self.with_errno(error.into()),
        };
        self.roll_back();
        match error.kind() {
            ErrorKind::Constraint => return Ended::Refused(error),
            // The frame that makes it a transaction is the last to be written, and it wasn't.
            ErrorKind::Full if !is_shared_memory_failure(&error) => {
                self.latch(&error);
                return Ended::Undone(Some(error));
            }
            _ => {}
        }
        tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
        self.latch(&error);
        let message = "the commit failed; whether the change was written is known only after the store is opened again";
        Ended::Unknown(Error::new(ErrorKind::OutcomeUnknown, message).with_source(error))
    }

    /// Commits a transaction that records a change of the file system.
    pub(super) fn commit_step(&mut self, point: &'static str) -> Result<()> {
        failpoint::reach(point);
        self.conn.commit()?;
        self.counters.count_commit();
        Ok(())
    }

    /// Commits the end of a purge, of which the files are gone.
    pub(super) fn commit_purge(&mut self, state: &TxState) -> Result<()> {
        self.trim_changes(state)?;
        self.commit_step("commit: a purge is done")?;
        self.count_changes(state);
        Ok(())
    }

    /// Removes some of the oldest changes from the feed, if so many were added that it is time.
    fn trim_changes(&mut self, state: &TxState) -> Result<()> {
        self.untrimmed = self.untrimmed.saturating_add(state.changes.len());
        if state.changes.is_empty() || self.untrimmed < CHANGES_BETWEEN_TRIMS {
            return Ok(());
        }
        // A large transaction removes in proportion, or the feed would grow with each of them.
        let added = i64::try_from(self.untrimmed).unwrap_or(i64::MAX);
        let step = RETENTION.step.max(added.saturating_mul(2));
        let retention = Retention { step, ..RETENTION };
        changes::trim(&self.conn.unguarded(), self.ambient.now(), &retention)?;
        self.untrimmed = 0;
        Ok(())
    }

    /// Counts the changes that were committed, and has them noticed.
    fn count_changes(&self, state: &TxState) {
        if state.changes.is_empty() {
            return;
        }
        self.followers.committed();
        state.changes.iter().for_each(|(kind, is_brought_back)| {
            self.counters.count_change(*kind, *is_brought_back)
        });
    }

    pub(super) fn undo(&mut self, ended: Ended) -> Ended {
        self.roll_back();
        if let Ended::Undone(Some(error)) = &ended {
            self.latch(error);
        }
        ended
    }

    pub(super) fn roll_back(&mut self) {
        let rolled_back = self.conn.roll_back();
        if let Err(error) = rolled_back {
            self.refuse_writes(&error.into());
        }
    }

    /// Returns the failure of a statement as the errno of the system qualifies it.
    pub(super) fn with_errno(&self, error: Error) -> Error {
        with_quota_as_full(&self.own(), error)
    }

    /// Makes all committed transactions durable if commits don't do that.
    pub(super) fn sync_if_needed(&mut self, is_needed: bool) -> Result<()> {
        if is_needed || self.options.durability == Durability::Normal {
            self.sync_wal(Instant::now())?;
        }
        Ok(())
    }

    /// Makes all committed transactions durable, whatever the `Durability`, so that no change of
    /// the file system reaches the disk before its intent. A commit with `synchronous=FULL` waits
    /// for the WAL up to it. Returns the number of the last durable intent.
    pub(super) fn sync_wal(&mut self, waiting_since: Instant) -> Result<i64> {
        self.own().execute_batch("PRAGMA synchronous = FULL")?;
        let synced = self.begin(waiting_since).and_then(|()| {
            let last = intents::last(&self.own())?;
            self.own().execute_batch("UPDATE tenantry_store SET log_syncs = log_syncs + 1")?;
            self.commit_step("commit: what came before is on the disk")?;
            Ok(last)
        });
        let synced = synced.map_err(|error| self.with_errno(error));
        if let Err(error) = &synced {
            self.fail(error);
        }
        if self.options.durability == Durability::Normal {
            self.own().execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        synced
    }

    /// Runs a checkpoint if the WAL is long.
    pub(super) fn checkpoint_if_due(&mut self) {
        if self.refusal.is_some() {
            return;
        }
        if let Err(error) = self.checkpoints.after_commit(&self.conn) {
            self.checkpoint_failed(&error);
        }
    }

    /// Moves the WAL into the database and truncates it, if no reader is in the way.
    fn truncate_wal(&mut self) {
        match self.checkpoints.truncate_wal(&self.conn) {
            Err(error) if error.kind() != ErrorKind::Busy => self.checkpoint_failed(&error),
            _ => {}
        }
    }

    /// Runs the last checkpoint, if that is safe, before the connection is closed.
    pub(super) fn close(mut self) {
        if let Err(error) = self.checkpoints.close() {
            self.checkpoint_failed(&error);
        }
        let are_there = self.watch.check().inspect_err(|error| {
            tracing::warn!(error = error as &dyn std::error::Error, "closed without a checkpoint");
        });
        if are_there.is_ok() && !self.checkpoints.is_in_doubt() {
            // A read in progress may prevent the truncation; then the next process that opens the
            // store truncates it.
            self.truncate_wal();
        }
        // If the files were removed, a checkpoint would overwrite files that have their names by
        // now. And the attempt to truncate the WAL may have failed just now.
        if are_there.is_err() || self.checkpoints.is_in_doubt() {
            let _ = self.own().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}
