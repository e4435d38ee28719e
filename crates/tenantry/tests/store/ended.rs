//! What a caller is told of an archive while it is made or read, and that the caller can end that
//! whenever asked.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tenantry::{
    BackupOptions, ErrorKind, Progress, Purge, RestoreUserOptions, Result, Store, Timestamp,
    TrashQuery, User, open_backup, restore_backup, verify_backup,
};

use crate::archives::{dir_of, noise};
use crate::support::{SqlitePlace, block_on, kind, new_user};

/// Longer than what is passed on between two questions.
const LENGTH: usize = 5 << 20;

/// A store with a user who has a large file and a small one.
fn store() -> (SqlitePlace, Store, User) {
    let place = SqlitePlace::new();
    let store = place.open();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    let of_ada = dir_of(&store, ada.id);
    fs::write(of_ada.join("large"), noise(LENGTH)).unwrap();
    fs::write(of_ada.join("small"), "small").unwrap();
    (place, store, ada)
}

/// Goes on so many times, and then no more.
fn ending_after(asked: usize) -> impl Fn(Progress) -> ControlFlow<()> + Send + 'static {
    let left = AtomicUsize::new(asked);
    move |_| match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
    {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// All that is in a directory, by its path.
fn names_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&entry.path()));
        }
        names.insert(entry.path());
    }
    names
}

/// Ends it at the first question, at the second, and so on, until there are no more. Each time
/// nothing is left of it.
fn ended_everywhere<T: Debug>(dir: &Path, attempt: impl Fn(usize) -> Result<T>) -> T {
    let before = names_below(dir);
    let mut asked = 0;
    loop {
        match attempt(asked) {
            Ok(done) => {
                assert!(
                    asked > LENGTH >> 20,
                    "asked within the large file as well, but only {asked} times"
                );
                return done;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{asked}: {error:?}"),
        }
        assert_eq!(names_below(dir), before, "{asked}");
        asked += 1;
    }
}

/// A signal had ended the command in the middle, since there was no other way, and temporary files
/// stayed.
#[test]
fn a_caller_ends_what_makes_or_reads_a_backup_and_nothing_is_left() {
    let (place, store, ada) = store();
    let dir = place.as_ref();
    let file = dir.join("a.tar.zst");
    ended_everywhere(dir, |asked| {
        block_on(store.create_backup(&file, BackupOptions::default(), ending_after(asked)))
    });
    let verified =
        ended_everywhere(dir, |asked| block_on(verify_backup(&file, ending_after(asked))));
    assert_eq!(verified.findings, []);
    let into = dir.join("new");
    ended_everywhere(dir, |asked| block_on(restore_backup(&file, &into, ending_after(asked))));
    let into = dir.join("empty");
    fs::create_dir(&into).unwrap();
    let restored =
        ended_everywhere(dir, |asked| block_on(restore_backup(&file, &into, ending_after(asked))));
    assert_eq!(restored.report.findings, []);

    block_on(store.delete(ada.id)).unwrap();
    block_on(store.purge(Purge::User(ada.id), |_| {})).unwrap();
    let options = RestoreUserOptions { even_if_purged: true, dry_run: false };
    let restored = ended_everywhere(dir, |asked| {
        let backup = block_on(open_backup(&file))?;
        block_on(store.restore_user(backup, ada.id, options, ending_after(asked)))
    });
    assert_eq!(restored.files, 2);
}

#[test]
fn a_caller_ends_an_export_and_an_import_of_a_user_and_nothing_is_left() {
    let (place, store, ada) = store();
    let dir = place.as_ref();
    let file = dir.join("ada.tar.zst");
    ended_everywhere(dir, |asked| block_on(store.export_user(ada.id, &file, ending_after(asked))));
    let other = SqlitePlace::new();
    let store = other.open();
    ended_everywhere(other.as_ref(), |asked| {
        block_on(store.import_user(&file, ending_after(asked)))
    });
    assert_eq!(fs::read(dir_of(&store, ada.id).join("large")).unwrap(), noise(LENGTH));
}

/// Like one that a crash interrupts, a purge that its caller ends can only be completed.
#[test]
fn a_caller_ends_a_purge_which_another_one_completes() {
    let (_place, store, ada) = store();
    let bob = block_on(store.create(new_user("bob@example.com"))).unwrap();
    for user in [&ada, &bob] {
        let dir = dir_of(&store, user.id).join("nested");
        fs::create_dir(&dir).unwrap();
        (0..1_000).for_each(|file| fs::write(dir.join(file.to_string()), "").unwrap());
        block_on(store.delete(user.id)).unwrap();
    }
    let everybody = Purge::DeletedBefore(Timestamp::MAX);
    // The first question comes within the first directory, the second one before the second.
    assert_eq!(kind(block_on(store.purge(everybody, ending_after(0)))), ErrorKind::Cancelled);
    let trashed = |store: &Store| {
        let page = block_on(store.list_trash(&TrashQuery::default())).unwrap();
        page.users.iter().map(|trashed| trashed.user.id).collect::<BTreeSet<_>>()
    };
    assert_eq!(trashed(&store), BTreeSet::from([ada.id, bob.id]));
    for user in [ada.id, bob.id] {
        assert_eq!(
            kind(block_on(store.restore(user, None))),
            ErrorKind::NotFound,
            "its purge has begun"
        );
    }
    let purged = block_on(store.purge(everybody, |_| {})).unwrap();
    assert_eq!((purged.users, purged.left.len()), (2, 0));
    assert_eq!(trashed(&store), BTreeSet::new());
}

#[test]
fn a_caller_ends_a_measurement_and_nothing_is_recorded() {
    let (_place, store, ada) = store();
    let dir = dir_of(&store, ada.id);
    (0..1_000).for_each(|file| fs::write(dir.join(file.to_string()), "").unwrap());
    assert_eq!(kind(block_on(store.measure_usage(ada.id, ending_after(0)))), ErrorKind::Cancelled);
    assert_eq!(block_on(store.usage(ada.id)).unwrap(), None);
    assert_eq!(block_on(store.measure_usage(ada.id, ending_after(1))).unwrap().files, 1_002);
}

/// Whoever writes into a pipe may never come, and then nothing ever asked the caller.
#[test]
fn a_caller_ends_the_wait_for_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(kind(block_on(verify_backup(&pipe, ending_after(2)))), ErrorKind::Cancelled);
    let into = dir.path().join("into");
    assert_eq!(kind(block_on(restore_backup(&pipe, &into, ending_after(2)))), ErrorKind::Cancelled);
    assert!(!into.exists());
}

/// The figures are those of whole files, and grow up to what is in the manifest.
#[test]
fn progress_reports_how_much_is_done() {
    let (place, store, _) = store();
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&told);
    let file = place.as_ref().join("a.tar.zst");
    let progress = move |Progress { files, bytes, .. }: Progress| {
        note.lock().unwrap().push((files, bytes));
        ControlFlow::Continue(())
    };
    let manifest =
        block_on(store.create_backup(file, BackupOptions::default(), progress)).unwrap().manifest;
    let told = told.lock().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(manifest.files, manifest.bytes)));
    assert!(told.len() as u64 > manifest.files, "asked within a file as well: {told:?}");
}
