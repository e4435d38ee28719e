//! The n-th write, sync or read fails, once or for good, at every place of what is done to a store.
//!
//! A write that has returned `Ok` is there, one that has returned an error left nothing, and of a
//! commit that failed all is there or nothing. Reads go on, writes don't, closing works, and the
//! store opens again. Nothing panics and nothing hangs. After a full disk, writes go on when there
//! is space again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tenantry::sqlite::rusqlite::{Connection, ffi};
use tenantry::{
    Error, ErrorKind, ListQuery, NewUser, OnConflict, Purge, Result, Store, User, UserId,
    UserUpdate,
};

use crate::power_cut::{Case, Known, Row, Wrong, check, make_version_1, rows, values_of};
use crate::rebuilt::{self, Files, Replay, Variant};
use crate::share::{report, share};
use crate::support::{Boxed, block_on, email, in_memory, new_user, numbered_id, poll_once};
use crate::vfs::{Disk, Event, Fault, Kind};

/// Longer than any of it takes on the slowest machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// Ends the process if something takes too long, and says what.
pub(crate) struct Watchdog(Sender<String>);

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (begins, begun) = channel::<String>();
        thread::spawn(move || {
            let mut current = String::new();
            loop {
                match begun.recv_timeout(HANGS_AFTER) {
                    Ok(what) => current = what,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("this hangs: {current}");
                        abort();
                    }
                }
            }
        });
        Self(begins)
    }

    pub(crate) fn begin(&self, what: impl fmt::Debug) {
        self.0.send(format!("{what:?}")).unwrap();
    }
}

/// What is done to a user.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create(Box<NewUser>),
    Update(String),
    SignIn(String),
    RecordLogin,
    Delete,
    Purge,
}

impl Op {
    fn call(self, store: &Store, id: UserId) -> Boxed<'_, Result<User>> {
        match self {
            Self::Create(new) => Box::pin(store.create(*new)),
            Self::Update(address) => {
                Box::pin(store.update(
                    id,
                    UserUpdate { email: Some(email(&address)), ..UserUpdate::default() },
                ))
            }
            Self::SignIn(address) => {
                Box::pin(async move { Ok(store.sign_in(email(&address)).await?.user) })
            }
            Self::RecordLogin => Box::pin(store.record_login(id)),
            Self::Delete => Box::pin(store.delete(id)),
            Self::Purge => unreachable!("it answers no user"),
        }
    }

    /// Whether it is more than one transaction.
    fn is_in_steps(&self) -> bool {
        matches!(self, Self::Purge)
    }

    /// Whether this is what the database says after it.
    pub(crate) fn is_done(&self, row: &Row) -> bool {
        match (self, row) {
            (Self::Create(new), Row::Live(values)) => {
                values.0 == new.email.as_str() && values.4 == 1
            }
            (Self::Update(address), Row::Live(values)) => values.0 == *address && values.4 == 2,
            (Self::SignIn(_) | Self::RecordLogin, Row::Live(values)) => {
                values.2.is_some() && values.4 == 1
            }
            (Self::Delete, Row::Trashed(_)) | (Self::Purge, Row::Purged) => true,
            _ => false,
        }
    }
}

/// What somebody was told.
#[derive(Clone)]
pub(crate) struct Told {
    op: Op,
    id: UserId,
    pub(crate) answer: Result<User>,
    /// The number of the transaction, as far as it can be told from outside.
    group: usize,
    /// How much was recorded then.
    at: usize,
}

/// Who writes, and what they were told.
#[derive(Clone, Default)]
pub(crate) struct Callers {
    /// Who was there before.
    before: BTreeMap<UserId, Row>,
    pub(crate) told: Vec<Told>,
    /// What reads in the middle of it have found.
    reads: Vec<Result<usize>>,
    /// The first failure of which no caller of those was told: a directory that wasn't made, a
    /// purge whose traces are still in the database.
    beside: Option<(usize, Error)>,
    groups: usize,
    made: u64,
}

