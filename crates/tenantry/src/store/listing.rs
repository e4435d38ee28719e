//! Pages of users and of the trash.

use tracing::instrument;

use super::Store;
use crate::{ListQuery, Page, Result, TrashPage, TrashQuery, User};

impl Store {
    /// A page of users in the order of creation.
    ///
    /// Following [`next_cursor`](Page::next_cursor) from page to page meets every user once who was
    /// there all the time, whatever is created and deleted meanwhile, and in the end those who were
    /// created meanwhile.
    ///
    /// A page without a filter is read on the calling thread. One with a filter is searched for on
    /// a thread of the store's own, and the search ends when the future is dropped.
    ///
    /// Errors: `InvalidQuery`.
    #[instrument(level = "debug", skip_all)]
    pub async fn list(&self, query: &ListQuery) -> Result<Page> {
        self.engine.list(query).await
    }

    /// All pages from the one that `query` asks for to the last.
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

    /// How many users there are. It counts them, on a thread of the store's own: about 15 ms for a
    /// million.
    #[instrument(level = "debug", skip_all)]
    pub async fn count(&self) -> Result<u64> {
        self.engine.user_count().await
    }

    /// A page of the trash, in the order of deletion.
    ///
    /// Errors: `InvalidQuery`.
    #[instrument(level = "debug", skip_all)]
    pub async fn list_trash(&self, query: &TrashQuery) -> Result<TrashPage> {
        self.engine.list_trash(query.clone()).await
    }
}

/// The pages of a listing, one after the other: see [`Store::pages`].
#[derive(Debug)]
pub struct Pages {
    store: Store,
    query: Option<ListQuery>,
}

impl Pages {
    /// The users of the next page, or `None` after the last. After an error the same page can be
    /// asked for again.
    ///
    /// Errors: those of [`Store::list`].
    pub async fn next(&mut self) -> Result<Option<Vec<User>>> {
        let Some(query) = &self.query else { return Ok(None) };
        let page = self.store.list(query).await?;
        self.query =
            page.next_cursor.map(|cursor| ListQuery { cursor: Some(cursor), ..self.query.take().unwrap_or_default() });
        Ok((!page.users.is_empty()).then_some(page.users))
    }
}
