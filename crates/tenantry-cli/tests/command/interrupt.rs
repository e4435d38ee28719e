use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{Session, wait_until};

fn send(signal: &str, child: &Child) {
    assert!(
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success()
    );
}

/// Whether the process would notice the signal with this number.
fn catches(child: &Child, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
    u64::from_str_radix(caught, 16).unwrap() & (1 << (signal - 1)) != 0
}

fn has_thread(child: &Child, name: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    // A thread may end at any time.
    tasks.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

fn ended(mut child: Child) -> (i32, String) {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), stderr)
}

fn import(session: &Session, arguments: &[&str]) -> Child {
    let mut command = session.tenantry(&["import", "-", "--from", "csv"]);
    command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_interrupted_import_reports_the_committed_rows() {
    let session = Session::new();
    let mut child = import(&session, &["--on-conflict", "skip"]);
    let mut rows = "email\n".to_owned();
    for n in 0..6_000 {
        rows.push_str(&format!("user{n}@example.com\n"));
    }
    // More than one chunk, and then nothing: the pipe stays open.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(rows.as_bytes()).unwrap();
    wait_until("the first chunk lands", || {
        session.run(&["status"]).1.contains("\"user_count\":5000")
    });

    send("-INT", &child);
    let (code, stderr) = ended(child);
    assert_eq!(code, 130);
    assert!(
        stderr.ends_with(
            "error: interrupted; imported before that: 5000 created, 0 updated, 0 unchanged, 0 skipped, 0 rejected\n"
        ),
        "{stderr}"
    );
    assert!(session.output(&["status"]).contains("\"user_count\":5000"));
    drop(stdin);
}

#[test]
fn an_interrupted_all_or_nothing_import_is_rolled_back() {
    let session = Session::new();
    let mut child = import(&session, &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"email\nada@example.com\n").unwrap();
    wait_until("it reads the rows, and so listens", || has_thread(&child, "tenantry-import"));
    send("-TERM", &child);
    assert_eq!(ended(child), (143, "error: interrupted; nothing was imported\n".to_owned()));
    assert!(!session.path("data").exists());
    drop(stdin);
}

/// Creates more users than fit into a pipe without a reader.
fn with_many_users() -> Session {
    let session = Session::new();
    let rows: String = (0..20_000).map(|n| format!("user{n}@example.com\n")).collect();
    session.write("users.csv", format!("email\n{rows}"));
    session.output(&["import", "users.csv"]);
    session
}

#[test]
fn an_interrupted_export_reports_that_it_is_incomplete() {
    let session = with_many_users();
    let mut child = session
        .tenantry(&["export"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    send("-INT", &child);
    let mut exported = String::new();
    stdout.read_to_string(&mut exported).unwrap();
    let (code, stderr) = ended(child);
    assert_eq!(code, 130);
    assert!(stderr.starts_with("error: interrupted after "), "{stderr}");
    assert!(exported.lines().count() < 20_000);
}

#[test]
fn a_broken_pipe_on_standard_output_is_not_an_error() {
    let session = with_many_users();
    for arguments in [
        &["user", "list", "--all"][..],
        &["user", "list", "--all", "--format", "json"],
        &["user", "list", "--all", "--format", "csv"],
        &["export"],
        &["export", "--to", "csv"],
        &["completions", "zsh"],
    ] {
        let mut child = session
            .tenantry(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut stdout = BufReader::with_capacity(16, child.stdout.take().unwrap());
        stdout.read_line(&mut first).map(|_| ()).unwrap_or_default();
        drop(stdout);
        assert_eq!(ended(child), (0, String::new()), "{arguments:?}");
    }
}

/// The codes that shells report for a process that a signal ended.
const SIGNALS: [(&str, u32, i32); 3] = [("-INT", 2, 130), ("-TERM", 15, 143), ("-HUP", 1, 129)];

/// Sends the signal as soon as the process would notice it, and returns how the process ends.
fn ended_by(signal: &str, number: u32, child: Child) -> (i32, String) {
    wait_until("the signal would be noticed", || catches(&child, number));
    send(signal, &child);
    ended(child)
}

/// SIGHUP had ended an import in the middle, and SIGTERM had the code of SIGINT.
#[test]
fn each_signal_has_its_own_exit_code_in_every_command() {
    let session = with_many_users();
    let waiting: [&[&str]; 6] = [
        // They wait for input that doesn't come, ...
        &["import", "-", "--from", "csv"],
        &["import", "-", "--from", "csv", "--on-conflict", "skip"],
        // ... or for a reader who doesn't read.
        &["user", "list", "--all"],
        &["user", "list", "--all", "--format", "csv"],
        &["export"],
        &["export", "/dev/stdout", "--to", "csv"],
    ];
    for (signal, number, code) in SIGNALS {
        for arguments in waiting {
            let mut command = session.tenantry(arguments);
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let held = (child.stdin.take(), child.stdout.take());
            let (found, stderr) = ended_by(signal, number, child);
            assert_eq!(found, code, "{signal} {arguments:?}: {stderr}");
            drop(held);
        }
    }
    let left: Vec<_> = std::fs::read_dir(session.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "only the rows and the store: {left:?}");
}

/// Opening a named pipe blocks until the other end is opened.
#[test]
fn a_signal_interrupts_the_opening_of_a_named_pipe() {
    let session = with_many_users();
    assert!(session.in_dir("mkfifo").arg("pipe").status().unwrap().success());
    for (signal, number, code) in SIGNALS {
        for arguments in [&["export", "pipe"][..], &["import", "pipe", "--from", "csv"]] {
            let child = session.tenantry(arguments).stderr(Stdio::piped()).spawn().unwrap();
            let (found, stderr) = ended_by(signal, number, child);
            assert_eq!(found, code, "{signal} {arguments:?}: {stderr}");
        }
    }
}

/// The parent of a background process (`nohup`) has it ignore SIGHUP, and then no terminal takes it
/// along.
#[test]
fn an_ignored_sighup_stays_ignored() {
    let session = Session::new();
    let mut command = session.in_dir("sh");
    let script = "trap '' HUP; exec tenantry import - --from csv";
    let mut child =
        command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it reads the rows, and so listens", || has_thread(&child, "tenantry-import"));
    assert!(
        catches(&child, 15) && !catches(&child, 1),
        "a handler would replace the ignored disposition"
    );
    send("-HUP", &child);
    child.stdin.take().unwrap().write_all(b"email\nada@example.com\n").unwrap();
    let (code, stderr) = ended(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(session.output(&["status"]).contains("\"user_count\":1"));
}

/// Nothing is lost by ending at once, so it does.
#[test]
fn each_signal_ends_a_confirmation_prompt() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    for (signal, _, code) in SIGNALS {
        let mut command = session.in_dir("script");
        let line = "sh -c 'echo $$ > pid; exec tenantry user delete ada@example.com'";
        let child = command.args(["-qec", line, "/dev/null"]).env("TERM", "xterm");
        let Ok(mut child) = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return super::missing("the tests on a terminal need the program `script`");
        };
        let mut shown = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        while !shown.ends_with(b"[y/N] ") {
            let mut next = [0];
            stdout.read_exact(&mut next).unwrap();
            shown.push(next[0]);
        }
        let pid = std::fs::read_to_string(session.path("pid")).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
        stdout.read_to_end(&mut shown).unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(code),
            "{signal}: {}",
            String::from_utf8_lossy(&shown)
        );
    }
    assert!(session.output(&["user", "list"]).contains("ada@example.com"));
}

/// Everything in a directory, by its path.
fn names_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    // An entry may disappear at any time.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        names.extend(names_below(&entry.path()));
        names.insert(entry.path());
    }
    names
}

