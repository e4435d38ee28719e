//! kill -9 of a process in which many callers write at once, on one data directory again and again:
//! what has returned is there with the values of the result, what wasn't is there as a whole or not
//! at all.
//!
//! The child says what each caller is about to do, and its result. The parent kills it
//! after so many results, opens the store and compares. A process that is killed loses nothing that
//! it has handed to the system, so this says nothing of power cuts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    BackupOptions, Error, ErrorKind, ListQuery, NewUser, Purge, Store, TrashQuery, User, UserId,
    verify_backup,
};
use tenantry_testkit::random::Random;

use crate::process::{self, Process};
use crate::share::{report, share};
use crate::support::{all, block_on, email, new_user, numbered_id, to_email};

/// How many threads write at once in the child.
const CALLERS: u64 = 16;
/// How many rows an import-like transaction has.
const BATCH: usize = 60;
/// So many kills share a data directory: a check of it reads everything, and it only grows.
const KILLS_OF_A_STORE: u64 = 25;
/// They mostly wait for the disk.
const STORES_AT_ONCE: usize = 4;
/// A kill comes after fewer results than this.
const ANSWERS_MAX: u64 = 120;
/// An opening that is killed is killed within this time, which is about what one takes.
const OPENING_MAX_US: u64 = 12_000;
/// What a user's directory holds.
const FILE: &str = "note.txt";

/// What a child is doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// It writes.
    Load,
    /// It writes while it opens and closes the store.
    Closing,
    /// It writes while backups and checkpoints are made.
    BackingUp,
    /// It opens the store, and so recovers from the last kill.
    Opening,
    /// It tells of results before the commit, which the harness has to notice.
    PlantedEarlyAnswer,
}

/// What a caller does.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Create { id: String, email: String },
    SignIn { email: String },
    SharedSignIn { email: String },
    Update { id: String, email: String },
    Login { id: String },
    Delete { id: String },
    Restore { id: String },
    Purge { id: String },
    File { id: String, content: String },
    Batch { prefix: String },
    Backup { name: String },
}

/// What a child says: that a caller is about to do something, or what came of it.
#[derive(Serialize, Deserialize)]
struct Said {
    caller: u64,
    step: Step,
    answer: Option<Answer>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Done(Value),
    /// The store was closed, so nothing was done.
    Closed,
}

fn say(caller: u64, step: &Step, answer: Option<Answer>) {
    process::say(serde_json::to_string(&Said { caller, step: step.clone(), answer }).unwrap());
}

/// A thread of the child, with the users that are its own to change.
struct Caller {
    number: u64,
    round: u64,
    mode: Mode,
    random: Random,
    live: Vec<User>,
    trashed: Vec<UserId>,
    steps: u64,
}

impl Caller {
    /// The users that earlier rounds left are shared out among the callers.
    fn all(store: &Store, round: u64, mode: Mode) -> Vec<Self> {
        let users = block_on(all(store, ListQuery::default()));
        let trashed = trash(store);
        let is_of = |user: &User, number| {
            user.email.as_str().starts_with("own")
                && user.id.as_uuid().as_u128() % u128::from(CALLERS) == number
        };
        let caller = |number| Self {
            number,
            round,
            mode,
            random: Random::new(round << 16 | number),
            live: users.iter().filter(|user| is_of(user, number.into())).cloned().collect(),
            trashed: trashed
                .iter()
                .filter(|user| is_of(user, number.into()))
                .map(|user| user.id)
                .collect(),
            steps: 0,
        };
        (0..CALLERS).map(caller).collect()
    }

