//! The place where a store lies: a read-only or a network file system, missing permissions, files
//! that are taken away while the store is open, limits on their size.

use std::fs;
use std::path::Path;
use std::process::Command;

use tenantry::sqlite::{self, rusqlite::Connection};
use tenantry::{BackupOptions, ErrorClass, ErrorKind, Store, User, verify_backup};

use crate::process::{self, Process};
use crate::support::{SqlitePlace, block_on, email, has_strace, kind, new_user, set_mode, skipped};

/// Runs a child that may mount file systems, which go with it. `None` if that isn't possible here.
fn start_in_namespace(role: &str, dir: &Path) -> Option<Process> {
    let probe = ["-rm", "sh", "-c", "mount -t tmpfs probe \"$0\""];
    let can_mount = Command::new("unshare").args(probe).arg(dir).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        skipped(
            "mounted file systems need `unshare` and permission to mount a tmpfs in a namespace",
        );
        return None;
    }
    let shell = "exec unshare -rm \"$0\" --exact child::child_process_entry --nocapture";
    Some(Process::start(role, dir, shell))
}

fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program).args(arguments).arg(dir).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A store with a user who has a file.
fn filled(place: &SqlitePlace) -> User {
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("notes.txt", "hello").unwrap();
    block_on(store.close()).unwrap();
    ada
}

#[test]
fn on_a_read_only_file_system_a_store_is_open_for_reading() {
    let place = SqlitePlace::new();
    if let Some(child) = start_in_namespace("on a read-only file system", place.as_ref()) {
        assert_eq!(child.end(), ["all worked"]);
    }
}

pub(crate) fn child_on_a_read_only_file_system(dir: &Path) {
    run("mount", &["-t", "tmpfs", "tenantry-test"], dir);
    // What would have to be encoded in the name of an immutable database.
    let data_dir = dir.join("a b?c#d%20é");
    let set = |how: &str| run("mount", &["-o", &format!("remount,{how}")], dir);

    set("ro");
    let error = block_on(Store::open(&data_dir)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert_eq!(
        kind(block_on(Store::builder(&data_dir).create_if_missing(false).open())),
        ErrorKind::StoreMissing
    );

    set("rw");
    let store = block_on(Store::open(&data_dir)).unwrap();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("notes.txt", "hello").unwrap();
    assert!(!store.is_read_only());
    block_on(store.close()).unwrap();

    set("ro");
    for _ in 0..2 {
        let store = block_on(Store::open(&data_dir)).unwrap();
        assert!(store.is_read_only());
        let status = block_on(store.status()).unwrap();
        // SQLite itself reports `delete`, since it opens the database as one that nobody changes.
        assert_eq!((status.read_only, status.journal_mode.as_str()), (true, "wal"));
        assert_eq!(
            block_on(store.get(ada.id)).unwrap().map(|user| user.email),
            Some(ada.email.clone())
        );
        assert_eq!(
            block_on(store.get_by_email(&email("bob@example.com"))).unwrap(),
            Some(bob.clone())
        );
        assert_eq!(block_on(store.count()).unwrap(), 2);
        assert_eq!(block_on(store.list(&Default::default())).unwrap().users.len(), 2);
        assert_eq!(
            block_on(store.directory(ada.id)).unwrap().read_to_string("notes.txt").unwrap(),
            "hello"
        );
        // Bob's was never made.
        assert_eq!(kind(block_on(store.directory(bob.id))), ErrorKind::ReadOnly);
        let error = block_on(store.create(new_user("eve@example.com"))).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::ReadOnly, false));
        assert!(error.to_string().contains("read-only"), "{error}");
        assert_eq!(kind(block_on(store.delete(ada.id))), ErrorKind::ReadOnly);
        assert_eq!(
            kind(block_on(store.write(|tx| tx.sign_in(&email("ada@example.com"))))),
            ErrorKind::ReadOnly
        );

        let elsewhere = tempfile::tempdir().unwrap();
        let file = elsewhere.path().join("a.tar.zst");
        let backup = store.create_backup(&file, BackupOptions::default(), |_| {});
        assert_eq!(block_on(backup).unwrap().manifest.users, 2);
        assert!(block_on(verify_backup(&file, |_| {})).unwrap().findings.is_empty());
        assert_eq!(block_on(tenantry::check(&data_dir)).unwrap().findings, []);
        block_on(store.close()).unwrap();
    }

    // One that another program has copied (VACUUM INTO) and that wasn't opened since has no log.
    set("rw");
    let conn = sqlite::rusqlite::Connection::open(data_dir.join("tenantry.db")).unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    conn.close().unwrap();
    set("ro");
    let store = block_on(Store::open(&data_dir)).unwrap();
    assert_eq!(block_on(store.status()).unwrap().journal_mode, "delete");
    block_on(store.close()).unwrap();

    // A store that is in use when its file system becomes read-only has its log beside it, with the
    // index of that.
    set("rw");
    let store = block_on(Store::open(&data_dir)).unwrap();
    let eve = block_on(store.create(new_user("eve@example.com"))).unwrap();
    let copy = dir.join("copy");
    fs::create_dir(&copy).unwrap();
    // Locks don't matter here: nobody else uses it.
    run("cp", &["-r", data_dir.to_str().unwrap()], &copy);
    block_on(store.close()).unwrap();
    let left = copy.join(data_dir.file_name().unwrap());
    set("ro");
    let store = block_on(Store::open(&left)).unwrap();
    assert_eq!(block_on(store.get(eve.id)).unwrap(), Some(eve));
    assert_eq!(block_on(store.count()).unwrap(), 3);
    block_on(store.close()).unwrap();
    // Without the index the log can't be read, and without the log the database is not what it was.
    set("rw");
    fs::remove_file(left.join("tenantry.db-shm")).unwrap();
    set("ro");
    let error = block_on(Store::open(&left)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(error.to_string().contains("tenantry.db-wal"), "{error}");
    process::say("all worked");
}

