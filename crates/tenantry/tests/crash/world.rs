//! What a store should hold, kept by the tests, and what it does hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures_lite::future::block_on;
use serde::{Deserialize, Serialize};
use tenantry::{
    BackupOptions, Email, ErrorKind, FindingKind, NewUser, Purge, RepairOptions, RequestKey,
    RestoreUserOptions, Result, StoragePath, Store, Timestamp, UserId, UserUpdate, check,
    open_backup, repair,
};
use tenantry_testkit::world::{self, Found, Person, World, address, copy, placed, take};

/// An operation on a store, or on its files past the store. Users and addresses are numbered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Create {
        user: u8,
        email: u8,
        path: Option<String>,
    },
    Open {
        user: u8,
    },
    /// The user has a directory by then, so that nothing is recorded.
    Write {
        user: u8,
        file: String,
    },
    Delete {
        user: u8,
    },
    /// In a transaction of the application's.
    DeleteWithin {
        user: u8,
    },
    Restore {
        user: u8,
        email: Option<u8>,
    },
    Purge {
        user: u8,
    },
    PurgeAll,
    Adopt {
        user: u8,
        path: String,
    },
    /// Creates a user on a directory, in one transaction.
    CreateOn {
        user: u8,
        email: u8,
        path: String,
    },
    Update {
        user: u8,
        email: u8,
    },
    /// From the archive that [`Place::put_archive`] has put there.
    Import {
        user: u8,
        email: u8,
        path: Option<String>,
        /// `None` if there is no directory in it.
        files: Option<Vec<String>>,
    },
    /// From the backup that [`Place::put_backup`] has put there, in which the user has these files.
    BringBack {
        user: u8,
        files: Vec<String>,
    },
    /// A create or a restore, by a request with a key.
    Once(Box<Op>),
    Check,
    Repair,
    /// Past the store: a directory with files, at a path within the data directory.
    Place {
        path: String,
    },
    /// Past the store: a directory of the user's that can't be written to, and a link out of it.
    Complicate {
        user: u8,
        dir: String,
    },
    /// Past the store: another name of a file.
    Link {
        user: u8,
        file: String,
        name: String,
    },
    /// Past the store: others may look into a directory within the data directory.
    Loosen {
        path: String,
    },
}

pub(crate) fn id(user: u8) -> UserId {
    // Two users each share the directories above theirs.
    format!("{:02x}a2b1c4-0000-4000-8000-0000000000{user:02x}", user / 2).parse().unwrap()
}

fn email(number: u8) -> Email {
    address(number).parse().unwrap()
}

/// A user's storage path from the data directory on.
pub(crate) fn derived(user: u8) -> String {
    format!("storage/{}", StoragePath::derived(id(user)))
}

/// What is compared and logged of an operation's outcome.
pub(crate) fn outcome(result: Result<(), ErrorKind>) -> String {
    format!("{result:?}")
}

/// In the data directory, so that it is copied with it.
pub(crate) const ARCHIVE: &str = "user.tar.zst";
pub(crate) const BACKUP: &str = "backup.tar.zst";
const LINK: &str = "link";
const LINK_TARGET: &str = "../../../..";

fn written(user: u8, file: &str) -> String {
    format!("{file}, written by {user}")
}

impl Op {
    pub(crate) fn run(&self, store: &Store, data: &Path) -> Result<(), ErrorKind> {
        block_on(self.run_async(store, data)).map_err(|error| error.kind())
    }

