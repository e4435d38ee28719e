//! One user alone as an archive: their row and their files, out of one store and into the same or another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::instrument;
use uuid::Uuid;

use super::container::{self, Details, USER};
use super::entry::What;
use super::format::{Kind, Manifest, damaged};
use super::reader::{EntryReader, SeenPaths, open};
use super::temporary::parent;
use super::writer::{ArchiveWriter, finish, prepare};
use crate::progress::{Monitor, Progress, ProgressReply};
use crate::sqlite::Engine;
use crate::storage::{LostAttributes, Purpose, Stage};
use crate::thread::on_thread;
use crate::{Email, Error, ErrorKind, NewUser, Result, StoragePath, Store, Timestamp, User, UserId};

/// The version of the format.
const FORMAT: u32 = 2;
/// The user's directory in the archive.
const FILES: &str = "files";
/// The beginning of the names of temporary files and directories.
const TEMPORARY: &str = ".tenantry-export-";
/// How a missing archive is called.
const MISSING: &str = "there is no such archive";

/// What the archive of a user is as a whole: the first line of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UserManifest {
    /// What it is: `user`.
    pub kind: &'static str,
    /// The version of the archive's format, 1 or 2. Archives of format 2 are written.
    pub format: u32,
    /// Which store the user was exported from.
    pub store_id: Uuid,
    /// When that was.
    pub exported_at: Timestamp,
    /// The user as they were then.
    pub user: User,
    /// How many files there are.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes: u64,
    /// How many files were left out: see [`ExportedUser::left_out`].
    pub left_out: u64,
}

/// A user who was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedUser {
    /// What is in the archive.
    pub manifest: UserManifest,
    /// The size of the archive in bytes.
    pub archive_bytes: u64,
    /// What could not be taken, the first 100 of it: files that could not be read, or changed whenever they were read; the
    /// directory, if it is missing; sockets and devices; too large extended attributes. With the path, as it would be in the
    /// archive (`files/…`), and the reason.
    pub left_out: Vec<(PathBuf, String)>,
    /// How many of these there are, named or not.
    pub incomplete: u64,
}

/// A user who was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedUser {
    /// What was in the archive, with the user as they are now.
    pub manifest: UserManifest,
    /// What didn't come back, the first 100 of it: extended attributes and ACLs that the file system doesn't take. With the
    /// path in the user's directory and the reason.
    pub left_out: Vec<(PathBuf, String)>,
    /// How many of these there are, named or not.
    pub incomplete: u64,
}

