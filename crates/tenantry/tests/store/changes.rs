//! The change feed: what is in it, what isn't, and which cursors it refuses.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tenantry::sqlite::{self, rusqlite};
use tenantry::{
    ChangeKind, ChangesCursor, Error, ErrorKind, ListQuery, NewUser, OnConflict, Purge, Store,
    UserUpdate,
};
use tenantry_testkit::feed::{assert_feed_is_true, changes_after, kinds};

use crate::support::{
    BlockedWriter, Place, SqlitePlace, TestClock, block_on, email, kind, new_user, new_user_at,
    queued, to_email,
};

/// As the crate documents them.
const KEPT_DAYS: i64 = 30;
const KEPT_COUNT: u64 = 1_000_000;

fn now(store: &Store) -> ChangesCursor {
    block_on(store.changes_cursor()).unwrap()
}

/// What an operation writes into the feed: kinds and versions.
#[track_caller]
fn assert_feeds<T>(store: &Store, expected: &[(&str, u64)], operation: impl FnOnce() -> T) -> T {
    let before = now(store);
    let result = operation();
    let changes = changes_after(store, Some(&before));
    let found: Vec<_> = changes.iter().map(|change| (change.kind.name(), change.version)).collect();
    assert_eq!(found, expected);
    result
}

#[test]
fn every_committed_change_is_in_the_feed_once_with_its_version() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = assert_feeds(&store, &[("created", 1)], || {
        block_on(store.create(new_user("ada@example.com")))
    })
    .unwrap();
    let many =
        vec![new_user("bob@example.com"), new_user("ada@example.com"), new_user("eve@example.com")];
    let many = assert_feeds(&store, &[("created", 1), ("created", 1)], || {
        block_on(store.create_many(many))
    })
    .unwrap();
    let (bob, eve) = (many[0].clone().unwrap(), many[2].clone().unwrap());
    assert_feeds(&store, &[("created", 1)], || block_on(store.sign_in(email("kim@example.com"))))
        .unwrap();
    assert_feeds(&store, &[], || block_on(store.sign_in(email("kim@example.com")))).unwrap();
    assert_feeds(&store, &[("updated", 2)], || {
        block_on(store.update(ada.id, to_email("a@example.com")))
    })
    .unwrap();
    assert_feeds(&store, &[], || block_on(store.update(ada.id, UserUpdate::default()))).unwrap();
    assert_feeds(&store, &[], || block_on(store.directory(ada.id))).unwrap();
    assert_feeds(&store, &[("suspended", 2)], || block_on(store.suspend(eve.id))).unwrap();
    assert_feeds(&store, &[], || block_on(store.suspend(eve.id))).unwrap();
    assert_feeds(&store, &[("resumed", 3)], || block_on(store.resume(eve.id))).unwrap();
    assert_feeds(&store, &[("deleted", 2)], || block_on(store.delete(ada.id))).unwrap();
    let restored = [("restored", 3)];
    assert_feeds(&store, &restored, || {
        block_on(store.restore(ada.id, Some(email("ada2@example.com"))))
    })
    .unwrap();
    fs::create_dir_all(place.data_dir().join("storage/customers/bob")).unwrap();
    let path = "customers/bob".parse().unwrap();
    assert_feeds(&store, &[("adopted", 2)], || block_on(store.adopt(bob.id, path))).unwrap();
    // With files, and without.
    for (user, version) in [(ada.id, 3), (eve.id, 3)] {
        assert_feeds(&store, &[("deleted", version), ("purged", version)], || {
            block_on(store.delete(user)).unwrap();
            block_on(store.purge(Purge::User(user), |_| {})).unwrap()
        });
    }
    let row = NewUser { last_login_at: Some(bob.created_at), ..new_user("bob@example.com") };
    let import =
        |row: NewUser| block_on(store.write(move |tx| tx.upsert(&row, OnConflict::Update)));
    assert_feeds(&store, &[("updated", 2)], || import(row.clone())).unwrap();
    assert_feeds(&store, &[], || import(row)).unwrap();
    assert_feeds(&store, &[("created", 7)], || {
        import(NewUser { version: Some(7), ..new_user("x@example.com") })
    })
    .unwrap();
    assert_feed_is_true(&store);
}