fn has_temporary(dir: &Path, prefix: &str) -> bool {
    let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
}

/// A store with a user who has a file, a backup of it, and an archive of the user.
fn with_archives() -> Session {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    let dir = session.output(&["storage", "path", "ada@example.com"]);
    let mut bytes = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        bytes =
            bytes.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (bytes >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    std::fs::write(session.path(dir.trim()).join("noise"), noise).unwrap();
    session.output(&["backup", "create", "a.tar.zst"]);
    session.output(&["user", "export-archive", "ada@example.com", "ada.tar.zst"]);
    std::fs::create_dir(session.path("tmp")).unwrap();
    session.write("users.csv", "email\nbob@example.com\n");
    session
}

/// The command on the first half of a backup, while the pipe through which that came stays open.
fn on_half_a_backup(session: &Session, arguments: &[&str]) -> (Child, ChildStdin) {
    let archive = std::fs::read(session.path("a.tar.zst")).unwrap();
    let mut command = session.tenantry(arguments);
    command.env("TMPDIR", session.path("tmp")).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..archive.len() / 2]).unwrap();
    (child, stdin)
}

/// The files that had been unpacked stayed in the directory, which then was refused by everything
/// but the next restore.
#[test]
fn an_interrupted_restore_leaves_the_target_as_it_was() {
    let session = with_archives();
    std::fs::create_dir(session.path("empty")).unwrap();
    let before = names_below(session.dir.path());
    for (signal, number, code) in SIGNALS {
        for into in ["new", "empty"] {
            let (child, stdin) =
                on_half_a_backup(&session, &["backup", "restore", "-", "--into", into]);
            wait_until("files are unpacked", || {
                names_below(&session.path(into)).iter().any(|path| path.ends_with("noise"))
            });
            let interrupted = (code, "error: interrupted; nothing was restored\n".to_owned());
            assert_eq!(ended_by(signal, number, child), interrupted, "{signal} {into}");
            assert_eq!(names_below(session.dir.path()), before, "{signal} {into}");
            drop(stdin);
        }
    }
}

