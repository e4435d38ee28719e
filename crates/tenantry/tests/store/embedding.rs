//! SQL of the application's own in the store's file, by way of the connection behind a transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenantry::sqlite::rusqlite::{self, Connection, ErrorCode};
use tenantry::{Error, ErrorKind, Purge, Result, Store, User, WriteTx, sqlite};

use crate::support::{
    BlockedWriter, SqlitePlace, block_on, kind, new_user, numbered_id, queued, to_email,
};

/// Runs SQL in a write transaction of its own.
fn run(store: &Store, sql: &'static str) -> Result<()> {
    block_on(store.write(move |tx| Ok(sqlite::connection(tx).execute_batch(sql)?)))
}

fn create(store: &Store, address: &str) -> User {
    block_on(store.create(new_user(address))).unwrap()
}

fn code<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> ErrorCode {
    result.unwrap_err().sqlite_error_code().unwrap()
}

const NOTES: &str = "CREATE TABLE notes (
    note_id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    text TEXT NOT NULL
) STRICT";

/// Adds a note within a transaction.
fn add_note(tx: &WriteTx<'_>, user: &User, text: &str) -> rusqlite::Result<usize> {
    sqlite::connection(tx).execute(
        "INSERT INTO notes (user_id, text) VALUES (?1, ?2)",
        (user.id.as_uuid().as_bytes(), text),
    )
}

fn notes(store: &Store) -> Vec<String> {
    block_on(store.read(|tx| {
        let mut statement =
            sqlite::connection(tx).prepare("SELECT text FROM notes ORDER BY note_id")?;
        let texts = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok::<_, Error>(texts)
    }))
    .unwrap()
}

/// The state of the store that no closure may change.
fn settings(conn: &Connection) -> Vec<String> {
    ["foreign_keys", "synchronous", "journal_mode", "user_version", "application_id"]
        .map(|name| {
            conn.query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
        })
        .map(|value| format!("{:?}", value.unwrap_or(rusqlite::types::Value::Null)))
        .into()
}