#[test]
fn a_user_who_comes_back_out_of_a_backup_is_restored_in_the_feed() {
    let place = SqlitePlace::new();
    let store = place.open();
    let file = place.as_ref().join("a.tar.zst");
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("a.txt", "a").unwrap();
    block_on(store.create_backup(&file, Default::default(), |_| {})).unwrap();
    block_on(store.delete(ada.id)).unwrap();
    let restore = || {
        let backup = block_on(tenantry::open_backup(&file)).unwrap();
        block_on(store.restore_user(backup, ada.id, Default::default(), |_| {})).unwrap()
    };
    assert_feeds(&store, &[("restored", 1)], restore);
    let archive = place.as_ref().join("ada.tar.zst");
    block_on(store.export_user(ada.id, &archive, |_| {})).unwrap();
    let other_place = SqlitePlace::new();
    let other = other_place.open();
    assert_feeds(&other, &[("created", 1)], || block_on(other.import_user(&archive, |_| {})))
        .unwrap();
    assert_feed_is_true(&store);
}

#[test]
fn an_operation_that_fails_writes_nothing_into_the_feed() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_feeds(&store, &[], || {
        assert_eq!(
            kind(block_on(store.create(new_user("ADA@example.com")))),
            ErrorKind::EmailTaken
        );
        assert_eq!(
            kind(block_on(store.update(ada.id, to_email("bob@example.com")))),
            ErrorKind::EmailTaken
        );
        assert_eq!(kind(block_on(store.restore(ada.id, None))), ErrorKind::NotFound);
        let exchange = [
            NewUser { id: Some(ada.id), ..new_user("new@example.com") },
            NewUser {
                id: Some(bob.id),
                created_at: Some(tenantry::Timestamp::MIN),
                ..new_user("bob@example.com")
            },
        ];
        let exchanged = block_on(store.write(move |tx| tx.upsert_exchange(&exchange)));
        assert_eq!(kind(exchanged), ErrorKind::Immutable);
    });
    assert_feed_is_true(&store);
}

#[test]
fn a_closure_that_is_rolled_back_writes_nothing_and_what_its_savepoint_undoes_neither() {
    let place = SqlitePlace::new();
    let store = place.open();
    assert_feeds(&store, &[], || {
        let failed = block_on(store.write(|tx| {
            tx.create(&new_user("ada@example.com"))?;
            Err::<(), _>(Error::from(rusqlite::Error::QueryReturnedNoRows))
        }));
        failed.unwrap_err();
    });
    assert_feeds(&store, &[("created", 1)], || {
        let write = store.write(|tx| {
            sqlite::connection(tx).execute_batch("SAVEPOINT mine")?;
            tx.create(&new_user("ada@example.com"))?;
            sqlite::connection(tx).execute_batch("ROLLBACK TO mine; RELEASE mine")?;
            tx.create(&new_user("bob@example.com"))?;
            // A closure sees what it has done so far.
            assert_eq!(kinds(&tx.changes(None, 10)?.changes), ["created"]);
            assert!(tx.create(&new_user("bob@example.com")).is_err());
            Ok::<_, Error>(())
        });
        block_on(write).unwrap();
    });
    assert_feed_is_true(&store);
}

/// One verb fails at the commit because of a constraint of the application's, and another halfway
/// because of a trigger: the group is run again one by one.
#[test]
fn a_group_that_is_run_again_is_in_the_feed_once() {
    let place = SqlitePlace::new();
    let store = place.open();
    let users: Vec<_> = ["ada", "bob", "eve"]
        .map(|name| block_on(store.create(new_user(&format!("{name}@example.com")))).unwrap())
        .into();
    let (held, refused) = (users[0].id, users[1].id);
    let setup = "CREATE TABLE notes (user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE) STRICT;
         CREATE TABLE held (user_id BLOB NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED) STRICT;
         CREATE TRIGGER refuse BEFORE DELETE ON notes BEGIN SELECT RAISE(FAIL, 'no'); END";
    block_on(store.write(move |tx| {
        let conn = sqlite::connection(tx);
        conn.execute_batch(setup)?;
        conn.execute("INSERT INTO held VALUES (?1)", [held])?;
        conn.execute("INSERT INTO notes VALUES (?1)", [refused])?;
        Ok::<_, Error>(())
    }))
    .unwrap();
    for user in &users {
        block_on(store.delete(user.id)).unwrap();
    }
    let before = now(&store);
    let blocked = BlockedWriter::block(&store);
    let created = queued(store.create(new_user("new@example.com")));
    let purges: Vec<_> =
        users.iter().map(|user| queued(store.purge(Purge::User(user.id), |_| {}))).collect();
    blocked.release();
    block_on(created).unwrap();
    let purged: Vec<_> = purges.into_iter().map(|purge| block_on(purge).is_ok()).collect();
    assert_eq!(purged, [false, false, true]);
    assert_eq!(kinds(&changes_after(&store, Some(&before))), ["created", "purged"]);
    assert_feed_is_true(&store);
}

