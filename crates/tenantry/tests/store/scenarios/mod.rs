//! The contract of a store, as scenarios that know nothing of its engine. Every engine runs all of
//! them.

use tenantry::{Store, User};

use crate::support::{Bench, Place, block_on, new_user};

/// Makes a test of every scenario for every engine. Another engine is another module like the one
/// of SQLite.
macro_rules! scenarios {
    ($($scenario:ident,)*) => {
        mod sqlite {
            $(
                #[test]
                fn $scenario() {
                    crate::scenarios::run(crate::support::SqlitePlace::new(), super::$scenario);
                }
            )*
        }
    };
}

// Single users: creating, finding, changing and deleting them, and their logins.
mod users;

// What a user may lack: a suspension, an external id, a name, attributes.
mod profile;

// Many users at once.
mod bulk;

// Users with their directories: creation, the trash, purges.
mod lifecycle;

// Directories that are adopted, and measured.
mod adoption;

// Listings: their order, pages, cursors and filters.
mod listing;

// Requests that are performed once, however often they are sent.
mod requests;

// Tokens: what they are known by, how long, and what is kept of them.
mod tokens;

// Batches, closures, imports, and the end of a store.
mod transactions;

fn run(place: impl Place + 'static, scenario: impl AsyncFnOnce(&mut Bench)) {
    block_on(async {
        let mut bench = Bench::new(place).await;
        scenario(&mut bench).await;
        bench.store.close().await.unwrap();
    });
}

async fn create(store: &Store, address: &str) -> User {
    store.create(new_user(address)).await.unwrap()
}

/// A user as they were, but for this.
fn changed(user: &User, change: impl FnOnce(&mut User)) -> User {
    let mut user = user.clone();
    change(&mut user);
    user
}
