//! One user alone as an archive: that all of them comes over, and whom a store refuses.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use tenantry::{
    BackupOptions, ErrorKind, ExportedUser, Progress, Purge, RestoreUserOptions, Result, Set,
    Store, TrashQuery, User, UserId, UserManifest, UserUpdate, check, open_backup,
    read_user_manifest, restore_backup, verify_backup,
};

use crate::archives::{FileState, Forged, dir_of, names, names_are, noise, set_time, tree};
use crate::process::{self, Process};
use crate::support::{
    Boxed, SHORT, SqlitePlace, block_on, kind, mode, new_user, new_user_at, numbered_id, poll_once,
    set_mode, skipped, to_email,
};

pub(crate) fn export(store: &Store, id: UserId, file: &Path) -> Result<ExportedUser> {
    block_on(store.export_user(id, file, |_| {}))
}

pub(crate) fn import(store: &Store, file: &Path) -> Result<UserManifest> {
    block_on(store.import_user(file, |_| {})).map(|imported| imported.manifest)
}

/// A store with a user who has a few files, and an archive of them.
pub(crate) fn small_store() -> (SqlitePlace, Store, User, PathBuf) {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user_at("ada@example.com", "customers/ada"))).unwrap();
    let of_ada = dir_of(&store, ada.id);
    fs::create_dir(of_ada.join("sub")).unwrap();
    fs::write(of_ada.join("a.txt"), "a file of Ada's").unwrap();
    fs::write(of_ada.join("sub/b.txt"), "b".repeat(1_000)).unwrap();
    fs::write(of_ada.join("l".repeat(200)), "of a long name").unwrap();
    let file = place.as_ref().join("ada.tar.zst");
    assert_eq!(export(&store, ada.id, &file).unwrap().incomplete, 0);
    (place, store, ada, file)
}

/// Another store, in which nobody is.
pub(crate) fn other_store() -> (SqlitePlace, Store) {
    let place = SqlitePlace::new();
    let store = place.open();
    (place, store)
}

/// What there is of a store: its users, those in the trash, and all files, also those that nobody
/// is to have left.
pub(crate) fn world(
    place: &SqlitePlace,
    store: &Store,
) -> (Vec<User>, Vec<User>, BTreeMap<PathBuf, FileState>) {
    let users = block_on(crate::support::all(store, Default::default()));
    let trash = block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    let mut files = BTreeMap::new();
    for name in names(&place.data_dir()).into_iter().filter(|name| !name.starts_with("tenantry.")) {
        files.insert(
            name.clone().into(),
            FileState { content: None, mode: mode(place.data_dir().join(&name)) },
        );
        files.extend(
            tree(&place.data_dir().join(&name))
                .into_iter()
                .map(|(path, met)| (Path::new(&name).join(path), met)),
        );
    }
    (users, trash.into_iter().map(|trashed| trashed.user).collect(), files)
}

/// A refusal that changes nothing.
#[track_caller]
pub(crate) fn is_refused(
    place: &SqlitePlace,
    store: &Store,
    file: &Path,
    expected: ErrorKind,
) -> String {
    let before = world(place, store);
    let error = import(store, file).unwrap_err();
    assert_eq!(error.kind(), expected, "{error}");
    assert!(world(place, store) == before, "{:?}", world(place, store).2.keys());
    error.to_string()
}

