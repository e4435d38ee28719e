use super::{Session, decode, is_root, missing};

/// Runs a script with a file system mounted on `m` that mirrors `real`, until the script ends.
fn with_mount(session: &Session, mount: &str, script: &str) -> Option<(i32, String, String)> {
    if !is_root("mounting a file system that runs as a program") {
        return None;
    }
    let program = mount.split(' ').next().unwrap();
    let is_there = std::process::Command::new("which")
        .arg(program)
        .output()
        .is_ok_and(|output| output.status.success());
    if !is_there || !std::path::Path::new("/dev/fuse").exists() {
        missing(&format!("a file system that lacks something needs `{program}` and /dev/fuse"));
        return None;
    }
    let script = format!(
        "mkdir -p real m; mount --make-rprivate /; {mount} || exit 99
         trap 'umount -l m' EXIT
         T='tenantry --data-dir m/data'
         {script}"
    );
    let output =
        decode(session.in_dir("unshare").args(["-m", "bash", "-c", &script]).output().unwrap());
    assert_ne!(output.0, 99, "{mount}: {}", output.2);
    Some(output)
}

/// Every move in the lifecycle of a user.
const LIFE: &str = r#"set -eu
    $T user create ada@example.com >/dev/null 2>&1
    P=$($T storage path ada@example.com); echo hello > "$P/notes"
    ID=$($T user get ada@example.com --format csv | tail -1 | cut -d, -f1)
    $T user delete ada@example.com --yes >/dev/null 2>&1
    [ -e m/data/trash/$ID/notes ]
    $T user restore $ID >/dev/null
    [ "$(cat "$P/notes")" = hello ]
    $T user export-archive $ID ada.tar.zst >/dev/null
    $T backup create all.tar.zst >/dev/null
    mkdir -p m/data/storage/stray
    $T check --repair --even-if-many >/dev/null 2>&1
    [ -d m/data/quarantine ]
    $T user delete $ID --yes >/dev/null 2>&1
    $T user purge $ID --yes >/dev/null 2>&1
    tenantry --data-dir m/other user import-archive ada.tar.zst >/dev/null 2>&1
    tenantry backup restore all.tar.zst --into m/restored >/dev/null
    for data in data other restored; do tenantry --data-dir m/$data check >/dev/null 2>&1; done
    $T status --format json"#;

