//! One user alone as an archive: that all of them comes over, whom a store refuses, and archives that somebody made to do harm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use serde_json::{Value, json};
use tar::EntryType;
use tenantry::{
    BackupOptions, ErrorKind, ExportedUser, Progress, Purge, Result, Store, TrashQuery, User, UserId, UserManifest,
    check, read_user_manifest, restore_backup, verify_backup,
};

use crate::archives::{
    self, FileState, Forged, Forgeries, Forgery, dir_of, header, is_refusal, names, names_are, noise, set_time, tree,
};
use crate::process::{self, Process};
use crate::support::{
    Boxed, SHORT, SqlitePlace, block_on, email, kind, mode, new_user, new_user_at, numbered_id, poll_once, set_mode,
    skipped, to_email,
};

fn export(store: &Store, id: UserId, file: &Path) -> Result<ExportedUser> {
    block_on(store.export_user(id, file, |_| {}))
}

fn import(store: &Store, file: &Path) -> Result<UserManifest> {
    block_on(store.import_user(file, |_| {})).map(|imported| imported.manifest)
}

/// A store with a user who has a few files, and an archive of them.
fn small_store() -> (SqlitePlace, Store, User, PathBuf) {
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
fn other_store() -> (SqlitePlace, Store) {
    let place = SqlitePlace::new();
    let store = place.open();
    (place, store)
}

/// What there is of a store: its users, those in the trash, and all files, also those that nobody is to have left.
fn world(place: &SqlitePlace, store: &Store) -> (Vec<User>, Vec<User>, BTreeMap<PathBuf, FileState>) {
    let users = block_on(crate::support::all(store, Default::default()));
    let trash = block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    let mut files = BTreeMap::new();
    for name in names(&place.data_dir()).into_iter().filter(|name| !name.starts_with("tenantry.")) {
        files.insert(name.clone().into(), FileState { content: None, mode: mode(place.data_dir().join(&name)) });
        files.extend(
            tree(&place.data_dir().join(&name)).into_iter().map(|(path, met)| (Path::new(&name).join(path), met)),
        );
    }
    (users, trash.into_iter().map(|trashed| trashed.user).collect(), files)
}

/// A refusal that changes nothing.
#[track_caller]
fn is_refused(place: &SqlitePlace, store: &Store, file: &Path, expected: ErrorKind) -> String {
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
    for name in [&b"plain.txt"[..], b"two\nlines", b"not \xff UTF-8 \x80", long.as_bytes(), b"-", b"\\", b" ", b"files"]
    {
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
        move |Progress { files, .. }: Progress| assert_eq!(calls.fetch_add(1, Ordering::SeqCst) + 1, files)
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
    let again = export(&there, ada.id, &place_there.as_ref().join("again.tar.zst")).unwrap().manifest;
    assert_eq!((&again.user, again.files, again.bytes), (&ada, imported.files, imported.bytes));
    assert_ne!(again.store_id, imported.store_id);
    names_are(&place_there.data_dir().join("trash"), &[]);
    block_on(there.delete(ada.id)).unwrap();
    assert_eq!(block_on(there.purge(Purge::User(ada.id), |_| {})).unwrap().files, imported.files);
    block_on(there.close()).unwrap();
    names_are(&place_there.data_dir(), &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    assert_eq!(block_on(check(place_there.data_dir())).unwrap().findings, []);
}

/// Addresses that were accepted before their look-alikes were known: the user must not be locked in, nor taken for damage.
#[test]
fn a_user_with_a_formerly_accepted_address_is_exported_checked_and_imported() {
    let (place, store, ada, file) = small_store();
    fs::remove_file(&file).unwrap();
    block_on(store.close()).unwrap();
    let address = "ada@g\u{43e}\u{43e}gle.example";
    assert_eq!(kind(address.parse::<tenantry::Email>()), ErrorKind::InvalidEmail);
    let conn = tenantry::sqlite::rusqlite::Connection::open(place.database()).unwrap();
    let of_earlier = [address, "ada@xn--ggle-55da.example"];
    assert_eq!(conn.execute("UPDATE users SET email = ?1, email_folded = ?2", of_earlier).unwrap(), 1);
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
    block_on(store.storage(empty.id)).unwrap();
    let (place_there, there) = other_store();
    for user in [&bare, &empty] {
        let file = place.as_ref().join(user.id.to_string());
        let exported = export(&store, user.id, &file).unwrap();
        assert_eq!((exported.incomplete, exported.manifest.files, exported.manifest.bytes), (0, 0, 0));
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
        assert_eq!((exported.manifest.files, exported.incomplete), (files, 0), "{}", user.storage_path);
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
    let late = block_on(store.export_user(ada.id, &new, move |_| fs::write(&faster, "mine").unwrap()));
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
    let exported = block_on(store.export_user(ada.id, place.as_ref().join("first"), callback)).unwrap();
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
        let refused: Vec<ErrorKind> = outcomes.into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
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
fn stages(place: &SqlitePlace) -> Vec<String> {
    names(&place.data_dir()).into_iter().filter(|name| name.starts_with(".tenantry-import-")).collect()
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
    let failed = block_on(store.import_user(&file, |progress| assert!(progress.files < 2, "as ordered")));
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
    [".tenantry-import-1", ".tenantry-import-2", ".tenantry-other", "mine"].into_iter().for_each(leave);
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
        assert_eq!((error.kind(), error.to_string().contains("of one user")), (ErrorKind::Incompatible, true));
    }
    assert!(!into.exists());
    for error in [import(&store, &backup).unwrap_err(), block_on(read_user_manifest(&backup)).unwrap_err()] {
        assert_eq!((error.kind(), error.to_string().contains("backup of a whole")), (ErrorKind::Incompatible, true));
    }
    assert_eq!(block_on(store.get(ada.id)).unwrap().unwrap(), ada);
    assert_eq!(stages(&place), [""; 0]);
}

/// A store into which archives are imported that ought to be refused, and what was wrong with that.
struct Hostile {
    place: SqlitePlace,
    store: Store,
    file: PathBuf,
    before: (Vec<User>, Vec<User>, BTreeMap<PathBuf, FileState>),
    wrong: Vec<String>,
}

impl Hostile {
    fn new() -> Self {
        let (place, store) = other_store();
        let bob = block_on(store.create(new_user_at("bob@example.com", "bob"))).unwrap();
        fs::write(dir_of(&store, bob.id).join("mine"), "mine").unwrap();
        let before = world(&place, &store);
        Self { file: place.as_ref().join("x.tar.zst"), place, store, before, wrong: Vec::new() }
    }

    /// Makes sure that nothing comes of the attempt to import the file.
    fn is_refused(&mut self, what: &str, is_expected: impl Fn(ErrorKind) -> bool) {
        match import(&self.store, &self.file) {
            Err(error) if is_expected(error.kind()) => {}
            other => self.wrong.push(format!("{what}: {other:?}")),
        }
        let left = world(&self.place, &self.store);
        let outside = names(self.place.as_ref());
        if left != self.before || outside.len() != 2 {
            self.wrong.push(format!("{what}: there is {:?} and {outside:?}", left.2.keys()));
            *self = Self { wrong: std::mem::take(&mut self.wrong), ..Self::new() };
        }
    }

    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// What is no archive of a user.
fn forgeries() -> Forgeries {
    let mut forgeries = archives::forgeries();
    for given in [json!("backup"), json!("users"), json!(""), json!(null), json!(1)] {
        forgeries.add(format!("the kind {given}"), move |x| x.manifest["kind"] = given.clone());
    }
    forgeries.add_at(&[
        "",
        ".",
        "..",
        "/",
        "../x",
        "/etc/x",
        "files/../x",
        "files/..",
        "files//x",
        "files/./x",
        "files/x/",
        "files/x\0y",
        "x",
        "filesx",
        "File",
        "storage/x",
        "trash/x",
        "tenantry.db",
        "manifest.jsonl",
        "files",
    ]);
    forgeries.add("no directory for the files", |x| {
        x.entries.remove(0);
        x.lines.remove(0);
    });
    forgeries.add("the directory at the end", |x| {
        x.entries.rotate_left(1);
        x.lines.rotate_left(1);
    });
    for field in ["store_id", "exported_at", "user", "files", "bytes", "left_out"] {
        forgeries.add(format!("no {field}"), move |x| drop(x.manifest.as_object_mut().unwrap().remove(field)));
    }
    for field in ["id", "email", "created_at", "storage_path", "updated_at", "version"] {
        forgeries.add(format!("no {field} of the user"), move |x| {
            x.manifest["user"].as_object_mut().unwrap().remove(field);
        });
        for value in [json!(null), json!([]), json!({}), json!(true), json!(1.5)] {
            forgeries.add(format!("the {field} {value} of the user"), move |x| {
                x.manifest["user"][field] = value.clone();
            });
        }
    }
    for value in [json!(-1), json!("1"), json!(1e300)] {
        forgeries.add(format!("the version {value}"), move |x| x.manifest["user"]["version"] = value.clone());
    }
    forgeries.add("a field of a user that nobody knows", |x| x.manifest["user"]["is_admin"] = true.into());
    forgeries
}

#[test]
fn an_archive_that_isn_t_what_its_manifest_announces_is_refused() {
    let (_place, _store, ada, file) = small_store();
    let honest = Forged::of(&file);
    // Put together as it was, it is good; so it is the one change for which it is refused.
    let mut hostile = Hostile::new();
    honest.write(&hostile.file);
    let (_other_place, other) = other_store();
    assert_eq!(import(&other, &hostile.file).unwrap().user, ada);
    let forgeries = forgeries().0;
    assert!(forgeries.len() > 150, "{}", forgeries.len());
    for (what, forge) in forgeries {
        let mut forged = honest.clone();
        forge(&mut forged);
        forged.write(&hostile.file);
        hostile.is_refused(&what, is_refusal);
    }
    for (what, octets) in [
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary,\n".repeat(1_000)),
        ("an empty archive", zstd::encode_all(&[][..], 1).unwrap()),
        ("an archive of nothing", zstd::encode_all(&[0; 1024][..], 1).unwrap()),
        ("something compressed", zstd::encode_all(&noise(10_000)[..], 1).unwrap()),
    ] {
        fs::write(&hostile.file, octets).unwrap();
        hostile.is_refused(what, is_refusal);
    }
    hostile.end();
}

#[test]
fn a_row_that_no_user_can_have_is_refused_as_such() {
    let (_place, _store, _, file) = small_store();
    let honest = Forged::of(&file);
    let mut hostile = Hostile::new();
    let long = format!("{}@example.com", "a".repeat(65));
    let values: [(&str, ErrorKind, &[Value]); 7] = [
        ("email", ErrorKind::InvalidEmail, &[json!(""), json!("x"), json!("a\0b@example.com"), json!(long)]),
        (
            "id",
            ErrorKind::InvalidId,
            &[
                json!(""),
                json!("../x"),
                json!("00000000-0000-0000-0000-000000000000"),
                json!("018f3b5c-0000-7000-8000-000000000001"),
            ],
        ),
        (
            "storage_path",
            ErrorKind::InvalidPath,
            &[
                json!(""),
                json!("../x"),
                json!("/etc/x"),
                json!("x/../../y"),
                json!("x\0"),
                json!("e\u{301}"),
                json!(".tenantry-store"),
                json!("3f/a2/3fa2b1c4-0000-4000-8000-000000000001"),
                json!("x".repeat(513)),
            ],
        ),
        ("created_at", ErrorKind::InvalidTimestamp, &[json!(""), json!("now"), json!("9999-12-31T00:00:00Z")]),
        ("last_login_at", ErrorKind::InvalidTimestamp, &[json!(""), json!("0000-01-01T00:00:00Z")]),
        ("updated_at", ErrorKind::InvalidTimestamp, &[json!("2026-02-30T00:00:00Z")]),
        ("version", ErrorKind::InvalidUser, &[json!(0), json!(User::MAX_VERSION + 1), json!(u64::MAX)]),
    ];
    for (field, expected, values) in values {
        for value in values {
            let mut forged = honest.clone();
            forged.manifest["user"][field] = value.clone();
            forged.write(&hostile.file);
            hostile.is_refused(&format!("the {field} {value}"), |kind| kind == expected);
        }
    }
    // What is odd but good comes over: another's derived path isn't, one's own is, and so is the end of each range.
    let mut forged = honest;
    let user = &mut forged.manifest["user"];
    user["id"] = "3FA2B1C4-0000-4000-8000-000000000001".into();
    user["storage_path"] = "3f/a2/3fa2b1c4-0000-4000-8000-000000000001".into();
    user["version"] = User::MAX_VERSION.into();
    user["created_at"] = "0001-01-01T00:00:00Z".into();
    user["updated_at"] = "9999-12-30T22:00:00Z".into();
    forged.write(&hostile.file);
    let imported = import(&hostile.store, &hostile.file).unwrap().user;
    assert_eq!(block_on(hostile.store.get_by_email(&email("ada@example.com"))).unwrap(), Some(imported));
    assert_eq!(block_on(check(hostile.place.data_dir())).unwrap().findings, []);
    hostile.before = world(&hostile.place, &hostile.store);
    hostile.end();
}

/// No more is written than the first line announces, however much the others list.
#[test]
fn an_archive_that_exceeds_its_totals_is_refused_before_it_is_written() {
    let (_place, _store, _, file) = small_store();
    for field in ["files", "bytes"] {
        let mut forged = Forged::of(&file);
        forged.manifest[field] = 0.into();
        let (place, store) = other_store();
        let file = place.as_ref().join("x");
        forged.write(&file);
        let failed = block_on(store.import_user(&file, |progress| assert_eq!(progress.files, 0, "a file was written")));
        assert_eq!(kind(failed), ErrorKind::Corrupt);
        assert_eq!(stages(&place), [""; 0]);
    }
}

/// An archive that has many compressed blocks.
fn larger_archive() -> (User, Vec<u8>, BTreeMap<PathBuf, FileState>) {
    let (place, store, ada, _) = small_store();
    fs::write(dir_of(&store, ada.id).join("noise"), noise(100_000)).unwrap();
    let file = place.as_ref().join("larger.tar.zst");
    export(&store, ada.id, &file).unwrap();
    let (place_there, there) = other_store();
    import(&there, &file).unwrap();
    let files = world(&place_there, &there).2;
    (ada, fs::read(file).unwrap(), files)
}

#[test]
fn a_truncated_archive_is_refused() {
    let (_, octets, _) = larger_archive();
    let mut hostile = Hostile::new();
    // The end is where a cut is most easily overlooked.
    for length in (0..octets.len()).step_by(octets.len() / 60).chain(octets.len() - 20..octets.len()) {
        fs::write(&hostile.file, &octets[..length]).unwrap();
        hostile.is_refused(&format!("{length} of {} bytes", octets.len()), is_refusal);
    }
    hostile.end();
}

#[test]
fn a_flipped_bit_in_an_archive_is_refused_unless_it_is_meaningless() {
    let (ada, octets, expected) = larger_archive();
    let mut random = blake3::Hasher::new().update(b"flips").finalize_xof();
    let mut hostile = Hostile::new();
    let mut overlooked = 0;
    let regions = [0..600, 600..octets.len() - 20, octets.len() - 20..octets.len()];
    for index in 0..150 {
        let mut number = [0; 8];
        random.fill(&mut number);
        // Where the manifest is, in the files, and at the end.
        let region = &regions[index % regions.len()];
        let bit = region.start * 8 + usize::try_from(u64::from_le_bytes(number) >> 8).unwrap() % (region.len() * 8);
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&hostile.file, &flipped).unwrap();
        let (place, store) = other_store();
        match import(&store, &hostile.file) {
            Err(_) => hostile.is_refused(&format!("the bit {bit}"), is_refusal),
            Ok(imported) => {
                overlooked += 1;
                let (users, trash, files) = world(&place, &store);
                assert_eq!((imported.user, users, trash), (ada.clone(), vec![ada.clone()], vec![]), "the bit {bit}");
                let contents = |files: &BTreeMap<PathBuf, FileState>| -> Vec<_> {
                    let files = files.iter().filter(|(path, _)| path.starts_with("storage/customers"));
                    files.map(|(path, met)| (path.clone(), met.content.clone(), met.mode)).collect()
                };
                assert!(contents(&files) == contents(&expected), "the bit {bit}");
            }
        }
    }
    assert!(overlooked < 10, "{overlooked} of 150");
    hostile.end();
}

#[test]
fn no_bit_that_has_changed_changes_who_is_in_an_archive() {
    let (place, _store, _, file) = small_store();
    let (honest, octets) = (block_on(read_user_manifest(&file)).unwrap(), fs::read(&file).unwrap());
    let flipped = place.as_ref().join("flipped");
    let mut refused = 0;
    for bit in 0..octets.len() * 8 {
        let mut other = octets.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        fs::write(&flipped, other).unwrap();
        match block_on(read_user_manifest(&flipped)) {
            Ok(manifest) => assert_eq!(manifest, honest, "the bit {bit}"),
            // And not an address, say, that nobody can have.
            Err(error) => {
                assert!(is_refusal(error.kind()), "the bit {bit}: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > octets.len() * 2, "{refused} of {}", octets.len() * 8);
}

/// The user is there then, and so must their files be, wherever they are.
#[test]
fn imported_files_that_cannot_be_moved_yet_are_kept_until_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let child = Process::start_without_privileges("can't move what it imports", dir.path(), dir.path(), "");
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
    let probe = Command::new("unshare").args(["-rm", "sh", "-c", &format!("{mount} \"$0\"")]).arg(dir.path()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return skipped("a full disk needs `unshare` and permission to mount a tmpfs in a namespace");
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
fn a_decompression_bomb_exhausts_neither_memory_nor_disk() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Process::start("imports bombs", dir.path(), "").end();
    let mib: u64 = heard[0].parse().unwrap();
    assert!(mib < 100, "{mib} MiB");
}

pub(crate) fn child_imports_bombs(_: &Path) {
    const MIB: usize = 1 << 20;
    let (_place, _store, _, file) = small_store();
    let honest = Forged::of(&file);
    let mut hostile = Hostile::new();
    for (what, name, kind, octet) in [
        ("a huge line", &b"manifest.jsonl"[..], EntryType::Regular, b' '),
        ("a huge name", b"././@LongLink", EntryType::GNULongName, 0),
        ("a huge file that isn't announced", b"files/huge", EntryType::Regular, 0),
    ] {
        let output = fs::File::create(&hostile.file).unwrap();
        let mut output = zstd::Encoder::new(output, 1).unwrap();
        if name != b"manifest.jsonl" {
            Forgery::file("manifest.jsonl", honest.manifest()).write(&mut output);
            honest.entries[0].write(&mut output);
        }
        header(name, kind, (512 * MIB) as u64, 0o600).write(&mut output);
        for _ in 0..512 {
            std::io::Write::write_all(&mut output, &[octet; MIB]).unwrap();
        }
        output.finish().unwrap();
        assert!(fs::metadata(&hostile.file).unwrap().len() < MIB as u64);
        hostile.is_refused(what, is_refusal);
        assert_eq!(kind_of_peek(&hostile.file), (name == b"manifest.jsonl").then_some(ErrorKind::Corrupt));
    }
    hostile.end();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    process::say(kib / 1024);
}

fn kind_of_peek(file: &Path) -> Option<ErrorKind> {
    block_on(read_user_manifest(file)).err().map(|error| error.kind())
}
