//! Every method that an embedder calls on a store shows how in its documentation.

use std::fs;
use std::path::Path;

/// Returns the public functions of a source whose documentation has no example.
fn without_example(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut has_example = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("///") {
            has_example |= line == "/// # Examples";
        } else if let Some(function) =
            line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub async fn "))
        {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            found.extend((!has_example).then_some(name));
            has_example = false;
        } else if !line.starts_with('#') {
            has_example = false;
        }
    }
    found
}

#[test]
fn every_method_of_the_contract_has_an_example() {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut functions = 0;
    for file in fs::read_dir(store).expect("the sources of the contract") {
        let path = file.expect("a source").path();
        let source = fs::read_to_string(&path).expect("a source");
        functions +=
            source.matches("    pub fn ").count() + source.matches("    pub async fn ").count();
        assert_eq!(without_example(&source), [""; 0], "{}", path.display());
    }
    assert!(functions > 30, "only {functions} functions");
}

#[test]
fn a_method_without_an_example_is_found() {
    let source = "/// A.\n///\n/// # Examples\n#[must_use]\npub fn a() {}\n\n/// B.\npub async fn b<T>() {}\n";
    assert_eq!(without_example(source), ["b"]);
}
