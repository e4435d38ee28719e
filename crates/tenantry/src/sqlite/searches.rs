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
//! A page that takes a walk through all users is divided: the thread that makes it offers the
//! second half to the others, and walks it itself if no thread has taken it by then. So a search
//! among idle threads takes half as long, and many searches at once take no more work than before.
//!
//! Rejected: a thread for each search (too many searches at once would take all cores and all
//! readers), the executor's own pool (no executor is known here).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use async_channel::{Receiver, Sender, TrySendError};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::readers::Readers;
use super::rows::listing::Listing;
use super::tx::Snapshot;
use crate::engine::queue::closed;
use crate::{Error, ErrorKind, Page, Result};

/// How many searches run at once: enough that a short one rarely waits behind a long one, and few
/// enough that searches leave cores and readers to everything else.
const THREADS: usize = 2;
/// How many searches may wait for a thread. Callers beyond that get `Busy`, because those that wait
/// already keep the threads busy for seconds.
const WAITING_MAX: usize = 1_024;

/// By how much the [priority](https://man7.org/linux/man-pages/man7/sched.7.html) of a thread that
/// searches is below that of the thread that starts it. Where cores are scarce, requests that read
/// a row should not wait behind those that inspect all: at 10, a search gets a tenth of their
/// share.
const NICENESS: i32 = 10;

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
    /// For parts of a search that other threads may take.
    offers: Sender<Search>,
}

impl Searches {
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        let (sender, receiver) = async_channel::bounded(WAITING_MAX);
        let (alive, ended) = async_channel::bounded(1);
        Self {
            searcher: Searcher { readers, queue: receiver, offers: sender.clone() },
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
        self.submit(move |searcher, sender| searcher.search(step, sender)).await
    }

    /// Makes a page of a listing.
    pub(super) async fn list(&self, listing: Listing) -> Result<Page> {
        self.submit(move |searcher, sender| searcher.list(listing, sender)).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        search: impl FnOnce(&Searcher, oneshot::Sender<Result<T>>) + Send + 'static,
    ) -> Result<T> {
        self.start()?;
        let (sender, receiver) = oneshot::channel();
        let search: Search = Box::new(move |searcher| search(searcher, sender));
        self.queue.try_send(search).map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::new(ErrorKind::Busy, "too many searches are waiting: try again")
            }
            TrySendError::Closed(_) => closed(),
        })?;
        receiver.await.unwrap_or_else(|_| Err(panicked()))
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
            let thread =
                thread::Builder::new().name("tenantry-search".to_owned()).spawn(move || {
                    let _alive: Sender<()> = alive;
                    lower_priority();
                    searcher.run();
                });
            match thread {
                Ok(_) => threads.started += 1,
                Err(_) if threads.started > 0 => break,
                Err(error) => {
                    return Err(
                        Error::new(ErrorKind::Io, "a thread can't be started").with_source(error)
                    );
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

/// Lowers the priority of this thread, which Linux has for each. A search is right without it, so
/// no failure matters.
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Ok(nice) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, nice.saturating_add(NICENESS));
    }
}

/// Elsewhere, a priority is the whole process's.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {
    let _ = NICENESS;
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

    fn search<T>(
        &self,
        mut step: impl FnMut(Snapshot<'_>) -> Result<Option<T>>,
        result: oneshot::Sender<Result<T>>,
    ) {
        while !result.is_canceled() {
            let found = if self.queue.is_closed() {
                Err(closed())
            } else {
                self.readers.read_one(&mut step)
            };
            if let Some(found) = found.transpose() {
                // A caller that no longer waits doesn't want to know.
                let _ = result.send(found);
                return;
            }
        }
    }

    /// Makes a page. If that seems to take a walk to the end, another thread may walk the second
    /// half.
    fn list(&self, listing: Listing, caller: oneshot::Sender<Result<Page>>) {
        let caller = Caller(Arc::new(Mutex::new(Some(caller))));
        let page = self.make_page(listing, &caller);
        if let Some(caller) = caller.lock().take() {
            let _ = caller.send(page);
        }
    }

    fn make_page(&self, mut listing: Listing, caller: &Caller) -> Result<Page> {
        let mut second = None;
        loop {
            let is_complete = self.step(caller, |conn| {
                let is_complete = listing.step(conn)?;
                if !is_complete && second.is_none() {
                    second = listing.split(conn)?.map(|half| self.offer(half, caller));
                }
                Ok(is_complete)
            })?;
            if is_complete {
                break;
            }
        }
        if let Some(second) = second
            && !listing.has_more()
        {
            listing.append(second.finish(self, caller)?);
        }
        Ok(listing.page())
    }

    /// Offers half a walk to the other threads.
    fn offer(&self, half: Listing, caller: &Caller) -> SecondHalf {
        let work = Arc::new(Mutex::new(Some(half)));
        let (sender, walked) = mpsc::channel();
        let (offered, caller) = (Arc::clone(&work), caller.clone());
        let job: Search = Box::new(move |searcher| {
            if let Some(half) = take(&offered) {
                let _ = sender.send(searcher.walk(half, &caller));
            }
        });
        // If it can't be offered, or nobody takes it, this thread walks on when it comes there.
        let _ = self.offers.try_send(job);
        SecondHalf { work, walked }
    }

    fn walk(&self, mut listing: Listing, caller: &Caller) -> Result<Listing> {
        while !self.step(caller, |conn| listing.step(conn))? {}
        Ok(listing)
    }

    /// Runs one step, unless the caller no longer waits or the store was closed.
    fn step<T>(&self, caller: &Caller, step: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        if self.queue.is_closed() || !caller.is_waiting() {
            return Err(closed());
        }
        self.readers.read_one(|tx| step(tx.conn()))
    }
}

