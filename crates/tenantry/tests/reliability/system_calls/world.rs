//! What is done to a store, what it should hold then, and what it does hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tenantry::{
    BackupOptions, Durability, NewUser, Purge, RepairOptions, Result, Store, Timestamp, UserId,
    repair, restore_backup, sqlite, verify_backup,
};
use tenantry_testkit::way::{self, Way};
use tenantry_testkit::world::{self, Found, Person, World, address, placed, take};

use super::steps::{ANSWERED, MARKS};
use crate::process;
use crate::support::{TestClock, block_on, email, numbered_id};

/// Where the store is, below the top. Nothing of it is there at first but what a scenario prepares.
pub(super) const DATA: &str = "srv/app/data";
/// Where the backups go.
pub(super) const ARCHIVES: &str = "srv/archives";
/// The top, in the directory of a child.
pub(super) const TOP: &str = "top";
const ORDERS: &str = "orders";

/// An operation. Users are numbered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Op {
    /// Creates the store if there is none, and upgrades it if it is older.
    Open,
    /// With `Durability::Normal`: what has returned may be lost.
    OpenNormal,
    Close,
    Create {
        user: u8,
        path: Option<String>,
    },
    /// Makes the user's directory.
    Storage {
        user: u8,
    },
    /// Past the store: a file in the user's directory, made to last with the directories above it.
    Write {
        user: u8,
        file: String,
    },
    Delete {
        user: u8,
    },
    Restore {
        user: u8,
    },
    Purge {
        user: u8,
    },
    PurgeAll,
    /// Past the store: a directory with files below `storage/`. The files and what is in it is made
    /// to last, the way to it only if `is_certain`.
    Place {
        path: String,
        is_certain: bool,
    },
    Adopt {
        user: u8,
        path: String,
    },
    /// With the store closed.
    Repair,
    Backup {
        name: String,
    },
    /// Into a directory beside that of the store.
    RestoreBackup {
        name: String,
        into: String,
    },
}

fn id(user: u8) -> UserId {
    // Past those that the clock gives to a store.
    numbered_id(1_000 + u64::from(user))
}

fn number(id: UserId) -> u8 {
    let bytes = *id.as_uuid().as_bytes();
    u8::try_from(u16::from_be_bytes([bytes[14], bytes[15]]) - 1_000).unwrap()
}

fn written(user: u8, file: &str) -> String {
    // More than one sector, so that it can be torn.
    format!("{file} of {user}. ").repeat(80)
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn write_and_sync(path: &Path, text: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

/// Whoever does the operations.
pub(super) struct Hands {
    top: PathBuf,
    clock: TestClock,
    store: Option<Store>,
}

impl Hands {
    pub(super) fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), clock: TestClock::new(), store: None }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    /// Otherwise says what has happened.
    pub(super) fn run(&mut self, op: &Op) -> Result<(), String> {
        self.clock.forward(1);
        match block_on(self.run_async(op)) {
            Ok(0) => Ok(()),
            Ok(_) => Err(LEFT.to_owned()),
            Err(error) => Err(format!("{:?}", error.kind())),
        }
    }

    /// Returns how much was left open.
    async fn run_async(&mut self, op: &Op) -> Result<u64> {
        let data = self.top.join(DATA);
        match op {
            Op::Open | Op::OpenNormal => {
                let durability =
                    if *op == Op::Open { Durability::Full } else { Durability::Normal };
                let opening = Store::builder(data)
                    .durability(durability)
                    .ambient(Arc::new(self.clock.clone()));
                self.store = Some(opening.open().await?);
            }
            Op::Close => self.store.take().expect("the store is open").close().await?,
            Op::Create { user, path } => {
                let path = path.as_ref().map(|path| path.parse()).transpose()?;
                let new = NewUser {
                    id: Some(id(*user)),
                    storage_path: path,
                    ..NewUser::new(email(&address(*user)))
                };
                self.store().create(new).await?;
            }
            Op::Storage { user } => drop(self.store().directory(id(*user)).await?),
            Op::Write { user, file } => {
                let top = self.store().directory_path(id(*user)).await?;
                let path = top.join(file);
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path.parent().unwrap())
                    .unwrap();
                write_and_sync(&path, &written(*user, file));
                path.ancestors().skip(1).take_while(|dir| dir.starts_with(&top)).for_each(sync_dir);
            }
            Op::Delete { user } => drop(self.store().delete(id(*user)).await?),
            Op::Restore { user } => drop(self.store().restore(id(*user), None).await?),
            Op::Purge { user } => {
                return Ok(left(&self.store().purge(Purge::User(id(*user)), |_| {}).await?));
            }
            Op::PurgeAll => {
                return Ok(left(
                    &self.store().purge(Purge::DeletedBefore(Timestamp::MAX), |_| {}).await?,
                ));
            }
            Op::Place { path, is_certain } => {
                let storage = data.join("storage");
                let dir = storage.join(path);
                for (file, text) in placed(path) {
                    let file = dir.join(file);
                    DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(file.parent().unwrap())
                        .unwrap();
                    write_and_sync(&file, &text);
                    let until = if *is_certain { &storage } else { &dir };
                    file.ancestors()
                        .skip(1)
                        .take_while(|dir| dir.starts_with(until))
                        .for_each(sync_dir);
                }
            }
            Op::Adopt { user, path } => drop(self.store().adopt(id(*user), path.parse()?).await?),
            Op::Repair => {
                let repaired =
                    repair(data, RepairOptions { even_if_many: true, ..RepairOptions::default() })
                        .await?;
                return Ok(repaired.failures.len() as u64);
            }
            Op::Backup { name } => {
                let file = self.top.join(ARCHIVES).join(name);
                let backup =
                    self.store().create_backup(file, BackupOptions::default(), |_| {}).await?;
                return Ok(backup.incomplete);
            }
            Op::RestoreBackup { name, into } => {
                let into = self.top.join(DATA).with_file_name(into);
                restore_backup(self.top.join(ARCHIVES).join(name), into, |_| {}).await?;
            }
        }
        Ok(0)
    }
}

