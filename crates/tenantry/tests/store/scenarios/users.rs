//! Single users: creating, finding, changing and deleting them, and their logins.

use tenantry::{
    Ambient, ErrorKind, ListQuery, NewUser, Purge, SignIn, StoragePath, User, UserUpdate,
};

use super::{changed, create};
use crate::support::{Bench, email, kind, new_user, new_user_at, numbered_id, time, to_email};

scenarios! {
    a_created_user_is_read_back_by_id_and_by_any_spelling_of_the_address,
    whatever_a_new_user_brings_is_kept,
    a_lookup_of_a_missing_user_returns_none,
    users_are_counted,
    an_address_belongs_to_one_user_in_every_spelling,
    an_id_belongs_to_one_user,
    a_path_belongs_to_one_user_with_all_that_lies_below_and_above,
    a_reserved_path_is_refused_unless_it_is_the_users_own,
    a_taken_address_counts_more_than_a_path,
    a_version_out_of_range_is_refused,
    a_deleted_user_is_gone_and_the_address_is_free,
    the_id_and_the_path_of_a_deleted_user_are_never_given_out_again,
    an_update_changes_the_address_and_makes_a_version,
    an_update_that_changes_nothing_makes_no_version,
    the_same_address_in_another_spelling_is_an_update,
    an_update_with_an_old_version_is_refused_and_says_the_current_one,
    of_two_updates_with_one_version_in_one_closure_the_second_is_refused,
    an_update_to_a_taken_address_is_refused_and_changes_nothing,
    the_last_change_never_goes_back,
    the_highest_version_is_the_last,
    a_login_is_not_a_change,
    the_last_login_only_moves_forward,
    the_first_sign_in_creates_and_the_next_ones_find,
    a_user_in_the_trash_is_found_by_id_and_by_address,
    an_address_that_looks_like_that_of_another_user_is_found,
}

async fn a_user_in_the_trash_is_found_by_id_and_by_address(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut expected = Vec::new();
    for number in 0..3 {
        let user = create(
            store,
            ["Ada@b\u{fc}cher.example", "ADA@B\u{dc}CHER.example", "ada@xn--bcher-kva.example"]
                [number],
        )
        .await;
        assert_eq!(store.get_trashed(user.id).await.unwrap(), None);
        // By a clock that was set back meanwhile.
        clock.back(3_600);
        store.delete(user.id).await.unwrap();
        let trashed = store.get_trashed(user.id).await.unwrap().unwrap();
        assert_eq!(
            (&trashed.user, trashed.deleted_at, trashed.is_being_purged),
            (&user, clock.now(), false)
        );
        expected.insert(0, trashed);
    }
    let other = create(store, "other@example.com").await;
    store.delete(other.id).await.unwrap();
    let living = create(store, "ada@b\u{fc}cher.example").await;
    for spelling in ["ada@b\u{fc}cher.example", "ADA@xn--bcher-kva.example"] {
        assert_eq!(store.find_in_trash(&email(spelling)).await.unwrap(), expected, "{spelling}");
        assert_eq!(store.get_by_email(&email(spelling)).await.unwrap(), Some(living.clone()));
    }
    assert_eq!(store.find_in_trash(&email("nobody@example.com")).await.unwrap(), []);
    assert_eq!(kind(store.restore(expected[0].user.id, None).await), ErrorKind::EmailTaken);
    store.update(living.id, to_email("elsewhere@example.com")).await.unwrap();
    assert_eq!(store.restore(expected[1].user.id, None).await.unwrap(), expected[1].user);
    store.purge(Purge::User(expected[2].user.id), |_| {}).await.unwrap();
    assert_eq!(
        store.find_in_trash(&email("ada@b\u{fc}cher.example")).await.unwrap(),
        expected[..1]
    );

    let limit = tenantry::TrashedUser::OF_ONE_ADDRESS_MAX;
    for _ in 0..=limit {
        let user = create(store, "often@example.com").await;
        store.delete(user.id).await.unwrap();
    }
    let found = store.find_in_trash(&email("often@example.com")).await.unwrap();
    assert!(found.len() == limit && found.is_sorted_by(|a, b| a.user.id != b.user.id));
}