#[test]
fn an_export_and_import_transfers_the_row_and_every_file() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user_at("Ada@Example.com", "customers/ada ü"))).unwrap();
    block_on(store.create(new_user("bob@example.com"))).unwrap();
    block_on(store.record_login(ada.id)).unwrap();
    let ada = block_on(store.update(ada.id, to_email("Ada.L@Example.com"))).unwrap();
    let of_ada = dir_of(&store, ada.id);
    let long = "n".repeat(255);
    for name in [
        &b"plain.txt"[..],
        b"two\nlines",
        b"not \xff UTF-8 \x80",
        long.as_bytes(),
        b"-",
        b"\\",
        b" ",
        b"files",
    ] {
        fs::write(of_ada.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut deep = of_ada.join("deep");
    for _ in 0..12 {
        deep.push(&long);
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("down here"), "deep").unwrap();
    fs::create_dir_all(of_ada.join("empty/within")).unwrap();
    fs::write(of_ada.join("empty file"), "").unwrap();
    // Beyond what is kept in memory.
    fs::write(of_ada.join("large"), noise(20 << 20)).unwrap();
    fs::write(of_ada.join("program"), "#!/bin/sh\n").unwrap();
    set_mode(of_ada.join("program"), 0o4755);
    set_mode(of_ada.join("plain.txt"), 0o666);
    set_mode(of_ada.join("deep"), 0o777);
    set_time(&of_ada.join("program"), 1_000_000_000);

    let file = place.as_ref().join("ada.tar.zst");
    let exported = export(&store, ada.id, &file).unwrap();
    assert_eq!((exported.left_out, exported.incomplete), (vec![], 0));
    assert_eq!(exported.archive_bytes, fs::metadata(&file).unwrap().len());
    assert_eq!(mode(&file), 0o600);
    names_are(place.as_ref(), &["ada.tar.zst", "data"]);
    let ada = block_on(store.get(ada.id)).unwrap().unwrap();
    assert_eq!(exported.manifest.user, ada);
    assert_eq!(block_on(read_user_manifest(&file)).unwrap(), exported.manifest);

    let (place_there, there) = other_store();
    let earlier = block_on(there.create(new_user("carol@example.com"))).unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let callback = {
        let calls = Arc::clone(&calls);
        move |Progress { files, .. }: Progress| {
            assert_eq!(calls.fetch_add(1, Ordering::SeqCst) + 1, files)
        }
    };
    let imported = block_on(there.import_user(&file, callback)).unwrap().manifest;
    assert_eq!(imported, exported.manifest);
    assert_eq!(calls.load(Ordering::SeqCst), imported.files);
    let (users, trash, _) = world(&place_there, &there);
    assert_eq!((users, trash), (vec![earlier, ada.clone()], vec![]));
    let (before, after) = (tree(&of_ada), tree(&dir_of(&there, ada.id)));
    assert!(before.keys().eq(after.keys()), "{:?}", after.keys());
    assert_eq!(imported.files, after.values().filter(|met| met.content.is_some()).count() as u64);
    for (path, met) in &after {
        assert!(met.content == before[path].content, "{}", path.display());
        // What a file was allowed comes back, but for the right to run as its owner.
        let expected = before[path].mode & if met.content.is_none() { 0o7777 } else { 0o777 };
        assert_eq!(met.mode, expected, "{}", path.display());
    }
    assert_eq!(mode(dir_of(&there, ada.id)), 0o700);
    assert_eq!(block_on(check(place_there.data_dir())).unwrap().findings, []);

    // They are a user like any other: to the trash and back, and out again.
    block_on(there.delete(ada.id)).unwrap();
    block_on(there.restore(ada.id, None)).unwrap();
    let again =
        export(&there, ada.id, &place_there.as_ref().join("again.tar.zst")).unwrap().manifest;
    assert_eq!((&again.user, again.files, again.bytes), (&ada, imported.files, imported.bytes));
    assert_ne!(again.store_id, imported.store_id);
    names_are(&place_there.data_dir().join("trash"), &[]);
    block_on(there.delete(ada.id)).unwrap();
    assert_eq!(block_on(there.purge(Purge::User(ada.id), |_| {})).unwrap().files, imported.files);
    block_on(there.close()).unwrap();
    names_are(&place_there.data_dir(), &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    assert_eq!(block_on(check(place_there.data_dir())).unwrap().findings, []);
}

/// Addresses that were accepted before their look-alikes were known: the user must not be locked
/// in, nor taken for damage.
#[test]
fn a_user_with_a_formerly_accepted_address_is_exported_checked_and_imported() {
    let (place, store, ada, file) = small_store();
    fs::remove_file(&file).unwrap();
    block_on(store.close()).unwrap();
    let address = "ada@g\u{43e}\u{43e}gle.example";
    assert_eq!(kind(address.parse::<tenantry::Email>()), ErrorKind::InvalidEmail);
    let conn = tenantry::sqlite::rusqlite::Connection::open(place.database()).unwrap();
    let of_earlier = [address, "ada@xn--ggle-55da.example"];
    assert_eq!(
        conn.execute("UPDATE users SET email = ?1, email_folded = ?2", of_earlier).unwrap(),
        1
    );
    conn.close().unwrap();

    let store = place.open();
    let ada = block_on(store.get(ada.id)).unwrap().unwrap();
    assert_eq!((ada.email.as_str(), ada.email.key()), (of_earlier[0], of_earlier[1]));
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
    assert_eq!(export(&store, ada.id, &file).unwrap().incomplete, 0);
    let (place_there, there) = other_store();
    assert_eq!(import(&there, &file).unwrap().user, ada);
    assert_eq!(world(&place_there, &there).0, std::slice::from_ref(&ada));
    block_on(store.delete(ada.id)).unwrap();
    block_on(store.restore(ada.id, None)).unwrap();
    assert_eq!(block_on(store.get(ada.id)).unwrap().map(|user| user.email), Some(ada.email));
}

#[test]
fn a_missing_and_an_empty_directory_stay_different_after_an_import() {
    let (place, store) = other_store();
    let bare = block_on(store.create(new_user("bare@example.com"))).unwrap();
    let empty = block_on(store.create(new_user("empty@example.com"))).unwrap();
    block_on(store.directory(empty.id)).unwrap();
    let (place_there, there) = other_store();
    for user in [&bare, &empty] {
        let file = place.as_ref().join(user.id.to_string());
        let exported = export(&store, user.id, &file).unwrap();
        assert_eq!(
            (exported.incomplete, exported.manifest.files, exported.manifest.bytes),
            (0, 0, 0)
        );
        assert_eq!(import(&there, &file).unwrap().user, *user);
    }
    assert_eq!(block_on(there.users_with_directory()).unwrap(), [empty.id]);
    assert!(!place_there.data_dir().join("storage").join(bare.storage_path.as_str()).exists());
    assert!(place_there.data_dir().join("storage").join(empty.storage_path.as_str()).is_dir());
    assert_eq!(block_on(check(place_there.data_dir())).unwrap().findings, []);
    names_are(&dir_of(&there, bare.id), &[]);
}

/// Their row doesn't know of the directory, as after an older backup of the database was restored.
#[test]
fn an_unrecorded_derived_directory_is_exported_and_a_chosen_one_is_not() {
    let (place, store) = other_store();
    let derived = block_on(store.create(new_user("derived@example.com"))).unwrap();
    let chosen = block_on(store.create(new_user_at("chosen@example.com", "chosen"))).unwrap();
    for (user, files) in [(derived, 1), (chosen, 0)] {
        let dir = place.data_dir().join("storage").join(user.storage_path.as_str());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("x"), "x").unwrap();
        let exported = export(&store, user.id, &place.as_ref().join(user.id.to_string())).unwrap();
        assert_eq!(
            (exported.manifest.files, exported.incomplete),
            (files, 0),
            "{}",
            user.storage_path
        );
    }
}

#[test]
fn an_import_conflicts_with_living_trashed_and_purged_users() {
    let (place, store, ada, file) = small_store();
    // Into the store that they came from.
    is_refused(&place, &store, &file, ErrorKind::EmailTaken);
    block_on(store.update(ada.id, to_email("ada2@example.com"))).unwrap();
    is_refused(&place, &store, &file, ErrorKind::PathTaken);
    block_on(store.delete(ada.id)).unwrap();
    let told = is_refused(&place, &store, &file, ErrorKind::IdTaken);
    assert_eq!(told, "a user in the trash has this id");
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    let told = is_refused(&place, &store, &file, ErrorKind::IdTaken);
    assert!(told.contains("purged") && told.contains("ever used again"), "{told}");

    // Into another.
    let (place, store) = other_store();
    let other = block_on(store.create(new_user("ADA@example.com"))).unwrap().id;
    let error = import(&store, &file).unwrap_err();
    assert_eq!((error.kind(), error.taken_by()), (ErrorKind::EmailTaken, Some(other)));
    is_refused(&place, &store, &file, ErrorKind::EmailTaken);
    block_on(store.delete(other)).unwrap();
    // A path, and what lies within or around it, stays taken for good.
    for path in ["customers", "customers/ada", "customers/ada/within"] {
        let (place, store) = other_store();
        let other = block_on(store.create(new_user_at("other@example.com", path))).unwrap().id;
        is_refused(&place, &store, &file, ErrorKind::PathTaken);
        block_on(store.delete(other)).unwrap();
        is_refused(&place, &store, &file, ErrorKind::PathTaken);
        block_on(store.purge(Purge::User(other), |_| {})).unwrap();
        is_refused(&place, &store, &file, ErrorKind::PathTaken);
    }
}

#[test]
fn an_import_is_blocked_by_an_entry_at_the_storage_path() {
    let (_place, _store, ada, file) = small_store();
    let (place, store) = other_store();
    let storage = place.data_dir().join("storage");
    let outside = place.as_ref().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(storage.join("customers/ada")).unwrap();
    is_refused(&place, &store, &file, ErrorKind::StorageBlocked);
    fs::remove_dir(storage.join("customers/ada")).unwrap();
    for above in ["customers/ada", "customers"] {
        let path = storage.join(above);
        fs::write(&path, "mine").unwrap();
        is_refused(&place, &store, &file, ErrorKind::StorageBlocked);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        let before = tree(&outside);
        assert_eq!(kind(import(&store, &file)), ErrorKind::StorageBlocked);
        assert!(tree(&outside) == before);
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_dir(storage.join("customers"));
    }
    assert_eq!(import(&store, &file).unwrap().user.id, ada.id);
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
}

#[test]
fn an_export_reports_a_missing_user_and_an_existing_file() {
    let (place, store, ada, file) = small_store();
    let new = place.as_ref().join("new.tar.zst");
    assert_eq!(kind(export(&store, ada.id, &file)), ErrorKind::Exists);
    assert_eq!(kind(export(&store, numbered_id(1), &new)), ErrorKind::NotFound);
    assert_eq!(kind(export(&store, ada.id, &place.as_ref().join("nowhere/x"))), ErrorKind::Io);
    block_on(store.delete(ada.id)).unwrap();
    let error = export(&store, ada.id, &new).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("trash")), (ErrorKind::NotFound, true));
    let faster = new.clone();
    block_on(store.restore(ada.id, None)).unwrap();
    let late =
        block_on(store.export_user(ada.id, &new, move |_| fs::write(&faster, "mine").unwrap()));
    assert_eq!(kind(late), ErrorKind::Exists);
    assert_eq!(fs::read(&new).unwrap(), b"mine");
    assert_eq!(kind(import(&store, &place.as_ref().join("nothing"))), ErrorKind::NotFound);
    names_are(place.as_ref(), &["ada.tar.zst", "data", "new.tar.zst"]);
}

