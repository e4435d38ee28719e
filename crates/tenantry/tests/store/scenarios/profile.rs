//! What a user may lack: a suspension, an external id, a name, attributes.

use tenantry::{
    Ambient, ErrorKind, ExternalId, Filter, ListQuery, NewUser, OnConflict, Purge, Result, Set,
    Store, Upserted, User, UserUpdate,
};

use super::{changed, create};
use crate::support::{Bench, addresses, all, email, kind, new_user, only, to_email};

fn external_id(text: &str) -> ExternalId {
    text.parse().unwrap()
}

/// A new user with a value of each.
fn whole(address: &str) -> NewUser {
    NewUser {
        external_id: Some(external_id("00u1")),
        name: Some("Ada Lovelace".parse().unwrap()),
        attributes: Some(r#"{"plan":"pro","seats":1.50}"#.parse().unwrap()),
        ..new_user(address)
    }
}

async fn upsert(store: &Store, row: NewUser) -> Result<Upserted> {
    store.write(move |tx| tx.upsert(&row, OnConflict::Update)).await
}

async fn a_suspended_user_does_not_sign_in_and_nothing_is_written(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "Ada@example.com").await;
    let now = clock.forward(10);
    let suspended = store.suspend(ada.id).await.unwrap();
    assert_eq!(
        suspended,
        changed(&ada, |user| (user.suspended_at, user.updated_at, user.version) =
            (Some(now), now, 2))
    );
    clock.forward(10);
    for address in ["Ada@example.com", "ada@EXAMPLE.com"] {
        assert_eq!(kind(store.sign_in(email(address)).await), ErrorKind::Suspended);
    }
    assert_eq!(kind(store.record_login(ada.id).await), ErrorKind::Suspended);
    let in_closure = store.write(move |tx| {
        assert_eq!(kind(tx.record_login(ada.id)), ErrorKind::Suspended);
        assert_eq!(kind(tx.sign_in(&email("ada@example.com"))), ErrorKind::Suspended);
        // The transaction goes on.
        tx.create(&new_user("bob@example.com"))
    });
    in_closure.await.unwrap();
    assert_eq!(store.get(ada.id).await.unwrap().unwrap(), suspended);
    assert_eq!(store.count().await.unwrap(), 2);

    let now = clock.forward(10);
    let resumed = store.resume(ada.id).await.unwrap();
    assert_eq!(resumed, changed(&ada, |user| (user.updated_at, user.version) = (now, 3)));
    let signed_in = store.sign_in(ada.email.clone()).await.unwrap();
    assert_eq!((signed_in.user.last_login_at, signed_in.is_new), (Some(now), false));
}

async fn a_suspension_is_idempotent(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    assert_eq!(store.resume(ada.id).await.unwrap(), ada);
    let suspended = store.suspend(ada.id).await.unwrap();
    clock.forward(10);
    assert_eq!(store.suspend(ada.id).await.unwrap(), suspended);
    let nobody = clock.new_id();
    assert_eq!(kind(store.suspend(nobody).await), ErrorKind::NotFound);
    assert_eq!(kind(store.resume(nobody).await), ErrorKind::NotFound);
    store.delete(ada.id).await.unwrap();
    assert_eq!(kind(store.suspend(ada.id).await), ErrorKind::NotFound);
}

async fn a_suspended_user_lives_and_stays_suspended_in_the_trash(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    create(store, "bob@example.com").await;
    let ada = store.suspend(ada.id).await.unwrap();
    assert_eq!(store.get_by_email(&ada.email).await.unwrap().as_ref(), Some(&ada));
    assert_eq!(kind(store.create(new_user("ada@example.com")).await), ErrorKind::EmailTaken);
    let listed =
        async |suspended| all(store, only(Filter { suspended, ..Filter::default() })).await;
    assert_eq!(addresses(&listed(None).await), ["ada@example.com", "bob@example.com"]);
    assert_eq!(addresses(&listed(Some(true)).await), ["ada@example.com"]);
    assert_eq!(addresses(&listed(Some(false)).await), ["bob@example.com"]);
    let ada = store.update(ada.id, to_email("lovelace@example.com")).await.unwrap();
    assert!(ada.suspended_at.is_some());
    store.directory(ada.id).await.unwrap().write("a.txt", "a").unwrap();
    store.delete(ada.id).await.unwrap();
    // In the trash, whoever comes with the address is new.
    assert!(store.sign_in(ada.email.clone()).await.unwrap().is_new);
    assert_eq!(
        store.restore(ada.id, Some(email("ada@example.com"))).await.unwrap().suspended_at,
        ada.suspended_at
    );
    assert_eq!(kind(store.record_login(ada.id).await), ErrorKind::Suspended);
}