    /// One step. Returns whether the store was open.
    fn step(&mut self, store: &Store) -> bool {
        self.steps += 1;
        let (caller, random) = (self.number, &mut self.random);
        let unique = format!("{}-{caller}-{}", self.round, self.steps);
        let address = format!("own{unique}@example.com");
        let (live, trashed) = (random.index(self.live.len()), random.index(self.trashed.len()));
        let id_of = |index: usize| self.live[index].id;
        // What to do, how, and what is to be remembered of it.
        let chance = random.below(100);
        if self.mode == Mode::PlantedEarlyAnswer && chance < 40 {
            return self.step_with_planted_early_answer(store);
        }
        let (step, result): (Step, tenantry::Result<Value>) = match (chance, live, trashed) {
            (0..12, Some(index), _) => {
                let step = Step::Update { id: id_of(index).to_string(), email: address.clone() };
                say(caller, &step, None);
                let updated = block_on(store.update(id_of(index), to_email(&address)));
                (step, updated.map(|user| json!(user)))
            }
            (12..22, Some(index), _) => {
                let step = Step::Login { id: id_of(index).to_string() };
                say(caller, &step, None);
                (step, block_on(store.record_login(id_of(index))).map(|user| json!(user)))
            }
            (22..40, Some(index), _) => {
                let content = format!("{unique} of {}", self.live[index].id);
                let step = Step::File { id: id_of(index).to_string(), content: content.clone() };
                say(caller, &step, None);
                let dir = block_on(store.directory(id_of(index)));
                (step, dir.map(|dir| json!(dir.write(FILE, content).unwrap())))
            }
            (40..52, Some(index), _) => {
                let id = id_of(index);
                let step = Step::Delete { id: id.to_string() };
                say(caller, &step, None);
                let deleted = block_on(store.delete(id));
                if deleted.is_ok() {
                    self.live.swap_remove(index);
                    self.trashed.push(id);
                }
                (step, deleted.map(|user| json!(user)))
            }
            (52..60, _, Some(index)) => {
                let id = self.trashed[index];
                let step = Step::Restore { id: id.to_string() };
                say(caller, &step, None);
                let restored = block_on(store.restore(id, None));
                if let Ok(user) = &restored {
                    self.trashed.swap_remove(index);
                    self.live.push(user.clone());
                }
                (step, restored.map(|user| json!(user)))
            }
            // A purge that meets a close is finished later; and it waits for backups.
            (60..64, _, Some(index))
                if matches!(self.mode, Mode::Load | Mode::PlantedEarlyAnswer) =>
            {
                let id = self.trashed.swap_remove(index);
                let step = Step::Purge { id: id.to_string() };
                say(caller, &step, None);
                let purged = block_on(store.purge(Purge::User(id), |_| {}));
                (
                    step,
                    purged.map(|purged| {
                        json!([purged.users, purged.left.len(), purged.not_erased.is_some()])
                    }),
                )
            }
            (64..68, ..) => {
                let step = Step::Batch { prefix: format!("batch{unique}-") };
                let rows: Vec<NewUser> = (0..BATCH)
                    .map(|row| new_user(&format!("batch{unique}-{row}@example.com")))
                    .collect();
                say(caller, &step, None);
                let written =
                    store.write(move |tx| rows.iter().try_for_each(|row| tx.create(row).map(drop)));
                (step, block_on(written).map(|()| Value::Null))
            }
            (68..76, ..) => {
                let shared = format!("shared{}-{}@example.com", self.round, random.below(4));
                let step = Step::SharedSignIn { email: shared.clone() };
                say(caller, &step, None);
                let signed_in = block_on(store.sign_in(email(&shared)));
                (step, signed_in.map(|answer| json!([answer.user, answer.is_new])))
            }
            (76..86, ..) => {
                let step = Step::SignIn { email: address.clone() };
                say(caller, &step, None);
                let signed_in = block_on(store.sign_in(email(&address)));
                if let Ok(answer) = &signed_in {
                    self.live.push(answer.user.clone());
                }
                (step, signed_in.map(|answer| json!([answer.user, answer.is_new])))
            }
            _ => {
                let id = numbered_id((self.round << 24) | (caller << 16) | self.steps);
                let step = Step::Create { id: id.to_string(), email: address.clone() };
                say(caller, &step, None);
                let created =
                    block_on(store.create(NewUser { id: Some(id), ..new_user(&address) }));
                if let Ok(user) = &created {
                    self.live.push(user.clone());
                }
                (step, created.map(|user| json!(user)))
            }
        };
        match result {
            Ok(value) => say(caller, &step, Some(Answer::Done(value))),
            Err(error) if error.kind() == ErrorKind::Closed && self.mode == Mode::Closing => {
                say(caller, &step, Some(Answer::Closed));
                return false;
            }
            Err(error) => panic!("{step:?}: {error:?}"),
        }
        true
    }

