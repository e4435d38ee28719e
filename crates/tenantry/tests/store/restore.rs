//! Where backups are restored and verified: directories of every kind, what others do there
//! meanwhile, and what a process leaves that is killed.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use tenantry::{ErrorKind, Progress, Store, check, restore_backup, verify_backup};

use crate::archives::{self, Forged, Forgery, names_are, pax_record, tree};
use crate::backup::{back_up, files, restore, small_store, verify};
use crate::process::{self, Process};
use crate::support::{block_on, kind, new_user, set_mode, skipped};

/// A volume that is mounted can't be replaced by a rename, nor can `.` or a link, and beside it
/// nothing may be writable.
#[test]
fn a_restore_accepts_any_empty_directory() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    back_up(&store, &file).unwrap();
    // But for the directories above that of a user in the trash, which the store leaves.
    let contents = |data_dir: &Path| {
        files(data_dir).into_iter().filter(|(_, content)| content.is_some()).collect::<Vec<_>>()
    };
    let expected = contents(&place.data_dir());
    let dir = place.as_ref().join("targets");
    let real = dir.join("real");
    fs::create_dir_all(&real).unwrap();
    set_mode(&real, 0o750);
    let inode = fs::metadata(&real).unwrap().ino();
    std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
    // Every new ext4 volume has it.
    let volume = dir.join("volume");
    fs::create_dir_all(volume.join("lost+found")).unwrap();
    for target in [dir.join("link"), volume.clone()] {
        assert_eq!(restore(&file, &target).unwrap().report.findings, []);
        assert!(contents(&target) == expected);
        assert_eq!(block_on(check(&target)).unwrap().findings, []);
    }
    let names = ["storage", "tenantry.db", "tenantry.lock", "trash"];
    names_are(&real, &names);
    names_are(&volume, &[&["lost+found"][..], &names].concat());
    let stat = fs::metadata(&real).unwrap();
    assert_eq!((stat.ino(), stat.mode() & 0o7777), (inode, 0o750));
    assert!(dir.join("link").is_symlink());

    std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
    assert_eq!(kind(restore(&file, &dir.join("dangling"))), ErrorKind::Io);
    assert!(!dir.join("nowhere").exists());
    let mixed = dir.join("mixed");
    fs::create_dir_all(mixed.join("lost+found")).unwrap();
    fs::write(mixed.join("mine"), "mine").unwrap();
    assert_eq!(kind(restore(&file, &mixed)), ErrorKind::NotEmpty);
    names_are(&mixed, &["lost+found", "mine"]);
}

#[test]
fn a_restore_needs_no_permission_on_the_parent_directory() {
    let dir = tempfile::tempdir().unwrap();
    let child =
        Process::start_without_privileges("restores in a closed place", dir.path(), dir.path(), "");
    assert_eq!(child.end(), ["it is there"]);
}

