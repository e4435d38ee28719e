//! The rules: what each operation of the store does, in terms of the primitives that an engine has
//! for a transaction (`Tx`), and of the users' directories (`Storage`).
//!
//! There is no SQL here and no system call. A transaction changes rows. The directories follow
//! after its commit, by the [`intents`] that it recorded.

pub(crate) mod adopt;
pub(crate) mod bring_back;
pub(crate) mod change;
pub(crate) mod directories;
pub(crate) mod intents;
pub(crate) mod paths;
pub(crate) mod purge;
pub(crate) mod requests;
pub(crate) mod stop;
pub(crate) mod tokens;
pub(crate) mod trash;
pub(crate) mod upsert;
pub(crate) mod users;
pub(crate) mod verbs;
