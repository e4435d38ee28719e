//! Many threads and processes at once. The threads run no executor: each waits for its own future.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::task::Poll;
use std::thread;

use tenantry::{ErrorKind, ListQuery, RequestKey, Result, SignIn, Store, User};

use crate::process::{self, Process};
use crate::support::{
    BlockedWriter, Boxed, SqlitePlace, all, block_on, email, new_user, poll_once, queued, to_email,
};

/// As the crate documents them.
const QUEUE_MAX: usize = 1_024;
const WAITING_MAX: usize = 16_384;
const READERS_MAX: usize = 32;

/// Runs a closure on so many threads, which all begin at the same moment.
fn on_threads<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (start, f) = (&start, &f);
                scope.spawn(move || {
                    start.wait();
                    f(number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn whatever_64_threads_were_answered_is_there() {
    let place = SqlitePlace::new();
    let store = place.open();
    let answered: Vec<Vec<User>> = on_threads(64, |number| {
        (0..5)
            .map(|round| {
                block_on(async {
                    let user = store
                        .create(new_user(&format!("t{number}r{round}@example.com")))
                        .await
                        .unwrap();
                    let update = to_email(&format!("T{number}r{round}@example.com"));
                    assert_eq!(store.update(user.id, update).await.unwrap().version, 2);
                    let signed_in = store.sign_in(user.email).await.unwrap();
                    assert!(!signed_in.is_new && signed_in.user.last_login_at.is_some());
                    signed_in.user
                })
            })
            .collect()
    });
    let by_id: HashMap<_, _> = block_on(all(&store, ListQuery::default()))
        .into_iter()
        .map(|user| (user.id, user))
        .collect();
    assert_eq!(by_id.len(), 64 * 5);
    for user in answered.iter().flatten() {
        assert_eq!(by_id.get(&user.id), Some(user));
    }
    block_on(store.close()).unwrap();
}

#[test]
fn of_many_who_sign_in_with_one_new_address_one_is_new() {
    const ADDRESSES: usize = 8;
    let place = SqlitePlace::new();
    let store = place.open();
    let answers: Vec<Vec<SignIn>> = on_threads(64, |number| {
        (0..ADDRESSES)
            .map(|address| {
                let name = if number % 2 == 0 { "ada" } else { "Ada" };
                block_on(store.sign_in(email(&format!("{name}{address}@example.com")))).unwrap()
            })
            .collect()
    });
    for address in 0..ADDRESSES {
        let of_address: Vec<&SignIn> =
            answers.iter().map(|of_thread| &of_thread[address]).collect();
        assert_eq!(of_address.iter().filter(|answer| answer.is_new).count(), 1);
        assert_eq!(of_address.iter().map(|answer| answer.user.id).collect::<HashSet<_>>().len(), 1);
    }
    assert_eq!(block_on(store.count()).unwrap(), ADDRESSES as u64);
    block_on(store.close()).unwrap();
}

#[test]
fn of_many_who_create_one_address_one_succeeds() {
    let place = SqlitePlace::new();
    let store = place.open();
    let answers = on_threads(64, |_| {
        block_on(store.create(new_user("ada@example.com"))).map_err(|error| error.kind())
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(
        answers.iter().all(|answer| !matches!(answer, Err(kind) if *kind != ErrorKind::EmailTaken))
    );
    block_on(store.close()).unwrap();
}

#[test]
fn a_write_that_has_returned_is_seen_by_every_thread() {
    let place = SqlitePlace::new();
    let store = place.open();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (sender, written) = mpsc::channel::<User>();
                let store = &store;
                let reader = scope.spawn(move || {
                    let mut seen = 0;
                    for user in written {
                        assert_eq!(block_on(store.get(user.id)).unwrap().as_ref(), Some(&user));
                        assert_eq!(
                            block_on(store.get_by_email(&user.email)).unwrap().as_ref(),
                            Some(&user)
                        );
                        seen += 1;
                    }
                    seen
                });
                (sender, reader)
            })
            .collect();
        for number in 0..200 {
            let user = block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
            for (sender, _) in &readers {
                sender.send(user.clone()).unwrap();
            }
        }
        for (sender, reader) in readers {
            drop(sender);
            assert_eq!(reader.join().unwrap(), 200);
        }
    });
    block_on(store.close()).unwrap();
}

#[test]
fn callers_wait_for_a_place_in_the_queue_and_get_their_results() {
    let place = SqlitePlace::new();
    let store = place.open();
    let writer = BlockedWriter::block(&store);
    let mut futures: Vec<Boxed<'_, Result<User>>> = (0..QUEUE_MAX + 100)
        .map(|number| queued(store.create(new_user(&format!("u{number}@example.com")))))
        .collect();
    // However often they are polled.
    assert!(futures.iter_mut().all(|future| poll_once(future).is_pending()));
    writer.release();
    let answered: Vec<User> = futures.into_iter().map(|future| block_on(future).unwrap()).collect();
    assert_eq!(answered.len(), QUEUE_MAX + 100);
    // First come, first served.
    assert_eq!(block_on(all(&store, ListQuery::default())), answered);
    block_on(store.close()).unwrap();
}

#[test]
fn callers_beyond_the_limit_are_turned_away_at_once() {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let writer = BlockedWriter::block(&store);
    let mut futures: Vec<Boxed<'_, Result<User>>> =
        (0..QUEUE_MAX + WAITING_MAX).map(|_| queued(store.record_login(ada.id))).collect();

    let refused = |future: Boxed<'_, Result<User>>| {
        let mut future = future;
        match poll_once(&mut future) {
            Poll::Ready(answer) => {
                let error = answer.unwrap_err();
                assert!(error.is_retryable());
                error.kind() == ErrorKind::Busy
            }
            Poll::Pending => false,
        }
    };
    assert!(refused(Box::pin(store.record_login(ada.id))));
    assert!(refused(Box::pin(store.delete(ada.id))));
    // Reads have no part in it.
    assert_eq!(block_on(store.get(ada.id)).unwrap().as_ref(), Some(&ada));

    // Whoever gives up makes room for another.
    futures.truncate(QUEUE_MAX + WAITING_MAX - 10);
    for _ in 0..10 {
        futures.push(queued(store.record_login(ada.id)));
    }
    assert!(refused(Box::pin(store.record_login(ada.id))));

    writer.release();
    for future in futures {
        assert_eq!(block_on(future).unwrap().id, ada.id);
    }
    block_on(store.record_login(ada.id)).unwrap();
    block_on(store.close()).unwrap();
}

