//! Backups that older programs have made: schema version 2 in an archive of format 1.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    ErrorKind, ListQuery, RestoreUserOptions, RestoredUser, Store, TrashQuery, UserBefore, UserId,
    check, open_backup,
};

use crate::archives::{Forged, dir_of, names_are};
use crate::backup::{back_up, restore, verify};
use crate::support::{SqlitePlace, block_on, email};

const ADA: &str = "3fa2b1c4-0000-4000-8000-000000000001";
const EVE: &str = "7fa2b1c4-0000-4000-8000-000000000002";

/// Ada with a directory of her own choice, Eve with one in the trash, and what an application
/// keeps.
const ROWS: &str = "
    INSERT INTO users (seq, id, email_key, email, created_at, updated_at, version, storage_path, has_directory) VALUES
        (1, x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'Ada@example.com', 1, 2, 3, 'customers/ada', 1);
    INSERT INTO tenantry_trash
        (seq, deleted_at, user_seq, id, email_key, email, created_at, updated_at, version, storage_path, has_directory)
    VALUES (5, 400, 2, x'7fa2b1c4000040008000000000000002', 'eve@example.com', 'eve@example.com', 1, 1, 1, 'x/eve', 1);
    CREATE TABLE notes (user_id BLOB REFERENCES users (id) ON DELETE CASCADE, text TEXT) STRICT;
    INSERT INTO notes VALUES (x'3fa2b1c4000040008000000000000001', 'of Ada')";

/// Makes a database of schema version 2, as the program of that version records it.
fn make_database(path: &Path, store_id: &str) {
    let new = SqlitePlace::new();
    block_on(new.open().close()).unwrap();
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(include_str!("../../src/sqlite/migrations/V1__users.sql")).unwrap();
    conn.execute_batch(include_str!("../version_1.sql")).unwrap();
    conn.execute_batch(include_str!("../../src/sqlite/migrations/V2__storage.sql")).unwrap();
    conn.execute("ATTACH ?1 AS new", [new.database().to_str().unwrap()]).unwrap();
    let record = "INSERT INTO main.tenantry_migrations SELECT * FROM new.tenantry_migrations WHERE version = 2";
    assert_eq!(conn.execute(record, []).unwrap(), 1);
    conn.execute_batch("DETACH new").unwrap();
    let store =
        "INSERT INTO tenantry_store (only_row, id, is_marked) VALUES (1, unhex(?1, '-'), 1)";
    conn.execute(store, [store_id]).unwrap();
    conn.execute_batch(ROWS).unwrap();
    assert_eq!(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0)).unwrap(), 2);
    conn.close().unwrap();
}

/// Makes a backup as that program made it. The application has these tables besides.
fn make_backup(dir: &Path, tables: &str) -> PathBuf {
    let place = SqlitePlace::new();
    let file = dir.join("a.tar.zst");
    back_up(&place.open(), &file).unwrap();
    let mut archive = Forged::of(&file);
    let database = dir.join("old.db");
    make_database(&database, archive.manifest["store_id"].as_str().unwrap());
    let conn = Connection::open(&database).unwrap();
    conn.execute_batch(tables).unwrap();
    conn.close().unwrap();
    archive.replace(0, fs::read(&database).unwrap());
    for (field, value) in [("format", 1), ("schema_version", 2), ("users", 1), ("trashed", 1)] {
        archive.manifest[field] = json!(value);
    }
    archive.push("storage/customers/ada", None);
    archive.push("storage/customers/ada/a.txt", Some(b"a of Ada's"));
    archive.push(&format!("trash/{EVE}"), None);
    archive.push(&format!("trash/{EVE}/e.txt"), Some(b"e of Eve's"));
    archive.write(&file);
    file
}

fn bring_back(store: &Store, backup: &Path, id: UserId, even_if_purged: bool) -> RestoredUser {
    let options = RestoreUserOptions { even_if_purged, dry_run: false };
    block_on(async { store.restore_user(open_backup(backup).await?, id, options, |_| {}).await })
        .unwrap()
}

