//! Clocks that are set back and forward: by a second, by 25 years, to either end of time. What a
//! time is for a person to read is that of the clock, but nothing that was recorded moves back, and
//! nothing else goes by it: not the order of users, not cursors, not who is found. A purge by age
//! goes by the clock, and by nothing but it.

use std::fs;
use std::sync::Arc;
use std::thread;

use tenantry::{
    BackupOptions, Filter, ListQuery, NewUser, OnConflict, Purge, RepairOptions, Store, Timestamp,
    TrashQuery, User, check, repair, restore_backup, verify_backup,
};

use crate::owner::of_version_1;
use crate::share::report;
use crate::support::{
    Place as _, SqlitePlace, TestClock, addresses, all, block_on, email, new_user, only, page_of,
    to_email, tree,
};

const DAY: i64 = 86_400;
const YEARS_25: i64 = 25 * 365 * DAY + 6 * DAY;
const MICROSECOND: std::time::Duration = std::time::Duration::from_micros(1);

/// Sets a clock to each of these from where it is: by so many seconds, or to a moment.
#[derive(Clone, Copy, Debug)]
enum Jump {
    By(i64),
    To(Timestamp),
}

const JUMPS: [Jump; 7] = [
    Jump::By(-YEARS_25),
    Jump::By(YEARS_25),
    Jump::By(-1),
    Jump::By(0),
    Jump::By(1),
    Jump::To(Timestamp::MIN),
    Jump::To(Timestamp::MAX),
];

impl Jump {
    fn make(self, clock: &TestClock) -> Timestamp {
        match self {
            Self::By(seconds) => clock.forward(seconds),
            Self::To(moment) => {
                let seconds =
                    (moment.as_unix_us() - tenantry::Ambient::now(clock).as_unix_us()) / 1_000_000;
                clock.forward(seconds)
            }
        }
    }
}

/// A store with four users and one in the trash, and the moment at which all of that happened.
struct Before {
    place: SqlitePlace,
    clock: TestClock,
    store: Store,
    then: Timestamp,
    /// Ada has a file and logged in, Bob is plain, Cat is in the trash, Dan has a file.
    ada: User,
    bob: User,
    cat: User,
    dan: User,
}

impl Before {
    fn new() -> Self {
        let (place, clock) = (SqlitePlace::new(), TestClock::new());
        let store = block_on(place.builder().ambient(Arc::new(clock.clone())).open()).unwrap();
        let then = clock.forward(0);
        let [ada, bob, cat, dan] = ["ada", "bob", "cat", "dan"]
            .map(|name| block_on(store.create(new_user(&format!("{name}@example.com")))).unwrap());
        for user in [&ada, &dan] {
            block_on(store.directory(user.id)).unwrap().write("note.txt", "hello").unwrap();
            block_on(store.measure_usage(user.id, |_| {})).unwrap();
        }
        let ada = block_on(store.record_login(ada.id)).unwrap();
        block_on(store.delete(cat.id)).unwrap();
        Self { place, clock, store, then, ada, bob, cat, dan }
    }
}

/// Every operation of the store after the clock has jumped.
#[test]
fn whatever_the_clock_is_set_to_nothing_moves_back_and_no_user_is_lost() {
    let operations: [fn(Jump); 6] = [users, trash, directories, backups, copies, upgrade];
    // At once, since all of them mostly wait for the disk.
    thread::scope(|scope| {
        for jump in JUMPS {
            scope.spawn(move || operations.iter().for_each(|of| of(jump)));
        }
    });
    report("clocks that jump", format!("{} jumps, every operation after each", JUMPS.len()));
}

