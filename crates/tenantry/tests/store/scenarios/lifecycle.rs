//! Users with their directories as one unit: creation, the trash, purges, and all of it at once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use tenantry::{
    Ambient, Error, ErrorKind, ListQuery, NewUser, OnConflict, Progress, Purge, StoragePath, Store,
    TrashQuery, TrashedUser, Upserted, User, UserId, check,
};

use super::{changed, create};
use crate::support::{
    Bench, BlockedWriter, all, block_on, email, kind, mode, new_user, new_user_at, numbered_id,
    queued, set_mode, to_email, tree,
};

scenarios! {
    a_directory_is_made_on_first_use_and_private,
    nothing_leaves_a_directory_through_its_handle,
    a_directory_that_exists_at_a_chosen_path_is_blocked_until_it_is_adopted,
    the_path_of_a_directory_is_where_its_files_are,
    a_deleted_user_leaves_the_address_and_keeps_id_path_and_files,
    the_trash_is_listed_in_the_order_of_deletion,
    a_restored_user_is_who_they_were_with_every_file,
    a_restore_is_refused_if_the_address_is_taken_and_takes_another,
    a_restore_is_refused_if_something_exists_at_the_path,
    a_purge_leaves_nothing_but_the_id_and_the_path_taken,
    a_purge_by_time_destroys_the_users_deleted_before,
    a_purge_says_how_far_it_is,
    a_closure_cannot_move_a_directory_twice,
    many_at_once_get_the_same_new_directory,
    operations_on_the_same_user_in_one_group_happen_one_after_the_other,
    many_deletions_at_once_move_every_directory,
    threads_that_delete_and_restore_the_same_users_never_get_in_each_others_way,
    a_sign_in_with_an_address_from_the_trash_creates_a_user,
    an_import_takes_no_id_from_the_trash,
}

/// A user with a directory and a file in it that tells whose it is.
pub(super) async fn with_file(store: &Store, address: &str) -> User {
    let user = create(store, address).await;
    write_file(store, &user).await;
    user
}

pub(super) async fn with_file_at(store: &Store, address: &str, path: &str) -> User {
    let user = store.create(new_user_at(address, path)).await.unwrap();
    write_file(store, &user).await;
    user
}

async fn write_file(store: &Store, user: &User) {
    store.directory(user.id).await.unwrap().write("whose.txt", user.id.to_string()).unwrap();
}

async fn assert_has_file(store: &Store, user: &User) {
    let found = store.directory(user.id).await.unwrap().read_to_string("whose.txt").unwrap();
    assert_eq!(found, user.id.to_string());
}

pub(super) fn path(text: &str) -> StoragePath {
    text.parse().unwrap()
}

pub(super) fn directory(bench: &Bench, user: &User) -> PathBuf {
    bench.at("storage").join(user.storage_path.as_str())
}

pub(super) fn in_trash(bench: &Bench, user: &User) -> PathBuf {
    bench.at("trash").join(user.id.to_string())
}

async fn trash(store: &Store) -> Vec<TrashedUser> {
    let page = store
        .list_trash(&TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() })
        .await
        .unwrap();
    assert_eq!(page.next_cursor, None);
    page.users
}

pub(super) type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// All that an operation which is refused mustn't change.
pub(super) async fn state(bench: &Bench) -> (Vec<User>, Vec<TrashedUser>, Files, Files) {
    let users = all(&bench.store, ListQuery::default()).await;
    (users, trash(&bench.store).await, tree(&bench.at("storage")), tree(&bench.at("trash")))
}

pub(super) async fn assert_clean(bench: &Bench) {
    assert_eq!(check(bench.at("")).await.unwrap().findings, []);
}

async fn purge(store: &Store, id: UserId) -> (u64, u64) {
    let purged = store.purge(Purge::User(id), |_| {}).await.unwrap();
    assert!(purged.left.is_empty() && purged.elsewhere == 0, "{purged:?}");
    (purged.users, purged.files)
}

