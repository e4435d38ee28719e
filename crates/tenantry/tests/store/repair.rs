//! Repairs: what a crash left is finished, and neither a check nor a repair loses a byte.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tenantry::FindingKind::*;
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{Error, ErrorKind, Finding, Purge, RepairOptions, TrashQuery, User, check, sqlite};

use crate::check::{EVEN_IF_MANY, Fixture, derived, trashed};
use crate::support::{SqlitePlace, block_on, email, kind, new_user, new_user_at, set_mode, tree};

/// What a crash leaves between the commit of an operation and its end: asserts that this is found,
/// alone, and finished by a repair.
#[track_caller]
fn assert_finished(fixture: &Fixture, user: Option<&User>, path: Option<&str>) {
    fixture.assert_found(&[(IntentUnfinished, user.map(|user| user.id), path.map(PathBuf::from))]);
    assert_eq!(fixture.assert_repaired().after.unwrap().findings, []);
}

#[test]
fn a_repair_finishes_the_intent_to_make_a_directory() {
    for is_made in [false, true] {
        let fixture = Fixture::new();
        if is_made {
            let store = fixture.place.open();
            block_on(store.directory(fixture.cyd.id)).unwrap();
            block_on(store.close()).unwrap();
            fixture.sql("UPDATE users SET has_directory = 0 WHERE id = ?1", &fixture.cyd);
        }
        fixture.intend("make", Some(&fixture.cyd), None);
        assert_finished(&fixture, Some(&fixture.cyd), None);
        assert!(fixture.at(derived(&fixture.cyd)).is_dir());
    }
}

#[test]
fn a_repair_finishes_the_intent_to_move_a_directory_to_the_trash_or_back() {
    for is_moved in [false, true] {
        let fixture = Fixture::new();
        let (path, place) = (fixture.at("storage/gone/dan"), fixture.at(trashed(&fixture.dan)));
        if !is_moved {
            fs::rename(&place, &path).unwrap();
        }
        fixture.intend("trash", Some(&fixture.dan), None);
        assert_finished(&fixture, Some(&fixture.dan), None);
        assert!(place.is_dir() && !path.exists());

        let store = fixture.place.open();
        block_on(store.restore(fixture.dan.id, None)).unwrap();
        block_on(store.close()).unwrap();
        if !is_moved {
            fs::rename(&path, &place).unwrap();
        }
        fixture.intend("restore", Some(&fixture.dan), None);
        assert_finished(&fixture, Some(&fixture.dan), None);
        assert!(path.is_dir() && !place.exists());
    }
}

#[test]
fn a_repair_finishes_the_intent_of_a_purge() {
    for is_removed in [false, true] {
        let fixture = Fixture::new();
        if is_removed {
            fs::remove_dir_all(fixture.at(trashed(&fixture.dan))).unwrap();
        }
        fixture.intend("purge", Some(&fixture.dan), None);
        fixture.assert_found(&[(IntentUnfinished, Some(fixture.dan.id), None)]);
        // The one repair that ends files: those that somebody has said to destroy.
        let repaired = fixture.repair(EVEN_IF_MANY).unwrap();
        assert_eq!(repaired.after.unwrap().findings, []);
        assert!(!fixture.at(trashed(&fixture.dan)).exists());
        let store = fixture.place.open();
        assert_eq!(kind(block_on(store.restore(fixture.dan.id, None))), ErrorKind::NotFound);
        let twin = tenantry::NewUser { id: Some(fixture.dan.id), ..new_user("twin@example.com") };
        assert_eq!(kind(block_on(store.create(twin))), ErrorKind::IdTaken);
        assert_eq!(
            kind(block_on(store.create(new_user_at("twin@example.com", "gone/dan")))),
            ErrorKind::PathTaken
        );
        block_on(store.close()).unwrap();
    }
}

#[test]
fn a_user_whose_purge_has_begun_is_shown_as_such_and_cannot_be_restored() {
    let fixture = Fixture::new();
    // The row can't be taken away, as if its files took long: so the purge is still under way after
    // the opening.
    fixture.intend("purge", Some(&fixture.dan), None);
    let conn = Connection::open(fixture.place.database()).unwrap();
    conn.execute_batch(
        "CREATE TRIGGER keep BEFORE DELETE ON users BEGIN SELECT raise(ABORT, 'kept for the test'); END",
    )
    .unwrap();
    conn.close().unwrap();
    let store = fixture.place.open();
    let trash = block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    let marked: Vec<_> =
        trash.iter().map(|trashed| (trashed.user.id, trashed.is_being_purged)).collect();
    assert_eq!(marked, [(fixture.dan.id, true), (fixture.eve.id, false)]);
    let dan = fixture.dan.id;
    assert!(block_on(store.read(move |tx| tx.get_trashed(dan))).unwrap().unwrap().is_being_purged);
    assert_eq!(kind(block_on(store.restore(dan, None))), ErrorKind::NotFound);
    block_on(store.close()).unwrap();
}