pub(crate) fn child_restores_in_a_closed_place(dir: &Path) {
    let closed = dir.join("closed");
    let target = closed.join("app");
    for dir in [&closed, &target] {
        fs::create_dir(dir).unwrap();
        set_mode(dir, 0o700);
    }
    let (_place, store, _) = small_store();
    let file = dir.join("a.tar.zst");
    back_up(&store, &file).unwrap();
    set_mode(&file, 0o600);
    set_mode(&closed, 0o500);
    assert_eq!(restore(&file, &target).unwrap().report.findings, []);
    assert_eq!(block_on(check(&target)).unwrap().findings, []);
    let error = restore(&file, &closed.join("new")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("closed/new can't be used"), "{error}");
    // Reading is another permission, of the same kind.
    set_mode(&file, 0o200);
    for error in [restore(&file, &target).unwrap_err(), verify(&file).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    set_mode(&closed, 0o700);
    process::say("it is there");
}

#[test]
fn files_that_root_restores_belong_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can give files away");
    }
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    back_up(&store, &file).unwrap();
    let target = place.as_ref().join("of somebody");
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::chown(&target, Some(1_234), Some(5_678)).unwrap();
    assert_eq!(restore(&file, &target).unwrap().report.findings, []);
    let all = tree(&target).into_keys().map(|path| target.join(path)).chain([target.clone()]);
    let others: Vec<PathBuf> = all
        .filter(|path| {
            let stat = fs::symlink_metadata(path).unwrap();
            (stat.uid(), stat.gid()) != (1_234, 5_678)
        })
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Somebody else is faster: nothing of theirs is touched, and nothing of ours is left.
#[test]
fn files_that_appear_in_the_target_during_a_restore_are_left_alone() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    back_up(&store, &file).unwrap();
    let dir = place.as_ref().join("targets");
    fs::create_dir(&dir).unwrap();
    type Faster = fn(&Path);
    let cases: [(&str, Faster, &[&str]); 4] = [
        ("file", |target| fs::write(target.join("mine"), "mine").unwrap(), &["mine"]),
        ("storage", |target| fs::create_dir(target.join("storage")).unwrap(), &["storage"]),
        (
            "database",
            |target| fs::write(target.join("tenantry.db"), "mine").unwrap(),
            &["tenantry.db"],
        ),
        (
            "store",
            |target| {
                let theirs = block_on(Store::open(target)).unwrap();
                block_on(theirs.create(new_user("theirs@example.com"))).unwrap();
                block_on(theirs.close()).unwrap();
            },
            &["storage", "tenantry.db", "tenantry.lock", "trash"],
        ),
    ];
    for (name, faster, left) in cases {
        let target = dir.join(name);
        let there = target.clone();
        let failed =
            block_on(restore_backup(&file, &target, move |Progress { files, .. }: Progress| {
                if files == 1 {
                    faster(&there);
                }
            }));
        assert_eq!(kind(failed), ErrorKind::NotEmpty, "{name}");
        names_are(&target, left);
    }
    let theirs = block_on(Store::open(dir.join("store"))).unwrap();
    assert_eq!(block_on(theirs.count()).unwrap(), 1);
    block_on(theirs.close()).unwrap();

    // Another restore.
    let target = dir.join("twice");
    let (again, there) = (file.clone(), target.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&seen);
    let restored = block_on(restore_backup(&file, &target, move |_| {
        telling.lock().unwrap().push(kind(restore(&again, &there)));
    }));
    assert_eq!(restored.unwrap().report.findings, []);
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|kind| *kind == ErrorKind::Busy), "{seen:?}");
}

