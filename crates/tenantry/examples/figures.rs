//! Prints the figures that the documentation names:
//! `cargo run --release -p tenantry --example figures [USERS]`. They are of one machine and one
//! moment; only their order of magnitude is promised.
#![allow(clippy::disallowed_macros, reason = "figures that can't be printed are of no use")]

use std::time::{Duration, Instant};

use tenantry::{Error, Filter, ListQuery, NewUser, Purge, Result, Store, User, UserId};

fn main() -> Result<()> {
    let users: u64 =
        std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let dir = std::env::temp_dir().join(format!("tenantry-figures-{}", std::process::id()));
    let measured = futures_lite::future::block_on(measure(&dir, users));
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

async fn measure(dir: &std::path::Path, users: u64) -> Result<()> {
    let store = Store::open(dir).await?;
    let filled = store.write(move |tx| {
        for number in 0..users {
            // Addresses in no order, as people's are.
            let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            tx.create(&NewUser::new(format!("{scattered:x}@example.com").parse()?))?;
        }
        Ok::<_, Error>(())
    });
    println!("{users} users created in one transaction: {:?}", timed(filled).await?.1);

    let thousand = ListQuery { limit: 1_000, ..ListQuery::default() };
    let page = store.list(&thousand).await?.users;
    let (count, took) = timed(store.count()).await?;
    println!("counting {count}: {took:?}");
    let (_, took) = timed(store.list(&thousand)).await?;
    println!("a page of 1,000: {took:?}");
    let (_, took) = timed(async {
        for user in &page {
            store.get(user.id).await?;
        }
        Ok(())
    })
    .await?;
    println!("a user by id: {:?}", took / 1_000);
    let (_, took) = timed(async {
        for user in &page {
            store.get_by_email(&user.email).await?;
        }
        Ok(())
    })
    .await?;
    println!("a user by email: {:?}", took / 1_000);
    let nobody = Filter { email_contains: Some("nobody".into()), ..Filter::default() };
    let (_, took) =
        timed(store.list(&ListQuery { filter: nobody, ..ListQuery::default() })).await?;
    println!(
        "a filter that nobody meets: {took:?}, {:?} a step of 4,096 rows",
        took / (users / 4_096 + 1) as u32
    );
    let some = &page[..200];
    let (_, took) = timed(each(some, async |id| store.directory(id).await.map(drop))).await?;
    println!("opening a user's directory for the first time: {:?}", took / 200);
    let (_, took) = timed(each(some, async |id| store.directory(id).await.map(drop))).await?;
    println!("opening it again: {:?}", took / 200);
    let (_, took) = timed(each(some, async |id| store.delete(id).await.map(drop))).await?;
    println!("deleting a user with a directory: {:?}", took / 200);
    let (_, took) =
        timed(each(&some[1..], async |id| store.restore(id, None).await.map(drop))).await?;
    println!("restoring one: {:?}", took / 199);
    let (_, took) = timed(store.purge(Purge::User(some[0].id), |_| {})).await?;
    println!("purging one, with the database rewritten: {took:?}");
    store.close().await?;
    let (_, took) = timed(tenantry::check(dir)).await?;
    println!("checking the store: {took:?}");
    Ok(())
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let value = work.await?;
    Ok((value, start.elapsed()))
}

async fn each(users: &[User], operation: impl AsyncFn(UserId) -> Result<()>) -> Result<()> {
    for user in users {
        operation(user.id).await?;
    }
    Ok(())
}