    /// The mistake of an import that tells of each row when it is written, and not when it is
    /// committed.
    fn step_with_planted_early_answer(&mut self, store: &Store) -> bool {
        let (caller, first) =
            (self.number, (self.round << 24) | (self.number << 16) | (self.steps << 8));
        let answer_early = move |tx: &mut tenantry::WriteTx<'_>| {
            for row in 0..8 {
                let (id, address) =
                    (numbered_id(first + row), format!("own-early{}@example.com", first + row));
                let step = Step::Create { id: id.to_string(), email: address.clone() };
                say(caller, &step, None);
                let user = tx.create(&NewUser { id: Some(id), ..new_user(&address) })?;
                say(caller, &step, Some(Answer::Done(json!(user))));
            }
            Ok::<_, Error>(())
        };
        block_on(store.write(answer_early)).unwrap();
        true
    }
}

fn trash(store: &Store) -> Vec<User> {
    let mut query = TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() };
    let mut users = Vec::new();
    loop {
        let page = block_on(store.list_trash(&query)).unwrap();
        users.extend(page.users.into_iter().map(|trashed| trashed.user));
        if page.next_cursor.is_none() {
            return users;
        }
        query.cursor = page.next_cursor;
    }
}

pub(crate) fn child_is_killed(dir: &Path) {
    process::end_with_the_parent();
    let (round, mode): (u64, Mode) =
        serde_json::from_str(&std::env::var("TENANTRY_TEST_KILL").unwrap()).unwrap();
    let data_dir = dir.join("data");
    process::say("opening");
    let open = || block_on(Store::open(&data_dir)).unwrap();
    let mut store = open();
    let mut callers = Caller::all(&store, round, mode);
    match mode {
        Mode::Opening => loop {
            block_on(store.close()).unwrap();
            store = open();
        },
        Mode::Closing => loop {
            // The first who has done enough closes the store, and the others are refused in the
            // middle of it.
            let start = Barrier::new(callers.len());
            thread::scope(|scope| {
                for caller in &mut callers {
                    let (store, start) = (&store, &start);
                    scope.spawn(move || {
                        start.wait();
                        if (0..4).all(|_| caller.step(store)) {
                            block_on(store.close()).unwrap();
                        }
                    });
                }
            });
            store = open();
        },
        Mode::Load | Mode::BackingUp | Mode::PlantedEarlyAnswer => thread::scope(|scope| {
            for caller in &mut callers {
                let store = &store;
                scope.spawn(move || while caller.step(store) {});
            }
            if mode == Mode::BackingUp {
                scope.spawn(|| {
                    for number in 0.. {
                        let name = format!("{round}-{number}.tar.zst");
                        let step = Step::Backup { name: name.clone() };
                        say(CALLERS, &step, None);
                        let made =
                            store.create_backup(dir.join(&name), BackupOptions::default(), |_| {});
                        // A file that is written all the time is left out, and is said to be.
                        let incomplete = block_on(made).unwrap().incomplete;
                        say(CALLERS, &step, Some(Answer::Done(json!(incomplete))));
                    }
                });
                scope.spawn(|| {
                    let conn = Connection::open(data_dir.join("tenantry.db")).unwrap();
                    conn.busy_timeout(Duration::from_millis(1)).unwrap();
                    for how in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].iter().cycle() {
                        // Busy is a result, not a failure, which it can be too if a reader is in
                        // the way.
                        let _ = conn.query_row(
                            &format!("PRAGMA wal_checkpoint({how})"),
                            [],
                            |_| Ok(()),
                        );
                    }
                });
            }
        }),
    }
}

/// A user as the parent knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    user: Value,
    is_trashed: bool,
}