/// A restore that was killed left a hidden directory beside the target, for somebody to find and to
/// remove.
#[test]
fn leftovers_of_a_killed_restore_are_removed_by_the_next_one() {
    for name in ["new", "empty"] {
        let dir = tempfile::tempdir().unwrap();
        let (_place, store, _) = small_store();
        back_up(&store, &dir.path().join("a.tar.zst")).unwrap();
        let target = dir.path().join("target");
        if name == "empty" {
            fs::create_dir(&target).unwrap();
        }
        let mut child = Process::start("is killed in a restore", dir.path(), "");
        assert_eq!(child.hear().as_deref(), Some("restoring"));
        child.kill();
        let left = archives::names(&target);
        assert!(
            left.len() == 1 && left.first().unwrap().starts_with(".tenantry-restore-"),
            "{left:?}"
        );
        assert_eq!(restore(&dir.path().join("a.tar.zst"), &target).unwrap().report.findings, []);
        names_are(&target, &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    }
}

pub(crate) fn child_is_killed_in_a_restore(dir: &Path) {
    let waiting = |Progress { files, .. }: Progress| {
        if files == 2 {
            process::say("restoring");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
    };
    block_on(restore_backup(dir.join("a.tar.zst"), dir.join("target"), waiting)).unwrap();
}

/// What was moved up already when a restore was killed isn't taken for somebody else's, and what is
/// somebody else's isn't removed.
#[test]
fn a_restore_that_was_killed_between_two_parts_is_undone_by_the_next_one() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    let id = back_up(&store, &file).unwrap().manifest.store_id;
    let parts = ["storage", "trash", "tenantry.db"];
    let killed = |target: &Path, moved: usize, id: &str| {
        restore(&file, target).unwrap();
        let stage = target.join(".tenantry-restore-killed");
        fs::create_dir_all(stage.join("data")).unwrap();
        fs::write(stage.join("parts"), format!("{id}\n{}\n", parts.join("\n"))).unwrap();
        parts[moved..]
            .iter()
            .for_each(|part| fs::rename(target.join(part), stage.join("data").join(part)).unwrap());
    };
    for moved in 0..=2 {
        let target = place.as_ref().join(moved.to_string());
        killed(&target, moved, &id.to_string());
        // Nobody makes a store of it meanwhile.
        if moved > 0 {
            assert_eq!(kind(block_on(Store::open(&target))), ErrorKind::Incompatible);
        }
        assert_eq!(restore(&file, &target).unwrap().report.findings, []);
        names_are(&target, &["storage", "tenantry.db", "tenantry.lock", "trash"]);
    }
    // The store is whole; only the stage was not removed.
    let target = place.as_ref().join("whole");
    killed(&target, 3, &id.to_string());
    assert_eq!(kind(restore(&file, &target)), ErrorKind::NotEmpty);
    assert_eq!(block_on(check(&target)).unwrap().findings, []);
    // Somebody else's.
    let target = place.as_ref().join("theirs");
    killed(&target, 2, "00000000-0000-4000-8000-000000000000");
    let before = tree(&target);
    assert_eq!(kind(restore(&file, &target)), ErrorKind::NotEmpty);
    assert!(tree(&target) == before);
    let target = place.as_ref().join("and more");
    killed(&target, 1, &id.to_string());
    fs::write(target.join("mine"), "mine").unwrap();
    let before = tree(&target);
    assert_eq!(kind(restore(&file, &target)), ErrorKind::NotEmpty);
    assert!(tree(&target) == before);
}

/// A verification made its image of the database in $TMPDIR and left it there when it was killed.
#[test]
fn nothing_is_left_of_a_verification_that_is_killed() {
    for files in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (_place, store, _) = small_store();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        back_up(&store, &dir.path().join("a.tar.zst")).unwrap();
        let shell = format!("export TMPDIR=\"$TENANTRY_TEST_DIR/tmp\" AFTER={files}");
        let mut child = Process::start("is killed in a verification", dir.path(), &shell);
        assert_eq!(child.hear().as_deref(), Some("verifying"));
        child.kill();
        names_are(&dir.path().join("tmp"), &[]);
        names_are(dir.path(), &["a.tar.zst", "tmp"]);
    }
}

pub(crate) fn child_is_killed_in_a_verification(dir: &Path) {
    let after: u64 = std::env::var("AFTER").unwrap().parse().unwrap();
    let waiting = move |Progress { files, .. }: Progress| {
        if files == after {
            process::say("verifying");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
    };
    block_on(verify_backup(dir.join("a.tar.zst"), waiting)).unwrap();
}

/// A backup that was killed left a copy of the database, and an export or a backup its unfinished
/// archive, for good.
#[test]
fn leftovers_of_a_killed_backup_or_export_are_removed_by_the_next_one_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (_place, store, ada) = small_store();
    for (role, prefix) in [("is killed in a backup", BACKUP), ("is killed in an export", EXPORT)] {
        let make = |name: &str| match prefix {
            BACKUP => drop(back_up(&store, &at(name)).unwrap()),
            _ => drop(block_on(store.export_user(ada, at(name), |_| {})).unwrap()),
        };
        let mut child = Process::start(role, dir.path(), "");
        assert_eq!(child.hear().as_deref(), Some("nearly done"));
        let unfinished = temporaries(dir.path(), prefix);
        assert!(unfinished.iter().any(|path| path.is_file()), "{unfinished:?}");
        make("beside");
        assert_eq!(
            temporaries(dir.path(), prefix),
            unfinished,
            "another process is still at work on them"
        );
        child.kill();
        assert_eq!(
            temporaries(dir.path(), prefix),
            unfinished,
            "a process that is killed can't remove them"
        );
        // They are another command's.
        fs::write(at(".tenantry-other"), "kept").unwrap();
        make("after");
        assert!(temporaries(dir.path(), prefix).is_empty());
        names_are(dir.path(), &[".tenantry-other", "after", "beside", "data"]);
        for name in [".tenantry-other", "after", "beside"] {
            fs::remove_file(at(name)).unwrap();
        }
        fs::remove_dir_all(at("data")).unwrap();
    }
}

const BACKUP: &str = ".tenantry-backup-";
const EXPORT: &str = ".tenantry-export-";

