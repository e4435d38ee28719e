//! Backups of a whole store: an archive with an image of the database and the files of all users.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::instrument;
use uuid::Uuid;

use super::container::{self, unwritable};
use super::entry::What;
use super::format::{self, Kind, damaged};
use super::input::Input;
use super::reader::{EntryReader, SeenPaths, open};
use super::temporary::{self, Image, PrivateDir, parent};
use super::writer::{ArchiveWriter, finish, prepare};
use crate::check::check_database;
use crate::engine::{ENGINE_FILES, Engine, Inspection, Row};
use crate::options::Options;
use crate::progress::{Monitor, Progress, ProgressReply, STEPS_BETWEEN};
use crate::storage::{LostAttributes, Ownership, Storage, Target, owner_of_store, wait_for_file};
use crate::thread::on_thread;
use crate::{CheckReport, Error, ErrorKind, Finding, FindingKind, Result, Store, Timestamp, check};

/// The version of the format.
const FORMAT: u32 = 2;
/// The beginning of the names of temporary files and directories.
const TEMPORARY: &str = ".tenantry-backup-";
/// The message about a missing archive.
pub(super) const MISSING: &str = "there is no such backup";

/// The first line of a backup's manifest, which describes it as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupManifest {
    /// The version of the archive's format, 1 or 2. Archives of format 2 are written.
    pub format: u32,
    /// The store that was backed up.
    pub store_id: Uuid,
    /// The version of the database's schema.
    pub schema_version: u32,
    /// The moment of the database's image.
    pub created_at: Timestamp,
    /// Whether the users' files were left out.
    pub database_only: bool,
    /// The number of users outside the trash.
    pub users: u64,
    /// The number of users in the trash.
    pub trashed: u64,
    /// The number of files, including the database.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes: u64,
    /// The number of entries that were left out: see [`Backup::left_out`].
    pub left_out: u64,
}

impl format::Manifest for BackupManifest {
    const KIND: Kind = Kind::Backup;
    const FORMAT: u32 = FORMAT;

    fn parse(line: &[u8]) -> Result<Self> {
        container::understand(line)
    }

    fn format(&self) -> u32 {
        self.format
    }

    fn totals(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// Allows the database, and everything below `storage/` or `trash/`.
    fn is_place(path: &Path, is_dir: bool) -> bool {
        let is_below = |root| path.starts_with(root) && path != Path::new(root);
        if path == Path::new(ENGINE_FILES.database) {
            !is_dir
        } else {
            is_below("storage") || is_below("trash")
        }
    }
}

/// The content of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupOptions {
    /// Leave out the users' files. The manifest records that.
    pub database_only: bool,
}

/// The result of [`Store::create_backup`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The manifest of the backup.
    pub manifest: BackupManifest,
    /// The size of the archive in bytes.
    pub archive_bytes: u64,
    /// Entries that could not be archived, at most 100 of them, with the reasons: files that can't
    /// be read, or change during every attempt; missing directories; sockets and devices; extended
    /// attributes that are too large.
    pub left_out: Vec<(PathBuf, String)>,
    /// The number of all such entries.
    pub incomplete: u64,
}

/// The result of [`verify_backup`], which has compared every hash.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The manifest of the backup.
    pub manifest: BackupManifest,
    /// The findings of a check of the database's image.
    pub findings: Vec<Finding>,
    /// The number of users who have a directory according to the database, but none in the archive.
    pub missing_directories: u64,
}

/// The result of [`restore_backup`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The manifest of the backup.
    pub manifest: BackupManifest,
    /// The result of a check of the restored store. After a backup without the users' files, it
    /// reports their directories as lost.
    pub report: CheckReport,
    /// Extended attributes and ACLs that could not be set, at most 100 of them, with the path in
    /// the archive and the reason.
    pub left_out: Vec<(PathBuf, String)>,
    /// The number of all of them.
    pub incomplete: u64,
}