#[test]
fn a_future_that_is_dropped_harms_no_other_write() {
    let place = SqlitePlace::new();
    let store = place.open();
    let writer = BlockedWriter::block(&store);
    let mut futures: Vec<Option<Boxed<'_, Result<User>>>> = (0..QUEUE_MAX + 60)
        .map(|number| Some(queued(store.create(new_user(&format!("u{number}@example.com"))))))
        .collect();
    // Every third gives up, in the queue and before it; and one who was never polled.
    for given_up in futures.iter_mut().step_by(3) {
        *given_up = None;
    }
    drop(store.create(new_user("never@example.com")));
    writer.release();
    let answered: Vec<User> =
        futures.into_iter().flatten().map(|future| block_on(future).unwrap()).collect();
    let there = block_on(all(&store, ListQuery::default()));
    let ids: HashSet<_> = there.iter().map(|user| user.id).collect();
    assert!(answered.iter().all(|user| ids.contains(&user.id)));
    assert_eq!(block_on(store.get_by_email(&email("never@example.com"))).unwrap(), None);
    block_on(store.close()).unwrap();
}

#[test]
fn a_close_completes_the_writes_in_the_queue_and_refuses_later_ones() {
    let place = SqlitePlace::new();
    let store = place.open();
    let writer = BlockedWriter::block(&store);
    let in_queue: Vec<Boxed<'_, Result<User>>> = (0..QUEUE_MAX)
        .map(|number| queued(store.create(new_user(&format!("u{number}@example.com")))))
        .collect();
    let waiting: Vec<Boxed<'_, Result<User>>> = (0..10)
        .map(|number| queued(store.create(new_user(&format!("w{number}@example.com")))))
        .collect();
    let closing = queued(store.close());
    assert_eq!(
        block_on(store.create(new_user("late@example.com"))).unwrap_err().kind(),
        ErrorKind::Closed
    );
    writer.release();
    block_on(closing).unwrap();
    let mut answered: HashSet<_> =
        in_queue.into_iter().map(|future| block_on(future).unwrap().id).collect();
    for future in waiting {
        assert_eq!(block_on(future).unwrap_err().kind(), ErrorKind::Closed);
    }
    let store = place.open();
    for user in block_on(all(&store, ListQuery::default())) {
        assert!(answered.remove(&user.id));
    }
    assert!(answered.is_empty());
    block_on(store.close()).unwrap();
}

