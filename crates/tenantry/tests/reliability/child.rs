//! What this binary does when it is run as a second process.

use crate::{process, shortage};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "runs out of descriptors" => shortage::child_runs_out_of_descriptors(&dir),
        "runs out of memory" => shortage::child_runs_out_of_memory(&dir),
        role => panic!("there is no role {role:?}"),
    }
}