#[test]
fn a_repair_finishes_the_intent_of_an_adoption() {
    for is_empty in [true, false] {
        let fixture = Fixture::new();
        let store = fixture.place.open();
        let gil = block_on(store.create(new_user_at("gil@example.com", "before/gil"))).unwrap();
        block_on(store.directory(gil.id)).unwrap();
        fixture.stray("storage/after/gil");
        block_on(store.adopt(gil.id, "after/gil".parse().unwrap())).unwrap();
        block_on(store.close()).unwrap();
        fs::create_dir_all(fixture.at("storage/before/gil")).unwrap();
        if !is_empty {
            fixture.stray("storage/before/gil");
        }
        fixture.intend("discard", Some(&gil), Some("before/gil"));
        assert_finished(&fixture, Some(&gil), Some("storage/before/gil"));
        assert!(!fixture.at("storage/before/gil").exists());
        let quarantined = fixture.quarantined();
        assert_eq!(
            quarantined.keys().collect::<Vec<_>>(),
            ["storage/before/gil"; 1][usize::from(is_empty)..].iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_repair_finishes_the_intent_of_a_quarantine() {
    for at in ["storage/stray", "storage/customers/stray", "trash/stray"] {
        let fixture = Fixture::new();
        fixture.stray(at);
        fixture.intend("quarantine", None, Some(at));
        assert_finished(&fixture, None, Some(at));
        let quarantined = fixture.quarantined();
        assert_eq!(quarantined.keys().collect::<Vec<_>>(), [at]);
        assert_eq!(fs::read(quarantined[at].join("inner/stray.txt")).unwrap(), at.as_bytes());
    }
}

#[test]
fn a_repair_finishes_the_intent_to_erase() {
    let fixture = Fixture::new();
    fixture.intend("erase", None, None);
    assert_finished(&fixture, None, None);
}

#[test]
fn a_repair_of_too_many_orphans_is_refused_without_confirmation() {
    let fixture = Fixture::new();
    let store = fixture.place.open();
    // With those of the fixture 18 directories: two strays are 2 of 20.
    for number in 0..15 {
        let user = block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
        block_on(store.directory(user.id)).unwrap();
    }
    block_on(store.close()).unwrap();
    fixture.stray("storage/stray");
    fixture.stray("trash/stray");
    assert_eq!(fixture.check().directories, 20);
    assert_eq!(fixture.repair(RepairOptions::default()).unwrap().after.unwrap().findings, []);
    assert_eq!(fixture.quarantined().len(), 2);

    for stray in ["storage/one", "storage/two", "trash/three"] {
        fixture.stray(stray);
    }
    set_mode(fixture.at("storage/customers/bob"), 0o755);
    let before = tree(&fixture.at(""));
    let refused = fixture.repair(RepairOptions::default());
    assert_eq!(kind(refused), ErrorKind::TooManyOrphans);
    assert_eq!(tree(&fixture.at("")), before);
    fixture.assert_repaired();
    assert_eq!(fixture.quarantined().len(), 5);
    // As many as there may be of other things.
    for number in 0..3 {
        set_mode(fixture.at(["storage", "trash", "storage/customers"][number]), 0o755);
    }
    assert_eq!(fixture.repair(RepairOptions::default()).unwrap().after.unwrap().findings, []);
}

/// A store with findings of all the kinds that can be there at once.
fn full_of_findings() -> Fixture {
    let fixture = Fixture::new();
    let store = fixture.place.open();
    let lost = block_on(store.create(new_user("lost@example.com"))).unwrap();
    block_on(store.directory(lost.id)).unwrap();
    let make = "CREATE TABLE notes (user_id BLOB REFERENCES users (id)) STRICT";
    block_on(
        store.write(move |tx| sqlite::connection(tx).execute_batch(make).map_err(Error::from)),
    )
    .unwrap();
    block_on(store.close()).unwrap();
    fs::remove_dir(fixture.at(derived(&lost))).unwrap();
    let of_nobody = "INSERT INTO notes SELECT zeroblob(16) FROM users WHERE id = ?1";
    fixture.sql(of_nobody, &fixture.dan);
    fixture.sql("UPDATE users SET email_folded = 'other@example.com' WHERE id = ?1", &fixture.cyd);
    fixture.sql("UPDATE users SET has_directory = 0 WHERE id = ?1", &fixture.ada);
    fixture.sql(
        "UPDATE users SET storage_path = 'customers/bob/x', has_directory = 1 WHERE id = ?1",
        &fixture.eve,
    );
    fixture.intend("make", Some(&fixture.cyd), None);
    for at in ["storage/stray", "storage/3f/a2/stray", "trash/stray"] {
        fixture.stray(at);
    }
    set_mode(fixture.at("trash"), 0o755);
    symlink("customers", fixture.at("storage/link")).unwrap();
    fixture
}

#[test]
fn a_repair_loses_nothing_whatever_is_wrong() {
    let fixture = full_of_findings();
    let mut kinds: Vec<_> =
        fixture.check().findings.into_iter().map(|finding| finding.kind).collect();
    kinds.dedup();
    let expected = [
        ReferenceDangling,
        KeyDiffers,
        PathOverlaps,
        DirectoryLost,
        DirectoryUnrecorded,
        DirectoryOrphaned,
        WrongMode,
        IntentUnfinished,
        TrashLost,
        TrashOrphaned,
    ];
    assert_eq!(kinds, expected);
    fixture.assert_repaired();
    assert_eq!(fixture.quarantined().len(), 4);
}

#[test]
fn a_check_changes_nothing_not_even_a_leftover_wal() {
    let fixture = full_of_findings();
    let findings = fixture.check().findings;
    fixture.assert_found(
        &findings
            .iter()
            .map(|found| (found.kind, found.user, found.path.clone()))
            .collect::<Vec<_>>(),
    );

    // A copy of a store that is open, as a crash of the machine would leave it. By another process:
    // closing a descriptor of an open database would end SQLite's locks in this one.
    let place = SqlitePlace::new();
    let store = Fixture::new();
    let open = store.place.open();
    let new = block_on(open.create(new_user("new@example.com"))).unwrap();
    block_on(open.directory(new.id)).unwrap();
    let copied =
        Command::new("cp").arg("-a").arg(store.at("")).arg(place.data_dir()).status().unwrap();
    assert!(copied.success());
    block_on(open.close()).unwrap();
    // The index of the log is made anew by whoever reads it, and holds nothing of its own.
    let files = || {
        let mut files = tree(&place.data_dir());
        files.remove(Path::new("tenantry.db-shm"));
        files
    };
    let before = files();
    assert!(before[Path::new("tenantry.db-wal")].1.len() > 4_096);
    for _ in 0..2 {
        let report = block_on(check(place.data_dir())).unwrap();
        assert_eq!((report.findings, report.users), (vec![], 4));
        assert_eq!(files(), before);
    }
    let recovered = place.open();
    assert_eq!(block_on(recovered.get(new.id)).unwrap(), Some(new));
    block_on(recovered.close()).unwrap();
}

#[test]
fn a_check_beside_concurrent_changes_finds_nothing() {
    const CHECKS: usize = 25;
    let fixture = Fixture::new();
    let store = fixture.place.open();
    let in_motion = |thread: usize, done: &AtomicBool| {
        let mut round = 0;
        while !done.load(Ordering::Relaxed) {
            round += 1;
            let user = block_on(store.sign_in(email(&format!("t{thread}r{round}@example.com"))))
                .unwrap()
                .user;
            block_on(store.directory(user.id)).unwrap().write("file", "").unwrap();
            block_on(store.delete(user.id)).unwrap();
            if round % 3 == 0 {
                block_on(store.purge(Purge::User(user.id), |_| {})).unwrap();
            } else {
                block_on(store.restore(user.id, None)).unwrap();
            }
        }
    };
    // One is moved to and fro all the time, so that two looks may see the same.
    let to_and_fro = |done: &AtomicBool| {
        while !done.load(Ordering::Relaxed) {
            block_on(store.restore(fixture.dan.id, None)).unwrap();
            block_on(store.directory(fixture.dan.id)).unwrap();
            block_on(store.delete(fixture.dan.id)).unwrap();
        }
    };
    let done = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn({
                let (in_motion, done) = (&in_motion, &done);
                move || in_motion(thread, done)
            });
        }
        scope.spawn(|| to_and_fro(&done));
        let found: Vec<Finding> = (0..CHECKS).flat_map(|_| fixture.check().findings).collect();
        done.store(true, Ordering::Relaxed);
        found
    });
    assert_eq!(found, []);
    block_on(store.close()).unwrap();
    fixture.assert_found(&[]);
}

/// A directory that can't be made is an error each time it is asked for, however often, and stands
/// in nobody's way.
#[test]
fn a_directory_that_cannot_be_made_is_an_error_each_time() {
    let place = SqlitePlace::new();
    let store = place.open();
    let users: Vec<User> = ["ada@example.com", "bob@example.com"]
        .map(|address| block_on(store.create(new_user(address))).unwrap())
        .into();
    // As an operator might: the open store still holds the directory that is gone.
    fs::remove_dir_all(place.data_dir().join("storage")).unwrap();
    for _ in 0..2 {
        for user in &users {
            assert_eq!(kind(block_on(store.directory(user.id))), ErrorKind::StorageUnavailable);
        }
    }
    // Who is to be deleted needs none.
    block_on(store.delete(users[0].id)).unwrap();
    block_on(store.close()).unwrap();
}