#[test]
fn what_is_tenantrys_is_refused_and_the_transaction_goes_on() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    let gone = create(&store, "gone@example.com");
    block_on(store.delete(gone.id)).unwrap();
    run(&store, NOTES).unwrap();
    for (number, sql) in [
        "COMMIT",
        "END",
        "ROLLBACK",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "SAVEPOINT tenantry_whole",
        "RELEASE tenantry_whole",
        "RELEASE TENANTRY_WHOLE",
        "ROLLBACK TO tenantry_whole",
        "ATTACH ':memory:' AS other",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "PRAGMA query_only = 0",
        "PRAGMA synchronous = 0",
        "PRAGMA SYNCHRONOUS(0)",
        "PRAGMA main.synchronous = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA writable_schema = ON",
        "PRAGMA trusted_schema = ON",
        "PRAGMA secure_delete = OFF",
        "PRAGMA user_version = 9",
        "PRAGMA application_id = 9",
        "PRAGMA wal_checkpoint",
        "PRAGMA locking_mode = EXCLUSIVE",
        "INSERT INTO users (id, email, created_at, updated_at, version)
         VALUES (randomblob(16), 'b@example.com', 0, 0, 1)",
        "UPDATE users SET deleted_at = NULL, deletion_seq = NULL",
        "UPDATE tenantry_store SET last_deletion = 0",
        "DROP VIEW tenantry_living_users",
        "INSERT INTO Users SELECT * FROM users",
        "REPLACE INTO users SELECT * FROM users",
        "UPDATE users SET last_login_at = 0",
        "UPDATE main.\"USERS\" SET version = 7",
        "WITH one AS (SELECT 1) UPDATE users SET version = 7",
        "DELETE FROM users",
        "DELETE FROM tenantry_retired_users",
        "INSERT INTO tenantry_retired_users (id) VALUES (randomblob(16))",
        "DELETE FROM tenantry_migrations",
        "DROP TABLE users",
        "DROP TABLE tenantry_retired_users",
        "DROP INDEX users_storage_path",
        "ALTER TABLE users ADD COLUMN nickname TEXT",
        "ALTER TABLE users RENAME TO people",
        "ALTER TABLE users DROP COLUMN last_login_at",
        "CREATE INDEX users_of_mine ON users (created_at)",
        "CREATE TRIGGER users_of_mine AFTER INSERT ON users BEGIN SELECT 1; END",
        "CREATE TRIGGER users_of_mine BEFORE DELETE ON users BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TEMP TRIGGER users_of_mine AFTER INSERT ON main.users BEGIN SELECT 1; END",
        "CREATE TEMP TABLE users (id)",
        "CREATE TABLE temp.users (id)",
        "CREATE TEMP TABLE anything (id)",
        "CREATE TEMP VIEW users AS SELECT 1",
        "CREATE TABLE tenantry_notes (text)",
        "CREATE TABLE Tenantry_Notes (text)",
        "CREATE VIEW tenantry_view AS SELECT 1",
    ]
    .into_iter()
    .enumerate()
    {
        let before = block_on(store.count()).unwrap();
        let seen = block_on(store.write(move |tx| {
            let conn = sqlite::connection(tx);
            let settings_before = settings(conn);
            let refused = conn.execute_batch(sql).expect_err(sql);
            assert_eq!(
                refused.sqlite_error_code(),
                Some(ErrorCode::AuthorizationForStatementDenied),
                "{sql}"
            );
            assert_eq!(settings(conn), settings_before, "{sql}");
            let ada = tx.get(ada.id)?;
            tx.create(&new_user(&format!("u{number}@example.com")))?;
            Ok::<_, Error>(ada)
        }))
        .unwrap();
        assert_eq!(seen.as_ref(), Some(&ada), "{sql}");
        assert_eq!(block_on(store.count()).unwrap(), before + 1, "{sql}");
        // By itself it is a mistake in the application's SQL.
        assert_eq!(kind(run(&store, sql)), ErrorKind::Internal, "{sql}");
    }
    block_on(store.close()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    assert_eq!(
        conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
        "ok"
    );
}

#[test]
fn the_schema_itself_cant_be_written() {
    let place = SqlitePlace::new();
    let store = place.open();
    create(&store, "ada@example.com");
    for sql in [
        "UPDATE sqlite_schema SET sql = ''",
        "DELETE FROM sqlite_schema",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
    ] {
        assert_eq!(kind(run(&store, sql)), ErrorKind::Internal, "{sql}");
    }
    create(&store, "bob@example.com");
    block_on(store.close()).unwrap();
}

#[test]
fn an_application_has_tables_of_its_own() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    run(&store, NOTES).unwrap();
    run(&store, "CREATE INDEX notes_of_user ON notes (user_id)").unwrap();
    run(&store, "CREATE VIEW authors AS SELECT email, text FROM notes JOIN users ON users.id = notes.user_id").unwrap();
    run(&store, "CREATE TABLE log (what TEXT)").unwrap();
    run(&store, "CREATE TRIGGER notes_logged AFTER INSERT ON notes BEGIN INSERT INTO log VALUES (new.text); END")
        .unwrap();
    block_on(store.write(move |tx| {
        assert_eq!(add_note(tx, &ada, "first")?, 1);
        let bob = tx.create(&new_user("bob@example.com"))?;
        assert_eq!(add_note(tx, &bob, "second")?, 1);
        let conn = sqlite::connection(tx);
        let author: String =
            conn.query_row("SELECT email FROM authors WHERE text = 'second'", [], |row| {
                row.get(0)
            })?;
        assert_eq!(author, "bob@example.com");
        assert_eq!(conn.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0))?, 2);
        Ok::<_, Error>(())
    }))
    .unwrap();
    assert_eq!(notes(&store), ["first", "second"]);
    run(&store, "ALTER TABLE log ADD COLUMN at INTEGER").unwrap();
    run(&store, "ALTER TABLE log RENAME COLUMN at TO since; ALTER TABLE log DROP COLUMN since")
        .unwrap();
    run(
        &store,
        "DROP TRIGGER notes_logged; DROP TABLE log; DROP VIEW authors; DROP INDEX notes_of_user",
    )
    .unwrap();
    // What the store does is not disturbed by it, nor by what there was.
    create(&store, "eve@example.com");
    block_on(store.close()).unwrap();
    let store = place.open();
    assert_eq!(notes(&store), ["first", "second"]);
    block_on(store.close()).unwrap();
}