impl Store {
    /// Writes a backup of the store to a file that doesn't exist, with the mode 0600.
    ///
    /// Other threads and processes can use the store, except that a purge and a backup exclude each
    /// other
    /// (`Busy`). The work runs on a thread of its own.
    ///
    /// The database's image is of one moment. A user's file is read at some moment after that, and
    /// again, up to three times, if it changes while it is read. It is archived with its holes,
    /// mode, time of modification, owner, extended attributes (`user.…`) and POSIX ACLs, symbolic
    /// links as links, and hard links within one user. A user's SQLite database is copied as of one
    /// moment, with its WAL, while other processes write to it. (A process loses its POSIX locks on
    /// a file when it closes another descriptor of it. So back up databases that several processes
    /// write to from a process that has none of them open.)
    ///
    /// The archive is tar in zstd: `tar --zstd -tf` lists it. It is written under a temporary name
    /// `.tenantry-backup-…` in the same directory, and renamed once it is complete and synced.
    /// Nothing is written elsewhere. The next backup into the directory removes the temporary files
    /// of a process that was killed.
    ///
    /// `progress` is called with the numbers of files and of bytes so far. A callback that returns
    /// a [`ControlFlow`](std::ops::ControlFlow) is also called in between, and `Break` ends the
    /// backup soon. No archive is left then.
    ///
    /// # Errors
    ///
    /// `Exists` if the file exists; `Busy`; `Cancelled`; `StorageUnavailable`; `Full`, `ReadOnly`,
    /// `PermissionDenied`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// let file = dir.path().join("backup.tar.zst");
    /// let backup = store.create_backup(&file, tenantry::BackupOptions::default(), |_| {}).await?;
    /// assert_eq!(backup.incomplete, 0);
    /// let verified = tenantry::verify_backup(&file, |_| {}).await?;
    /// assert_eq!(verified.manifest, backup.manifest);
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn create_backup<R: ProgressReply>(
        &self,
        file: impl Into<PathBuf>,
        options: BackupOptions,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<Backup> {
        let (engine, file, monitor) =
            (Arc::clone(self.engine()), file.into(), Monitor::new(progress));
        on_thread(move || monitor.explain(create(&engine, &file, options, &monitor))).await?
    }
}

/// Reads a whole backup, compares each hash, and checks the image of the database.
///
/// The image needs space in the system's directory for temporary files or, if that can't be used,
/// in the archive's. Nothing is left of it there even if the process is killed. `progress` may end
/// it, as that of [`Store::create_backup`].
///
/// # Errors
///
/// `NotFound` if the file doesn't exist; `PermissionDenied` if the process may not read it;
/// `Corrupt` if the archive differs from its manifest; `Incompatible` if it has another format or
/// comes from a newer store; `Cancelled`, `Io`, `Full`.
#[instrument(level = "debug", skip_all)]
pub async fn verify_backup<R: ProgressReply>(
    file: impl Into<PathBuf>,
    progress: impl Fn(Progress) -> R + Send + 'static,
) -> Result<VerifyReport> {
    let (file, monitor) = (file.into(), Monitor::new(progress));
    on_thread(move || monitor.explain(verify(&file, &monitor))).await?
}

/// Restores a backup into a directory that is empty or doesn't exist. The empty `lost+found` of a
/// new volume doesn't count.
///
/// Everything is written below a hidden name in the directory itself, checked there, and moved up
/// once it is complete and synced, the database last. So the directory may be a mounted volume, its
/// parent need not be writable, and a crash leaves no store that opens, or the whole store. The
/// next restore into the directory removes the leftovers of a crash, in `.tenantry-restore-…` and
/// beside it.
///
/// A directory that exists keeps its mode and owner. If root restores into a directory of another
/// owner, everything in it gets that owner. The permissions in the archive aren't trusted:
/// everything is accessible for its owner alone.
///
/// `progress` may end it, as that of [`Store::create_backup`], until the first part is moved up.
///
/// # Errors
///
/// `NotEmpty` if the directory isn't empty, or another program puts something into it; `Busy` if
/// another restore into it is in progress; those of [`verify_backup`]. In all cases nothing is
/// left.
#[instrument(level = "debug", skip_all)]
pub async fn restore_backup<R: ProgressReply>(
    file: impl Into<PathBuf>,
    into: impl Into<PathBuf>,
    progress: impl Fn(Progress) -> R + Send + 'static,
) -> Result<RestoreReport> {
    let (file, into, monitor) = (file.into(), into.into(), Monitor::new(progress));
    let extracting = monitor.clone();
    let extracted = on_thread(move || extracting.explain(extract(&file, &into, &extracting)));
    let (target, manifest, unset) = extracted.await??;
    let data_dir = target.data_dir();
    // Opening it settles the database's journal mode and its intents.
    let opening = Store::builder(&data_dir).create_if_missing(false).snapshot_before_upgrade(false);
    // It isn't in its place yet. An opening there checks its file system.
    let opened = opening.allow_network_fs(true).open().await;
    opened.map_err(image_failure)?.close().await?;
    let report = check(&data_dir).await.map_err(image_failure)?;
    let store_id = manifest.store_id;
    let placed = on_thread(move || {
        monitor.check()?;
        target.place(store_id)
    });
    placed.await??;
    Ok(RestoreReport { manifest, report, left_out: unset.named, incomplete: unset.count })
}

fn create(
    engine: &Arc<Engine>,
    file: &Path,
    options: BackupOptions,
    monitor: &Monitor,
) -> Result<Backup> {
    prepare(file, TEMPORARY)?;
    // Locked before the image is made: a user who is in it and was purged since would have no
    // files.
    let storage = if options.database_only { None } else { Some(engine.storage()?) };
    let _no_purges =
        storage.map(|storage| storage.lock_out_purges(engine.busy_timeout())).transpose()?;
    let temp = PrivateDir::new(TEMPORARY, parent(file)).map_err(unwritable)?;
    let created_at = engine.now();
    let asked = monitor.clone();
    engine.write_image(
        &temp.path().join(ENGINE_FILES.database),
        (STEPS_BETWEEN, move || asked.is_ended()),
    )?;
    let inspection = Inspection::open(&Options::existing(temp.path().to_owned()))?;

    let mut writer = ArchiveWriter::new(temp.path(), monitor)?;
    let image = File::open(temp.path().join(ENGINE_FILES.database)).map_err(unwritable)?;
    let owner = owner_of_store(engine.data_dir(), ENGINE_FILES).map_err(unwritable)?;
    writer.take_image(Path::new(ENGINE_FILES.database), owner, &image)?;
    let (mut users, mut trashed) = (0, 0);
    inspection.each_row(|Row { id, path, has_directory, is_trashed, .. }| {
        *if is_trashed { &mut trashed } else { &mut users } += 1;
        let (Some(storage), Some(path), true) = (storage, path, has_directory) else {
            return Ok(());
        };
        let goes_to =
            if is_trashed { Storage::relative_trash(id) } else { Storage::relative(&path) };
        if !storage.read_user(id, &path, &goes_to, |item| writer.take(item))? {
            writer.leave_out(goes_to, "the directory is missing".to_owned());
        }
        Ok(())
    })?;
    let manifest = BackupManifest {
        format: FORMAT,
        store_id: inspection.identity()?.map(|(id, _)| id).unwrap_or_default(),
        schema_version: inspection.schema_version()?,
        created_at,
        database_only: options.database_only,
        users,
        trashed,
        files: writer.body.files,
        bytes: writer.body.bytes,
        left_out: writer.count,
    };
    let archive_bytes = finish(writer.body, &manifest, file, TEMPORARY)?;
    Ok(Backup { manifest, archive_bytes, left_out: writer.left_out, incomplete: writer.count })
}

fn verify(file: &Path, monitor: &Monitor) -> Result<VerifyReport> {
    let mut archive = Some(open(file, MISSING, monitor)?);
    temporary::with_dir(file, |dir| {
        let archive = archive.take().map_or_else(|| open(file, MISSING, monitor), Ok)?;
        verify_in(dir, archive, monitor)
    })
}

fn verify_in(temp_dir: &Path, archive: Input, monitor: &Monitor) -> Result<VerifyReport> {
    let mut contents = Contents::default();
    let mut reader = EntryReader::new(monitor);
    let manifest =
        container::read(archive, temp_dir, |_: &BackupManifest, path, entry, details, input| {
            match entry.plain() {
                Some(content) if path == Path::new(ENGINE_FILES.database) => {
                    return contents.take_database(monitor, || {
                        let mut image = Image::new(temp_dir)?;
                        reader.copy(content, input, &mut image)?;
                        image.open()
                    });
                }
                _ => contents.admit(path, &details.what)?,
            }
            reader.check(entry, input)
        })?;
    let inspection = contents.image()?;
    check_against(&manifest, inspection)?;
    let report = check_database(inspection).map_err(image_failure)?;
    let mut expected: u64 = 0;
    inspection.each_row(|row| {
        expected += u64::from(row.has_directory);
        Ok(())
    })?;
    let missing_directories = if manifest.database_only {
        expected
    } else {
        expected.saturating_sub(contents.directories)
    };
    Ok(VerifyReport { manifest, findings: report.findings, missing_directories })
}

/// The content of an archive so far.
#[derive(Default)]
struct Contents {
    /// The image of the database, which comes first.
    image: Option<Inspection>,
    seen: SeenPaths,
    /// The number of users' directories.
    directories: u64,
}

impl Contents {
    fn image(&self) -> Result<&Inspection> {
        self.image.as_ref().ok_or_else(|| damaged("the backup does not begin with the database"))
    }

