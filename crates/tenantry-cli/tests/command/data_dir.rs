use super::Session;

/// The directory in which a command looks for its store, as its error names it.
fn looked_in(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let session = Session::new();
    let mut command = session.tenantry(arguments);
    for name in ["TENANTRY_DATA_DIR", "STATE_DIRECTORY", "XDG_DATA_HOME", "HOME"] {
        command.env_remove(name);
    }
    let (code, _, stderr) =
        super::decode(command.arg("status").envs(environment.iter().copied()).output().unwrap());
    assert_eq!(code, 3, "{stderr}");
    let dir = stderr.strip_prefix("error: there is no store in ").unwrap();
    dir.split(';').next().unwrap().to_owned()
}

#[test]
fn the_flag_comes_before_the_environment_and_that_before_the_home_directory() {
    let all = [
        ("TENANTRY_DATA_DIR", "/nowhere/a"),
        ("STATE_DIRECTORY", "/nowhere/b:/nowhere/c"),
        ("XDG_DATA_HOME", "/nowhere/d"),
        ("HOME", "/nowhere/e"),
    ];
    assert_eq!(looked_in(&["--data-dir", "/nowhere/f"], &all), "/nowhere/f");
    assert_eq!(looked_in(&[], &all), "/nowhere/a");
    assert_eq!(looked_in(&[], &all[1..]), "/nowhere/b");
    assert_eq!(looked_in(&[], &all[2..]), "/nowhere/d/tenantry");
    assert_eq!(looked_in(&[], &all[3..]), "/nowhere/e/.local/share/tenantry");
}

#[test]
fn an_empty_variable_names_nothing_and_a_relative_data_home_is_ignored() {
    assert_eq!(
        looked_in(
            &[],
            &[("TENANTRY_DATA_DIR", ""), ("STATE_DIRECTORY", ""), ("HOME", "/nowhere/e")]
        ),
        "/nowhere/e/.local/share/tenantry"
    );
    // The XDG base directory specification says so.
    assert_eq!(
        looked_in(&[], &[("XDG_DATA_HOME", "d"), ("HOME", "/nowhere/e")]),
        "/nowhere/e/.local/share/tenantry"
    );
}