async fn an_address_that_looks_like_that_of_another_user_is_found(bench: &mut Bench) {
    let store = &bench.store;
    let alike = async |address: &str| {
        let found = store.confusables(&email(address)).await.unwrap();
        found.into_iter().map(|user| user.email.to_string()).collect::<Vec<_>>()
    };
    let (ascii, cyrillic) = ("coco@example.com", "\u{441}\u{43e}\u{441}\u{43e}@example.com");
    let plain = create(store, ascii).await;
    assert_eq!(alike(ascii).await, [""; 0]);
    assert_eq!(alike("coc0@example.com").await, [""; 0]);
    assert_eq!(alike(cyrillic).await, [ascii]);
    let other = create(store, cyrillic).await;
    assert_eq!(alike(ascii).await, [cyrillic]);
    assert_eq!(alike("COCO@example.com").await, [cyrillic]);
    assert_eq!(alike(cyrillic).await, [ascii]);
    // An accent can be seen.
    create(store, "c\u{f6}co@example.com").await;
    assert_eq!(alike(ascii).await, [cyrillic]);
    // Who is in the trash is nobody's look-alike, and who is back is one again.
    store.delete(other.id).await.unwrap();
    assert_eq!(alike(ascii).await, [""; 0]);
    store.restore(other.id, None).await.unwrap();
    assert_eq!(alike(ascii).await, [cyrillic]);
    store.update(other.id, to_email("other@example.com")).await.unwrap();
    assert_eq!(alike(ascii).await, [""; 0]);
    store.update(plain.id, to_email(cyrillic)).await.unwrap();
    assert_eq!(alike(ascii).await, [cyrillic]);

    // In a domain, however it is written: dotless and dotted.
    create(store, "ada@fine.example").await;
    create(store, "ada@xn--fne-2oa.example").await;
    assert_eq!(alike("ada@f\u{131}ne.example").await, ["ada@fine.example"]);
    let ada = create(store, "ada@f\u{131}ne.example").await;
    assert_eq!(alike("Ada@FINE.example").await, [ada.email.as_str()]);
    // Both in other letters than ASCII.
    create(store, "\u{4cf}@example.org").await;
    assert_eq!(alike("1@example.org").await, ["\u{4cf}@example.org"]);
}

async fn a_created_user_is_read_back_by_id_and_by_any_spelling_of_the_address(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "Ada@Example.com").await;
    assert_eq!(user.email.as_str(), "Ada@Example.com");
    assert_eq!(
        (user.created_at, user.updated_at, user.last_login_at),
        (clock.now(), clock.now(), None)
    );
    assert_eq!(user.version, 1);
    assert_eq!(user.storage_path, StoragePath::derived(user.id));

    assert_eq!(store.get(user.id).await.unwrap().as_ref(), Some(&user));
    for spelling in
        ["Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM", "\u{ff21}da@example.com"]
    {
        assert_eq!(
            store.get_by_email(&email(spelling)).await.unwrap().as_ref(),
            Some(&user),
            "{spelling}"
        );
    }
}

