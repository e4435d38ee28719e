//! The engine is named in one place: nothing outside of `src/sqlite/` knows which one is in use, so
//! that another can take its place.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that only the engine's own module may have: its crate, its module, its files.
const WORDS: [&str; 3] = ["rusqlite", "crate::sqlite", "tenantry.db"];
/// Where the engine is chosen.
const CHOICE: &str = "engine/mod.rs";

/// Returns the files below a directory.
#[allow(clippy::expect_used, reason = "a test reads its own sources")]
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .expect("a directory of sources")
        .map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Returns the words of the engine's in a source, with the lines that have them. Comments and tests
/// don't count.
fn found(text: &str) -> Vec<(&'static str, String)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| {
        WORDS
            .iter()
            .filter(|word| line.contains(**word))
            .map(|word| (*word, line.trim().to_owned()))
    })
    .collect()
}

#[test]
fn nothing_outside_of_its_module_names_the_engine() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut names) = (0, Vec::new());
    for path in sources(&top) {
        let name = path.strip_prefix(&top).expect("a source").display().to_string();
        if name.ends_with(".rs")
            && !name.starts_with("sqlite/")
            && !name.starts_with("lifecycle_tests/")
        {
            files += 1;
            let text = fs::read_to_string(&path).expect("a source");
            names.extend(found(&text).into_iter().map(|(word, line)| (name.clone(), word, line)));
        }
    }
    assert!(files > 50, "only {files} files");
    let allowed =
        (CHOICE.to_owned(), "crate::sqlite", "pub(crate) use crate::sqlite::{".to_owned());
    assert_eq!(names, [allowed]);
}

#[test]
fn an_engine_knows_neither_the_store_nor_its_builder() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for dir in ["sqlite", "ops", "engine", "data_dir", "domain"] {
        for path in sources(&top.join(dir)) {
            let is_test =
                path.starts_with(top.join("sqlite/tests")) || path.ends_with("sqlite/tests.rs");
            if is_test || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let imports =
                code.split("\nuse crate::").skip(1).filter_map(|rest| rest.split(';').next());
            for import in imports {
                let words = import.split(|char: char| !char.is_alphanumeric() && char != '_');
                for word in words {
                    assert!(
                        !matches!(word, "Store" | "Builder" | "store"),
                        "{}: {import}",
                        path.display()
                    );
                }
            }
        }
    }
}

/// The engine hands in what they need to know of it.
#[test]
fn the_layers_below_the_engine_do_not_import_it() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for dir in ["storage", "data_dir", "domain"] {
        for path in sources(&top.join(dir)) {
            let text = fs::read_to_string(&path).expect("a source");
            for layer in ["engine", "sqlite", "ops", "store"] {
                assert!(
                    !text.contains(&format!("use crate::{layer}::")),
                    "{} imports {layer}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_name_is_found_in_code_and_not_in_a_comment() {
    assert_eq!(found("use rusqlite::Row; // of rusqlite\n/// In `tenantry.db`.").len(), 1);
    assert_eq!(
        found(
            "let path = dir.join(\"tenantry.db\");\n#[cfg(test)]\nmod tests { use rusqlite::Row; }"
        )
        .len(),
        1
    );
}
