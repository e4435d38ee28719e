//! Many processes on one store at once: writes, updates that expect a version, sign-ins with one new address, deletes and
//! restores with directories, while others make checkpoints, backups and checks. What they did adds up.
//!
//! And a long-lived owner beside everything that a short command does: each combination works, seen from both
//! sides, or is refused by the kind of error that the contract names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    BackupOptions, Error, ErrorKind, ListQuery, NewUser, OnConflict, Purge, RepairOptions, Store, User, UserId,
    UserUpdate, check, create_backup, repair, restore_backup, verify_backup,
};

use crate::process::{self, Process};
use crate::share::{Random, report, share};
use crate::support::{BlockedWriter, SHORT, SqlitePlace, all, block_on, email, kind, new_user, numbered_id};

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
            tally.longest_ms = tally.longest_ms.max(u64::try_from(began.elapsed().as_millis()).unwrap());
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
    };
    match block_on(store.update(read.id, update)) {
        Ok(_) => {
            tally.counted[usize::try_from(number).unwrap()] += 1;
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::VersionMismatch { current } if current > read.version) => {
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
            while !count_up(store, which, block_on(store.get(counter(which))).unwrap().unwrap(), true, tally) {}
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
            match block_on(store.storage(id)) {
                Ok(dir) => assert_eq!(dir.read_to_string(FILE).unwrap(), id.to_string()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            }
        }
        87..89 => {
            let user = block_on(store.create(new_user(&format!("gone{unique}@example.com")))).unwrap();
            block_on(store.storage(user.id)).unwrap().write(FILE, "to be purged").unwrap();
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
            block_on(store.write(move |tx| rows.iter().try_for_each(|row| tx.create(row).map(drop)))).unwrap();
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
    let write = |count| (0..count).for_each(|_| drop(block_on(store.record_login(counter(0))).unwrap()));
    let elsewhere = tempfile::tempdir().unwrap();
    let conn = (company == "checkpoints").then(|| Connection::open(data_dir.join("tenantry.db")).unwrap());
    let mut rounds: usize = 0;
    while !IS_ENOUGH.load(Ordering::Relaxed) || rounds == 0 {
        match &conn {
            Some(conn) => {
                let how = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][rounds % 4];
                conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(())).unwrap();
                // The store in the same process opens and closes its files meanwhile.
                let another = block_on(Store::builder(data_dir).create_if_missing(false).open()).unwrap();
                block_on(another.close()).unwrap();
                write(1);
            }
            None if company == "backups" => {
                let file = elsewhere.path().join(format!("{rounds}.tar.zst"));
                let made = block_on(create_backup(&store, &file, BackupOptions::default(), |_, _| {}));
                match made {
                    Ok(made) => {
                        assert_eq!(made.incomplete, 0, "{made:?}");
                        let verified = block_on(verify_backup(&file, |_, _| {})).unwrap();
                        assert_eq!((verified.findings, verified.missing_directories), (Vec::new(), 0));
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
        let new = NewUser { id: Some(counter(number)), ..new_user(&format!("counter{number}-0@example.com")) };
        block_on(store.create(new)).unwrap();
    }
    for number in 0..MOVED {
        let id = moved(number);
        block_on(store.create(NewUser { id: Some(id), ..new_user(&format!("moved{number}@example.com")) })).unwrap();
        block_on(store.storage(id)).unwrap().write(FILE, id.to_string()).unwrap();
    }
    block_on(store.close()).unwrap();
    place
}

fn workers(place: &SqlitePlace, count: u64, operations: u64, planted: bool) -> Vec<Tally> {
    let start = |worker| {
        let part = serde_json::to_string(&Part { worker, operations, planted }).unwrap();
        Process::start("works with others", &place.data_dir(), &format!("export TENANTRY_TEST_PART='{part}'"))
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
        let counted: u64 = tallies.iter().map(|tally| tally.counted[usize::try_from(number).unwrap()]).sum();
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
        let sum = |f: fn(&Tally) -> &[u64; MOVED as usize]| tallies.iter().map(|tally| f(tally)[index]).sum::<u64>();
        let (deleted, restored) = (sum(|tally| &tally.deleted), sum(|tally| &tally.restored));
        let user = block_on(store.get(moved(number))).unwrap();
        assert_eq!(deleted - restored, u64::from(user.is_none()));
        if user.is_none() {
            block_on(store.restore(moved(number), None)).unwrap();
        }
        live += 1;
        let file = block_on(store.storage(moved(number))).unwrap().read_to_string(FILE).unwrap();
        assert_eq!(file, moved(number).to_string());
    }
    for id in tallies.iter().flat_map(|tally| &tally.purged) {
        let id: UserId = id.parse().unwrap();
        assert!(block_on(store.read(|tx| tx.was_purged(id))).unwrap());
    }
    let created: u64 = tallies.iter().map(|tally| tally.created).sum();
    let expected = COUNTERS + live + created + is_new.len() as u64;
    assert_eq!(block_on(store.count()).unwrap(), expected);
    assert_eq!(block_on(all(&store, ListQuery::default())).len() as u64, expected);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
}

/// A check of a store that takes it long to look at can't keep others from writing for as long. What is moved to and fro
/// meanwhile is no finding all the same.
#[test]
fn a_long_check_beside_deletes_and_restores_finds_nothing() {
    let place = filled();
    let store = place.open();
    for part in 0..12 {
        let rows = (0..2_000).map(|row| new_user(&format!("row{part}-{row}@example.com"))).collect();
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
    report("checks that take long beside deletes and restores", format!("{checks} checks without a finding"));
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

/// A program that has the store open for long, in another process, and does what it is told.
struct Owner(Process);

impl Owner {
    fn start(place: &SqlitePlace) -> Self {
        let mut process = Process::start("owns", &place.data_dir(), "");
        process.await_ready();
        Self(process)
    }

    fn ask(&mut self, what: &str, of: impl std::fmt::Display) -> Value {
        self.0.tell(&json!([what, of.to_string()]).to_string());
        serde_json::from_str(&self.0.hear().unwrap()).unwrap()
    }

    fn end(mut self) {
        self.ask("close", "");
        self.0.start_now();
        self.0.end();
    }
}

/// Something of an owner's that stands still until it is released.
struct Held {
    release: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Held {
    fn hold(work: impl FnOnce(mpsc::Sender<()>, mpsc::Receiver<()>) + Send + 'static) -> Self {
        let ((entered, has_entered), (release, released)) = (mpsc::channel(), mpsc::channel());
        let thread = thread::spawn(move || work(entered, released));
        has_entered.recv().unwrap();
        Self { release, thread }
    }

    fn release(self) {
        drop(self.release);
        self.thread.join().unwrap();
    }
}

pub(crate) fn child_owns(data_dir: &Path) {
    let store = block_on(Store::open(data_dir)).unwrap();
    process::say("ready");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut handles = BTreeMap::new();
    let mut held: Option<Held> = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let Ok((what, of)) = serde_json::from_str::<(String, String)>(&line) else { break };
        let of_kind = |error: Error| json!(format!("{:?}", error.kind()));
        let id = || of.parse::<UserId>().unwrap();
        let answer = match what.as_str() {
            "create" => block_on(store.create(new_user(&of))).map_or_else(of_kind, |user| json!(user)),
            "get" => json!(block_on(store.get(id())).unwrap()),
            "count" => json!(block_on(store.count()).unwrap()),
            "was created" => json!(store.was_created()),
            "file" => {
                block_on(store.storage(id())).map_or_else(of_kind, |dir| json!(dir.read_to_string(FILE).unwrap()))
            }
            "keep handle" => json!(handles.insert(of.clone(), block_on(store.storage(id())).unwrap()).is_none()),
            "file by handle" => json!(handles[&of].read_to_string(FILE).unwrap()),
            "hold a write" => {
                let store = store.clone();
                held = Some(Held::hold(move |entered, released| {
                    let written = store.write(move |tx| {
                        tx.create(&new_user("held@example.com"))?;
                        entered.send(()).unwrap();
                        let _ = released.recv();
                        Ok::<_, Error>(())
                    });
                    block_on(written).unwrap();
                }));
                Value::Null
            }
            "hold a read" => {
                let store = store.clone();
                held = Some(Held::hold(move |entered, released| {
                    let read = store.read(|tx| {
                        let before = tx.count()?;
                        entered.send(()).unwrap();
                        let _ = released.recv();
                        assert_eq!(tx.count()?, before);
                        Ok::<_, Error>(())
                    });
                    block_on(read).unwrap();
                }));
                Value::Null
            }
            "hold a backup" => {
                let (store, file) = (store.clone(), elsewhere.path().join("held.tar.zst"));
                held = Some(Held::hold(move |entered, released| {
                    let progress = move |_, _| {
                        let _ = entered.send(());
                        let _ = released.recv();
                    };
                    let made = block_on(create_backup(&store, &file, BackupOptions::default(), progress)).unwrap();
                    assert_eq!(made.incomplete, 0, "{made:?}");
                    assert_eq!(block_on(verify_backup(&file, |_, _| {})).unwrap().findings, []);
                }));
                Value::Null
            }
            "release" => {
                held.take().unwrap().release();
                Value::Null
            }
            "close" => json!(block_on(store.close()).unwrap()),
            _ => panic!("{what} is nothing that an owner does"),
        };
        process::say(answer);
    }
}

/// What the short program of a combination gets: the place, whose owner has it open, and who is in it.
struct Shared {
    place: SqlitePlace,
    owner: Owner,
    ada: User,
    bob: User,
}

impl Shared {
    /// Ada has a file; Bob has nothing.
    fn new() -> Self {
        let place = SqlitePlace::new();
        let store = place.open();
        let [ada, bob] =
            ["ada@example.com", "bob@example.com"].map(|new| block_on(store.create(new_user(new))).unwrap());
        block_on(store.storage(ada.id)).unwrap().write(FILE, "hello").unwrap();
        block_on(store.close()).unwrap();
        let owner = Owner::start(&place);
        Self { place, owner, ada, bob }
    }

    /// Runs a short program: it opens the store, does something and closes it.
    fn short<T>(&self, f: impl FnOnce(&Store) -> T) -> T {
        self.short_waiting(tenantry::Builder::DEFAULT_BUSY_TIMEOUT, f)
    }

    fn short_waiting<T>(&self, patience: Duration, f: impl FnOnce(&Store) -> T) -> T {
        let builder = Store::builder(self.place.data_dir()).create_if_missing(false).busy_timeout(patience);
        let store = block_on(builder.open()).unwrap();
        let done = f(&store);
        block_on(store.close()).unwrap();
        done
    }

    /// Both sides still write, and see what the other has written; nothing is wrong in the end.
    fn end(mut self) {
        let of_owner = self.owner.ask("create", "of-owner@example.com");
        let of_short = self.short(|store| {
            let seen = block_on(store.get_by_email(&email("of-owner@example.com"))).unwrap();
            assert_eq!(json!(seen), of_owner);
            block_on(store.create(new_user("of-short@example.com"))).unwrap()
        });
        assert_eq!(self.owner.ask("get", of_short.id), json!(of_short));
        let counted = self.owner.ask("count", "");
        self.owner.end();
        let store = self.place.open();
        assert_eq!(json!(block_on(store.count()).unwrap()), counted);
        block_on(store.close()).unwrap();
        assert_eq!(block_on(check(self.place.data_dir())).unwrap().findings, []);
    }
}

/// What a short program does beside a long-lived owner, and what both see of it.
type Combination = (&'static str, fn(&mut Shared));

const COMBINATIONS: [Combination; 17] = [
    ("create", |shared| {
        let eve = shared.short(|store| block_on(store.create(new_user("eve@example.com")))).unwrap();
        assert_eq!(shared.owner.ask("get", eve.id), json!(eve));
        assert_eq!(shared.owner.ask("create", "eve@example.com"), "EmailTaken");
    }),
    ("read", |shared| {
        let eve = shared.owner.ask("create", "eve@example.com");
        let users = shared.short(|store| block_on(all(store, ListQuery::default())));
        assert_eq!(users.len(), 3);
        assert_eq!(json!(users[2]), eve);
    }),
    ("import", |shared| {
        let rows: Vec<NewUser> = (0..2_000).map(|row| new_user(&format!("row{row}@example.com"))).collect();
        let (begun, has_begun) = mpsc::channel();
        let import = move |store: &Store| {
            block_on(store.write(move |tx| {
                begun.send(()).unwrap();
                rows.iter().try_for_each(|row| tx.import(row, OnConflict::Fail).map(drop))
            }))
        };
        let builder = Store::builder(shared.place.data_dir()).create_if_missing(false);
        let importing = thread::spawn(move || {
            let store = block_on(builder.open()).unwrap();
            import(&store).unwrap();
            block_on(store.close()).unwrap();
        });
        has_begun.recv().unwrap();
        // The owner reads meanwhile, as of before or after, and its write waits.
        let counted = shared.owner.ask("count", "");
        assert!(counted == 2 || counted == 2_002, "{counted}");
        assert!(shared.owner.ask("create", "meanwhile@example.com").is_object());
        importing.join().unwrap();
        assert_eq!(shared.owner.ask("count", ""), 2_003);
    }),
    ("delete with a directory, and restore", |shared| {
        let ada = shared.ada.id;
        shared.owner.ask("keep handle", ada);
        shared.short(|store| block_on(store.delete(ada))).unwrap();
        assert_eq!(shared.owner.ask("get", ada), Value::Null);
        assert_eq!(shared.owner.ask("file", ada), "NotFound");
        // A handle is of the directory, wherever that is.
        assert_eq!(shared.owner.ask("file by handle", ada), "hello");
        shared.short(|store| block_on(store.restore(ada, None))).unwrap();
        assert_eq!(shared.owner.ask("get", ada), json!(shared.ada));
        assert_eq!(shared.owner.ask("file", ada), "hello");
    }),
    ("purge", |shared| {
        let ada = shared.ada.id;
        let purged = shared.short(|store| {
            block_on(store.delete(ada)).unwrap();
            block_on(store.purge(Purge::User(ada), |_| {})).unwrap()
        });
        assert_eq!((purged.users, purged.files, purged.left.len()), (1, 1, 0));
        assert!(purged.not_erased.is_none(), "{purged:?}");
        // The database was rewritten under the owner.
        assert_eq!(shared.owner.ask("get", ada), Value::Null);
        assert_eq!(shared.owner.ask("get", shared.bob.id), json!(shared.bob));
        assert!(!shared.place.data_dir().join("trash").join(ada.to_string()).exists());
    }),
    ("purge during a read of the owner's: the rewriting is put off", |shared| {
        shared.owner.ask("hold a read", "");
        let bob = shared.bob.id;
        let purged = shared.short_waiting(SHORT, |store| {
            block_on(store.delete(bob)).unwrap();
            block_on(store.purge(Purge::User(bob), |_| {})).unwrap()
        });
        assert_eq!(purged.users, 1);
        assert_eq!(purged.not_erased.map(|error| error.kind()), Some(ErrorKind::Unfinished));
        shared.owner.ask("release", "");
        assert_eq!(shared.owner.ask("get", bob), Value::Null);
        // Whoever opens the store next has finished it.
        shared.short(|_| ());
    }),
    ("check", |shared| {
        let report = block_on(check(shared.place.data_dir())).unwrap();
        assert_eq!((report.findings, report.users, report.directories), (Vec::new(), 2, 1));
    }),
    ("repair", |shared| {
        let dir = shared.place.data_dir().join("storage").join(shared.ada.storage_path.as_str());
        crate::support::set_mode(&dir, 0o755);
        let repaired = block_on(repair(shared.place.data_dir(), RepairOptions::default())).unwrap();
        assert_eq!((repaired.before.findings.len(), repaired.failures.len()), (1, 0));
        assert_eq!(repaired.after.unwrap().findings, []);
        assert_eq!(crate::support::mode(&dir), 0o700);
        assert_eq!(shared.owner.ask("file", shared.ada.id), "hello");
    }),
    ("backup, and restore elsewhere", |shared| {
        let file = shared.place.as_ref().join("a.tar.zst");
        let made = shared.short(|store| block_on(create_backup(store, &file, BackupOptions::default(), |_, _| {})));
        assert_eq!((made.unwrap().manifest.users, shared.owner.ask("count", "")), (2, json!(2)));
        let restored = block_on(restore_backup(&file, shared.place.as_ref().join("elsewhere"), |_, _| {})).unwrap();
        assert_eq!(restored.report.findings, []);
    }),
    ("restore over the directory in use: refused", |shared| {
        let file = shared.place.as_ref().join("a.tar.zst");
        shared.short(|store| block_on(create_backup(store, &file, BackupOptions::default(), |_, _| {}))).unwrap();
        let eve = shared.owner.ask("create", "eve@example.com");
        let restored = block_on(restore_backup(&file, shared.place.data_dir(), |_, _| {}));
        assert_eq!(kind(restored), ErrorKind::NotEmpty);
        assert_eq!(shared.owner.ask("get", eve["id"].as_str().unwrap()), eve);
    }),
    ("opening and closing", |shared| {
        for number in 0..20 {
            shared.short(|_| ());
            assert!(shared.owner.ask("create", format!("u{number}@example.com")).is_object());
        }
    }),
    ("a second owner", |shared| {
        let mut second = Owner::start(&shared.place);
        for number in 0..20 {
            let (one, two) =
                if number % 2 == 0 { (&mut shared.owner, &mut second) } else { (&mut second, &mut shared.owner) };
            let user = one.ask("create", format!("u{number}@example.com"));
            assert_eq!(two.ask("get", user["id"].as_str().unwrap()), user);
        }
        second.end();
    }),
    ("adopt", |shared| {
        let dir = shared.place.data_dir().join("storage/customers/bob");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(FILE), "brought along").unwrap();
        let bob = shared.short(|store| block_on(store.adopt(shared.bob.id, "customers/bob".parse().unwrap()))).unwrap();
        assert_eq!(shared.owner.ask("get", bob.id), json!(bob));
        assert_eq!(shared.owner.ask("file", bob.id), "brought along");
    }),
    ("a write during a long one of the owner's: refused", |shared| {
        shared.owner.ask("hold a write", "");
        shared.short_waiting(SHORT, |store| {
            let error = block_on(store.create(new_user("eve@example.com"))).unwrap_err();
            assert!(error.kind() == ErrorKind::Busy && error.is_retryable(), "{error:?}");
            // Reads don't wait, and see nothing of it.
            assert_eq!(block_on(store.count()).unwrap(), 2);
        });
        shared.owner.ask("release", "");
        assert_eq!(shared.short(|store| block_on(store.count()).unwrap()), 3);
    }),
    ("purge during a backup of the owner's: refused", |shared| {
        shared.owner.ask("hold a backup", "");
        shared.short_waiting(SHORT, |store| {
            block_on(store.delete(shared.bob.id)).unwrap();
            assert_eq!(kind(block_on(store.purge(Purge::User(shared.bob.id), |_| {}))), ErrorKind::Busy);
            block_on(store.restore(shared.bob.id, None)).unwrap();
        });
        shared.owner.ask("release", "");
        let purged = shared.short(|store| {
            block_on(store.delete(shared.bob.id)).unwrap();
            block_on(store.purge(Purge::User(shared.bob.id), |_| {}))
        });
        assert_eq!(purged.unwrap().users, 1);
    }),
    ("backup during a backup of the owner's: refused", |shared| {
        shared.owner.ask("hold a backup", "");
        let file = shared.place.as_ref().join("a.tar.zst");
        let back_up = |store: &Store| block_on(create_backup(store, &file, BackupOptions::default(), |_, _| {}));
        assert_eq!(kind(shared.short_waiting(SHORT, back_up)), ErrorKind::Busy);
        assert!(!file.exists());
        shared.owner.ask("release", "");
        assert_eq!(shared.short(back_up).unwrap().manifest.users, 2);
    }),
    ("an upgrade by a newer version: kept out", |shared| {
        // What a newer version would take.
        let lock = File::options().write(true).open(shared.place.data_dir().join("tenantry.lock")).unwrap();
        assert!(matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
        shared.short(|_| ());
        assert!(
            matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)),
            "a short program gave up the owner's lock"
        );
        // And what its users would be told who come while it upgrades.
        let mut owner = std::mem::replace(&mut shared.owner, Owner::start(&shared.place));
        owner.ask("close", "");
        assert!(matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
        shared.owner.ask("close", "");
        lock.try_lock().unwrap();
        let opened = Store::builder(shared.place.data_dir()).busy_timeout(SHORT).open();
        assert_eq!(kind(block_on(opened)), ErrorKind::Busy);
        drop(lock);
        owner.end();
        std::mem::replace(&mut shared.owner, Owner::start(&shared.place)).end();
    }),
];

#[test]
fn a_long_lived_owner_and_short_programs_share_a_store_or_are_refused() {
    for (name, run) in COMBINATIONS {
        println!("beside a long-lived owner: {name}");
        let mut shared = Shared::new();
        run(&mut shared);
        shared.end();
    }
    report("a long-lived owner and a short program", format!("{} combinations as documented", COMBINATIONS.len()));
}

/// A database as version 1 of the schema made it.
pub(crate) fn of_version_1(place: &SqlitePlace) {
    fs::create_dir(place.data_dir()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    conn.execute_batch(include_str!("../../src/sqlite/migrations/V1__users.sql")).unwrap();
    // What the program records of a migration; the checksum is the one that a test of the library's holds.
    conn.execute_batch(
        "CREATE TABLE tenantry_migrations (
            version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_on TEXT NOT NULL, checksum TEXT NOT NULL
         ) STRICT;
         INSERT INTO tenantry_migrations VALUES (1, 'users', '2026-01-01T00:00:00Z', '2837392614996719911');
         INSERT INTO users (id, email_key, email, created_at, updated_at, version) VALUES
            (x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'ada@example.com', 1, 1, 1)",
    )
    .unwrap();
    conn.close().unwrap();
}

/// Has an old store open, as far as others can tell.
pub(crate) fn child_is_an_older_version(data_dir: &Path) {
    let lock = File::create(data_dir.join("tenantry.lock")).unwrap();
    lock.lock_shared().unwrap();
    process::wait_for_the_start();
}

#[test]
fn a_store_that_an_older_version_has_open_is_upgraded_when_that_is_closed() {
    let place = SqlitePlace::new();
    of_version_1(&place);
    let mut older = Process::start("is an older version", &place.data_dir(), "");
    older.await_ready();
    let before = crate::support::tree(&place.data_dir());
    let error = block_on(Store::builder(place.data_dir()).busy_timeout(SHORT).open()).unwrap_err();
    assert!(error.kind() == ErrorKind::Busy && error.to_string().contains("upgraded"), "{error:?}");
    assert_eq!(crate::support::tree(&place.data_dir()), before);
    older.start_now();
    older.end();
    let store = place.open();
    assert_eq!(store.upgrade().map(|upgrade| upgrade.from), Some(1));
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

/// Several upgrade, or create, a store at once: one does it, and all of them use it.
#[test]
fn of_processes_that_upgrade_or_create_a_store_at_once_one_does() {
    for is_old in [true, false] {
        let place = SqlitePlace::new();
        if is_old {
            of_version_1(&place);
        }
        let mut owners: Vec<Owner> = (0..4).map(|_| Owner(Process::start("owns", &place.data_dir(), ""))).collect();
        for owner in &mut owners {
            owner.0.await_ready();
        }
        for (number, owner) in owners.iter_mut().enumerate() {
            assert!(owner.ask("create", format!("u{number}@example.com")).is_object());
        }
        let created = owners.iter_mut().filter_map(|owner| owner.ask("was created", "").as_bool());
        assert_eq!(created.filter(|created| *created).count(), usize::from(!is_old));
        for owner in &mut owners {
            assert_eq!(owner.ask("count", ""), 4 + u64::from(is_old));
        }
        owners.into_iter().for_each(Owner::end);
        let snapshots = fs::read_dir(place.data_dir().join("backups")).map_or(0, Iterator::count);
        assert_eq!(snapshots, usize::from(is_old));
        assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
    }
}

/// POSIX ends all locks of a process on a file when it closes any descriptor of it. SQLite keeps that from happening
/// between the connections of one copy of it: also those of two stores in one process.
#[test]
fn a_store_that_is_closed_leaves_the_locks_of_another_in_the_same_process() {
    let place = SqlitePlace::new();
    let store = place.open();
    let write = |expected: &str| {
        let mut child = Process::start("writes once", &place.data_dir(), "");
        child.await_ready();
        child.start_now();
        assert_eq!(child.end(), [expected]);
    };
    let writer = BlockedWriter::block(&store);
    write("Err(Busy)");
    for _ in 0..3 {
        let second = place.open();
        assert_eq!(block_on(second.count()).unwrap(), 0);
        block_on(second.close()).unwrap();
        assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
        write("Err(Busy)");
    }
    writer.release();
    write("Ok(())");
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

pub(crate) fn child_writes_once(data_dir: &Path) {
    process::wait_for_the_start();
    let store = block_on(Store::builder(data_dir).busy_timeout(SHORT).open()).unwrap();
    let written = block_on(store.create(new_user("eve@example.com"))).map(drop).map_err(|error| error.kind());
    block_on(store.close()).unwrap();
    process::say(format!("{written:?}"));
}
