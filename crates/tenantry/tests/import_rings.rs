//! No two files of a crate import each other in a ring: each file can be read knowing only those
//! below it.
//!
//! The test reads the sources of each crate of the workspace. A file imports another if it names an
//! item of that file, by `use` or by a path. Whoever names a re-export imports the file that
//! defines the item; the re-export itself imports nothing. Tests are left out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

type Edges = BTreeMap<(String, String), String>;

#[test]
fn no_files_import_each_other_in_a_ring() {
    let crates =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crates are side by side");
    let mut edges = Edges::new();
    for entry in fs::read_dir(crates).expect("the directory of the crates") {
        let src = entry.expect("an entry").path().join("src");
        let root =
            ["lib.rs", "main.rs"].iter().map(|name| src.join(name)).find(|path| path.exists());
        if let Some(root) = root {
            edges.extend(imports(crates, &root, &|path| fs::read_to_string(path).ok()));
        }
    }
    assert!(edges.len() > 100, "only {} imports were found", edges.len());
    let rings = rings(&edges);
    assert!(rings.is_empty(), "files import each other in a ring:\n{}", rings.join("\n"));
}

#[test]
fn a_ring_is_named() {
    let files = [
        (
            "c/src/lib.rs",
            "mod a; mod b; mod d; pub use a::A; macro_rules! m { () => { $crate::d::f() } }",
        ),
        (
            "c/src/a.rs",
            "use crate::b::{self, B as Other}; pub struct A; fn f() { b::g('\"', \"crate::d::D\") }",
        ),
        (
            "c/src/b.rs",
            "// use crate::d::D;\nmod inner; use super::d; pub struct B; fn g<'a>() { d::f() }",
        ),
        (
            "c/src/b/inner.rs",
            "#[cfg(test)] mod tests { use crate::a::A; } pub(crate) fn h() -> super::B {}",
        ),
        (
            "c/src/d.rs",
            "/* /* */ */ use crate::A; pub fn f() { let _ = r#\"\"crate::b::inner::h\"#; }",
        ),
    ];
    let read = |path: &Path| {
        files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| text.to_string())
    };
    let edges = imports(Path::new(""), Path::new("c/src/lib.rs"), &read);
    let found: Vec<_> = edges.keys().map(|(from, to)| (&from[6..], &to[6..])).collect();
    let expected = [
        ("a.rs", "b.rs"),
        ("b.rs", "d.rs"),
        ("b/inner.rs", "b.rs"),
        ("d.rs", "a.rs"),
        ("lib.rs", "d.rs"),
    ];
    assert_eq!(found, expected);
    let rings = rings(&edges);
    assert_eq!(rings.len(), 1, "{rings:?}");
    for edge in ["a.rs → c/src/b.rs (", "b.rs → c/src/d.rs (d::f)", "d.rs → c/src/a.rs (crate::A)"]
    {
        assert!(rings[0].contains(edge), "{} lacks {edge}", rings[0]);
    }
}

