//! What archives hold of a user's files beside their content: holes, attributes, links, and the
//! databases in them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use tenantry::sqlite::rusqlite::{Connection, TransactionBehavior};
use tenantry::{
    Backup, BackupOptions, ErrorKind, ExportedUser, Store, UserId, check, restore_backup,
    verify_backup,
};

use crate::archives::{dir_of, names, noise};
use crate::process::{self, Process};
use crate::support::{SqlitePlace, block_on, kind, new_user_at, set_mode};

const GIB: u64 = 1 << 30;

fn back_up(store: &Store, file: &Path) -> Backup {
    block_on(store.create_backup(file, BackupOptions::default(), |_| {})).unwrap()
}

fn restore(file: &Path, into: &Path) {
    assert_eq!(block_on(restore_backup(file, into, |_| {})).unwrap().report.findings, []);
}

fn export(store: &Store, id: UserId, file: &Path) -> ExportedUser {
    block_on(store.export_user(id, file, |_| {})).unwrap()
}

/// A store with one user.
struct Place {
    place: SqlitePlace,
    store: Store,
    id: UserId,
    dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let place = SqlitePlace::new();
        let store = place.open();
        let id = block_on(store.create(new_user_at("ada@example.com", "ada"))).unwrap().id;
        let dir = dir_of(&store, id);
        Self { place, store, id, dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.as_ref().join(name)
    }

    /// The user's directory out of a backup, and out of an archive of the user alone.
    fn brought_back(&self) -> [PathBuf; 2] {
        let (backup, archive) = (self.at("backup.tar.zst"), self.at("user.tar.zst"));
        let made = back_up(&self.store, &backup);
        assert_eq!((made.left_out, made.incomplete), (vec![], 0));
        block_on(verify_backup(&backup, |_| {})).unwrap();
        restore(&backup, &self.at("restored"));
        let exported = export(&self.store, self.id, &archive);
        assert_eq!((exported.left_out, exported.incomplete), (vec![], 0));
        let other = block_on(Store::open(self.at("other"))).unwrap();
        block_on(other.import_user(&archive, |_| {})).unwrap();
        block_on(other.close()).unwrap();
        assert_eq!(block_on(check(self.at("other"))).unwrap().findings, []);
        ["restored", "other"].map(|name| self.at(name).join("storage/ada"))
    }
}

/// In a container `TMPDIR` is small, or the root can't be written. Large files were left out of the
/// backup then.
#[test]
fn a_backup_needs_no_room_for_temporary_files() {
    let umounted = "TMPDIR=/nonexistent";
    let small = "mount -t tmpfs -o size=1m tmpfs \"$TENANTRY_TEST_DIR/tmp\" && TMPDIR=\"$TENANTRY_TEST_DIR/tmp\"";
    let read_only = "mount --bind \"$TENANTRY_TEST_DIR\" \"$TENANTRY_TEST_DIR\" && mount -o remount,bind,ro / && TMPDIR=/usr";
    for (what, setting) in [("none", umounted), ("small", small), ("a read-only root", read_only)] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let program = "\"$0\" --exact child::child_process_entry --nocapture";
        let shell =
            format!("exec unshare -rm sh -c '{setting} && export TMPDIR && exec {program}' \"$0\"");
        let heard = Process::start("backs up large files", dir.path(), &shell).end();
        assert_eq!(heard, ["everything is there"], "{what}");
    }
}

pub(crate) fn child_backs_up_large_files(dir: &Path) {
    let store = block_on(Store::open(dir.join("data"))).unwrap();
    let id = block_on(store.create(new_user_at("ada@example.com", "ada"))).unwrap().id;
    let content = noise(12 << 20);
    fs::write(dir_of(&store, id).join("video"), &content).unwrap();
    for name in ["first", "second"] {
        fs::write(dir_of(&store, id).join(name), noise(9 << 20)).unwrap();
    }
    let backup = back_up(&store, &dir.join("a.tar.zst"));
    assert_eq!((backup.left_out, backup.manifest.files), (vec![], 4));
    restore(&dir.join("a.tar.zst"), &dir.join("restored"));
    assert!(fs::read(dir.join("restored/storage/ada/video")).unwrap() == content);
    assert_eq!(export(&store, id, &dir.join("user.tar.zst")).manifest.files, 3);
    process::say("everything is there");
}

