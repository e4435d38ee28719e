//! What the library does for embedders: migrations of their tables, work on files beside an
//! executor, errors that say what SQLite said.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tenantry::{Error, ErrorClass, ErrorKind, Result, Store, UserId, WriteTx, sqlite};

use crate::support::{SqlitePlace, block_on, new_user, numbered_id};

const MIGRATIONS: &[&str] = &[
    "CREATE TABLE notes (user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE, text TEXT UNIQUE) STRICT",
    "CREATE INDEX notes_by_user ON notes (user_id); INSERT INTO notes SELECT id, 'welcome' FROM users",
];

fn migrate(
    store: &Store,
    name: &'static str,
    migrations: &'static [&'static str],
) -> Result<usize> {
    block_on(store.write(move |tx| sqlite::migrate(tx, name, migrations)))
}

fn count(store: &Store, sql: &'static str) -> i64 {
    block_on(store.read(move |tx| {
        Ok::<_, Error>(sqlite::connection(tx).query_row(sql, [], |row| row.get(0))?)
    }))
    .unwrap()
}

fn message(
    store: &Store,
    work: impl FnOnce(&mut WriteTx<'_>) -> Result<()> + Send + 'static,
) -> (ErrorKind, String) {
    let error = block_on(store.write(work)).unwrap_err();
    (error.kind(), error.to_string())
}

fn run(store: &Store, sql: &'static str) -> (ErrorKind, String) {
    message(store, move |tx| Ok(sqlite::connection(tx).execute_batch(sql)?))
}

#[test]
fn migrations_are_executed_once_and_in_order() {
    let place = SqlitePlace::new();
    let store = place.open();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    assert_eq!(migrate(&store, "notes", &MIGRATIONS[..1]).unwrap(), 1);
    assert_eq!(migrate(&store, "notes", MIGRATIONS).unwrap(), 1);
    assert_eq!(migrate(&store, "notes", MIGRATIONS).unwrap(), 0);
    assert_eq!(count(&store, "SELECT count(*) FROM notes WHERE text = 'welcome'"), 1);
    block_on(store.close()).unwrap();

    let store = place.open();
    assert_eq!(migrate(&store, "notes", MIGRATIONS).unwrap(), 0);
    assert_eq!(count(&store, "SELECT max(version) FROM notes_migrations"), 2);
    // Those of another part of the program are counted on their own.
    assert_eq!(migrate(&store, "shop", &["CREATE TABLE orders (item TEXT) STRICT"]).unwrap(), 1);
}

#[test]
fn a_migration_that_fails_leaves_nothing_of_any() {
    let place = SqlitePlace::new();
    let store = place.open();
    let broken = &[
        "CREATE TABLE a (x) STRICT",
        "CREATE TABLE b (x TEXT) STRICT; INSERT INTO nowhere VALUES (1)",
    ];
    assert_eq!(migrate(&store, "app", broken).unwrap_err().kind(), ErrorKind::Internal);
    let broken = &[
        "CREATE TABLE a (x TEXT) STRICT",
        "INSERT INTO a VALUES ('x'); INSERT INTO nowhere VALUES (1)",
    ];
    let error = migrate(&store, "app", broken).unwrap_err();
    assert_eq!(error.to_string(), "the database refused a statement: no such table: nowhere");
    assert_eq!(
        count(
            &store,
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('a', 'b', 'app_migrations')"
        ),
        0
    );
    assert_eq!(
        migrate(&store, "app", &["CREATE TABLE a (x TEXT) STRICT", "DROP TABLE a"]).unwrap(),
        2
    );
}

#[test]
fn a_migration_that_was_changed_is_refused_and_so_is_an_older_program() {
    let place = SqlitePlace::new();
    let store = place.open();
    migrate(&store, "notes", MIGRATIONS).unwrap();
    let changed = &["CREATE TABLE notes (user_id BLOB)", "CREATE TABLE more (x TEXT) STRICT"];
    let error = migrate(&store, "notes", changed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert_eq!(error.to_string(), "migration 1 of notes has changed since it was executed");
    let error = migrate(&store, "notes", &MIGRATIONS[..1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert_eq!(
        error.to_string(),
        "the tables of the application are at version 2, and the program knows 1"
    );
}

#[test]
fn migrations_may_neither_end_the_transaction_nor_have_a_name_of_tenantrys() {
    let place = SqlitePlace::new();
    let store = place.open();
    for sql in [&["COMMIT"], &["PRAGMA user_version = 7"], &["ALTER TABLE users ADD COLUMN x"]] {
        assert_eq!(migrate(&store, "app", sql).unwrap_err().kind(), ErrorKind::Internal, "{sql:?}");
    }
    let long = "a234567890123456789012345678901234567890123456789012345678901234";
    for name in [
        "",
        "1st",
        "_app",
        "my-app",
        "app; --",
        "tenantry",
        "Tenantry_x",
        "sqlite",
        "SQLite_x",
        "ä",
        "a b",
    ] {
        assert_eq!(
            migrate(&store, name, &[]).unwrap_err().kind(),
            ErrorKind::InvalidQuery,
            "{name}"
        );
    }
    for name in ["a", "App2", "my_app", "tenantryx", long] {
        assert_eq!(migrate(&store, name, &[]).unwrap(), 0, "{name}");
    }
    assert_eq!(
        migrate(&store, "a2345678901234567890123456789012345678901234567890123456789012345", &[])
            .unwrap_err()
            .kind(),
        ErrorKind::InvalidQuery
    );
}

#[test]
fn work_on_files_runs_on_another_thread_and_its_failure_has_a_kind() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
    let caller = thread::current().id();
    let worker = block_on(store.with_directory(ada, |files| {
        files.write("notes.txt", "hello")?;
        Ok(thread::current().id())
    }));
    assert_ne!(worker.unwrap(), caller);
    assert_eq!(
        block_on(store.with_directory(ada, |files| files.read_to_string("notes.txt"))).unwrap(),
        "hello"
    );

    let failure = |id: UserId, path: &'static str| {
        block_on(store.with_directory(id, move |files| files.open(path).map(drop)))
            .unwrap_err()
            .kind()
    };
    assert_eq!(failure(ada, "missing.txt"), ErrorKind::NotFound);
    assert_eq!(failure(ada, "../../tenantry.db"), ErrorKind::InvalidPath);
    assert_eq!(failure(ada, "/etc/passwd"), ErrorKind::InvalidPath);
    assert_eq!(failure(numbered_id(99), "notes.txt"), ErrorKind::NotFound);
    std::os::unix::fs::symlink("/etc", block_on(store.directory_path(ada)).unwrap().join("link"))
        .unwrap();
    assert_eq!(failure(ada, "link/passwd"), ErrorKind::InvalidPath);
    let other = block_on(store.with_directory(ada, |_| Err::<(), _>(io::Error::other("a reason"))))
        .unwrap_err();
    assert_eq!((other.kind(), other.class()), (ErrorKind::Io, ErrorClass::Internal));
    assert_eq!(std::error::Error::source(&other).unwrap().to_string(), "a reason");
}

#[test]
fn a_panic_in_work_on_files_reaches_the_caller() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
    let work =
        || block_on(store.with_directory::<()>(ada, |_| panic!("a mistake of the application's")));
    let panic = catch_unwind(AssertUnwindSafe(work)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a mistake of the application's"));
    block_on(store.with_directory(ada, |files| files.create_dir("d"))).unwrap();
}

#[test]
fn the_error_of_a_closure_says_what_sqlite_said_of_the_mistake() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
    migrate(&store, "notes", MIGRATIONS).unwrap();
    let of = |sql| run(&store, sql).1;
    assert_eq!(
        of("SELECT * FROM nowhere"),
        "the database refused a statement: no such table: nowhere"
    );
    assert_eq!(of("SELEC 1"), "the database refused a statement: near \"SELEC\": syntax error");
    let (kind, text) = run(&store, "INSERT INTO notes SELECT user_id, text FROM notes");
    assert_eq!(kind, ErrorKind::Constraint);
    assert!(text.ends_with(": UNIQUE constraint failed: notes.text"), "{text}");
    let (kind, text) = message(&store, move |tx| {
        sqlite::connection(tx).execute("INSERT INTO notes VALUES (?1, 'x')", [ada.to_string()])?;
        Ok(())
    });
    assert_eq!(kind, ErrorKind::Constraint);
    assert!(text.ends_with(": cannot store TEXT value in BLOB column notes.user_id"), "{text}");
    let (_, text) = message(&store, |tx| {
        sqlite::connection(tx).execute("INSERT INTO notes VALUES (?1, ?2)", [1])?;
        Ok(())
    });
    assert!(text.contains("Got 1, needed 2"), "{text}");
}

#[test]
fn an_error_holds_no_values_of_rows() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
    let setup = "CREATE TABLE notes (user_id BLOB REFERENCES users (id), text TEXT UNIQUE) STRICT;
         CREATE TRIGGER refuse BEFORE INSERT ON notes WHEN NEW.text = 'no' BEGIN
             SELECT RAISE(ABORT, 'not for bob@example.com');
         END;
         INSERT INTO notes VALUES (NULL, 'bob@example.com')";
    block_on(store.write(move |tx| Ok::<_, Error>(sqlite::connection(tx).execute_batch(setup)?)))
        .unwrap();
    for sql in [
        "INSERT INTO notes VALUES (NULL, 'bob@example.com')",
        "INSERT INTO notes VALUES (NULL, 'no')",
        "INSERT INTO notes VALUES (zeroblob(16), 'bob2@example.com')",
    ] {
        let (kind, text) = run(&store, sql);
        assert_eq!(kind, ErrorKind::Constraint, "{sql}");
        assert!(!text.contains("example.com"), "{text}");
    }
    let (_, text) = message(&store, move |tx| {
        let id = sqlite::connection(tx)
            .query_row("SELECT id FROM users", [], |row| row.get::<_, String>(0))?;
        panic!("{ada} was read as the text {id}");
    });
    assert_eq!(
        text,
        "a row of the database is damaged: Invalid column type Blob at index: 0, name: id"
    );
}