#[test]
fn entries_that_cannot_be_archived_are_reported() {
    let (place, store, ada, _) = small_store();
    let of_ada = dir_of(&store, ada.id);
    let _socket = std::os::unix::net::UnixListener::bind(of_ada.join("sub/socket")).unwrap();
    let exported = export(&store, ada.id, &place.as_ref().join("socket.tar.zst")).unwrap();
    let left_out: Vec<&Path> = exported.left_out.iter().map(|(path, _)| path.as_path()).collect();
    assert_eq!((left_out, exported.incomplete), (vec![Path::new("files/sub/socket")], 1));
    assert_eq!((exported.manifest.files, exported.manifest.left_out), (3, 1));
    fs::rename(&of_ada, place.as_ref().join("elsewhere")).unwrap();
    let exported = export(&store, ada.id, &place.as_ref().join("lost.tar.zst")).unwrap();
    let left_out: Vec<&Path> = exported.left_out.iter().map(|(path, _)| path.as_path()).collect();
    assert_eq!((left_out, exported.incomplete), (vec![Path::new("files")], 1));
    // They come without it then, as somebody who never had one.
    let (_place, there) = other_store();
    assert_eq!(import(&there, &place.as_ref().join("lost.tar.zst")).unwrap().files, 0);
    assert_eq!(block_on(there.users_with_directory()).unwrap(), []);
}

