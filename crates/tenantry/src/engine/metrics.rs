//! The figures of a store: counters on the way, and a snapshot of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::{ChangeKind, ErrorKind};

/// Groups are counted by size: those of 1, of 2 or 3, of 4 to 7, and so on up to the largest that
/// there can be.
const GROUP_SIZES: usize = 11;
/// The place of the changes that were brought back, among the counters of changes.
const BROUGHT_BACK: usize = ChangeKind::ALL.len();

/// The figures of a store since it was opened, and its present state: see
/// [`Store::metrics`](crate::Store::metrics).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Writes that are queued, and callers that wait for a place in the queue.
    pub queue_depth: u64,
    /// The groups of writes that shared one transaction. A closure is a group of one.
    pub groups: Groups,
    /// Transactions that were committed, those included that follow a change of the file system.
    pub commits: u64,
    /// How long the writer's thread worked, in microseconds.
    pub writer_busy_us: u64,
    /// Connections that read just now.
    pub readers_in_use: u64,
    /// The size of the write-ahead log, in bytes.
    pub wal_bytes: u64,
    /// Steps in which pages were moved from the write-ahead log into the database.
    pub checkpoints: u64,
    /// How long they took, in microseconds.
    pub checkpoint_us: u64,
    /// Changes of the file system that are recorded and not executed yet. `None` if that can't be
    /// read, as after [`close`](crate::Store::close).
    pub open_intents: Option<u64>,
    /// The number of the oldest change in the feed. `None` if there is none, or if that can't be
    /// read.
    pub oldest_change: Option<u64>,
    /// The number of the newest change in the feed, likewise.
    pub newest_change: Option<u64>,
    /// Streams that follow the feed just now.
    pub followers: u64,
    /// Operations that failed, by the [name](crate::ErrorKind::name) of the kind of error.
    pub errors: BTreeMap<&'static str, u64>,
    /// Changes of users that were committed, by the [name](ChangeKind::name) of their kind. Those
    /// by which users, or their files, came back out of a backup are not `restored` here but
    /// `brought_back`.
    pub changes: BTreeMap<&'static str, u64>,
}

/// How large the groups of writes were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Groups {
    /// How many groups there were.
    pub count: u64,
    /// How many writes they had in all.
    pub writes: u64,
    /// How many the largest had.
    pub largest: u64,
    /// How many groups had up to so many writes: pairs of the upper bound and the count, without
    /// the empty ones.
    pub by_size: Vec<(u64, u64)>,
}

/// The counters of a store that is open. Counting takes no lock.
pub(crate) struct Counters {
    groups: [AtomicU64; GROUP_SIZES],
    writes: AtomicU64,
    largest_group: AtomicU64,
    commits: AtomicU64,
    writer_busy_us: AtomicU64,
    checkpoints: AtomicU64,
    checkpoint_us: AtomicU64,
    errors: [AtomicU64; ErrorKind::COUNT],
    /// By kind, and then those that were brought back.
    changes: [AtomicU64; ChangeKind::ALL.len() + 1],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            groups: Default::default(),
            writes: AtomicU64::default(),
            largest_group: AtomicU64::default(),
            commits: AtomicU64::default(),
            writer_busy_us: AtomicU64::default(),
            checkpoints: AtomicU64::default(),
            checkpoint_us: AtomicU64::default(),
            errors: std::array::from_fn(|_| AtomicU64::default()),
            changes: Default::default(),
        }
    }
}

impl Counters {
    pub(crate) fn count_group(&self, size: usize) {
        let size = size as u64;
        let bucket = size.checked_ilog2().unwrap_or_default() as usize;
        add(&self.groups[bucket.min(GROUP_SIZES - 1)], 1);
        add(&self.writes, size);
        self.largest_group.fetch_max(size, Ordering::Relaxed);
    }

    pub(crate) fn count_commit(&self) {
        add(&self.commits, 1);
    }

    pub(crate) fn count_change(&self, kind: ChangeKind, is_brought_back: bool) {
        let index = if is_brought_back { BROUGHT_BACK } else { kind.index() };
        add(&self.changes[index], 1);
    }

    pub(crate) fn count_error(&self, kind: ErrorKind) {
        add(&self.errors[kind.index()], 1);
    }

    pub(crate) fn add_writer_time(&self, took: Duration) {
        add(&self.writer_busy_us, micros(took));
    }

    pub(crate) fn count_checkpoint(&self, took: Duration) {
        add(&self.checkpoints, 1);
        add(&self.checkpoint_us, micros(took));
    }

    /// Returns what was counted. The rest is the present state, which the engine knows.
    pub(crate) fn snapshot(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_size = self
            .groups
            .iter()
            .enumerate()
            .map(|(bucket, count)| ((2_u64 << bucket) - 1, read(count)));
        let by_size: Vec<_> = by_size.filter(|(_, count)| *count > 0).collect();
        let errors = self
            .errors
            .iter()
            .enumerate()
            .map(|(index, count)| (ErrorKind::NAMES[index], read(count)));
        let names = ChangeKind::ALL.into_iter().map(ChangeKind::name).chain(["brought_back"]);
        let changes = names.zip(self.changes.iter().map(read));
        Metrics {
            groups: Groups {
                count: by_size.iter().map(|(_, count)| count).sum(),
                writes: read(&self.writes),
                largest: read(&self.largest_group),
                by_size,
            },
            commits: read(&self.commits),
            writer_busy_us: read(&self.writer_busy_us),
            checkpoints: read(&self.checkpoints),
            checkpoint_us: read(&self.checkpoint_us),
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            changes: changes.collect(),
            ..Metrics::default()
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_by_the_power_of_two_that_they_reach() {
        let counters = Counters::default();
        [1, 1, 2, 3, 4, 7, 8, 1_024].into_iter().for_each(|size| counters.count_group(size));
        let groups = counters.snapshot().groups;
        assert_eq!((groups.count, groups.writes, groups.largest), (8, 1_050, 1_024));
        assert_eq!(groups.by_size, [(1, 2), (3, 2), (7, 2), (15, 1), (2_047, 1)]);
    }

    #[test]
    fn errors_are_counted_by_kind_whatever_they_carry() {
        let counters = Counters::default();
        for kind in [
            ErrorKind::VersionMismatch { current: 7 },
            ErrorKind::VersionMismatch { current: 8 },
            ErrorKind::Internal,
        ] {
            counters.count_error(kind);
        }
        assert_eq!(
            counters.snapshot().errors,
            BTreeMap::from([("version_mismatch", 2), ("internal", 1)])
        );
    }
}