#[test]
fn an_application_has_savepoints_of_its_own() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    run(&store, NOTES).unwrap();
    block_on(store.write(move |tx| {
        let conn = sqlite::connection(tx);
        conn.execute_batch("SAVEPOINT outer_one")?;
        add_note(tx, &ada, "kept")?;
        conn.execute_batch("SAVEPOINT inner_one")?;
        add_note(tx, &ada, "undone")?;
        conn.execute_batch("ROLLBACK TO inner_one; RELEASE inner_one; RELEASE outer_one")?;
        // Who forgets one has it kept with the rest.
        conn.execute_batch("SAVEPOINT forgotten")?;
        add_note(tx, &ada, "kept as well")?;
        Ok::<_, Error>(())
    }))
    .unwrap();
    assert_eq!(notes(&store), ["kept", "kept as well"]);
    create(&store, "bob@example.com");
    block_on(store.close()).unwrap();
}

#[test]
fn rows_of_a_user_go_with_the_user_or_hold_them() {
    let place = SqlitePlace::new();
    let store = place.open();
    let (ada, bob) = (create(&store, "ada@example.com"), create(&store, "bob@example.com"));
    run(&store, NOTES).unwrap();
    run(&store, "CREATE TABLE bills (user_id BLOB NOT NULL REFERENCES users (id)) STRICT").unwrap();
    let (noted, billed) = (ada.clone(), bob.clone());
    block_on(store.write(move |tx| {
        add_note(tx, &noted, "of Ada")?;
        add_note(tx, &billed, "of Bob")?;
        let bill = "INSERT INTO bills VALUES (?1)";
        sqlite::connection(tx).execute(bill, [billed.id.as_uuid().as_bytes()])?;
        let nobody = sqlite::connection(tx).execute(bill, [[7_u8; 16]]);
        assert_eq!(code(nobody), ErrorCode::ConstraintViolation);
        Ok::<_, Error>(())
    }))
    .unwrap();
    // The story: a delete took the notes with it, and a restore didn't bring them back.
    block_on(store.delete(ada.id)).unwrap();
    assert_eq!((notes(&store).len(), living(&store)), (2, vec!["bob@example.com".to_owned()]));
    block_on(store.restore(ada.id, None)).unwrap();
    assert_eq!((notes(&store).len(), living(&store).len()), (2, 2));
    block_on(store.delete(ada.id)).unwrap();
    // A note for somebody who may come back.
    let noted = ada.clone();
    block_on(store.write(move |tx| Ok::<_, Error>(add_note(tx, &noted, "of Ada again")?))).unwrap();
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    assert_eq!(notes(&store), ["of Bob"]);

    block_on(store.directory(bob.id)).unwrap().write("letter", "dear").unwrap();
    block_on(store.delete(bob.id)).unwrap();
    let error = block_on(store.purge(Purge::User(bob.id), |_| {})).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Constraint, false));
    assert!(error.to_string().contains("application"), "{error}");
    let trashed = block_on(store.get_trashed(bob.id)).unwrap().unwrap();
    assert_eq!((&trashed.user, trashed.is_being_purged), (&bob, false));
    let letter = place.data_dir().join("trash").join(bob.id.to_string()).join("letter");
    assert_eq!(std::fs::read(&letter).unwrap(), b"dear");
    assert_eq!(notes(&store), ["of Bob"]);

    run(&store, "DELETE FROM bills").unwrap();
    assert_eq!(block_on(store.purge(Purge::User(bob.id), |_| {})).unwrap().users, 1);
    assert!(notes(&store).is_empty() && !letter.exists());
    block_on(store.close()).unwrap();
}

