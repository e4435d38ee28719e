//! What isn't the store's own fault: rows that another program wrote, code of the application that
//! panics, triggers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenantry::sqlite::rusqlite::Connection;
use tenantry::{Ambient, Error, ErrorKind, ListQuery, Purge, Store, Timestamp, UserId, sqlite};

use crate::support::{
    BlockedWriter, Place, SqlitePlace, TestClock, block_on, email, kind, new_user, queued, to_email,
};

fn run(store: &Store, sql: &'static str) {
    block_on(store.write(move |tx| Ok::<_, Error>(sqlite::connection(tx).execute_batch(sql)?)))
        .unwrap();
}

/// A row that passes the table's checks may still hold what no address and no path can: what would
/// do something to the terminal that shows it, or lead out of the storage directory.
#[test]
fn a_row_that_the_store_never_wrote_is_damage_and_not_a_user() {
    for (address, path) in [
        ("'a'||char(27)||']0;x'||char(7)||'@example.com'", "NULL"),
        ("'a'||char(0x202e)||'@example.com'", "NULL"),
        ("'no address'", "NULL"),
        ("'two@signs@example.com'", "NULL"),
        ("'a@example.com'", "'../../etc/passwd'"),
        ("'a@example.com'", "'/etc'"),
        ("'a@example.com'", "'a'||char(27)||'[2J'"),
    ] {
        let place = SqlitePlace::new();
        block_on(place.open().close()).unwrap();
        let conn = Connection::open(place.database()).unwrap();
        conn.execute_batch(&format!(
            "INSERT INTO users (id, email, created_at, updated_at, version, storage_path)
             VALUES (x'3fa2b1c4000040008000000000000001', {address}, 0, 0, 1, {path})"
        ))
        .unwrap();
        drop(conn);
        let store = place.open();
        let id = "3fa2b1c4-0000-4000-8000-000000000001".parse().unwrap();
        assert_eq!(kind(block_on(store.get(id))), ErrorKind::Corrupt, "{address} {path}");
        assert_eq!(
            kind(block_on(store.list(&ListQuery::default()))),
            ErrorKind::Corrupt,
            "{address} {path}"
        );
        assert_eq!(kind(block_on(store.record_login(id))), ErrorKind::Corrupt, "{address} {path}");
        // One damaged row doesn't keep the others from being written.
        block_on(store.create(new_user("bob@example.com"))).unwrap();
        block_on(store.close()).unwrap();
    }
}

/// A user whose place in the order lay before the first page would be in no listing and in no
/// export.
#[test]
fn no_row_can_stand_before_the_first_page() {
    let place = SqlitePlace::new();
    block_on(place.open().close()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    for seq in ["0", "-1"] {
        let inserted = conn.execute_batch(&format!(
            "INSERT INTO users (seq, id, email, created_at, updated_at, version)
             VALUES ({seq}, randomblob(16), 'a@example.com', 0, 0, 1)"
        ));
        assert!(inserted.is_err(), "{seq}");
    }
}

/// An ambient whose clock panics when it is told to.
struct Panicking {
    clock: TestClock,
    panics: Arc<AtomicBool>,
}

impl Ambient for Panicking {
    fn now(&self) -> Timestamp {
        assert!(!self.panics.load(Ordering::SeqCst), "for the sake of the test");
        self.clock.now()
    }

    fn new_id(&self) -> UserId {
        self.clock.new_id()
    }
}

/// The writer's thread had died of it, and whoever came next waited for ever.
#[test]
fn a_clock_that_panics_fails_its_callers_and_the_store_goes_on() {
    let place = SqlitePlace::new();
    let panics = Arc::new(AtomicBool::new(false));
    let ambient = Panicking { clock: TestClock::new(), panics: Arc::clone(&panics) };
    let store = block_on(place.builder().ambient(Arc::new(ambient)).open()).unwrap();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    panics.store(true, Ordering::SeqCst);
    assert_eq!(
        kind(block_on(store.create(new_user("bob@example.com")))),
        ErrorKind::OutcomeUnknown
    );
    assert_eq!(
        kind(block_on(store.create(new_user("bob@example.com")))),
        ErrorKind::OutcomeUnknown
    );
    panics.store(false, Ordering::SeqCst);
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 2);
    block_on(store.close()).unwrap();
}

/// A result that nobody waits for is dropped on the writer's thread.
#[test]
fn a_result_that_panics_when_it_is_dropped_leaves_the_store_open() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("for the sake of the test");
        }
    }
    let place = SqlitePlace::new();
    let store = place.open();
    let writer = BlockedWriter::block(&store);
    let mut forgotten: crate::support::Boxed<'_, Result<Bomb, Error>> =
        Box::pin(store.write(|tx| {
            tx.create(&new_user("ada@example.com"))?;
            Ok(Bomb)
        }));
    assert!(crate::support::poll_once(&mut forgotten).is_pending());
    drop(forgotten);
    writer.release();
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 2);
    block_on(store.close()).unwrap();
}

const NOTES: &str = "CREATE TABLE notes (user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE, text TEXT) STRICT";