/// What was written of it is cut off the archive again, and what comes after is whole.
#[test]
fn a_large_file_that_changes_during_a_backup_is_read_again_or_reported() {
    let place = Place::new();
    for name in ["a", "b", "c"] {
        fs::write(place.dir.join(name), noise(9 << 20)).unwrap();
    }
    let (stop, growing) = (AtomicBool::new(false), place.dir.join("growing"));
    fs::write(&growing, noise(20 << 20)).unwrap();
    let file = place.at("a.tar.zst");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut growing = File::options().append(true).open(&growing).unwrap();
            while !stop.load(Ordering::SeqCst) {
                growing.write_all(b"x").unwrap();
            }
        });
        // Whether the two get at it at the same time three times in a row is the scheduler's
        // matter.
        let mut backup = back_up(&place.store, &file);
        while backup.left_out.is_empty() {
            fs::remove_file(&file).unwrap();
            backup = back_up(&place.store, &file);
        }
        stop.store(true, Ordering::SeqCst);
        assert!(
            backup.left_out[0].0.ends_with("growing") && backup.left_out[0].1.contains("changes")
        );
        assert_eq!((backup.manifest.left_out, backup.incomplete), (1, 1));
    });
    block_on(verify_backup(&file, |_| {})).unwrap();
    restore(&file, &place.at("restored"));
    let restored = place.at("restored/storage/ada");
    assert!(
        ["a", "b", "c"].iter().all(|name| fs::read(restored.join(name)).unwrap() == noise(9 << 20))
    );
    assert!(!restored.join("growing").exists());
}

/// A sparse image of a disk had become as large as it says.
#[test]
fn sparse_files_stay_sparse() {
    let place = Place::new();
    let block = noise(100_000);
    let layouts: [(&str, u64, &[u64]); 6] = [
        ("nothing but a hole", 100 << 20, &[]),
        ("a terabyte", 1024 * GIB, &[0, 5 * GIB + 123, 1023 * GIB]),
        ("a hole first", 10 << 20, &[(10 << 20) - 100_000]),
        ("a hole last", 50 << 20, &[0]),
        ("more than is kept in memory", GIB, &[0, GIB / 2, GIB - (10 << 20)]),
        ("dense", 100_000, &[0]),
    ];
    for (name, length, offsets) in layouts {
        let file = File::create(place.dir.join(name)).unwrap();
        file.set_len(length).unwrap();
        for offset in offsets {
            file.write_all_at(&block, *offset).unwrap();
        }
        if name.starts_with("more") {
            file.write_all_at(&noise(9 << 20), GIB / 4).unwrap();
        }
        file.sync_all().unwrap();
    }
    fs::write(place.dir.join("zeroes"), vec![0; 1 << 20]).unwrap();
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    for brought in place.brought_back() {
        for (name, length, offsets) in layouts {
            let (before, after) = (place.dir.join(name), brought.join(name));
            assert_eq!(fs::metadata(&after).unwrap().len(), length, "{name}");
            let (before, after_blocks) = (blocks(&before), blocks(&after));
            assert!(
                after_blocks <= before + (64 << 10),
                "{name}: {before} before, {after_blocks} after"
            );
            let file = File::open(&after).unwrap();
            for offset in offsets {
                let mut octets = vec![0; block.len()];
                file.read_exact_at(&mut octets, *offset).unwrap();
                assert!(octets == block, "{name} at {offset}");
            }
            let mut octets = vec![1; 4_096];
            if offsets.len() != 1 {
                file.read_exact_at(&mut octets, 2 << 20).unwrap();
                assert!(octets.iter().all(|octet| *octet == 0), "{name}");
            }
        }
        assert!(fs::read(brought.join("zeroes")).unwrap().iter().all(|octet| *octet == 0));
    }
}