fn living(store: &Store) -> Vec<String> {
    block_on(store.read(|tx| {
        let mut statement = sqlite::connection(tx)
            .prepare("SELECT email FROM tenantry_living_users ORDER BY email")?;
        let found = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok::<_, Error>(found)
    }))
    .unwrap()
}

/// The files were gone by the time that the commit refused the purge.
#[test]
fn a_purge_that_only_the_commit_would_refuse_loses_nothing_and_blocks_no_other() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, DEFERRED).unwrap();
    run(&store, NOTES).unwrap();
    let [ada, bob, eve] =
        ["ada@example.com", "bob@example.com", "eve@example.com"].map(|it| create(&store, it));
    for user in [&ada, &eve] {
        block_on(store.directory(user.id)).unwrap().write("letter", "dear").unwrap();
    }
    for user in [ada.clone(), bob.clone(), eve.clone()] {
        block_on(store.write(move |tx| {
            add_note(tx, &user, "of one")?;
            if user.email.as_str() != "eve@example.com" {
                sqlite::connection(tx)
                    .execute("INSERT INTO bills VALUES (?1)", [user.id.as_uuid().as_bytes()])?;
            }
            tx.delete(user.id)
        }))
        .unwrap();
    }
    for user in [&ada, &bob] {
        assert_eq!(
            kind(block_on(store.purge(Purge::User(user.id), |_| {}))),
            ErrorKind::Constraint
        );
    }
    let purged =
        block_on(store.purge(Purge::DeletedBefore(tenantry::Timestamp::MAX), |_| {})).unwrap();
    assert_eq!((purged.users, purged.files), (1, 1));
    let left: Vec<_> = purged.left.iter().map(|left| left.user).collect();
    assert_eq!(left, [ada.id, bob.id]);
    assert_eq!(notes(&store).len(), 2);
    let letter = place.data_dir().join("trash").join(ada.id.to_string()).join("letter");
    assert_eq!(std::fs::read(letter).unwrap(), b"dear");
    for user in [&ada, &bob] {
        assert_eq!(block_on(store.restore(user.id, None)).unwrap(), *user);
    }
    block_on(store.close()).unwrap();
}

const DEFERRED: &str = "CREATE TABLE bills (user_id BLOB NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED) STRICT";

/// A store with Ada, on whose deletion another program's trigger writes a bill for nobody: that is
/// only looked for when a transaction is committed.
fn store_with_a_bill(place: &SqlitePlace) -> (Store, User) {
    let store = place.open();
    run(&store, DEFERRED).unwrap();
    let ada = create(&store, "ada@example.com");
    let trigger =
        "CREATE TRIGGER bill AFTER UPDATE OF deleted_at ON users WHEN new.email = 'ada@example.com'
                   BEGIN INSERT INTO bills VALUES (zeroblob(16)); END";
    Connection::open(place.database()).unwrap().execute_batch(trigger).unwrap();
    (store, ada)
}

