mod groups;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::block_on;
use rusqlite::{Connection, ffi};

use super::connection;
use super::files::watch;
use super::guard::GuardedConnection;
use super::open;
use super::open::connect::open_reader;
use super::open::identify::refuse_old_sqlite;
use super::open::upgrade::{SCHEMA_VERSION, embedded};
use super::rows::changes::{self, History, Retention};
use super::rows::listing::Listing;
use super::session::WriteSession;
use super::tx::{Snapshot, TxState};
use crate::ambient::SystemAmbient;
use crate::ops::{adopt, directories, intents, purge};
use crate::options::Options;
use crate::storage::Storage;
use crate::{
    Ambient, Durability, Email, Error, ErrorKind, Filter, ListQuery, NewUser, OnConflict, Result,
    Store, TrashQuery, Upserted, Usage, UserUpdate, WriteTx,
};

fn options(data_dir: &Path, durability: Durability) -> Options {
    Options { durability, ..Options::new(data_dir.to_owned()) }
}

fn open_writer(options: &Options) -> open::OpenStore {
    open::open_writer(options, &SystemAmbient, &watch(&options.data_dir)).unwrap()
}

fn email(text: &str) -> Email {
    text.parse().unwrap()
}

fn new_user(text: &str) -> NewUser {
    NewUser::new(email(text))
}

fn pragma(conn: &Connection, name: &str) -> String {
    let value = conn
        .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
        .unwrap();
    match value {
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => panic!("{name} is {other:?}"),
    }
}

/// SQL without its comments, and with single spaces.
fn normalized(sql: &str) -> String {
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").replace("( ", "(").replace(" )", ")").replace(" ,", ",")
}

/// The statements in `schema.sql`, which documents the schema as it is now: see there.
fn documented_schema() -> BTreeSet<String> {
    normalized(include_str!("schema.sql"))
        .split(';')
        .map(str::trim)
        .filter(|sql| !sql.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_migrations_make_the_schema_that_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_writer(&options(dir.path(), Durability::Full));
    let conn = opened.conn;
    assert!(opened.created);
    let mut statement = conn
        .prepare(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'sqlite_sequence'",
        )
        .unwrap();
    let made: BTreeSet<String> = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|sql| normalized(&sql.unwrap()))
        .collect();
    assert_eq!(made, documented_schema());
}

/// A store that was migrated holds the checksums of what it was migrated with, and one that differs
/// is an error.
#[test]
fn a_shipped_migration_is_never_edited() {
    let shipped = [
        (1, "users", 2_837_392_614_996_719_911),
        (2, "storage", 13_516_402_453_630_693_766),
        (3, "trash", 8_094_336_464_088_480_423),
        (4, "profile", 3_424_458_968_077_149_848),
        (5, "tokens", 16_096_631_801_430_055_330),
        (6, "changes", 1_795_420_904_544_355_536),
        (7, "requests", 5_103_292_061_629_633_525),
    ];
    let runner = embedded::migrations::runner();
    let mut migrations: Vec<_> = runner.get_migrations().iter().collect();
    migrations.sort_by_key(|migration| migration.version());
    let found: Vec<_> = migrations
        .iter()
        .map(|migration| (i64::from(migration.version()), migration.name(), migration.checksum()))
        .collect();
    assert_eq!(found, shipped, "a migration was edited, or a new one isn't listed here");
}

/// A new database of schema version 1.
pub(crate) fn of_version_1(path: &Path) -> Connection {
    of_version(1, path)
}

fn of_version(version: i32, path: &Path) -> Connection {
    let mut conn = Connection::open(path).unwrap();
    super::functions::register(&conn).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON",
    )
    .unwrap();
    let mut runner = embedded::migrations::runner().set_target(refinery::Target::Version(version));
    runner.set_migration_table_name("tenantry_migrations").run(&mut conn).unwrap();
    conn
}

