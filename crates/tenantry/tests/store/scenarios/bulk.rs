//! Operations on many users.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tenantry::{Ambient, ErrorKind, Filter, NewUser, Set, Store, Timestamp, User, UserUpdate};

use super::{changed, create};
use crate::support::{
    Bench, BlockedWriter, Boxed, addresses, all, block_on, email, kind, new_user, numbered_id,
    only, poll_once, queued, to_email,
};

async fn create_numbered(store: &Store, count: usize) -> Vec<User> {
    let new = (0..count).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    store.create_many(new).await.unwrap().into_iter().map(Result::unwrap).collect()
}

fn containing(text: &str) -> Filter {
    Filter { email_contains: Some(text.into()), ..Filter::default() }
}

async fn users_are_read_by_their_ids_in_the_given_order(bench: &mut Bench) {
    let store = &bench.store;
    let users = create_numbered(store, 200).await;
    let nobody = numbered_id(7_000);
    store.delete(users[3].id).await.unwrap();
    for count in [0, 1, 2, 63, 64, 65, 128, 200] {
        let mut ids: Vec<_> = users.iter().rev().take(count).map(|user| user.id).collect();
        let mut expected: Vec<_> = users.iter().rev().take(count).cloned().map(Some).collect();
        ids.extend([nobody, users[3].id, users[9].id, users[9].id]);
        expected.extend([None, None, Some(users[9].clone()), Some(users[9].clone())]);
        if count == 200 {
            expected[196] = None;
        }
        assert_eq!(store.get_many(&ids).await.unwrap(), expected, "{count}");
        let read = store.read(move |tx| tx.get_many(&ids)).await.unwrap();
        assert!(read == expected, "{count}");
    }
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
}

async fn an_update_of_many_has_a_result_for_each(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    let bob = create(store, "bob@example.com").await;
    let now = clock.forward(10);
    let name =
        |name: &str| UserUpdate { name: Set::To(name.parse().unwrap()), ..UserUpdate::default() };
    let results = store
        .update_many(vec![
            (ada.id, name("Ada")),
            (numbered_id(7_000), name("Nobody")),
            (bob.id, to_email("ADA@example.com")),
            (ada.id, UserUpdate { expected_version: Some(1), ..name("Countess") }),
            (ada.id, to_email("lovelace@example.com")),
            (bob.id, to_email("ada@example.com")),
        ])
        .await
        .unwrap();
    let results: Vec<_> =
        results.into_iter().map(|result| result.map_err(|error| error.kind())).collect();
    let named = changed(&ada, |user| {
        (user.name, user.updated_at, user.version) = (Some("Ada".parse().unwrap()), now, 2);
    });
    let moved =
        changed(&named, |user| (user.email, user.version) = (email("lovelace@example.com"), 3));
    let second = changed(&bob, |user| {
        (user.email, user.updated_at, user.version) = (email("ada@example.com"), now, 2);
    });
    assert_eq!(
        results,
        [
            Ok(named),
            Err(ErrorKind::NotFound),
            Err(ErrorKind::EmailTaken),
            Err(ErrorKind::VersionMismatch { current: 2 }),
            Ok(moved.clone()),
            Ok(second.clone())
        ]
    );
    assert_eq!(store.get_many(&[ada.id, bob.id]).await.unwrap(), [Some(moved), Some(second)]);
}

async fn a_count_is_the_length_of_the_list(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    // More than two steps of the walk.
    let users = create_numbered(store, 9_000).await;
    store.suspend(users[8_999].id).await.unwrap();
    store.delete(users[8_998].id).await.unwrap();
    clock.forward(10);
    create(store, "late@example.com").await;
    for (filter, expected) in [
        (Filter::default(), 9_000),
        (containing("9"), 2_438),
        (containing("late"), 1),
        (Filter { email_prefix: Some("u899".into()), ..Filter::default() }, 10),
        (Filter { email_prefix: Some("u899".into()), ..containing("7@") }, 1),
        (Filter { suspended: Some(true), ..Filter::default() }, 1),
        (Filter { suspended: Some(false), ..Filter::default() }, 8_999),
        (Filter { created_before: Some(clock.now()), ..Filter::default() }, 8_999),
        (Filter { created_after: Some(Timestamp::MIN), ..Filter::default() }, 9_000),
    ] {
        assert_eq!(all(store, only(filter.clone())).await.len(), expected, "{filter:?}");
        assert_eq!(store.count_where(&filter).await.unwrap(), expected as u64, "{filter:?}");
        let in_tx = filter.clone();
        assert_eq!(
            store.read(move |tx| tx.count_where(&in_tx)).await.unwrap(),
            expected as u64,
            "{filter:?}"
        );
    }
    let bad = Filter { email_prefix: Some("\0".into()), ..Filter::default() };
    assert_eq!(kind(store.count_where(&bad).await), ErrorKind::InvalidQuery);
}

