//! The child that crashes.

use std::io::stdin;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_lite::future::block_on;
use rustix::fs::Mode;
use rustix::process::umask;
use serde::{Deserialize, Serialize};
use tenantry::failpoint::{Hooks, Refusal, install};
use tenantry::{Durability, Store};
use tenantry_testkit::process::{self, Process};
use tenantry_testkit::way::Way;

use crate::world::{Op, outcome};

/// What a child is when it aborts.
const SIGABRT: i32 = 6;

/// What a child has to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) ops: Vec<Op>,
    pub(crate) crash: Crash,
    /// Whether the failpoints of opening the store count too.
    pub(crate) is_opening_armed: bool,
    pub(crate) is_durability_normal: bool,
    /// How directories are opened and moved, as soon as failpoints count.
    pub(crate) way: Way,
    pub(crate) umask: Option<u32>,
}

/// Where to crash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Crash {
    #[default]
    Never,
    /// At the n-th failpoint that is reached, from 1.
    At(u64),
    /// At the first failpoint of this name.
    Point(String),
}

/// What became of a child.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// The failpoints that it reached, with the one that it crashed at.
    pub(crate) points: Vec<String>,
    /// The outcomes of the operations that returned.
    pub(crate) did: Vec<String>,
    pub(crate) has_crashed: bool,
}

impl Orders {
    /// Runs a child on this data directory.
    pub(crate) fn run(&self, data: &Path) -> Ran {
        // A core of this program is large, and nobody wants it.
        let mut child = Process::start("crashes", data, "ulimit -c 0");
        child.tell(&serde_json::to_string(self).unwrap());
        let (heard, status) = child.end_somehow();
        let has_crashed = status.signal() == Some(SIGABRT);
        assert!(has_crashed || status.success(), "{self:?}: {status}");
        let mut ran = Ran { has_crashed, ..Ran::default() };
        for line in heard {
            match line.split_once(' ').unwrap() {
                ("point", point) => ran.points.push(point.to_owned()),
                (_, did) => ran.did.push(did.to_owned()),
            }
        }
        ran
    }
}

#[test]
fn child_process_entry() {
    let Some((role, data)) = process::role() else { return };
    assert_eq!(role, "crashes");
    let mut orders = String::new();
    stdin().read_line(&mut orders).unwrap();
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let arm = || assert!(install(Armed { orders: orders.clone(), reached: AtomicU64::new(0) }));
    if orders.is_opening_armed {
        arm();
    }
    let durability =
        if orders.is_durability_normal { Durability::Normal } else { Durability::Full };
    let store = block_on(Store::builder(&data).durability(durability).open()).unwrap();
    if let Some(mask) = orders.umask {
        umask(Mode::from_raw_mode(mask));
    }
    if !orders.is_opening_armed {
        arm();
    }
    for op in &orders.ops {
        process::say(format_args!("did {}", outcome(op.run(&store, &data))));
    }
    block_on(store.close()).unwrap();
}

/// Installed from the moment on at which failpoints count.
struct Armed {
    orders: Orders,
    reached: AtomicU64,
}

impl Hooks for Armed {
    fn reach(&self, point: &'static str) {
        let number = self.reached.fetch_add(1, Ordering::SeqCst) + 1;
        process::say(format_args!("point {point}"));
        let is_here = match &self.orders.crash {
            Crash::Never => false,
            Crash::At(at) => *at == number,
            Crash::Point(name) => name == point,
        };
        if is_here {
            std::process::abort();
        }
    }

    fn is_refused(&self, refusal: Refusal, point: &'static str) -> bool {
        self.orders.way.refuses(refusal, point)
    }
}
