//! Checks: a test for everything that can be wrong.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tenantry::FindingKind::{self, *};
use tenantry::sqlite::rusqlite::{Connection, params};
use tenantry::{
    CheckReport, Error, ErrorKind, Finding, ListQuery, Progress, Purge, RepairOptions,
    RepairReport, Result, StoragePath, Store, TrashQuery, User, UserId, check, check_with_progress,
    repair, sqlite,
};

use crate::support::{
    SqlitePlace, block_on, kind, mode, new_user, new_user_at, numbered_id, set_mode, to_email, tree,
};

/// A store with users in every state, closed.
pub(crate) struct Fixture {
    pub(crate) place: SqlitePlace,
    /// With a directory at the derived path, and one at a chosen path.
    pub(crate) ada: User,
    pub(crate) bob: User,
    /// Without a directory.
    pub(crate) cyd: User,
    /// In the trash, with a directory at a chosen path and without one.
    pub(crate) dan: User,
    pub(crate) eve: User,
}

/// Where a user who was purged had a directory.
const RETIRED: &str = "old/fay";

impl Fixture {
    pub(crate) fn new() -> Self {
        let place = SqlitePlace::new();
        let store = place.open();
        let create = |new| block_on(store.create(new)).unwrap();
        let with_files = |new| {
            let user = create(new);
            let files = block_on(store.directory(user.id)).unwrap();
            files.create_dir("inner").unwrap();
            files.write("inner/whose.txt", user.id.to_string()).unwrap();
            user
        };
        let ada = with_files(new_user("ada@example.com"));
        let bob = with_files(new_user_at("bob@example.com", "customers/bob"));
        let cyd = create(new_user("stra\u{df}e@example.com"));
        let dan = with_files(new_user_at("dan@example.com", "gone/dan"));
        let eve = create(new_user("eve@example.com"));
        let fay = with_files(new_user_at("fay@example.com", RETIRED));
        for user in [&dan, &eve, &fay] {
            block_on(store.delete(user.id)).unwrap();
        }
        block_on(store.purge(Purge::User(fay.id), |_| {})).unwrap();
        block_on(store.close()).unwrap();
        Self { place, ada, bob, cyd, dan, eve }
    }

    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.place.data_dir().join(path)
    }

    /// Something with content that belongs to no user.
    pub(crate) fn stray(&self, path: impl AsRef<Path>) {
        fs::create_dir_all(self.at(&path).join("inner")).unwrap();
        fs::write(self.at(&path).join("inner/stray.txt"), path.as_ref().as_os_str().as_bytes())
            .unwrap();
        for above in path.as_ref().ancestors().filter(|above| !above.as_os_str().is_empty()) {
            set_mode(self.at(above), 0o700);
        }
    }

    pub(crate) fn check(&self) -> CheckReport {
        block_on(check(self.place.data_dir())).unwrap()
    }

    pub(crate) fn repair(&self, options: RepairOptions) -> Result<RepairReport> {
        block_on(repair(self.place.data_dir(), options))
    }

    /// Changes the closed database as another program would, without the checks of the store.
    pub(crate) fn sql(&self, sql: &str, user: &User) {
        let conn = Connection::open(self.place.database()).unwrap();
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        let changed = conn.execute(sql, params![user.id.as_uuid().as_bytes()]).unwrap();
        assert_eq!(changed, 1, "{sql}");
        conn.close().unwrap();
    }

    pub(crate) fn intend(&self, action: &str, user: Option<&User>, path: Option<&str>) {
        let conn = Connection::open(self.place.database()).unwrap();
        conn.execute(
            "INSERT INTO tenantry_intents (action, user_id, path, name, recorded_at) VALUES (?1, ?2, ?3, iif(?3 IS NULL, NULL, 'name'), 0)",
            params![action, user.map(|user| *user.id.as_uuid().as_bytes()), path.map(str::as_bytes)],
        )
        .unwrap();
        conn.close().unwrap();
    }

    /// Asserts that a check finds this and nothing else, twice, and changes nothing; and that a dry
    /// run says the same.
    #[track_caller]
    pub(crate) fn assert_found(&self, expected: &[(FindingKind, Option<UserId>, Option<PathBuf>)]) {
        let before = tree(&self.at(""));
        for _ in 0..2 {
            let report = self.check();
            let found: Vec<_> = report
                .findings
                .iter()
                .map(|found| (found.kind, found.user, found.path.clone()))
                .collect();
            assert_eq!(found, expected, "{report:?}");
            assert!(report.findings.iter().all(|finding| !finding.detail.contains('@')));
            assert_eq!(tree(&self.at("")), before);
        }
    }

    /// Repairs, however many belong to no user, and asserts that every byte is still there and that
    /// nothing is left to be repaired.
    #[track_caller]
    pub(crate) fn assert_repaired(&self) -> RepairReport {
        let before = contents(&self.at(""));
        let report = self.check();
        let dry = self.repair(RepairOptions { dry_run: true, ..RepairOptions::default() }).unwrap();
        assert_eq!((dry.before, dry.after.is_none()), (report.clone(), true));
        assert_eq!(contents(&self.at("")), before);

        let repaired = self.repair(EVEN_IF_MANY).unwrap();
        assert_eq!(repaired.before, report);
        assert!(repaired.failures.is_empty(), "{repaired:?}");
        let after = repaired.after.as_ref().unwrap();
        let left: Vec<_> =
            after.findings.iter().filter(|finding| finding.kind.repair().is_some()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(after, &self.check());
        assert_eq!(contents(&self.at("")), before);
        repaired
    }

    /// Asserts that a repair changes neither the findings, which it can't help, nor any file.
    #[track_caller]
    pub(crate) fn assert_beyond_repair(&self) {
        let repaired = self.assert_repaired();
        assert_eq!(repaired.after.as_ref().unwrap().findings, repaired.before.findings);
        assert!(!self.at("quarantine").exists());
    }

    #[track_caller]
    pub(crate) fn assert_repair_refused(&self, expected: ErrorKind) {
        let before = tree(&self.at(""));
        assert_eq!(kind(self.repair(EVEN_IF_MANY)), expected);
        let dry = self.repair(RepairOptions { dry_run: true, ..EVEN_IF_MANY }).unwrap();
        assert_eq!(dry.refusal.map(|refusal| refusal.kind()), Some(expected));
        assert_eq!(tree(&self.at("")), before);
    }

    /// What a repair has put into quarantine: where each thing came from, and where it is now.
    pub(crate) fn quarantined(&self) -> BTreeMap<String, PathBuf> {
        let places = fs::read_dir(self.at("quarantine")).into_iter().flatten();
        places
            .map(|place| {
                let place = place.unwrap().path();
                assert_eq!((mode(&place), mode(place.parent().unwrap())), (0o700, 0o700));
                let note: BTreeMap<String, String> =
                    serde_json::from_str(&fs::read_to_string(place.join("note.json")).unwrap())
                        .unwrap();
                assert_eq!(note.keys().collect::<Vec<_>>(), ["from", "moved_at", "why"]);
                note["moved_at"].parse::<tenantry::Timestamp>().unwrap();
                assert!(!note["why"].is_empty());
                let content = place.join("content");
                assert!(
                    content.symlink_metadata().is_ok(),
                    "nothing was moved from {}",
                    note["from"]
                );
                (note["from"].clone(), content)
            })
            .collect()
    }
}

