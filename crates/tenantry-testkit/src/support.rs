use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use futures_lite::future::block_on;
use tempfile::TempDir;
use tenantry::{
    Ambient, Builder, Email, Error, ErrorKind, Filter, ListQuery, NewUser, Result, Store,
    Timestamp, User, UserId, UserUpdate,
};

/// A clock that moves only when it is set, and ids that are the same in every run. Clones are
/// one clock.
#[derive(Clone)]
pub struct TestClock {
    now_us: Arc<AtomicI64>,
    ids: Arc<AtomicU64>,
}

impl TestClock {
    pub fn new() -> Self {
        let start = time("2026-01-01T00:00:00Z").as_unix_us();
        Self { now_us: Arc::new(AtomicI64::new(start)), ids: Arc::default() }
    }

    pub fn forward(&self, seconds: i64) -> Timestamp {
        self.now_us.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
        self.now()
    }

    pub fn back(&self, seconds: i64) -> Timestamp {
        self.forward(-seconds)
    }
}

impl Ambient for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_us(self.now_us.load(Ordering::SeqCst)).unwrap()
    }

    fn new_id(&self) -> UserId {
        numbered_id(self.ids.fetch_add(1, Ordering::SeqCst))
    }
}

/// The id with this number: any, but always the same (splitmix64).
pub fn numbered_id(number: u64) -> UserId {
    let mut z = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    format!("{:08x}-{:04x}-4000-8000-{number:012x}", z >> 32, z & 0xFFFF).parse().unwrap()
}

pub fn email(text: &str) -> Email {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn new_user(text: &str) -> NewUser {
    NewUser::new(email(text))
}

/// A new user who brings a path.
pub fn new_user_at(text: &str, path: &str) -> NewUser {
    NewUser { storage_path: Some(path.parse().unwrap()), ..new_user(text) }
}

pub fn to_email(text: &str) -> UserUpdate {
    UserUpdate { email: Some(email(text)), ..UserUpdate::default() }
}

/// The kind of the error that this has to be.
#[track_caller]
pub fn kind<T: Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub fn page_of(limit: usize) -> ListQuery {
    ListQuery { limit, ..ListQuery::default() }
}

pub fn only(filter: Filter) -> ListQuery {
    ListQuery { filter, ..ListQuery::default() }
}

/// All users that a query finds, page by page.
pub async fn all(store: &Store, query: ListQuery) -> Vec<User> {
    let mut pages = store.pages(query);
    let mut users = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        users.extend(page);
    }
    users
}

pub fn addresses(users: &[User]) -> Vec<&str> {
    users.iter().map(|user| user.email.as_str()).collect()
}

/// Where the stores of one engine live, one at each place, so that a scenario can open its store
/// again.
pub trait Place {
    fn builder(&self) -> Builder;

    /// The data directory of the store, in which the users' directories are.
    fn data_dir(&self) -> PathBuf;
}

/// A directory for files that need not last, in memory if that is possible.
pub fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A temporary directory with a data directory in it, which the first store that is opened creates.
pub struct SqlitePlace {
    dir: TempDir,
}

impl SqlitePlace {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn database(&self) -> PathBuf {
        self.data_dir().join("tenantry.db")
    }

    pub fn open(&self) -> Store {
        block_on(self.builder().open()).unwrap()
    }
}

impl AsRef<Path> for SqlitePlace {
    fn as_ref(&self) -> &Path {
        self.dir.path()
    }
}

impl Place for SqlitePlace {
    fn builder(&self) -> Builder {
        Store::builder(self.data_dir())
    }

    fn data_dir(&self) -> PathBuf {
        Self::data_dir(self)
    }
}

/// What a scenario gets: an empty store, and the clock that it goes by.
pub struct Bench {
    pub store: Store,
    pub clock: TestClock,
    place: Box<dyn Place>,
}

impl Bench {
    pub async fn new(place: impl Place + 'static) -> Self {
        let clock = TestClock::new();
        let store = place.builder().ambient(Arc::new(clock.clone())).open().await.unwrap();
        Self { store, clock, place: Box::new(place) }
    }

    /// A path within the data directory.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.place.data_dir().join(path)
    }

    /// Closes the store and opens it again.
    pub async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store =
            self.place.builder().ambient(Arc::new(self.clock.clone())).open().await.unwrap();
    }
}

/// A writer's thread that is blocked within a closure, so that whatever is written meanwhile
/// queues up.
pub struct BlockedWriter {
    release: mpsc::Sender<()>,
    caller: JoinHandle<()>,
}

impl BlockedWriter {
    pub fn block(store: &Store) -> Self {
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let store = store.clone();
        let caller = thread::spawn(move || {
            let closure = move |_: &mut tenantry::WriteTx<'_>| {
                entered.send(()).unwrap();
                let _ = released.recv();
                Ok::<_, Error>(())
            };
            block_on(store.write(closure)).unwrap();
        });
        has_entered.recv().unwrap();
        Self { release, caller }
    }

    pub fn release(self) {
        drop(self.release);
        self.caller.join().unwrap();
    }
}

/// A future on the heap, so that many of different kinds can be in one list.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Polls a future once, and wakes nobody.
pub fn poll_once<T>(future: &mut Boxed<'_, T>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Puts a write into the queue of a store whose writer is blocked.
pub fn queued<'a, T: Debug>(future: impl Future<Output = T> + 'a) -> Boxed<'a, T> {
    let mut future: Boxed<'a, T> = Box::pin(future);
    let polled = poll_once(&mut future);
    assert!(polled.is_pending(), "answered though the writer stands still: {polled:?}");
    future
}

/// A short time for what has to be refused after waiting.
pub const SHORT: Duration = Duration::from_millis(20);

/// What lies in a directory and below it: the mode of each, the content of a file and where a link
/// leads to. Not to be used on the files of a database that is open.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(above) = dirs.pop() {
        for entry in fs::read_dir(&above).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = if kind.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if kind.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.insert(
                path.strip_prefix(dir).unwrap().to_owned(),
                (entry.metadata().unwrap().permissions().mode(), content),
            );
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

/// The permissions of what is at this path.
pub fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a test can't do without. Without it, a person is told; CI fails.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    say_loudly(what);
}

/// Whether there is `strace`, which has system calls fail or answer something else.
pub fn has_strace() -> bool {
    std::process::Command::new("strace")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[allow(
    clippy::explicit_write,
    reason = "what `eprintln!` says of a test that passes is kept from whoever runs it"
)]
pub fn say_loudly(what: &str) {
    let thread = std::thread::current();
    // Which has the name of the test.
    writeln!(io::stderr(), "SKIPPED {}: {what}", thread.name().unwrap_or_default()).unwrap();
}
