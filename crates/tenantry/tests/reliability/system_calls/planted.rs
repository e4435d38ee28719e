//! The same records with calls left out, as by a program that doesn't make them. Each has to be
//! noticed, but for those that the next one makes up for: these say why.

use std::ops::Range;

use tenantry_testkit::way::Way;

use super::steps::Step;
use super::world::{ARCHIVES, DATA, Op};
use super::{Look, Record, SEED, Scenario, Tally, cut_power};
use crate::share::{report, share};

/// A call that is left out.
struct Planted {
    what: &'static str,
    scenario: Scenario,
    /// In which operations.
    of: Kind,
    left_out: fn(&Waits<'_>) -> bool,
    /// Why it makes no difference, if it doesn't.
    made_up_for: Option<&'static str>,
}

/// A wait for the disk.
struct Waits<'s> {
    /// Of what, from the top on.
    path: &'s str,
    is_all: bool,
    /// How many there were for the same before, in the same operation.
    before: usize,
}

impl Waits<'_> {
    /// For a path in the data directory.
    fn is_in_data(&self, path: &str) -> bool {
        self.in_data() == Some(path)
    }

    fn in_data(&self) -> Option<&str> {
        self.path.strip_prefix(DATA)?.strip_prefix('/')
    }

    /// For a directory below `storage/`, so many levels down.
    fn is_level(&self, level: usize) -> bool {
        self.in_data()
            .and_then(|path| path.strip_prefix("storage/"))
            .map_or(0, |path| path.split('/').count())
            == level
            && self.in_data().is_some_and(|path| path == "storage" || path.starts_with("storage/"))
    }

    /// For something in `quarantine/`, so many levels down.
    fn is_quarantine(&self, level: usize) -> bool {
        self.in_data().is_some_and(|path| {
            path.starts_with("quarantine") && path.split('/').count() == level + 1
        })
    }

    /// For the copy directory of a copy, which is in the trash.
    fn is_copy_directory(&self) -> bool {
        self.in_data().is_some_and(|path| {
            path.starts_with("trash/.tenantry-copy-") && path.split('/').count() == 2
        })
    }

    /// For the directory in which a backup is restored, or one in it.
    fn is_restore(&self, path: &str) -> bool {
        let place = self
            .path
            .split_once(".tenantry-restore-")
            .map(|(_, rest)| rest.split_once('/').unwrap_or((rest, "")));
        place.is_some_and(|(_, rest)| rest == path)
    }
}

/// Operations of a kind.
type Kind = fn(&Op) -> bool;

const CREATION: Kind = |op| matches!(op, Op::Open);
const MAKING: Kind = |op| matches!(op, Op::Storage { user: 0 });
const MAKING_CHOSEN: Kind = |op| matches!(op, Op::Storage { user: 1 });
const DELETION: Kind = |op| matches!(op, Op::Delete { .. });
const RESTORE: Kind = |op| matches!(op, Op::Restore { .. });
const PURGE: Kind = |op| matches!(op, Op::Purge { .. } | Op::PurgeAll);
const ADOPTION: Kind = |op| matches!(op, Op::Adopt { .. });
const REPAIR: Kind = |op| matches!(op, Op::Repair);
const BACKUP: Kind = |op| matches!(op, Op::Backup { .. });
const BACKUP_RESTORE: Kind = |op| matches!(op, Op::RestoreBackup { .. });