pub(crate) const EVEN_IF_MANY: RepairOptions =
    RepairOptions { dry_run: false, even_if_many: true, allow_network_fs: false };

pub(crate) fn derived(user: &User) -> PathBuf {
    Path::new("storage").join(StoragePath::derived(user.id).as_str())
}

pub(crate) fn trashed(user: &User) -> PathBuf {
    Path::new("trash").join(user.id.to_string())
}

pub(crate) fn found(
    kind: FindingKind,
    user: Option<&User>,
    path: impl AsRef<Path>,
) -> (FindingKind, Option<UserId>, Option<PathBuf>) {
    (kind, user.map(|user| user.id), Some(path.as_ref().to_owned()))
}

/// The contents of all files and links that aren't the store's own, wherever they are, sorted.
fn contents(data_dir: &Path) -> Vec<Vec<u8>> {
    let own = |path: &Path| {
        path.starts_with("tenantry.db")
            || path.parent() == Some(Path::new(""))
            || path.ends_with(".tenantry-store")
            || (path.starts_with("quarantine") && path.ends_with("note.json"))
    };
    let files = tree(data_dir)
        .into_iter()
        .filter(|(path, (mode, _))| mode & 0o170_000 != 0o040_000 && !own(path));
    let mut contents: Vec<_> = files.map(|(_, (_, content))| content).collect();
    contents.sort();
    contents
}

