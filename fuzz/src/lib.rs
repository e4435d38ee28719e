//! What the fuzz targets run. `cargo test` runs the same over the committed corpus and mutations of it:
//! `crates/tenantry/tests/reliability/malformed.rs` and `crates/tenantry-cli/src/malformed.rs`.

pub mod properties;
pub mod row_properties;

// The command's rows, which no other crate can reach, and what they lean on.
#[path = "../../crates/tenantry-cli/src/failure.rs"]
#[allow(dead_code)]
mod failure;
#[path = "../../crates/tenantry-cli/src/rows.rs"]
#[allow(dead_code)]
mod rows;
mod args {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum FileFormat {
        Csv,
        Jsonl,
    }
}

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
