use super::{Session, decode};

const ADA: &str = "3fa2b1c4-0000-4000-8000-000000000001";
const BOB: &str = "3fa2b1c4-0000-4000-8000-000000000002";

/// Each verb as it says most on standard error, in a copy of [`prepared`].
const COMMANDS: &[&str] = &[
    "user create new@example.com",
    "user create ada@example.com",
    "user get ada@example.com",
    "user get nobody@example.com",
    "user list --limit 1",
    "user update ada@example.com --email lovelace@example.com",
    "user login bob@example.com",
    "user login new@example.com --create",
    "user delete ada@example.com --yes",
    "user delete ada@example.com",
    "user restore 3fa2b1c4-0000-4000-8000-000000000003",
    "user purge --older-than 0d --yes",
    "user purge 3fa2b1c4-0000-4000-8000-000000000001 --yes",
    "user export-archive ada@example.com new.tar.zst",
    "--data-dir new user import-archive ada.tar.zst",
    "user import-archive ada.tar.zst",
    "trash list",
    "storage path bob@example.com",
    "storage usage",
    "storage adopt bob@example.com spare",
    "check",
    "check --repair",
    "backup create new.tar.zst",
    "backup create old.tar.zst",
    "backup create --keep 1 .",
    "backup verify old.tar.zst",
    "backup restore old.tar.zst --into new",
    "import rows.csv",
    "import rows.csv --on-conflict skip",
    "import rows.csv --on-conflict update --rejects new.csv",
    "export",
    "export new.csv",
    "status",
    "completions fish",
    "man new",
    "nonsense",
    "--help",
    "--version",
];

/// A store with two users, one of them with a file and a link, one in the trash, an orphan, a
/// backup, and rows to import of which most are wrong.
fn prepared() -> Session {
    let session = Session::new();
    for (id, email) in [(ADA, "ada@example.com"), (BOB, "bob@example.com")] {
        session.output(&["user", "create", email, "--id", id]);
    }
    let cleo = "3fa2b1c4-0000-4000-8000-000000000003";
    session.output(&["user", "create", "cleo@example.com", "--id", cleo]);
    session.output(&["user", "delete", cleo, "--yes"]);
    let ada = session.output(&["storage", "path", "ada@example.com"]);
    std::fs::write(session.path(ada.trim()).join("file"), "hello").unwrap();
    std::os::unix::fs::symlink("file", session.path(ada.trim()).join("link")).unwrap();
    session.output(&["user", "export-archive", "ada@example.com", "ada.tar.zst"]);
    session.output(&["backup", "create", "old.tar.zst"]);
    std::fs::create_dir(session.path("data/storage/spare")).unwrap();
    let wrong: String = (0..20).map(|number| format!("wrong {number}\n")).collect();
    session.write("rows.csv", format!("email\nada@example.com\n{wrong}dora@example.com\n"));
    session
}

/// Runs a line of shell in a copy of a session, and returns the exit code and the state afterwards.
fn effect(prepared: &Session, line: &str) -> (i32, String) {
    let script = format!(
        "cp -a \"$1\" copy && cd copy || exit 99
        {line}
        code=$?
        exec 2>&1
        ls -A | sed 's/tenantry-2.*Z/tenantry-TIME/'
        ls -A data data/storage | grep -v db-
        for what in 'user list' 'trash list'; do tenantry $what --format csv | cut -d, -f2; done
        exit $code"
    );
    let session = Session::new();
    let ran =
        session.in_dir("sh").args(["-c", &script, "sh"]).arg(prepared.dir.path()).output().unwrap();
    let (code, stdout, _) = decode(ran);
    assert!(stdout.contains("tenantry.lock"), "{line}: {stdout}");
    (code, stdout)
}