/// Users, logins, and the order in which they are listed.
fn users(jump: Jump) {
    let Before { place, clock, store, then, ada, bob, dan, .. } = Before::new();
    let first = block_on(store.list(&page_of(2))).unwrap();
    let now = jump.make(&clock);
    let later = then.max(now);

    let eve = block_on(store.create(new_user("eve@example.com"))).unwrap();
    assert_eq!((eve.created_at, eve.updated_at, eve.last_login_at), (now, now, None));
    let fay = block_on(store.sign_in(email("fay@example.com"))).unwrap();
    assert!(fay.is_new);
    assert_eq!((fay.user.created_at, fay.user.last_login_at), (now, Some(now)));
    let gus =
        block_on(store.create_many(vec![new_user("gus@example.com")])).unwrap().remove(0).unwrap();
    assert_eq!(gus.created_at, now);
    let seen = block_on(store.write(|tx| Ok::<_, tenantry::Error>(tx.now()))).unwrap();
    assert_eq!(seen, now);

    // A login and a change never move back, and a creation never moves.
    let logged_in = block_on(store.record_login(ada.id)).unwrap();
    let mut expected = ada.clone();
    expected.last_login_at = Some(later);
    assert_eq!(logged_in, expected);
    let signed_in = block_on(store.sign_in(ada.email.clone())).unwrap();
    assert_eq!((signed_in.is_new, signed_in.user), (false, logged_in));
    let updated = block_on(store.update(ada.id, to_email("ada2@example.com"))).unwrap();
    expected.email = email("ada2@example.com");
    expected.updated_at = later;
    expected.version += 1;
    assert_eq!(updated, expected);
    // An import moves a login to a later one alone.
    for (login, is_later) in
        [(Timestamp::MIN, false), (later, false), (Timestamp::MAX, later < Timestamp::MAX)]
    {
        let row = NewUser { last_login_at: Some(login), ..new_user("ada2@example.com") };
        let imported =
            block_on(store.write(move |tx| tx.upsert(&row, OnConflict::Update))).unwrap();
        assert_eq!(imported == tenantry::Upserted::Updated, is_later, "{login}");
    }

    // The order is that of creation, and a cursor from before leads to all who are new.
    let expected = ["ada2@example.com", "bob@example.com", "dan@example.com", "eve@example.com"];
    let expected: Vec<&str> =
        expected.into_iter().chain(["fay@example.com", "gus@example.com"]).collect();
    assert_eq!(addresses(&block_on(all(&store, ListQuery::default()))), expected);
    assert_eq!(addresses(&first.users), ["ada@example.com", "bob@example.com"]);
    let rest = block_on(all(&store, ListQuery { cursor: first.next_cursor, ..page_of(1) }));
    assert_eq!(addresses(&rest), expected[2..]);

    // Who is found by time is found by what stands there.
    let users = block_on(all(&store, ListQuery::default()));
    for moment in [Timestamp::MIN, then, now, later, Timestamp::MAX] {
        let found = |filter| block_on(all(&store, only(filter)));
        let expected = |is: &dyn Fn(&User) -> bool| {
            users.iter().filter(|user| is(user)).cloned().collect::<Vec<_>>()
        };
        let filter = Filter { created_after: Some(moment), ..Filter::default() };
        assert_eq!(found(filter), expected(&|user| user.created_at >= moment));
        let filter = Filter { created_before: Some(moment), ..Filter::default() };
        assert_eq!(found(filter), expected(&|user| user.created_at < moment));
        let filter = Filter { inactive_since: Some(moment), ..Filter::default() };
        assert_eq!(
            found(filter),
            expected(&|user| user.last_login_at.unwrap_or(user.created_at) < moment)
        );
    }
    assert_eq!(block_on(store.get(bob.id)).unwrap(), Some(bob));
    assert_eq!(block_on(store.get(dan.id)).unwrap(), Some(dan));
    close(&place, store);
}

