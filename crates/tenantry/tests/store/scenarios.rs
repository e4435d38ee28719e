//! The contract of a store, as scenarios that know nothing of its engine. Every engine runs all of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tenantry::{
    Ambient, Error, ErrorKind, Filter, Imported, ListQuery, NewUser, OnConflict, SignIn, StoragePath, Store, User,
    UserUpdate,
};

use crate::support::{
    Bench, Place, SqlitePlace, addresses, all, block_on, email, kind, new_user, new_user_at, numbered_id, only,
    page_of, time, to_email,
};

/// Makes a test of every scenario for an engine.
macro_rules! every_scenario_on {
    ($engine:ident, $place:expr) => {
        tests! { $engine, $place,
            a_created_user_is_read_back_by_id_and_by_any_spelling_of_the_address,
            whatever_a_new_user_brings_is_kept,
            nobody_is_found_where_nobody_is,
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
            an_update_to_a_taken_address_is_refused_and_changes_nothing,
            the_last_change_never_goes_back,
            the_highest_version_is_the_last,
            a_login_is_not_a_change,
            the_last_login_only_moves_forward,
            the_first_sign_in_creates_and_the_next_ones_find,
            a_listing_is_in_the_order_of_creation,
            a_page_holds_fifty_unless_said_otherwise,
            a_limit_outside_of_1_to_1000_is_refused,
            pages_meet_everybody_once_whatever_is_created_and_deleted_meanwhile,
            a_user_created_after_the_last_one_was_deleted_is_not_skipped,
            a_cursor_is_read_back_and_outlives_a_restart,
            nothing_but_a_cursor_is_read_as_one,
            a_listing_by_prefix_takes_it_literally_and_folds_it,
            a_listing_by_prefix_has_pages_in_the_order_of_creation,
            a_listing_by_a_part_looks_at_the_key_and_at_the_address,
            a_listing_by_creation_includes_the_start_and_excludes_the_end,
            a_listing_of_the_inactive_counts_from_the_creation_for_who_never_logged_in,
            conditions_are_met_all_of_them,
            a_filter_that_few_users_meet_finds_them_behind_many_others,
            a_filter_that_no_address_can_meet_is_refused,
            each_row_of_many_has_its_own_outcome,
            a_read_closure_sees_one_moment,
            a_read_closure_fails_with_its_own_error_and_a_panic_reaches_the_caller,
            a_write_closure_that_returns_ok_lasts,
            a_write_closure_that_returns_an_error_did_nothing,
            a_write_closure_that_panics_did_nothing_and_the_store_goes_on,
            a_write_closure_goes_on_after_an_operation_that_failed,
            a_transaction_has_one_time,
            an_import_that_may_not_conflict_answers_the_conflict,
            an_import_that_skips_leaves_users_as_they_are,
            an_import_that_updates_brings_what_can_change,
            an_import_that_updates_refuses_what_is_fixed,
            a_closed_store_refuses_everything,
            what_was_answered_is_there_after_a_restart,
        }
    };
}

macro_rules! tests {
    ($engine:ident, $place:expr, $($scenario:ident,)*) => {
        mod $engine {
            use super::*;

            $(
                #[test]
                fn $scenario() {
                    run($place, super::$scenario);
                }
            )*
        }
    };
}

every_scenario_on!(sqlite, SqlitePlace::new());

fn run(place: impl Place + 'static, scenario: impl AsyncFnOnce(&mut Bench)) {
    block_on(async {
        let mut bench = Bench::new(place).await;
        scenario(&mut bench).await;
        bench.store.close().await.unwrap();
    });
}

async fn create(store: &Store, address: &str) -> User {
    store.create(new_user(address)).await.unwrap()
}

/// A user as they were, but for this.
fn changed(user: &User, change: impl FnOnce(&mut User)) -> User {
    let mut user = user.clone();
    change(&mut user);
    user
}

