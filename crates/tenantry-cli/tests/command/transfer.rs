use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::{Session, missing};

/// A CSV file of generated users with every field, half of which logged in.
fn generated(count: usize) -> String {
    let mut csv = "version,email,id,created_at,last_login_at,storage_path,updated_at\n".to_owned();
    for n in 0..count {
        // Not in the order of the ids, the addresses or the times.
        let scattered = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{n:012x}",
            scattered >> 32,
            scattered >> 16 & 0xffff,
            n & 0xfff,
            n >> 12 & 0xfff
        );
        let login = if n % 2 == 0 {
            format!("2026-01-01T00:00:{:02}.{:06}Z", n % 60, n)
        } else {
            String::new()
        };
        let path = if n % 100 == 0 { format!("customers/{n}/files") } else { String::new() };
        let spelling = ["User", "uSER", "üser", "用户"][n % 4];
        writeln!(csv, "{},{spelling}.{scattered:x}@Example{}.com,{id},2025-{:02}-01T00:00:00Z,{login},{path},2025-12-{:02}T10:00:00.5Z", n + 1, n % 7, n % 12 + 1, n % 28 + 1).unwrap();
    }
    csv
}

#[test]
fn a_hundred_thousand_users_round_trip_through_import_and_export() {
    const COUNT: usize = 100_000;
    let session = Session::new();
    session.write("users.csv", generated(COUNT));
    let (code, _, stderr) = session.run(&["import", "users.csv"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("imported: 100000 created,"), "{stderr}");

    session.output(&["export", "first.csv"]);
    session.output(&["export", "first.jsonl"]);
    let exported = std::fs::read_to_string(session.path("first.csv")).unwrap();
    // Equal to the import, column by column, in the same order.
    let (given, got) = (session.path("users.csv"), session.path("first.csv"));
    assert_same_users(&given, &got);
    assert_eq!(exported.lines().count(), COUNT + 1);

    for (copy, file) in [("copy1", "first.csv"), ("copy2", "first.jsonl")] {
        session.output(&["--data-dir", copy, "import", file]);
        session.output(&["--data-dir", copy, "export", "again.jsonl"]);
        assert!(
            read(&session, "first.jsonl") == read(&session, "again.jsonl"),
            "{file} came back otherwise"
        );
    }
    let before = session.output(&["status"]);
    let (_, _, stderr) = session.run(&["import", "first.csv", "--on-conflict", "skip"]);
    assert!(
        stderr.contains("0 created, 0 updated, 0 unchanged, 100000 skipped, 0 rejected"),
        "{stderr}"
    );
    let users = |status: &str| {
        status.split("\"user_count\":").nth(1).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(users(&before), users(&session.output(&["status"])));
}

fn read(session: &Session, name: &str) -> String {
    std::fs::read_to_string(session.path(name)).unwrap()
}

/// Compares two CSV files of users by the names of their columns, times as times and a path that is
/// empty as derived.
fn assert_same_users(given: &Path, got: &Path) {
    let users = |path: &Path| {
        let mut reader = csv::Reader::from_path(path).unwrap();
        let header = reader.headers().unwrap().clone();
        reader
            .into_records()
            .map(move |record| {
                let record = record.unwrap();
                let field = |name: &str| {
                    record[header.iter().position(|column| column == name).unwrap()].to_owned()
                };
                let time = |name: &str| field(name).parse::<tenantry::Timestamp>().ok();
                let id = field("id");
                let path = match field("storage_path") {
                    path if path.is_empty() => format!("{}/{}/{id}", &id[..2], &id[2..4]),
                    path => path,
                };
                let times = (time("created_at"), time("last_login_at"), time("updated_at"));
                (id, field("email"), times, path, field("version"))
            })
            .collect::<Vec<_>>()
    };
    let (given, got) = (users(given), users(got));
    assert_eq!(given.len(), got.len());
    for (given, got) in given.iter().zip(&got) {
        assert_eq!(given, got);
    }
}

/// The authors of the crates that this project is built from. Every checkout has them, with the
/// faults of a real list: duplicates, other spellings and texts that aren't addresses.
#[test]
fn every_row_of_a_real_list_is_created_skipped_or_rejected() {
    let home = std::env::var("CARGO_HOME")
        .unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap()));
    let mut addresses = Vec::new();
    for manifest in manifests(&Path::new(&home).join("registry/src")) {
        let text = std::fs::read_to_string(manifest).unwrap_or_default();
        let authors = text.split_once("authors = [").and_then(|(_, rest)| rest.split_once(']'));
        for author in authors.map_or("", |(authors, _)| authors).split('"').skip(1).step_by(2) {
            let address = author
                .rsplit_once('<')
                .map_or(author, |(_, address)| address.trim_end_matches('>'));
            addresses.push(address.to_owned());
        }
    }
    if addresses.len() < 50 {
        return missing(
            "there is no list of real addresses: the sources of the crates are not in CARGO_HOME",
        );
    }
    let session = Session::new();
    let mut csv = csv::Writer::from_path(session.path("authors.csv")).unwrap();
    csv.write_record(["email"]).unwrap();
    addresses.iter().for_each(|address| csv.write_record([address]).unwrap());
    csv.flush().unwrap();

    let (_, _, stderr) = session.run(&[
        "import",
        "authors.csv",
        "--on-conflict",
        "skip",
        "--rejects",
        "rejects.csv",
    ]);
    let summary = stderr.lines().find_map(|line| line.strip_prefix("imported: ")).unwrap();
    let count = |what: &str| -> usize {
        let part = summary.split(", ").find_map(|part| part.strip_suffix(what)).unwrap();
        part.trim().parse().unwrap()
    };
    let (created, skipped, refused) = (count("created"), count("skipped"), count("rejected"));
    assert_eq!(created + skipped + refused, addresses.len());
    let plausible: BTreeSet<String> = addresses
        .iter()
        .filter(|address| {
            address.is_ascii()
                && address.split('@').count() == 2
                && !address.contains(char::is_whitespace)
        })
        .map(|address| address.to_ascii_lowercase())
        .collect();
    assert!(created >= plausible.len() * 9 / 10, "{created} of {} were created", plausible.len());
    assert_eq!(
        csv::Reader::from_path(session.path("rejects.csv")).unwrap().records().count(),
        refused
    );
    assert_eq!(session.output(&["export"]).lines().count(), created);

    let (_, _, stderr) = session.run(&[
        "import",
        "authors.csv",
        "--on-conflict",
        "skip",
        "--rejects",
        "rejects.csv",
    ]);
    assert!(
        stderr.contains(&format!(
            "imported: 0 created, 0 updated, 0 unchanged, {} skipped",
            created + skipped
        )),
        "{stderr}"
    );
}

