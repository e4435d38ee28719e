//! The figures of a store, and that each change of a user is among them once.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;
use std::thread;

use tenantry::{Error, Metrics, NewUser, OnConflict, Purge, Store, UserUpdate};

use crate::support::{
    BlockedWriter, SqlitePlace, block_on, email, new_user, new_user_at, queued, to_email,
};

type Changes = BTreeMap<&'static str, u64>;

/// Returns the changes of users that an operation brings.
fn changes<T>(store: &Store, operation: impl FnOnce() -> T) -> (Changes, T) {
    let before = store.metrics().changes;
    let result = operation();
    let after = store.metrics().changes.into_iter();
    (
        after
            .map(|(kind, count)| (kind, count - before[kind]))
            .filter(|(_, count)| *count > 0)
            .collect(),
        result,
    )
}

#[track_caller]
fn assert_changes<T>(
    store: &Store,
    expected: &[(&'static str, u64)],
    operation: impl FnOnce() -> T,
) -> T {
    let (found, result) = changes(store, operation);
    assert_eq!(found, expected.iter().copied().collect());
    result
}

#[test]
fn every_change_of_a_user_is_recorded_once() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = assert_changes(&store, &[("created", 1)], || {
        block_on(store.create(new_user("ada@example.com")))
    })
    .unwrap();
    let many =
        vec![new_user("bob@example.com"), new_user("ada@example.com"), new_user("eve@example.com")];
    let many =
        assert_changes(&store, &[("created", 2)], || block_on(store.create_many(many))).unwrap();
    let (bob, eve) = (many[0].clone().unwrap(), many[2].clone().unwrap());
    assert_changes(&store, &[], || block_on(store.create(new_user("ada@example.com"))))
        .unwrap_err();
    assert_changes(&store, &[("created", 1)], || block_on(store.sign_in(email("kim@example.com"))))
        .unwrap();
    assert_changes(&store, &[("logged_in", 1)], || {
        block_on(store.sign_in(email("kim@example.com")))
    })
    .unwrap();
    assert_changes(&store, &[("logged_in", 1)], || block_on(store.record_login(ada.id))).unwrap();
    assert_changes(&store, &[("updated", 1)], || {
        block_on(store.update(ada.id, to_email("a@example.com")))
    })
    .unwrap();
    assert_changes(&store, &[], || block_on(store.update(ada.id, UserUpdate::default()))).unwrap();
    assert_changes(&store, &[], || block_on(store.update(ada.id, to_email("bob@example.com"))))
        .unwrap_err();
    assert_changes(&store, &[("suspended", 1)], || block_on(store.suspend(ada.id))).unwrap();
    assert_changes(&store, &[], || block_on(store.suspend(ada.id))).unwrap();
    assert_changes(&store, &[], || block_on(store.record_login(ada.id))).unwrap_err();
    assert_changes(&store, &[], || block_on(store.sign_in(email("a@example.com")))).unwrap_err();
    assert_changes(&store, &[("resumed", 1)], || block_on(store.resume(ada.id))).unwrap();
    // A directory is no change of a user, unless it is given to them.
    assert_changes(&store, &[], || block_on(store.directory(ada.id))).unwrap();
    assert_changes(&store, &[("deleted", 1)], || block_on(store.delete(ada.id))).unwrap();
    assert_changes(&store, &[("restored", 1)], || block_on(store.restore(ada.id, None))).unwrap();
    fs::create_dir_all(place.data_dir().join("storage/customers/bob")).unwrap();
    let path = "customers/bob".parse().unwrap();
    assert_changes(&store, &[("adopted", 1)], || block_on(store.adopt(bob.id, path))).unwrap();
    for (user, has_files) in [(ada.id, true), (eve.id, false)] {
        if has_files {
            block_on(store.directory(user)).unwrap().write("a.txt", "a").unwrap();
        }
        let purge = || {
            block_on(store.delete(user)).unwrap();
            block_on(store.purge(Purge::User(user), |_| {})).unwrap()
        };
        let purged = assert_changes(&store, &[("deleted", 1), ("purged", 1)], purge);
        assert_eq!((purged.users, purged.files), (1, u64::from(has_files)));
    }
    block_on(store.close()).unwrap();
}

#[test]
fn every_change_that_a_closure_makes_is_recorded_once_and_none_that_is_undone() {
    let place = SqlitePlace::new();
    let store = place.open();
    let [ada, bob] = ["ada@example.com", "bob@example.com"]
        .map(|text| block_on(store.create(new_user(text))).unwrap());
    let import = |row: NewUser, on_conflict| {
        block_on(store.write(move |tx| tx.upsert(&row, on_conflict))).unwrap()
    };
    assert_changes(&store, &[("created", 1)], || {
        import(new_user("eve@example.com"), OnConflict::Fail)
    });
    assert_changes(&store, &[], || import(new_user("eve@example.com"), OnConflict::Skip));
    assert_changes(&store, &[], || import(new_user("eve@example.com"), OnConflict::Update));
    // The address and the last login, in one change.
    let last_login_at = Some(ada.created_at);
    let row = NewUser { id: Some(ada.id), last_login_at, ..new_user("ada2@example.com") };
    assert_changes(&store, &[("updated", 1)], || import(row, OnConflict::Update));
    let rows = [
        NewUser { id: Some(ada.id), ..new_user("bob@example.com") },
        NewUser { id: Some(bob.id), ..new_user("ada2@example.com") },
    ];
    assert_changes(&store, &[("updated", 2)], || {
        block_on(store.write(move |tx| tx.upsert_exchange(&rows)))
    })
    .unwrap();
    let undone = store.write(move |tx| {
        tx.delete(ada.id)?;
        tx.create(&new_user("new@example.com"))?;
        Err::<(), _>(Error::from(std::io::Error::other("as planned")))
    });
    assert_changes(&store, &[], || block_on(undone)).unwrap_err();
    // The deletion fails, and the closure goes on.
    let half = store.write(move |tx| {
        assert!(tx.create(&new_user_at("new@example.com", "3f/reserved")).is_err());
        tx.record_login(ada.id)
    });
    assert_changes(&store, &[("logged_in", 1)], || block_on(half)).unwrap();
    block_on(store.close()).unwrap();
}

/// The changes that an operation had noted before it failed would be counted with those of the
/// closure that goes on, if they were not forgotten as its rows are.
#[test]
fn changes_of_an_operation_that_fails_halfway_are_not_counted() {
    let place = SqlitePlace::new();
    let store = place.open();
    let [ada, bob] = ["ada@example.com", "bob@example.com"]
        .map(|text| block_on(store.create(new_user(text))).unwrap());
    // The second row is refused after the first was written.
    let rows = [
        NewUser { id: Some(ada.id), ..new_user("ada2@example.com") },
        NewUser {
            id: Some(bob.id),
            created_at: Some(tenantry::Timestamp::MAX),
            ..new_user("bob2@example.com")
        },
    ];
    let goes_on = store.write(move |tx| {
        assert!(tx.upsert_exchange(&rows).is_err());
        tx.record_login(bob.id)
    });
    assert_changes(&store, &[("logged_in", 1)], || block_on(goes_on)).unwrap();
    assert_eq!(block_on(store.get(ada.id)).unwrap().unwrap().email, ada.email);
    block_on(store.close()).unwrap();
}

#[cfg(feature = "archives")]
#[test]
fn users_who_come_out_of_archives_are_recorded_once() {
    use tenantry::{BackupOptions, RestoreUserOptions, open_backup};

    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("a.txt", "a").unwrap();
    let (backup, archive) =
        (place.as_ref().join("backup.tar.zst"), place.as_ref().join("ada.tar.zst"));
    block_on(store.create_backup(&backup, BackupOptions::default(), |_| {})).unwrap();
    block_on(store.export_user(ada.id, &archive, |_| {})).unwrap();
    let restore = |expected: &[(&'static str, u64)]| {
        let contents = block_on(open_backup(&backup)).unwrap();
        let options = RestoreUserOptions { even_if_purged: true, ..RestoreUserOptions::default() };
        let restored = store.restore_user(contents, ada.id, options, |_| {});
        assert_changes(&store, expected, || block_on(restored)).unwrap();
    };
    block_on(store.directory(ada.id)).unwrap().remove_file("a.txt").unwrap();
    restore(&[("brought_back", 1)]);
    block_on(store.delete(ada.id)).unwrap();
    restore(&[("brought_back", 1)]);
    block_on(store.delete(ada.id)).unwrap();
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    restore(&[("created", 1)]);
    block_on(store.close()).unwrap();

    let other = SqlitePlace::new();
    let store = other.open();
    assert_changes(&store, &[("created", 1)], || block_on(store.import_user(&archive, |_| {})))
        .unwrap();
    block_on(store.close()).unwrap();
}

#[test]
fn writes_that_are_queued_are_counted_as_one_group() {
    let place = SqlitePlace::new();
    let store = place.open();
    let before = store.metrics();
    assert_eq!((before.queue_depth, before.readers_in_use, before.open_intents), (0, 0, Some(0)));
    let blocked = BlockedWriter::block(&store);
    let creates: Vec<_> = (0..5)
        .map(|number| queued(store.create(new_user(&format!("u{number}@example.com")))))
        .collect();
    assert_eq!(store.metrics().queue_depth, 5);
    blocked.release();
    creates.into_iter().for_each(|create| drop(block_on(create).unwrap()));
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.create(new_user("ada@example.com"))).unwrap_err();
    let Metrics { groups, commits, errors, wal_bytes, .. } = store.metrics();
    // The closure that held the writer, the five, one, and one that failed.
    assert_eq!((groups.count - before.groups.count, groups.writes - before.groups.writes), (4, 8));
    assert_eq!((groups.largest, &groups.by_size[..]), (5, &[(1, 3), (7, 1)][..]));
    assert_eq!(commits - before.commits, 4);
    assert_eq!(errors, BTreeMap::from([("email_taken", 1)]));
    assert!(wal_bytes > 0);
    block_on(store.close()).unwrap();
    let closed = store.metrics();
    assert!(closed.checkpoints > 0);
    assert_eq!((closed.open_intents, closed.readers_in_use), (None, 0));
}

#[test]
fn a_read_that_is_under_way_is_counted() {
    let place = SqlitePlace::new();
    let store = place.open();
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let reading = store.clone();
    let reader = thread::spawn(move || {
        let read = reading.read(move |tx| {
            entered.send(()).unwrap();
            let _ = released.recv();
            tx.count()
        });
        block_on(read)
    });
    has_entered.recv().unwrap();
    assert_eq!(store.metrics().readers_in_use, 1);
    drop(release);
    assert_eq!(reader.join().unwrap().unwrap(), 0);
    assert_eq!(store.metrics().readers_in_use, 0);
    assert!(serde_json::to_value(store.metrics()).unwrap()["changes"]["created"].is_u64());
    block_on(store.close()).unwrap();
}