#[test]
fn a_check_reports_its_progress() {
    let fixture = Fixture::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let report = block_on(check_with_progress(fixture.at(""), move |progress| {
        sender.send(progress).unwrap()
    }))
    .unwrap();
    assert_eq!(report.findings, []);
    let reported: Vec<(u64, u64)> =
        receiver.iter().map(|Progress { users, entries, .. }| (users, entries)).collect();
    assert_eq!(reported[..6], [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
    let entries: Vec<(u64, u64)> =
        (1..=reported.len() as u64 - 6).map(|entry| (5, entry)).collect();
    assert!(entries.len() as u64 > report.directories);
    assert_eq!(reported[6..], entries);
}

/// Each call of the callback may be the last one, also those while SQLite checks its database.
#[test]
fn a_check_and_a_repair_are_cancelled_by_their_callback() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.at("storage/orphan")).unwrap();
    let directories =
        || ["storage", "trash"].map(|root| tree(&fixture.at(root)).into_keys().collect::<Vec<_>>());
    let before = directories();
    let ending_after = |calls: u64| {
        let left = AtomicU64::new(calls);
        move |_| match left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let mut calls = 0;
    let report = loop {
        match block_on(check_with_progress(fixture.at(""), ending_after(calls))) {
            Ok(report) => break report,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "after {calls} calls: {error:?}")
            }
        }
        // The first pass alone takes more calls.
        if calls < 6 {
            let options = RepairOptions { even_if_many: true, ..RepairOptions::default() };
            let repaired = block_on(tenantry::repair_with_progress(
                fixture.at(""),
                options,
                ending_after(calls),
            ));
            assert_eq!(repaired.unwrap_err().kind(), ErrorKind::Cancelled, "after {calls} calls");
            assert!(
                directories() == before,
                "nothing is repaired after a check that was cancelled"
            );
        }
        calls += 1;
    };
    assert!(calls > 5, "{calls}");
    assert_eq!(report.orphaned, 1);
}

#[test]
fn a_sound_store_has_no_findings() {
    let fixture = Fixture::new();
    // What a store makes on its way isn't a finding, however empty.
    for shard in ["storage/3f", "storage/3f/a2", "storage/0b"] {
        fs::create_dir(fixture.at(shard)).unwrap();
        set_mode(fixture.at(shard), 0o700);
    }
    assert!(fixture.at("storage/old").is_dir());
    fixture.assert_found(&[]);
    let report = fixture.check();
    assert_eq!((report.users, report.trashed, report.directories), (3, 2, 3));
    fixture.assert_beyond_repair();
    assert_eq!(kind(block_on(check(fixture.at("nowhere")))), ErrorKind::StoreMissing);
    assert_eq!(
        kind(block_on(repair(fixture.at("nowhere"), EVEN_IF_MANY))),
        ErrorKind::StoreMissing
    );
}

#[test]
fn a_finding_is_shown_and_serialized_in_snake_case_with_what_is_no_text_escaped() {
    let fixture = Fixture::new();
    fixture.stray(Path::new("storage").join(OsStr::from_bytes(b"not-\xff-text")));
    let finding: Finding = fixture.check().findings.remove(0);
    assert_eq!(finding.kind.to_string(), "directory_orphaned");
    let json = serde_json::to_value(&finding).unwrap();
    assert_eq!(json["kind"], "directory_orphaned");
    assert_eq!(json["path"], "storage/not-\\xff-text");
}

#[test]
fn directories_of_another_store_are_found_and_nothing_is_opened_or_repaired() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    for swapped in ["storage/.tenantry-store", "tenantry.db"] {
        let own = fs::read(fixture.at(swapped)).unwrap();
        fs::copy(other.at(swapped), fixture.at(swapped)).unwrap();
        fixture.assert_found(&[found(IdentityDiffers, None, "storage")]);
        fixture.assert_repair_refused(ErrorKind::Incompatible);
        let before = tree(&fixture.at(""));
        assert_eq!(kind(block_on(Store::open(fixture.at("")))), ErrorKind::Incompatible);
        assert_eq!(tree(&fixture.at("")), before);
        fs::write(fixture.at(swapped), own).unwrap();
    }
    fixture.assert_found(&[]);
}

