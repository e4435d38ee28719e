//! The files of a store. None is read with file calls while a connection is open on it: that would
//! end SQLite's locks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use tenantry::sqlite::rusqlite::{Connection, ffi};
use tenantry::{ErrorKind, Store};

use crate::process::{self, Process};
use crate::support::{SHORT, SqlitePlace, block_on, email, kind, new_user};

/// The names of what lies in a directory and below it, each with its content; a directory with a
/// slash after its name.
fn snapshot(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = snapshot(&entry.path()).into_iter();
            found.extend(below.map(|(inner, content)| (format!("{name}/{inner}"), content)));
            found.insert(format!("{name}/"), vec![]);
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// What a store that was closed consists of.
const CLOSED: [&str; 5] =
    ["storage/", "storage/.tenantry-store", "tenantry.db", "tenantry.lock", "trash/"];

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_first_run_makes_everything_private() {
    for umask in ["022", "000"] {
        let dir = tempfile::tempdir().unwrap();
        let child = Process::start("looks at modes", dir.path(), &format!("umask {umask}"));
        assert_eq!(child.end(), ["the modes are right"], "umask {umask}");
    }
}

pub(crate) fn child_looks_at_modes(dir: &Path) {
    let data_dir = dir.join("a/b/data");
    let store = block_on(Store::open(&data_dir)).unwrap();
    assert!(store.was_created());
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 1);
    for made in ["a", "a/b", "a/b/data"] {
        assert_eq!(mode(dir.join(made)), 0o700, "{made}");
    }
    let files: BTreeMap<String, u32> = fs::read_dir(&data_dir)
        .unwrap()
        .map(|entry| {
            (
                entry.as_ref().unwrap().file_name().into_string().unwrap(),
                mode(entry.unwrap().path()),
            )
        })
        .collect();
    let mut expected: BTreeMap<String, u32> =
        ["tenantry.db", "tenantry.db-shm", "tenantry.db-wal", "tenantry.lock"]
            .map(|name| (name.to_owned(), 0o600))
            .into();
    expected.extend(["storage", "trash"].map(|name| (name.to_owned(), 0o700)));
    assert_eq!(files, expected);
    assert_eq!(mode(data_dir.join("storage/.tenantry-store")), 0o600);
    block_on(store.close()).unwrap();
    process::say("the modes are right");
}

#[test]
fn a_store_that_is_missing_and_not_to_be_created_leaves_no_trace() {
    let place = SqlitePlace::new();
    let open = || block_on(Store::builder(place.data_dir()).create_if_missing(false).open());
    assert_eq!(kind(open()), ErrorKind::StoreMissing);
    assert!(snapshot(place.as_ref()).is_empty());

    fs::create_dir(place.data_dir()).unwrap();
    assert_eq!(kind(open()), ErrorKind::StoreMissing);
    assert!(snapshot(&place.data_dir()).is_empty());

    fs::write(place.database(), "").unwrap();
    assert_eq!(kind(open()), ErrorKind::StoreMissing);
    assert_eq!(snapshot(&place.data_dir()), [("tenantry.db".to_owned(), vec![])].into());
}

#[test]
fn a_store_that_is_there_is_opened_and_not_created() {
    let place = SqlitePlace::new();
    let store = place.open();
    assert!(store.was_created());
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.close()).unwrap();
    assert_eq!(snapshot(&place.data_dir()).into_keys().collect::<Vec<_>>(), CLOSED);

    let store = block_on(Store::builder(place.data_dir()).create_if_missing(false).open()).unwrap();
    assert!(!store.was_created());
    assert_eq!(block_on(store.get(ada.id)).unwrap(), Some(ada));
    block_on(store.close()).unwrap();
}

#[test]
fn an_empty_file_is_taken_as_a_new_store() {
    let place = SqlitePlace::new();
    fs::create_dir(place.data_dir()).unwrap();
    fs::write(place.database(), "").unwrap();
    let store = place.open();
    assert!(store.was_created());
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.close()).unwrap();
}

/// The place of a database that the closure makes, on a connection that is closed afterwards.
fn place_with(make: impl FnOnce(&Connection)) -> SqlitePlace {
    let place = SqlitePlace::new();
    fs::create_dir(place.data_dir()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    make(&conn);
    conn.close().unwrap();
    place
}

/// Asserts that a store can't be opened there, whoever tries it how often, and that everything
/// stays as it is.
#[track_caller]
fn assert_refused_unchanged(place: &SqlitePlace, expected: ErrorKind) {
    let before = snapshot(&place.data_dir());
    for create_if_missing in [true, false, true] {
        let opened =
            block_on(Store::builder(place.data_dir()).create_if_missing(create_if_missing).open());
        assert_eq!(kind(opened), expected);
        assert_eq!(snapshot(&place.data_dir()), before);
    }
}

#[test]
fn a_store_of_a_newer_version_is_refused_unchanged() {
    let place = SqlitePlace::new();
    block_on(place.open().close()).unwrap();
    let conn = Connection::open(place.database()).unwrap();
    // As a newer version might leave it: closed, with its log moved into the file.
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA user_version = {}; PRAGMA journal_mode = DELETE",
        version + 1
    ))
    .unwrap();
    conn.close().unwrap();
    assert_refused_unchanged(&place, ErrorKind::Incompatible);
}

