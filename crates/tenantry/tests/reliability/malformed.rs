//! Malformed input: addresses, paths, cursors and archives, from the corpus of the fuzz targets and mutations of it. The
//! command's tests do the same with files of CSV and JSON Lines.

use futures_lite::future::block_on;
use tenantry::Store;

use crate::share::{report, share};

#[path = "../../../../fuzz/src/mutation.rs"]
pub(crate) mod mutation;
#[path = "../../../../fuzz/src/properties.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets are other crates")]
pub(crate) mod properties;

/// Files of CSV and of JSON Lines are 2,000 more each.
const CASES: u64 = 2_000;
/// Each is a file that is verified and restored.
const ARCHIVES: u64 = 600;

#[test]
fn no_address_path_or_cursor_does_more_than_fail() {
    let place = properties::temp_dir();
    let store = block_on(Store::open(place.path().join("data"))).unwrap();
    let count = share(CASES, 1_000_000);
    let addresses = mutation::replay("address", count, properties::address);
    let paths = mutation::replay("path", count, |input| properties::path(&store, input));
    let cursors = mutation::replay("cursor", count, |input| properties::cursor(&store, input));
    assert_eq!(block_on(store.count()).unwrap(), 0, "a case left something");
    report(
        "malformed input",
        format_args!(
            "{count} each of addresses ({addresses} accepted), paths ({paths} accepted) and cursors ({cursors} accepted)"
        ),
    );
}

#[test]
fn no_archive_does_more_than_fail() {
    let archives = properties::Archives::new();
    let count = share(ARCHIVES, 100_000);
    let accepted = mutation::replay("archive", count, |input| properties::archive(&archives, input));
    report("malformed input", format_args!("{count} archives ({accepted} accepted), each verified and restored"));
}
