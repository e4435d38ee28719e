//! What this binary does when it is run as a second process.

use crate::{corruption, full_disk, kill, owner, process, processes, shortage, system_calls};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "writes and ends without closing" => corruption::child_writes_and_ends(&dir),
        "is killed" => kill::child_is_killed(&dir),
        "works with others" => processes::child_works_with_others(&dir),
        "keeps company" => processes::child_keeps_company(&dir),
        "owns" => owner::child_owns(&dir),
        "is an older version" => owner::child_is_an_older_version(&dir),
        "writes once" => owner::child_writes_once(&dir),
        "fills disks" => full_disk::child_fills_disks(&dir),
        "meets a quota" => full_disk::child_meets_a_quota(&dir),
        "meets a quota when the log is moved" => {
            full_disk::child_meets_a_quota_when_the_log_is_moved(&dir)
        }
        "has its system calls recorded" => system_calls::child(&dir),
        "runs out of descriptors" => shortage::child_runs_out_of_descriptors(&dir),
        "runs out of memory" => shortage::child_runs_out_of_memory(&dir),
        role => panic!("there is no role {role:?}"),
    }
}
