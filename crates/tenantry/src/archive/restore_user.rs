//! Restoring one user out of a backup into a store that is in use.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tracing::instrument;

use super::backup::{BackupManifest, MISSING};
use super::backup_contents::BackupContents;
use super::container::{self, Details};
use super::entry::{Entry, What};
use super::format::damaged;
use super::reader::{EntryReader, SeenPaths, open};
use super::sparse;
use crate::content::{Content, HashingReader};
use crate::engine::verbs::{BringBack, CreateWithFiles};
use crate::engine::{ENGINE_FILES, Engine};
use crate::progress::{Monitor, Progress, ProgressReply};
use crate::storage::{OpenFile, PathEntry, Purpose, Segment, Stage, Unpacker, UserDirectory};
use crate::thread::on_thread;
use crate::{Error, ErrorKind, NewUser, Result, Store, User, UserId};

/// At most this many kept files are named.
const KEPT_NAMED_MAX: usize = 100;

/// Options of [`Store::restore_user`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreUserOptions {
    /// Restore even a user who was purged, with a new id.
    pub even_if_purged: bool,
    /// Change nothing, and only return the result.
    pub dry_run: bool,
}

/// The state of a user in the store before they were [restored](Store::restore_user). Serialized in
/// snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UserBefore {
    /// A living user, perhaps without some of their files.
    Living,
    /// In the trash.
    Trashed,
    /// Purged.
    Purged,
    /// Unknown and never purged: the store is older than the backup, or another one.
    Missing,
}

/// The result of [`Store::restore_user`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoredUser {
    /// The user as they are now. After a dry run, a purged user still has the old id.
    pub user: User,
    /// Their state before.
    pub before: UserBefore,
    /// The number of files that were restored.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes: u64,
    /// The number of files that the user has already, with the same content.
    pub same: u64,
    /// The number of files and directories that weren't restored, because something else exists at
    /// their paths.
    pub kept: u64,
    /// These paths in the user's directory, at most 100.
    pub kept_paths: Vec<PathBuf>,
    /// Extended attributes and ACLs that could not be set, at most 100 of them, with the path in
    /// the user's directory and the reason.
    pub left_out: Vec<(PathBuf, String)>,
    /// The number of all of them.
    pub incomplete: u64,
}

