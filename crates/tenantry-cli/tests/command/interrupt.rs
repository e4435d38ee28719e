use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::{Session, wait_until};

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Whether the process would notice the signal with this number.
fn catches(child: &Child, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
    u64::from_str_radix(caught, 16).unwrap() & (1 << (signal - 1)) != 0
}

fn has_thread(child: &Child, name: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    // A thread may end meanwhile.
    tasks.flatten().any(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
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
fn an_interrupted_import_says_what_landed_and_the_store_is_whole() {
    let session = Session::new();
    let mut child = import(&session, &["--on-conflict", "skip"]);
    let mut rows = "email\n".to_owned();
    for n in 0..6_000 {
        rows.push_str(&format!("user{n}@example.com\n"));
    }
    // More than one chunk, and then nothing: the pipe stays open.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(rows.as_bytes()).unwrap();
    wait_until("the first chunk lands", || session.run(&["status"]).1.contains("\"user_count\":5000"));

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
fn an_interrupted_import_of_all_or_nothing_is_nothing() {
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

/// More users than fit into a pipe that nobody reads.
fn with_many_users() -> Session {
    let session = Session::new();
    let rows: String = (0..20_000).map(|n| format!("user{n}@example.com\n")).collect();
    session.write("users.csv", format!("email\n{rows}"));
    session.output(&["import", "users.csv"]);
    session
}

#[test]
fn an_interrupted_export_says_that_it_is_incomplete() {
    let session = with_many_users();
    let mut child = session.tenantry(&["export"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
fn a_reader_that_goes_away_is_no_error() {
    let session = with_many_users();
    for arguments in [
        &["user", "list", "--all"][..],
        &["user", "list", "--all", "--format", "json"],
        &["user", "list", "--all", "--format", "csv"],
        &["export"],
        &["export", "--to", "csv"],
        &["completions", "zsh"],
    ] {
        let mut child = session.tenantry(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let held = (child.stdin.take(), child.stdout.take());
            let (found, stderr) = ended_by(signal, number, child);
            assert_eq!(found, code, "{signal} {arguments:?}: {stderr}");
            drop(held);
        }
    }
    let left: Vec<_> = std::fs::read_dir(session.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only the rows and the store: {left:?}");
}

/// A pipe with a name makes whoever opens it wait for the other side.
#[test]
fn a_signal_ends_the_wait_for_the_other_end_of_a_pipe() {
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

/// The parent of a background process (`nohup`) has it ignore SIGHUP, and then no terminal takes it along.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let session = Session::new();
    let mut command = session.in_dir("sh");
    let script = "trap '' HUP; exec tenantry import - --from csv";
    let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it reads the rows, and so listens", || has_thread(&child, "tenantry-import"));
    assert!(catches(&child, 15) && !catches(&child, 1), "a handler would take the place of what was ignored");
    send("-HUP", &child);
    child.stdin.take().unwrap().write_all(b"email\nada@example.com\n").unwrap();
    let (code, stderr) = ended(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(session.output(&["status"]).contains("\"user_count\":1"));
}

/// Nothing is lost by ending at once, so it does.
#[test]
fn a_question_is_ended_by_each_signal() {
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
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}: {}", String::from_utf8_lossy(&shown));
    }
    assert!(session.output(&["user", "list"]).contains("ada@example.com"));
}
