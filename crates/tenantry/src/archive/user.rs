//! The archive of one user: their row and their files, out of one store and into the same or
//! another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tracing::instrument;
use uuid::Uuid;

use super::container::{self, Details, USER};
use super::entry::What;
use super::format::{Kind, Manifest, damaged};
use super::reader::{EntryReader, SeenPaths, open};
use super::temporary::parent;
use super::writer::{ArchiveWriter, finish, prepare};
use crate::engine::Engine;
use crate::engine::verbs::CreateWithFiles;
use crate::progress::{Monitor, Progress, ProgressReply};
use crate::storage::{LostAttributes, Purpose, Stage};
use crate::thread::on_thread;
use crate::{
    Attributes, Email, Error, ErrorKind, ExternalId, Name, NewUser, Result, StoragePath, Store,
    Timestamp, User, UserId,
};

/// The version of the format.
const FORMAT: u32 = 2;
/// The user's directory in the archive.
const FILES: &str = "files";
/// The beginning of the names of temporary files and directories.
const TEMPORARY: &str = ".tenantry-export-";
/// The message about a missing archive.
const MISSING: &str = "there is no such archive";

/// The first line of a user archive's manifest, which describes it as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UserManifest {
    /// The kind of the archive: `user`.
    pub kind: &'static str,
    /// The version of the archive's format, 1 or 2. Archives of format 2 are written.
    pub format: u32,
    /// The store that the user was exported from.
    pub store_id: Uuid,
    /// The moment of the export.
    pub exported_at: Timestamp,
    /// The user at that moment. Serialized, the fields that earlier versions don't know are left
    /// out unless the user has them, so that these read the archive, or refuse it.
    #[serde(serialize_with = "serialize_row")]
    pub user: User,
    /// The number of files.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes: u64,
    /// The number of entries that were left out: see [`ExportedUser::left_out`].
    pub left_out: u64,
}

/// Serializes a user without what they lack of the fields that were added later.
fn serialize_row<S: Serializer>(user: &User, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: UserId,
        email: &'a Email,
        created_at: Timestamp,
        last_login_at: Option<Timestamp>,
        storage_path: &'a StoragePath,
        updated_at: Timestamp,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        suspended_at: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        external_id: Option<&'a ExternalId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a Name>,
        #[serde(skip_serializing_if = "Option::is_none")]
        attributes: Option<&'a Attributes>,
    }
    let row = Row {
        id: user.id,
        email: &user.email,
        created_at: user.created_at,
        last_login_at: user.last_login_at,
        storage_path: &user.storage_path,
        updated_at: user.updated_at,
        version: user.version,
        suspended_at: user.suspended_at,
        external_id: user.external_id.as_ref(),
        name: user.name.as_ref(),
        attributes: user.attributes.as_ref(),
    };
    row.serialize(serializer)
}

/// The result of [`Store::export_user`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedUser {
    /// The manifest of the archive.
    pub manifest: UserManifest,
    /// The size of the archive in bytes.
    pub archive_bytes: u64,
    /// Entries that could not be archived, at most 100 of them, with the path in the archive
    /// (`files/…`) and the reason: files that can't be read, or change during every attempt; the
    /// directory, if it is missing; sockets and devices; extended attributes that are too large.
    pub left_out: Vec<(PathBuf, String)>,
    /// The number of all such entries.
    pub incomplete: u64,
}

/// The result of [`Store::import_user`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedUser {
    /// The manifest of the archive, with the user as they are now.
    pub manifest: UserManifest,
    /// Extended attributes and ACLs that could not be set, at most 100 of them, with the path in
    /// the user's directory and the reason.
    pub left_out: Vec<(PathBuf, String)>,
    /// The number of all of them.
    pub incomplete: u64,
}

