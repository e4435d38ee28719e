//! One user out of a backup of the whole store: who was deleted or purged, and who has lost files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    BackupOptions, ErrorKind, ListQuery, Purge, RestoreUserOptions, RestoredUser, Result, Store,
    TrashQuery, User, UserBefore, UserId, check, open_backup,
};

use crate::archives::{Forged, dir_of, names, names_are, tree};
use crate::backup::back_up;
use crate::support::{SqlitePlace, block_on, email, kind, new_user, new_user_at, to_email};

const AS_EVER: RestoreUserOptions = RestoreUserOptions { even_if_purged: false, dry_run: false };
const EVEN_IF_PURGED: RestoreUserOptions =
    RestoreUserOptions { even_if_purged: true, dry_run: false };

/// A store with a backup of Ada and others.
struct World {
    place: SqlitePlace,
    store: Store,
    ada: User,
    backup: PathBuf,
}

/// What Ada has in the backup.
const FILES: [(&str, &str); 4] = [
    ("a.txt", "a of Ada's"),
    ("sub/b.txt", "b of Ada's"),
    ("sub/deep/c.txt", "c"),
    ("other/d.txt", "d"),
];

impl World {
    fn new() -> Self {
        let place = SqlitePlace::new();
        let store = place.open();
        let ada = block_on(store.create(new_user_at("ada@example.com", "customers/ada"))).unwrap();
        let other = block_on(store.create(new_user("other@example.com"))).unwrap();
        fs::write(dir_of(&store, other.id).join("secret"), "of another").unwrap();
        let dir = dir_of(&store, ada.id);
        for (path, text) in FILES {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(dir.join("empty")).unwrap();
        block_on(store.record_login(ada.id)).unwrap();
        let ada = block_on(store.get(ada.id)).unwrap().unwrap();
        let backup = place.as_ref().join("a.tar.zst");
        back_up(&store, &backup).unwrap();
        Self { place, store, ada, backup }
    }

    fn bring_back(&self, options: RestoreUserOptions) -> Result<RestoredUser> {
        bring_back(&self.store, &self.backup, self.ada.id, options)
    }

    fn dir(&self) -> PathBuf {
        dir_of(&self.store, self.ada.id)
    }

    fn now(&self) -> User {
        block_on(self.store.get(self.ada.id)).unwrap().unwrap()
    }

    /// Everything in the data directory but for the database.
    fn tree(&self) -> BTreeMap<PathBuf, crate::archives::FileState> {
        let mut tree = tree(&self.place.data_dir());
        tree.retain(|path, _| !path.to_str().unwrap().starts_with("tenantry."));
        tree
    }

    #[track_caller]
    fn is_sound(&self) {
        assert_eq!(block_on(check(self.place.data_dir())).unwrap().findings, []);
        let left = names(&self.place.data_dir());
        assert!(!left.iter().any(|name| name.starts_with(".tenantry")), "{left:?}");
    }
}

fn bring_back(
    store: &Store,
    backup: &Path,
    id: UserId,
    options: RestoreUserOptions,
) -> Result<RestoredUser> {
    block_on(async { store.restore_user(open_backup(backup).await?, id, options, |_| {}).await })
}

/// The files of a directory as texts.
fn texts(dir: &Path) -> BTreeMap<String, String> {
    let files = tree(dir).into_iter().filter_map(|(path, met)| Some((path, met.content?.0)));
    files
        .map(|(path, text)| (path.to_str().unwrap().to_owned(), String::from_utf8(text).unwrap()))
        .collect()
}

fn expected(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    FILES
        .iter()
        .chain(changes)
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn lost_files_are_restored_beside_existing_ones() {
    let world = World::new();
    let dir = world.dir();
    fs::write(dir.join("a.txt"), "changed since").unwrap();
    fs::write(dir.join("sub/own.txt"), "new since").unwrap();
    fs::remove_dir_all(dir.join("sub/deep")).unwrap();
    fs::remove_dir_all(dir.join("other")).unwrap();
    fs::remove_dir(dir.join("empty")).unwrap();
    let renamed = block_on(world.store.update(world.ada.id, to_email("ada2@example.com"))).unwrap();
    let (before, user) = (world.tree(), world.now());

    let options = RestoreUserOptions { dry_run: true, ..AS_EVER };
    let told = world.bring_back(options).unwrap();
    assert!(world.tree() == before, "a dry run changes nothing");
    assert_eq!(world.now(), user);

    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!(restored, told);
    assert_eq!((restored.before, restored.user), (UserBefore::Living, renamed));
    assert_eq!((restored.files, restored.bytes, restored.same, restored.kept), (2, 2, 1, 1));
    assert_eq!(restored.kept_paths, [PathBuf::from("a.txt")]);
    assert_eq!(texts(&dir), expected(&[("a.txt", "changed since"), ("sub/own.txt", "new since")]));
    assert!(dir.join("empty").is_dir());
    world.is_sound();

    // Once more there is nothing to do.
    let before = world.tree();
    let again = world.bring_back(AS_EVER).unwrap();
    assert_eq!((again.files, again.same, again.kept), (0, 3, 1));
    assert!(world.tree() == before);
    world.is_sound();
}

#[test]
fn a_lost_directory_is_restored() {
    let world = World::new();
    fs::remove_dir_all(world.place.data_dir().join("storage/customers")).unwrap();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!((restored.before, restored.files), (UserBefore::Living, 4));
    assert_eq!(texts(&world.dir()), expected(&[]));
    assert_eq!(world.now(), world.ada);
    world.is_sound();
}

#[test]
fn a_user_in_the_trash_is_restored_with_the_files_of_the_trash_and_the_backup() {
    let world = World::new();
    let dir = world.dir();
    fs::write(dir.join("own.txt"), "new since").unwrap();
    fs::remove_file(dir.join("sub/b.txt")).unwrap();
    block_on(world.store.delete(world.ada.id)).unwrap();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!(
        (restored.before, restored.user, restored.files),
        (UserBefore::Trashed, world.ada.clone(), 1)
    );
    assert_eq!(restored.same, 3);
    assert_eq!(texts(&dir), expected(&[("own.txt", "new since")]));
    world.is_sound();

    // Nothing is missing.
    block_on(world.store.delete(world.ada.id)).unwrap();
    assert_eq!(world.bring_back(AS_EVER).unwrap().files, 0);
    assert_eq!(texts(&dir), expected(&[("own.txt", "new since")]));
    world.is_sound();
}

#[test]
fn a_purged_user_is_restored_only_on_request_and_with_a_new_id() {
    let world = World::new();
    block_on(world.store.delete(world.ada.id)).unwrap();
    block_on(world.store.purge(Purge::User(world.ada.id), |_| {})).unwrap();
    let before = world.tree();
    assert_eq!(kind(world.bring_back(AS_EVER)), ErrorKind::IdTaken);
    assert!(world.tree() == before);

    let restored = world.bring_back(EVEN_IF_PURGED).unwrap();
    let User { id, email, created_at, last_login_at, storage_path, .. } = restored.user.clone();
    assert_eq!((restored.before, restored.files), (UserBefore::Purged, 4));
    assert!(id != world.ada.id && storage_path != world.ada.storage_path);
    assert_eq!(
        (&email, created_at, last_login_at),
        (&world.ada.email, world.ada.created_at, world.ada.last_login_at)
    );
    assert_eq!(block_on(world.store.get_by_email(&email)).unwrap(), Some(restored.user));
    assert_eq!(texts(&dir_of(&world.store, id)), expected(&[]));
    world.is_sound();
    // The second one would be another.
    assert_eq!(kind(world.bring_back(EVEN_IF_PURGED)), ErrorKind::EmailTaken);
    world.is_sound();
}

#[test]
fn an_unknown_user_is_restored_with_the_row_of_the_backup() {
    let world = World::new();
    let other = SqlitePlace::new();
    let store = other.open();
    let restored = bring_back(&store, &world.backup, world.ada.id, AS_EVER).unwrap();
    assert_eq!(
        (restored.before, &restored.user, restored.files),
        (UserBefore::Missing, &world.ada, 4)
    );
    assert_eq!(block_on(store.get(world.ada.id)).unwrap().as_ref(), Some(&world.ada));
    assert_eq!(texts(&dir_of(&store, world.ada.id)), expected(&[]));
    assert_eq!(block_on(store.count()).unwrap(), 1);
    assert_eq!(block_on(check(other.data_dir())).unwrap().findings, []);
}

#[test]
fn an_address_that_another_user_has_now_is_a_conflict_and_nothing_changes() {
    let world = World::new();
    block_on(world.store.delete(world.ada.id)).unwrap();
    let other = block_on(world.store.create(new_user("Ada@Example.com"))).unwrap().id;
    for purged in [false, true] {
        if purged {
            block_on(world.store.purge(Purge::User(world.ada.id), |_| {})).unwrap();
        }
        let before = world.tree();
        for dry_run in [true, false] {
            let error =
                world.bring_back(RestoreUserOptions { dry_run, ..EVEN_IF_PURGED }).unwrap_err();
            assert_eq!((error.kind(), error.taken_by()), (ErrorKind::EmailTaken, Some(other)));
        }
        assert!(world.tree() == before);
        assert_eq!(
            block_on(world.store.list_trash(&TrashQuery::default())).unwrap().users.len(),
            usize::from(!purged)
        );
        world.is_sound();
    }
}

#[test]
fn a_user_in_the_trash_of_the_backup_is_restored_from_there() {
    let world = World::new();
    block_on(world.store.delete(world.ada.id)).unwrap();
    let later = world.place.as_ref().join("later.tar.zst");
    back_up(&world.store, &later).unwrap();
    block_on(world.store.purge(Purge::User(world.ada.id), |_| {})).unwrap();
    let restored = bring_back(&world.store, &later, world.ada.id, EVEN_IF_PURGED).unwrap();
    assert_eq!(texts(&dir_of(&world.store, restored.user.id)), expected(&[]));
    let nobody = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    assert_eq!(kind(bring_back(&world.store, &later, nobody, EVEN_IF_PURGED)), ErrorKind::NotFound);
    world.is_sound();
}

/// What the application, or a user through it, has put where the backup has something else.
#[test]
fn a_restore_of_a_user_replaces_no_file_and_follows_no_link() {
    let world = World::new();
    let dir = world.dir();
    let outside = world.place.as_ref().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("b.txt"), "outside").unwrap();
    for name in ["sub", "other"] {
        fs::remove_dir_all(dir.join(name)).unwrap();
    }
    fs::remove_file(dir.join("a.txt")).unwrap();
    symlink(&outside, dir.join("sub")).unwrap();
    symlink(outside.join("a"), dir.join("a.txt")).unwrap();
    fs::write(dir.join("other"), "a file").unwrap();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!((restored.files, restored.same), (0, 0));
    let mut kept: Vec<&str> =
        restored.kept_paths.iter().map(|path| path.to_str().unwrap()).collect();
    kept.sort_unstable();
    assert_eq!(
        kept,
        ["a.txt", "other", "other/d.txt", "sub", "sub/b.txt", "sub/deep", "sub/deep/c.txt"]
    );
    names_are(&dir, &["a.txt", "empty", "other", "sub"]);
    assert_eq!(fs::read_link(dir.join("sub")).unwrap(), outside);
    assert_eq!(fs::read_link(dir.join("a.txt")).unwrap(), outside.join("a"));
    assert_eq!(fs::read_to_string(dir.join("other")).unwrap(), "a file");
    names_are(&outside, &["b.txt"]);
    world.is_sound();
}

/// A directory that nobody was given is where a user without one would get theirs.
#[test]
fn an_orphaned_directory_is_not_mixed_with_restored_files() {
    let world = World::new();
    block_on(world.store.delete(world.ada.id)).unwrap();
    let strange = world.place.data_dir().join("storage/customers/ada");
    fs::create_dir_all(&strange).unwrap();
    fs::write(strange.join("a.txt"), "of nobody").unwrap();
    let before = world.tree();
    assert_eq!(kind(world.bring_back(AS_EVER)), ErrorKind::StorageBlocked);
    assert!(world.tree() == before);
    let other = SqlitePlace::new();
    let store = other.open();
    block_on(store.create(tenantry::NewUser {
        id: Some(world.ada.id),
        ..new_user_at("ada@example.com", "customers/x")
    }))
    .unwrap();
    let strange = other.data_dir().join("storage/customers/x");
    fs::create_dir_all(&strange).unwrap();
    assert_eq!(
        kind(bring_back(&store, &world.backup, world.ada.id, AS_EVER)),
        ErrorKind::StorageBlocked
    );
    names_are(&strange, &[]);
}

#[test]
fn a_backup_lists_its_users() {
    let world = World::new();
    block_on(world.store.create(new_user("bob@example.com"))).unwrap();
    block_on(world.store.delete(world.ada.id)).unwrap();
    let file = world.place.as_ref().join("both.tar.zst");
    let options = BackupOptions { database_only: true };
    block_on(world.store.create_backup(&file, options, |_| {})).unwrap();
    let backup = block_on(open_backup(&file)).unwrap();
    let one = ListQuery { limit: 1, ..ListQuery::default() };
    let first = backup.list(&one).unwrap();
    let second = backup.list(&ListQuery { cursor: first.next_cursor, ..one }).unwrap();
    assert_eq!(second.next_cursor, None);
    let listed: Vec<User> = first.users.into_iter().chain(second.users).collect();
    assert_eq!(listed, block_on(world.store.list(&ListQuery::default())).unwrap().users);
    let trash = block_on(world.store.list_trash(&TrashQuery::default())).unwrap();
    assert_eq!(backup.list_trash(&TrashQuery::default()).unwrap(), trash);
    assert_eq!(backup.get_trashed(world.ada.id).unwrap(), trash.users.into_iter().next());
    assert_eq!(backup.get_by_email(&email("BOB@example.com")).unwrap().as_ref(), listed.last());
    assert_eq!(backup.get(world.ada.id).unwrap(), None);
    assert_eq!((backup.manifest().users, backup.manifest().trashed), (2, 1));
    // Without files in it the user alone comes back.
    assert_eq!(bring_back(&world.store, &file, world.ada.id, AS_EVER).unwrap().files, 0);
    world.is_sound();
    assert_eq!(kind(block_on(open_backup(world.place.as_ref().join("none")))), ErrorKind::NotFound);
    let half = fs::read(&world.backup).unwrap();
    fs::write(&file, &half[..half.len() / 4]).unwrap();
    assert_eq!(kind(block_on(open_backup(&file))), ErrorKind::Corrupt);
}

/// Opens a database of an application's with a log, and writes this into it. While it is open, the
/// change is in the log.
fn write_into(database: &Path, text: &str) -> Connection {
    let conn = Connection::open(database).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE IF NOT EXISTS t (text)")
        .unwrap();
    conn.execute("INSERT INTO t VALUES (?1)", [text]).unwrap();
    conn
}

fn read_from(database: &Path) -> String {
    let conn = Connection::open(database).unwrap();
    conn.query_row("SELECT group_concat(text) FROM t", [], |row| row.get(0)).unwrap()
}

/// Older programs have put the log of a database into a backup as the file that it is. Beside the
/// database of today, SQLite took it for that one's, and wrote pages of then into it.
#[test]
fn a_wal_or_journal_is_never_restored_beside_another_database_nor_the_reverse() {
    let world = World::new();
    let dir = world.dir();
    let (database, log) = (dir.join("app.db"), dir.join("app.db-wal"));
    let old = world.place.as_ref().join("old.db");
    let conn = write_into(&old, "of then");
    let mut archive = Forged::of(&world.backup);
    for suffix in ["", "-wal", "-shm"] {
        let octets = fs::read(format!("{}{suffix}", old.display())).unwrap();
        archive.push(&format!("storage/customers/ada/app.db{suffix}"), Some(&octets));
    }
    archive.write(&world.backup);
    conn.close().unwrap();

    // The database of today is closed, and so without a log.
    write_into(&database, "of today").close().unwrap();
    assert!(!log.exists());
    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!((restored.files, restored.kept), (0, 3));
    assert!(restored.kept_paths.contains(&"app.db-wal".into()), "{:?}", restored.kept_paths);
    assert!(!log.exists());
    assert_eq!(read_from(&database), "of today");

    // A log is all that was left of it.
    let conn = write_into(&database, "and more");
    let left = fs::read(&log).unwrap();
    conn.close().unwrap();
    fs::remove_file(&database).unwrap();
    fs::write(&log, &left).unwrap();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert!(restored.kept_paths.contains(&"app.db-wal".into()), "{:?}", restored.kept_paths);
    assert!(!database.exists());
    assert!(fs::read(&log).unwrap() == left);

    // Where nothing is left of it, all of it comes back.
    for name in ["app.db-wal", "app.db-shm"] {
        let _ = fs::remove_file(dir.join(name));
    }
    assert_eq!(world.bring_back(AS_EVER).unwrap().files, 3);
    assert_eq!(read_from(&database), "of then");
    world.is_sound();
}

/// Sparse files and files with several names were said to differ from the backup, though nothing
/// had happened to them, and a name that was lost never came back.
#[test]
fn sparse_files_and_hard_links_are_recognized_and_restored() {
    let world = World::new();
    let dir = world.dir();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 24).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 23).unwrap();
    sparse.sync_all().unwrap();
    fs::hard_link(dir.join("a.txt"), dir.join("sub/a.txt")).unwrap();
    back_up_again(&world);
    let before = world.tree();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert_eq!((restored.files, restored.same, restored.kept_paths), (0, 6, vec![]));
    assert!(world.tree() == before);

    // Which of the two names the archive has as the file depends on the file system.
    let other_of = |name: &str| dir.join(if name == "a.txt" { "sub/a.txt" } else { "a.txt" });
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let mut linked = 0;
    for name in ["a.txt", "sub/a.txt"] {
        fs::remove_file(dir.join(name)).unwrap();
        assert_eq!(world.bring_back(AS_EVER).unwrap().files, 1, "{name}");
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "a of Ada's");
        linked += u32::from(inode(&dir.join(name)) == inode(&other_of(name)));
    }
    assert!(linked > 0);
    // A hole elsewhere is something else.
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"more", 1 << 20).unwrap();
    let restored = world.bring_back(AS_EVER).unwrap();
    assert!(restored.kept_paths.contains(&"sparse".into()), "{:?}", restored.kept_paths);
    world.is_sound();
}

fn back_up_again(world: &World) {
    fs::remove_file(&world.backup).unwrap();
    back_up(&world.store, &world.backup).unwrap();
}