async fn whatever_a_new_user_brings_is_kept(bench: &mut Bench) {
    let store = &bench.store;
    let new = NewUser {
        id: Some(numbered_id(7_000)),
        storage_path: Some("customers/ada".parse().unwrap()),
        created_at: Some(time("0001-01-01T00:00:00Z")),
        last_login_at: Some(time("1969-12-31T23:59:59.999999Z")),
        updated_at: Some(time("9999-12-30T22:00:00Z")),
        version: Some(User::MAX_VERSION),
        suspended_at: Some(time("9999-12-30T22:00:00Z")),
        external_id: Some(" 1".parse().unwrap()),
        name: Some("Ada".parse().unwrap()),
        attributes: Some(r#"{"b":1.0,"a":2}"#.parse().unwrap()),
        ..new_user("stra\u{df}e@b\u{fc}cher.example")
    };
    let user = store.create(new.clone()).await.unwrap();
    let kept = NewUser {
        email: user.email.clone(),
        id: Some(user.id),
        storage_path: Some(user.storage_path.clone()),
        created_at: Some(user.created_at),
        last_login_at: user.last_login_at,
        updated_at: Some(user.updated_at),
        version: Some(user.version),
        suspended_at: user.suspended_at,
        external_id: user.external_id.clone(),
        name: user.name.clone(),
        attributes: user.attributes.clone(),
    };
    assert_eq!(kept, new);
    assert_eq!(store.get(user.id).await.unwrap(), Some(user.clone()));
    assert_eq!(
        store.get_by_email(&email("STRASSE@xn--bcher-kva.example")).await.unwrap(),
        Some(user)
    );

    // Who brings only the time of creation was last changed then.
    let created_at = Some(time("2020-02-02T02:02:02Z"));
    let bob = store.create(NewUser { created_at, ..new_user("bob@example.com") }).await.unwrap();
    assert_eq!(Some(bob.updated_at), created_at);
}

async fn a_lookup_of_a_missing_user_returns_none(bench: &mut Bench) {
    let store = &bench.store;
    let nobody = numbered_id(9_999);
    assert_eq!(store.get(nobody).await.unwrap(), None);
    assert_eq!(store.get_by_email(&email("nobody@example.com")).await.unwrap(), None);
    assert_eq!(kind(store.update(nobody, to_email("bob@example.com")).await), ErrorKind::NotFound);
    assert_eq!(kind(store.update(nobody, UserUpdate::default()).await), ErrorKind::NotFound);
    assert_eq!(kind(store.delete(nobody).await), ErrorKind::NotFound);
    assert_eq!(kind(store.record_login(nobody).await), ErrorKind::NotFound);
    let page = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!((page.users, page.next_cursor), (vec![], None));
    assert_eq!(store.pages(ListQuery::default()).next().await.unwrap(), None);
}

async fn users_are_counted(bench: &mut Bench) {
    let store = &bench.store;
    assert_eq!(store.count().await.unwrap(), 0);
    let ada = create(store, "ada@example.com").await;
    create(store, "bob@example.com").await;
    assert_eq!(store.count().await.unwrap(), 2);
    store.delete(ada.id).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn an_address_belongs_to_one_user_in_every_spelling(bench: &mut Bench) {
    let store = &bench.store;
    for (first, second) in [
        ("ada@example.com", "ada@example.com"),
        ("Bob@example.com", "bOB@EXAMPLE.com"),
        ("mike@example.com", "mi\u{212A}e@example.com"),
        ("strasse@example.com", "stra\u{df}e@example.com"),
        ("fin@example.com", "\u{fb01}n@example.com"),
        ("\u{3a3}\u{3c2}@example.com", "\u{3c3}\u{3c3}@example.com"),
        ("ada@b\u{fc}cher.example", "ada@XN--BCHER-KVA.example"),
        ("\u{e9}@example.com", "e\u{301}@example.com"),
    ] {
        create(store, first).await;
        let error = store.create(new_user(second)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EmailTaken, "{second}");
        assert!(!error.is_retryable());
    }
    // Another address is another address, however much alike.
    for other in ["a.da@example.com", "ada+tag@example.com", "\u{131}@example.com", "i@example.com"]
    {
        create(store, other).await;
    }
    assert_eq!(store.count().await.unwrap(), 12);
}

async fn an_id_belongs_to_one_user(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let twin = NewUser { id: Some(ada.id), ..new_user("bob@example.com") };
    assert_eq!(kind(store.create(twin.clone()).await), ErrorKind::IdTaken);
    // Not even with a path of its own.
    let twin = NewUser { storage_path: Some("bob".parse().unwrap()), ..twin };
    assert_eq!(kind(store.create(twin).await), ErrorKind::IdTaken);
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn a_path_belongs_to_one_user_with_all_that_lies_below_and_above(bench: &mut Bench) {
    let store = &bench.store;
    store.create(new_user_at("ada@example.com", "customers/ada/files")).await.unwrap();
    for taken in [
        "customers/ada/files",
        "customers/ada",
        "customers",
        "customers/ada/files/x",
        "customers/ada/files/x/y",
    ] {
        assert_eq!(
            kind(store.create(new_user_at("bob@example.com", taken)).await),
            ErrorKind::PathTaken,
            "{taken}"
        );
    }
    // Only whole segments count, and so does the case.
    for (number, free) in [
        "customers/ada/files2",
        "customers/ada/files-",
        "customers/ada/files.x/y",
        "customers/ad",
        "customers/ada/file",
        "Customers/ada/files",
        "customers/ada/Files",
        "customers2",
        "customers/\u{e9}",
    ]
    .into_iter()
    .enumerate()
    {
        let user =
            store.create(new_user_at(&format!("u{number}@example.com"), free)).await.unwrap();
        assert_eq!(user.storage_path.as_str(), free);
    }
}

async fn a_reserved_path_is_refused_unless_it_is_the_users_own(bench: &mut Bench) {
    let store = &bench.store;
    for reserved in ["3f", "00/x", "AB/cd/ef"] {
        assert_eq!(
            kind(store.create(new_user_at("ada@example.com", reserved)).await),
            ErrorKind::InvalidPath,
            "{reserved}"
        );
    }
    let (own, other) = (numbered_id(5_000), numbered_id(5_001));
    let with_path_of = |id| NewUser {
        id: Some(own),
        storage_path: Some(StoragePath::derived(id)),
        ..new_user("ada@example.com")
    };
    assert_eq!(kind(store.create(with_path_of(other)).await), ErrorKind::InvalidPath);
    let user = store.create(with_path_of(own)).await.unwrap();
    assert_eq!(user.storage_path, StoragePath::derived(own));
    assert_eq!(store.get(own).await.unwrap(), Some(user));
}

async fn a_taken_address_counts_more_than_a_path(bench: &mut Bench) {
    let store = &bench.store;
    store.create(new_user_at("ada@example.com", "files")).await.unwrap();
    for path in ["files/x", "ab/cd"] {
        assert_eq!(
            kind(store.create(new_user_at("ADA@example.com", path)).await),
            ErrorKind::EmailTaken,
            "{path}"
        );
    }
}

async fn a_version_out_of_range_is_refused(bench: &mut Bench) {
    let store = &bench.store;
    for version in [0, User::MAX_VERSION + 1, u64::MAX] {
        let new = NewUser { version: Some(version), ..new_user("ada@example.com") };
        assert_eq!(kind(store.create(new).await), ErrorKind::InvalidUser, "{version}");
    }
    assert_eq!(store.count().await.unwrap(), 0);
}

async fn a_deleted_user_is_gone_and_the_address_is_free(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "Ada@Example.com").await;
    assert_eq!(store.delete(ada.id).await.unwrap(), ada);
    assert_eq!(store.get(ada.id).await.unwrap(), None);
    assert_eq!(store.get_by_email(&ada.email).await.unwrap(), None);
    assert_eq!(kind(store.delete(ada.id).await), ErrorKind::NotFound);
    assert_eq!(kind(store.update(ada.id, to_email("bob@example.com")).await), ErrorKind::NotFound);
    assert_eq!(kind(store.record_login(ada.id).await), ErrorKind::NotFound);

    let next = create(store, "ada@example.com").await;
    assert_ne!(next.id, ada.id);
    assert_ne!(next.storage_path, ada.storage_path);
}

async fn the_id_and_the_path_of_a_deleted_user_are_never_given_out_again(bench: &mut Bench) {
    let ada = bench.store.create(new_user_at("ada@example.com", "customers/ada")).await.unwrap();
    let bob = create(&bench.store, "bob@example.com").await;
    bench.store.delete(ada.id).await.unwrap();
    bench.store.delete(bob.id).await.unwrap();
    bench.reopen().await;

    let store = &bench.store;
    for user in [&ada, &bob] {
        let again = NewUser { id: Some(user.id), ..new_user("ada@example.com") };
        assert_eq!(kind(store.create(again.clone()).await), ErrorKind::IdTaken);
        let elsewhere = NewUser { storage_path: Some("elsewhere".parse().unwrap()), ..again };
        assert_eq!(kind(store.create(elsewhere).await), ErrorKind::IdTaken);
    }
    for taken in ["customers/ada", "customers", "customers/ada/x"] {
        assert_eq!(
            kind(store.create(new_user_at("ada@example.com", taken)).await),
            ErrorKind::PathTaken,
            "{taken}"
        );
    }
    let derived = new_user_at("bob@example.com", bob.storage_path.as_str());
    assert_eq!(kind(store.create(derived).await), ErrorKind::InvalidPath);
    store.create(new_user_at("ada@example.com", "customers/bob")).await.unwrap();
}

async fn an_update_changes_the_address_and_makes_a_version(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let before = create(store, "ada@example.com").await;
    let now = clock.forward(60);
    let after = store.update(before.id, to_email("lovelace@example.com")).await.unwrap();
    let expected = changed(&before, |user| {
        (user.email, user.updated_at, user.version) = (email("lovelace@example.com"), now, 2)
    });
    assert_eq!(after, expected);
    assert_eq!(store.get(before.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(store.get_by_email(&email("ada@example.com")).await.unwrap(), None);
    assert_eq!(store.get_by_email(&email("Lovelace@Example.com")).await.unwrap(), Some(expected));
    // The old address is free at once.
    create(store, "ada@example.com").await;
}

async fn an_update_that_changes_nothing_makes_no_version(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "ada@example.com").await;
    clock.forward(60);
    for update in [
        UserUpdate::default(),
        to_email("ada@example.com"),
        UserUpdate { expected_version: Some(1), ..UserUpdate::default() },
        UserUpdate { expected_version: Some(1), ..to_email("ada@example.com") },
    ] {
        assert_eq!(store.update(user.id, update).await.unwrap(), user);
    }
    assert_eq!(store.get(user.id).await.unwrap(), Some(user));
}

async fn the_same_address_in_another_spelling_is_an_update(bench: &mut Bench) {
    let store = &bench.store;
    let user = create(store, "ada@example.com").await;
    let respelled = store.update(user.id, to_email("Ada@Example.com")).await.unwrap();
    assert_eq!((respelled.email.as_str(), respelled.version), ("Ada@Example.com", 2));
    assert_eq!(store.get(user.id).await.unwrap(), Some(respelled));
}

async fn an_update_with_an_old_version_is_refused_and_says_the_current_one(bench: &mut Bench) {
    let store = &bench.store;
    let user = create(store, "ada@example.com").await;
    let expecting =
        |version, address| UserUpdate { expected_version: Some(version), ..to_email(address) };
    store.update(user.id, expecting(1, "ada2@example.com")).await.unwrap();
    let current = store.update(user.id, expecting(2, "ada3@example.com")).await.unwrap();
    assert_eq!(current.version, 3);

    for version in [0, 1, 2, 4, u64::MAX] {
        let refused = store.update(user.id, expecting(version, "ada4@example.com")).await;
        assert_eq!(kind(refused), ErrorKind::VersionMismatch { current: 3 }, "{version}");
        // Even if there is nothing to change.
        let refused = store.update(user.id, expecting(version, "ada3@example.com")).await;
        assert_eq!(kind(refused), ErrorKind::VersionMismatch { current: 3 }, "{version}");
    }
    assert_eq!(store.get(user.id).await.unwrap(), Some(current));
}

async fn of_two_updates_with_one_version_in_one_closure_the_second_is_refused(bench: &mut Bench) {
    let user = create(&bench.store, "ada@example.com").await;
    let expecting = |address| UserUpdate { expected_version: Some(1), ..to_email(address) };
    let (first, second) = (expecting("ada2@example.com"), expecting("ada3@example.com"));
    let id = user.id;
    let updated = bench
        .store
        .write(move |tx| {
            let updated = tx.update(id, &first)?;
            assert_eq!(kind(tx.update(id, &second)), ErrorKind::VersionMismatch { current: 2 });
            Ok::<_, tenantry::Error>(updated)
        })
        .await
        .unwrap();
    assert_eq!((updated.version, updated.email.to_string().as_str()), (2, "ada2@example.com"));
    assert_eq!(bench.store.get(id).await.unwrap(), Some(updated));
}

async fn an_update_to_a_taken_address_is_refused_and_changes_nothing(bench: &mut Bench) {
    let store = &bench.store;
    create(store, "ada@example.com").await;
    let bob = create(store, "bob@example.com").await;
    assert_eq!(
        kind(store.update(bob.id, to_email("ADA@example.com")).await),
        ErrorKind::EmailTaken
    );
    assert_eq!(store.get(bob.id).await.unwrap(), Some(bob));
}

async fn the_last_change_never_goes_back(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "ada@example.com").await;
    let early = clock.back(3_600);
    let changed = store.update(user.id, to_email("ada2@example.com")).await.unwrap();
    assert_eq!((changed.updated_at, changed.version), (user.updated_at, 2));
    let late = clock.forward(7_200);
    assert!(early < user.updated_at && user.updated_at < late);
    let changed = store.update(user.id, to_email("ada3@example.com")).await.unwrap();
    assert_eq!((changed.updated_at, changed.created_at), (late, user.created_at));
    assert_eq!(store.get(user.id).await.unwrap(), Some(changed));
}

async fn the_highest_version_is_the_last(bench: &mut Bench) {
    let store = &bench.store;
    let almost = NewUser { version: Some(User::MAX_VERSION - 1), ..new_user("ada@example.com") };
    let user = store.create(almost).await.unwrap();
    let last = store.update(user.id, to_email("ada2@example.com")).await.unwrap();
    assert_eq!(last.version, User::MAX_VERSION);
    assert_eq!(
        kind(store.update(user.id, to_email("ada3@example.com")).await),
        ErrorKind::InvalidUser
    );
    assert_eq!(store.get(user.id).await.unwrap(), Some(last));
}

async fn a_login_is_not_a_change(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "Ada@Example.com").await;
    let login = clock.forward(60);
    let expected = changed(&user, |user| user.last_login_at = Some(login));
    assert_eq!(store.record_login(user.id).await.unwrap(), expected);
    assert_eq!(store.get(user.id).await.unwrap(), Some(expected.clone()));
    let login = clock.forward(60);
    let expected = changed(&expected, |user| user.last_login_at = Some(login));
    let signed_in = store.sign_in(email("ada@example.com")).await.unwrap();
    assert_eq!(signed_in, SignIn { user: expected.clone(), is_new: false });
    assert_eq!(store.get(user.id).await.unwrap(), Some(expected));
}

async fn the_last_login_only_moves_forward(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "ada@example.com").await;
    let first = clock.forward(3_600);
    store.record_login(user.id).await.unwrap();
    clock.back(7_200);
    assert_eq!(store.record_login(user.id).await.unwrap().last_login_at, Some(first));
    assert_eq!(
        store.sign_in(email("ada@example.com")).await.unwrap().user.last_login_at,
        Some(first)
    );
    assert_eq!(store.get(user.id).await.unwrap().unwrap().last_login_at, Some(first));
    let second = clock.forward(7_201);
    assert_eq!(store.record_login(user.id).await.unwrap().last_login_at, Some(second));
    let third = clock.forward(1);
    assert_eq!(
        store.sign_in(email("ada@example.com")).await.unwrap().user.last_login_at,
        Some(third)
    );
    assert_eq!(store.get(user.id).await.unwrap().unwrap().last_login_at, Some(third));
}

async fn the_first_sign_in_creates_and_the_next_ones_find(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let first = store.sign_in(email("Ada@Example.com")).await.unwrap();
    assert!(first.is_new);
    assert_eq!(first.user.email.as_str(), "Ada@Example.com");
    assert_eq!((first.user.created_at, first.user.last_login_at), (clock.now(), Some(clock.now())));
    assert_eq!(store.get(first.user.id).await.unwrap(), Some(first.user.clone()));

    let second = store.sign_in(email("ada@EXAMPLE.com")).await.unwrap();
    // The address stays as it was first written.
    assert_eq!(second, SignIn { user: first.user.clone(), is_new: false });

    store.delete(first.user.id).await.unwrap();
    let third = store.sign_in(email("ada@example.com")).await.unwrap();
    assert!(third.is_new && third.user.id != first.user.id);
    assert_eq!(store.count().await.unwrap(), 1);
}