#[test]
fn without_the_storage_directory_rows_work_and_nothing_else_is_changed() {
    let fixture = Fixture::new();
    let marker = fixture.at("storage/.tenantry-store");
    let own = fs::read(&marker).unwrap();
    let (storage, elsewhere) = (fixture.at("storage"), fixture.place.as_ref().join("elsewhere"));
    type Change<'c> = &'c dyn Fn();
    let away: [(Change<'_>, Change<'_>); 3] = [
        (&|| fs::rename(&storage, &elsewhere).unwrap(), &|| {
            fs::rename(&elsewhere, &storage).unwrap()
        }),
        (&|| fs::remove_file(&marker).unwrap(), &|| fs::write(&marker, &own).unwrap()),
        (&|| fs::write(&marker, "no id").unwrap(), &|| fs::write(&marker, &own).unwrap()),
    ];
    for (index, (damage, undo)) in away.into_iter().enumerate() {
        damage();
        fixture.assert_found(&[found(IdentityMissing, None, "storage")]);
        fixture.assert_repair_refused(ErrorKind::StorageUnavailable);
        assert_works_without_storage(&fixture, &format!("u{index}@example.com"));
        undo();
        fixture.assert_found(&[]);
    }
    let store = fixture.place.open();
    assert_eq!(block_on(store.directory(fixture.ada.id)).unwrap().entries().unwrap().count(), 1);
    block_on(store.restore(fixture.dan.id, None)).unwrap();
    block_on(store.close()).unwrap();
}

fn assert_works_without_storage(fixture: &Fixture, address: &str) {
    let files = || {
        let mut found = tree(&fixture.at(""));
        found.retain(|path, _| !path.to_string_lossy().starts_with("tenantry.db"));
        found
    };
    let rows = |store: &Store| {
        let users = block_on(store.list(&ListQuery::default())).unwrap().users;
        (users, block_on(store.list_trash(&TrashQuery::default())).unwrap().users)
    };
    let Fixture { ada, cyd, dan, .. } = fixture;
    let before = files();
    let store = fixture.place.open();
    // Rows.
    let new = block_on(store.create(new_user(address))).unwrap();
    assert_eq!(
        block_on(store.update(new.id, to_email(&format!("x{address}")))).unwrap().version,
        2
    );
    block_on(store.delete(new.id)).unwrap();
    block_on(store.restore(new.id, None)).unwrap();
    block_on(store.delete(new.id)).unwrap();
    block_on(store.purge(Purge::User(new.id), |_| {})).unwrap();
    // What needs a directory.
    let rows_before = rows(&store);
    let unavailable = |result: Result<()>| assert_eq!(kind(result), ErrorKind::StorageUnavailable);
    unavailable(block_on(store.directory(ada.id)).map(drop));
    unavailable(block_on(store.directory(cyd.id)).map(drop));
    unavailable(block_on(store.directory_path(ada.id)).map(drop));
    unavailable(block_on(store.measure_usage(ada.id, |_| {})).map(drop));
    unavailable(block_on(store.delete(ada.id)).map(drop));
    unavailable(block_on(store.restore(dan.id, None)).map(drop));
    unavailable(block_on(store.adopt(cyd.id, "customers/new".parse().unwrap())).map(drop));
    unavailable(block_on(store.purge(Purge::User(dan.id), |_| {})).map(drop));
    assert_eq!(rows(&store), rows_before);
    block_on(store.close()).unwrap();
    assert_eq!(files(), before);
}

#[test]
fn a_database_that_is_missing_is_not_made_anew_beside_the_directories_of_a_store() {
    let fixture = Fixture::new();
    fs::rename(fixture.place.database(), fixture.place.as_ref().join("tenantry.db")).unwrap();
    let damages: [&dyn Fn(); 3] = [
        &|| {},
        &|| fs::write(fixture.at("storage/.tenantry-store"), "no id").unwrap(),
        // As a backup of storage/ alone brings it back.
        &|| {
            fs::remove_dir_all(fixture.at("trash")).unwrap();
            fs::write(fixture.at("storage/.tenantry-store"), format!("{}\n", numbered_id(1)))
                .unwrap();
        },
    ];
    for damage in damages {
        damage();
        let before = tree(&fixture.at(""));
        for _ in 0..2 {
            assert_eq!(kind(block_on(Store::open(fixture.at("")))), ErrorKind::Incompatible);
            assert_eq!(kind(block_on(check(fixture.at("")))), ErrorKind::StoreMissing);
            assert_eq!(tree(&fixture.at("")), before);
        }
    }
}