fn planted() -> Vec<Planted> {
    let noticed =
        |what, scenario, of, left_out| Planted { what, scenario, of, left_out, made_up_for: None };
    let made_up_for = |why, what, scenario, of, left_out| Planted {
        what,
        scenario,
        of,
        left_out,
        made_up_for: Some(why),
    };
    use Scenario::{
        Backup, Life, Moves, Normal, RecoverAdopt, RecoverDelete, RecoverDeleteOn, RecoverPurge,
        RecoverRestore, RecoverRestoreOn, RecoverStorage, Repair, RepairOn, Upgrade,
    };
    use Way::{Copied, InSteps};
    vec![
        noticed(
            "create: the log's sync",
            Life,
            |op| matches!(op, Op::Create { .. }),
            |waits| waits.is_in_data("tenantry.db-wal"),
        ),
        noticed("open: the directory above the data directory", Life, CREATION, |waits| {
            waits.path == "srv/app"
        }),
        noticed("open: one further up", Life, CREATION, |waits| waits.path == "srv"),
        noticed("open: the one that was there", Life, CREATION, |waits| waits.path.is_empty()),
        noticed("open: the name of the database", Life, CREATION, |waits| {
            waits.path == DATA && waits.before == 2
        }),
        made_up_for(
            "the next one is that of trash/, before anything relies on it",
            "open: the name of storage/",
            Life,
            CREATION,
            |waits| waits.path == DATA && waits.before == 4,
        ),
        noticed("open: the name of trash/", Life, CREATION, |waits| {
            waits.path == DATA && waits.before == 5
        }),
        noticed("open: the data directory", Life, CREATION, |waits| waits.path == DATA),
        noticed("open: the marker", Life, CREATION, |waits| {
            waits.is_in_data("storage/.tenantry-store.new")
        }),
        noticed("open: the directory of the marker", Life, CREATION, |waits| {
            waits.is_in_data("storage")
        }),
        noticed("storage: storage/", Life, MAKING_CHOSEN, |waits| waits.is_level(0)),
        noticed("storage: the first level", Life, MAKING, |waits| waits.is_level(1)),
        noticed("storage: the second level", Life, MAKING, |waits| waits.is_level(2)),
        made_up_for(
            "it is empty, and whatever comes into it is not of this operation; only a mode that the umask had taken away would count",
            "storage: the user's directory itself",
            Life,
            MAKING,
            |waits| waits.is_level(3),
        ),
        noticed("delete: the trash", Life, DELETION, |waits| waits.is_in_data("trash")),
        noticed("delete: the directory above the user's", Life, DELETION, |waits| {
            waits.is_level(2)
        }),
        noticed("restore: the trash", Life, RESTORE, |waits| waits.is_in_data("trash")),
        noticed("restore: the directory above the user's", Life, RESTORE, |waits| {
            waits.is_level(2)
        }),
        noticed("purge: the trash", Life, PURGE, |waits| waits.is_in_data("trash")),
        noticed("purge: the rewritten database", Life, PURGE, |waits| {
            waits.is_in_data("tenantry.db")
        }),
        noticed("adopt: the way to the directory", Life, ADOPTION, |waits| {
            waits.is_in_data("storage/customers")
        }),
        noticed(
            "adopt: the directory above the discarded one",
            Life,
            |op| matches!(op, Op::Adopt { user: 3, .. }),
            |waits| waits.is_level(2) && !waits.path.contains("customers"),
        ),
        noticed("repair: the note", Repair, REPAIR, |waits| waits.is_quarantine(2)),
        noticed("repair: the place in quarantine", Repair, REPAIR, |waits| waits.is_quarantine(1)),
        noticed("repair: quarantine/", Repair, REPAIR, |waits| waits.is_quarantine(0)),
        noticed("repair: the data directory", Repair, REPAIR, |waits| waits.path == DATA),
        noticed("repair: where it was", Repair, REPAIR, |waits| waits.is_in_data("storage")),
        noticed("with Durability::Normal, before a deletion: the log", Normal, DELETION, |waits| {
            waits.is_in_data("tenantry.db-wal")
        }),
        noticed("with Durability::Normal, before a restore: the log", Normal, RESTORE, |waits| {
            waits.is_in_data("tenantry.db-wal")
        }),
        noticed(
            "recovery of a directory to be made: the first level",
            RecoverStorage,
            CREATION,
            |waits| waits.is_level(1),
        ),
        noticed("recovery of a deletion: the trash", RecoverDelete, CREATION, |waits| {
            waits.is_in_data("trash")
        }),
        noticed("recovery of a restore: the trash", RecoverRestore, CREATION, |waits| {
            waits.is_in_data("trash")
        }),
        noticed("recovery of a purge: the trash", RecoverPurge, CREATION, |waits| {
            waits.is_in_data("trash")
        }),
        noticed("recovery of an adoption: the directory above", RecoverAdopt, CREATION, |waits| {
            waits.is_level(2)
        }),
        noticed("in steps, delete: the trash", Moves(InSteps), DELETION, |waits| {
            waits.is_in_data("trash")
        }),
        noticed(
            "in steps, delete: the directory above the user's",
            Moves(InSteps),
            DELETION,
            |waits| waits.is_level(2),
        ),
        noticed("in steps, repair: where it was", RepairOn(InSteps), REPAIR, |waits| {
            waits.is_in_data("storage")
        }),
        noticed(
            "in steps, recovery of a deletion: the trash",
            RecoverDeleteOn(InSteps),
            CREATION,
            |waits| waits.is_in_data("trash"),
        ),
        noticed("copied, delete: the copy", Moves(Copied), DELETION, |waits| waits.is_all),
        noticed("copied, delete: the mark", Moves(Copied), DELETION, |waits| {
            waits.is_copy_directory() && waits.before == 0
        }),
        noticed("copied, delete: the copy directory", Moves(Copied), DELETION, |waits| {
            waits.is_copy_directory()
        }),
        noticed("copied, delete: the name", Moves(Copied), DELETION, |waits| {
            waits.is_in_data("trash") && waits.before == 0
        }),
        noticed("copied, delete: the trash", Moves(Copied), DELETION, |waits| {
            waits.is_in_data("trash")
        }),
        noticed("copied, delete: the removal", Moves(Copied), DELETION, |waits| waits.is_level(2)),
        noticed("copied, restore: the copy", Moves(Copied), RESTORE, |waits| waits.is_all),
        noticed("copied, repair: the copy", RepairOn(Copied), REPAIR, |waits| waits.is_all),
        noticed(
            "copied, recovery of a deletion: the copy",
            RecoverDeleteOn(Copied),
            CREATION,
            |waits| waits.is_all,
        ),
        noticed(
            "copied, recovery of a restore: the copy",
            RecoverRestoreOn(Copied),
            CREATION,
            |waits| waits.is_all,
        ),
        noticed("upgrade: the snapshot", Upgrade, CREATION, |waits| {
            waits.is_in_data("backups/unfinished.db")
        }),
        noticed("upgrade: the snapshot's name", Upgrade, CREATION, |waits| {
            waits.is_in_data("backups")
        }),
        noticed("upgrade: the data directory", Upgrade, CREATION, |waits| waits.path == DATA),
        noticed("backup: the archive", Backup, BACKUP, |waits| {
            waits.path.starts_with(ARCHIVES) && waits.path != ARCHIVES
        }),
        noticed("backup: the archive's name", Backup, BACKUP, |waits| waits.path == ARCHIVES),
        noticed("restore a backup: the files", Backup, BACKUP_RESTORE, |waits| waits.is_all),
        noticed(
            "restore a backup: the parts, before the database",
            Backup,
            BACKUP_RESTORE,
            |waits| waits.path == "srv/app/restored" && waits.before == 0,
        ),
        noticed("restore a backup: the database", Backup, BACKUP_RESTORE, |waits| {
            waits.path == "srv/app/restored" && waits.before == 1
        }),
        noticed("restore a backup: the note of the parts", Backup, BACKUP_RESTORE, |waits| {
            waits.is_restore("")
        }),
    ]
}

