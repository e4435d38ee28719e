//! What this binary does when it is run as a second process.

use crate::{corruption, process};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "writes and ends without closing" => corruption::child_writes_and_ends(&dir),
        role => panic!("there is no role {role:?}"),
    }
}