#[test]
fn a_damaged_database_is_found_and_not_repaired() {
    let fixture = Fixture::new();
    let mut bytes = fs::read(fixture.place.database()).unwrap();
    // The key is in the row, as the address behind the id, and in the index: there it becomes
    // another.
    let (key, id) = (b"bob@example.com", fixture.bob.id.as_uuid().into_bytes());
    let in_index: Vec<usize> = (id.len()..bytes.len() - key.len())
        .filter(|at| bytes[*at..].starts_with(key) && !bytes[..*at].ends_with(&id))
        .collect();
    assert_eq!(in_index.len(), 1);
    bytes[in_index[0]] = b'c';
    fs::write(fixture.place.database(), bytes).unwrap();
    // Whatever else is wrong: the rows aren't to be believed.
    fixture.stray("storage/stray");
    let report = fixture.check();
    assert!(!report.findings.is_empty());
    for finding in &report.findings {
        assert_eq!((finding.kind, finding.user, &finding.path), (DatabaseDamaged, None, &None));
    }
    fixture.assert_repair_refused(ErrorKind::Corrupt);
}

#[test]
fn a_dangling_reference_is_found() {
    let fixture = Fixture::new();
    let store = fixture.place.open();
    let make = "CREATE TABLE notes (user_id BLOB REFERENCES users (id) ON DELETE CASCADE) STRICT";
    block_on(
        store.write(move |tx| sqlite::connection(tx).execute_batch(make).map_err(Error::from)),
    )
    .unwrap();
    block_on(store.close()).unwrap();
    fixture.sql("INSERT INTO notes VALUES (?1)", &fixture.ada);
    fixture.assert_found(&[]);
    let of_nobody = "INSERT INTO notes SELECT zeroblob(16) FROM users WHERE id = ?1";
    fixture.sql(of_nobody, &fixture.dan);
    fixture.assert_found(&[(ReferenceDangling, None, None)]);
    assert!(fixture.check().findings[0].detail.contains("notes"));
    fixture.assert_beyond_repair();
}

#[test]
fn a_key_that_differs_from_its_address_is_found() {
    for (folded, trash) in [("other@example.com", false), ("stra\u{df}e@example.com", true)] {
        let fixture = Fixture::new();
        if trash {
            let store = fixture.place.open();
            block_on(store.delete(fixture.cyd.id)).unwrap();
            block_on(store.close()).unwrap();
        }
        fixture.sql(
            &format!("UPDATE users SET email_folded = nullif('{folded}', email) WHERE id = ?1"),
            &fixture.cyd,
        );
        fixture.assert_found(&[(KeyDiffers, Some(fixture.cyd.id), None)]);
        fixture.assert_beyond_repair();
    }
}

#[test]
fn invalid_and_overlapping_storage_paths_are_found() {
    for (path, is_none) in [
        ("customers/bob/inner", false),
        ("gone/dan/x", false),
        ("3f/chosen", false),
        (".tenantry-x", false),
        ("../out", true),
        ("/etc", true),
    ] {
        let fixture = Fixture::new();
        fixture
            .sql(&format!("UPDATE users SET storage_path = '{path}' WHERE id = ?1"), &fixture.eve);
        let at = (!is_none).then(|| Path::new("storage").join(path));
        fixture.assert_found(&[(PathOverlaps, Some(fixture.eve.id), at)]);
        fixture.assert_beyond_repair();
    }
    // One that holds another: the inner one is named.
    let fixture = Fixture::new();
    fixture.sql("UPDATE users SET storage_path = 'customers' WHERE id = ?1", &fixture.cyd);
    let findings = fixture.check().findings;
    let overlap = findings.iter().find(|finding| finding.kind == PathOverlaps).unwrap();
    assert_eq!(
        (overlap.user, &overlap.path),
        (Some(fixture.bob.id), &Some("storage/customers/bob".into()))
    );
}