impl Store {
    /// Writes one user, with their row and their files, to an archive that isn't there yet, readable by nobody else.
    /// [`import_user`] takes it into the same store or another.
    ///
    /// Others may use the store meanwhile, also this user; but a purge is `Busy`, and so is a backup or another export. The row is of
    /// one moment, and a file as it was at some moment after that; one that changes while it is read is read again, up to three
    /// times; what comes with it, and what is done for SQLite databases, is as in a [backup](crate::create_backup). The archive is
    /// written under a temporary name in the same directory, and named when it is complete and on the disk. A crash may leave a
    /// file or a directory `.tenantry-export-…` there.
    ///
    /// It is tar in zstd, as a backup is: `manifest.jsonl`, and the user's directory as `files`, if there was one. The archive
    /// keeps what it holds, whatever becomes of the user.
    ///
    /// `progress` is called with the number of files and of bytes so far. It ends the operation as [`create_backup`](crate::create_backup)'s
    /// does.
    ///
    /// Errors: `NotFound` if there is no such user, also if they are in the trash: restore them first; `Exists` if the file is there;
    /// `Busy`; `StorageUnavailable`; `Full`, `ReadOnly`, `Io`, `Corrupt`.
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn export_user<R: ProgressReply>(
        &self,
        id: UserId,
        file: impl Into<PathBuf>,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<ExportedUser> {
        let (engine, file, monitor) = (Arc::clone(self.engine()), file.into(), Monitor::new(progress));
        on_thread(move || monitor.explain(export(&engine, id, &file, &monitor))).await?
    }

    /// Creates the user whom [`export_user`] has put into an archive, with the same row and files: the same id, address, storage
    /// path, times and version. In the order of creation they come last.
    ///
    /// Nothing is believed of the archive that isn't checked: the row is parsed as any other is, each file is compared with
    /// its hash, no more is written than announced, and nothing through a link. Modes, times, attributes and links come back, but
    /// no owners, and nothing runs as another.
    ///
    /// The files are written into a directory of their own, `.tenantry-import-…` in the data directory. When all of it is on the disk,
    /// the row is created, and the files become the user's directory, as one step: whatever crashes, both are there once the store is
    /// opened again, or neither. What a crash leaves of such directories is removed by the next import. If the future is
    /// dropped, the user may be imported or not.
    ///
    /// An id and a storage path are never given out again, so somebody who was purged can't be imported into the same store.
    ///
    /// `progress` is called with the number of files and of bytes so far. It ends the operation as [`create_backup`](crate::create_backup)'s
    /// does.
    ///
    /// Errors: `EmailTaken`, `IdTaken` and `PathTaken`, as of a [creation](Store::create), also if the id or the path is that of a user
    /// in the trash or of one who was purged; `StorageBlocked` if something stands at the storage path; `InvalidEmail`, `InvalidId`,
    /// `InvalidPath`, `InvalidTimestamp`, `InvalidUser` if the row has a value that no user can have; `NotFound` if there is no such file;
    /// `Corrupt` if the archive differs from its manifest in anything; `Incompatible` if it is of another format or a backup;
    /// `StorageUnavailable`; `Full`, `ReadOnly`, `Io`. In all these cases nothing was done and nothing is left. `Unfinished` if the user
    /// is there, but their files could not be moved to their place yet.
    #[instrument(level = "debug", skip_all)]
    pub async fn import_user<R: ProgressReply>(
        &self,
        file: impl Into<PathBuf>,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<ImportedUser> {
        let (engine, file, monitor) = (Arc::clone(self.engine()), file.into(), Monitor::new(progress));
        let (mut manifest, stage, unset) = {
            let engine = Arc::clone(&engine);
            on_thread(move || monitor.explain(extract(&engine, &file, &monitor))).await??
        };
        let stage = stage.map(Arc::new);
        let new = NewUser::as_it_was(&manifest.user);
        let created = {
            // Whoever runs it last sees to the files, also if nobody waits any more.
            let stage = stage.clone();
            engine.operate(move |tx| {
                stage.iter().for_each(|stage| stage.hand_over());
                tx.import_with_files(&new, stage.as_ref().map(|stage| stage.name()))
            })
        };
        let created = created.await;
        if let Some(stage) = stage {
            stage.settle(created.as_ref().err()).await?;
        }
        manifest.user = created?;
        Ok(ImportedUser { manifest, left_out: unset.named, incomplete: unset.count })
    }
}

/// Reads who is in an archive, and nothing else of it: whether the rest is whole is seen when it is [imported](import_user).
///
/// Errors: those of [`import_user`] that are about the file and the row's own values.
#[instrument(level = "debug", skip_all)]
pub async fn read_user_manifest(file: impl Into<PathBuf>) -> Result<UserManifest> {
    let file = file.into();
    on_thread(move || container::peek(open(&file, MISSING, &Monitor::silent())?)).await?
}

fn export(engine: &Engine, id: UserId, file: &Path, monitor: &Monitor) -> Result<ExportedUser> {
    prepare(file, TEMPORARY)?;
    let storage = engine.storage()?;
    // From before the row is read on: a user who was purged since would have no files.
    let _no_purges = storage.lock_out_purges(engine.patience())?;
    let exported_at = engine.now();
    let (store_id, user, directory) = engine.read(|tx| {
        let (Some(user), Some(directory)) = (tx.get(id)?, tx.directory(id)?) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                match tx.get_trashed(id)? {
                    Some(_) => "the user is in the trash: restore them first",
                    None => "there is no such user",
                },
            ));
        };
        Ok((tx.store_id()?, user, directory))
    })?;
    let mut writer = ArchiveWriter::new(parent(file), monitor)?;
    // What is at the derived path is theirs, even if the row doesn't know, as after an older backup of the database was restored.
    if directory.is_made || user.storage_path == StoragePath::derived(id) {
        let is_found = storage.read_user(id, &user.storage_path, Path::new(FILES), |item| writer.take(item))?;
        if directory.is_made && !is_found {
            writer.leave_out(FILES.into(), "the directory is missing".to_owned());
        }
    }
    let manifest = UserManifest {
        kind: USER,
        format: FORMAT,
        store_id,
        exported_at,
        user,
        files: writer.body.files,
        bytes: writer.body.bytes,
        left_out: writer.count,
    };
    let archive_bytes = finish(writer.body, &manifest, file, TEMPORARY)?;
    Ok(ExportedUser { manifest, archive_bytes, left_out: writer.left_out, incomplete: writer.count })
}