#[test]
fn a_store_of_schema_version_1_is_upgraded_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    let conn = of_version_1(&path);
    conn.execute_batch(
        "INSERT INTO users (id, email_key, email, created_at, updated_at, version, storage_path) VALUES
            (x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'Ada@example.com', 1, 2, 3, NULL),
            (x'4fa2b1c4000040008000000000000002', 'bob@example.com', 'bob@example.com', 1, 1, 1, 'customers/bob');
         INSERT INTO tenantry_retired_users VALUES
            (x'5fa2b1c4000040008000000000000003', 'customers/eve'), (x'6fa2b1c4000040008000000000000004', NULL)",
    )
    .unwrap();
    conn.close().unwrap();

    let store = block_on(Store::open(dir.path())).unwrap();
    assert!(!store.was_created());
    let upgrade = store.upgrade().unwrap().clone();
    assert_eq!((upgrade.from, i32::try_from(upgrade.to).unwrap()), (1, SCHEMA_VERSION));
    let ada = block_on(store.get_by_email(&email("ada@example.com"))).unwrap().unwrap();
    assert_eq!(
        (ada.email.as_str(), ada.version, ada.updated_at.as_unix_us()),
        ("Ada@example.com", 3, 2)
    );
    block_on(store.directory(ada.id)).unwrap();
    // What a deleted user had is given to nobody else, nor what lies around it.
    for path in ["customers/eve", "customers/eve/x", "customers", "customers/bob/x"] {
        let new =
            NewUser { storage_path: Some(path.parse().unwrap()), ..new_user("eve@example.com") };
        assert_eq!(block_on(store.create(new)).unwrap_err().kind(), ErrorKind::PathTaken, "{path}");
    }
    let id = Some("5fa2b1c4-0000-4000-8000-000000000003".parse().unwrap());
    let new = NewUser { id, ..new_user("eve@example.com") };
    assert_eq!(block_on(store.create(new)).unwrap_err().kind(), ErrorKind::IdTaken);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(crate::check(dir.path())).unwrap().findings, []);
    // No path of a deleted user is kept as it was.
    let conn = Connection::open(&path).unwrap();
    let kept = "SELECT count(*) FROM tenantry_retired_users WHERE storage_path IS NOT NULL";
    assert_eq!(conn.query_row(kept, [], |row| row.get::<_, i64>(0)).unwrap(), 0);

    // But the snapshot is the database as it was, for nobody else, and is itself a store.
    let snapshot = upgrade.snapshot.unwrap();
    let name = snapshot.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        name.starts_with(&format!("before-v{SCHEMA_VERSION}-2")) && name.ends_with("Z.db"),
        "{name}"
    );
    assert_eq!(std::fs::metadata(&snapshot).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(dir.path().join("backups")).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(&snapshot, elsewhere.path().join("tenantry.db")).unwrap();
    let conn = Connection::open(&snapshot).unwrap();
    assert_eq!(
        conn.query_row(
            "SELECT count(*) FROM tenantry_retired_users WHERE storage_path IS NOT NULL",
            [],
            |row| row.get::<_, i64>(0)
        )
        .unwrap(),
        1
    );
    assert_eq!(pragma(&conn, "user_version"), "1");
    let store =
        block_on(Store::builder(elsewhere.path()).snapshot_before_upgrade(false).open()).unwrap();
    assert_eq!(
        block_on(store.get_by_email(&email("ada@example.com"))).unwrap().unwrap().version,
        3
    );
    assert_eq!(store.upgrade().unwrap().snapshot, None);
    assert!(!elsewhere.path().join("backups").exists());
    block_on(store.close()).unwrap();
}

/// A database of schema version 2 with users and what an application keeps of them.
fn of_version_2(path: &Path) -> Connection {
    let conn = of_version(2, path);
    conn.execute_batch(
        "INSERT INTO tenantry_store (only_row, id, is_marked) VALUES (1, x'00112233445546778899aabbccddeeff', 0);
         INSERT INTO users (seq, id, email_key, email, created_at, updated_at, version, storage_path, has_directory) VALUES
            (1, x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'Ada@example.com', 1, 2, 3, NULL, 0),
            (3, x'4fa2b1c4000040008000000000000003', 'сосо@example.com', 'Сосо@example.com', 1, 1, 1, 'living/coco', 0),
            (9, x'5fa2b1c4000040008000000000000009', 'gone@example.com', 'gone@example.com', 1, 1, 1, NULL, 0);
         INSERT INTO tenantry_trash
            (seq, deleted_at, user_seq, id, email_key, email, created_at, updated_at, version, storage_path, has_directory)
         VALUES
            (2, 500, 4, x'6fa2b1c4000040008000000000000004', 'ada@example.com', 'ADA@example.com', 1, 1, 7, NULL, 0),
            (5, 400, 2, x'7fa2b1c4000040008000000000000002', 'eve@example.com', 'eve@example.com', 1, 1, 1, 'x/eve', 0),
            (6, 600, 5, x'8fa2b1c4000040008000000000000005', 'kim@example.com', 'kim@example.com', 1, 1, 1, NULL, 0);
         DELETE FROM tenantry_trash WHERE seq = 6;
         DELETE FROM users WHERE seq = 9;
         INSERT INTO tenantry_usage VALUES (x'3fa2b1c4000040008000000000000001', 1, 2, 3, 4, 0);
         CREATE TABLE notes (user_id BLOB REFERENCES users (id) ON DELETE CASCADE, text TEXT) STRICT;
         INSERT INTO notes VALUES (x'3fa2b1c4000040008000000000000001', 'of Ada');
         CREATE VIEW authors AS SELECT email, text FROM notes JOIN users ON users.id = user_id;
         CREATE TABLE log (text TEXT) STRICT;
         CREATE TRIGGER logged AFTER INSERT ON notes
            BEGIN INSERT INTO log SELECT email FROM users WHERE id = new.user_id; END",
    )
    .unwrap();
    conn
}

