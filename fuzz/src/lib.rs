//! What the fuzz targets run. `cargo test` runs the same over the committed corpus and mutations of it:
//! `crates/tenantry/tests/reliability/malformed.rs` and `crates/tenantry-exchange/tests/malformed.rs`.
#![allow(clippy::disallowed_macros, reason = "a harness prints its figures")]

pub mod properties;
pub mod row_properties;

use std::sync::OnceLock;

use futures_lite::future::block_on;
use tempfile::TempDir;
use tenantry::Store;

/// An empty store, in which no case leaves anything.
pub fn empty_store() -> &'static Store {
    static STORE: OnceLock<(TempDir, Store)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let dir = properties::temp_dir();
        let store = block_on(Store::open(dir.path().join("data"))).unwrap();
        (dir, store)
    });
    store
}
