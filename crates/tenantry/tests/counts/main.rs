//! What the work costs, in numbers that no machine changes: statements, waits for the disk,
//! allocations. The clock is the affair of `bench/`.
//!
//! This is a binary of its own because it puts a VFS beneath SQLite and an allocator beneath
//! everything, which are the whole process's. The counts are the process's too, so one test runs at
//! a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "this crate is nothing but tests, which print what they counted, and clippy knows only those inside of #[test] functions"
)]

mod allocations;
mod disk;
mod statements;

use std::sync::{Mutex, MutexGuard, PoisonError};

use disk::Disk;
use statements::Statements;
use tenantry::{Durability, RequestKey, Store, User};
use tenantry_testkit::support::{
    BlockedWriter, SqlitePlace, block_on, email, new_user, page_of, queued,
};

/// How many allocations a user takes who is read: for the address as written. A path that is
/// derived takes none.
const ALLOCATIONS_A_USER: u64 = 1;
/// One more where the key is another text than the address, and one for the statement.
const ALLOCATIONS_A_READ: u64 = ALLOCATIONS_A_USER + 2;

/// A store with one user, in whose process nothing else is counted until it is dropped.
struct Counted {
    store: Store,
    ada: User,
    _place: SqlitePlace,
    _alone: MutexGuard<'static, ()>,
}

impl Counted {
    fn new(durability: Durability) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Disk::watch();
        let place = SqlitePlace::new();
        let store =
            block_on(Store::builder(place.data_dir()).durability(durability).open()).unwrap();
        let ada = block_on(store.create(new_user("Ada@example.com"))).unwrap();
        // From here on the connections are there and their statements prepared.
        block_on(store.sign_in(ada.email.clone())).unwrap();
        let counted = Self { store, ada, _place: place, _alone: alone };
        counted.read_each_way();
        counted
    }

    fn read_each_way(&self) {
        assert_eq!(
            block_on(self.store.get(self.ada.id)).unwrap().map(|user| user.id),
            Some(self.ada.id)
        );
        assert!(block_on(self.store.get_by_email(&self.ada.email)).unwrap().is_some());
        assert!(block_on(self.store.get_by_email(&email("nobody@example.com"))).unwrap().is_none());
        assert!(!block_on(self.store.list(&page_of(100))).unwrap().users.is_empty());
    }
}

#[test]
fn a_read_is_one_statement_for_a_page_two_and_touches_no_disk_for_writing() {
    let counted = Counted::new(Durability::Full);
    // One thread reads, so it is the same connection every time.
    let statements =
        block_on(counted.store.read(|tx| Ok::<_, tenantry::Error>(Statements::of(tx)))).unwrap();
    statements.take();
    let disk = Disk::now();
    counted.read_each_way();
    let ran = statements.take();
    // Each of the reads, and the place in the change feed that a page has.
    assert_eq!(ran.len(), 4 + 1, "{ran:#?}");
    assert!(ran.iter().all(|sql| sql.starts_with("SELECT ")), "{ran:#?}");
    assert_eq!(Disk::now() - disk, Disk::default());
    block_on(counted.store.close()).unwrap();
}

#[test]
fn a_write_waits_for_the_disk_once_and_one_without_that_durability_never() {
    for (durability, syncs) in [(Durability::Full, 1), (Durability::Normal, 0)] {
        let counted = Counted::new(durability);
        let store = &counted.store;
        let statements =
            block_on(store.write(|tx| Ok::<_, tenantry::Error>(Statements::of(tx)))).unwrap();
        let count = |write: &dyn Fn()| {
            statements.take();
            let before = Disk::now();
            write();
            let disk = Disk::now() - before;
            assert_eq!(disk.syncs_of_log, syncs, "{durability:?}");
            assert!(disk.writes_of_log > 0);
            assert_eq!(
                (disk.writes_of_database, disk.syncs_of_database),
                (0, 0),
                "no checkpoint is due"
            );
            let mut ran = statements.take();
            // How long the log is, which the writer asks when the caller has the result.
            ran.retain(|sql| !sql.starts_with("PRAGMA wal_checkpoint"));
            ran
        };
        let create = || drop(block_on(store.create(new_user("bob@example.com"))).unwrap());
        let sign_in =
            || assert!(!block_on(store.sign_in(counted.ada.email.clone())).unwrap().is_new);
        // The user, and the change in the feed; or whether logins are in that.
        let (feed, setting) = ("INSERT INTO tenantry_changes", "SELECT has_logins_in_changes");
        for (ran, verbs) in
            [(count(&create), ["INSERT INTO users", feed]), (count(&sign_in), ["UPDATE", setting])]
        {
            for verb in verbs {
                assert_eq!(ran.iter().filter(|sql| sql.starts_with(verb)).count(), 1, "{ran:#?}");
            }
            assert_eq!(ran.len(), 4, "{ran:#?}");
            assert!(
                ran.first().unwrap().starts_with("BEGIN") && ran.last().unwrap() == "COMMIT",
                "{ran:#?}"
            );
        }
        block_on(store.close()).unwrap();
    }
}

