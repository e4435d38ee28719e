//! Batches, closures, imports, and the end of a store.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenantry::{
    Ambient, Error, ErrorKind, ListQuery, NewUser, OnConflict, Store, Upserted, User, UserUpdate,
};

use super::{changed, create};
use crate::support::{
    Bench, addresses, all, block_on, email, kind, new_user, new_user_at, numbered_id, page_of,
    time, to_email,
};

scenarios! {
    each_row_of_many_has_its_own_outcome,
    a_read_closure_sees_one_moment,
    a_read_closure_fails_with_its_own_error_and_a_panic_reaches_the_caller,
    a_write_closure_that_returns_ok_lasts,
    a_write_closure_that_returns_an_error_did_nothing,
    a_write_closure_that_panics_did_nothing_and_the_store_goes_on,
    a_write_closure_goes_on_after_an_operation_that_failed,
    a_transaction_has_one_time,
    an_upsert_that_may_not_conflict_returns_the_conflict,
    an_import_that_skips_leaves_users_as_they_are,
    an_import_that_updates_brings_what_can_change,
    an_import_that_updates_refuses_what_is_fixed,
    a_closed_store_refuses_everything,
    a_write_that_has_returned_survives_a_restart,
}

async fn each_row_of_many_has_its_own_outcome(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    assert!(store.create_many(vec![]).await.unwrap().is_empty());
    create(store, "taken@example.com").await;
    let retired = create(store, "retired@example.com").await;
    store.delete(retired.id).await.unwrap();
    let now = clock.forward(5);

    let outcomes = store
        .create_many(vec![
            new_user("a@example.com"),
            new_user("TAKEN@example.com"),
            new_user("A@example.com"),
            NewUser { id: Some(retired.id), ..new_user("b@example.com") },
            new_user_at("b@example.com", "ab/cd"),
            new_user_at("b@example.com", "files/b"),
            new_user_at("c@example.com", "files"),
            NewUser { version: Some(0), ..new_user("c@example.com") },
            new_user("c@example.com"),
        ])
        .await
        .unwrap();
    let kinds: Vec<Option<ErrorKind>> =
        outcomes.iter().map(|row| row.as_ref().err().map(Error::kind)).collect();
    assert_eq!(
        kinds,
        [
            None,
            Some(ErrorKind::EmailTaken),
            Some(ErrorKind::EmailTaken),
            Some(ErrorKind::IdTaken),
            Some(ErrorKind::InvalidPath),
            None,
            Some(ErrorKind::PathTaken),
            Some(ErrorKind::InvalidUser),
            None,
        ]
    );
    let created: Vec<User> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert!(created.iter().all(|user| user.created_at == now));
    assert_eq!(all(store, ListQuery::default()).await[1..], created);
}

async fn a_read_closure_sees_one_moment(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let (writer, id) = (store.clone(), ada.id);
    store
        .read(move |tx| {
            assert_eq!(tx.count()?, 1);
            // Another thread writes in the middle of it, and returns.
            let bob = std::thread::spawn(move || {
                block_on(async {
                    writer.update(id, to_email("ada2@example.com")).await.unwrap();
                    writer.create(new_user("bob@example.com")).await.unwrap()
                })
            })
            .join()
            .unwrap();
            assert_eq!(tx.count()?, 1);
            assert_eq!(tx.get(ada.id)?.as_ref(), Some(&ada));
            assert_eq!(tx.get_by_email(&ada.email)?.as_ref(), Some(&ada));
            assert_eq!(tx.get(bob.id)?, None);
            assert_eq!(tx.list(&ListQuery::default())?.users, std::slice::from_ref(&ada));
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    assert_eq!(store.count().await.unwrap(), 2);
    assert_eq!(store.get(id).await.unwrap().unwrap().version, 2);
}

/// An error of the application's.
#[derive(Debug, PartialEq)]
enum AppError {
    Changed(u64),
    Store(ErrorKind),
}

impl From<Error> for AppError {
    fn from(error: Error) -> Self {
        Self::Store(error.kind())
    }
}

async fn a_read_closure_fails_with_its_own_error_and_a_panic_reaches_the_caller(bench: &mut Bench) {
    let store = &bench.store;
    create(store, "ada@example.com").await;
    let failed = store.read(|tx| Err::<(), _>(AppError::Changed(tx.count()?))).await;
    assert_eq!(failed, Err(AppError::Changed(1)));
    let failed = store.read(|tx| Ok::<_, AppError>(tx.list(&page_of(0))?)).await;
    assert_eq!(failed.unwrap_err(), AppError::Store(ErrorKind::InvalidQuery));

    for _ in 0..40 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            block_on(store.read(|_| -> Result<(), Error> { std::panic::panic_any("not today") }))
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"not today"));
    }
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn a_write_closure_that_returns_ok_lasts(bench: &mut Bench) {
    let ada = create(&bench.store, "ada@example.com").await;
    let heir = bench
        .store
        .write(move |tx| {
            let old = tx.delete(ada.id)?;
            assert_eq!(tx.get(ada.id)?, None);
            let heir = tx.create(&NewUser::new(old.email))?;
            assert_eq!(tx.get(heir.id)?.as_ref(), Some(&heir));
            assert_eq!((tx.count()?, tx.list(&page_of(1))?.users), (1, vec![heir.clone()]));
            let bob = tx.sign_in(&email("bob@example.com"))?;
            assert!(bob.is_new && !tx.sign_in(&email("Bob@example.com"))?.is_new);
            tx.update(bob.user.id, &to_email("robert@example.com"))?;
            tx.record_login(heir.id)
        })
        .await
        .unwrap();
    assert_eq!(heir.last_login_at, Some(heir.created_at));
    bench.reopen().await;
    assert_eq!(bench.store.get(ada.id).await.unwrap(), None);
    assert_eq!(bench.store.get(heir.id).await.unwrap(), Some(heir));
    assert!(bench.store.get_by_email(&email("robert@example.com")).await.unwrap().is_some());
}