#[test]
fn a_lost_directory_is_found_until_it_is_back() {
    let fixture = Fixture::new();
    let elsewhere = fixture.place.as_ref().join("elsewhere");
    for (user, path) in
        [(&fixture.ada, derived(&fixture.ada)), (&fixture.bob, "storage/customers/bob".into())]
    {
        fs::rename(fixture.at(&path), &elsewhere).unwrap();
        fixture.assert_found(&[found(DirectoryLost, Some(user), &path)]);
        fixture.assert_beyond_repair();
        let store = fixture.place.open();
        assert_eq!(kind(block_on(store.directory(user.id))), ErrorKind::StorageLost);
        block_on(store.close()).unwrap();
        fs::rename(&elsewhere, fixture.at(&path)).unwrap();
        fixture.assert_found(&[]);
    }
}

#[test]
fn an_unrecorded_directory_is_found_and_recorded() {
    let fixture = Fixture::new();
    for user in [&fixture.ada, &fixture.bob] {
        fixture.sql("UPDATE users SET has_directory = 0 WHERE id = ?1", user);
    }
    // At a path that was chosen it may be somebody else's.
    let unadopted = found(DirectoryUnadopted, Some(&fixture.bob), "storage/customers/bob");
    fixture.assert_found(&[
        found(DirectoryUnrecorded, Some(&fixture.ada), derived(&fixture.ada)),
        unadopted.clone(),
    ]);
    assert_eq!(fixture.assert_repaired().after.unwrap().findings.len(), 1);
    fixture.assert_found(&[unadopted]);
    let store = fixture.place.open();
    block_on(store.adopt(fixture.bob.id, fixture.bob.storage_path.clone())).unwrap();
    block_on(store.close()).unwrap();
    assert!(fixture.quarantined().is_empty());
    let store = fixture.place.open();
    assert_eq!(block_on(store.users_with_directory()).unwrap(), [fixture.ada.id, fixture.bob.id]);
    block_on(store.close()).unwrap();
}

#[test]
fn an_orphan_is_found_and_moved_to_quarantine() {
    let fixture = Fixture::new();
    let unknown = StoragePath::derived(numbered_id(4_711));
    let not_text = OsStr::from_bytes(b"not-\xff-text");
    let mut expected = Vec::new();
    for stray in [
        "stray",
        "customers/stray",
        "3f/stray",
        "3f/a2/stray",
        "old/fay",
        "old/stray",
        unknown.as_str(),
    ] {
        fixture.stray(Path::new("storage").join(stray));
        expected.push(found(DirectoryOrphaned, None, Path::new("storage").join(stray)));
    }
    fixture.stray(Path::new("storage").join(not_text));
    fs::write(fixture.at("storage/customers/file"), "a file").unwrap();
    fs::write(fixture.at("storage/4f"), "a file where a shard would be").unwrap();
    symlink("/etc/passwd", fixture.at("storage/link")).unwrap();
    for stray in [not_text, OsStr::new("customers/file"), OsStr::new("4f"), OsStr::new("link")] {
        expected.push(found(DirectoryOrphaned, None, Path::new("storage").join(stray)));
    }
    // Where somebody's directory was before it went to the trash, or would be, but no directory.
    fixture.stray("storage/gone/dan");
    expected.push(found(DirectoryOrphaned, Some(&fixture.dan), "storage/gone/dan"));
    let of_cyd = derived(&fixture.cyd);
    fs::create_dir_all(fixture.at(&of_cyd).parent().unwrap()).unwrap();
    fs::write(fixture.at(&of_cyd), "no directory").unwrap();
    for above in of_cyd.ancestors().skip(1).take(2) {
        set_mode(fixture.at(above), 0o700);
    }
    expected.push(found(DirectoryOrphaned, Some(&fixture.cyd), &of_cyd));
    expected.sort_by(|one, other| one.2.cmp(&other.2));
    fixture.assert_found(&expected);

    assert_eq!(fixture.assert_repaired().after.unwrap().findings, []);
    let quarantined = fixture.quarantined();
    let from: Vec<String> = expected
        .iter()
        .map(|(.., path)| path.as_ref().unwrap().as_os_str().as_bytes())
        .map(|path| {
            std::str::from_utf8(path)
                .map_or_else(|_| path.escape_ascii().to_string(), str::to_owned)
        })
        .collect();
    assert_eq!(quarantined.len(), from.len());
    for from in &from {
        assert!(quarantined.contains_key(from), "{from} in {quarantined:?}");
    }
    assert_eq!(
        fs::read(quarantined["storage/old/fay"].join("inner/stray.txt")).unwrap(),
        b"storage/old/fay"
    );
    assert_eq!(fs::read(&quarantined["storage/customers/file"]).unwrap(), b"a file");
    assert_eq!(fs::read_link(&quarantined["storage/link"]).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_dir(&quarantined["storage/not-\\xff-text"]).unwrap().count(), 1);
}

