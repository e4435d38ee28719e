//! A long-lived owner of a store beside everything that a short program does: each combination
//! works, seen from both sides, or is refused by the kind of error that the contract names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    BackupOptions, Error, ErrorKind, ListQuery, NewUser, OnConflict, Purge, RepairOptions, Store,
    User, UserId, check, repair, restore_backup, verify_backup,
};

use crate::process::{self, Process};
use crate::share::report;
use crate::support::{BlockedWriter, SHORT, SqlitePlace, all, block_on, email, kind, new_user};

const FILE: &str = "note.txt";

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

/// Something of an owner's that is blocked until it is released.
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
            "create" => {
                block_on(store.create(new_user(&of))).map_or_else(of_kind, |user| json!(user))
            }
            "get" => json!(block_on(store.get(id())).unwrap()),
            "count" => json!(block_on(store.count()).unwrap()),
            "was created" => json!(store.was_created()),
            "file" => block_on(store.directory(id()))
                .map_or_else(of_kind, |dir| json!(dir.read_to_string(FILE).unwrap())),
            "keep handle" => json!(
                handles.insert(of.clone(), block_on(store.directory(id())).unwrap()).is_none()
            ),
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
                    let read = store.read(move |tx| {
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
                    let progress = move |_| {
                        let _ = entered.send(());
                        let _ = released.recv();
                    };
                    let made =
                        block_on(store.create_backup(&file, BackupOptions::default(), progress))
                            .unwrap();
                    assert_eq!(made.incomplete, 0, "{made:?}");
                    assert_eq!(block_on(verify_backup(&file, |_| {})).unwrap().findings, []);
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

/// What the short program of a combination gets: the place, whose owner has it open, and who is in
/// it.
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
        let [ada, bob] = ["ada@example.com", "bob@example.com"]
            .map(|new| block_on(store.create(new_user(new))).unwrap());
        block_on(store.directory(ada.id)).unwrap().write(FILE, "hello").unwrap();
        block_on(store.close()).unwrap();
        let owner = Owner::start(&place);
        Self { place, owner, ada, bob }
    }

    /// Runs a short program: it opens the store, does something and closes it.
    fn short<T>(&self, f: impl FnOnce(&Store) -> T) -> T {
        self.short_waiting(tenantry::Builder::DEFAULT_BUSY_TIMEOUT, f)
    }

    fn short_waiting<T>(&self, patience: Duration, f: impl FnOnce(&Store) -> T) -> T {
        let builder =
            Store::builder(self.place.data_dir()).create_if_missing(false).busy_timeout(patience);
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
        let eve =
            shared.short(|store| block_on(store.create(new_user("eve@example.com")))).unwrap();
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
        let rows: Vec<NewUser> =
            (0..2_000).map(|row| new_user(&format!("row{row}@example.com"))).collect();
        let (begun, has_begun) = mpsc::channel();
        let import = move |store: &Store| {
            block_on(store.write(move |tx| {
                begun.send(()).unwrap();
                rows.iter().try_for_each(|row| tx.upsert(row, OnConflict::Fail).map(drop))
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
        // The next process that opens the store has finished it.
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
        let made = shared
            .short(|store| block_on(store.create_backup(&file, BackupOptions::default(), |_| {})));
        assert_eq!((made.unwrap().manifest.users, shared.owner.ask("count", "")), (2, json!(2)));
        let restored =
            block_on(restore_backup(&file, shared.place.as_ref().join("elsewhere"), |_| {}))
                .unwrap();
        assert_eq!(restored.report.findings, []);
    }),
    ("restore over the directory in use: refused", |shared| {
        let file = shared.place.as_ref().join("a.tar.zst");
        shared
            .short(|store| block_on(store.create_backup(&file, BackupOptions::default(), |_| {})))
            .unwrap();
        let eve = shared.owner.ask("create", "eve@example.com");
        let restored = block_on(restore_backup(&file, shared.place.data_dir(), |_| {}));
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
            let (one, two) = if number % 2 == 0 {
                (&mut shared.owner, &mut second)
            } else {
                (&mut second, &mut shared.owner)
            };
            let user = one.ask("create", format!("u{number}@example.com"));
            assert_eq!(two.ask("get", user["id"].as_str().unwrap()), user);
        }
        second.end();
    }),
    ("adopt", |shared| {
        let dir = shared.place.data_dir().join("storage/customers/bob");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(FILE), "brought along").unwrap();
        let bob = shared
            .short(|store| block_on(store.adopt(shared.bob.id, "customers/bob".parse().unwrap())))
            .unwrap();
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
            assert_eq!(
                kind(block_on(store.purge(Purge::User(shared.bob.id), |_| {}))),
                ErrorKind::Busy
            );
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
        let back_up =
            |store: &Store| block_on(store.create_backup(&file, BackupOptions::default(), |_| {}));
        assert_eq!(kind(shared.short_waiting(SHORT, back_up)), ErrorKind::Busy);
        assert!(!file.exists());
        shared.owner.ask("release", "");
        assert_eq!(shared.short(back_up).unwrap().manifest.users, 2);
    }),
    ("an upgrade by a newer version: kept out", |shared| {
        // What a newer version would take.
        let lock = File::options()
            .write(true)
            .open(shared.place.data_dir().join("tenantry.lock"))
            .unwrap();
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
    report(
        "a long-lived owner and a short program",
        format!("{} combinations as documented", COMBINATIONS.len()),
    );
}

/// A database as version 1 of the schema made it.
pub(crate) fn of_version_1(place: &SqlitePlace) {
    fs::create_dir(place.data_dir()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    conn.execute_batch(include_str!("../../src/sqlite/migrations/V1__users.sql")).unwrap();
    conn.execute_batch(include_str!("../version_1.sql")).unwrap();
    conn.execute_batch(
        "INSERT INTO users (id, email_key, email, created_at, updated_at, version) VALUES
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
        let mut owners: Vec<Owner> =
            (0..4).map(|_| Owner(Process::start("owns", &place.data_dir(), ""))).collect();
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

/// POSIX ends all locks of a process on a file when it closes any descriptor of it. SQLite keeps
/// that from happening between the connections of one copy of it: also those of two stores in one
/// process.
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
    let written =
        block_on(store.create(new_user("eve@example.com"))).map(drop).map_err(|error| error.kind());
    block_on(store.close()).unwrap();
    process::say(format!("{written:?}"));
}