/// What one file or directory has beside its content.
#[derive(Debug, PartialEq, Eq)]
struct Beside {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    attributes: BTreeMap<String, Vec<u8>>,
    target: Option<PathBuf>,
}

fn beside(path: &Path) -> Beside {
    let stat = fs::symlink_metadata(path).unwrap();
    let mut attributes = BTreeMap::new();
    if !stat.is_symlink() {
        for name in [
            "user.oc.id",
            "user.empty",
            "user.50%=x",
            "system.posix_acl_access",
            "system.posix_acl_default",
        ] {
            let mut value = vec![0; 1 << 16];
            if let Ok(length) = rustix::fs::getxattr(path, name, &mut value) {
                value.truncate(length);
                attributes.insert(name.to_owned(), value);
            }
        }
    }
    Beside {
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        modified: (stat.mtime(), stat.mtime_nsec()),
        attributes,
        target: stat.is_symlink().then(|| fs::read_link(path).unwrap()),
    }
}

/// An ACL by which another user may read.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 5, 1234), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Fills a user's directory with one of everything, and returns what is in it.
fn one_of_everything(dir: &Path) -> Vec<&'static str> {
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    for name in ["file", "sub/deep/file", "read-only", "program", "before 1970"] {
        fs::write(dir.join(name), name).unwrap();
    }
    set(&dir.join("file"), "user.oc.id", b"1");
    set(&dir.join("file"), "user.empty", b"");
    set(&dir.join("file"), "user.50%=x", b"\0\xff\n");
    set(&dir.join("read-only"), "user.oc.id", b"2");
    set(&dir.join("sub"), "user.oc.id", b"3");
    set(&dir.join("file"), "system.posix_acl_access", &acl());
    set(&dir.join("sub"), "system.posix_acl_access", &acl());
    set(&dir.join("sub"), "system.posix_acl_default", &acl());
    fs::hard_link(dir.join("file"), dir.join("sub/same")).unwrap();
    fs::hard_link(dir.join("file"), dir.join("same")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    symlink("/etc/passwd", dir.join("sub/absolute")).unwrap();
    symlink("../../../../nowhere", dir.join("sub/dangling")).unwrap();
    symlink("x/".repeat(1_000), dir.join("long")).unwrap();
    symlink("sub", dir.join("to a directory")).unwrap();
    let pipe = CString::new(dir.join("pipe").to_str().unwrap()).unwrap();
    rustix::fs::mknodat(
        CWD,
        &*pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    set_mode(dir.join("read-only"), 0o444);
    set_mode(dir.join("program"), 0o755);
    set_mode(dir.join("sub/deep"), 0o555);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.join("program"), Some(1234), Some(2345)).unwrap();
        std::os::unix::fs::lchown(dir.join("link"), Some(1234), Some(2345)).unwrap();
    }
    let all = vec![
        "file",
        "sub/deep/file",
        "read-only",
        "program",
        "before 1970",
        "sub/same",
        "same",
        "link",
        "sub/absolute",
        "sub/dangling",
        "long",
        "to a directory",
        "pipe",
        "sub/deep",
        "sub",
        "",
    ];
    for (number, name) in (0..).zip(&all) {
        set_times(&dir.join(name), 1_000_000_000 + number, 123_456_789);
    }
    set_times(&dir.join("before 1970"), -2, 500_000_000);
    all
}

