//! File systems that rename a directory only within a part of themselves, and ones that fail in the
//! middle of a directory.

use std::process::Command;

use super::{Session, decode, missing};

/// Functions for the scripts below. `T` is the command, `D` the data directory.
const FUNCTIONS: &str = r#"
set -euo pipefail
id_of() { $T --data-dir "$D" user get "$1" --format json | sed -E 's/.*"id":"([^"]*)".*/\1/'; }
path_of() { $T --data-dir "$D" storage path "$1"; }
make_user() { $T --data-dir "$D" user create "$@" >/dev/null 2>&1; }
fill() {
    mkdir -p "$1/letters/old/older" "$1/empty"
    echo "hello $1" > "$1/letters/a.txt"
    head -c 3000000 /dev/urandom > "$1/letters/old/photo"
    ln "$1/letters/a.txt" "$1/letters/old/older/b.txt"
    ln -s ../../etc/passwd "$1/link"
    ln -s nowhere "$1/dangling"
    ln "$1/link" "$1/letters/link"
    mkfifo "$1/pipe"
    perl -MIO::Socket::UNIX -e 'chdir shift; IO::Socket::UNIX->new(Local => "socket", Listen => 1) or die' "$1"
    mknod "$1/null" c 1 3
    truncate -s 50M "$1/disk.img"
    echo end >> "$1/disk.img"
    setfattr -n user.oc.id -v 42 "$1/letters/a.txt"
    setfattr -n user.color -v green "$1/letters"
    setfacl -m u:1234:r "$1/letters/a.txt"
    setfacl -d -m u:1234:rx "$1/empty"
    chown 1234:1235 "$1/letters/old/photo"
    chmod 4751 "$1/letters/old/photo"
    chmod 0500 "$1/letters/old"
    touch -d '2001-02-03 04:05:06.789' "$1/letters/a.txt" "$1/letters/old" "$1/pipe"
    touch -h -d '2002-03-04 05:06:07' "$1/link"
    chmod 0700 "$1"
}
# Everything that a copy has to keep.
all_of() { (
    cd "$1"
    find . -type d -printf '%P d %m %U %G\n' | sort
    find . -name old -printf '%T@\n'
    find . ! -type d -printf '%P %y %m %n %s %U %G %T@ %l\n' | sort
    find . -type f -exec sha256sum {} + | sort
    find . -type c -exec stat -c '%t %T' {} +
    find . -type f -size +40M -printf '%b blocks\n' | awk '{ print ($1 < 1000) ? "sparse" : "full" }'
    find . ! -type l -exec getfattr -d -m '^user\.' {} + | sort
    find . ! -type l -exec getfacl -n --skip-base {} + 2>/dev/null | sort
) }
same() { diff "$1" "$2" >&2 || { echo "differs: $3" >&2; exit 1; }; }
"#;

/// A store with everything that is to be moved: Ada, who is to be deleted, Bob in the trash, an
/// orphan.
const STORE: &str = r#"
T=tenantry
make_user ada@example.com
make_user bob@example.com --storage-path customers/bob
for user in ada bob; do fill "$(path_of $user@example.com)"; done
mkdir -m 700 "$D/storage/orphan"
fill "$D/storage/orphan"
make_user eve@example.com
fill "$(path_of eve@example.com)"
eve=$(id_of eve@example.com)
$T --data-dir "$D" user delete eve@example.com --yes >/dev/null 2>&1
$T --data-dir other user create ivy@example.com >/dev/null 2>&1
mkdir "$($T --data-dir other storage path ivy@example.com)/letters"
echo imported > "$($T --data-dir other storage path ivy@example.com)/letters/notes"
$T --data-dir other user export-archive ivy@example.com ivy.tar.zst >/dev/null
bob=$(id_of bob@example.com)
$T --data-dir "$D" user delete bob@example.com --yes >/dev/null 2>&1
ada=$(id_of ada@example.com)
all_of "$D/storage/orphan" > orphan.before
all_of "$D/trash/$bob" > bob.before
all_of "$(path_of ada@example.com)" > ada.before
"#;