/// What has to be in the store.
#[derive(Default)]
struct Model {
    users: BTreeMap<String, Known>,
    /// What a user's file holds.
    files: BTreeMap<String, String>,
    purged: Vec<String>,
    /// Whom several callers sign in at once: the id, and the latest login that has returned.
    shared: BTreeMap<String, (Value, String)>,
    backups: Vec<String>,
}

#[derive(Debug, Default)]
struct Figures {
    kills: u64,
    answers: u64,
    /// Of what was under way.
    was_done: u64,
    was_not_done: u64,
    backups: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        let Self { kills, answers, was_done, was_not_done, backups } = other;
        self.kills += kills;
        self.answers += answers;
        self.was_done += was_done;
        self.was_not_done += was_not_done;
        self.backups += backups;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kills, answers, was_done, was_not_done, backups } = self;
        write!(
            f,
            "{kills} kills, {answers} answers all there; of what was under way {was_done} were done as a whole and \
             {was_not_done} not at all; {backups} backups verified"
        )
    }
}

type Held<T = ()> = Result<T, String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(what()) }
}

impl Model {
    /// Takes up a result.
    fn answered(&mut self, step: Step, value: Value) -> Held {
        let live = |user: &Value| Known { user: user.clone(), is_trashed: false };
        let id_of = |user: &Value| user["id"].as_str().unwrap_or_default().to_owned();
        match step {
            Step::Create { id, .. }
            | Step::Update { id, .. }
            | Step::Login { id }
            | Step::Restore { id } => {
                self.users.insert(id, live(&value));
            }
            Step::SignIn { .. } => {
                ensure(value[1] == true, || {
                    format!("a sign-in with a new address wasn't new: {value}")
                })?;
                self.users.insert(id_of(&value[0]), live(&value[0]));
            }
            Step::SharedSignIn { email } => {
                let (user, is_new) = (&value[0], value[1] == true);
                let at = user["last_login_at"].as_str().unwrap_or_default().to_owned();
                let known =
                    self.shared.entry(email).or_insert_with(|| (user["id"].clone(), String::new()));
                ensure(known.0 == user["id"], || {
                    format!("two users with one address: {known:?}, {user}")
                })?;
                // Results are reported in another order than they were given.
                known.1 = at.max(std::mem::take(&mut known.1));
                let is_first = !self.users.values().any(|known| known.user["id"] == user["id"]);
                ensure(!is_new || is_first, || format!("created though there before: {user}"))?;
            }
            Step::Delete { id } => {
                let before = self.users.insert(id, Known { user: value.clone(), is_trashed: true });
                ensure(before == Some(live(&value)), || {
                    format!("deleted was {value}, and before {before:?}")
                })?;
            }
            Step::Purge { id } => {
                ensure(value == json!([1, 0, false]), || format!("a purge came to {value}"))?;
                self.users.remove(&id);
                self.files.remove(&id);
                self.purged.push(id);
            }
            Step::File { id, content } => {
                self.files.insert(id, content);
            }
            // Looked for by their addresses.
            Step::Batch { prefix } => {
                self.users.insert(prefix, Known { user: Value::Null, is_trashed: false });
            }
            Step::Backup { name } => self.backups.push(name),
        }
        Ok(())
    }

    /// Compares with a store that was opened after a kill, and goes on from there.
    fn compare(
        &mut self,
        store: &Store,
        dir: &Path,
        mut pending: BTreeMap<u64, Step>,
        figures: &mut Figures,
    ) -> Held {
        let mut found = BTreeMap::new();
        for (users, is_trashed) in
            [(block_on(all(store, ListQuery::default())), false), (trash(store), true)]
        {
            for user in users {
                found.insert(user.id.to_string(), Known { user: json!(user), is_trashed });
            }
        }
        self.compare_batches(&found, &mut pending, figures)?;
        self.compare_shared(&found)?;
        for step in pending.values() {
            let was_done = self.resolve(step, &found, dir)?;
            *if was_done { &mut figures.was_done } else { &mut figures.was_not_done } += 1;
        }
        for (id, known) in &self.users {
            ensure(found.get(id) == Some(known), || {
                format!("{id} was answered to be {known:?} and is {:?}", found.get(id))
            })?;
        }
        if let Some(extra) = found.keys().find(|id| !self.users.contains_key(*id)) {
            return Err(format!("nobody has created {:?}", found[extra]));
        }
        for id in &self.purged {
            let id: UserId = id.parse().unwrap();
            let was_purged = block_on(store.read(move |tx| tx.was_purged(id)));
            ensure(matches!(was_purged, Ok(true)), || format!("{id} was purged: {was_purged:?}"))?;
        }
        for (id, content) in &self.files {
            let held = fs::read_to_string(self.file_of(id, dir));
            ensure(held.as_ref().is_ok_and(|held| held == content), || {
                format!("the file of {id} held {content:?} and holds {held:?}")
            })?;
        }
        Ok(())
    }