#[test]
fn a_store_of_schema_version_2_is_upgraded_with_its_trash_and_the_tables_of_the_application() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    of_version_2(&path).close().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let upgrade = store.upgrade().unwrap();
    assert_eq!((upgrade.from, i32::try_from(upgrade.to).unwrap()), (2, SCHEMA_VERSION));
    let list = |query: ListQuery| {
        let page = block_on(store.list(&query)).unwrap();
        page.users
            .into_iter()
            .map(|user| (user.email.to_string(), user.version))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(ListQuery::default()),
        [("Ada@example.com".to_owned(), 3), ("Сосо@example.com".to_owned(), 1)]
    );
    let trash = block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    let trash: Vec<_> =
        trash.iter().map(|it| (it.user.email.as_str(), it.deleted_at.as_unix_us())).collect();
    assert_eq!(trash, [("ADA@example.com", 500), ("eve@example.com", 400)]);
    let coco = block_on(store.confusables(&email("coco@example.com"))).unwrap();
    assert_eq!(
        coco.iter().map(|user| user.email.as_str()).collect::<Vec<_>>(),
        ["Сосо@example.com"]
    );
    let ada = block_on(store.get_by_email(&email("ada@example.com"))).unwrap().unwrap();
    assert_eq!(block_on(store.usage(ada.id)).unwrap().unwrap().files, 2);

    // No number of the one order or the other is given out again, though the last users are purged.
    let page = block_on(store.list(&ListQuery {
        cursor: Some("1-0000000000000008".parse().unwrap()),
        ..Default::default()
    }));
    assert_eq!(page.unwrap().users, []);
    let new = block_on(store.create(new_user("new@example.com"))).unwrap();
    let after_9 =
        ListQuery { cursor: Some("1-0000000000000009".parse().unwrap()), ..ListQuery::default() };
    assert_eq!(block_on(store.list(&after_9)).unwrap().users, std::slice::from_ref(&new));
    block_on(store.delete(new.id)).unwrap();
    let after_6 =
        TrashQuery { cursor: Some("1-0000000000000006".parse().unwrap()), ..TrashQuery::default() };
    assert_eq!(block_on(store.list_trash(&after_6)).unwrap().users[0].user, new);

    let eve = block_on(store.find_in_trash(&email("eve@example.com"))).unwrap().remove(0).user;
    let taken =
        NewUser { storage_path: Some("x/eve/inner".parse().unwrap()), ..new_user("x@example.com") };
    assert_eq!(block_on(store.create(taken)).unwrap_err().kind(), ErrorKind::PathTaken);
    assert_eq!(block_on(store.restore(eve.id, None)).unwrap(), eve);
    // Back at the place where she was created.
    assert_eq!(list(ListQuery::default())[1].0, "eve@example.com");
    let trashed_ada =
        block_on(store.find_in_trash(&email("ada@example.com"))).unwrap().remove(0).user;
    let refused = block_on(store.restore(trashed_ada.id, None)).unwrap_err();
    assert_eq!((refused.kind(), refused.taken_by()), (ErrorKind::EmailTaken, Some(ada.id)));

    // The references of the application's tables, views and triggers are to the table that is there
    // now.
    let note = move |tx: &mut WriteTx<'_>| {
        connection(tx)
            .execute("INSERT INTO notes VALUES (?1, 'another')", [eve.id.as_uuid().as_bytes()])?;
        assert!(
            connection(tx)
                .execute("INSERT INTO notes VALUES (zeroblob(16), 'of nobody')", [])
                .is_err()
        );
        let one = |sql| connection(tx).query_row(sql, [], |row| row.get::<_, String>(0));
        assert_eq!(
            one("SELECT group_concat(email, ' ') FROM authors")?,
            "Ada@example.com eve@example.com"
        );
        assert_eq!(one("SELECT group_concat(text, ' ') FROM log")?, "eve@example.com");
        Ok::<_, Error>(())
    };
    block_on(store.write(note)).unwrap();
    block_on(store.delete(ada.id)).unwrap();
    block_on(store.purge(crate::Purge::User(ada.id), |_| {})).unwrap();
    block_on(store.close()).unwrap();
    let conn = Connection::open(&path).unwrap();
    assert_eq!(
        conn.query_row("SELECT group_concat(text) FROM notes", [], |row| row.get::<_, String>(0))
            .unwrap(),
        "another"
    );
    assert_eq!(
        conn.query_row("SELECT count(*) FROM tenantry_usage", [], |row| row.get::<_, i64>(0))
            .unwrap(),
        0
    );
    drop(conn);
    assert_eq!(block_on(crate::check(dir.path())).unwrap().findings, []);
}