async fn purge_fails(store: &Store, id: UserId) -> ErrorKind {
    kind(store.purge(Purge::User(id), |_| {}).await)
}

/// A directory with files in it, as an application brings it.
pub(super) fn brought(bench: &Bench, at: &str) -> PathBuf {
    let dir = bench.at("storage").join(at);
    fs::create_dir_all(dir.join("photos")).unwrap();
    fs::write(dir.join("photos/one.jpg"), [0xFF, 0xD8, 0, 1]).unwrap();
    fs::write(dir.join("notes.txt"), at).unwrap();
    set_mode(dir.join("photos"), 0o755);
    dir
}

async fn a_directory_is_made_on_first_use_and_private(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let bob = store.create(new_user_at("bob@example.com", "customers/north/bob")).await.unwrap();
    store.sign_in(email("cyd@example.com")).await.unwrap();
    let row = new_user_at("dan@example.com", "customers/dan");
    store.write(move |tx| tx.upsert(&row, OnConflict::Fail)).await.unwrap();
    assert_eq!(
        tree(&bench.at("storage")).into_keys().collect::<Vec<_>>(),
        [Path::new(".tenantry-store")]
    );
    assert_eq!(store.users_with_directory().await.unwrap(), []);

    for user in [&bob, &ada] {
        let files = store.directory(user.id).await.unwrap();
        files.write("notes.txt", "hello").unwrap();
        assert_eq!(files.read_to_string("notes.txt").unwrap(), "hello");
        let mut made = directory(bench, user);
        assert_eq!(fs::read(made.join("notes.txt")).unwrap(), b"hello");
        while made != bench.at("") {
            assert_eq!(mode(&made), 0o700, "{made:?}");
            made.pop();
        }
        // The next one asked for is the same.
        assert_eq!(
            store.directory(user.id).await.unwrap().read_to_string("notes.txt").unwrap(),
            "hello"
        );
    }
    assert_eq!(store.users_with_directory().await.unwrap(), [ada.id, bob.id]);
    assert_eq!(store.get(ada.id).await.unwrap(), Some(ada));
    assert_eq!(kind(store.directory(numbered_id(9_999)).await), ErrorKind::NotFound);
    assert_clean(bench).await;
}

async fn nothing_leaves_a_directory_through_its_handle(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    let bob = with_file_at(store, "bob@example.com", "bob").await;
    let files = store.directory(bob.id).await.unwrap();
    let ways_out = [
        format!("../{}/whose.txt", ada.storage_path),
        "../.tenantry-store".to_owned(),
        "/etc/passwd".into(),
    ];
    for way_out in &ways_out {
        symlink(way_out, directory(bench, &bob).join("link")).unwrap();
        for way in [way_out.as_str(), "link"] {
            assert!(files.read(way).is_err(), "{way}");
            assert!(files.open(way).is_err(), "{way}");
            assert!(files.write(way, "x").is_err(), "{way}");
        }
        fs::remove_file(directory(bench, &bob).join("link")).unwrap();
    }
    assert!(files.open_dir("..").is_err());
    assert_has_file(store, &ada).await;
    assert_clean(bench).await;
}

async fn a_directory_that_exists_at_a_chosen_path_is_blocked_until_it_is_adopted(
    bench: &mut Bench,
) {
    let store = &bench.store;
    let ada = store.create(new_user_at("ada@example.com", "customers/ada")).await.unwrap();
    fs::create_dir_all(directory(bench, &ada)).unwrap();
    fs::write(directory(bench, &ada).join("old.txt"), "old").unwrap();
    let before = state(bench).await;
    for _ in 0..2 {
        assert_eq!(kind(store.directory(ada.id).await), ErrorKind::StorageBlocked);
        assert_eq!(kind(store.directory_path(ada.id).await), ErrorKind::StorageBlocked);
    }
    assert_eq!(state(bench).await, before);
    // It is the user's path already: nothing about the user changes.
    for _ in 0..2 {
        assert_eq!(store.adopt(ada.id, path("customers/ada")).await.unwrap(), ada);
        assert_eq!(
            store.directory(ada.id).await.unwrap().read_to_string("old.txt").unwrap(),
            "old"
        );
    }
    assert_clean(bench).await;
}