#[test]
fn a_blocked_path_is_found_and_left_alone() {
    // At the user's directory, and above it: a link to where the directory was moved, or a file.
    for (path, is_link) in [
        ("customers/bob", true),
        ("customers", true),
        ("customers/bob", false),
        ("customers", false),
    ] {
        let fixture = Fixture::new();
        let at = fixture.at("storage").join(path);
        let elsewhere = fixture.place.as_ref().join("elsewhere");
        fs::rename(&at, &elsewhere).unwrap();
        if is_link {
            symlink(&elsewhere, &at).unwrap();
        } else {
            fs::write(&at, "in the way").unwrap();
        }
        fixture.assert_found(&[found(
            PathBlocked,
            Some(&fixture.bob),
            Path::new("storage").join(path),
        )]);
        fixture.assert_beyond_repair();
        let store = fixture.place.open();
        assert_eq!(kind(block_on(store.directory(fixture.bob.id))), ErrorKind::StorageBlocked);
        assert_eq!(kind(block_on(store.delete(fixture.bob.id))), ErrorKind::StorageBlocked);
        block_on(store.close()).unwrap();
    }
}

#[test]
fn a_wrong_mode_is_found_and_repaired() {
    let fixture = Fixture::new();
    let of_ada = derived(&fixture.ada);
    let shard = of_ada.parent().unwrap();
    fs::create_dir(fixture.at("quarantine")).unwrap();
    let mut expected = Vec::new();
    for (path, user, wrong) in [
        (Path::new("storage"), None, 0o711),
        (Path::new("trash"), None, 0o755),
        (Path::new("quarantine"), None, 0o777),
        (Path::new("storage/customers"), None, 0o701),
        (Path::new("storage/customers/bob"), Some(&fixture.bob), 0o500),
        (shard, None, 0o750),
        (&of_ada, Some(&fixture.ada), 0o755),
        (&trashed(&fixture.dan), Some(&fixture.dan), 0o500),
    ] {
        set_mode(fixture.at(path), wrong);
        expected.push(found(WrongMode, user, path));
    }
    // What is within a user's directory is the application's.
    set_mode(fixture.at("storage/customers/bob/inner"), 0o777);
    expected.sort_by(|one, other| one.2.cmp(&other.2));
    fixture.assert_found(&expected);
    assert_eq!(fixture.assert_repaired().after.unwrap().findings, []);
    for (_, _, path) in expected {
        assert_eq!(mode(fixture.at(path.unwrap())), 0o700);
    }
    assert_eq!(mode(fixture.at("storage/customers/bob/inner")), 0o777);

    // One that not even its owner can look into.
    set_mode(fixture.at(&of_ada), 0o000);
    let findings = fixture.check().findings;
    assert_eq!(
        findings.iter().map(|found| (found.kind, found.user)).collect::<Vec<_>>(),
        [(WrongMode, Some(fixture.ada.id))]
    );
    assert_eq!(fixture.repair(EVEN_IF_MANY).unwrap().after.unwrap().findings, []);
    assert_eq!(mode(fixture.at(&of_ada)), 0o700);
}

/// Who may write in the data directory has another's file there under a name of the store's, for
/// root to give it away.
#[test]
fn a_hard_link_is_not_given_to_the_owner() {
    let fixture = Fixture::new();
    if fs::metadata(fixture.place.database()).unwrap().uid() != 0 {
        writeln!(std::io::stderr(), "SKIPPED: only root can give a file to somebody else").unwrap();
        return;
    }
    let (lock, elsewhere) = (fixture.at("tenantry.lock"), fixture.at("backups"));
    chown(&lock, Some(4_711), None).unwrap();
    fs::hard_link(&lock, &elsewhere).unwrap();
    let repaired = fixture.repair(EVEN_IF_MANY).unwrap();
    assert_eq!(repaired.failures.len(), 1, "{repaired:?}");
    assert_eq!(fs::metadata(&lock).unwrap().uid(), 4_711);
    fs::remove_file(elsewhere).unwrap();
    assert!(fixture.repair(EVEN_IF_MANY).unwrap().failures.is_empty());
    assert_eq!(fs::metadata(&lock).unwrap().uid(), 0);
}

