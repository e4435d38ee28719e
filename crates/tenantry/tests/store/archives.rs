//! Archives that are taken apart and put together otherwise, and what comes out of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tar::{EntryType, Header};
use tenantry::{ErrorKind, Store, UserId};

use crate::support::block_on;

/// The names in a directory.
pub(crate) fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub(crate) fn names_are(dir: &Path, expected: &[&str]) {
    assert_eq!(names(dir), expected.iter().map(|name| (*name).to_owned()).collect());
}

/// The directory of a user, for file calls with which an application is not content.
pub(crate) fn dir_of(store: &Store, id: UserId) -> PathBuf {
    block_on(store.directory_path(id)).unwrap()
}

/// Something in a user's directory: a directory, or a file with its content and the time of its
/// last change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) content: Option<(Vec<u8>, i64)>,
    pub(crate) mode: u32,
}

/// What lies in a directory and below it.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, FileState> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, stat) = (entry.path(), entry.metadata().unwrap());
        let mode = stat.mode() & 0o7777;
        let mut content = None;
        if stat.is_dir() {
            found.extend(
                tree(&path)
                    .into_iter()
                    .map(|(inner, met)| (Path::new(&entry.file_name()).join(inner), met)),
            );
        } else {
            content = Some((fs::read(&path).unwrap(), stat.mtime()));
        }
        found.insert(entry.file_name().into(), FileState { content, mode });
    }
    found
}

pub(crate) fn set_time(path: &Path, unix_s: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes that don't compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
    noise
}

/// An archive that is taken apart, to be put together otherwise.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) manifest: Value,
    /// The lines of the manifest, one for each of the entries unless somebody forges them.
    pub(crate) lines: Vec<Value>,
    pub(crate) entries: Vec<Forgery>,
    /// Instead of what the fields above come to.
    pub(crate) manifest_octets: Option<Vec<u8>>,
    pub(crate) manifest_name: &'static str,
    /// After the end of the tar archive, and after the end of the compressed one.
    pub(crate) after_tar: Vec<u8>,
    pub(crate) after_all: Vec<u8>,
    /// Instead of a manifest that comes first.
    pub(crate) manifest_is_last: bool,
}

#[derive(Clone)]
pub(crate) struct Forgery {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: EntryType,
    /// If it isn't that of the content.
    pub(crate) size: Option<u64>,
    pub(crate) mode: u32,
    pub(crate) content: Vec<u8>,
    /// Where a link leads.
    pub(crate) target: Vec<u8>,
    pub(crate) modified_at: u64,
}

/// When everything was modified, if nothing else is said.
const MODIFIED_AT: u64 = 1_700_000_000;