async fn the_path_of_a_directory_is_where_its_files_are(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let bob = store.create(new_user_at("bob@example.com", "b\u{f6}b/with space")).await.unwrap();
    for user in [&ada, &bob] {
        assert_eq!(store.directory_path(user.id).await.unwrap(), directory(bench, user));
        write_file(store, user).await;
        assert_eq!(
            fs::read_to_string(directory(bench, user).join("whose.txt")).unwrap(),
            user.id.to_string()
        );
    }
    assert_eq!(kind(store.directory_path(numbered_id(9_999)).await), ErrorKind::NotFound);
    store.delete(ada.id).await.unwrap();
    assert_eq!(kind(store.directory_path(ada.id).await), ErrorKind::NotFound);
    fs::remove_dir_all(directory(bench, &bob)).unwrap();
    assert_eq!(kind(store.directory(bob.id).await), ErrorKind::StorageLost);
    assert_eq!(kind(store.directory_path(bob.id).await), ErrorKind::StorageLost);
}

async fn a_deleted_user_leaves_the_address_and_keeps_id_path_and_files(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file_at(store, "ada@example.com", "customers/ada/files").await;
    let bob = create(store, "bob@example.com").await;
    let files = store.directory(ada.id).await.unwrap();
    for user in [&ada, &bob] {
        assert_eq!(&store.delete(user.id).await.unwrap(), user);
        assert_eq!(kind(store.delete(user.id).await), ErrorKind::NotFound);
        assert_eq!(kind(store.directory(user.id).await), ErrorKind::NotFound);
        assert_eq!(kind(store.adopt(user.id, path("elsewhere")).await), ErrorKind::NotFound);
        assert_eq!(store.get(user.id).await.unwrap(), None);
    }
    assert!(!directory(bench, &ada).exists() && !in_trash(bench, &bob).exists());
    assert_eq!(
        fs::read_to_string(in_trash(bench, &ada).join("whose.txt")).unwrap(),
        ada.id.to_string()
    );
    // A handle from before goes with the directory.
    files.write("late.txt", "late").unwrap();
    assert!(in_trash(bench, &ada).join("late.txt").exists());

    for taken in ["customers/ada/files", "customers/ada/files/x", "customers/ada", "customers"] {
        assert_eq!(
            kind(store.create(new_user_at("cyd@example.com", taken)).await),
            ErrorKind::PathTaken,
            "{taken}"
        );
    }
    for gone in [&ada, &bob] {
        let twin = NewUser { id: Some(gone.id), ..new_user("cyd@example.com") };
        assert_eq!(kind(store.create(twin).await), ErrorKind::IdTaken);
        let heir = create(store, gone.email.as_str()).await;
        assert_ne!(heir.id, gone.id);
    }
    assert_clean(bench).await;
}

