//! Following the change feed: that nothing is missed, whoever writes, and what it takes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tenantry::{Change, ErrorKind, Follow, ListQuery, Store, User, UserId};
use tenantry_testkit::feed::{assert_feed_is_true, changes_after, kinds};
use tenantry_testkit::random::Random;
use tenantry_testkit::share::share;

use crate::process::{self, Process};
use crate::support::{SqlitePlace, all, block_on, new_user, to_email};

fn next(changes: &mut Follow) -> Change {
    block_on(changes.next()).unwrap().unwrap()
}

fn is_waiting(changes: &mut Follow) -> bool {
    pin!(changes.next()).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn a_follower_gets_what_is_there_and_then_what_is_committed() {
    let place = SqlitePlace::new();
    let store = place.open();
    let cursor = block_on(store.changes_cursor()).unwrap();
    for number in 0..3 {
        block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
    }
    for after in [None, Some(cursor)] {
        let mut changes = store.follow(after);
        assert_eq!(store.metrics().followers, 0, "before the first poll");
        let seen: Vec<_> = (0..3).map(|_| next(&mut changes)).collect();
        assert_eq!(seen, changes_after(&store, Some(&cursor)));
        assert!(is_waiting(&mut changes));
        assert_eq!(store.metrics().followers, 1);
        assert_eq!(changes.cursor(), Some(&block_on(store.changes_cursor()).unwrap()));
    }
    assert_eq!(store.metrics().followers, 0);
}

#[test]
fn a_follower_of_an_empty_feed_gets_the_first_change() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut changes = store.follow(None);
    assert!(is_waiting(&mut changes));
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    assert_eq!(next(&mut changes).seq, 1);
}

/// The story that this is for: a commit between the look and the wait, whose notification is lost.
#[test]
fn no_commit_is_missed_however_it_falls_between_reading_and_waiting() {
    let place = SqlitePlace::new();
    let store = place.open();
    let rounds = share(500, 20_000);
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let mut changes = store.follow(None);
            thread::spawn(move || {
                (1..=rounds).for_each(|seq| assert_eq!(next(&mut changes).seq, seq))
            })
        })
        .collect();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    for round in 1..rounds {
        block_on(store.update(ada.id, to_email(&format!("ada{round}@example.com")))).unwrap();
    }
    followers.into_iter().for_each(|follower| follower.join().unwrap());
}

/// Takes part in [`a_follower_sees_the_writes_of_another_process`].
pub(crate) fn child_writes_and_is_followed(dir: &Path) {
    let store = block_on(Store::open(dir)).unwrap();
    process::wait_for_the_start();
    for number in 0..20 {
        block_on(store.create(new_user(&format!("c{number}@example.com")))).unwrap();
    }
    block_on(store.close()).unwrap();
}

#[test]
fn a_follower_sees_the_writes_of_another_process() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut changes = store.follow(None);
    // It waits already, and no write of this process wakes it.
    assert!(is_waiting(&mut changes));
    let mut child = Process::start("writes and is followed", &place.data_dir(), "");
    child.await_ready();
    child.start_now();
    let seqs: Vec<_> = (0..20).map(|_| next(&mut changes).seq).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    child.end();
}

#[test]
fn an_expired_cursor_is_an_item_and_then_the_stream_ends() {
    let (place, other) = (SqlitePlace::new(), SqlitePlace::new());
    let (store, other) = (place.open(), other.open());
    let foreign = block_on(other.changes_cursor()).unwrap();
    let mut changes = store.follow(Some(foreign));
    assert_eq!(block_on(changes.next()).unwrap().unwrap_err().kind(), ErrorKind::CursorExpired);
    assert!(block_on(changes.next()).is_none());
    assert_eq!(store.metrics().followers, 0);
}

#[test]
fn closing_the_store_ends_its_followers_also_those_that_wait() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut waiting = store.follow(None);
    let waits = thread::spawn(move || block_on(waiting.next()).unwrap().unwrap_err().kind());
    let mut later = store.follow(None);
    assert!(is_waiting(&mut later));
    block_on(store.close()).unwrap();
    assert_eq!(waits.join().unwrap(), ErrorKind::Closed);
    assert_eq!(block_on(later.next()).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(block_on(later.next()).is_none());
    let mut new = store.follow(None);
    assert_eq!(block_on(new.next()).unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

/// A task of a follower: counts how it is woken.
struct Wakes(AtomicBool, Mutex<Option<Thread>>);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        if let Some(thread) = self.1.lock().unwrap().as_ref() {
            thread.unpark();
        }
    }
}