impl Callers {
    fn new_user(&mut self) -> (UserId, Op) {
        self.made += 1;
        let id = numbered_id(self.made);
        (
            id,
            Op::Create(Box::new(NewUser {
                id: Some(id),
                ..new_user(&format!("User{}@example.com", self.made))
            })),
        )
    }

    fn new_users(&mut self, count: u64) -> Vec<(UserId, Op)> {
        (0..count).map(|_| self.new_user()).collect()
    }

    /// Has these done in one transaction: they queue up while the writer is in a closure.
    fn group(&mut self, store: &Store, disk: Option<&Disk>, ops: Vec<(UserId, Op)>) {
        let (entered, has_entered) = channel();
        let (release, released) = channel::<()>();
        let blocked = store.clone();
        let blocker = thread::spawn(move || {
            let closure = move |_: &mut tenantry::WriteTx<'_>| {
                entered.send(()).unwrap();
                let _ = released.recv();
                Ok::<_, Error>(())
            };
            // It may fail too: then nobody is held up, and the others are as many groups as they
            // are.
            block_on(blocked.write(closure))
        });
        let is_blocked = has_entered.recv().is_ok();
        let mut calls: Vec<_> = ops.iter().map(|(id, op)| op.clone().call(store, *id)).collect();
        let polled: Vec<_> = calls.iter_mut().map(poll_once).collect();
        drop(release);
        let _ = blocker.join().unwrap();
        self.groups += 1;
        for (((id, op), call), polled) in ops.into_iter().zip(calls).zip(polled) {
            let answer = match polled {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending => block_on(call),
            };
            self.groups += usize::from(!is_blocked);
            self.told.push(Told {
                op,
                id,
                answer,
                group: self.groups,
                at: disk.map_or(0, |disk| disk.note(Event::Answered)),
            });
        }
    }

    /// As an import does it.
    fn import(&mut self, store: &Store, disk: Option<&Disk>, count: u64) {
        let ops = self.new_users(count);
        let news: Vec<NewUser> = ops
            .iter()
            .map(
                |(_, op)| {
                    if let Op::Create(new) = op { NewUser::clone(new) } else { unreachable!() }
                },
            )
            .collect();
        let written = block_on(store.write(move |tx| {
            let mut users = Vec::new();
            for new in &news {
                tx.upsert(new, OnConflict::Fail)?;
                users.push(tx.get(new.id.unwrap())?.unwrap());
            }
            Ok::<_, Error>(users)
        }));
        self.groups += 1;
        let at = disk.map_or(0, |disk| disk.note(Event::Answered));
        for (nth, (id, op)) in ops.into_iter().enumerate() {
            let answer = written.as_ref().map(|users| users[nth].clone()).map_err(Error::clone);
            self.told.push(Told { op, id, answer, group: self.groups, at });
        }
    }

    /// All kinds of writes, in groups and alone, with the log moved into the database in the
    /// middle.
    pub(crate) fn use_store(&mut self, store: &Store, data: &Path, disk: Option<&Disk>) {
        let new = self.new_users(6);
        self.group(store, disk, new.clone());
        let exists = |id| self.told.iter().any(|told| told.id == id && told.answer.is_ok());
        let mut ops = vec![
            (new[0].0, Op::Update(format!("Changed{}@example.com", self.made))),
            (new[1].0, Op::SignIn(format!("USER{}@example.com", self.made - 4))),
            (new[2].0, Op::Delete),
            (new[3].0, Op::RecordLogin),
        ];
        // Who is deleted has files, so that their directory is moved; that it can't be made is told
        // like any failure.
        self.groups += 1;
        match block_on(store.directory(new[2].0)) {
            Ok(files) => files.write("notes.txt", "hello").unwrap(),
            // They may not have been created.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => drop(self.beside.get_or_insert((self.groups, error))),
        }
        // Otherwise a sign-in would make one.
        ops.retain(|(id, _)| exists(*id));
        ops.extend(self.new_users(1));
        self.group(store, disk, ops);
        self.import(store, disk, 8);
        self.reads.push(block_on(store.list(&ListQuery::default())).map(|page| page.users.len()));
        // As another process may at any time; it may fail.
        if let Ok(conn) = Connection::open(data.join("tenantry.db")) {
            let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        self.purge(store, disk, new[2].0);
        let new = self.new_users(3);
        self.group(store, disk, new);
    }

    /// More than one transaction, and a rewrite of the whole database. Of somebody who was deleted.
    fn purge(&mut self, store: &Store, disk: Option<&Disk>, id: UserId) {
        let deleted = |told: &&Told| told.id == id && matches!(told.op, Op::Delete);
        let Some(Ok(user)) = self.told.iter().find(deleted).map(|told| told.answer.clone()) else {
            return;
        };
        self.groups += 1;
        let answer = block_on(store.purge(Purge::User(id), |_| {})).map(|purged| {
            if let Some(error) = purged.not_erased {
                self.beside.get_or_insert((self.groups, error));
            }
            user
        });
        let at = disk.map_or(0, |disk| disk.note(Event::Answered));
        self.told.push(Told { op: Op::Purge, id, answer, group: self.groups, at });
    }

    /// What the database is to say of each user: for certain, or else after an operation whose
    /// outcome isn't known.
    fn expected(&self) -> BTreeMap<UserId, (Row, Option<&Op>)> {
        let before = self.before.iter().map(|(id, row)| (*id, (row.clone(), None)));
        let mut expected: BTreeMap<UserId, (Row, Option<&Op>)> = before.collect();
        for told in &self.told {
            let entry = expected.entry(told.id).or_insert((Row::Absent, None));
            match (&told.answer, &told.op) {
                (Ok(user), Op::Delete) => entry.0 = Row::Trashed(values_of(user)),
                (Ok(_), Op::Purge) => entry.0 = Row::Purged,
                (Ok(user), _) => entry.0 = Row::Live(values_of(user)),
                (Err(error), op)
                    if matches!(
                        error.kind(),
                        ErrorKind::OutcomeUnknown | ErrorKind::Unfinished
                    ) =>
                {
                    entry.1 = Some(op);
                }
                (Err(_), _) => {}
            }
        }
        expected
    }

    /// Whether everybody was told what the table in `writer.rs` says.
    fn judge(&self, fault: Fault, fired: u64) {
        for read in &self.reads {
            match read {
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(fault.kind, Kind::Read | Kind::Open), "a read: {error:?}");
                    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
                }
            }
        }
        let of_its_own = |told: &&Told| matches!(&told.answer, Err(error) if told.op.is_in_steps() || error.kind() == ErrorKind::Unfinished);
        let first_of =
            |of: &dyn Fn(&&Told) -> bool| self.told.iter().find(of).map(|told| told.group);
        let failed = first_of(&|told| told.answer.is_err() && !of_its_own(told));
        let beside = self
            .beside
            .as_ref()
            .map(|(group, _)| *group)
            .into_iter()
            .chain(first_of(&of_its_own))
            .min();
        let Some(first) = failed.into_iter().chain(beside).min() else { return };
        assert!(fired > 0, "nothing failed");
        for error in self.beside.iter().map(|(_, error)| error).chain(
            self.told.iter().filter(of_its_own).filter_map(|told| told.answer.as_ref().err()),
        ) {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Full
                        | ErrorKind::Io
                        | ErrorKind::Unfinished
                        | ErrorKind::OutcomeUnknown
                ),
                "{error:?}"
            );
        }
        for told in self.told.iter().filter(|told| told.group == first && beside != Some(first)) {
            let Err(error) = &told.answer else {
                panic!("a part of a transaction is done: {:?}", told.answer)
            };
            match fault.code {
                ffi::SQLITE_FULL => assert_eq!(error.kind(), ErrorKind::Full, "{error:?}"),
                // They come in the commit: what is written fits into the cache until then.
                ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_FSYNC => {
                    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
                }
                _ => assert!(
                    matches!(error.kind(), ErrorKind::Io | ErrorKind::OutcomeUnknown),
                    "{error:?}"
                ),
            }
        }
        // What a reader can't read is no affair of the writer's.
        let is_of_the_files = !matches!(fault.code, ffi::SQLITE_FULL | ffi::SQLITE_CANTOPEN)
            && (fault.kind != Kind::Read || beside != Some(first));
        for told in self
            .told
            .iter()
            .filter(|told| told.group > first && is_of_the_files && !told.op.is_in_steps())
        {
            let Err(error) = &told.answer else {
                panic!("a write after a failure of the files: {:?}", told.answer)
            };
            assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
            assert!(error.to_string().contains("accepts no writes"), "{error}");
        }
    }

    /// Opens the store on whatever is there, and compares. `unknown` is what an unknown outcome is
    /// taken for.
    pub(crate) fn verify(&mut self, data: &Path, unknown: Unknown) -> Result<(), String> {
        let store =
            block_on(Store::open(data)).map_err(|error| format!("it isn't opened: {error:?}"))?;
        let conn = Connection::open(data.join("tenantry.db")).unwrap();
        let health = conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        let found = rows(&conn);
        drop(conn);
        if health.as_deref() != Ok("ok") {
            return Err(format!("{health:?}"));
        }
        self.compare(found.map_err(|error| error.to_string())?, unknown)?;
        // And it can be used.
        let (id, op) = self.new_user();
        let answer = block_on(op.clone().call(&store, id));
        answer.as_ref().map_err(|error| format!("it can't be written: {error:?}"))?;
        self.told.push(Told { op, id, answer, group: self.groups, at: 0 });
        block_on(store.close()).unwrap();
        Ok(())
    }

    fn compare(&self, mut found: BTreeMap<UserId, Row>, unknown: Unknown) -> Result<(), String> {
        let mut outcomes: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
        for (id, (row, maybe)) in self.expected() {
            let is = found.remove(&id).unwrap_or(Row::Absent);
            let is_done = maybe.is_some_and(|op| op.is_done(&is));
            let is_right = match unknown {
                Unknown::MayBe => is == row || is_done,
                Unknown::TakenForNotDone => is == row,
                Unknown::TakenForDone => is_done || (maybe.is_none() && is == row),
            };
            if !is_right {
                return Err(format!("{id} is {is:?}; it was {row:?}, and then perhaps {maybe:?}"));
            }
            for told in self.told.iter().filter(|told| told.id == id) {
                if matches!(&told.answer, Err(error) if error.kind() == ErrorKind::OutcomeUnknown) {
                    outcomes.entry(told.group).or_default().push(is_done);
                }
            }
        }
        if !found.is_empty() {
            return Err(format!("nobody was told of these: {found:?}"));
        }
        match outcomes.iter().find(|(_, outcomes)| outcomes.iter().any(|done| *done != outcomes[0]))
        {
            Some((group, outcomes)) => Err(format!("a part of transaction {group}: {outcomes:?}")),
            None => Ok(()),
        }
    }

    /// The same, as it is compared after a power cut.
    fn known(&self, opened_at: usize, marker: Vec<u8>) -> Known {
        let mut known = Known { opened_at, marker, ..Known::default() };
        for told in &self.told {
            let states = known.users.entry(told.id).or_insert_with(|| vec![(0, Row::Absent)]);
            match &told.answer {
                Ok(user) if matches!(told.op, Op::Delete) => {
                    states.push((told.at, Row::Trashed(values_of(user))))
                }
                Ok(_) if matches!(told.op, Op::Purge) => states.push((told.at, Row::Purged)),
                Ok(user) => states.push((told.at, Row::Live(values_of(user)))),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::OutcomeUnknown | ErrorKind::Unfinished
                    ) =>
                {
                    known.maybe.insert(told.id, told.op.clone());
                }
                Err(_) => {}
            }
        }
        known
    }
}