/// Deleting and restoring change no time of the user. A purge by age goes by `deleted_at`, which is
/// the clock's.
fn trash(jump: Jump) {
    for age in [0, 30 * DAY, 2 * YEARS_25] {
        let Before { place, clock, store, then, bob, cat, dan, .. } = Before::new();
        let now = jump.make(&clock);
        assert_eq!(block_on(store.delete(bob.id)).unwrap(), bob);
        assert_eq!(block_on(store.delete(dan.id)).unwrap(), dan);
        assert_eq!(block_on(store.restore(dan.id, None)).unwrap(), dan);
        assert_eq!(
            block_on(store.directory(dan.id)).unwrap().read_to_string("note.txt").unwrap(),
            "hello"
        );
        block_on(store.delete(dan.id)).unwrap();

        // In the order of deletion, whatever the times say.
        let trash = block_on(store.list_trash(&TrashQuery::default())).unwrap().users;
        let found: Vec<_> =
            trash.iter().map(|trashed| (trashed.user.clone(), trashed.deleted_at)).collect();
        assert_eq!(found, [(cat.clone(), then), (bob.clone(), now), (dan.clone(), now)]);

        let moment = now.saturating_sub(std::time::Duration::from_secs(age.unsigned_abs()));
        let is_old = |deleted_at: Timestamp| deleted_at < moment;
        let query = TrashQuery { deleted_before: Some(moment), ..TrashQuery::default() };
        let listed = block_on(store.list_trash(&query)).unwrap().users.len();
        let expected =
            [then, now, now].into_iter().filter(|deleted_at| is_old(*deleted_at)).count();
        assert_eq!(listed, expected);
        let purged = block_on(store.purge(Purge::DeletedBefore(moment), |_| {})).unwrap();
        assert_eq!(purged.users, expected as u64);
        // Who was deleted just now isn't old on any clock, and a clock that was set back makes
        // nobody old.
        assert!(
            block_on(store.restore(bob.id, None)).is_ok()
                && block_on(store.restore(dan.id, None)).is_ok()
        );
        assert_eq!(block_on(store.restore(cat.id, None)).is_ok(), !is_old(then));
        assert!(now > then || !is_old(then));
        close(&place, store);
    }
    // The moment itself is not before it.
    let Before { place, clock, store, then, cat, .. } = Before::new();
    jump.make(&clock);
    assert_eq!(block_on(store.purge(Purge::DeletedBefore(then), |_| {})).unwrap().users, 0);
    let just_after = Timestamp::from_unix_us(
        then.as_unix_us() + i64::try_from(MICROSECOND.as_micros()).unwrap(),
    );
    assert_eq!(
        block_on(store.purge(Purge::DeletedBefore(just_after.unwrap()), |_| {})).unwrap().users,
        1
    );
    assert!(block_on(store.read(move |tx| tx.was_purged(cat.id))).unwrap());
    close(&place, store);
}

/// Usage, adoption, quarantine.
fn directories(jump: Jump) {
    let Before { place, clock, store, then, ada, bob, .. } = Before::new();
    let before = block_on(store.usage(ada.id)).unwrap().unwrap();
    assert_eq!((before.measured_at, before.files), (then, 1));
    let now = jump.make(&clock);
    // What was measured last counts, not what has the latest time.
    block_on(store.directory(ada.id)).unwrap().write("more.txt", "hello").unwrap();
    let usage = block_on(store.measure_usage(ada.id, |_| {})).unwrap();
    assert_eq!((usage.measured_at, usage.files), (now, 2));
    assert_eq!(block_on(store.usage(ada.id)).unwrap(), Some(usage));
    assert_eq!(block_on(store.top_usage(9)).unwrap().len(), 2);

    fs::create_dir_all(place.data_dir().join("storage/customers/bob")).unwrap();
    let adopted = block_on(store.adopt(bob.id, "customers/bob".parse().unwrap())).unwrap();
    assert_eq!(
        (adopted.updated_at, adopted.created_at, adopted.version),
        (then.max(now), then, bob.version + 1)
    );

    for name in ["stray-1", "stray-2"] {
        fs::create_dir_all(place.data_dir().join("storage").join(name)).unwrap();
    }
    block_on(store.close()).unwrap();
    let options = RepairOptions { even_if_many: true, ..RepairOptions::default() };
    let repaired = block_on(repair(place.data_dir(), options)).unwrap();
    assert!(repaired.failures.is_empty() && repaired.before.orphaned == 2, "{repaired:?}");
    assert_eq!(fs::read_dir(place.data_dir().join("quarantine")).unwrap().count(), 2);
    let store = block_on(place.builder().ambient(Arc::new(clock)).open()).unwrap();
    close(&place, store);
}