#[test]
fn no_more_than_32_read_at_once_and_the_others_wait() {
    const THREADS: usize = 40;
    let place = SqlitePlace::new();
    let store = place.open();
    block_on(store.create(new_user("ada@example.com"))).unwrap();
    /// How many read, and how many of the closures have begun or failed.
    #[derive(Default)]
    struct Crowd {
        inside: AtomicUsize,
        most_inside: AtomicUsize,
        coming: AtomicUsize,
        tried: Mutex<usize>,
        changed: Condvar,
    }

    impl Crowd {
        fn has_tried(&self) {
            *self.tried.lock().unwrap() += 1;
            self.changed.notify_all();
        }
    }

    let crowd = Arc::new(Crowd::default());
    let counts = on_threads(THREADS, |_| {
        crowd.coming.fetch_add(1, Ordering::SeqCst);
        let within = Arc::clone(&crowd);
        let answer = block_on(store.read(move |tx| {
            within
                .most_inside
                .fetch_max(within.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            within.has_tried();
            // No closure ends before so many have begun as fit, and all are on their way.
            drop(
                within
                    .changed
                    .wait_while(within.tried.lock().unwrap(), |tried| *tried < READERS_MAX)
                    .unwrap(),
            );
            while within.coming.load(Ordering::SeqCst) < THREADS {
                thread::yield_now();
            }
            let count = tx.count();
            within.inside.fetch_sub(1, Ordering::SeqCst);
            count
        }));
        answer.inspect_err(|_| crowd.has_tried()).map_err(|error| error.kind())
    });
    assert_eq!(counts, [Ok(1); THREADS]);
    assert_eq!(crowd.most_inside.load(Ordering::SeqCst), READERS_MAX);
    block_on(store.close()).unwrap();
}

#[test]
fn a_reader_who_waits_for_too_long_is_turned_away_and_a_close_lets_readers_end() {
    let place = SqlitePlace::new();
    let store =
        block_on(Store::builder(place.data_dir()).busy_timeout(crate::support::SHORT).open())
            .unwrap();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    // Readers stay inside for as long as this is locked.
    let gate = Arc::new(Mutex::new(()));
    thread::scope(|scope| {
        let closed_gate = gate.lock().unwrap();
        let (sender, came_in) = mpsc::channel();
        let readers: Vec<_> = (0..READERS_MAX)
            .map(|_| {
                let (sender, store, gate) = (sender.clone(), &store, Arc::clone(&gate));
                scope.spawn(move || {
                    let id = ada.id;
                    block_on(store.read(move |tx| {
                        sender.send(()).unwrap();
                        drop(gate.lock());
                        tx.get(id)
                    }))
                })
            })
            .collect();
        for _ in 0..READERS_MAX {
            came_in.recv().unwrap();
        }
        let id = ada.id;
        assert_eq!(block_on(store.read(move |tx| tx.get(id))).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(block_on(store.get(ada.id)).unwrap_err().kind(), ErrorKind::Busy);
        block_on(store.close()).unwrap();
        assert_eq!(block_on(store.get(ada.id)).unwrap_err().kind(), ErrorKind::Closed);
        drop(closed_gate);
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap().as_ref(), Some(&ada));
        }
    });
}