#[test]
fn a_store_of_schema_version_3_is_upgraded_and_its_users_have_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    let conn = of_version(3, &path);
    conn.execute_batch(
        "INSERT INTO users (id, email, created_at, updated_at, version, last_login_at, storage_path) VALUES
            (x'3fa2b1c4000040008000000000000001', 'ada@example.com', 1, 2, 3, 4, 'customers/ada');
         INSERT INTO users (id, email, created_at, updated_at, version, deleted_at, deletion_seq) VALUES
            (x'4fa2b1c4000040008000000000000002', 'bob@example.com', 1, 1, 1, 5, 1);
         CREATE VIEW names AS SELECT email FROM tenantry_living_users",
    )
    .unwrap();
    conn.close().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let upgrade = store.upgrade().unwrap();
    assert_eq!((upgrade.from, i32::try_from(upgrade.to).unwrap()), (3, SCHEMA_VERSION));
    let ada = block_on(store.get_by_email(&email("ada@example.com"))).unwrap().unwrap();
    assert_eq!((ada.version, ada.storage_path.as_str()), (3, "customers/ada"));
    assert_eq!(
        (&ada.suspended_at, &ada.external_id, &ada.name, &ada.attributes),
        (&None, &None, &None, &None)
    );
    let update =
        UserUpdate { name: crate::Set::To("Ada".parse().unwrap()), ..UserUpdate::default() };
    assert_eq!(block_on(store.update(ada.id, update)).unwrap().version, 4);
    let bob = block_on(store.find_in_trash(&email("bob@example.com"))).unwrap().remove(0).user;
    assert_eq!(block_on(store.restore(bob.id, None)).unwrap(), bob);
    let read = block_on(store.read(|tx| {
        let one = |sql| connection(tx).query_row(sql, [], |row| row.get::<_, String>(0));
        Ok::<_, Error>((
            one("SELECT group_concat(email) FROM names")?,
            one("SELECT group_concat(name) FROM tenantry_living_users")?,
        ))
    }));
    assert_eq!(read.unwrap(), ("ada@example.com,bob@example.com".to_owned(), "Ada".to_owned()));
    block_on(store.close()).unwrap();
    assert_eq!(block_on(crate::check(dir.path())).unwrap().findings, []);
}

/// Another program can't write what ours would not.
#[test]
fn the_database_refuses_what_a_user_may_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let conn = open_writer(&options(dir.path(), Durability::Full)).conn;
    let insert = "INSERT INTO users (id, email, created_at, updated_at, version) VALUES (zeroblob(16), 'a@b', 0, 0, 1)";
    conn.execute(insert, []).unwrap();
    let set = |column: &str, value: &str| {
        conn.execute(&format!("UPDATE users SET {column} = ?1"), [value])
    };
    let character = "\u{1f600}";
    for column in ["external_id", "name"] {
        set(column, &character.repeat(256)).unwrap();
        for value in ["", &character.repeat(257), &"\0".repeat(2_000)] {
            set(column, value).unwrap_err();
        }
    }
    let longest = format!("{{\"a\":\"{}\"}}", "x".repeat(16_384 - 8));
    for value in ["{}", &longest] {
        set("attributes", value).unwrap();
    }
    for value in ["", "[]", "{", "{a:1}", " {}", "null", &longest.replacen('x', "xx", 1)] {
        set("attributes", value).unwrap_err();
    }
    conn.execute("UPDATE users SET suspended_at = ?1", [i64::MAX]).unwrap_err();
}

/// A damaged value is an error of its row, and never part of a document.
#[test]
fn a_value_that_the_store_never_wrote_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let conn = Connection::open(dir.path().join("tenantry.db")).unwrap();
    conn.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
    for (column, value) in
        [("attributes", "{\n}"), ("attributes", "x"), ("name", "a\u{1b}[2J"), ("external_id", "")]
    {
        conn.execute(&format!("UPDATE users SET {column} = ?1"), [value]).unwrap();
        assert_eq!(
            block_on(store.get(ada.id)).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{column} {value:?}"
        );
        conn.execute(&format!("UPDATE users SET {column} = NULL"), []).unwrap();
    }
    assert_eq!(block_on(store.get(ada.id)).unwrap(), Some(ada));
    block_on(store.close()).unwrap();
}

