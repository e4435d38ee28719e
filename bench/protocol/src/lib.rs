//! What the peers have in common: the command line, the users, the clock, and the one line of JSON
//! that they answer with.
//!
//! `PEER WORKLOAD --rows N --callers C --seconds S --data DIR --run K`: the database is
//! `DIR/tenantry.db`. `--rows` says how many users are in it, `--run` is a number that no other run
//! on the same database has, so that no address comes twice.
#![allow(clippy::disallowed_macros, reason = "a peer that can't print its line has nothing to say")]

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// The part of a run that goes by before anything is counted: caches fill, connections open.
const WARM_UP: f64 = 0.15;
/// Where the numbers of users begin that a run creates: above those of every prepared database.
const CREATED_FROM: u64 = 20_000_000;
const CREATED_PER_RUN: u64 = 2_000_000;

pub struct Job {
    pub peer: String,
    pub workload: String,
    pub rows: u64,
    pub callers: u64,
    pub seconds: f64,
    pub run: u64,
    pub data: PathBuf,
}

impl Job {
    /// The job that the command line names.
    pub fn from_args() -> Self {
        let args: Vec<String> = std::env::args().collect();
        let value =
            |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        let number = |name, default: f64| {
            value(name).map_or(default, |text| text.parse().expect("a number"))
        };
        let [_, peer, workload, ..] = &args[..] else {
            panic!("usage: BINARY PEER WORKLOAD --data DIR …")
        };
        Self {
            peer: peer.clone(),
            workload: workload.clone(),
            rows: number("--rows", 0.0) as u64,
            callers: number("--callers", 1.0) as u64,
            seconds: number("--seconds", 1.0),
            run: number("--run", 0.0) as u64,
            data: value("--data").expect("--data").into(),
        }
    }

    pub fn database(&self) -> PathBuf {
        self.data.join("tenantry.db")
    }

    /// The caller with this number, to be made on its thread or in its task when it is ready to
    /// begin.
    pub fn caller(&self, number: u64) -> Caller {
        let now = Instant::now();
        let warm = Duration::from_secs_f64(self.seconds * WARM_UP);
        Caller {
            rows: self.rows.max(1),
            next_new: CREATED_FROM + self.run * CREATED_PER_RUN + number,
            step: self.callers,
            random: scatter(number + self.run * 1_000 + 1),
            counts_from: now + warm,
            ends_at: now + warm + Duration::from_secs_f64(self.seconds),
            begun: None,
            counted: None,
            late: None,
            operations: 0,
            latencies: Vec::with_capacity(1 << 16),
        }
    }

    /// Runs a caller on each of as many threads as the job has callers: `prepare` makes what a
    /// caller needs, and the returned closure is called until the time is over. All begin at once.
    pub fn threads<W: FnMut(&mut Caller)>(&self, prepare: impl Fn() -> W + Sync) -> Vec<Caller> {
        let ready = std::sync::Barrier::new(self.callers as usize);
        std::thread::scope(|scope| {
            let spawn = |number| {
                let (ready, prepare) = (&ready, &prepare);
                scope.spawn(move || {
                    let mut work = prepare();
                    ready.wait();
                    let mut caller = self.caller(number);
                    while caller.goes_on() {
                        work(&mut caller);
                    }
                    caller
                })
            };
            let threads: Vec<_> = (0..self.callers).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().expect("a caller failed")).collect()
        })
    }

    /// Prints the line of JSON. What one call does counts as `each` operations.
    pub fn report(&self, callers: Vec<Caller>, each: u64, sqlite: &str, extra: &str) {
        let mut operations = callers.iter().map(|caller| caller.operations).sum::<u64>() * each;
        let mut spans: Vec<_> = callers.iter().filter_map(|caller| caller.counted).collect();
        if spans.is_empty() {
            // So slow that nothing ended in time: then what ended late is all there is.
            spans = callers.iter().filter_map(|caller| caller.late).collect();
            operations = spans.len() as u64 * each;
        }
        let first = spans.iter().map(|span| span.0).min().expect("a call");
        let last = spans.iter().map(|span| span.1).max().expect("a call");
        let mut latencies: Vec<u64> =
            callers.into_iter().flat_map(|caller| caller.latencies).collect();
        latencies.sort_unstable();
        let at =
            |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1_000.0;
        let (peer, workload, rows, of) = (&self.peer, &self.workload, self.rows, self.callers);
        let seconds = (last - first).as_secs_f64();
        let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!(
            "{{\"peer\":\"{peer}\",\"workload\":\"{workload}\",\"rows\":{rows},\"callers\":{of},\"seconds\":{seconds:.6},\
             \"operations\":{operations},\"latency_us\":{{\"p50\":{p50:.2},\"p99\":{p99:.2},\"p999\":{p999:.2},\
             \"max\":{max:.2}}},\"sqlite\":\"{sqlite}\",\"peak_rss_kib\":{}{extra}}}",
            peak_rss_kib(),
        );
    }
}

