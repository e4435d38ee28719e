//! How an application is tested: a store of its own for each test, and a clock that the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures_lite::future::block_on;
use tempfile::TempDir;
use tenantry::uuid::Builder as UuidBuilder;
use tenantry::{Ambient, Email, Result, Store, Timestamp, UserId};

/// The part of an application that is to be tested: greets users, newcomers in another way.
async fn greet(store: &Store, email: Email) -> Result<String> {
    let found = store.sign_in(email).await?;
    let word = if found.is_new { "Welcome" } else { "Welcome back" };
    Ok(format!("{word}, it is {}", found.user.last_login_at.unwrap_or(found.user.created_at)))
}

/// A clock that stands still until it is set, and ids that are the same in every run.
#[derive(Default)]
struct TestAmbient {
    unix_us: AtomicI64,
    ids: AtomicU64,
}

impl Ambient for TestAmbient {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_us(self.unix_us.load(Ordering::Relaxed))
            .expect("a time that the test has set")
    }

    fn new_id(&self) -> UserId {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let uuid = UuidBuilder::from_random_bytes(u128::from(number).to_be_bytes()).into_uuid();
        UserId::from_uuid(uuid).expect("a UUID of version 4")
    }
}

/// A store that is removed with its directory. Field order matters: the store is dropped first.
struct TestStore {
    store: Store,
    ambient: Arc<TestAmbient>,
    _dir: TempDir,
}

impl TestStore {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let ambient = Arc::new(TestAmbient::default());
        let store = block_on(Store::builder(dir.path()).ambient(ambient.clone()).open())?;
        Ok(Self { store, ambient, _dir: dir })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestStore::new()?;
    block_on(async {
        let ada: Email = "ada@example.com".parse()?;
        assert_eq!(
            greet(&test.store, ada.clone()).await?,
            "Welcome, it is 1970-01-01T00:00:00.000000Z"
        );
        test.ambient.unix_us.store(86_400_000_000, Ordering::Relaxed);
        assert_eq!(
            greet(&test.store, ada).await?,
            "Welcome back, it is 1970-01-02T00:00:00.000000Z"
        );
        test.store.close().await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_runs() {
        super::main().unwrap();
    }
}
