//! A power cut: the store opens, every write that has returned is there, and none in part.
//!
//! Many callers write to a store at a time, while the VFS records what happens to its files and
//! when each of them returns. Then the disk is rebuilt as it may be found after a power cut at
//! every event of the record, in several ways, and the store is opened on it and compared with what
//! its callers were told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use tenantry::sqlite::rusqlite::{self, Connection};
use tenantry::{
    Ambient, Durability, Error, ErrorKind, NewUser, OnConflict, Purge, StoragePath, Store,
    Timestamp, Upserted, User, UserId, UserUpdate,
};
use tenantry_testkit::random::Random;

use crate::io_faults::Op;
use crate::rebuilt::{self, Files, Replay, Variant};
use crate::share::{report, share};
use crate::support::{block_on, email, in_memory, new_user, numbered_id, time};
use crate::vfs::{Disk, Event};

/// How many callers write at a time: more than a group needs to be one.
const CALLERS: u64 = 8;
/// How many threads open what was rebuilt.
const CHECKERS: usize = 2;
/// What becomes of each place in the record.
const VARIANTS: [Variant; 8] = [
    Variant::Synced,
    Variant::Everything,
    Variant::LastTorn,
    Variant::LastTorn,
    Variant::Subset,
    Variant::Subset,
    Variant::Torn,
    Variant::Torn,
];

/// What is done to a store while it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It is created, and users are created, changed, deleted and purged, while others move the log
    /// into the database.
    Users,
    /// The same beside imports.
    Imports,
    /// A store of schema version 1 is upgraded, and then used.
    Upgrade,
}

/// When a write counts as answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    WhenAnswered,
    /// The planted mistake: in the transaction, before its commit.
    BeforeTheCommit,
}

/// What is run, and what is wrong with it.
#[derive(Clone, Copy, Debug)]
struct Plan {
    answer: Answer,
    durability: Durability,
    disk: rebuilt::Disk,
    /// The power is cut at every n-th event.
    every: usize,
}

const SOUND: Plan = Plan {
    answer: Answer::WhenAnswered,
    durability: Durability::Full,
    disk: rebuilt::Disk::Honest,
    every: 1,
};

/// A planted mistake is looked for at some events: it is to be found, not counted.
const PLANTED: Plan = Plan { every: 5, ..SOUND };

/// What the database says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Absent,
    Live(Values),
    Trashed(Values),
    Purged,
}

/// The address, the times, the version and the storage path.
pub(crate) type Values = (String, i64, Option<i64>, i64, u64, String);

pub(crate) fn values_of(user: &User) -> Values {
    (
        user.email.as_str().to_owned(),
        user.created_at.as_unix_us(),
        user.last_login_at.map(|time| time.as_unix_us()),
        user.updated_at.as_unix_us(),
        user.version,
        user.storage_path.as_str().to_owned(),
    )
}

/// What the callers know.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// When the store was there for sure.
    pub(crate) opened_at: usize,
    /// What each user was, one after the other, and when that has returned.
    pub(crate) users: BTreeMap<UserId, Vec<(usize, Row)>>,
    /// Users who were made in one transaction.
    pub(crate) batches: Vec<Vec<UserId>>,
    /// What may have become of users about whom nobody knows.
    pub(crate) maybe: BTreeMap<UserId, Op>,
    /// Whether there was one transaction after the other, each answered before the next: then what
    /// is there is all of the first few, and nothing of the others.
    pub(crate) is_one_by_one: bool,
    /// How many users there were before the upgrade, if there was one.
    pub(crate) of_version_1: Option<u64>,
    pub(crate) marker: Vec<u8>,
}

impl Known {
    fn learn(&mut self, other: Self) {
        for (id, states) in other.users {
            self.users.entry(id).or_insert_with(|| vec![(0, Row::Absent)]).extend(states);
        }
        self.batches.extend(other.batches);
    }
}