#[test]
fn a_store_whose_schema_version_is_missing_is_refused_unchanged() {
    for version in [0, -1] {
        let place = SqlitePlace::new();
        block_on(place.open().close()).unwrap();
        let conn = Connection::open(place.database()).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA user_version = {version}; PRAGMA journal_mode = DELETE"
        ))
        .unwrap();
        conn.close().unwrap();
        assert_refused_unchanged(&place, ErrorKind::Incompatible);
    }
}

/// The story: a store without the table of tokens was opened as if nothing were wrong, and each
/// request failed with `Internal`.
#[test]
fn a_store_that_lacks_a_table_or_a_column_is_refused_unchanged() {
    for damage in [
        "DROP TABLE tenantry_retired_users",
        "DROP TABLE tenantry_retired_paths",
        "DROP TABLE tenantry_changes",
        "DROP TABLE tenantry_intents",
        "DROP TABLE tenantry_usage",
        "DROP TABLE tenantry_tokens",
        "DROP TABLE tenantry_requests",
        "ALTER TABLE tenantry_tokens DROP COLUMN last_used_at",
        "ALTER TABLE tenantry_requests DROP COLUMN reply",
        "DROP VIEW tenantry_living_users",
        "DROP VIEW tenantry_living_users;
         CREATE VIEW tenantry_living_users AS
         SELECT id, email, email_key, created_at, last_login_at, updated_at, version
         FROM users WHERE deleted_at IS NULL",
    ] {
        let place = SqlitePlace::new();
        block_on(place.open().close()).unwrap();
        let conn = Connection::open(place.database()).unwrap();
        conn.execute_batch(damage).unwrap();
        conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        conn.close().unwrap();
        assert_refused_unchanged(&place, ErrorKind::Corrupt);
    }
}

#[test]
fn the_database_of_another_application_is_refused_unchanged() {
    for schema in [
        "PRAGMA application_id = 42",
        "PRAGMA application_id = 42; PRAGMA user_version = 1; CREATE TABLE users (id)",
        "PRAGMA user_version = 1",
        "CREATE TABLE users (id)",
        "CREATE TABLE notes (text); INSERT INTO notes VALUES ('hello')",
        "CREATE VIEW notes AS SELECT 1",
        "CREATE TABLE tenantry_migrations (version); CREATE TABLE notes (text)",
    ] {
        let place = place_with(|conn| conn.execute_batch(schema).unwrap());
        assert_refused_unchanged(&place, ErrorKind::Incompatible);
    }
}

#[test]
fn another_application_s_write_ahead_log_stays_as_it_is() {
    let place = SqlitePlace::new();
    fs::create_dir(place.data_dir()).unwrap();
    // Made elsewhere and copied while it is open there, so that the log isn't moved into the file.
    let elsewhere = tempfile::tempdir().unwrap();
    let made = elsewhere.path().join("made.db");
    let conn = Connection::open(&made).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE notes (text); INSERT INTO notes VALUES ('hello')",
    )
    .unwrap();
    for suffix in ["", "-wal"] {
        let copy = place.data_dir().join(format!("tenantry.db{suffix}"));
        fs::copy(elsewhere.path().join(format!("made.db{suffix}")), copy).unwrap();
    }
    drop(conn);
    let before = snapshot(&place.data_dir());
    assert!(before["tenantry.db-wal"].len() > 4_096);

    assert_eq!(kind(block_on(Store::open(place.data_dir()))), ErrorKind::Incompatible);
    let after = snapshot(&place.data_dir());
    for name in ["tenantry.db", "tenantry.db-wal"] {
        assert!(after[name] == before[name], "{name} was changed");
    }
    // Its index is in memory that is shared by way of a file: there must be one to read the log at
    // all.
    assert!(after.into_keys().all(|name| before.contains_key(&name) || name == "tenantry.db-shm"));
    let conn = Connection::open(place.database()).unwrap();
    assert_eq!(
        conn.query_row("SELECT text FROM notes", [], |row| row.get::<_, String>(0)).unwrap(),
        "hello"
    );
}