#[test]
fn an_operation_that_the_commit_refuses_fails_alone() {
    let place = SqlitePlace::new();
    let (store, ada) = store_with_a_bill(&place);
    assert_eq!(kind(block_on(store.delete(ada.id))), ErrorKind::Constraint);

    // In a group with others: they are queued while the writer is blocked.
    let gone = create(&store, "gone@example.com");
    let writer = BlockedWriter::block(&store);
    let before = queued(store.create(new_user("bob@example.com")));
    let refused = queued(store.delete(ada.id));
    let sign_in = queued(store.sign_in(new_user("eve@example.com").email));
    let many =
        queued(store.create_many(vec![new_user("kim@example.com"), new_user("BOB@example.com")]));
    let other = queued(store.delete(gone.id));
    writer.release();
    block_on(before).unwrap();
    assert_eq!(kind(block_on(refused)), ErrorKind::Constraint);
    assert!(block_on(sign_in).unwrap().is_new);
    let many = block_on(many).unwrap();
    assert!(many[0].is_ok());
    assert_eq!(many[1].as_ref().unwrap_err().kind(), ErrorKind::EmailTaken);
    assert_eq!(block_on(other).unwrap().id, gone.id);

    assert_eq!(block_on(store.get(ada.id)).unwrap(), Some(ada.clone()));
    assert_eq!(block_on(store.get(gone.id)).unwrap(), None);
    assert_eq!(block_on(store.count()).unwrap(), 4);
    block_on(store.close()).unwrap();
    let store = place.open();
    assert_eq!(block_on(store.count()).unwrap(), 4);
    block_on(store.close()).unwrap();
}

#[test]
fn a_closure_that_the_commit_refuses_did_nothing() {
    let place = SqlitePlace::new();
    let (store, ada) = store_with_a_bill(&place);
    let id = ada.id;
    let refused = block_on(store.write(move |tx| {
        tx.create(&new_user("bob@example.com"))?;
        tx.delete(id)
    }));
    assert_eq!(kind(refused), ErrorKind::Constraint);
    assert_eq!(block_on(store.count()).unwrap(), 1);
    // Within the transaction the order doesn't matter.
    block_on(store.write(move |tx| {
        tx.delete(id)?;
        sqlite::connection(tx).execute("DELETE FROM bills", [])?;
        Ok::<_, Error>(())
    }))
    .unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 0);
    block_on(store.close()).unwrap();
}

#[test]
fn sql_in_a_closure_that_failed_or_panicked_is_undone() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    run(&store, NOTES).unwrap();
    let author = ada.clone();
    let failed = block_on(store.write(move |tx| {
        add_note(tx, &author, "undone")?;
        sqlite::connection(tx).execute_batch("CREATE TABLE undone (a)")?;
        Err::<(), Error>("x".parse::<tenantry::UserId>().unwrap_err())
    }));
    assert_eq!(kind(failed), ErrorKind::InvalidId);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        block_on(store.write(move |tx| -> Result<()> {
            add_note(tx, &ada, "undone")?;
            sqlite::connection(tx)
                .execute_batch("SAVEPOINT open_still; CREATE TABLE undone (a)")?;
            std::panic::panic_any(7_i32)
        }))
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&7_i32));
    assert!(notes(&store).is_empty());
    run(&store, "CREATE TABLE undone (a)").unwrap();
    block_on(store.close()).unwrap();
}

#[test]
fn a_read_closure_cant_write() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    run(&store, NOTES).unwrap();
    run(&store, "CREATE VIEW authors AS SELECT user_id FROM notes").unwrap();
    block_on(store.read(move |tx| {
        let conn = sqlite::connection(tx);
        for sql in [
            "INSERT INTO notes (user_id, text) SELECT id, 'x' FROM users",
            "CREATE TABLE more (a)",
            "DROP VIEW authors",
            "DELETE FROM notes",
        ] {
            assert_eq!(code(conn.execute_batch(sql)), ErrorCode::ReadOnly, "{sql}");
        }
        for sql in [
            "DELETE FROM users",
            "UPDATE users SET version = 2",
            "PRAGMA query_only = 0",
            "PRAGMA query_only = OFF; DELETE FROM notes",
            "COMMIT",
            "ROLLBACK",
            "BEGIN",
            "CREATE TEMP TABLE users (id)",
            "ATTACH ':memory:' AS other",
        ] {
            let refused = conn.execute_batch(sql).expect_err(sql);
            assert_eq!(
                refused.sqlite_error_code(),
                Some(ErrorCode::AuthorizationForStatementDenied),
                "{sql}"
            );
        }
        assert_eq!(tx.get(ada.id)?.as_ref(), Some(&ada));
        Ok::<_, Error>(())
    }))
    .unwrap();
    let refused = block_on(
        store.read(|tx| Ok::<_, Error>(sqlite::connection(tx).execute("DELETE FROM notes", [])?)),
    );
    assert_eq!(kind(refused), ErrorKind::ReadOnly);
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

