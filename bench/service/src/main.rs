//! An HTTP service beside searches: how many requests a second a cheap endpoint serves while others
//! search, as a part of how many it serves alone.
//!
//! `cargo run --release -- [USERS] [ROUNDS] [SECONDS]` in this directory. The service is axum's,
//! with an endpoint that returns a user by id. The load comes over loopback from a process of its
//! own, with a few connections that each wait for the response before the next request. A search is
//! an endless loop over a listing with a fragment that no address holds. Each round measures the
//! service alone, beside the searches, and beside them with their threads at other priorities, one
//! after the other.
#![allow(clippy::disallowed_macros, reason = "figures that can't be printed are of no use")]

mod load;
mod threads;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tenantry::{Error, Filter, ListQuery, NewUser, Store, User, UserId};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const SEARCHES: usize = 4;
/// The priorities that are tried for the threads that search: the library's, and others.
const NICE: [Option<i32>; 4] = [None, Some(0), Some(5), Some(10)];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [command, rest @ ..] = arguments.as_slice()
        && command == "load"
    {
        return load::run(rest);
    }
    let argument = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().unwrap())
    };
    let (users, rounds, seconds) = (argument(0, 300_000), argument(1, 5), argument(2, 3));
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), users);
    println!(
        "{users} users, {rounds} rounds of {seconds} s; medians of requests a second, and of searches a second"
    );
    for (name, runtime) in [
        ("current-thread runtime", Builder::new_current_thread().enable_io().build().unwrap()),
        (
            "runtime with 2 workers",
            Builder::new_multi_thread().worker_threads(2).enable_io().build().unwrap(),
        ),
    ] {
        measure(name, runtime, dir.path(), rounds, seconds);
    }
}

fn fill(dir: &std::path::Path, users: u64) {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(dir).await.unwrap();
        let filled = store.write(move |tx| {
            for number in 0..users {
                let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                tx.create(&NewUser::new(format!("ada.{scattered:x}@example.com").parse()?))?;
            }
            Ok::<_, Error>(())
        });
        filled.await.unwrap();
        store.close().await.unwrap();
    });
}

/// Serves on a thread of its own, as a program would on its main thread, and measures from this
/// one.
fn measure(name: &str, runtime: Runtime, dir: &std::path::Path, rounds: u64, seconds: u64) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let searching = Arc::new(AtomicBool::new(false));
    let searched = Arc::new(AtomicU64::new(0));
    let dir = dir.to_owned();
    let wake = Arc::new(tokio::sync::Notify::new());
    let server = {
        let (searching, searched, wake) =
            (Arc::clone(&searching), Arc::clone(&searched), Arc::clone(&wake));
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let store = Store::open(&dir).await.unwrap();
                let ids: Vec<UserId> = store
                    .list(&ListQuery { limit: 1_000, ..ListQuery::default() })
                    .await
                    .unwrap()
                    .users
                    .iter()
                    .map(|user| user.id)
                    .collect();
                for _ in 0..SEARCHES {
                    tokio::spawn(search(
                        store.clone(),
                        Arc::clone(&searching),
                        Arc::clone(&searched),
                        Arc::clone(&wake),
                    ));
                }
                // So that the threads that search exist.
                store.count().await.unwrap();
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send((listener.local_addr().unwrap(), ids)).unwrap();
                let app = Router::new().route("/users/{id}", get(user)).with_state(store);
                axum::serve(listener, app)
                    .with_graceful_shutdown(async { drop(stopped.await) })
                    .await
                    .unwrap();
            });
        })
    };
    let (address, ids) = is_ready.recv().unwrap();
    let mut alone = Vec::new();
    let mut beside = vec![Vec::new(); NICE.len()];
    let mut searches = vec![Vec::new(); NICE.len()];
    let default = threads::nice_of_searches();
    load::start(address, &ids, 1);
    for _ in 0..rounds {
        alone.push(load::start(address, &ids, seconds));
        for (index, nice) in NICE.into_iter().enumerate() {
            threads::renice_searches(nice.unwrap_or(default));
            searching.store(true, Ordering::Relaxed);
            wake.notify_waiters();
            let before = searched.load(Ordering::Relaxed);
            beside[index].push(load::start(address, &ids, seconds));
            searches[index]
                .push((searched.load(Ordering::Relaxed) - before) as f64 / seconds as f64);
            searching.store(false, Ordering::Relaxed);
        }
    }
    let alone = median(&mut alone);
    println!("{name}: alone {alone:.0}");
    for (index, nice) in NICE.into_iter().enumerate() {
        let (beside, searches) = (median(&mut beside[index]), median(&mut searches[index]));
        let at = nice.map_or(format!("as the library has it (nice {default})"), |nice| {
            format!("at nice {nice}")
        });
        println!(
            "  beside {SEARCHES} searches {at}: {beside:.0}, ratio {:.2}; {searches:.1} searches",
            beside / alone
        );
    }
    drop(stop);
    server.join().unwrap();
}

async fn user(
    State(store): State<Store>,
    Path(id): Path<UserId>,
) -> Result<Json<User>, StatusCode> {
    match store.get(id).await {
        Ok(Some(user)) => Ok(Json(user)),
        Ok(None) => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn search(
    store: Store,
    searching: Arc<AtomicBool>,
    searched: Arc<AtomicU64>,
    wake: Arc<tokio::sync::Notify>,
) {
    let filter = Filter { email_contains: Some("nobody".to_owned()), ..Filter::default() };
    let query = ListQuery { filter, ..ListQuery::default() };
    loop {
        let woken = wake.notified();
        if searching.load(Ordering::Relaxed) {
            assert!(store.list(&query).await.unwrap().users.is_empty());
            searched.fetch_add(1, Ordering::Relaxed);
        } else {
            woken.await;
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
