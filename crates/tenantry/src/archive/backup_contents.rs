//! The users in a backup.

use std::fmt;
use std::path::{Path, PathBuf};

use tracing::instrument;

use super::backup::{BackupManifest, MISSING, check_against, image_failure};
use super::container;
use super::format::damaged;
use super::input::Input;
use super::reader::{EntryReader, open};
use super::temporary::{self, Image};
use crate::content::Content;
use crate::engine::{ENGINE_FILES, Inspection};
use crate::progress::Monitor;
use crate::storage::Storage;
use crate::thread::on_thread;
use crate::{
    Email, Error, ErrorKind, ListQuery, Page, Result, TrashPage, TrashQuery, TrashedUser, User,
    UserId,
};

/// The users in a backup, as they were when it was made. They are read without a store.
///
/// The image of the database is in a file without a name, not in memory.
pub struct BackupContents {
    pub(super) file: PathBuf,
    pub(super) manifest: BackupManifest,
    /// The length and hash of the database in the archive.
    pub(super) database: Content,
    image: Inspection,
}

/// Reads the database of a backup, and nothing else of it. Whether the users' files are complete is
/// known only when the backup is [verified](super::verify_backup) or restored.
///
/// # Errors
///
/// Those of [`verify_backup`](super::verify_backup).
#[instrument(level = "debug", skip_all)]
pub async fn open_backup(file: impl Into<PathBuf>) -> Result<BackupContents> {
    let file = file.into();
    on_thread(move || {
        let monitor = Monitor::silent();
        let mut archive = Some(open(&file, MISSING, &monitor)?);
        let (manifest, database, image) = temporary::with_dir(&file, |dir| {
            let archive = archive.take().map_or_else(|| open(&file, MISSING, &monitor), Ok)?;
            read_image(dir, archive, &monitor)
        })?;
        Ok(BackupContents { file, manifest, database, image })
    })
    .await?
}

/// Reads an archive up to the end of the database, which comes first.
fn read_image(
    temp_dir: &Path,
    archive: Input,
    monitor: &Monitor,
) -> Result<(BackupManifest, Content, Inspection)> {
    let no_database = || damaged("the backup does not begin with the database");
    let mut found = None;
    let read =
        container::read(archive, temp_dir, |manifest: &BackupManifest, path, entry, _, input| {
            let Some(content) = entry.plain().filter(|_| path == Path::new(ENGINE_FILES.database))
            else {
                return Err(no_database());
            };
            let mut image = Image::new(temp_dir)?;
            EntryReader::new(monitor).copy(content, input, &mut image)?;
            let image = image.open().map_err(image_failure)?;
            check_against(manifest, &image)?;
            found = Some((manifest.clone(), content.clone(), image));
            // The rest isn't read.
            Err(Error::new(ErrorKind::Internal, "the database was read"))
        });
    match (found, read) {
        (Some(found), _) => Ok(found),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(no_database()),
    }
}

impl BackupContents {
    /// Returns the manifest of the archive.
    #[must_use]
    pub fn manifest(&self) -> &BackupManifest {
        &self.manifest
    }

    /// Returns a page of the users who weren't in the trash, as [`Store::list`](crate::Store::list)
    /// does. It blocks until it has read them.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`, `InvalidCursor`, `Io`, `Corrupt`.
    pub fn list(&self, query: &ListQuery) -> Result<Page> {
        self.image.list(query)
    }

    /// Returns a page of the users in the trash, as [`Store::list_trash`](crate::Store::list_trash)
    /// does.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`, `InvalidCursor`, `Io`, `Corrupt`.
    pub fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        self.image.list_trash(query)
    }

    /// Returns the user with this id who wasn't in the trash.
    ///
    /// # Errors
    ///
    /// `Io`, `Corrupt`.
    pub fn get(&self, id: UserId) -> Result<Option<User>> {
        self.image.get(id)
    }

    /// Returns the user with this address who wasn't in the trash.
    ///
    /// # Errors
    ///
    /// `Io`, `Corrupt`.
    pub fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        self.image.get_by_email(email)
    }

    /// Returns the user in the trash with this id.
    ///
    /// # Errors
    ///
    /// `Io`, `Corrupt`.
    pub fn get_trashed(&self, id: UserId) -> Result<Option<TrashedUser>> {
        self.image.get_trashed(id)
    }

    /// Returns the row of a user, in the trash or not, with the path of their directory in the
    /// archive.
    pub(super) fn row(&self, id: UserId) -> Result<Option<(User, PathBuf)>> {
        if let Some(user) = self.image.get(id)? {
            let place = Storage::relative(&user.storage_path);
            return Ok(Some((user, place)));
        }
        let trashed = self.image.get_trashed(id)?;
        Ok(trashed.map(|trashed| (trashed.user, Storage::relative_trash(id))))
    }
}

impl fmt::Debug for BackupContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupContents").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}
