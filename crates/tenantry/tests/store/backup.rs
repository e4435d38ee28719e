//! Backups: that all of a store comes back, what others do meanwhile, and archives that somebody made to do harm.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use tar::EntryType;
use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    Backup, BackupOptions, ErrorKind, FindingKind, ListQuery, Progress, Purge, RestoreReport, Result, Store,
    TrashQuery, UserId, VerifyReport, check, restore_backup, verify_backup,
};

use crate::archives::{
    self, FileState, Forged, Forgeries, Forgery, dir_of, header, is_refusal, names_are, noise, set_time, tree,
};
use crate::process::{self, Process};
use crate::support::{SqlitePlace, all, block_on, kind, new_user, new_user_at, set_mode, skipped, to_email};

const WHOLE: BackupOptions = BackupOptions { database_only: false };
const DATABASE_ONLY: BackupOptions = BackupOptions { database_only: true };

pub(crate) fn back_up(store: &Store, file: &Path) -> Result<Backup> {
    block_on(store.create_backup(file, WHOLE, |_| {}))
}

pub(crate) fn verify(file: &Path) -> Result<VerifyReport> {
    block_on(verify_backup(file, |_| {}))
}

pub(crate) fn restore(file: &Path, into: &Path) -> Result<RestoreReport> {
    block_on(restore_backup(file, into, |_| {}))
}

/// The files of all users, in the trash or not, without the modes.
pub(crate) fn files(data_dir: &Path) -> BTreeMap<PathBuf, Option<(Vec<u8>, i64)>> {
    let mut files: BTreeMap<_, _> = tree(data_dir).into_iter().map(|(path, met)| (path, met.content)).collect();
    files.retain(|path, _| (path.starts_with("storage") || path.starts_with("trash")) && !path.ends_with(MARKER));
    files
}

const MARKER: &str = ".tenantry-store";

#[test]
fn a_restore_returns_every_row_and_file_of_a_backup() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("Ada@example.com"))).unwrap();
    let bob = block_on(store.create(new_user_at("bob@example.com", "customers/bob ü"))).unwrap();
    let without_files = block_on(store.create(new_user("carol@example.com"))).unwrap();
    let deleted = block_on(store.create(new_user_at("dave@example.com", "customers/dave"))).unwrap();
    block_on(store.record_login(ada.id)).unwrap();
    block_on(store.update(bob.id, to_email("bob2@example.com"))).unwrap();

    let of_ada = dir_of(&store, ada.id);
    let long = "n".repeat(255);
    for name in [&b"plain.txt"[..], b"two\nlines", b"not \xff UTF-8 \x80", long.as_bytes(), b"-", b"\\", b" ", b"a:b"] {
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
    let of_bob = dir_of(&store, bob.id);
    // Beyond what is kept in memory.
    fs::write(of_bob.join("large"), noise(20 << 20)).unwrap();
    fs::write(of_bob.join("program"), "#!/bin/sh\n").unwrap();
    fs::write(of_bob.join("before 1970, for all to see"), "").unwrap();
    set_mode(of_bob.join("program"), 0o4755);
    set_mode(of_bob.join("before 1970, for all to see"), 0o666);
    set_mode(of_ada.join("deep"), 0o777);
    set_time(&of_bob.join("program"), 1_000_000_000);
    set_time(&of_ada.join("plain.txt"), 0xFFFF_FFFF);
    fs::write(dir_of(&store, deleted.id).join("kept.txt"), "kept").unwrap();
    block_on(store.delete(deleted.id)).unwrap();

    let file = place.as_ref().join("a.tar.zst");
    let backup = back_up(&store, &file).unwrap();
    assert_eq!(backup.left_out, []);
    assert_eq!(backup.archive_bytes, fs::metadata(&file).unwrap().len());
    let manifest = backup.manifest;
    assert_eq!((manifest.users, manifest.trashed, manifest.left_out, manifest.database_only), (3, 1, 0, false));
    let verified = verify(&file).unwrap();
    assert_eq!((verified.manifest, verified.findings, verified.missing_directories), (manifest.clone(), vec![], 0));

    let into = place.as_ref().join("restored");
    let restored = restore(&file, &into).unwrap();
    assert_eq!((restored.manifest, restored.report.findings), (manifest.clone(), vec![]));
    assert_eq!(block_on(check(&into)).unwrap().findings, []);
    names_are(&into, &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    let (before, after) = (files(&place.data_dir()), files(&into));
    assert!(before == after, "{:?}", before.keys().zip(after.keys()).find(|(before, after)| before != after));
    assert_eq!(manifest.files, 1 + before.values().flatten().count() as u64);
    for (path, FileState { content, mode }) in tree(&into) {
        // What a file was allowed comes back, but for the right to run as its owner.
        let expected = tree(&place.data_dir())[&path].mode & if content.is_none() { 0o7777 } else { 0o777 };
        assert_eq!(mode, expected, "{}", path.display());
    }
    assert_eq!(fs::metadata(&into).unwrap().mode() & 0o7777, 0o700);
    let marker = Path::new("storage").join(MARKER);
    assert_eq!(fs::read(into.join(&marker)).unwrap(), fs::read(place.data_dir().join(&marker)).unwrap());

    let copy = block_on(Store::builder(&into).create_if_missing(false).open()).unwrap();
    assert_eq!(block_on(all(&copy, ListQuery::default())), block_on(all(&store, ListQuery::default())));
    let trash = |store: &Store| block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    assert_eq!(trash(&copy), trash(&store));
    // Nor is anything lost on the way that only a second trip would show.
    let second = place.as_ref().join("b.tar.zst");
    let again = back_up(&copy, &second).unwrap().manifest;
    assert_eq!((again.store_id, again.users, again.trashed), (manifest.store_id, manifest.users, manifest.trashed));
    let into_again = place.as_ref().join("restored again");
    restore(&second, &into_again).unwrap();
    assert!(files(&into_again) == before);
    // The copy is a store like any other.
    block_on(copy.restore(deleted.id, None)).unwrap();
    assert_eq!(fs::read(dir_of(&copy, deleted.id).join("kept.txt")).unwrap(), b"kept");
    block_on(copy.storage(without_files.id)).unwrap();
    block_on(copy.close()).unwrap();
    block_on(store.close()).unwrap();
}

#[test]
fn a_backup_of_the_database_alone_is_marked_in_its_manifest() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    let backup = block_on(store.create_backup(&file, DATABASE_ONLY, |_| {})).unwrap();
    assert!(backup.manifest.database_only);
    assert_eq!((backup.manifest.files, backup.manifest.users, backup.manifest.trashed), (1, 1, 1));
    let verified = verify(&file).unwrap();
    assert_eq!((verified.findings, verified.missing_directories), (vec![], 2));
    let into = place.as_ref().join("restored");
    let found: Vec<FindingKind> =
        restore(&file, &into).unwrap().report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(found, [FindingKind::DirectoryLost, FindingKind::TrashLost]);
    let copy = block_on(Store::open(&into)).unwrap();
    assert_eq!(block_on(all(&copy, ListQuery::default())), block_on(all(&store, ListQuery::default())));
}