/// What a caller takes `OutcomeUnknown` for. All but the first are planted mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    MayBe,
    TakenForNotDone,
    /// As if it had returned before the commit.
    TakenForDone,
}

/// What a fault is, in all that is to be tried.
const FAULTS: [(Kind, i32); 6] = [
    (Kind::Write, ffi::SQLITE_IOERR_WRITE),
    (Kind::Write, ffi::SQLITE_FULL),
    (Kind::Sync, ffi::SQLITE_IOERR_FSYNC),
    (Kind::Read, ffi::SQLITE_IOERR_READ),
    (Kind::Truncate, ffi::SQLITE_IOERR_TRUNCATE),
    (Kind::Open, ffi::SQLITE_CANTOPEN),
];

/// A store as somebody left it.
pub(crate) struct Left {
    pub(crate) files: Files,
    /// If it was ever opened to the end.
    pub(crate) marker: Option<Vec<u8>>,
    pub(crate) rows: BTreeMap<UserId, Row>,
}

impl Left {
    /// By a crash, with a log in which there is something.
    fn by_crash() -> Self {
        let scratch = in_memory();
        let data = scratch.path().join("data");
        let disk = Disk::watch(&data, true);
        let store = block_on(Store::open(&data)).unwrap();
        // Nobody of these is met again later.
        let mut callers = Callers { made: 500, ..Callers::default() };
        callers.use_store(&store, &data, None);
        let record = disk.take_record();
        let mut replay = Replay::new(&disk.base, &record, rebuilt::Disk::Honest, 0, 1);
        while replay.advance() {}
        let rows = callers.expected().into_iter().map(|(id, (row, _))| (id, row)).collect();
        Self {
            files: replay.cut(Variant::Everything),
            marker: Some(fs::read(data.join("storage/.tenantry-store")).unwrap()),
            rows,
        }
    }