    fn file_of(&self, id: &str, dir: &Path) -> std::path::PathBuf {
        let known = &self.users[id];
        let data_dir = dir.join("data");
        let user_dir = if known.is_trashed {
            data_dir.join("trash").join(id)
        } else {
            data_dir.join("storage").join(known.user["storage_path"].as_str().unwrap_or_default())
        };
        user_dir.join(FILE)
    }

    /// A transaction of many rows is there as a whole or not at all, and as a whole if it was
    /// answered.
    fn compare_batches(
        &mut self,
        found: &BTreeMap<String, Known>,
        pending: &mut BTreeMap<u64, Step>,
        figures: &mut Figures,
    ) -> Held {
        let mut prefixes: Vec<(String, bool)> = Vec::new();
        self.users.retain(|key, _| {
            let is_batch = key.starts_with("batch");
            if is_batch {
                prefixes.push((key.clone(), true));
            }
            !is_batch
        });
        pending.retain(|_, step| match step {
            Step::Batch { prefix } => {
                prefixes.push((prefix.clone(), false));
                false
            }
            _ => true,
        });
        for (prefix, is_answered) in prefixes {
            let is_of = |known: &&Known| {
                known.user["email"].as_str().is_some_and(|email| email.starts_with(&prefix))
            };
            let rows: Vec<&Known> = found.values().filter(is_of).collect();
            ensure(rows.len() == BATCH || (rows.is_empty() && !is_answered), || {
                format!(
                    "{} of {BATCH} rows of a transaction are there, and its end was answered: {is_answered}",
                    rows.len()
                )
            })?;
            if !is_answered {
                *if rows.is_empty() { &mut figures.was_not_done } else { &mut figures.was_done } +=
                    1;
            }
            for row in rows {
                self.users
                    .insert(row.user["id"].as_str().unwrap_or_default().to_owned(), row.clone());
            }
        }
        Ok(())
    }

    /// Whom many callers sign in: the login that is there is not earlier than any that was
    /// answered.
    fn compare_shared(&mut self, found: &BTreeMap<String, Known>) -> Held {
        for (email, (id, at)) in &self.shared {
            let known = found.get(id.as_str().unwrap_or_default());
            ensure(
                known.is_some_and(|known| {
                    known.user["email"] == **email
                        && known.user["last_login_at"].as_str() >= Some(at)
                }),
                || format!("{email} logged in at {at} and is {known:?}"),
            )?;
        }
        // A sign-in that was under way may have come to its end.
        let is_shared = |known: &&Known| {
            known.user["email"].as_str().is_some_and(|email| email.starts_with("shared"))
        };
        for known in found.values().filter(is_shared) {
            self.users
                .insert(known.user["id"].as_str().unwrap_or_default().to_owned(), known.clone());
        }
        Ok(())
    }