/// A store with a user and one in the trash, who have a few files.
pub(crate) fn small_store() -> (SqlitePlace, Store, UserId) {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let of_ada = dir_of(&store, ada.id);
    fs::create_dir(of_ada.join("sub")).unwrap();
    fs::write(of_ada.join("a.txt"), "a file of Ada's").unwrap();
    fs::write(of_ada.join("sub/b.txt"), "b".repeat(1_000)).unwrap();
    fs::write(of_ada.join("l".repeat(200)), "of a long name").unwrap();
    let bob = block_on(store.create(new_user_at("bob@example.com", "customers/bob"))).unwrap();
    fs::write(dir_of(&store, bob.id).join("c.txt"), "c").unwrap();
    block_on(store.delete(bob.id)).unwrap();
    (place, store, ada.id)
}

#[test]
fn an_archive_is_private_and_gets_its_name_when_it_is_complete() {
    for umask in ["000", "077", "022"] {
        let dir = tempfile::tempdir().unwrap();
        let child = Process::start("backs up", dir.path(), &format!("umask {umask}"));
        assert_eq!(child.end(), ["nobody else can read it"], "umask {umask}");
    }
}

pub(crate) fn child_backs_up(dir: &Path) {
    let (_place, store, _) = small_store();
    let file = dir.join("a.tar.zst");
    let looks = Arc::new(AtomicU64::new(0));
    let callback = {
        let (dir, file, looks) = (dir.to_owned(), file.clone(), Arc::clone(&looks));
        move |_| {
            assert!(!file.exists());
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                // The image of the database is in there.
                assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{:?}", entry.file_name());
            }
            looks.fetch_add(1, Ordering::SeqCst);
        }
    };
    let backup = block_on(store.create_backup(&file, WHOLE, callback)).unwrap();
    assert_eq!(looks.load(Ordering::SeqCst), backup.manifest.files);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    names_are(dir, &["a.tar.zst"]);

    let into = dir.join("restored");
    let callback = {
        let dir = dir.to_owned();
        move |_| {
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{:?}", entry.file_name());
            }
        }
    };
    block_on(restore_backup(&file, &into, callback)).unwrap();
    for (path, FileState { mode, .. }) in tree(&into).into_iter().filter(|(path, _)| path.components().count() == 1) {
        assert_eq!(mode & 0o677, 0o600, "{}", path.display());
    }
    names_are(dir, &["a.tar.zst", "restored"]);
    process::say("nobody else can read it");
}

