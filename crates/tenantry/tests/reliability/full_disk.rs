//! Disks of many sizes that are filled: a write that doesn't fit is `Full` and nothing of it is
//! there, reads go on, and so do writes when there is room, in the store that is open. What was
//! answered is there.
//!
//! A disk is a tmpfs in a namespace of its own. Some have few inodes: then it is directories that
//! can't be made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tenantry::{
    BackupOptions, Error, ErrorKind, ListQuery, NewUser, Purge, Store, Timestamp, TrashQuery, User,
    UserId, check, verify_backup,
};
use tenantry_testkit::random::Random;

use crate::process::{self, Process};
use crate::share::{report, share};
use crate::support::{all, block_on, has_strace, kind, new_user, skipped, to_email};

/// How many operations are tried on a disk that is full.
const ON_A_FULL_DISK: u64 = 40;
/// Enough for everything that is kept on the largest of the disks.
const ROOM_KIB: u64 = 16 << 10;
const BATCH: u64 = 40;
const FILE: &str = "note.txt";

/// The size of a disk, and how many inodes it has if it has few.
fn size_of(number: u64, count: u64) -> (u64, Option<u64>) {
    const LARGEST_KIB: u64 = 2_000;
    // The first hold a few pages each, since it is there that a store doesn't come into being.
    let small = count * 2 / 5;
    let kib = if number < small {
        4 * (number + 1)
    } else {
        4 * small + (number - small) * LARGEST_KIB / (count - small)
    };
    let few_inodes = number % 3 == 2;
    (kib, few_inodes.then_some(12 + number % 29))
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Figures {
    disks: u64,
    /// Disks on which a store could not be created.
    too_small: u64,
    answered: u64,
    refused: BTreeMap<String, u64>,
    /// Changes of rows whose directories had to follow later.
    unfinished: u64,
    /// Purges whose rewriting of the database had to follow later.
    put_off: u64,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

#[test]
fn on_disks_that_get_full_nothing_is_lost_and_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let probe = ["-rm", "sh", "-c", "mount -t tmpfs probe \"$0\""];
    let can_mount = Command::new("unshare").args(probe).arg(dir.path()).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        return skipped("full disks need `unshare` and permission to mount a tmpfs in a namespace");
    }
    let shell = "exec unshare -rm \"$0\" --exact child::child_process_entry --nocapture";
    let heard = Process::start("fills disks", dir.path(), shell).end();
    let figures: Figures = serde_json::from_str(&heard[0]).unwrap();
    let Figures { disks, too_small, answered, refused, unfinished, put_off } = &figures;
    assert!(*disks == share(50, 500) && *too_small > 0 && refused.len() >= 5, "{figures:?}");
    report(
        "disks that get full",
        format!(
            "{disks} sizes, {too_small} of them too small for a store; {answered} answers all there; refused as full: \
             {refused:?}; {unfinished} directories and {put_off} rewritings followed when there was room"
        ),
    );
}

pub(crate) fn child_fills_disks(dir: &Path) {
    let mut figures = Figures::default();
    let count = share(50, 500);
    for number in 0..count {
        let (kib, inodes) = size_of(number, count);
        let disk = Disk::mount(dir, kib, inodes);
        let what = format!("a disk of {kib} KiB and {inodes:?} inodes");
        println!("{what}");
        fill(&disk, number, &mut figures);
        figures.disks += 1;
        disk.unmount();
    }
    process::say(serde_json::to_string(&figures).unwrap());
}

struct Disk {
    path: PathBuf,
    beside: PathBuf,
}

impl Disk {
    /// With a ballast on it, that can be thrown off.
    fn mount(dir: &Path, kib: u64, inodes: Option<u64>) -> Self {
        let path = dir.join("disk");
        fs::create_dir_all(&path).unwrap();
        let inodes = inodes.map_or(String::new(), |inodes| format!(",nr_inodes={}", inodes + 2));
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k{inodes}"),
                "tenantry-test",
                path.to_str().unwrap(),
            ],
        );
        fs::write(path.join("ballast"), vec![7; usize::try_from(kib / 4 * 1024).unwrap()]).unwrap();
        Self { path, beside: dir.to_owned() }
    }

    fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    fn grow(&self) {
        let how = format!("remount,size={ROOM_KIB}k,nr_inodes=100000");
        run("mount", &["-o", &how, self.path.to_str().unwrap()]);
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn unmount(self) {
        run("umount", &[self.path.to_str().unwrap()]);
    }
}