#[test]
fn a_file_that_is_no_database_is_refused_unchanged() {
    let place = SqlitePlace::new();
    fs::create_dir(place.data_dir()).unwrap();
    fs::write(place.database(), "Dear diary,\n".repeat(1_000)).unwrap();
    assert_refused_unchanged(&place, ErrorKind::Corrupt);
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let place = SqlitePlace::new();
    fs::write(place.data_dir(), "not a directory").unwrap();
    assert_eq!(kind(block_on(Store::open(place.data_dir()))), ErrorKind::Incompatible);
    assert_eq!(fs::read(place.data_dir()).unwrap(), b"not a directory");
}

#[test]
fn of_threads_that_open_a_missing_store_at_once_one_creates_it() {
    for _ in 0..5 {
        let place = SqlitePlace::new();
        let start = Barrier::new(8);
        let created: Vec<bool> = thread::scope(|scope| {
            let openers: Vec<_> = (0..8)
                .map(|number| {
                    let (place, start) = (&place, &start);
                    scope.spawn(move || {
                        start.wait();
                        let store = place.open();
                        block_on(store.create(new_user(&format!("u{number}@example.com"))))
                            .unwrap();
                        let created = store.was_created();
                        block_on(store.close()).unwrap();
                        created
                    })
                })
                .collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        assert_eq!(created.iter().filter(|created| **created).count(), 1);
        assert_eq!(block_on(place.open().count()).unwrap(), 8);
    }
}

#[test]
fn of_processes_that_open_a_missing_store_at_once_one_creates_it() {
    let place = SqlitePlace::new();
    let mut children: Vec<Process> =
        (0..8).map(|_| Process::start("opens", &place.data_dir(), "")).collect();
    children.iter_mut().for_each(Process::await_ready);
    children.iter_mut().for_each(Process::start_now);
    let said: Vec<String> = children.into_iter().flat_map(Process::end).collect();
    assert_eq!(said.len(), 8);
    assert_eq!(said.iter().filter(|said| *said == "created").count(), 1);
    assert_eq!(block_on(place.open().count()).unwrap(), 8);
}

pub(crate) fn child_opens(data_dir: &Path) {
    process::wait_for_the_start();
    let store = block_on(Store::open(data_dir)).unwrap();
    block_on(store.create(new_user(&format!("child{}@example.com", std::process::id())))).unwrap();
    process::say(if store.was_created() { "created" } else { "found" });
    block_on(store.close()).unwrap();
}

/// A writer that knows nothing of Tenantry.
fn stranger(place: &SqlitePlace) -> Connection {
    let conn = Connection::open(place.database()).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    conn
}

#[test]
fn not_even_another_program_can_add_an_address_twice() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
    let stranger = stranger(&place);
    let insert = "INSERT INTO users (id, email_folded, email, created_at, updated_at, version)
                  VALUES (randomblob(16), nullif(?1, ?2), ?2, 0, 0, 1)";
    let update = "UPDATE users SET email_folded = nullif(?1, ?2), email = ?2 WHERE email_key = 'bob@example.com'";
    for (key, address, expected) in [
        ("ada@example.com", "ada@example.com", ffi::SQLITE_CONSTRAINT_UNIQUE),
        ("ada@example.com", "Ada@Example.com", ffi::SQLITE_CONSTRAINT_UNIQUE),
        // A key that isn't the address's.
        ("Ada@Example.com", "Ada@Example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        ("ADA@EXAMPLE.COM", "ada@example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        ("eve@example.com", "Ada@Example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        ("", "Ada@Example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        // NULs, at which SQLite's functions stop and its comparisons don't.
        ("ada@example.com\0", "Ada@Example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        ("ada@example.com\0", "Ada@Example.com\0", ffi::SQLITE_CONSTRAINT_CHECK),
        ("ada@example.com\0x", "ada@example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        ("eve@example.com", "eve@example.com\0", ffi::SQLITE_CONSTRAINT_CHECK),
        ("\0", "\0Ada@Example.com", ffi::SQLITE_CONSTRAINT_CHECK),
        // Not UTF-8 beyond ASCII either, as long as the key is taken.
        ("ada@example.com", "\u{ff21}da@example.com", ffi::SQLITE_CONSTRAINT_UNIQUE),
    ] {
        for sql in [insert, update] {
            let error = stranger.execute(sql, [key, address]).unwrap_err();
            let code = error.sqlite_error().unwrap().extended_code;
            assert_eq!(code, expected, "{key:?} {address:?} {sql}");
        }
    }
    // Nor as bytes, which are never equal to a text.
    let error =
        stranger.execute(insert, [&b"ada@example.com"[..], &b"Ada@Example.com"[..]]).unwrap_err();
    assert_eq!(error.sqlite_error().unwrap().extended_code, ffi::SQLITE_CONSTRAINT_DATATYPE);
    assert_eq!(block_on(store.count()).unwrap(), 2);
    // And what the other program may add is a user like any other.
    stranger.execute(insert, ["eve@example.com", "Eve@Example.com"]).unwrap();
    assert_eq!(kind(block_on(store.create(new_user("EVE@example.com")))), ErrorKind::EmailTaken);
    for user in [ada, bob] {
        assert_eq!(block_on(store.get(user.id)).unwrap(), Some(user));
    }
    block_on(store.close()).unwrap();
}

#[test]
fn not_even_another_program_can_give_an_id_or_a_path_twice() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(crate::support::new_user_at("ada@example.com", "files/ada")))
        .unwrap();
    let stranger = stranger(&place);
    let insert = |id: &[u8], path: &str| {
        let sql = "INSERT INTO users (id, email, created_at, updated_at, version, storage_path)
                   VALUES (?1, 'bob@example.com', 0, 0, 1, ?2)";
        stranger
            .execute(sql, (id, path))
            .map_err(|error| error.sqlite_error().unwrap().extended_code)
    };
    assert_eq!(
        insert(ada.id.as_uuid().as_bytes(), "files/bob"),
        Err(ffi::SQLITE_CONSTRAINT_UNIQUE)
    );
    assert_eq!(insert(&[7; 16], "files/ada"), Err(ffi::SQLITE_CONSTRAINT_UNIQUE));
    assert_eq!(insert(&[7; 15], "files/bob"), Err(ffi::SQLITE_CONSTRAINT_CHECK));
    assert_eq!(insert(&[7; 16], ""), Err(ffi::SQLITE_CONSTRAINT_CHECK));
    assert_eq!(insert(&[7; 16], "files/bob"), Ok(1));
    block_on(store.close()).unwrap();
}

#[test]
fn a_store_is_busy_while_another_program_holds_the_write_lock() {
    let place = SqlitePlace::new();
    let store = block_on(Store::builder(place.data_dir()).busy_timeout(SHORT).open()).unwrap();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let stranger = stranger(&place);
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        let error = block_on(store.create(new_user("bob@example.com"))).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Busy, true));
    }
    assert_eq!(
        kind(block_on(store.write(|tx| tx.sign_in(&email("bob@example.com"))))),
        ErrorKind::Busy
    );
    // Reads go on.
    assert_eq!(block_on(store.get(ada.id)).unwrap(), Some(ada));
    assert_eq!(block_on(store.count()).unwrap(), 1);

    stranger.execute_batch("COMMIT").unwrap();
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 2);
    block_on(store.close()).unwrap();
}