/// A backup says when it was made, and is as good as any.
fn backups(jump: Jump) {
    let Before { place, clock, store, .. } = Before::new();
    let now = jump.make(&clock);
    let users = block_on(all(&store, ListQuery::default()));
    let file = place.as_ref().join("a.tar.zst");
    let made = block_on(store.create_backup(&file, BackupOptions::default(), |_| {})).unwrap();
    assert_eq!((made.manifest.created_at, made.incomplete), (now, 0));
    close(&place, store);
    let verified = block_on(verify_backup(&file, |_| {})).unwrap();
    assert_eq!(
        (verified.manifest, verified.findings, verified.missing_directories),
        (made.manifest, Vec::new(), 0)
    );
    let into = place.as_ref().join("restored");
    assert_eq!(block_on(restore_backup(&file, &into, |_| {})).unwrap().report.findings, []);
    let store = block_on(Store::builder(&into).ambient(Arc::new(clock)).open()).unwrap();
    assert_eq!(block_on(all(&store, ListQuery::default())), users);
    block_on(store.close()).unwrap();
}

/// What is exported from one store and imported into another, whose clock is elsewhere, is the
/// same.
fn copies(jump: Jump) {
    let Before { place, clock, store, .. } = Before::new();
    let now = jump.make(&clock);
    block_on(store.create(new_user("eve@example.com"))).unwrap();
    let users = block_on(all(&store, ListQuery::default()));
    close(&place, store);
    let other = SqlitePlace::new();
    let (there, back) = (TestClock::new(), TestClock::new());
    back.back(YEARS_25);
    for clock in [there, back] {
        let store =
            block_on(Store::builder(other.data_dir()).ambient(Arc::new(clock)).open()).unwrap();
        let rows: Vec<NewUser> = users.iter().map(as_row).collect();
        block_on(store.write(move |tx| {
            rows.iter().try_for_each(|row| tx.upsert(row, OnConflict::Skip).map(drop))
        }))
        .unwrap();
        assert_eq!(block_on(all(&store, ListQuery::default())), users);
        assert!(users.iter().any(|user| user.created_at == now));
        block_on(store.close()).unwrap();
    }
}

fn as_row(user: &User) -> NewUser {
    NewUser {
        id: Some(user.id),
        created_at: Some(user.created_at),
        last_login_at: user.last_login_at,
        updated_at: Some(user.updated_at),
        version: Some(user.version),
        suspended_at: user.suspended_at,
        external_id: user.external_id.clone(),
        name: user.name.clone(),
        attributes: user.attributes.clone(),
        ..NewUser::new(user.email.clone())
    }
}

/// The snapshot before an upgrade bears the clock's time, and holds the store.
fn upgrade(jump: Jump) {
    let (place, clock) = (SqlitePlace::new(), TestClock::new());
    of_version_1(&place);
    let now = jump.make(&clock);
    let store = block_on(place.builder().ambient(Arc::new(clock)).open()).unwrap();
    let snapshot = store.upgrade().unwrap().snapshot.clone().unwrap();
    let time = now.to_string().replace([':', '-'], "");
    let version = block_on(store.status()).unwrap().schema_version;
    assert_eq!(
        snapshot.file_name().unwrap().to_str(),
        Some(format!("before-v{version}-{time}.db").as_str())
    );
    assert_eq!(tree(&place.data_dir().join("backups")).len(), 1);
    close(&place, store);
}

/// Closes a store in which nothing may be wrong.
#[track_caller]
fn close(place: &SqlitePlace, store: Store) {
    block_on(store.close()).unwrap();
    assert_eq!(block_on(check(place.data_dir())).unwrap().findings, []);
}