    async fn run_async(&self, store: &Store, data: &Path) -> Result<()> {
        let parse = |path: &String| path.parse::<StoragePath>().unwrap();
        let new_user = |user, number, path: Option<&String>| NewUser {
            id: Some(id(user)),
            storage_path: path.map(parse),
            ..NewUser::new(email(number))
        };
        match self {
            Self::Create { user, email, path } => {
                store.create(new_user(*user, *email, path.as_ref())).await?;
            }
            Self::Open { user } => {
                store.directory(id(*user)).await?;
            }
            Self::Write { user, file } => {
                let dir = store.directory(id(*user)).await?;
                dir.create_dir_all(Path::new(file).parent().unwrap()).unwrap();
                dir.write(file, written(*user, file)).unwrap();
            }
            Self::Delete { user } => {
                store.delete(id(*user)).await?;
            }
            Self::DeleteWithin { user } => {
                let id = id(*user);
                store.write(move |tx| tx.delete(id)).await?;
            }
            Self::Restore { user, email: number } => {
                store.restore(id(*user), number.map(email)).await?;
            }
            Self::Purge { user } => {
                let purged = store.purge(Purge::User(id(*user)), |_| {}).await?;
                assert_eq!((purged.left.len(), purged.elsewhere), (0, 0));
            }
            Self::PurgeAll => {
                store.purge(Purge::DeletedBefore(Timestamp::MAX), |_| {}).await?;
            }
            Self::Adopt { user, path } => {
                store.adopt(id(*user), parse(path)).await?;
            }
            Self::CreateOn { user, email, path } => {
                let (new, path) = (new_user(*user, *email, None), parse(path));
                let created = store.write(move |tx| {
                    let user = tx.create(&new)?;
                    tx.adopt(user.id, &path)
                });
                created.await?;
            }
            Self::Update { user, email: number } => {
                store
                    .update(
                        id(*user),
                        UserUpdate { email: Some(email(*number)), ..UserUpdate::default() },
                    )
                    .await?;
            }
            Self::Import { .. } => {
                store.import_user(data.join(ARCHIVE), |_| {}).await?;
            }
            Self::BringBack { user, .. } => {
                let backup = open_backup(data.join(BACKUP)).await?;
                store
                    .restore_user(backup, id(*user), RestoreUserOptions::default(), |_| {})
                    .await?;
            }
            Self::Once(op) => {
                let request = serde_json::to_string(op).unwrap();
                let once = store.once(RequestKey::new("client", "key", &[request.as_bytes()])?);
                match &**op {
                    Self::Create { user, email, path } => {
                        once.create(new_user(*user, *email, path.as_ref())).await?;
                    }
                    Self::Restore { user, email: number } => {
                        once.restore(id(*user), number.map(email)).await?;
                    }
                    other => panic!("{other:?} takes no key"),
                }
            }
            Self::Check => {
                let report = check(data).await?;
                assert!(
                    report.findings.iter().all(|f| f.kind == FindingKind::DirectoryOrphaned),
                    "{report:?}"
                );
            }
            Self::Repair => {
                let repaired =
                    repair(data, RepairOptions { even_if_many: true, ..RepairOptions::default() })
                        .await?;
                assert!(repaired.failures.is_empty(), "{repaired:?}");
            }
            Self::Place { path } => {
                for (file, text) in placed(path) {
                    let file = data.join(path).join(file);
                    fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(file.parent().unwrap())
                        .unwrap();
                    fs::write(file, text).unwrap();
                }
                loosen(data, path);
            }
            Self::Complicate { user, dir } => {
                let top = store.directory_path(id(*user)).await?;
                fs::set_permissions(top.join(dir), PermissionsExt::from_mode(0o500)).unwrap();
                std::os::unix::fs::symlink(LINK_TARGET, top.join(LINK)).unwrap();
            }
            Self::Link { user, file, name } => {
                let top = store.directory_path(id(*user)).await?;
                fs::hard_link(top.join(file), top.join(name)).unwrap();
            }
            Self::Loosen { path } => loosen(data, path),
        }
        Ok(())
    }
}

fn loosen(data: &Path, path: &str) {
    fs::set_permissions(data.join(path), PermissionsExt::from_mode(0o755)).unwrap();
}

/// What a store should hold, as a plain account of what was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) world: World,
    /// What was placed and belongs to no user since.
    pub(crate) placed: BTreeSet<String>,
    /// Addresses of purged users.
    erased: BTreeSet<u8>,
}

