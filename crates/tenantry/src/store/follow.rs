//! Following the change feed.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Store;
use crate::engine::Follower;
use crate::{Change, ChangesCursor, Result};

impl Store {
    /// Follows the change feed from a place on, or from the oldest change that is kept: a stream of
    /// the changes that are there, and then of those to come, without end.
    ///
    /// It yields a change of this process as soon as it is committed, and one of another process
    /// within 200 ms. It needs no executor and no timer. While anybody follows, a thread of the
    /// store's own watches the database; otherwise nothing does.
    ///
    /// A follower takes less than 1 KiB of memory, and any number may follow at their own speed.
    /// Many are woken less often, and get several commits at once: 10,000 of them within 0.1 s.
    ///
    /// The consumer keeps the [cursor](Change::cursor) of the last change that it has dealt with,
    /// and goes on from there when it is started again. So each change is delivered at least once.
    ///
    /// # Errors
    ///
    /// An item may be the errors of [`changes`](Self::changes), `CursorExpired` among them. The
    /// stream ends behind one, unless it is `Busy`; when the store is closed, it ends with
    /// `Closed`.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// // List, then follow: nothing is missed.
    /// let page = store.list(&tenantry::ListQuery::default()).await?;
    /// let mut changes = store.follow(Some(page.changes_cursor));
    ///
    /// store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// let change = changes.next().await.expect("it has no end")?;
    /// assert_eq!(change.kind, tenantry::ChangeKind::Created);
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn follow(&self, after: Option<ChangesCursor>) -> Follow {
        Follow { follower: self.engine.follow(after), _store: self.clone() }
    }
}

/// The changes from a place on, and those to come: see [`Store::follow`].
pub struct Follow {
    follower: Follower,
    /// The store stays open for as long as it is followed.
    _store: Store,
}

impl Follow {
    /// Waits for the next change. Returns `None` only behind an error that ended the stream.
    ///
    /// # Errors
    ///
    /// Those of [`Store::follow`].
    ///
    /// # Examples
    ///
    /// See [`Store::follow`].
    pub async fn next(&mut self) -> Option<Result<Change>> {
        poll_fn(|context| self.follower.poll_next(context)).await
    }

    /// Returns the place behind the last change that was yielded, or where the stream began. `None`
    /// if it began with the oldest change, and none was yielded yet.
    ///
    /// # Examples
    ///
    /// See [`Store::follow`].
    #[must_use]
    pub fn cursor(&self) -> Option<&ChangesCursor> {
        self.follower.cursor()
    }
}

impl Stream for Follow {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.follower.poll_next(context)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("cursor", &self.cursor()).finish_non_exhaustive()
    }
}