async fn the_trash_is_listed_in_the_order_of_deletion(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut expected = Vec::new();
    let mut users = Vec::new();
    for number in 0..7 {
        users.push(create(store, &format!("u{number}@example.com")).await);
    }
    for (at, index) in [3, 0, 6, 1, 5].into_iter().enumerate() {
        // The clock goes back once: the order stays that of deletion.
        let deleted_at = if at == 2 { clock.back(100) } else { clock.forward(10) };
        let user = store.delete(users[index].id).await.unwrap();
        expected.push((user, deleted_at));
    }
    let listed = |users: &[TrashedUser]| -> Vec<_> {
        assert!(users.iter().all(|trashed| !trashed.is_being_purged));
        users.iter().map(|trashed| (trashed.user.clone(), trashed.deleted_at)).collect()
    };
    assert_eq!(listed(&trash(store).await), expected);

    let mut query = TrashQuery { limit: 2, ..TrashQuery::default() };
    let mut paged = Vec::new();
    for size in [2, 2, 1] {
        let page = store.list_trash(&query).await.unwrap();
        assert_eq!(page.users.len(), size);
        paged.extend(listed(&page.users));
        query.cursor = page.next_cursor;
    }
    assert_eq!((query.cursor, paged), (None, expected.clone()));
    // A page that is just full is the last.
    assert_eq!(
        store.list_trash(&TrashQuery { limit: 5, ..query.clone() }).await.unwrap().next_cursor,
        None
    );

    let moment = expected[0].1;
    let before = TrashQuery { deleted_before: Some(moment), ..TrashQuery::default() };
    let earlier: Vec<_> =
        expected.iter().filter(|(_, deleted_at)| *deleted_at < moment).cloned().collect();
    assert_eq!(earlier.len(), 3);
    assert_eq!(listed(&store.list_trash(&before).await.unwrap().users), earlier);
    for limit in [0, ListQuery::MAX_LIMIT + 1] {
        assert_eq!(
            kind(store.list_trash(&TrashQuery { limit, ..before.clone() }).await),
            ErrorKind::InvalidQuery
        );
    }

    let (trashed, living) = (expected[4].clone(), users[2].id);
    let seen = store
        .read(move |tx| Ok::<_, Error>((tx.get_trashed(trashed.0.id)?, tx.get_trashed(living)?)))
        .await;
    let (seen, nobody) = seen.unwrap();
    assert_eq!((listed(&[seen.unwrap()]), nobody), (vec![expected[4].clone()], None));
}

async fn a_restored_user_is_who_they_were_with_every_file(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let ada = with_file(store, "Ada@example.com").await;
    let bob = with_file_at(store, "bob@example.com", "customers/bob").await;
    let cyd = create(store, "cyd@example.com").await;
    let dan = create(store, "dan@example.com").await;
    clock.forward(60);
    store.update(bob.id, to_email("Bob@example.com")).await.unwrap();
    store.record_login(bob.id).await.unwrap();
    let before = all(store, ListQuery::default()).await;
    let files = tree(&bench.at("storage"));

    for user in [&cyd, &bob, &ada] {
        bench.clock.forward(60);
        bench.store.delete(user.id).await.unwrap();
    }
    assert_eq!(all(&bench.store, ListQuery::default()).await, [dan]);
    bench.reopen().await;
    let store = &bench.store;
    for (index, user) in [&ada, &bob, &cyd].into_iter().enumerate() {
        bench.clock.forward(60);
        assert_eq!(store.restore(user.id, None).await.unwrap(), before[index]);
        assert_eq!(kind(store.restore(user.id, None).await), ErrorKind::NotFound);
    }
    assert_eq!(all(store, ListQuery::default()).await, before);
    assert_eq!(trash(store).await, []);
    assert_eq!(tree(&bench.at("storage")), files);
    assert_eq!(kind(store.restore(numbered_id(9_999), None).await), ErrorKind::NotFound);
    // And so they are anew what they were: with an address of their own, and to be deleted.
    assert_eq!(kind(store.create(new_user("bob@example.com")).await), ErrorKind::EmailTaken);
    store.delete(bob.id).await.unwrap();
    assert_clean(bench).await;
}

async fn a_restore_is_refused_if_the_address_is_taken_and_takes_another(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    store.delete(ada.id).await.unwrap();
    let heir = create(store, "ADA@example.com").await;
    let other = create(store, "other@example.com").await;
    let before = state(bench).await;
    for (address, taken_by) in [(None, heir.id), (Some("Other@example.com"), other.id)] {
        let error = store.restore(ada.id, address.map(email)).await.unwrap_err();
        assert_eq!((error.kind(), error.taken_by()), (ErrorKind::EmailTaken, Some(taken_by)));
    }
    assert_eq!(state(bench).await, before);

    let now = bench.clock.forward(60);
    let expected = changed(&ada, |user| {
        (user.email, user.updated_at, user.version) = (email("Lovelace@example.com"), now, 2);
    });
    assert_eq!(store.restore(ada.id, Some(email("Lovelace@example.com"))).await.unwrap(), expected);
    assert_eq!(all(store, ListQuery::default()).await, [expected.clone(), heir, other]);
    assert_has_file(store, &ada).await;
    // The address that they have is no change.
    store.delete(ada.id).await.unwrap();
    assert_eq!(store.restore(ada.id, Some(expected.email.clone())).await.unwrap(), expected);
    assert_clean(bench).await;
}