impl Model {
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), ErrorKind> {
        let people = &mut self.world.people;
        let has = |people: &BTreeMap<u8, Person>, email| {
            people.values().any(|p| !p.is_trashed && p.email == email)
        };
        let is_trashed =
            |people: &BTreeMap<u8, Person>, user| people.get(user).map(|person| person.is_trashed);
        // Of whom each is about, and who that must be.
        let wanted = match op {
            Op::Open { user } | Op::Delete { user } | Op::DeleteWithin { user } => {
                Some((user, false))
            }
            Op::Update { user, .. } | Op::Adopt { user, .. } => Some((user, false)),
            Op::Restore { user, .. } | Op::Purge { user } => Some((user, true)),
            _ => None,
        };
        if wanted.is_some_and(|(user, trashed)| is_trashed(people, user) != Some(trashed)) {
            return Err(ErrorKind::NotFound);
        }
        match op {
            Op::Create { user, email, path } => {
                if has(people, *email) {
                    return Err(ErrorKind::EmailTaken);
                }
                let path =
                    path.as_ref().map_or_else(|| derived(*user), |path| format!("storage/{path}"));
                people
                    .insert(*user, Person { email: *email, path, is_trashed: false, files: None });
            }
            Op::Open { user } => {
                people.get_mut(user).unwrap().files.get_or_insert_default();
            }
            Op::Write { user, file } => {
                let files = people.get_mut(user).unwrap().files.as_mut().unwrap();
                files.insert(file.clone(), written(*user, file));
            }
            Op::Delete { user } | Op::DeleteWithin { user } => {
                people.get_mut(user).unwrap().is_trashed = true
            }
            Op::Restore { user, email } => {
                let email = email.unwrap_or(people[user].email);
                if has(people, email) {
                    return Err(ErrorKind::EmailTaken);
                }
                let person = people.get_mut(user).unwrap();
                person.is_trashed = false;
                person.email = email;
            }
            Op::Purge { user } => {
                self.erased.insert(people.remove(user).unwrap().email);
            }
            Op::PurgeAll => {
                self.erased.extend(
                    people
                        .extract_if(.., |_, person| person.is_trashed)
                        .map(|(_, person)| person.email),
                );
            }
            Op::Adopt { user, path } => {
                let person = people.get_mut(user).unwrap();
                if person.files.as_ref().is_some_and(|files| !files.is_empty()) {
                    return Err(ErrorKind::NotEmpty);
                }
                person.path = format!("storage/{path}");
                person.files = Some(take(&mut self.world.loose, &person.path));
                self.placed.remove(&person.path);
            }
            Op::CreateOn { user, email, path } => {
                self.apply(&Op::Create { user: *user, email: *email, path: None })?;
                self.apply(&Op::Adopt { user: *user, path: path.clone() })?;
            }
            Op::Once(op) => self.apply(op)?,
            Op::Import { user, email, path, files } => {
                self.apply(&Op::Create { user: *user, email: *email, path: path.clone() })?;
                let written = |file: &String| (file.clone(), written(*user, file));
                let files = files.as_ref().map(|files| files.iter().map(written).collect());
                self.world.people.get_mut(user).unwrap().files = files;
            }
            Op::BringBack { user, files } => {
                let person = people.get_mut(user).unwrap();
                person.is_trashed = false;
                let has = person.files.get_or_insert_default();
                has.extend(files.iter().map(|file| (file.clone(), written(*user, file))));
            }
            Op::Update { user, email } => {
                if people[user].email != *email && has(people, *email) {
                    return Err(ErrorKind::EmailTaken);
                }
                people.get_mut(user).unwrap().email = *email;
            }
            Op::Repair => {
                for path in std::mem::take(&mut self.placed) {
                    let files = take(&mut self.world.loose, &path);
                    match people.values_mut().find(|person| person.path == path) {
                        Some(person) => person.files = Some(files),
                        None => drop(self.world.quarantine.insert(path, files)),
                    }
                }
            }
            Op::Place { path } => {
                // A place that a user has is theirs before the store knows of it.
                let owner = people.values_mut().find(|person| person.path == *path);
                match owner {
                    Some(owner) => owner.files = Some(placed(path)),
                    None => {
                        let files = placed(path).into_iter();
                        self.world
                            .loose
                            .extend(files.map(|(file, text)| (format!("{path}/{file}"), text)));
                        self.placed.insert(path.clone());
                    }
                }
            }
            Op::Complicate { user, .. } => {
                let files = people.get_mut(user).unwrap().files.as_mut().unwrap();
                files.insert(LINK.to_owned(), format!("-> {LINK_TARGET}"));
            }
            Op::Link { user, file, name } => {
                let files = people.get_mut(user).unwrap().files.as_mut().unwrap();
                files.insert(name.clone(), files[file].clone());
            }
            Op::Check | Op::Loosen { .. } => {}
        }
        // An address that somebody has had since may have left traces of that.
        let World { people, .. } = &self.world;
        self.erased.retain(|email| people.values().all(|person| person.email != *email));
        Ok(())
    }

    /// Makes sure that nothing of purged users is in the database.
    pub(crate) fn check_erased(&self, data: &Path) {
        for file in ["tenantry.db", "tenantry.db-wal"] {
            let bytes = fs::read(data.join(file)).unwrap_or_default();
            for number in &self.erased {
                let text = email(*number).as_str().as_bytes().to_vec();
                assert!(
                    !bytes.windows(text.len()).any(|window| window == text),
                    "user{number} is in {file}"
                );
            }
        }
    }
}

