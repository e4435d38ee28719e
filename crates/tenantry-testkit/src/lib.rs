//! What the tests of Tenantry's crates have in common. It isn't published, and no crate depends on
//! it but for its tests.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    clippy::new_without_default,
    reason = "nothing but tests uses it: they may fail, and print what they counted"
)]

/// Stores in temporary directories, a clock that can be set, a writer that is held up.
pub mod support;

/// Child processes: a test binary runs itself again, in a role.
pub mod process;

/// How many cases a harness runs, and what it reports in the end.
pub mod share;

/// The change feed, against the users that it is about.
pub mod feed;

/// Random numbers that a seed repeats.
pub mod random;

/// Databases of older schema versions.
pub mod schema;

/// What can be seen of a store: its users, their files, and the files of nobody.
pub mod world;

/// The ways in which directories are opened and moved, chosen by failpoints.
pub mod way;

/// The corpus of the fuzz targets, one file a target.
pub mod corpus;

/// What `cargo test` does in place of a fuzzer.
pub mod mutation;

/// What must hold for any address, path, cursor and archive.
#[cfg(feature = "archives")]
pub mod properties;

/// What must hold for any file of users.
pub mod row_properties;
