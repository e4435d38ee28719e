//! The library with the oldest rusqlite of its range: what an application does in a day, a table of
//! its own among it.

use futures_lite::future::block_on;
use rusqlite::Connection;
use tenantry::{BackupOptions, Email, ListQuery, NewUser, Store, UserId, restore_backup, sqlite};

/// The release of SQLite that the store requires.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Takes the connection of this package's rusqlite. So the package compiles only if that is the one
/// of the library.
fn add_note(conn: &Connection, user: UserId) -> rusqlite::Result<i64> {
    conn.execute_batch("CREATE TABLE notes (user_id BLOB NOT NULL REFERENCES users (id), text TEXT NOT NULL) STRICT")?;
    conn.execute("INSERT INTO notes VALUES (?1, 'hello')", [user])?;
    conn.query_row("SELECT count(*) FROM notes WHERE user_id = ?1", [user], |row| row.get(0))
}

fn address(number: u32) -> Email {
    format!("user{number}@example.com").parse().unwrap()
}

#[test]
fn a_store_works_with_the_oldest_rusqlite() {
    assert!(rusqlite::version_number() >= OLDEST_SQLITE, "{}", rusqlite::version());
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("data")).await.unwrap();
        let new = (0..100).map(|number| NewUser::new(address(number))).collect();
        let users = store.create_many(new).await.unwrap();
        let ada = users[7].as_ref().unwrap().clone();
        store.directory(ada.id).await.unwrap().write("notes.txt", "hello").unwrap();

        let notes = store
            .write(move |tx| Ok::<_, tenantry::Error>(add_note(sqlite::connection(tx), ada.id)?));
        assert_eq!(notes.await.unwrap(), 1);
        let search = ListQuery { limit: 30, ..ListQuery::default() };
        assert_eq!(store.list(&search).await.unwrap().users.len(), 30);

        store.delete(ada.id).await.unwrap();
        assert_eq!(store.count().await.unwrap(), 99);
        store.restore(ada.id, None).await.unwrap();
        assert_eq!(
            store.directory(ada.id).await.unwrap().read_to_string("notes.txt").unwrap(),
            "hello"
        );

        let archive = dir.path().join("backup");
        let made =
            store.create_backup(archive.clone(), BackupOptions::default(), |_| {}).await.unwrap();
        assert_eq!(made.manifest.users, 100);
        store.close().await.unwrap();
        restore_backup(archive, dir.path().join("restored"), |_| {}).await.unwrap();
        let restored = Store::open(dir.path().join("restored")).await.unwrap();
        assert_eq!(
            restored.get_by_email(&address(7)).await.unwrap().map(|user| user.id),
            Some(ada.id)
        );
        assert_eq!(
            restored.directory(ada.id).await.unwrap().read_to_string("notes.txt").unwrap(),
            "hello"
        );
        restored.close().await.unwrap();
    });
}