fn manifests(registries: &Path) -> Vec<std::path::PathBuf> {
    let dirs = |dir: &Path| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    dirs(registries)
        .iter()
        .flat_map(|registry| dirs(registry))
        .map(|package| package.join("Cargo.toml"))
        .collect()
}

#[test]
fn an_export_that_fails_leaves_nothing_behind() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    std::fs::create_dir(session.path("taken")).unwrap();
    for file in ["nowhere/users.csv", "taken"] {
        let (code, _, stderr) = session.run(&["export", file]);
        assert_eq!(code, 1);
        assert!(stderr.starts_with(&format!("error: {file}: ")), "{stderr}");
    }
    let mut names: Vec<_> = std::fs::read_dir(session.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["data", "taken"]);
}

#[test]
fn an_export_follows_a_link_and_writes_into_a_pipe() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    let expected = session.output(&["export"]);
    session.write("real.jsonl", "the old file");
    std::os::unix::fs::symlink("real.jsonl", session.path("link.jsonl")).unwrap();
    session.output(&["export", "link.jsonl"]);
    assert!(session.path("link.jsonl").is_symlink());
    assert_eq!(read(&session, "real.jsonl"), expected);

    assert!(session.in_dir("mkfifo").arg("pipe").status().unwrap().success());
    let reader =
        session.in_dir("cat").arg("pipe").stdout(std::process::Stdio::piped()).spawn().unwrap();
    session.output(&["export", "pipe"]);
    assert_eq!(super::decode(reader.wait_with_output().unwrap()).1, expected);
    assert!(!session.path("pipe").is_file());
}

