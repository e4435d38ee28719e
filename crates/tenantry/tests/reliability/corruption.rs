//! Damaged files: the database and its log are damaged in nine ways, and whoever uses the store is
//! to be told, or to get what was there before. Never a panic, never a hang, never somebody else's
//! data.
//!
//! What nobody can tell, because SQLite keeps no checksums of the database's pages: a time, a
//! version or the spelling of an address that became another one, and a purged user's id that is
//! forgotten. What nobody promises: the end of a damaged log.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tenantry::sqlite::rusqlite::{Connection, OpenFlags};
use tenantry::{
    Error, ErrorKind, FindingKind, ListQuery, NewUser, Purge, Store, TrashQuery, TrashedUser, User,
    check,
};
use tenantry_testkit::random::Random;

use crate::process::Process;
use crate::share::{report, share};
use crate::support::{TestClock, block_on, new_user, new_user_at, numbered_id, to_email};

/// Of each kind, in `cargo test` and with `TENANTRY_LONG=1`.
const CASES: (u64, u64) = (200, 10_000);
const WORKERS: u64 = 2;
/// No case takes longer, however busy the machine is, or it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// As the store makes the database.
const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    HeaderBytes,
    PageByte,
    BitFlip,
    PageZeroed,
    PageGarbage,
    PagesSwapped,
    Truncated,
    LogDamaged,
    LogTruncated,
}

const KINDS: [Kind; 9] = [
    Kind::HeaderBytes,
    Kind::PageByte,
    Kind::BitFlip,
    Kind::PageZeroed,
    Kind::PageGarbage,
    Kind::PagesSwapped,
    Kind::Truncated,
    Kind::LogDamaged,
    Kind::LogTruncated,
];

impl Kind {
    fn is_of_log(self) -> bool {
        matches!(self, Self::LogDamaged | Self::LogTruncated)
    }

    /// Whether it may be so small that it hits nothing but a value that exists nowhere else.
    fn is_small(self) -> bool {
        matches!(self, Self::PageByte | Self::BitFlip)
    }
}

/// What the users of a store can see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    users: Vec<User>,
    trashed: Vec<TrashedUser>,
    /// Whether those who were purged are known to have been.
    purged: Vec<bool>,
}

/// Two stores to be damaged, as the files that they are: one that was closed, and the same one
/// after more was written by a process that ended without closing it.
struct Stores {
    dir: TempDir,
    closed: Seen,
    /// What the second one was after each commit since it was opened.
    history: Vec<Seen>,
}

const USERS: u64 = 300;
/// Two who are purged have these numbers.
const PURGED: Range<u64> = 298..300;
const STEPS: u64 = 24;

impl Stores {
    fn new() -> Self {
        let dir = crate::support::in_memory();
        let closed = block_on(make_closed(&dir.path().join("closed")));
        for copy in ["crashed", "replayed"] {
            copy_store(&dir.path().join("closed"), &dir.path().join(copy));
        }
        let child =
            Process::start("writes and ends without closing", &dir.path().join("crashed"), "");
        child.end();
        assert!(fs::metadata(dir.path().join("crashed/tenantry.db-wal")).unwrap().len() > 0);
        let mut history = vec![closed.clone()];
        block_on(async {
            let (store, clock) = open_with_clock(&dir.path().join("replayed")).await;
            for step in 0..STEPS {
                write_step(&store, &clock, step).await;
                history.push(see(&store).await.unwrap());
            }
            store.close().await.unwrap();
        });
        Self { dir, closed, history }
    }

    fn now(&self, is_crashed: bool) -> &Seen {
        if is_crashed { self.history.last().unwrap() } else { &self.closed }
    }
}

async fn open_with_clock(data_dir: &Path) -> (Store, TestClock) {
    let clock = TestClock::new();
    let store = Store::builder(data_dir).ambient(Arc::new(clock.clone())).open().await.unwrap();
    (store, clock)
}