/// What was unique in version 2 and is so among the living alone by now.
#[test]
fn a_store_whose_application_refers_to_addresses_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    let conn = of_version_2(&path);
    conn.execute_batch("CREATE TABLE mails (address TEXT REFERENCES Users (Email_Key))").unwrap();
    conn.close().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = block_on(Store::open(dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("mails"), "{error}");
    assert!(!dir.path().join("backups").exists());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // The number of a user stays unique.
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("DROP TABLE mails; CREATE TABLE places (of INTEGER REFERENCES users)")
        .unwrap();
    conn.close().unwrap();
    block_on(block_on(Store::open(dir.path())).unwrap().close()).unwrap();
}

/// Version 2 had one index for the living and one for the trash.
#[test]
fn a_store_whose_rows_contradict_each_other_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    let conn = of_version_2(&path);
    conn.execute("UPDATE tenantry_trash SET storage_path = 'living/coco' WHERE seq = 5", [])
        .unwrap();
    conn.close().unwrap();
    let error = block_on(Store::open(dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("contradict"), "{error}");
    let conn = Connection::open(&path).unwrap();
    assert_eq!(pragma(&conn, "user_version"), "2");
    assert_eq!(pragma(&conn, "integrity_check"), "ok");
}

/// A page without a filter is read on its caller's thread, which a trash of any size must not hold
/// up.
#[test]
fn a_page_beyond_many_users_in_the_trash_is_left_to_a_search() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let first = block_on(store.create(new_user("first@example.com"))).unwrap();
    let conn = Connection::open(dir.path().join("tenantry.db")).unwrap();
    conn.execute_batch(
        "WITH RECURSIVE number (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < 9000)
         INSERT INTO users (id, email, created_at, updated_at, version, deleted_at, deletion_seq)
         SELECT randomblob(16), 'u' || n || '@example.com', 0, 0, 1, 0, n FROM number",
    )
    .unwrap();
    let last = block_on(store.create(new_user("last@example.com"))).unwrap();
    let query = ListQuery { limit: 2, ..ListQuery::default() };
    let page = block_on(store.list(&query)).unwrap();
    assert_eq!((page.users, page.next_cursor), (vec![first.clone(), last.clone()], None));
    assert_eq!(block_on(store.count()).unwrap(), 2);
    // From here on a search is refused, so what succeeds is read on its caller's thread.
    store.engine().searches.close();
    assert_eq!(block_on(store.list(&query)).unwrap_err().kind(), ErrorKind::Closed);
    let query = ListQuery { limit: 1, ..ListQuery::default() };
    assert_eq!(block_on(store.list(&query)).unwrap_err().kind(), ErrorKind::Closed);
    conn.execute("DELETE FROM users WHERE deletion_seq > 4000", []).unwrap();
    let page = block_on(store.list(&query)).unwrap();
    assert_eq!(page.users, [first]);
    let rest = ListQuery { cursor: page.next_cursor, ..query };
    assert_eq!(block_on(store.list(&rest)).unwrap().users, [last]);
    block_on(store.close()).unwrap();
}

/// Whoever has it open goes on with the schema that they know.
#[test]
fn a_store_that_another_program_has_open_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    drop(of_version_1(&dir.path().join("tenantry.db")));
    // What an older version that knows of the lock holds while it has the store open.
    let lock = std::fs::File::create(dir.path().join("tenantry.lock")).unwrap();
    lock.lock_shared().unwrap();
    let impatient =
        || Store::builder(dir.path()).busy_timeout(std::time::Duration::from_millis(20));
    let error = block_on(impatient().open()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("upgraded"), "{error}");
    assert!(!dir.path().join("backups").exists());
    let conn = Connection::open(dir.path().join("tenantry.db")).unwrap();
    assert_eq!(pragma(&conn, "user_version"), "1");
    drop((conn, lock));
    let store = block_on(impatient().open()).unwrap();
    assert!(store.upgrade().is_some());
    // And whoever has this version open keeps newer ones from upgrading, but not this one from
    // opening it.
    let lock = std::fs::File::create(dir.path().join("tenantry.lock")).unwrap();
    assert!(lock.try_lock().is_err());
    let second = block_on(impatient().open()).unwrap();
    assert!(second.upgrade().is_none());
    block_on(store.close()).unwrap();
    assert!(lock.try_lock().is_err());
    block_on(second.close()).unwrap();
    lock.try_lock().unwrap();
}

