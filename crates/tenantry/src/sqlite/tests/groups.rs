//! Group commit: how many transactions the queued writes are, and what a failure in a group means.

use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_lite::future::block_on;

use super::{email, new_user};
use crate::engine::verbs::{BeginPurge, EndPurges, Erase};
use crate::sqlite::connection;
use crate::{Durability, Error, ErrorKind, Result, Store, User, UserUpdate, WriteTx};

/// How many transactions are in the write-ahead log: its frames that end one bear the size of the
/// database (<https://sqlite.org/fileformat2.html#the_write_ahead_log>). It isn't the log that
/// SQLite's locks are on, so it can be read as a file.
fn commits_in_log(data_dir: &Path) -> usize {
    let log = std::fs::read(data_dir.join("tenantry.db-wal")).unwrap();
    let Some(header) = log.first_chunk::<32>() else { return 0 };
    let page_size = u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize;
    let frames = log[32..].chunks_exact(24 + page_size);
    // Frames of an earlier use of the log bear other salts.
    frames.filter(|frame| frame[8..16] == header[16..24] && frame[4..8] != [0; 4]).count()
}

/// Blocks the writer's thread until the sender is dropped.
fn block_writer(store: &Store) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let store = store.clone();
    let closure = move |_: &mut WriteTx<'_>| {
        entered.send(()).unwrap();
        let _ = released.recv();
        Ok::<_, Error>(())
    };
    let blocker = thread::spawn(move || block_on(store.write(closure)).unwrap());
    has_entered.recv().unwrap();
    (release, blocker)
}

type Queued<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Puts a write into the queue.
fn queue<'a, T>(write: impl Future<Output = Result<T>> + 'a) -> Queued<'a, T> {
    let mut future: Queued<'a, T> = Box::pin(write);
    assert!(matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    future
}

#[test]
fn what_is_queued_is_committed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let write = |number: usize| store.create(new_user(&format!("u{number}@example.com")));
    let before = commits_in_log(dir.path());
    block_on(write(1_000)).unwrap();
    assert_eq!(commits_in_log(dir.path()) - before, 1);
    block_on(write(1_001)).unwrap();
    assert_eq!(commits_in_log(dir.path()) - before, 2);

    // The writer is blocked, without changing anything, while 64 writes are queued.
    let (release, blocker) = block_writer(&store);
    let queued: Vec<Queued<'_, User>> = (0..64).map(|number| queue(write(number))).collect();
    assert_eq!(commits_in_log(dir.path()) - before, 2);
    drop(release);
    blocker.join().unwrap();
    for future in queued {
        block_on(future).unwrap();
    }
    assert_eq!(commits_in_log(dir.path()) - before, 3);
    assert_eq!(block_on(store.count()).unwrap(), 66);
    block_on(store.close()).unwrap();
}

/// What follows a transaction in the file system waits for the disk, and so does the transaction
/// before it, even if transactions don't otherwise: one more commit sees to that.
#[test]
fn a_delete_is_two_commits_and_one_more_if_commits_do_not_wait_for_the_disk() {
    for (durability, commits) in [(Durability::Full, 2), (Durability::Normal, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::builder(dir.path()).durability(durability).open()).unwrap();
        let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
        let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
        block_on(store.directory(ada.id)).unwrap();
        let before = commits_in_log(dir.path());
        block_on(store.delete(ada.id)).unwrap();
        assert_eq!(commits_in_log(dir.path()) - before, commits, "{durability:?}");
        // Without a directory there is nothing to follow.
        let before = commits_in_log(dir.path());
        block_on(store.delete(bob.id)).unwrap();
        assert_eq!(commits_in_log(dir.path()) - before, 1, "{durability:?}");
        block_on(store.close()).unwrap();
    }
}

