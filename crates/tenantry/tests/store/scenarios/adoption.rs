//! Existing directories that are given to users, and how much the directories of users take.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::io::Errno;
use tenantry::{ErrorKind, ListQuery, Usage, UsageChange, open_dir_beneath, open_file_beneath};

use super::lifecycle::{
    assert_clean, brought, directory, in_trash, path, state, with_file, with_file_at,
};
use super::{changed, create};
use crate::support::{Bench, all, kind, mode, new_user, new_user_at, numbered_id, set_mode, tree};

scenarios! {
    an_adopted_directory_keeps_every_byte_and_becomes_private,
    a_directory_that_cannot_be_adopted_changes_nothing,
    an_adoption_leaves_no_files_behind,
    a_user_can_be_created_on_a_directory,
    usage_is_what_the_files_are_when_they_are_measured,
    usage_is_kept_until_the_user_is_purged,
    usage_is_adjusted_by_what_a_program_knows,
    a_directory_that_was_never_asked_for_is_none,
    what_is_beneath_a_directory_is_opened_without_following_a_link,
}

async fn an_adopted_directory_keeps_every_byte_and_becomes_private(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let dir = brought(bench, "customers/north/ada");
    set_mode(&dir, 0o777);
    set_mode(bench.at("storage/customers/north"), 0o500);
    let before = tree(&dir);
    let now = bench.clock.forward(60);
    let adopted = store.adopt(ada.id, path("customers/north/ada")).await.unwrap();
    let expected = changed(&ada, |user| {
        (user.storage_path, user.updated_at, user.version) = (path("customers/north/ada"), now, 2);
    });
    assert_eq!(adopted, expected);
    assert_eq!(store.get(ada.id).await.unwrap(), Some(expected.clone()));
    for made_private in ["customers", "customers/north", "customers/north/ada"] {
        assert_eq!(mode(bench.at("storage").join(made_private)), 0o700, "{made_private}");
    }
    assert_eq!(tree(&dir), before);
    assert_eq!(
        store.directory(ada.id).await.unwrap().read("photos/one.jpg").unwrap(),
        [0xFF, 0xD8, 0, 1]
    );
    assert_eq!(store.users_with_directory().await.unwrap(), [ada.id]);
    // It goes with the user from now on.
    store.delete(ada.id).await.unwrap();
    assert_eq!(tree(&in_trash(bench, &ada)), before);
    assert_eq!(store.restore(ada.id, None).await.unwrap(), expected);
    assert_clean(bench).await;
}

async fn a_directory_that_cannot_be_adopted_changes_nothing(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    let files = with_file(store, "files@example.com").await;
    let bob = with_file_at(store, "bob@example.com", "customers/bob/files").await;
    let gone = with_file_at(store, "gone@example.com", "gone/files").await;
    store.delete(gone.id).await.unwrap();
    for at in ["brought", "ab/cd", "gone/files", "customers/bob/files/below"] {
        brought(bench, at);
    }
    symlink("brought", bench.at("storage/link")).unwrap();
    fs::write(bench.at("storage/file"), "no directory").unwrap();
    let before = state(bench).await;
    for (id, at, expected) in [
        (numbered_id(9_999), "brought", ErrorKind::NotFound),
        (gone.id, "brought", ErrorKind::NotFound),
        (ada.id, "nowhere", ErrorKind::NotFound),
        (ada.id, "brought/nowhere", ErrorKind::NotFound),
        (ada.id, "ab/cd", ErrorKind::InvalidPath),
        (ada.id, ".tenantry-store", ErrorKind::InvalidPath),
        (ada.id, files.storage_path.as_str(), ErrorKind::InvalidPath),
        (ada.id, "link", ErrorKind::StorageBlocked),
        (ada.id, "link/photos", ErrorKind::StorageBlocked),
        (ada.id, "file", ErrorKind::StorageBlocked),
        (ada.id, "file/below", ErrorKind::StorageBlocked),
        (ada.id, "customers/bob/files", ErrorKind::PathTaken),
        (ada.id, "customers/bob/files/below", ErrorKind::PathTaken),
        (ada.id, "customers/bob", ErrorKind::PathTaken),
        (ada.id, "customers", ErrorKind::PathTaken),
        // Nor one that somebody in the trash had.
        (ada.id, "gone/files", ErrorKind::PathTaken),
        (ada.id, "gone/files/photos", ErrorKind::PathTaken),
        (ada.id, "gone", ErrorKind::PathTaken),
        (files.id, "brought", ErrorKind::NotEmpty),
        (bob.id, "brought", ErrorKind::NotEmpty),
        // Not even within one's own.
        (bob.id, "customers/bob/files/below", ErrorKind::PathTaken),
    ] {
        assert_eq!(kind(store.adopt(id, path(at)).await), expected, "{at}");
        assert_eq!(state(bench).await, before, "{at}");
    }
    let adopted = store.adopt(ada.id, path("brought")).await.unwrap();
    assert_eq!(adopted.version, 2);
}

