//! Tenantry, and the ways to use rusqlite by hand, with the same SQLite. `tenantry` calls from
//! threads, `tenantry-tasks` from tasks of a tokio runtime; `raw` is the bound; `pool` and `mutex`
//! are what people write.
#![allow(clippy::disallowed_macros, reason = "figures that can't be printed are of no use")]

mod fill;
mod product;
mod raw;
mod shared;

use bench_protocol::Job;

fn main() {
    let job = Job::from_args();
    match job.peer.as_str() {
        "tenantry" | "tenantry-tasks" => product::run(&job),
        "raw" => raw::run(&job),
        "pool" | "mutex" => shared::run(&job),
        "fill" => fill::run(&job),
        peer => panic!("no such peer: {peer}"),
    }
}
