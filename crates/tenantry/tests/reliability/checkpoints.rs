//! Checkpoints move the WAL into the database beside the commits, round by round, and then begun
//! anew: whatever happens in the middle of it, what has returned is there.
//!
//! One caller changes hundreds of pages in each transaction, until the log is long enough to be
//! moved. The power is cut at all that matters: at the writes and syncs of the database file, and
//! where the log begins anew. A sync of the database file fails, or a write to it. What was
//! answered is compared as the other harnesses do it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tenantry::sqlite::rusqlite::ffi;
use tenantry::{Error, ErrorKind, ListQuery, NewUser, OnConflict, Result, Store, User, UserId};
use tenantry_testkit::random::Random;

use crate::io_faults::{Cuts, Left, Watchdog};
use crate::power_cut::{Known, Row, compare, values_of};
use crate::rebuilt::{self, Files, Replay, Variant};
use crate::share::{report, share};
use crate::support::{Boxed, TestClock, block_on, in_memory, new_user, numbered_id, poll_once};
use crate::vfs::{Disk, Event, Fault, Kind, Watched};

/// Enough for the rows to fill more than 500 pages.
const USERS: usize = 4_000;
/// At how many pages the log is moved, as `checkpoints.rs` of the store says.
const CHECKPOINT_PAGES: u64 = 8_000;
/// After how many more the writer's thread waits for a round.
const WAIT_PAGES: u64 = 8_000;
/// How many the log has already when a test begins.
const PREPARED_PAGES: u64 = 7_000;
/// A page in the log, with the header that it has there.
const FRAME_OCTETS: u64 = 24 + 4_096;
/// More transactions than whatever is waited for can take.
const TRANSACTIONS_MAX: u64 = 400;
/// What becomes of each place in the record.
const VARIANTS: [Variant; 4] =
    [Variant::Synced, Variant::Everything, Variant::Subset, Variant::Torn];

/// Who writes one transaction after the other, and what they were told.
#[derive(Clone)]
struct Caller {
    clock: TestClock,
    rng: Random,
    live: Vec<UserId>,
    made: u64,
    known: Known,
}

/// How many pages a transaction changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// Hundreds.
    Many,
    /// Dozens: beside a round, so that there are many transactions beside it.
    Few,
}

impl Caller {
    fn new() -> Self {
        let known = Known { is_one_by_one: true, ..Known::default() };
        Self { clock: TestClock::new(), rng: Random::new(1), live: Vec::new(), made: 0, known }
    }

    fn open(&self, data: &Path) -> Store {
        block_on(Store::builder(data).ambient(Arc::new(self.clock.clone())).open()).unwrap()
    }

    /// Somebody with an address that takes room.
    fn new_user(&mut self) -> NewUser {
        self.made += 1;
        let label = "x".repeat(50);
        let address = format!("User{}@{label}.{label}.{label}.{label}.example.com", self.made);
        NewUser { id: Some(numbered_id(self.made)), ..new_user(&address) }
    }

    /// One transaction: of those who are there, some log in, and there are some more then.
    fn transact(
        &mut self,
        store: &Store,
        disk: &Disk,
        logins: Vec<UserId>,
        imports: u64,
    ) -> Result<()> {
        // So each transaction leaves something else of everybody.
        self.clock.forward(1);
        let news: Vec<NewUser> = (0..imports).map(|_| self.new_user()).collect();
        let ids: Vec<UserId> = news.iter().map(|new| new.id.unwrap()).collect();
        let written = block_on(store.write(move |tx| {
            let mut users: Vec<User> =
                logins.into_iter().map(|id| tx.record_login(id)).collect::<Result<_>>()?;
            for new in &news {
                tx.upsert(new, OnConflict::Fail)?;
                users.push(tx.get(new.id.unwrap())?.unwrap());
            }
            Ok::<_, Error>(users)
        }));
        let at = disk.note(Event::Answered);
        for user in written? {
            let states = self.known.users.entry(user.id).or_insert_with(|| vec![(0, Row::Absent)]);
            states.push((at, Row::Live(values_of(&user))));
        }
        self.live.extend_from_slice(&ids);
        self.known.batches.push(ids);
        Ok(())
    }

