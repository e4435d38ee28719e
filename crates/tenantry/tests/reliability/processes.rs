//! Many processes on one store at once: writes, updates that expect a version, sign-ins with one
//! new address, deletes and restores with directories, while others make checkpoints, backups and
//! checks. What they did adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    BackupOptions, Error, ErrorKind, ListQuery, NewUser, Purge, Store, User, UserId, UserUpdate,
    check, verify_backup,
};
use tenantry_testkit::random::Random;

use crate::process::{self, Process};
use crate::share::{report, share};
use crate::support::{SqlitePlace, all, block_on, email, new_user, numbered_id};

/// Users whose address holds a number, which all processes count up.
const COUNTERS: u64 = 3;
/// Users with a directory, whom all processes delete and restore.
const MOVED: u64 = 6;
/// How many rows an import-like transaction has.
const BATCH: u64 = 20;
const FILE: &str = "note.txt";

fn counter(number: u64) -> UserId {
    numbered_id(number)
}

fn moved(number: u64) -> UserId {
    numbered_id(1_000 + number)
}

/// What a worker is to do.
#[derive(Serialize, Deserialize)]
struct Part {
    worker: u64,
    operations: u64,
    /// To count up without expecting the version that was read, which the harness has to notice.
    planted: bool,
}

/// What a worker did.
#[derive(Default, Serialize, Deserialize)]
struct Tally {
    counted: [u64; COUNTERS as usize],
    mismatches: u64,
    created: u64,
    purged: Vec<String>,
    signed_in: BTreeSet<String>,
    new: Vec<String>,
    deleted: [u64; MOVED as usize],
    restored: [u64; MOVED as usize],
    /// How often a purge was told to wait for a backup.
    waited: u64,
    longest_ms: u64,
}

pub(crate) fn child_works_with_others(data_dir: &Path) {
    let part: Part = serde_json::from_str(&std::env::var("TENANTRY_TEST_PART").unwrap()).unwrap();
    let store = block_on(Store::builder(data_dir).create_if_missing(false).open()).unwrap();
    let mut tally = Tally::default();
    if part.planted {
        // Everybody has read the same before anybody writes.
        let read = block_on(store.get(counter(0))).unwrap().unwrap();
        process::wait_for_the_start();
        count_up(&store, 0, read, false, &mut tally);
        for _ in 1..part.operations {
            let read = block_on(store.get(counter(0))).unwrap().unwrap();
            count_up(&store, 0, read, false, &mut tally);
        }
    } else {
        process::wait_for_the_start();
        let mut random = Random::new(part.worker);
        for number in 0..part.operations {
            let began = Instant::now();
            work(&store, &part, number, &mut random, &mut tally);
            tally.longest_ms =
                tally.longest_ms.max(u64::try_from(began.elapsed().as_millis()).unwrap());
        }
    }
    block_on(store.close()).unwrap();
    process::say(serde_json::to_string(&tally).unwrap());
}

/// The number that the address of a counter holds.
fn value_of(user: &User) -> u64 {
    let name = user.email.as_str().split('@').next().unwrap();
    name.rsplit('-').next().unwrap().parse().unwrap()
}