    /// Reading the database fails as soon as the caller has ended the operation.
    fn take_database(
        &mut self,
        monitor: &Monitor,
        take: impl FnOnce() -> Result<Inspection>,
    ) -> Result<()> {
        if self.image.is_some() {
            return Err(damaged("there is more than one database in the archive"));
        }
        let mut image = take().map_err(image_failure)?;
        let monitor = monitor.clone();
        image.end_if(STEPS_BETWEEN, move || monitor.is_ended())?;
        self.image = Some(image);
        Ok(())
    }

    /// Refuses everything but the directories of users and their content, each directory before its
    /// entries, and nothing twice.
    fn admit(&mut self, path: &Path, what: &What) -> Result<()> {
        if !self.seen.is_in_directory(path) {
            if !(*what == What::Directory
                && self.image()?.is_user_directory(path).map_err(image_failure)?)
            {
                return Err(damaged("the archive holds something that is in no user's directory"));
            }
            self.directories += 1;
        }
        self.seen.add(path, what)
    }
}

/// Returns the failure to use the database of an archive, which may be forged.
pub(super) fn image_failure(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt
        | ErrorKind::Incompatible
        | ErrorKind::Io
        | ErrorKind::Full
        | ErrorKind::ReadOnly
        | ErrorKind::PermissionDenied => error,
        _ => damaged("the database in the archive can't be used").with_source(error),
    }
}