#[test]
fn two_stores_on_one_directory_lose_nothing_and_see_each_other() {
    let place = SqlitePlace::new();
    let stores = [place.open(), place.open()];
    let answered = on_threads(8, |number| {
        (0..25)
            .map(|round| {
                let (mine, other) = (&stores[number % 2], &stores[(number + 1) % 2]);
                let user =
                    block_on(mine.create(new_user(&format!("t{number}r{round}@example.com"))))
                        .unwrap();
                assert_eq!(block_on(other.get(user.id)).unwrap().as_ref(), Some(&user));
                user.id
            })
            .collect::<Vec<_>>()
    });
    let answered: HashSet<_> = answered.into_iter().flatten().collect();
    let there: HashSet<_> =
        block_on(all(&stores[0], ListQuery::default())).iter().map(|user| user.id).collect();
    assert_eq!(answered.len(), 200);
    assert_eq!(there, answered);
    for store in stores {
        block_on(store.close()).unwrap();
    }
}

/// How many users every child creates.
const OF_EACH_CHILD: usize = 150;

#[test]
fn processes_that_write_at_once_lose_nothing_and_starve_no_other() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut children: Vec<Process> =
        (0..3).map(|_| Process::start("writes", &place.data_dir(), "")).collect();
    children.iter_mut().for_each(Process::await_ready);
    children.iter_mut().for_each(Process::start_now);
    // This process writes as well.
    let mut answered: HashSet<String> = (0..OF_EACH_CHILD)
        .map(|number| {
            block_on(store.create(new_user(&format!("parent{number}@example.com"))))
                .unwrap()
                .id
                .to_string()
        })
        .collect();
    for child in children {
        let of_child = child.end();
        assert_eq!(of_child.len(), OF_EACH_CHILD);
        answered.extend(of_child);
    }
    let there: HashSet<_> = block_on(all(&store, ListQuery::default()))
        .iter()
        .map(|user| user.id.to_string())
        .collect();
    assert_eq!(there.len(), 4 * OF_EACH_CHILD);
    assert_eq!(there, answered);
    block_on(store.close()).unwrap();
}

/// Clients that were cut off send their requests again, to whatever process.
#[test]
fn processes_that_get_one_request_at_once_perform_it_once() {
    let place = SqlitePlace::new();
    let store = place.open();
    let mut children: Vec<Process> =
        (0..3).map(|_| Process::start("sends keys", &place.data_dir(), "")).collect();
    children.iter_mut().for_each(Process::await_ready);
    children.iter_mut().for_each(Process::start_now);
    let replies: Vec<Vec<String>> = children.into_iter().map(Process::end).collect();
    assert_eq!(replies[0].len(), OF_EACH_CHILD);
    assert!(replies.iter().all(|of_child| *of_child == replies[0]), "{replies:?}");
    assert_eq!(block_on(store.count()).unwrap(), OF_EACH_CHILD as u64);
    block_on(store.close()).unwrap();
}

pub(crate) fn child_sends_keys(dir: &Path) {
    let store = block_on(Store::builder(dir).create_if_missing(false).open()).unwrap();
    process::wait_for_the_start();
    for number in 0..OF_EACH_CHILD {
        let key = RequestKey::new("client", &number.to_string(), &[]).unwrap();
        let user =
            block_on(store.once(key).create(new_user(&format!("u{number}@example.com")))).unwrap();
        process::say(user.id);
    }
    block_on(store.close()).unwrap();
}

pub(crate) fn child_writes(dir: &Path) {
    let store = block_on(Store::builder(dir).create_if_missing(false).open()).unwrap();
    process::wait_for_the_start();
    let process = std::process::id();
    for number in 0..OF_EACH_CHILD {
        let user =
            block_on(store.create(new_user(&format!("child{process}-{number}@example.com"))))
                .unwrap();
        process::say(user.id);
    }
    block_on(store.close()).unwrap();
}