async fn those_who_meet_a_filter_are_deleted_with_their_files_and_nobody_else(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let old = create_numbered(store, 150).await;
    let [first, last] = [old[0].id, old[149].id];
    store.directory(last).await.unwrap().write("a.txt", "a").unwrap();
    let moment = clock.forward(100);
    store.record_login(first).await.unwrap();
    create(store, "young@example.com").await;
    let inactive = Filter { inactive_since: Some(moment), ..Filter::default() };
    assert_eq!(store.count_where(&inactive).await.unwrap(), 149);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let called = Arc::clone(&calls);
    let progress = move |progress: tenantry::Progress| called.lock().unwrap().push(progress.users);
    let outcome = store.delete_where(inactive, progress).await.unwrap();
    assert_eq!((outcome.changed, outcome.passed_over, outcome.failed), (149, 0, 0));
    assert!(outcome.ended_by.is_none());
    assert_eq!(*calls.lock().unwrap(), [64, 128, 149]);
    assert_eq!(
        addresses(&all(store, only(Filter::default())).await),
        ["u0@example.com", "young@example.com"]
    );
    let back = store.restore(last, None).await.unwrap();
    assert_eq!(back, old[149]);
    assert_eq!(store.directory(last).await.unwrap().read_to_string("a.txt").unwrap(), "a");
}

/// A list alone would be of an earlier moment.
async fn a_user_who_logs_in_before_their_turn_is_passed_over(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut ada = create(store, "ada@example.com").await;
    let bob = create(store, "bob@example.com").await;
    let moment = clock.forward(100);
    let inactive = || Filter { inactive_since: Some(moment), ..Filter::default() };
    for is_delete in [false, true] {
        let blocked = BlockedWriter::block(store);
        let login = queued(store.record_login(ada.id));
        let mut change: Boxed<'_, _> = if is_delete {
            Box::pin(store.delete_where(inactive(), |_| {}))
        } else {
            Box::pin(store.suspend_where(inactive(), |_| {}))
        };
        // Until the changes of both wait behind the login.
        let waiting = store.metrics().queue_depth;
        while store.metrics().queue_depth < waiting + 2 {
            assert!(poll_once(&mut change).is_pending());
            thread::yield_now();
        }
        blocked.release();
        block_on(login).unwrap();
        let outcome = block_on(change).unwrap();
        assert_eq!(
            (outcome.changed, outcome.passed_over, outcome.failed),
            (1, 1, 0),
            "{is_delete}"
        );
        if !is_delete {
            assert!(store.get(bob.id).await.unwrap().unwrap().suspended_at.is_some());
            // Once more as if she had never come back.
            let before = moment.saturating_sub(Duration::from_secs(50));
            store.delete(ada.id).await.unwrap();
            let row = NewUser { created_at: Some(before), ..new_user("ada@example.com") };
            ada = store.create(row).await.unwrap();
        }
    }
    assert_eq!(all(store, only(Filter::default())).await.len(), 1);
}

async fn a_suspension_of_many_leaves_those_who_are_suspended(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let users = create_numbered(store, 3).await;
    let before = store.suspend(users[1].id).await.unwrap();
    clock.forward(10);
    let outcome = store.suspend_where(containing("u"), |_| {}).await.unwrap();
    assert_eq!((outcome.changed, outcome.passed_over, outcome.failed), (2, 0, 0));
    assert_eq!(store.get(users[1].id).await.unwrap(), Some(before));
    assert_eq!(store.suspend_where(containing("u"), |_| {}).await.unwrap().changed, 0);
    let none = Filter { suspended: Some(true), ..Filter::default() };
    assert_eq!(store.suspend_where(none, |_| {}).await.unwrap().changed, 0);
    for user in store.get_many(&users.iter().map(|user| user.id).collect::<Vec<_>>()).await.unwrap()
    {
        assert_eq!(user.unwrap().version, 2);
    }
}