#[test]
fn a_purge_has_to_wait_for_an_export_and_a_deletion_does_not() {
    let (place, store, ada, _) = small_store();
    let impatient = block_on(Store::builder(place.data_dir()).busy_timeout(SHORT).open()).unwrap();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap().id;
    block_on(store.delete(bob)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (store, second, seen) = (impatient, place.as_ref().join("second"), Arc::clone(&seen));
        move |Progress { files, .. }: Progress| {
            if files == 1 {
                let whole = BackupOptions::default();
                seen.lock().unwrap().extend([
                    kind(block_on(store.purge(Purge::User(bob), |_| {}))),
                    kind(export(&store, ada.id, &second)),
                    kind(block_on(store.create_backup(&second, whole, |_| {}))),
                ]);
                block_on(store.delete(ada.id)).unwrap();
            }
        }
    };
    let exported =
        block_on(store.export_user(ada.id, place.as_ref().join("first"), callback)).unwrap();
    assert_eq!((exported.incomplete, exported.manifest.files), (0, 3));
    assert_eq!(*seen.lock().unwrap(), [ErrorKind::Busy; 3]);
    block_on(store.purge(Purge::User(bob), |_| {})).unwrap();
}

#[test]
fn of_two_imports_of_one_archive_at_once_one_is_refused() {
    let (_place, _store, ada, file) = small_store();
    for _ in 0..10 {
        let (place, store) = other_store();
        let stores = [store.clone(), place.open()];
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads = stores.each_ref().map(|store| scope.spawn(|| import(store, &file)));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        let refused: Vec<ErrorKind> =
            outcomes.into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
        assert_eq!(refused, [ErrorKind::EmailTaken]);
        assert_eq!(tree(&dir_of(&store, ada.id)).len(), 4);
        for store in stores {
            block_on(store.close()).unwrap();
        }
        names_are(&place.data_dir(), &["storage", "tenantry.db", "tenantry.lock", "trash"]);
        assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
    }
}

