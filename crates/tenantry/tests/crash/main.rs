//! Crashes at every failpoint of every operation on users and their directories.
//!
//! A scenario prepares a store, and then has a child process do something to a copy of it: once for
//! each failpoint that is reached, at which the child aborts. Whatever the failpoint, opening the
//! store again must lead to the state before or after the operation that was under way, and what
//! was returned must have lasted. All of it holds on each [way](tenantry_testkit::way) of opening
//! and moving a directory.
//!
//! An abort leaves what was written to the system's caches. So this doesn't test that what must be
//! on the disk is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "this crate is nothing but tests, which print where they crashed, and clippy knows only those inside of #[test] functions"
)]

// The child that crashes.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod child;

// Which failpoints there are, and in which scenarios each is reached.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod points;

// An operation, with a crash at each of its failpoints.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod scenarios;

// A crash at one failpoint, with something else that happens after it.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod single;

// Random operations, with crashes at random failpoints.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod random;

// What the source says about failpoints.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod sources;

// What a store should hold, and what it does hold.
#[cfg(all(feature = "failpoints", debug_assertions))]
mod world;

#[test]
fn this_build_has_failpoints() {
    tenantry_testkit::way::has_failpoints();
}