#[test]
fn a_backup_never_replaces_a_file() {
    let (place, store, _) = small_store();
    let dir = place.as_ref().join("backups");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("a.tar.zst");
    fs::write(&file, "mine").unwrap();
    assert_eq!(kind(back_up(&store, &file)), ErrorKind::Exists);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    fs::remove_file(&file).unwrap();
    // A link that leads nowhere is something, too.
    std::os::unix::fs::symlink("elsewhere", &file).unwrap();
    assert_eq!(kind(back_up(&store, &file)), ErrorKind::Exists);
    names_are(&dir, &["a.tar.zst"]);
    fs::remove_file(&file).unwrap();
    // Somebody comes first.
    let faster = file.clone();
    let failed = block_on(store.create_backup(&file, WHOLE, move |_| fs::write(&faster, "mine").unwrap()));
    assert_eq!(kind(failed), ErrorKind::Exists);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    names_are(&dir, &["a.tar.zst"]);

    assert_eq!(kind(back_up(&store, &dir)), ErrorKind::Exists);
    assert_eq!(kind(back_up(&store, &dir.join("nowhere/a.tar.zst"))), ErrorKind::Io);
    assert_eq!(kind(back_up(&store, &file.join("a.tar.zst"))), ErrorKind::Io);
    names_are(&dir, &["a.tar.zst"]);
}

#[test]
fn a_purge_and_a_backup_exclude_each_other() {
    let (place, store, _) = small_store();
    let trashed = block_on(store.list_trash(&TrashQuery::default())).unwrap().users.remove(0).user.id;
    let other = place.open();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (stores, seen) = ([store.clone(), other.clone()], Arc::clone(&seen));
        let (trash, second) = (place.data_dir().join("trash"), place.as_ref().join("second.tar.zst"));
        move |Progress { files, .. }: Progress| {
            if files == 1 {
                let mut seen = seen.lock().unwrap();
                for store in &stores {
                    seen.push(kind(block_on(store.purge(Purge::User(trashed), |_| {}))));
                    seen.push(kind(back_up(store, &second)));
                }
                // As another process sees it: `flock` ends with 1 if somebody has the lock.
                let flock = Command::new("flock").args(["-n", "-s"]).arg(&trash).arg("true").status();
                match flock {
                    Ok(status) => assert_eq!(status.code(), Some(1)),
                    Err(error) => skipped(&format!("no `flock` to look from another process: {error}")),
                }
            }
        }
    };
    let file = place.as_ref().join("a.tar.zst");
    assert_eq!(block_on(store.create_backup(&file, WHOLE, callback)).unwrap().left_out, []);
    assert_eq!(*seen.lock().unwrap(), [ErrorKind::Busy; 4]);
    assert!(!place.as_ref().join("second.tar.zst").exists());

    // The other way round: a purge reports after 1,000 files.
    let crowd = block_on(store.create(new_user("crowd@example.com"))).unwrap().id;
    let of_crowd = dir_of(&store, crowd);
    for number in 0..1_000 {
        fs::write(of_crowd.join(number.to_string()), "").unwrap();
    }
    block_on(store.delete(crowd)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (stores, seen, second) = ([store.clone(), other], Arc::clone(&seen), place.as_ref().join("second.tar.zst"));
        move |_| seen.lock().unwrap().extend(stores.iter().map(|store| kind(back_up(store, &second))))
    };
    assert_eq!(block_on(store.purge(Purge::User(crowd), callback)).unwrap().users, 1);
    assert_eq!(*seen.lock().unwrap(), [ErrorKind::Busy; 2]);
    // Afterwards nobody is kept away any more.
    back_up(&store, &place.as_ref().join("second.tar.zst")).unwrap();
    block_on(store.purge(Purge::User(trashed), |_| {})).unwrap();
}

