//! The threads that search.
//!
//! A search inspects many rows: a listing with a filter, a count. On the thread that polls it, a
//! search would keep an executor from its sockets and timers for as long as it takes, even if it
//! yielded between its steps: a task that wakes itself is polled again before the executor waits
//! for I/O. So searches run on threads of the store's own, and the future is woken from there.
//!
//! A search runs in bounded steps, each with a reader of its own. Between two steps it ends if its
//! future was dropped or the store was closed.
//!
//! Rejected: a thread for each search (too many searches at once would take all cores and all
//! readers), the executor's own pool (no executor is known here).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use async_channel::{Receiver, Sender, TrySendError};
use futures_channel::oneshot;

use super::readers::Readers;
use super::tx::Snapshot;
use crate::engine::queue::closed;
use crate::{Error, ErrorKind, Result};

/// How many searches run at once: enough that a short one rarely waits behind a long one, and few
/// enough that searches leave cores and readers to everything else.
const THREADS: usize = 2;
/// How many searches may wait for a thread. Callers beyond that get `Busy`, because those that wait
/// already keep the threads busy for seconds.
const WAITING_MAX: usize = 1_024;

type Search = Box<dyn FnOnce(&Searcher) + Send>;

/// The way to the threads that search. They are started for the first search, and end when this is
/// closed or dropped.
pub(super) struct Searches {
    searcher: Searcher,
    queue: Sender<Search>,
    threads: Mutex<Threads>,
    /// Closed when all threads have ended.
    ended: Receiver<()>,
}

struct Threads {
    started: usize,
    /// Each thread holds a clone. `None` once the searches are closed.
    alive: Option<Sender<()>>,
}

/// The part of [`Searches`] that each thread has.
#[derive(Clone)]
struct Searcher {
    readers: Arc<Readers>,
    queue: Receiver<Search>,
}

impl Searches {
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        let (sender, receiver) = async_channel::bounded(WAITING_MAX);
        let (alive, ended) = async_channel::bounded(1);
        Self {
            searcher: Searcher { readers, queue: receiver },
            queue: sender,
            threads: Mutex::new(Threads { started: 0, alive: Some(alive) }),
            ended,
        }
    }

    /// Runs a search step by step, until a step returns a result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        step: impl FnMut(Snapshot<'_>) -> Result<Option<T>> + Send + 'static,
    ) -> Result<T> {
        self.start()?;
        let (sender, receiver) = oneshot::channel();
        let search: Search = Box::new(move |searcher| searcher.search(step, sender));
        self.queue.try_send(search).map_err(|error| match error {
            TrySendError::Full(_) => Error::new(ErrorKind::Busy, "too many searches are waiting: try again"),
            TrySendError::Closed(_) => closed(),
        })?;
        receiver.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a thread that searches panicked")))
    }

    /// Refuses new searches, and makes those under way and those that wait end with `Closed`.
    pub(super) fn close(&self) {
        self.queue.close();
        self.lock().alive = None;
    }

    /// Waits until the threads have ended, which they do when the searches are closed.
    pub(super) async fn ended(&self) {
        // Nothing is ever sent: this ends when the threads do.
        let _ = self.ended.recv().await;
    }

    /// Starts the threads that aren't started yet. One is enough to go on.
    fn start(&self) -> Result<()> {
        let mut threads = self.lock();
        while threads.started < THREADS {
            let alive = threads.alive.clone().ok_or_else(closed)?;
            let searcher = self.searcher.clone();
            let thread = thread::Builder::new().name("tenantry-search".to_owned()).spawn(move || {
                let _alive: Sender<()> = alive;
                searcher.run();
            });
            match thread {
                Ok(_) => threads.started += 1,
                Err(_) if threads.started > 0 => break,
                Err(error) => {
                    return Err(Error::new(ErrorKind::Io, "a thread can't be started").with_source(error));
                }
            }
        }
        Ok(())
    }

    /// A panic can't leave the state half changed, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Searches that wait although nobody does any more are skipped by the threads.
impl Drop for Searches {
    fn drop(&mut self) {
        self.close();
    }
}

impl Searcher {
    fn run(self) {
        while let Ok(search) = self.queue.recv_blocking() {
            // The caller is told by the sender that the panic drops; the other searches aren't
            // affected.
            let _ = catch_unwind(AssertUnwindSafe(|| search(&self)));
        }
    }