/// One of those who call at the same time, with a stream of random numbers and a clock of its own.
pub struct Caller {
    rows: u64,
    next_new: u64,
    step: u64,
    random: u64,
    counts_from: Instant,
    ends_at: Instant,
    /// When the call began that is under way.
    begun: Option<Instant>,
    /// When the first call began that counts, and when the last ended.
    counted: Option<(Instant, Instant)>,
    /// When the call began and ended that ended too late.
    late: Option<(Instant, Instant)>,
    operations: u64,
    latencies: Vec<u64>,
}

impl Caller {
    /// Ends one call and begins the next, or says that the time is over. What ends too late is no
    /// operation of the run, but its latency is one: it had to be waited for.
    pub fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        let is_over = now >= self.ends_at;
        if let Some(begun) = self.begun.replace(now) {
            if is_over {
                self.late = Some((begun, now));
            } else if begun >= self.counts_from {
                self.counted = Some((self.counted.map_or(begun, |(first, _)| first), now));
                self.operations += 1;
            }
            if is_over || begun >= self.counts_from {
                self.latencies.push((now - begun).as_nanos() as u64);
            }
        }
        !is_over
    }

    /// The number of a user who is there, each as likely as the others.
    pub fn pick(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % self.rows
    }

    /// The number of a user who isn't there yet.
    pub fn new_user(&mut self) -> u64 {
        self.next_new += self.step;
        self.next_new
    }
}

/// Unique for each number, and in no order (splitmix64).
pub fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The id of the user with this number: 16 bytes as a UUID of version 4.
pub fn id(number: u64) -> [u8; 16] {
    let mut id =
        (u128::from(scatter(number)) << 64 | u128::from(scatter(number + (1 << 40)))).to_be_bytes();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

const GIVEN: [&str; 16] = [
    "ada", "bob", "eve", "carl", "dora", "emil", "frank", "grace", "heidi", "ingrid", "judith",
    "konrad", "leopold", "mallory", "ninon", "theodor",
];

/// The address of the user with this number: 24 characters in the mean, unique, and in no order.
pub fn email(number: u64) -> String {
    // An odd factor maps the numbers below 2^30 one to one.
    let mut rest = number.wrapping_mul(0x2545_F491_4F6C_DD1D) & ((1 << 30) - 1);
    let given = GIVEN[(scatter(number) % 16) as usize];
    let mut email = String::with_capacity(32);
    email.push_str(given);
    // One in four writes it with a capital letter, so the key isn't the address.
    if scatter(number) >> 62 == 0 {
        email[..1].make_ascii_uppercase();
    }
    email.push('.');
    for _ in 0..6 {
        email.push(char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize]));
        rest /= 36;
    }
    email.push_str(
        ["@example.com", "@example.org", "@example.net"][(scatter(number) >> 8) as usize % 3],
    );
    email
}

/// When the user with this number was created, in microseconds since 1970.
pub fn created_at(number: u64) -> i64 {
    1_700_000_000_123_456 + number as i64 * 1_000_003
}

/// The last login: a day later.
pub fn last_login_at(number: u64) -> i64 {
    created_at(number) + 86_400_000_000
}

pub fn now_us() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_micros() as i64
}

/// What each connection is set to.
pub const PRAGMAS: &str =
    "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";

/// Tenantry's own table of users with its indexes, from the product's description of its schema: so
/// that columns and constraints are the same, and stay so.
pub fn schema() -> String {
    let text = include_str!("../../../crates/tenantry/src/sqlite/schema.sql");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    let sql = lines.collect::<Vec<_>>().join("\n");
    let of_users = |statement: &&str| {
        statement.contains("CREATE TABLE users (") || statement.contains("ON users (")
    };
    sql.split_inclusive(';')
        .filter(of_users)
        .map(|sql| sql.replacen("TABLE", "TABLE IF NOT EXISTS", 1))
        .fold(String::new(), |mut all, sql| {
            let _ = write!(all, "{}", sql.replacen(" INDEX ", " INDEX IF NOT EXISTS ", 1));
            all
        })
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_24_characters_in_the_mean() {
        let length: usize = (0..100_000).map(|number| email(number).len()).sum();
        assert!((2_399_000..2_401_000).contains(&length), "{length}");
    }

    #[test]
    fn the_schema_is_found() {
        assert_eq!(schema().matches("IF NOT EXISTS").count(), 7, "{}", schema());
    }
}