#[test]
fn a_wrong_owner_is_found_and_repaired_by_root() {
    let fixture = Fixture::new();
    if fs::metadata(fixture.place.database()).unwrap().uid() != 0 {
        // Past the test harness, which keeps what a test that succeeds prints.
        writeln!(std::io::stderr(), "SKIPPED: only root can give a directory to somebody else")
            .unwrap();
        return;
    }
    let of_ada = derived(&fixture.ada);
    let mut expected = Vec::new();
    for (path, user) in [
        (Path::new("storage"), None),
        (Path::new("storage/customers"), None),
        (&of_ada, Some(&fixture.ada)),
        (&trashed(&fixture.dan), Some(&fixture.dan)),
    ] {
        chown(fixture.at(path), Some(4_711), None).unwrap();
        expected.push(found(WrongOwner, user, path));
    }
    chown(fixture.at("tenantry.lock"), Some(4_711), None).unwrap();
    expected.push(found(WrongOwner, None, Path::new("tenantry.lock")));
    expected.sort_by(|one, other| one.2.cmp(&other.2));
    fixture.assert_found(&expected);
    // What the application has in it stays whose it is.
    let file = fixture.at(&of_ada).join("made by another");
    fs::write(&file, "").unwrap();
    chown(&file, Some(4_711), None).unwrap();
    assert_eq!(fixture.assert_repaired().after.unwrap().findings, []);
    assert_eq!(fs::metadata(&file).unwrap().uid(), 4_711);
    assert_eq!(fs::metadata(fixture.at(&of_ada)).unwrap().uid(), 0);
}

#[test]
fn a_directory_lost_from_the_trash_is_found() {
    let fixture = Fixture::new();
    fs::rename(fixture.at(trashed(&fixture.dan)), fixture.place.as_ref().join("elsewhere"))
        .unwrap();
    fixture.assert_found(&[found(TrashLost, Some(&fixture.dan), trashed(&fixture.dan))]);
    fixture.assert_beyond_repair();
}

#[test]
fn an_orphan_in_the_trash_is_found_and_moved_to_quarantine() {
    let fixture = Fixture::new();
    let unknown = numbered_id(4_711);
    let mut expected = Vec::new();
    // Also of users who are none in the trash, or had no directory.
    for (name, user) in [
        ("stray".to_owned(), None),
        (unknown.to_string(), Some(unknown)),
        (fixture.ada.id.to_string(), Some(fixture.ada.id)),
        (fixture.eve.id.to_string(), Some(fixture.eve.id)),
    ] {
        let path = Path::new("trash").join(name);
        fixture.stray(&path);
        expected.push((TrashOrphaned, user, Some(path)));
    }
    fs::write(fixture.at("trash/file"), "a file").unwrap();
    symlink("nowhere", fixture.at("trash/link")).unwrap();
    expected.extend([
        found(TrashOrphaned, None, "trash/file"),
        found(TrashOrphaned, None, "trash/link"),
    ]);
    expected.sort_by(|one, other| one.2.cmp(&other.2));
    fixture.assert_found(&expected);
    assert_eq!(fixture.assert_repaired().after.unwrap().findings, []);
    let from: Vec<_> =
        fixture.quarantined().into_keys().map(|from| Some(PathBuf::from(from))).collect();
    assert_eq!(from, expected.into_iter().map(|(.., path)| path).collect::<Vec<_>>());
    assert!(fixture.at(trashed(&fixture.dan)).is_dir());

    // What is in the place of a directory: with it out of the way, the directory is seen to be
    // lost.
    let place = fixture.at(trashed(&fixture.dan));
    fs::rename(&place, fixture.place.as_ref().join("elsewhere")).unwrap();
    fs::write(&place, "no directory").unwrap();
    fixture.assert_found(&[found(TrashOrphaned, Some(&fixture.dan), trashed(&fixture.dan))]);
    let after = fixture.assert_repaired().after.unwrap();
    assert_eq!(
        after.findings.into_iter().map(|finding| finding.kind).collect::<Vec<_>>(),
        [TrashLost]
    );
}