#[test]
fn a_backup_beside_concurrent_writes_is_consistent() {
    const USERS: usize = 6;
    let place = SqlitePlace::new();
    let store = place.open();
    let lasting: Vec<UserId> = (0..USERS)
        .map(|number| {
            let id = block_on(store.create(new_user(&format!("lasting{number}@example.com")))).unwrap().id;
            let dir = dir_of(&store, id);
            fs::write(dir.join("lasting"), noise(100_000 + number)).unwrap();
            fs::create_dir(dir.join("sub")).unwrap();
            fs::write(dir.join("sub/lasting"), id.to_string()).unwrap();
            id
        })
        .collect();
    let stop = AtomicBool::new(false);
    let rounds: [AtomicU64; 4] = Default::default();
    let go_on = |round: usize| {
        rounds[round].fetch_add(1, Ordering::SeqCst);
        !stop.load(Ordering::SeqCst)
    };
    thread::scope(|scope| {
        // New users with files.
        let creator = scope.spawn(|| {
            for number in 0.. {
                let id = block_on(store.create(new_user(&format!("new{number}@example.com")))).unwrap().id;
                block_on(store.storage(id)).unwrap().write("new", "new").unwrap();
                if !go_on(0) {
                    break;
                }
            }
        });
        // Users on their way to the trash and back.
        let mover = scope.spawn(|| {
            for id in lasting[..USERS / 2].iter().cycle() {
                block_on(store.delete(*id)).unwrap();
                block_on(store.restore(*id, None)).unwrap();
                if !go_on(1) {
                    break;
                }
            }
        });
        // Files that are written to, replaced and removed.
        let writer = scope.spawn(|| {
            let dirs: Vec<_> = lasting[USERS / 2..].iter().map(|id| block_on(store.storage(*id)).unwrap()).collect();
            for number in 0_u64.. {
                let dir = &dirs[usize::try_from(number).unwrap() % dirs.len()];
                dir.write("hot new", number.to_string().repeat(1_000)).unwrap();
                dir.rename("hot new", dir, "hot").unwrap();
                dir.write("hot short-lived", "x").unwrap();
                dir.remove_file("hot short-lived").unwrap();
                if !go_on(2) {
                    break;
                }
            }
        });
        // Directories that come and go.
        let digger = scope.spawn(|| {
            let dir = block_on(store.storage(lasting[USERS - 1])).unwrap();
            loop {
                for number in 0..20 {
                    dir.create_dir_all(format!("hot dirs/{number}/within")).unwrap();
                    dir.write(format!("hot dirs/{number}/within/file"), "x").unwrap();
                }
                for number in 0..20 {
                    dir.remove_dir_all(format!("hot dirs/{number}")).unwrap();
                }
                if !go_on(3) {
                    break;
                }
            }
        });
        let backups = || {
            for number in 0..4 {
                let before: Vec<u64> = rounds.iter().map(|rounds| rounds.load(Ordering::SeqCst)).collect();
                let busy = |(rounds, before): (&AtomicU64, &u64)| rounds.load(Ordering::SeqCst) > before + 1;
                while !rounds.iter().zip(&before).all(busy) {
                    thread::yield_now();
                }
                let file = place.as_ref().join(format!("{number}.tar.zst"));
                let backup = back_up(&store, &file).unwrap();
                for (path, why) in &backup.left_out {
                    assert!(path.to_str().unwrap().contains("hot"), "{}: {why}", path.display());
                }
                let verified = verify(&file).unwrap();
                assert_eq!((verified.findings, verified.missing_directories), (vec![], 0));
                let into = place.as_ref().join(format!("restored {number}"));
                assert_eq!(restore(&file, &into).unwrap().report.findings, []);
                let copy = block_on(Store::open(&into)).unwrap();
                for (number, id) in lasting.iter().enumerate() {
                    if block_on(copy.get(*id)).unwrap().is_none() {
                        block_on(copy.restore(*id, None)).unwrap();
                    }
                    let dir = dir_of(&copy, *id);
                    assert!(fs::read(dir.join("lasting")).unwrap() == noise(100_000 + number));
                    assert_eq!(fs::read(dir.join("sub/lasting")).unwrap(), id.to_string().as_bytes());
                }
                assert_eq!(block_on(check(&into)).unwrap().findings, []);
                block_on(copy.close()).unwrap();
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(backups));
        stop.store(true, Ordering::SeqCst);
        for thread in [creator, mover, writer, digger] {
            thread.join().unwrap();
        }
        outcome.unwrap();
    });
}

/// One user who rearranges their files can't keep those of all others out of the backup.
#[test]
fn a_directory_that_is_moved_during_a_backup_is_reported_and_the_others_are_complete() {
    let (place, store, _) = small_store();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap().id;
    let of_bob = dir_of(&store, bob);
    fs::create_dir_all(of_bob.join("a/b")).unwrap();
    fs::write(of_bob.join("a/b/moving"), "x").unwrap();
    let file = place.as_ref().join("a.tar.zst");
    let (from, to) = (of_bob.join("a/b"), of_bob.join("c"));
    // The last of the files, wherever they are, is on the way to there or has been met.
    let callback = move |Progress { files, .. }: Progress| {
        if files == 6 && from.exists() {
            fs::rename(&from, &to).unwrap();
        }
    };
    let backup = block_on(store.create_backup(&file, WHOLE, callback)).unwrap();
    let left_out: Vec<&Path> = backup.left_out.iter().map(|(path, _)| path.as_path()).collect();
    assert_eq!(left_out, [of_bob.strip_prefix(place.data_dir()).unwrap()], "{:?}", backup.left_out);
    assert_eq!(verify(&file).unwrap().missing_directories, 0);
    let into = place.as_ref().join("restored");
    assert_eq!(restore(&file, &into).unwrap().report.findings, []);
    let (before, after) = (files(&place.data_dir()), files(&into));
    let is_there = |(path, content): (&PathBuf, &Option<_>)| content.is_none() || after.get(path) == Some(content);
    assert!(before.iter().filter(|(path, _)| !path.starts_with(left_out[0])).all(is_there));
}

#[test]
fn sockets_and_devices_are_left_out_and_reported() {
    let (place, store, ada) = small_store();
    let of_ada = dir_of(&store, ada);
    let outside = place.as_ref().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "the secret outside").unwrap();
    let lost = block_on(store.create(new_user_at("lost@example.com", "lost"))).unwrap().id;
    fs::remove_dir(dir_of(&store, lost)).unwrap();
    // A user's directory that was replaced by a link.
    let linked = block_on(store.create(new_user_at("linked@example.com", "linked"))).unwrap().id;
    fs::remove_dir(dir_of(&store, linked)).unwrap();
    std::os::unix::fs::symlink(&outside, place.data_dir().join("storage/linked")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(of_ada.join("sub/socket")).unwrap();

    let file = place.as_ref().join("a.tar.zst");
    let backup = back_up(&store, &file).unwrap();
    let data_dir = place.data_dir();
    let of_ada = of_ada.strip_prefix(&data_dir).unwrap();
    let mut expected: Vec<PathBuf> = ["sub/socket"].map(|name| of_ada.join(name)).into();
    expected.extend(["storage/linked", "storage/lost"].map(PathBuf::from));
    expected.sort();
    let mut left_out: Vec<PathBuf> = backup.left_out.iter().map(|(path, _)| path.clone()).collect();
    left_out.sort();
    assert_eq!(left_out, expected, "{:?}", backup.left_out);
    assert_eq!((backup.manifest.left_out, backup.incomplete), (3, 3));

    let unpacked = zstd::decode_all(File::open(&file).unwrap()).unwrap();
    assert!(!unpacked.windows(10).any(|window| window == b"the secret"));
    assert_eq!(verify(&file).unwrap().missing_directories, 2);
    let into = place.as_ref().join("restored");
    let found: Vec<FindingKind> =
        restore(&file, &into).unwrap().report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(found, [FindingKind::DirectoryLost; 2]);
    let restored = tree(&into);
    assert!(restored.contains_key(&of_ada.join("sub/b.txt")));
    assert!(expected.iter().all(|path| !restored.contains_key(path)));
}

#[test]
fn unreadable_files_are_left_out_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let child = Process::start_without_privileges("can't read", dir.path(), dir.path(), "");
    assert_eq!(child.end(), ["named"]);
}

