//! The users' directories: handles to them, adoption, and what they take.

use std::io;
use std::path::PathBuf;

use cap_std::fs::Dir;
use tracing::instrument;

use super::Store;
use crate::engine::verbs::{AdjustUsage, Adopt, MakeDirectory, SetUsage, Settle};
use crate::progress::Monitor;
use crate::storage::Storage;
use crate::thread::on_thread;
use crate::{
    Error, ErrorKind, Progress, ProgressReply, Result, StoragePath, Timestamp, Usage, UsageChange,
    User, UserId,
};

impl Store {
    /// Returns a handle to the directory of a user, beneath which nothing can escape. The directory
    /// is made when it is first asked for.
    ///
    /// The handle is opened from the store's own, in one step in which the kernel refuses every
    /// symbolic link ([`openat2`](https://man7.org/linux/man-pages/man2/openat2.2.html)). Where
    /// that call isn't allowed, each segment is opened without following a link. The handle's
    /// methods follow links only within the directory. It stays valid while the user is deleted and
    /// restored; files that are written through it after the delete are in the trash with the
    /// others.
    ///
    /// # Errors
    ///
    /// - `NotFound`.
    /// - `Unfinished` if the directory is to be moved and can't be.
    /// - `StorageLost` if it was made once and is missing.
    /// - `StorageBlocked` if a symbolic link or something else is in the way, or if the store
    ///   didn't make the directory at a chosen path (see [`adopt`](Store::adopt)).
    /// - `StorageUnavailable`.
    /// - `Full`, `ReadOnly`, `Io` if it can't be made.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// # use tenantry::{Store, User};
    /// # async fn example(store: Store, ada: User) -> Result<(), Box<dyn Error>> {
    /// let files = store.directory(ada.id).await?;
    /// files.write("notes.txt", "hello")?;
    /// assert!(files.open("../someone-else/notes.txt").is_err());
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn directory(&self, id: UserId) -> Result<Dir> {
        loop {
            if let Some(dir) = self.existing_directory(id).await? {
                return Ok(dir);
            }
            self.apply(MakeDirectory(id)).await?;
        }
    }

    /// Returns the directory of a user as [`directory`](Self::directory) does, or `None` if it
    /// wasn't asked for yet and so doesn't exist.
    ///
    /// # Errors
    ///
    /// Those of [`directory`](Self::directory), except those of making it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// if let Some(files) = store.existing_directory(ada.id).await? {
    ///     println!("{} entries", files.entries()?.count());
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn existing_directory(&self, id: UserId) -> Result<Option<Dir>> {
        let mut is_settled = false;
        loop {
            let directory = self.engine.directory(id).await?;
            let directory = directory.ok_or_else(no_such_user)?;
            let storage = self.engine.storage()?;
            if !directory.has_directory {
                return Ok(None);
            }
            match storage.dir(&directory.path) {
                // It may just be on its way to or from the trash.
                Err(error) if error.kind() == ErrorKind::StorageLost && !is_settled => {
                    self.apply(Settle(id)).await?;
                    is_settled = true;
                }
                dir => return Ok(Some(Dir::from_std_file(dir?.into()))),
            }
        }
    }

    /// Returns the path of a user's directory, which is made if it wasn't yet: for programs that
    /// can't be given a handle.
    ///
    /// Prefer [`directory`](Store::directory). A path is resolved anew at each use: if another
    /// program can put a symbolic link into the directory, a path below it can lead anywhere; and
    /// after the user is deleted it leads nowhere.
    ///
    /// # Errors
    ///
    /// Those of [`directory`](Store::directory).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// let path = store.directory_path(ada.id).await?;
    /// println!("run the converter on {}", path.display());
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn directory_path(&self, id: UserId) -> Result<PathBuf> {
        self.directory(id).await?;
        let directory = self.engine.directory(id).await?;
        let directory = directory.ok_or_else(no_such_user)?;
        Ok(self.engine.storage()?.path(&directory.path))
    }