/// What is said of an operation that was done but for something that it names.
pub(super) const LEFT: &str = "something is left";

fn left(purged: &tenantry::Purged) -> u64 {
    purged.left.len() as u64 + purged.elsewhere + u64::from(purged.not_erased.is_some())
}

/// A child does what its orders say, and marks each result in the record.
pub(crate) fn child(dir: &Path) {
    let (way, ops): (Way, Vec<Op>) =
        serde_json::from_slice(&fs::read(dir.join(ORDERS)).unwrap()).unwrap();
    way::take(way);
    let mut marks = File::create(dir.join(MARKS)).unwrap();
    let mut hands = Hands::new(&dir.join(TOP));
    for op in ops {
        if let Err(what) = hands.run(&op) {
            // For whoever has made it fail.
            process::say(what);
            return;
        }
        marks.write_all(ANSWERED.as_bytes()).unwrap();
    }
    process::say("done");
}

pub(super) fn order(dir: &Path, way: Way, ops: &[Op]) {
    fs::write(dir.join(ORDERS), serde_json::to_vec(&(way, ops)).unwrap()).unwrap();
}

/// What there should be after an operation.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Whether there is a store at all.
    is_made: bool,
    was_version_1: bool,
    world: World,
    /// What was placed and not made to last.
    uncertain: Option<String>,
    /// Of whom nothing may be left.
    purged: BTreeSet<u8>,
    archives: BTreeMap<String, World>,
    restored: BTreeMap<String, World>,
}

