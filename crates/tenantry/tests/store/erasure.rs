//! After a purge nothing of an address is left in the files of the database, nor in a backup made
//! of it.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use tenantry::sqlite::rusqlite::Connection;
use tenantry::{
    Ambient, Error, ErrorKind, FindingKind, ListQuery, NewUser, Purge, Store, User, UserId, check,
};

use crate::support::{
    BlockedWriter, Place, SHORT, SqlitePlace, TestClock, all, block_on, email, kind, numbered_id,
    queued, to_email,
};

/// The beginning of every local part here, so that one pass over the bytes finds all of them.
const MARK: &str = "zqx";
/// How much of a local part has to be left to be found.
const FOUND: usize = 12;

/// A local part that nothing else looks like, in mixed case.
fn local(number: u64) -> String {
    format!("ZqX{}", &numbered_id(number).to_string()[..13])
}

/// As it is looked for, in any case.
fn trace(number: u64) -> String {
    local(number).to_lowercase()[..FOUND].to_owned()
}

fn traces_in(bytes: &[u8]) -> HashSet<String> {
    let lower = bytes.to_ascii_lowercase();
    let starts = (0..lower.len()).filter(|at| lower[*at..].starts_with(MARK.as_bytes()));
    starts
        .filter_map(|at| lower.get(at..at + FOUND))
        .map(|found| String::from_utf8_lossy(found).into_owned())
        .collect()
}

/// The traces in the database's files. Copied by another process: closing a descriptor of an open
/// database would end SQLite's locks in this one.
fn traces_in_files(place: &SqlitePlace) -> HashSet<String> {
    let copies = tempfile::tempdir().unwrap();
    let mut found = HashSet::new();
    for suffix in ["", "-wal", "-shm"] {
        let file = place.data_dir().join(format!("tenantry.db{suffix}"));
        if file.exists() {
            let copy = copies.path().join(suffix.len().to_string());
            assert!(Command::new("cp").arg(&file).arg(&copy).status().unwrap().success());
            found.extend(traces_in(&fs::read(copy).unwrap()));
        }
    }
    found
}

fn traces_in_backup(place: &SqlitePlace) -> HashSet<String> {
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("backup.db");
    let conn = Connection::open(place.database()).unwrap();
    conn.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    conn.close().unwrap();
    traces_in(&fs::read(backup).unwrap())
}

/// A store with many users whose addresses and paths are random, some in the trash, and what each
/// of them has had.
struct Crowd {
    place: SqlitePlace,
    clock: TestClock,
    store: Store,
    users: Vec<(User, HashSet<String>)>,
}

impl Crowd {
    const SIZE: u64 = 1_500;

    fn new() -> Self {
        let (place, clock) = (SqlitePlace::new(), TestClock::new());
        let builder = place.builder().ambient(Arc::new(clock.clone())).busy_timeout(SHORT * 10);
        let store = block_on(builder.open()).unwrap();
        let new = |number| NewUser {
            storage_path: Some(
                format!("customers/{}@example.com/files", local(number)).parse().unwrap(),
            ),
            ..NewUser::new(email(&format!("{}@example.com", local(number))))
        };
        let created = block_on(store.create_many((0..Self::SIZE).map(new).collect())).unwrap();
        let mut users: Vec<_> = created
            .into_iter()
            .enumerate()
            .map(|(number, user)| (user.unwrap(), HashSet::from([trace(number as u64)])))
            .collect();
        // In one closure each time, so that pages are rearranged often.
        for round in 0..30 {
            let updates: Vec<(usize, u64)> = (0..50)
                .map(|turn| {
                    let number = Self::SIZE + round * 50 + turn;
                    (usize::try_from(number * 7_919 % Self::SIZE).unwrap(), number)
                })
                .collect();
            for (index, number) in &updates {
                users[*index].1.insert(trace(*number));
            }
            let updates: Vec<(UserId, _)> = updates
                .into_iter()
                .map(|(index, number)| {
                    (users[index].0.id, to_email(&format!("{}@example.com", local(number))))
                })
                .collect();
            let update_all = move |tx: &mut tenantry::WriteTx<'_>| {
                updates.iter().try_for_each(|(id, update)| tx.update(*id, update).map(drop))
            };
            block_on(store.write(update_all)).unwrap();
        }
        Self { place, clock, store, users }
    }

    /// Deletes every third user, some of them with directories, and says which.
    fn delete_some(&self) -> Vec<usize> {
        let doomed: Vec<usize> = (0..self.users.len()).filter(|index| index % 3 == 0).collect();
        for index in doomed.iter().step_by(20) {
            let files = block_on(self.store.directory(self.users[*index].0.id)).unwrap();
            files.write("file", "").unwrap();
        }
        let ids: Vec<UserId> = doomed.iter().map(|index| self.users[*index].0.id).collect();
        for some in ids.chunks(100) {
            let some = some.to_vec();
            block_on(
                self.store.write(move |tx| some.iter().try_for_each(|id| tx.delete(*id).map(drop))),
            )
            .unwrap();
        }
        self.clock.forward(60);
        doomed
    }

    fn traces_of(&self, users: impl IntoIterator<Item = usize>) -> HashSet<String> {
        users.into_iter().flat_map(|index| self.users[index].1.iter().cloned()).collect()
    }

    /// What has to be there of those who stay: their address of now, and their path.
    fn assert_rest_is_found(&self, found: &HashSet<String>) {
        let rest = block_on(all(
            &self.store,
            ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() },
        ));
        assert!(rest.len() >= 1_000);
        for user in rest {
            assert!(found.contains(&user.email.as_str().to_lowercase()[..FOUND]));
            assert!(found.contains(
                &user.storage_path.as_str()["customers/".len()..].to_lowercase()[..FOUND]
            ));
        }
    }
}

