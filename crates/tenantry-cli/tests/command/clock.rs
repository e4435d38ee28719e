//! The command on a machine whose clock is wrong by 25 years (libfaketime): whatever writes or
//! prints a time works, and nothing is lost by it.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{Session, decode, missing};

/// A year in seconds, as libfaketime counts it.
const YEAR: i64 = 365 * 86_400;

/// Whether `faketime` is there.
fn can_fake() -> bool {
    let works = Command::new("faketime").args(["-f", "-1y", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        missing("a clock that is wrong needs `faketime`");
    }
    works
}

/// Runs the command with its clock set by so much.
fn run_at(session: &Session, offset: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = session.in_dir("faketime");
    // Setting the clock doesn't change the monotonic one.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    command.args(["-f", offset, env!("CARGO_BIN_EXE_tenantry")]).args(arguments);
    decode(command.output().unwrap())
}

/// The same, where it must succeed: its standard output.
fn output_at(session: &Session, offset: &str, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run_at(session, offset, arguments);
    assert_eq!(code, 0, "{offset} {arguments:?}: {stdout}{stderr}");
    stdout
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The year of a time.
fn year(time: &Value) -> i64 {
    time.as_str().unwrap()[..4].parse().unwrap()
}

fn id(user: &Value) -> &str {
    user["id"].as_str().unwrap()
}

fn backups(session: &Session, dir: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(session.path(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_command_works_whatever_the_clock_says() {
    if !can_fake() {
        return;
    }
    for (offset, years) in [("-25y", -25), ("+25y", 25)] {
        let session = Session::new();
        let create =
            |name: &str| json(&session.output(&["user", "create", &format!("{name}@example.com")]));
        let users @ [ada, bob, cat] = &["ada", "bob", "cat"].map(create);
        for user in &users[..2] {
            let dir = session.output(&["storage", "path", id(user)]);
            std::fs::write(session.path(dir.trim_end()).join("note.txt"), "hello").unwrap();
        }
        session.output(&["user", "login", id(ada)]);
        session.output(&["user", "delete", id(cat), "--yes"]);
        session.output(&["storage", "usage"]);
        let shifted = Shifted { session: &session, offset, years, then: year(&ada["created_at"]) };
        let eve = shifted.changes_users(ada, bob);
        shifted.lists_users();
        shifted.empties_the_trash(bob, cat);
        shifted.measures_directories(ada);
        shifted.adopts_and_repairs(&eve);
        shifted.makes_backups();
        shifted.exports_and_imports();
        assert_eq!(shifted.json(&["status", "--format", "json"])["user_count"], 4);
    }
}

/// A store from `then`, on which commands run with a clock that is wrong by some years.
struct Shifted<'s> {
    session: &'s Session,
    offset: &'s str,
    years: i64,
    then: i64,
}

impl Shifted<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        output_at(self.session, self.offset, arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        json(&self.run(arguments))
    }

    /// Returns whether a time is one of the wrong clock. A year of libfaketime has 365 days, so it
    /// may be another one in the days around New Year.
    fn is_now(&self, time: &Value) -> bool {
        (year(time) - self.then - self.years).abs() <= 1
    }

    fn is_then(&self, time: &Value) -> bool {
        (year(time) - self.then).abs() <= 1
    }

    fn is_fast(&self) -> bool {
        self.years > 0
    }

    /// Creates, reads and changes users, and returns Eve.
    fn changes_users(&self, ada: &Value, bob: &Value) -> Value {
        let eve = self.json(&["user", "create", "eve@example.com"]);
        assert!(self.is_now(&eve["created_at"]) && self.is_now(&eve["updated_at"]), "{eve}");
        assert_eq!(&self.json(&["user", "get", id(bob)]), bob);
        // A recorded time doesn't move back.
        let is_latest =
            |time: &Value| if self.is_fast() { self.is_now(time) } else { self.is_then(time) };
        assert!(is_latest(&self.json(&["user", "login", id(ada)])["last_login_at"]));
        let updated = self.json(&[
            "user",
            "update",
            id(ada),
            "--email",
            "ada2@example.com",
            "--expect-version",
            "1",
        ]);
        assert!(is_latest(&updated["updated_at"]), "{updated}");
        assert!(updated["version"] == 2 && self.is_then(&updated["created_at"]), "{updated}");
        let fay = self.json(&["user", "login", "fay@example.com", "--create"]);
        assert!(self.is_now(&fay["created_at"]) && self.is_now(&fay["last_login_at"]), "{fay}");
        eve
    }

    /// Lists users in the order of creation, and by ages that follow the clock.
    fn lists_users(&self) {
        let list = |more: &[&str]| {
            names(&self.run(&[&["user", "list", "--format", "json"][..], more].concat()))
        };
        assert_eq!(list(&[]), ["ada2", "bob", "eve", "fay"]);
        let inactive = list(&["--inactive-for", "180d"]);
        assert_eq!(inactive, if self.is_fast() { vec!["bob"] } else { vec![] });
        assert_eq!(list(&["--created-after", "0001-01-01", "--all"]).len(), 4);
    }

    /// A user who was deleted a moment ago is never old. By a clock that is 25 years fast, Cat is.
    fn empties_the_trash(&self, bob: &Value, cat: &Value) {
        self.run(&["user", "delete", id(bob), "--yes"]);
        let trashed = self.json(&["trash", "list", "--format", "json"]);
        let trashed = trashed["users"].as_array().unwrap();
        assert_eq!(trashed.iter().map(id).collect::<Vec<_>>(), [id(cat), id(bob)]);
        assert!(
            self.is_then(&trashed[0]["deleted_at"]) && self.is_now(&trashed[1]["deleted_at"]),
            "{trashed:?}"
        );
        let old =
            self.run(&["user", "purge", "--older-than", "30d", "--dry-run", "--format", "json"]);
        assert_eq!(names(&old), if self.is_fast() { vec!["cat"] } else { vec![] });
        self.run(&["user", "purge", "--older-than", "30d", "--yes"]);
        let left = if self.is_fast() { 1 } else { 2 };
        assert_eq!(
            self.json(&["trash", "list", "--format", "json"])["users"].as_array().unwrap().len(),
            left
        );
        assert_eq!(&self.json(&["user", "restore", id(bob)]), bob);
    }

    /// No measurement is in the future, even if it was taken there.
    fn measures_directories(&self, ada: &Value) {
        for arguments in [
            &["storage", "usage", "--stored"][..],
            &["storage", "usage"],
            &["storage", "usage", id(ada)],
        ] {
            let usages = self.json(&[arguments, &["--format", "json"]].concat());
            for usage in usages["usages"].as_array().unwrap() {
                let age = usage["age_seconds"].as_i64().unwrap();
                let is_old = arguments.contains(&"--stored") && self.is_fast();
                assert!(
                    if is_old { age > 24 * YEAR } else { (0..YEAR).contains(&age) },
                    "{arguments:?}: {usage}"
                );
            }
        }
        let usages =
            json(&self.session.output(&["storage", "usage", "--stored", "--format", "json"]));
        let ages = usages["usages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|usage| usage["age_seconds"].as_i64().unwrap());
        assert!(ages.clone().all(|age| age >= 0) && ages.count() == 2, "{usages}");
    }

    fn adopts_and_repairs(&self, eve: &Value) {
        let session = self.session;
        std::fs::create_dir_all(session.path("data/storage/customers/eve")).unwrap();
        let adopted = self.json(&["storage", "adopt", id(eve), "customers/eve"]);
        assert_eq!(adopted["storage_path"], "customers/eve");
        self.run(&["check"]);
        std::fs::create_dir_all(session.path("data/storage/stray")).unwrap();
        self.run(&["check", "--repair", "--even-if-many"]);
        let quarantined = backups(session, "data/quarantine").pop_first().unwrap();
        let note = std::fs::read_to_string(
            session.path("data/quarantine").join(quarantined).join("note.json"),
        );
        assert!(self.is_now(&json(&note.unwrap())["moved_at"]));
    }

    fn makes_backups(&self) {
        let made = self.json(&["backup", "create", "a.tar.zst", "--format", "json"]);
        assert!(self.is_now(&made["created_at"]), "{made}");
        self.run(&["backup", "verify", "a.tar.zst"]);
        self.run(&["backup", "restore", "a.tar.zst", "--into", "restored"]);
        let named = self.json(&["backup", "create", "--format", "json"]);
        let named = named["file"].as_str().unwrap().to_owned();
        assert!(self.is_now(&Value::from(&named["tenantry-".len()..])), "{named}");
        self.run(&["backup", "verify", &named]);
    }

    fn exports_and_imports(&self) {
        self.run(&["export", "users.jsonl"]);
        for offset in ["-25y", "+25y"] {
            let imported =
                ["--data-dir", "imported", "import", "users.jsonl", "--on-conflict", "skip"];
            output_at(self.session, offset, &imported);
        }
        self.run(&["--data-dir", "imported", "export", "again.jsonl"]);
        let exported = |name: &str| std::fs::read_to_string(self.session.path(name)).unwrap();
        assert_eq!(exported("users.jsonl"), exported("again.jsonl"));
    }
}

/// Returns the part of each address before the `@`.
fn names(text: &str) -> Vec<String> {
    let users = json(text)["users"].as_array().unwrap().clone();
    users
        .iter()
        .map(|user| user["email"].as_str().unwrap().split('@').next().unwrap().to_owned())
        .collect()
}

/// Rotation removes neither the backup that was just made nor one of a time that is later by the
/// clock.
#[test]
fn a_wrong_clock_makes_rotation_remove_no_newer_backup() {
    if !can_fake() {
        return;
    }
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    std::fs::create_dir(session.path("daily")).unwrap();
    // Creates a backup with `--keep 1`, and returns its name and the messages.
    let back_up = |offset: &str| {
        let before = backups(&session, "daily");
        let (code, stdout, stderr) = run_at(
            &session,
            offset,
            &["backup", "create", "--keep", "1", "daily", "--format", "json"],
        );
        assert_eq!(code, 0, "{stderr}");
        let file =
            json(&stdout)["file"].as_str().unwrap().strip_prefix("daily/").unwrap().to_owned();
        assert!(!before.contains(&file));
        (file, stderr)
    };
    let there = |expected: &[&String]| {
        assert_eq!(
            backups(&session, "daily"),
            expected.iter().map(|name| (*name).clone()).collect()
        );
    };
    let (real, messages) = back_up("+0d");
    assert_eq!(messages, "");
    there(&[&real]);
    let (slow, messages) = back_up("-25y");
    assert!(
        messages.contains("kept 1 backup dated later than the new one; check the system clock"),
        "{messages}"
    );
    there(&[&slow, &real]);
    let (slower, _) = back_up("-24y");
    there(&[&slower, &real]);
    // When the clock is right again, the newest stays.
    let (real, messages) = back_up("+1d");
    assert_eq!(messages, "");
    there(&[&real]);
    let (fast, messages) = back_up("+25y");
    assert_eq!(messages, "");
    there(&[&fast]);
    let (real, messages) = back_up("+2d");
    assert!(
        messages.contains("kept 1 backup dated later than the new one; check the system clock"),
        "{messages}"
    );
    there(&[&real, &fast]);
    let (real, _) = back_up("+3d");
    there(&[&real, &fast]);
    session.output(&["backup", "verify", &format!("daily/{real}")]);
}