impl State {
    /// From which archive a store is restored.
    fn restored_from<'o>(ops: &'o [Op], place: &str) -> &'o str {
        let from = ops.iter().find_map(|op| match op {
            Op::RestoreBackup { name, into } if into == place => Some(name.as_str()),
            _ => None,
        });
        from.unwrap()
    }

    /// A store of schema version 1 with a user.
    pub(super) fn of_version_1(top: &Path) -> Self {
        DirBuilder::new().recursive(true).mode(0o700).create(top.join(DATA)).unwrap();
        let conn = tenantry_testkit::schema::of_version(1, &top.join(DATA).join("tenantry.db"));
        let insert = "INSERT INTO users (id, email_key, email, created_at, updated_at, version) VALUES (?1, ?2, ?2, 1, 1, 1)";
        conn.execute(insert, (id(0).as_uuid().as_bytes(), address(0))).unwrap();
        // A crash has left the log. So SQLite doesn't make one, which it would sync the directory
        // for.
        conn.set_db_config(
            sqlite::rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            true,
        )
        .unwrap();
        conn.close().unwrap();
        let mut state = Self { is_made: true, was_version_1: true, ..Self::default() };
        state.apply(&Op::Create { user: 0, path: None });
        state
    }

    pub(super) fn apply(&mut self, op: &Op) {
        let people = &mut self.world.people;
        match op {
            Op::Open | Op::OpenNormal => self.is_made = true,
            Op::Close => {}
            Op::Create { user, path } => {
                let path = path
                    .clone()
                    .unwrap_or_else(|| tenantry::StoragePath::derived(id(*user)).to_string());
                people.insert(
                    *user,
                    Person {
                        email: *user,
                        path: format!("storage/{path}"),
                        is_trashed: false,
                        files: None,
                    },
                );
            }
            Op::Storage { user } => {
                people.get_mut(user).unwrap().files.get_or_insert_default();
            }
            Op::Write { user, file } => {
                people
                    .get_mut(user)
                    .unwrap()
                    .files
                    .as_mut()
                    .unwrap()
                    .insert(file.clone(), written(*user, file));
            }
            Op::Delete { user } => people.get_mut(user).unwrap().is_trashed = true,
            Op::Restore { user } => people.get_mut(user).unwrap().is_trashed = false,
            Op::Purge { user } => {
                people.remove(user).unwrap();
                self.purged.insert(*user);
            }
            Op::PurgeAll => {
                let purged = people.extract_if(.., |_, person| person.is_trashed);
                self.purged.extend(purged.map(|(user, _)| user));
            }
            Op::Place { path, is_certain } => {
                let path = format!("storage/{path}");
                let files = placed(path.strip_prefix("storage/").unwrap()).into_iter();
                self.world.loose.extend(files.map(|(file, text)| (format!("{path}/{file}"), text)));
                self.uncertain = (!is_certain).then_some(path);
            }
            Op::Adopt { user, path } => {
                let path = format!("storage/{path}");
                let files = take(&mut self.world.loose, &path);
                people.insert(
                    *user,
                    Person { email: *user, path, is_trashed: false, files: Some(files) },
                );
                self.uncertain = None;
            }
            Op::Repair => {
                let paths: Vec<String> = self.world.loose.keys().map(|file| stray(file)).collect();
                for path in paths {
                    let files = take(&mut self.world.loose, &path);
                    if !files.is_empty() {
                        self.world.quarantine.insert(path, files);
                    }
                }
            }
            Op::Backup { name } => drop(self.archives.insert(name.clone(), self.world.clone())),
            Op::RestoreBackup { name, into } => {
                drop(self.restored.insert(into.clone(), self.archives[name].clone()));
            }
        }
    }

    /// The states from this one on.
    pub(super) fn all(self, ops: &[Op]) -> Vec<Self> {
        let mut states = vec![self];
        for op in ops {
            let mut next = states.last().unwrap().clone();
            next.apply(op);
            states.push(next);
        }
        states
    }
}

/// The directory that a repair moves: the first below `storage/` that is an orphan.
fn stray(file: &str) -> String {
    file.split('/').take(2).collect::<Vec<_>>().join("/")
}

/// What has to be so, whatever a store holds.
#[derive(Clone, Copy, Default)]
struct Ought<'p> {
    /// It has been created. Otherwise it may be.
    be_made: bool,
    have_been_version_1: bool,
    /// A path at which somebody has placed directories, past the store, of which some may be there.
    have_placed: Option<&'p str>,
}

/// Opens the store that should be there, which finishes what was under way, and looks at
/// everything.
fn find(data: &Path, ought: &Ought<'_>) -> Result<World, String> {
    let is_kept = snapshots(data)? > 0;
    let opening = Store::builder(data).create_if_missing(!ought.be_made);
    let Found { world, mut findings, orphans, is_upgraded } =
        world::find(opening, data, number, |_| {})?;
    if ought.have_been_version_1 && !is_kept && !is_upgraded {
        return Err("it was upgraded, and there is no snapshot of it".to_owned());
    }
    snapshots(data)?;
    if let Some((user, person)) = world.people.iter().find(|(user, person)| **user != person.email)
    {
        return Err(format!("user {user} has another's address: {person:?}"));
    }
    let is_loose = |path: &Path| {
        let mut loose = world.loose.keys().map(Path::new);
        let is_placed =
            |placed: &str| path.starts_with(placed) || Path::new(placed).starts_with(path);
        loose.any(|file| file.starts_with(path)) || ought.have_placed.is_some_and(is_placed)
    };
    findings
        .extend(orphans.into_iter().filter(|orphan| !orphan.path.as_deref().is_some_and(is_loose)));
    if !findings.is_empty() {
        return Err(format!("a check finds {findings:?}"));
    }
    Ok(world)
}

