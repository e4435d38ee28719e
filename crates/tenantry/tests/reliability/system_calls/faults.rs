//! System calls that fail, one at a time, while a child does something with directories.
//!
//! strace makes the n-th call of a kind fail in each thread. What the child is told has to be
//! right: who is told that nothing was done finds everything as it was, and who is told that it is
//! done finds it done, when the store is opened without faults again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tenantry_testkit::way::Way;
use tenantry_testkit::world::copy;

use super::world::{self, DATA, Hands, LEFT, Op, State, TOP, judge};
use super::{ARCHIVES, ROLE, trace};
use crate::share::{report, share};
use crate::support::{block_on, in_memory};

/// What is done before, and what is done while a call fails.
struct Case {
    what: &'static str,
    setup: Vec<Op>,
    op: Op,
    /// The calls that change directories or wait for the disk here.
    calls: &'static [&'static str],
    /// On what alone, from the top on, if not on everything.
    on: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let file = |file: &str| Op::Write { user: 0, file: file.to_owned() };
    let create = || Op::Create { user: 0, path: None };
    let person =
        || vec![Op::Open, create(), Op::Storage { user: 0 }, file("a.txt"), file("b/c/d.txt")];
    let trashed = || [person(), vec![Op::Delete { user: 0 }]].concat();
    let place = |is_certain| Op::Place { path: "customers/x/ada".to_owned(), is_certain };
    let archive = || "first.tar.zst".to_owned();
    let case = |what, setup, op, calls| Case { what, setup, op, calls, on: None };
    vec![
        case(
            "open",
            vec![],
            Op::Open,
            &["mkdir", "mkdirat", "openat2", "rename", "renameat2", "fsync"],
        ),
        case(
            "storage",
            vec![Op::Open, create()],
            Op::Storage { user: 0 },
            &["mkdirat", "openat2", "fsync"],
        ),
        case("delete", person(), Op::Delete { user: 0 }, &["renameat2", "openat2", "fsync"]),
        case(
            "restore",
            trashed(),
            Op::Restore { user: 0 },
            &["mkdirat", "renameat2", "openat2", "fsync"],
        ),
        case(
            "purge",
            trashed(),
            Op::Purge { user: 0 },
            &["unlinkat", "renameat2", "openat2", "fsync"],
        ),
        case(
            "adopt",
            vec![Op::Open, create(), Op::Storage { user: 0 }, place(true)],
            Op::Adopt { user: 0, path: "customers/x/ada".to_owned() },
            &["unlinkat", "openat2", "fsync"],
        ),
        case(
            "repair",
            vec![Op::Open, place(true), Op::Close],
            Op::Repair,
            &["mkdirat", "renameat2", "openat2", "fsync"],
        ),
        case(
            "backup",
            trashed(),
            Op::Backup { name: archive() },
            &["mkdir", "renameat2", "openat2", "fsync"],
        ),
        case(
            "restore a backup",
            [trashed(), vec![Op::Backup { name: archive() }]].concat(),
            Op::RestoreBackup { name: archive(), into: "restored".to_owned() },
            &["mkdir", "mkdirat", "renameat2", "openat2", "fsync", "syncfs"],
        ),
        // Which it comes to on another thread, after others of its kind.
        Case {
            on: Some("srv/app"),
            ..case(
                "restore a backup",
                [trashed(), vec![Op::Backup { name: archive() }]].concat(),
                Op::RestoreBackup { name: archive(), into: "restored".to_owned() },
                &["fsync"],
            )
        },
    ]
}

/// The errors with which each call is made to fail.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "mkdir" | "mkdirat" => &["ENOSPC", "EIO", "EDQUOT", "EROFS"],
        "rename" | "renameat2" => &["EIO", "ENOSPC", "EDQUOT"],
        "openat2" => &["EMFILE", "EIO", "ENFILE"],
        _ => &["EIO", "ENOSPC", "EDQUOT"],
    }
}

/// What may be said of an operation in which a call has failed so.
fn is_right(said: &str, op: &Op, call: &str, error: &str) -> bool {
    match said {
        // It was none of this operation's, or it is told what couldn't be done.
        "done" | LEFT => true,
        // It was a commit.
        "OutcomeUnknown" => call == "fsync",
        // Without a directory nothing is half done, but if it is that it was made which isn't on
        // the disk.
        "Unfinished" => !matches!(op, Op::Storage { .. }) || call == "fsync",
        "Full" => matches!(error, "ENOSPC" | "EDQUOT"),
        "ReadOnly" => error == "EROFS",
        // SQLite doesn't say why it couldn't wait for the disk.
        "Io" => matches!(error, "EIO" | "EMFILE" | "ENFILE") || call == "fsync",
        // The store was opened without its directories, which is so only if that is where it
        // failed.
        "StorageUnavailable" => call == "openat2" && !matches!(op, Op::RestoreBackup { .. }),
        _ => false,
    }
}