    /// By a program that knew the first version of the schema.
    fn by_version_1() -> Self {
        let scratch = in_memory();
        let path = scratch.path().join("tenantry.db");
        let mut known = Known::default();
        make_version_1(&path, &mut known);
        let files = Files::from([("tenantry.db".to_owned(), fs::read(&path).unwrap())]);
        let rows = known.users.into_iter().map(|(id, states)| (id, states[0].1.clone())).collect();
        Self { files, marker: None, rows }
    }

    pub(crate) fn put(&self, data: &Path) {
        fs::create_dir(data).unwrap();
        if let Some(marker) = &self.marker {
            fs::create_dir(data.join("storage")).unwrap();
            fs::create_dir(data.join("trash")).unwrap();
            fs::write(data.join("storage/.tenantry-store"), marker).unwrap();
        }
        for (name, content) in &self.files {
            fs::write(data.join(name), content).unwrap();
        }
    }
}

fn open(data: &Path) -> Result<Store> {
    // Nobody is in the way, so whoever waits waits in vain.
    block_on(Store::builder(data).busy_timeout(Duration::from_millis(200)).open())
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Became {
    /// Everything was over before it came.
    NotMet,
    /// The store wasn't opened.
    NotOpened,
    /// Some were told that it isn't done.
    NotDone,
    /// Some were told that it isn't known.
    Unknown,
    /// Nobody was told of it: it came when the log was moved, or at closing.
    Unnoticed,
}

/// Has one fault come, from the opening of a store on (or its creation), and returns what became of
/// it, and what is wrong with that.
fn meet(left: Option<&Left>, fault: Fault, unknown: Unknown) -> (Became, Result<(), String>) {
    let scratch = in_memory();
    let data = scratch.path().join("data");
    let mut callers = Callers::default();
    if let Some(left) = left {
        left.put(&data);
        callers.before = left.rows.clone();
    }
    let disk = Disk::watch(&data, false);
    disk.plan(Some(fault));
    let mut became = Became::Unnoticed;
    match open(&data) {
        Ok(store) => {
            callers.use_store(&store, &data, None);
            callers.judge(fault, disk.fired());
            // Reads go on.
            if !matches!(fault.kind, Kind::Read | Kind::Open) {
                for (id, (row, maybe)) in callers.expected() {
                    let user = block_on(store.get(id)).unwrap();
                    assert!(
                        user.is_some() == matches!(row, Row::Live(_)) || maybe.is_some(),
                        "{id}: {user:?}"
                    );
                }
            }
            let kinds: Vec<ErrorKind> = callers
                .told
                .iter()
                .filter_map(|told| told.answer.as_ref().err().map(Error::kind))
                .collect();
            if kinds.contains(&ErrorKind::OutcomeUnknown) {
                became = Became::Unknown;
            } else if !kinds.is_empty() {
                became = Became::NotDone;
            }
            if fault.code == ffi::SQLITE_FULL && disk.fired() > 0 {
                // There is space again: no process has to open anything again.
                disk.plan(None);
                let new = callers.new_users(3);
                let first = callers.told.len();
                callers.group(&store, None, new);
                let answers: Vec<_> =
                    callers.told[first..].iter().map(|told| &told.answer).collect();
                assert!(
                    answers.iter().all(|answer| answer.is_ok()),
                    "the disk has space again: {answers:?}"
                );
            } else if disk.fired() == 0 {
                block_on(store.close()).unwrap();
                if disk.fired() == 0 {
                    became = Became::NotMet;
                }
            }
            block_on(store.close()).unwrap();
        }
        Err(error) => {
            assert!(disk.fired() > 0, "without a fault: {error:?}");
            assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
            became = Became::NotOpened;
        }
    }
    disk.plan(None);
    (became, callers.verify(&data, unknown))
}

/// Meets every fault there is, from the creation of a store on, from the opening of one that
/// crashed and from an upgrade, each once and for good.
#[test]
fn whatever_fails_whenever_every_caller_gets_the_right_result() {
    let (crashed, old) = (Left::by_crash(), Left::by_version_1());
    let watchdog = Watchdog::new();
    let mut became: BTreeMap<Became, u64> = BTreeMap::new();
    let mut points = 0;
    for (begin, left) in [("nothing", None), ("a crash", Some(&crashed)), ("version 1", Some(&old))]
    {
        for (kind, code) in FAULTS {
            for for_good in [false, true] {
                for nth in 0.. {
                    let fault = Fault { kind, nth, for_good, code };
                    watchdog.begin((begin, fault));
                    let (what, verified) = catch(|| meet(left, fault, Unknown::MayBe))
                        .unwrap_or_else(|()| panic!("from {begin}, at {fault:?}"));
                    assert_eq!(verified, Ok(()), "from {begin}, at {fault:?}");
                    *became.entry(what).or_default() += 1;
                    if what == Became::NotMet {
                        break;
                    }
                    points += 1;
                }
            }
        }
    }
    report(
        "a read, write, sync, truncation or opening that fails",
        format!("{points} points; {became:?}"),
    );
    for what in [Became::NotOpened, Became::NotDone, Became::Unknown, Became::Unnoticed] {
        assert!(became.contains_key(&what), "no fault became {what:?}, so that was not tried");
    }
}

/// A panic is told by the hook already.
fn catch<T>(f: impl FnOnce() -> T) -> Result<T, ()> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(drop)
}

