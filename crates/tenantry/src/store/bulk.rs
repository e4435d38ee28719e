//! Operations on many users.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tracing::instrument;

use super::Store;
use crate::engine::verbs::{DeleteIf, SuspendIf, UpdateMany};
use crate::progress::Monitor;
use crate::{
    Error, ErrorClass, ErrorKind, Filter, ListQuery, Progress, ProgressReply, Result, User, UserId,
    UserUpdate,
};

/// How many users an operation on many changes at once, which share a transaction. Other writers
/// get in between.
const GROUP_USERS: usize = 64;
/// How many failures are kept: as many as a person reads.
const FAILURES_KEPT_MAX: usize = 100;

/// The result of [`Store::delete_where`] and [`Store::suspend_where`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BulkOutcome {
    /// How many users were changed.
    pub changed: u64,
    /// How many users met the filter when they were found, and didn't any more when their turn
    /// came: because they logged in, or another process has changed them.
    pub passed_over: u64,
    /// How many users could not be changed.
    pub failed: u64,
    /// The first 100 of these, with the reasons.
    pub failures: Vec<(UserId, Error)>,
    /// Why the operation ended early: `Cancelled` if the callback ended it, or a failure that isn't
    /// one of a user. The users before are changed.
    pub ended_by: Option<Error>,
}

impl BulkOutcome {
    /// Counts the result for one user.
    fn count(&mut self, id: UserId, result: Result<Option<User>>) {
        match result {
            Ok(Some(_)) => self.changed += 1,
            Ok(None) => self.passed_over += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => self.passed_over += 1,
            Err(error) => {
                if !is_of_user(error.kind()) && self.ended_by.is_none() {
                    self.ended_by = Some(error.clone());
                }
                self.failed += 1;
                if self.failures.len() < FAILURES_KEPT_MAX {
                    self.failures.push((id, error));
                }
            }
        }
    }
}

/// Returns whether a failure concerns one user, so that the next ones may succeed.
fn is_of_user(kind: ErrorKind) -> bool {
    matches!(kind.class(), ErrorClass::Conflict | ErrorClass::Invalid | ErrorClass::NotFound)
        || matches!(
            kind,
            ErrorKind::StorageLost | ErrorKind::StorageBlocked | ErrorKind::Unfinished
        )
}

