//! A power cut, with directories.
//!
//! A child does operations on a store under strace, which records every system call that changes
//! the file system or waits for the disk. The record is replayed onto [a model of a disk](disk)
//! that keeps only what it has to, and at each step the power fails: what may then be found on the
//! disk is written out as a real directory, the store in it is opened, checked and compared. What
//! has returned has to be there, what was under way has to be as before or as after.
//!
//! Then calls are left out of the record, as by a program that doesn't make them, and the harness
//! has to notice.

mod disk;
mod faults;
mod planted;
mod steps;
mod trace;
mod world;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, OnceLock};
use std::thread;

use tenantry_testkit::random::Random;
use tenantry_testkit::way::{self, Way};

use crate::share::{report, share};
use crate::support::in_memory;
use disk::{Disk, Image, Variant};
use steps::{Follower, Step};
use world::{ARCHIVES, Op, State, TOP, judge};

pub(crate) use world::child;

/// The role of the child, in `child.rs`.
const ROLE: &str = "has its system calls recorded";
/// Where the dice begin.
const SEED: u64 = 1;
/// How many states are judged at once.
const JUDGES: usize = 2;

/// What is done from which beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scenario {
    /// From nothing on, through every operation on users and directories.
    Life,
    /// With `Durability::Normal`.
    Normal,
    /// What belongs to no user goes to quarantine.
    Repair,
    Upgrade,
    Backup,
    /// The opening of a store that a power cut has stopped when it was just to act on what was on
    /// the disk by then.
    RecoverStorage,
    RecoverDelete,
    RecoverRestore,
    RecoverPurge,
    RecoverAdopt,
    /// Directories that are opened and moved in another way.
    Moves(Way),
    RepairOn(Way),
    RecoverDeleteOn(Way),
    RecoverRestoreOn(Way),
}

impl Scenario {
    const ALL: [Self; 18] = [
        Self::Life,
        Self::Normal,
        Self::Repair,
        Self::Upgrade,
        Self::Backup,
        Self::RecoverStorage,
        Self::RecoverDelete,
        Self::RecoverRestore,
        Self::RecoverPurge,
        Self::RecoverAdopt,
        Self::Moves(Way::InSteps),
        Self::Moves(Way::Copied),
        Self::RepairOn(Way::InSteps),
        Self::RepairOn(Way::Copied),
        Self::RecoverDeleteOn(Way::InSteps),
        Self::RecoverDeleteOn(Way::Copied),
        Self::RecoverRestoreOn(Way::InSteps),
        Self::RecoverRestoreOn(Way::Copied),
    ];

    fn way(self) -> Way {
        match self {
            Self::Moves(way)
            | Self::RepairOn(way)
            | Self::RecoverDeleteOn(way)
            | Self::RecoverRestoreOn(way) => way,
            _ => Way::AtOnce,
        }
    }

