//! What this binary does when it is run as a second process.

use crate::{
    backup, concurrency, content, file, follow, forged_backups, forged_user_archives, hostile,
    logs, place, process, refused_calls, restore, user_archive,
};

#[test]
fn child_process_entry() {
    let Some((role, dir)) = process::role() else { return };
    match role.as_str() {
        "writes and is followed" => follow::child_writes_and_is_followed(&dir),
        "writes" => concurrency::child_writes(&dir),
        "sends keys" => concurrency::child_sends_keys(&dir),
        "opens" => file::child_opens(&dir),
        "looks at modes" => file::child_looks_at_modes(&dir),
        "logs" => logs::child_logs(&dir),
        "fails to write" => place::child_fails_to_write(&dir),
        "may not write" => place::child_may_not_write(&dir),
        "on a network file system" => place::child_on_a_network_file_system(&dir),
        "on a read-only file system" => place::child_on_a_read_only_file_system(&dir),
        "goes deep" => hostile::child_goes_deep(&dir),
        "has no rights" => hostile::child_has_no_rights(&dir),
        "meets what is another's" => hostile::child_meets_what_is_anothers(&dir),
        "mounts" => hostile::child_mounts(&dir),
        "purges" => hostile::child_purges(&dir),
        "opens under a umask" => hostile::child_opens_under_a_umask(&dir),
        "backs up" => backup::child_backs_up(&dir),
        "can't read" => backup::child_cannot_read(&dir),
        "backs up large files" => content::child_backs_up_large_files(&dir),
        "moves money" => content::child_moves_money(&dir),
        "on a full disk" => backup::child_on_a_full_disk(&dir),
        "moves a user on a full disk" => user_archive::child_on_a_full_disk(&dir),
        "can't move what it imports" => user_archive::child_cannot_move(&dir),
        "imports bombs" => forged_user_archives::child_imports_bombs(&dir),
        "is refused calls" => refused_calls::child_is_refused_calls(&dir),
        "restores in a closed place" => restore::child_restores_in_a_closed_place(&dir),
        "is killed in a backup" => restore::child_is_killed_in_a_backup_or_export(&dir, true),
        "is killed in an export" => restore::child_is_killed_in_a_backup_or_export(&dir, false),
        "is killed in a restore" => restore::child_is_killed_in_a_restore(&dir),
        "is killed in a verification" => restore::child_is_killed_in_a_verification(&dir),
        "verifies without room" => restore::child_verifies_without_room(&dir),
        "reads bombs" => forged_backups::child_reads_bombs(&dir),
        _ => panic!("there is no role {role:?}"),
    }
}
