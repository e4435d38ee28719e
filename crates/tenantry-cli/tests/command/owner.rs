use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use super::{Session, decode, is_root};

/// The user of a service, and its group.
const SERVICE: u32 = 1_000;
const GROUP: u32 = 1_001;

/// A directory in which the service may work too, with the command in it.
fn session() -> Session {
    let session = Session::new();
    std::fs::set_permissions(session.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The checkout may be in a directory that the service can't enter.
    std::fs::copy(env!("CARGO_BIN_EXE_tenantry"), session.path("tenantry")).unwrap();
    std::fs::create_dir(session.path("home")).unwrap();
    chown(session.path("home"), Some(SERVICE), Some(GROUP)).unwrap();
    session
}

/// Runs a script in the service's directory, as root or as the service, and asserts that it
/// succeeds.
#[track_caller]
fn run(session: &Session, user: u32, script: &str) -> String {
    let mut command = session.in_dir("bash");
    command.args(["-euc", &format!("T={}\ncd home\n{script}", session.path("tenantry").display())]);
    if user != 0 {
        command.uid(user).gid(GROUP);
    }
    let (code, stdout, stderr) = decode(command.output().unwrap());
    assert_eq!(code, 0, "{user}: {script}\n{stdout}{stderr}");
    stdout
}

/// Every command, with the addresses of their own that begin with `$WHO`.
const EVERY_COMMAND: &str = r#"
    $T user create $WHO-a@example.com --format csv >/dev/null
    P=$($T storage path $WHO-a@example.com)
    (umask 077; echo hello > "$P/notes")
    [ $(id -u) != 0 ] || chown --reference="$P" "$P/notes"
    mkdir -p data/storage/brought-$WHO
    [ $(id -u) != 0 ] || chown --reference=data data/storage/brought-$WHO
    chmod 700 data/storage/brought-$WHO
    $T user create $WHO-b@example.com --storage-path brought-$WHO --adopt >/dev/null
    $T user create $WHO-c@example.com --storage-path customers-$WHO/c >/dev/null
    $T storage path $WHO-c@example.com >/dev/null
    printf "email\n$WHO-d@example.com\n" | $T import - --from csv 2>/dev/null
    ID=$($T user get $WHO-a@example.com --format csv | tail -1 | cut -d, -f1)
    $T user login $WHO-a@example.com >/dev/null
    $T user update $WHO-a@example.com --email $WHO-e@example.com >/dev/null
    $T user export-archive $ID $WHO.tar.zst >/dev/null
    $T user delete $ID --yes >/dev/null 2>&1
    $T user restore $ID >/dev/null
    [ "$(cat "$P/notes")" = hello ]
    $T user delete $ID --yes >/dev/null 2>&1
    $T user purge $ID --yes >/dev/null 2>&1
    $T --data-dir other-$WHO user import-archive $WHO.tar.zst >/dev/null 2>&1
    $T --data-dir other-$WHO check >/dev/null
    [ "$(cat other-$WHO/storage/*/*/$ID/notes)" = hello ]
    $T storage usage >/dev/null
    $T trash list >/dev/null
    $T user list >/dev/null
    $T export - >/dev/null
    $T status >/dev/null
    $T backup create $WHO.all.tar.zst >/dev/null
    $T backup verify $WHO.all.tar.zst >/dev/null
    $T backup restore $WHO.all.tar.zst --into restored-$WHO >/dev/null
    $T --data-dir restored-$WHO check >/dev/null
    $T check >/dev/null
"#;

/// The commands that write rows into files. A rehearsal on no store couldn't use its own temporary
/// directory.
const FILES_OF_ROWS: &str = r#"
    (umask 022; printf 'email\nnew@example.com\nnobody\n' >rows.csv; echo >kept.csv; chmod 640 kept.csv)
    $T export new.csv 2>/dev/null
    $T export new.jsonl 2>/dev/null
    $T export kept.csv 2>/dev/null
    $T import rows.csv --dry-run --on-conflict skip --data-dir none --rejects rejects.csv 2>/dev/null || [ $? = 5 ]
    [ ! -e none ]
"#;

/// A umask of 0177 made a directory that its owner couldn't enter, and the store was never made.
#[test]
fn a_umask_without_owner_permissions_does_not_break_a_store() {
    if !is_root("running as another user") {
        return;
    }
    for umask in ["0177", "0777", "0277"] {
        for user in [0, SERVICE] {
            let session = session();
            run(
                &session,
                user,
                &format!(
                    "umask {umask}; export WHO=x\n{}",
                    EVERY_COMMAND.replace("mkdir -p", "mkdir -m 700 -p")
                ),
            );
            let odd = "find data restored-x other-x \\( -type d ! -perm 0700 \\) -o \\( -type f ! -perm 0600 \\)
                       find *.tar.zst ! -perm 0600";
            assert_eq!(run(&session, 0, odd), "", "{umask} {user}");
            run(&session, user, &format!("umask {umask}\n{}", FILES_OF_ROWS));
            let modes = run(&session, 0, "stat -c %a new.csv new.jsonl rejects.csv kept.csv");
            assert_eq!(modes, "600\n600\n600\n640\n", "{umask} {user}");
        }
    }
}

/// An existing directory keeps its permissions.
#[test]
fn a_data_directory_that_exists_keeps_its_mode() {
    if !is_root("running as another user") {
        return;
    }
    let session = session();
    run(&session, SERVICE, "mkdir -m 0750 data; $T user create a@example.com >/dev/null");
    assert_eq!(run(&session, 0, "stat -c %a data data/storage"), "750\n700\n");
    // Nor is one opened that its owner has closed.
    let closed = "mkdir -m 0000 shut; ! $T --data-dir shut user create a@example.com 2>/dev/null";
    run(&session, SERVICE, closed);
    assert_eq!(run(&session, 0, "stat -c %a shut; ls shut"), "0\n");
}

/// One `sudo tenantry storage path` made a directory that was root's, and the service could never
/// again make one beneath it.
#[test]
fn files_that_root_creates_belong_to_the_owner_of_the_store() {
    if !is_root("giving files to another user") {
        return;
    }
    let not_theirs = format!("find . ! \\( -uid {SERVICE} -gid {GROUP} \\)");
    let makers = [
        // The service's store.
        (SERVICE, "$T user create first@example.com >/dev/null"),
        // A store of root, in a directory of the service, and in one that root creates there.
        (0, "mkdir data; chown --reference=. data; $T user create first@example.com >/dev/null"),
        (0, "$T user create first@example.com >/dev/null"),
        // A store that root restores from a backup, into a new and into an existing directory.
        (
            0,
            "$T --data-dir old user create first@example.com >/dev/null; $T --data-dir old backup create b.tar.zst >/dev/null
             rm -rf old; $T backup restore b.tar.zst --into data >/dev/null; rm b.tar.zst",
        ),
        (
            0,
            "$T --data-dir old user create first@example.com >/dev/null; $T --data-dir old backup create b.tar.zst >/dev/null
             rm -rf old; mkdir data; chown --reference=. data; $T backup restore b.tar.zst --into data >/dev/null; rm b.tar.zst",
        ),
    ];
    for (maker, make) in makers {
        let session = session();
        run(&session, maker, make);
        run(&session, 0, &format!("export WHO=root\n{EVERY_COMMAND}\nrm *.tar.zst"));
        // While another program has the store open, so that the log and its index stay.
        let open = "mkfifo ../pipe; $T export ../pipe &
                    until [ -e data/tenantry.db-shm ]; do :; done
                    find data ! -uid 1000; cat ../pipe >/dev/null; wait";
        assert_eq!(run(&session, 0, open), "", "{make}");
        assert_eq!(run(&session, 0, &not_theirs), "", "{make}");
        run(&session, SERVICE, &format!("export WHO=service\n{EVERY_COMMAND}"));
    }
}

/// In the volume of a container the directory may belong to root, and its content to the service.
#[test]
fn in_a_root_owned_directory_new_files_belong_to_the_owner_of_the_database() {
    if !is_root("giving files to another user") {
        return;
    }
    let session = session();
    run(&session, 0, &format!("mkdir -m 0770 data; chown 0:{GROUP} data"));
    run(
        &session,
        SERVICE,
        "$T user create first@example.com >/dev/null; $T user export-archive first@example.com f.tar.zst >/dev/null",
    );
    run(
        &session,
        0,
        "rm data/tenantry.lock; $T user create second@example.com >/dev/null; $T storage path second@example.com",
    );
    run(&session, SERVICE, "$T user delete second@example.com --yes 2>/dev/null; $T check");
}

/// Files that an earlier version or a person created as root are returned to the owner.
#[test]
fn a_repair_as_root_returns_root_owned_files_to_the_owner() {
    if !is_root("giving files to another user") {
        return;
    }
    let session = session();
    let create = "$T user create a@example.com --id 3fa2b1c4-0000-4000-8000-000000000001 >/dev/null
                  echo hello > $($T storage path a@example.com)/notes";
    run(&session, SERVICE, create);
    run(
        &session,
        0,
        "chown 0:0 data/storage/3f data/storage/3f/a2/* data/tenantry.lock data/storage/3f/a2/*/notes",
    );
    run(&session, SERVICE, "! $T storage path a@example.com 2>/dev/null");
    let (code, found, _) =
        decode(session.tenantry(&["--data-dir", "home/data", "check"]).output().unwrap());
    assert_eq!((code, found.matches("wrong_owner").count()), (1, 3), "{found}");
    // Without root the repair reports that it can't change owners.
    run(&session, 0, "chown 1000 data/tenantry.lock");
    let refused = run(&session, SERVICE, "$T check --repair 2>&1 || true");
    assert!(refused.contains("only root can change the owner"), "{refused}");
    run(&session, 0, "chown 0 data/tenantry.lock; $T check --repair");
    run(&session, SERVICE, "$T check && $T user delete a@example.com --yes 2>/dev/null");
    // Files in the user's directory may have any owner.
    let notes = session.path("home/data/trash/3fa2b1c4-0000-4000-8000-000000000001/notes");
    assert_eq!(std::fs::metadata(notes).unwrap().uid(), 0);
}