fn user_number(number: u64) -> NewUser {
    let address = format!(
        "User{number}.{:x}@Example{}.com",
        numbered_id(number).as_uuid().as_u128() >> 112,
        number % 3
    );
    let new = if number.is_multiple_of(10) {
        new_user_at(&address, &format!("customers/{number}"))
    } else {
        new_user(&address)
    };
    NewUser { id: Some(numbered_id(1_000 + number)), ..new }
}

async fn make_closed(data_dir: &Path) -> Seen {
    let (store, clock) = open_with_clock(data_dir).await;
    for created in store.create_many((0..USERS).map(user_number).collect()).await.unwrap() {
        created.unwrap();
    }
    let id = |number: u64| numbered_id(1_000 + number);
    for number in PURGED {
        store.delete(id(number)).await.unwrap();
        store.purge(Purge::User(id(number)), |_| {}).await.unwrap();
    }
    for number in (0..50).step_by(10) {
        store.directory(id(number)).await.unwrap().write("a file", "of theirs").unwrap();
    }
    for number in (0..40).step_by(4) {
        clock.forward(1);
        store.record_login(id(number)).await.unwrap();
    }
    for number in (20..220).step_by(9) {
        store.delete(id(number)).await.unwrap();
    }
    let seen = see(&store).await.unwrap();
    store.close().await.unwrap();
    seen
}

/// One commit, or a delete's two, of which the first is all that can be seen.
async fn write_step(store: &Store, clock: &TestClock, step: u64) {
    clock.forward(1);
    let id = |number: u64| numbered_id(1_000 + number);
    match step % 4 {
        0 => drop(store.create(user_number(USERS + step)).await.unwrap()),
        1 => drop(
            store.update(id(step), to_email(&format!("other{step}@example.com"))).await.unwrap(),
        ),
        2 => drop(store.record_login(id(step)).await.unwrap()),
        _ => drop(store.delete(id(223 + step)).await.unwrap()),
    }
}

pub(crate) fn child_writes_and_ends(data_dir: &Path) {
    block_on(async {
        let (store, clock) = open_with_clock(data_dir).await;
        for step in 0..STEPS {
            write_step(&store, &clock, step).await;
        }
    });
    // Not a destructor is run, so that the log stays.
    process::exit(0);
}