impl Forged {
    pub(crate) fn of(file: &Path) -> Self {
        let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(file).unwrap()).unwrap());
        let mut entries: Vec<Forgery> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                Forgery {
                    name: entry.path_bytes().into_owned(),
                    kind,
                    size: None,
                    mode,
                    content,
                    target,
                    modified_at: MODIFIED_AT,
                }
            })
            .collect();
        let manifest = String::from_utf8(entries.remove(0).content).unwrap();
        let mut lines: Vec<Value> =
            manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self {
            manifest: lines.remove(0),
            lines,
            entries,
            manifest_octets: None,
            manifest_name: "manifest.jsonl",
            after_tar: Vec::new(),
            after_all: Vec::new(),
            manifest_is_last: false,
        }
    }

    /// The place of the entry whose name ends so.
    pub(crate) fn at(&self, suffix: &str) -> usize {
        self.entries.iter().position(|entry| entry.name.ends_with(suffix.as_bytes())).unwrap()
    }

    /// The directory of the user who isn't in the trash.
    pub(crate) fn of_user(&self) -> String {
        let line = self.lines.iter().find(|line| line.get("size").is_none()).unwrap();
        line["path"].as_str().unwrap().to_owned()
    }

    /// Puts an entry at a place, announced as it is.
    pub(crate) fn insert(&mut self, at: usize, path: &str, content: Option<&[u8]>) {
        let kind = if content.is_some() { EntryType::Regular } else { EntryType::Directory };
        let mut line = json!({ "path": path, "mode": 0o777 });
        if let Some(content) = content {
            line["size"] = content.len().into();
            line["blake3"] = blake3::hash(content).to_hex().to_string().into();
            self.count(1, content.len());
        }
        self.lines.insert(at, line);
        let content = content.unwrap_or_default().to_owned();
        let file = Forgery::file(path, content);
        self.entries.insert(at, Forgery { kind, mode: 0o777, ..file });
    }

    /// Adds what is neither a file nor a directory, announced as it is.
    pub(crate) fn push_special(&mut self, path: &str, kind: EntryType, target: &str) {
        let name = match kind {
            EntryType::Symlink => "symlink",
            EntryType::Link => "hard_link",
            _ => "pipe",
        };
        let mut line = json!({ "path": path, "mode": 0o777, "kind": name });
        if !target.is_empty() {
            line["target"] = target.into();
        }
        self.lines.push(line);
        self.entries.push(Forgery {
            kind,
            target: target.into(),
            ..Forgery::file(path, Vec::new())
        });
    }

    /// Adds a sparse file of which the archive holds a map and data, announced as it is.
    pub(crate) fn push_sparse(&mut self, path: &str, length: u64, map: &str, data: &[u8]) {
        let mut content = map.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        content.extend_from_slice(data);
        self.lines.push(json!({
            "path": path, "mode": 0o600, "size": length, "stored": content.len(),
            "blake3": blake3::hash(&content).to_hex().to_string(),
        }));
        self.count(1, usize::try_from(length).unwrap());
        let length = length.to_string();
        let fields = [("major", "1"), ("minor", "0"), ("name", path), ("realsize", &length)];
        let records: String = fields
            .iter()
            .map(|(key, value)| pax_record(&format!("GNU.sparse.{key}"), value))
            .collect();
        self.entries.push(Forgery::pax(records.as_bytes()));
        let (above, name) = path.rsplit_once('/').unwrap();
        self.entries.push(Forgery::file(&format!("{above}/GNUSparseFile.0/{name}"), content));
    }

    pub(crate) fn push(&mut self, path: &str, content: Option<&[u8]>) {
        self.insert(self.entries.len(), path, content);
    }

    /// Has the first line announce more.
    pub(crate) fn count(&mut self, files: u64, bytes: usize) {
        self.manifest["files"] = (self.manifest["files"].as_u64().unwrap() + files).into();
        self.manifest["bytes"] = (self.manifest["bytes"].as_u64().unwrap() + bytes as u64).into();
    }

    /// Gives a file other content, announced as it is.
    pub(crate) fn replace(&mut self, at: usize, content: Vec<u8>) {
        let old = std::mem::replace(&mut self.entries[at].content, content);
        let content = &self.entries[at].content;
        self.lines[at]["size"] = content.len().into();
        self.lines[at]["blake3"] = blake3::hash(content).to_hex().to_string().into();
        let bytes =
            self.manifest["bytes"].as_u64().unwrap() - old.len() as u64 + content.len() as u64;
        self.manifest["bytes"] = bytes.into();
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        self.manifest_octets.clone().unwrap_or_else(|| {
            let lines = std::iter::once(&self.manifest).chain(&self.lines);
            lines.map(|line| format!("{line}\n")).collect::<String>().into_bytes()
        })
    }

    pub(crate) fn write(&self, file: &Path) {
        let mut output = zstd::Encoder::new(File::create(file).unwrap(), 1).unwrap();
        output.include_checksum(true).unwrap();
        let manifest = Forgery::file(self.manifest_name, self.manifest());
        let (first, last) =
            if self.manifest_is_last { (None, Some(&manifest)) } else { (Some(&manifest), None) };
        for entry in first.into_iter().chain(&self.entries).chain(last) {
            entry.write(&mut output);
        }
        output.write_all(&[0; 1024]).unwrap();
        output.write_all(&self.after_tar).unwrap();
        output.finish().unwrap().write_all(&self.after_all).unwrap();
    }
}

