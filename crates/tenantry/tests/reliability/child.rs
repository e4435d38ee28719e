//! What this binary does when it is run as a second process.

use crate::{kill, process};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "is killed" => kill::child_is_killed(&dir),
        role => panic!("there is no role {role:?}"),
    }
}