    /// Prepares the top, and says what is to be done.
    fn begin(self, top: &Path) -> (State, Vec<Op>) {
        let nothing = State::default();
        let file = |user, file: &str| Op::Write { user, file: file.to_owned() };
        let create = |user| Op::Create { user, path: None };
        let create_at = |user, path: &str| Op::Create { user, path: Some(path.to_owned()) };
        let place = |path: &str, is_certain| Op::Place { path: path.to_owned(), is_certain };
        let adopt = |user, path: &str| Op::Adopt { user, path: path.to_owned() };
        let person = |user| {
            vec![create(user), Op::Storage { user }, file(user, "a.txt"), file(user, "b/c.txt")]
        };
        match self {
            Self::Life => {
                let chosen =
                    [create_at(1, "customers/x/bob"), Op::Storage { user: 1 }, file(1, "a.txt")];
                let to_and_fro = [
                    Op::Delete { user: 0 },
                    Op::Restore { user: 0 },
                    Op::Delete { user: 0 },
                    Op::Delete { user: 1 },
                    Op::Restore { user: 1 },
                    Op::Close,
                    Op::Open,
                    Op::Purge { user: 0 },
                ];
                let adopted = [
                    create(2),
                    place("customers/y/cyd", false),
                    adopt(2, "customers/y/cyd"),
                    create(3),
                    Op::Storage { user: 3 },
                    place("customers/y/dan", true),
                    adopt(3, "customers/y/dan"),
                ];
                let end = [Op::Delete { user: 1 }, Op::Delete { user: 2 }, Op::PurgeAll, Op::Close];
                let ops = [
                    vec![Op::Open],
                    person(0),
                    chosen.into(),
                    to_and_fro.into(),
                    adopted.into(),
                    end.into(),
                ];
                (nothing, ops.concat())
            }
            Self::Normal => {
                let end = [
                    create(1),
                    Op::Delete { user: 0 },
                    create(2),
                    Op::Restore { user: 0 },
                    create(3),
                    Op::Delete { user: 0 },
                    Op::Purge { user: 0 },
                    create(4),
                    Op::Close,
                ];
                (nothing, [vec![Op::OpenNormal], person(0), end.into()].concat())
            }
            Self::Moves(_) => {
                let moves = [
                    Op::Delete { user: 0 },
                    Op::Restore { user: 0 },
                    create_at(1, "customers/x/bob"),
                    Op::Storage { user: 1 },
                    file(1, "a.txt"),
                    Op::Delete { user: 1 },
                    Op::Close,
                    Op::Open,
                    Op::Purge { user: 1 },
                    Op::Close,
                ];
                (nothing, [vec![Op::Open], person(0), moves.into()].concat())
            }
            Self::Repair | Self::RepairOn(_) => {
                let ops =
                    [vec![Op::Open], person(0), vec![place("nobody", true), Op::Close, Op::Repair]];
                (nothing, ops.concat())
            }
            Self::RecoverStorage => {
                Self::Life.interrupted(top, |op| matches!(op, Op::Storage { .. }))
            }
            Self::RecoverDelete => {
                Self::Life.interrupted(top, |op| matches!(op, Op::Delete { .. }))
            }
            Self::RecoverRestore => {
                Self::Life.interrupted(top, |op| matches!(op, Op::Restore { .. }))
            }
            Self::RecoverPurge => Self::Life.interrupted(top, |op| matches!(op, Op::Purge { .. })),
            Self::RecoverAdopt => {
                Self::Life.interrupted(top, |op| matches!(op, Op::Adopt { user: 3, .. }))
            }
            Self::RecoverDeleteOn(way) => {
                Self::Moves(way).interrupted(top, |op| matches!(op, Op::Delete { .. }))
            }
            Self::RecoverRestoreOn(way) => {
                Self::Moves(way).interrupted(top, |op| matches!(op, Op::Restore { .. }))
            }
            Self::Upgrade => {
                (State::of_version_1(top), vec![Op::Open, Op::Storage { user: 0 }, Op::Close])
            }
            Self::Backup => {
                std::fs::create_dir_all(top.join(ARCHIVES)).unwrap();
                let archive = || "first.tar.zst".to_owned();
                let end = [
                    Op::Delete { user: 1 },
                    Op::Backup { name: archive() },
                    Op::RestoreBackup { name: archive(), into: "restored".to_owned() },
                    Op::Close,
                ];
                (nothing, [vec![Op::Open], person(0), person(1), end.into()].concat())
            }
        }
    }

    /// A store in which a power cut has stopped the first operation of a kind, with what it ought
    /// to come to.
    fn interrupted(self, top: &Path, of: fn(&Op) -> bool) -> (State, Vec<Op>) {
        let life = self.record().unwrap();
        let number = life.ops.iter().position(of).unwrap();
        let (mut disk, mut answered) = (Disk::default(), 0);
        for step in &life.steps {
            let acts =
                matches!(step, Step::Link { .. } | Step::Unlink { .. } | Step::Rename { .. });
            if answered == number && acts {
                break;
            }
            disk.take(step);
            answered += usize::from(matches!(step, Step::Answered));
        }
        disk.image(Variant::OnlySynced).write_to(top);
        (life.states[number + 1].clone(), vec![Op::Open, Op::Close])
    }

    /// What a child has done, with each step. `None` if nothing can be recorded here.
    fn record(self) -> Option<&'static Record> {
        static RECORDS: [OnceLock<Option<Record>>; Scenario::ALL.len()] =
            [const { OnceLock::new() }; Scenario::ALL.len()];
        let at = Self::ALL.iter().position(|scenario| *scenario == self).unwrap();
        RECORDS[at]
            .get_or_init(|| {
                (trace::is_possible() && way::has_failpoints()).then(|| Record::of(self))
            })
            .as_ref()
    }
}

struct Record {
    ops: Vec<Op>,
    /// What should be there after so many of them.
    states: Vec<State>,
    steps: Vec<Step>,
    /// The states that are always looked at.
    known: HashSet<Digest>,
}

impl Record {
    fn of(scenario: Scenario) -> Self {
        let dir = in_memory();
        let top = dir.path().canonicalize().unwrap().join(TOP);
        std::fs::create_dir(&top).unwrap();
        let (start, ops) = scenario.begin(&top);
        world::order(dir.path(), scenario.way(), &ops);
        let follower = Follower::new(&top);
        let (calls, said) = trace::record(ROLE, top.parent().unwrap(), "");
        assert_eq!(said, ["done"]);
        let steps = follower.follow(&calls);
        let answers = steps.iter().filter(|step| matches!(step, Step::Answered)).count();
        assert_eq!(answers, ops.len());
        let mut known = HashSet::new();
        let look = Look { drawn: 0, seed: SEED, each: false, moments: None, from: 0, known: None };
        draw(&steps, &look, |_, digest, _| known.extend([digest]));
        Self { states: start.all(&ops), ops, steps, known }
    }
}