#[test]
fn a_data_directory_that_may_not_be_written_to_is_refused_and_says_so() {
    let place = SqlitePlace::new();
    let child =
        Process::start_without_privileges("may not write", place.as_ref(), &place.data_dir(), "");
    assert_eq!(child.end(), ["all worked"]);
}

pub(crate) fn child_may_not_write(data_dir: &Path) {
    let store = block_on(Store::open(data_dir)).unwrap();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.close()).unwrap();
    let database = data_dir.join("tenantry.db");
    for (path, refusing, allowing) in [(data_dir, 0o500, 0o700), (&*database, 0o400, 0o600)] {
        set_mode(path, refusing);
        let error = block_on(Store::open(data_dir)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!(error.class(), ErrorClass::Denied);
        assert!(error.to_string().starts_with("no permission to write to the data"), "{error}");
        assert_eq!(kind(block_on(tenantry::check(data_dir))), ErrorKind::PermissionDenied);
        set_mode(path, allowing);
        let store = block_on(Store::open(data_dir)).unwrap();
        assert!(!store.is_read_only());
        assert_eq!(block_on(store.count()).unwrap(), 1);
        block_on(store.close()).unwrap();
    }
    process::say("all worked");
}

#[test]
fn writes_stop_when_a_file_of_the_database_is_gone() {
    for gone in ["", "-wal", "-shm"] {
        let place = SqlitePlace::new();
        let ada = filled(&place);
        let store = place.open();
        block_on(store.record_login(ada.id)).unwrap();
        assert_eq!(block_on(store.count()).unwrap(), 1);
        fs::remove_file(place.data_dir().join(format!("tenantry.db{gone}"))).unwrap();
        for _ in 0..2 {
            let error = block_on(store.create(new_user("eve@example.com"))).unwrap_err();
            assert_eq!(
                (error.kind(), error.is_retryable()),
                (ErrorKind::Replaced, false),
                "{gone}: {error}"
            );
            assert_eq!(kind(block_on(store.delete(ada.id))), ErrorKind::Replaced);
            assert_eq!(
                kind(block_on(store.write(|tx| tx.sign_in(&email("eve@example.com"))))),
                ErrorKind::Replaced
            );
        }
        // Who was there can be read, as of before.
        assert_eq!(block_on(store.get(ada.id)).unwrap().map(|user| user.email), Some(ada.email));
        assert_eq!(block_on(store.count()).unwrap(), 1);
        block_on(store.close()).unwrap();
    }
}