/// Counts up from what was read, unless somebody was faster.
fn count_up(store: &Store, number: u64, read: User, expecting: bool, tally: &mut Tally) -> bool {
    let update = UserUpdate {
        email: Some(email(&format!("counter{number}-{}@example.com", value_of(&read) + 1))),
        expected_version: expecting.then_some(read.version),
        ..UserUpdate::default()
    };
    match block_on(store.update(read.id, update)) {
        Ok(_) => {
            tally.counted[usize::try_from(number).unwrap()] += 1;
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::VersionMismatch { current } if current > read.version) =>
        {
            tally.mismatches += 1;
            false
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn work(store: &Store, part: &Part, number: u64, random: &mut Random, tally: &mut Tally) {
    let unique = format!("{}-{number}", part.worker);
    match random.below(100) {
        0..25 => {
            let which = random.below(COUNTERS);
            while !count_up(
                store,
                which,
                block_on(store.get(counter(which))).unwrap().unwrap(),
                true,
                tally,
            ) {}
        }
        25..40 => {
            // All processes come by the same addresses at about the same time.
            let address = format!("new{}@example.com", number / 8);
            let signed_in = block_on(store.sign_in(email(&address))).unwrap();
            tally.signed_in.insert(address.clone());
            if signed_in.is_new {
                tally.new.push(address);
            }
        }
        40..52 => {
            block_on(store.create(new_user(&format!("own{unique}@example.com")))).unwrap();
            tally.created += 1;
        }
        52..60 => drop(block_on(store.record_login(counter(random.below(COUNTERS)))).unwrap()),
        60..70 => {
            let which = random.below(MOVED);
            match block_on(store.delete(moved(which))) {
                Ok(_) => tally.deleted[usize::try_from(which).unwrap()] += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            }
        }
        70..80 => {
            let which = random.below(MOVED);
            match block_on(store.restore(moved(which), None)) {
                Ok(_) => tally.restored[usize::try_from(which).unwrap()] += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            }
        }
        80..87 => {
            let id = moved(random.below(MOVED));
            match block_on(store.directory(id)) {
                Ok(dir) => assert_eq!(dir.read_to_string(FILE).unwrap(), id.to_string()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            }
        }
        87..89 => {
            let user =
                block_on(store.create(new_user(&format!("gone{unique}@example.com")))).unwrap();
            block_on(store.directory(user.id)).unwrap().write(FILE, "to be purged").unwrap();
            block_on(store.delete(user.id)).unwrap();
            let purged = loop {
                match block_on(store.purge(Purge::User(user.id), |_| {})) {
                    Ok(purged) => break purged,
                    Err(error) => assert!(is_of_backup(&error), "{error:?}"),
                }
                tally.waited += 1;
            };
            assert!(purged.left.is_empty() && purged.elsewhere == 0, "{purged:?}");
            assert_eq!(purged.users, 1);
            tally.purged.push(user.id.to_string());
        }
        89..92 => {
            let rows: Vec<NewUser> =
                (0..BATCH).map(|row| new_user(&format!("row{unique}-{row}@example.com"))).collect();
            block_on(
                store.write(move |tx| rows.iter().try_for_each(|row| tx.create(row).map(drop))),
            )
            .unwrap();
            tally.created += BATCH;
        }
        _ => {
            let page = block_on(store.list(&ListQuery::default())).unwrap();
            assert!(page.users.iter().all(|user| block_on(store.get(user.id)).is_ok()));
        }
    }
}

/// Whether a purge and a backup are in each other's way, which may be tried again.
fn is_of_backup(error: &Error) -> bool {
    error.kind() == ErrorKind::Busy && error.is_retryable() && error.to_string().contains("backup")
}

/// A process that does the same again and again until it is told that it is enough.
pub(crate) fn child_keeps_company(data_dir: &Path) {
    static IS_ENOUGH: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        std::io::stdin().read_line(&mut String::new()).unwrap();
        IS_ENOUGH.store(true, Ordering::Relaxed);
    });
    let company = std::env::var("TENANTRY_TEST_PART").unwrap();
    let store = block_on(Store::builder(data_dir).create_if_missing(false).open()).unwrap();
    // Between two rounds, so that others get their turn.
    let write =
        |count| (0..count).for_each(|_| drop(block_on(store.record_login(counter(0))).unwrap()));
    let elsewhere = tempfile::tempdir().unwrap();
    let conn =
        (company == "checkpoints").then(|| Connection::open(data_dir.join("tenantry.db")).unwrap());
    let mut rounds: usize = 0;
    while !IS_ENOUGH.load(Ordering::Relaxed) || rounds == 0 {
        match &conn {
            Some(conn) => {
                let how = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][rounds % 4];
                conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(())).unwrap();
                // The store in the same process opens and closes its files meanwhile.
                let another =
                    block_on(Store::builder(data_dir).create_if_missing(false).open()).unwrap();
                block_on(another.close()).unwrap();
                write(1);
            }
            None if company == "backups" => {
                let file = elsewhere.path().join(format!("{rounds}.tar.zst"));
                let made = block_on(store.create_backup(&file, BackupOptions::default(), |_| {}));
                match made {
                    Ok(made) => {
                        assert_eq!(made.incomplete, 0, "{made:?}");
                        let verified = block_on(verify_backup(&file, |_| {})).unwrap();
                        assert_eq!(
                            (verified.findings, verified.missing_directories),
                            (Vec::new(), 0)
                        );
                        fs::remove_file(&file).unwrap();
                    }
                    Err(error) => assert!(is_of_backup(&error), "{error:?}"),
                }
                write(10);
            }
            None => {
                let report = block_on(check(data_dir)).unwrap();
                assert_eq!(report.findings, []);
                write(1);
            }
        }
        rounds += 1;
    }
    block_on(store.close()).unwrap();
    process::say(rounds);
}