/// Moves all of it, under the command in `T`.
const LIFE: &str = r#"
ada_path=$(path_of ada@example.com)
# A rename must fail.
perl -e 'exit(rename($ARGV[0], $ARGV[1]) ? 1 : $! == 18 ? 0 : 2)' "$ada_path" "$D/trash/probe" || { echo "no EXDEV" >&2; exit 1; }
$T --data-dir "$D" user delete ada@example.com --yes >/dev/null
all_of "$D/trash/$ada" > ada.after
same ada.before ada.after delete
test ! -e "$ada_path"
$T --data-dir "$D" user restore $bob >/dev/null
all_of "$D/storage/customers/bob" > bob.after
same bob.before bob.after restore
test ! -e "$D/trash/$bob"
$T --data-dir "$D" user purge $eve --yes >/dev/null
test ! -e "$D/trash/$eve"
$T --data-dir "$D" check --repair --even-if-many >/dev/null || true
all_of "$D"/quarantine/*/content > orphan.after
same orphan.before orphan.after repair
test ! -e "$D/storage/orphan"
$T --data-dir "$D" user import-archive ivy.tar.zst >/dev/null
test "$(cat "$(path_of ivy@example.com)/letters/notes")" = imported
$T --data-dir "$D" user restore $ada >/dev/null
all_of "$ada_path" > ada.after
same ada.before ada.after 'restore again'
$T --data-dir "$D" user delete ada@example.com --yes >/dev/null
$T --data-dir "$D" user purge $ada --yes >/dev/null
test ! -e "$D/trash/$ada"
test -z "$(find "$D" -name '.tenantry-copy*' -o -name '.tenantry-import*')"
$T --data-dir "$D" check >/dev/null
echo all went well
"#;

/// The command where openat2 works, and where it doesn't.
const COMMANDS: [&str; 2] =
    ["tenantry", "strace -f -qq -o /dev/null -e inject=openat2:error=ENOSYS tenantry"];

/// Returns whether a script works that needs permissions which a container may lack.
fn works(session: &Session, script: &str) -> bool {
    let output = session.in_dir("unshare").args(["-m", "bash", "-euc", script]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a script in a namespace of mounts of its own.
fn run(session: &Session, name: &str, script: &str) {
    let output = session.in_dir("unshare").args(["-m", "bash", "-c", script]).output().unwrap();
    let (code, stdout, stderr) = decode(output);
    assert_eq!((code, stdout.lines().last()), (0, Some("all went well")), "{name}: {stderr}");
}

/// A user of a store in a lower layer of overlayfs, as in a container's image, could be deleted but
/// neither purged nor restored: "a file system is mounted on the way".
#[test]
fn directories_in_a_lower_layer_of_overlayfs_are_copied() {
    let probe = "mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m";
    if !works(&Session::new(), probe) {
        return missing("a store in a lower layer needs permission to mount overlayfs");
    }
    for command in COMMANDS {
        let session = Session::new();
        let mount = "mkdir u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m; D=m/d";
        let script =
            format!("{FUNCTIONS}\nmkdir l; D=l/d\n{STORE}\n{mount}\nT='{command}'\n{LIFE}");
        run(&session, command, &script);
    }
}

#[test]
fn directories_of_another_project_quota_of_xfs_are_copied() {
    let image = "truncate -s 400M x.img; mkfs.xfs -q x.img; mkdir m; mount -o loop x.img m";
    if !works(&Session::new(), image) {
        return missing("XFS needs `mkfs.xfs` and permission to mount a loop device");
    }
    for command in COMMANDS {
        let session = Session::new();
        let projects = "chattr -p 10 +P m/d m/d/trash; find m/d/storage -type d -exec chattr -p 30 +P {} + ; find m/d/storage -type f -exec chattr -p 30 {} +";
        let script =
            format!("{FUNCTIONS}\n{image}; D=m/d\n{STORE}\n{projects}\nT='{command}'\n{LIFE}");
        run(&session, command, &script);
    }
}

#[test]
fn directories_of_another_subvolume_of_btrfs_are_copied() {
    let image =
        "truncate -s 400M b.img; mkfs.btrfs -q b.img 2>/dev/null; mkdir m; mount -o loop b.img m";
    if !works(&Session::new(), image) {
        return missing("btrfs needs `mkfs.btrfs` and permission to mount a loop device");
    }
    for command in COMMANDS {
        let session = Session::new();
        let subvolume = "mv m/d/storage m/d/before; btrfs -q subvolume create m/d/storage; chmod 700 m/d/storage; cp -a m/d/before/. m/d/storage/; rm -r m/d/before";
        let script =
            format!("{FUNCTIONS}\n{image}; D=m/d\n{STORE}\n{subvolume}\nT='{command}'\n{LIFE}");
        run(&session, command, &script);
    }
}

/// A mount belongs to the operator, and is refused before anything changes.
#[test]
fn a_mount_between_storage_and_trash_is_refused_before_the_row_changes() {
    if !works(&Session::new(), "mkdir m; mount -t tmpfs none m") {
        return missing("mounting needs permission");
    }
    let script = r#"
T=tenantry; D=d
make_user ada@example.com
P=$(path_of ada@example.com)
mkdir "$P/sub" other
refused() {
    if $T --data-dir "$D" user delete ada@example.com --yes 2>err; then echo deleted >&2; exit 1; fi
    cat err >&2
    grep -q "$1" err
    $T --data-dir "$D" user get ada@example.com >/dev/null
}
mount --bind "$P" "$P"
refused 'a file system is mounted'
umount "$P"
mount --bind "$(dirname "$P")" "$(dirname "$P")"
refused 'a file system is mounted'
umount "$(dirname "$P")"
echo all went well
"#;
    run(&Session::new(), "mounts", &format!("{FUNCTIONS}{script}"));
}

/// A file that can't be copied is found and reported before the row changes.
#[test]
fn an_uncopyable_file_is_reported_before_the_row_changes() {
    let probe = "mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m";
    if !works(&Session::new(), probe) {
        return missing("a store in a lower layer needs permission to mount overlayfs");
    }
    let script = r#"
T=tenantry; mkdir l; chmod 711 .; D=l/d
make_user ada@example.com
P=$(path_of ada@example.com)
mkdir "$P/letters"
echo secret > "$P/letters/unreadable"
chmod 0 "$P/letters/unreadable"
chown -R 1234:1234 l
chown root "$P/letters/unreadable"
mkdir u w m; chown 1234 u w m
mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m
D=m/d; T="setpriv --reuid=1234 --regid=1234 --clear-groups $(command -v tenantry)"
if $T --data-dir "$D" user delete ada@example.com --yes 2>err; then echo deleted >&2; exit 1; fi
cat err >&2
grep -q '"letters/unreadable" in it can.t be read' err
grep -q EXDEV err
$T --data-dir "$D" user get ada@example.com >/dev/null
mkdir "$(path_of ada@example.com)/disk"
mount -t tmpfs none "$(path_of ada@example.com)/disk"
chown 1234 m/d/storage/*/*/*/letters/unreadable; chmod 600 m/d/storage/*/*/*/letters/unreadable
if $T --data-dir "$D" user delete ada@example.com --yes 2>err; then echo deleted >&2; exit 1; fi
cat err >&2
grep -q '"disk" in it' err
umount "$(path_of ada@example.com)/disk"
if $T --data-dir "$D" user delete ada@example.com --yes 2>err; then echo deleted >&2; exit 1; fi
cat err >&2
grep -q '"disk" in it can.t be emptied' err
chown 1234 "$(path_of ada@example.com)/disk"
$T --data-dir "$D" user delete ada@example.com --yes >/dev/null
echo all went well
"#;
    run(&Session::new(), "unreadable", &format!("{FUNCTIONS}{script}"));
}

/// Runs the command under strace, which injects a failure.
fn injecting(session: &Session, options: &[&str], arguments: &[&str]) -> (i32, String, String) {
    let mut command = session.in_dir("timeout");
    command.args(["300", "strace", "-f", "-qq", "-o", "trace"]).args(options);
    command.arg(env!("CARGO_BIN_EXE_tenantry")).args(arguments);
    let output = decode(command.output().unwrap());
    let trace = std::fs::read_to_string(session.path("trace")).unwrap();
    assert!(trace.contains("(INJECTED)"), "{options:?} is never met");
    output
}

fn has_strace() -> bool {
    Command::new("strace").arg("-V").output().is_ok()
}

/// Directories are moved up to be emptied: if that isn't allowed, it must not be tried for ever.
#[test]
fn a_purge_without_permission_to_move_a_directory_ends_and_reports_it() {
    if !has_strace() {
        return missing("refusing a system call needs `strace`");
    }
    let session = Session::new();
    let user = "ada@example.com";
    session.output(&["user", "create", user]);
    let dir = session.dir.path().join(session.output(&["storage", "path", user]).trim_end());
    std::fs::create_dir_all(dir.join("letters/old/older")).unwrap();
    std::fs::write(dir.join("letters/old/older/a.txt"), "hello").unwrap();
    let id = session
        .output(&["user", "get", user, "--format", "json"])
        .split('"')
        .nth(3)
        .unwrap()
        .to_owned();
    session.output(&["user", "delete", user, "--yes"]);
    let inject = ["-e", "inject=renameat2:error=EACCES"];
    let (code, _, stderr) = injecting(&session, &inject, &["user", "purge", &id, "--yes"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("letters/old") && stderr.contains("Permission denied"), "{stderr}");
    assert!(session.path("data/trash").join(&id).join("letters/old/older/a.txt").exists());
    session.output(&["user", "purge", &id, "--yes"]);
    assert!(!session.path("data/trash").join(&id).exists());
}

/// A read error isn't an empty directory.
#[test]
fn a_read_error_in_a_subdirectory_is_reported_by_backups_exports_and_measurements() {
    if !has_strace() {
        return missing("a failing system call needs `strace`");
    }
    let session = Session::new();
    let user = "ada@example.com";
    session.output(&["user", "create", user]);
    let dir = session.dir.path().join(session.output(&["storage", "path", user]).trim_end());
    let letters = dir.join("letters");
    std::fs::create_dir(&letters).unwrap();
    std::fs::write(letters.join("a.txt"), "hello").unwrap();
    std::fs::write(dir.join("b.txt"), "hello").unwrap();
    let letters = letters.canonicalize().unwrap();
    for call in ["getdents64", "newfstatat"] {
        let inject = format!("inject={call}:error=EIO");
        let options = ["-P", letters.to_str().unwrap(), "-e", &inject];
        for arguments in [
            &["backup", "create", "all.tar.zst"][..],
            &["user", "export-archive", user, "ada.tar.zst"],
            &["storage", "usage", user],
        ] {
            let (code, _, stderr) = injecting(&session, &options, arguments);
            assert_eq!(code, 1, "{call} {arguments:?}: {stderr}");
            assert!(stderr.contains("Input/output error"), "{call} {arguments:?}: {stderr}");
            for archive in ["all.tar.zst", "ada.tar.zst"] {
                let _ = std::fs::remove_file(session.path(archive));
            }
        }
    }
}