/// What has returned.
#[derive(Default)]
struct Model {
    live: BTreeMap<UserId, User>,
    trashed: BTreeMap<UserId, User>,
    /// Of whom files may be gone; they can only be purged.
    being_purged: Vec<UserId>,
    /// What a user's file holds, if that is known.
    files: BTreeMap<UserId, String>,
    backups: Vec<String>,
}

impl Model {
    fn compare(&self, store: &Store) {
        let found: BTreeMap<UserId, User> = block_on(all(store, ListQuery::default()))
            .into_iter()
            .map(|user| (user.id, user))
            .collect();
        assert_eq!(found, self.live);
        let query = TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() };
        let trashed = block_on(store.list_trash(&query)).unwrap().users;
        for (id, user) in &self.trashed {
            assert!(
                trashed.iter().any(|trashed| trashed.user == *user),
                "{id} is not in the trash"
            );
        }
        for trashed in trashed {
            let id = trashed.user.id;
            assert!(self.trashed.contains_key(&id) || self.being_purged.contains(&id), "{id}");
        }
        for (id, content) in &self.files {
            if self.live.contains_key(id) {
                assert_eq!(
                    block_on(store.directory(*id)).unwrap().read_to_string(FILE).unwrap(),
                    *content
                );
            }
        }
    }
}

/// What an operation that may meet a full disk came to. Other failures are none that it may have.
fn or_full<T>(
    result: tenantry::Result<T>,
    what: &str,
    figures: &mut Figures,
) -> Result<T, ErrorKind> {
    match result {
        Ok(value) => {
            figures.answered += 1;
            Ok(value)
        }
        Err(error) => {
            match error.kind() {
                ErrorKind::Full => *figures.refused.entry(what.to_owned()).or_default() += 1,
                _ if is_unfinished_by_a_full_disk(&error) => figures.unfinished += 1,
                _ => panic!("{what}: {error:?}"),
            }
            Err(error.kind())
        }
    }
}

/// Whether the row was changed, and what is to follow in the file system met a full disk.
fn is_unfinished_by_a_full_disk(error: &Error) -> bool {
    let mut causes =
        std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<Error>().is_some_and(|cause| cause.kind() == ErrorKind::Full)
    };
    error.kind() == ErrorKind::Unfinished && causes.any(is_full)
}

fn fill(disk: &Disk, seed: u64, figures: &mut Figures) {
    let data_dir = disk.data_dir();
    let store = match block_on(Store::open(&data_dir)) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
            figures.too_small += 1;
            // Nothing that is half a store.
            let looked = block_on(Store::builder(&data_dir).create_if_missing(false).open());
            assert!(matches!(kind(looked), ErrorKind::StoreMissing | ErrorKind::Full));
            assert!(!data_dir.join("tenantry.db.new").exists());
            disk.grow();
            let store = block_on(Store::open(&data_dir)).unwrap();
            block_on(store.create(new_user("ada@example.com"))).unwrap();
            block_on(store.close()).unwrap();
            assert_eq!(block_on(check(&data_dir)).unwrap().findings, []);
            return;
        }
    };
    let (mut model, mut random) = (Model::default(), Random::new(seed));
    let mut after_full = 0;
    for number in 0.. {
        let refused: u64 = figures.refused.values().sum();
        step(&store, disk, number, &mut model, &mut random, figures);
        if after_full > 0 || figures.refused.values().sum::<u64>() > refused {
            after_full += 1;
            read(&store, &model, &mut random);
        }
        if after_full == ON_A_FULL_DISK {
            break;
        }
    }
    model.compare(&store);

    // There is room again, and no process opens anything again.
    fs::remove_file(disk.path.join("ballast")).unwrap();
    for name in model.backups.drain(..) {
        assert_eq!(block_on(verify_backup(disk.path.join(&name), |_| {})).unwrap().findings, []);
        fs::remove_file(disk.path.join(name)).unwrap();
    }
    let user = block_on(store.create(new_user("with-room@example.com"))).unwrap();
    model.live.insert(user.id, user);
    // The rewriting after a purge takes as much again as the database.
    disk.grow();
    for (id, user) in std::mem::take(&mut model.trashed) {
        assert_eq!(block_on(store.restore(id, None)).unwrap(), user);
        model.live.insert(id, user);
    }
    let user = model.live.values().next().unwrap().clone();
    block_on(store.delete(user.id)).unwrap();
    model.live.remove(&user.id);
    model.being_purged.push(user.id);
    let purged = block_on(store.purge(Purge::DeletedBefore(Timestamp::MAX), |_| {})).unwrap();
    assert!(purged.left.is_empty() && purged.not_erased.is_none(), "{purged:?}");
    for id in std::mem::take(&mut model.being_purged) {
        assert!(block_on(store.read(move |tx| tx.was_purged(id))).unwrap(), "{id}");
    }
    model.compare(&store);
    let file = disk.beside.join("a.tar.zst");
    let made = block_on(store.create_backup(&file, BackupOptions::default(), |_| {})).unwrap();
    assert_eq!((made.incomplete, made.manifest.users), (0, model.live.len() as u64));
    fs::remove_file(file).unwrap();
    block_on(store.close()).unwrap();

    let store = block_on(Store::open(&data_dir)).unwrap();
    model.compare(&store);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(check(&data_dir)).unwrap().findings, []);
    assert_eq!(disk.names(), ["data"]);
}

