//! No descriptor left, or no memory: an error, never a panic, a hang or a loss.
//!
//! Both are the whole process's, so they are in a child. A child that has memory run out says which
//! allocation of SQLite's it was.

#![allow(unsafe_code, reason = "SQLite's interface to memory is one of C")]

use std::ffi::{c_int, c_void};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tenantry::sqlite::rusqlite::ffi;
use tenantry::{BackupOptions, ErrorKind, Store};

use crate::io_faults::{Callers, Unknown, Watchdog};
use crate::process::{Process, say};
use crate::share::{report, share};
use crate::support::{block_on, in_memory, new_user};

/// What came of using a store while something was short.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    not_opened: u64,
    failed: u64,
    fine: u64,
}

impl Came {
    /// Uses a store in `data` while `short` has begun, which ends before it is looked at. Whatever
    /// panics is an error.
    fn attempt(&mut self, data: &Path, what: &str, short: impl FnOnce(), enough: impl FnOnce()) {
        let mut callers = Callers::default();
        short();
        let used = catch_unwind(AssertUnwindSafe(|| match block_on(Store::open(data)) {
            Err(error) => Err(error.kind()),
            Ok(store) => {
                callers.use_store(&store, data, None);
                block_on(store.close()).unwrap();
                Ok(())
            }
        }));
        enough();
        match used {
            Err(_) => panic!("a panic: {what}"),
            Ok(Err(kind)) => {
                assert_ne!(kind, ErrorKind::Internal, "{what}");
                self.not_opened += 1;
            }
            Ok(Ok(())) if callers.told.iter().any(|told| told.answer.is_err()) => self.failed += 1,
            Ok(Ok(())) => self.fine += 1,
        }
        callers.verify(data, Unknown::MayBe).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    }
}

#[test]
fn when_there_is_no_descriptor_left_that_is_an_error() {
    let scratch = in_memory();
    let heard = Process::start("runs out of descriptors", scratch.path(), "").end();
    report("no descriptor left", heard.join("; "));
    assert_eq!(heard.len(), 2, "{heard:?}");
}

/// In each round there is one descriptor more, until there are enough.
pub(crate) fn child_runs_out_of_descriptors(dir: &Path) {
    let watchdog = Watchdog::new();
    let enough = getrlimit(Resource::Nofile);
    let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, ..enough }).unwrap();
    let mut came = Came::default();
    // Those that this process has already count too.
    for count in 0.. {
        watchdog.begin(("descriptors", count));
        let data = dir.join(count.to_string());
        came.attempt(
            &data,
            &format!("{count} descriptors"),
            || limit(Some(count)),
            || limit(enough.current),
        );
        // The test's own connection, which may fail, is one of those that want some.
        if came.fine > 4 {
            break;
        }
    }
    assert!(came.not_opened > 0, "{came:?}");
    say(format_args!("{came:?}"));

    // A store that is open goes on with what it has, and what needs more fails for as long as there
    // is none.
    let data = dir.join("open");
    let store = block_on(Store::open(&data)).unwrap();
    let user = block_on(store.create(new_user("ada@example.com"))).unwrap();
    watchdog.begin("descriptors of a store that is open");
    limit(Some(0));
    let written = block_on(store.create(new_user("bob@example.com")));
    let read = block_on(store.get(user.id));
    let directory = block_on(store.directory(user.id));
    let backup =
        block_on(store.create_backup(dir.join("backup"), BackupOptions::default(), |_| {}));
    limit(enough.current);
    assert!(written.is_ok(), "{written:?}");
    for error in [read.map(drop), directory.map(drop), backup.map(drop)].map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    }
    assert!(block_on(store.get(user.id)).unwrap().is_some());
    block_on(store.directory(user.id)).unwrap();
    block_on(store.close()).unwrap();
    say(
        "a store that is open wrote, and a read, a directory and a backup failed until there were some again",
    );
}

#[test]
fn when_memory_runs_out_that_is_an_error() {
    let scratch = in_memory();
    let heard = Process::start("runs out of memory", scratch.path(), "").end();
    report("SQLite gets no memory", heard.join("; "));
    assert_eq!(heard.len(), 2, "{heard:?}");
}

type Allocate = unsafe extern "C" fn(c_int) -> *mut c_void;
type Reallocate = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

static SYSTEM: OnceLock<(Allocate, Reallocate)> = OnceLock::new();
/// How many allocations there may be yet. At zero one fails.
static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
/// How many were asked for.
static ASKED: AtomicU64 = AtomicU64::new(0);
/// From how many below zero on there is memory again.
static FAILING: AtomicI64 = AtomicI64::new(1);

fn is_granted() -> bool {
    ASKED.fetch_add(1, Ordering::SeqCst);
    let left = LEFT.fetch_sub(1, Ordering::SeqCst);
    left > 0 || left <= -FAILING.load(Ordering::SeqCst)
}

unsafe extern "C" fn allocate(len: c_int) -> *mut c_void {
    if !is_granted() {
        return std::ptr::null_mut();
    }
    // SAFETY: this is SQLite's own function, with what SQLite gave.
    unsafe { SYSTEM.get().unwrap().0(len) }
}

unsafe extern "C" fn reallocate(old: *mut c_void, len: c_int) -> *mut c_void {
    if !is_granted() {
        return std::ptr::null_mut();
    }
    // SAFETY: this is SQLite's own function, with what SQLite gave.
    unsafe { SYSTEM.get().unwrap().1(old, len) }
}

/// Puts these two before SQLite's own. Nothing of SQLite may have been used yet.
fn stand_in_for_memory() {
    // SAFETY: SQLite isn't used yet; it copies the methods.
    unsafe {
        let mut methods: ffi::sqlite3_mem_methods = std::mem::zeroed();
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods),
            ffi::SQLITE_OK
        );
        SYSTEM.set((methods.xMalloc.unwrap(), methods.xRealloc.unwrap())).unwrap();
        methods.xMalloc = Some(allocate);
        methods.xRealloc = Some(reallocate);
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods),
            ffi::SQLITE_OK
        );
    }
}

/// The n-th allocation fails, for many n: it alone, or all from then on.
pub(crate) fn child_runs_out_of_memory(dir: &Path) {
    stand_in_for_memory();
    let watchdog = Watchdog::new();
    Came::default().attempt(&dir.join("all"), "all", || (), || ());
    let all = i64::try_from(ASKED.load(Ordering::SeqCst)).unwrap();
    for (name, failing) in [("once", 1), ("for good", i64::MAX)] {
        let mut came = Came::default();
        let step = (all / i64::try_from(share(300, 10_000)).unwrap()).max(1);
        let mut nth = 0;
        while nth < all {
            watchdog.begin((name, nth));
            let data = dir.join(format!("{name}-{nth}"));
            came.attempt(
                &data,
                &format!("allocation {nth}, {name}"),
                || {
                    FAILING.store(failing, Ordering::SeqCst);
                    LEFT.store(nth, Ordering::SeqCst);
                },
                || LEFT.store(i64::MAX, Ordering::SeqCst),
            );
            fs::remove_dir_all(&data).unwrap();
            nth += step;
        }
        assert!(came.not_opened > 0 && came.failed > 0, "{name}: {came:?}");
        say(format_args!("{name}: {came:?} of {all} allocations, every {step}"));
    }
}