impl Store {
    /// Writes one user, with their row and their files, to an archive that doesn't exist, with the
    /// mode 0600. [`import_user`](Store::import_user) imports it into the same store or another.
    ///
    /// Other threads and processes can use the store and this user, but a purge, a backup and
    /// another export are `Busy`. The work runs on a thread of its own. The row is of one moment. A
    /// file is read at some moment after that, and again, up to three times, if it changes while it
    /// is read. Files are archived as in a [backup](Store::create_backup), and so are SQLite
    /// databases.
    ///
    /// The archive is tar in zstd, as a backup is, with `manifest.jsonl` and the user's directory
    /// as `files`, if there is one. It is written under a temporary name `.tenantry-export-…` in
    /// the same directory, and renamed once it is complete and synced. The next export into the
    /// directory removes the temporary files of a process that was killed. The archive keeps its
    /// content even if the user is purged.
    ///
    /// `progress` is called with the numbers of files and of bytes so far. It may end the export,
    /// as that of [`Store::create_backup`].
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user, or they are in the trash; `Exists` if the file exists;
    /// `Busy`; `Cancelled`; `StorageUnavailable`; `Full`, `ReadOnly`, `PermissionDenied`, `Io`,
    /// `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// # let other = tenantry::Store::open(dir.path().join("other")).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// let file = dir.path().join("ada.tar.zst");
    /// store.export_user(ada.id, &file, |_| {}).await?;
    /// let imported = other.import_user(&file, |_| {}).await?;
    /// assert_eq!(imported.manifest.user.id, ada.id);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn export_user<R: ProgressReply>(
        &self,
        id: UserId,
        file: impl Into<PathBuf>,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<ExportedUser> {
        let (engine, file, monitor) =
            (Arc::clone(self.engine()), file.into(), Monitor::new(progress));
        on_thread(move || monitor.explain(export(&engine, id, &file, &monitor))).await?
    }