/// Reads go on.
fn read(store: &Store, model: &Model, random: &mut Random) {
    let users: Vec<&User> = model.live.values().collect();
    assert_eq!(block_on(store.count()).unwrap(), users.len() as u64);
    if let Some(index) = random.index(users.len()) {
        assert_eq!(block_on(store.get(users[index].id)).unwrap().as_ref(), Some(users[index]));
        assert_eq!(
            block_on(store.get_by_email(&users[index].email)).unwrap().as_ref(),
            Some(users[index])
        );
    }
}

fn step(
    store: &Store,
    disk: &Disk,
    number: u64,
    model: &mut Model,
    random: &mut Random,
    figures: &mut Figures,
) {
    let address = format!("u{number}@example.com");
    let (live, trashed) = (random.index(model.live.len()), random.index(model.trashed.len()));
    let live = live.and_then(|index| model.live.keys().nth(index).copied());
    let trashed = trashed.and_then(|index| model.trashed.keys().nth(index).copied());
    // Where the user is, after an operation that may have to be finished.
    let where_is = |id: UserId, model: &mut Model| {
        let is_live = block_on(store.get(id)).unwrap();
        let user = model.live.remove(&id).or_else(|| model.trashed.remove(&id)).unwrap();
        if let Some(found) = is_live {
            assert_eq!(found, user);
            model.live.insert(id, user);
        } else {
            assert_eq!(
                block_on(store.read(move |tx| tx.get_trashed(id))).unwrap().unwrap().user,
                user
            );
            model.trashed.insert(id, user);
        }
    };
    match (random.below(100), live, trashed) {
        (0..10, Some(id), _) => {
            if let Ok(user) =
                or_full(block_on(store.update(id, to_email(&address))), "update", figures)
            {
                model.live.insert(id, user);
            }
        }
        (10..15, Some(id), _) => {
            if let Ok(user) = or_full(block_on(store.record_login(id)), "login", figures) {
                model.live.insert(id, user);
            }
        }
        (15..35, Some(id), _) => {
            if let Ok(dir) = or_full(block_on(store.directory(id)), "directory", figures) {
                let content = format!("{number} ").repeat(2_000);
                // The application's own write may fail as well, and then it knows.
                match dir.write(FILE, &content) {
                    Ok(()) => drop(model.files.insert(id, content)),
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                        model.files.remove(&id);
                    }
                }
            }
        }
        (35..45, Some(id), _) => {
            let deleted = or_full(block_on(store.delete(id)), "delete", figures);
            where_is(id, model);
            assert!(deleted.is_err() || model.trashed.contains_key(&id));
            assert!(deleted != Err(ErrorKind::Full) || model.live.contains_key(&id));
        }
        (45..53, _, Some(id)) => {
            let restored = or_full(block_on(store.restore(id, None)), "restore", figures);
            where_is(id, model);
            assert!(restored.is_err() || model.live.contains_key(&id));
            assert!(restored != Err(ErrorKind::Full) || model.trashed.contains_key(&id));
        }
        (53..57, _, Some(id)) => {
            let purged = or_full(block_on(store.purge(Purge::User(id), |_| {})), "purge", figures);
            let left = block_on(store.read(move |tx| tx.get_trashed(id))).unwrap();
            match &purged {
                Ok(purged) => {
                    assert!(purged.left.is_empty() && left.is_none(), "{purged:?}");
                    if let Some(error) = &purged.not_erased {
                        // It is told, and done later.
                        assert!(
                            error.kind() == ErrorKind::Full || is_unfinished_by_a_full_disk(error),
                            "{error:?}"
                        );
                        figures.put_off += 1;
                    }
                }
                Err(_) => assert!(left.is_some()),
            }
            if left.is_none_or(|left| left.is_being_purged) {
                model.trashed.remove(&id);
                model.files.remove(&id);
                model.being_purged.push(id);
            }
        }
        (57..60, ..) => {
            let name = format!("backup-{number}.tar.zst");
            let made = store.create_backup(disk.path.join(&name), BackupOptions::default(), |_| {});
            if let Ok(made) = or_full(block_on(made), "backup", figures) {
                assert_eq!(made.incomplete, 0, "{made:?}");
                model.backups.push(name);
            }
            let mut expected = model.backups.clone();
            expected.extend(["ballast".to_owned(), "data".to_owned()]);
            expected.sort();
            assert_eq!(disk.names(), expected);
        }
        (60..75, ..) => {
            let rows: Vec<NewUser> =
                (0..BATCH).map(|row| new_user(&format!("row{number}-{row}@example.com"))).collect();
            let write = move |tx: &mut tenantry::WriteTx<'_>| {
                rows.iter().map(|row| tx.create(row)).collect()
            };
            let written: tenantry::Result<Vec<User>> = block_on(store.write(write));
            if let Ok(users) = or_full(written, "transaction", figures) {
                model.live.extend(users.into_iter().map(|user| (user.id, user)));
            }
        }
        (75..80, ..) => {
            let signed_in = block_on(store.sign_in(address.parse().unwrap()));
            if let Ok(answer) = or_full(signed_in, "sign-in", figures) {
                model.live.insert(answer.user.id, answer.user);
            }
        }
        _ => {
            if let Ok(user) = or_full(block_on(store.create(new_user(&address))), "create", figures)
            {
                model.live.insert(user.id, user);
            }
        }
    }
}

