//! Backups: that all of a store comes back, and what others do meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tenantry::{
    Backup, BackupOptions, ErrorKind, FindingKind, ListQuery, Progress, Purge, RestoreReport,
    Result, Store, TrashQuery, UserId, VerifyReport, check, restore_backup, verify_backup,
};

use crate::archives::{FileState, dir_of, names_are, noise, set_time, tree};
use crate::process::{self, Process};
use crate::support::{
    SqlitePlace, all, block_on, kind, new_user, new_user_at, set_mode, skipped, to_email,
};

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
    let mut files: BTreeMap<_, _> =
        tree(data_dir).into_iter().map(|(path, met)| (path, met.content)).collect();
    files.retain(|path, _| {
        (path.starts_with("storage") || path.starts_with("trash")) && !path.ends_with(MARKER)
    });
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
    let deleted =
        block_on(store.create(new_user_at("dave@example.com", "customers/dave"))).unwrap();
    block_on(store.record_login(ada.id)).unwrap();
    block_on(store.update(bob.id, to_email("bob2@example.com"))).unwrap();

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
        b"a:b",
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
    assert_eq!(
        (manifest.users, manifest.trashed, manifest.left_out, manifest.database_only),
        (3, 1, 0, false)
    );
    let verified = verify(&file).unwrap();
    assert_eq!(
        (verified.manifest, verified.findings, verified.missing_directories),
        (manifest.clone(), vec![], 0)
    );

    let into = place.as_ref().join("restored");
    let restored = restore(&file, &into).unwrap();
    assert_eq!((restored.manifest, restored.report.findings), (manifest.clone(), vec![]));
    assert_eq!(block_on(check(&into)).unwrap().findings, []);
    names_are(&into, &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    let (before, after) = (files(&place.data_dir()), files(&into));
    assert!(
        before == after,
        "{:?}",
        before.keys().zip(after.keys()).find(|(before, after)| before != after)
    );
    assert_eq!(manifest.files, 1 + before.values().flatten().count() as u64);
    for (path, FileState { content, mode }) in tree(&into) {
        // What a file was allowed comes back, but for the right to run as its owner.
        let expected =
            tree(&place.data_dir())[&path].mode & if content.is_none() { 0o7777 } else { 0o777 };
        assert_eq!(mode, expected, "{}", path.display());
    }
    assert_eq!(fs::metadata(&into).unwrap().mode() & 0o7777, 0o700);
    let marker = Path::new("storage").join(MARKER);
    assert_eq!(
        fs::read(into.join(&marker)).unwrap(),
        fs::read(place.data_dir().join(&marker)).unwrap()
    );

    let copy = block_on(Store::builder(&into).create_if_missing(false).open()).unwrap();
    assert_eq!(
        block_on(all(&copy, ListQuery::default())),
        block_on(all(&store, ListQuery::default()))
    );
    let trash = |store: &Store| block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
    assert_eq!(trash(&copy), trash(&store));
    // Nor is anything lost on the way that only a second trip would show.
    let second = place.as_ref().join("b.tar.zst");
    let again = back_up(&copy, &second).unwrap().manifest;
    assert_eq!(
        (again.store_id, again.users, again.trashed),
        (manifest.store_id, manifest.users, manifest.trashed)
    );
    let into_again = place.as_ref().join("restored again");
    restore(&second, &into_again).unwrap();
    assert!(files(&into_again) == before);
    // The copy is a store like any other.
    block_on(copy.restore(deleted.id, None)).unwrap();
    assert_eq!(fs::read(dir_of(&copy, deleted.id).join("kept.txt")).unwrap(), b"kept");
    block_on(copy.directory(without_files.id)).unwrap();
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
    assert_eq!(
        block_on(all(&copy, ListQuery::default())),
        block_on(all(&store, ListQuery::default()))
    );
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
    for (path, FileState { mode, .. }) in
        tree(&into).into_iter().filter(|(path, _)| path.components().count() == 1)
    {
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
    let failed =
        block_on(store.create_backup(&file, WHOLE, move |_| fs::write(&faster, "mine").unwrap()));
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
    let trashed =
        block_on(store.list_trash(&TrashQuery::default())).unwrap().users.remove(0).user.id;
    let other = place.open();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (stores, seen) = ([store.clone(), other.clone()], Arc::clone(&seen));
        let (trash, second) =
            (place.data_dir().join("trash"), place.as_ref().join("second.tar.zst"));
        move |Progress { files, .. }: Progress| {
            if files == 1 {
                let mut seen = seen.lock().unwrap();
                for store in &stores {
                    seen.push(kind(block_on(store.purge(Purge::User(trashed), |_| {}))));
                    seen.push(kind(back_up(store, &second)));
                }
                // As another process sees it: `flock` ends with 1 if somebody has the lock.
                let flock =
                    Command::new("flock").args(["-n", "-s"]).arg(&trash).arg("true").status();
                match flock {
                    Ok(status) => assert_eq!(status.code(), Some(1)),
                    Err(error) => {
                        skipped(&format!("no `flock` to look from another process: {error}"))
                    }
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
        let (stores, seen, second) =
            ([store.clone(), other], Arc::clone(&seen), place.as_ref().join("second.tar.zst"));
        move |_| {
            seen.lock().unwrap().extend(stores.iter().map(|store| kind(back_up(store, &second))))
        }
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
            let id = block_on(store.create(new_user(&format!("lasting{number}@example.com"))))
                .unwrap()
                .id;
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
                let id = block_on(store.create(new_user(&format!("new{number}@example.com"))))
                    .unwrap()
                    .id;
                block_on(store.directory(id)).unwrap().write("new", "new").unwrap();
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
            let dirs: Vec<_> = lasting[USERS / 2..]
                .iter()
                .map(|id| block_on(store.directory(*id)).unwrap())
                .collect();
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
            let dir = block_on(store.directory(lasting[USERS - 1])).unwrap();
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
                let before: Vec<u64> =
                    rounds.iter().map(|rounds| rounds.load(Ordering::SeqCst)).collect();
                let busy = |(rounds, before): (&AtomicU64, &u64)| {
                    rounds.load(Ordering::SeqCst) > before + 1
                };
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
                    assert_eq!(
                        fs::read(dir.join("sub/lasting")).unwrap(),
                        id.to_string().as_bytes()
                    );
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
    let is_there = |(path, content): (&PathBuf, &Option<_>)| {
        content.is_none() || after.get(path) == Some(content)
    };
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
    assert!(!unpacked.windows(18).any(|window| window == b"the secret outside"));
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
    let left_out: BTreeSet<&str> =
        backup.left_out.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(
        left_out,
        BTreeSet::from(["storage/ada/closed", "storage/ada/secret", "storage/bob"])
    );
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