async fn a_restore_is_refused_if_something_exists_at_the_path(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file_at(store, "ada@example.com", "customers/ada").await;
    store.delete(ada.id).await.unwrap();
    let place = directory(bench, &ada);
    let plants: [&dyn Fn(); 3] = [
        &|| fs::create_dir(&place).unwrap(),
        &|| fs::write(&place, "in the way").unwrap(),
        &|| symlink("nowhere", &place).unwrap(),
    ];
    for plant in plants {
        plant();
        let before = state(bench).await;
        assert_eq!(kind(store.restore(ada.id, None).await), ErrorKind::StorageBlocked);
        assert_eq!(state(bench).await, before);
        fs::remove_file(&place).or_else(|_| fs::remove_dir(&place)).unwrap();
    }
    store.restore(ada.id, None).await.unwrap();
    assert_has_file(store, &ada).await;

    // The same the other way round: something is in the user's place in the trash.
    fs::create_dir(in_trash(bench, &ada)).unwrap();
    let before = state(bench).await;
    assert_eq!(kind(store.delete(ada.id).await), ErrorKind::StorageBlocked);
    assert_eq!(state(bench).await, before);
}

async fn a_purge_leaves_nothing_but_the_id_and_the_path_taken(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file_at(store, "ada@example.com", "customers/ada/files").await;
    let bob = create(store, "bob@example.com").await;
    let cyd = with_file(store, "cyd@example.com").await;
    let files = store.directory(ada.id).await.unwrap();
    files.create_dir_all("a/b/c").unwrap();
    files.write("a/b/c/deep.txt", "deep").unwrap();
    symlink(directory(bench, &cyd), directory(bench, &ada).join("a/link")).unwrap();
    drop(files);

    for nobody in [ada.id, bob.id, numbered_id(9_999)] {
        assert_eq!(purge_fails(store, nobody).await, ErrorKind::NotFound);
    }
    assert_has_file(store, &ada).await;
    for user in [&ada, &bob, &cyd] {
        store.delete(user.id).await.unwrap();
    }
    assert_eq!(purge(store, ada.id).await, (1, 3));
    assert_eq!(purge(store, bob.id).await, (1, 0));
    assert!(!in_trash(bench, &ada).exists());
    // Not what a link led to.
    assert!(in_trash(bench, &cyd).join("whose.txt").exists());
    assert_eq!(
        trash(store).await.into_iter().map(|trashed| trashed.user).collect::<Vec<_>>(),
        [cyd]
    );

    for is_reopened in [false, true] {
        if is_reopened {
            bench.reopen().await;
        }
        let store = &bench.store;
        for gone in [&ada, &bob] {
            assert_eq!(kind(store.restore(gone.id, None).await), ErrorKind::NotFound);
            assert_eq!(purge_fails(store, gone.id).await, ErrorKind::NotFound);
            let twin = NewUser { id: Some(gone.id), ..new_user("twin@example.com") };
            assert_eq!(kind(store.create(twin).await), ErrorKind::IdTaken);
        }
        for taken in
            ["customers/ada/files", "customers/ada/files/x/y", "customers/ada", "customers"]
        {
            let twin = new_user_at("twin@example.com", taken);
            assert_eq!(kind(store.create(twin).await), ErrorKind::PathTaken, "{taken}");
        }
        fs::create_dir_all(bench.at("storage/customers/ada/files")).unwrap();
        let eve = create(store, &format!("eve{is_reopened}@example.com")).await;
        assert_eq!(
            kind(store.adopt(eve.id, path("customers/ada/files")).await),
            ErrorKind::PathTaken
        );
        fs::remove_dir(bench.at("storage/customers/ada/files")).unwrap();
        let beside = format!("customers/ada/files{is_reopened}");
        store
            .create(new_user_at(&format!("beside{is_reopened}@example.com"), &beside))
            .await
            .unwrap();
    }
    // The address is as free as ever.
    create(&bench.store, "ada@example.com").await;
    set_mode(bench.at("storage/customers/ada"), 0o700);
    set_mode(bench.at("storage/customers"), 0o700);
    assert_clean(bench).await;
}

