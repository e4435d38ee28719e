use super::{Session, decode, is_root};

/// Runs a script as root, with mounts of its own, on a backup `all.tar.zst` of a user with some
/// files.
fn with_backup(script: &str) -> Option<(i32, String, String)> {
    if !is_root("mounting a file system, and running as another user,") {
        return None;
    }
    let session = Session::new();
    let script = format!(
        r#"set -eu
        mount --make-rprivate /
        chmod 755 . && cp "$(command -v tenantry)" program && PATH=$PWD:$PATH && mv program tenantry
        trap 'umount -l m "$P/m" 2>/dev/null || true' EXIT
        tenantry user create ada@example.com >/dev/null 2>&1
        P=$(tenantry storage path ada@example.com)
        mkdir m "$P/m"; echo hello > "$P/notes"; echo inner > "$P/m/inner"; setfattr -n user.color -v blue "$P/notes"
        tenantry backup create all.tar.zst >/dev/null 2>&1
        chmod 644 all.tar.zst
        is_restored() {{
            tenantry --data-dir "$1" check >/dev/null 2>&1
            [ "$(cat "$(tenantry --data-dir "$1" storage path ada@example.com)/notes")" = hello ]
        }}
        {script}"#
    );
    Some(decode(session.in_dir("unshare").args(["-m", "bash", "-c", &script]).output().unwrap()))
}

#[track_caller]
fn succeeds(script: &str) {
    let Some((code, stdout, stderr)) = with_backup(script) else { return };
    assert_eq!(code, 0, "{stdout}{stderr}");
}

/// A restore renamed a directory beside the target onto it, which a mount, `.`, a link and a parent
/// of root's don't allow.
#[test]
fn a_backup_is_restored_into_a_mount_the_current_directory_a_symlink_and_a_root_owned_parent() {
    succeeds(
        r#"mount -t tmpfs none m
        tenantry backup restore all.tar.zst --into m >/dev/null
        is_restored m
        [ -z "$(ls -A m | grep '^\.tenantry-' || true)" ]
        mkdir current linked
        (cd current; tenantry backup restore ../all.tar.zst --into . >/dev/null)
        is_restored current
        ln -s linked link
        tenantry backup restore all.tar.zst --into link >/dev/null
        [ -L link ]; is_restored linked
        mkdir -p closed/app; chown 1000:1000 closed/app
        setpriv --reuid=1000 --regid=1000 --clear-groups "$PWD/tenantry" backup restore all.tar.zst --into closed/app >/dev/null
        is_restored closed/app
        [ "$(stat -c %u closed/app closed/app/tenantry.db closed/app/storage | sort -u)" = 1000 ]
        [ "$(ls closed)" = app ]"#,
    );
}

/// Attributes that the file system refuses were once only logged, with exit code 0.
#[test]
fn lost_extended_attributes_are_reported_with_exit_code_1() {
    let script = r#"mount -t ramfs none m
        ID=$(tenantry user get ada@example.com --format csv | tail -1 | cut -d, -f1)
        tenantry user export-archive $ID ada.tar.zst >/dev/null 2>&1
        set +e
        tenantry backup restore all.tar.zst --into m/restored; echo "restore $?"
        tenantry --data-dir m/one user import-archive ada.tar.zst; echo "import $?"
        tenantry --data-dir m/two user create bob@example.com
        tenantry --data-dir m/two backup restore all.tar.zst --user ada@example.com; echo "user $?"
        set -e
        is_restored m/restored; is_restored m/one; is_restored m/two"#;
    let Some((code, stdout, stderr)) = with_backup(script) else { return };
    assert_eq!(code, 0, "{stdout}{stderr}");
    for line in ["restore 1", "import 1", "user 1"] {
        assert!(stdout.lines().any(|found| found == line), "{line}: {stdout}{stderr}");
    }
    let named =
        stderr.lines().filter(|line| line.starts_with("left out: ") && line.contains("user.color"));
    assert_eq!(named.count(), 3, "{stderr}");
    let counted =
        stderr.matches("but 1 extended attribute could not be set on this file system").count();
    assert_eq!(counted, 3, "{stderr}");
}

/// A mount in a user's directory was once found after the row had changed, and again at each
/// opening.
#[test]
fn a_restore_leaves_a_mount_inside_a_users_directory_alone() {
    succeeds(
        r#"rm "$P/notes" "$P/m/inner"
        mount -t tmpfs none "$P/m"
        tenantry backup restore all.tar.zst --user ada@example.com 2>messages
        grep -q 'kept, .*m/inner' messages
        [ "$(cat "$P/notes")" = hello ] && [ -z "$(ls -A "$P/m")" ]
        tenantry user create bob@example.com >/dev/null
        umount "$P/m"; tenantry check >/dev/null
        [ -z "$(ls -A data | grep '^\.tenantry-' || true)" ]"#,
    );
}