/// A quota, and a limit on the size of files, at one write of many: SQLite calls both an I/O error.
#[test]
fn a_quota_is_a_full_disk_at_whatever_write_it_is_met() {
    if !has_strace() {
        return skipped("a quota needs `strace`, which has a write fail");
    }
    let writes: Vec<u64> = (0..share(4, 60)).map(|number| 3 + number * share(60, 4)).collect();
    let (mut opening, mut writing) = (0, 0);
    for error in ["EDQUOT", "EFBIG"] {
        for write in &writes {
            let dir = tempfile::tempdir().unwrap();
            let shell = format!(
                "exec strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:error={error}:when={write} \"$0\" --exact child::child_process_entry --nocapture"
            );
            let heard = Process::start("meets a quota", dir.path(), &shell).end();
            let heard: Value = serde_json::from_str(&heard[0]).unwrap();
            opening += heard["opening"].as_u64().unwrap();
            writing += heard["writing"].as_u64().unwrap();
            let data_dir = dir.path().join("data");
            let store = block_on(Store::open(&data_dir)).unwrap();
            assert_eq!(block_on(store.count()).unwrap(), heard["there"].as_u64().unwrap());
            block_on(store.close()).unwrap();
            assert_eq!(block_on(check(&data_dir)).unwrap().findings, []);
        }
    }
    assert!(opening > 0 && writing > 0, "{opening} and {writing}");
    report(
        "quotas and limits on files",
        format!(
            "{} writes that failed with EDQUOT or EFBIG: {opening} openings and {writing} operations were refused as \
             full, and the next one worked",
            2 * writes.len()
        ),
    );
}

