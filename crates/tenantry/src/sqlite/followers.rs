//! Who follows the change feed, and what wakes them.
//!
//! A follower reads pages until there are no more, and then leaves its waker. One thread wakes it:
//! at once after a commit of this process, of which the writer's thread tells it, and within
//! [`POLL`] after one of another process, which it finds by [`PRAGMA
//! data_version`](https://sqlite.org/pragma.html#pragma_data_version). The thread runs as long as
//! anybody follows, so a store without followers is never polled.
//!
//! The writer's thread doesn't notify the followers itself, because waking 10,000 of them takes
//! milliseconds. The thread pauses after it in proportion to their number: many followers get
//! several commits at once, and leave most of a core to everything else.
//!
//! Followers at the end of the feed want the same changes. So the newest are kept in memory, and
//! who finds none reads them for all.
//!
//! Rejected: a channel a follower (a slow one makes it grow, or misses changes), a read of the
//! database by each follower (10,000 reads a commit), a hook of the reading connections (SQLite has
//! none for commits of others).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use super::guard::GuardedConnection;
use super::readers::Readers;
use crate::engine::queue::closed;
use crate::{Change, ChangePage, ChangesCursor, Error, ErrorKind, Result};

/// How long a commit of another process may go unnoticed, half of what is promised. A poll takes a
/// few microseconds.
const POLL: Duration = Duration::from_millis(100);
/// The pause after waking a follower, for each of them: about as long as it works then. At 10,000
/// followers they are woken 20 times a second.
const PAUSE_FOR_EACH: Duration = Duration::from_micros(5);
/// How many changes are kept in memory for followers: some seconds of writes, and less than 1 MB.
const RECENT_MAX: usize = 4_096;

/// The followers of a store.
pub(super) struct Followers {
    readers: Arc<Readers>,
    waiting: Mutex<Waiting>,
    /// The number in [`State`], for the writer's thread to look at without the lock.
    count: AtomicUsize,
    state: Mutex<State>,
    signal: Condvar,
    recent: Mutex<Recent>,
    /// Closed when the thread has ended, and no further one is started.
    ended: Receiver<()>,
}

struct State {
    count: usize,
    /// Whether this process has committed changes since the followers were notified.
    has_committed: bool,
    is_running: bool,
    /// The thread holds a clone. `None` once the store is closed.
    alive: Option<Sender<()>>,
}

