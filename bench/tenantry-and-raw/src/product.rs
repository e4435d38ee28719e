//! Tenantry through its public face, as an application would use it.

use bench_protocol::{Caller, Job, email, id};
use futures_lite::future::block_on;
use tenantry::sqlite::rusqlite;
use tenantry::{Cursor, Email, ListQuery, NewUser, Store, User, UserId};

pub(crate) fn run(job: &Job) {
    if job.workload == "open" {
        return open(job);
    }
    let store = block_on(Store::open(&job.data)).expect("a store");
    let callers = match (job.peer.as_str(), job.workload.as_str()) {
        ("tenantry-tasks", "create") => tasks(job, &store, create),
        ("tenantry-tasks", "sign-in") => tasks(job, &store, sign_in),
        (_, "create") => threads(job, &store, create),
        (_, "sign-in") => threads(job, &store, sign_in),
        (_, "get-by-id") => threads(job, &store, get_by_id),
        (_, "get-by-email") => threads(job, &store, get_by_email),
        (_, "page-first") => pages(job, &store, None),
        (_, "page-10000") => pages(job, &store, Some(cursor_of_page_10000(&store))),
        // A reader beside callers who write, of whom none is counted.
        (_, "read-beside") => read_beside(job, &store),
        (_, workload) => panic!("no such workload: {workload}"),
    };
    let each = if job.workload.starts_with("page") { 100 } else { 1 };
    let before = std::time::Instant::now();
    block_on(store.close()).expect("closed");
    let extra = format!(",\"close_seconds\":{:.3}", before.elapsed().as_secs_f64());
    job.report(callers, each, rusqlite::version(), &extra);
}

async fn create(store: &Store, caller: &mut Caller) {
    let address: Email = email(caller.new_user()).parse().expect("an address");
    store.create(NewUser::new(address)).await.expect("created");
}

async fn sign_in(store: &Store, caller: &mut Caller) {
    let address: Email = email(caller.pick()).parse().expect("an address");
    assert!(!store.sign_in(address).await.expect("signed in").is_new);
}

async fn get_by_id(store: &Store, caller: &mut Caller) {
    let id = UserId::from_uuid(uuid_of(id(caller.pick()))).expect("version 4");
    let _: User = store.get(id).await.expect("read").expect("found");
}

async fn get_by_email(store: &Store, caller: &mut Caller) {
    let address: Email = email(caller.pick()).parse().expect("an address");
    let _: User = store.get_by_email(&address).await.expect("read").expect("found");
}

fn uuid_of(bytes: [u8; 16]) -> uuid::Uuid {
    uuid::Uuid::from_bytes(bytes)
}

fn threads(
    job: &Job,
    store: &Store,
    work: impl AsyncFn(&Store, &mut Caller) + Sync,
) -> Vec<Caller> {
    job.threads(|| {
        let (store, work) = (store.clone(), &work);
        move |caller| block_on(work(&store, caller))
    })
}

fn tasks<F>(job: &Job, store: &Store, work: F) -> Vec<Caller>
where
    F: for<'a> Work<'a> + Copy + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
    runtime.block_on(async {
        let spawn = |number| {
            let (store, mut caller) = (store.clone(), job.caller(number));
            tokio::spawn(async move {
                while caller.goes_on() {
                    work.call(&store, &mut caller).await;
                }
                caller
            })
        };
        let tasks: Vec<_> = (0..job.callers).map(spawn).collect();
        let mut callers = Vec::new();
        for task in tasks {
            callers.push(task.await.expect("a caller failed"));
        }
        callers
    })
}

/// An async function whose future can go to another thread, which can't be said of an `AsyncFn`
/// yet.
trait Work<'a> {
    fn call(&self, store: &'a Store, caller: &'a mut Caller) -> impl Future<Output = ()> + Send;
}

impl<'a, F, R> Work<'a> for F
where
    F: Fn(&'a Store, &'a mut Caller) -> R,
    R: Future<Output = ()> + Send,
{
    fn call(&self, store: &'a Store, caller: &'a mut Caller) -> impl Future<Output = ()> + Send {
        self(store, caller)
    }
}

fn pages(job: &Job, store: &Store, cursor: Option<Cursor>) -> Vec<Caller> {
    let query = ListQuery { limit: 100, cursor, ..ListQuery::default() };
    threads(job, store, async |store: &Store, _: &mut Caller| {
        assert_eq!(store.list(&query).await.expect("read").users.len(), 100);
    })
}

/// Where the page ends that is the 9,999th of 100 users.
fn cursor_of_page_10000(store: &Store) -> Cursor {
    let mut query = ListQuery { limit: 900, ..ListQuery::default() };
    for _ in 0..1_111 {
        query.cursor = block_on(store.list(&query)).expect("read").next_cursor;
    }
    query.cursor.expect("1 million users")
}

/// One thread that reads, while `--callers` others create users (as tasks).
fn read_beside(job: &Job, store: &Store) -> Vec<Caller> {
    std::thread::scope(|scope| {
        let writers = (job.callers > 0).then(|| scope.spawn(|| tasks(job, store, create)));
        let mut caller = job.caller(job.callers);
        while caller.goes_on() {
            block_on(get_by_id(store, &mut caller));
        }
        writers.map(|writers| writers.join().expect("the writers failed"));
        vec![caller]
    })
}

fn open(job: &Job) {
    let callers = job.threads(|| {
        |_: &mut Caller| {
            let store = block_on(Store::open(&job.data)).expect("a store");
            block_on(store.close()).expect("closed");
        }
    });
    job.report(callers, 1, rusqlite::version(), "");
}