#[test]
fn a_backup_of_schema_version_2_and_format_1_is_verified_listed_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_backup(dir.path(), "");
    let before = fs::read(&file).unwrap();
    let (ada, eve): (UserId, UserId) = (ADA.parse().unwrap(), EVE.parse().unwrap());

    let verified = verify(&file).unwrap();
    assert_eq!((verified.findings, verified.missing_directories), (vec![], 0));
    assert_eq!((verified.manifest.format, verified.manifest.schema_version), (1, 2));

    let backup = block_on(open_backup(&file)).unwrap();
    let living = backup.list(&ListQuery::default()).unwrap().users;
    let trashed = backup.list_trash(&TrashQuery::default()).unwrap().users;
    assert_eq!(
        living.iter().map(|user| user.email.as_str()).collect::<Vec<_>>(),
        ["Ada@example.com"]
    );
    assert_eq!(
        trashed.iter().map(|it| (it.user.id, it.deleted_at.as_unix_us())).collect::<Vec<_>>(),
        [(eve, 400)]
    );
    assert_eq!(backup.get_by_email(&email("ada@example.com")).unwrap().as_ref(), living.first());

    let into = dir.path().join("restored");
    let restored = restore(&file, &into).unwrap();
    assert_eq!((restored.report.findings, restored.incomplete), (vec![], 0));
    let store = block_on(Store::open(&into)).unwrap();
    assert_eq!(store.upgrade(), None);
    assert_eq!(block_on(store.list(&ListQuery::default())).unwrap().users, living);
    assert_eq!(block_on(store.list_trash(&TrashQuery::default())).unwrap().users, trashed);
    assert_eq!(fs::read_to_string(dir_of(&store, ada).join("a.txt")).unwrap(), "a of Ada's");
    assert_eq!(
        fs::read_to_string(into.join("trash").join(EVE).join("e.txt")).unwrap(),
        "e of Eve's"
    );

    // The one who was in the trash of the backup, out of the trash of the store, and for good.
    let back = bring_back(&store, &file, eve, false);
    assert_eq!((back.before, back.files, back.same), (UserBefore::Trashed, 0, 1));
    assert_eq!(fs::read_to_string(dir_of(&store, eve).join("e.txt")).unwrap(), "e of Eve's");
    block_on(store.delete(eve)).unwrap();
    block_on(store.purge(tenantry::Purge::User(eve), |_| {})).unwrap();
    let back = bring_back(&store, &file, eve, true);
    assert_eq!((back.before, back.files), (UserBefore::Purged, 1));
    assert_eq!(
        fs::read_to_string(dir_of(&store, back.user.id).join("e.txt")).unwrap(),
        "e of Eve's"
    );

    // Both into a store that knows neither.
    let other = SqlitePlace::new();
    let there = other.open();
    for (id, name) in [(ada, "a.txt"), (eve, "e.txt")] {
        let back = bring_back(&there, &file, id, false);
        assert_eq!((back.before, back.files, back.user.id), (UserBefore::Missing, 1, id));
        names_are(&dir_of(&there, id), &[name]);
    }
    assert_eq!(block_on(there.get(ada)).unwrap().as_ref(), living.first());
    block_on(there.close()).unwrap();
    assert_eq!(block_on(check(other.data_dir())).unwrap().findings, []);
    assert!(fs::read(&file).unwrap() == before);
}

/// Opening such a store refuses the upgrade; a backup of it was upgraded all the same, and its
/// application's key was broken.
#[test]
fn a_backup_whose_application_refers_to_addresses_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        make_backup(dir.path(), "CREATE TABLE mails (address TEXT REFERENCES users (email_key))");
    let into = dir.path().join("restored");
    let errors = [
        verify(&file).unwrap_err(),
        block_on(open_backup(&file)).unwrap_err(),
        restore(&file, &into).unwrap_err(),
    ];
    for error in errors {
        assert!(
            error.kind() == ErrorKind::Incompatible && error.to_string().contains("mails"),
            "{error:?}"
        );
    }
    assert!(!into.exists());
}