#[test]
fn a_store_waits_for_the_write_lock() {
    let place = SqlitePlace::new();
    let store = place.open();
    let stranger = stranger(&place);
    stranger.execute_batch("BEGIN IMMEDIATE; CREATE TABLE notes (text)").unwrap();
    let mut writing = crate::support::queued(store.create(new_user("ada@example.com")));
    // The thread that writes may be anywhere by now: what counts is that it can't have written.
    assert!(crate::support::poll_once(&mut writing).is_pending());
    stranger.execute_batch("COMMIT").unwrap();
    block_on(writing).unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

/// A process that is killed while it creates a store leaves its work under another name.
#[test]
fn what_a_creation_that_was_cut_off_left_behind_is_removed() {
    let place = SqlitePlace::new();
    fs::create_dir(place.data_dir()).unwrap();
    for (suffix, left) in [
        ("", "half a database"),
        ("-wal", "half a log"),
        ("-journal", "half a journal"),
        ("-shm", ""),
    ] {
        fs::write(place.data_dir().join(format!("tenantry.db.new{suffix}")), left).unwrap();
    }
    let store = place.open();
    assert!(store.was_created());
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.close()).unwrap();
    assert_eq!(snapshot(&place.data_dir()).into_keys().collect::<Vec<_>>(), CLOSED);
}

/// SQLite would take it for the log of a new database, and it may hold what is nowhere else.
#[test]
fn a_log_without_its_database_is_refused_unchanged() {
    for suffix in ["-wal", "-journal"] {
        let place = SqlitePlace::new();
        fs::create_dir(place.data_dir()).unwrap();
        fs::write(place.data_dir().join(format!("tenantry.db{suffix}")), "all that is left")
            .unwrap();
        fs::write(place.data_dir().join("tenantry.lock"), "").unwrap();
        let before = snapshot(&place.data_dir());
        assert_eq!(kind(block_on(Store::open(place.data_dir()))), ErrorKind::Incompatible);
        assert_eq!(snapshot(&place.data_dir()), before);
    }
}