#[track_caller]
fn assert_none_of(gone: &HashSet<String>, found: &HashSet<String>, place: &str) {
    let left: Vec<_> = gone.intersection(found).take(3).collect();
    assert!(left.is_empty(), "{place} still holds {left:?}");
}

#[test]
fn nothing_of_a_purged_address_is_left_in_the_database() {
    let crowd = Crowd::new();
    let doomed = crowd.delete_some();
    // One by one, and the rest by their time.
    let gone = crowd.traces_of(doomed.iter().copied());
    let before = traces_in_files(&crowd.place);
    assert!(gone.is_subset(&before), "the search finds what is there");
    assert!(!gone.is_disjoint(&traces_in_backup(&crowd.place)));
    for index in [0, 20, 21] {
        let (user, _) = &crowd.users[doomed[index]];
        assert_eq!(block_on(crowd.store.purge(Purge::User(user.id), |_| {})).unwrap().users, 1);
        assert_none_of(
            &crowd.traces_of([doomed[index]]),
            &traces_in_files(&crowd.place),
            "the open database",
        );
    }
    let purged =
        block_on(crowd.store.purge(Purge::DeletedBefore(crowd.clock.now()), |_| {})).unwrap();
    assert_eq!((purged.users, purged.files), (497, 23));
    assert_eq!(fs::read_dir(crowd.place.data_dir().join("trash")).unwrap().count(), 0);

    let found = traces_in_files(&crowd.place);
    assert_none_of(&gone, &found, "the open database");
    crowd.assert_rest_is_found(&found);
    let found = traces_in_backup(&crowd.place);
    assert_none_of(&gone, &found, "a backup");
    crowd.assert_rest_is_found(&found);
    assert_eq!(block_on(check(crowd.place.data_dir())).unwrap().findings, []);
    block_on(crowd.store.close()).unwrap();
    assert_none_of(&gone, &traces_in_files(&crowd.place), "the closed database");
}