async fn see(store: &Store) -> Result<Seen, Error> {
    let mut pages = store.pages(ListQuery { limit: 50, ..ListQuery::default() });
    let mut users = Vec::new();
    while let Some(page) = pages.next().await? {
        users.extend(page);
    }
    let trashed =
        store.list_trash(&TrashQuery { limit: 1_000, ..TrashQuery::default() }).await?.users;
    let purged = store.read(|tx| {
        PURGED.map(|number| tx.was_purged(numbered_id(1_000 + number))).collect::<Result<_, _>>()
    });
    Ok(Seen { users, trashed, purged: purged.await? })
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let goes_to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_store(&entry.path(), &goes_to);
        } else {
            fs::copy(entry.path(), goes_to).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

fn damage(kind: Kind, data_dir: &Path, random: &mut Random) {
    let change = |name: &str, change: &mut dyn FnMut(&mut Vec<u8>)| {
        let file = data_dir.join(name);
        let mut octets = fs::read(&file).unwrap();
        change(&mut octets);
        fs::write(file, octets).unwrap();
    };
    let another = |octet: u8, random: &mut Random| octet ^ (1 + random.at(255)) as u8;
    let fill = |octets: &mut [u8], random: &mut Random| octets.fill_with(|| random.at(256) as u8);
    match kind {
        Kind::HeaderBytes => change("tenantry.db", &mut |octets| {
            for _ in 0..=random.at(4) {
                let at = random.at(100);
                octets[at] = another(octets[at], random);
            }
        }),
        Kind::PageByte => change("tenantry.db", &mut |octets| {
            let at = random.at(octets.len());
            octets[at] = another(octets[at], random);
        }),
        Kind::BitFlip => change("tenantry.db", &mut |octets| {
            let at = random.at(octets.len());
            octets[at] ^= 1 << random.at(8);
        }),
        Kind::PageZeroed => change("tenantry.db", &mut |octets| {
            let page = random.at(octets.len() / PAGE) * PAGE;
            octets[page..page + PAGE].fill(0);
        }),
        Kind::PageGarbage => change("tenantry.db", &mut |octets| {
            let page = random.at(octets.len() / PAGE) * PAGE;
            fill(&mut octets[page..page + PAGE], random);
        }),
        Kind::PagesSwapped => change("tenantry.db", &mut |octets| {
            let pages = octets.len() / PAGE;
            let one = random.at(pages);
            let other = (one + 1 + random.at(pages - 1)) % pages;
            swap_pages(octets, one, other);
        }),
        Kind::Truncated => change("tenantry.db", &mut |octets| {
            // At the end of a page, where that is less easily seen, or anywhere.
            let length = random.at(octets.len());
            octets.truncate(if random.at(2) == 0 { length } else { length / PAGE * PAGE });
        }),
        Kind::LogDamaged => change("tenantry.db-wal", &mut |octets| {
            let at = random.at(octets.len());
            let end = (at + 1 + random.at(PAGE)).min(octets.len());
            match random.at(3) {
                0 => octets[at] = another(octets[at], random),
                1 => octets[at..end].fill(0),
                _ => fill(&mut octets[at..end], random),
            }
        }),
        Kind::LogTruncated if random.at(2) == 0 => {
            change("tenantry.db-wal", &mut |octets| octets.truncate(random.at(octets.len())));
        }
        // Its index, which is made anew when nobody has the store open.
        Kind::LogTruncated => change("tenantry.db-shm", &mut |octets| match random.at(3) {
            0 => octets.truncate(random.at(octets.len())),
            1 => octets.fill(0),
            _ => fill(octets, random),
        }),
    }
}

/// What a damaged store had to say to whoever used it.
#[derive(Debug, Default)]
struct Told {
    errors: Vec<(&'static str, ErrorKind, String)>,
    findings: Vec<FindingKind>,
    seen: Option<Seen>,
    /// A lookup that answered otherwise than the list did.
    contradiction: Option<String>,
}

impl Told {
    fn tells_damage(&self) -> bool {
        self.errors.iter().any(|(_, kind, _)| TELL_DAMAGE.contains(kind))
    }

    fn take<T>(&mut self, what: &'static str, result: Result<T, Error>) -> Option<T> {
        result
            .inspect_err(|error| {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                self.errors.push((what, error.kind(), format!("{error} ({source})")));
            })
            .ok()
    }
}

/// The errors that tell whoever uses the store that it is damaged. Others, such as `NotFound`, may
/// come of the damage too, but tell nobody.
const TELL_DAMAGE: [ErrorKind; 4] =
    [ErrorKind::Corrupt, ErrorKind::Incompatible, ErrorKind::Io, ErrorKind::StorageUnavailable];

/// Does with a store what its users do, and tells everything that came of it.
async fn use_store(data_dir: &Path, random: &mut Random) -> Told {
    let mut told = Told::default();
    let opening = Store::builder(data_dir).busy_timeout(Duration::from_secs(1));
    if let Some(store) = told.take("open", opening.open().await) {
        if let Some(seen) = told.take("list", see(&store).await) {
            for _ in 0..20 {
                if seen.users.is_empty() {
                    break;
                }
                let user = random.one_of(&seen.users);
                let by_id = told.take("get", store.get(user.id).await);
                let by_email = told.take("get by email", store.get_by_email(&user.email).await);
                for found in [by_id, by_email].into_iter().flatten() {
                    if found.as_ref() != Some(user) {
                        told.contradiction = Some(format!("{user:?} is looked up as {found:?}"));
                    }
                }
            }
            told.seen = Some(seen);
        }
        let new = told.take("create", store.create(new_user("new@example.com")).await);
        if let Some(new) = &new
            && let Some(found) = told.take("get", store.get(new.id).await)
            && found.as_ref() != Some(new)
        {
            told.contradiction = Some("who was created isn't there".to_owned());
        }
        let some = numbered_id(1_000 + random.at(10) as u64);
        told.take("login", store.record_login(some).await);
        told.take("update", store.update(some, to_email("moved@example.com")).await);
        if let Some(report) = told.take("check", check(data_dir).await) {
            told.findings = report.findings.iter().map(|finding| finding.kind).collect();
            told.findings.dedup();
        }
        told.take("close", store.close().await);
    } else if let Some(report) = told.take("check", check(data_dir).await) {
        told.findings = report.findings.iter().map(|finding| finding.kind).collect();
        told.findings.dedup();
    }
    told
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// An error said so, at the latest when something was written.
    Error,
    /// Only the check did.
    Finding,
    /// Everything is as it was.
    Unharmed,
    /// Everything is as it was some commits before.
    Earlier,
    /// Nothing was said, and a value is another one that can't be told from the right one.
    ValueDiffers,
    /// Nothing was said, and something is wrong.
    SilentlyWrong,
}

/// What is to be said of a case. Without the findings it is what it would be if nobody ever
/// checked.
fn judge(
    kind: Kind,
    is_crashed: bool,
    stores: &Stores,
    told: &Told,
    with_findings: bool,
) -> Verdict {
    if told.tells_damage() {
        return Verdict::Error;
    }
    if with_findings && !told.findings.is_empty() {
        return Verdict::Finding;
    }
    let (Some(seen), None) = (&told.seen, &told.contradiction) else {
        return Verdict::SilentlyWrong;
    };
    let now = stores.now(is_crashed);
    if seen == now {
        Verdict::Unharmed
    } else if kind.is_of_log() && stores.history.contains(seen) {
        Verdict::Earlier
    } else if with_findings && kind.is_small() && differs_in_values(seen, now) {
        Verdict::ValueDiffers
    } else {
        Verdict::SilentlyWrong
    }
}

/// Whether it is the same users, with the same ids, keys and paths, and one value differs that
/// exists nowhere else.
fn differs_in_values(seen: &Seen, now: &Seen) -> bool {
    let identity = |user: &User| (user.id, user.email.key().to_owned(), user.storage_path.clone());
    let users = |seen: &Seen| seen.users.iter().map(identity).collect::<Vec<_>>();
    let trashed = |seen: &Seen| {
        seen.trashed.iter().map(|trashed| identity(&trashed.user)).collect::<Vec<_>>()
    };
    let differing = seen.users.iter().zip(&now.users).filter(|(seen, now)| seen != now).count()
        + seen.trashed.iter().zip(&now.trashed).filter(|(seen, now)| seen != now).count()
        + seen.purged.iter().zip(&now.purged).filter(|(seen, now)| seen != now).count();
    users(seen) == users(now) && trashed(seen) == trashed(now) && differing == 1
}

/// A case by its number: the kind, and whether the store had crashed before.
fn run_case(stores: &Stores, number: u64) -> (Verdict, Verdict) {
    let kind = KINDS[(number % KINDS.len() as u64) as usize];
    let mut random = Random::new(number);
    let is_crashed = kind.is_of_log() || random.at(2) == 0;
    let place = crate::support::in_memory();
    let data_dir = place.path().join("data");
    copy_store(&stores.dir.path().join(if is_crashed { "crashed" } else { "closed" }), &data_dir);
    damage(kind, &data_dir, &mut random);
    let told = block_on(use_store(&data_dir, &mut random));
    for (what, error, message) in &told.errors {
        // It would be called a mistake of ours. Some damage to the schema is met by nothing but a
        // write.
        let is_told = told.tells_damage() || !told.findings.is_empty();
        let is_of_schema = matches!(*what, "create" | "login" | "update") && is_told;
        assert!(
            *error != ErrorKind::Internal || is_of_schema,
            "{kind:?}, crashed: {is_crashed}: {what}: {message}"
        );
    }
    let verdict = judge(kind, is_crashed, stores, &told, true);
    if verdict == Verdict::SilentlyWrong {
        eprintln!(
            "case {number}, {kind:?}, crashed: {is_crashed}: silently wrong: {:?} {:?}",
            told.contradiction, told.errors
        );
    }
    (verdict, judge(kind, is_crashed, stores, &told, false))
}

#[test]
fn damage_is_reported_or_harmless() {
    let stores = Arc::new(Stores::new());
    let count = share(CASES.0, CASES.1) * KINDS.len() as u64;
    let next = Arc::new(AtomicU64::new(0));
    let (send, receive) = mpsc::channel();
    for _ in 0..WORKERS {
        let (stores, next, send) = (Arc::clone(&stores), Arc::clone(&next), send.clone());
        thread::spawn(move || {
            while let Some(number) =
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count)
            {
                let ended = catch_unwind(AssertUnwindSafe(|| run_case(&stores, number)));
                if send.send((number, ended.ok())).is_err() {
                    break;
                }
            }
        });
    }
    drop(send);
    let mut verdicts: BTreeMap<(Kind, Verdict), u64> = BTreeMap::new();
    let mut missed_without_check = 0;
    let mut panicked = Vec::new();
    let mut left: BTreeSet<u64> = (0..count).collect();
    for _ in 0..count {
        // They are begun in their order, so those that hang are the first that are left.
        let (number, ended) = receive.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!(
                "of these cases one hangs: {:?}",
                left.iter().take(WORKERS as usize).collect::<Vec<_>>()
            )
        });
        left.remove(&number);
        let Some((verdict, unchecked)) = ended else {
            panicked.push(number);
            continue;
        };
        *verdicts.entry((KINDS[(number % KINDS.len() as u64) as usize], verdict)).or_default() += 1;
        missed_without_check +=
            u64::from(unchecked == Verdict::SilentlyWrong && verdict == Verdict::Finding);
    }
    for kind in KINDS {
        let of_kind = verdicts.iter().filter(|((of, _), _)| *of == kind);
        let figures: Vec<_> =
            of_kind.map(|((_, verdict), count)| format!("{count} {verdict:?}")).collect();
        report("damaged files", format_args!("{kind:?}: {}", figures.join(", ")));
    }
    report(
        "damaged files",
        format_args!("{missed_without_check} would be silently wrong if nobody ever checked"),
    );
    assert!(panicked.is_empty(), "cases that panicked: {panicked:?}");
    let wrong: u64 = verdicts
        .iter()
        .filter(|((_, verdict), _)| *verdict == Verdict::SilentlyWrong)
        .map(|(_, n)| n)
        .sum();
    assert_eq!(wrong, 0, "cases that are silently wrong");
    // The harness can fail: a check that looks at nothing, planted in the verdict, lets wrong rows
    // pass.
    assert!(missed_without_check > 0, "no case needs the check");
}