    fn write(&mut self, store: &Store, disk: &Disk, pages: Pages) -> Result<()> {
        // Those who were made one after the other lie beside each other, seven in a page.
        let apart = match pages {
            Pages::Many => 7 + self.rng.below(7),
            Pages::Few => 50 + self.rng.below(150),
        };
        let first = usize::try_from(self.rng.below(apart)).unwrap();
        let logins = self
            .live
            .iter()
            .skip(first)
            .step_by(usize::try_from(apart).unwrap())
            .copied()
            .collect();
        self.transact(store, disk, logins, 3)
    }

    /// What is known is there from now on, whatever else happens.
    fn begin_anew(&mut self) {
        for states in self.known.users.values_mut() {
            let (_, last) = states.pop().unwrap();
            *states = vec![(0, last)];
        }
        self.known.batches.clear();
    }

    /// Whether everybody is there as the caller knows them.
    fn verify(&self, data: &Path) {
        assert_eq!(compare(data, usize::MAX, &self.known), Ok(()));
    }
}

/// A store with many users as a crash left it, with a log that is almost long enough to be moved.
fn prepare() -> (Left, Caller) {
    let scratch = in_memory();
    let data = scratch.path().join("data");
    let disk = Disk::watch(&data, true);
    let mut caller = Caller::new();
    let store = caller.open(&data);
    while caller.live.len() < USERS {
        caller.transact(&store, &disk, Vec::new(), 500).unwrap();
    }
    let length = || fs::metadata(data.join("tenantry.db-wal")).unwrap().len();
    while length() < PREPARED_PAGES * FRAME_OCTETS {
        caller.write(&store, &disk, Pages::Many).unwrap();
    }
    assert!(length() < CHECKPOINT_PAGES * FRAME_OCTETS, "the log was to be a bit shorter");
    let record = disk.take_record();
    caller.known.marker = fs::read(data.join("storage/.tenantry-store")).unwrap();
    block_on(store.close()).unwrap();
    let mut replay = Replay::new(&disk.base, &record, rebuilt::Disk::Honest, 0, 1);
    while replay.advance() {}
    caller.begin_anew();
    let left = Left {
        files: replay.cut(Variant::Everything),
        marker: Some(caller.known.marker.clone()),
        rows: BTreeMap::new(),
    };
    (left, caller)
}

/// How the log was moved, as a record tells it.
#[derive(Clone, Debug)]
struct Moved {
    database: u32,
    log: u32,
    /// How many events were looked at.
    seen: usize,
    /// How many pages are in the log.
    pages: u64,
    /// How often the log was begun anew when it was long.
    begun_anew: u64,
    /// How many syncs of the database there were after which there were commits before the log was
    /// begun anew.
    rounds: u64,
    /// How many syncs since the last commit.
    syncs: u64,
    /// How many commits came between two writes to the database, or a write and the sync that ends
    /// a round.
    beside: u64,
    /// How many came since the last write to the database that no sync followed.
    beside_so_far: Option<u64>,
}

impl Moved {
    /// Of a store that was just opened, before anything was written.
    fn new(disk: &Disk) -> Self {
        let log = disk.number_of("tenantry.db-wal").unwrap();
        let pages = disk.base["tenantry.db-wal"].len() as u64 / FRAME_OCTETS;
        let database = disk.number_of("tenantry.db").unwrap();
        Self {
            database,
            log,
            seen: 0,
            pages,
            begun_anew: 0,
            rounds: 0,
            syncs: 0,
            beside: 0,
            beside_so_far: None,
        }
    }