pub(crate) fn child_cannot_read(dir: &Path) {
    let store = block_on(Store::open(dir.join("data"))).unwrap();
    let ada = block_on(store.create(new_user_at("ada@example.com", "ada"))).unwrap().id;
    let bob = block_on(store.create(new_user_at("bob@example.com", "bob"))).unwrap().id;
    let of_ada = dir_of(&store, ada);
    fs::create_dir(of_ada.join("closed")).unwrap();
    for name in ["closed/within", "open", "secret"] {
        fs::write(of_ada.join(name), "x").unwrap();
    }
    fs::write(dir_of(&store, bob).join("b"), "b").unwrap();
    let closed = [of_ada.join("closed"), of_ada.join("secret"), dir_of(&store, bob)];
    closed.iter().for_each(|path| set_mode(path, 0o000));
    let backup = back_up(&store, &dir.join("a.tar.zst")).unwrap();
    let left_out: BTreeSet<&str> = backup.left_out.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(left_out, BTreeSet::from(["storage/ada/closed", "storage/ada/secret", "storage/bob"]));
    // The files that there are, are the database and the one that is open.
    assert_eq!((backup.manifest.left_out, backup.manifest.files), (3, 2));
    verify(&dir.join("a.tar.zst")).unwrap();
    closed.iter().for_each(|path| set_mode(path, 0o700));
    process::say("named");
}

#[test]
fn a_restore_requires_a_new_or_empty_directory() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    back_up(&store, &file).unwrap();
    let dir = place.as_ref().join("targets");
    fs::create_dir_all(dir.join("full")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("full/mine"), "mine").unwrap();
    fs::write(dir.join("file"), "mine").unwrap();
    let before = tree(&dir);
    for name in ["full", "file"] {
        assert_eq!(kind(restore(&file, &dir.join(name))), ErrorKind::NotEmpty, "{name}");
    }
    assert_eq!(kind(restore(&file, &place.data_dir())), ErrorKind::NotEmpty);
    assert_eq!(kind(restore(&file, &dir.join("nowhere/new"))), ErrorKind::Io);
    assert_eq!(kind(restore(&dir.join("nothing"), &dir.join("new"))), ErrorKind::NotFound);
    assert_eq!(kind(verify(&dir.join("nothing"))), ErrorKind::NotFound);
    assert!(tree(&dir) == before);

    for name in ["empty", "new"] {
        assert_eq!(restore(&file, &dir.join(name)).unwrap().report.findings, []);
    }
    names_are(&dir, &["empty", "file", "full", "new"]);
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
    assert_eq!(Process::start("on a full disk", dir.path(), &shell).end(), ["nothing is left"]);
}