#[test]
fn attributes_modes_times_and_links_are_restored() {
    let place = Place::new();
    let all = one_of_everything(&place.dir);
    let [restored, imported] = place.brought_back();
    for (which, brought) in [("restored", &restored), ("imported", &imported)] {
        for name in &all {
            let (mut before, after) = (beside(&place.dir.join(name)), beside(&brought.join(name)));
            if which == "imported" {
                // What a number of an owner means in another store is not known.
                before.owner = after.owner;
            }
            assert_eq!(after, before, "{which}: {name:?}");
        }
        let inode = |name: &str| fs::symlink_metadata(brought.join(name)).unwrap().ino();
        assert_eq!((inode("same"), inode("sub/same")), (inode("file"), inode("file")));
        assert_eq!(fs::read_to_string(brought.join("same")).unwrap(), "file");
        assert_eq!(fs::metadata(brought.join("file")).unwrap().nlink(), 3);
    }
    let owner = fs::metadata(imported.join("program")).unwrap().uid();
    assert_eq!(owner, fs::metadata(&imported).unwrap().uid());
}

#[test]
fn a_hard_link_between_two_users_becomes_two_files() {
    let place = Place::new();
    let bob = block_on(place.store.create(new_user_at("bob@example.com", "bob"))).unwrap().id;
    fs::write(place.dir.join("shared"), "both").unwrap();
    fs::hard_link(place.dir.join("shared"), dir_of(&place.store, bob).join("shared")).unwrap();
    let file = place.at("a.tar.zst");
    assert_eq!(back_up(&place.store, &file).manifest.files, 3);
    restore(&file, &place.at("restored"));
    for name in ["ada", "bob"] {
        let path = place.at("restored/storage").join(name).join("shared");
        assert_eq!(
            (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().nlink()),
            (b"both".to_vec(), 1)
        );
    }
}

/// The owners of a store change when it is moved to another machine, or as a service gets another
/// number.
#[test]
fn files_of_the_former_owner_of_a_store_go_to_the_new_owner() {
    if !rustix::process::geteuid().is_root() {
        return crate::support::skipped("only root may give files away");
    }
    let place = Place::new();
    fs::write(place.dir.join("of the service"), "x").unwrap();
    fs::write(place.dir.join("of somebody else"), "x").unwrap();
    for path in [place.place.data_dir(), place.dir.clone(), place.dir.join("of the service")] {
        std::os::unix::fs::chown(path, Some(1234), Some(1234)).unwrap();
    }
    std::os::unix::fs::chown(place.dir.join("of somebody else"), Some(4321), Some(1234)).unwrap();
    let file = place.at("a.tar.zst");
    back_up(&place.store, &file);
    restore(&file, &place.at("restored"));
    let owner = |name: &str| {
        let stat = fs::metadata(place.at("restored/storage/ada").join(name)).unwrap();
        (stat.uid(), stat.gid())
    };
    assert_eq!((owner("of the service"), owner("of somebody else")), ((0, 0), (4321, 0)));
}

/// What was backed up years ago is there to be restored.
#[test]
fn archives_of_format_1_are_read() {
    // One that a program of the first format has made.
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/fixtures/user-format-1.tar.zst");
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path().join("data"))).unwrap();
    let imported = block_on(store.import_user(fixture, |_| {})).unwrap().manifest;
    assert_eq!((imported.format, imported.files), (1, 3));
    // And a backup as it was then, which had nothing but what is taken from this one.
    let backup = dir.path().join("a.tar.zst");
    back_up(&store, &backup);
    let mut older = crate::archives::Forged::of(&backup);
    older.manifest["format"] = 1.into();
    for entry in &mut older.entries {
        entry.modified_at = 1_577_934_245;
    }
    older.write(&backup);
    let manifest = block_on(verify_backup(&backup, |_| {})).unwrap().manifest;
    assert_eq!((manifest.format, manifest.users, manifest.files), (1, 1, 4));
    restore(&backup, &dir.path().join("restored"));
    for name in ["data", "restored"] {
        let ada = dir.path().join(name).join("storage/customers/ada");
        assert_eq!(fs::read_to_string(ada.join("a.txt")).unwrap(), "a file of Ada's\n");
        assert_eq!(fs::metadata(ada.join("a.txt")).unwrap().mtime(), 1_577_934_245);
        assert_eq!(fs::metadata(ada.join("sub/run")).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::read(ada.join("l".repeat(200))).unwrap(), b"long\n");
    }
}