impl Forgery {
    pub(crate) fn file(name: &str, content: Vec<u8>) -> Self {
        let (kind, target) = (EntryType::Regular, Vec::new());
        Self {
            name: name.into(),
            kind,
            size: None,
            mode: 0o600,
            content,
            target,
            modified_at: MODIFIED_AT,
        }
    }

    pub(crate) fn pax(records: &[u8]) -> Self {
        Self { kind: EntryType::XHeader, ..Self::file("pax", records.to_owned()) }
    }

    pub(crate) fn long_name(name: &[u8]) -> Self {
        let content = [name, b"\0"].concat();
        Self { kind: EntryType::GNULongName, mode: 0, ..Self::file("././@LongLink", content) }
    }

    pub(crate) fn write(&self, output: &mut impl Write) {
        if self.name.len() > 100 {
            Self::long_name(&self.name).write(output);
        }
        let length = self.size.unwrap_or(self.content.len() as u64);
        let Octets(mut header) = header(&self.name, self.kind, length, self.mode);
        header.set_mtime(self.modified_at);
        let target = self.target.len().min(100);
        header.as_old_mut().linkname[..target].copy_from_slice(&self.target[..target]);
        header.set_cksum();
        Octets(header).write(output);
        output.write_all(&self.content).unwrap();
        output
            .write_all(&vec![0; self.content.len().next_multiple_of(512) - self.content.len()])
            .unwrap();
    }
}

pub(crate) struct Octets(Header);

impl Octets {
    pub(crate) fn write(&self, output: &mut impl Write) {
        output.write_all(self.0.as_bytes()).unwrap();
    }
}

/// A header of whatever it is told to be.
pub(crate) fn header(name: &[u8], kind: EntryType, size: u64, mode: u32) -> Octets {
    let mut header = Header::new_gnu();
    let length = name.len().min(100);
    header.as_old_mut().name[..length].copy_from_slice(&name[..length]);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(MODIFIED_AT);
    header.set_cksum();
    Octets(header)
}

/// A record of a PAX header, whose length includes its own digits.
pub(crate) fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
    format!("{length} {key}={value}\n")
}

pub(crate) fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Incompatible)
}

/// Changes of an honest archive, each with what it is.
#[derive(Default)]
pub(crate) struct Forgeries(pub(crate) Vec<(String, Change)>);

pub(crate) type Change = Box<dyn Fn(&mut Forged)>;

impl Forgeries {
    pub(crate) fn add(&mut self, what: impl Into<String>, change: impl Fn(&mut Forged) + 'static) {
        self.0.push((what.into(), Box::new(change)));
    }