#[test]
fn of_ten_updates_with_one_version_in_one_group_the_first_alone_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let id = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
    let before = commits_in_log(dir.path());
    let (release, blocker) = block_writer(&store);
    let address = |number: usize| email(&format!("ada{number}@example.com"));
    let update = |number| UserUpdate {
        email: Some(address(number)),
        expected_version: Some(1),
        ..UserUpdate::default()
    };
    let queued: Vec<Queued<'_, User>> =
        (0..10).map(|number| queue(store.update(id, update(number)))).collect();
    drop(release);
    blocker.join().unwrap();
    let mut results = queued.into_iter().map(block_on);
    let updated = results.next().unwrap().unwrap();
    assert_eq!((updated.version, &updated.email), (2, &address(0)));
    for refused in results {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::VersionMismatch { current: 2 });
    }
    assert_eq!(commits_in_log(dir.path()) - before, 1);
    assert_eq!(block_on(store.get(id)).unwrap(), Some(updated));
    block_on(store.close()).unwrap();
}

/// Deletes that are queued share both of their commits.
#[test]
fn deletes_that_are_queued_are_two_commits_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let users: Vec<User> = (0..64)
        .map(|number| {
            let user = block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
            block_on(store.directory(user.id)).unwrap();
            user
        })
        .collect();
    let before = commits_in_log(dir.path());
    let (release, blocker) = block_writer(&store);
    let queued: Vec<Queued<'_, User>> =
        users.iter().map(|user| queue(store.delete(user.id))).collect();
    drop(release);
    blocker.join().unwrap();
    for future in queued {
        block_on(future).unwrap();
    }
    assert_eq!(commits_in_log(dir.path()) - before, 2);
    block_on(store.close()).unwrap();
}

/// The intent to erase is renewed with each user who is purged, and whoever waits for it waits for
/// the last.
#[test]
fn an_erasure_that_meets_another_purge_in_its_group_is_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let purge = |user: &User| {
        let id = user.id;
        store.apply(BeginPurge(id))
    };
    let users: Vec<User> = ["ada@example.com", "bob@example.com"]
        .map(|address| {
            let user = block_on(store.create(new_user(address))).unwrap();
            block_on(store.delete(user.id)).unwrap()
        })
        .into();
    block_on(purge(&users[0])).unwrap();
    let (release, blocker) = block_writer(&store);
    let erasing = queue(store.apply(Erase()));
    let purging = queue(purge(&users[1]));
    drop(release);
    blocker.join().unwrap();
    block_on(erasing).unwrap();
    block_on(purging).unwrap();
    let left = block_on(store.read(|tx| tx.session.run(|tx| tx.intents()))).unwrap();
    assert!(left.is_empty(), "{left:?}");
    block_on(store.close()).unwrap();
}

/// A verb that fails when it has written something is undone, and each of its group runs again by
/// itself.
#[test]
fn what_an_operation_wrote_before_it_failed_is_undone_and_the_rest_of_the_group_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let trashed = ["fay@example.com", "gus@example.com"].map(|address| {
        let user = block_on(store.create(new_user(address))).unwrap();
        block_on(store.directory(user.id)).unwrap();
        block_on(store.delete(user.id)).unwrap();
        block_on(store.apply(BeginPurge(user.id))).unwrap();
        user.id
    });
    // The first of the two can be removed, the second can't.
    block_on(store.write(move |tx| {
        let db = connection(tx);
        db.execute_batch("CREATE TABLE notes (user_id BLOB REFERENCES users (id))")?;
        db.execute("INSERT INTO notes VALUES (?1)", [trashed[1]])?;
        Ok::<_, Error>(())
    }))
    .unwrap();
    let before = commits_in_log(dir.path());
    let (release, blocker) = block_writer(&store);
    let first = queue(store.create(new_user("ada@example.com")));
    let failing = queue(store.apply(EndPurges(trashed.into())));
    let last = queue(store.create(new_user("eve@example.com")));
    drop(release);
    blocker.join().unwrap();
    block_on(first).unwrap();
    assert_eq!(block_on(failing).unwrap_err().kind(), ErrorKind::Constraint);
    block_on(last).unwrap();
    assert_eq!(commits_in_log(dir.path()) - before, 2);
    assert_eq!(block_on(store.count()).unwrap(), 2);
    for id in trashed {
        assert!(block_on(store.get_trashed(id)).unwrap().is_some(), "{id}");
    }
    block_on(store.close()).unwrap();
}