    /// Looks at what came since.
    fn look(&mut self, disk: &Disk) {
        disk.look(|record| {
            for event in &record[self.seen..] {
                self.see(event);
            }
            self.seen = record.len();
        });
    }

    fn see(&mut self, event: &Event) {
        match event {
            event if begins_log(event, self.log) => {
                // A round that comes late finds a short log, which may be begun anew after it too.
                self.begun_anew += u64::from(self.pages >= CHECKPOINT_PAGES);
                self.pages = 0;
                self.syncs = 0;
            }
            // The header of a page; that of the last of a transaction has the size of the database
            // in it.
            Event::Write { file, offset, data } if *file == self.log && data.len() == 24 => {
                self.pages = *offset as u64 / FRAME_OCTETS + 1;
                if data[4..8] != [0; 4] {
                    self.rounds += std::mem::take(&mut self.syncs);
                    self.beside_so_far = self.beside_so_far.map(|commits| commits + 1);
                }
            }
            Event::Write { file, .. } if *file == self.database => {
                self.beside += self.beside_so_far.replace(0).unwrap_or(0);
            }
            Event::Sync { file, .. } if *file == self.database => {
                self.beside += self.beside_so_far.take().unwrap_or(0);
                self.syncs += 1;
            }
            _ => {}
        }
    }
}

/// Whether this writes the header of the log, which is done when it begins.
fn begins_log(event: &Event, log: u32) -> bool {
    matches!(event, Event::Write { file, offset: 0, data } if *file == log && data.len() == 32)
}

/// A store that is used until its log is moved.
struct Session {
    scratch: TempDir,
    disk: Watched,
    store: Store,
    caller: Caller,
    moved: Moved,
    transactions: u64,
    /// In which life of the log a round was held up last.
    held_up_in: Option<u64>,
    /// Before which write to the database a round is held up.
    held_up_at: u64,
}