/// A full or closed standard error had `eprintln!` panic: exit code 101, and the user who was asked
/// for wasn't there.
#[test]
fn a_full_or_closed_standard_error_changes_neither_the_effect_nor_the_exit_code() {
    let prepared = prepared();
    for command in COMMANDS {
        let expected = effect(&prepared, &format!("tenantry {command} > /dev/null 2> /dev/null"));
        assert!(expected.0 < 10, "{command}: {expected:?}");
        for ending in ["2> /dev/full", "-vvv 2> /dev/full", "2>&-"] {
            let found = effect(&prepared, &format!("tenantry {command} > /dev/null {ending}"));
            assert_eq!(found, expected, "tenantry {command} {ending}");
        }
    }
}

/// The output is lost, so it is a failure, even where the standard library reports success on a
/// closed descriptor.
#[test]
fn an_unwritable_standard_output_is_a_failure() {
    let session = prepared();
    let printing = [
        "user get ada@example.com",
        "user list",
        "user list --format table",
        "user list --format csv",
        "user login ada@example.com",
        "trash list",
        "storage path bob@example.com",
        "storage usage",
        "check",
        "backup verify old.tar.zst",
        "export",
        "export --to csv",
        "status",
        "completions bash",
        "--help",
        "user --help",
        "--version",
    ];
    for command in printing {
        for (output, reason) in
            [("/dev/full", "No space left on device"), ("&0", "Bad file descriptor")]
        {
            let line = format!("tenantry {command} >{output} < /dev/null");
            // In the order of the shell: standard input, open for reading only, becomes standard
            // output.
            let line = if output == "&0" {
                format!("tenantry {command} < /dev/null >{output}")
            } else {
                line
            };
            let (code, _, stderr) =
                decode(session.in_dir("sh").args(["-c", &line]).output().unwrap());
            assert_eq!(code, 1, "{line}: {stderr}");
            assert!(stderr.contains(reason), "{line}: {stderr}");
        }
    }
    let change = "tenantry user create newer@example.com > /dev/full";
    let (_, _, stderr) = decode(session.in_dir("sh").args(["-c", change]).output().unwrap());
    assert!(stderr.ends_with("; the change was made\n"), "{stderr}");
    assert!(session.output(&["user", "get", "newer@example.com"]).contains("newer@"));
}

/// Output would overwrite a database that is opened as descriptor 1. The runtime opens closed
/// standard descriptors as `/dev/null` first.
#[test]
fn closed_standard_streams_never_corrupt_the_database() {
    let prepared = prepared();
    for command in COMMANDS {
        let expected =
            effect(&prepared, &format!("tenantry {command} < /dev/null > /dev/null 2> /dev/null"));
        let found = effect(&prepared, &format!("tenantry -vvv {command} <&- >&- 2>&-"));
        assert_eq!(found, expected, "tenantry {command}");
    }
    let session = Session::new();
    let made = session
        .in_dir("sh")
        .args(["-c", "tenantry -vvv user create ada@example.com <&- >&- 2>&-"])
        .status();
    assert!(made.unwrap().success());
    assert_eq!(session.run(&["check"]).0, 0);
}

/// Runs a script, and returns its exit code, standard output and standard error.
fn sh(session: &Session, script: &str) -> (i32, String, String) {
    decode(session.in_dir("sh").args(["-c", script]).output().unwrap())
}