/// Fails unless the manifest and the image agree.
pub(super) fn check_against(manifest: &BackupManifest, image: &Inspection) -> Result<()> {
    let store_id = image.identity().map_err(image_failure)?.map(|(id, _)| id);
    if store_id != Some(manifest.store_id) || image.schema_version()? != manifest.schema_version {
        return Err(damaged(
            "the manifest and the database in the archive belong to different stores",
        ));
    }
    // The intents that the opening of the store would execute.
    image.intents().map_err(image_failure)?;
    let (mut users, mut trashed) = (0, 0);
    let counted = image.each_row(|row| {
        *if row.is_trashed { &mut trashed } else { &mut users } += 1;
        Ok(())
    });
    counted.map_err(image_failure)?;
    if (users, trashed) != (manifest.users, manifest.trashed) {
        return Err(damaged(
            "the manifest announces another number of users than the database holds",
        ));
    }
    Ok(())
}

/// Unpacks a backup in its target directory.
fn extract(
    file: &Path,
    into: &Path,
    monitor: &Monitor,
) -> Result<(Target, BackupManifest, LostAttributes)> {
    let archive = open(file, MISSING, monitor)?;
    let target = Target::open(into, ENGINE_FILES)?;
    let data_dir = target.data_dir();
    let mut reader = EntryReader::new(monitor);
    let mut contents = Contents::default();
    let (mut storage, mut former) = (None, None);
    let manifest = container::read(
        archive,
        &data_dir,
        |manifest: &BackupManifest, path, entry, details, input| {
            match entry.plain() {
                Some(content) if path == Path::new(ENGINE_FILES.database) => {
                    former = Some((details.attributes.owner, details.attributes.group));
                    let database = data_dir.join(ENGINE_FILES.database);
                    return contents.take_database(monitor, || {
                        let owner = Ownership::for_store(&data_dir, ENGINE_FILES)
                            .map_err(|error| target.unusable(error))?;
                        let mut output =
                            owner.make_file(&database).map_err(|error| target.unusable(error))?;
                        reader.copy(content, input, &mut output)?;
                        wait_for_file(&output).map_err(|error| target.unusable(error))?;
                        Inspection::open_image(&database)
                    });
                }
                _ => contents.admit(path, &details.what)?,
            }
            let (_, unpacking) = match &mut storage {
                Some(storage) => storage,
                none => {
                    let storage = make_storage(&target, manifest)?;
                    let unpacking = storage.unpack(former)?;
                    none.insert((storage, unpacking))
                }
            };
            reader.unpack(unpacking, path, entry, details, input)
        },
    )?;
    let (storage, unset) = match storage {
        Some((storage, unpacking)) => (storage, unpacking.finish()?),
        None => (make_storage(&target, &manifest)?, LostAttributes::default()),
    };
    storage.wait_for_disk("restore a backup: sync the files")?;
    let inspection = contents.image()?;
    check_against(&manifest, inspection)?;
    if check_database(inspection)
        .map_err(image_failure)?
        .findings
        .iter()
        .any(|finding| finding.kind == FindingKind::DatabaseDamaged)
    {
        return Err(damaged("the database in the archive is damaged"));
    }
    Ok((target, manifest, unset))
}

/// Makes the directories of a store that is being restored. Unlike an opening it can't do without
/// them, so it reports the cause.
fn make_storage(target: &Target, manifest: &BackupManifest) -> Result<Storage> {
    Storage::open(&target.data_dir(), ENGINE_FILES, manifest.store_id, false).map_err(|error| {
        let source =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        match source.and_then(io::Error::raw_os_error) {
            Some(code) => target.unusable(io::Error::from_raw_os_error(code)),
            None => error,
        }
    })
}