async fn a_purge_by_time_destroys_the_users_deleted_before(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut users = Vec::new();
    for number in 0..6 {
        let address = format!("u{number}@example.com");
        users.push(if number % 2 == 0 {
            with_file(store, &address).await
        } else {
            create(store, &address).await
        });
    }
    let mut moment = clock.now();
    for (index, user) in users[..5].iter().enumerate() {
        let now = clock.forward(10);
        store.delete(user.id).await.unwrap();
        if index == 3 {
            moment = now;
        }
    }
    store.restore(users[1].id, None).await.unwrap();
    let purged = store.purge(Purge::DeletedBefore(moment), |_| {}).await.unwrap();
    assert_eq!((purged.users, purged.files, purged.elsewhere, purged.left.len()), (2, 2, 0, 0));
    let left: Vec<UserId> = trash(store).await.iter().map(|trashed| trashed.user.id).collect();
    assert_eq!(left, [users[3].id, users[4].id]);
    let purged = store.purge(Purge::DeletedBefore(moment), |_| {}).await.unwrap();
    assert_eq!((purged.users, purged.files), (0, 0));
    assert_eq!(store.count().await.unwrap(), 2);
    assert_has_file(store, &store.restore(users[4].id, None).await.unwrap()).await;

    // More than a page of them.
    let many = (0..ListQuery::MAX_LIMIT + 5)
        .map(|number| new_user(&format!("many{number}@example.com")))
        .collect();
    let many: Vec<UserId> = store
        .create_many(many)
        .await
        .unwrap()
        .into_iter()
        .map(|created| created.unwrap().id)
        .collect();
    store.write(move |tx| many.iter().try_for_each(|id| tx.delete(*id).map(drop))).await.unwrap();
    let purged = store.purge(Purge::DeletedBefore(clock.forward(10)), |_| {}).await.unwrap();
    assert_eq!((purged.users, purged.files), (ListQuery::MAX_LIMIT as u64 + 6, 0));
    assert_eq!(trash(store).await, []);
    assert_clean(bench).await;
}

async fn a_purge_says_how_far_it_is(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let files = store.directory(ada.id).await.unwrap();
    for dir in 0..5 {
        files.create_dir(format!("d{dir}")).unwrap();
        for file in 0..450 {
            files.write(format!("d{dir}/{file}"), "").unwrap();
        }
    }
    let seen = Arc::new(AtomicU64::new(0));
    let last = || {
        let seen = Arc::clone(&seen);
        move |progress: Progress| {
            assert!(
                seen.swap(progress.files, Ordering::SeqCst) < progress.files,
                "progress goes forward"
            );
        }
    };
    assert_eq!(store.measure_usage(ada.id, last()).await.unwrap().files, 2_250);
    assert_eq!(seen.swap(0, Ordering::SeqCst), 2_000);
    store.delete(ada.id).await.unwrap();
    let purged = store.purge(Purge::User(ada.id), last()).await.unwrap();
    assert_eq!((purged.users, purged.files), (1, 2_250));
    assert_eq!(seen.load(Ordering::SeqCst), 2_000);
}