impl Store {
    /// Restores one user out of a backup of a whole store: a user who was deleted or purged, or has
    /// lost files.
    ///
    /// A user who is in the store keeps their row. Missing files are put beside those that exist,
    /// and no file is replaced. A SQLite database and a WAL or journal never come together from
    /// different sources, since SQLite would take them for one database. A user in the trash is
    /// restored, with the files of the trash and the missing ones of the backup. A purged user gets
    /// a new id and a new storage path, if the [options](RestoreUserOptions) allow that. A user who
    /// is unknown to the store gets the row of the backup.
    ///
    /// The files are written into a stage, `.tenantry-import-…` in the data directory. Once all of
    /// them are synced, the row is changed and the files are moved, as one step: after a crash both
    /// happen at the next opening of the store, or neither.
    ///
    /// The whole archive is read, on a thread of its own. `progress` is called with the numbers of
    /// files and of bytes of this user so far. It may end the restore, as that of
    /// [`Store::create_backup`].
    ///
    /// # Errors
    ///
    /// `NotFound` if the user isn't in the backup, or their purge is under way; `EmailTaken` if
    /// another user has the address; `IdTaken` if the user was purged and the options don't allow
    /// their return; `PathTaken` and `StorageBlocked` as of a [creation](Store::create) and a
    /// [restore](Store::restore); those of [`verify_backup`](crate::verify_backup);
    /// `StorageUnavailable`; `Full`, `ReadOnly`, `PermissionDenied`, `Io`. In all these cases
    /// nothing was done and nothing is left. `Unfinished` if the user is restored, but the files
    /// could not be moved to their place yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// store.directory(ada.id).await?.write("notes.txt", "hello")?;
    /// let file = dir.path().join("backup.tar.zst");
    /// store.create_backup(&file, tenantry::BackupOptions::default(), |_| {}).await?;
    ///
    /// store.directory(ada.id).await?.remove_file("notes.txt")?;
    /// let backup = tenantry::open_backup(&file).await?;
    /// let restored = store.restore_user(backup, ada.id, Default::default(), |_| {}).await?;
    /// assert_eq!((restored.files, restored.kept), (1, 0));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn restore_user<R: ProgressReply>(
        &self,
        backup: BackupContents,
        id: UserId,
        options: RestoreUserOptions,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<RestoredUser> {
        let (engine, monitor) = (Arc::clone(self.engine()), Monitor::new(progress));
        let (mut restored, stage) = {
            let engine = Arc::clone(&engine);
            on_thread(move || monitor.explain(prepare(&engine, &backup, id, options, &monitor)))
                .await??
        };
        if options.dry_run {
            return Ok(restored);
        }
        let stage = stage.map(Arc::new);
        let row = &restored.user;
        let done = match restored.before {
            UserBefore::Living => self.apply(BringBack(row.id, false, stage.clone())).await,
            UserBefore::Trashed => self.apply(BringBack(row.id, true, stage.clone())).await,
            UserBefore::Purged => self.apply(CreateWithFiles(anew(row), stage.clone())).await,
            UserBefore::Missing => {
                self.apply(CreateWithFiles(NewUser::as_it_was(row), stage.clone())).await
            }
        };
        if let Some(stage) = stage {
            stage.settle(done.as_ref().err()).await?;
        }
        restored.user = done?;
        Ok(restored)
    }
}

/// Returns a purged user with a new id, and so with a new storage path.
fn anew(row: &User) -> NewUser {
    NewUser {
        id: None,
        storage_path: None,
        updated_at: None,
        version: None,
        ..NewUser::as_it_was(row)
    }
}

/// Determines what is to be done, and stages the missing files.
fn prepare(
    engine: &Engine,
    backup: &BackupContents,
    id: UserId,
    options: RestoreUserOptions,
    monitor: &Monitor,
) -> Result<(RestoredUser, Option<Stage>)> {
    let missing = || Error::new(ErrorKind::NotFound, "the user isn't in the backup");
    let (row, place) = backup.row(id)?.ok_or_else(missing)?;
    let (before, user) = find(engine, row, options)?;
    let storage = engine.storage()?;
    let present = match before {
        UserBefore::Living | UserBefore::Trashed => storage.present(id, &user.storage_path)?,
        UserBefore::Purged | UserBefore::Missing => UserDirectory::nothing(),
    };
    let stage = if options.dry_run { None } else { Some(make_stage(engine, before)?) };
    let mut user_restore = UserRestore {
        place,
        present,
        unpacking: stage.as_ref().map(Stage::unpack).transpose()?,
        reader: EntryReader::new(monitor),
        monitor,
        seen: SeenPaths::default(),
        staged: HashSet::new(),
        same: HashSet::new(),
        has_missing: false,
        restored: RestoredUser {
            user,
            before,
            files: 0,
            bytes: 0,
            same: 0,
            kept: 0,
            kept_paths: Vec::new(),
            left_out: Vec::new(),
            incomplete: 0,
        },
    };
    user_restore.read(engine.data_dir(), backup)?;
    let UserRestore { has_missing, mut restored, unpacking, .. } = user_restore;
    let unset = unpacking.map(Unpacker::finish).transpose()?.unwrap_or_default();
    (restored.left_out, restored.incomplete) = (unset.named, unset.count);
    let stage = stage.filter(|_| has_missing);
    if stage.is_some() {
        storage.wait_for_disk("import: sync the files")?;
    }
    monitor.check()?;
    Ok((restored, stage))
}