/// A caller who takes an unknown outcome for a known one is wrong in some of the cases, whichever
/// it is.
#[test]
fn an_unknown_outcome_that_is_reported_as_a_known_one_is_caught() {
    let crashed = Left::by_crash();
    for unknown in [Unknown::TakenForNotDone, Unknown::TakenForDone] {
        let (mut points, mut caught) = (0, 0);
        for (kind, code) in
            [(Kind::Write, ffi::SQLITE_IOERR_WRITE), (Kind::Sync, ffi::SQLITE_IOERR_FSYNC)]
        {
            for for_good in [false, true] {
                for nth in 0.. {
                    let (became, verified) =
                        meet(Some(&crashed), Fault { kind, nth, for_good, code }, unknown);
                    if became == Became::NotMet {
                        break;
                    }
                    points += u64::from(became == Became::Unknown);
                    caught += u64::from(verified.is_err());
                }
            }
        }
        report(
            "a failed commit",
            format!("unknown {unknown:?}: wrong at {caught} of {points} points"),
        );
        assert!(caught > 0);
    }
}

/// A write that is done by half without a word.
#[test]
fn a_write_that_fails_without_a_word_is_caught() {
    let (mut points, mut caught) = (0, 0);
    for nth in 0.. {
        let scratch = in_memory();
        let data = scratch.path().join("data");
        let disk = Disk::watch(&data, false);
        disk.plan(Some(Fault { kind: Kind::Write, nth, for_good: false, code: ffi::SQLITE_OK }));
        let mut callers = Callers::default();
        if let Ok(store) = open(&data) {
            callers.use_store(&store, &data, None);
            block_on(store.close()).unwrap();
        }
        if disk.fired() == 0 {
            break;
        }
        points += 1;
        caught += u64::from(callers.verify(&data, Unknown::MayBe).is_err());
    }
    report("a write that fails without a word", format!("wrong at {caught} of {points} points"));
    assert!(caught > 0);
}

