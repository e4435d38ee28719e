use std::io::Write;
use std::process::Stdio;

use unicode_width::UnicodeWidthStr;

use super::{Session, decode, missing};

/// Runs a shell command on a terminal of its own, and returns its exit code and the output of the
/// terminal.
fn on_terminal(session: &Session, command: &str, typed: &str) -> Option<(i32, String)> {
    // From bsdutils, which every Debian has.
    let child = session
        .in_dir("script")
        .args(["-qec", command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        missing("the tests on a terminal need the program `script`");
        return None;
    };
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let (code, stdout, _) = decode(child.wait_with_output().unwrap());
    Some((code, stdout.replace("\r\n", "\n")))
}

#[test]
fn a_terminal_gets_a_table_and_colours_by_default() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    let Some((_, shown)) = on_terminal(&session, "tenantry user list", "") else { return };
    let mut lines = shown.lines();
    assert!(lines.next().unwrap().starts_with("\u{1b}[1mid "), "{shown}");
    assert!(lines.next().unwrap().contains("  ada@example.com  "), "{shown}");

    // Also where the arguments are not understood.
    for (color, is_coloured) in [("auto", true), ("never", false)] {
        let (code, shown) =
            on_terminal(&session, &format!("tenantry --color {color} nonsense"), "").unwrap();
        assert_eq!((code, shown.contains('\u{1b}')), (2, is_coloured), "{shown}");
    }
    for plain in ["NO_COLOR=1 tenantry user list", "tenantry user list --color never"] {
        let (_, shown) = on_terminal(&session, plain, "").unwrap();
        assert!(shown.starts_with("id  ") && !shown.contains('\u{1b}'), "{plain}: {shown}");
    }
    assert!(
        session
            .output(&["user", "list", "--format", "table", "--color", "always"])
            .starts_with("\u{1b}[1mid ")
    );
    assert!(session.output(&["user", "list", "--format", "table"]).starts_with("id  "));
    assert!(session.output(&["user", "list"]).starts_with('{'));
}

/// Marks of Devanagari were once escaped, and bidi controls in a storage path were not, in the
/// output of one user.
#[test]
fn a_table_shows_every_script_and_escapes_bidi_controls() {
    let session = Session::new();
    let address = "\u{938}\u{902}\u{92a}\u{930}\u{94d}\u{915}@example.com";
    session.output(&["user", "create", address, "--storage-path", "x\u{202e}y"]);
    let of_one = ["user", "get", address, "--format", "table"];
    let id = session
        .output(&["user", "get", address, "--format", "csv"])
        .lines()
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    let shows = |shown: &str| {
        assert!(shown.contains(address), "{shown}");
        assert!(shown.contains("x\\u{202e}y") && !shown.contains('\u{202e}'), "{shown}");
    };
    shows(&session.output(&of_one));
    shows(&session.output(&["user", "list", "--format", "table"]));
    session.output(&["user", "delete", address, "--yes"]);
    shows(&session.output(&["trash", "list", "--format", "table"]));
    shows(&session.output(&["user", "purge", &id, "--dry-run", "--format", "table"]));
}

/// At 80 columns each user had taken two lines, at 60 three or four.
#[test]
fn a_table_fits_the_terminal_and_is_uncut_elsewhere() {
    let session = Session::new();
    let rows = "email,id\n\
        christopher.von-und-zu-liechtenstein@department-of-international-affairs.example,3fa2b1c4-0000-4000-8000-000000000001\n\
        \u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}\u{3048}\u{4f8b}@example.com,3fa2b1c4-0000-4000-8000-000000000002\n\
        ada@example.com,3fa2b1c4-0000-4000-8000-000000000003\n";
    session.write("users.csv", rows);
    session.run(&["import", "users.csv"]);
    for user in 1..=3 {
        session.output(&["storage", "path", &format!("3fa2b1c4-0000-4000-8000-00000000000{user}")]);
    }
    for columns in [20, 40, 60, 80, 120] {
        for command in [
            "user list",
            "storage usage",
            "user list --columns id,email,storage_path,updated_at,version",
        ] {
            let command =
                format!("stty cols {columns} rows 24; NO_COLOR=1 tenantry {command} 2>/dev/null");
            let Some((code, shown)) = on_terminal(&session, &command, "") else { return };
            assert_eq!(code, 0, "{shown}");
            assert_eq!(shown.lines().count(), 4, "{shown}");
            for line in shown.lines() {
                assert!(line.width() <= columns, "{columns}: {line}");
            }
        }
    }
    let (_, shown) =
        on_terminal(&session, "stty cols 80 rows 24; NO_COLOR=1 tenantry user list", "").unwrap();
    assert!(shown.contains("  christopher.von-und-zu-…  just now"), "{shown}");
    assert!(shown.contains("  ada@example.com           just now"), "{shown}");

    let whole = session.output(&["user", "list", "--format", "table"]);
    assert!(
        whole.contains("3fa2b1c4-0000-4000-8000-000000000001  christopher") && !whole.contains('…'),
        "{whole}"
    );
    let (_, wide) =
        on_terminal(&session, "stty cols 40 rows 24; NO_COLOR=1 tenantry user list -o wide", "")
            .unwrap();
    assert!(
        wide.contains("  3f/a2/3fa2b1c4-0000-4000-8000-000000000001  2") && !wide.contains('…'),
        "{wide}"
    );
}

