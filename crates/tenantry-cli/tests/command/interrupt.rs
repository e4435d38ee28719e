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
    wait_until("the signal would be noticed", || catches(&child, 15));
    send("-TERM", &child);
    assert_eq!(ended(child), (130, "error: interrupted; nothing was imported\n".to_owned()));
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
    wait_until("the signal would be noticed", || catches(&child, 2));
    send("-INT", &child);
    let mut exported = String::new();
    child.stdout.take().unwrap().read_to_string(&mut exported).unwrap();
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