/// On these no user could be deleted, and `check` said that all was well.
#[test]
fn a_store_works_on_bindfs_and_mergerfs_and_reports_the_move_method() {
    // mergerfs wants 4 GB to be free otherwise.
    for mount in ["bindfs real m", "mergerfs -o minfreespace=0 real m"] {
        let session = Session::new();
        let Some((code, stdout, stderr)) = with_mount(&session, mount, LIFE) else { return };
        assert_eq!(code, 0, "{mount}: {stdout}{stderr}");
        assert!(stdout.contains(r#""open_method":"openat2""#), "{stdout}");
        assert!(stdout.contains(r#""move_method":"placeholder""#), "{stdout}");
        // The probes left nothing behind.
        let names = std::fs::read_dir(session.path("real/data"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert!(
            names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tenantry-")),
            "{mount}"
        );
    }
}

/// A missing capability once showed when the store was half created, or at the first delete.
#[test]
fn no_store_is_created_on_an_unsuitable_file_system_and_the_message_names_it() {
    for (mount, file_system, lack) in [
        // Without shared memory two processes don't see each other's log.
        (
            "mergerfs -o minfreespace=0,cache.files=off real m",
            "fuse.mergerfs",
            "processes can't share memory through a file",
        ),
        ("bindfs -o direct_io real m", "(fuse", "processes can't share memory through a file"),
        // It neither moves without replacing nor keeps the mode by which a placeholder is known.
        (
            "bindfs --perms=0700 real m",
            "(fuse",
            "directories can't be moved without replacing others",
        ),
    ] {
        for dir in ["", "mkdir m/data;"] {
            let session = Session::new();
            // A file that is removed while it is open has another name until it is closed.
            let script = format!(
                "{dir} $T user create ada@example.com; code=$?
                 while ls -A m/data 2>/dev/null | grep -q '^.fuse_hidden'; do :; done; exit $code"
            );
            let Some((code, _, stderr)) = with_mount(&session, mount, &script) else { return };
            assert_eq!(code, 7, "{mount}: {stderr}");
            assert!(stderr.contains(file_system) && stderr.contains(lack), "{mount}: {stderr}");
            assert!(stderr.contains("no store was made"), "{mount}: {stderr}");
            let left = std::fs::read_dir(session.path("real/data")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{mount}");
        }
    }
}

/// Calls that fail, where no file system is at hand that lacks them.
#[test]
fn no_store_is_created_where_a_required_system_call_fails() {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        return missing("refusing a system call needs `strace`");
    }
    for (inject, lack) in [
        ("renameat2,renameat:error=EINVAL", "directories can't be moved without replacing others"),
        ("renameat2,renameat:error=EXDEV", "directories can't be moved without replacing others"),
        ("flock:error=ENOLCK:when=2+", "directories can't be made, opened and locked"),
        ("fsync:error=EINVAL:when=2+", "directories can't be synchronised with the disk"),
    ] {
        let session = Session::new();
        let mut strace = session.in_dir("strace");
        strace.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("inject={inject}"),
            env!("CARGO_BIN_EXE_tenantry"),
        ]);
        let (code, _, stderr) =
            decode(strace.args(["user", "create", "ada@example.com"]).output().unwrap());
        assert_eq!(code, 7, "{inject}: {stderr}");
        assert!(
            stderr.contains(lack) && stderr.contains("no store was made"),
            "{inject}: {stderr}"
        );
        assert!(!session.path("data").exists(), "{inject}");
        // Nothing is in the way of the next attempt.
        session.output(&["user", "create", "ada@example.com"]);
    }
}

/// On a case-insensitive file system two users once shared a directory, and the purge of one
/// destroyed the files of the other. The store probes for case-insensitivity with a file of its
/// own.
#[test]
fn on_a_case_insensitive_file_system_no_two_users_share_a_directory() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com", "--storage-path", "Customers/Bob"]);
    let path = session.output(&["storage", "path", "ada@example.com"]);
    session.write(&format!("{}/f", path.trim_end()), "hello");
    let create = |address: &str, path: &str, adopt: bool| {
        let mut arguments = vec!["user", "create", address, "--storage-path", path];
        arguments.extend(adopt.then_some("--adopt"));
        session.run(&arguments).0
    };
    // Where case counts these are two paths.
    assert_eq!(create("cyd@example.com", "Customers/bob", false), 0);
    session.output(&["user", "update", "cyd@example.com", "--email", "dan@example.com"]);
    // Simulates such a file system.
    std::os::unix::fs::symlink(".tenantry-store", session.path("data/storage/.TENANTRY-STORE"))
        .unwrap();
    for path in
        ["Customers/BOB", "customers/Bob", "customers/eve", "CUSTOMERS", "Customers/BOB/within"]
    {
        for adopt in [false, true] {
            assert_eq!(create("eve@example.com", path, adopt), 4, "{path}");
        }
        let row = format!("{{\"email\":\"eve@example.com\",\"storage_path\":\"{path}\"}}\n");
        session.write("row.jsonl", row);
        let (code, _, stderr) = session.run(&["import", "row.jsonl", "--on-conflict", "skip"]);
        assert_ne!(code, 0, "{stderr}");
    }
    assert_eq!(create("eve@example.com", "Customers/eve", false), 0);
    // An existing address is reported first, and the row of an existing user stays as it is.
    assert_eq!(create("ada@example.com", "customers/bob", false), 4);
    // Paths from before are found, and no user's directory is moved away.
    let (code, found, _) = session.run(&["check"]);
    assert_eq!((code, found.matches("path_overlaps").count()), (1, 1), "{found}");
    std::fs::rename(session.path("data/storage/Customers"), session.path("data/storage/customers"))
        .unwrap();
    let (_, found, _) = session.run(&["check"]);
    assert!(
        !found.contains("\"path\":\"storage/customers\",\"detail\":\"it belongs to no user\""),
        "{found}"
    );
}

/// A path is given out once, though only a digest is left of it: also in another spelling, where
/// that is the same path.
#[test]
fn on_a_case_insensitive_file_system_a_purged_path_is_retired_in_every_spelling() {
    let session = Session::new();
    let purge = |number: usize, path: &str| {
        let id = format!("3fa2b1c4-0000-4000-8000-00000000000{number}");
        session.output(&["user", "create", "ada@example.com", "--id", &id, "--storage-path", path]);
        session.output(&["user", "delete", &id, "--yes"]);
        session.output(&["user", "purge", &id, "--yes"]);
    };
    purge(1, "Customers/Bob");
    purge(2, "straße/x");
    let create =
        |path: &str| session.run(&["user", "create", "eve@example.com", "--storage-path", path]).0;
    assert_eq!(create("Customers/Bob"), 4);
    // Where case counts this is another path.
    purge(3, "customers/bob");
    std::os::unix::fs::symlink(".tenantry-store", session.path("data/storage/.TENANTRY-STORE"))
        .unwrap();
    for path in ["Customers/BOB", "customers", "CUSTOMERS/bob/within", "STRASSE/X", "Customers/Bob"]
    {
        assert_eq!(create(path), 4, "{path}");
    }
    assert_eq!(create("Customers/Eve"), 0);
}

/// `syncfs` returns at once on a file system that runs as a program, so that a power cut took what
/// was restored or copied.
#[test]
fn on_fuse_each_restored_or_copied_file_gets_its_own_fsync() {
    let script = r#"set -eu
        $T user create ada@example.com --id 3fa2b1c4-0000-4000-8000-000000000001 >/dev/null 2>&1
        P=$($T storage path ada@example.com); mkdir "$P/letters"; echo hello > "$P/letters/notes"
        $T user export-archive ada@example.com ada.tar.zst >/dev/null
        $T backup create all.tar.zst >/dev/null
        strace -f -y -e trace=fsync -o restored tenantry backup restore all.tar.zst --into m/restored >/dev/null
        strace -f -y -e trace=fsync -o imported tenantry --data-dir m/other user import-archive ada.tar.zst >/dev/null
        strace -f -y -e trace=fsync,renameat2,unlinkat -e inject=renameat2:error=EXDEV:when=1 -o copied \
            $T user delete ada@example.com --yes >/dev/null
        [ -e m/data/trash/3fa2b1c4-0000-4000-8000-000000000001/letters/notes ]"#;
    let session = Session::new();
    let Some(ended) = with_mount(&session, "bindfs real m", script) else { return };
    assert_eq!(ended.0, 0, "{ended:?}");
    for (trace, prefix) in
        [("restored", "m/restored"), ("imported", "m/other"), ("copied", "m/data/trash")]
    {
        let trace = std::fs::read_to_string(session.path(trace)).unwrap();
        let is_synced = |name: &str| {
            trace.lines().any(|line| {
                line.contains("fsync(")
                    && line.contains(prefix)
                    && line.contains(&format!("{name}>"))
            })
        };
        for name in ["/letters/notes", "/letters"] {
            assert!(is_synced(name), "{prefix} {name}\n{trace}");
        }
    }
    let restored = std::fs::read_to_string(session.path("restored")).unwrap();
    let is_synced = |name: &str| {
        restored.lines().any(|line| line.contains("fsync(") && line.contains(&format!("{name}>")))
    };
    for name in ["tenantry.db", "storage", "storage/3f", "storage/3f/a2"] {
        assert!(is_synced(name), "{name}\n{restored}");
    }
}

/// The Python of `.ci/run` with mfusepy, by which a test can mount a file system of its own.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/python/bin/python");
const IGNORING_FS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/command/ignoring_fs.py");

/// A life on a file system that takes several spellings of a name for one, each line with the exit
/// code that it must have. `ada` has files in `Kunden/Café`.
const SPELLINGS: &str = r#"
    must() { local code=0; "${@:2}" >out 2>&1 || code=$?; [ $code = $1 ] || { echo "$code: ${*:2}: $(cat out)"; exit 1; }; }
    create() { must $1 $T user create $2@example.com --storage-path "${@:3}"; }
    create 0 ada Kunden/Café
    ADA=$($T user get ada@example.com --format csv | tail -1 | cut -d, -f1)
    P=$($T storage path $ADA); echo hello > "$P/notes"
    for path in kunden/bob KUNDEN Kunden/CAFÉ KUNDEN/café/within; do
        create 4 bob $path
        create 4 bob $path --adopt
    done
    create 0 cyd Kunden/Cyd
    # What a person made is adopted by its own spelling, and by no other.
    mkdir m/data/storage/Gäste "m/data/storage/$(printf 'Go\xcc\x88tter')"
    create 3 dan gäste --adopt
    create 0 dan Gäste --adopt
    create 4 eve gäste
    create $DECOMPOSED eve Götter --adopt
    must $((DECOMPOSED > 0)) $T check
    must 0 $T user delete $ADA --yes
    create 4 fay kunden/café
    must 0 $T user restore $ADA
    [ "$(cat "$P/notes")" = hello ]
    must 0 $T check --repair --even-if-many
    [ "$(cat "$P/notes")" = hello ]
    must 0 $T user delete $ADA --yes
    must 0 $T user purge $ADA --yes
    # Given out once, in all spellings.
    for path in Kunden/Café KUNDEN/CAFÉ kunden/café/within; do create 4 fay $path; done
    create 0 fay Kunden/Caff
    must 0 $T check
"#;

/// On a real file system that ignores case two users had one directory; on one that stores names
/// decomposed no directory with an accent could be adopted, and a check found users' directories
/// nobody's.
#[test]
fn paths_compare_as_a_case_or_normalization_insensitive_file_system_compares_them() {
    // Whether a directory that was made under a decomposed name is there under the composed one.
    for (folding, decomposed) in [("case", 3), ("case+form", 0), ("case+nfd", 0)] {
        let session = Session::new();
        let mount = format!("{PYTHON} {IGNORING_FS} real m {folding}");
        let script = format!("set -eu; DECOMPOSED={decomposed}; {SPELLINGS}");
        let Some((code, stdout, stderr)) = with_mount(&session, &mount, &script) else { return };
        assert_eq!(code, 0, "{folding}: {stdout}{stderr}");
    }
}