pub(crate) fn child_on_a_full_disk(dir: &Path) {
    let (_place, store, ada) = small_store();
    fs::write(dir_of(&store, ada).join("large"), noise(4 << 20)).unwrap();
    let disk = dir.join("disk");
    assert_eq!(kind(back_up(&store, &disk.join("a.tar.zst"))), ErrorKind::Full);
    names_are(&disk, &[]);
    let file = dir.join("a.tar.zst");
    back_up(&store, &file).unwrap();
    assert_eq!(kind(restore(&file, &disk.join("new"))), ErrorKind::Full);
    names_are(&disk, &[]);
    process::say("nothing is left");
}

impl Forged {
    /// Changes the database, announced as it is then.
    fn with_database(&mut self, change: impl FnOnce(&Connection)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        fs::write(&path, &self.entries[0].content).unwrap();
        let conn = Connection::open(&path).unwrap();
        change(&conn);
        conn.close().unwrap();
        self.replace(0, fs::read(&path).unwrap());
    }
}

/// A file in a directory of its own, beside which nothing may change, and what was wrong with that.
struct Hostile {
    dir: tempfile::TempDir,
    wrong: Vec<String>,
}

impl Hostile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        Self { dir, wrong: Vec::new() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("x.tar.zst")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("a/b/restored")
    }

    /// Makes sure that the archive is neither found good nor restored, and that nothing comes of the attempt.
    fn is_refused(&mut self, what: &str) {
        self.is_not_verified(what);
        self.is_not_restored(what);
    }

    fn is_not_verified(&mut self, what: &str) {
        match verify(&self.file()) {
            Err(error) if is_refusal(error.kind()) => {}
            // What is wrong within the database is what a verification is there to tell.
            Ok(verified) if verified.findings.iter().any(|found| found.kind == FindingKind::DatabaseDamaged) => {}
            other => self.wrong.push(format!("{what}, verified: {other:?}")),
        }
    }

    fn is_not_restored(&mut self, what: &str) {
        match restore(&self.file(), &self.target()) {
            Err(error) if is_refusal(error.kind()) => {}
            other => self.wrong.push(format!("{what}, restored: {other:?}")),
        }
        let left: Vec<PathBuf> = tree(self.dir.path()).into_keys().collect();
        if left != ["a", "a/b", "x.tar.zst"].map(PathBuf::from) {
            self.wrong.push(format!("{what}: there is {left:?}"));
            self.dir = Self::new().dir;
        }
    }

    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// What is no backup.
fn forgeries() -> Forgeries {
    let mut forgeries = archives::forgeries();
    for field in ["users", "trashed"] {
        forgeries.add(format!("another number of {field}"), move |x| {
            x.manifest[field] = (x.manifest[field].as_u64().unwrap() + 1).into();
        });
    }
    forgeries.add("a store id that isn't the database's", |x| {
        x.manifest["store_id"] = "3fa2b1c4-0000-4000-8000-000000000001".into();
    });
    forgeries.add("another schema version", |x| x.manifest["schema_version"] = 1.into());
    // Paths.
    forgeries.add_at(&[
        "",
        ".",
        "..",
        "/",
        "../x",
        "/etc/x",
        "storage/../../x",
        "storage/../x",
        "storage/..",
        "storage//x",
        "storage/./x",
        "storage/x/",
        "storage/x\0y",
        "x",
        "tenantry.db/x",
        "tenantry.db-wal",
        "tenantry.db-journal",
        "tenantry.lock",
        "quarantine/x",
        "storage",
        "trash",
        // The store writes it, and nobody else.
        "storage/.tenantry-store",
        "storage/.tenantry-store/x",
        // Nobody's.
        "storage/x",
        "storage/3f/x",
        "trash/x",
        "trash/3fa2b1c4-0000-4000-8000-000000000001",
        "storage/customers/bob",
    ]);
    forgeries.add("a user's directory that is a file", |x| {
        let path = x.of_user();
        x.entries.truncate(1);
        x.lines.truncate(1);
        (x.manifest["files"], x.manifest["bytes"]) = (1.into(), x.entries[0].content.len().into());
        x.push(&path, Some(b"x"));
    });
    forgeries.add("nothing but a manifest", |x| {
        x.entries.clear();
        x.lines.clear();
        (x.manifest["files"], x.manifest["bytes"]) = (0.into(), 0.into());
    });
    // The database.
    forgeries.add("no database", |x| {
        let length = x.entries.remove(0).content.len() as u64;
        x.lines.remove(0);
        x.manifest["files"] = (x.manifest["files"].as_u64().unwrap() - 1).into();
        x.manifest["bytes"] = (x.manifest["bytes"].as_u64().unwrap() - length).into();
    });
    forgeries.add("a database that comes later", |x| {
        x.entries.swap(0, 1);
        x.lines.swap(0, 1);
    });
    forgeries.add("a database at the end", |x| {
        x.entries.rotate_left(1);
        x.lines.rotate_left(1);
    });
    forgeries.add("two databases", |x| {
        let content = x.entries[0].content.clone();
        x.insert(1, "tenantry.db", Some(&content));
    });
    forgeries.add("a database that is none", |x| x.replace(0, "Dear diary,\n".repeat(1_000).into()));
    forgeries.add("an empty database", |x| x.replace(0, Vec::new()));
    forgeries.add("half a database", |x| {
        let mut content = x.entries[0].content.clone();
        content.truncate(content.len() / 2);
        x.replace(0, content);
    });
    forgeries.add("a damaged database", |x| {
        let mut content = x.entries[0].content.clone();
        content[4_096..].chunks_mut(512).for_each(|chunk| chunk.fill(0x55));
        x.replace(0, content);
    });
    for (what, sql) in [
        ("another application's database", "PRAGMA application_id = 42"),
        ("a newer schema", "PRAGMA user_version = 1000"),
        ("an older schema", "PRAGMA user_version = 1"),
        ("a schema that lies about its version", "DROP VIEW tenantry_living_users"),
        ("another store's id", "UPDATE tenantry_store SET id = randomblob(16)"),
        ("no store's id", "DELETE FROM tenantry_store"),
    ] {
        forgeries.add(what, move |x| x.with_database(|conn| conn.execute_batch(sql).unwrap()));
    }
    forgeries.add("no store's id, as the manifest has it", |x| {
        x.with_database(|conn| conn.execute_batch("DELETE FROM tenantry_store").unwrap());
        x.manifest["store_id"] = "00000000-0000-0000-0000-000000000000".into();
    });
    forgeries
}

