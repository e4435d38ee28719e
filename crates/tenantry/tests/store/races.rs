//! Directories that are swapped with symbolic links to somewhere outside, in a tight loop, while
//! the store works on them.
//!
//! To check a path and then to use it loses this race; the last tests here do just that, and show
//! that it is lost within moments. The store must never lose it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::hint;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tenantry::{
    Durability, ErrorKind, FindingKind, ListQuery, Purge, RepairOptions, Result, Store, UserId,
};
use tenantry_testkit::way::{self, Way};

use crate::support::{SqlitePlace, all, block_on, new_user, new_user_at, say_loudly};

/// How long each operation is raced against.
const RACE: Duration = Duration::from_secs(2);
/// How many operations have to meet the directory, and how many the link.
const ENOUGH: u64 = 5;
/// How often a directory is moved to and fro before its files are looked at.
const MOVES_A_ROUND: usize = 20;
/// How many lengths the pauses between two swaps have, each twice the one before, up to
/// milliseconds: as long as a copy takes. Without them there would be many swaps between any two
/// steps of a copy, and hardly ever a single one.
const PAUSES: u64 = 17;
/// How long it may take until there was a race. It takes milliseconds, or seconds where directories
/// are copied.
const LOST_SOON: Duration = Duration::from_secs(180);

const OF_ADA: &[u8] = b"of ada";
/// What every file outside holds: more than all files of a user together, so that it shows in any
/// sum.
const CANARY_BYTES: usize = 100_000;
/// Directories that a user has and the outside too, so that whoever is there by mistake doesn't
/// notice.
const DIRS: [&str; 4] = ["a", "b", "nested", "z"];

/// A tree that belongs to somebody else. Whether it was read shows in the times of access, and that
/// it was changed in the others, so it is never looked into but by a `stat`.
pub(crate) struct Outside {
    pub(crate) root: PathBuf,
    paths: BTreeSet<PathBuf>,
    before: BTreeMap<PathBuf, [i64; 11]>,
}

impl Outside {
    pub(crate) fn new(root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap();
        let mut outside = Self { root, paths: BTreeSet::new(), before: BTreeMap::new() };
        outside.add("");
        // Where a path through a link would end, for a user at customers/ada.
        outside.add("ada");
        outside
    }

    /// Adds a directory that looks like one of a user's.
    fn add(&mut self, name: &str) {
        let top = self.root.join(name);
        for dir in DIRS.map(|dir| top.join(dir)) {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("notes.txt"), vec![b'!'; CANARY_BYTES]).unwrap();
            self.paths.extend([dir.join("notes.txt"), dir]);
        }
        fs::write(top.join("notes.txt"), vec![b'!'; CANARY_BYTES]).unwrap();
        self.paths.insert(top.join("notes.txt"));
        // The root itself changes: the swapped directories come and go in it.
        if top != self.root.join("") {
            self.paths.insert(top);
        }
        for path in self.paths.iter().filter(|path| !self.before.contains_key(*path)) {
            // So long ago that any access is recorded, also with the mount option relatime.
            File::open(path)
                .unwrap()
                .set_times(FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH))
                .unwrap();
        }
        self.before = self.now();
    }

    fn now(&self) -> BTreeMap<PathBuf, [i64; 11]> {
        let now = |path: &PathBuf| {
            let found = fs::symlink_metadata(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let [ino, mode, uid, gid] =
                [found.ino(), found.mode().into(), found.uid().into(), found.gid().into()]
                    .map(|it| it.try_into().unwrap());
            let size = found.size().try_into().unwrap();
            let [atime, mtime, ctime] = [found.atime(), found.mtime(), found.ctime()];
            [
                ino,
                mode,
                uid,
                gid,
                size,
                atime,
                found.atime_nsec(),
                mtime,
                found.mtime_nsec(),
                ctime,
                found.ctime_nsec(),
            ]
        };
        self.paths.iter().map(|path| (path.clone(), now(path))).collect()
    }

    /// Nothing was read, created, changed or removed.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.now(), self.before);
        let names: BTreeSet<PathBuf> =
            fs::read_dir(&self.root).unwrap().map(|entry| entry.unwrap().path()).collect();
        let known = |path: &PathBuf| self.paths.contains(path) || *path == self.aside();
        assert!(names.iter().all(known), "something was created outside: {names:?}");
        self.assert_reads_would_show();
    }

    fn assert_reads_would_show(&self) {
        let path = self.root.join("notes.txt");
        fs::read(&path).unwrap();
        if fs::symlink_metadata(&path).unwrap().atime() == 0 {
            say_loudly(
                "times of access aren't recorded here, so only what was read would show that it was",
            );
        }
        File::open(path)
            .unwrap()
            .set_times(FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH))
            .unwrap();
    }

    /// What is swapped with the directories: at first a link to here. It is here so that whoever
    /// goes up from a directory that was swapped is here too.
    fn aside(&self) -> PathBuf {
        self.root.join("aside")
    }
}