async fn a_write_closure_that_returns_an_error_did_nothing(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let id = ada.id;
    let failed = store
        .write(move |tx| {
            tx.create(&new_user("bob@example.com"))?;
            tx.update(id, &to_email("ada2@example.com"))?;
            tx.delete(id)?;
            Err::<(), _>(AppError::Changed(tx.count()?))
        })
        .await;
    assert_eq!(failed, Err(AppError::Changed(1)));
    assert_eq!(all(store, ListQuery::default()).await, std::slice::from_ref(&ada));
    // Nor was the id retired.
    assert_eq!(store.delete(id).await.unwrap(), ada);
}

async fn a_write_closure_that_panics_did_nothing_and_the_store_goes_on(bench: &mut Bench) {
    let store = &bench.store;
    for _ in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            block_on(store.write(|tx| -> Result<(), Error> {
                tx.create(&new_user("ada@example.com"))?;
                std::panic::panic_any(42_i32)
            }))
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&42_i32));
        assert_eq!(store.count().await.unwrap(), 0);
    }
    create(store, "ada@example.com").await;
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn a_write_closure_goes_on_after_an_operation_that_failed(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    store
        .write(move |tx| {
            assert_eq!(kind(tx.create(&new_user("ADA@example.com"))), ErrorKind::EmailTaken);
            let bob = tx.create(&new_user("bob@example.com"))?;
            assert_eq!(
                kind(tx.update(bob.id, &to_email("ada@example.com"))),
                ErrorKind::EmailTaken
            );
            assert_eq!(kind(tx.delete(numbered_id(9_999))), ErrorKind::NotFound);
            tx.delete(ada.id)?;
            assert_eq!(
                kind(tx.create(&NewUser { id: Some(ada.id), ..new_user("c@example.com") })),
                ErrorKind::IdTaken
            );
            tx.create(&new_user("c@example.com"))
        })
        .await
        .unwrap();
    assert_eq!(
        addresses(&all(store, ListQuery::default()).await),
        ["bob@example.com", "c@example.com"]
    );
}

async fn a_transaction_has_one_time(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    let start = clock.forward(100);
    let hand = clock.clone();
    let (said, users) = store
        .write(move |tx| {
            let bob = tx.create(&new_user("bob@example.com"))?;
            hand.forward(100);
            let said = tx.now();
            tx.update(ada.id, &to_email("ada2@example.com"))?;
            let ada = tx.record_login(ada.id)?;
            let eve = tx.sign_in(&email("eve@example.com"))?.user;
            Ok::<_, Error>((said, [ada, bob, eve]))
        })
        .await
        .unwrap();
    assert_eq!(said, start);
    assert_eq!(users.each_ref().map(|user| user.updated_at), [start; 3]);
    assert_eq!(users.each_ref().map(|user| user.last_login_at), [Some(start), None, Some(start)]);

    // As have the rows of a list.
    let rows = (0..10).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    let rows = store.create_many(rows).await.unwrap();
    assert!(rows.into_iter().all(|row| row.unwrap().created_at == clock.now()));
}

