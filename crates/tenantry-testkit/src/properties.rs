//! What must hold for any input at all, beyond that nothing panics and nothing hangs. Each answers
//! whether the input was accepted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use futures_lite::future::block_on;
use tenantry::{
    BackupOptions, Cursor, Email, Error, ErrorKind, ListQuery, NewUser, Order, StoragePath, Store,
    User, UserId, check, restore_backup, verify_backup,
};

use crate::support::in_memory;

/// An error says what kind it is, and what a terminal can show in one line.
fn assert_told(error: &Error, kinds: &[ErrorKind]) -> bool {
    assert!(kinds.contains(&error.kind()), "{error:?}");
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    false
}

/// An address that is accepted is kept as it is, in full, and its key is one that doesn't change
/// any more.
pub fn address(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let email = match text.parse::<Email>() {
        Ok(email) => email,
        Err(error) => return assert_told(&error, &[ErrorKind::InvalidEmail]),
    };
    let address = email.as_str();
    let (local, domain) = address.split_once('@').unwrap();
    assert!(!local.is_empty() && local.len() <= Email::MAX_LOCAL_BYTES);
    assert!(!domain.is_empty() && !domain.contains('@') && address.len() <= Email::MAX_BYTES);
    for text in [address, email.key()] {
        assert!(
            !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\u{feff}'),
            "{text:?}"
        );
    }
    assert_eq!(email.to_string(), address);
    assert_eq!(format!("{email:?}"), "Email(…)");
    if text.is_ascii() {
        assert_eq!(address, text);
        assert_eq!(email.key(), address.to_ascii_lowercase());
        assert_eq!(text.to_ascii_uppercase().parse::<Email>().unwrap().key(), email.key());
    }

    let again: Email = address.parse().unwrap();
    assert!(again == email && again.key() == email.key(), "it is another when it is read again");
    let in_json: Email = serde_json::from_str(&serde_json::to_string(&email).unwrap()).unwrap();
    assert!(in_json == email);
    // Folding may make a local part longer than an address may have it, and puts a dot above the i
    // of İ, which nobody may write.
    match email.key().parse::<Email>() {
        Ok(key) => assert_eq!(key.key(), email.key()),
        Err(error) => {
            let (local, _) = email.key().split_once('@').unwrap();
            let is_long =
                local.len() > Email::MAX_LOCAL_BYTES || email.key().len() > Email::MAX_BYTES;
            assert!(
                is_long || local.contains('\u{307}'),
                "the key {:?} is no address: {error}",
                email.key()
            );
        }
    }
    true
}