/// Whether what was done is there, if that follows from what was said.
fn is_done(said: &str, op: &Op) -> Option<bool> {
    match (said, op) {
        ("done", _) => Some(true),
        ("OutcomeUnknown", _) => None,
        // A store that isn't there yet, a directory that is empty: nobody can tell.
        (_, Op::Open | Op::Storage { .. }) => None,
        // It may fail before what it wants to do, or in the look that it takes after.
        (_, Op::Repair) => None,
        ("Unfinished" | LEFT, _) => Some(true),
        _ => Some(false),
    }
}

/// How many calls of a kind fail in one case, at most: more than there are.
const CALLS_MAX: usize = 60;

#[test]
fn a_system_call_that_fails_is_reported_and_loses_nothing() {
    if !trace::is_possible() {
        return;
    }
    let (mut runs, mut told) = (0, BTreeMap::<String, u64>::new());
    for case in cases() {
        let prepared = in_memory();
        let top = prepared.path().join(TOP);
        fs::create_dir_all(top.join(ARCHIVES)).unwrap();
        let mut hands = Hands::new(&top);
        case.setup.iter().for_each(|op| hands.run(op).unwrap());
        if case.setup.last().is_some_and(|op| *op != Op::Close) {
            hands.run(&Op::Close).unwrap();
        }
        let before = State::default().all(&case.setup).pop().unwrap();
        for call in case.calls {
            let is_long = share(0, 1) == 1;
            // Those that come later mostly do the same once more.
            for nth in (1..CALLS_MAX).filter(|nth| is_long || *nth <= 4 || nth % 3 == 0) {
                let errors = errors(call);
                let errors = if is_long { errors } else { &errors[nth % errors.len()..][..1] };
                let hits = errors.iter().filter(|error| {
                    let Some(said) = fail(&case, &before, &top, call, error, nth) else {
                        return false;
                    };
                    runs += 1;
                    *told.entry(said).or_default() += 1;
                    true
                });
                if hits.count() == 0 {
                    break;
                }
            }
        }
    }
    report("a system call that fails", format!("{runs} failures, answered {told:?}"));
    assert!(runs > 50, "only {runs} failures");
}

/// Makes one call fail, judges what comes of it, and says what was told; `None` if there is no such
/// call.
fn fail(
    case: &Case,
    before: &State,
    prepared: &Path,
    call: &str,
    error: &str,
    nth: usize,
) -> Option<String> {
    let dir = in_memory();
    let top = dir.path().canonicalize().unwrap().join(TOP);
    copy(prepared, &top);
    let ops = if matches!(case.op, Op::Open | Op::Repair) {
        vec![case.op.clone()]
    } else {
        vec![Op::Open, case.op.clone()]
    };
    world::order(dir.path(), Way::AtOnce, &ops);
    let on = case.on.map(|path| format!(" -P {}", top.join(path).display())).unwrap_or_default();
    let inject = format!("-e inject={call}:error={error}:when={nth}{on}");
    let (calls, said) = trace::record(ROLE, top.parent().unwrap(), &inject);
    if !calls.iter().any(|call| call.is_injected) {
        return None;
    }
    let [said] = &said[..] else { panic!("{said:?}") };
    let about = format!("{}, with {error} for the {nth}. {call}: {said}", case.what);
    assert!(is_right(said, &case.op, call, error), "{about}");
    // What was only for the time being has gone, whatever happened.
    for dir in [top.join(ARCHIVES), top.join(DATA).with_file_name("restored")] {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let left = entries
            .map(|entry| entry.unwrap().file_name())
            .find(|name| name.as_encoded_bytes().starts_with(b"."));
        assert_eq!(left, None, "{about}");
    }
    let states = before.clone().all(std::slice::from_ref(&case.op));
    if let (LEFT, Op::Backup { name }) = (&**said, &case.op) {
        // It is one all the same, and says what is missing.
        let file = top.join(ARCHIVES).join(name);
        let verified = block_on(tenantry::verify_backup(&file, |_| {}))
            .unwrap_or_else(|why| panic!("{about}: {why}"));
        assert!(verified.manifest.left_out > 0, "{about}");
        return Some(said.clone());
    }
    let (states, answered) = match is_done(said, &case.op) {
        Some(true) => (&states[..], 1),
        Some(false) => (&states[..1], 0),
        None => (&states[..], 0),
    };
    judge(std::slice::from_ref(&case.op), states, answered, &top)
        .unwrap_or_else(|why| panic!("{about}: {why}"));
    Some(said.clone())
}