/// What stages there are in a data directory.
pub(crate) fn stages(place: &SqlitePlace) -> Vec<String> {
    names(&place.data_dir())
        .into_iter()
        .filter(|name| name.starts_with(".tenantry-import-"))
        .collect()
}

#[test]
fn an_import_whose_future_is_dropped_leaves_nothing() {
    let (_place, _store, _, file) = small_store();
    let (place, store) = other_store();
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let progress = move |Progress { files, .. }: Progress| {
        if files == 1 {
            entered.send(()).unwrap();
            let _ = released.recv();
        }
    };
    let mut future: Boxed<'_, _> = Box::pin(store.import_user(&file, progress));
    assert!(poll_once(&mut future).is_pending());
    has_entered.recv().unwrap();
    assert_eq!(stages(&place).len(), 1);
    // A second one doesn't take the files of the first for something that a crash has left.
    let (other_place, other) = other_store();
    let bob = block_on(other.create(new_user("bob@example.com"))).unwrap().id;
    let bobs = other_place.as_ref().join("bob.tar.zst");
    export(&other, bob, &bobs).unwrap();
    import(&store, &bobs).unwrap();
    assert_eq!(stages(&place).len(), 1);
    drop(future);
    drop(release);
    while !stages(&place).is_empty() {
        thread::yield_now();
    }
    assert_eq!(block_on(store.count()).unwrap(), 1);
    import(&store, &file).unwrap();
}

#[test]
fn a_panic_of_the_callback_leaves_nothing() {
    let (_place, _store, _, file) = small_store();
    let (place, store) = other_store();
    let failed =
        block_on(store.import_user(&file, |progress| assert!(progress.files < 2, "as ordered")));
    assert_eq!(kind(failed), ErrorKind::Internal);
    assert_eq!(stages(&place), [""; 0]);
    import(&store, &file).unwrap();
}

