//! A search for a fragment of an address against SQLite's LIKE:
//! `cargo bench -p tenantry --bench search -- [USERS] [ROUNDS]`.
//!
//! Both walk all pages of the same file with the same SQLite, in one process and taking turns. A
//! search of the store may use two threads, so its elapsed time is compared, and the CPU time of
//! the process as well, which other programs on the machine disturb less.
#![allow(
    clippy::disallowed_macros,
    clippy::unwrap_used,
    reason = "a benchmark that can't begin has nothing to measure, and its figures have to be printed"
)]

use std::path::Path;

use futures_lite::future::block_on;
use rusqlite::{Connection, params};
use rustix::time::{ClockId, clock_gettime};
use tenantry::{Email, Error, Filter, ListQuery, NewUser, Store};

const GIVEN: [&str; 8] =
    ["ada", "grace", "katherine", "alan", "donald", "barbara", "edsger", "hedy"];
const FAMILY: [&str; 8] =
    ["lovelace", "hopper", "johnson", "turing", "knuth", "liskov", "dijkstra", "lamarr"];

/// Fragments that few users or none have, with different first letters: LIKE is fast where the
/// first letter is rare in the addresses.
const FRAGMENTS: [&str; 6] = ["nobody", "ace.hopper77", "Turing.12345", "4321@", "xylophone", "zz"];

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let users: u64 = arguments.next().unwrap_or(300_000);
    let rounds: usize = arguments.next().unwrap_or(25).try_into().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    block_on(store.write(move |tx| {
        for number in 0..users {
            tx.create(&NewUser::new(address(number)))?;
        }
        Ok::<_, Error>(())
    }))
    .unwrap();
    // With an empty write-ahead log.
    block_on(store.close()).unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let like = Like::open(&dir.path().join("tenantry.db"));

    println!(
        "{users} users, {rounds} rounds, medians in ms; a ratio above 1: the search is faster"
    );
    println!(
        "{:14} {:>5} {:>29} {:>29}",
        "fragment", "found", "elapsed: search, LIKE, ratio", "CPU: search, LIKE, ratio"
    );
    for fragment in FRAGMENTS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut found = 0;
        for round in 0..=rounds {
            let (ours_found, ours_took) = timed(|| search(&store, fragment));
            let (theirs_found, theirs_took) = timed(|| like.search(fragment));
            assert_eq!(ours_found, theirs_found, "{fragment}");
            found = ours_found;
            // The first round warms up.
            if round > 0 {
                ours.push(ours_took);
                theirs.push(theirs_took);
            }
        }
        print!("{fragment:14} {found:5}");
        for clock in 0..2 {
            let [ours, theirs] = [&ours, &theirs]
                .map(|times| median(times.iter().map(|took| took[clock]).collect()));
            print!(" {ours:12.1} {theirs:8.1} {:7.2}", theirs / ours);
        }
        println!();
    }
    block_on(store.close()).unwrap();
}

/// Addresses in no order, as people's are.
fn address(number: u64) -> Email {
    let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let [given, family] =
        [(GIVEN, 61), (FAMILY, 58)].map(|(names, shift)| names[(scattered >> shift) as usize % 8]);
    format!("{given}.{family}.{number}@example.com").parse().unwrap()
}

fn search(store: &Store, fragment: &str) -> usize {
    let filter = Filter { email_contains: Some(fragment.to_owned()), ..Filter::default() };
    let mut pages = store.pages(ListQuery { filter, ..ListQuery::default() });
    let mut found = 0;
    while let Some(page) = block_on(pages.next()).unwrap() {
        found += page.len();
    }
    found
}

struct Like {
    conn: Connection,
}

impl Like {
    fn open(database: &Path) -> Self {
        Self { conn: Connection::open(database).unwrap() }
    }

    fn search(&self, fragment: &str) -> usize {
        let sql = "SELECT seq, id, email, created_at, last_login_at, updated_at, version, storage_path FROM users
                   WHERE seq > ?1 AND email LIKE ?2 AND deleted_at IS NULL ORDER BY seq LIMIT ?3";
        let mut statement = self.conn.prepare_cached(sql).unwrap();
        let pattern = format!("%{fragment}%");
        let (mut found, mut last) = (0, 0);
        loop {
            let mut rows =
                statement.query(params![last, pattern, ListQuery::DEFAULT_LIMIT]).unwrap();
            let mut on_page = 0;
            while let Some(row) = rows.next().unwrap() {
                last = row.get(0).unwrap();
                let _: (Vec<u8>, String) = (row.get(1).unwrap(), row.get(2).unwrap());
                on_page += 1;
            }
            found += on_page;
            if on_page < ListQuery::DEFAULT_LIMIT {
                return found;
            }
        }
    }
}

/// Returns what the work returns, the milliseconds that passed, and those of CPU time that the
/// process spent on it.
fn timed<T>(work: impl FnOnce() -> T) -> (T, [f64; 2]) {
    let now = || {
        [ClockId::Monotonic, ClockId::ProcessCPUTime].map(|clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
        })
    };
    let start = now();
    let value = work();
    let end = now();
    (value, [end[0] - start[0], end[1] - start[1]])
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