/// A copy of the closed store with its database changed.
fn damaged_by(stores: &Stores, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let place = crate::support::in_memory();
    copy_store(&stores.dir.path().join("closed"), &place.path().join("data"));
    let database = place.path().join("data/tenantry.db");
    let mut octets = fs::read(&database).unwrap();
    change(&mut octets);
    fs::write(database, octets).unwrap();
    place
}

fn read_only(stores: &Stores) -> Connection {
    let database = stores.dir.path().join("closed/tenantry.db");
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn swap_pages(octets: &mut [u8], one: usize, other: usize) {
    for index in 0..PAGE {
        octets.swap(one * PAGE + index, other * PAGE + index);
    }
}

fn findings(place: &TempDir) -> Vec<FindingKind> {
    let report = block_on(check(place.path().join("data"))).unwrap();
    report.findings.iter().map(|finding| finding.kind).collect()
}

/// A walk from page to page had gone round in a circle, without end, and an export with it.
#[test]
fn a_walk_ends_though_the_rows_are_not_in_their_order() {
    let stores = Stores::new();
    let (conn, mut leaves) = (read_only(&stores), Vec::new());
    let mut statement = conn
        .prepare("SELECT pageno - 1 FROM dbstat WHERE name = 'users' AND pagetype = 'leaf'")
        .unwrap();
    leaves
        .extend(statement.query_map([], |row| row.get::<_, usize>(0)).unwrap().map(Result::unwrap));
    assert!(leaves.len() > 5);
    let mut told = 0;
    for (index, one) in leaves.iter().enumerate() {
        for other in &leaves[index + 1..] {
            let place = damaged_by(&stores, |octets| swap_pages(octets, *one, *other));
            let walked = block_on(async {
                let store = Store::open(place.path().join("data")).await?;
                // More than a leaf holds, so that a page goes from one to the next.
                let mut pages = store.pages(ListQuery { limit: 60, ..ListQuery::default() });
                let mut count = 0;
                while let Some(page) = pages.next().await? {
                    count += page.len() as u64;
                    assert!(count <= USERS, "a walk over {USERS} users goes on and on");
                }
                store.close().await
            });
            told += u64::from(walked.is_err_and(|error| error.kind() == ErrorKind::Corrupt));
            assert!(
                findings(&place).contains(&FindingKind::DatabaseDamaged),
                "pages {one} and {other}"
            );
        }
    }
    assert!(told > 0);
}

/// SQLite's own check doesn't see it, and an id that was purged could have been given out again.
#[test]
fn rows_that_stand_in_a_partial_index_alone_are_found() {
    let stores = Stores::new();
    let conn = read_only(&stores);
    let root = |name: &str| -> usize {
        conn.query_row("SELECT rootpage - 1 FROM sqlite_schema WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .unwrap()
    };
    let (table, index) =
        (root("tenantry_retired_users"), root("tenantry_retired_users_storage_path"));
    let place = damaged_by(&stores, |octets| swap_pages(octets, table, index));
    assert_eq!(findings(&place), [FindingKind::DatabaseDamaged]);
    assert_eq!(findings(&damaged_by(&stores, |_| {})), []);
}

/// It had been called a mistake in Tenantry.
#[test]
fn a_schema_that_can_be_read_and_is_another_is_damage() {
    let stores = Stores::new();
    let errors = |change: &dyn Fn(&mut Vec<u8>)| {
        let place = damaged_by(&stores, change);
        let data_dir = place.path().join("data");
        let opened = block_on(Store::open(&data_dir)).err().map(|error| error.kind());
        (opened, block_on(check(&data_dir)).unwrap_err().kind())
    };
    let replace = |octets: &mut Vec<u8>, what: &str, by: &str| {
        let at = octets.windows(what.len()).position(|window| window == what.as_bytes()).unwrap();
        octets[at..at + by.len()].copy_from_slice(by.as_bytes());
    };
    let corrupt = (Some(ErrorKind::Corrupt), ErrorKind::Corrupt);
    // The number of the schema's format in the header, of which there are four.
    assert_eq!(errors(&|octets| octets[47] = 9), corrupt);
    assert_eq!(errors(&|octets| replace(octets, "log_syncs", "log_sinks")), corrupt);
    // A function in a constraint, which is looked for only when a row is written or checked.
    assert_eq!(
        errors(&|octets| replace(octets, "length(id)", "lenght(id)")),
        (None, ErrorKind::Corrupt)
    );
}
