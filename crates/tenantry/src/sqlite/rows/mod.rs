//! SQL and nothing else: each function is one statement, or a few that belong together.

// First, since its macros are for those below.
#[macro_use]
mod columns;
pub(super) mod by_login;
pub(super) mod changes;
pub(super) mod counting;
pub(super) mod intents;
pub(super) mod listing;
pub(super) mod paths;
pub(super) mod requests;
mod selection;
pub(super) mod tokens;
pub(super) mod trash;
pub(super) mod usage;
pub(super) mod users;

pub(super) use columns::{SELECT_ALL, skeleton_of_key, storage_path};