fn temporaries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let begins = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix))
    };
    let mut paths: Vec<PathBuf> = entries.filter(begins).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

pub(crate) fn child_is_killed_in_a_backup_or_export(dir: &Path, is_backup: bool) {
    let store = block_on(Store::open(dir.join("data"))).unwrap();
    let ada = block_on(store.create(new_user("ada@example.com"))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("notes.txt", "hello").unwrap();
    let (prefix, here) = (if is_backup { BACKUP } else { EXPORT }, dir.to_owned());
    // Called for the last time before the archive gets its name.
    let waiting = move |_| {
        if temporaries(&here, prefix).iter().any(|path| path.is_file()) {
            process::say("nearly done");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
        ControlFlow::Continue(())
    };
    if is_backup {
        block_on(store.create_backup(dir.join("a.tar.zst"), Default::default(), waiting)).unwrap();
    } else {
        block_on(store.export_user(ada.id, dir.join("a.tar.zst"), waiting)).unwrap();
    }
}

#[test]
fn a_verification_falls_back_to_the_directory_of_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["small", "closed"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let mount = "mount -t tmpfs -o size=8k tmpfs small && mount -t tmpfs -o size=8k tmpfs closed";
    let probe =
        Command::new("unshare").args(["-rm", "sh", "-c", mount]).current_dir(dir.path()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return skipped(
            "small disks need `unshare` and permission to mount a tmpfs in a namespace",
        );
    }
    let (_place, store, _) = small_store();
    back_up(&store, &dir.path().join("a.tar.zst")).unwrap();
    for tmp in ["small", "nowhere"] {
        let shell = format!(
            "cd \"$TENANTRY_TEST_DIR\"; export TMPDIR=\"$PWD/{tmp}\"; exec unshare -rm sh -c '{mount} && cp a.tar.zst closed/ && \
             exec \"$0\" --exact child::child_process_entry --nocapture' \"$0\""
        );
        assert_eq!(
            Process::start("verifies without room", dir.path(), &shell).end(),
            ["room is found"],
            "{tmp}"
        );
    }
}

pub(crate) fn child_verifies_without_room(dir: &Path) {
    let tmp = std::env::temp_dir();
    fs::write(tmp.join(".tenantry-image-left"), "").ok();
    assert_eq!(verify(&dir.join("a.tar.zst")).unwrap().findings, []);
    // Neither there nor beside the archive.
    let archive = dir.join("closed/a.tar.zst");
    let error = verify(&archive).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(tmp.to_str().unwrap()) && message.contains("closed"), "{message}");
    assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Io), "{error:?}");
    assert!(tmp.read_dir().map_or(0, Iterator::count) == 0);
    process::say("room is found");
}

/// ext4 says that there is no space for an attribute that XFS or tmpfs has taken. So nothing was
/// restored, for a full disk.
#[test]
fn an_attribute_that_the_file_system_cant_hold_is_reported() {
    let (place, store, _) = small_store();
    let file = place.as_ref().join("a.tar.zst");
    back_up(&store, &file).unwrap();
    let mut archive = Forged::of(&file);
    let path = format!("{}/much", archive.of_user());
    archive.push(&path, Some(b"hello"));
    let attribute =
        Forgery::pax(pax_record("SCHILY.xattr.user.much", &"x".repeat(60_000)).as_bytes());
    archive.entries.insert(archive.entries.len() - 1, attribute);
    archive.write(&file);
    let target = place.as_ref().join("restored");
    let restored = restore(&file, &target).unwrap();
    assert_eq!(restored.report.findings, []);
    assert_eq!(fs::read_to_string(target.join(&path)).unwrap(), "hello");
    let mut value = vec![0; 1 << 16];
    match rustix::fs::getxattr(target.join(&path), c"user.much", &mut value) {
        Ok(length) => assert_eq!((length, restored.incomplete), (60_000, 0)),
        Err(_) => {
            assert_eq!((restored.incomplete, restored.left_out.len()), (1, 1));
            assert_eq!(restored.left_out[0].0, Path::new(&path));
            assert!(restored.left_out[0].1.contains("user.much"), "{:?}", restored.left_out);
        }
    }
}