/// What no other program understood would be lost with this one.
#[test]
fn gnu_tar_and_bsdtar_unpack_an_archive_to_the_same() {
    let place = Place::new();
    let mut all = one_of_everything(&place.dir);
    let long = "l".repeat(200);
    fs::write(place.dir.join(&long), "of a long name").unwrap();
    let sparse = File::create(place.dir.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&noise(10_000), 32 << 20).unwrap();
    drop(sparse);
    all.push("sparse");
    let file = place.at("a.tar.zst");
    assert_eq!(back_up(&place.store, &file).left_out, []);
    let plain = place.at("a.tar");
    fs::write(&plain, zstd::decode_all(File::open(&file).unwrap()).unwrap()).unwrap();
    for (program, options) in [
        ("tar", &["--xattrs", "--xattrs-include=*", "--acls", "--delay-directory-restore"][..]),
        ("bsdtar", &["--xattrs", "--acls"]),
    ] {
        let into = place.at(program);
        fs::create_dir(&into).unwrap();
        let mut command = Command::new(program);
        let output =
            command.arg("-xpf").arg(&plain).arg("-C").arg(&into).args(options).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let unpacked = into.join("storage/ada");
        for name in &all {
            let (before, after) = (beside(&place.dir.join(name)), beside(&unpacked.join(name)));
            assert_eq!(
                (after.mode, after.target),
                (before.mode, before.target),
                "{program}: {name}"
            );
            let mut user = (before.attributes, after.attributes);
            // How programs write ACLs down differs.
            user.0.retain(|name, _| name.starts_with("user."));
            user.1.retain(|name, _| name.starts_with("user."));
            if program == "bsdtar" {
                // It takes the name as it is escaped in the archive, as it does for GNU tar's own.
                user.0.remove("user.50%=x");
            }
            assert_eq!(user.0, user.1, "{program}: {name}");
            if *name != "before 1970" {
                assert_eq!(after.modified, before.modified, "{program}: {name}");
            }
            let path = place.dir.join(name);
            if fs::symlink_metadata(&path).unwrap().is_file() {
                assert!(
                    fs::read(path).unwrap() == fs::read(unpacked.join(name)).unwrap(),
                    "{program}: {name}"
                );
            }
        }
        assert_eq!(fs::read(unpacked.join(&long)).unwrap(), b"of a long name");
        assert!(
            fs::metadata(unpacked.join("sparse")).unwrap().blocks() * 512 < 1 << 20,
            "{program}"
        );
        assert_eq!(fs::metadata(unpacked.join("same")).unwrap().nlink(), 3, "{program}");
    }
}

const ACCOUNTS: i64 = 40;
const BALANCE: i64 = 1_000;

/// A database in which the sum of all accounts never changes, each of which has pages of its own.
fn make_bank(path: &Path, journal_mode: &str) -> Connection {
    let bank = Connection::open(path).unwrap();
    bank.busy_timeout(Duration::from_secs(60)).unwrap();
    let mode: String = bank
        .query_row(&format!("PRAGMA journal_mode = {journal_mode}"), [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, journal_mode);
    bank.execute_batch(
        "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 20; PRAGMA cache_size = 5",
    )
    .unwrap();
    bank.execute_batch(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB)",
    )
    .unwrap();
    for id in 0..ACCOUNTS {
        bank.execute("INSERT INTO accounts VALUES (?1, ?2, zeroblob(5000))", (id, BALANCE))
            .unwrap();
    }
    bank
}