#[test]
fn rows_before_an_unclosed_quote_are_imported() {
    let session = Session::new();
    let rows: String = (0..6_000).map(|n| format!("user{n}@example.com\n")).collect();
    session.write("users.csv", format!("email\n{rows}\"open@example.com\nlost@example.com\n"));
    let (code, _, stderr) =
        session.run(&["import", "users.csv", "--on-conflict", "skip", "--rejects", "rejects.csv"]);
    assert_eq!(code, 5);
    assert!(
        stderr.contains(
            "line 6002: a quote is opened here and never closed; imported before that: 6000 created"
        ),
        "{stderr}"
    );
    assert_eq!(read(&session, "rejects.csv"), "line,reason,row\n");

    // All or nothing is nothing, though the first chunk was written before the error was found.
    assert_eq!(session.run(&["--data-dir", "other", "import", "users.csv"]).0, 5);
    assert_eq!(session.output(&["--data-dir", "other", "export"]), "");
}

/// Some spreadsheets take the full-width forms for those of ASCII.
#[test]
fn formula_injection_by_full_width_forms_is_escaped_and_round_trips() {
    let session = Session::new();
    for (number, start) in
        ["\u{ff1d}", "\u{ff0b}", "\u{ff0d}", "'\u{ff1d}", "="].into_iter().enumerate()
    {
        session.output(&["user", "create", &format!("{start}cmd|{number}@example.com")]);
    }
    let csv = session.output(&["export", "--to", "csv"]);
    let emails: Vec<_> =
        csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().to_owned()).collect();
    assert!(emails.len() == 5 && emails.iter().all(|email| email.starts_with('\'')), "{csv}");
    session.write("users.csv", &csv);
    session.output(&["--data-dir", "other", "import", "users.csv"]);
    let [before, after] =
        ["data", "other"].map(|dir| session.output(&["--data-dir", dir, "export"]));
    assert_eq!(after, before);
}

#[test]
fn formula_injection_is_escaped_in_the_file_of_rejects() {
    let session = Session::new();
    session.write("users.csv", "email\n=1+1\n\u{ff1d}1+1\n@sum\n");
    let (code, _, _) =
        session.run(&["import", "users.csv", "--on-conflict", "skip", "--rejects", "rejects.csv"]);
    assert_ne!(code, 0);
    let rows: Vec<String> = csv::Reader::from_path(session.path("rejects.csv"))
        .unwrap()
        .records()
        .map(|record| record.unwrap()[2].to_owned())
        .collect();
    assert_eq!(rows, ["'=1+1", "'\u{ff1d}1+1", "'@sum"]);
}

#[test]
fn a_broken_pipe_of_rejects_is_reported_and_blocks_no_other_writer() {
    let session = Session::new();
    assert!(session.in_dir("mkfifo").arg("rejects").status().unwrap().success());
    // More than fits into the pipe.
    let rows: String = (0..3_000).map(|n| format!("no address {n} {}\n", "x".repeat(50))).collect();
    session.write("users.csv", format!("email\nada@example.com\n{rows}"));
    let mut import =
        session.tenantry(&["import", "users.csv", "--on-conflict", "skip", "--rejects", "rejects"]);
    let child = import.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let reader = std::fs::File::open(session.path("rejects")).unwrap();
    super::wait_until("the good row lands", || {
        session.run(&["status"]).1.contains("\"user_count\":1")
    });
    // The import waits for the reader by now, or soon will; other processes can write.
    session.output(&["user", "create", "bob@example.com"]);
    drop(reader);
    let (code, _, stderr) = super::decode(child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("rejects: Broken pipe"), "{stderr}");
}