    /// A file and a directory more, at each of these paths.
    pub(crate) fn add_at(&mut self, paths: &[&'static str]) {
        for path in paths.iter().copied() {
            for content in [Some(&b"content"[..]), None] {
                let what = if content.is_some() { "file" } else { "directory" };
                self.add(format!("the {what} {path:?}"), move |x| x.push(path, content));
            }
        }
    }
}

/// What is no archive of either kind, made of one of a user who has the files `a.txt`, `sub/b.txt`
/// and one of a long name.
pub(crate) fn forgeries() -> Forgeries {
    let mut forgeries = Forgeries::default();
    // The manifest.
    forgeries.add("a manifest of another name", |x| x.manifest_name = "manifest.json");
    forgeries.add("a manifest at the end", |x| x.manifest_is_last = true);
    for octets in ["", "\n", "{}\n", "[]\n", "Dear diary,\n", "\0", "{\"format\":1"] {
        forgeries.add(format!("the manifest {octets:?}"), move |x| {
            x.manifest_octets = Some(octets.into())
        });
    }
    forgeries.add("a manifest that ends within a line", |x| {
        let mut octets = x.manifest();
        octets.truncate(octets.len() - 20);
        x.manifest_octets = Some(octets);
    });
    forgeries
        .add("a line that is too long", |x| x.lines[1]["comment"] = "x".repeat(1 << 20).into());
    forgeries.add("a line that is too long by nothing but spaces", |x| {
        x.manifest_octets = Some([x.manifest(), vec![b' '; 1 << 20]].concat());
    });
    for format in [json!(0), json!(3), json!(u32::MAX), json!(-1), json!("1"), json!(null)] {
        forgeries
            .add(format!("the format {format}"), move |x| x.manifest["format"] = format.clone());
    }
    for field in ["files", "bytes"] {
        forgeries.add(format!("another number of {field}"), move |x| {
            x.manifest[field] = (x.manifest[field].as_u64().unwrap() + 1).into();
        });
    }
    for name in ["..", ".", "/x", "./x", "../x", "sub/../x", "x/", "x\0y"] {
        for content in [Some(&b"content"[..]), None] {
            let what = if content.is_some() { "file" } else { "directory" };
            forgeries.add(format!("the {what} {name:?} of a user"), move |x| {
                x.push(&format!("{}/{name}", x.of_user()), content);
            });
        }
    }
    forgeries.add("a path of 4,001 bytes", |x| {
        let path = format!("{}/{}", x.of_user(), "x/".repeat(2_500));
        x.push(&path[..4_001], None);
    });
    forgeries.add("a path in both notations", |x| x.lines[1]["path_hex"] = "61".into());
    for hex in ["6", "6g", "ÿ", "+1"] {
        forgeries.add(format!("the hexadecimal path {hex:?}"), move |x| {
            x.lines[1].as_object_mut().unwrap().remove("path");
            x.lines[1]["path_hex"] = hex.into();
        });
    }
    // What is there twice, or is two things.
    for name in ["a.txt", "sub", "sub/b.txt"] {
        forgeries.add(format!("{name} twice"), move |x| {
            let (entry, line) = (x.entries[x.at(name)].clone(), x.lines[x.at(name)].clone());
            if entry.kind == EntryType::Regular {
                x.count(1, entry.content.len());
            }
            x.entries.push(entry);
            x.lines.push(line);
        });
    }
    forgeries.add("a file where a directory is", |x| {
        x.push(&format!("{}/sub", x.of_user()), Some(b"x"))
    });
    forgeries
        .add("a directory where a file is", |x| x.push(&format!("{}/a.txt", x.of_user()), None));
    forgeries
        .add("a file beneath a file", |x| x.push(&format!("{}/a.txt/x", x.of_user()), Some(b"x")));
    forgeries
        .add("a directory beneath a file", |x| x.push(&format!("{}/a.txt/x", x.of_user()), None));
    forgeries.add("a file beneath nothing", |x| {
        x.push(&format!("{}/nowhere/x", x.of_user()), Some(b"x"))
    });
    // The entries.
    for (what, kind) in [
        ("a link", EntryType::Symlink),
        ("a hard link", EntryType::Link),
        ("a character device", EntryType::Char),
        ("a block device", EntryType::Block),
        ("a pipe", EntryType::Fifo),
        ("a sparse file", EntryType::GNUSparse),
        ("a contiguous file", EntryType::Continuous),
        ("a PAX header", EntryType::XHeader),
        ("a global PAX header", EntryType::XGlobalHeader),
        ("a long link name", EntryType::GNULongLink),
        ("a directory", EntryType::Directory),
        ("an unknown thing", EntryType::new(b'?')),
    ] {
        forgeries.add(format!("{what} instead of a file"), move |x| {
            let at = x.at("/a.txt");
            x.entries[at].kind = kind;
        });
        if kind != EntryType::Directory {
            forgeries.add(format!("{what} instead of a directory"), move |x| {
                let at = x.at("/sub");
                x.entries[at].kind = kind;
            });
            forgeries.add(format!("{what} before a file"), move |x| {
                let at = x.at("/a.txt");
                let entry =
                    Forgery { kind, content: b"../../../x".into(), ..x.entries[at].clone() };
                x.entries.insert(at, entry);
            });
        }
    }
    for (key, value) in [
        ("path", "../../x"),
        ("linkpath", "/etc/passwd"),
        ("size", "1"),
        ("uid", "0"),
        ("mtime", "x"),
        ("SCHILY.xattr.security.capability", "x"),
        ("SCHILY.xattr.trusted.x", "x"),
        ("SCHILY.xattr.user.a\0b", "x"),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.name", "../../x"),
    ] {
        forgeries.add(format!("a PAX header with {key}"), move |x| {
            let at = x.at("/a.txt");
            x.entries.insert(at, Forgery::pax(pax_record(key, value).as_bytes()));
        });
    }
    forgeries.add("two PAX headers", |x| {
        let at = x.at("/a.txt");
        (0..2)
            .for_each(|_| x.entries.insert(at, Forgery::pax(pax_record("mtime", "1").as_bytes())));
    });
    forgeries.add("a PAX header in an archive of the first format", |x| {
        x.manifest["format"] = 1.into();
        let at = x.at("/a.txt");
        x.entries.insert(at, Forgery::pax(pax_record("mtime", "1").as_bytes()));
    });
    add_special(&mut forgeries);
    add_sparse(&mut forgeries);
    forgeries.add("a PAX header that gives a file another name", |x| {
        let at = x.at("/a.txt");
        let record = b"17 path=../../x\n\n".to_vec();
        x.entries.insert(at, Forgery { kind: EntryType::XHeader, ..Forgery::file("pax", record) });
    });
    forgeries.add("two long names", |x| {
        let at = x.at(&"l".repeat(200));
        let name = Forgery::long_name(&x.entries[at].name);
        x.entries.insert(at, name);
    });
    forgeries.add("a file instead of a directory", |x| {
        let at = x.at("/sub");
        x.entries[at].kind = EntryType::Regular;
    });
    forgeries.add("another name", |x| {
        let at = x.at("/a.txt");
        *x.entries[at].name.last_mut().unwrap() = b'!';
    });
    forgeries.add("another long name", |x| {
        let at = x.at(&"l".repeat(200));
        *x.entries[at].name.last_mut().unwrap() = b'!';
    });
    forgeries.add("entries in another order", |x| {
        let last = x.entries.len() - 1;
        x.entries.swap(last, last - 1);
    });
    forgeries.add("an entry more than announced", |x| {
        let at = x.at("/a.txt");
        x.entries.push(Forgery { name: b"storage/more".into(), ..x.entries[at].clone() });
    });
    forgeries.add("an empty entry more than announced", |x| {
        x.entries.push(Forgery::file("storage/more", Vec::new()));
    });
    forgeries.add("an entry that isn't announced, in between", |x| {
        let at = x.at("/a.txt");
        x.entries.insert(at, Forgery { name: b"storage/more".into(), ..x.entries[at].clone() });
    });
    forgeries.add("an entry less than announced", |x| drop(x.entries.pop()));
    forgeries.add("no entry at all", |x| x.entries.clear());
    forgeries.add("another size", |x| {
        let at = x.at("/a.txt");
        x.lines[at]["size"] = (x.entries[at].content.len() + 1).into();
        x.count(0, 1);
    });
    forgeries.add("another content", |x| {
        let at = x.at("/a.txt");
        x.entries[at].content[0] ^= 1;
    });
    for hash in ["", "00", "x"] {
        forgeries.add(format!("the hash {hash:?}"), move |x| {
            let at = x.at("/a.txt");
            x.lines[at]["blake3"] = hash.into();
        });
    }
    for size in [1 << 40, u64::MAX, u64::MAX - 4_095, i64::MAX as u64] {
        forgeries.add(format!("the size {size}"), move |x| {
            let at = x.at("/a.txt");
            x.lines[at]["size"] = size.into();
            x.entries[at].size = Some(size);
        });
    }
    forgeries.add("something after the end of the archive", |x| x.after_tar = vec![1; 512]);
    forgeries.add("a second archive after the end", |x| {
        x.after_tar = vec![0; 1024];
        header(b"storage/x", EntryType::Regular, 0, 0o600).write(&mut x.after_tar);
    });
    forgeries
        .add("something after the end of the compression", |x| x.after_all = b"garbage".into());
    forgeries
}

/// Links and pipes, of which an archive can hold some.
fn add_special(forgeries: &mut Forgeries) {
    // Nothing is written through a link, whether it leads to a directory of the same user or
    // elsewhere.
    for target in ["sub", "/etc", "..", "../../.."] {
        for content in [Some(&b"content"[..]), None] {
            forgeries.add(format!("something beneath a link to {target}"), move |x| {
                let link = format!("{}/link", x.of_user());
                x.push_special(&link, EntryType::Symlink, target);
                x.push(&format!("{link}/x"), content);
            });
        }
        forgeries.add(format!("a link beneath a link to {target}"), move |x| {
            let link = format!("{}/link", x.of_user());
            x.push_special(&link, EntryType::Symlink, target);
            x.push_special(&format!("{link}/x"), EntryType::Symlink, "y");
        });
        forgeries.add(format!("a file at the place of a link to {target}"), move |x| {
            let link = format!("{}/link", x.of_user());
            x.push_special(&link, EntryType::Symlink, target);
            x.push(&link, Some(b"content"));
        });
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo] {
        let target = if kind == EntryType::Symlink { "/etc" } else { "a.txt" };
        for name in ["..", "/x", "../x", "sub/../x", "nowhere/x", "a.txt/x", "a.txt", "sub"] {
            forgeries.add(format!("{kind:?} at {name:?}"), move |x| {
                let user = x.of_user();
                let target = if kind == EntryType::Link {
                    format!("{user}/{target}")
                } else {
                    target.to_owned()
                };
                let target = if kind == EntryType::Fifo { "" } else { &target };
                x.push_special(&format!("{user}/{name}"), kind, target);
            });
        }
        forgeries.add(format!("{kind:?} in an archive of the first format"), move |x| {
            let user = x.of_user();
            x.manifest["format"] = 1.into();
            x.push_special(&format!("{user}/x"), kind, &format!("{user}/a.txt"));
        });
        forgeries.add(format!("{kind:?} that is announced as something else"), move |x| {
            let user = x.of_user();
            x.push_special(&format!("{user}/x"), kind, &format!("{user}/a.txt"));
            let other = if kind == EntryType::Link { "symlink" } else { "hard_link" };
            x.lines.last_mut().unwrap()["kind"] = other.into();
        });
        forgeries.add(format!("{kind:?} that has content"), move |x| {
            let user = x.of_user();
            x.push_special(&format!("{user}/x"), kind, &format!("{user}/a.txt"));
            x.entries.last_mut().unwrap().content = b"x".into();
        });
        forgeries.add(format!("{kind:?} with another target than announced"), move |x| {
            let user = x.of_user();
            x.push_special(&format!("{user}/x"), kind, &format!("{user}/a.txt"));
            x.lines.last_mut().unwrap()["target"] = format!("{user}/sub/b.txt").into();
        });
    }
    for target in ["", "x\0y"] {
        forgeries.add(format!("a link to {target:?}"), move |x| {
            x.push_special(&format!("{}/x", x.of_user()), EntryType::Symlink, "a.txt");
            x.lines.last_mut().unwrap()["target"] = target.into();
            x.entries.last_mut().unwrap().target = target.into();
        });
    }
    forgeries.add("an unknown kind of thing", |x| {
        x.push_special(&format!("{}/x", x.of_user()), EntryType::Fifo, "");
        x.lines.last_mut().unwrap()["kind"] = "socket".into();
    });
    for target in ["sub", "x", "later", "../a.txt", "sub/../a.txt", "/etc/passwd", "link"] {
        forgeries.add(format!("a hard link to {target:?}"), move |x| {
            let user = x.of_user();
            x.push_special(&format!("{user}/link"), EntryType::Symlink, "/etc/passwd");
            let target = if target.starts_with('/') {
                target.to_owned()
            } else {
                format!("{user}/{target}")
            };
            x.push_special(&format!("{user}/x"), EntryType::Link, &target);
            x.push(&format!("{user}/later"), Some(b"later"));
        });
    }
    forgeries.add("a hard link to the manifest", |x| {
        x.push_special(&format!("{}/x", x.of_user()), EntryType::Link, "manifest.jsonl");
    });
    forgeries.add("a hard link without a target", |x| {
        x.push_special(&format!("{}/x", x.of_user()), EntryType::Link, "");
    });
}

/// Files with holes, whose map anybody may have drawn.
fn add_sparse(forgeries: &mut Forgeries) {
    for (map, data) in [
        ("", ""),
        ("0\n", ""),
        ("1\n0\n5\n", "12345"),
        ("1\n0\n5\n", "1234"),
        ("2\n0\n5\n100\n0\n", "1234"),
        ("2\n0\n5\n100\n0\n", "123456"),
        ("2\n0\n5\n101\n0\n", "12345"),
        ("2\n0\n5\n4\n96\n", "12345"),
        ("2\n50\n5\n0\n5\n", "1234512345"),
        ("1\n18446744073709551615\n5\n", "12345"),
        ("1\n95\n18446744073709551615\n", "12345"),
        ("2\n-5\n5\n100\n0\n", "12345"),
        ("3\n0\n5\n100\n0\n", "12345"),
        ("999999999\n0\n5\n100\n0\n", "12345"),
        ("2\n0\n5\n100\n0\n1", "12345"),
        ("Dear diary,\n", "12345"),
    ] {
        forgeries.add(format!("a sparse file with the map {map:?} and {data:?}"), move |x| {
            x.push_sparse(&format!("{}/sparse", x.of_user()), 100, map, data.as_bytes());
        });
    }
    let good = |x: &mut Forged| {
        x.push_sparse(&format!("{}/sparse", x.of_user()), 100, "2\n0\n5\n100\n0\n", b"12345");
        x.entries.len() - 2
    };
    forgeries.add("a sparse file in an archive of the first format", move |x| {
        good(x);
        x.manifest["format"] = 1.into();
    });
    forgeries.add("a sparse file that isn't called one", move |x| {
        let pax = good(x);
        x.entries.remove(pax);
    });
    forgeries.add("a sparse file that isn't announced as one", move |x| {
        good(x);
        x.lines.last_mut().unwrap().as_object_mut().unwrap().remove("stored");
    });
    for (from, to) in
        [("realsize=100", "realsize=101"), ("major=1", "major=0"), ("minor=0", "minor=1")]
    {
        forgeries.add(format!("a sparse file with {to}"), move |x| {
            let pax = good(x);
            let records = String::from_utf8(x.entries[pax].content.clone()).unwrap();
            assert!(records.contains(from));
            x.entries[pax].content = records.replace(from, to).into();
        });
    }
    forgeries.add("a sparse file of another name", move |x| {
        let pax = good(x);
        let records = String::from_utf8(x.entries[pax].content.clone()).unwrap();
        x.entries[pax].content = records.replace("/sparse", "/evil!!").into();
    });
    forgeries.add("a sparse file of another content", move |x| {
        good(x);
        *x.entries.last_mut().unwrap().content.last_mut().unwrap() ^= 1;
    });
}
