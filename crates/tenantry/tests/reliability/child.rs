//! What this binary does when it is run as a second process.

use crate::{process, system_calls};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "has its system calls recorded" => system_calls::child(&dir),
        role => panic!("there is no role {role:?}"),
    }
}