/// A sentence must not be cut.
#[test]
fn findings_that_do_not_fit_the_terminal_are_records() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    std::fs::create_dir(session.path("data/storage/copy")).unwrap();
    let check = |columns: u32| {
        on_terminal(
            &session,
            &format!("stty cols {columns} rows 24; NO_COLOR=1 tenantry check 2>/dev/null"),
            "",
        )
    };
    let Some((_, shown)) = check(200) else { return };
    assert!(
        shown
            .starts_with("kind                user  path          detail                 repair\n"),
        "{shown}"
    );
    let (code, shown) = check(60).unwrap();
    assert_eq!(code, 1);
    assert_eq!(
        shown,
        "kind            directory_orphaned\n\
         path            storage/copy\n\
         detail          it belongs to no user\n\
         repair          move it to quarantine\n"
    );
}

#[test]
fn a_check_shows_its_progress_on_a_terminal_only() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    session.output(&["storage", "path", "ada@example.com"]);
    for check in ["tenantry check", "tenantry check --repair"] {
        let Some((code, shown)) =
            on_terminal(&session, &format!("stty cols 80 rows 24; {check}"), "")
        else {
            return;
        };
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("1 users") || shown.contains("1 directories"), "{shown:?}");
        assert!(shown.ends_with("all is well: 1 user, 0 in the trash, 1 directory\n"), "{shown:?}");
    }
    let (code, _, stderr) = session.run(&["check"]);
    assert_eq!((code, stderr.as_str()), (0, "all is well: 1 user, 0 in the trash, 1 directory\n"));
}

#[test]
fn deleting_asks_and_only_yes_is_yes() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    for no in ["n\n", "\n", "yess\n"] {
        let Some((code, shown)) = on_terminal(&session, "tenantry user delete ada@example.com", no)
        else {
            return;
        };
        assert_eq!(code, 1, "{shown}");
        assert!(
            shown.contains("Move ada@example.com (") && shown.contains("to the trash? [y/N]"),
            "{shown}"
        );
        assert!(shown.contains("nothing was deleted"), "{shown}");
    }
    session.output(&["user", "get", "ada@example.com"]);
    let (code, shown) =
        on_terminal(&session, "tenantry user delete ada@example.com", "y\n").unwrap();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(session.run(&["user", "get", "ada@example.com"]).0, 3);
}

#[test]
fn the_log_goes_to_standard_error_and_holds_no_address() {
    let session = Session::new();
    for verbose in ["-v", "-vv", "-vvv"] {
        let (code, stdout, stderr) =
            session.run(&["user", "login", "ada-secret@example.com", "--create", verbose]);
        assert_eq!(code, 0);
        assert_eq!(stdout.lines().count(), 1);
        assert!(!stderr.contains("ada-secret"), "{stderr}");
        assert_eq!(verbose != "-v", stderr.contains("DEBUG"), "{stderr}");
    }
}

#[test]
fn verbose_names_the_verb_and_the_id() {
    let session = Session::new();
    let id = "3fa2b1c4-0000-4000-8000-000000000001";
    let restored = "4fa2b1c4-0000-4000-8000-000000000002";
    session.output(&["user", "create", "bob@example.com", "--id", restored]);
    for (verb, arguments) in [
        ("user create", &["user", "create", "ada@example.com", "--id", id][..]),
        ("user update", &["user", "rename", "ada@example.com", "ada@example.org"]),
        ("user login", &["user", "login", "ada@example.org"]),
        ("user export-archive", &["user", "export-archive", id, "ada.tar.zst"]),
        ("user delete", &["user", "rm", id, "--yes"]),
        ("user restore", &["user", "restore", id]),
        ("user delete", &["user", "delete", id, "--yes"]),
        ("user purge", &["user", "purge", "--older-than", "0d", "--yes"]),
        ("user import-archive", &["user", "import-archive", "ada.tar.zst", "--data-dir", "other"]),
    ] {
        let (code, _, stderr) = session.run(&[arguments, &["-v"]].concat());
        assert_eq!(code, 0, "{stderr}");
        let logged: Vec<&str> = stderr.lines().filter(|line| line.contains(" INFO ")).collect();
        assert_eq!(logged.len(), 1, "{stderr}");
        assert!(logged[0].ends_with(&format!(" INFO tenantry: {verb} user={id}")), "{stderr}");
        assert!(!logged[0].contains('@'), "{stderr}");
    }
    session.output(&["user", "delete", restored, "--yes"]);
    let (_, _, stderr) = session.run(&["user", "purge", restored, "--yes", "-v"]);
    assert!(stderr.contains(&format!("user purge user={restored}")), "{stderr}");
}

#[test]
fn completions_report_their_install_location_on_a_terminal_only() {
    let session = Session::new();
    let Some((code, shown)) = on_terminal(&session, "tenantry completions fish > file", "") else {
        return;
    };
    assert_eq!(
        (code, shown.as_str()),
        (0, "install location: ~/.config/fish/completions/tenantry.fish\n")
    );
    assert!(
        std::fs::read_to_string(session.path("file")).unwrap().starts_with("# Print an optspec")
    );
    assert_eq!(session.run(&["completions", "fish"]).2, "");
}