    /// What was under way was done or not, and nothing in between. Says whether it was.
    fn resolve(&mut self, step: &Step, found: &BTreeMap<String, Known>, dir: &Path) -> Held<bool> {
        let half =
            |known: Option<&Known>| Err(format!("{step:?} was under way, and there is {known:?}"));
        let id = match step {
            Step::Create { id, .. } | Step::Update { id, .. } | Step::Login { id } => id.clone(),
            Step::Delete { id }
            | Step::Restore { id }
            | Step::Purge { id }
            | Step::File { id, .. } => id.clone(),
            Step::SignIn { email } => {
                let is_they = |known: &&Known| known.user["email"] == **email;
                let Some(known) = found.values().find(is_they) else { return Ok(false) };
                known.user["id"].as_str().unwrap_or_default().to_owned()
            }
            // Compared otherwise.
            Step::SharedSignIn { .. } | Step::Batch { .. } | Step::Backup { .. } => {
                return Ok(false);
            }
        };
        let (before, now) = (self.users.get(&id), found.get(&id));
        if let Step::File { content, .. } = step {
            // A file is the application's: this one may be cut short.
            let held = fs::read_to_string(self.file_of(&id, dir)).ok();
            let was_written = held.as_ref() == Some(content);
            match held {
                Some(held) => self.files.insert(id, held),
                None if self.files.contains_key(&id) => {
                    return Err(format!("the file of {id} is gone"));
                }
                None => None,
            };
            return Ok(was_written);
        }
        if before == now {
            return Ok(false);
        }
        let changed = |fields: &[(&str, Option<Value>)]| {
            let (Some(before), Some(now)) = (before, now) else { return false };
            let mut expected = before.user.clone();
            for (field, value) in fields {
                expected[*field] = value.clone().unwrap_or_else(|| now.user[*field].clone());
            }
            expected == now.user && before.is_trashed == now.is_trashed
        };
        let is_new = |email: &str, has_login: bool| {
            before.is_none()
                && now.is_some_and(|now| {
                    let user = &now.user;
                    user["email"] == *email
                        && user["version"] == 1
                        && user["last_login_at"].is_null() != has_login
                })
        };
        let version = before.and_then(|before| before.user["version"].as_u64()).unwrap_or_default();
        let is_whole = match step {
            Step::Create { email, .. } => is_new(email, false),
            Step::SignIn { email } => is_new(email, true),
            Step::Update { email, .. } => changed(&[
                ("email", Some(json!(email))),
                ("version", Some(json!(version + 1))),
                ("updated_at", None),
            ]),
            Step::Login { .. } => changed(&[("last_login_at", None)]),
            Step::Delete { .. } | Step::Restore { .. } => match (before, now) {
                (Some(before), Some(now)) => {
                    before.user == now.user && before.is_trashed != now.is_trashed
                }
                _ => false,
            },
            Step::Purge { .. } => now.is_none(),
            _ => false,
        };
        if !is_whole {
            return half(now);
        }
        match now {
            Some(now) => drop(self.users.insert(id, now.clone())),
            None => {
                self.users.remove(&id);
                self.files.remove(&id);
                self.purged.push(id);
            }
        }
        Ok(true)
    }
}

/// Kills a child again and again on one data directory, each time in another way.
fn kill_repeatedly(seed: u64, kills: u64, planted: bool, figures: &mut Figures) -> Held {
    let dir = tempfile::tempdir().unwrap();
    let (mut model, mut random) = (Model::default(), Random::new(seed));
    for round in 0..kills {
        let mode = match random.below(8) {
            _ if planted => Mode::PlantedEarlyAnswer,
            0..3 => Mode::Load,
            3..5 => Mode::Closing,
            5..7 => Mode::BackingUp,
            _ => Mode::Opening,
        };
        kill_once(round + 1, mode, dir.path(), &mut random, &mut model, figures)
            .map_err(|what| format!("seed {seed}, kill {round} ({mode:?}): {what}"))?;
    }
    Ok(())
}

