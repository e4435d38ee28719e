//! Purging: users in the trash are destroyed, with their files.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::instrument;

use super::Store;
use crate::engine::verbs::{BeginPurge, BeginPurges, BegunPurge, EndPurges, Erase};
use crate::storage::{Removal, TrashLock};
use crate::thread::on_thread;
use crate::{Error, ErrorKind, ListQuery, Purge, Purged, Result, StoragePath, TrashQuery, UserId};

impl Store {
    /// Destroys users in the trash for good: their files, and every trace of their rows in the
    /// database and its log, except for the id and a digest of the storage path, which nobody is
    /// ever given again. Rows of the application's tables that refer to them with `ON DELETE
    /// CASCADE` go with them.
    ///
    /// The files are removed on a thread of their own, and `progress` is called now and then with
    /// their number so far. Then the database is rewritten as a whole, in memory, and nobody else
    /// can write meanwhile (a second or two, and 160 MB, for a million users). If the future is
    /// dropped before the end, or something goes wrong, the users concerned stay in the trash,
    /// marked; they can only be purged, and the next opening of the store goes on with it.
    ///
    /// The disk may keep what was overwritten, and backups and exports keep what they hold.
    ///
    /// Errors: `NotFound` if there is no such user in the trash; `Constraint` if a row of the
    /// application's tables refers to them otherwise, in which case nothing was done;
    /// `StorageBlocked` if something stands at their storage path; `Busy` while a backup is made;
    /// `StorageUnavailable`; `Unfinished` if their directory can't be brought to the trash, or if
    /// their files are removed and that can't be recorded. Files that could not be removed are no
    /// error but in [`Purged::left`], and that the database could not be rewritten yet is in
    /// [`Purged::not_erased`].
    #[instrument(level = "debug", skip_all)]
    pub async fn purge(&self, whom: Purge, progress: impl Fn(u64) + Send + Sync + 'static) -> Result<Purged> {
        let progress = Arc::new(progress);
        let mut purged = Purged::default();
        // Without directories there is nothing that a backup could miss.
        let no_backups = match self.engine.storage() {
            Ok(storage) => Some(Arc::new(storage.lock_out_backups(self.engine.busy_timeout())?)),
            Err(_) => None,
        };
        match whom {
            Purge::User(id) => {
                let path = self.engine.apply(BeginPurge(id)).await?;
                self.end_purge(vec![(id, Ok(path))], &mut purged, &progress, no_backups.as_ref()).await?;
            }
            Purge::DeletedBefore(moment) => {
                let mut query =
                    TrashQuery { limit: ListQuery::MAX_LIMIT, deleted_before: Some(moment), ..TrashQuery::default() };
                loop {
                    let page = self.engine.list_trash(query.clone()).await?;
                    let ids: Vec<UserId> = page.users.into_iter().map(|trashed| trashed.user.id).collect();
                    let begun = self.engine.apply(BeginPurges(ids)).await?;
                    self.end_purge(begun, &mut purged, &progress, no_backups.as_ref()).await?;
                    if page.next_cursor.is_none() {
                        break;
                    }
                    query.cursor = page.next_cursor;
                }
            }
        }
        purged.not_erased = self.engine.apply(Erase()).await.err();
        Ok(purged)
    }

    /// Removes the files of users whose purge has begun, and then their rows. Some had no files,
    /// and are gone already.
    async fn end_purge(
        &self,
        begun: Vec<BegunPurge>,
        purged: &mut Purged,
        progress: &Arc<impl Fn(u64) + Send + Sync + 'static>,
        no_backups: Option<&Arc<TrashLock>>,
    ) -> Result<()> {
        let mut with_files = Vec::new();
        for (user, path) in begun {
            match path {
                Ok(Some(path)) => with_files.push((user, path)),
                Ok(None) => purged.users += 1,
                // The others are not concerned.
                Err(error) => purged.leave(user, PathBuf::new(), io::Error::other(error)),
            }
        }
        let removals = self.remove_files(with_files, purged.files, Arc::clone(progress), no_backups.cloned()).await?;
        let mut ended = Vec::new();
        for (user, removal) in removals {
            match removal {
                Err(error) => purged.leave(user, PathBuf::new(), io::Error::other(error)),
                Ok(removal) => {
                    if removal.is_complete() {
                        ended.push(user);
                    }
                    removal.left.into_iter().for_each(|(path, error)| purged.leave(user, path, error));
                    purged.files += removal.files;
                    purged.elsewhere += u64::from(removal.is_elsewhere);
                }
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        // Whatever the reason: their files are gone, and the intent to purge them stays.
        purged.users += self.engine.apply(EndPurges(ended)).await.map_err(|error| {
            let message = "the files are removed, but the users may still be in the trash: it is tried again when the store is opened";
            Error::new(ErrorKind::Unfinished, message).with_source(error)
        })?;
        Ok(())
    }

    /// Removes the files of users on a thread of its own, and goes on even if the future is
    /// dropped.
    async fn remove_files(
        &self,
        users: Vec<(UserId, StoragePath)>,
        mut files: u64,
        progress: Arc<impl Fn(u64) + Send + Sync + 'static>,
        no_backups: Option<Arc<TrashLock>>,
    ) -> Result<Vec<(UserId, Result<Removal>)>> {
        let engine = Arc::clone(&self.engine);
        on_thread(move || {
            let _no_backups = no_backups;
            let remove = |(id, path)| {
                let progress = |removed| progress(files + removed);
                let removal = engine.storage().and_then(|storage| storage.remove(id, &path, &progress));
                files += removal.as_ref().map_or(0, |removal| removal.files);
                (id, removal)
            };
            users.into_iter().map(remove).collect()
        })
        .await
    }
}