/// Returns which file imports which, with a path by which it does.
fn imports(base: &Path, root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Edges {
    let mut modules =
        vec![Module::new(root.to_owned(), root.parent().unwrap_or(root).to_owned(), None)];
    let text = read(root).unwrap_or_default();
    parse(&mut modules, 0, &tokens(&text), read);
    let mut edges = Edges::new();
    for (index, module) in modules.iter().enumerate() {
        let name = |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
        let is_used = |name: &String| !module.exports.contains(name) || module.words.contains(name);
        let uses = module.uses.iter().filter(|(name, _)| is_used(name)).map(|(_, path)| path);
        for path in uses.chain(&module.paths) {
            if let Some(Target::Item(file)) = resolve(&modules, index, path, 0)
                && file != module.file
            {
                edges.entry((name(&module.file), name(&file))).or_insert_with(|| path.join("::"));
            }
        }
    }
    edges
}

struct Module {
    file: PathBuf,
    /// Where the files of its children are.
    dir: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// What names stand for that it imports.
    uses: BTreeMap<String, Vec<String>>,
    /// Those of the names that it only hands on, unless its words have them as well.
    exports: BTreeSet<String>,
    /// All other paths in it.
    paths: Vec<Vec<String>>,
    /// The first segments of them, and the words that are no paths.
    words: BTreeSet<String>,
}

impl Module {
    fn new(file: PathBuf, dir: PathBuf, parent: Option<usize>) -> Self {
        let (children, uses, exports) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self {
            file,
            dir,
            parent,
            children,
            uses,
            exports,
            paths: Vec::new(),
            words: BTreeSet::new(),
        }
    }
}

enum Target {
    Module(usize),
    Item(PathBuf),
}

/// Returns the module that a path names, or the file in which the item is defined. Paths into other
/// crates have none.
fn resolve(modules: &[Module], from: usize, path: &[String], depth: usize) -> Option<Target> {
    let mut rest = path.iter().map(String::as_str).peekable();
    let mut current = from;
    match *rest.peek()? {
        "crate" => current = 0,
        "self" => {}
        "super" => current = modules[from].parent?,
        first => {
            let module = &modules[from];
            let is_import_of_itself =
                module.uses.get(first).is_some_and(|path| path[..] == [first]);
            if !module.children.contains_key(first)
                && (!module.uses.contains_key(first) || is_import_of_itself)
            {
                return None;
            }
        }
    }
    if matches!(*rest.peek()?, "crate" | "self" | "super") {
        rest.next();
    }
    for name in rest {
        let module = &modules[current];
        if name == "super" {
            current = module.parent?;
        } else if let Some(child) = module.children.get(name) {
            current = *child;
        } else if let Some(import) =
            module.uses.get(name).filter(|import| import[..] != path[..] && depth < 16)
        {
            match resolve(modules, current, import, depth + 1) {
                Some(Target::Module(index)) => current = index,
                Some(item) => return Some(item),
                // A macro of the module, or an item of another crate.
                None if import.len() == 1 => return Some(Target::Item(module.file.clone())),
                None => return None,
            }
        } else {
            return Some(Target::Item(module.file.clone()));
        }
    }
    Some(Target::Module(current))
}

/// Collects the modules and the paths of one module.
fn parse(
    modules: &mut Vec<Module>,
    module: usize,
    tokens: &[String],
    read: &dyn Fn(&Path) -> Option<String>,
) {
    let mut at = 0;
    while at < tokens.len() {
        let token = |ahead: usize| tokens.get(at + ahead).map_or("", String::as_str);
        match token(0) {
            "#" if token(1) == "[" => {
                let end = end_of_group(tokens, at + 1);
                let attribute = &tokens[at + 2..end - 1];
                let has = |word: &str| attribute.iter().any(|token| token == word);
                at = if has("cfg") && has("test") && !has("not") {
                    end_of_item(tokens, end)
                } else {
                    end
                };
            }
            "use" => {
                let end = at
                    + tokens[at..]
                        .iter()
                        .position(|token| token == ";")
                        .unwrap_or(tokens.len() - at);
                let mut names = BTreeMap::new();
                use_tree(&mut names, &mut Vec::new(), &tokens[at + 1..end]);
                // `pub use` or `pub(crate) use`.
                if at > 0 && matches!(tokens[at - 1].as_str(), "pub" | ")") {
                    modules[module].exports.extend(names.keys().cloned());
                }
                modules[module].uses.append(&mut names);
                at = end;
            }
            "mod" if token(2) == ";" || token(2) == "{" => {
                let (name, is_inline) = (token(1).to_owned(), token(2) == "{");
                let dir = modules[module].dir.join(&name);
                let beside = modules[module].dir.join(format!("{name}.rs"));
                let within = dir.join("mod.rs");
                let found = if is_inline {
                    None
                } else {
                    [beside, within].into_iter().find(|path| read(path).is_some())
                };
                let file = found.clone().unwrap_or_else(|| modules[module].file.clone());
                let text = found.and_then(|path| read(&path));
                let child = modules.len();
                modules.push(Module::new(file, dir, Some(module)));
                modules[module].children.insert(name, child);
                let end = if is_inline { end_of_group(tokens, at + 2) } else { at + 3 };
                match text {
                    Some(text) => parse(modules, child, &self::tokens(&text), read),
                    None if is_inline => parse(modules, child, &tokens[at + 3..end - 1], read),
                    None => {}
                }
                at = end;
            }
            word if is_word(word) => {
                modules[module].words.insert(word.to_owned());
                let mut path = vec![word.to_owned()];
                at += 1;
                while at + 1 < tokens.len() && tokens[at] == "::" && is_word(&tokens[at + 1]) {
                    path.push(tokens[at + 1].clone());
                    at += 2;
                }
                if path.len() > 1 {
                    modules[module].paths.push(path);
                }
            }
            _ => at += 1,
        }
    }
}

/// Collects the names that one `use` brings, from the tokens after the prefix.
fn use_tree(
    names: &mut BTreeMap<String, Vec<String>>,
    prefix: &mut Vec<String>,
    tokens: &[String],
) {
    let depth = prefix.len();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => {
                let end = end_of_group(tokens, at);
                let mut start = at + 1;
                let mut level = 0;
                for index in at + 1..end {
                    match tokens[index].as_str() {
                        "{" => level += 1,
                        "}" if index + 1 < end => level -= 1,
                        "," if level == 0 => {
                            use_tree(names, prefix, &tokens[start..index]);
                            start = index + 1;
                        }
                        _ => {}
                    }
                }
                use_tree(names, prefix, &tokens[start..end - 1]);
                prefix.truncate(depth);
                return;
            }
            "self" if !prefix.is_empty() => {}
            "as" => {
                names.insert(tokens.get(at + 1).cloned().unwrap_or_default(), prefix.clone());
                prefix.truncate(depth);
                return;
            }
            "*" => prefix.push("*".to_owned()),
            word if is_word(word) => prefix.push(word.to_owned()),
            _ => {}
        }
        at += 1;
    }
    if !tokens.is_empty() {
        let name = prefix.last().cloned().unwrap_or_default();
        names.insert(name, prefix.clone());
    }
    prefix.truncate(depth);
}

