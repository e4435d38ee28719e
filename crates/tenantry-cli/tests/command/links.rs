use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Session, decode, missing};

/// Lists a directory, with the targets of links.
fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            format!("{} {:?}", path.file_name().unwrap().display(), std::fs::read_link(&path).ok())
        })
        .collect();
    names.sort();
    names
}

/// A link to a volume that wasn't mounted was replaced by a new store.
#[test]
fn no_store_is_created_beside_a_symbolic_link_and_the_message_names_it() {
    for name in [
        "tenantry.db",
        "tenantry.lock",
        "tenantry.db-wal",
        "tenantry.db-shm",
        "storage",
        "trash",
        "quarantine",
    ] {
        for target in ["nowhere", "a-file", "a-directory"] {
            let session = Session::new();
            std::fs::create_dir(session.path("data")).unwrap();
            std::fs::create_dir(session.path("a-directory")).unwrap();
            session.write("a-file", "");
            symlink(session.path(target), session.path("data").join(name)).unwrap();
            let before = (
                listed(session.dir.path()),
                listed(&session.path("data")),
                listed(&session.path("a-directory")),
            );
            for command in [
                &["user", "create", "ada@example.com"][..],
                &["user", "login", "ada@example.com", "--create"],
            ] {
                let (code, _, stderr) = session.run(command);
                assert_eq!(code, 7, "{name} to {target}: {stderr}");
                assert!(
                    stderr.contains(&format!("{name} is a symbolic link")),
                    "{name} to {target}: {stderr}"
                );
            }
            let after = (
                listed(session.dir.path()),
                listed(&session.path("data")),
                listed(&session.path("a-directory")),
            );
            assert_eq!(after, before, "{name} to {target}");
            assert_eq!(std::fs::read(session.path("a-file")).unwrap(), b"");
        }
    }
}

#[test]
fn a_dangling_symlink_as_data_directory_is_refused_and_one_to_a_directory_is_followed() {
    let session = Session::new();
    symlink("volume", session.path("data")).unwrap();
    let (code, _, stderr) = session.run(&["user", "create", "ada@example.com"]);
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("the data directory is a symbolic link"), "{stderr}");
    assert!(!session.path("volume").exists());
    std::fs::create_dir(session.path("volume")).unwrap();
    session.output(&["user", "create", "ada@example.com"]);
    assert!(session.path("volume/tenantry.db").is_file());
}

#[test]
fn no_store_is_created_where_a_file_or_a_pipe_has_one_of_its_names() {
    for name in ["storage", "trash", "quarantine"] {
        let session = Session::new();
        std::fs::create_dir(session.path("data")).unwrap();
        session.write(&format!("data/{name}"), "mine");
        let (code, _, stderr) = session.run(&["user", "create", "ada@example.com"]);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains(&format!("{name} isn't a directory")), "{stderr}");
        assert_eq!(listed(&session.path("data")), [format!("{name} None")]);
    }
    // The pipe has no reader.
    let session = Session::new();
    let made = session
        .in_dir("sh")
        .args(["-c", "mkdir data; mkfifo data/tenantry.lock"])
        .output()
        .unwrap();
    assert!(made.status.success());
    let (code, _, stderr) = session.run(&["user", "create", "ada@example.com"]);
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("tenantry.lock is not a file"), "{stderr}");
}

/// A store with a user who has a directory.
fn store() -> Session {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    session.output(&["storage", "path", "ada@example.com"]);
    session
}

/// A link to where the users' directories were moved was said to be missing, or a disk that isn't
/// mounted.
#[test]
fn a_file_in_place_of_storage_or_trash_is_named_and_left_alone() {
    for name in ["storage", "trash"] {
        let session = store();
        std::fs::rename(session.path("data").join(name), session.path("moved")).unwrap();
        session.write(&format!("data/{name}"), "mine");
        let (code, _, stderr) = session.run(&["storage", "path", "ada@example.com"]);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains(&format!("{name} isn't a directory")), "{stderr}");
        assert_eq!(std::fs::read(session.path("data").join(name)).unwrap(), b"mine");
        session.output(&["user", "get", "ada@example.com"]);
    }
}

#[test]
fn a_symbolic_link_in_place_of_storage_or_trash_is_a_finding() {
    for name in ["storage", "trash"] {
        let session = store();
        std::fs::rename(session.path("data").join(name), session.path("moved")).unwrap();
        symlink(session.path("moved"), session.path("data").join(name)).unwrap();
        let (code, found, _) = session.run(&["check"]);
        assert_eq!(code, 1, "{found}");
        assert!(found.contains(&format!("{name} is a symbolic link")), "{found}");
        let (code, _, stderr) = session.run(&["storage", "path", "ada@example.com"]);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains(&format!("{name} is a symbolic link")), "{stderr}");
        let (code, ..) = session.run(&["check", "--repair"]);
        assert_eq!(code, 7);
        assert!(session.path("data").join(name).is_symlink());
        // Commands that only need rows still work.
        session.output(&["user", "get", "ada@example.com"]);
    }
    let session = store();
    symlink("/", session.path("data/quarantine")).unwrap();
    let (code, found, _) = session.run(&["check"]);
    assert_eq!(code, 1, "{found}");
    assert!(found.contains("a symbolic link") && found.contains("quarantine"), "{found}");
}

/// With the same directory mounted over `storage/` all was said to be well, though no user could be
/// deleted.
#[test]
fn a_mount_on_storage_or_trash_is_a_finding() {
    for name in ["storage", "trash"] {
        let session = store();
        let script = format!(
            "cp -a data/{name} copy && mount --bind copy data/{name} || exit 99
             tenantry check; echo $?; tenantry storage path ada@example.com; echo $?"
        );
        let output =
            session.in_dir("unshare").args(["-rm", "sh", "-c", &script]).output().map(decode);
        let Some((0, stdout, stderr)) = output.ok().filter(|(code, ..)| *code != 99) else {
            return missing("a mount needs `unshare` and permission to mount in a namespace");
        };
        let lines: Vec<&str> = stdout.lines().collect();
        assert!(
            lines[0].contains("path_blocked")
                && lines[0].contains("a file system is mounted on it"),
            "{stdout}"
        );
        assert!(lines[0].contains(&format!("\"{name}\"")), "{stdout}");
        assert_eq!(lines[1..], ["1", "7"], "{stderr}");
        // Without it nothing is wrong.
        session.output(&["check"]);
    }
}