/// Each was once resolved to the file behind it, which was then replaced: the content of the log
/// was lost.
#[test]
fn an_open_descriptor_is_written_in_place_and_never_replaced() {
    let session = prepared();
    for name in [
        "/dev/stdout",
        "/dev/fd/1",
        "/proc/self/fd/1",
        "/proc/thread-self/fd/1",
        "out",
        "deep/out",
        "-",
    ] {
        let (code, _, stderr) = sh(
            &session,
            &format!(
                "mkdir -p deep; ln -sf /dev/stdout out; ln -sf ../out deep/out; echo important > log
                tenantry export {name} >> log; code=$?; echo after >> log; exit $code"
            ),
        );
        assert_eq!(code, 0, "{name}: {stderr}");
        let log = std::fs::read_to_string(session.path("log")).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!((lines[0], lines.len(), lines[3]), ("important", 4, "after"), "{name}: {log}");
    }
    // The offset is shared with the shell, so that its next output is appended.
    for name in ["/dev/fd/7", "/proc/self/fd/7"] {
        let script = format!(
            "exec 7> log; echo before >&7; tenantry export {name} || exit 1; echo after >&7; wc -l < log; tail -n 1 log"
        );
        assert_eq!(sh(&session, &script).1, "4\nafter\n", "{name}");
    }
    for name in ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
        let script = format!(
            "echo important > log; tenantry import rows.csv --on-conflict skip --rejects {name} 2>> log; cat log"
        );
        let log = sh(&session, &script).1;
        assert!(
            log.starts_with("important\nline,reason,row\n") && log.contains("\n21,"),
            "{name}: {log}"
        );
    }
    let (code, _, stderr) = sh(&session, "tenantry export /dev/fd/99");
    assert_eq!((code, stderr.contains("Bad file descriptor")), (1, true), "{stderr}");
}