impl Session {
    fn begin(left: &Left, caller: &Caller) -> Self {
        let scratch = in_memory();
        let data = scratch.path().join("data");
        left.put(&data);
        let disk = Disk::watch(&data, true);
        let store = caller.open(&data);
        let moved = Moved::new(&disk);
        Self {
            scratch,
            disk,
            store,
            caller: caller.clone(),
            moved,
            transactions: 0,
            held_up_in: None,
            held_up_at: 1,
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn plan(&mut self, fault: Fault) {
        if fault.kind == Kind::WriteOfDatabase {
            // The first may be the one that fails, and then no other comes.
            self.held_up_at = 0;
        }
        self.disk.plan(Some(fault));
    }

    fn write(&mut self) -> Result<()> {
        self.transactions += 1;
        assert!(
            self.transactions < TRANSACTIONS_MAX,
            "what is waited for doesn't come: {:?}",
            self.moved
        );
        let pages = if self.moved.pages < CHECKPOINT_PAGES { Pages::Many } else { Pages::Few };
        let written = self.caller.write(&self.store, &self.disk, pages);
        self.moved.look(&self.disk);
        written
    }

    /// The same. The first round after each beginning of the log is blocked until there are
    /// commits in the middle of it: so it moves a part of the log and no more, and doesn't wait for
    /// the disk but by itself.
    fn write_beside_rounds(&mut self) -> Result<()> {
        if self.held_up_in != Some(self.moved.begun_anew) && self.moved.pages < CHECKPOINT_PAGES {
            self.disk.hold_up(Kind::WriteOfDatabase, self.held_up_at);
            self.held_up_in = Some(self.moved.begun_anew);
        }
        self.write()?;
        if self.disk.is_held() {
            let written = self.write().and_then(|()| self.write());
            self.disk.release();
            return written;
        }
        // Before the writer's thread waits for a round, which might be blocked then.
        if self.moved.pages >= CHECKPOINT_PAGES + WAIT_PAGES / 2 {
            self.disk.release();
        }
        Ok(())
    }

    fn recorded(self) -> Recorded {
        Recorded {
            base: self.disk.base.clone(),
            record: self.disk.take_record(),
            known: self.caller.known,
            moved: self.moved,
        }
    }
}

/// A record, and what its caller knows.
struct Recorded {
    base: Files,
    record: Vec<Event>,
    known: Known,
    moved: Moved,
}

/// Has the log moved and begun anew so many times, and closes the store.
fn record(cycles: u64) -> Recorded {
    let watchdog = Watchdog::new();
    watchdog.begin("the log is moved");
    let (left, caller) = prepare();
    let mut session = Session::begin(&left, &caller);
    drop(left);
    loop {
        session.write_beside_rounds().unwrap();
        let moved = &session.moved;
        if moved.begun_anew >= cycles && moved.rounds >= cycles && moved.beside >= 2 * cycles {
            break;
        }
    }
    session.disk.release();
    for _ in 0..3 {
        session.write().unwrap();
    }
    block_on(session.store.close()).unwrap();
    session.recorded()
}

/// Where the power is cut in a record: around each sync of the database, where the log is begun,
/// and at some of the writes to the database, of which there are thousands.
fn places(record: &[Event], moved: &Moved, one_write_of: u64) -> BTreeSet<usize> {
    let mut rng = Random::new(1);
    let mut places = BTreeSet::new();
    for (number, event) in record.iter().enumerate() {
        match event {
            event if begins_log(event, moved.log) => {
                // Before it, after it, and after its first transaction is there, or not yet.
                let synced = record[number..].iter().position(|event| is_sync_of(event, moved.log));
                let synced = number + synced.unwrap_or(0);
                places.extend([number, number + 1, number + 3, synced, synced + 1]);
            }
            Event::Sync { file, .. } | Event::SyncFailed { file, .. }
                if *file == moved.database =>
            {
                places.extend([number, number + 1]);
            }
            Event::Truncate { .. } | Event::Remove { .. } => places.extend([number, number + 1]),
            Event::Write { file, .. }
                if *file == moved.database && rng.below(one_write_of) == 0 =>
            {
                places.insert(number);
            }
            _ => {}
        }
    }
    places.insert(record.len());
    places
}

fn is_sync_of(event: &Event, of: u32) -> bool {
    matches!(event, Event::Sync { file, .. } if *file == of)
}

impl Recorded {
    /// Cuts the power at these places.
    fn cut(&self, disk: rebuilt::Disk, places: &BTreeSet<usize>) -> Cuts {
        let mut cuts = Cuts::default();
        self.cut_into(&mut cuts, disk, places);
        cuts
    }

    fn cut_into(&self, cuts: &mut Cuts, disk: rebuilt::Disk, places: &BTreeSet<usize>) {
        let watchdog = Watchdog::new();
        let scratch = in_memory();
        let data = scratch.path().join("data");
        let mut replay = Replay::new(&self.base, &self.record, disk, 0, 1);
        for place in places {
            watchdog.begin((disk, place));
            while replay.at() < *place && replay.advance() {}
            for variant in VARIANTS {
                cuts.cut_here(&data, &mut replay, variant, &self.known);
            }
        }
    }
}

#[test]
fn a_power_cut_during_a_checkpoint_loses_no_write_that_has_returned() {
    let recorded = record(2);
    let moved = &recorded.moved;
    let octets: usize = recorded
        .record
        .iter()
        .map(|event| if let Event::Write { data, .. } = event { data.len() } else { 0 })
        .sum();
    assert!(moved.begun_anew >= 2 && moved.rounds >= 2 && moved.beside >= 4, "{moved:?}");
    let places = places(&recorded.record, moved, share(400, 10));
    let cuts = recorded.cut(rebuilt::Disk::Honest, &places);
    report(
        "a power cut while the log is moved",
        format!(
            "{} states of the disk, of {} events with {} MB; the log begun anew {} times, {} rounds before commits, {} \
             commits in the middle of rounds; wrong: {:?}",
            cuts.states,
            recorded.record.len(),
            octets / 1_000_000,
            moved.begun_anew,
            moved.rounds,
            moved.beside,
            cuts.wrong
        ),
    );
    assert_eq!(cuts.wrong, BTreeMap::new(), "{:?}", cuts.example);
    assert!(cuts.states > 0);
}

#[test]
fn a_disk_that_ignores_syncs_of_the_database_is_caught() {
    let recorded = record(1);
    let places = places(&recorded.record, &recorded.moved, 1_000);
    let cuts = recorded.cut(rebuilt::Disk::IgnoresSyncOfDatabase, &places);
    report(
        "a power cut while the log is moved, no sync of the database",
        format!("{} states of the disk; wrong: {:?}", cuts.states, cuts.wrong),
    );
    assert!(!cuts.wrong.is_empty());
}

/// Whether this says that no write is accepted any more.
fn assert_refused(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(error.to_string().contains("accepts no writes"), "{error}");
}

/// Some of the places, chosen by chance.
fn some_of(places: BTreeSet<usize>, count: usize, rng: &mut Random) -> BTreeSet<usize> {
    let mut left: Vec<usize> = places.into_iter().collect();
    while left.len() > count {
        left.swap_remove(usize::try_from(rng.below(left.len() as u64)).unwrap());
    }
    left.into_iter().collect()
}

/// Has something of the database fail when the log is moved. Every write is refused from when it is
/// noticed on, and all that has returned is there: after closing and opening again, and after a
/// power cut at some places since it failed.
fn fail(left: &Left, caller: &Caller, fault: Fault, places_max: usize, cuts: &mut Cuts) {
    let mut session = Session::begin(left, caller);
    session.plan(fault);
    let error = loop {
        if let Err(error) = session.write_beside_rounds() {
            break error;
        }
    };
    session.disk.release();
    assert!(session.disk.fired() > 0, "nothing failed: {error:?}");
    assert_refused(&error);
    let new = session.caller.new_user();
    assert_refused(&block_on(session.store.create(new)).unwrap_err());
    assert_refused(&session.write().unwrap_err());
    // Reads go on.
    for id in session.caller.live.iter().step_by(100) {
        let user = block_on(session.store.get(*id)).unwrap().unwrap();
        assert_eq!(session.caller.known.users[id].last().unwrap().1, Row::Live(values_of(&user)));
    }
    assert!(!block_on(session.store.list(&ListQuery::default())).unwrap().users.is_empty());
    block_on(session.store.close()).unwrap();
    if fault.kind == Kind::SyncOfDatabase {
        // What is counted as moved may have been lost, so the log is still there to the next
        // opening.
        let log = fs::metadata(session.data().join("tenantry.db-wal")).unwrap();
        assert!(
            log.len() > CHECKPOINT_PAGES * FRAME_OCTETS,
            "the log was cut at closing, though a sync failed"
        );
    }
    session.disk.plan(None);
    let closed_at = session.disk.note(Event::Answered);
    // It is opened by the same system, which takes for written what it holds.
    session.store = session.caller.open(&session.data());
    session.caller.verify(&session.data());
    for _ in 0..3 {
        session.write().unwrap();
    }
    block_on(session.store.close()).unwrap();
    let mut rng = Random::new(cuts.syncs);
    let recorded = session.recorded();
    let failed_at =
        recorded.record.iter().position(|event| matches!(event, Event::SyncFailed { .. }));
    // A write that failed isn't recorded: then all places count.
    let from = failed_at.unwrap_or(0);
    let all = places(&recorded.record, &recorded.moved, 400);
    let mut places =
        some_of(all.into_iter().filter(|place| *place > from).collect(), places_max, &mut rng);
    places.insert(closed_at);
    cuts.syncs += 1;
    let disks: &[rebuilt::Disk] = match failed_at {
        Some(_) => &[rebuilt::Disk::ForgetsWhatFailed, rebuilt::Disk::ForgetsSomeOfWhatFailed],
        None => &[rebuilt::Disk::Honest],
    };
    for disk in disks {
        recorded.cut_into(cuts, *disk, &places);
    }
}

/// Has each of these happen to a store of its own.
fn fail_each(what: &str, faults: impl IntoIterator<Item = Fault>, places_max: u64) {
    let watchdog = Watchdog::new();
    watchdog.begin(what);
    let (left, caller) = prepare();
    let mut cuts = Cuts::default();
    for fault in faults {
        fail(&left, &caller, fault, usize::try_from(places_max).unwrap(), &mut cuts);
    }
    report(&format!("{what} that fails in a round, and then a power cut"), &cuts);
    assert_eq!(cuts.wrong, BTreeMap::new(), "{:?}", cuts.example);
    assert!(cuts.states > 0);
}

#[test]
fn a_failed_sync_of_a_checkpoint_is_noticed_and_loses_no_write_that_has_returned() {
    let fault = |nth, for_good| Fault {
        kind: Kind::SyncOfDatabase,
        nth,
        for_good,
        code: ffi::SQLITE_IOERR_FSYNC,
    };
    let faults = (0..share(3, 8)).flat_map(|nth| [fault(nth, false), fault(nth, true)]);
    fail_each("a sync of the database", faults, share(2, 30));
}

#[test]
fn a_failed_write_of_a_checkpoint_is_noticed_and_loses_no_write_that_has_returned() {
    let fault = |nth, for_good| Fault {
        kind: Kind::WriteOfDatabase,
        nth,
        for_good,
        code: ffi::SQLITE_IOERR_WRITE,
    };
    let faults = [fault(0, false), fault(0, true), fault(300, false), fault(300, true)];
    fail_each("a write to the database", faults, share(1, 30));
}

#[test]
fn a_disk_that_is_full_for_the_database_in_a_round_refuses_no_write() {
    let watchdog = Watchdog::new();
    watchdog.begin("the disk is full for the database");
    let (left, caller) = prepare();
    for (nth, for_good) in [(0, false), (0, true), (300, true)] {
        let mut session = Session::begin(&left, &caller);
        let fault = Fault { kind: Kind::WriteOfDatabase, nth, for_good, code: ffi::SQLITE_FULL };
        session.plan(fault);
        let mut since = 0;
        // The log has room: so there are writes while the disk is full for the database, and they
        // return.
        while since < 10 {
            session.write_beside_rounds().unwrap();
            since += u64::from(session.disk.fired() > 0);
        }
        assert!(
            !for_good || session.moved.begun_anew == 0,
            "it was begun anew but can't have been moved"
        );
        // There is space again: the log is moved, and begun anew.
        session.disk.plan(None);
        session.disk.release();
        let before = session.moved.begun_anew;
        while session.moved.begun_anew == before {
            session.write().unwrap();
        }
        let data = session.data();
        session.caller.verify(&data);
        block_on(session.store.close()).unwrap();
        assert_no_log(&data);
        let again = session.caller.open(&data);
        session.caller.verify(&data);
        block_on(again.close()).unwrap();
    }
}

fn assert_no_log(data: &Path) {
    let log = data.join("tenantry.db-wal");
    assert!(!log.exists(), "there is a log of {} octets", fs::metadata(&log).unwrap().len());
}

#[test]
fn no_log_is_left_after_closing_a_store_whose_log_was_moved_in_rounds() {
    let watchdog = Watchdog::new();
    watchdog.begin("the store is closed");
    let (left, caller) = prepare();
    // Closed when a round has begun to write, when it waits for the disk, and when the rounds are
    // over.
    for held_up in [Some((Kind::WriteOfDatabase, 100)), Some((Kind::SyncOfDatabase, 0)), None] {
        let mut session = Session::begin(&left, &caller);
        if let Some((kind, nth)) = held_up {
            session.disk.hold_up(kind, nth);
        }
        while if held_up.is_some() {
            session.moved.pages < CHECKPOINT_PAGES
        } else {
            session.moved.begun_anew == 0
        } {
            session.write().unwrap();
        }
        let data = session.data();
        let Session { scratch: _scratch, disk, store, caller, mut moved, .. } = session;
        let mut close: Boxed<'_, Result<()>> = Box::pin(store.close());
        if held_up.is_some() {
            disk.wait_until_held();
            assert!(poll_once(&mut close).is_pending(), "closed before the round has ended");
            disk.release();
        }
        block_on(close).unwrap();
        let at_end = disk.look(<[Event]>::len);
        assert_no_log(&data);
        moved.look(&disk);
        let record = disk.take_record();
        assert_eq!(record.len(), at_end, "something happened to the files after closing");
        if held_up.is_some() {
            let synced = record.iter().position(|event| is_sync_of(event, moved.database)).unwrap();
            let cut = record.iter().position(|event| {
                matches!(event, Event::Truncate { file, .. } if *file == moved.log)
                    || matches!(event, Event::Remove { .. })
            });
            assert!(
                cut.is_some_and(|cut| cut > synced),
                "the log was cut before the round had ended"
            );
        }
        let again = caller.open(&data);
        let id = caller.live[caller.live.len() / 2];
        let user = block_on(again.get(id)).unwrap().unwrap();
        assert_eq!(caller.known.users[&id].last().unwrap().1, Row::Live(values_of(&user)));
        caller.verify(&data);
        block_on(again.close()).unwrap();
    }
}

/// Has the first round's sync of the database fail, and returns when that is noticed.
fn with_failed_round(left: &Left, caller: &Caller) -> Session {
    let mut session = Session::begin(left, caller);
    session.plan(Fault {
        kind: Kind::SyncOfDatabase,
        nth: 0,
        for_good: false,
        code: ffi::SQLITE_IOERR_FSYNC,
    });
    while session.write_beside_rounds().is_ok() {}
    session.disk.release();
    assert_eq!(session.disk.fired(), 1);
    session
}

/// What `checkpoints.rs` says of itself: if the disk fails, nothing may be moved any more.
#[test]
fn nothing_is_moved_any_more_after_a_failed_round() {
    let watchdog = Watchdog::new();
    watchdog.begin("writes after a failed round");
    let (left, caller) = prepare();
    let mut session = with_failed_round(&left, &caller);
    // What was under way is over, since the failure was noticed when it ended.
    let before = session.disk.look(<[Event]>::len);
    for _ in 0..20 {
        assert_refused(&session.write().unwrap_err());
    }
    block_on(session.store.close()).unwrap();
    let database = session.moved.database;
    let record = session.disk.take_record();
    let moved = record[before..]
        .iter()
        .filter(|event| matches!(event, Event::Write { file, .. } if *file == database))
        .count();
    assert_eq!(moved, 0, "so many pages were moved after the failure");
}

/// A second store on the same files, as another program has one, which is opened while the first
/// isn't closed yet.
#[test]
fn another_store_beside_one_with_a_failed_round_loses_nothing_either() {
    let watchdog = Watchdog::new();
    watchdog.begin("another store beside a failed round");
    let (left, caller) = prepare();
    let mut session = with_failed_round(&left, &caller);
    session.disk.plan(None);
    let second = session.caller.open(&session.data());
    let first = std::mem::replace(&mut session.store, second);
    session.write().unwrap();
    block_on(session.store.close()).unwrap();
    block_on(first.close()).unwrap();
    let recorded = session.recorded();
    let places = BTreeSet::from([recorded.record.len()]);
    let mut cuts = Cuts::default();
    for disk in [rebuilt::Disk::ForgetsWhatFailed, rebuilt::Disk::ForgetsSomeOfWhatFailed] {
        recorded.cut_into(&mut cuts, disk, &places);
    }
    assert_eq!(cuts.wrong, BTreeMap::new(), "{:?}", cuts.example);
}