pub(crate) fn child_meets_a_quota(dir: &Path) {
    let opened = block_on(Store::open(dir.join("data")));
    // Whoever opens it counts anew, so it fails again.
    let Ok(store) = opened else {
        assert_eq!(kind(opened), ErrorKind::Full);
        return process::say(serde_json::json!({ "opening": 1, "writing": 0, "there": 0 }));
    };
    let mut refused = 0;
    let mut is_full = |error: Error| {
        assert!(
            error.kind() == ErrorKind::Full || is_unfinished_by_a_full_disk(&error),
            "{error:?}"
        );
        refused += 1;
        // It was one write.
        assert_eq!(refused, 1);
    };
    let mut there: u64 = 0;
    for number in 0..60 {
        match block_on(store.create(new_user(&format!("u{number}@example.com")))) {
            Err(error) => is_full(error),
            Ok(user) => {
                there += 1;
                let made = block_on(store.directory(user.id)).map(drop);
                made.unwrap_or_else(&mut is_full);
                block_on(store.delete(user.id)).map(drop).unwrap_or_else(&mut is_full);
                // Even if the directory has to follow.
                there -= u64::from(block_on(store.get(user.id)).unwrap().is_none());
            }
        }
        let row = new_user(&format!("row{number}@example.com"));
        match block_on(store.write(move |tx| tx.create(&row))) {
            Ok(_) => there += 1,
            Err(error) => is_full(error),
        }
    }
    assert_eq!(block_on(store.count()).unwrap(), there);
    block_on(store.close()).unwrap();
    process::say(serde_json::json!({ "opening": 0, "writing": refused, "there": there }));
}

/// The same at the database file, which is written when the log is moved into it: nobody is refused
/// for that, since the log has room.
#[test]
fn a_quota_that_is_met_when_the_log_is_moved_refuses_no_write() {
    if !has_strace() {
        return skipped("a quota needs `strace`, which has a write fail");
    }
    for (error, when) in [("EDQUOT", "1"), ("EFBIG", "1+")] {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, failures) = (dir.path().join("data"), dir.path().join("failures"));
        let shell = format!(
            "exec strace -f -qq -o '{}' -P '{}' -e trace=pwrite64 -e inject=pwrite64:error={error}:when={when} \"$0\" --exact child::child_process_entry --nocapture",
            failures.display(),
            data_dir.join("tenantry.db").display(),
        );
        let there = Process::start("meets a quota when the log is moved", dir.path(), &shell).end();
        assert!(
            fs::read_to_string(&failures).unwrap().contains("INJECTED"),
            "no write of the database failed"
        );
        let there: Value = serde_json::from_str(&there[0]).unwrap();
        // `strace` counts by thread. So each round fails at its first write, and the writer's own
        // attempt, but not its second: all was moved long before closing, unless every write
        // failed.
        let moved = there["database_octets"].as_u64().unwrap() > 1_000_000;
        let failures = fs::read_to_string(&failures).unwrap();
        assert_eq!(moved, when == "1", "{there} {failures}");
        let store = block_on(Store::open(&data_dir)).unwrap();
        assert_eq!(block_on(store.count()).unwrap(), there["users"].as_u64().unwrap());
        block_on(store.close()).unwrap();
        assert_eq!(block_on(check(&data_dir)).unwrap().findings, []);
    }
}

pub(crate) fn child_meets_a_quota_when_the_log_is_moved(dir: &Path) {
    let store = block_on(Store::open(dir.join("data"))).unwrap();
    // Long enough for a page to have no more than seven of them, so that each login of all is
    // hundreds of pages.
    let label = "x".repeat(60);
    let address = |number: u32| format!("u{number}@{label}.{label}.{label}.example.com");
    let news: Vec<NewUser> = (0..2_000).map(|number| new_user(&address(number))).collect();
    let create =
        move |tx: &mut tenantry::WriteTx<'_>| news.iter().map(|new| tx.create(new)).collect();
    let users: tenantry::Result<Vec<User>> = block_on(store.write(create));
    let ids: Vec<UserId> = users.unwrap().iter().map(|user| user.id).collect();
    // Several times as many pages as the log has when it is moved.
    for _ in 0..160 {
        let ids = ids.clone();
        let log_in = move |tx: &mut tenantry::WriteTx<'_>| {
            ids.iter().try_for_each(|id| tx.record_login(*id).map(drop))
        };
        block_on(store.write(log_in)).unwrap();
    }
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    let users = block_on(store.count()).unwrap();
    let database_octets = fs::metadata(dir.join("data/tenantry.db")).unwrap().len();
    block_on(store.close()).unwrap();
    process::say(serde_json::json!({ "users": users, "database_octets": database_octets }));
}
