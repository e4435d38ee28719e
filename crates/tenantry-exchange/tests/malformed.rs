//! Malformed files of users, from the corpus of the fuzz targets and mutations of it. The library's
//! harnesses do the same with addresses, paths, cursors and archives.
#![allow(clippy::disallowed_macros, reason = "a harness prints its figures")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use tenantry::Store;

#[path = "../../../fuzz/src/mutation.rs"]
mod mutation;
#[path = "../../../fuzz/src/row_properties.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets are other crates")]
mod row_properties;

#[test]
fn malformed_files_of_users_fail_without_panic_or_change() {
    let place = tempfile::tempdir().unwrap();
    let store = pollster::block_on(Store::open(place.path().join("data"))).unwrap();
    let is_long = std::env::var_os("TENANTRY_LONG").is_some_and(|value| value == "1");
    let count = if is_long { 500_000 } else { 2_000 };
    let csv = mutation::replay("csv", count, |input| row_properties::csv(&store, input));
    let jsonl = mutation::replay("jsonl", count, |input| row_properties::jsonl(&store, input));
    assert_eq!(pollster::block_on(store.count()).unwrap(), 0, "a case left a user");
    println!(
        "reliability: malformed input: {count} files of CSV ({csv} with users) and {count} of JSON Lines ({jsonl})"
    );
}