/// A thread that swaps directories with what lies aside until it is stopped.
struct Swapper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
    places: Vec<PathBuf>,
    aside: PathBuf,
}

impl Swapper {
    fn start(places: &[PathBuf], aside: &Path, way: Way) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (aside, places) = (aside.to_owned(), places.to_owned());
        let thread = thread::spawn({
            let (is_over, aside, places) = (Arc::clone(&is_over), aside.clone(), places.clone());
            move || {
                let mut swaps = 0;
                while !is_over.load(Ordering::Relaxed) {
                    for place in &places {
                        // An odd number of times in a row, so that the next place gets its turn
                        // with the other one.
                        for _ in 0..3 {
                            swaps += u64::from(swap(place, &aside));
                            if way == Way::Copied {
                                let spins = 1 << (swaps % PAUSES);
                                (0..spins).for_each(|_| hint::spin_loop());
                            }
                        }
                    }
                }
                swaps
            }
        });
        Self { is_over, thread: Some(thread), places, aside }
    }

    /// Ends it, and puts the directory back where a link stands, if there still is one. Returns how
    /// often it swapped.
    fn stop(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        let swaps = self.thread.take().unwrap().join().unwrap();
        if !self.aside.is_symlink()
            && let Some(place) = self.places.iter().find(|place| place.is_symlink())
        {
            assert!(swap(place, &self.aside));
        }
        swaps
    }
}

/// If the test has failed: what still changes can't be cleaned up.
impl Drop for Swapper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn swap(place: &Path, aside: &Path) -> bool {
    match renameat_with(CWD, place, CWD, aside, RenameFlags::EXCHANGE) {
        Ok(()) => true,
        // The store has just moved or removed it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The user's directory, in `storage/` or in the trash.
    Itself,
    /// The one above it.
    Above,
    /// One within it.
    Within,
}

/// Each with the link from there to the outside, when it is in `storage/`.
const IN_STORAGE: [(Target, &str); 3] = [
    (Target::Itself, "../../../outside"),
    (Target::Above, "../../outside"),
    (Target::Within, "../../../../outside"),
];
const IN_TRASH: [(Target, &str); 3] = [
    (Target::Itself, "../../outside"),
    (Target::Above, "../outside"),
    (Target::Within, "../../../outside"),
];

/// A store with one user who has files, and the outside.
struct Stage {
    outside: Outside,
    place: SqlitePlace,
    store: Store,
    ada: UserId,
    way: Way,
}

impl Stage {
    fn new() -> Self {
        let way = way::take_from_environment();
        let place = SqlitePlace::new();
        let outside = Outside::new(place.as_ref().join("outside"));
        // The waiting for the disk after each commit is not what is raced against here.
        let store =
            block_on(Store::builder(place.data_dir()).durability(Durability::Normal).open())
                .unwrap();
        let ada =
            block_on(store.create(new_user_at("ada@example.com", "customers/ada"))).unwrap().id;
        let stage = Self { outside, place, store, ada, way };
        stage.fill(ada);
        stage
    }

    /// The same with a link to this aside. A relative one passes where an absolute one is refused
    /// for another reason (`RESOLVE_NO_XDEV`), so it is the sharper.
    fn with_link(link: impl AsRef<Path>) -> Self {
        let stage = Self::new();
        symlink(link, stage.outside.aside()).unwrap();
        stage
    }

    fn fill(&self, id: UserId) {
        let files = block_on(self.store.directory(id)).unwrap();
        files.write("notes.txt", OF_ADA).unwrap();
        for dir in DIRS {
            files.create_dir_all(format!("{dir}/inner/most")).unwrap();
            files.write(format!("{dir}/notes.txt"), OF_ADA).unwrap();
            files.write(format!("{dir}/inner/notes.txt"), OF_ADA).unwrap();
        }
    }

    fn dir(&self) -> PathBuf {
        self.place.data_dir().join("storage/customers/ada")
    }

    fn in_trash(&self, id: UserId) -> PathBuf {
        self.place.data_dir().join("trash").join(id.to_string())
    }