#[test]
fn an_import_removes_stages_that_crashes_have_left_and_nothing_else() {
    let (_place, _store, _, file) = small_store();
    let (place, store) = other_store();
    let leave = |name: &str| {
        fs::create_dir_all(place.data_dir().join(name).join("deep/er")).unwrap();
        fs::write(place.data_dir().join(name).join("deep/er/file"), "left").unwrap();
        set_mode(place.data_dir().join(name).join("deep"), 0o500);
    };
    [".tenantry-import-1", ".tenantry-import-2", ".tenantry-other", "mine"]
        .into_iter()
        .for_each(leave);
    fs::write(place.data_dir().join(".tenantry-import-file"), "mine").unwrap();
    std::os::unix::fs::symlink("mine", place.data_dir().join(".tenantry-import-link")).unwrap();
    import(&store, &file).unwrap();
    assert_eq!(stages(&place), [".tenantry-import-file", ".tenantry-import-link"]);
    for kept in [".tenantry-other", "mine"] {
        assert_eq!(tree(&place.data_dir().join(kept)).len(), 3);
        set_mode(place.data_dir().join(kept).join("deep"), 0o700);
    }
}

#[test]
fn a_backup_and_the_archive_of_a_user_are_not_taken_for_each_other() {
    let (place, store, ada, file) = small_store();
    let backup = place.as_ref().join("backup.tar.zst");
    block_on(store.create_backup(&backup, BackupOptions::default(), |_| {})).unwrap();
    let into = place.as_ref().join("restored");
    for error in [
        block_on(verify_backup(&file, |_| {})).unwrap_err(),
        block_on(restore_backup(&file, &into, |_| {})).unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.to_string().contains("of one user")),
            (ErrorKind::Incompatible, true)
        );
    }
    assert!(!into.exists());
    for error in
        [import(&store, &backup).unwrap_err(), block_on(read_user_manifest(&backup)).unwrap_err()]
    {
        assert_eq!(
            (error.kind(), error.to_string().contains("backup of a whole")),
            (ErrorKind::Incompatible, true)
        );
    }
    assert_eq!(block_on(store.get(ada.id)).unwrap().unwrap(), ada);
    assert_eq!(stages(&place), [""; 0]);
}

/// The user is there then, and so must their files be, wherever they are.
#[test]
fn imported_files_that_cannot_be_moved_yet_are_kept_until_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let child =
        Process::start_without_privileges("can't move what it imports", dir.path(), dir.path(), "");
    assert_eq!(child.end(), ["in place"]);
}

pub(crate) fn child_cannot_move(dir: &Path) {
    let (_place, store, ada, file) = small_store();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
    fs::write(dir_of(&store, bob.id).join("b"), "b").unwrap();
    let bobs = dir.join("bob.tar.zst");
    export(&store, bob.id, &bobs).unwrap();
    let data = dir.join("data");
    let there = block_on(Store::open(&data)).unwrap();
    let storage = data.join("storage");
    set_mode(&storage, 0o500);
    for archive in [&file, &bobs] {
        assert_eq!(kind(import(&there, archive)), ErrorKind::Unfinished);
        // Nor is it done twice.
        assert_eq!(kind(import(&there, archive)), ErrorKind::EmailTaken);
    }
    assert_eq!(block_on(there.get(ada.id)).unwrap(), Some(ada.clone()));
    assert_eq!(names(&data).iter().filter(|name| name.starts_with(".tenantry-import-")).count(), 2);
    set_mode(&storage, 0o700);
    assert!(tree(&dir_of(&there, ada.id)) == tree(&data.join("storage/customers/ada")));
    assert_eq!(fs::read(dir_of(&there, ada.id).join("a.txt")).unwrap(), b"a file of Ada's");
    assert_eq!(fs::read(dir_of(&there, bob.id).join("b")).unwrap(), b"b");
    block_on(there.close()).unwrap();
    assert_eq!(block_on(check(&data)).unwrap().findings, []);
    names_are(&data, &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    process::say("in place");
}

#[test]
fn on_a_full_disk_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("disk")).unwrap();
    let mount = "mount -t tmpfs -o size=2m tmpfs";
    let probe = Command::new("unshare")
        .args(["-rm", "sh", "-c", &format!("{mount} \"$0\"")])
        .arg(dir.path())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return skipped(
            "a full disk needs `unshare` and permission to mount a tmpfs in a namespace",
        );
    }
    let shell = format!(
        "exec unshare -rm sh -c '{mount} \"$TENANTRY_TEST_DIR/disk\" && exec \"$0\" --exact child::child_process_entry --nocapture' \"$0\""
    );
    let child = Process::start("moves a user on a full disk", dir.path(), &shell);
    assert_eq!(child.end(), ["nothing is left"]);
}