/// A store with the users whom all processes change.
fn filled() -> SqlitePlace {
    let place = SqlitePlace::new();
    let store = place.open();
    for number in 0..COUNTERS {
        let new = NewUser {
            id: Some(counter(number)),
            ..new_user(&format!("counter{number}-0@example.com"))
        };
        block_on(store.create(new)).unwrap();
    }
    for number in 0..MOVED {
        let id = moved(number);
        block_on(
            store.create(NewUser {
                id: Some(id),
                ..new_user(&format!("moved{number}@example.com"))
            }),
        )
        .unwrap();
        block_on(store.directory(id)).unwrap().write(FILE, id.to_string()).unwrap();
    }
    block_on(store.close()).unwrap();
    place
}

fn workers(place: &SqlitePlace, count: u64, operations: u64, planted: bool) -> Vec<Tally> {
    let start = |worker| {
        let part = serde_json::to_string(&Part { worker, operations, planted }).unwrap();
        Process::start(
            "works with others",
            &place.data_dir(),
            &format!("export TENANTRY_TEST_PART='{part}'"),
        )
    };
    let mut workers: Vec<Process> = (0..count).map(start).collect();
    workers.iter_mut().for_each(Process::await_ready);
    workers.iter_mut().for_each(Process::start_now);
    workers.into_iter().map(|worker| serde_json::from_str(&worker.end()[0]).unwrap()).collect()
}

#[test]
fn what_processes_do_at_once_adds_up() {
    for (count, operations) in [(2, share(100, 5_000)), (8, share(300, 20_000))] {
        let place = filled();
        let began = Instant::now();
        let company: BTreeMap<&str, Process> = ["checkpoints", "backups", "checks"]
            .map(|company| {
                let shell = format!("export TENANTRY_TEST_PART={company}");
                (company, Process::start("keeps company", &place.data_dir(), &shell))
            })
            .into();
        let tallies = workers(&place, count, operations, false);
        let rounds: Vec<String> = company
            .into_iter()
            .map(|(company, mut process)| {
                process.start_now();
                format!("{} {company}", process.end()[0])
            })
            .collect();
        let took = began.elapsed();
        add_up(&place, &tallies);
        let sum = |f: fn(&Tally) -> u64| tallies.iter().map(f).sum::<u64>();
        report(
            "processes at once on one store",
            format!(
                "{count} processes of {operations} operations beside {}: nothing lost, no operation failed; {} updates \
                 by version and {} that had to be repeated; the longest operation took {} ms of {} s",
                rounds.join(", "),
                sum(|tally| tally.counted.iter().sum()),
                sum(|tally| tally.mismatches),
                tallies.iter().map(|tally| tally.longest_ms).max().unwrap(),
                took.as_secs(),
            ),
        );
    }
}

/// No update was lost: a counter holds the number of successes, and has as many versions.
fn counters_add_up(store: &Store, tallies: &[Tally]) -> Result<(), String> {
    for number in 0..COUNTERS {
        let user = block_on(store.get(counter(number))).unwrap().unwrap();
        let counted: u64 =
            tallies.iter().map(|tally| tally.counted[usize::try_from(number).unwrap()]).sum();
        if (value_of(&user), user.version) != (counted, counted + 1) {
            return Err(format!("updates were lost: of {counted}, {} are left", value_of(&user)));
        }
    }
    Ok(())
}