async fn a_closure_cannot_move_a_directory_twice(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    let bob = create(store, "bob@example.com").await;
    let before = state(bench).await;
    let (ada_id, bob_id) = (ada.id, bob.id);
    let moved = store.write(move |tx| tx.delete(ada_id).and_then(|_| tx.restore(ada_id, None)));
    assert_eq!(kind(moved.await), ErrorKind::Unfinished);
    assert_eq!(state(bench).await, before);
    // Without a directory there is nothing to wait for.
    let restored =
        store.write(move |tx| tx.delete(bob_id).and_then(|_| tx.restore(bob_id, None))).await;
    assert_eq!(restored.unwrap(), bob);
    assert_eq!(state(bench).await, before);
    // A closure that makes do with the first half gets it.
    let halfway = store.write(move |tx| {
        tx.delete(ada_id)?;
        Ok::<_, Error>(kind(tx.restore(ada_id, None)))
    });
    assert_eq!(halfway.await.unwrap(), ErrorKind::Unfinished);
    assert!(in_trash(bench, &ada).exists());
    store.restore(ada.id, None).await.unwrap();
    assert_has_file(store, &ada).await;
    // The address can be handed over within one.
    let heir = store
        .write(move |tx| tx.delete(ada_id).and_then(|old| tx.create(&NewUser::new(old.email))))
        .await;
    assert_eq!(heir.unwrap().email, ada.email);
    assert_clean(bench).await;
}

