//! The service as its clients see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod changes;
mod conditions;
mod files;
mod files_limit;
mod files_order;
mod files_races;
mod limits;
mod observing;
mod once;
mod problems;
mod scopes;
mod server;
mod support;
mod tls;
mod tokens;
mod transfer;
mod trash;
mod users;
