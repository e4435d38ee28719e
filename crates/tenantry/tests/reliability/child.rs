//! What this binary does when it is run as a second process.

use crate::process;

#[test]
fn child_process_entry() {
    let Some((role, _dir)) = process::role() else { return };
    #[allow(clippy::match_single_binding)]
    match role.as_str() {
        role => panic!("there is no role {role:?}"),
    }
}