fn kill_once(
    round: u64,
    mode: Mode,
    dir: &Path,
    random: &mut Random,
    model: &mut Model,
    figures: &mut Figures,
) -> Held {
    let told = serde_json::to_string(&(round, mode)).unwrap();
    let mut child =
        Process::start("is killed", dir, &format!("export TENANTRY_TEST_KILL='{told}'"));
    assert_eq!(child.hear().as_deref(), Some("opening"));
    let mut heard = Vec::new();
    if mode == Mode::Opening {
        // Not to wait for something: the moment is chosen at random.
        let moment = Instant::now() + Duration::from_micros(random.below(OPENING_MAX_US));
        while Instant::now() < moment {
            thread::yield_now();
        }
    } else {
        let enough = random.below(ANSWERS_MAX);
        let mut answers = 0;
        while answers < enough {
            let line = child.hear().ok_or("the child has ended by itself")?;
            answers += u64::from(!line.ends_with("null}"));
            heard.push(line);
        }
    }
    heard.extend(child.kill());
    figures.kills += 1;

    let mut pending = BTreeMap::new();
    let last = heard.len().saturating_sub(1);
    for (index, line) in heard.into_iter().enumerate() {
        let Said { caller, step, answer } = match serde_json::from_str(&line) {
            Ok(said) => said,
            // Cut off by the kill.
            Err(_) if index == last => continue,
            Err(error) => return Err(format!("{line:?}: {error}")),
        };
        match answer {
            None => drop(pending.insert(caller, step)),
            Some(Answer::Closed) => drop(pending.remove(&caller)),
            Some(Answer::Done(value)) => {
                pending.remove(&caller);
                figures.answers += 1;
                model.answered(step, value)?;
            }
        }
    }

    let data_dir = dir.join("data");
    let failed = |error: Error| format!("{error:?}");
    let store = block_on(Store::open(&data_dir)).map_err(failed)?;
    model.compare(&store, dir, pending, figures)?;
    // It goes on.
    let user = block_on(store.create(new_user(&format!("own-after{round}@example.com"))))
        .map_err(failed)?;
    model.users.insert(user.id.to_string(), Known { user: json!(user), is_trashed: false });
    block_on(store.close()).map_err(failed)?;
    let findings = block_on(tenantry::check(&data_dir)).map_err(failed)?.findings;
    ensure(findings.is_empty(), || format!("{findings:?}"))?;
    verify_backups(dir, &mut model.backups, figures)
}

/// Whatever has the name of a backup is a whole one, answered or not; and what has returned is
/// there.
fn verify_backups(dir: &Path, answered: &mut Vec<String>, figures: &mut Figures) -> Held {
    for name in answered.drain(..) {
        ensure(dir.join(&name).exists(), || format!("the backup {name} is gone"))?;
    }
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with(".tenantry-backup-") {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        } else if name.ends_with(".tar.zst") {
            let verified = block_on(verify_backup(entry.path(), |_| {}))
                .map_err(|error| format!("{error:?}"))?;
            ensure(verified.findings.is_empty(), || format!("{name}: {:?}", verified.findings))?;
            fs::remove_file(entry.path()).unwrap();
            figures.backups += 1;
        }
    }
    Ok(())
}

#[test]
fn a_killed_process_loses_no_write_that_has_returned() {
    let (kills, next, sum) =
        (share(100, 10_000), AtomicU64::new(0), Mutex::new(Figures::default()));
    thread::scope(|scope| {
        for _ in 0..STORES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let store = next.fetch_add(1, Ordering::Relaxed);
                    let of_store =
                        kills.saturating_sub(store * KILLS_OF_A_STORE).min(KILLS_OF_A_STORE);
                    if of_store == 0 {
                        break;
                    }
                    let mut figures = Figures::default();
                    kill_repeatedly(store, of_store, false, &mut figures).unwrap();
                    sum.lock().unwrap().add(&figures);
                }
            });
        }
    });
    let figures = sum.into_inner().unwrap();
    assert!(
        figures.answers > figures.kills && figures.was_not_done > 0 && figures.backups > 0,
        "{figures}"
    );
    report("a process that is killed under load", figures);
}

/// The harness notices results that come before the commit.
#[test]
fn a_planted_return_before_the_commit_is_noticed() {
    let noticed =
        kill_repeatedly(0, 4 * KILLS_OF_A_STORE, true, &mut Figures::default()).unwrap_err();
    assert!(noticed.contains("was answered to be"), "{noticed}");
    report(
        "acknowledging before the commit, planted, is noticed",
        noticed.split(": ").next().unwrap_or_default(),
    );
}
