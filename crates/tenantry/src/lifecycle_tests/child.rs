//! The process that crashes: this test binary, run again with orders.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_lite::future::block_on;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};
use serde::{Deserialize, Serialize};

use super::world::{Op, outcome};
use crate::{Durability, Store};

const ORDERS: &str = "TENANTRY_TEST_CRASH_ORDERS";
const DATA: &str = "TENANTRY_TEST_CRASH_DATA";
/// What a child is when it aborts.
const SIGABRT: i32 = 6;

/// What a child has to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) ops: Vec<Op>,
    pub(super) crash: Crash,
    /// Whether the points of opening the store count too.
    pub(super) is_opening_armed: bool,
    pub(super) is_durability_normal: bool,
    /// Whether no directory can be renamed to another place, as between the project quotas of a file system.
    pub(super) is_copying: bool,
    pub(super) umask: Option<u32>,
}

/// Where to crash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) enum Crash {
    #[default]
    Never,
    /// At the n-th point that is passed, from 1.
    At(u64),
    /// At the first point of this name.
    Point(String),
}

/// What became of a child.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// The points that it passed, with the one that it crashed at.
    pub(super) points: Vec<String>,
    /// The outcomes of the operations that were answered.
    pub(super) did: Vec<String>,
    pub(super) has_crashed: bool,
}

impl Orders {
    /// Runs a child on this data directory.
    pub(super) fn run(&self, data: &Path) -> Ran {
        let _ = std::fs::remove_file(log(data));
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle_tests::child::here_child_processes_enter", "--nocapture"])
            .env(ORDERS, serde_json::to_string(self).unwrap())
            .env(DATA, data)
            .output()
            .unwrap();
        let has_crashed = output.status.signal() == Some(SIGABRT);
        assert!(
            has_crashed || output.status.success(),
            "{self:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let mut ran = Ran { has_crashed, ..Ran::default() };
        for line in std::fs::read_to_string(log(data)).unwrap().lines() {
            match line.split_once(' ').unwrap() {
                ("point", point) => ran.points.push(point.to_owned()),
                (_, did) => ran.did.push(did.to_owned()),
            }
        }
        ran
    }
}

/// Where a child writes what it passes and does.
fn log(data: &Path) -> PathBuf {
    data.with_extension("log")
}

#[test]
fn here_child_processes_enter() {
    // In a normal run there are no orders.
    let Ok(orders) = std::env::var(ORDERS) else { return };
    // A core of this program is large, and nobody wants it.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let data = PathBuf::from(std::env::var_os(DATA).unwrap());
    let log = OpenOptions::new().create(true).append(true).open(log(&data)).unwrap();
    let child = Child { orders: orders.clone(), log, passed: AtomicU64::new(0) };
    let arm = |child| assert!(CHILD.set(child).is_ok());
    let mut child = Some(child);
    if orders.is_opening_armed {
        arm(child.take().unwrap());
    }
    let durability = if orders.is_durability_normal { Durability::Normal } else { Durability::Full };
    let store = block_on(Store::builder(&data).durability(durability).open()).unwrap();
    if let Some(mask) = orders.umask {
        umask(Mode::from_raw_mode(mask));
    }
    child.into_iter().for_each(arm);
    for op in &orders.ops {
        let did = outcome(op.run(&store, &data));
        CHILD.get().unwrap().note("did", &did);
    }
    block_on(store.close()).unwrap();
}

/// Set in a child from the moment on at which points count; in any other process never.
static CHILD: OnceLock<Child> = OnceLock::new();

struct Child {
    orders: Orders,
    log: File,
    passed: AtomicU64,
}

impl Child {
    fn note(&self, what: &str, which: &str) {
        (&self.log).write_all(format!("{what} {which}\n").as_bytes()).unwrap();
    }
}

/// What [`crate::failpoint`] calls at each point.
pub(crate) fn reach(point: &'static str) {
    let Some(child) = CHILD.get() else { return };
    let number = child.passed.fetch_add(1, Ordering::SeqCst) + 1;
    child.note("point", point);
    let is_here = match &child.orders.crash {
        Crash::Never => false,
        Crash::At(at) => *at == number,
        Crash::Point(name) => name == point,
    };
    if is_here {
        std::process::abort();
    }
}

/// What [`crate::failpoint`] asks before each rename.
pub(crate) fn is_rename_refused(point: &'static str) -> bool {
    // Those stay within one directory, or are of what was just made beside the target.
    let is_near = point.starts_with("open: ") || point.starts_with("copy: ");
    !is_near && CHILD.get().is_some_and(|child| child.orders.is_copying)
}