impl Followers {
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        let (alive, ended) = async_channel::bounded(1);
        let state = State { count: 0, has_committed: false, is_running: false, alive: Some(alive) };
        Self {
            readers,
            waiting: Mutex::default(),
            count: AtomicUsize::new(0),
            state: Mutex::new(state),
            signal: Condvar::new(),
            recent: Mutex::default(),
            ended,
        }
    }

    /// Has the followers notified of a commit of this process.
    pub(super) fn committed(&self) {
        // A follower counts itself before it reads, so one that isn't counted yet sees the commit.
        if self.count.load(Ordering::SeqCst) > 0 {
            self.lock().has_committed = true;
            self.signal.notify_one();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the thread, and has the followers find that the store is closed.
    pub(super) fn close(&self) {
        self.lock().alive = None;
        self.signal.notify_one();
        self.waiting().is_closed = true;
        self.wake();
    }

    /// Waits until the thread has ended, which it does when this is closed.
    pub(super) async fn ended(&self) {
        // Nothing is ever sent: this ends when the thread does.
        let _ = self.ended.recv().await;
    }

    /// Counts a follower, and starts the thread for the first.
    fn enter(self: &Arc<Self>) -> Result<Place> {
        let mut state = self.lock();
        let alive = state.alive.clone().ok_or_else(closed)?;
        if !state.is_running {
            let followers = Arc::clone(self);
            thread::Builder::new()
                .name("tenantry-follow".to_owned())
                .spawn(move || {
                    let _alive = alive;
                    followers.run();
                })
                .map_err(|error| {
                    Error::new(ErrorKind::Io, "a thread can't be started").with_source(error)
                })?;
            state.is_running = true;
        }
        state.count += 1;
        self.count.store(state.count, Ordering::SeqCst);
        drop(state);
        Ok(Place { followers: Arc::clone(self), round: 0, waker: None })
    }

    /// Notifies the followers of commits as long as there are any.
    fn run(&self) {
        let mut watch = DataVersion::default();
        let mut state = self.lock();
        loop {
            if state.alive.is_none() || state.count == 0 {
                state.is_running = false;
                return;
            }
            if !state.has_committed {
                state =
                    self.signal.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
            }
            let has_committed = std::mem::take(&mut state.has_committed);
            let pause =
                PAUSE_FOR_EACH.saturating_mul(u32::try_from(state.count).unwrap_or(u32::MAX));
            drop(state);
            let has_changed = watch.has_changed(&self.readers);
            if has_committed || has_changed {
                self.wake();
            }
            state = self.lock();
            if has_committed || has_changed {
                let is_needed = |state: &mut State| state.alive.is_some() && state.count > 0;
                let paused = self.signal.wait_timeout_while(state, pause, is_needed);
                state = paused.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Wakes all followers that wait.
    fn wake(&self) {
        let mut waiting = self.waiting();
        waiting.round += 1;
        waiting.free.clear();
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        for waker in wakers.into_iter().flatten() {
            // A waker is foreign code, and the others are still to be woken.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    /// Returns changes behind a place, and which of them is the first that is behind it.
    fn read(&self, after: &ChangesCursor) -> Result<(Arc<[Change]>, usize)> {
        let recent = self.recent();
        if let Some(found) = recent.after(after) {
            return Ok(found);
        }
        let is_next = recent.end() == Some(after);
        // Who is at the end reads for all that wait for the lock, and for those who come later.
        let guard = if is_next {
            Some(recent)
        } else {
            drop(recent);
            None
        };
        let page = self
            .readers
            .read(|session| session.run(|tx| tx.changes(Some(after), ChangePage::DEFAULT_LIMIT)))?;
        let changes: Arc<[Change]> = page.changes.into();
        if changes.is_empty() {
            return Ok((changes, 0));
        }
        if let Some(mut recent) = guard {
            recent.push(Batch { before: *after, changes: Arc::clone(&changes) });
        } else if !page.more {
            let mut recent = self.recent();
            if recent.end().is_none_or(|end| end.seq() < page.cursor.seq()) {
                recent.begin(Batch { before: *after, changes: Arc::clone(&changes) });
            }
        }
        Ok((changes, 0))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic can't leave the state half changed, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wakers of the followers that wait, of one round after the other: a round ends when they are
/// woken.
#[derive(Default)]
struct Waiting {
    round: u64,
    wakers: Vec<Option<Waker>>,
    /// Which of them are those of followers that have gone.
    free: Vec<usize>,
    is_closed: bool,
}

impl Waiting {
    /// Leaves a waker at a place. Returns the place, and the waker that was there. It is foreign
    /// code, which the caller drops when the lock is released.
    fn leave(&mut self, waker: Waker, at: Option<usize>) -> (usize, Option<Waker>) {
        let at = at.or_else(|| self.free.pop()).unwrap_or(self.wakers.len());
        match self.wakers.get_mut(at) {
            Some(place) => (at, place.replace(waker)),
            None => {
                self.wakers.push(Some(waker));
                (at, None)
            }
        }
    }
}

/// The place of a follower among the others.
struct Place {
    followers: Arc<Followers>,
    /// The round that had begun when it read last.
    round: u64,
    /// Where its waker is, and in which round.
    waker: Option<(u64, usize)>,
}

impl Place {
    /// Begins to read: what is committed from now on ends the round.
    fn begin(&mut self) -> Result<()> {
        let waiting = self.followers.waiting();
        if waiting.is_closed {
            return Err(closed());
        }
        self.round = waiting.round;
        Ok(())
    }

    /// Waits for the end of the round.
    fn poll_wait(&mut self, context: &Context<'_>) -> Poll<()> {
        // To clone or drop a waker is foreign code, which may drop another follower of this store:
        // not under the lock. So it is cloned here, and dropped after the lock, too.
        let waker = context.waker().clone();
        let mut waiting = self.followers.waiting();
        if waiting.round != self.round {
            return Poll::Ready(());
        }
        let at = self.waker.filter(|(round, _)| *round == self.round).map(|(_, at)| at);
        let (at, replaced) = waiting.leave(waker, at);
        drop(waiting);
        self.waker = Some((self.round, at));
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((round, at)) = self.waker {
            let mut waiting = self.followers.waiting();
            if waiting.round == round {
                let waker = waiting.wakers.get_mut(at).and_then(Option::take);
                waiting.free.push(at);
                drop(waiting);
                // It is foreign code: not under the lock.
                drop(waker);
            }
        }
        let mut state = self.followers.lock();
        state.count -= 1;
        self.followers.count.store(state.count, Ordering::SeqCst);
        if state.count == 0 {
            drop(state);
            *self.followers.recent() = Recent::default();
            self.followers.signal.notify_one();
        }
    }
}

/// The newest changes, in batches that follow each other.
#[derive(Default)]
struct Recent {
    batches: VecDeque<Batch>,
    count: usize,
}

struct Batch {
    /// The place before the first.
    before: ChangesCursor,
    changes: Arc<[Change]>,
}

impl Recent {
    /// Returns the place behind the newest of them.
    fn end(&self) -> Option<&ChangesCursor> {
        self.batches.back().and_then(|batch| batch.changes.last()).map(|change| &change.cursor)
    }

    /// Returns the batch that begins at a place, or that the place is in.
    fn after(&self, after: &ChangesCursor) -> Option<(Arc<[Change]>, usize)> {
        let behind = self.batches.partition_point(|batch| batch.before.seq() <= after.seq());
        let batch = self.batches.get(behind.checked_sub(1)?)?;
        let first = usize::try_from(after.seq() - batch.before.seq()).ok()?;
        let known = first.checked_sub(1).map_or(Some(&batch.before), |last| {
            batch.changes.get(last).map(|change| &change.cursor)
        });
        // One that differs is no place of this feed, which reading it reports.
        (known == Some(after) && first < batch.changes.len())
            .then(|| (Arc::clone(&batch.changes), first))
    }

    fn push(&mut self, batch: Batch) {
        self.count += batch.changes.len();
        self.batches.push_back(batch);
        while self.count > RECENT_MAX
            && let Some(oldest) = self.batches.pop_front()
        {
            self.count -= oldest.changes.len();
        }
    }

    fn begin(&mut self, batch: Batch) {
        *self = Self::default();
        self.push(batch);
    }
}

/// Finds out whether any process has committed something.
#[derive(Default)]
struct DataVersion {
    conn: Option<GuardedConnection>,
    version: i64,
}

impl DataVersion {
    /// Returns whether something was committed since the last call, or that can't be told: then the
    /// followers find out what is wrong.
    fn has_changed(&mut self, readers: &Readers) -> bool {
        let before = self.version;
        match self.read(readers) {
            Ok(version) => {
                self.version = version;
                version != before
            }
            Err(_) => {
                *self = Self::default();
                true
            }
        }
    }

    fn read(&mut self, readers: &Readers) -> Result<i64> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => none.insert(readers.open()?),
        };
        Ok(conn
            .unguarded()
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?)
    }
}

/// A reader of the change feed that waits for what isn't there yet.
pub(crate) struct Follower {
    followers: Arc<Followers>,
    after: Option<ChangesCursor>,
    place: Option<Place>,
    batch: Arc<[Change]>,
    next: usize,
    is_over: bool,
}

impl Follower {
    pub(super) fn new(followers: Arc<Followers>, after: Option<ChangesCursor>) -> Self {
        let batch = Arc::from([]);
        Self { followers, after, place: None, batch, next: 0, is_over: false }
    }

    /// Returns the place behind the last change, if one was read or given.
    pub(crate) fn cursor(&self) -> Option<&ChangesCursor> {
        self.after.as_ref()
    }

    /// Returns the next change as soon as there is one, or `None` after a failure that doesn't
    /// pass.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Change>>> {
        loop {
            if let Some(change) = self.batch.get(self.next) {
                self.next += 1;
                self.after = Some(change.cursor);
                return Poll::Ready(Some(Ok(change.clone())));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => {
                    if let Some(place) = &mut self.place {
                        ready!(place.poll_wait(context));
                    }
                }
                Err(error) => {
                    // What was to be repeated can be: the place is known.
                    self.is_over = error.kind() != ErrorKind::Busy;
                    if self.is_over {
                        self.place = None;
                    }
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Reads what there is. Returns whether there is any.
    fn read(&mut self) -> Result<bool> {
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(self.followers.enter()?),
        };
        // Before reading: a commit that isn't seen by it ends a later round.
        place.begin()?;
        let Some(after) = self.after else {
            let page = self
                .followers
                .readers
                .read(|session| session.run(|tx| tx.changes(None, ChangePage::DEFAULT_LIMIT)))?;
            self.after = Some(page.cursor).filter(|_| page.changes.is_empty());
            (self.batch, self.next) = (page.changes.into(), 0);
            return Ok(!self.batch.is_empty());
        };
        (self.batch, self.next) = self.followers.read(&after)?;
        Ok(self.next < self.batch.len())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use futures_lite::future::block_on;

    use super::*;
    use crate::{NewUser, Store};

    fn create(store: &Store, number: usize) {
        block_on(store.create(NewUser::new(format!("u{number}@example.com").parse().unwrap())))
            .unwrap();
    }

    fn is_running(followers: &Followers) -> bool {
        followers.lock().is_running
    }

    #[test]
    fn the_thread_that_watches_runs_only_while_somebody_follows() {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let followers = Arc::clone(store.engine().followers());
        create(&store, 0);
        assert!(!is_running(&followers));
        for _ in 0..3 {
            let (mut first, mut second) = (store.follow(None), store.follow(None));
            assert!(!is_running(&followers), "before the first poll");
            block_on(first.next()).unwrap().unwrap();
            block_on(second.next()).unwrap().unwrap();
            drop(first);
            assert!(is_running(&followers));
            drop(second);
            while is_running(&followers) {
                thread::yield_now();
            }
        }
        block_on(store.close()).unwrap();
        assert!(block_on(followers.ended.recv()).is_err(), "no thread is left");
    }

    /// Otherwise a commit that falls between the two is noticed only with the next one.
    #[test]
    fn a_round_that_ends_between_reading_and_waiting_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let mut place = store.engine().followers().enter().unwrap();
        place.begin().unwrap();
        store.engine().followers().wake();
        assert!(place.poll_wait(&Context::from_waker(Waker::noop())).is_ready());
    }

    /// The story: a waker was replaced under the lock. If the last clone of it owned another
    /// follower of the store, that one waited for the lock that its own thread held.
    #[test]
    fn a_waker_that_is_replaced_is_dropped_after_the_lock() {
        /// Records whether the lock is free when it is dropped.
        struct Inspects(Arc<Followers>, async_channel::Sender<bool>);
        impl std::task::Wake for Inspects {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Inspects {
            fn drop(&mut self) {
                let _ = self.1.try_send(self.0.waiting.try_lock().is_ok());
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        // Without a thread that watches, which takes the lock too.
        let readers = Arc::clone(&store.engine().followers().readers);
        let followers = Arc::new(Followers::new(readers));
        followers.lock().count = 1;
        let mut place = Place { followers: Arc::clone(&followers), round: 0, waker: None };
        let (dropped, is_free) = async_channel::unbounded();
        place.begin().unwrap();
        for number in 0..3 {
            let inspects = Inspects(Arc::clone(&followers), dropped.clone());
            let waker = Waker::from(Arc::new(inspects));
            assert!(place.poll_wait(&Context::from_waker(&waker)).is_pending());
            assert_eq!(is_free.try_recv().ok(), (number > 0).then_some(true));
            // The place holds the only clone.
            drop(waker);
        }
        drop(place);
        assert_eq!((is_free.try_recv().ok(), is_free.len()), (Some(true), 0));
    }

    #[test]
    fn what_is_read_at_the_end_of_the_feed_is_read_once_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let followers = store.engine().followers();
        let beginning = block_on(store.changes_cursor()).unwrap();
        (0..5).for_each(|number| create(&store, number));
        let (first, at) = followers.read(&beginning).unwrap();
        assert_eq!((first.len(), at), (5, 0));
        // From anywhere within it, too.
        for (number, change) in first.iter().enumerate().take(4) {
            let (again, at) = followers.read(&change.cursor).unwrap();
            assert!(Arc::ptr_eq(&first, &again));
            assert_eq!(at, number + 1);
        }
        let end = first[4].cursor;
        assert_eq!(followers.read(&end).unwrap().0.len(), 0);
        create(&store, 5);
        let (second, _) = followers.read(&end).unwrap();
        assert!(Arc::ptr_eq(&second, &followers.read(&end).unwrap().0));
        assert!(Arc::ptr_eq(&first, &followers.read(&beginning).unwrap().0));
    }

    #[test]
    fn a_place_that_only_looks_like_one_in_memory_has_expired() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = block_on(Store::open(dir.path())).unwrap();
        let other = block_on(Store::open(other.path())).unwrap();
        let beginning = block_on(store.changes_cursor()).unwrap();
        for store in [&store, &other] {
            (0..3).for_each(|number| create(store, number));
        }
        let followers = store.engine().followers();
        followers.read(&beginning).unwrap();
        for change in block_on(other.changes(None, 10)).unwrap().changes {
            assert_eq!(
                followers.read(&change.cursor).unwrap_err().kind(),
                ErrorKind::CursorExpired
            );
        }
    }

    #[test]
    fn a_number_of_changes_is_kept_in_memory_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        create(&store, 0);
        let change = block_on(store.changes(None, 1)).unwrap().changes.remove(0);
        let mut recent = Recent::default();
        for _ in 0..20 {
            let changes = vec![change.clone(); 1_000].into();
            recent.push(Batch { before: change.cursor, changes });
            assert!(recent.count <= RECENT_MAX);
        }
        assert_eq!(recent.batches.len(), 4);
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_else_from_being_woken() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("as planned");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let mut panics = store.follow(None);
        let waker = Waker::from(Arc::new(Panics));
        assert!(pin!(panics.next()).poll(&mut Context::from_waker(&waker)).is_pending());
        let mut changes = store.follow(None);
        create(&store, 0);
        block_on(changes.next()).unwrap().unwrap();
        create(&store, 1);
        block_on(changes.next()).unwrap().unwrap();
    }
}