/// Represents a state of the disk and how many operations have returned by then.
type Digest = ([u8; 32], usize);

/// What is looked at of a record.
struct Look<'k> {
    /// How many of the disks that are possible after a step are drawn, besides those that are
    /// always looked at.
    drawn: u64,
    seed: u64,
    /// Whether each change of names is also looked at without the others, and the others without
    /// it.
    each: bool,
    /// At which moments, by the number of operations that have returned.
    moments: Option<Range<usize>>,
    /// From which step on.
    from: usize,
    /// What needn't be judged.
    known: Option<&'k HashSet<Digest>>,
}

#[derive(Default)]
struct Tally {
    /// Different ones, each as a tree of files and what has returned by then.
    states: u64,
    bad: u64,
    first: Option<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bad of {} states", self.bad, self.states)
    }
}

/// A power cut at every step, and what is found then.
fn cut_power(record: &Record, steps: &[Step], look: &Look<'_>) -> Tally {
    let tally = Mutex::new(Tally::default());
    let (sender, receiver) = sync_channel(2 * JUDGES);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        for _ in 0..JUDGES {
            scope.spawn(|| judge_all(record, &receiver, &tally));
        }
        draw(steps, look, |image, _, answered| sender.send((image, answered)).unwrap());
        drop(sender);
    });
    tally.into_inner().unwrap()
}

/// Replays the steps, and hands over each state that the disk may be in then, once.
fn draw(steps: &[Step], look: &Look<'_>, mut take: impl FnMut(Image, Digest, usize)) {
    let mut disk = Disk::default();
    let mut dice = Random::new(look.seed);
    let mut met = HashSet::new();
    let mut answered = 0;
    // What was there before comes first.
    let start = steps.iter().position(|step| matches!(step, Step::SyncAll)).unwrap();
    for (index, step) in steps.iter().enumerate() {
        disk.take(step);
        answered += usize::from(matches!(step, Step::Answered));
        if index < start.max(look.from)
            || look.moments.as_ref().is_some_and(|moments| !moments.contains(&answered))
        {
            continue;
        }
        let drawn = (0..look.drawn).map(|_| Variant::Any(dice.any())).collect::<Vec<_>>();
        let each = 0..if look.each { disk.uncertain() } else { 0 };
        let each = each.flat_map(|this| [Variant::Only(this), Variant::Without(this)]);
        let always = [Variant::OnlySynced, Variant::All, Variant::Names, Variant::Contents];
        for variant in always.into_iter().chain(each).chain(drawn) {
            let image = disk.image(variant);
            let digest = (image.digest(), answered);
            if met.insert(digest) && !look.known.is_some_and(|known| known.contains(&digest)) {
                take(image, digest, answered);
            }
        }
    }
}

fn judge_all(record: &Record, states: &Mutex<Receiver<(Image, usize)>>, tally: &Mutex<Tally>) {
    let dir = in_memory();
    for number in 0.. {
        let Ok((image, answered)) = states.lock().unwrap().recv() else { return };
        let top: PathBuf = dir.path().join(number.to_string());
        std::fs::create_dir(&top).unwrap();
        image.write_to(&top);
        let judged =
            catch_unwind(AssertUnwindSafe(|| judge(&record.ops, &record.states, answered, &top)));
        let judged = judged.unwrap_or_else(|_| Err("a panic".to_owned()));
        std::fs::remove_dir_all(&top).unwrap();
        let mut tally = tally.lock().unwrap();
        tally.states += 1;
        if let Err(why) = judged {
            tally.bad += 1;
            let next = record.ops.get(answered);
            tally.first.get_or_insert_with(|| format!("{answered} answered, then {next:?}: {why}"));
        }
    }
}

#[test]
fn a_power_cut_loses_no_operation_that_has_returned() {
    let mut states = 0;
    for scenario in Scenario::ALL {
        let Some(record) = scenario.record() else { return };
        let drawn = share(1, 16);
        let each = share(0, 1) == 1;
        let tally = cut_power(
            record,
            &record.steps,
            &Look { drawn, seed: SEED, each, moments: None, from: 0, known: None },
        );
        report(
            "a power cut, with directories",
            format!("{scenario:?}: {} steps, {tally}", record.steps.len()),
        );
        assert_eq!(tally.bad, 0, "{}", tally.first.unwrap_or_default());
        states += tally.states;
    }
    report("a power cut, with directories", format!("0 bad of {states} states"));
    assert!(states >= share(2_000, 20_000), "only {states} states");
}