    fn swapper(&self, target: Target) -> Swapper {
        let places = match target {
            Target::Itself => vec![self.dir(), self.in_trash(self.ada)],
            Target::Above => vec![self.dir().parent().unwrap().to_owned()],
            Target::Within => vec![self.dir().join("nested")],
        };
        Swapper::start(&places, &self.outside.aside(), self.way)
    }

    /// Whether the user has all files again when the race is over, and nothing is left to be done.
    /// Where moving takes several steps, the swaps can leave something in the way that the store
    /// must not replace or remove, and a person has to decide. Nothing is lost then: one place has
    /// all files.
    fn is_in_order(&self) -> bool {
        let found = || {
            if block_on(self.store.get(self.ada))?.is_none() {
                block_on(self.store.restore(self.ada, None))?;
            }
            block_on(self.store.directory(self.ada))
        };
        let is_unfinished = || {
            let report = block_on(tenantry::check(self.place.data_dir())).unwrap();
            report.findings.iter().any(|finding| finding.kind == FindingKind::IntentUnfinished)
        };
        let is_in_order = found().is_ok() && is_complete(&self.dir()) && !is_unfinished();
        if !is_in_order {
            assert_ne!(self.way, Way::AtOnce, "{:?}", found().err());
            let work = format!(".tenantry-copy-{}/content", self.ada);
            let copies = [self.dir(), self.in_trash(self.ada)].map(|dir| dir.with_file_name(&work));
            let places = [self.dir(), self.in_trash(self.ada), self.outside.aside()];
            assert!(
                places.iter().chain(&copies).any(|place| is_complete(place)),
                "the files are nowhere"
            );
        }
        is_in_order
    }

    /// The link may have been removed in place of the directory, or left in it.
    fn put_link_aside(&self, link: &str) {
        let aside = self.outside.aside();
        if aside.is_symlink() {
            return;
        }
        if aside.exists() {
            fs::remove_dir_all(&aside).unwrap();
        }
        symlink(link, &aside).unwrap();
    }

    /// The race is over: nothing happened outside, and all of the user is there again.
    fn end(self, swapper: Swapper) {
        assert!(swapper.stop() > 100, "there was no race to speak of");
        self.verify();
    }