#[test]
fn a_change_carries_the_actor_of_the_handle_that_made_it_also_within_one_group() {
    let place = SqlitePlace::new();
    let store = place.open();
    let as_web = store.as_actor("token:web".parse().unwrap());
    let as_shop = as_web.as_actor("token:shop".parse().unwrap());
    let blocked = BlockedWriter::block(&store);
    let creates: Vec<_> = [(&as_web, "a"), (&store, "b"), (&as_shop, "c"), (&as_web, "d")]
        .map(|(store, name)| queued(store.create(new_user(&format!("{name}@example.com")))))
        .into();
    blocked.release();
    let ids: Vec<_> = creates.into_iter().map(|create| block_on(create).unwrap().id).collect();
    block_on(as_shop.write(|tx| tx.create(&new_user("e@example.com")))).unwrap();
    block_on(as_shop.directory(ids[0])).unwrap();
    block_on(as_shop.delete(ids[0])).unwrap();
    block_on(as_web.purge(Purge::User(ids[0]), |_| {})).unwrap();
    let actors: Vec<_> =
        changes_after(&store, None).iter().map(|change| change.actor.to_string()).collect();
    let expected = [
        "token:web",
        "library",
        "token:shop",
        "token:web",
        "token:shop",
        "token:shop",
        "token:web",
    ];
    assert_eq!(actors, expected);
    let history = block_on(store.history(ids[0], None, 10)).unwrap();
    assert_eq!(kinds(&history.changes), ["purged", "deleted", "created"]);
}

#[test]
fn logins_are_in_the_feed_only_of_a_store_that_is_set_to_also_by_another_process() {
    let place = SqlitePlace::new();
    let store = place.open();
    let other = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let log_in = |store: &Store| {
        block_on(store.record_login(ada.id)).unwrap();
        block_on(store.sign_in(ada.email.clone())).unwrap();
    };
    assert_feeds(&store, &[], || log_in(&store));
    assert!(!block_on(store.are_logins_in_changes()).unwrap());
    block_on(other.set_logins_in_changes(true)).unwrap();
    assert_feeds(&store, &[("logged_in", 1), ("logged_in", 1)], || log_in(&store));
    assert!(block_on(store.are_logins_in_changes()).unwrap());
    block_on(store.set_logins_in_changes(false)).unwrap();
    assert_feeds(&store, &[], || log_in(&other));
    assert_feed_is_true(&store);
}

#[test]
fn pages_of_the_feed_follow_each_other_and_their_limit_is_checked() {
    let place = SqlitePlace::new();
    let store = place.open();
    let beginning = now(&store);
    let empty = block_on(store.changes(None, 5)).unwrap();
    assert_eq!((empty.changes, empty.cursor, empty.more), (vec![], beginning, false));
    for number in 0..10 {
        block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
    }
    for after in [None, Some(&beginning)] {
        let first = block_on(store.changes(after, 5)).unwrap();
        assert_eq!((first.changes.len(), first.more), (5, true));
        assert_eq!(first.cursor, first.changes[4].cursor);
        let second = block_on(store.changes(Some(&first.cursor), 5)).unwrap();
        assert_eq!((second.changes.len(), second.more), (5, false));
        assert_eq!(second.cursor, now(&store));
    }
    assert_eq!(changes_after(&store, None), changes_after(&store, Some(&beginning)));
    for limit in [0, 1_001, usize::MAX] {
        assert_eq!(kind(block_on(store.changes(None, limit))), ErrorKind::InvalidQuery);
        let history = store.history(crate::support::numbered_id(7), None, limit);
        assert_eq!(kind(block_on(history)), ErrorKind::InvalidQuery);
    }
}