    fn search<T>(&self, mut step: impl FnMut(Snapshot<'_>) -> Result<Option<T>>, result: oneshot::Sender<Result<T>>) {
        while !result.is_canceled() {
            let found = if self.queue.is_closed() { Err(closed()) } else { self.readers.read_one(&mut step) };
            if let Some(found) = found.transpose() {
                // A caller who no longer waits doesn't want to know.
                let _ = result.send(found);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{Thread, ThreadId};

    use futures_lite::future::block_on;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::{Filter, ListQuery, NewUser, Store};

    /// More than one step of a walk.
    const USERS: usize = 5_200;

    fn new_store(users: usize) -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let users = (0..users).map(|n| NewUser::new(format!("u{n}@example.com").parse().unwrap())).collect();
        assert!(block_on(store.create_many(users)).unwrap().iter().all(Result::is_ok));
        (dir, store)
    }

    fn containing(text: &str) -> ListQuery {
        let filter = Filter { email_contains: Some(text.to_owned()), ..Filter::default() };
        ListQuery { filter, ..ListQuery::default() }
    }

    /// Unparks the thread that polls, and records which threads woke it.
    struct Wakes {
        poller: Thread,
        by: Mutex<Vec<ThreadId>>,
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.by.lock().unwrap().push(thread::current().id());
            self.poller.unpark();
        }
    }

    impl Wakes {
        fn new() -> Arc<Self> {
            Arc::new(Self { poller: thread::current(), by: Mutex::default() })
        }

        fn assert_not_by_poller(&self) {
            assert!(!self.by.lock().unwrap().contains(&self.poller.id()), "woken by the thread that polls");
        }
    }

    fn poll<F: Future + ?Sized>(future: Pin<&mut F>, wakes: &Arc<Wakes>) -> Poll<F::Output> {
        let polled = future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(wakes))));
        wakes.assert_not_by_poller();
        polled
    }

    /// Keeps all threads that search busy until it is dropped.
    struct Occupied {
        _release: Vec<mpsc::Sender<()>>,
        _searches: Vec<Pin<Box<dyn Future<Output = Result<()>>>>>,
    }

    fn occupy(store: &Store) -> Occupied {
        let (started, has_started) = mpsc::channel();
        let (mut release, mut searches) = (Vec::new(), Vec::new());
        for _ in 0..THREADS {
            let (sender, receiver) = mpsc::channel::<()>();
            release.push(sender);
            let (store, started) = (store.clone(), started.clone());
            let mut search: Pin<Box<dyn Future<Output = Result<()>>>> = Box::pin(async move {
                let step = move |_: Snapshot<'_>| {
                    started.send(()).unwrap();
                    Ok(receiver.recv().is_err().then_some(()))
                };
                store.engine().search(step).await
            });
            assert!(poll(search.as_mut(), &Wakes::new()).is_pending());
            searches.push(search);
            has_started.recv().unwrap();
        }
        Occupied { _release: release, _searches: searches }
    }

    /// The story: a search woke itself between its steps, and two of them kept an executor from its
    /// sockets.
    #[test]
    fn a_search_is_woken_from_another_thread() {
        let (_dir, store) = new_store(USERS);
        let occupied = occupy(&store);
        let wakes = Wakes::new();
        let query = containing("u5199@");
        let mut pages = store.pages(containing("u5@"));
        let mut list = pin!(store.list(&query));
        let mut next = pin!(pages.next());
        let mut count = pin!(store.count());
        let mut with_directory = pin!(store.users_with_directory());
        assert!(poll(list.as_mut(), &wakes).is_pending());
        assert!(poll(next.as_mut(), &wakes).is_pending());
        assert!(poll(count.as_mut(), &wakes).is_pending());
        assert!(poll(with_directory.as_mut(), &wakes).is_pending());
        // These need no thread that searches.
        assert_eq!(block_on(store.list(&ListQuery::default())).unwrap().users.len(), ListQuery::DEFAULT_LIMIT);
        assert!(block_on(store.get_by_email(&"u7@example.com".parse().unwrap())).unwrap().is_some());
        assert!(wakes.by.lock().unwrap().is_empty());

        drop(occupied);
        let found = wait_for(list, &wakes).unwrap();
        assert_eq!((found.users.len(), found.next_cursor), (1, None));
        assert_eq!(wait_for(next, &wakes).unwrap().unwrap().len(), 1);
        assert_eq!(wait_for(count, &wakes).unwrap(), USERS as u64);
        assert_eq!(wait_for(with_directory, &wakes).unwrap(), []);
        assert!(!wakes.by.lock().unwrap().is_empty());
    }

    fn wait_for<F: Future>(mut future: Pin<&mut F>, wakes: &Arc<Wakes>) -> F::Output {
        loop {
            if let Poll::Ready(output) = poll(future.as_mut(), wakes) {
                return output;
            }
            thread::park();
        }
    }

    /// Reports each step on a channel and never finds anything. The channel ends with the search.
    fn endless(steps: mpsc::Sender<()>) -> impl FnMut(Snapshot<'_>) -> Result<Option<()>> + Send + 'static {
        move |_| {
            let _ = steps.send(());
            Ok(None)
        }
    }

    #[test]
    fn a_search_whose_future_is_dropped_ends_at_its_next_step() {
        let (_dir, store) = new_store(1);
        // More of them than threads: each has to make room for the next.
        for _ in 0..=THREADS {
            let (sender, steps) = mpsc::channel();
            let mut search = Box::pin(store.engine().search(endless(sender)));
            assert!(poll(search.as_mut(), &Wakes::new()).is_pending());
            steps.recv().unwrap();
            drop(search);
            while steps.recv().is_ok() {}
        }
        assert_eq!(block_on(store.count()).unwrap(), 1);
    }

    #[test]
    fn closing_the_store_ends_the_searches_under_way_and_those_that_wait() {
        let (_dir, store) = new_store(1);
        let wakes = Wakes::new();
        let mut searches: Vec<_> = (0..2 * THREADS)
            .map(|_| {
                let (sender, steps) = mpsc::channel();
                let mut search = Box::pin(store.engine().search(endless(sender)));
                assert!(poll(search.as_mut(), &wakes).is_pending());
                (search, steps)
            })
            .collect();
        searches[0].1.recv().unwrap();
        block_on(store.close()).unwrap();
        for (search, steps) in &mut searches {
            // The threads have ended, so nothing has to be waited for.
            assert_eq!(
                poll(search.as_mut(), &wakes).map(|ended| ended.unwrap_err().kind()),
                Poll::Ready(ErrorKind::Closed)
            );
            steps.try_iter().for_each(drop);
            assert_eq!(steps.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        }
        assert_eq!(block_on(store.count()).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(block_on(store.list(&containing("u"))).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn closing_ends_a_search_before_the_queued_writes_are_done() {
        let (_dir, store) = new_store(1);
        let wakes = Wakes::new();
        let (release, held) = mpsc::channel::<()>();
        let mut write = pin!(store.write(move |_| {
            let _ = held.recv();
            Ok::<_, Error>(())
        }));
        assert!(poll(write.as_mut(), &wakes).is_pending());
        let (sender, steps) = mpsc::channel();
        let mut search = pin!(store.engine().search(endless(sender)));
        assert!(poll(search.as_mut(), &wakes).is_pending());
        steps.recv().unwrap();

        let mut close = pin!(store.close());
        assert!(poll(close.as_mut(), &wakes).is_pending());
        assert_eq!(block_on(store.write(|_| Ok::<_, Error>(()))).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(wait_for(search, &wakes).unwrap_err().kind(), ErrorKind::Closed);
        assert!(poll(write.as_mut(), &wakes).is_pending());
        drop(release);
        wait_for(write, &wakes).unwrap();
        wait_for(close, &wakes).unwrap();
    }

    #[test]
    fn closing_waits_for_the_step_that_runs() {
        let (_dir, store) = new_store(1);
        let wakes = Wakes::new();
        let occupied = occupy(&store);
        store.engine().searches.close();
        block_on(store.engine().writer.close());
        let mut close = pin!(store.close());
        assert!(poll(close.as_mut(), &wakes).is_pending());
        drop(occupied);
        wait_for(close, &wakes).unwrap();
    }

    #[test]
    fn dropping_the_store_ends_the_threads() {
        let (_dir, store) = new_store(1);
        block_on(store.count()).unwrap();
        let ended = store.engine().searches.ended.clone();
        assert!(ended.try_recv().is_err_and(|error| !error.is_closed()));
        drop(store);
        assert!(block_on(ended.recv()).is_err());
    }

    #[test]
    fn a_panic_in_a_search_costs_neither_a_thread_nor_a_connection() {
        let (_dir, store) = new_store(1);
        // More than there are connections.
        for _ in 0..40 {
            let search = store.engine().search::<()>(|_| panic!("as planned"));
            assert_eq!(block_on(search).unwrap_err().kind(), ErrorKind::Internal);
        }
        assert_eq!(block_on(store.count()).unwrap(), 1);
    }

    #[test]
    fn searches_are_busy_when_too_many_wait() {
        let (_dir, store) = new_store(1);
        let occupied = occupy(&store);
        let wakes = Wakes::new();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(store.count())).collect();
        assert!(waiting.iter_mut().all(|count| poll(count.as_mut(), &wakes).is_pending()));
        assert_eq!(block_on(store.count()).unwrap_err().kind(), ErrorKind::Busy);
        drop(occupied);
        for count in &mut waiting {
            assert_eq!(wait_for(count.as_mut(), &wakes).unwrap(), 1);
        }
    }

    #[test]
    fn a_search_crosses_gaps_of_any_length_up_to_the_last_place() {
        let (dir, store) = new_store(6);
        block_on(store.close()).unwrap();
        let conn = Connection::open(dir.path().join("tenantry.db")).unwrap();
        for (seq, place) in [(6, i64::MAX), (5, i64::MAX - 1), (4, 1 << 40), (3, 4_097), (2, 4_096)] {
            conn.execute("UPDATE users SET seq = ?2 WHERE seq = ?1", (seq, place)).unwrap();
        }
        drop(conn);
        let store = block_on(Store::open(dir.path())).unwrap();
        for limit in [1, 2, 6, 7] {
            let mut pages = store.pages(ListQuery { limit, ..containing("@example") });
            let mut found = Vec::new();
            while let Some(users) = block_on(pages.next()).unwrap() {
                found.extend(users.into_iter().map(|user| user.email.to_string()));
            }
            assert_eq!(found, (0..6).map(|n| format!("u{n}@example.com")).collect::<Vec<_>>(), "{limit}");
        }
    }
}
