//! Malformed input: addresses, paths, cursors, archives and files of users, from the corpus of the
//! fuzz targets and mutations of it.
#![cfg(feature = "archives")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use futures_lite::future::block_on;
use tenantry::Store;
use tenantry_testkit::mutation::replay;
use tenantry_testkit::share::{report, share};
use tenantry_testkit::support::in_memory;
use tenantry_testkit::{properties, row_properties};

/// Of each kind but archives.
const CASES: (u64, u64) = (2_000, 1_000_000);
/// Each is a file that is verified and restored.
const ARCHIVES: (u64, u64) = (600, 100_000);
/// Each is read, and what is accepted of it written and read again.
const FILES: (u64, u64) = (2_000, 500_000);

#[test]
fn malformed_addresses_paths_and_cursors_fail_without_panic_or_change() {
    let place = in_memory();
    let store = block_on(Store::open(place.path().join("data"))).unwrap();
    let count = share(CASES.0, CASES.1);
    let addresses = replay("address", count, properties::address);
    let paths = replay("path", count, |input| properties::path(&store, input));
    let cursors = replay("cursor", count, |input| properties::cursor(&store, input));
    assert_eq!(block_on(store.count()).unwrap(), 0, "a case left a user");
    report(
        "malformed input",
        format_args!(
            "{count} each of addresses ({addresses} accepted), paths ({paths} accepted) and cursors ({cursors} accepted)"
        ),
    );
}

#[test]
fn malformed_archives_fail_without_panic_or_change() {
    let archives = properties::Archives::new();
    let count = share(ARCHIVES.0, ARCHIVES.1);
    let accepted = replay("archive", count, |input| properties::archive(&archives, input));
    report(
        "malformed input",
        format_args!("{count} archives ({accepted} accepted), each verified and restored"),
    );
}

#[test]
fn malformed_files_of_users_fail_without_panic_or_change() {
    let place = in_memory();
    let store = block_on(Store::open(place.path().join("data"))).unwrap();
    let count = share(FILES.0, FILES.1);
    let csv = replay("csv", count, |input| row_properties::csv(&store, input));
    let jsonl = replay("jsonl", count, |input| row_properties::jsonl(&store, input));
    assert_eq!(block_on(store.count()).unwrap(), 0, "a case left a user");
    let figures =
        format_args!("{count} files of CSV ({csv} with users) and {count} of JSON Lines ({jsonl})");
    report("malformed input", figures);
}
