use std::fs;
use std::path::{Path, PathBuf};

/// The targets that have a corpus.
pub const TARGETS: [&str; 6] = ["address", "archive", "csv", "cursor", "jsonl", "path"];

/// An input with the name that says what it is.
pub struct Input {
    pub name: String,
    pub octets: Vec<u8>,
}

/// The file with the corpus of a target. Each line is an input: its name, a space, and its bytes
/// as Rust writes them in a string of bytes, where `\n`, `\r`, `\t` and `\\` are these characters
/// and `\x80` is a byte by its number. Lines are in the order of their names.
pub fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
        .with_extension("txt")
}

/// Reads the corpus of a target.
pub fn read(target: &str) -> Vec<Input> {
    let text = fs::read_to_string(file(target)).unwrap();
    let input = |line: &str| {
        let (name, escaped) = line.split_once(' ').unwrap_or((line, ""));
        Input { name: name.to_owned(), octets: unescaped(escaped) }
    };
    text.lines().map(input).collect()
}

/// Writes the corpus of a target.
pub fn write(target: &str, mut inputs: Vec<Input>) {
    inputs.sort_by(|one, other| one.name.cmp(&other.name));
    let line = |input: &Input| {
        assert!(
            !input.name.contains([' ', '\n']),
            "{:?} can't be the name of an input",
            input.name
        );
        format!("{} {}", input.name, escaped(&input.octets)).trim_end_matches(' ').to_owned() + "\n"
    };
    fs::write(file(target), inputs.iter().map(line).collect::<String>()).unwrap();
}

/// As `escape_ascii` has it, without the escapes that nothing needs here, and with one for a space
/// at the end.
fn escaped(octets: &[u8]) -> String {
    let escaped = octets.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"");
    match escaped.strip_suffix(' ') {
        Some(rest) => format!("{rest}\\x20"),
        None => escaped,
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'\\' => match rest.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'x') => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                Some(b'\\') => b'\\',
                other => panic!("{:?} is no escape, in {text:.100}", other.map(char::from)),
            },
            octet => octet,
        });
    }
    octets
}