impl Store {
    /// Returns the users with these ids, each at the place of the id, or `None` where no user has
    /// it.
    ///
    /// It is one statement for every 64 ids. Up to 64 are read on the calling thread, as of one
    /// moment; more on a thread of the store's own, 64 by 64. [`ReadTx::get_many`] reads any number
    /// as of one moment.
    ///
    /// [`ReadTx::get_many`]: crate::ReadTx::get_many
    ///
    /// # Errors
    ///
    /// None of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// let ada = store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
    /// let nobody = "3fa2b1c4-0000-4000-8000-000000000001".parse()?;
    /// assert_eq!(store.get_many(&[nobody, ada.id]).await?, [None, Some(ada)]);
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(users = ids.len()))]
    pub async fn get_many(&self, ids: &[UserId]) -> Result<Vec<Option<User>>> {
        self.engine.get_many(ids.to_vec()).await
    }

    /// Updates users in one transaction, and returns a result for each of them: one that fails
    /// leaves the others alone. The order is kept, and a user may be among them twice. The list
    /// holds the write lock as a whole, so a long one is better divided.
    ///
    /// # Errors
    ///
    /// The outer error is of the transaction, in which case no user was changed. The inner ones are
    /// those of [`update`](Store::update).
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path().join("data")).await?;
    /// use tenantry::{NewUser, Set, UserUpdate};
    ///
    /// let ada = store.create(NewUser::new("ada@example.com".parse()?)).await?;
    /// let nobody = "3fa2b1c4-0000-4000-8000-000000000001".parse()?;
    /// let update = UserUpdate { name: Set::To("Ada".parse()?), ..UserUpdate::default() };
    /// let updated = store.update_many(vec![(nobody, update.clone()), (ada.id, update)]).await?;
    /// assert!(updated[0].is_err());
    /// assert_eq!(updated[1].as_ref().map(|user| user.version).ok(), Some(2));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all, fields(users = updates.len()))]
    pub async fn update_many(
        &self,
        updates: Vec<(UserId, UserUpdate)>,
    ) -> Result<Vec<Result<User>>> {
        self.apply(UpdateMany(updates)).await
    }

    /// Deletes the users who meet a filter, each as [`delete`](Store::delete) does, in groups of
    /// 64, between which other writers get in.
    ///
    /// Whether a user meets the filter is asked once more in the transaction that deletes them, so
    /// one who logs in meanwhile stays. A user who is created meanwhile may be among them.
    ///
    /// `progress` is called after each group with the number of users so far, and may end the
    /// operation. If the future is dropped, the group that was begun is deleted and the others
    /// aren't.
    ///
    /// # Errors
    ///
    /// `InvalidQuery` if the filter has no condition: for all users, give it one that everybody
    /// meets, such as a creation after [`Timestamp::MIN`](crate::Timestamp::MIN). Failures while
    /// users are deleted are in the [outcome](BulkOutcome), which says what was done.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let inactive_since = Some("2024-11-29T00:00:00Z".parse()?);
    /// let filter = tenantry::Filter { inactive_since, ..tenantry::Filter::default() };
    /// println!("about to delete {} users", store.count_where(&filter).await?);
    /// let outcome = store.delete_where(filter, |_| {}).await?;
    /// println!("deleted {}, {} could not be", outcome.changed, outcome.failed);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn delete_where<R: ProgressReply>(
        &self,
        filter: Filter,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<BulkOutcome> {
        let filter = Arc::new(filter);
        let delete = |id| self.apply(DeleteIf(id, Arc::clone(&filter)));
        self.change_where(&filter, delete, Monitor::new(progress)).await
    }

    /// Suspends the users who meet a filter, each as [`suspend`](Store::suspend) does, in groups as
    /// [`delete_where`](Store::delete_where) does. Users who are suspended don't count.
    ///
    /// # Errors
    ///
    /// As for [`delete_where`](Store::delete_where).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let email_contains = Some("@example.org".into());
    /// let filter = tenantry::Filter { email_contains, ..tenantry::Filter::default() };
    /// assert_eq!(store.suspend_where(filter, |_| {}).await?.failed, 0);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn suspend_where<R: ProgressReply>(
        &self,
        filter: Filter,
        progress: impl Fn(Progress) -> R + Send + 'static,
    ) -> Result<BulkOutcome> {
        refuse_empty(&filter)?;
        if filter.suspended == Some(true) {
            return Ok(BulkOutcome::default());
        }
        let filter = Arc::new(Filter { suspended: Some(false), ..filter });
        let suspend = |id| self.apply(SuspendIf(id, Arc::clone(&filter)));
        self.change_where(&filter, suspend, Monitor::new(progress)).await
    }

    /// Changes the users who meet a filter, group by group.
    async fn change_where<F: Future<Output = Result<Option<User>>>>(
        &self,
        filter: &Filter,
        change: impl Fn(UserId) -> F,
        monitor: Monitor,
    ) -> Result<BulkOutcome> {
        refuse_empty(filter)?;
        let mut query =
            ListQuery { limit: GROUP_USERS, filter: filter.clone(), ..ListQuery::default() };
        let mut outcome = BulkOutcome::default();
        loop {
            let page = match self.engine.list(&query).await {
                Ok(page) => page,
                // Before the first user there is nothing to report.
                Err(error) if query.cursor.is_none() => return Err(error),
                Err(error) => {
                    outcome.ended_by = Some(error);
                    return Ok(outcome);
                }
            };
            let ids: Vec<UserId> = page.users.iter().map(|user| user.id).collect();
            let results = all(ids.iter().map(|id| change(*id))).await;
            ids.into_iter().zip(results).for_each(|(id, result)| outcome.count(id, result));
            let users = outcome.changed + outcome.passed_over + outcome.failed;
            if let Err(error) = monitor.report(Progress { users, ..Progress::default() }) {
                outcome.ended_by.get_or_insert(error);
            }
            if page.next_cursor.is_none() || outcome.ended_by.is_some() {
                return Ok(outcome);
            }
            query.cursor = page.next_cursor;
        }
    }
}

fn refuse_empty(filter: &Filter) -> Result<()> {
    // A text that is given and empty is a mistake of the caller's, such as a variable that wasn't
    // set, whatever the other conditions are.
    let is_text_empty = [&filter.email_prefix, &filter.email_contains]
        .into_iter()
        .any(|text| text.as_deref() == Some(""));
    let message = match (filter.is_empty(), is_text_empty) {
        (true, _) => "the filter has no condition, and would mean all users",
        (false, true) => "the filter has an empty text, which every address begins with and holds",
        (false, false) => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidQuery, message))
}

/// Waits for all of these futures at once, so that their writes share a transaction.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    enum Slot<F: Future> {
        Waiting(Pin<Box<F>>),
        Done(F::Output),
    }
    let mut slots: Vec<Slot<F>> = futures.map(|future| Slot::Waiting(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for slot in &mut slots {
            if let Slot::Waiting(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Slot::Done(output),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let done = |slot| match slot {
        Slot::Done(output) => Some(output),
        Slot::Waiting(_) => None,
    };
    slots.into_iter().filter_map(done).collect()
}