#[test]
fn an_archive_that_isn_t_what_its_manifest_announces_is_refused() {
    let (place, store, _) = small_store();
    let honest = place.as_ref().join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let honest = Forged::of(&honest);
    // Put together as it was, it is good; so it is the one change for which it is refused.
    let mut hostile = Hostile::new();
    honest.write(&hostile.file());
    verify(&hostile.file()).unwrap();
    assert_eq!(restore(&hostile.file(), &hostile.target()).unwrap().report.findings, []);
    fs::remove_dir_all(hostile.target()).unwrap();
    for (what, forge) in forgeries().0 {
        let mut forged = honest.clone();
        forge(&mut forged);
        forged.write(&hostile.file());
        hostile.is_refused(&what);
    }
    for (what, octets) in [
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary,\n".repeat(1_000)),
        ("an empty archive", zstd::encode_all(&[][..], 1).unwrap()),
        ("an archive of nothing", zstd::encode_all(&[0; 1024][..], 1).unwrap()),
        ("something compressed", zstd::encode_all(&noise(10_000)[..], 1).unwrap()),
    ] {
        fs::write(hostile.file(), octets).unwrap();
        hostile.is_refused(what);
    }
    hostile.end();
}

/// What a store is to do when it is opened next stands in its database, so in a backup's too.
#[test]
fn intents_of_a_forged_backup_that_lead_outside_are_refused() {
    let (place, store, _) = small_store();
    let honest = place.as_ref().join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let mut hostile = Hostile::new();
    for (path, name) in [
        ("storage/customers", "../../../evil"),
        ("storage/customers", "../../../../evil"),
        ("storage/customers", "../evil"),
        ("storage/customers", ".."),
        ("storage/customers", ""),
        ("storage/customers", "a/b"),
        ("storage/customers", "nul\0"),
        ("storage/../../victim", "name"),
        ("../victim", "name"),
        ("/victim", "name"),
        ("storage/./customers", "name"),
        ("storage//customers", "name"),
        ("storage/nul\0", "name"),
        ("", "name"),
    ] {
        let mut forged = Forged::of(&honest);
        forged.with_database(|conn| {
            let sql = "INSERT INTO tenantry_intents (action, path, name, recorded_at) VALUES ('quarantine', ?1, ?2, 0)";
            conn.execute(sql, (path.as_bytes(), name)).unwrap();
        });
        forged.write(&hostile.file());
        hostile.is_refused(&format!("{path:?} to {name:?}"));
    }
    hostile.end();
}

/// A store, and a backup of it that has many compressed blocks, and files that are read in many steps.
fn larger_backup() -> (SqlitePlace, Vec<u8>) {
    let (place, store, ada) = small_store();
    fs::write(dir_of(&store, ada).join("noise"), noise(400_000)).unwrap();
    let file = place.as_ref().join("honest.tar.zst");
    back_up(&store, &file).unwrap();
    let octets = fs::read(file).unwrap();
    block_on(store.close()).unwrap();
    (place, octets)
}

/// A restore reads as a verification does, but makes directories that last, which takes long: it is tried less often.
const RESTORE_EACH: usize = 5;

