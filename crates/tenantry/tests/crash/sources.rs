//! What the source says about the points.

use std::collections::BTreeSet;
use std::path::Path;

use crate::points::POINTS;

/// Calls that change directories, make files or commit.
const CHANGES: &[&str] = &[
    "mkdirat(",
    "mknodat(",
    "renameat",
    "unlinkat(",
    "fs::linkat(",
    "fs::symlinkat(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::write(",
    "fs::copy(",
    "fs::set_permissions(",
    ".make_file(",
    ".make_private_dir(",
    "make_dir_like_parent(",
    "OFlags::CREATE",
    ".create(true)",
    ".create_new(",
    "chmod(",
    "chmodat(",
    "chownat(",
    "fsync(",
    "fdatasync(",
    "sync_all(",
    "sync_data(",
    "conn.commit(",
    "tx.commit(",
    ".vacuum(",
];

/// Functions with such a call and no point before it.
const WITHOUT_POINT: &[(&str, &str)] = &[
    // What it removes has a name that nobody looks for, before and after.
    ("sqlite/open/create.rs", "remove_database"),
    // An empty file, which stays for good.
    ("data_dir/lock.rs", "open_lock"),
    // What a creation that fails takes back: an empty file, and empty directories.
    ("sqlite/open/mod.rs", "open_writer"),
    ("data_dir/lock.rs", "remove_if_new"),
    // What calls it has passed a point; what a crash leaves without rights or an owner the next
    // attempt finishes.
    ("storage/ownership.rs", "change_mode"),
    ("storage/ownership.rs", "give"),
    ("storage/ownership.rs", "give_file"),
    ("storage/ownership.rs", "make_file"),
    ("storage/ownership.rs", "make_private_dir_in"),
    // A step by itself, of a repair that is run again.
    ("storage/inspect.rs", "give_to_owner"),
    // Has a temporary name until it is whole.
    ("sqlite/open/write_image.rs", "write_image_of"),
    // Copies of databases in a directory that nobody else looks into.
    ("archive/writer.rs", "copy_database"),
    ("archive/writer.rs", "take_database"),
    // Leftovers of killed processes.
    ("archive/temporary.rs", "clear"),
    // What is restored lies below a hidden name until it is whole.
    ("archive/backup.rs", "extract"),
    ("storage/target.rs", "make_stage"),
    // A backup has a temporary name until it is whole.
    ("archive/writer.rs", "finish"),
];

/// The functions of a file as pairs of name and text, without the tests.
fn functions(text: &str) -> Vec<(String, String)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut functions: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let is_head = |words: &str| {
            words
                .split(' ')
                .all(|word| matches!(word, "" | "async" | "const") || word.starts_with("pub"))
        };
        match line.trim_start().split_once("fn ").filter(|(words, _)| is_head(words)) {
            Some((_, rest)) => {
                let name = rest.split(['(', '<']).next().unwrap();
                functions.push((name.to_owned(), String::new()));
            }
            None => {
                functions.last_mut().into_iter().for_each(|(_, body)| *body += &format!("{line}\n"))
            }
        }
    }
    functions
}

/// The library's source files by their paths.
fn sources() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut dirs) = (Vec::new(), vec![top.clone()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".rs") && !name.starts_with("sqlite/tests") {
                sources.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    sources
}

#[test]
fn every_call_that_changes_a_directory_or_commits_comes_after_a_point_in_its_function() {
    let (mut calls, mut without) = (0, BTreeSet::new());
    for (file, text) in sources() {
        for (name, body) in functions(&text) {
            let changes = CHANGES.iter().flat_map(|call| body.match_indices(call));
            // `readlinkat` only reads.
            for (at, _) in changes.filter(|(at, _)| !body[..*at].ends_with("read")) {
                calls += 1;
                if !body[..at].contains("reach(") {
                    without.insert((file.clone(), name.clone()));
                }
            }
        }
    }
    let allowed = WITHOUT_POINT.iter().map(|(file, name)| ((*file).to_owned(), (*name).to_owned()));
    assert_eq!(without, allowed.collect());
    assert!(calls > POINTS.len() / 2, "only {calls} calls are found");
}

#[test]
fn the_points_in_the_source_are_those_in_the_table() {
    let table: BTreeSet<&str> = POINTS.iter().map(|(point, _)| *point).collect();
    let operations: BTreeSet<&str> =
        table.iter().map(|point| point.split(':').next().unwrap()).collect();
    let sources: Vec<_> = sources().into_iter().filter(|(file, _)| file.contains('/')).collect();
    let strings = sources.iter().flat_map(|(_, text)| text.split('"').skip(1).step_by(2));
    let points = strings.filter(|text| {
        let is_plain =
            text.chars().all(|char| char.is_ascii_lowercase() || matches!(char, ' ' | ':' | '\''));
        is_plain
            && text.split_once(": ").is_some_and(|(operation, _)| operations.contains(operation))
    });
    assert_eq!(points.collect::<BTreeSet<_>>(), table);
}