/// How many snapshots there are, each of which has to be a whole database of the version before.
fn snapshots(data: &Path) -> Result<usize, String> {
    let mut count = 0;
    for entry in fs::read_dir(data.join("backups")).into_iter().flatten() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("before-v") {
            continue;
        }
        let look = || {
            let flags = sqlite::rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let conn = sqlite::rusqlite::Connection::open_with_flags(&path, flags)?;
            let found: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            let version: u32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let users: u64 = conn.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
            Ok::<_, sqlite::rusqlite::Error>((found, version, users))
        };
        match look() {
            Ok((found, 1, 1)) if found == "ok" => count += 1,
            other => return Err(format!("a snapshot isn't whole: {other:?}")),
        }
    }
    Ok(count)
}

/// Compares what a power cut has left with what should be there: after `answered` of the
/// operations, or one more.
pub(super) fn judge(
    ops: &[Op],
    states: &[State],
    answered: usize,
    top: &Path,
) -> Result<(), String> {
    let before = &states[answered];
    let after = states.get(answered + 1).unwrap_or(before);
    let data = top.join(DATA);

    for entry in fs::read_dir(top.join(ARCHIVES)).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // Under a name of its own it is none yet.
        if name.starts_with(".tenantry-backup-") {
            continue;
        }
        let verified = block_on(verify_backup(entry.path(), |_| {}))
            .map_err(|error| format!("the backup {name} is none: {error}"))?;
        let archived =
            after.archives.get(&name).ok_or_else(|| format!("nobody has made {name}"))?;
        let people = &archived.people;
        let users = people.values().filter(|person| !person.is_trashed).count() as u64;
        if (verified.manifest.users, verified.missing_directories) != (users, 0)
            || !verified.findings.is_empty()
        {
            return Err(format!("the backup {name} is not whole: {verified:?}"));
        }
    }
    for name in before.archives.keys() {
        if !top.join(ARCHIVES).join(name).exists() {
            return Err(format!("the backup {name} is gone"));
        }
    }
    for entry in fs::read_dir(data.parent().unwrap()).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !data.ends_with(&name) && !after.restored.contains_key(&name) {
            return Err(format!("nobody has restored {name}"));
        }
    }
    for (name, expected) in &after.restored {
        let place = data.with_file_name(name);
        if !place.join("tenantry.db").exists() && !before.restored.contains_key(name) {
            // Whatever is there, another restore makes a store of it.
            let archive = top.join(ARCHIVES).join(State::restored_from(ops, name));
            block_on(restore_backup(archive, &place, |_| {})).map_err(|error| {
                format!("what is left of a restore is in the way of another: {error:?}")
            })?;
        }
        let found = find(&place, &Ought { be_made: true, ..Ought::default() })
            .map_err(|error| format!("the restored store: {error}"))?;
        if found != *expected {
            return Err(format!("the restored store holds {found:#?}\nnot {expected:#?}"));
        }
    }

    let placing = match ops.get(answered) {
        Some(Op::Place { path, .. }) => Some(format!("storage/{path}")),
        _ => before.uncertain.clone(),
    };
    let found = find(
        &data,
        &Ought {
            be_made: before.is_made,
            have_been_version_1: before.was_version_1,
            have_placed: placing.as_deref(),
        },
    )?;
    let mut found_in_part = found.clone();
    // What the child does itself and isn't at the end of may be there in part.
    if let Some(Op::Write { user, file }) = ops.get(answered)
        && let Some(files) =
            found_in_part.people.get_mut(user).and_then(|person| person.files.as_mut())
    {
        files.remove(file);
    }
    let is = |state: &&State| {
        let mut expected = state.world.clone();
        let mut in_part = found_in_part.clone();
        if let Some(path) = &placing {
            take(&mut in_part.loose, path);
            take(&mut expected.loose, path);
        }
        found == state.world || in_part == expected
    };
    let certain = certain(ops, answered);
    let candidates = &states[certain..states.len().min(answered + 2)];
    let Some(state) = candidates.iter().find(is) else {
        return Err(format!(
            "it holds {found:#?}\nneither {:#?}\nnor {:#?}",
            before.world, after.world
        ));
    };
    let database = fs::read(data.join("tenantry.db")).unwrap();
    let is_left = |user: &&u8| {
        database.windows(address(**user).len()).any(|text| text == address(**user).as_bytes())
    };
    if let Some(user) = state.purged.iter().find(is_left) {
        return Err(format!("the address of user {user}, who was purged, is in the database"));
    }
    Ok(())
}

/// How many of the operations are certainly there, if so many have returned.
fn certain(ops: &[Op], answered: usize) -> usize {
    if !ops.contains(&Op::OpenNormal) {
        return answered;
    }
    // What moves a directory waits for the disk before it does.
    let waits = |op: &Op| !matches!(op, Op::Create { .. });
    ops[..answered].iter().rposition(waits).map_or(0, |last| last + 1)
}