/// What a transaction came to that was rolled back.
enum Attempt {
    Created(Box<[User]>),
    Refused(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Creates these users one after the other in one transaction, and leaves nothing of them.
pub fn try_to_create(store: &Store, new: Vec<NewUser>) -> Result<Box<[User]>, Error> {
    let attempt = block_on(store.write(move |tx| -> Result<Infallible, Attempt> {
        Err(Attempt::Created(new.iter().map(|new| tx.create(new)).collect::<Result<_, _>>()?))
    }));
    match attempt.unwrap_err() {
        Attempt::Created(users) => Ok(users),
        Attempt::Refused(error) => Err(error),
    }
}

/// A path that is accepted stays below the directory that it is relative to, and nobody gets one
/// that is reserved, or one within somebody else's.
pub fn path(store: &Store, input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let path = match text.parse::<StoragePath>() {
        Ok(path) => path,
        Err(error) => return assert_told(&error, &[ErrorKind::InvalidPath]),
    };
    assert!(path.as_str() == text && path.to_string() == text, "it isn't kept as it was given");
    assert!(text.len() <= StoragePath::MAX_BYTES && !text.contains(char::is_control));
    assert!(text.split('/').all(|name| name.len() <= StoragePath::MAX_SEGMENT_BYTES));
    let as_path = Path::new(path.as_str());
    assert!(
        as_path.components().all(|component| matches!(component, Component::Normal(_))),
        "{text:?}"
    );
    assert_eq!(as_path.components().collect::<PathBuf>().as_os_str(), as_path.as_os_str());
    assert_eq!(as_path.components().count(), text.split('/').count());
    let in_json: StoragePath =
        serde_json::from_str(&serde_json::to_string(&path).unwrap()).unwrap();
    assert_eq!(in_json, path);

    let user = |name: &str, path| NewUser {
        storage_path: Some(path),
        ..NewUser::new(format!("{name}@example.com").parse().unwrap())
    };
    let first = text.split('/').next().unwrap().to_ascii_lowercase();
    let is_shard = first.len() == 2 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
    match try_to_create(store, vec![user("one", path.clone())]) {
        Ok(users) => {
            assert!(!is_shard && !first.starts_with(".tenantry"), "{text:?} is reserved");
            assert_eq!(users[0].storage_path, path);
        }
        Err(error) => {
            assert!(is_shard || first.starts_with(".tenantry"), "{error:?}");
            return assert_told(&error, &[ErrorKind::InvalidPath]);
        }
    }
    let above = text.rsplit_once('/').map(|(above, _)| above.to_owned());
    for other in above.into_iter().chain([text.to_string(), format!("{text}/x")]) {
        let Ok(other) = other.parse::<StoragePath>() else { continue };
        let error =
            try_to_create(store, vec![user("one", path.clone()), user("two", other)]).unwrap_err();
        assert_told(&error, &[ErrorKind::PathTaken]);
    }
    true
}

/// A cursor that is accepted is the one that was given out, and a page can begin there.
pub fn cursor(store: &Store, input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    match text.parse::<Cursor>() {
        Ok(cursor) => {
            assert_eq!(cursor.to_string(), text);
            let order = if text.starts_with("2-") { Order::LastLogin } else { Order::Creation };
            let query = ListQuery { cursor: Some(cursor), order, ..ListQuery::default() };
            let page = block_on(store.list(&query)).unwrap();
            assert!(page.users.is_empty() && page.next_cursor.is_none());
            true
        }
        Err(error) => assert_told(&error, &[ErrorKind::InvalidCursor]),
    }
}

/// A backup to begin with, of a store with users who have directories.
pub struct Archives {
    /// The archive as it was written, and what is in it: the tar archive and the image of the
    /// database.
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    image: Vec<u8>,
    /// The first line of its manifest.
    manifest: serde_json::Value,
    /// What the files of the users hold when it is restored.
    contents: Vec<Vec<u8>>,
}

impl Archives {
    pub fn new() -> Self {
        let dir = in_memory();
        block_on(async {
            let store = Store::open(dir.path().join("data")).await.unwrap();
            for (address, number, path) in [
                ("ada", 1, None),
                ("bob", 2, Some("customers/bob")),
                ("eve", 3, None),
                ("none", 4, None),
            ] {
                let new = NewUser {
                    id: Some(id(number)),
                    storage_path: path.map(|path| path.parse().unwrap()),
                    created_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                    ..NewUser::new(format!("{address}@example.com").parse().unwrap())
                };
                store.create(new).await.unwrap();
                if number < 4 {
                    let files = store.directory(id(number)).await.unwrap();
                    files.create_dir("papers").unwrap();
                    files.write("papers/one.txt", "one").unwrap();
                }
            }
            store.delete(id(3)).await.unwrap();
            let file = dir.path().join("archive");
            store.create_backup(file, BackupOptions::default(), |_| {}).await.unwrap();
            store.close().await.unwrap();
        });
        let packed = fs::read(dir.path().join("archive")).unwrap();
        let unpacked = zstd::decode_all(&packed[..]).unwrap();
        let (mut manifest, mut image) = (Vec::new(), Vec::new());
        let mut archive = tar::Archive::new(&unpacked[..]);
        let mut entries = archive.entries().unwrap();
        entries.next().unwrap().unwrap().read_to_end(&mut manifest).unwrap();
        entries.next().unwrap().unwrap().read_to_end(&mut image).unwrap();
        let manifest =
            serde_json::Deserializer::from_slice(&manifest).into_iter().next().unwrap().unwrap();
        block_on(restore_backup(dir.path().join("archive"), dir.path().join("into"), |_| {}))
            .unwrap();
        let contents = contents(&tree(dir.path()));
        Self { packed, unpacked, image, manifest, contents }
    }

    /// The archive that an input represents. After its first letter there are
    ///
    /// - `r`: bytes that take the place of the archive from some place on: an edit of the
    ///   compressed bytes;
    /// - `t`: edits of the tar archive, which is compressed then;
    /// - `d`: edits of the database, with a manifest that announces just what comes of them;
    /// - `e`: lines with a tar type, a path, a tab and the content of entries that follow the
    ///   database, and a manifest that announces all of them;
    ///
    /// and anything else is the archive itself.
    fn archive(&self, input: &[u8], outside: &Path) -> Vec<u8> {
        let pack = |tar: &[u8]| zstd::encode_all(tar, 1).unwrap();
        match input.split_first() {
            Some((b'r', edits)) => edited(&self.packed, edits),
            Some((b't', edits)) => pack(&edited(&self.unpacked, edits)),
            Some((b'd', edits)) => {
                pack(&self.with_entries(&edited(&self.image, edits), &[], outside))
            }
            Some((b'e', entries)) => pack(&self.with_entries(&self.image, entries, outside)),
            _ => input.to_vec(),
        }
    }

    fn with_entries(&self, image: &[u8], entries: &[u8], outside: &Path) -> Vec<u8> {
        let mut lines = String::new();
        let mut body = Vec::new();
        let (mut files, mut bytes) = (0_u64, 0_u64);
        let mut add = |kind: u8, path: &[u8], content: &[u8]| {
            let hex: String = path.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut line = serde_json::json!({ "path_hex": hex, "mode": 0o4777 });
            if let Ok(text) = std::str::from_utf8(path) {
                line = serde_json::json!({ "path": text, "mode": 0o4777 });
            }
            if kind != b'5' {
                line["size"] = content.len().into();
                line["blake3"] = blake3::hash(content).to_hex().as_str().into();
                files += 1;
                bytes += content.len() as u64;
            }
            lines.push_str(&format!("{line}\n"));
            if path.len() > 100 {
                body.extend(entry(b'L', b"././@LongLink", path));
            }
            body.extend(entry(kind, &path[..path.len().min(100)], content));
        };
        add(b'0', b"tenantry.db", image);
        for line in entries.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (path, content) = match line.iter().position(|byte| *byte == b'\t') {
                Some(tab) => (&line[1..tab.max(1)], &line[tab + 1..]),
                None => (&line[1..], &[][..]),
            };
            let path = replaced(path, b"$OUT", outside.as_os_str().as_encoded_bytes());
            add(line[0], &path, content);
        }
        let mut manifest = self.manifest.clone();
        manifest["files"] = files.into();
        manifest["bytes"] = bytes.into();
        let manifest = format!("{manifest}\n{lines}");
        [&entry(b'0', b"manifest.jsonl", manifest.as_bytes())[..], &body, &[0; 1024]].concat()
    }
}

impl Default for Archives {
    fn default() -> Self {
        Self::new()
    }
}

fn id(number: u64) -> UserId {
    format!("3fa2b1c4-0000-4000-8000-{number:012x}").parse().unwrap()
}

/// An entry of a tar archive, whatever the path is.
fn entry(kind: u8, path: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o4777);
    header.set_size(content.len() as u64);
    header.set_mtime(u64::MAX >> 31);
    let _ = header.set_link_name_literal(&content[..content.len().min(100)]);
    header.set_cksum();
    let padding = (512 - content.len() % 512) % 512;
    [&header.as_bytes()[..], content, &vec![0; padding]].concat()
}