/// Returns where the group ends that begins with the delimiter at `at`.
fn end_of_group(tokens: &[String], at: usize) -> usize {
    let mut level = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "[" | "{" => level += 1,
            ")" | "]" | "}" => level -= 1,
            _ => {}
        }
        if level == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Returns where the item, statement or field ends that begins at `at`.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    let mut is_block = false;
    let mut is_line = false;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "use" | "const" | "static" | "let" if !is_block => is_line = true,
            "fn" | "struct" | "enum" | "trait" | "impl" | "mod" => is_block = true,
            ";" => return at + 1,
            "," if !is_block && !is_line => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !is_line => return end_of_group(tokens, at),
            "(" | "[" | "{" => {
                at = end_of_group(tokens, at);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits Rust into words, `::` and single characters, without comments, texts, characters and
/// lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is = |at: usize, wanted: char| chars.get(at) == Some(&wanted);
    let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
    while at < chars.len() {
        match chars[at] {
            '/' if is(at + 1, '/') => at += chars[at..].iter().take_while(|c| **c != '\n').count(),
            '/' if is(at + 1, '*') => at = end_of_comment(&chars, at),
            '"' => at = end_of_text(&chars, at),
            '\'' if is(at + 1, '\\') => {
                at += 3 + chars[at + 3..].iter().take_while(|c| **c != '\'').count() + 1
            }
            '\'' if is(at + 2, '\'') => at += 3,
            '\'' => at += 1 + chars[at + 1..].iter().take_while(|c| is_part(c)).count(),
            ':' if is(at + 1, ':') => {
                tokens.push("::".to_owned());
                at += 2;
            }
            c if is_part(&c) => {
                let word: String = chars[at..].iter().take_while(|c| is_part(c)).collect();
                at += word.chars().count();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && is(at + hashes, '"') {
                    at = end_of_raw_text(&chars, at + hashes, hashes);
                } else {
                    tokens.push(word);
                }
            }
            c if c.is_whitespace() => at += 1,
            c => {
                tokens.push(c.to_string());
                at += 1;
            }
        }
    }
    tokens
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut level = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => level += 1,
            ('*', '/') => level -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if level == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_text(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw_text(chars: &[char], quote: usize, hashes: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len()
        && !(chars[at] == '"' && chars[at + 1..].iter().take(hashes).all(|c| *c == '#'))
    {
        at += 1;
    }
    at + 1 + hashes
}

/// Returns the shortest ring that leads over this import.
fn ring_through(edges: &Edges, edge: &(String, String)) -> Option<Vec<String>> {
    edges.get(edge)?;
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([edge.1.as_str()]);
    while let Some(file) = queue.pop_front() {
        if file == edge.0 {
            let mut ring = vec![file.to_owned()];
            let mut at = file;
            while at != edge.1 {
                at = before[at];
                ring.push(at.to_owned());
            }
            ring.reverse();
            return Some(ring);
        }
        for (_, to) in edges.keys().filter(|(from, _)| from == file) {
            if to != &edge.1 && !before.contains_key(to.as_str()) {
                before.insert(to, file);
                queue.push_back(to);
            }
        }
    }
    None
}

/// Describes a shortest ring for each import that is part of one, each ring once.
fn rings(edges: &Edges) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut rings = Vec::new();
    for edge in edges.keys() {
        let Some(ring) = ring_through(edges, edge) else { continue };
        if !seen.insert(ring.iter().cloned().collect::<BTreeSet<_>>()) {
            continue;
        }
        let steps = ring.iter().zip(ring.iter().cycle().skip(1));
        let steps = steps
            .map(|(from, to)| format!("{from} → {to} ({})", edges[&(from.clone(), to.clone())]));
        rings.push(steps.collect::<Vec<_>>().join(", "));
    }
    rings
}