/// Imports a row, in a transaction of its own.
async fn import(
    store: &Store,
    row: &NewUser,
    on_conflict: OnConflict,
) -> Result<Upserted, ErrorKind> {
    let row = row.clone();
    store.write(move |tx| tx.upsert(&row, on_conflict)).await.map_err(|error| error.kind())
}

const EVERY_ON_CONFLICT: [OnConflict; 3] = [OnConflict::Fail, OnConflict::Skip, OnConflict::Update];

async fn an_upsert_that_may_not_conflict_returns_the_conflict(bench: &mut Bench) {
    let store = &bench.store;
    for (number, on_conflict) in EVERY_ON_CONFLICT.into_iter().enumerate() {
        let row = new_user_at(&format!("u{number}@example.com"), &format!("u{number}"));
        assert_eq!(
            import(store, &row, on_conflict).await,
            Ok(Upserted::Created),
            "{on_conflict:?}"
        );
    }
    let known = all(store, ListQuery::default()).await;
    let by_email = new_user("U0@example.com");
    let by_id = NewUser { id: Some(known[0].id), ..new_user("b@example.com") };
    let by_path = new_user_at("b@example.com", "u0/x");
    assert_eq!(import(store, &by_email, OnConflict::Fail).await, Err(ErrorKind::EmailTaken));
    assert_eq!(import(store, &by_id, OnConflict::Fail).await, Err(ErrorKind::IdTaken));
    // Whoever else has the path, nobody is there to be the row's user.
    for on_conflict in EVERY_ON_CONFLICT {
        assert_eq!(
            import(store, &by_path, on_conflict).await,
            Err(ErrorKind::PathTaken),
            "{on_conflict:?}"
        );
        let reserved = new_user_at("b@example.com", "ab");
        assert_eq!(
            import(store, &reserved, on_conflict).await,
            Err(ErrorKind::InvalidPath),
            "{on_conflict:?}"
        );
        let no_version = NewUser { version: Some(0), ..by_email.clone() };
        assert_eq!(
            import(store, &no_version, on_conflict).await,
            Err(ErrorKind::InvalidUser),
            "{on_conflict:?}"
        );
    }
    assert_eq!(all(store, ListQuery::default()).await, known);
}

async fn an_import_that_skips_leaves_users_as_they_are(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = store.create(new_user_at("ada@example.com", "files/ada")).await.unwrap();
    let gone = create(store, "gone@example.com").await;
    store.delete(gone.id).await.unwrap();
    let login = Some(clock.forward(60));
    for row in [
        NewUser { last_login_at: login, ..new_user("ADA@example.com") },
        NewUser { id: Some(ada.id), last_login_at: login, ..new_user("other@example.com") },
        NewUser { id: Some(numbered_id(9_999)), ..new_user("ada@example.com") },
        NewUser { id: Some(ada.id), ..new_user_at("ada@example.com", "files/ada") },
        NewUser { id: Some(ada.id), ..new_user_at("other@example.com", "ab/cd") },
        NewUser { id: Some(gone.id), ..new_user("ada@example.com") },
    ] {
        assert_eq!(import(store, &row, OnConflict::Skip).await, Ok(Upserted::Skipped), "{row:?}");
    }
    // Nobody is there to be skipped to.
    let retired = NewUser { id: Some(gone.id), ..new_user("new@example.com") };
    assert_eq!(import(store, &retired, OnConflict::Skip).await, Err(ErrorKind::IdTaken));
    assert_eq!(all(store, ListQuery::default()).await, [ada]);
}