/// A link that led to nothing yet had been replaced by the file.
#[test]
fn a_dangling_symlink_is_followed_and_kept() {
    let session = prepared();
    let script = "
        mkdir deep elsewhere; ln -s deep/second first; ln -s ../elsewhere/third deep/second
        tenantry export first && tenantry export first || exit 1
        readlink first deep/second; wc -l < elsewhere/third; ls -A elsewhere; stat -c %a elsewhere/third
        ln -s \"$PWD/elsewhere/absolute\" link; tenantry export link; wc -l < elsewhere/absolute
        ln -s loop loop; tenantry export loop; echo $?
        ln -s missing/file nowhere; tenantry export nowhere; echo $?; ls -d missing";
    let (_, stdout, stderr) = sh(&session, script);
    let expected = "deep/second\n../elsewhere/third\n2\nthird\n600\n2\n1\n1\n";
    assert_eq!(stdout, expected, "{stderr}");
    assert!(stderr.contains("loop: Too many levels of symbolic links"), "{stderr}");
    assert!(
        stderr.contains("nowhere: the temporary file beside it can't be created: "),
        "{stderr}"
    );
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_and_owner_and_a_new_one_is_private() {
    let session = prepared();
    let script = "
        umask 0277; tenantry export new || exit 1; umask 022
        echo old > kept; chmod 4640 kept; chown 65534:65533 kept 2>/dev/null
        before=$(stat -c '%u %g' kept); tenantry export kept || exit 1
        test \"$(stat -c '%u %g' kept)\" = \"$before\" && stat -c %a new kept";
    assert_eq!(sh(&session, script).1, "600\n640\n");
}

#[test]
fn pipes_sockets_and_devices_are_written_in_place() {
    let session = prepared();
    let script = "mkfifo pipe; cat pipe > got & tenantry export pipe && wait && wc -l < got; test -p pipe && echo pipe
        tenantry export /dev/null && test -c /dev/null && echo device; tenantry export /dev/full; echo $?";
    assert_eq!(sh(&session, script).1, "2\npipe\ndevice\n1\n");

    let listener = std::os::unix::net::UnixListener::bind(session.path("socket")).unwrap();
    let child = session
        .tenantry(&["export", "socket"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut got = String::new();
    std::io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut got).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(got.lines().count(), 2);
}

/// An export over `storage/.tenantry-store` once left a store that couldn't be opened.
#[test]
fn a_file_of_the_store_is_refused_by_any_name() {
    let session = prepared();
    let script = "
        cd data; db=$(stat -c %i tenantry.db); marker=$(cat storage/.tenantry-store)
        ada=$(find storage -name file); ln -s data ../alias; ln tenantry.db ../hard; ln storage/.tenantry-store ../marker
        ln -s data/storage/new ../dangling; mkdir -m 700 quarantine; rmdir storage/spare; cd ..
        for name in data/tenantry.db data/./tenantry.db-wal data/tenantry.lock data/storage data/trash/x data/storage/.x \\
            data/storage/.tenantry-store data/quarantine/x alias/tenantry.db alias/../data/tenantry.db hard marker dangling \\
            \"data/$ada\" \"$PWD/data/storage/../tenantry.db\" data/.tenantry-import-x; do
            tenantry export \"$name\" 2>/dev/null; test $? = 2 || echo \"export $name\"
            tenantry import rows.csv --on-conflict skip --rejects \"$name\" 2>/dev/null
            test $? = 2 || echo \"rejects $name\"
        done
        for name in - /dev/stdout /dev/fd/1; do
            tenantry export $name >> data/tenantry.lock; test $? = 2 || echo \"lock as $name\"
            tenantry export $name >> \"data/$ada\"; test $? = 2 || echo \"file as $name\"
            tenantry export $name >> hard; test $? = 2 || echo \"hard as $name\"
        done
        test \"$(stat -c %i data/tenantry.db)\" = $db && test \"$(cat data/storage/.tenantry-store)\" = $marker &&
            test ! -e data/storage/new && tenantry export data/users.jsonl 2>/dev/null && tenantry check 2>/dev/null
        echo $?";
    assert_eq!(sh(&session, script).1, "0\n", "a name that wasn't refused, or check");
}

/// `backup create -` had made a file of that name, as had `--rejects -`.
#[test]
fn a_dash_is_a_standard_stream_or_refused_and_never_a_file() {
    let session = prepared();
    let script = "
        tenantry backup create - > out; echo $?; tenantry user export-archive ada@example.com - > out; echo $?
        tenantry user export-archive ada@example.com /dev/stdout > out; echo $?
        tenantry user import-archive - < ada.tar.zst; echo $?; wc -c < out
        cat old.tar.zst | tenantry backup verify - > /dev/null; echo $?
        tenantry backup verify - < old.tar.zst > /dev/null; echo $?
        cat old.tar.zst | tenantry backup restore - --into new > /dev/null; echo $?
        tenantry import - --on-conflict skip --from csv --rejects - < rows.csv | wc -l
        ls ./- 2>/dev/null";
    let (_, stdout, stderr) = sh(&session, script);
    assert_eq!(stdout, "2\n2\n2\n2\n0\n0\n0\n0\n21\n", "{stderr}");
    assert!(stderr.contains("see standard output for lines and reasons"), "{stderr}");
}

#[test]
fn an_archive_within_the_store_is_refused() {
    let session = prepared();
    for name in ["data/storage/b", "data/trash/b", "data/tenantry.db", "data/tenantry.new", "link"]
    {
        let script = format!(
            "ln -sfn data/storage/b link; tenantry backup create {name}; echo $?
            tenantry user export-archive ada@example.com {name}; echo $?; ls data/storage/b"
        );
        assert_eq!(sh(&session, &script).1, "2\n2\n", "{name}");
    }
    assert_eq!(session.run(&["backup", "create", "--keep", "1", "data/storage"]).0, 2);
}

/// A refused argument had left an empty store.
#[test]
fn a_refused_command_creates_no_store() {
    let session = Session::new();
    session.write("garbage", "garbage");
    session.write("version.jsonl", "{\"email\":\"ada@example.com\",\"version\":0}\n");
    session.write("rejected.csv", "email,storage_path\nada@example.com,ab/x\nb@example.com,../x\n");
    let refused: [(&[&str], i32); 24] = [
        (&["import", "version.jsonl"], 5),
        (&["import", "version.jsonl", "--on-conflict", "update"], 5),
        (&["import", "rejected.csv"], 5),
        (&["import", "rejected.csv", "--on-conflict", "skip"], 5),
        (&["user", "create", "ada@example.com", "--storage-path", "ab/x"], 5),
        (&["user", "create", "ada@example.com", "--storage-path", "../x"], 5),
        (&["user", "create", "ada@example.com", "--storage-path", "x", "--adopt"], 3),
        (&["user", "create", "ada@example.com", "--id", "1"], 5),
        (&["user", "create", "nobody"], 5),
        (&["user", "login", "nobody@", "--create"], 5),
        (&["user", "get", "ada@example.com"], 3),
        (&["user", "list"], 3),
        (&["user", "update", "ada@example.com", "--email", "b@example.com"], 3),
        (&["user", "login", "ada@example.com"], 3),
        (&["user", "delete", "ada@example.com", "--yes"], 3),
        (&["user", "purge", "--older-than", "0d", "--yes"], 3),
        (&["user", "import-archive", "garbage"], 7),
        (&["user", "import-archive", "missing"], 3),
        (&["import", "missing.csv"], 1),
        (&["import", "garbage"], 5),
        (&["storage", "usage"], 3),
        (&["backup", "create"], 3),
        (&["check"], 3),
        (&["status"], 3),
    ];
    for (arguments, code) in refused {
        let (found, _, stderr) = session.run(arguments);
        assert_eq!(found, code, "{arguments:?}: {stderr}");
        let left = std::fs::read_dir(session.dir.path()).unwrap().count();
        assert_eq!((left, session.path("data").exists()), (3, false), "{arguments:?}: {stderr}");
    }
    // An archive that is damaged near its end.
    let other = prepared();
    let mut archive = std::fs::read(other.path("ada.tar.zst")).unwrap();
    let near_end = archive.len() - 8;
    archive[near_end] ^= 1;
    session.write("damaged", archive);
    let (code, _, stderr) = session.run(&["user", "import-archive", "damaged"]);
    assert_eq!((code, session.path("data").exists()), (7, false), "{stderr}");
    // Good rows are imported.
    session.write("some.csv", "email,storage_path\nada@example.com,ab/x\nb@example.com,\n");
    let (code, _, stderr) = session.run(&["import", "some.csv", "--on-conflict", "skip"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(session.output(&["user", "list"]).contains("b@example.com"));
}

/// The rejects once replaced the rows, since `-` isn't a path that can be compared.
#[test]
fn rejects_never_overwrite_the_file_behind_standard_input() {
    let session = Session::new();
    let rows = "email\nada@example.com\nnobody\n";
    let file = session.write("rows.csv", rows);
    for input in ["-", "/dev/stdin", "/dev/fd/0"] {
        let mut command = session.tenantry(&[
            "import",
            input,
            "--from",
            "csv",
            "--on-conflict",
            "skip",
            "--rejects",
            "rows.csv",
        ]);
        let output = command.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        let (code, _, stderr) = super::decode(output);
        assert_eq!(
            (code, stderr.as_str()),
            (2, "error: rows.csv is the file to read; choose another\n"),
            "{input}"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), rows);
        assert!(!session.path("data").exists());
    }
}

/// `-` was looked for as a file, and of a pipe the second reading found the rest, which was no
/// archive.
#[test]
fn a_backup_is_listed_from_a_pipe_and_a_stream_is_refused_where_it_is_read_twice() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    session.output(&["backup", "create", "a.tar.zst"]);
    session.output(&["user", "export-archive", "ada@example.com", "ada.tar.zst"]);
    let piped =
        |script: &str| super::decode(session.in_dir("bash").args(["-c", script]).output().unwrap());
    let (code, stdout, stderr) = piped("cat a.tar.zst | tenantry backup list -");
    assert!(code == 0 && stdout.contains("ada@example.com"), "{code} {stderr}");
    for script in [
        "cat a.tar.zst | tenantry backup restore - --user ada@example.com",
        "cat a.tar.zst | tenantry backup restore /dev/stdin --user ada@example.com",
        "tenantry backup restore <(cat a.tar.zst) --user ada@example.com",
        "cat ada.tar.zst | tenantry user import-archive -",
        "tenantry user import-archive <(cat ada.tar.zst) --data-dir other",
    ] {
        let (code, _, stderr) = piped(script);
        assert!(
            code == 2 && stderr.contains("read twice: name a file instead of "),
            "{script}: {code} {stderr}"
        );
    }
    assert!(!session.path("other").exists());
}
