use std::path::Path;
use std::process::Command;

use super::{Session, missing};

/// The calls that give a file content.
const WRITING: [&str; 9] = [
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "copy_file_range",
    "sendfile",
    "splice",
    "ftruncate",
];
const SYNCING: [&str; 2] = ["fsync", "fdatasync"];
const NAMING: [&str; 5] = ["rename", "renameat", "renameat2", "link", "linkat"];
const OPENING: [&str; 3] = ["open", "openat", "openat2"];

/// A system call that succeeded.
struct Call<'t> {
    name: &'t str,
    line: &'t str,
}

impl<'t> Call<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (name, _) = line.split_once('(')?;
        let (_, result) = line.rsplit_once(" = ")?;
        (!result.starts_with('-')).then_some(Self { name, line })
    }

    /// The file behind the descriptor that the call begins with.
    fn file(&self) -> Option<&'t str> {
        self.files().next()
    }

    /// The files behind the descriptors of the call.
    fn files(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.line.split('<').skip(1).filter_map(|rest| Some(rest.split_once('>')?.0))
    }

    /// The paths that the call was given.
    fn paths(&self) -> impl Iterator<Item = &'t Path> + use<'t> {
        self.line.split('"').skip(1).step_by(2).map(Path::new)
    }
}

/// Runs the command, and returns the fault in the order of the writes, the fsync and the rename of
/// a file.
fn faults(session: &Session, arguments: &[&str], target: &str) -> Option<String> {
    let traces = tempfile::tempdir().unwrap();
    let mut command = session.in_dir("strace");
    let calls = [&WRITING[..], &SYNCING, &NAMING, &OPENING].concat().join(",");
    // A file for each thread, in which no call is cut in two by those of others. No content, which
    // could look like a path.
    command.args(["-ff", "-qq", "-y", "-s", "0", "-e", &format!("trace={calls}"), "-o"]);
    command.arg(traces.path().join("thread")).arg(env!("CARGO_BIN_EXE_tenantry")).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.code().is_some(), "{arguments:?}: {output:?}");
    assert!(session.path(target).exists(), "{arguments:?}: {output:?}");
    let traces = std::fs::read_dir(traces.path())
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()));
    let traces: Vec<String> = traces.map(Result::unwrap).collect();
    let named = |calls: &[Call<'_>]| calls.iter().rposition(|call| gives_name(call, target));
    let (calls, named) = traces
        .iter()
        .map(|trace| trace.lines().filter_map(Call::parse).collect::<Vec<_>>())
        .find_map(|calls| named(&calls).map(|index| (calls, index)))
        .or_else(|| panic!("{arguments:?}: {target} never gets its name"))?;
    let dir = session.dir.path().canonicalize().unwrap();
    wrong_order(&calls, named, &dir, target)
}

fn gives_name(call: &Call<'_>, target: &str) -> bool {
    NAMING.contains(&call.name) && call.paths().last().is_some_and(|path| path.ends_with(target))
}

fn wrong_order(calls: &[Call<'_>], named: usize, dir: &Path, target: &str) -> Option<String> {
    let is_in_place = |call: &&Call<'_>| {
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.line.contains(flag));
        OPENING.contains(&call.name) && writes && call.paths().any(|path| path.ends_with(target))
    };
    if let Some(call) = calls.iter().find(is_in_place) {
        return Some(format!("{target} is written in place: {}", call.line));
    }
    // The first name of the file, which may be a temporary one.
    let temporary = calls[named].paths().next().unwrap();
    let is_link =
        |call: &Call<'_>| call.name.starts_with("link") && call.paths().last() == Some(temporary);
    let first_named = calls[..named].iter().position(is_link).unwrap_or(named);
    let source = calls[first_named].paths().next().unwrap();
    let file = match source.to_str().unwrap().strip_prefix("/proc/self/fd/") {
        Some(number) => {
            let has_number = |call: &&Call<'_>| call.line.contains(&format!("({number}<"));
            calls[..first_named].iter().rev().find(has_number).unwrap().file().unwrap().to_owned()
        }
        None => dir.join(source.file_name().unwrap()).to_str().unwrap().to_owned(),
    };
    let is_of_file = |call: &Call<'_>| call.files().any(|of_call| of_call == file);
    let written =
        calls.iter().rposition(|call| WRITING.contains(&call.name) && is_of_file(call)).unwrap();
    let is_sync = |call: &Call<'_>| SYNCING.contains(&call.name) && is_of_file(call);
    if !calls[..first_named].iter().skip(written).any(is_sync) {
        return Some(format!("{target} has its name before its content is on the disk"));
    }
    let dir = dir.to_str().unwrap();
    if !calls[named..].iter().any(|call| call.name == "fsync" && call.file() == Some(dir)) {
        return Some(format!("the name of {target} isn't synced to the disk"));
    }
    None
}

/// A power cut after the command had said that it was done could leave a file that was empty, or
/// the earlier one cut off.
#[test]
fn a_file_is_fsynced_before_its_rename_and_its_directory_before_the_exit() {
    if Command::new("strace").arg("-V").output().is_err() {
        return missing("the order of system calls is seen by `strace`");
    }
    let session = Session::new();
    let user = "ada@example.com";
    session.output(&["user", "create", user]);
    let dir = session.dir.path().join(session.output(&["storage", "path", user]).trim_end());
    std::fs::write(dir.join("notes.txt"), "hello").unwrap();
    session.write("users.csv", "email\nbob@example.com\nno address\n");
    session.write("there.csv", "an earlier export");
    let found: Vec<String> = [
        (&["export", "users.jsonl"][..], "users.jsonl"),
        (&["export", "there.csv"], "there.csv"),
        (
            &["import", "users.csv", "--on-conflict", "skip", "--rejects", "rejects.csv"],
            "rejects.csv",
        ),
        (&["user", "export-archive", user, "ada.tar.zst"], "ada.tar.zst"),
        (&["backup", "create", "all.tar.zst"], "all.tar.zst"),
    ]
    .into_iter()
    .filter_map(|(arguments, target)| faults(&session, arguments, target))
    .collect();
    assert_eq!(found, Vec::<String>::new());
}