/// RAISE(FAIL) keeps what the statement has done so far: the user was gone, and the id could be
/// given out again.
#[test]
fn a_purge_that_a_trigger_fails_did_nothing() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, NOTES);
    run(&store, "CREATE TRIGGER keep AFTER DELETE ON notes BEGIN SELECT RAISE(FAIL, 'kept'); END");
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let id = ada.id;
    block_on(store.write(move |tx| {
        sqlite::connection(tx)
            .execute("INSERT INTO notes VALUES (?1, 'x')", [id.as_uuid().as_bytes()])?;
        tx.delete(id)
    }))
    .unwrap();
    assert_eq!(kind(block_on(store.purge(Purge::User(id), |_| {}))), ErrorKind::Constraint);
    assert_eq!(block_on(store.get_trashed(id)).unwrap().map(|trashed| trashed.user), Some(ada));
    let notes = |tx: &tenantry::ReadTx<'_>| {
        let sql = "SELECT count(*) FROM notes";
        Ok::<i64, Error>(sqlite::connection(tx).query_row(sql, [], |row| row.get(0))?)
    };
    assert_eq!(block_on(store.read(notes)).unwrap(), 1);
    block_on(store.restore(id, None)).unwrap();
    block_on(store.close()).unwrap();
}

/// RAISE(ROLLBACK) ends the transaction of all who are in it.
#[test]
fn a_trigger_that_rolls_back_harms_no_other_write_in_the_group() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, NOTES);
    run(
        &store,
        "CREATE TRIGGER keep BEFORE DELETE ON notes BEGIN SELECT RAISE(ROLLBACK, 'kept'); END",
    );
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let id = ada.id;
    block_on(store.write(move |tx| {
        sqlite::connection(tx)
            .execute("INSERT INTO notes VALUES (?1, 'x')", [id.as_uuid().as_bytes()])?;
        tx.delete(id)
    }))
    .unwrap();
    let kim = block_on(store.create(new_user("kim@example.com"))).unwrap();
    let writer = BlockedWriter::block(&store);
    let before = queued(store.create(new_user("bob@example.com")));
    let culprit = queued(store.purge(Purge::User(ada.id), |_| {}));
    let after = queued(store.sign_in(email("eve@example.com")));
    let refused = queued(store.update(kim.id, to_email("BOB@example.com")));
    writer.release();
    block_on(before).unwrap();
    assert_eq!(kind(block_on(culprit)), ErrorKind::Constraint);
    assert!(block_on(after).unwrap().is_new);
    assert_eq!(kind(block_on(refused)), ErrorKind::EmailTaken);
    assert_eq!(block_on(store.count()).unwrap(), 3);
    block_on(store.close()).unwrap();
}

/// RAISE(FAIL) fails an INSERT whose row stays in the transaction. Operations share one, without
/// savepoints.
#[test]
fn an_operation_that_fails_after_it_wrote_leaves_nothing_of_it_in_the_group() {
    let place = SqlitePlace::new();
    let store = place.open();
    let stranger = Connection::open(place.database()).unwrap();
    stranger
        .execute_batch(
            "CREATE TRIGGER refuse AFTER INSERT ON users WHEN new.email = 'bob@example.com'
             BEGIN SELECT RAISE(FAIL, 'refused'); END",
        )
        .unwrap();
    let writer = BlockedWriter::block(&store);
    let before = queued(store.create(new_user("ada@example.com")));
    let culprit = queued(store.create(new_user("bob@example.com")));
    let after = queued(store.sign_in(email("eve@example.com")));
    writer.release();
    block_on(before).unwrap();
    assert_eq!(kind(block_on(culprit)), ErrorKind::Constraint);
    assert!(block_on(after).unwrap().is_new);
    assert_eq!(block_on(store.count()).unwrap(), 2);
    block_on(store.close()).unwrap();
}

/// What a trigger's trigger has done before it fails is counted by nobody, SQLite's own count
/// included.
#[test]
fn what_a_trigger_wrote_before_its_own_trigger_failed_is_undone_in_the_group() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, "CREATE TABLE audit (what TEXT) STRICT");
    run(&store, "CREATE TRIGGER full AFTER INSERT ON audit BEGIN SELECT RAISE(FAIL, 'full'); END");
    let stranger = Connection::open(place.database()).unwrap();
    let note = "CREATE TRIGGER note BEFORE INSERT ON users WHEN new.email = 'bob@example.com'
                BEGIN INSERT INTO audit VALUES ('created'); END";
    stranger.execute_batch(note).unwrap();
    let writer = BlockedWriter::block(&store);
    let before = queued(store.create(new_user("ada@example.com")));
    let culprit = queued(store.create(new_user("bob@example.com")));
    writer.release();
    block_on(before).unwrap();
    assert_eq!(kind(block_on(culprit)), ErrorKind::Constraint);
    let noted: i64 =
        stranger.query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
    assert_eq!(noted, 0);
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

#[test]
fn no_waiting_time_is_too_long() {
    let place = SqlitePlace::new();
    let store = block_on(place.builder().busy_timeout(Duration::MAX).open()).unwrap();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

/// The backup that the README tells of, and its restore.
#[test]
fn a_vacuumed_copy_in_a_new_directory_is_the_store() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    // The store is in use meanwhile.
    let stranger = Connection::open(place.database()).unwrap();
    let copy = SqlitePlace::new();
    std::fs::create_dir(copy.data_dir()).unwrap();
    stranger.execute("VACUUM INTO ?1", [copy.database().to_str().unwrap()]).unwrap();
    block_on(store.create(new_user("bob@example.com"))).unwrap();

    let restored = copy.open();
    assert!(!restored.was_created());
    assert_eq!(block_on(restored.list(&ListQuery::default())).unwrap().users, [ada]);
    block_on(restored.create(new_user("bob@example.com"))).unwrap();
    block_on(restored.close()).unwrap();
    block_on(store.close()).unwrap();
}