/// They had been lost with the temporary file when a later chunk failed.
#[test]
fn rejects_of_committed_chunks_are_kept_if_a_later_chunk_fails() {
    let session = Session::new();
    let good: String = (0..1_000).map(|n| format!("user{n}@example.com\n")).collect();
    session.write("users.csv", format!("email\nbad\n{good}{good}\"open@example.com\n"));
    let (code, _, stderr) =
        session.run(&["import", "users.csv", "--on-conflict", "skip", "--rejects", "rejects.csv"]);
    assert_eq!(code, 5);
    assert!(
        stderr.contains(
            "imported before that: 1000 created, 0 updated, 0 unchanged, 1000 skipped, 1 rejected"
        ),
        "{stderr}"
    );
    assert_eq!(
        read(&session, "rejects.csv"),
        "line,reason,row\n2,email: the address has no @,bad\n"
    );
}

#[test]
fn an_unusable_file_creates_neither_a_store_nor_rejects() {
    let session = Session::new();
    std::fs::create_dir(session.path("directory")).unwrap();
    session.write("open.csv", "email\n\"open@example.com\n");
    session.write("later.csv", "email\nada@example.com\n\"open@example.com\n");
    for arguments in [
        &[
            "import",
            "directory",
            "--from",
            "jsonl",
            "--on-conflict",
            "skip",
            "--rejects",
            "rejects",
        ][..],
        &["import", "open.csv", "--on-conflict", "skip", "--rejects", "rejects"],
        &["import", "open.csv"],
        &["import", "later.csv"],
        &["import", "nowhere.csv", "--on-conflict", "skip", "--rejects", "rejects"],
    ] {
        let (code, _, stderr) = session.run(arguments);
        assert!(code == 1 || code == 5, "{arguments:?}: {stderr}");
        assert!(
            !session.path("data").exists() && !session.path("rejects").exists(),
            "{arguments:?}: {stderr}"
        );
    }
}

/// It had been imported as ada@example.comx.
#[test]
fn text_after_a_closing_quote_imports_nothing_and_names_the_line() {
    let session = Session::new();
    session.write("users.csv", "email\n\"ada@example.com\"x\nbob@example.com\n");
    let (code, _, stderr) = session.run(&["import", "users.csv"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(
        stderr.contains("line 2: ") && stderr.contains("text after a closing quote"),
        "{stderr}"
    );
    assert!(!session.path("data").exists());
    let (code, _, stderr) = session.run(&["import", "users.csv", "--on-conflict", "skip"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("imported: 1 created") && stderr.contains("1 rejected"), "{stderr}");
}

#[test]
fn utf16_is_imported_and_spreadsheet_formats_are_refused_by_name() {
    let session = Session::new();
    let utf16: Vec<u8> = "\u{feff}Email,,\r\nada@example.com,,\r\n,,\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    session.write("utf16.csv", utf16);
    let (code, _, stderr) = session.run(&["import", "utf16.csv"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains(
            "1 created, 0 updated, 0 unchanged, 0 skipped, 0 rejected, 1 empty row ignored"
        ),
        "{stderr}"
    );
    for (bytes, what) in [(&b"PK\x03\x04rest"[..], ".xlsx"), (b"\x1f\x8b\x08rest", "gzip")] {
        session.write("foreign.csv", bytes);
        let (code, _, stderr) = session.run(&["--data-dir", "other", "import", "foreign.csv"]);
        assert_eq!(code, 5, "{stderr}");
        assert!(stderr.contains(what) && !session.path("other").exists(), "{stderr}");
    }
}

/// They had been "not an RFC 3339 time".
#[test]
fn unstorable_times_are_refused_on_the_command_line() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    for (time, reason) in [
        ("9999-12-31", "the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z"),
        ("0000-01-01", "the time is not between"),
        ("2025-02-29", "there is no such time"),
        ("2016-12-31T23:59:60Z", "a leap second"),
        ("tomorrow", "not an RFC 3339 time"),
    ] {
        let (code, _, stderr) = session.run(&["user", "list", "--created-before", time]);
        assert!(code == 5 && stderr.contains(reason), "{time}: {stderr}");
    }
    assert_eq!(session.run(&["user", "list", "--created-before", "2999-12-31"]).0, 0);
}