async fn an_adoption_leaves_no_files_behind(bench: &mut Bench) {
    let store = &bench.store;
    let derived = create(store, "derived@example.com").await;
    let chosen = store.create(new_user_at("chosen@example.com", "old/place")).await.unwrap();
    for user in [&derived, &chosen] {
        store.directory(user.id).await.unwrap();
    }
    for (user, at) in [(&derived, "new/derived"), (&chosen, "new/chosen")] {
        brought(bench, at);
        store.adopt(user.id, path(at)).await.unwrap();
        assert!(!directory(bench, user).exists());
        assert_eq!(
            store.directory(user.id).await.unwrap().read_to_string("notes.txt").unwrap(),
            at
        );
    }
    for is_reopened in [false, true] {
        if is_reopened {
            bench.reopen().await;
        }
        for taken in ["old/place", "old/place/x", "old"] {
            let other = new_user_at("other@example.com", taken);
            assert_eq!(kind(bench.store.create(other).await), ErrorKind::PathTaken, "{taken}");
        }
    }
    // Also of one who never had a directory there.
    let store = &bench.store;
    let never = store.create(new_user_at("never@example.com", "never/made")).await.unwrap();
    brought(bench, "new/never");
    store.adopt(never.id, path("new/never")).await.unwrap();
    assert_eq!(
        kind(store.create(new_user_at("other@example.com", "never/made")).await),
        ErrorKind::PathTaken
    );
    assert!(!bench.at("quarantine").exists());
    assert_clean(bench).await;
}

async fn a_user_can_be_created_on_a_directory(bench: &mut Bench) {
    let store = &bench.store;
    let create_on = async |address: &str, at: &str| {
        let (new, at) = (new_user(address), path(at));
        store
            .write(move |tx| {
                let user = tx.create(&new)?;
                tx.adopt(user.id, &at)
            })
            .await
    };
    let dir = brought(bench, "customers/ada");
    let before = tree(&dir);
    assert_eq!(kind(create_on("ada@example.com", "customers/nobody").await), ErrorKind::NotFound);
    assert_eq!(store.count().await.unwrap(), 0);
    let ada = create_on("ada@example.com", "customers/ada").await.unwrap();
    assert_eq!((ada.storage_path.as_str(), ada.version), ("customers/ada", 2));
    assert_eq!(tree(&dir), before);
    assert_eq!(kind(create_on("bob@example.com", "customers/ada").await), ErrorKind::PathTaken);
    assert_eq!(all(store, ListQuery::default()).await, [ada]);
    assert_clean(bench).await;
}

/// What `du` would say: files but one for each inode, their lengths, and the blocks of everything.
fn measured(dir: &Path) -> (u64, u64, u64) {
    let mut met = BTreeMap::new();
    let mut allocated = fs::metadata(dir).unwrap().blocks() * 512;
    for name in tree(dir).into_keys() {
        let found = fs::symlink_metadata(dir.join(name)).unwrap();
        if found.is_dir() {
            allocated += found.blocks() * 512;
        } else {
            met.insert(found.ino(), (found.len(), found.blocks() * 512));
        }
    }
    let lengths = met.values().map(|(length, _)| length).sum();
    (met.len() as u64, lengths, allocated + met.values().map(|(_, blocks)| blocks).sum::<u64>())
}

async fn usage_is_what_the_files_are_when_they_are_measured(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    let files = store.directory(ada.id).await.unwrap();
    files.create_dir_all("a/b").unwrap();
    files.write("a/b/large", vec![7; 100_000]).unwrap();
    files.hard_link("a/b/large", &files, "again").unwrap();
    files.symlink("a/b/large", "link").unwrap();
    files.create("sparse").unwrap().set_len(1 << 30).unwrap();

    let now = bench.clock.forward(60);
    let usage = store.measure_usage(ada.id, |_| {}).await.unwrap();
    assert_eq!(
        (usage.files, usage.apparent_bytes, usage.allocated_bytes),
        measured(&directory(bench, &ada))
    );
    assert_eq!((usage.files, usage.apparent_bytes), (4, 36 + 100_000 + 9 + (1 << 30)));
    assert!((100_000..1 << 30).contains(&usage.allocated_bytes), "{usage:?}");
    assert_eq!((usage.unreadable, usage.measured_at), (0, now));
    // As it was measured, however old that is.
    bench.clock.forward(60);
    files.remove_file("sparse").unwrap();
    assert_eq!(store.usage(ada.id).await.unwrap(), Some(usage));
    assert_eq!(store.measure_usage(ada.id, |_| {}).await.unwrap().files, 3);
}