async fn an_update_sets_leaves_and_clears(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = store.create(whole("ada@example.com")).await.unwrap();
    assert_eq!(store.get(ada.id).await.unwrap().as_ref(), Some(&ada));
    assert_eq!(ada.attributes.as_ref().unwrap().as_str(), r#"{"plan":"pro","seats":1.50}"#);
    let now = clock.forward(10);
    let update = UserUpdate {
        name: Set::Clear,
        external_id: Set::To(external_id("2")),
        ..UserUpdate::default()
    };
    let updated = store.update(ada.id, update.clone()).await.unwrap();
    let expected = changed(&ada, |user| {
        (user.name, user.external_id, user.updated_at, user.version) =
            (None, Some(external_id("2")), now, 2);
    });
    assert_eq!(updated, expected);
    clock.forward(10);
    // The same once more is no change.
    assert_eq!(store.update(ada.id, update).await.unwrap(), expected);
    assert_eq!(store.get(ada.id).await.unwrap().as_ref(), Some(&expected));

    let bob = create(store, "bob@example.com").await;
    let refused = UserUpdate { attributes: Set::Clear, ..to_email("bob@example.com") };
    assert_eq!(kind(store.update(ada.id, refused.clone()).await), ErrorKind::EmailTaken);
    let conditional = UserUpdate { expected_version: Some(1), ..refused };
    assert_eq!(
        kind(store.update(ada.id, conditional).await),
        ErrorKind::VersionMismatch { current: 2 }
    );
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected));
    assert_eq!(
        (bob.name, bob.external_id, bob.attributes, bob.suspended_at),
        (None, None, None, None)
    );
}

async fn an_external_id_finds_all_who_have_it_and_is_a_key_to_nobody(bench: &mut Bench) {
    let store = &bench.store;
    let mut users = Vec::new();
    for number in 0..5 {
        users.push(store.create(whole(&format!("u{number}@example.com"))).await.unwrap());
    }
    create(store, "other@example.com").await;
    let of_id = |id: &str| Filter { external_id: Some(external_id(id)), ..Filter::default() };
    for limit in [1, 2, 5, 6] {
        assert_eq!(all(store, ListQuery { limit, ..only(of_id("00u1")) }).await, users, "{limit}");
    }
    assert_eq!(all(store, only(of_id("00U1"))).await, []);
    assert_eq!(all(store, only(of_id("00u1 "))).await, []);
    let with_prefix = Filter { email_prefix: Some("u3".into()), ..of_id("00u1") };
    assert_eq!(all(store, only(with_prefix)).await, [users[3].clone()]);
    store.delete(users[0].id).await.unwrap();
    store
        .update(users[1].id, UserUpdate { external_id: Set::Clear, ..UserUpdate::default() })
        .await
        .unwrap();
    assert_eq!(all(store, only(of_id("00u1"))).await, users[2..]);
    // An external id that is another user's id changes nothing.
    let text = users[2].id.to_string();
    let update = UserUpdate { external_id: Set::To(external_id(&text)), ..UserUpdate::default() };
    let named = store.update(users[3].id, update).await.unwrap();
    assert_eq!(store.get(users[2].id).await.unwrap().as_ref(), Some(&users[2]));
    assert_eq!(all(store, only(of_id(&text))).await, [named]);
    store.delete(users[2].id).await.unwrap();
    store.purge(Purge::User(users[2].id), |_| {}).await.unwrap();
    assert_eq!(all(store, only(of_id("00u1"))).await, [users[4].clone()]);
}

async fn an_import_leaves_what_the_row_lacks_and_never_resumes(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let start = clock.now();
    let row = NewUser {
        suspended_at: Some(start),
        last_login_at: Some(start),
        ..whole("ada@example.com")
    };
    assert_eq!(upsert(store, row.clone()).await.unwrap(), Upserted::Created);
    let get = async || store.get_by_email(&email("ada@example.com")).await.unwrap().unwrap();
    let ada = get().await;
    assert_eq!((ada.suspended_at, &ada.name), (Some(start), &row.name));

    let later = clock.forward(10);
    for row in [
        row.clone(),
        new_user("ada@example.com"),
        NewUser { suspended_at: Some(later), ..row.clone() },
    ] {
        assert_eq!(upsert(store, row).await.unwrap(), Upserted::Unchanged);
    }
    assert_eq!(get().await, ada);
    // A later login is recorded of a suspended user too: it was elsewhere.
    let row = NewUser { last_login_at: Some(later), ..new_user("ada@example.com") };
    assert_eq!(upsert(store, row).await.unwrap(), Upserted::Updated);
    assert_eq!(get().await, changed(&ada, |user| user.last_login_at = Some(later)));

    let row = NewUser { name: Some("Countess".parse().unwrap()), ..new_user("ADA@example.com") };
    assert_eq!(upsert(store, row).await.unwrap(), Upserted::Updated);
    let expected: User = changed(&ada, |user| {
        (user.email, user.name) = (email("ADA@example.com"), Some("Countess".parse().unwrap()));
        (user.last_login_at, user.updated_at, user.version) = (Some(later), later, 2);
    });
    assert_eq!(get().await, expected);

    let bob = create(store, "bob@example.com").await;
    let row = NewUser { suspended_at: Some(start), ..new_user("bob@example.com") };
    assert_eq!(upsert(store, row).await.unwrap(), Upserted::Updated);
    let suspended = store.get(bob.id).await.unwrap().unwrap();
    assert_eq!(
        suspended,
        changed(&bob, |user| (user.suspended_at, user.version) = (Some(start), 2))
    );
}

scenarios! {
    a_suspended_user_does_not_sign_in_and_nothing_is_written,
    a_suspension_is_idempotent,
    a_suspended_user_lives_and_stays_suspended_in_the_trash,
    an_update_sets_leaves_and_clears,
    an_external_id_finds_all_who_have_it_and_is_a_key_to_nobody,
    an_import_leaves_what_the_row_lacks_and_never_resumes,
}