/// Returns the state of the user in the store, and their row: the store's or, if it has none, that
/// of the backup.
fn find(engine: &Engine, row: User, options: RestoreUserOptions) -> Result<(UserBefore, User)> {
    let refuse = |kind, message| Err(Error::new(kind, message));
    engine.snapshot(|tx| {
        if let Some(user) = tx.user(row.id)? {
            return Ok((UserBefore::Living, user));
        }
        let (before, user) = match tx.trashed(row.id)? {
            Some(trashed) if trashed.is_being_purged => {
                return refuse(
                    ErrorKind::NotFound,
                    "the user is being purged: there is no way back",
                );
            }
            Some(trashed) => (UserBefore::Trashed, trashed.user),
            None if tx.was_purged(row.id)? && !options.even_if_purged => {
                return refuse(
                    ErrorKind::IdTaken,
                    "the user was purged, and their id is never given out again",
                );
            }
            None if tx.was_purged(row.id)? => (UserBefore::Purged, row),
            None => (UserBefore::Missing, row),
        };
        match tx.user_by_email(&user.email)? {
            Some(other) => {
                Err(Error::new(ErrorKind::EmailTaken, "another user has the email address")
                    .with_taken_by(other.id))
            }
            None => Ok((before, user)),
        }
    })
}

fn make_stage(engine: &Engine, before: UserBefore) -> Result<Stage> {
    let storage = engine.storage()?;
    let is_needed = |stage: &str| engine.needs_stage(stage);
    if let Err(error) = storage.clear_stages(&is_needed) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "what an import has left could not be removed"
        );
    }
    let purpose = match before {
        UserBefore::Living => Purpose::Beside,
        UserBefore::Trashed => Purpose::Return,
        UserBefore::Purged | UserBefore::Missing => Purpose::New,
    };
    storage.stage(purpose, || engine.new_id().to_string())
}

/// Takes the files of one user out of a backup.
struct UserRestore<'w> {
    /// Their directory in the archive.
    place: PathBuf,
    present: UserDirectory,
    /// `None` in a dry run.
    unpacking: Option<Unpacker>,
    reader: EntryReader,
    monitor: &'w Monitor,
    seen: SeenPaths,
    /// Staged files, to which hard links may refer.
    staged: HashSet<PathBuf>,
    /// Files that the user has as they are in the backup.
    same: HashSet<PathBuf>,
    /// Whether anything is missing.
    has_missing: bool,
    restored: RestoredUser,
}