#[test]
fn an_interrupted_verification_leaves_nothing() {
    let session = with_archives();
    let before = names_below(session.dir.path());
    for (signal, number, code) in SIGNALS {
        let (child, stdin) = on_half_a_backup(&session, &["backup", "verify", "-"]);
        let interrupted = (code, "error: interrupted; the backup was not verified\n".to_owned());
        assert_eq!(ended_by(signal, number, child), interrupted, "{signal}");
        assert_eq!(names_below(session.dir.path()), before, "{signal}");
        drop(stdin);
    }
    // Nor does a killed one, which can't clean up.
    let (mut child, stdin) = on_half_a_backup(&session, &["backup", "verify", "-"]);
    send("-KILL", &child);
    child.wait().unwrap();
    assert_eq!(names_below(session.dir.path()), before);
    drop(stdin);
}

/// Each had ended at once, and its temporary files and directories stayed.
#[test]
fn a_signal_leaves_no_temporary_files() {
    let session = with_archives();
    session.output(&["user", "create", "other@example.com", "--data-dir", "other"]);
    let before = names_below(session.dir.path());
    // What is run, where its temporary files are, and what their names begin with. A disk that is
    // slow gives the time to see them.
    let cases: [(&str, &str, &str); 6] = [
        ("backup create b.tar.zst", "", ".tenantry-backup-"),
        ("user export-archive ada@example.com b.tar.zst", "", ".tenantry-export-"),
        ("user import-archive ada.tar.zst --data-dir other", "other", ".tenantry-import-"),
        ("user import-archive ada.tar.zst --data-dir new", "tmp", ""),
        ("user create bob@example.com --data-dir new", "tmp", ""),
        ("import users.csv --dry-run --data-dir new", "tmp", ""),
    ];
    for (index, (arguments, dir, prefix)) in cases.into_iter().enumerate() {
        let (signal, _, code) = SIGNALS[index % SIGNALS.len()];
        let mut command = session.in_dir("strace");
        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=fsync,fdatasync,syncfs:delay_enter=700000",
        ]);
        command.args(["sh", "-c", &format!("echo $$ > tmp/pid; exec tenantry {arguments}")]);
        command.env("TMPDIR", session.path("tmp")).stderr(Stdio::piped());
        let Ok(child) = command.spawn() else {
            return super::missing("the test needs the program `strace`");
        };
        let dir = session.path(dir);
        wait_until("the command has a temporary file", || match prefix {
            "" => names_below(&dir).len() > 1,
            _ => has_temporary(&dir, prefix),
        });
        let pid = std::fs::read_to_string(session.path("tmp/pid")).unwrap();
        std::fs::remove_file(session.path("tmp/pid")).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
        let (found, stderr) = ended(child);
        assert_eq!(found, code, "{arguments}: {stderr}");
        assert!(stderr.starts_with("error: interrupted"), "{arguments}: {stderr}");
        assert_eq!(names_below(session.dir.path()), before, "{arguments}");
    }
}

/// A restore had been killed by SIGXFSZ, which only an open store keeps away, and what it had
/// unpacked stayed.
#[test]
fn a_file_size_limit_is_a_failure_without_sigxfsz_and_leaves_nothing() {
    let session = with_archives();
    let before = names_below(session.dir.path());
    for arguments in [
        "backup create b.tar.zst",
        "user export-archive ada@example.com b.tar.zst",
        "backup restore a.tar.zst --into new",
    ] {
        let script = format!("ulimit -f 512; exec env --default-signal=XFSZ tenantry {arguments}");
        let (code, _, stderr) =
            super::decode(session.in_dir("bash").args(["-c", &script]).output().unwrap());
        assert_eq!(code, 1, "{arguments}: {stderr}");
        assert!(stderr.contains("File too large"), "{arguments}: {stderr}");
        assert_eq!(names_below(session.dir.path()), before, "{arguments}");
    }
}