/// What is done after a sync has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The store is closed, as it should be, opened again and written.
    Closed,
    /// The store is closed, but syncs go on to fail, and then the power is cut.
    ClosedInVain,
    /// Syncs go on to fail until the store is closed; then it is opened again, by the same system,
    /// and written. That is beyond what SQLite can make good: the log can't be moved away at
    /// closing, and the system takes for written what isn't.
    ClosedInVainAndOpened,
    /// The planted mistake: the program is killed, and the store is opened again and written.
    Killed,
}

/// What the power cuts after failed syncs have come to.
#[derive(Default)]
pub(crate) struct Cuts {
    pub(crate) syncs: u64,
    pub(crate) states: u64,
    pub(crate) wrong: BTreeMap<Wrong, u64>,
    pub(crate) example: Option<String>,
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} syncs that failed, {} states of the disk; wrong: {:?}",
            self.syncs, self.states, self.wrong
        )
    }
}

impl Cuts {
    /// Cuts the power at every n-th event of a record.
    fn cut(&mut self, replay: &mut Replay<'_>, from: usize, every: u64, known: &Known) {
        let place = in_memory();
        let data = place.path().join("data");
        while (0..every).all(|_| replay.advance()) {
            if replay.at() <= from {
                continue;
            }
            for variant in [Variant::Synced, Variant::Everything, Variant::Subset, Variant::Torn] {
                self.cut_here(&data, replay, variant, known);
            }
        }
    }