fn move_money(bank: &mut Connection, number: i64) {
    let tx = bank.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    for step in 0..8 {
        let (from, to) = ((number + step) % ACCOUNTS, (number * 7 + 3 * step + 1) % ACCOUNTS);
        for (id, amount) in [(from, -1), (to, 1)] {
            let sql = "UPDATE accounts SET balance = balance + ?2, filler = randomblob(5000) WHERE id = ?1";
            assert_eq!(tx.execute(sql, (id, amount)).unwrap(), 1);
        }
    }
    tx.commit().unwrap();
}

/// What is wrong with a database.
fn wrong_with(path: &Path) -> Option<String> {
    let look = || -> Result<(String, i64, i64), tenantry::sqlite::rusqlite::Error> {
        let bank = Connection::open(path)?;
        let health = bank.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let (count, sum) =
            bank.query_row("SELECT count(*), sum(balance) FROM accounts", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        Ok((health, count, sum))
    };
    match look() {
        Ok((health, ACCOUNTS, sum)) if health == "ok" && sum == ACCOUNTS * BALANCE => None,
        other => Some(format!("{}: {other:?}", path.display())),
    }
}

const BANKS: usize = 100;

fn bank_name(number: usize) -> String {
    format!("bank{number}.db")
}

pub(crate) fn child_moves_money(dir: &Path) {
    process::end_with_the_parent();
    let mode = |number: usize| if number.is_multiple_of(2) { "wal" } else { "delete" };
    let mut banks: Vec<Connection> =
        (0..BANKS).map(|number| make_bank(&dir.join(bank_name(number)), mode(number))).collect();
    process::say("ready");
    for number in 0.. {
        for bank in &mut banks {
            move_money(bank, number);
        }
    }
}

/// A copy of a database is of many moments if its application writes meanwhile, and so none that
/// there ever was.
#[test]
fn databases_with_concurrent_writers_are_each_of_one_moment() {
    let place = Place::new();
    let mut child = Process::start("moves money", &place.dir, "");
    child.await_ready();
    for round in 0..3 {
        let backup = place.at(&format!("backup {round}"));
        assert_eq!(back_up(&place.store, &backup).left_out, []);
        let into = place.at(&format!("restored {round}"));
        restore(&backup, &into);
        let archive = place.at(&format!("user {round}"));
        assert_eq!(export(&place.store, place.id, &archive).left_out, []);
        let other = block_on(Store::open(place.at(&format!("other {round}")))).unwrap();
        block_on(other.import_user(&archive, |_| {})).unwrap();
        for brought in [into.join("storage/ada"), dir_of(&other, place.id)] {
            let expected = (0..BANKS).map(bank_name).collect();
            assert_eq!(names(&brought), expected, "the log of a database is in it");
            let wrong: Vec<String> = (0..BANKS)
                .filter_map(|number| wrong_with(&brought.join(bank_name(number))))
                .collect();
            assert!(wrong.is_empty(), "round {round}: {wrong:?}");
        }
    }
    child.kill();
    // What the kill left is a journal or a log with what the file hasn't.
    let before = listing(&place.dir);
    let file = place.at("killed");
    assert_eq!(back_up(&place.store, &file).left_out, []);
    assert!(listing(&place.dir) == before, "a backup changes nothing");
    restore(&file, &place.at("restored"));
    let wrong: Vec<String> = (0..BANKS)
        .filter_map(|number| wrong_with(&place.at("restored/storage/ada").join(bank_name(number))))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// An application that makes its backups itself has these databases open in the same process.
#[test]
fn databases_of_the_same_process_are_each_of_one_moment() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, mode) in [(0, "wal"), (1, "delete"), (2, "wal"), (3, "truncate")] {
            let mut bank = make_bank(&place.dir.join(bank_name(number)), mode);
            let stop = &stop;
            scope.spawn(move || {
                for number in 0.. {
                    move_money(&mut bank, number);
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        let mut wrong = Vec::new();
        for round in 0..5 {
            let (backup, into) =
                (place.at(&format!("backup {round}")), place.at(&format!("restored {round}")));
            let made = back_up(&place.store, &backup);
            wrong.extend(
                made.left_out.iter().map(|(path, why)| format!("{}: {why}", path.display())),
            );
            restore(&backup, &into);
            wrong.extend((0..4).filter_map(|number| {
                wrong_with(&into.join("storage/ada").join(bank_name(number)))
            }));
        }
        stop.store(true, Ordering::SeqCst);
        assert!(wrong.is_empty(), "{wrong:?}");
    });
    assert!((0..4).all(|number| wrong_with(&place.dir.join(bank_name(number))).is_none()));
}

/// Everything that can be seen of the files of a directory, the times of the last change of each
/// included.
fn listing(dir: &Path) -> BTreeMap<String, [i64; 7]> {
    names(dir)
        .into_iter()
        .map(|name| {
            let stat = fs::symlink_metadata(dir.join(&name)).unwrap();
            let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
            let length = i64::try_from(stat.len()).unwrap();
            (
                name,
                [
                    length,
                    stat.mode().into(),
                    stat.uid().into(),
                    times[0],
                    times[1],
                    times[2],
                    times[3],
                ],
            )
        })
        .collect()
}

/// The file of a database, and of what lies beside it, while a transaction is open.
fn cut_short(dir: &Path, name: &str, mode: &str, suffix: &str) {
    let mut bank = make_bank(&dir.join("open.db"), mode);
    let tx = bank.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    // More than the cache holds, so that some of it is in the files.
    tx.execute("UPDATE accounts SET balance = balance + 1, filler = randomblob(9000)", []).unwrap();
    for suffix in ["", suffix] {
        fs::copy(dir.join(format!("open.db{suffix}")), dir.join(format!("{name}{suffix}")))
            .unwrap();
    }
    drop(tx);
    bank.close().unwrap();
    for suffix in ["", suffix] {
        let _ = fs::remove_file(dir.join(format!("open.db{suffix}")));
    }
}

#[test]
fn a_database_of_a_crashed_application_is_archived_with_its_wal_or_journal() {
    let place = Place::new();
    cut_short(&place.dir, "journal.db", "delete", "-journal");
    cut_short(&place.dir, "log.db", "wal", "-wal");
    // One that was closed has no log, though it says that it uses one.
    make_bank(&place.dir.join("closed.db"), "wal").close().unwrap();
    // What only looks like a database belongs to an application that knows what it is.
    let unknown = [b"SQLite format 3\0".to_vec(), noise(20_000)].concat();
    fs::write(place.dir.join("encrypted.db"), &unknown).unwrap();
    fs::write(place.dir.join("encrypted.db-wal"), noise(5_000)).unwrap();
    // And these aren't part of any.
    fs::write(place.dir.join("notes.txt-wal"), "mine").unwrap();
    fs::write(place.dir.join("lone-journal"), "mine").unwrap();

    let before = listing(&place.dir);
    let [restored, imported] = place.brought_back();
    assert!(listing(&place.dir) == before, "{:?}", listing(&place.dir));
    for brought in [restored, imported] {
        let expected = [
            "closed.db",
            "encrypted.db",
            "encrypted.db-wal",
            "journal.db",
            "log.db",
            "lone-journal",
            "notes.txt-wal",
        ];
        assert_eq!(names(&brought), expected.map(str::to_owned).into());
        for name in ["journal.db", "log.db", "closed.db"] {
            assert_eq!(wrong_with(&brought.join(name)), None);
        }
        for name in ["encrypted.db", "encrypted.db-wal", "lone-journal"] {
            assert!(
                fs::read(brought.join(name)).unwrap() == fs::read(place.dir.join(name)).unwrap(),
                "{name}"
            );
        }
    }
}

/// The journal of a transaction over several databases names a file elsewhere. Where that is
/// missing, as after a restore on another machine, SQLite takes the transaction for finished, and
/// the half of it that was written stays.
#[test]
fn an_interrupted_transaction_over_several_databases_is_reported() {
    let place = Place::new();
    // A journal that names others would have SQLite remove them.
    cut_short(&place.dir, "several.db", "delete", "-journal");
    // A name as SQLite makes them.
    let victim = place.at("first.db-mj0A1B2C93D");
    fs::write(&victim, "").unwrap();
    let mut journal =
        File::options().append(true).open(place.dir.join("several.db-journal")).unwrap();
    let name = victim.to_str().unwrap().as_bytes();
    let sum = name.iter().fold(0_u32, |sum, octet| sum.wrapping_add((*octet).into()));
    journal.write_all(&0x4000_0000_u32.to_be_bytes()).unwrap();
    journal.write_all(name).unwrap();
    journal.write_all(&u32::try_from(name.len()).unwrap().to_be_bytes()).unwrap();
    journal.write_all(&sum.to_be_bytes()).unwrap();
    journal.write_all(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]).unwrap();
    drop(journal);

    let before = listing(&place.dir);
    let backup = place.at("backup.tar.zst");
    let made = back_up(&place.store, &backup);
    assert_eq!((made.incomplete, made.left_out.len()), (1, 1));
    assert!(made.left_out[0].0.ends_with("several.db"), "{:?}", made.left_out);
    let exported = export(&place.store, place.id, &place.at("user.tar.zst"));
    assert_eq!(exported.incomplete, 1);
    assert!(listing(&place.dir) == before, "{:?}", listing(&place.dir));
    assert!(victim.exists());
    restore(&backup, &place.at("restored"));
    let brought = place.at("restored/storage/ada");
    for name in ["several.db", "several.db-journal"] {
        assert!(
            fs::read(brought.join(name)).unwrap() == fs::read(place.dir.join(name)).unwrap(),
            "{name}"
        );
    }
    // That is why it is named.
    fs::remove_file(&victim).unwrap();
    assert!(wrong_with(&brought.join("several.db")).is_some());
}

/// No link is followed to a database or its log, of which the content would be somebody else's.
#[test]
fn links_beside_a_database_lead_nowhere() {
    let place = Place::new();
    make_bank(&place.at("secret.db"), "wal").close().unwrap();
    make_bank(&place.dir.join("mine.db"), "delete").close().unwrap();
    symlink(place.at("secret.db"), place.dir.join("link.db")).unwrap();
    symlink(place.at("secret.db"), place.dir.join("mine.db-wal")).unwrap();
    symlink(place.at("secret.db"), place.dir.join("mine.db-journal")).unwrap();
    for brought in place.brought_back() {
        assert_eq!(fs::read_link(brought.join("link.db")).unwrap(), place.at("secret.db"));
        assert_eq!(fs::read_link(brought.join("mine.db-wal")).unwrap(), place.at("secret.db"));
        let mut octets = Vec::new();
        File::open(brought.join("mine.db")).unwrap().read_to_end(&mut octets).unwrap();
        assert!(octets == fs::read(place.dir.join("mine.db")).unwrap());
    }
}

#[test]
fn an_unknown_archive_format_is_refused_with_the_known_ones() {
    let place = Place::new();
    let file = place.at("a.tar.zst");
    back_up(&place.store, &file);
    let mut forged = crate::archives::Forged::of(&file);
    assert_eq!(forged.manifest["format"], 2);
    forged.manifest["format"] = 3.into();
    forged.write(&file);
    let error = block_on(verify_backup(&file, |_| {})).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("format 3")),
        (ErrorKind::Incompatible, true)
    );
    assert_eq!(
        kind(block_on(restore_backup(&file, place.at("x"), |_| {}))),
        ErrorKind::Incompatible
    );
}
