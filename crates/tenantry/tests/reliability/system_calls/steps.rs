//! From system calls to what they did: to which file or directory, by number, whatever it was
//! called at the time.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::trace::{Call, octets};

/// A file or a directory, for as long as the record lasts. 0 is the directory that holds
/// everything.
pub(super) type Object = usize;
pub(super) const TOP: Object = 0;

/// A name in a directory.
pub(super) type Name = (Object, String);

/// One change of the file system, or one wait for the disk.
#[derive(Clone, Debug)]
pub(super) enum Step {
    NewFile {
        object: Object,
        mode: u32,
    },
    NewDir {
        object: Object,
        mode: u32,
    },
    Write {
        file: Object,
        at: u64,
        octets: Arc<Vec<u8>>,
    },
    Truncate {
        file: Object,
        length: u64,
    },
    Mode {
        object: Object,
        mode: u32,
    },
    Link {
        name: Name,
        object: Object,
    },
    Unlink {
        name: Name,
    },
    Rename {
        from: Name,
        to: Name,
        object: Object,
    },
    /// `path` is how it was called then, from the top on.
    Sync {
        object: Object,
        path: PathBuf,
    },
    SyncAll,
    /// The child has answered its next operation.
    Answered,
}

/// What is written where the child says that an operation has returned.
pub(super) const ANSWERED: &str = "answered";

/// The name of the file, beside the top, to which it is written.
pub(super) const MARKS: &str = "marks";

/// An open file: descriptors that were duplicated share the place at which it is.
struct Open {
    object: Option<Object>,
    at: u64,
    appends: bool,
    is_of_marks: bool,
}

enum Node {
    File { content: Vec<u8> },
    Dir { parent: Object, entries: BTreeMap<String, Object> },
}

/// Follows the calls of a process below one directory.
pub(super) struct Follower {
    top: PathBuf,
    nodes: Vec<Node>,
    opens: Vec<Open>,
    descriptors: HashMap<i64, usize>,
    steps: Vec<Step>,
}

impl Follower {
    /// `top` is as it is, on the disk, when the process starts.
    pub(super) fn new(top: &Path) -> Self {
        let mut follower = Self {
            top: top.to_owned(),
            nodes: vec![Node::Dir { parent: TOP, entries: BTreeMap::new() }],
            opens: Vec::new(),
            descriptors: HashMap::new(),
            steps: Vec::new(),
        };
        follower.steps.push(Step::NewDir { object: TOP, mode: 0o700 });
        follower.take_in(top, TOP);
        follower.steps.push(Step::SyncAll);
        follower
    }

