use std::path::Path;

use regex::Regex;

use super::{Session, decode};

/// A file of sessions: each fenced block that is marked `console`, one after the other in one
/// directory. A line `$ command` is run by a shell, a line `? N` after it is the exit code unless
/// it is 0, and the other lines are standard output and standard error. Random ids and times may
/// differ. Files of trycmd have placeholders in such places, while these show the real output.
#[track_caller]
fn check(file: &Path) {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let session = Session::new();
    let mut checked = 0;
    for (line, step) in steps(&text) {
        let (code, stdout, _) = decode(
            session
                .in_dir("sh")
                .args(["-c", &format!("{} 2>&1", grouped(&step.command))])
                .output()
                .unwrap(),
        );
        assert_eq!(
            redact(&format!("? {code}\n{stdout}")),
            redact(&format!("? {}\n{}", step.code, step.output)),
            "{}:{line}: $ {}",
            file.display(),
            step.command
        );
        checked += 1;
    }
    assert!(checked > 0, "{} has no sessions", file.display());
}

fn grouped(command: &str) -> String {
    format!("{{ {command}\n}}")
}

struct Step {
    command: String,
    code: i32,
    output: String,
}

fn steps(text: &str) -> Vec<(usize, Step)> {
    let mut steps: Vec<(usize, Step)> = Vec::new();
    let mut in_session = false;
    for (number, line) in (1..).zip(text.lines()) {
        match line {
            "```console" => in_session = true,
            "```" => in_session = false,
            _ if !in_session => {}
            _ => match (line.strip_prefix("$ "), line.strip_prefix("? "), steps.last_mut()) {
                (Some(command), ..) => {
                    steps.push((
                        number,
                        Step { command: command.to_owned(), code: 0, output: String::new() },
                    ));
                }
                (_, Some(code), Some((_, step))) if step.output.is_empty() => {
                    step.code = code.parse().unwrap()
                }
                (.., Some((_, step))) => {
                    step.output.push_str(line);
                    step.output.push('\n');
                }
                _ => panic!("line {number}: output before the first command"),
            },
        }
    }
    steps
}

fn has_sessions(text: &str) -> bool {
    text.lines().any(|line| line == "```console")
}

/// Replaces random values by words, and longer gaps by two spaces: columns are as wide as the ages
/// in them.
fn redact(text: &str) -> String {
    let uuid =
        Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").unwrap();
    let time = Regex::new(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z").unwrap();
    let age = Regex::new("just now|[0-9]+ (minute|hour|day|month|year)s? ago").unwrap();
    let secret = Regex::new("tnt_[A-Za-z0-9_-]{49}").unwrap();
    let cursor = Regex::new("c1-[0-9a-f]{32}").unwrap();
    let actor = Regex::new("command:[0-9]+").unwrap();
    let gap = Regex::new("  +").unwrap();
    let path = Regex::new("[0-9a-f]{2}/[0-9a-f]{2}/UUID").unwrap();
    let text = uuid.replace_all(text, "UUID");
    let text = time.replace_all(&text, "TIME");
    let text = secret.replace_all(&text, "SECRET");
    let text = path.replace_all(&text, "PATH");
    let text = cursor.replace_all(&text, "CURSOR");
    let text = actor.replace_all(&text, "command:UID");
    let text = age.replace_all(&text, "AGE");
    gap.replace_all(&text, "  ").into_owned()
}

macro_rules! transcripts {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $name() {
                check(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/", $file)));
            }
        )*

        #[test]
        fn every_transcript_is_checked() {
            for dir in ["tests/command/transcripts", "../..", "../../docs"] {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
                for entry in std::fs::read_dir(path).unwrap() {
                    let entry = entry.unwrap();
                    let name = format!("{dir}/{}", entry.file_name().into_string().unwrap());
                    if name.ends_with(".md") && has_sessions(&std::fs::read_to_string(entry.path()).unwrap()) {
                        assert!([$($file),*].contains(&name.as_str()), "{name} is not listed");
                    }
                }
            }
        }
    };
}

transcripts! {
    readme: "../../README.md",
    tour: "../../docs/tour.md",
    operating: "../../docs/operating.md",
    users: "tests/command/transcripts/users.md",
    profile: "tests/command/transcripts/profile.md",
    many: "tests/command/transcripts/many.md",
    lifecycle: "tests/command/transcripts/lifecycle.md",
    backup: "tests/command/transcripts/backup.md",
    one_of_a_backup: "tests/command/transcripts/one_of_a_backup.md",
    user_archive: "tests/command/transcripts/user_archive.md",
    checks: "tests/command/transcripts/checks.md",
    listing: "tests/command/transcripts/listing.md",
    import_and_export: "tests/command/transcripts/import_and_export.md",
    changes: "tests/command/transcripts/changes.md",
    refusals: "tests/command/transcripts/refusals.md",
    tokens: "tests/command/transcripts/tokens.md",
}

#[test]
fn a_wrong_output_or_exit_code_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in [
        "$ tenantry user get x\n",
        "$ tenantry user get x\n? 4\nerror: no\n",
        "$ echo a\nb\n",
        "$ exit 1\n",
    ] {
        let file = dir.path().join("wrong.md");
        std::fs::write(&file, format!("```console\n{wrong}```\n")).unwrap();
        let checked = std::panic::catch_unwind(|| check(&file));
        assert!(checked.is_err(), "{wrong}");
    }
}