#[test]
fn an_upgrade_that_fails_leaves_the_store_as_it_was_and_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let conn = of_version_1(&dir.path().join("tenantry.db"));
    // In the way of the migration.
    conn.execute_batch("CREATE TABLE tenantry_trash (id)").unwrap();
    drop(conn);
    for _ in 0..2 {
        block_on(Store::open(dir.path())).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path().join("backups")).unwrap().count(), 0);
    }
    let conn = Connection::open(dir.path().join("tenantry.db")).unwrap();
    assert_eq!(pragma(&conn, "user_version"), "1");
    conn.execute_batch("DROP TABLE tenantry_trash").unwrap();
    drop(conn);
    block_on(block_on(Store::open(dir.path())).unwrap().close()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("backups")).unwrap().count(), 1);
}

/// A damaged database is not upgraded: its snapshot would be damaged too.
#[test]
fn a_damaged_store_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.db");
    let conn = of_version_1(&path);
    conn.execute_batch(
        "PRAGMA foreign_keys = OFF; PRAGMA writable_schema = ON;
         INSERT INTO users (id, email_key, email, created_at, updated_at, version) VALUES
            (x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'Ada@example.com', 1, 2, 3);
         DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_users_1'",
    )
    .unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let error = block_on(Store::open(dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn an_sqlite_that_loses_commits_is_refused() {
    assert_eq!(refuse_old_sqlite(3_051_002).unwrap_err().kind(), ErrorKind::Incompatible);
    refuse_old_sqlite(3_051_003).unwrap();
}

#[test]
fn the_file_bears_the_number_of_the_newest_migration() {
    let dir = tempfile::tempdir().unwrap();
    let conn = open_writer(&options(dir.path(), Durability::Full)).conn;
    let runner = embedded::migrations::runner();
    let newest = runner
        .get_migrations()
        .iter()
        .map(|migration| i64::from(migration.version()))
        .max()
        .unwrap();
    assert_eq!(pragma(&conn, "user_version"), newest.to_string());
    assert_eq!(i64::from(SCHEMA_VERSION), newest);
    assert_eq!(
        pragma(&conn, "application_id"),
        i64::from(u32::from_be_bytes(*b"Tnry")).to_string()
    );
    let recorded: i64 = conn
        .query_row("SELECT max(version) FROM tenantry_migrations", [], |row| row.get(0))
        .unwrap();
    assert_eq!(recorded, newest);
}

#[test]
fn every_connection_has_the_settings_that_it_needs() {
    for (durability, synchronous) in [(Durability::Full, "2"), (Durability::Normal, "1")] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), durability);
        let writer = open_writer(&options).conn;
        let reader = open_reader(&options).unwrap();
        for (name, of_writer, of_reader) in [
            ("journal_mode", "wal", "wal"),
            ("foreign_keys", "1", "1"),
            ("query_only", "0", "1"),
            ("trusted_schema", "0", "0"),
            ("cell_size_check", "1", "1"),
            ("temp_store", "2", "2"),
        ] {
            assert_eq!(pragma(&writer, name), of_writer, "{name} of the writer");
            assert_eq!(pragma(&reader, name), of_reader, "{name} of a reader");
        }
        assert_eq!(pragma(&writer, "synchronous"), synchronous);
        assert_eq!(pragma(&writer, "secure_delete"), "1");
        assert_eq!(pragma(&writer, "journal_size_limit"), (64 << 20).to_string());
        for conn in [&writer, &reader] {
            let defensive =
                conn.db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE).unwrap();
            assert!(defensive);
            assert!(conn.execute_batch("ATTACH ':memory:' AS other").is_err());
            // A string in double quotes is a mistake, and not a string.
            assert!(conn.prepare("SELECT \"nothing of the kind\"").is_err());
        }
    }
}

/// The text of every statement that is prepared on a connection, and so of whatever was run on it.
#[allow(unsafe_code, reason = "SQLite's list of its statements can't be had otherwise")]
fn statements(conn: &Connection) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // SAFETY: the handle is good for as long as the connection is, nobody prepares or finalizes a
    // statement meanwhile, and a statement's text lives as long as the statement.
    unsafe {
        let mut statement = ffi::sqlite3_next_stmt(conn.handle(), std::ptr::null_mut());
        while !statement.is_null() {
            let sql = std::ffi::CStr::from_ptr(ffi::sqlite3_sql(statement));
            found.insert(sql.to_str().unwrap().to_owned());
            statement = ffi::sqlite3_next_stmt(conn.handle(), statement);
        }
    }
    found
}