    /// Cuts the power, and opens what is left of the store in this directory.
    pub(crate) fn cut_here(
        &mut self,
        data: &Path,
        replay: &mut Replay<'_>,
        variant: Variant,
        known: &Known,
    ) {
        let files = replay.cut(variant);
        let case = Case { files, at: replay.at(), variant, is_marked: true, is_new: true };
        self.states += 1;
        if let Err((wrong, what)) = check(data, &case, known) {
            *self.wrong.entry(wrong).or_default() += 1;
            let place = format!("sync {}, event {}, {variant:?}", self.syncs, case.at);
            self.example.get_or_insert_with(|| format!("{place}: {wrong:?}: {what}"));
        }
    }
}

/// Has each sync fail, and the disk forget what it could not write. Then the power is cut.
fn cut_after(after: After, every: u64) -> Cuts {
    let watchdog = Watchdog::new();
    let mut cuts = Cuts::default();
    for nth in 0.. {
        watchdog.begin((after, nth));
        let scratch = in_memory();
        let data = scratch.path().join("data");
        let disk = Disk::watch(&data, true);
        let mut callers = Callers::default();
        let store = open(&data).unwrap();
        let opened_at = disk.note(Event::Answered);
        let for_good = matches!(after, After::ClosedInVain | After::ClosedInVainAndOpened);
        disk.plan(Some(Fault { kind: Kind::Sync, nth, for_good, code: ffi::SQLITE_IOERR_FSYNC }));
        callers.use_store(&store, &data, Some(&disk));
        let marker = fs::read(data.join("storage/.tenantry-store")).unwrap();
        let killed_at = disk.note(Event::Answered);
        block_on(store.close()).unwrap();
        if disk.fired() == 0 {
            return cuts;
        }
        disk.plan(None);
        if matches!(after, After::Closed | After::ClosedInVainAndOpened) {
            let again = open(&data).unwrap();
            let new = callers.new_users(3);
            callers.group(&again, Some(&disk), new);
            block_on(again.close()).unwrap();
        }
        let record = disk.take_record();
        let Some(failed) =
            record.iter().position(|event| matches!(event, Event::SyncFailed { .. }))
        else {
            continue;
        };
        if after == After::Killed && failed >= killed_at {
            continue;
        }
        cuts.syncs += 1;
        for lost in [
            rebuilt::Disk::Honest,
            rebuilt::Disk::ForgetsWhatFailed,
            rebuilt::Disk::ForgetsSomeOfWhatFailed,
        ] {
            if after == After::Killed {
                go_on_after_a_kill(
                    &callers,
                    &disk.base,
                    &record[..killed_at],
                    lost,
                    &marker,
                    every,
                    &mut cuts,
                );
            } else {
                let mut replay = Replay::new(&disk.base, &record, lost, 0, nth);
                cuts.cut(&mut replay, failed, every, &callers.known(opened_at, marker.clone()));
            }
        }
    }
    unreachable!("there is an end of syncs")
}