    /// Creates a user out of an archive of [`export_user`](Store::export_user), with the same row
    /// and files: the same id, address, storage path, times and version. In the order of creation
    /// they come last.
    ///
    /// The archive may be forged, so everything is checked: the row is parsed as any other is, each
    /// file is compared with its hash, no more is written than the manifest announces, and nothing
    /// through a link. Modes, times, attributes and links are restored; owners, set-user-ID and
    /// set-group-ID aren't.
    ///
    /// The files are written into a stage, `.tenantry-import-…` in the data directory, on a thread
    /// of its own. Once all of them are synced, the row is created and the files become the user's
    /// directory, as one step: after a crash both exist at the next opening of the store, or
    /// neither. The next import removes stages that a crash has left. If the future is dropped, the
    /// user may be imported or not.
    ///
    /// An id and a storage path are never given out again, so a purged user can't be imported into
    /// the same store.
    ///
    /// `progress` is called with the numbers of files and of bytes so far. It may end the import,
    /// as that of [`Store::create_backup`].
    ///
    /// # Errors
    ///
    /// `EmailTaken`, `IdTaken` and `PathTaken` as of a [creation](Store::create), even if a user in
    /// the trash or a purged one has the id or the path; `StorageBlocked` if something exists at
    /// the storage path; `InvalidEmail`, `InvalidId`, `InvalidPath`, `InvalidTimestamp`,
    /// `InvalidUser` if the row has a value that no user can have; `NotFound` if the file doesn't
    /// exist; `Corrupt` if the archive differs from its manifest; `Incompatible` if it has another
    /// format or is a backup; `Cancelled`; `StorageUnavailable`; `Full`, `ReadOnly`,
    /// `PermissionDenied`, `Io`. In all these cases nothing was done and nothing is left.
    /// `Unfinished` if the user exists, but the files could not be moved to their place yet.
    ///
    /// # Examples
    ///
    /// See [`export_user`](Store::export_user).
    #[instrument(level = "debug", skip_all)]
    pub async fn import_user<R: ProgressReply>(
        &self,
        file: impl Into<PathBuf>,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<ImportedUser> {
        let (engine, file, monitor) =
            (Arc::clone(self.engine()), file.into(), Monitor::new(progress));
        let (mut manifest, stage, unset) = {
            let engine = Arc::clone(&engine);
            on_thread(move || monitor.explain(extract(&engine, &file, &monitor))).await??
        };
        let stage = stage.map(Arc::new);
        let new = NewUser::as_it_was(&manifest.user);
        // The last owner removes or keeps the stage, even if the future was dropped.
        let created = self.apply(CreateWithFiles(new, stage.clone())).await;
        if let Some(stage) = stage {
            stage.settle(created.as_ref().err()).await?;
        }
        manifest.user = created?;
        Ok(ImportedUser { manifest, left_out: unset.named, incomplete: unset.count })
    }
}

/// Reads the user of an archive, and nothing else of it. Whether the rest is complete is known only
/// when it is [imported](Store::import_user).
///
/// # Errors
///
/// Those of [`Store::import_user`] that concern the file and the values of the row.
#[instrument(level = "debug", skip_all)]
pub async fn read_user_manifest(file: impl Into<PathBuf>) -> Result<UserManifest> {
    let file = file.into();
    on_thread(move || container::peek(open(&file, MISSING, &Monitor::silent())?)).await?
}

fn export(engine: &Engine, id: UserId, file: &Path, monitor: &Monitor) -> Result<ExportedUser> {
    prepare(file, TEMPORARY)?;
    let storage = engine.storage()?;
    // Locked before the row is read: a user who was purged since would have no files.
    let _no_purges = storage.lock_out_purges(engine.busy_timeout())?;
    let exported_at = engine.now();
    let (store_id, user, directory) = engine.snapshot(|tx| {
        let (Some(user), Some(directory)) = (tx.user(id)?, tx.directory(id)?) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                match tx.trashed(id)? {
                    Some(_) => "the user is in the trash: restore them first",
                    None => "there is no such user",
                },
            ));
        };
        Ok((tx.store_id()?, user, directory))
    })?;
    let mut writer = ArchiveWriter::new(parent(file), monitor)?;
    // The directory at the derived path is theirs even if the row doesn't say so, as after a
    // restore of an older database.
    if directory.has_directory || user.storage_path == StoragePath::derived(id) {
        let is_found = storage
            .read_user(id, &user.storage_path, Path::new(FILES), |item| writer.take(item))?;
        if directory.has_directory && !is_found {
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
    Ok(ExportedUser {
        manifest,
        archive_bytes,
        left_out: writer.left_out,
        incomplete: writer.count,
    })
}

/// Unpacks the files of an archive into a stage, and syncs them. Returns no stage if the user had
/// no directory.
fn extract(
    engine: &Engine,
    file: &Path,
    monitor: &Monitor,
) -> Result<(UserManifest, Option<Stage>, LostAttributes)> {
    let archive = open(file, MISSING, monitor)?;
    let storage = engine.storage()?;
    let is_needed = |stage: &str| engine.needs_stage(stage);
    if let Err(error) = storage.clear_stages(&is_needed) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "what an import has left could not be removed"
        );
    }
    let stage = storage.stage(Purpose::New, || engine.new_id().to_string())?;
    let mut unpacking = stage.unpack()?;
    let mut reader = EntryReader::new(monitor);
    let mut seen = SeenPaths::default();
    let mut has_directory = false;
    let stage_dir = engine.data_dir().join(stage.name());
    let manifest =
        container::read(archive, &stage_dir, |_: &UserManifest, path, entry, details, input| {
            let below = below(path)?;
            // The directory itself comes first, and each other one before its entries.
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

/// Returns the path in the user's directory.
fn below(path: &Path) -> Result<&Path> {
    path.strip_prefix(FILES)
        .map_err(|_| damaged("the archive holds something that isn't a file of the user"))
}

impl Manifest for UserManifest {
    const KIND: Kind = Kind::User;
    const FORMAT: u32 = FORMAT;

    /// A value of the row that isn't valid fails with the kind of that value.
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
        // An unknown value must not be lost.
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
            suspended_at: Option<String>,
            external_id: Option<String>,
            name: Option<String>,
            attributes: Option<Box<RawValue>>,
        }
        let Line { store_id, exported_at, user, format, files, bytes, left_out } =
            container::understand(line)?;
        let user = User {
            id: user.id.parse()?,
            // The address was accepted by the store that it comes from.
            email: Email::parse_accepted(&user.email)?,
            created_at: user.created_at.parse()?,
            last_login_at: user.last_login_at.map(|time| time.parse()).transpose()?,
            storage_path: user.storage_path.parse()?,
            updated_at: user.updated_at.parse()?,
            version: user.version,
            suspended_at: user.suspended_at.map(|time| time.parse()).transpose()?,
            external_id: user.external_id.map(|id| id.parse()).transpose()?,
            name: user.name.map(|name| name.parse()).transpose()?,
            attributes: user.attributes.map(|json| json.get().parse()).transpose()?,
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

    /// Allows the directory `files` and its content.
    fn is_place(path: &Path, is_dir: bool) -> bool {
        path.starts_with(FILES) && (is_dir || path != Path::new(FILES))
    }
}