/// As by somebody who restores a backup over a store that is in use.
#[test]
fn a_database_that_took_the_name_of_an_open_one_is_left_alone_by_it() {
    let place = SqlitePlace::new();
    let ada = filled(&place);
    let old = place.open();
    block_on(old.record_login(ada.id)).unwrap();
    assert_eq!(block_on(old.count()).unwrap(), 1);

    fs::rename(place.data_dir(), place.as_ref().join("old")).unwrap();
    let new = place.open();
    let bob = block_on(new.create(new_user("bob@example.com"))).unwrap();
    let log = place.data_dir().join("tenantry.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0);

    // Not even readers that are opened from now on take the one for the other.
    let (ada_id, bob_id) = (ada.id, bob.id);
    let other = old.clone();
    let found = block_on(old.read(move |tx| {
        // The idle reader is in use, so this opens another.
        assert!(tx.get(ada_id)?.is_some());
        Ok::<_, tenantry::Error>(block_on(other.get(bob_id)).map_err(|error| error.kind()))
    }));
    assert_eq!(found.unwrap(), Err(ErrorKind::Replaced));
    assert_eq!(kind(block_on(old.create(new_user("eve@example.com")))), ErrorKind::Replaced);
    block_on(old.close()).unwrap();

    // The end of the old one didn't take the log of the new one with it.
    assert!(fs::metadata(&log).unwrap().len() > 0);
    assert_eq!(block_on(new.get(bob.id)).unwrap(), Some(bob.clone()));
    let stranger = Connection::open(place.database()).unwrap();
    assert_eq!(
        stranger.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap(),
        1
    );
    drop(stranger);
    block_on(new.close()).unwrap();
    assert_eq!(block_on(place.open().get(bob.id)).unwrap(), Some(bob));
}

/// Whoever opens it then doesn't see what is in the log that is gone, and makes another. What they
/// write is not overwritten.
#[test]
fn a_database_whose_log_was_removed_is_left_to_those_who_opened_it_since() {
    let place = SqlitePlace::new();
    filled(&place);
    let store = place.open();
    let users: Vec<_> =
        (0..500).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    assert!(block_on(store.create_many(users)).unwrap().iter().all(Result::is_ok));
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(place.data_dir().join(format!("tenantry.db{suffix}"))).unwrap();
    }
    let mut child = Process::start("opens", &place.data_dir(), "");
    child.await_ready();
    child.start_now();
    assert_eq!(child.end(), ["ready", "found"][1..]);
    block_on(store.close()).unwrap();

    let store = place.open();
    assert_eq!(block_on(store.count()).unwrap(), 2);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(tenantry::check(place.data_dir())).unwrap().findings, []);
}

/// The result of a write is worth nothing if the file went away before the commit.
#[test]
fn a_write_during_which_the_file_goes_away_is_not_acknowledged() {
    let place = SqlitePlace::new();
    filled(&place);
    let store = place.open();
    let database = place.database();
    let written = store.write(move |tx| {
        tx.sign_in(&email("eve@example.com"))?;
        fs::remove_file(database).unwrap();
        Ok::<_, tenantry::Error>(())
    });
    assert_eq!(kind(block_on(written)), ErrorKind::Replaced);
    block_on(store.close()).unwrap();
}