fn replaced(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    match text.windows(what.len()).position(|window| window == what) {
        Some(at) => [&text[..at], by, &text[at + what.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// Bytes with edits made to them: each has a letter for what to do, the place in three bytes and
/// a count, and what is written or looked for, if it is.
fn edited(octets: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    while let [what, a, b, c, count, rest @ ..] = edits {
        let place = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let at = place % (octets.len() + 1);
        let count = usize::from(*count);
        let written = &rest[..count.min(rest.len())];
        edits = rest;
        let end = |octets: &Vec<u8>, length: usize| (at + length).min(octets.len());
        match what {
            b'w' | b'i' => {
                let until = if *what == b'w' { end(&octets, written.len()) } else { at };
                octets.splice(at..until, written.iter().copied());
                edits = &rest[written.len()..];
            }
            b'f' => {
                let found =
                    octets.windows(written.len().max(1)).rposition(|window| window == written);
                found.into_iter().for_each(|at| octets[at] ^= 1);
                edits = &rest[written.len()..];
            }
            b'x' => drop(octets.drain(at..end(&octets, count))),
            b'z' => {
                let until = end(&octets, count * 512);
                octets[at..until].fill(0);
            }
            b'c' => {
                let copied = octets[at..end(&octets, count * 512)].to_vec();
                octets.splice(at..at, copied);
            }
            b't' => octets.truncate(at),
            _ => {}
        }
    }
    octets
}

/// An archive that is accepted is restored to a store that is sound, within its directory, and for
/// its owner alone but for what is in the users' directories; of one that isn't nothing is left.
/// Either way nothing outside is touched.
pub fn archive(archives: &Archives, input: &[u8]) -> bool {
    let sandbox = in_memory();
    let (outside, into, file) = (
        sandbox.path().join("outside"),
        sandbox.path().join("into"),
        sandbox.path().join("archive"),
    );
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "as it was").unwrap();
    fs::write(&file, archives.archive(input, &outside)).unwrap();
    let before = tree(sandbox.path());

    let verified = block_on(verify_backup(&file, |_| {}));
    let restored = block_on(restore_backup(&file, &into, |_| {}));
    let mut after = tree(sandbox.path());
    if let Ok(restored) = &restored {
        let in_files = contents(&after);
        let inside: Vec<_> =
            after.keys().filter(|path| path.starts_with("into")).cloned().collect();
        for path in inside {
            let (mode, content) = after.remove(&path).unwrap();
            let is_private = mode & 0o7077 == 0 && content.is_some();
            // What a user's files were allowed comes back, and so do links; nothing runs as
            // another.
            let is_of_user = (path.starts_with("into/storage") || path.starts_with("into/trash"))
                && mode & 0o4000 == 0;
            assert!(is_private || is_of_user, "{path:?} has the mode {mode:o} or is a link");
        }
        assert_eq!(block_on(check(&into)).unwrap(), restored.report);
        if let Some(b'r' | b't') = input.first() {
            assert!(in_files == archives.contents, "what was restored isn't what was backed up");
        }
    }
    assert!(before == after, "something outside was touched: {:?}", after.keys());

    match (verified, restored) {
        (Ok(verified), Ok(restored)) => {
            assert_eq!(verified.manifest, restored.manifest);
            if verified.findings.is_empty() && verified.missing_directories == 0 {
                assert_eq!(restored.report.findings, []);
            }
            true
        }
        // What names and lengths there can be is the affair of the file system that it is restored
        // to.
        (Ok(_), Err(error)) if is_long_name(&error) => false,
        (Ok(verified), Err(error)) => {
            assert!(
                !verified.findings.is_empty(),
                "what was verified can't be restored: {error:?}"
            );
            assert_told(&error, &[ErrorKind::Corrupt, ErrorKind::Incompatible])
        }
        (Err(error), Ok(_)) => panic!("it was restored though it is damaged: {error:?}"),
        (Err(one), Err(other)) => {
            assert_told(&one, &[ErrorKind::Corrupt, ErrorKind::Incompatible]);
            !is_long_name(&other)
                && assert_told(&other, &[ErrorKind::Corrupt, ErrorKind::Incompatible])
        }
    }
}

fn is_long_name(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| {
        matches!(source.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::FileTooLarge)
    })
}

/// The contents of the files of the users in a store that was restored, whatever their names are.
fn contents(tree: &BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>) -> Vec<Vec<u8>> {
    let of_users =
        |path: &PathBuf| path.starts_with("into/storage") || path.starts_with("into/trash");
    let files = tree.iter().filter(|(path, _)| of_users(path));
    let mut contents: Vec<_> = files.filter_map(|(_, (_, content))| content.clone()).collect();
    contents.sort();
    contents
}

/// What there is: the mode of each, and the content of a file; `None` for a link or anything else.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(above) = dirs.pop() {
        for entry in fs::read_dir(&above).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = match () {
                () if kind.is_file() => Some(fs::read(&path).unwrap()),
                () if kind.is_dir() => Some(Vec::new()),
                () => None,
            };
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), (mode, content));
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}