async fn many_at_once_get_the_same_new_directory(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let blocked = BlockedWriter::block(store);
    let callers: Vec<_> = (0..100).map(|_| queued(store.directory(ada.id))).collect();
    blocked.release();
    for (number, caller) in callers.into_iter().enumerate() {
        caller.await.unwrap().write(number.to_string(), "").unwrap();
    }
    assert_eq!(fs::read_dir(directory(bench, &ada)).unwrap().count(), 100);

    // On threads, of users who are created and deleted by then or not.
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            thread::spawn(move || {
                for number in 0..25 {
                    let user = block_on(store.sign_in(email(&format!("u{number}@example.com"))))
                        .unwrap()
                        .user;
                    block_on(store.directory(user.id))
                        .unwrap()
                        .write("file", number.to_string())
                        .unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(store.users_with_directory().await.unwrap().len(), 26);
    assert_clean(bench).await;
}

async fn operations_on_the_same_user_in_one_group_happen_one_after_the_other(bench: &mut Bench) {
    let store = &bench.store;
    let new = create(store, "new@example.com").await;
    let old = with_file(store, "old@example.com").await;
    let purged = with_file(store, "purged@example.com").await;
    brought(bench, "brought");
    let blocked = BlockedWriter::block(store);
    let made = queued(store.directory(new.id));
    let deleted = queued(store.delete(new.id));
    let moves: Vec<_> = (0..6)
        .map(|turn| match turn % 2 {
            0 => queued(store.delete(old.id)),
            _ => queued(store.restore(old.id, None)),
        })
        .collect();
    let twice = [queued(store.delete(purged.id)), queued(store.delete(purged.id))];
    let purging = queued(store.purge(Purge::User(purged.id), |_| {}));
    let adopting = queued(store.adopt(old.id, path("brought")));
    blocked.release();
    // It was made and deleted before the caller comes to open it.
    assert_eq!(deleted.await.unwrap(), new);
    assert_eq!(kind(made.await), ErrorKind::NotFound);
    for moved in moves {
        assert_eq!(moved.await.unwrap(), old);
    }
    let [first, second] = twice;
    assert_eq!(first.await.unwrap(), purged);
    assert_eq!(kind(second.await), ErrorKind::NotFound);
    assert_eq!(purging.await.unwrap().files, 1);
    assert_eq!(kind(adopting.await), ErrorKind::NotEmpty);
    assert_has_file(store, &old).await;
    assert!(in_trash(bench, &new).exists() && !in_trash(bench, &purged).exists());
    fs::remove_dir_all(bench.at("storage/brought")).unwrap();
    assert_clean(bench).await;
}

async fn many_deletions_at_once_move_every_directory(bench: &mut Bench) {
    let store = &bench.store;
    let mut users = Vec::new();
    for number in 0..64 {
        users.push(with_file(store, &format!("u{number}@example.com")).await);
    }
    let blocked = BlockedWriter::block(store);
    let deletions: Vec<_> = users.iter().map(|user| queued(store.delete(user.id))).collect();
    blocked.release();
    for (deletion, user) in deletions.into_iter().zip(&users) {
        assert_eq!(&deletion.await.unwrap(), user);
        assert!(
            in_trash(bench, user).join("whose.txt").exists() && !directory(bench, user).exists()
        );
    }
    assert_eq!(
        trash(store).await.into_iter().map(|trashed| trashed.user).collect::<Vec<_>>(),
        users
    );
    assert_clean(bench).await;
}

async fn threads_that_delete_and_restore_the_same_users_never_get_in_each_others_way(
    bench: &mut Bench,
) {
    let store = &bench.store;
    let mut users = Vec::new();
    for number in 0..3 {
        users.push(with_file(store, &format!("u{number}@example.com")).await);
    }
    let barrier = Arc::new(Barrier::new(6));
    let threads: Vec<_> = (0..6_usize)
        .map(|thread| {
            let (store, users, barrier) = (store.clone(), users.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                for turn in 0..40 {
                    let user = &users[(thread + turn) % users.len()];
                    let failed = match thread % 3 {
                        0 => block_on(store.delete(user.id)).err(),
                        1 => block_on(store.restore(user.id, None)).err(),
                        _ => match block_on(store.directory(user.id)) {
                            Ok(files) => {
                                assert_eq!(
                                    files.read_to_string("whose.txt").unwrap(),
                                    user.id.to_string()
                                );
                                None
                            }
                            Err(error) => Some(error),
                        },
                    };
                    // Whoever comes late finds nobody there, and that is all that can happen.
                    if let Some(error) = failed {
                        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for trashed in trash(store).await {
        store.restore(trashed.user.id, None).await.unwrap();
    }
    assert_eq!(all(store, ListQuery::default()).await, users);
    for user in &users {
        assert_has_file(store, user).await;
    }
    assert_clean(bench).await;
}

async fn a_sign_in_with_an_address_from_the_trash_creates_a_user(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    store.delete(ada.id).await.unwrap();
    let signed_in = store.sign_in(email("Ada@example.com")).await.unwrap();
    assert!(signed_in.is_new && signed_in.user.id != ada.id);
    assert_eq!(store.directory(signed_in.user.id).await.unwrap().entries().unwrap().count(), 0);
    assert_eq!(trash(store).await[0].user, ada);
    assert_clean(bench).await;
}

async fn an_import_takes_no_id_from_the_trash(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file_at(store, "ada@example.com", "customers/ada").await;
    store.delete(ada.id).await.unwrap();
    let before = state(bench).await;
    for row in [
        NewUser { id: Some(ada.id), ..new_user("ada@example.com") },
        NewUser { id: Some(ada.id), ..new_user_at("ada@example.com", "customers/ada") },
        NewUser { id: Some(ada.id), ..new_user("other@example.com") },
    ] {
        for on_conflict in [OnConflict::Fail, OnConflict::Skip, OnConflict::Update] {
            let row = row.clone();
            let imported = store.write(move |tx| tx.upsert(&row, on_conflict)).await;
            assert!(
                matches!(kind(imported), ErrorKind::IdTaken | ErrorKind::PathTaken),
                "{on_conflict:?} has taken what is in the trash"
            );
        }
    }
    assert_eq!(state(bench).await, before);
    // Who comes with the address alone is somebody else.
    let row = new_user("ada@example.com");
    assert_eq!(
        store.write(move |tx| tx.upsert(&row, OnConflict::Update)).await.unwrap(),
        Upserted::Created
    );
    assert_eq!(trash(store).await, before.1);
    assert_clean(bench).await;
}
