//! The change feed, and who makes the changes.

use tracing::instrument;

use super::Store;
use crate::engine::verbs::SetLoginsInChanges;
use crate::{Actor, ChangePage, ChangesCursor, HistoryPage, Result, UserId};

impl Store {
    /// Returns a handle of the same store, whose writes are this actor's: the changes that they
    /// make carry the name. That of a store that was opened is `library`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// let as_billing = store.as_actor("token:billing".parse()?);
    /// as_billing.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// let page = store.changes(None, 10).await?;
    /// assert_eq!(page.changes[0].actor.as_str(), "token:billing");
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn as_actor(&self, actor: Actor) -> Self {
        Self { actor, ..self.clone() }
    }

    /// Returns at most `limit` changes of users behind a place in the change feed, or from the
    /// oldest one that is kept.
    ///
    /// Every committed change of a user is in the feed once, in the order of the commits, and from
    /// the moment on at which its write was answered. A store keeps the changes of 30 days, and a
    /// million of them however old they are. A change takes about 40 bytes of the database, more
    /// with the name of an [`Actor`].
    ///
    /// To have a replica of the users, list them and then follow the changes from the
    /// [`changes_cursor`](crate::Page::changes_cursor) of the first page: that misses nothing, and
    /// repeats what was changed during the listing.
    ///
    /// It is read on the calling thread, like a page of users.
    ///
    /// # Errors
    ///
    /// `CursorExpired` if changes behind the cursor are no longer kept, if it is of another store,
    /// or if the store went back in time since it was made, as by restoring a backup: then the
    /// users have to be listed again. `InvalidQuery` if the limit isn't 1 to
    /// [`ChangePage::MAX_LIMIT`].
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// let cursor = store.changes_cursor().await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// store.delete(ada.id).await?;
    /// let page = store.changes(Some(&cursor), 100).await?;
    /// let kinds: Vec<_> = page.changes.iter().map(|change| change.kind.name()).collect();
    /// assert_eq!(kinds, ["created", "deleted"]);
    /// assert!(store.changes(Some(&page.cursor), 100).await?.changes.is_empty());
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn changes(&self, after: Option<&ChangesCursor>, limit: usize) -> Result<ChangePage> {
        self.engine.changes(after, limit).await
    }

    /// Returns the place behind the newest change: whoever follows from there gets all that is
    /// committed from now on.
    ///
    /// # Errors
    ///
    /// `Closed`, `Busy`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// See [`changes`](Self::changes).
    #[instrument(level = "debug", skip_all)]
    pub async fn changes_cursor(&self) -> Result<ChangesCursor> {
        self.engine.changes_cursor().await
    }

    /// Returns at most `limit` changes of one user, the newest first: who did what to them when.
    ///
    /// The feed has no index by user, which would cost every write. So this goes through the feed
    /// on a thread of the store's own, backwards from the newest change until the page is full. It
    /// reaches back as far as [`changes`](Self::changes) are kept. A user who doesn't exist any
    /// more has a history too; an id that never existed has an empty one.
    ///
    /// # Errors
    ///
    /// `CursorExpired` if the cursor is of another store; `InvalidQuery` if the limit isn't 1 to
    /// [`ChangePage::MAX_LIMIT`].
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// store.delete(ada.id).await?;
    /// let history = store.history(ada.id, None, 50).await?;
    /// assert_eq!(history.changes[0].kind, tenantry::ChangeKind::Deleted);
    /// assert_eq!((history.changes.len(), history.next_cursor), (2, None));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %user))]
    pub async fn history(
        &self,
        user: UserId,
        after: Option<&ChangesCursor>,
        limit: usize,
    ) -> Result<HistoryPage> {
        self.engine.history(user, after.copied(), limit).await
    }

    /// Sets whether logins are in the change feed, from now on and for every process that has the
    /// store open. In a new store they aren't: there are many times as many of them as of other
    /// changes.
    ///
    /// # Errors
    ///
    /// Those of a write.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// store.record_login(ada.id).await?;
    /// store.set_logins_in_changes(true).await?;
    /// store.record_login(ada.id).await?;
    /// let changes = store.changes(None, 10).await?.changes;
    /// assert_eq!((changes.len(), changes[1].kind), (2, tenantry::ChangeKind::LoggedIn));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn set_logins_in_changes(&self, are_in: bool) -> Result<()> {
        self.apply(SetLoginsInChanges(are_in)).await
    }

    /// Returns whether logins are in the change feed: see
    /// [`set_logins_in_changes`](Self::set_logins_in_changes).
    ///
    /// # Errors
    ///
    /// `Closed`, `Busy`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// store.set_logins_in_changes(true).await?;
    /// assert!(store.are_logins_in_changes().await?);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn are_logins_in_changes(&self) -> Result<bool> {
        self.engine.are_logins_in_changes().await
    }
}
