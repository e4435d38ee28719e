//! The n-th write, sync or read fails, once or for good, at every place of what is done to a store.
//!
//! Whoever was answered that something is done finds it done, whoever was told that it isn't finds nothing of it, and of
//! a commit that failed all is there or nothing. Reads go on, writes don't, closing works, and the store opens again. Nothing
//! panics and nothing hangs. A disk that is full is no end: writing goes on when there is space again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tenantry::sqlite::rusqlite::{Connection, ffi};
use tenantry::{Error, ErrorKind, NewUser, OnConflict, Result, Store, User, UserId, UserUpdate};

use crate::power_cut::{Case, Known, Row, Wrong, check, rows, values_of};
use crate::rebuilt::{self, Files, Replay, Variant};
use crate::share::{report, share};
use crate::support::{Boxed, block_on, email, new_user, numbered_id, poll_once};
use crate::vfs::{Disk, Event, Fault, Kind, scratch};

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
    Create(NewUser),
    Update(String),
    SignIn(String),
    RecordLogin,
    Delete,
}

impl Op {
    fn call(self, store: &Store, id: UserId) -> Boxed<'_, Result<User>> {
        match self {
            Self::Create(new) => Box::pin(store.create(new)),
            Self::Update(address) => {
                Box::pin(store.update(id, UserUpdate { email: Some(email(&address)), ..UserUpdate::default() }))
            }
            Self::SignIn(address) => Box::pin(async move { Ok(store.sign_in(email(&address)).await?.user) }),
            Self::RecordLogin => Box::pin(store.record_login(id)),
            Self::Delete => Box::pin(store.delete(id)),
        }
    }

    /// Whether this is what the database says after it.
    fn is_done(&self, row: &Row) -> bool {
        match (self, row) {
            (Self::Create(new), Row::Live(values)) => values.0 == new.email.as_str() && values.4 == 1,
            (Self::Update(address), Row::Live(values)) => values.0 == *address && values.4 == 2,
            (Self::SignIn(_) | Self::RecordLogin, Row::Live(values)) => values.2.is_some() && values.4 == 1,
            (Self::Delete, Row::Trashed(_)) => true,
            _ => false,
        }
    }
}

/// What somebody was told.
pub(crate) struct Told {
    op: Op,
    id: UserId,
    answer: Result<User>,
    /// The number of the transaction, as far as it can be told from outside.
    group: usize,
    /// How much was recorded then.
    at: usize,
}

/// Who writes, and what they were told.
#[derive(Default)]
pub(crate) struct Callers {
    /// Who was there before.
    before: BTreeMap<UserId, Row>,
    pub(crate) told: Vec<Told>,
    groups: usize,
    made: u64,
}

impl Callers {
    fn new_user(&mut self) -> (UserId, Op) {
        self.made += 1;
        let id = numbered_id(self.made);
        (id, Op::Create(NewUser { id: Some(id), ..new_user(&format!("User{}@example.com", self.made)) }))
    }

    fn new_users(&mut self, count: u64) -> Vec<(UserId, Op)> {
        (0..count).map(|_| self.new_user()).collect()
    }