#[test]
fn a_page_of_users_says_from_where_to_follow() {
    let place = SqlitePlace::new();
    let store = place.open();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    let query = ListQuery { limit: 1, ..ListQuery::default() };
    let listed = block_on(store.list(&query)).unwrap().changes_cursor;
    let filter = tenantry::Filter { email_contains: Some("ada".into()), ..Default::default() };
    let searched = block_on(store.list(&ListQuery { filter, ..query })).unwrap().changes_cursor;
    assert_eq!((listed, searched), (now(&store), now(&store)));
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_eq!(changes_after(&store, Some(&listed)).len(), 1);
}

#[test]
fn a_cursor_of_another_store_has_expired() {
    let (place, other_place) = (SqlitePlace::new(), SqlitePlace::new());
    let (store, other) = (place.open(), other_place.open());
    assert_eq!(kind(block_on(store.changes(Some(&now(&other)), 1))), ErrorKind::CursorExpired);
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(other.create(new_user("ada@example.com"))).unwrap();
    assert_eq!(kind(block_on(store.changes(Some(&now(&other)), 1))), ErrorKind::CursorExpired);
    let ada = crate::support::numbered_id(1);
    assert_eq!(kind(block_on(store.history(ada, Some(&now(&other)), 1))), ErrorKind::CursorExpired);
}

#[test]
fn a_cursor_with_the_highest_number_has_expired() {
    let place = SqlitePlace::new();
    let store = place.open();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    let mut text = now(&store).to_string();
    text.replace_range(text.len() - 16.., "7fffffffffffffff");
    let cursor: ChangesCursor = text.parse().unwrap();
    assert_eq!(kind(block_on(store.changes(Some(&cursor), 1))), ErrorKind::CursorExpired);
}

/// A restored store gives the numbers of the lost changes to others.
#[test]
fn a_cursor_that_is_ahead_of_a_restored_store_has_expired_also_when_the_store_has_caught_up() {
    let place = SqlitePlace::new();
    let store = place.open();
    let file = place.as_ref().join("a.tar.zst");
    let create = |store: &Store, name: &str| {
        block_on(store.create(new_user(&format!("{name}@example.com")))).unwrap()
    };
    create(&store, "ada");
    let in_backup = now(&store);
    block_on(store.create_backup(&file, Default::default(), |_| {})).unwrap();
    create(&store, "bob");
    let lost = now(&store);
    create(&store, "eve");
    let newest = now(&store);
    block_on(store.close()).unwrap();

    let target = place.as_ref().join("restored");
    block_on(tenantry::restore_backup(&file, &target, |_| {})).unwrap();
    let store = block_on(Store::open(&target)).unwrap();
    let expired = |store: &Store, cursor| {
        assert_eq!(kind(block_on(store.changes(Some(cursor), 9))), ErrorKind::CursorExpired)
    };
    expired(&store, &lost);
    // What the backup has is as it was.
    assert_eq!(changes_after(&store, Some(&in_backup)), []);
    create(&store, "kim");
    expired(&store, &lost);
    expired(&store, &newest);
    create(&store, "lou");
    expired(&store, &newest);
    create(&store, "max");
    expired(&store, &lost);
    expired(&store, &newest);
    assert_eq!(changes_after(&store, Some(&in_backup)).len(), 3);
    assert_feed_is_true(&store);
}

/// Fills the feed of a store that is closed.
fn fill(database: &Path, count: u64, at_us: i64) {
    let conn = rusqlite::Connection::open(database).unwrap();
    conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO tenantry_changes (at, kind, user_id, version) SELECT ?2, 2, x'3fa2b1c4000040008000000000000001', i FROM n",
        (i64::try_from(count).unwrap(), at_us),
    )
    .unwrap();
}