impl UserRestore<'_> {
    fn read(&mut self, temp_dir: &Path, backup: &BackupContents) -> Result<()> {
        let archive = open(&backup.file, MISSING, self.monitor)?;
        let mut has_database = false;
        container::read(archive, temp_dir, |_: &BackupManifest, path, entry, details, input| {
            if path == Path::new(ENGINE_FILES.database) {
                has_database = entry.content.as_ref() == Some(&backup.database);
            } else if !has_database {
                return Err(damaged("the backup was replaced while it was read"));
            }
            let Ok(below) = path.strip_prefix(&self.place) else { return Ok(()) };
            // The directory itself comes first, and each other one before its entries.
            if !(below.as_os_str().is_empty() || self.seen.is_in_directory(path)) {
                return Err(damaged("the archive holds something that is in no directory"));
            }
            self.seen.add(path, &details.what)?;
            self.take(below, entry, details, input)
        })?;
        Ok(())
    }

    /// Stages an entry that the user lacks.
    fn take(
        &mut self,
        below: &Path,
        entry: &Entry,
        details: &Details,
        input: &mut dyn Read,
    ) -> Result<()> {
        if let What::HardLink(target) = &details.what {
            return self.take_hard_link(below, target.strip_prefix(&self.place).unwrap_or(target));
        }
        match (self.present.at(below)?, &details.what) {
            (PathEntry::Missing, _) => {
                if let Some(other) = self.present.other_part(below)? {
                    self.keep(&other);
                    return Ok(());
                }
            }
            (PathEntry::Directory, What::Directory) => return Ok(()),
            (PathEntry::Link(found), What::Symlink(target)) if found == *target => return Ok(()),
            (PathEntry::File(file), What::File) if is_same(self.monitor, &file, entry)? => {
                self.restored.same += 1;
                self.same.insert(below.to_owned());
                return Ok(());
            }
            _ => {
                self.keep(below);
                return Ok(());
            }
        }
        self.has_missing = true;
        if details.what == What::File {
            self.stage(below, entry.content.as_ref().map_or(0, |content| content.size));
        }
        match &mut self.unpacking {
            Some(unpacking) => self.reader.unpack(unpacking, below, entry, details, input),
            None => Ok(()),
        }
    }

    /// Stages another name of a staged file, or of a file that the user has as it is in the backup.
    fn take_hard_link(&mut self, below: &Path, target: &Path) -> Result<()> {
        let (is_staged, is_same) = (self.staged.contains(target), self.same.contains(target));
        match (self.present.at(below)?, self.present.at(target)?) {
            (PathEntry::Missing, _) if self.present.other_part(below)?.is_some() => {
                self.keep(below)
            }
            (PathEntry::Missing, _) if is_staged => {
                self.stage(below, 0);
                return self
                    .unpacking
                    .as_mut()
                    .map_or(Ok(()), |unpacking| unpacking.hard_link(below, target));
            }
            (PathEntry::Missing, PathEntry::File(file)) if is_same => {
                self.stage(below, 0);
                return self
                    .unpacking
                    .as_mut()
                    .map_or(Ok(()), |unpacking| unpacking.name_again(below, file));
            }
            (PathEntry::File(file), PathEntry::File(other))
                if is_same && is_one_file(&file, &other)? =>
            {
                self.restored.same += 1;
            }
            // The file may have been replaced.
            _ => self.keep(below),
        }
        Ok(())
    }

    fn stage(&mut self, below: &Path, bytes: u64) {
        self.has_missing = true;
        self.staged.insert(below.to_owned());
        self.restored.files += 1;
        self.restored.bytes += bytes;
    }

    fn keep(&mut self, below: &Path) {
        self.restored.kept += 1;
        if self.restored.kept_paths.len() < KEPT_NAMED_MAX {
            self.restored.kept_paths.push(below.to_owned());
        }
    }
}

/// Returns whether a file is as a backup has it. One that can't be read isn't, nor is a sparse one
/// with holes elsewhere.
fn is_same(monitor: &Monitor, file: &File, entry: &Entry) -> Result<bool> {
    let Some(announced) = &entry.content else { return Ok(false) };
    let opened = file.try_clone().and_then(OpenFile::new).map_err(unreadable)?;
    if opened.length() != announced.size {
        return Ok(false);
    }
    let Some(stored) = entry.stored else {
        let whole = vec![Segment { offset: 0, length: announced.size }];
        return Ok(is_content(monitor.reader(opened.data(whole)), announced));
    };
    // The hash covers the map and the data.
    let Ok(segments) = opened.segments() else { return Ok(false) };
    let map = sparse::map(&segments, announced.size);
    let announced = Content { size: stored, ..announced.clone() };
    Ok(is_content(monitor.reader(map.chain(opened.data(segments))), &announced))
}

fn is_content(input: impl Read, announced: &Content) -> bool {
    let mut hashing = HashingReader::new(input);
    io::copy(&mut hashing, &mut io::sink()).is_ok() && hashing.content() == *announced
}

fn is_one_file(one: &File, other: &File) -> Result<bool> {
    let [one, other] = [one, other].map(|file| file.metadata().map_err(unreadable));
    let (one, other) = (one?, other?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn unreadable(error: io::Error) -> Error {
    crate::storage::file_error(error, "a file of the user can't be read")
}