#[test]
fn sixty_four_queued_writes_wait_for_the_disk_once() {
    let counted = Counted::new(Durability::Full);
    let store = &counted.store;
    let statements =
        block_on(store.write(|tx| Ok::<_, tenantry::Error>(Statements::of(tx)))).unwrap();
    let blocked = BlockedWriter::block(store);
    let address = |number: usize| format!("u{number}@example.com");
    let creates: Vec<_> =
        (0..64).map(|number| queued(store.create(new_user(&address(number))))).collect();
    let sign_ins: Vec<_> =
        (0..64).map(|number| queued(store.sign_in(email(&address(number))))).collect();
    statements.take();
    let before = Disk::now();
    blocked.release();
    creates.into_iter().for_each(|create| drop(block_on(create).unwrap()));
    sign_ins.into_iter().for_each(|sign_in| assert!(!block_on(sign_in).unwrap().is_new));
    let ran = statements.take();
    assert_eq!((Disk::now() - before).syncs_of_log, 1);
    // The end of the transaction in which the writer was blocked is there too.
    let commits = ran.iter().filter(|sql| *sql == "COMMIT").count();
    let inserts = ran.iter().filter(|sql| sql.starts_with("INSERT")).count();
    let updates = ran.iter().filter(|sql| sql.starts_with("UPDATE")).count();
    // Each user, and the change in the feed. Whether logins are in it is asked once.
    assert_eq!((inserts, updates), (2 * 64, 64), "{ran:#?}");
    assert!((1..=2).contains(&commits), "{commits}");
    assert!(ran.len() <= 3 * 64 + 20, "{}: {ran:#?}", ran.len());
    block_on(store.close()).unwrap();
}

/// Keys are no reason for a transaction of one's own.
#[test]
fn sixty_four_queued_creates_with_keys_wait_for_the_disk_once() {
    let counted = Counted::new(Durability::Full);
    let store = &counted.store;
    let blocked = BlockedWriter::block(store);
    let creates: Vec<_> = (0..64)
        .map(|number| {
            let key = RequestKey::new("client", &number.to_string(), &[]).unwrap();
            let once = store.once(key);
            queued(async move { once.create(new_user(&format!("u{number}@example.com"))).await })
        })
        .collect();
    let before = Disk::now();
    blocked.release();
    creates.into_iter().for_each(|create| drop(block_on(create).unwrap()));
    assert_eq!((Disk::now() - before).syncs_of_log, 1);
    block_on(store.close()).unwrap();
}

#[test]
fn a_read_allocates_only_what_it_returns() {
    let counted = Counted::new(Durability::Full);
    let store = &counted.store;
    let by_id = allocations::during(|| drop(block_on(store.get(counted.ada.id)).unwrap().unwrap()));
    let by_email = allocations::during(|| {
        drop(block_on(store.get_by_email(&counted.ada.email)).unwrap().unwrap())
    });
    eprintln!("allocations: by id {by_id}, by email {by_email}");
    assert!(by_id > 0, "nothing is counted");
    assert!(by_id <= ALLOCATIONS_A_READ, "{by_id}");
    assert!(by_email <= ALLOCATIONS_A_READ, "{by_email}");

    for number in 0..1_000 {
        block_on(store.create(new_user(&format!("u{number}@example.com")))).unwrap();
    }
    let page = |limit| {
        allocations::during(|| {
            assert_eq!(block_on(store.list(&page_of(limit))).unwrap().users.len(), limit)
        })
    };
    let (short, long) = (page(100), page(1_000));
    eprintln!("allocations: a page of 100 {short}, a page of 1,000 {long}");
    // The list itself grows a few times.
    assert!(long - short <= 900 * ALLOCATIONS_A_USER + 10, "{short} and {long}");
    block_on(store.close()).unwrap();
}
