//! Purging: destroys users in the trash, with their files.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::instrument;

use super::Store;
use crate::engine::verbs::{BeginPurge, BeginPurges, BegunPurge, EndPurges, Erase};
use crate::progress::Monitor;
use crate::storage::{Removal, TrashLock};
use crate::thread::on_thread;
use crate::{
    Error, ErrorKind, ListQuery, Progress, ProgressReply, Purge, Purged, Result, StoragePath,
    TrashQuery, UserId,
};

/// The state of a purge: its results so far, and the lock that it holds.
struct Run {
    monitor: Monitor,
    purged: Purged,
    /// Locks out backups. Without directories there is nothing that a backup could miss.
    no_backups: Option<Arc<TrashLock>>,
}

impl Store {
    /// Destroys users in the trash: their files, and every trace of their rows in the database and
    /// its WAL, except for the id and a digest of the storage path, which are never given out
    /// again. Rows of the application's tables that refer to them with `ON DELETE CASCADE` are
    /// deleted too.
    ///
    /// The files are removed on a thread of its own, which calls `progress` after each 1,000 files.
    /// Then the database is rewritten as a whole, in memory, and other writers wait for that (a
    /// second or two, and 160 MB, for a million users). If the future is dropped before the end,
    /// `progress` returns `Break` or something fails, the remaining users stay in the trash,
    /// marked: they can only be purged, and the next opening of the store continues. Traces of the
    /// others are erased even so; if the future is dropped, by the next purge or opening.
    ///
    /// The disk may keep overwritten data, and backups and exports keep what they hold.
    ///
    /// # Errors
    ///
    /// - `NotFound` if there is no such user in the trash.
    /// - `Constraint` if a row of the application's tables refers to them otherwise. Then nothing
    ///   was done.
    /// - `StorageBlocked` if something else is at their storage path.
    /// - `Busy` while a backup is made, and `StorageUnavailable`.
    /// - `Unfinished` if their directory can't be moved to the trash, or if their files are removed
    ///   and that can't be recorded.
    /// - `Cancelled` if `progress` has ended it.
    ///
    /// Files that could not be removed are listed in [`Purged::left`], and a failed rewrite is in
    /// [`Purged::not_erased`]. Neither is an `Err`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tenantry::Purge;
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// store.delete(ada.id).await?;
    /// let purged = store.purge(Purge::User(ada.id), |_| {}).await?;
    /// assert!(purged.left.is_empty());
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn purge<R: ProgressReply>(
        &self,
        selection: Purge,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<Purged> {
        let no_backups = match self.engine.storage() {
            Ok(storage) => Some(Arc::new(storage.lock_out_backups(self.engine.busy_timeout())?)),
            Err(_) => None,
        };
        let mut run =
            Run { monitor: Monitor::new(progress), purged: Purged::default(), no_backups };
        if let Err(error) = self.purge_selected(selection, &mut run).await {
            if run.purged.users > 0 {
                // Its failure is logged, and recorded for the next opening.
                let _ = self.apply(Erase()).await;
            }
            return Err(error);
        }
        run.purged.not_erased = self.apply(Erase()).await.err();
        Ok(run.purged)
    }

    /// Destroys users and their files. Traces of their rows are left to be erased, even after a
    /// failure.
    async fn purge_selected(&self, selection: Purge, run: &mut Run) -> Result<()> {
        let moment = match selection {
            Purge::User(id) => {
                let path = self.apply(BeginPurge(id)).await?;
                return self.end_purge(vec![(id, Ok(path))], run).await;
            }
            Purge::DeletedBefore(moment) => moment,
        };
        let mut query = TrashQuery {
            limit: ListQuery::MAX_LIMIT,
            deleted_before: Some(moment),
            ..TrashQuery::default()
        };
        loop {
            let page = self.engine.list_trash(query.clone()).await?;
            let ids = page.users.into_iter().map(|trashed| trashed.user.id).collect();
            let begun = self.apply(BeginPurges(ids)).await?;
            self.end_purge(begun, run).await?;
            if page.next_cursor.is_none() {
                return Ok(());
            }
            query.cursor = page.next_cursor;
        }
    }

    /// Removes the files of users whose purge has begun, and then their rows. Some had no files,
    /// and were destroyed when it began.
    async fn end_purge(&self, begun: Vec<BegunPurge>, run: &mut Run) -> Result<()> {
        let mut with_files = Vec::new();
        for (user, path) in begun {
            match path {
                Ok(Some(path)) => with_files.push((user, path)),
                Ok(None) => run.purged.users += 1,
                // The others are not concerned.
                Err(error) => run.purged.leave(user, PathBuf::new(), io::Error::other(error)),
            }
        }
        let removals = self.remove_files(with_files, run).await?;
        let mut ended = Vec::new();
        for (user, removal) in removals {
            match removal {
                Err(error) => run.purged.leave(user, PathBuf::new(), io::Error::other(error)),
                Ok(removal) => {
                    if removal.is_complete() {
                        ended.push(user);
                    }
                    removal
                        .left
                        .into_iter()
                        .for_each(|(path, error)| run.purged.leave(user, path, error));
                    run.purged.files += removal.files;
                    run.purged.elsewhere += u64::from(removal.is_elsewhere);
                }
            }
        }
        if !ended.is_empty() {
            // Whatever the reason: their files are gone, and the intent to purge them stays.
            run.purged.users += self.apply(EndPurges(ended)).await.map_err(|error| {
                let message = "the files are removed, but the users may still be in the trash: the next opening \
                               tries again";
                Error::new(ErrorKind::Unfinished, message).with_source(error)
            })?;
        }
        run.monitor.check()
    }

    /// Removes the files of users on a thread of its own, and goes on even if the future is
    /// dropped. Leaves out users once the caller has ended the purge.
    async fn remove_files(
        &self,
        users: Vec<(UserId, StoragePath)>,
        run: &Run,
    ) -> Result<Vec<(UserId, Result<Removal>)>> {
        let (engine, monitor, no_backups) =
            (Arc::clone(&self.engine), run.monitor.clone(), run.no_backups.clone());
        let mut files = run.purged.files;
        on_thread(move || {
            let _no_backups = no_backups;
            let mut removals = Vec::new();
            for (id, path) in users {
                let on_removed = |removed| {
                    let progress = Progress { files: files + removed, ..Progress::default() };
                    if monitor.report(progress).is_err() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                let removal =
                    engine.storage().and_then(|storage| storage.remove(id, &path, &on_removed));
                files += removal.as_ref().map_or(0, |removal| removal.files);
                removals.push((id, removal));
                if monitor.is_ended() {
                    break;
                }
            }
            removals
        })
        .await
    }
}