#[test]
fn the_status_tells_of_the_database() {
    let place = SqlitePlace::new();
    let store = place.open();
    create(&store, "ada@example.com");
    let status = block_on(store.status()).unwrap();
    assert_eq!(status.path, place.database());
    assert_eq!(
        (status.schema_version, status.user_count, status.journal_mode.as_str()),
        (7, 1, "wal")
    );
    assert_eq!(status.sqlite_version, rusqlite::version());
    assert!(status.database_bytes > 0 && status.wal_bytes > 0);
    block_on(store.close()).unwrap();
    assert_eq!(kind(block_on(store.status())), ErrorKind::Closed);
}

/// A group whose commit is refused is run again one by one. There an operation that failed by
/// itself got `Internal` ("the operation failed") in place of its own error.
#[test]
fn an_operation_that_fails_beside_one_that_the_commit_refuses_gets_its_own_error() {
    let place = SqlitePlace::new();
    let (store, ada) = store_with_a_bill(&place);
    let writer = BlockedWriter::block(&store);
    let refused = queued(store.delete(ada.id));
    let taken = queued(store.create(new_user("ADA@example.com")));
    let nobody = queued(store.delete(numbered_id(9)));
    writer.release();
    assert_eq!(kind(block_on(refused)), ErrorKind::Constraint);
    assert_eq!(kind(block_on(taken)), ErrorKind::EmailTaken);
    assert_eq!(kind(block_on(nobody)), ErrorKind::NotFound);
    block_on(store.close()).unwrap();
}

#[test]
fn an_application_alters_renames_and_drops_its_tables() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, NOTES).unwrap();
    // SQLite checks the rows of a STRICT table with `PRAGMA quick_check`.
    run(&store, "ALTER TABLE notes ADD COLUMN at INTEGER").unwrap();
    run(&store, "ALTER TABLE notes RENAME TO remarks").unwrap();
    run(&store, "CREATE TABLE notes (text TEXT); DROP TABLE remarks; DROP TABLE notes").unwrap();
    block_on(store.close()).unwrap();
}

/// A trigger of the application's runs within the store's own statement if that cascades to its
/// table.
#[test]
fn a_trigger_that_would_change_users_is_refused() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    run(&store, NOTES).unwrap();
    let meddling =
        "CREATE TRIGGER meddling AFTER DELETE ON notes BEGIN UPDATE users SET version = 99; END";
    assert_eq!(kind(run(&store, meddling)), ErrorKind::Constraint);
    let author = ada.clone();
    block_on(store.write(move |tx| Ok::<_, Error>(add_note(tx, &author, "of Ada")?))).unwrap();
    block_on(store.delete(ada.id)).unwrap();
    assert_eq!(notes(&store), ["of Ada"]);
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    assert!(notes(&store).is_empty());
    block_on(store.close()).unwrap();
}

#[test]
fn a_foreign_key_with_which_users_could_no_longer_be_changed_is_refused() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = create(&store, "ada@example.com");
    for sql in [
        "CREATE TABLE bad (email TEXT REFERENCES users (email))",
        "CREATE TABLE bad (email TEXT REFERENCES users (email_key))",
        "CREATE TABLE fine (a); CREATE TABLE bad (at INTEGER REFERENCES users (created_at))",
    ] {
        assert_eq!(kind(run(&store, sql)), ErrorKind::Constraint, "{sql}");
        assert_eq!(kind(run(&store, "SELECT * FROM bad")), ErrorKind::Internal, "{sql}");
    }
    block_on(store.update(ada.id, to_email("ada2@example.com"))).unwrap();
    block_on(store.delete(ada.id)).unwrap();
    block_on(store.close()).unwrap();
}

