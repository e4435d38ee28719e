use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the documents for readers, which are in these directories.
fn documents() -> Vec<PathBuf> {
    let files = [".", "docs", "bench", "fuzz"]
        .map(|dir| std::fs::read_dir(root().join(dir)).unwrap())
        .into_iter()
        .flatten();
    let paths = files.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Returns all Rust files below a directory, with their content.
fn sources(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found
                .push((path.to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Returns what a document names in backticks that exists nowhere in the sources: files ending in
/// `.rs`, and functions, modules and suites of tests, which have an underscore or a path.
fn stale_names(document: &str, sources: &[(String, String)]) -> BTreeSet<String> {
    let code = Regex::new("`([^`\n]+)`").unwrap();
    let item = Regex::new("^[a-z0-9_]+(::[a-z0-9_]+)*$").unwrap();
    let defined = Regex::new(r"\b(?:fn|mod) ([a-z0-9_]+)").unwrap();
    let defined: BTreeSet<&str> = sources
        .iter()
        .flat_map(|(_, text)| {
            defined.captures_iter(text).map(|found| found.get(1).unwrap().as_str())
        })
        .collect();
    // A suite of tests is a directory, or a file, without `mod`.
    let is_suite = |part: &str| {
        let places = [format!("/tests/{part}/"), format!("/tests/{part}.rs")];
        sources.iter().any(|(path, _)| places.iter().any(|place| path.contains(place)))
    };
    let mut stale = BTreeSet::new();
    for name in code.captures_iter(document).map(|found| found.get(1).unwrap().as_str()) {
        let exists = if name.ends_with(".rs") {
            sources.iter().any(|(path, _)| path.ends_with(&format!("/{name}")))
        } else if item.is_match(name) && name.contains(['_', ':']) {
            name.split("::").all(|part| defined.contains(part) || is_suite(part))
        } else {
            true
        };
        if !exists {
            stale.insert(name.to_owned());
        }
    }
    stale
}

/// Returns the links of a document that lead to no file, or to no heading of a Markdown file.
fn dead_links(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let is_dead = |target: &str| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file =
            if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
        match anchor {
            "" => !file.exists(),
            _ => !std::fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor)),
        }
    };
    let targets = link.captures_iter(&text).map(|found| found.get(1).unwrap().as_str());
    targets.filter(|target| !target.contains("://") && is_dead(target)).map(str::to_owned).collect()
}

/// Returns the anchors that a page of GitHub has for the headings of a text.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_function_and_file_that_a_document_names_exists() {
    let sources = sources(&root().join("crates"));
    for document in ["docs/reliability.md", "CONTRIBUTING.md"] {
        let stale = stale_names(&std::fs::read_to_string(root().join(document)).unwrap(), &sources);
        assert!(stale.is_empty(), "{document} names what isn't in the sources: {stale:?}");
    }
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading() {
    for path in documents() {
        let dead = dead_links(&path);
        assert!(dead.is_empty(), "{}: {dead:?}", path.display());
    }
}

#[test]
fn a_stale_name_and_a_dead_link_are_noticed() {
    let sources = [(
        "src/power.rs".to_owned(),
        "mod power_cut {\n    fn a_cut_loses_nothing() {} }".to_owned(),
    )];
    assert!(
        stale_names("`power.rs`, `power_cut::a_cut_loses_nothing`, `kill -9`", &sources).is_empty()
    );
    assert_eq!(stale_names("`cut.rs`, `power_cut::no_such_test`", &sources).len(), 2);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.md");
    std::fs::write(
        &path,
        "# Two words!\n[a](#two-words) [b](a.md) [c](b.md) [d](a.md#three) [e](https://e.example)",
    )
    .unwrap();
    assert_eq!(dead_links(&path), ["b.md", "a.md#three"]);
}
