//! The tests of the store from outside: what [`tenantry::Store`] promises, and what the files look
//! like meanwhile.
//!
//! Without the feature `archives` there are those of users alone: the scenarios, the model, SQL of
//! an application's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "this crate is nothing but tests, which print what they counted, and clippy knows only those inside of #[test] functions"
)]
#![cfg_attr(
    not(feature = "archives"),
    allow(dead_code, unused_imports, reason = "the tests that are left out use it")
)]

// What the others have in common: a store in a temporary directory, a clock that can be set, a
// writer that is held up; a second process, which is this binary again, in a role.
use tenantry_testkit::{process, support};

// The contract, scenario by scenario, written once for every engine.
mod scenarios;

// Random operations against a model in memory, result by result.
mod model;

// Many threads and many processes at once, and what happens at the limits.
#[cfg(feature = "archives")]
mod concurrency;

// The files: their creation, the refusal of those of others, and locks.
#[cfg(feature = "archives")]
mod file;

// Where they lie: file systems, permissions, files that go away, limits.
#[cfg(feature = "archives")]
mod place;

// Archives that are made by hand, for the two below.
#[cfg(feature = "archives")]
mod archives;

// Backups: that everything comes back.
#[cfg(feature = "archives")]
mod backup;

// Backups that were forged or damaged.
#[cfg(feature = "archives")]
mod forged_backups;

// What archives hold beside the content of files, and the databases among them.
#[cfg(feature = "archives")]
mod content;

// One user alone as an archive: the way out of one store and into another.
#[cfg(feature = "archives")]
mod user_archive;

// Archives of a user that were forged or damaged.
#[cfg(feature = "archives")]
mod forged_user_archives;

// Checks: everything that can be wrong.
#[cfg(feature = "archives")]
mod check;

// Repairs, and that neither they nor checks lose a byte.
#[cfg(feature = "archives")]
mod repair;

// That nothing of a purged user is left in the database.
#[cfg(feature = "archives")]
mod erasure;

// SQL of the application's own in the same file: what it may do, and what it may not.
mod embedding;

// The change feed: what is in it, and which cursors it refuses.
#[cfg(feature = "archives")]
mod changes;

// Following the feed.
#[cfg(feature = "archives")]
mod follow;

// Figures of a store, and each change of a user among them.
mod metrics;

// Migrations of an application's tables, work on files, and what errors say.
mod helpers;

// Rows that another program wrote, code of the application that panics, triggers.
#[cfg(feature = "archives")]
mod foreign;

// No address ever gets into a log.
#[cfg(feature = "archives")]
mod logs;

// A symbolic link that is swapped with a directory, raced against every operation on it.
mod races;

// Systems that don't let directories be opened or moved in one step.
#[cfg(feature = "archives")]
mod refused_calls;

// One user out of a backup of the whole store.
#[cfg(feature = "archives")]
mod bring_back;

// Backups that older programs have made.
#[cfg(feature = "archives")]
mod older;

// Where backups are restored and verified.
#[cfg(feature = "archives")]
mod restore;

// That a caller can end the making and the reading of an archive.
#[cfg(feature = "archives")]
mod ended;

// The worst that can be found in a user's directory.
#[cfg(feature = "archives")]
mod hostile;

// The entrance for tests that need a second process.
#[cfg(feature = "archives")]
mod child;