#[test]
fn changes_are_kept_for_days_and_up_to_a_number_whichever_is_more_and_never_is_the_newest_removed()
{
    const FILLED: u64 = KEPT_COUNT + 5_000;
    let (place, clock) = (SqlitePlace::new(), TestClock::new());
    let open = || block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
    let store = open();
    block_on(store.close()).unwrap();
    fill(&place.database(), FILLED, tenantry::Ambient::now(&clock).as_unix_us());
    let store = open();
    let range = |store: &Store| {
        let metrics = store.metrics();
        (metrics.oldest_change.unwrap(), metrics.newest_change.unwrap())
    };
    let first = block_on(store.changes(None, 1)).unwrap().cursor;
    assert_eq!(range(&store), (1, FILLED));
    let mut created = 0;
    let mut create = |store: &Store, count: u64| {
        for _ in 0..count {
            created += 1;
            block_on(store.create(new_user(&format!("u{created}@example.com")))).unwrap();
        }
    };
    // Old enough on the last day, and not before.
    clock.forward(KEPT_DAYS * 24 * 3_600);
    create(&store, 1_100);
    assert_eq!(range(&store), (1, FILLED + 1_100));
    block_on(store.changes(Some(&first), 1)).unwrap();
    clock.forward(1);
    let newest = now(&store);
    // A bounded number at once.
    create(&store, 1_024);
    assert_eq!(range(&store), (2_049, FILLED + 2_124));
    assert_eq!(kind(block_on(store.changes(Some(&first), 1))), ErrorKind::CursorExpired);
    let history = block_on(store.history(crate::support::numbered_id(1), None, 1)).unwrap();
    assert_eq!(history.changes.len(), 1);
    // Until no more than the number are left.
    // A large transaction removes more than it adds.
    let many = (0..5 * 1_024).map(|number| new_user(&format!("m{number}@example.com"))).collect();
    assert!(block_on(store.create_many(many)).unwrap().iter().all(Result::is_ok));
    let (oldest, last) = range(&store);
    assert_eq!(last - oldest + 1, KEPT_COUNT);
    // They are young: the number doesn't matter.
    clock.back(2);
    assert_eq!(block_on(store.changes(Some(&newest), 1)).unwrap().changes.len(), 1);
}

#[test]
fn a_few_old_changes_are_kept_whatever_their_age() {
    let (place, clock) = (SqlitePlace::new(), TestClock::new());
    let store = block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
    let beginning = now(&store);
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    clock.forward(100 * 365 * 24 * 3_600);
    block_on(store.close()).unwrap();
    let store = block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_eq!(kinds(&changes_after(&store, Some(&beginning))), ["created", "created"]);
}

#[test]
fn a_gap_in_the_feed_is_reported_and_not_skipped() {
    let place = SqlitePlace::new();
    let store = place.open();
    for number in 0..5 {
        block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
    }
    let first = block_on(store.changes(None, 1)).unwrap().cursor;
    block_on(store.close()).unwrap();
    rusqlite::Connection::open(place.database())
        .unwrap()
        .execute("DELETE FROM tenantry_changes WHERE seq = 3", [])
        .unwrap();
    let store = place.open();
    assert_eq!(kind(block_on(store.changes(Some(&first), 10))), ErrorKind::Corrupt);
}

#[test]
fn the_history_of_a_user_is_read_backwards_in_pages() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    for round in 0..6 {
        block_on(
            store.create(new_user_at(&format!("other{round}@example.com"), &format!("p{round}"))),
        )
        .unwrap();
        block_on(store.update(ada.id, to_email(&format!("ada{round}@example.com")))).unwrap();
    }
    let whole = block_on(store.history(ada.id, None, 7)).unwrap();
    assert_eq!((whole.changes.len(), whole.next_cursor), (7, None));
    let versions: Vec<_> = whole.changes.iter().map(|change| change.version).collect();
    assert_eq!(versions, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(whole.changes[6].kind, ChangeKind::Created);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = block_on(store.history(ada.id, after.as_ref(), 3)).unwrap();
        paged.extend(page.changes);
        after = page.next_cursor;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.changes);
    let nobody = block_on(store.history(crate::support::numbered_id(7), None, 3)).unwrap();
    assert_eq!((nobody.changes, nobody.next_cursor), (vec![], None));
}

#[test]
fn the_history_of_a_user_is_found_behind_any_number_of_other_changes() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.close()).unwrap();
    // More than two steps.
    fill(&place.database(), 20_000, 0);
    let store = place.open();
    assert_eq!(block_on(store.history(ada.id, None, 3)).unwrap().changes.len(), 1);
}

/// The fields are a contract with consumers: see `docs/command.md` and `docs/http.md`.
#[test]
fn a_change_in_json_has_these_fields_and_no_address() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let change = changes_after(&store, None).remove(0);
    let json = serde_json::to_value(&change).unwrap();
    let expected = serde_json::json!({
        "cursor": now(&store).to_string(),
        "seq": 1,
        "at": ada.created_at.to_string(),
        "kind": "created",
        "user_id": ada.id.to_string(),
        "version": 1,
        "actor": "library",
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<tenantry::Change>(json).unwrap(), change);
}
