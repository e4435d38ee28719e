use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use futures_lite::future::block_on;
use tenantry::{
    Builder, Email, Error, Finding, FindingKind, ListQuery, Store, TrashQuery, User, UserId, check,
    sqlite,
};

/// The contents of files by their paths. Directories don't count, and a link is where it leads.
pub type Files = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub email: u8,
    /// From the data directory on.
    pub path: String,
    pub is_trashed: bool,
    /// `None` if there is no directory.
    pub files: Option<Files>,
}

/// What can be seen of a store. Users and addresses are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub people: BTreeMap<u8, Person>,
    /// What is in `storage/` and `trash/` and belongs to no user.
    pub loose: Files,
    /// By where it came from.
    pub quarantine: BTreeMap<String, Files>,
}

/// A store as it was found.
#[derive(Debug)]
pub struct Found {
    pub world: World,
    /// Those of a check, but for orphans.
    pub findings: Vec<Finding>,
    pub orphans: Vec<Finding>,
    pub is_upgraded: bool,
}

pub fn address(number: u8) -> String {
    format!("user{number}@example.com")
}

fn number_of(email: &Email) -> u8 {
    let number = email.as_str().strip_prefix("user").and_then(|rest| rest.split('@').next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{} is nobody's", email.as_str()))
}

/// The files that are placed at a path past the store.
pub fn placed(path: &str) -> Files {
    ["own.txt", "deep/er.txt"]
        .map(|file| (file.to_owned(), format!("{path}/{file}, placed")))
        .into()
}

/// Takes the files below a path, which become relative to it.
pub fn take(files: &mut Files, path: &str) -> Files {
    let below = |file: &str| {
        file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let name = |file: &str| file[path.len()..].trim_start_matches('/').to_owned();
    files.extract_if(.., |file, _| below(file)).map(|(file, text)| (name(&file), text)).collect()
}

/// The files below a directory. A file that is there itself has no name.
pub fn files(top: &Path) -> Files {
    let mut files = Files::new();
    if top.is_file() {
        files.insert(String::new(), fs::read_to_string(top).unwrap());
    }
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let text = match fs::read_link(&path) {
                Ok(target) => format!("-> {}", target.display()),
                Err(_) if path.is_dir() => {
                    dirs.push(path);
                    continue;
                }
                Err(_) => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
            };
            files.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), text);
        }
    }
    files
}

/// Copies a directory with everything in it and its modes. Of files with several names it makes
/// several files.
pub fn copy(from: &Path, to: &Path) {
    if let Ok(target) = fs::read_link(from) {
        return std::os::unix::fs::symlink(target, to).unwrap();
    }
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

/// Opens a store, which finishes what a crash left, does something with it, closes it and looks at
/// everything. `number` is that of a user with this id. The error says what is wrong, for whom that
/// matters.
pub fn find(
    opening: Builder,
    data: &Path,
    number: impl Fn(UserId) -> u8,
    work: impl FnOnce(&Store),
) -> Result<Found, String> {
    let said = |what: &str, error: Error| format!("{what}: {error} ({:?})", error.kind());
    let store = block_on(opening.open()).map_err(|error| said("it doesn't open", error))?;
    let is_upgraded = store.upgrade().is_some();
    work(&store);
    let rows = block_on(store.read(|tx| {
        let sql = "SELECT count(*) FROM tenantry_intents";
        let intents: u64 = sqlite::connection(tx).query_row(sql, [], |row| row.get(0))?;
        let users =
            tx.list(&ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() })?.users;
        let trash = tx
            .list_trash(&TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() })?
            .users;
        let users = users.into_iter().map(|user| (user, false));
        let rows: Vec<_> =
            users.chain(trash.into_iter().map(|trashed| (trashed.user, true))).collect();
        Ok::<_, Error>((intents, rows))
    }));
    let (intents, rows) = rows.map_err(|error| said("its rows can't be read", error))?;
    block_on(store.close()).map_err(|error| said("it doesn't close", error))?;
    if intents > 0 {
        return Err("what was under way is not finished".to_owned());
    }
    let world = World::of(data, rows, number)?;
    let report = block_on(check(data)).map_err(|error| said("it can't be checked", error))?;
    let is_orphan = |finding: &Finding| finding.kind == FindingKind::DirectoryOrphaned;
    let (orphans, findings) = report.findings.into_iter().partition(is_orphan);
    Ok(Found { world, findings, orphans, is_upgraded })
}

impl World {
    fn of(
        data: &Path,
        rows: Vec<(User, bool)>,
        number: impl Fn(UserId) -> u8,
    ) -> Result<Self, String> {
        let mut world = Self::default();
        for place in ["storage", "trash"] {
            let found = files(&data.join(place)).into_iter();
            world.loose.extend(found.map(|(file, text)| (format!("{place}/{file}"), text)));
        }
        world.loose.retain(|file, _| !file.starts_with("storage/.tenantry-store"));
        for (User { id, email, storage_path, .. }, is_trashed) in rows {
            let path = format!("storage/{storage_path}");
            let place = if is_trashed { format!("trash/{id}") } else { path.clone() };
            let found = take(&mut world.loose, &place);
            let files = data.join(&place).is_dir().then_some(found);
            let person = Person { email: number_of(&email), path, is_trashed, files };
            if world.people.insert(number(id), person).is_some() {
                return Err(format!("{id} is there twice"));
            }
        }
        for entry in fs::read_dir(data.join("quarantine")).into_iter().flatten() {
            let place = entry.unwrap().path();
            let note = fs::read(place.join("note.json"))
                .map_err(|error| format!("no note in quarantine: {error}"))?;
            let note: serde_json::Value =
                serde_json::from_slice(&note).map_err(|error| format!("the note: {error}"))?;
            let from = note["from"].as_str().unwrap().to_owned();
            if world.quarantine.insert(from, files(&place.join("content"))).is_some() {
                return Err("something is in quarantine twice".to_owned());
            }
        }
        Ok(world)
    }

    /// Everything that files hold, wherever they are.
    pub fn contents(&self) -> Vec<&String> {
        let of_people = self.people.values().filter_map(|person| person.files.as_ref());
        let all = of_people.chain([&self.loose]).chain(self.quarantine.values());
        let mut contents: Vec<_> = all.flat_map(|files| files.values()).collect();
        contents.sort();
        contents
    }
}