    /// Has these done in one transaction: they queue up while the writer stands in a closure.
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
            // It may fail too: then nobody is held up, and the others are as many groups as they are.
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
        let news: Vec<NewUser> =
            ops.iter().map(|(_, op)| if let Op::Create(new) = op { new.clone() } else { unreachable!() }).collect();
        let written = block_on(store.write(move |tx| {
            let mut users = Vec::new();
            for new in &news {
                tx.import(new, OnConflict::Fail)?;
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

    /// All kinds of writes, in groups and alone, with the log moved into the database in the middle.
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
        // Otherwise a sign-in would make one.
        ops.retain(|(id, _)| exists(*id));
        ops.extend(self.new_users(1));
        self.group(store, disk, ops);
        self.import(store, disk, 8);
        // As another process may at any time; it may fail.
        if let Ok(conn) = Connection::open(data.join("tenantry.db")) {
            let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        let new = self.new_users(3);
        self.group(store, disk, new);
    }

    /// What the database is to say of each user: for certain, or else after an operation whose outcome isn't known.
    fn expected(&self) -> BTreeMap<UserId, (Row, Option<&Op>)> {
        let before = self.before.iter().map(|(id, row)| (*id, (row.clone(), None)));
        let mut expected: BTreeMap<UserId, (Row, Option<&Op>)> = before.collect();
        for told in &self.told {
            let entry = expected.entry(told.id).or_insert((Row::Absent, None));
            match (&told.answer, &told.op) {
                (Ok(user), Op::Delete) => entry.0 = Row::Trashed(values_of(user)),
                (Ok(user), _) => entry.0 = Row::Live(values_of(user)),
                (Err(error), op) if error.kind() == ErrorKind::OutcomeUnknown => entry.1 = Some(op),
                (Err(_), _) => {}
            }
        }
        expected
    }

    fn deleted(&self, id: UserId) -> bool {
        self.told.iter().any(|told| told.id == id && matches!(told.op, Op::Delete) && told.answer.is_ok())
    }

    /// Whether everybody was told what the table in `writer.rs` says.
    fn judge(&self, fault: Fault, fired: u64) {
        let failed = |told: &&Told| told.answer.is_err();
        let Some(first) = self.told.iter().find(failed).map(|told| told.group) else { return };
        assert!(fired > 0, "nothing failed: {:?}", self.told.iter().find(failed).unwrap().answer);
        for told in self.told.iter().filter(|told| told.group == first) {
            let Err(error) = &told.answer else { panic!("a part of a transaction is done: {:?}", told.answer) };
            match fault.code {
                ffi::SQLITE_FULL => assert_eq!(error.kind(), ErrorKind::Full, "{error:?}"),
                // They come in the commit: what is written fits into the cache until then.
                ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_FSYNC => {
                    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
                }
                _ => assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::OutcomeUnknown), "{error:?}"),
            }
        }
        let is_of_the_files = !matches!(fault.code, ffi::SQLITE_FULL | ffi::SQLITE_CANTOPEN);
        for told in self.told.iter().filter(|told| told.group > first && is_of_the_files) {
            let Err(error) = &told.answer else { panic!("a write after a failure of the files: {:?}", told.answer) };
            assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
            assert!(error.to_string().contains("accepts no writes"), "{error}");
        }
    }

    /// Opens the store on whatever is there, and compares.
    pub(crate) fn verify(&mut self, data: &Path) {
        let store = block_on(Store::open(data)).unwrap();
        let conn = Connection::open(data.join("tenantry.db")).unwrap();
        let health: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(health, "ok");
        let mut found = rows(&conn).unwrap();
        drop(conn);
        let mut outcomes: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
        for (id, (row, maybe)) in self.expected() {
            let is = found.remove(&id).unwrap_or(Row::Absent);
            let is_done = maybe.is_some_and(|op| op.is_done(&is));
            assert!(is == row || is_done, "{id} is {is:?}; it was to be {row:?}, or what is left of {maybe:?}");
            for told in self.told.iter().filter(|told| told.id == id) {
                if matches!(&told.answer, Err(error) if error.kind() == ErrorKind::OutcomeUnknown) {
                    outcomes.entry(told.group).or_default().push(is_done);
                }
            }
        }
        assert!(found.is_empty(), "nobody was told of these: {found:?}");
        for (group, outcomes) in outcomes {
            assert!(outcomes.iter().all(|done| *done == outcomes[0]), "half of transaction {group}: {outcomes:?}");
        }
        // And it can be used.
        let (id, op) = self.new_user();
        let answer = block_on(op.clone().call(&store, id));
        assert!(answer.is_ok(), "{answer:?}");
        self.told.push(Told { op, id, answer, group: self.groups, at: 0 });
        block_on(store.close()).unwrap();
    }
}

/// Where the failure comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// From the creation of the store on.
    Nothing,
    /// From the opening of a store that a crash left with a log.
    Crash,
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

/// A store that a crash left with a log in which there is something.
struct Crashed {
    files: Files,
    marker: Vec<u8>,
    rows: BTreeMap<UserId, Row>,
}

impl Crashed {
    fn new() -> Self {
        let scratch = scratch();
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
            marker: fs::read(data.join("storage/.tenantry-store")).unwrap(),
            rows,
        }
    }

    fn put(&self, data: &Path) {
        fs::create_dir_all(data.join("storage")).unwrap();
        fs::create_dir(data.join("trash")).unwrap();
        fs::write(data.join("storage/.tenantry-store"), &self.marker).unwrap();
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

/// Has one fault come, and answers what became of it.
fn meet(begin: Begin, fault: Fault, crashed: &Crashed) -> Became {
    let scratch = scratch();
    let data = scratch.path().join("data");
    let mut callers = Callers::default();
    if begin == Begin::Crash {
        crashed.put(&data);
        callers.before = crashed.rows.clone();
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
                for told in callers.told.iter().filter(|told| told.answer.is_ok()) {
                    assert_eq!(block_on(store.get(told.id)).unwrap().is_some(), !callers.deleted(told.id));
                }
            }
            let kinds: Vec<ErrorKind> =
                callers.told.iter().filter_map(|told| told.answer.as_ref().err().map(Error::kind)).collect();
            if kinds.contains(&ErrorKind::OutcomeUnknown) {
                became = Became::Unknown;
            } else if !kinds.is_empty() {
                became = Became::NotDone;
            }
            if fault.code == ffi::SQLITE_FULL && disk.fired() > 0 {
                // There is space again: nobody has to open anything anew.
                disk.plan(None);
                let new = callers.new_users(3);
                let first = callers.told.len();
                callers.group(&store, None, new);
                let answers: Vec<_> = callers.told[first..].iter().map(|told| &told.answer).collect();
                assert!(answers.iter().all(|answer| answer.is_ok()), "the disk has space again: {answers:?}");
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
    callers.verify(&data);
    became
}

/// Meets every fault there is, from both beginnings, each once and for good. In `cargo test` an even share of them.
#[test]
fn whatever_fails_whenever_everybody_is_told_what_became_of_it() {
    let crashed = Crashed::new();
    let watchdog = Watchdog::new();
    let mut became: BTreeMap<Became, u64> = BTreeMap::new();
    let mut points = 0;
    for begin in [Begin::Nothing, Begin::Crash] {
        for (kind, code) in FAULTS {
            for for_good in [false, true] {
                for nth in (0..).step_by(usize::try_from(share(STRIDE, 1)).unwrap()) {
                    let fault = Fault { kind, nth, for_good, code };
                    watchdog.begin((begin, fault));
                    let what = catch(|| meet(begin, fault, &crashed))
                        .unwrap_or_else(|()| panic!("from {begin:?}, at {fault:?}"));
                    *became.entry(what).or_default() += 1;
                    if what == Became::NotMet {
                        break;
                    }
                    points += 1;
                }
            }
        }
    }
    report("a read, write, sync, truncation or opening that fails", format!("{points} points; {became:?}"));
    for what in [Became::NotOpened, Became::NotDone, Became::Unknown, Became::Unnoticed] {
        assert!(became.contains_key(&what), "no fault became {what:?}, so that was not tried");
    }
}

/// Every how manieth place is tried in `cargo test`.
const STRIDE: u64 = 1;

/// A panic is told by the hook already.
fn catch<T>(f: impl FnOnce() -> T) -> Result<T, ()> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(drop)
}