/// A limit on the size of files ends the program, unless the signal is ignored; SQLite takes it for
/// an I/O error. It is a full disk: writing goes on when there is room.
#[test]
fn a_file_that_may_grow_no_further_is_a_full_disk() {
    let place = SqlitePlace::new();
    // Files can't grow beyond 1 MiB. Of that signal nothing is said.
    let heard = Process::start("fails to write", place.as_ref(), "ulimit -f 2048").end();
    let answered: u64 = heard[0].parse().unwrap();
    assert!(answered > 1);
    let store = place.open();
    assert_eq!(block_on(store.count()).unwrap(), answered);
    block_on(store.close()).unwrap();
}

pub(crate) fn child_fails_to_write(dir: &Path) {
    let store = block_on(Store::open(dir.join("data"))).unwrap();
    // The log grows with every commit for as long as a reader is in its first part.
    let same = store.clone();
    let answered = block_on(store.read(move |tx| {
        tx.count()?;
        for number in 0_u64.. {
            if let Err(error) = block_on(same.create(new_user(&format!("u{number}@example.com")))) {
                assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
                let within = same.write(|tx| tx.sign_in(&email("within@example.com")));
                assert_eq!(kind(block_on(within)), ErrorKind::Full);
                assert!(block_on(same.get_by_email(&email("u0@example.com"))).unwrap().is_some());
                return Ok::<_, tenantry::Error>(number);
            }
        }
        unreachable!("no file grows for ever")
    }))
    .unwrap();
    assert_eq!(block_on(store.count()).unwrap(), answered);
    // The reader has gone, so the log can begin anew.
    block_on(store.create(new_user("after@example.com"))).unwrap();
    block_on(store.close()).unwrap();
    process::say(answered + 1);
}

/// The system is made to tell what file system it is by changing its result.
#[test]
fn a_network_file_system_is_refused_unless_it_is_allowed() {
    let place = SqlitePlace::new();
    filled(&place);
    if !has_strace() {
        return skipped(
            "a network file system needs `strace`, which changes what the system answers",
        );
    }
    // NFS, SMB and 9P, as the first word of the structure.
    for number in ["6969000000000000", "424d53fe00000000", "9719020100000000"] {
        let shell = format!(
            "exec strace -f -o /dev/null -e trace=statfs -e inject=statfs:poke_exit=@arg2={number} \"$0\" --exact child::child_process_entry --nocapture"
        );
        let child = Process::start("on a network file system", &place.data_dir(), &shell);
        assert_eq!(child.end(), ["all worked"]);
    }
}

pub(crate) fn child_on_a_network_file_system(data_dir: &Path) {
    for dir in [data_dir.to_owned(), data_dir.join("not/there/yet")] {
        let error = block_on(Store::open(&dir)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkFileSystem, "{error}");
        assert!(error.to_string().contains("network file system"), "{error}");
    }
    assert!(!data_dir.join("not").exists());
    let store = block_on(Store::builder(data_dir).allow_network_fs(true).open()).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.create(new_user(&format!("u{}@example.com", std::process::id())))).unwrap();
    block_on(store.delete(block_on(store.list(&Default::default())).unwrap().users[1].id)).unwrap();
    block_on(store.close()).unwrap();
    process::say("all worked");
}

#[test]
fn a_link_to_a_database_that_is_not_there_is_left_alone() {
    let place = SqlitePlace::new();
    fs::create_dir_all(place.data_dir()).unwrap();
    let link = place.data_dir().join("tenantry.db");
    let target = place.data_dir().with_extension("elsewhere");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let assert_refused = || {
        let error = block_on(Store::open(place.data_dir())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.to_string().contains("tenantry.db is a symbolic link"), "{error}");
        assert_eq!(fs::read_link(&link).unwrap(), target);
    };
    assert_refused();
    assert!(!target.exists());
    // Nor is what it leads to taken for a new store.
    fs::write(&target, "").unwrap();
    assert_refused();
    assert_eq!(fs::read(&target).unwrap(), b"");
}
