//! What the fuzz targets run. `cargo test` runs the same over the committed corpus and mutations of
//! it: `crates/tenantry/tests/reliability/malformed.rs` and
//! `crates/tenantry-exchange/tests/malformed.rs`.

use std::sync::OnceLock;

use futures_lite::future::block_on;
use tempfile::TempDir;
use tenantry::Store;
pub use tenantry_testkit::{properties, row_properties};

/// An empty store, in which no case leaves anything.
pub fn empty_store() -> &'static Store {
    static STORE: OnceLock<(TempDir, Store)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let dir = tenantry_testkit::support::in_memory();
        let store = block_on(Store::open(dir.path().join("data"))).unwrap();
        (dir, store)
    });
    store
}