async fn a_created_user_is_read_back_by_id_and_by_any_spelling_of_the_address(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let user = create(store, "Ada@Example.com").await;
    assert_eq!(user.email.as_str(), "Ada@Example.com");
    assert_eq!((user.created_at, user.updated_at, user.last_login_at), (clock.now(), clock.now(), None));
    assert_eq!(user.version, 1);
    assert_eq!(user.storage_path, StoragePath::derived(user.id));

    assert_eq!(store.get(user.id).await.unwrap().as_ref(), Some(&user));
    for spelling in ["Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM", "\u{ff21}da@example.com"] {
        assert_eq!(store.get_by_email(&email(spelling)).await.unwrap().as_ref(), Some(&user), "{spelling}");
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
    };
    assert_eq!(kept, new);
    assert_eq!(store.get(user.id).await.unwrap(), Some(user.clone()));
    assert_eq!(store.get_by_email(&email("STRASSE@xn--bcher-kva.example")).await.unwrap(), Some(user));

    // Who brings only the time of creation was last changed then.
    let created_at = Some(time("2020-02-02T02:02:02Z"));
    let bob = store.create(NewUser { created_at, ..new_user("bob@example.com") }).await.unwrap();
    assert_eq!(Some(bob.updated_at), created_at);
}

async fn nobody_is_found_where_nobody_is(bench: &mut Bench) {
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
    for other in ["a.da@example.com", "ada+tag@example.com", "\u{131}@example.com", "i@example.com"] {
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
    for taken in
        ["customers/ada/files", "customers/ada", "customers", "customers/ada/files/x", "customers/ada/files/x/y"]
    {
        assert_eq!(kind(store.create(new_user_at("bob@example.com", taken)).await), ErrorKind::PathTaken, "{taken}");
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
        let user = store.create(new_user_at(&format!("u{number}@example.com"), free)).await.unwrap();
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
    let with_path_of =
        |id| NewUser { id: Some(own), storage_path: Some(StoragePath::derived(id)), ..new_user("ada@example.com") };
    assert_eq!(kind(store.create(with_path_of(other)).await), ErrorKind::InvalidPath);
    let user = store.create(with_path_of(own)).await.unwrap();
    assert_eq!(user.storage_path, StoragePath::derived(own));
    assert_eq!(store.get(own).await.unwrap(), Some(user));
}

async fn a_taken_address_counts_more_than_a_path(bench: &mut Bench) {
    let store = &bench.store;
    store.create(new_user_at("ada@example.com", "files")).await.unwrap();
    for path in ["files/x", "ab/cd"] {
        assert_eq!(kind(store.create(new_user_at("ADA@example.com", path)).await), ErrorKind::EmailTaken, "{path}");
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
        assert_eq!(kind(store.create(new_user_at("ada@example.com", taken)).await), ErrorKind::PathTaken, "{taken}");
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
    let expected =
        changed(&before, |user| (user.email, user.updated_at, user.version) = (email("lovelace@example.com"), now, 2));
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
    let expecting = |version, address| UserUpdate { expected_version: Some(version), ..to_email(address) };
    store.update(user.id, expecting(1, "ada2@example.com")).await.unwrap();
    let current = store.update(user.id, expecting(2, "ada3@example.com")).await.unwrap();
    assert_eq!(current.version, 3);

    for version in [0, 1, 2, 4, u64::MAX] {
        let refused = store.update(user.id, expecting(version, "ada4@example.com")).await;
        assert_eq!(kind(refused), ErrorKind::VersionMismatch { current: 3 }, "{version}");
        // Also if there is nothing to change.
        let refused = store.update(user.id, expecting(version, "ada3@example.com")).await;
        assert_eq!(kind(refused), ErrorKind::VersionMismatch { current: 3 }, "{version}");
    }
    assert_eq!(store.get(user.id).await.unwrap(), Some(current));
}

async fn an_update_to_a_taken_address_is_refused_and_changes_nothing(bench: &mut Bench) {
    let store = &bench.store;
    create(store, "ada@example.com").await;
    let bob = create(store, "bob@example.com").await;
    assert_eq!(kind(store.update(bob.id, to_email("ADA@example.com")).await), ErrorKind::EmailTaken);
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
    assert_eq!(kind(store.update(user.id, to_email("ada3@example.com")).await), ErrorKind::InvalidUser);
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
    assert_eq!(store.sign_in(email("ada@example.com")).await.unwrap().user.last_login_at, Some(first));
    assert_eq!(store.get(user.id).await.unwrap().unwrap().last_login_at, Some(first));
    let second = clock.forward(7_201);
    assert_eq!(store.record_login(user.id).await.unwrap().last_login_at, Some(second));
    let third = clock.forward(1);
    assert_eq!(store.sign_in(email("ada@example.com")).await.unwrap().user.last_login_at, Some(third));
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

async fn a_listing_is_in_the_order_of_creation(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut expected = Vec::new();
    // Neither the address nor the time of creation is in order.
    for (number, address) in ["m@example.com", "z@example.com", "a@example.com", "k@example.com"].iter().enumerate() {
        clock.back(3_600 * number as i64);
        expected.push(create(store, address).await);
    }
    let page = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!((page.users, page.next_cursor), (expected, None));
}

async fn a_page_holds_fifty_unless_said_otherwise(bench: &mut Bench) {
    let store = &bench.store;
    let users = (0..1_001).map(|number| new_user(&format!("u{number:04}@example.com"))).collect();
    let created: Vec<User> = store.create_many(users).await.unwrap().into_iter().map(Result::unwrap).collect();
    let first = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!(first.users, created[..50]);
    let second = store.list(&ListQuery { cursor: first.next_cursor, ..ListQuery::default() }).await.unwrap();
    assert_eq!(second.users, created[50..100]);

    let first = store.list(&page_of(1_000)).await.unwrap();
    assert_eq!(first.users, created[..1_000]);
    let second = store.list(&ListQuery { cursor: first.next_cursor, ..page_of(1_000) }).await.unwrap();
    assert_eq!((second.users.as_slice(), second.next_cursor), (&created[1_000..], None));
    // A page that is just full isn't followed by an empty one.
    store.delete(created[1_000].id).await.unwrap();
    assert_eq!(store.list(&page_of(1_000)).await.unwrap().next_cursor, None);
    assert_eq!(all(store, page_of(1)).await, created[..1_000]);
}

async fn a_limit_outside_of_1_to_1000_is_refused(bench: &mut Bench) {
    let store = &bench.store;
    for limit in [0, 1_001, usize::MAX] {
        assert_eq!(kind(store.list(&page_of(limit)).await), ErrorKind::InvalidQuery, "{limit}");
        assert_eq!(kind(store.read(move |tx| tx.list(&page_of(limit))).await), ErrorKind::InvalidQuery, "{limit}");
        assert_eq!(kind(store.pages(page_of(limit)).next().await), ErrorKind::InvalidQuery, "{limit}");
    }
}

async fn pages_meet_everybody_once_whatever_is_created_and_deleted_meanwhile(bench: &mut Bench) {
    let store = &bench.store;
    let mut stayed = Vec::new();
    for number in 0..20 {
        stayed.push(create(store, &format!("u{number:02}@example.com")).await);
    }
    let mut pages = store.pages(page_of(3));
    let mut met = Vec::new();
    let mut turn = 0;
    while let Some(page) = pages.next().await.unwrap() {
        // The user that the cursor stands behind goes, and somebody comes, four times.
        if turn < 4 {
            let last = page.last().unwrap().id;
            store.delete(last).await.unwrap();
            stayed.push(create(store, &format!("late{turn}@example.com")).await);
        }
        // So does one who is still to come: not met, and nobody is skipped for it.
        if turn == 2 {
            let coming = stayed.remove(15);
            store.delete(coming.id).await.unwrap();
        }
        met.extend(page);
        turn += 1;
    }
    assert_eq!(met, stayed);
}

async fn a_user_created_after_the_last_one_was_deleted_is_not_skipped(bench: &mut Bench) {
    let store = &bench.store;
    for address in ["a@example.com", "b@example.com", "c@example.com"] {
        create(store, address).await;
    }
    let first = store.list(&page_of(2)).await.unwrap();
    // All of the first page and what follows it go, and somebody comes.
    for user in all(store, ListQuery::default()).await {
        store.delete(user.id).await.unwrap();
    }
    let late = create(store, "d@example.com").await;
    let second = store.list(&ListQuery { cursor: first.next_cursor, ..page_of(2) }).await.unwrap();
    assert_eq!((second.users, second.next_cursor), (vec![late], None));
}

async fn a_cursor_is_read_back_and_outlives_a_restart(bench: &mut Bench) {
    for number in 0..6 {
        create(&bench.store, &format!("u{number}@example.com")).await;
    }
    let first = bench.store.list(&page_of(3)).await.unwrap();
    let cursor = first.next_cursor.unwrap();
    let text = cursor.to_string();
    bench.store.delete(first.users[2].id).await.unwrap();
    bench.reopen().await;

    let read_back = text.parse().unwrap();
    assert_eq!(read_back, cursor);
    let second = bench.store.list(&ListQuery { cursor: Some(read_back), ..page_of(3) }).await.unwrap();
    assert_eq!(addresses(&second.users), ["u3@example.com", "u4@example.com", "u5@example.com"]);
    // It is a place, not a filter: another query can go on from it.
    let prefix = only(Filter { email_prefix: Some("u".into()), ..Filter::default() });
    let second = bench.store.list(&ListQuery { cursor: Some(read_back), ..prefix }).await.unwrap();
    assert_eq!(second.users.len(), 3);
}

async fn nothing_but_a_cursor_is_read_as_one(bench: &mut Bench) {
    for number in 0..2 {
        create(&bench.store, &format!("u{number}@example.com")).await;
    }
    let text = bench.store.list(&page_of(1)).await.unwrap().next_cursor.unwrap().to_string();
    for other in [text.to_uppercase() + " ", format!(" {text}"), text[1..].to_owned(), text.replace('1', "2")] {
        assert_eq!(kind(other.parse::<tenantry::Cursor>()), ErrorKind::InvalidCursor, "{other}");
    }
}

async fn found_by_prefix(store: &Store, prefix: &str) -> Vec<String> {
    let filter = Filter { email_prefix: Some(prefix.to_owned()), ..Filter::default() };
    all(store, only(filter)).await.into_iter().map(|user| user.email.to_string()).collect()
}

async fn a_listing_by_prefix_takes_it_literally_and_folds_it(bench: &mut Bench) {
    let store = &bench.store;
    for address in [
        "Ada@example.com",
        "adam@example.com",
        "a_b@example.com",
        "axb@example.com",
        "a%b@example.com",
        "stra\u{df}e@example.com",
        "bob@b\u{fc}cher.example",
        "bob@example.com",
        "\u{7530}\u{4e2d}@example.com",
        "*@example.com",
    ] {
        create(store, address).await;
    }
    assert_eq!(found_by_prefix(store, "AD").await, ["Ada@example.com", "adam@example.com"]);
    assert_eq!(found_by_prefix(store, "ada@").await, ["Ada@example.com"]);
    assert_eq!(found_by_prefix(store, "ada@EXAMPLE.com").await, ["Ada@example.com"]);
    assert_eq!(found_by_prefix(store, "a_").await, ["a_b@example.com"]);
    assert_eq!(found_by_prefix(store, "a%").await, ["a%b@example.com"]);
    assert_eq!(found_by_prefix(store, "*").await, ["*@example.com"]);
    assert_eq!(found_by_prefix(store, "strass").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found_by_prefix(store, "STRA\u{1e9e}").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found_by_prefix(store, "bob@").await, ["bob@b\u{fc}cher.example", "bob@example.com"]);
    assert_eq!(found_by_prefix(store, "Bob@B\u{dc}CHER.example").await, ["bob@b\u{fc}cher.example"]);
    assert_eq!(found_by_prefix(store, "bob@xn--").await, ["bob@b\u{fc}cher.example"]);
    assert_eq!(found_by_prefix(store, "\u{7530}").await, ["\u{7530}\u{4e2d}@example.com"]);
    for nobody in ["_", "%", "b_b", "da@", "ada@example.com.", "\\"] {
        assert!(found_by_prefix(store, nobody).await.is_empty(), "{nobody}");
    }
    assert_eq!(found_by_prefix(store, "").await.len(), 10, "an empty prefix is none");
}

async fn a_listing_by_prefix_has_pages_in_the_order_of_creation(bench: &mut Bench) {
    let store = &bench.store;
    let mut expected = Vec::new();
    // The order of creation is neither that of the keys nor its reverse.
    for number in [5, 1, 9, 3, 7, 2, 8, 4, 6, 0] {
        expected.push(create(store, &format!("ada{number}@example.com")).await);
        create(store, &format!("bob{number}@example.com")).await;
    }
    for limit in [1, 3, 9, 10, 11] {
        let filter = Filter { email_prefix: Some("ada".into()), ..Filter::default() };
        let mut query = ListQuery { limit, ..only(filter) };
        let mut found = Vec::new();
        loop {
            let page = store.list(&query).await.unwrap();
            assert_eq!(page.users.len(), limit.min(expected.len() - found.len()));
            found.extend(page.users);
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{limit}");
    }
}

async fn a_listing_by_a_part_looks_at_the_key_and_at_the_address(bench: &mut Bench) {
    let store = &bench.store;
    for address in ["Ada@Example.com", "a_b@example.org", "stra\u{df}e@example.com", "bob@b\u{fc}cher.example"] {
        create(store, address).await;
    }
    let found = async |part: &str| {
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        all(store, only(filter)).await.into_iter().map(|user| user.email.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found("DA@E").await, ["Ada@Example.com"]);
    assert_eq!(found("example.com").await, ["Ada@Example.com", "stra\u{df}e@example.com"]);
    assert_eq!(found("_").await, ["a_b@example.org"]);
    assert_eq!(found("ass").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found("\u{df}e@").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found("xn--").await, ["bob@b\u{fc}cher.example"]);
    assert_eq!(found("\u{fc}cher").await, ["bob@b\u{fc}cher.example"]);
    assert!(found("%").await.is_empty());
    assert_eq!(found("").await.len(), 4, "an empty part is no condition");
}

async fn a_listing_by_creation_includes_the_start_and_excludes_the_end(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut times = Vec::new();
    for address in ["a@example.com", "b@example.com", "c@example.com", "d@example.com"] {
        times.push(clock.forward(10));
        create(store, address).await;
    }
    let found = async |after: Option<usize>, before: Option<usize>| {
        let filter = Filter {
            created_after: after.map(|at| times[at]),
            created_before: before.map(|at| times[at]),
            ..Filter::default()
        };
        addresses(&all(store, only(filter)).await).iter().map(|address| address[..1].to_owned()).collect::<String>()
    };
    assert_eq!(found(Some(1), None).await, "bcd");
    assert_eq!(found(None, Some(1)).await, "a");
    assert_eq!(found(Some(1), Some(3)).await, "bc");
    assert_eq!(found(Some(2), Some(2)).await, "");
    assert_eq!(found(Some(3), Some(1)).await, "");
}

async fn a_listing_of_the_inactive_counts_from_the_creation_for_who_never_logged_in(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let old = create(store, "old@example.com").await;
    let faithful = create(store, "faithful@example.com").await;
    let middle = clock.forward(100);
    store.record_login(faithful.id).await.unwrap();
    create(store, "young@example.com").await;
    let late = clock.forward(100);
    store.record_login(faithful.id).await.unwrap();

    let inactive_since = async |moment| {
        let filter = Filter { inactive_since: Some(moment), ..Filter::default() };
        addresses(&all(store, only(filter)).await).iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()
    };
    assert!(inactive_since(old.created_at).await.is_empty(), "the moment itself is not before it");
    assert_eq!(inactive_since(middle).await, ["old@example.com"]);
    assert_eq!(inactive_since(late).await, ["old@example.com", "young@example.com"]);
    clock.forward(1);
    assert_eq!(inactive_since(clock.now()).await, ["old@example.com", "faithful@example.com", "young@example.com"]);
    // As a program asks that wants to know who was away for 90 seconds.
    let away = clock.now().saturating_sub(Duration::from_secs(90));
    assert_eq!(inactive_since(away).await, ["old@example.com", "young@example.com"]);

    let never = all(store, only(Filter { never_logged_in: true, ..Filter::default() })).await;
    assert_eq!(addresses(&never), ["old@example.com", "young@example.com"]);
}

async fn conditions_are_met_all_of_them(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let start = clock.now();
    for (number, address) in ["ada1", "bob1", "ada2", "ada3", "ada4"].iter().enumerate() {
        let user = create(store, &format!("{address}@example.com")).await;
        if number % 2 == 0 {
            store.record_login(user.id).await.unwrap();
        }
        clock.forward(10);
    }
    let filter = Filter {
        email_prefix: Some("ada".into()),
        email_contains: Some("@EXAMPLE".into()),
        created_after: Some(start),
        created_before: Some(clock.now()),
        inactive_since: Some(clock.now()),
        never_logged_in: true,
    };
    assert_eq!(addresses(&all(store, only(filter.clone())).await), ["ada3@example.com"]);
    for (without, expected) in [
        (Filter { never_logged_in: false, ..filter.clone() }, 4),
        (Filter { email_prefix: None, ..filter.clone() }, 2),
        (Filter { email_prefix: None, never_logged_in: false, ..filter.clone() }, 5),
        (Filter { email_contains: Some("4".into()), ..filter.clone() }, 0),
        (Filter { created_before: Some(start), ..filter.clone() }, 0),
        (Filter { created_after: Some(clock.now()), ..filter.clone() }, 0),
        (Filter { inactive_since: Some(start), ..filter }, 0),
    ] {
        assert_eq!(all(store, ListQuery { limit: 1, ..only(without.clone()) }).await.len(), expected, "{without:?}");
    }
}

async fn a_filter_that_few_users_meet_finds_them_behind_many_others(bench: &mut Bench) {
    let store = &bench.store;
    // More than two steps of the search.
    let users = (0..9_000).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    store.create_many(users).await.unwrap();
    for part in ["u0@", "u4095@", "u4096@", "u8191@", "u8192@", "u8999@"] {
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        let page = store.list(&only(filter)).await.unwrap();
        assert_eq!(addresses(&page.users), [format!("{part}example.com")]);
        assert_eq!(page.next_cursor, None);
    }
    // Pages that end where steps end.
    let filter = Filter { email_contains: Some("5@".to_owned()), ..Filter::default() };
    let mut expected: Vec<String> =
        (0..9_000).filter(|number| number % 10 == 5).map(|number| format!("u{number}@example.com")).collect();
    let found = all(store, ListQuery { limit: 7, ..only(filter.clone()) }).await;
    assert_eq!(addresses(&found), expected);
    let in_closure = store.read(|tx| tx.list(&ListQuery { limit: 1_000, ..only(filter) })).await.unwrap();
    assert_eq!(addresses(&in_closure.users), expected);
    expected.clear();
    let nobody = Filter { email_contains: Some("nobody".to_owned()), ..Filter::default() };
    assert_eq!(addresses(&all(store, only(nobody)).await), expected);
}

async fn a_filter_that_no_address_can_meet_is_refused(bench: &mut Bench) {
    let store = &bench.store;
    for text in ["a b".to_owned(), "a\0".to_owned(), "a\u{200b}".to_owned(), "a".repeat(255)] {
        let prefix = Filter { email_prefix: Some(text.clone()), ..Filter::default() };
        let part = Filter { email_contains: Some(text.clone()), ..Filter::default() };
        for filter in [prefix, part] {
            assert_eq!(kind(store.list(&only(filter)).await), ErrorKind::InvalidQuery, "{text:?}");
        }
    }
    let half_a_domain = Filter { email_prefix: Some("ada@b\u{fc}-".into()), ..Filter::default() };
    assert_eq!(kind(store.list(&only(half_a_domain)).await), ErrorKind::InvalidQuery);
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
    let kinds: Vec<Option<ErrorKind>> = outcomes.iter().map(|row| row.as_ref().err().map(Error::kind)).collect();
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
    store
        .read(|tx| {
            assert_eq!(tx.count()?, 1);
            // Another thread writes in the middle of it, and is answered.
            let writer = store.clone();
            let id = ada.id;
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
    assert_eq!(store.get(ada.id).await.unwrap().unwrap().version, 2);
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
            assert_eq!(kind(tx.update(bob.id, &to_email("ada@example.com"))), ErrorKind::EmailTaken);
            assert_eq!(kind(tx.delete(numbered_id(9_999))), ErrorKind::NotFound);
            tx.delete(ada.id)?;
            assert_eq!(kind(tx.create(&NewUser { id: Some(ada.id), ..new_user("c@example.com") })), ErrorKind::IdTaken);
            tx.create(&new_user("c@example.com"))
        })
        .await
        .unwrap();
    assert_eq!(addresses(&all(store, ListQuery::default()).await), ["bob@example.com", "c@example.com"]);
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
async fn import(store: &Store, row: &NewUser, on_conflict: OnConflict) -> Result<Imported, ErrorKind> {
    let row = row.clone();
    store.write(move |tx| tx.import(&row, on_conflict)).await.map_err(|error| error.kind())
}

const EVERY_ON_CONFLICT: [OnConflict; 3] = [OnConflict::Fail, OnConflict::Skip, OnConflict::Update];

async fn an_import_that_may_not_conflict_answers_the_conflict(bench: &mut Bench) {
    let store = &bench.store;
    for (number, on_conflict) in EVERY_ON_CONFLICT.into_iter().enumerate() {
        let row = new_user_at(&format!("u{number}@example.com"), &format!("u{number}"));
        assert_eq!(import(store, &row, on_conflict).await, Ok(Imported::Created), "{on_conflict:?}");
    }
    let known = all(store, ListQuery::default()).await;
    let by_email = new_user("U0@example.com");
    let by_id = NewUser { id: Some(known[0].id), ..new_user("b@example.com") };
    let by_path = new_user_at("b@example.com", "u0/x");
    assert_eq!(import(store, &by_email, OnConflict::Fail).await, Err(ErrorKind::EmailTaken));
    assert_eq!(import(store, &by_id, OnConflict::Fail).await, Err(ErrorKind::IdTaken));
    // Whoever else has the path, nobody is there to be the row's user.
    for on_conflict in EVERY_ON_CONFLICT {
        assert_eq!(import(store, &by_path, on_conflict).await, Err(ErrorKind::PathTaken), "{on_conflict:?}");
        let reserved = new_user_at("b@example.com", "ab");
        assert_eq!(import(store, &reserved, on_conflict).await, Err(ErrorKind::InvalidPath), "{on_conflict:?}");
        let no_version = NewUser { version: Some(0), ..by_email.clone() };
        assert_eq!(import(store, &no_version, on_conflict).await, Err(ErrorKind::InvalidUser), "{on_conflict:?}");
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
        assert_eq!(import(store, &row, OnConflict::Skip).await, Ok(Imported::Skipped), "{row:?}");
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
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Imported::Updated));
    let expected = changed(&ada, |user| user.last_login_at = Some(login));
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Imported::Unchanged));
    let earlier = NewUser { last_login_at: Some(ada.created_at), ..row };
    assert_eq!(import(store, &earlier, OnConflict::Update).await, Ok(Imported::Unchanged));
    assert_eq!(import(store, &new_user("ada@example.com"), OnConflict::Update).await, Ok(Imported::Unchanged));
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
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Imported::Updated));
    let expected = changed(&expected, |user| {
        (user.email, user.updated_at, user.version) = (email("Lovelace@example.com"), now, 2)
    });
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(import(store, &row, OnConflict::Update).await, Ok(Imported::Unchanged));
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected));

    // The path that a user has is no conflict with that user, wherever it lies.
    let chosen = new_user_at("bob@example.com", "files/bob");
    assert_eq!(import(store, &chosen, OnConflict::Update).await, Ok(Imported::Created));
    assert_eq!(import(store, &chosen, OnConflict::Update).await, Ok(Imported::Unchanged));
}

async fn an_import_that_updates_refuses_what_is_fixed(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = create(store, "ada@example.com").await;
    create(store, "bob@example.com").await;
    let later = clock.forward(60);
    let known = all(store, ListQuery::default()).await;
    let with_id = NewUser { id: Some(ada.id), last_login_at: Some(later), ..new_user("ada2@example.com") };
    for (row, expected) in [
        (NewUser { created_at: Some(later), ..with_id.clone() }, ErrorKind::Immutable),
        (NewUser { storage_path: Some("files".parse().unwrap()), ..with_id.clone() }, ErrorKind::Immutable),
        (NewUser { storage_path: Some("ab/cd".parse().unwrap()), ..with_id.clone() }, ErrorKind::Immutable),
        (NewUser { created_at: Some(later), ..new_user("ADA@example.com") }, ErrorKind::Immutable),
        (new_user_at("ADA@example.com", "files"), ErrorKind::Immutable),
        // The address is that of a user with another id, or of another user than the id is.
        (NewUser { id: Some(numbered_id(9_999)), ..new_user("ada@example.com") }, ErrorKind::EmailTaken),
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

async fn what_was_answered_is_there_after_a_restart(bench: &mut Bench) {
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