/// Holds what there is against what was done.
fn add_up(place: &SqlitePlace, tallies: &[Tally]) {
    let store = place.open();
    counters_add_up(&store, tallies).unwrap();
    let mut is_new: BTreeMap<&str, u64> = BTreeMap::new();
    for tally in tallies {
        for address in &tally.signed_in {
            is_new.entry(address).or_default();
        }
        tally.new.iter().for_each(|address| *is_new.entry(address).or_default() += 1);
    }
    assert!(is_new.values().all(|count| *count == 1), "{is_new:?}");
    let mut live = 0;
    for number in 0..MOVED {
        let index = usize::try_from(number).unwrap();
        let sum = |f: fn(&Tally) -> &[u64; MOVED as usize]| {
            tallies.iter().map(|tally| f(tally)[index]).sum::<u64>()
        };
        let (deleted, restored) = (sum(|tally| &tally.deleted), sum(|tally| &tally.restored));
        let user = block_on(store.get(moved(number))).unwrap();
        assert_eq!(deleted - restored, u64::from(user.is_none()));
        if user.is_none() {
            block_on(store.restore(moved(number), None)).unwrap();
        }
        live += 1;
        let file = block_on(store.directory(moved(number))).unwrap().read_to_string(FILE).unwrap();
        assert_eq!(file, moved(number).to_string());
    }
    for id in tallies.iter().flat_map(|tally| &tally.purged) {
        let id: UserId = id.parse().unwrap();
        assert!(block_on(store.read(move |tx| tx.was_purged(id))).unwrap());
    }
    let created: u64 = tallies.iter().map(|tally| tally.created).sum();
    let expected = COUNTERS + live + created + is_new.len() as u64;
    assert_eq!(block_on(store.count()).unwrap(), expected);
    assert_eq!(block_on(all(&store, ListQuery::default())).len() as u64, expected);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
}

/// A check of a store that takes it long to look at can't keep others from writing for as long.
/// What is moved to and fro meanwhile isn't a finding all the same.
#[test]
fn a_long_check_beside_deletes_and_restores_finds_nothing() {
    let place = filled();
    let store = place.open();
    for part in 0..12 {
        let rows =
            (0..2_000).map(|row| new_user(&format!("row{part}-{row}@example.com"))).collect();
        assert!(block_on(store.create_many(rows)).unwrap().iter().all(Result::is_ok));
    }
    let is_enough = AtomicBool::new(false);
    let checks = share(4, 100);
    thread::scope(|scope| {
        for number in 0..MOVED {
            let (store, is_enough) = (&store, &is_enough);
            scope.spawn(move || {
                while !is_enough.load(Ordering::Relaxed) {
                    block_on(store.delete(moved(number))).unwrap();
                    block_on(store.restore(moved(number), None)).unwrap();
                }
            });
        }
        let found: Vec<_> = (0..checks).map(|_| block_on(check(place.data_dir()))).collect();
        is_enough.store(true, Ordering::Relaxed);
        for report in found {
            assert_eq!(report.unwrap().findings, []);
        }
    });
    block_on(store.close()).unwrap();
    report(
        "checks that take long beside deletes and restores",
        format!("{checks} checks without a finding"),
    );
}

/// Without an expected version updates are lost, and the sums tell.
#[test]
fn a_planted_lost_update_is_noticed() {
    let place = filled();
    let tallies = workers(&place, 4, 25, true);
    assert_eq!(tallies.iter().map(|tally| tally.counted[0]).sum::<u64>(), 100);
    let store = place.open();
    let noticed = counters_add_up(&store, &tallies).unwrap_err();
    block_on(store.close()).unwrap();
    assert!(noticed.contains("updates were lost"), "{noticed}");
    report("updates without an expected version, planted, are noticed", noticed);
}