async fn usage_is_kept_until_the_user_is_purged(bench: &mut Bench) {
    let store = &bench.store;
    let mut sized = Vec::new();
    for (address, size) in
        [("mid@example.com", 50_000), ("top@example.com", 500_000), ("small@example.com", 10)]
    {
        let user = create(store, address).await;
        store.directory(user.id).await.unwrap().write("file", vec![1; size]).unwrap();
        assert_eq!(store.usage(user.id).await.unwrap(), None);
        let usage = store.measure_usage(user.id, |_| {}).await.unwrap();
        sized.push((user, usage));
    }
    let empty = create(store, "empty@example.com").await;
    let nothing: Usage = store.measure_usage(empty.id, |_| {}).await.unwrap();
    assert_eq!((nothing.files, nothing.apparent_bytes, nothing.allocated_bytes), (0, 0, 0));
    let [mid, top, small] = <[_; 3]>::try_from(sized).unwrap();
    assert_eq!(store.top_usage(2).await.unwrap(), [top.clone(), mid.clone()]);
    assert_eq!(store.users_with_directory().await.unwrap(), [mid.0.id, top.0.id, small.0.id]);

    store.delete(top.0.id).await.unwrap();
    assert_eq!(store.usage(top.0.id).await.unwrap(), None);
    assert_eq!(store.top_usage(9).await.unwrap(), [mid, small.clone(), (empty, nothing)]);
    assert_eq!(kind(store.measure_usage(top.0.id, |_| {}).await), ErrorKind::NotFound);
    store.restore(top.0.id, None).await.unwrap();
    assert_eq!(store.usage(top.0.id).await.unwrap(), Some(top.1));
    assert_eq!(store.usage(numbered_id(9_999)).await.unwrap(), None);
    fs::remove_dir_all(directory(bench, &small.0)).unwrap();
    assert_eq!(kind(store.measure_usage(small.0.id, |_| {}).await), ErrorKind::StorageLost);
}

async fn usage_is_adjusted_by_what_a_program_knows(bench: &mut Bench) {
    let store = &bench.store;
    let ada = with_file(store, "ada@example.com").await;
    let change = |files, apparent_bytes| UsageChange { files, apparent_bytes, allocated_bytes: 0 };
    assert_eq!(store.adjust_usage(ada.id, change(1, 5)).await.unwrap(), None);
    assert_eq!(store.usage(ada.id).await.unwrap(), None);
    let measured = store.measure_usage(ada.id, |_| {}).await.unwrap();
    let added = store.adjust_usage(ada.id, change(2, 500)).await.unwrap().unwrap();
    let sum = (measured.files + 2, measured.apparent_bytes + 500, measured.measured_at);
    assert_eq!((added.files, added.apparent_bytes, added.measured_at), sum);
    assert_eq!(store.usage(ada.id).await.unwrap(), Some(added));
    // Never below nothing, whatever others removed.
    let removed = store.adjust_usage(ada.id, change(i64::MIN, i64::MIN)).await.unwrap().unwrap();
    assert_eq!((removed.files, removed.apparent_bytes), (0, 0));
    store.delete(ada.id).await.unwrap();
    assert_eq!(store.adjust_usage(ada.id, change(1, 5)).await.unwrap(), None);
}

async fn a_directory_that_was_never_asked_for_is_none(bench: &mut Bench) {
    let store = &bench.store;
    let ada = create(store, "ada@example.com").await;
    assert!(store.existing_directory(ada.id).await.unwrap().is_none());
    assert_eq!(store.users_with_directory().await.unwrap(), []);
    store.directory(ada.id).await.unwrap().write("notes.txt", "hello").unwrap();
    let existing = store.existing_directory(ada.id).await.unwrap().unwrap();
    assert_eq!(existing.read_to_string("notes.txt").unwrap(), "hello");
    store.delete(ada.id).await.unwrap();
    assert_eq!(store.existing_directory(ada.id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn what_is_beneath_a_directory_is_opened_without_following_a_link(bench: &mut Bench) {
    let ada = with_file(&bench.store, "ada@example.com").await;
    let files = bench.store.directory(ada.id).await.unwrap();
    files.create_dir_all("a/b").unwrap();
    files.write("a/b/notes.txt", "hello").unwrap();
    files.symlink("a", "link").unwrap();
    files.symlink("a/b/notes.txt", "alias").unwrap();
    assert_eq!(
        open_dir_beneath(&files, "a/b").unwrap().read_to_string("notes.txt").unwrap(),
        "hello"
    );
    let mut text = String::new();
    open_file_beneath(&files, "a/b/notes.txt").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let code = |error: std::io::Error| error.raw_os_error().unwrap();
    for path in ["link", "link/b"] {
        assert_eq!(
            code(open_dir_beneath(&files, path).unwrap_err()),
            Errno::LOOP.raw_os_error(),
            "{path}"
        );
    }
    for path in ["alias", "link/b/notes.txt"] {
        assert_eq!(
            code(open_file_beneath(&files, path).unwrap_err()),
            Errno::LOOP.raw_os_error(),
            "{path}"
        );
    }
    for path in ["..", "/", "a/../../.."] {
        assert_eq!(
            code(open_dir_beneath(&files, path).unwrap_err()),
            Errno::XDEV.raw_os_error(),
            "{path}"
        );
    }
}
