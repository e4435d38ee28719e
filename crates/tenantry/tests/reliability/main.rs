//! Harnesses: each makes one promise of `docs/reliability.md` true or finds where it isn't, many
//! cases at a time.
//!
//! They are a binary of their own because they put a VFS beneath SQLite and stand in for three
//! functions of the C library (`vfs.rs`), which are the whole process's. Each runs a bounded share
//! of its cases here, and many more with `TENANTRY_LONG=1`. Planted bugs, which they have to catch,
//! are tests beside them. What a harness prints is what the table in `docs/reliability.md` is
//! filled with: `cargo test -p tenantry --test reliability -- --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "this crate is nothing but tests, which print what they counted, and clippy knows only those inside of #[test] functions"
)]

// How many cases there are and what is reported of them; stores in temporary directories; a second
// process, which is this binary again, in a role.
use tenantry_testkit::{process, share, support};

// What lies beneath SQLite: it records and fails. What it recorded as the disk after a power cut.
mod rebuilt;
mod vfs;

// A power cut at every event.
mod power_cut;

// A read, a write or a sync that fails, each of them.
mod io_faults;

// Checkpoints move the WAL into the database beside the commits.
mod checkpoints;

// No descriptor left, no memory.
mod shortage;

// The entrance for tests that need a second process.
mod child;

// Bytes of the database and its log that are not what was written.
mod corruption;

// A process that is killed under load, and again while it recovers.
mod kill;

// Many processes on one store: nothing is lost.
mod processes;

// Two programs on one store: each combination works or is refused.
mod owner;

// Disks of many sizes that get full, and quotas.
mod full_disk;

// Clocks that are set back, and forward, by decades.
mod clock;

// A power cut with everything that is in a data directory, and system calls that fail.
mod system_calls;