    /// Gives a user a directory that exists already below `storage/`: for applications that bring
    /// their users' files with them. The directory, and those above it, get the mode 0700.
    ///
    /// The directory that the user had before is removed if it is empty. A path that was chosen
    /// before is retired. To create a user on a directory, do both in one transaction, as below.
    ///
    /// # Errors
    ///
    /// - `NotFound` if there is no such user or no such directory.
    /// - `PathTaken` if the directory is, holds or lies within one that another user has or had.
    /// - `InvalidPath` if the path is reserved.
    /// - `StorageBlocked` if a symbolic link or a mount is in the way.
    /// - `NotEmpty` if the user has files already.
    /// - `StorageUnavailable`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let path: tenantry::StoragePath = "customers/ada".parse()?;
    /// let new = tenantry::NewUser::new("ada@example.com".parse()?);
    /// let ada = store
    ///     .write(move |tx| {
    ///         let ada = tx.create(&new)?;
    ///         tx.adopt(ada.id, &path)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn adopt(&self, id: UserId, path: StoragePath) -> Result<User> {
        self.apply(Adopt(id, path)).await
    }

    /// Measures a user's directory by walking it, and keeps the figures. They are zero for a user
    /// who has no directory yet.
    ///
    /// It runs on a thread of its own, calls `progress` there, and ends if that returns `Break`. It
    /// follows no link, and enters no other file system below the directory.
    ///
    /// # Errors
    ///
    /// Those of [`directory`](Store::directory); `Io` if another program rearranges the directory;
    /// `Cancelled` if `progress` has ended it.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// let on_progress = |progress: tenantry::Progress| println!("{} files", progress.files);
    /// let usage = store.measure_usage(ada.id, on_progress).await?;
    /// println!("{} bytes on the disk", usage.allocated_bytes);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn measure_usage<R: ProgressReply>(
        &self,
        id: UserId,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<Usage> {
        let directory = self.engine.directory(id).await?;
        let directory = directory.ok_or_else(no_such_user)?;
        // As for any caller that asks for it: it may just be on its way.
        let dir = if directory.has_directory { Some(self.directory(id).await?) } else { None };
        let now = self.engine.now();
        let usage = match dir {
            None => Usage::empty(now),
            Some(dir) => {
                let monitor = Monitor::new(progress);
                on_thread(move || monitor.explain(measure(dir, now, &monitor))).await??
            }
        };
        self.apply(SetUsage(id, usage)).await?;
        Ok(usage)
    }

    /// Returns the size of a user's directory when it was last measured, if it ever was. See
    /// [`measured_at`](Usage::measured_at) for the age of the figures.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// if let Some(usage) = store.usage(ada.id).await? {
    ///     println!("{} files at {}", usage.files, usage.measured_at);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn usage(&self, id: UserId) -> Result<Option<Usage>> {
        self.engine.usage(id).await
    }

    /// Adds to what a user's directory held when it was measured, for a program that knows what it
    /// has written and removed. Returns the sum, or `None` if it was never measured.
    ///
    /// The time of the measurement stays. What other programs changed since, and what changes
    /// during a measurement, isn't counted until the next one.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// store.with_directory(ada.id, |files| files.write("notes.txt", "hello")).await?;
    /// let change = tenantry::UsageChange { files: 1, apparent_bytes: 5, allocated_bytes: 4_096 };
    /// store.adjust_usage(ada.id, change).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn adjust_usage(&self, id: UserId, change: UsageChange) -> Result<Option<Usage>> {
        if self.engine.usage(id).await?.is_none() {
            return Ok(None);
        }
        self.apply(AdjustUsage(id, change)).await
    }

    /// Returns the `limit` users whose directories took most space on the disk when they were last
    /// measured, the largest first.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// for (user, usage) in store.top_usage(10).await? {
    ///     println!("{} {}", user.id, usage.allocated_bytes);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn top_usage(&self, limit: usize) -> Result<Vec<(User, Usage)>> {
        self.engine.top_usage(limit).await
    }

    /// Returns the ids of users whose directories were made, in the order of creation: those worth
    /// [measuring](Store::measure_usage).
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// for id in store.users_with_directory().await? {
    ///     store.measure_usage(id, |_| {}).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn users_with_directory(&self) -> Result<Vec<UserId>> {
        self.engine.users_with_directory().await
    }
}

fn measure(dir: Dir, measured_at: Timestamp, monitor: &Monitor) -> Result<Usage> {
    Storage::measure(dir.into_std_file().into(), measured_at, &|usage| {
        let progress =
            Progress { files: usage.files, bytes: usage.apparent_bytes, ..Progress::default() };
        monitor.report(progress).map_err(io::Error::other)
    })
}

fn no_such_user() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user")
}