/// Opens the store, which finishes what a crash left, runs these operations, and looks at
/// everything. Their effect is what counts, and an operation can find that it was done.
pub(crate) fn find(data: &Path, ops: &[Op]) -> Found {
    let number = |id: UserId| id.as_uuid().as_bytes()[15];
    let run = |store: &Store| {
        for op in ops {
            let _ = op.run(store, data);
        }
    };
    world::find(Store::builder(data), data, number, run).unwrap()
}

/// As [`find`], and the check finds nothing but what is loose.
pub(crate) fn find_sound(data: &Path, ops: &[Op]) -> World {
    let Found { world, mut findings, orphans, .. } = find(data, ops);
    findings.extend(orphans.into_iter().filter(|orphan| {
        let is_above = |file: &String| {
            orphan.path.as_ref().is_some_and(|path| Path::new(file).starts_with(path))
        };
        !world.loose.keys().any(is_above)
    }));
    assert!(findings.is_empty(), "{findings:#?}\nin {world:#?}");
    world
}

/// The stages of imports that are in a data directory.
pub(crate) fn stages(data: &Path) -> Vec<String> {
    let names =
        fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".tenantry-import-")).collect()
}

/// A data directory of its own.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A second one with the same in it. Nobody has the database open, or else its locks would be
    /// lost.
    pub(crate) fn copy(&self) -> Self {
        let other = Self::new();
        if self.data().exists() {
            copy(&self.data(), &other.data());
        }
        other
    }

    /// Puts the archive there that this import takes: of a user of another store.
    pub(crate) fn put_archive(&self, import: &Op) {
        let Op::Import { user, email, path, files } = import else {
            panic!("{import:?} is no import")
        };
        let other = Self::new();
        let mut ops = vec![Op::Create { user: *user, email: *email, path: path.clone() }];
        ops.extend(files.iter().map(|_| Op::Open { user: *user }));
        ops.extend(
            files.iter().flatten().map(|file| Op::Write { user: *user, file: file.clone() }),
        );
        other.prepare(&mut Model::default(), &ops);
        let store = block_on(Store::open(other.data())).unwrap();
        block_on(store.export_user(id(*user), self.data().join(ARCHIVE), |_| {})).unwrap();
        block_on(store.close()).unwrap();
    }

    /// Puts a backup there, of a store in which this was done.
    pub(crate) fn put_backup(&self, ops: &[Op]) {
        let other = Self::new();
        other.prepare(&mut Model::default(), ops);
        let store = block_on(Store::open(other.data())).unwrap();
        let file = self.data().join(BACKUP);
        block_on(store.create_backup(file, BackupOptions::default(), |_| {})).unwrap();
        block_on(store.close()).unwrap();
    }

    /// A store of schema version 1 with a user.
    pub(crate) fn make_version_1(&self, model: &mut Model) {
        fs::create_dir(self.data()).unwrap();
        let conn = tenantry_testkit::schema::of_version(1, &self.data().join("tenantry.db"));
        let insert = "INSERT INTO users (id, email_key, email, created_at, updated_at, version) VALUES (?1, ?2, ?2, 1, 1, 1)";
        conn.execute(insert, (id(0).as_uuid().as_bytes(), email(0).as_str())).unwrap();
        model.apply(&Op::Create { user: 0, email: 0, path: None }).unwrap();
    }

    /// Does these operations without a crash, here and in the model.
    pub(crate) fn prepare(&self, model: &mut Model, ops: &[Op]) {
        if !ops.is_empty() {
            let store = block_on(Store::open(self.data())).unwrap();
            for op in ops {
                assert_eq!(op.run(&store, &self.data()), model.apply(op), "{op:?}");
            }
            block_on(store.close()).unwrap();
        }
    }
}
