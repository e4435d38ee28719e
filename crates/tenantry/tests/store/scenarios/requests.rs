//! Requests that are performed once, however often they are sent.

use tenantry::{ErrorKind, NewToken, NewUser, Purge, RequestKey, Scopes, Store, User};

use super::create;
use crate::support::{Bench, email, kind, new_user, to_email};

scenarios! {
    a_request_that_is_sent_again_gets_what_it_came_to_the_first_time,
    another_request_with_the_key_is_refused_and_another_caller_has_other_keys,
    a_failure_is_not_kept,
    each_operation_is_performed_once,
    a_closure_is_performed_once,
    a_result_is_kept_for_a_day,
    results_that_have_expired_are_removed,
    a_purge_removes_what_is_kept_of_the_user,
}

const DAY: i64 = 24 * 3_600;

fn key(key: &str, request: &str) -> RequestKey {
    RequestKey::new("billing", key, &[request.as_bytes()]).unwrap()
}

async fn create_once(store: &Store, name: &str) -> tenantry::Result<User> {
    store.once(key(name, name)).create(new_user(&format!("{name}@example.com"))).await
}

/// How many results are kept.
async fn kept(store: &Store) -> usize {
    let count = |tx: &tenantry::ReadTx<'_>| {
        let count: i64 = tenantry::sqlite::connection(tx).query_row(
            "SELECT count(*) FROM tenantry_requests",
            [],
            |row| row.get(0),
        )?;
        Ok::<_, tenantry::Error>(usize::try_from(count).unwrap())
    };
    store.read(count).await.unwrap()
}

async fn a_request_that_is_sent_again_gets_what_it_came_to_the_first_time(bench: &mut Bench) {
    let first = create_once(&bench.store, "ada").await.unwrap();
    assert_eq!(create_once(&bench.store, "ada").await.unwrap(), first);
    bench.store.update(first.id, to_email("ada@example.org")).await.unwrap();
    bench.store.delete(first.id).await.unwrap();
    bench.reopen().await;
    assert_eq!(create_once(&bench.store, "ada").await.unwrap(), first);
    assert_eq!(bench.store.count().await.unwrap(), 0);
}

async fn another_request_with_the_key_is_refused_and_another_caller_has_other_keys(
    bench: &mut Bench,
) {
    create_once(&bench.store, "ada").await.unwrap();
    let other = bench.store.once(key("ada", "bob")).create(new_user("bob@example.com")).await;
    assert_eq!(kind(other), ErrorKind::KeyReused);
    assert_eq!(bench.store.count().await.unwrap(), 1);
    let of_other = RequestKey::new("backup", "ada", &[b"bob"]).unwrap();
    bench.store.once(of_other).create(new_user("bob@example.com")).await.unwrap();
}

async fn a_failure_is_not_kept(bench: &mut Bench) {
    let other = create(&bench.store, "ada@example.com").await;
    assert_eq!(kind(create_once(&bench.store, "ada").await), ErrorKind::EmailTaken);
    assert_eq!(kept(&bench.store).await, 0);
    bench.store.delete(other.id).await.unwrap();
    assert_ne!(create_once(&bench.store, "ada").await.unwrap().id, other.id);
}

async fn each_operation_is_performed_once(bench: &mut Bench) {
    let store = &bench.store;
    let ada = store.once(key("1", "")).sign_in(email("ada@example.com")).await.unwrap();
    assert!(ada.is_new);
    bench.clock.forward(60);
    assert_eq!(store.once(key("1", "")).sign_in(email("ada@example.com")).await.unwrap(), ada);
    let id = ada.user.id;
    let login = store.once(key("2", "")).record_login(id).await.unwrap();
    bench.clock.forward(60);
    assert_eq!(store.once(key("2", "")).record_login(id).await.unwrap(), login);
    let suspended = store.once(key("3", "")).suspend(id).await.unwrap();
    let resumed = store.once(key("4", "")).resume(id).await.unwrap();
    assert_eq!(store.once(key("3", "")).suspend(id).await.unwrap(), suspended);
    assert_eq!(store.get(id).await.unwrap().unwrap(), resumed);
    store.delete(id).await.unwrap();
    let restored = store.once(key("5", "")).restore(id, None).await.unwrap();
    store.delete(id).await.unwrap();
    assert_eq!(store.once(key("5", "")).restore(id, None).await.unwrap(), restored);
    assert!(store.get(id).await.unwrap().is_none());
}

async fn a_closure_is_performed_once(bench: &mut Bench) {
    let create = |key: RequestKey| {
        bench
            .store
            .write(move |tx| tx.once(key, |tx| tx.create(&NewUser::new(email("ada@example.com")))))
    };
    let ada = create(key("ada", "")).await.unwrap();
    assert_eq!(create(key("ada", "")).await.unwrap(), ada);
    assert_eq!(kind(create(key("ada", "other")).await), ErrorKind::KeyReused);
    assert_eq!(kind(create(key("bob", "")).await), ErrorKind::EmailTaken);
    assert_eq!(kept(&bench.store).await, 1);
}

async fn a_result_is_kept_for_a_day(bench: &mut Bench) {
    let first = create_once(&bench.store, "ada").await.unwrap();
    bench.store.delete(first.id).await.unwrap();
    bench.clock.forward(DAY - 1);
    assert_eq!(create_once(&bench.store, "ada").await.unwrap(), first);
    bench.clock.forward(1);
    let second = create_once(&bench.store, "ada").await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(create_once(&bench.store, "ada").await.unwrap(), second);
    // Nor is it lost when the clock is set back.
    bench.clock.back(10 * DAY);
    assert_eq!(create_once(&bench.store, "ada").await.unwrap(), second);
    // That of a clock that was far ahead isn't kept until then.
    bench.store.delete(second.id).await.unwrap();
    bench.clock.back(1_000 * DAY);
    assert_ne!(create_once(&bench.store, "ada").await.unwrap().id, second.id);
    assert_eq!(kept(&bench.store).await, 1);
}

async fn results_that_have_expired_are_removed(bench: &mut Bench) {
    for number in 0..10 {
        create_once(&bench.store, &format!("old{number}")).await.unwrap();
    }
    bench.clock.forward(DAY);
    for number in 0..3 {
        create_once(&bench.store, &format!("new{number}")).await.unwrap();
    }
    // Each removes two.
    assert_eq!(kept(&bench.store).await, 10 - 3 * 2 + 3);
    // So does a token, even if there are no keys any more.
    let (_, secret) =
        bench.store.create_token(NewToken::new("billing", Scopes::all())).await.unwrap();
    bench.store.authenticate(secret.as_str()).await.unwrap();
    bench.store.write(|_| Ok::<_, tenantry::Error>(())).await.unwrap();
    assert_eq!(kept(&bench.store).await, 3);
}

async fn a_purge_removes_what_is_kept_of_the_user(bench: &mut Bench) {
    let ada = create_once(&bench.store, "zyxlove").await.unwrap();
    create_once(&bench.store, "bob").await.unwrap();
    bench.store.delete(ada.id).await.unwrap();
    bench.store.purge(Purge::User(ada.id), |_| {}).await.unwrap();
    assert_eq!(kept(&bench.store).await, 1);
    bench.store.close().await.unwrap();
    let bytes = std::fs::read(bench.at("tenantry.db")).unwrap();
    assert!(!bytes.windows(7).any(|part| part == b"zyxlove"));
    bench.reopen().await;
    // As if it had never been sent.
    assert_ne!(create_once(&bench.store, "zyxlove").await.unwrap().id, ada.id);
}