/// Runs every operation, each statement of which stays prepared on the connection.
fn run_every_operation(conn: &GuardedConnection, storage: &Result<Storage>) -> Result<()> {
    let ambient = SystemAmbient;
    let new_id = || ambient.new_id();
    let mut state = TxState::new(i64::MAX);
    let mut tx = WriteTx::new(WriteSession::new(conn, storage, ambient.now(), &new_id, &mut state));
    let chosen = |address, path: &str| NewUser {
        storage_path: Some(path.parse().unwrap()),
        ..new_user(address)
    };
    let ada = tx.create(&chosen("ada@example.com", "files/ada"))?;
    assert!(tx.create(&chosen("bob@example.com", "files/ada/x")).is_err());
    assert!(tx.create(&NewUser { id: Some(ada.id), ..new_user("bob@example.com") }).is_err());
    assert!(tx.sign_in(&email("bob@example.com"))?.is_new);
    assert!(!tx.sign_in(&email("bob@example.com"))?.is_new);
    let update = UserUpdate {
        email: Some(email("ada2@example.com")),
        expected_version: Some(1),
        ..Default::default()
    };
    tx.update(ada.id, &update)?;
    tx.suspend(ada.id)?;
    tx.resume(ada.id)?;
    tx.record_login(ada.id)?;
    assert_eq!(tx.upsert(&new_user("bob@example.com"), OnConflict::Update)?, Upserted::Unchanged);
    tx.delete(ada.id)?;
    assert_eq!(tx.find_in_trash(&email("ada2@example.com"))?.len(), 1);
    tx.confusables(&email("сосо@example.com"))?;
    assert!(!tx.has_non_ascii_addresses()?);
    assert!(tx.create(&NewUser { id: Some(ada.id), ..new_user("ada3@example.com") }).is_err());
    let ada = tx.restore(ada.id, Some(&email("ada4@example.com")))?;
    let bob = tx.get_by_email(&email("bob@example.com"))?.unwrap();
    tx.delete(bob.id)?;
    drop(tx);
    WriteSession::new(conn, storage, ambient.now(), &new_id, &mut state).run(|tx| {
        let measured_at = tx.now();
        let usage =
            Usage { files: 1, apparent_bytes: 1, allocated_bytes: 1, unreadable: 0, measured_at };
        tx.set_usage(ada.id, &usage)?;
        directories::make_directory(tx, ada.id)?;
        assert!(matches!(intents::settle(tx, ada.id)?, intents::Settled::Later));
        assert!(adopt::adopt(tx, ada.id, &"nowhere".parse()?).is_err());
        purge::begin_purge(tx, bob.id)?;
        purge::end_purge(tx, bob.id)?;
        purge::erase(tx)?;
        every_read(tx)
    })
}

fn every_read(tx: &Snapshot<'_>) -> Result<()> {
    tx.user_count()?;
    tx.intent_count()?;
    let page = tx.changes(None, 1)?;
    tx.changes(Some(&page.cursor), 1)?;
    tx.changes_cursor()?;
    tx.change_seqs()?;
    tx.advance_history(&mut History::new(page.changes[0].user_id, Some(page.cursor), 1))?;
    changes::trim(
        tx.conn(),
        SystemAmbient.now(),
        &Retention { age: Duration::ZERO, count: 1, step: 1 },
    )?;
    tx.user(crate::UserId::from_random(uuid::Uuid::from_u128(7)))?;
    tx.user_by_email(&email("bob@example.com"))?;
    tx.users_with_ids(&[crate::UserId::from_random(uuid::Uuid::from_u128(7))])?;
    tx.trashed(crate::UserId::from_random(uuid::Uuid::from_u128(7)))?;
    tx.trash_page(&TrashQuery::default())?;
    tx.directory(crate::UserId::from_random(uuid::Uuid::from_u128(7)))?;
    tx.usage(crate::UserId::from_random(uuid::Uuid::from_u128(7)))?;
    let now = SystemAmbient.now();
    let all_conditions = Filter {
        email_prefix: None,
        email_contains: Some("b".into()),
        created_after: Some(now),
        created_before: Some(now),
        inactive_since: Some(now),
        never_logged_in: true,
        suspended: Some(true),
        external_id: None,
    };
    let external_id: Option<crate::ExternalId> = Some("1".parse()?);
    let with_id = Filter { external_id: external_id.clone(), ..all_conditions.clone() };
    let id_alone = Filter { external_id, ..Filter::default() };
    let with_prefix = Filter { email_prefix: Some("bob".into()), ..all_conditions.clone() };
    let prefix_alone = Filter { email_prefix: Some("bob".into()), ..Filter::default() };
    let with_domain = Filter { email_prefix: Some("bob@ex".into()), ..Filter::default() };
    for filter in [
        Filter::default(),
        all_conditions,
        with_prefix,
        prefix_alone,
        with_domain,
        with_id,
        id_alone,
    ] {
        tx.count_where(&filter)?;
        tx.is_met_by(&filter, crate::UserId::from_random(uuid::Uuid::from_u128(7)))?;
        tx.page(&ListQuery {
            filter: filter.clone(),
            order: crate::Order::LastLogin,
            ..ListQuery::default()
        })?;
        tx.page(&ListQuery { filter, ..ListQuery::default() })?;
    }
    Ok(())
}