/// What is wrong with a disk that was rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// What has returned isn't there.
    Lost,
    /// There is something that nobody wrote, or a part of it.
    Torn,
    /// SQLite calls it damaged.
    Corrupt,
    /// The store isn't opened.
    Unopenable,
}

/// Time that goes on with each look at it, and a note in the record for each operation that runs.
struct Clock {
    now: AtomicI64,
    ids: AtomicU64,
    disk: Arc<Disk>,
}

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        self.disk.note(Event::Ran);
        Timestamp::from_unix_us(self.now.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    fn new_id(&self) -> UserId {
        numbered_id(self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// One of many who write.
struct Caller {
    number: u64,
    store: Store,
    disk: Arc<Disk>,
    plan: Plan,
    database: PathBuf,
    rng: Random,
    live: Vec<UserId>,
    trashed: Vec<UserId>,
    made: u64,
    known: Known,
}

impl Caller {
    fn address(&mut self) -> String {
        self.made += 1;
        format!("Caller{}-{}@example.com", self.number, self.made)
    }

    fn new_user(&mut self) -> NewUser {
        let mut new = new_user(&self.address());
        if self.rng.below(4) == 0 {
            new.storage_path =
                Some(format!("customers/{}-{}", self.number, self.made).parse().unwrap());
        }
        new
    }

    /// Has something done in a transaction, in a group if possible. Returns its result, and when it
    /// returned.
    fn transact<T: Clone + Send + 'static>(
        &self,
        grouped: impl AsyncFnOnce(&Store) -> Result<T, Error>,
        alone: impl FnOnce(&mut tenantry::WriteTx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> (usize, T) {
        match self.plan.answer {
            Answer::WhenAnswered => {
                let value = block_on(grouped(&self.store)).unwrap();
                (self.disk.note(Event::Answered), value)
            }
            Answer::BeforeTheCommit => {
                let disk = Arc::clone(&self.disk);
                let closure = move |tx: &mut tenantry::WriteTx<'_>| {
                    let value = alone(tx)?;
                    Ok::<_, Error>((disk.note(Event::Answered), value))
                };
                block_on(self.store.write(closure)).unwrap()
            }
        }
    }

    fn learn(&mut self, at: usize, id: UserId, row: Row) {
        self.known.users.entry(id).or_default().push((at, row));
    }

    fn any_of(rng: &mut Random, ids: &[UserId]) -> Option<usize> {
        (!ids.is_empty()).then(|| usize::try_from(rng.below(ids.len() as u64)).unwrap())
    }

    fn step(&mut self, imports: bool) {
        let live = Self::any_of(&mut self.rng, &self.live);
        let trashed = Self::any_of(&mut self.rng, &self.trashed);
        match (self.rng.below(24), live, trashed) {
            (0..4, Some(nth), _) => {
                let id = self.live[nth];
                let update =
                    UserUpdate { email: Some(email(&self.address())), ..UserUpdate::default() };
                let again = update.clone();
                let (at, user) = self.transact(
                    async |store| store.update(id, update).await,
                    move |tx| tx.update(id, &again),
                );
                self.learn(at, id, Row::Live(values_of(&user)));
            }
            (4..7, Some(nth), _) => {
                let id = self.live[nth];
                let (at, user) = self.transact(
                    async |store| store.record_login(id).await,
                    move |tx| tx.record_login(id),
                );
                self.learn(at, id, Row::Live(values_of(&user)));
            }
            (7..9, ..) => {
                let address = email(&self.address());
                let again = address.clone();
                let (at, signed_in) = self.transact(
                    async |store| store.sign_in(address).await,
                    move |tx| tx.sign_in(&again),
                );
                assert!(signed_in.is_new);
                self.live.push(signed_in.user.id);
                self.learn(at, signed_in.user.id, Row::Live(values_of(&signed_in.user)));
            }
            (9..12, Some(nth), _) => {
                let id = self.live.swap_remove(nth);
                let (at, user) =
                    self.transact(async |store| store.delete(id).await, move |tx| tx.delete(id));
                self.trashed.push(id);
                self.learn(at, id, Row::Trashed(values_of(&user)));
            }
            (12..14, _, Some(nth)) => {
                let id = self.trashed.swap_remove(nth);
                let (at, user) = self.transact(
                    async |store| store.restore(id, None).await,
                    move |tx| tx.restore(id, None),
                );
                self.live.push(id);
                self.learn(at, id, Row::Live(values_of(&user)));
            }
            // A transaction of the application's can't purge.
            (14, _, Some(nth)) if self.plan.answer == Answer::WhenAnswered => {
                let id = self.trashed.swap_remove(nth);
                let purged = block_on(self.store.purge(Purge::User(id), |_| {})).unwrap();
                assert_eq!(purged.users, 1);
                let at = self.disk.note(Event::Answered);
                self.learn(at, id, Row::Purged);
            }
            (15..17, ..) => {
                // As another process may at any time.
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
                    [usize::try_from(self.rng.below(4)).unwrap()];
                let conn = Connection::open(&self.database).unwrap();
                // It doesn't matter whether it comes to its end.
                let _ = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
            }
            (17..19, ..) if imports => self.import(),
            _ => {
                let new = self.new_user();
                let again = new.clone();
                let (at, user) = self
                    .transact(async |store| store.create(new).await, move |tx| tx.create(&again));
                self.live.push(user.id);
                self.learn(at, user.id, Row::Live(values_of(&user)));
            }
        }
    }

    /// As the command does it: one closure for many rows.
    fn import(&mut self) {
        let rows: Vec<NewUser> = (0..20 + self.rng.below(60))
            .map(|row| {
                let id = numbered_id((self.number + 1) * 1_000_000 + self.made * 100 + row);
                NewUser { id: Some(id), ..self.new_user() }
            })
            .collect();
        let ids: Vec<UserId> = rows.iter().map(|row| row.id.unwrap()).collect();
        let (disk, early) = (Arc::clone(&self.disk), self.plan.answer == Answer::BeforeTheCommit);
        let written = self.store.write(move |tx| {
            let mut users = Vec::new();
            for row in &rows {
                assert_eq!(tx.upsert(row, OnConflict::Fail)?, Upserted::Created);
                users.push(tx.get(row.id.unwrap())?.unwrap());
            }
            Ok::<_, Error>((early.then(|| disk.note(Event::Answered)), users))
        });
        let (at, users) = block_on(written).unwrap();
        let at = at.unwrap_or_else(|| self.disk.note(Event::Answered));
        for user in users {
            self.live.push(user.id);
            self.learn(at, user.id, Row::Live(values_of(&user)));
        }
        self.known.batches.push(ids);
    }
}

/// A record, and what its callers know.
struct Recorded {
    base: Files,
    record: Vec<Event>,
    known: Known,
}

/// Has callers write to a store, and records it.
fn record(work: Work, plan: Plan, steps: u64, seed: u64) -> Recorded {
    let scratch = in_memory();
    let data = scratch.path().join("data");
    let mut known = Known::default();
    if work == Work::Upgrade {
        fs::create_dir(&data).unwrap();
        make_version_1(&data.join("tenantry.db"), &mut known);
    }
    let disk = Disk::watch(&data, true);
    let clock = Arc::new(Clock {
        now: AtomicI64::new(time("2026-01-01T00:00:00Z").as_unix_us()),
        ids: AtomicU64::new(0),
        disk: Arc::clone(&disk),
    });
    let mut callers: Vec<(Vec<UserId>, Vec<UserId>, u64)> =
        vec![Default::default(); usize::try_from(CALLERS).unwrap()];
    // It is opened twice, so that there is a close in the middle.
    for session in 0..2 {
        let builder =
            Store::builder(&data).durability(plan.durability).ambient(Arc::<Clock>::clone(&clock));
        let store = block_on(builder.open()).unwrap();
        if session == 0 {
            known.opened_at = disk.note(Event::Answered);
        }
        let done: Vec<Caller> = thread::scope(|scope| {
            let started: Vec<_> = (0..)
                .zip(std::mem::take(&mut callers))
                .map(|(number, (live, trashed, made))| {
                    let mut caller = Caller {
                        number,
                        store: store.clone(),
                        disk: Arc::clone(&disk),
                        plan,
                        database: data.join("tenantry.db"),
                        rng: Random::new(seed.wrapping_mul(1_000) + session * 100 + number),
                        live,
                        trashed,
                        made,
                        known: Known::default(),
                    };
                    scope.spawn(move || {
                        for _ in 0..steps {
                            caller.step(work == Work::Imports);
                        }
                        caller
                    })
                })
                .collect();
            started.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        block_on(store.close()).unwrap();
        for caller in done {
            callers.push((caller.live, caller.trashed, caller.made));
            known.learn(caller.known);
        }
    }
    known.marker = fs::read(data.join("storage/.tenantry-store")).unwrap();
    Recorded { base: disk.base.clone(), record: disk.take_record(), known }
}

/// A store as version 1 of the schema left it, with users in it.
pub(crate) fn make_version_1(path: &Path, known: &mut Known) {
    let conn = tenantry_testkit::schema::of_version(1, path);
    for number in 0..40 {
        let id = numbered_id(900_000 + number);
        let address = format!("old-{number}@example.com");
        let path = (number % 3 == 0).then(|| format!("customers/old-{number}"));
        conn.execute(
            "INSERT INTO users (id, email_key, email, created_at, updated_at, version, storage_path)
             VALUES (?1, ?2, ?2, ?3, ?4, 3, ?5)",
            rusqlite::params![id.as_uuid().as_bytes(), address, number, number + 1, path],
        )
        .unwrap();
        let path = path.unwrap_or_else(|| StoragePath::derived(id).as_str().to_owned());
        let created = i64::try_from(number).unwrap();
        known
            .users
            .insert(id, vec![(0, Row::Live((address, created, None, created + 1, 3, path)))]);
    }
    known.of_version_1 = Some(40);
    conn.close().unwrap();
}

/// A disk after a power cut at an event.
pub(crate) struct Case {
    pub(crate) files: Files,
    pub(crate) at: usize,
    pub(crate) variant: Variant,
    pub(crate) is_marked: bool,
    /// Whether the same was opened before, when less had returned.
    pub(crate) is_new: bool,
}

/// Opens the store on a disk and compares it with what is known.
pub(crate) fn check(data: &Path, case: &Case, known: &Known) -> Result<(), (Wrong, String)> {
    let _ = fs::remove_dir_all(data);
    fs::create_dir(data).unwrap();
    for (name, content) in &case.files {
        let path = data.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    if case.is_marked {
        fs::create_dir(data.join("storage")).unwrap();
        fs::create_dir(data.join("trash")).unwrap();
        fs::write(data.join("storage/.tenantry-store"), &known.marker).unwrap();
    }
    let was_opened = case.at >= known.opened_at || known.of_version_1.is_some();
    let store = match block_on(Store::builder(data).create_if_missing(!was_opened).open()) {
        Ok(store) => store,
        Err(error) if error.kind() == ErrorKind::StoreMissing => {
            return Err((Wrong::Lost, "the store".to_owned()));
        }
        Err(error) => return Err((Wrong::Unopenable, format!("{error:?}"))),
    };
    let is_upgraded = store.upgrade().is_some();
    let compared = compare(data, case.at, known);
    let snapshot = match known.of_version_1 {
        Some(users) if !is_upgraded => has_snapshot(data, users),
        _ => Ok(()),
    };
    block_on(store.close()).map_err(|error| (Wrong::Unopenable, format!("close: {error:?}")))?;
    compared.and(snapshot)
}

/// A store that was upgraded has its snapshot.
fn has_snapshot(data: &Path, users: u64) -> Result<(), (Wrong, String)> {
    let lost =
        |what: String| (Wrong::Lost, format!("the snapshot from before the upgrade: {what}"));
    let mut snapshots =
        fs::read_dir(data.join("backups")).map_err(|error| lost(error.to_string()))?;
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let snapshot = snapshots
        .find_map(|entry| entry.ok().filter(|entry| name(entry).starts_with("before-v")))
        .ok_or_else(|| lost("there is none".to_owned()))?;
    let conn = Connection::open(snapshot.path()).unwrap();
    let found: u64 = conn
        .query_row("SELECT count(*) FROM users", [], |row| row.get(0))
        .map_err(|error| lost(error.to_string()))?;
    if found == users { Ok(()) } else { Err(lost(format!("{found} users"))) }
}

pub(crate) fn compare(data: &Path, at: usize, known: &Known) -> Result<(), (Wrong, String)> {
    let corrupt = |error: rusqlite::Error| (Wrong::Corrupt, error.to_string());
    let conn = Connection::open(data.join("tenantry.db")).unwrap();
    let health: String =
        conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(corrupt)?;
    if health != "ok" {
        return Err((Wrong::Corrupt, health));
    }
    let mut found = rows(&conn).map_err(corrupt)?;
    let present: HashSet<UserId> = found.keys().copied().collect();
    // When the last transaction has returned that is there, and the first that isn't, as told by
    // the users.
    let (mut last_there, mut first_missing) = (0, usize::MAX);
    for (id, states) in &known.users {
        let row = found.remove(id).unwrap_or(Row::Absent);
        let answered = states.iter().rposition(|(answered_at, _)| *answered_at <= at).unwrap_or(0);
        let is_maybe = known.maybe.get(id).is_some_and(|op| op.is_done(&row));
        let nth = states[answered..]
            .iter()
            .position(|(_, state)| *state == row)
            .map(|nth| answered + nth);
        if let Some(nth) = nth {
            last_there = last_there.max(states[nth].0);
            first_missing =
                states.get(nth + 1).map_or(first_missing, |(at, _)| first_missing.min(*at));
        }
        if is_maybe || nth.is_some() {
            continue;
        }
        let wrong =
            if states.iter().any(|(_, state)| *state == row) { Wrong::Lost } else { Wrong::Torn };
        return Err((wrong, format!("{id} is {row:?}, but was {:?}", &states[answered..])));
    }
    if let Some((id, row)) = found.first_key_value() {
        return Err((Wrong::Torn, format!("nobody made {id}: {row:?}")));
    }
    if known.is_one_by_one && first_missing <= last_there {
        let what = format!(
            "of the transaction answered at {first_missing} something is missing, but not of {last_there}"
        );
        return Err((Wrong::Torn, what));
    }
    // What was made in one transaction is there or not.
    for batch in &known.batches {
        let there = batch.iter().filter(|id| present.contains(id)).count();
        if there != 0 && there != batch.len() {
            return Err((
                Wrong::Torn,
                format!("{there} of the {} users of a transaction", batch.len()),
            ));
        }
    }
    Ok(())
}

/// All users that the database knows of.
pub(crate) fn rows(conn: &Connection) -> rusqlite::Result<BTreeMap<UserId, Row>> {
    let mut statement = conn.prepare_cached(
        "SELECT deleted_at IS NOT NULL, id, email, created_at, last_login_at, updated_at, version, storage_path,
            lower(email) = email_key FROM users
         UNION ALL SELECT 2, id, NULL, NULL, NULL, NULL, NULL, NULL, 1 FROM tenantry_retired_users",
    )?;
    let rows = statement.query_map([], |row| {
        let damaged = rusqlite::Error::InvalidQuery;
        let Ok(id) = UserId::from_uuid(uuid::Uuid::from_bytes(row.get(1)?)) else {
            return Err(damaged);
        };
        if row.get::<_, i64>(0)? == 2 {
            return Ok((id, Row::Purged));
        }
        if !row.get::<_, bool>(8)? {
            return Err(damaged);
        }
        let path: Option<String> = row.get(7)?;
        let path = path.unwrap_or_else(|| StoragePath::derived(id).as_str().to_owned());
        let values = (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, path);
        Ok((id, if row.get::<_, i64>(0)? == 0 { Row::Live(values) } else { Row::Trashed(values) }))
    })?;
    rows.collect()
}

/// What a harness has seen.
#[derive(Default)]
struct Figures {
    rounds: u64,
    events: usize,
    states: u64,
    writes: u64,
    commits: u64,
    largest_group: u64,
    wrong: BTreeMap<Wrong, u64>,
    examples: Vec<String>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states of the disk, of {} events in {} rounds; {} writes in {} commits, up to {} in one; wrong: {:?}",
            self.states,
            self.events,
            self.rounds,
            self.writes,
            self.commits,
            self.largest_group,
            self.wrong
        )
    }
}

impl Figures {
    fn note_wrong(&mut self, case: &Case, wrong: Wrong, what: &str) {
        *self.wrong.entry(wrong).or_default() += 1;
        if self.examples.len() < 3 {
            let (round, at, variant) = (self.rounds, case.at, case.variant);
            self.examples
                .push(format!("round {round}, event {at}, {variant:?}: {wrong:?}: {what}"));
        }
    }

    /// How many operations came to how many commits: told by the frame that ends a transaction in
    /// the log.
    fn count_groups(&mut self, record: &[Event]) {
        let mut group = 0;
        for event in record {
            match event {
                Event::Answered => self.writes += 1,
                Event::Ran => group += 1,
                // The header of a frame, with the size of the database in it.
                Event::Write { data, .. } if data.len() == 24 && data[4..8] != [0; 4] => {
                    self.commits += 1;
                    self.largest_group = self.largest_group.max(group);
                    group = 0;
                }
                _ => {}
            }
        }
    }
}

/// Records and rebuilds until there are so many states, but each kind of work at least once.
fn run(plan: Plan, works: &[Work], steps: u64, states: u64) -> Figures {
    let mut figures = Figures::default();
    while figures.states < states || figures.rounds < works.len() as u64 {
        let work = works[usize::try_from(figures.rounds).unwrap() % works.len()];
        let recorded = record(work, plan, steps, figures.rounds);
        figures.count_groups(&recorded.record);
        figures.events += recorded.record.len();
        rebuild(plan, &recorded, &mut figures);
        figures.rounds += 1;
        // Long runs may be cut short.
        if figures.rounds.is_multiple_of(10) {
            report("power cut, so far", &figures);
        }
    }
    figures
}

/// Opens what every power cut leaves of a record.
fn rebuild(plan: Plan, recorded: &Recorded, figures: &mut Figures) {
    let (sender, receiver) = sync_channel::<Case>(2 * CHECKERS);
    let receiver = Arc::new(Mutex::new(receiver));
    let results = Mutex::new(figures);
    thread::scope(|scope| {
        for _ in 0..CHECKERS {
            let (receiver, results) = (Arc::clone(&receiver), &results);
            scope.spawn(move || {
                let scratch = in_memory();
                let data = scratch.path().join("data");
                while let Some(case) = receive(&receiver) {
                    let checked = check(&data, &case, &recorded.known);
                    let mut figures = results.lock().unwrap();
                    figures.states += u64::from(case.is_new);
                    if let Err((wrong, what)) = checked {
                        figures.note_wrong(&case, wrong, &what);
                    }
                }
            });
        }
        // When the checkers are gone nobody is to wait for them, nor they for more when there is no
        // more.
        drop(receiver);
        let sender = sender;
        let honest_until = recorded.known.opened_at;
        let mut replay = Replay::new(&recorded.base, &recorded.record, plan.disk, honest_until, 1);
        // How many had returned when a disk was last opened.
        let mut seen: HashMap<[u8; 32], usize> = HashMap::new();
        let mut answered = 0;
        let mut counted = 0;
        while (0..plan.every).all(|_| replay.advance()) {
            let passed = &recorded.record[counted..replay.at()];
            answered += passed.iter().filter(|event| matches!(event, Event::Answered)).count();
            counted = replay.at();
            for variant in VARIANTS {
                let files = replay.cut(variant);
                // The same disk is opened again if more was promised meanwhile, but counts once.
                let before = seen.insert(digest(&files, replay.is_marked()), answered);
                let case = Case {
                    files,
                    at: replay.at(),
                    variant,
                    is_marked: replay.is_marked(),
                    is_new: before.is_none(),
                };
                if before != Some(answered) && sender.send(case).is_err() {
                    return;
                }
            }
        }
    });
}

fn receive(cases: &Mutex<Receiver<Case>>) -> Option<Case> {
    cases.lock().unwrap().recv().ok()
}

/// What tells one disk from another.
fn digest(files: &Files, is_marked: bool) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in files {
        hasher.update(name.as_bytes()).update(&content.len().to_le_bytes()).update(content);
    }
    hasher.update(&[u8::from(is_marked)]);
    hasher.finalize().into()
}

#[test]
fn a_write_that_has_returned_survives_a_power_cut() {
    let figures =
        run(SOUND, &[Work::Users, Work::Imports, Work::Upgrade], 12, share(20_000, 500_000));
    report("power cut", &figures);
    assert_eq!(figures.wrong, BTreeMap::new(), "{:#?}", figures.examples);
    assert!(
        figures.largest_group > 1 && figures.commits < figures.writes,
        "no groups, so they were not tried: {figures}"
    );
}

#[test]
fn a_return_before_the_commit_is_caught() {
    let figures = run(
        Plan { answer: Answer::BeforeTheCommit, ..PLANTED },
        &[Work::Users, Work::Imports],
        5,
        0,
    );
    report("power cut, answered before the commit", &figures);
    assert!(figures.wrong.contains_key(&Wrong::Lost), "{figures}");
    // What is there is whole all the same.
    assert_eq!(figures.wrong.len(), 1, "{:#?}", figures.examples);
}

/// What `Durability::Normal` says of itself.
#[test]
fn commits_that_don_t_wait_for_the_disk_are_caught() {
    let figures = run(
        Plan { durability: Durability::Normal, ..PLANTED },
        &[Work::Users, Work::Imports],
        5,
        0,
    );
    report("power cut, Durability::Normal", &figures);
    assert!(figures.wrong.contains_key(&Wrong::Lost), "{figures}");
    assert_eq!(figures.wrong.len(), 1, "{:#?}", figures.examples);
}

#[test]
fn a_disk_that_ignores_syncs_is_caught() {
    let plan = Plan { disk: rebuilt::Disk::IgnoresSync, ..PLANTED };
    let figures = run(plan, &[Work::Users, Work::Imports], 5, 0);
    report("power cut, no sync", &figures);
    assert!(figures.wrong.contains_key(&Wrong::Lost), "{figures}");
    assert!(
        figures.wrong.contains_key(&Wrong::Corrupt)
            || figures.wrong.contains_key(&Wrong::Unopenable),
        "{figures}"
    );
}

#[test]
fn a_disk_that_ignores_syncs_of_directories_is_caught() {
    let plan = Plan { disk: rebuilt::Disk::IgnoresSyncDir, ..PLANTED };
    let figures = run(plan, &[Work::Upgrade, Work::Users], 5, 0);
    report("power cut, no sync of directories", &figures);
    assert!(figures.wrong.contains_key(&Wrong::Lost), "{figures}");
}