async fn an_operation_on_many_needs_a_condition_and_can_be_ended(bench: &mut Bench) {
    let store = &bench.store;
    create_numbered(store, 100).await;
    assert_eq!(kind(store.delete_where(Filter::default(), |_| {}).await), ErrorKind::InvalidQuery);
    assert_eq!(kind(store.suspend_where(containing(""), |_| {}).await), ErrorKind::InvalidQuery);
    assert_eq!(kind(store.delete_where(containing("\0"), |_| {}).await), ErrorKind::InvalidQuery);
    // Texts that would mean every address: joiners are no part of a key, and an empty text beside
    // another condition is one that the caller forgot to fill in.
    let beside = Filter { never_logged_in: true, ..containing("") };
    let prefix = Filter { email_prefix: Some("\u{200d}".into()), ..Filter::default() };
    for filter in [containing("\u{200d}"), prefix, beside] {
        assert_eq!(kind(store.delete_where(filter, |_| {}).await), ErrorKind::InvalidQuery);
    }
    assert_eq!(store.count().await.unwrap(), 100);
    let ended = store.delete_where(containing("u"), |_| ControlFlow::Break(())).await.unwrap();
    assert_eq!((ended.changed, ended.ended_by.unwrap().kind()), (64, ErrorKind::Cancelled));
    assert_eq!(store.count().await.unwrap(), 36);
    let closing = store.clone();
    let progress = move |_| block_on(closing.close()).unwrap();
    let everybody = Filter { created_after: Some(Timestamp::MIN), ..Filter::default() };
    let rest = store.delete_where(everybody, progress).await.unwrap();
    assert_eq!((rest.changed, rest.ended_by.map(|error| error.kind())), (36, None));
    bench.reopen().await;
    assert_eq!(bench.store.count().await.unwrap(), 0);
}

async fn a_failure_that_is_not_of_a_user_ends_the_operation(bench: &mut Bench) {
    let store = &bench.store;
    create_numbered(store, 100).await;
    let closing = store.clone();
    let outcome = store
        .delete_where(containing("u"), move |_| block_on(closing.close()).unwrap())
        .await
        .unwrap();
    assert_eq!((outcome.changed, outcome.failed), (64, 0));
    assert_eq!(outcome.ended_by.unwrap().kind(), ErrorKind::Closed);
    bench.reopen().await;
    assert_eq!(bench.store.count().await.unwrap(), 36);
}

async fn a_user_who_cannot_be_deleted_is_named_and_the_others_are(bench: &mut Bench) {
    let store = &bench.store;
    let users = create_numbered(store, 3).await;
    let path = store.directory_path(users[1].id).await.unwrap();
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    let outcome = store.delete_where(containing("u"), |_| {}).await.unwrap();
    assert_eq!((outcome.changed, outcome.failed, outcome.failures.len()), (2, 1, 1));
    assert_eq!(
        (outcome.failures[0].0, outcome.failures[0].1.kind()),
        (users[1].id, ErrorKind::StorageBlocked)
    );
    assert_eq!(all(store, only(Filter::default())).await, [users[1].clone()]);
}

scenarios! {
    users_are_read_by_their_ids_in_the_given_order,
    an_update_of_many_has_a_result_for_each,
    a_count_is_the_length_of_the_list,
    those_who_meet_a_filter_are_deleted_with_their_files_and_nobody_else,
    a_user_who_logs_in_before_their_turn_is_passed_over,
    a_suspension_of_many_leaves_those_who_are_suspended,
    an_operation_on_many_needs_a_condition_and_can_be_ended,
    a_failure_that_is_not_of_a_user_ends_the_operation,
    a_user_who_cannot_be_deleted_is_named_and_the_others_are,
}