/// Each follower gets each change, and what is read for one serves all.
#[test]
fn ten_thousand_followers_get_every_change_and_take_little_memory() {
    const FOLLOWERS: usize = 10_000;
    /// As the crate documents it, with what `comm` and the allocator add.
    const BYTES_MAX: usize = 4 << 10;
    let changes_max = share(50, 500);
    let place = SqlitePlace::new();
    let store = place.open();
    let cursor = block_on(store.changes_cursor()).unwrap();
    let wakes: Vec<_> = (0..FOLLOWERS)
        .map(|_| Arc::new(Wakes(AtomicBool::new(true), Mutex::new(Some(thread::current())))))
        .collect();
    let before = resident_bytes();
    let mut followers: Vec<Pin<Box<Follow>>> =
        (0..FOLLOWERS).map(|_| Box::pin(store.follow(Some(cursor)))).collect();
    let mut seen = vec![0; FOLLOWERS];
    let mut poll_all = |seen: &mut Vec<u64>| {
        for ((follower, wake), seen) in followers.iter_mut().zip(&wakes).zip(seen) {
            if !wake.0.swap(false, Ordering::SeqCst) {
                continue;
            }
            let waker = Waker::from(Arc::clone(wake));
            while let Poll::Ready(change) =
                pin!(follower.next()).poll(&mut Context::from_waker(&waker))
            {
                *seen += 1;
                assert_eq!(change.unwrap().unwrap().seq, *seen);
            }
        }
    };
    poll_all(&mut seen);
    assert!(resident_bytes().saturating_sub(before) < FOLLOWERS * BYTES_MAX);
    let writer = {
        let store = store.clone();
        thread::spawn(move || {
            for number in 0..changes_max {
                block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
            }
        })
    };
    while seen.iter().any(|seen| *seen < changes_max) {
        poll_all(&mut seen);
        if !wakes.iter().any(|wake| wake.0.load(Ordering::SeqCst)) {
            thread::park();
        }
    }
    writer.join().unwrap();
    assert!(seen.iter().all(|seen| *seen == changes_max));
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// A consumer as one is written: lists, follows, and reads each changed user as they are now. It is
/// cut off at random, and goes on from the cursor that it kept.
struct Consumer {
    store: Store,
    users: BTreeMap<UserId, User>,
    cursor: tenantry::ChangesCursor,
    random: Random,
}

impl Consumer {
    fn list(store: Store, seed: u64) -> Self {
        let mut query = ListQuery { limit: 3, ..ListQuery::default() };
        let (mut users, mut cursor) = (BTreeMap::new(), None);
        loop {
            let page = block_on(store.list(&query)).unwrap();
            cursor.get_or_insert(page.changes_cursor);
            users.extend(page.users.into_iter().map(|user| (user.id, user)));
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        Self { store, users, cursor: cursor.unwrap(), random: Random::new(seed) }
    }

    /// Follows until the change with this number.
    fn follow_to(&mut self, last: &Mutex<Option<u64>>) {
        let mut seq = 0;
        loop {
            let mut changes = self.store.follow(Some(self.cursor));
            for _ in 0..1 + self.random.below(40) {
                if *last.lock().unwrap() == Some(seq) {
                    return;
                }
                let change = next(&mut changes);
                match block_on(self.store.get(change.user_id)).unwrap() {
                    Some(user) => drop(self.users.insert(user.id, user)),
                    None => drop(self.users.remove(&change.user_id)),
                }
                (self.cursor, seq) = (change.cursor, change.seq);
            }
        }
    }
}

#[test]
fn who_lists_and_then_follows_has_an_exact_replica_in_the_end() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut known: Vec<UserId> = Vec::new();
    let mut random = Random::new(7);
    let mut write = |number: u64| {
        let user = (!known.is_empty()).then(|| *random.one_of(&known));
        let (new, address) = (
            new_user(&format!("u{number}@example.com")),
            to_email(&format!("v{number}@example.com")),
        );
        match (random.below(10), user) {
            (0..4, Some(user)) => drop(block_on(store.update(user, address))),
            (4..6, Some(user)) => drop(block_on(store.delete(user))),
            (6, Some(user)) => drop(block_on(store.restore(user, None))),
            _ => known.push(block_on(store.create(new)).unwrap().id),
        }
    };
    (0..50).for_each(&mut write);
    let last = Mutex::new(None);
    let other = place.open();
    let consumers = thread::scope(|scope| {
        let consumers: Vec<_> = [store.clone(), store.clone(), other.clone()]
            .into_iter()
            .zip(0..)
            .map(|(store, seed)| {
                let last = &last;
                scope.spawn(move || {
                    let mut consumer = Consumer::list(store, seed);
                    consumer.follow_to(last);
                    consumer
                })
            })
            .collect();
        (50..share(600, 60_000)).for_each(&mut write);
        // The last one, which each of them waits for.
        let mut last = last.lock().unwrap();
        block_on(store.create(new_user("last@example.com"))).unwrap();
        *last = store.metrics().newest_change;
        drop(last);
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect::<Vec<_>>()
    });
    let users: BTreeMap<_, _> = block_on(all(&store, ListQuery::default()))
        .into_iter()
        .map(|user| (user.id, user))
        .collect();
    for consumer in consumers {
        assert_eq!(consumer.users, users);
    }
    assert_feed_is_true(&store);
    assert!(kinds(&changes_after(&store, None)).contains(&"restored"));
}