    /// Takes in what is in a directory already.
    fn take_in(&mut self, dir: &Path, object: Object) {
        use std::os::unix::fs::PermissionsExt;
        let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            let name = (object, entry.file_name().into_string().unwrap());
            if metadata.is_dir() {
                let made = self.make_dir(name, mode);
                self.take_in(&entry.path(), made);
            } else {
                let file = self.new_file(mode);
                self.link(name, file);
                self.write(file, 0, std::fs::read(entry.path()).unwrap());
            }
        }
    }

    pub(super) fn follow(mut self, calls: &[Call]) -> Vec<Step> {
        for call in calls.iter().filter(|call| call.answer >= 0) {
            self.call(call);
        }
        self.steps
    }

    fn call(&mut self, call: &Call) {
        let args: Vec<&str> = call.args.iter().map(String::as_str).collect();
        match &*call.name {
            "open" => self.open(call.answer, "AT_FDCWD", args[0], args[1], args.get(2).copied()),
            "creat" => {
                self.open(
                    call.answer,
                    "AT_FDCWD",
                    args[0],
                    "O_WRONLY|O_CREAT|O_TRUNC",
                    args.get(1).copied(),
                );
            }
            "openat" => self.open(call.answer, args[0], args[1], args[2], args.get(3).copied()),
            "openat2" => {
                let how = args[2].trim_start_matches('{').trim_end_matches('}');
                let field = |name| how.split(", ").find_map(|field: &str| field.strip_prefix(name));
                self.open(call.answer, args[0], args[1], field("flags=").unwrap(), field("mode="));
            }
            "close" => drop(self.descriptors.remove(&number(args[0]))),
            "dup" | "dup2" | "dup3" => self.duplicate(args[0], call.answer),
            "fcntl" if args[1].starts_with("F_DUPFD") => self.duplicate(args[0], call.answer),
            "fcntl" => {}
            "read" => {
                if let Some(open) = self.open_at(args[0]) {
                    open.at += call.answer as u64;
                }
            }
            "lseek" => {
                if let Some(open) = self.open_at(args[0]) {
                    open.at = call.answer as u64;
                }
            }
            "write" => self.write_on(args[0], &octets(args[1])[..call.answer as usize]),
            "writev" => {
                let all = vector(args[1]);
                self.write_on(args[0], &all[..call.answer as usize]);
            }
            "pwrite64" => {
                if let Some(file) = self.object_at(args[0]) {
                    self.write(
                        file,
                        number(args[3]) as u64,
                        octets(args[1])[..call.answer as usize].to_vec(),
                    );
                }
            }
            "ftruncate" => {
                if let Some(file) = self.object_at(args[0]) {
                    self.truncate(file, number(args[1]) as u64);
                }
            }
            "copy_file_range" => self.copy(args[0], args[1], args[2], args[3], call.answer as u64),
            "sendfile" => self.copy(args[1], args[2], args[0], "NULL", call.answer as u64),
            "fsync" | "fdatasync" => {
                if let Some(object) = self.object_at(args[0]) {
                    let path = self.path_of(object);
                    self.steps.push(Step::Sync { object, path });
                }
            }
            "syncfs" if self.object_at(args[0]).is_some() => self.steps.push(Step::SyncAll),
            "sync" => self.steps.push(Step::SyncAll),
            "mkdir" | "mkdirat" => {
                let (at, path) =
                    if args.len() == 2 { ("AT_FDCWD", args[0]) } else { (args[0], args[1]) };
                if let Some(name) = self.name(at, path) {
                    self.make_dir(name, octal(args[args.len() - 1]));
                }
            }
            "rmdir" | "unlink" => self.unlink("AT_FDCWD", args[0]),
            "unlinkat" => self.unlink(args[0], args[1]),
            "rename" => self.rename("AT_FDCWD", args[0], "AT_FDCWD", args[1]),
            "renameat" | "renameat2" => self.rename(args[0], args[1], args[2], args[3]),
            "link" | "linkat" => {
                let (at, path, new_at, new_path) = if args.len() == 2 {
                    ("AT_FDCWD", args[0], "AT_FDCWD", args[1])
                } else {
                    (args[0], args[1], args[2], args[3])
                };
                if let Some(name) = self.name(new_at, new_path) {
                    let object =
                        self.find(at, path).expect("only what is below the top is linked there");
                    self.link(name, object);
                }
            }
            "chmod" | "fchmodat" | "fchmodat2" => {
                let (at, path, mode) = if args.len() == 2 {
                    ("AT_FDCWD", args[0], args[1])
                } else {
                    (args[0], args[1], args[2])
                };
                if let Some(object) = self.find(at, path) {
                    self.steps.push(Step::Mode { object, mode: octal(mode) });
                }
            }
            "fchmod" => {
                if let Some(object) = self.object_at(args[0]) {
                    self.steps.push(Step::Mode { object, mode: octal(args[1]) });
                }
            }
            "ioctl" => {
                assert!(!args[1].contains("CLONE"), "blocks that files share are not followed")
            }
            "symlink" => assert!(
                self.name("AT_FDCWD", args[1]).is_none(),
                "a link is not followed: {call:?}"
            ),
            "symlinkat" => {
                assert!(self.name(args[1], args[2]).is_none(), "a link is not followed: {call:?}")
            }
            // What nobody has used so far must not be overlooked.
            _ => assert!(
                args.iter().all(|arg| self.object_at(arg).is_none()),
                "it is not followed: {call:.300?}"
            ),
        }
    }

    fn open(&mut self, descriptor: i64, at: &str, path: &str, flags: &str, mode: Option<&str>) {
        let has = |flag: &str| flags.split('|').any(|other| other == flag);
        let mode = mode.map_or(0, octal) & !0o022;
        let path_text = text(path);
        let is_of_marks = Path::new(&path_text) == self.top.with_file_name(MARKS);
        let object = if has("O_TMPFILE") {
            self.find(at, path).is_some().then(|| self.new_file(mode))
        } else if let Some(object) = self.find(at, path) {
            if has("O_TRUNC") {
                self.truncate(object, 0);
            }
            Some(object)
        } else if let (true, Some(name)) = (has("O_CREAT"), self.name(at, path)) {
            let file = self.new_file(mode);
            self.link(name, file);
            Some(file)
        } else {
            assert!(self.name(at, path).is_none(), "it was opened, and isn't there: {path_text}");
            None
        };
        self.descriptors.insert(descriptor, self.opens.len());
        self.opens.push(Open { object, at: 0, appends: has("O_APPEND"), is_of_marks });
    }

    fn duplicate(&mut self, descriptor: &str, new: i64) {
        match self.descriptors.get(&number(descriptor)) {
            Some(open) => drop(self.descriptors.insert(new, *open)),
            None => drop(self.descriptors.remove(&new)),
        }
    }

    fn open_at(&mut self, descriptor: &str) -> Option<&mut Open> {
        let open = *self.descriptors.get(&descriptor.parse().ok()?)?;
        Some(&mut self.opens[open])
    }

    fn object_at(&self, descriptor: &str) -> Option<Object> {
        self.opens[*self.descriptors.get(&descriptor.parse().ok()?)?].object
    }

    /// What is at a path, seen from a descriptor. `None` even if that isn't below the top.
    fn find(&self, at: &str, path: &str) -> Option<Object> {
        let path = text(path);
        // As one who may only name a directory changes its mode.
        if let Some(descriptor) = path.strip_prefix("/proc/self/fd/") {
            return self.object_at(descriptor);
        }
        let (mut here, path) = self.start(at, &path)?;
        for component in path.components() {
            let Node::Dir { parent, entries } = &self.nodes[here] else { return None };
            here = match component {
                Component::CurDir => here,
                Component::ParentDir => *parent,
                Component::Normal(name) => *entries.get(name.to_str()?)?,
                component => panic!("in the middle of a path: {component:?}"),
            };
        }
        Some(here)
    }

    /// Where a path begins that leads below the top, and what follows.
    fn start<'p>(&self, at: &str, path: &'p str) -> Option<(Object, &'p Path)> {
        let path = Path::new(path);
        if path.is_absolute() {
            return Some((TOP, path.strip_prefix(&self.top).ok()?));
        }
        // Nobody here works with the current directory, which is never below the top.
        Some((self.object_at(at)?, path))
    }

    /// The directory in which a path ends, and the last name.
    fn name(&self, at: &str, path: &str) -> Option<Name> {
        let path_text = text(path);
        let (start, path) = self.start(at, &path_text)?;
        let name = path.file_name()?.to_str()?.to_owned();
        let mut here = start;
        for component in path.parent()?.components() {
            let (Node::Dir { entries, .. }, Component::Normal(name)) =
                (&self.nodes[here], component)
            else {
                panic!("a path that isn't followed: {path_text}");
            };
            here = *entries.get(name.to_str()?)?;
        }
        Some((here, name))
    }

    fn entries(&mut self, dir: Object) -> &mut BTreeMap<String, Object> {
        match &mut self.nodes[dir] {
            Node::Dir { entries, .. } => entries,
            Node::File { .. } => panic!("a file has no entries"),
        }
    }

    fn path_of(&self, object: Object) -> PathBuf {
        for (dir, node) in self.nodes.iter().enumerate() {
            if let Node::Dir { entries, .. } = node
                && let Some((name, _)) = entries.iter().find(|(_, other)| **other == object)
            {
                return self.path_of(dir).join(name);
            }
        }
        if object == TOP { PathBuf::new() } else { PathBuf::from("(without a name)") }
    }

    fn new_file(&mut self, mode: u32) -> Object {
        let object = self.nodes.len();
        self.nodes.push(Node::File { content: Vec::new() });
        self.steps.push(Step::NewFile { object, mode });
        object
    }

    fn make_dir(&mut self, name: Name, mode: u32) -> Object {
        let object = self.nodes.len();
        self.nodes.push(Node::Dir { parent: name.0, entries: BTreeMap::new() });
        self.steps.push(Step::NewDir { object, mode: mode & !0o022 });
        self.link(name, object);
        object
    }

    fn link(&mut self, name: Name, object: Object) {
        assert!(
            self.entries(name.0).insert(name.1.clone(), object).is_none(),
            "{name:?} is there already"
        );
        self.steps.push(Step::Link { name, object });
    }

    fn unlink(&mut self, at: &str, path: &str) {
        let Some(name) = self.name(at, path) else { return };
        assert!(
            self.entries(name.0).remove(&name.1).is_some(),
            "{name:?} was removed, and isn't there"
        );
        self.steps.push(Step::Unlink { name });
    }

    fn rename(&mut self, at: &str, path: &str, new_at: &str, new_path: &str) {
        let (from, to) = (self.name(at, path), self.name(new_at, new_path));
        let (Some(from), Some(to)) = (from.clone(), to.clone()) else {
            assert!(from.is_none() && to.is_none(), "across the top: {from:?} to {to:?}");
            return;
        };
        let object = self.entries(from.0).remove(&from.1).expect("what is renamed is there");
        self.entries(to.0).insert(to.1.clone(), object);
        if let Node::Dir { parent, .. } = &mut self.nodes[object] {
            *parent = to.0;
        }
        self.steps.push(Step::Rename { from, to, object });
    }

    fn write_on(&mut self, descriptor: &str, octets: &[u8]) {
        let Some(open) = self.open_at(descriptor) else { return };
        if open.is_of_marks {
            assert_eq!(octets, ANSWERED.as_bytes());
            self.steps.push(Step::Answered);
            return;
        }
        let Some(file) = open.object else { return };
        let (at, appends) = (open.at, open.appends);
        open.at += octets.len() as u64;
        let at = if appends { self.content(file).len() as u64 } else { at };
        self.write(file, at, octets.to_vec());
    }

    fn copy(&mut self, from: &str, from_at: &str, to: &str, to_at: &str, count: u64) {
        let (source, target) = (self.object_at(from), self.object_at(to));
        let Some(target) = target else {
            assert!(source.is_none(), "what is copied out of the top is not followed");
            return;
        };
        assert_eq!((from_at, to_at), ("NULL", "NULL"), "a copy at a place is not followed");
        let source = source.expect("what is copied comes from below the top");
        let start = self.open_at(from).unwrap().at;
        self.open_at(from).unwrap().at += count;
        let octets = self.content(source)[start as usize..(start + count) as usize].to_vec();
        let at = self.open_at(to).unwrap().at;
        self.open_at(to).unwrap().at += count;
        self.write(target, at, octets);
    }

    fn content(&mut self, file: Object) -> &mut Vec<u8> {
        match &mut self.nodes[file] {
            Node::File { content } => content,
            Node::Dir { .. } => panic!("a directory has no content"),
        }
    }

    fn write(&mut self, file: Object, at: u64, octets: Vec<u8>) {
        overwrite(self.content(file), at, &octets);
        self.steps.push(Step::Write { file, at, octets: Arc::new(octets) });
    }

    fn truncate(&mut self, file: Object, length: u64) {
        self.content(file).resize(length as usize, 0);
        self.steps.push(Step::Truncate { file, length });
    }
}

/// Writes into a file's content, which grows as far as is needed.
pub(super) fn overwrite(content: &mut Vec<u8>, at: u64, octets: &[u8]) {
    let (start, end) = (at as usize, at as usize + octets.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(octets);
}

fn text(arg: &str) -> String {
    String::from_utf8(octets(arg)).unwrap()
}

/// What a call that gathers writes: `[{iov_base="..", iov_len=3}, ...]`.
fn vector(arg: &str) -> Vec<u8> {
    let parts = arg.split("iov_base=").skip(1);
    parts.flat_map(|part| octets(part.split(", iov_len").next().unwrap())).collect()
}

fn number(arg: &str) -> i64 {
    arg.parse().unwrap_or_else(|_| panic!("not a number: {arg:.100}"))
}

fn octal(arg: &str) -> u32 {
    u32::from_str_radix(arg, 8).unwrap_or_else(|_| panic!("not a mode: {arg:.100}")) & 0o777
}