/// After `ON CONFLICT ROLLBACK` the closure goes on outside of the transaction that it was given.
#[test]
fn a_closure_whose_transaction_sqlite_gave_up_did_nothing() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, "CREATE TABLE one (a INTEGER UNIQUE ON CONFLICT ROLLBACK)").unwrap();
    let given_up = block_on(store.write(|tx| {
        tx.create(&new_user("ada@example.com"))?;
        let conn = sqlite::connection(tx);
        conn.execute("INSERT INTO one VALUES (1)", [])?;
        assert_eq!(
            code(conn.execute("INSERT INTO one VALUES (1)", [])),
            ErrorCode::ConstraintViolation
        );
        // Alone, these would be committed one by one.
        let after = tx.create(&new_user("bob@example.com"));
        let more = sqlite::connection(tx).execute("INSERT INTO one VALUES (2)", []);
        assert!(after.is_err() && more.is_err());
        Ok::<_, Error>(())
    }));
    assert_eq!(kind(given_up), ErrorKind::Constraint);
    assert_eq!(block_on(store.count()).unwrap(), 0);
    create(&store, "eve@example.com");
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

/// A statement that is prepared isn't asked about again: the store's own must not be within reach
/// of a closure.
#[test]
fn a_closure_cant_have_a_statement_that_the_store_has_prepared() {
    let place = SqlitePlace::new();
    let store = place.open();
    let gone = create(&store, "gone@example.com");
    block_on(store.delete(gone.id)).unwrap();
    let refused = block_on(store.write(|tx| {
        let conn = sqlite::connection(tx);
        let retire =
            "INSERT OR REPLACE INTO tenantry_retired_users (id, storage_path) VALUES (?1, ?2)";
        Ok::<_, Error>(conn.prepare_cached(retire)?.execute(([7_u8; 16], "files"))?)
    }));
    assert_eq!(kind(refused), ErrorKind::Internal);
    block_on(store.close()).unwrap();
}

/// With its number used again, a new user stood behind cursors that were already past it.
#[test]
fn a_closure_cant_make_a_cursor_skip_users() {
    let place = SqlitePlace::new();
    let store = place.open();
    for address in ["a@example.com", "b@example.com", "c@example.com"] {
        create(&store, address);
    }
    let query = tenantry::ListQuery { limit: 2, ..Default::default() };
    let cursor = block_on(store.list(&query)).unwrap().next_cursor;
    for user in block_on(store.list(&Default::default())).unwrap().users {
        block_on(store.delete(user.id)).unwrap();
    }
    assert_eq!(kind(run(&store, "UPDATE sqlite_sequence SET seq = 0")), ErrorKind::Constraint);
    assert_eq!(kind(run(&store, "DELETE FROM sqlite_sequence")), ErrorKind::Constraint);
    assert_eq!(
        kind(run(&store, "UPDATE sqlite_sequence SET seq = 9223372036854775807")),
        ErrorKind::Constraint
    );
    create(&store, "d@example.com");
    assert_eq!(
        block_on(store.list(&tenantry::ListQuery { cursor, ..query })).unwrap().users.len(),
        1
    );
    block_on(store.close()).unwrap();
}

#[test]
fn a_table_cant_be_renamed_to_a_reserved_name() {
    let place = SqlitePlace::new();
    let store = place.open();
    run(&store, "CREATE TABLE log (a)").unwrap();
    assert_eq!(kind(run(&store, "ALTER TABLE log RENAME TO tenantry_log")), ErrorKind::Constraint);
    run(&store, "ALTER TABLE log RENAME TO tenantryish_log").unwrap();
    block_on(store.close()).unwrap();
}