/// The caller of a search, which gets its result once.
#[derive(Clone)]
struct Caller(Arc<Mutex<Option<oneshot::Sender<Result<Page>>>>>);

impl Caller {
    fn is_waiting(&self) -> bool {
        self.lock().as_ref().is_some_and(|caller| !caller.is_canceled())
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<Result<Page>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The second half of a walk, which another thread may take.
struct SecondHalf {
    /// `None` once a thread has taken it.
    work: Arc<Mutex<Option<Listing>>>,
    walked: mpsc::Receiver<Result<Listing>>,
}

impl SecondHalf {
    /// Walks the half, or waits for the thread that does.
    fn finish(self, searcher: &Searcher, caller: &Caller) -> Result<Listing> {
        match take(&self.work) {
            Some(half) => searcher.walk(half, caller),
            None => self.walked.recv().unwrap_or_else(|_| Err(panicked())),
        }
    }
}

fn take(work: &Mutex<Option<Listing>>) -> Option<Listing> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a thread that searches panicked")
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{Thread, ThreadId};

    use futures_lite::future::block_on;
    use tempfile::TempDir;

    use super::*;
    use crate::{Filter, ListQuery, NewUser, Store};

    /// More than one step of a walk.
    const USERS: usize = 5_200;

    fn new_store(users: usize) -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let users = (0..users)
            .map(|n| NewUser::new(format!("u{n}@example.com").parse().unwrap()))
            .collect();
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
            assert!(
                !self.by.lock().unwrap().contains(&self.poller.id()),
                "woken by the thread that polls"
            );
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
        occupy_some(store, THREADS)
    }

    fn occupy_some(store: &Store, threads: usize) -> Occupied {
        let (started, has_started) = mpsc::channel();
        let (mut release, mut searches) = (Vec::new(), Vec::new());
        for _ in 0..threads {
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
        assert_eq!(
            block_on(store.list(&ListQuery::default())).unwrap().users.len(),
            ListQuery::DEFAULT_LIMIT
        );
        assert!(
            block_on(store.get_by_email(&"u7@example.com".parse().unwrap())).unwrap().is_some()
        );
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
    fn endless(
        steps: mpsc::Sender<()>,
    ) -> impl FnMut(Snapshot<'_>) -> Result<Option<()>> + Send + 'static {
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
        assert_eq!(
            block_on(store.write(|_| Ok::<_, Error>(()))).unwrap_err().kind(),
            ErrorKind::Closed
        );
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
    fn a_search_has_a_lower_priority_than_its_caller() {
        let (_dir, store) = new_store(1);
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let search = store.engine().search(move |_| Ok(Some(nice())));
        assert_eq!(block_on(search).unwrap(), (nice() + NICENESS).min(19));
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

    /// The half that is offered to other threads must not wait for one of them.
    #[test]
    fn a_search_walks_its_second_half_itself_if_no_other_thread_is_free() {
        let (_dir, store) = new_store(24_000);
        let occupied = occupy_some(&store, THREADS - 1);
        for (part, found) in [("u23999@", 1), ("u5@", 1), ("999@", 24), ("nobody", 0)] {
            let page = block_on(store.list(&ListQuery { limit: 50, ..containing(part) })).unwrap();
            assert_eq!((page.users.len(), page.next_cursor), (found, None), "{part}");
        }
        let page = block_on(store.list(&ListQuery { limit: 23, ..containing("999@") })).unwrap();
        assert_eq!(page.users.last().unwrap().email.as_str(), "u22999@example.com");
        let cursor = page.next_cursor;
        drop(occupied);
        let page = block_on(store.list(&ListQuery { cursor, ..containing("999@") })).unwrap();
        assert_eq!((page.users.len(), page.next_cursor), (1, None));
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
        for (seq, place) in [(6, i64::MAX), (5, i64::MAX - 1), (4, 1 << 40), (3, 4_097), (2, 4_096)]
        {
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
            assert_eq!(
                found,
                (0..6).map(|n| format!("u{n}@example.com")).collect::<Vec<_>>(),
                "{limit}"
            );
        }
    }
}