pub(crate) fn child_on_a_full_disk(dir: &Path) {
    let (_place, store, ada, small) = small_store();
    fs::write(dir_of(&store, ada.id).join("large"), noise(4 << 20)).unwrap();
    let disk = dir.join("disk");
    assert_eq!(kind(export(&store, ada.id, &disk.join("a.tar.zst"))), ErrorKind::Full);
    names_are(&disk, &[]);
    let large = dir.join("large.tar.zst");
    export(&store, ada.id, &large).unwrap();
    let there = block_on(Store::open(disk.join("data"))).unwrap();
    let before = tree(&disk.join("data/storage"));
    assert_eq!(kind(import(&there, &large)), ErrorKind::Full);
    assert!(tree(&disk.join("data/storage")) == before);
    names_are(&disk.join("data/trash"), &[]);
    assert!(names(&disk.join("data")).iter().all(|name| !name.starts_with('.')));
    assert_eq!(block_on(there.count()).unwrap(), 0);
    // Nor is it the store's end.
    import(&there, &small).unwrap();
    block_on(there.close()).unwrap();
    assert_eq!(block_on(check(disk.join("data"))).unwrap().findings, []);
    process::say("nothing is left");
}

#[test]
fn what_a_user_may_lack_is_in_the_archive_if_they_have_it() {
    let (place, store, ada, file) = small_store();
    let row = Forged::of(&file).manifest["user"].as_object().unwrap().clone();
    let known_to_earlier =
        ["id", "email", "created_at", "last_login_at", "storage_path", "updated_at", "version"];
    assert_eq!(
        row.len(),
        known_to_earlier.len(),
        "an earlier version refuses other fields: {row:?}"
    );
    let update = UserUpdate {
        external_id: Set::To(" 00u1".parse().unwrap()),
        name: Set::To("Ada Lovelace".parse().unwrap()),
        attributes: Set::To(r#"{"b":1.50,"a":"\u00e9\n"}"#.parse().unwrap()),
        ..UserUpdate::default()
    };
    block_on(store.update(ada.id, update)).unwrap();
    let ada = block_on(store.suspend(ada.id)).unwrap();
    let file = place.as_ref().join("whole.tar.zst");
    assert_eq!(export(&store, ada.id, &file).unwrap().manifest.user, ada);
    let (_place_there, there) = other_store();
    assert_eq!(import(&there, &file).unwrap().user, ada);
    assert_eq!(block_on(there.get(ada.id)).unwrap().as_ref(), Some(&ada));

    // Purged, and back out of a backup with another id.
    let backup = place.as_ref().join("backup.tar.zst");
    block_on(store.create_backup(&backup, BackupOptions::default(), |_| {})).unwrap();
    block_on(store.delete(ada.id)).unwrap();
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    let options = RestoreUserOptions { even_if_purged: true, dry_run: false };
    let back = block_on(async {
        store.restore_user(open_backup(&backup).await?, ada.id, options, |_| {}).await
    });
    let back = back.unwrap().user;
    assert!(back.id != ada.id && back.storage_path != ada.storage_path);
    assert_eq!((back.version, back.suspended_at), (1, ada.suspended_at));
    assert_eq!(
        (back.external_id, back.name, back.attributes),
        (ada.external_id, ada.name, ada.attributes)
    );
}