    fn verify(self) {
        self.outside.assert_untouched();
        block_on(self.store.close()).unwrap();
        let data_dir = self.place.data_dir();
        let repaired = block_on(tenantry::repair(&data_dir, RepairOptions::default())).unwrap();
        assert!(repaired.failures.is_empty(), "{repaired:?}");
        assert_eq!(repaired.after.unwrap().findings, []);
        let store = self.place.open();
        if block_on(store.get(self.ada)).unwrap().is_none() {
            block_on(store.restore(self.ada, None)).unwrap();
        }
        block_on(store.directory(self.ada)).unwrap();
        assert!(is_complete(&self.dir()));
        assert_eq!(block_on(tenantry::check(&data_dir)).unwrap().findings, []);
    }
}

/// Whether all files of the user are in a directory, which isn't a link.
fn is_complete(dir: &Path) -> bool {
    let holds = |file: &Path| fs::read(file).is_ok_and(|content| content == OF_ADA);
    let is_filled =
        |dir: PathBuf| holds(&dir.join("notes.txt")) && holds(&dir.join("inner/notes.txt"));
    !dir.is_symlink()
        && holds(&dir.join("notes.txt"))
        && DIRS.iter().all(|name| is_filled(dir.join(name)))
}

/// Races until the time is over, and until there was something to it: operations that met the
/// directory, and, unless there can be none, others that met the link.
fn race(refused_at_least: u64, mut round: impl FnMut(&Tally)) {
    let tally = Tally::default();
    let start = Instant::now();
    while start.elapsed() < RACE
        || tally.done.get() < ENOUGH
        || tally.refused.get() < refused_at_least
    {
        assert!(start.elapsed() < LOST_SOON, "there was no race to speak of: {tally:?}");
        round(&tally);
    }
}

#[derive(Debug, Default)]
struct Tally {
    done: Cell<u64>,
    refused: Cell<u64>,
}

impl Tally {
    /// Counts an operation, which may have been refused for one of these reasons.
    #[track_caller]
    fn count<T>(&self, result: Result<T>, reasons: &[ErrorKind]) -> Option<T> {
        match result {
            Ok(answer) => {
                self.done.update(|count| count + 1);
                Some(answer)
            }
            Err(error) => {
                assert!(reasons.contains(&error.kind()), "{error:?}");
                self.refused.update(|count| count + 1);
                None
            }
        }
    }
}

#[test]
fn opening_a_directory_never_leads_outside() {
    for (target, link) in IN_STORAGE {
        let stage = Stage::with_link(link);
        let swapper = stage.swapper(target);
        race(ENOUGH, |tally| {
            let opened = block_on(stage.store.directory(stage.ada));
            if target != Target::Within {
                let Some(files) = tally.count(opened, &[ErrorKind::StorageBlocked]) else { return };
                assert_eq!(files.read("notes.txt").unwrap(), OF_ADA);
                files.write("new.txt", "new").unwrap();
                files.remove_file("new.txt").unwrap();
                return;
            }
            let files = opened.unwrap();
            match files.read("nested/notes.txt") {
                Ok(content) => {
                    assert_eq!(content, OF_ADA);
                    tally.done.update(|count| count + 1);
                }
                Err(_) => tally.refused.update(|count| count + 1),
            }
            let _ = files.write("nested/new.txt", "new");
            let _ = files.remove_file("nested/new.txt");
        });
        stage.end(swapper);
    }
}

#[test]
fn measuring_a_directory_never_counts_what_is_outside() {
    for (target, link) in IN_STORAGE {
        let stage = Stage::with_link(link);
        let whole = block_on(stage.store.measure_usage(stage.ada, |_| {})).unwrap();
        assert_eq!((whole.files, whole.apparent_bytes), (9, 54));
        let swapper = stage.swapper(target);
        race(ENOUGH, |tally| {
            // A directory that is moved while the measuring is within has no way back up.
            let reasons: &[ErrorKind] = match target {
                Target::Within => &[ErrorKind::Io],
                _ => &[ErrorKind::StorageBlocked],
            };
            let measured = block_on(stage.store.measure_usage(stage.ada, |_| {}));
            let Some(usage) = tally.count(measured, reasons) else { return };
            match (usage.files, usage.apparent_bytes, usage.unreadable) {
                (9, 54, 0) => return,
                // Gone, or become something else, between being listed and being entered. If it is
                // moved away while the kernel opens it, that is the error of a mounted file system
                // (EXDEV), and so it counts as unreadable.
                (7, 42, 0 | 1) if target == Target::Within => {}
                (8, bytes, 0) if target == Target::Within && bytes == 42 + link.len() as u64 => {}
                _ => panic!("{usage:?}"),
            }
            tally.refused.update(|count| count + 1);
        });
        stage.end(swapper);
    }
}

#[test]
fn deleting_and_restoring_never_moves_what_is_outside() {
    // Where there is another's directory to be moved away, and where nothing is in the way.
    for (target, link) in [
        (Target::Itself, "../../../outside"),
        (Target::Itself, "../../outside"),
        (Target::Above, "../../outside"),
        (Target::Above, "../../outside/ada"),
    ] {
        let mut stage = Stage::with_link(link);
        let reasons = [ErrorKind::StorageBlocked, ErrorKind::Unfinished, ErrorKind::NotFound];
        race(ENOUGH, |tally| {
            let swapper = stage.swapper(target);
            for _ in 0..MOVES_A_ROUND {
                tally.count(block_on(stage.store.delete(stage.ada)), &reasons);
                tally.count(block_on(stage.store.restore(stage.ada, None)), &reasons);
            }
            swapper.stop();
            if stage.is_in_order() {
                stage.put_link_aside(link);
            } else {
                stage.outside.assert_untouched();
                stage = Stage::with_link(link);
            }
        });
        stage.verify();
    }
}

#[test]
fn a_purge_removes_nothing_outside() {
    for (target, link) in IN_TRASH {
        let mut stage = Stage::with_link(link);
        let aside = stage.outside.aside();
        let mut rounds = 0;
        let refused_at_least = match (target, stage.way) {
            // Nothing is looked up from above the trash.
            (Target::Above, _) => 0,
            // Nothing is moved, so there is hardly a moment for it.
            (_, Way::Copied) => 1,
            _ => ENOUGH,
        };
        race(refused_at_least, |tally| {
            let email = format!("u{rounds}@example.com");
            let id = block_on(stage.store.create(new_user(&email))).unwrap().id;
            stage.fill(id);
            block_on(stage.store.delete(id)).unwrap();
            let in_trash = stage.in_trash(id);
            let places = match target {
                Target::Itself => vec![in_trash.clone()],
                Target::Above => {
                    stage.outside.add(&id.to_string());
                    vec![stage.place.data_dir().join("trash")]
                }
                Target::Within => vec![in_trash.join("nested"), in_trash.join("moved-1")],
            };
            let swapper = Swapper::start(&places, &aside, stage.way);
            // What is a link when it is to be removed and a directory when it is removed makes it
            // fail.
            match block_on(stage.store.purge(Purge::User(id), |_| {})) {
                Ok(purged) if purged.users == 1 => tally.done.update(|count| count + 1),
                Ok(purged) => {
                    assert!(!purged.left.is_empty(), "{purged:?}");
                    tally.refused.update(|count| count + 1);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
                    tally.refused.update(|count| count + 1);
                }
            }
            swapper.stop();
            rounds += 1;
            // In peace it comes to an end.
            match block_on(stage.store.purge(Purge::User(id), |_| {})) {
                Ok(purged) => assert!(purged.users == 1 && purged.left.is_empty(), "{purged:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
            }
            assert_eq!(
                fs::symlink_metadata(&in_trash).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            stage.put_link_aside(link);
        });
        stage.verify();
    }
}

#[test]
fn an_export_is_exact_whatever_happens_to_the_directories() {
    let stage = Stage::with_link("../../../outside");
    for number in 0..1_500 {
        block_on(stage.store.create(new_user(&format!("u{number}@example.com")))).unwrap();
    }
    let before = block_on(all(&stage.store, ListQuery::default()));
    assert_eq!(before.len(), 1_501);
    let swapper = stage.swapper(Target::Itself);
    let deadline = Instant::now() + RACE;
    while Instant::now() < deadline {
        assert!(block_on(all(&stage.store, ListQuery::default())) == before, "the export differs");
    }
    stage.end(swapper);
}

/// What most programs do, and what is wrong with it: by the time the path is used it leads
/// elsewhere.
fn checked(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let real = fs::canonicalize(path)?;
    if real.starts_with(root) { Ok(real) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Does this until it has happened once.
#[track_caller]
fn lose(mut is_lost: impl FnMut() -> bool) {
    let deadline = Instant::now() + LOST_SOON;
    while !is_lost() {
        assert!(
            Instant::now() < deadline,
            "a resolver that checks paths was never deceived: so there is no race here"
        );
    }
}

#[test]
fn a_resolver_that_checks_paths_is_deceived_when_it_opens_and_lists() {
    for (target, link) in &IN_STORAGE[..2] {
        let stage = Stage::with_link(link);
        let root = fs::canonicalize(stage.place.data_dir()).unwrap();
        let swapper = stage.swapper(*target);
        lose(|| {
            let content =
                checked(&root, &stage.dir()).and_then(|dir| fs::read(dir.join("notes.txt")));
            content.is_ok_and(|content| content.len() == CANARY_BYTES)
        });
        lose(|| {
            let files = checked(&root, &stage.dir()).and_then(fs::read_dir).map(|entries| {
                entries
                    .flatten()
                    .filter_map(|entry| fs::metadata(entry.path()).ok())
                    .map(|found| found.len())
                    .max()
            });
            files.is_ok_and(|largest| largest >= Some(CANARY_BYTES as u64))
        });
        swapper.stop();
        assert_ne!(stage.outside.now(), stage.outside.before, "the test sees it too");
    }
}

#[test]
fn a_resolver_that_checks_paths_is_deceived_when_it_removes() {
    let stage = Stage::with_link("../../outside");
    let root = fs::canonicalize(stage.place.data_dir()).unwrap();
    lose(|| {
        fs::create_dir_all(stage.dir()).unwrap();
        let swapper = stage.swapper(Target::Above);
        for _ in 0..100 {
            if let Ok(dir) = checked(&root, &stage.dir()) {
                let _ = fs::remove_dir_all(dir);
            }
        }
        swapper.stop();
        !stage.outside.root.join("ada/notes.txt").exists()
    });
}

/// The same races where directories are opened or moved in another way.
#[test]
fn races_are_won_on_each_way_of_opening_and_moving() {
    if !way::has_failpoints() {
        return;
    }
    let moving =
        ["deleting_and_restoring_never_moves_what_is_outside", "a_purge_removes_nothing_outside"];
    let opening = [
        "opening_a_directory_never_leads_outside",
        "measuring_a_directory_never_counts_what_is_outside",
    ];
    for (way, races) in
        [(Way::InSteps, &[moving, opening].concat()[..]), (Way::Copied, &moving[..])]
    {
        let (variable, value) = way.variable();
        for race in races {
            let mut test = Command::new(std::env::current_exe().unwrap());
            let output = test
                .args(["--exact", &format!("races::{race}")])
                .env(variable, value.clone())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{way:?} {race}: {text}");
        }
    }
}