async fn an_import_that_updates_brings_what_can_change(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    let login = clock.forward(60);
    let now = clock.forward(60);

    // By the address, with a login that is later.
    let row = NewUser { last_login_at: Some(login), ..new_user("ada@example.com") };
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Upserted::Updated));
    let expected = changed(&ada, |user| user.last_login_at = Some(login));
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Upserted::Unchanged));
    let earlier = NewUser { last_login_at: Some(ada.created_at), ..row };
    assert_eq!(import(store, &earlier, OnConflict::Update).await, Ok(Upserted::Unchanged));
    assert_eq!(
        import(store, &new_user("ada@example.com"), OnConflict::Update).await,
        Ok(Upserted::Unchanged)
    );
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));

    // By the id, with another address; the version and the change of elsewhere don't count.
    let row = NewUser {
        id: Some(ada.id),
        created_at: Some(ada.created_at),
        storage_path: Some(ada.storage_path.clone()),
        updated_at: Some(time("2001-01-01T00:00:00Z")),
        version: Some(77),
        ..new_user("Lovelace@example.com")
    };
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Upserted::Updated));
    let expected = changed(&expected, |user| {
        (user.email, user.updated_at, user.version) = (email("Lovelace@example.com"), now, 2)
    });
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Upserted::Unchanged));
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected));

    // The path that a user has is no conflict with that user, wherever it lies.
    let chosen = new_user_at("bob@example.com", "files/bob");
    assert_eq!(import(store, &chosen, OnConflict::Update).await, Ok(Upserted::Created));
    assert_eq!(import(store, &chosen, OnConflict::Update).await, Ok(Upserted::Unchanged));
}

async fn an_import_that_updates_refuses_what_is_fixed(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    create(store, "bob@example.com").await;
    let later = clock.forward(60);
    let known = all(store, ListQuery::default()).await;
    let with_id =
        NewUser { id: Some(ada.id), last_login_at: Some(later), ..new_user("ada2@example.com") };
    for (row, expected) in [
        (NewUser { created_at: Some(later), ..with_id.clone() }, ErrorKind::Immutable),
        (
            NewUser { storage_path: Some("files".parse().unwrap()), ..with_id.clone() },
            ErrorKind::Immutable,
        ),
        (
            NewUser { storage_path: Some("ab/cd".parse().unwrap()), ..with_id.clone() },
            ErrorKind::Immutable,
        ),
        (NewUser { created_at: Some(later), ..new_user("ADA@example.com") }, ErrorKind::Immutable),
        (new_user_at("ADA@example.com", "files"), ErrorKind::Immutable),
        // The address is that of a user with another id, or of another user than the id is.
        (
            NewUser { id: Some(numbered_id(9_999)), ..new_user("ada@example.com") },
            ErrorKind::EmailTaken,
        ),
        (NewUser { email: email("BOB@example.com"), ..with_id }, ErrorKind::EmailTaken),
    ] {
        assert_eq!(import(store, &row, OnConflict::Update).await, Err(expected), "{row:?}");
    }
    assert_eq!(all(store, ListQuery::default()).await, known);
}

async fn a_closed_store_refuses_everything(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let clone = store.clone();
    let mut pages = store.pages(page_of(1));
    store.close().await.unwrap();

    for store in [store, &clone] {
        let id = ada.id;
        let closed = ErrorKind::Closed;
        assert_eq!(kind(store.create(new_user("bob@example.com")).await), closed);
        assert_eq!(kind(store.create_many(vec![new_user("bob@example.com")]).await), closed);
        assert_eq!(kind(store.get(id).await), closed);
        assert_eq!(kind(store.get_by_email(&ada.email).await), closed);
        assert_eq!(kind(store.update(id, UserUpdate::default()).await), closed);
        assert_eq!(kind(store.delete(id).await), closed);
        assert_eq!(kind(store.count().await), closed);
        assert_eq!(kind(store.sign_in(email("bob@example.com")).await), closed);
        assert_eq!(kind(store.record_login(id).await), closed);
        assert_eq!(kind(store.list(&ListQuery::default()).await), closed);
        assert_eq!(kind(store.read(|tx| tx.count()).await), closed);
        assert_eq!(kind(store.write(|tx| tx.count()).await), closed);
        assert_eq!(kind(pages.next().await), closed);
    }
    store.close().await.unwrap();
    clone.close().await.unwrap();
    bench.reopen().await;
    assert_eq!(bench.store.get(ada.id).await.unwrap(), Some(ada));
}

async fn a_write_that_has_returned_survives_a_restart(bench: &mut Bench) {
    assert!(bench.store.was_created());
    let ada = create(&bench.store, "ada@example.com").await;
    bench.store.record_login(ada.id).await.unwrap();
    bench.store.update(ada.id, to_email("Ada@Example.com")).await.unwrap();
    let bob = create(&bench.store, "bob@example.com").await;
    bench.store.delete(bob.id).await.unwrap();
    let before = all(&bench.store, ListQuery::default()).await;
    bench.reopen().await;
    assert!(!bench.store.was_created());
    assert_eq!(all(&bench.store, ListQuery::default()).await, before);
    assert_eq!(before.len(), 1);
}