/// Opens the store on what the system holds for its files, though the disk has lost some of that,
/// and writes to it.
fn go_on_after_a_kill(
    callers: &Callers,
    base: &Files,
    record: &[Event],
    lost: rebuilt::Disk,
    marker: &[u8],
    every: u64,
    cuts: &mut Cuts,
) {
    let end = |disk, variant| {
        let mut replay = Replay::new(base, record, disk, 0, 1);
        while replay.advance() {}
        replay.cut(variant)
    };
    let (held, on_disk) =
        (end(rebuilt::Disk::Honest, Variant::Everything), end(lost, Variant::Synced));
    let scratch = in_memory();
    let data = scratch.path().join("data");
    Left { files: held.clone(), marker: Some(marker.to_vec()), rows: BTreeMap::new() }.put(&data);
    let disk = Disk::watch(&data, true);
    let mut callers = callers.clone();
    callers.told.iter_mut().for_each(|told| told.at = 0);
    // That it isn't opened is no loss.
    let Ok(again) = open(&data) else { return };
    let new = callers.new_users(3);
    callers.group(&again, Some(&disk), new);
    block_on(again.close()).unwrap();
    let record = disk.take_record();
    let on_disk = held
        .into_keys()
        .map(|name| (name.clone(), on_disk.get(&name).cloned().unwrap_or_default()))
        .collect();
    let mut replay = Replay::new(&on_disk, &record, rebuilt::Disk::Honest, 0, 1);
    cuts.cut(&mut replay, 0, every, &callers.known(0, marker.to_vec()));
}

#[test]
fn a_power_cut_after_a_failed_sync_loses_no_write_that_has_returned() {
    for after in [After::Closed, After::ClosedInVain] {
        let cuts = cut_after(after, share(6, 1));
        report(&format!("a power cut after a failed sync, {after:?}"), &cuts);
        assert_eq!(cuts.wrong, BTreeMap::new(), "{:?}", cuts.example);
        assert!(cuts.states > 0);
    }
}

#[test]
fn a_program_that_is_killed_after_a_failed_sync_and_goes_on_is_caught() {
    for after in [After::Killed, After::ClosedInVainAndOpened] {
        let cuts = cut_after(after, share(6, 1));
        report(&format!("a power cut after a failed sync, {after:?}"), &cuts);
        assert!(cuts.wrong.contains_key(&Wrong::Lost), "{after:?}: {cuts}");
    }
}
