//! Systems that refuse the calls with which directories are opened and moved in one step: the
//! filter of a service that systemd hardens (`RestrictSUIDSGID=`, `DynamicUser=`), and file systems
//! such as bindfs and mergerfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tenantry::{ErrorKind, Purge, Store, UserId, check};

use crate::process::{self, Process};
use crate::support::{SqlitePlace, block_on, has_strace, kind, new_user, new_user_at, skipped};

const REFUSALS: [&[&str]; 4] = [
    &["openat2:error=ENOSYS"],
    &["openat2:error=EPERM"],
    &["renameat2:error=EINVAL"],
    &["openat2:error=ENOSYS", "renameat2:error=EINVAL"],
];

/// The beginning of a command that runs another one to which these calls are refused.
fn refusing(calls: &[&str]) -> Vec<String> {
    let names: Vec<_> = calls.iter().map(|call| call.split(':').next().unwrap()).collect();
    let trace = format!("trace={}", names.join(","));
    let mut words = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", &trace]
        .map(str::to_owned)
        .to_vec();
    words.extend(calls.iter().flat_map(|call| ["-e".to_owned(), format!("inject={call}")]));
    words
}

#[test]
fn everything_works_where_the_calls_in_one_step_are_refused() {
    if !has_strace() {
        return skipped(
            "refused system calls need `strace`, which changes what the system answers",
        );
    }
    for calls in REFUSALS {
        let place = SqlitePlace::new();
        let strace = refusing(calls).join(" ");
        let shell = format!("exec {strace} \"$0\" --exact child::child_process_entry --nocapture");
        let child = Process::start("is refused calls", &place.data_dir(), &shell);
        assert_eq!(child.end(), ["all worked"], "{calls:?}");
        // What was left is as good where nothing is refused.
        let report = block_on(check(place.data_dir())).unwrap();
        assert_eq!(report.findings, [], "{calls:?}");
    }
}

pub(crate) fn child_is_refused_calls(data_dir: &Path) {
    let store = block_on(Store::open(data_dir)).unwrap();
    let make = |email: &str, path: Option<&str>| -> UserId {
        let new = path.map_or_else(|| new_user(email), |path| new_user_at(email, path));
        let id = block_on(store.create(new)).unwrap().id;
        let dir = block_on(store.directory(id)).unwrap();
        dir.create_dir_all("letters/old").unwrap();
        dir.write("letters/old/notes.txt", email).unwrap();
        assert!(dir.open("../../../tenantry.db").is_err());
        id
    };
    for (name, path) in [("ada", None), ("bob", Some("customers/bob"))] {
        let email = format!("{name}@example.com");
        let id = make(&email, path);
        let dir = block_on(store.directory_path(id)).unwrap();
        block_on(store.delete(id)).unwrap();
        assert!(!dir.exists());
        assert!(data_dir.join("trash").join(id.to_string()).join("letters/old/notes.txt").exists());
        // What somebody put in the way isn't replaced, though it is empty.
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(kind(block_on(store.restore(id, None))), ErrorKind::StorageBlocked);
        fs::remove_dir(&dir).unwrap();
        block_on(store.restore(id, None)).unwrap();
        assert_eq!(fs::read_to_string(dir.join("letters/old/notes.txt")).unwrap(), email);
        block_on(store.measure_usage(id, |_| {})).unwrap();
        block_on(store.delete(id)).unwrap();
        let purged = block_on(store.purge(Purge::User(id), |_| {})).unwrap();
        assert!(purged.left.is_empty(), "{purged:?}");
        assert!(!data_dir.join("trash").join(id.to_string()).exists());
    }
    // A link on the way is refused, with what is at its end left alone.
    let eve = make("eve@example.com", Some("guests/eve"));
    let outside = data_dir.with_extension("outside");
    fs::rename(data_dir.join("storage/guests"), &outside).unwrap();
    symlink(&outside, data_dir.join("storage/guests")).unwrap();
    assert_eq!(kind(block_on(store.directory(eve))), ErrorKind::StorageBlocked);
    assert_eq!(kind(block_on(store.delete(eve))), ErrorKind::StorageBlocked);
    assert!(outside.join("eve/letters/old/notes.txt").exists());
    fs::remove_file(data_dir.join("storage/guests")).unwrap();
    fs::rename(&outside, data_dir.join("storage/guests")).unwrap();
    block_on(store.close()).unwrap();
    let report = block_on(check(data_dir)).unwrap();
    assert_eq!(report.findings, []);
    process::say("all worked");
}