#[test]
fn a_purge_that_a_reader_keeps_from_erasing_is_erased_by_the_next_opening() {
    let crowd = Crowd::new();
    let doomed = crowd.delete_some();
    let gone = crowd.traces_of(doomed.iter().copied());
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let store = crowd.store.clone();
    let reader = thread::spawn(move || {
        let read = move |tx: &tenantry::ReadTx<'_>| {
            let count = tx.count()?;
            entered.send(()).unwrap();
            let _ = released.recv();
            assert_eq!(tx.count()?, count);
            Ok::<_, Error>(())
        };
        block_on(store.read(read)).unwrap();
    });
    has_entered.recv().unwrap();
    let error = block_on(crowd.store.purge(Purge::DeletedBefore(crowd.clock.now()), |_| {}))
        .unwrap()
        .not_erased
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unfinished);
    let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Error>());
    assert_eq!(cause.map(Error::kind), Some(ErrorKind::Busy));
    assert!(error.to_string().contains("traces may be left"), "{error}");
    // The users are gone all the same, and what is to be done is on record.
    let first = crowd.users[doomed[0]].0.id;
    assert_eq!(kind(block_on(crowd.store.restore(first, None))), ErrorKind::NotFound);
    assert!(!gone.is_disjoint(&traces_in_files(&crowd.place)), "there is something to be erased");
    let unfinished = |place: &Path| {
        let findings = block_on(check(place)).unwrap().findings;
        findings.into_iter().map(|finding| (finding.kind, finding.user)).collect::<Vec<_>>()
    };
    assert_eq!(unfinished(&crowd.place.data_dir()), [(FindingKind::IntentUnfinished, None)]);
    drop(release);
    reader.join().unwrap();
    block_on(crowd.store.close()).unwrap();

    let store = crowd.place.open();
    assert_none_of(&gone, &traces_in_files(&crowd.place), "the database that was opened again");
    assert_eq!(unfinished(&crowd.place.data_dir()), []);
    block_on(store.close()).unwrap();
    assert_none_of(&gone, &traces_in_files(&crowd.place), "the closed database");
}

/// The story: a purge that was cancelled on a later page left the traces of all users whose rows it
/// had removed, until the next purge or opening.
#[test]
fn a_cancelled_purge_leaves_no_trace_of_those_who_were_purged_before() {
    const SIZE: u64 = ListQuery::MAX_LIMIT as u64 + 3;
    let (place, clock) = (SqlitePlace::new(), TestClock::new());
    let store = block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
    let new = |number| NewUser::new(email(&format!("{}@example.com", local(number))));
    let created = block_on(store.create_many((0..SIZE).map(new).collect())).unwrap();
    let ids: Vec<UserId> = created.into_iter().map(|user| user.unwrap().id).collect();
    // On the second page, one without files and two with some.
    for id in &ids[ids.len() - 2..] {
        block_on(store.directory(*id)).unwrap().write("file", "").unwrap();
    }
    let deleted = ids.clone();
    block_on(store.write(move |tx| deleted.iter().try_for_each(|id| tx.delete(*id).map(drop))))
        .unwrap();
    clock.forward(60);
    let last = trace(SIZE - 1);
    let gone: HashSet<_> = (0..SIZE - 1).map(trace).collect();
    assert!(gone.is_subset(&traces_in_files(&place)), "there is something to be erased");

    let trash = place.data_dir().join("trash");
    let cancel = move |_| match fs::read_dir(&trash).unwrap().count() {
        2 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let purged = block_on(store.purge(Purge::DeletedBefore(clock.now()), cancel));
    assert_eq!(kind(purged), ErrorKind::Cancelled);
    let found = traces_in_files(&place);
    assert_none_of(&gone, &found, "the open database");
    assert!(found.contains(&last), "who wasn't purged yet is in it");
    block_on(store.close()).unwrap();
    assert_none_of(&gone, &traces_in_files(&place), "the closed database");
}

#[test]
fn a_purge_whose_caller_has_given_up_is_finished_by_the_next_opening() {
    let (place, clock) = (SqlitePlace::new(), TestClock::new());
    let store = block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
    let ada =
        block_on(store.create(NewUser::new(email(&format!("{}@example.com", local(0)))))).unwrap();
    block_on(store.directory(ada.id)).unwrap().write("file", "").unwrap();
    block_on(store.delete(ada.id)).unwrap();
    // With the writer held, it can't have ended when the caller gives up.
    let writer = BlockedWriter::block(&store);
    drop(queued(store.purge(Purge::User(ada.id), |_| {})));
    writer.release();
    // It begins all the same, and then there is no way back.
    assert_eq!(kind(block_on(store.restore(ada.id, None))), ErrorKind::NotFound);
    block_on(store.close()).unwrap();
    let store = place.open();
    assert_eq!(fs::read_dir(place.data_dir().join("trash")).unwrap().count(), 0);
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
    assert_none_of(
        &[trace(0)].into(),
        &traces_in_files(&place),
        "the database that was opened again",
    );
    block_on(store.close()).unwrap();
}