/// Where the operations are among the steps, each with its result.
fn operations(steps: &[Step]) -> Vec<Range<usize>> {
    let mut start = 0;
    let answers = steps.iter().enumerate().filter(|(_, step)| matches!(step, Step::Answered));
    answers.map(|(answer, _)| std::mem::replace(&mut start, answer + 1)..answer + 1).collect()
}

/// Which operation a bug is planted in: the first of its kind.
fn target(record: &Record, of: Kind) -> (usize, Range<usize>) {
    let number = record.ops.iter().position(of).unwrap();
    (number, operations(&record.steps)[number].clone())
}

/// Looks at what follows from a change of this step, in the operation that it is about and the one
/// right after, and isn't found otherwise.
fn look(record: &Record, steps: &[Step], number: usize, from: usize) -> Tally {
    let looking = |each, drawn| {
        let moments = Some(number..number + 2);
        cut_power(
            record,
            steps,
            &Look { drawn, seed: SEED, each, moments, from, known: Some(&record.known) },
        )
    };
    let tally = looking(false, share(0, 6));
    // What isn't seen at once is looked for.
    if tally.bad > 0 { tally } else { looking(true, share(2, 16)) }
}

/// The waits for the disk among these steps, with where they are.
fn waits(steps: &[Step], range: Range<usize>) -> Vec<(usize, Waits<'_>)> {
    let mut waits: Vec<(usize, Waits<'_>)> = Vec::new();
    // What was there before has no operation of its own.
    let start = steps.iter().position(|step| matches!(step, Step::SyncAll)).unwrap() + 1;
    for (at, step) in steps.iter().enumerate().take(range.end).skip(range.start.max(start)) {
        let (path, is_all) = match step {
            Step::Sync { path, .. } => (path.to_str().unwrap(), false),
            Step::SyncAll => ("(all)", true),
            _ => continue,
        };
        let before = waits.iter().filter(|(_, earlier)| earlier.path == path).count();
        waits.push((at, Waits { path, is_all, before }));
    }
    waits
}

#[test]
fn a_wait_for_the_disk_that_is_left_out_is_noticed() {
    let mut unexpected = Vec::new();
    for planted in planted() {
        let Some(record) = planted.scenario.record() else { return };
        let (number, range) = target(record, planted.of);
        let mut steps = record.steps.clone();
        let waits = waits(&record.steps, range);
        let left_out: Vec<_> =
            waits.iter().filter(|(_, waits)| (planted.left_out)(waits)).collect();
        left_out.iter().rev().for_each(|(at, _)| drop(steps.remove(*at)));
        let tally = look(record, &steps, number, left_out.first().map_or(0, |(at, _)| *at));
        let why = planted.made_up_for.map(|why| format!(": {why}")).unwrap_or_default();
        report(
            &format!("planted: no wait for the disk ({})", planted.what),
            format!("{tally}{why}"),
        );
        if left_out.is_empty() || (tally.bad == 0) != planted.made_up_for.is_some() {
            unexpected.push((planted.what, left_out.len(), tally.first));
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

#[test]
fn a_return_before_the_sync_is_noticed() {
    let kinds: [(&str, Scenario, Kind); 7] = [
        ("create", Scenario::Life, |op| matches!(op, Op::Create { .. })),
        ("storage", Scenario::Life, |op| matches!(op, Op::Storage { .. })),
        // Of those that the next operation doesn't undo.
        ("delete", Scenario::Life, |op| matches!(op, Op::Delete { user: 2 })),
        ("restore", Scenario::Life, |op| matches!(op, Op::Restore { user: 1 })),
        ("adopt", Scenario::Life, ADOPTION),
        ("backup", Scenario::Backup, BACKUP),
        ("restore a backup", Scenario::Backup, BACKUP_RESTORE),
    ];
    for (what, scenario, of) in kinds {
        let Some(record) = scenario.record() else { return };
        let mut steps = record.steps.clone();
        let (number, range) = target(record, of);
        // Before the first, since what follows can be done again after a crash.
        let (first, _) = waits(&record.steps, range.clone())[0];
        steps[first..range.end].rotate_right(1);
        let tally = look(record, &steps, number, first);
        report(&format!("planted: an answer before the wait ({what})"), &tally);
        assert!(tally.bad > 0, "{what}: {tally}");
    }
}