#[test]
fn no_statement_but_the_count_goes_through_a_whole_table() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_writer(&options(dir.path(), Durability::Full));
    let conn = GuardedConnection::new(opened.conn).unwrap();
    conn.unguarded().execute_batch("BEGIN IMMEDIATE").unwrap();
    run_every_operation(&conn, &opened.storage).unwrap();

    let own = conn.unguarded();
    let statements = statements(&own);
    assert!(
        statements.contains(Listing::new(&ListQuery::default()).unwrap().sql()),
        "{statements:#?}"
    );
    let mut with_plan = 0;
    for sql in &statements {
        let mut explain = own.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let mut plan = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            plan.push(row.get::<_, String>(3).unwrap());
        }
        with_plan += usize::from(!plan.is_empty());
        if sql.contains("count(*)") {
            continue;
        }
        // Those that hold a row, and what is just being done.
        let is_small = |step: &String| {
            step.ends_with("SCAN tenantry_store") || step.ends_with("SCAN tenantry_intents")
        };
        let scans =
            |step: &String| step.contains("SCAN") && !is_small(step) && step != "SCAN CONSTANT ROW";
        assert!(!plan.iter().any(scans), "{sql}\n{plan:#?}");
        // A prefix is looked for among the keys: never among all users in the order of creation.
        if sql.contains("+seq > ?1") {
            assert!(
                plan.iter().any(|step| step.contains("(email_key>? AND email_key<?)")),
                "{sql}\n{plan:#?}"
            );
        } else if sql.contains("seq > ?1 AND external_id = ?") {
            assert_eq!(
                plan,
                ["SEARCH users USING INDEX tenantry_users_external_id (external_id=? AND rowid>?)"],
                "{sql}"
            );
        } else if sql.contains("FROM users") && !sql.contains("UNION") {
            // Pages come from the table in its own order; nothing is sorted.
            let searches = |step: &String| {
                step.contains("SEARCH") || step.starts_with("CORRELATED SCALAR SUBQUERY")
            };
            assert!(
                plan.iter().all(|step| searches(step) && !step.contains("B-TREE")),
                "{sql}\n{plan:#?}"
            );
        }
    }
    // So many kinds of statements that look for something: if there are fewer, they weren't found.
    assert!(with_plan >= 14, "{with_plan} of {statements:#?}");
    drop(own);
    conn.roll_back().unwrap();
}

#[test]
fn a_connection_can_be_had_only_with_the_guard_up() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        block_on(Store::builder(dir.path()).ambient(Arc::new(SystemAmbient)).open()).unwrap();
    block_on(store.write(|tx| {
        // The store's own statements lower it for as long as they run.
        assert!(connection(tx).execute_batch("DELETE FROM users").is_err());
        tx.create(&new_user("ada@example.com"))?;
        assert!(connection(tx).execute_batch("DELETE FROM users").is_err());
        assert!(tx.create(&new_user("ADA@example.com")).is_err());
        assert!(connection(tx).execute_batch("DELETE FROM users").is_err());
        Ok::<_, Error>(())
    }))
    .unwrap();
    assert_eq!(block_on(store.count()).unwrap(), 1);
    block_on(store.close()).unwrap();
}

/// SQLite rolls back what is open when it closes a connection, and reports that to a hook which
/// rusqlite has freed by then.
#[test]
fn a_connection_that_is_dropped_within_a_transaction_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let conn = open_writer(&options(dir.path(), Durability::Full)).conn;
    let conn = GuardedConnection::new(conn).unwrap();
    conn.begin().unwrap();
    conn.unguarded().execute_batch("CREATE TABLE notes (text)").unwrap();
    drop(conn);
    let conn = open_writer(&options(dir.path(), Durability::Full)).conn;
    assert!(conn.prepare("SELECT * FROM notes").is_err());
}
