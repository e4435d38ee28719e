//! Pages of users and of the trash.

use tracing::instrument;

use super::Store;
use crate::{Filter, ListQuery, Page, Result, TrashPage, TrashQuery, User};

impl Store {
    /// Returns a page of users in the order of creation (keyset pagination).
    ///
    /// Following [`next_cursor`](Page::next_cursor) from page to page returns each user once who
    /// exists all the time, whatever is created and deleted in between, and at the end those who
    /// were created since.
    ///
    /// With [`Order::LastLogin`](crate::Order) those come first who have been away longest; then
    /// each page walks all users.
    ///
    /// A page without a filter is read on the calling thread. One with a filter is searched for on
    /// a thread of the store's own, and the search ends when the future is dropped.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tenantry::ListQuery;
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let query = ListQuery { limit: 50, ..ListQuery::default() };
    /// let first = store.list(&query).await?;
    /// let next = store.list(&ListQuery { cursor: first.next_cursor, ..query }).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn list(&self, query: &ListQuery) -> Result<Page> {
        self.engine.list(query).await
    }

    /// Returns the pages from the one that `query` asks for to the last.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let mut pages = store.pages(tenantry::ListQuery::default());
    /// while let Some(users) = pages.next().await? {
    ///     for user in users {
    ///         println!("{}", user.id);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn pages(&self, query: ListQuery) -> Pages {
        Pages { store: self.clone(), query: Some(query) }
    }

    /// Counts the users, on a thread of the store's own: about 15 ms for a million.
    ///
    /// # Errors
    ///
    /// Those of [every operation](Store#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// println!("{} users", store.count().await?);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn count(&self) -> Result<u64> {
        self.engine.user_count().await
    }

    /// Counts the users who meet a filter, on a thread of the store's own: it walks as a
    /// [`list`](Store::list) with that filter does, to the end.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let filter = tenantry::Filter { suspended: Some(true), ..tenantry::Filter::default() };
    /// println!("{} users are suspended", store.count_where(&filter).await?);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn count_where(&self, filter: &Filter) -> Result<u64> {
        self.engine.count_where(filter).await
    }

    /// Returns a page of the trash, in the order of deletion.
    ///
    /// # Errors
    ///
    /// `InvalidQuery`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// for trashed in store.list_trash(&tenantry::TrashQuery::default()).await?.users {
    ///     println!("{} deleted at {}", trashed.user.id, trashed.deleted_at);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        self.engine.list_trash(query.clone()).await
    }
}

/// The pages of a listing, in their order: see [`Store::pages`].
#[derive(Debug)]
pub struct Pages {
    store: Store,
    query: Option<ListQuery>,
}

impl Pages {
    /// Returns the users of the next page, or `None` after the last. After an error, the next call
    /// asks for the same page again.
    ///
    /// # Errors
    ///
    /// Those of [`Store::list`].
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let mut pages = store.pages(tenantry::ListQuery::default());
    /// let first = pages.next().await?;
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Vec<User>>> {
        let Some(query) = &self.query else { return Ok(None) };
        let page = self.store.list(query).await?;
        self.query = page.next_cursor.map(|cursor| ListQuery {
            cursor: Some(cursor),
            ..self.query.take().unwrap_or_default()
        });
        Ok((!page.users.is_empty()).then_some(page.users))
    }
}