#[test]
fn the_data_directory_and_its_files_are_private() {
    use std::os::unix::fs::PermissionsExt;

    let session = Session::new();
    let created = session
        .in_dir("sh")
        .args(["-c", "umask 000; tenantry --data-dir deep/er/data user create ada@example.com"])
        .output()
        .unwrap();
    assert!(created.status.success());
    let mode = |path| std::fs::metadata(session.path(path)).unwrap().permissions().mode() & 0o777;
    for dir in ["deep", "deep/er", "deep/er/data"] {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    for file in ["deep/er/data/tenantry.db", "deep/er/data/tenantry.lock"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

/// A half-made database under the store's name, cut off from its log, could never be opened again.
#[test]
fn a_creation_on_a_full_disk_leaves_nothing_behind() {
    // A disk of its own, in a namespace of its own, that grows after the first attempt.
    let script = "
        mkdir disk && mount -t tmpfs -o size=${1}k tmpfs disk || exit 99
        tenantry --data-dir disk/data user create ada@example.com; first=$?
        mount -o remount,size=10m disk || exit 99
        tenantry --data-dir disk/data user get ada@example.com; there=$?
        tenantry --data-dir disk/data user login ada@example.com --create; second=$?
        echo \"$first $there $second\" $(ls disk/data)";
    let mut failed = 0;
    let sizes = (20..=440).step_by(7);
    let attempts = sizes.clone().count();
    for size in sizes {
        let session = Session::new();
        let namespace = session
            .in_dir("unshare")
            .args(["-rm", "sh", "-c", script, "sh", &size.to_string()])
            .output();
        let Some((0, stdout, stderr)) = namespace.ok().map(super::decode) else {
            return super::missing(
                "a full disk needs `unshare` and permission to mount a tmpfs in a namespace",
            );
        };
        let outcome = stdout.lines().last().unwrap();
        // The user may exist though the output failed, but never the other way round.
        let expected = ["0 0 0", "1 0 0", "1 3 0"]
            .map(|codes| format!("{codes} storage tenantry.db tenantry.lock trash"));
        assert!(
            expected.iter().any(|expected| expected == outcome),
            "{size} KiB: {outcome}\n{stderr}"
        );
        failed += usize::from(!outcome.starts_with('0'));
    }
    assert!(
        0 < failed && failed < attempts,
        "{failed} of {attempts} failed: the limit is not where it matters"
    );
}

/// A store of schema version 1, as the version that made it left it.
fn make_version_1(session: &Session) {
    std::fs::create_dir(session.path("data")).unwrap();
    let conn =
        tenantry::sqlite::rusqlite::Connection::open(session.path("data/tenantry.db")).unwrap();
    conn.execute_batch(include_str!("../../../tenantry/src/sqlite/migrations/V1__users.sql"))
        .unwrap();
    conn.execute_batch(include_str!("../../../tenantry/tests/version_1.sql")).unwrap();
    conn.execute_batch(
        "INSERT INTO users (id, email_key, email, created_at, updated_at, version)
            VALUES (x'3fa2b1c4000040008000000000000001', 'ada@example.com', 'ada@example.com', 0, 0, 1)",
    )
    .unwrap();
    conn.close().unwrap();
}

#[test]
fn an_upgrade_reports_the_snapshot_of_the_database() {
    let session = Session::new();
    make_version_1(&session);
    let (code, _, stderr) = session.run(&["user", "get", "ada@example.com"]);
    assert_eq!(code, 0, "{stderr}");
    let message = "upgraded the store in data from schema 1 to 7; the earlier database is kept in ";
    let snapshot = stderr.strip_prefix(message).unwrap().trim_end();
    assert!(snapshot.starts_with("data/backups/before-v"), "{snapshot}");
    // Once.
    assert_eq!(session.run(&["user", "get", "ada@example.com"]).2, "");
    // It can be gone back to: alone in a new directory it is a store.
    let sh = format!(
        "mkdir old && cp {snapshot} old/tenantry.db && tenantry --data-dir old --no-snapshot status"
    );
    let (code, _, stderr) = super::decode(session.in_dir("sh").args(["-c", &sh]).output().unwrap());
    assert_eq!(
        (code, &*stderr),
        (0, "upgraded the store in old from schema 1 to 7; no snapshot was taken\n")
    );
    assert!(!session.path("old/backups").exists());
}

#[test]
fn a_read_only_file_system_is_reported() {
    let session = Session::new();
    let script = "
        mkdir disk && mount -t tmpfs disk disk || exit 99
        tenantry --data-dir disk/data user create ada@example.com --format csv > /dev/null || exit 1
        mount -o remount,ro disk || exit 99
        tenantry --data-dir disk/data user get ada@example.com --format csv | cut -d, -f2
        tenantry --data-dir disk/data check
        tenantry --data-dir disk/data user delete ada@example.com --yes
        code=$?
        tenantry --data-dir disk/data status 2> /dev/null | grep -o '\"journal_mode\":\"[a-z]*\"'
        exit $code";
    let namespace =
        session.in_dir("unshare").args(["-rm", "sh", "-c", script]).output().map(super::decode);
    let Some((code, stdout, stderr)) = namespace.ok().filter(|(code, ..)| *code != 99) else {
        return super::missing(
            "a read-only disk needs `unshare` and permission to mount a tmpfs in a namespace",
        );
    };
    // The store has no log there, so SQLite reports that it has no journal mode with one either.
    assert_eq!(
        (code, &*stdout),
        (8, "email\nada@example.com\n\"journal_mode\":\"wal\"\n"),
        "{stderr}"
    );
    let lines: Vec<&str> = stderr.lines().collect();
    let message = "the file system is read-only: disk/data is opened for reading only";
    assert_eq!([lines[1], lines[3]], [message, message], "{stderr}");
    assert!(
        lines[4]
            .starts_with("error: the store is open for reading only: its file system is read-only"),
        "{stderr}"
    );
}