#[test]
fn a_truncated_archive_is_refused() {
    let (_place, octets) = larger_backup();
    let mut hostile = Hostile::new();
    // The end is where a cut is most easily overlooked.
    let cuts = (0..octets.len()).step_by(octets.len() / 180).chain(octets.len() - 20..octets.len());
    for (index, length) in cuts.enumerate() {
        fs::write(hostile.file(), &octets[..length]).unwrap();
        let what = format!("{length} of {} bytes", octets.len());
        hostile.is_not_verified(&what);
        if index % RESTORE_EACH == 0 || length > octets.len() - 6 {
            hostile.is_not_restored(&what);
        }
    }
    hostile.end();
}

#[test]
fn a_flipped_bit_in_an_archive_is_refused_unless_it_is_meaningless() {
    let (_place, octets) = larger_backup();
    let mut hostile = Hostile::new();
    fs::write(hostile.file(), &octets).unwrap();
    restore(&hostile.file(), &hostile.target()).unwrap();
    let expected = files(&hostile.target());
    fs::remove_dir_all(hostile.target()).unwrap();
    let mut random = blake3::Hasher::new().update(b"flips").finalize_xof();
    let mut overlooked = 0;
    for index in 0..300 {
        let mut number = [0; 8];
        random.fill(&mut number);
        // Most of it is noise: every other time it is at the beginning, where the manifest and the database are.
        let octets_meant = if index % 2 == 0 { octets.len() } else { 5_000 };
        let bit = usize::try_from(u64::from_le_bytes(number) >> 8).unwrap() % (octets_meant * 8);
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(hostile.file(), flipped).unwrap();
        let what = format!("the bit {bit}");
        if let Err(error) = verify(&hostile.file()) {
            assert!(is_refusal(error.kind()), "{what}: {error:?}");
            if index % RESTORE_EACH == 0 {
                hostile.is_not_restored(&what);
            }
            continue;
        }
        overlooked += 1;
        assert_eq!(restore(&hostile.file(), &hostile.target()).unwrap().report.findings, [], "{what}");
        assert!(files(&hostile.target()) == expected, "{what}");
        fs::remove_dir_all(hostile.target()).unwrap();
    }
    assert!(overlooked < 10, "{overlooked} of 300");
    hostile.end();
}

#[test]
fn a_decompression_bomb_exhausts_neither_memory_nor_disk() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Process::start("reads bombs", dir.path(), "").end();
    let mib: u64 = heard[0].parse().unwrap();
    assert!(mib < 100, "{mib} MiB");
}

pub(crate) fn child_reads_bombs(dir: &Path) {
    const MIB: usize = 1 << 20;
    let (_place, store, _) = small_store();
    let honest = dir.join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let honest = Forged::of(&honest);
    let mut hostile = Hostile::new();
    let zeroes = vec![0; MIB];

    // A manifest of one line, and a name.
    for (what, name, kind, mib) in [
        ("a huge line", &b"manifest.jsonl"[..], EntryType::Regular, 512),
        ("a huge name", b"././@LongLink", EntryType::GNULongName, 100),
        ("a huge PAX header", b"pax", EntryType::XHeader, 100),
    ] {
        let mut output = zstd::Encoder::new(File::create(hostile.file()).unwrap(), 1).unwrap();
        if kind != EntryType::Regular {
            let manifest = honest.manifest();
            let first = Forgery::file("manifest.jsonl", manifest);
            first.write(&mut output);
            honest.entries[0].write(&mut output);
        }
        header(name, kind, (mib * MIB) as u64, 0o600).write(&mut output);
        for _ in 0..mib {
            output.write_all(if kind == EntryType::Regular { &[b' '; MIB] } else { &zeroes }).unwrap();
        }
        output.finish().unwrap();
        assert!(fs::metadata(hostile.file()).unwrap().len() < MIB as u64);
        hostile.is_refused(what);
    }

    // A gigabyte of zeroes that is announced is a file like any other.
    let mut output = zstd::Encoder::new(File::create(hostile.file()).unwrap(), 1).unwrap();
    let mut forged = honest.clone();
    let path = format!("{}/zeroes", forged.of_user());
    let mut hasher = blake3::Hasher::new();
    for _ in 0..1024 {
        hasher.update(&zeroes);
    }
    let size = 1024 * MIB;
    forged
        .lines
        .push(json!({ "path": path, "mode": 0o600, "size": size, "blake3": hasher.finalize().to_hex().to_string() }));
    forged.count(1, size);
    let manifest = Forgery::file("manifest.jsonl", forged.manifest());
    for entry in [&manifest].into_iter().chain(&forged.entries) {
        entry.write(&mut output);
    }
    header(path.as_bytes(), EntryType::Regular, size as u64, 0o600).write(&mut output);
    for _ in 0..1024 {
        output.write_all(&zeroes).unwrap();
    }
    output.write_all(&[0; 1024]).unwrap();
    output.finish().unwrap();
    assert_eq!(verify(&hostile.file()).unwrap().manifest.bytes, forged.manifest["bytes"].as_u64().unwrap());

    hostile.end();

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    process::say(kib / 1024);
}