/// Unpacks the files of an archive into a stage, where all of them are on the disk then. `None` if the user had no directory.
fn extract(engine: &Engine, file: &Path, monitor: &Monitor) -> Result<(UserManifest, Option<Stage>, LostAttributes)> {
    let archive = open(file, MISSING, monitor)?;
    let storage = engine.storage()?;
    let is_needed = |stage: &str| engine.read_one(|tx| tx.needs_stage(stage));
    if let Err(error) = storage.clear_stages(&is_needed) {
        tracing::warn!(error = &error as &dyn std::error::Error, "what an import has left could not be removed");
    }
    let stage = storage.stage(Purpose::New, || engine.new_id().to_string())?;
    let mut unpacking = stage.unpack()?;
    let mut reader = EntryReader::new(monitor);
    let mut seen = SeenPaths::default();
    let mut has_directory = false;
    let stage_dir = engine.data_dir().join(stage.name());
    let manifest = container::read(archive, &stage_dir, |_: &UserManifest, path, entry, details, input| {
        let below = below(path)?;
        // The directory itself comes first, and each other before what is in it.
        if !(below.as_os_str().is_empty() || seen.is_in_directory(path)) {
            return Err(damaged("the archive holds something that is in no directory"));
        }
        seen.add(path, &details.what)?;
        has_directory = true;
        let Details { what, attributes } = details;
        let what = match what {
            What::HardLink(target) => What::HardLink(self::below(target)?.to_owned()),
            what => what.clone(),
        };
        let details = Details { what, attributes: attributes.clone() };
        reader.unpack(&mut unpacking, below, entry, &details, input)
    })?;
    let unset = unpacking.finish()?;
    if !has_directory {
        monitor.check()?;
        return Ok((manifest, None, unset));
    }
    storage.wait_for_disk("import: sync the files")?;
    monitor.check()?;
    Ok((manifest, Some(stage), unset))
}

/// Where it is in the user's directory.
fn below(path: &Path) -> Result<&Path> {
    path.strip_prefix(FILES).map_err(|_| damaged("the archive holds something that is no file of the user"))
}

impl Manifest for UserManifest {
    const KIND: Kind = Kind::User;
    const FORMAT: u32 = FORMAT;

    /// What is wrong with a value of the row is told as such.
    fn parse(line: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Line {
            store_id: Uuid,
            exported_at: Timestamp,
            user: Row,
            format: u32,
            files: u64,
            bytes: u64,
            left_out: u64,
        }
        // A value that isn't known must not be lost.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Row {
            id: String,
            email: String,
            created_at: String,
            last_login_at: Option<String>,
            storage_path: String,
            updated_at: String,
            version: u64,
        }
        let Line { store_id, exported_at, user, format, files, bytes, left_out } = container::understand(line)?;
        let user = User {
            id: user.id.parse()?,
            // It was in a store before, and has to come back.
            email: Email::parse_accepted(&user.email)?,
            created_at: user.created_at.parse()?,
            last_login_at: user.last_login_at.map(|time| time.parse()).transpose()?,
            storage_path: user.storage_path.parse()?,
            updated_at: user.updated_at.parse()?,
            version: user.version,
        };
        User::check_version(user.version)?;
        Ok(Self { kind: USER, format, store_id, exported_at, user, files, bytes, left_out })
    }

    fn format(&self) -> u32 {
        self.format
    }

    fn totals(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// The directory `files`, and what is in it.
    fn is_place(path: &Path, is_dir: bool) -> bool {
        path.starts_with(FILES) && (is_dir || path != Path::new(FILES))
    }
}
