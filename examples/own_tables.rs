//! Tables of the application's own in the store's file: migrations, one transaction for both, a
//! join, and what the trash and the purge do to them.

use futures_lite::future::block_on;
use tenantry::{Email, NewUser, Purge, Result, Store, User, UserId, sqlite};

const MIGRATIONS: &[&str] = &[
    "CREATE TABLE orders (
        order_id INTEGER PRIMARY KEY,
        user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        item TEXT NOT NULL
    ) STRICT",
    "ALTER TABLE orders ADD COLUMN is_paid INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX orders_by_user ON orders (user_id)",
];

/// Creates a user with their first order: both or neither.
async fn register(store: &Store, email: Email, item: &'static str) -> Result<User> {
    let register = move |tx: &mut tenantry::WriteTx<'_>| {
        let user = tx.create(&NewUser::new(email))?;
        sqlite::connection(tx)
            .execute("INSERT INTO orders (user_id, item) VALUES (?1, ?2)", (user.id, item))?;
        Ok(user)
    };
    store.write(register).await
}

/// The orders of users who aren't in the trash.
async fn orders(store: &Store) -> Result<Vec<(UserId, String)>> {
    let select = |tx: &tenantry::ReadTx<'_>| {
        let conn = sqlite::connection(tx);
        let mut select = conn.prepare_cached(
            "SELECT users.id, orders.item FROM tenantry_living_users AS users
             JOIN orders ON orders.user_id = users.id ORDER BY orders.order_id",
        )?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, sqlite::rusqlite::Error>>()?)
    };
    store.read(select).await
}

async fn run(data_dir: &std::path::Path) -> Result<()> {
    let store = Store::open(data_dir).await?;
    assert_eq!(store.write(|tx| sqlite::migrate(tx, "shop", MIGRATIONS)).await?, MIGRATIONS.len());

    let ada = register(&store, "ada@example.com".parse()?, "tea").await?;
    assert!(register(&store, "ADA@example.com".parse()?, "coffee").await.is_err());
    assert_eq!(orders(&store).await?, [(ada.id, "tea".to_owned())]);

    // The row in `users` stays until the purge, and the orders with it.
    store.delete(ada.id).await?;
    assert_eq!(orders(&store).await?, []);
    store.restore(ada.id, None).await?;
    assert_eq!(orders(&store).await?.len(), 1);

    store.delete(ada.id).await?;
    store.purge(Purge::User(ada.id), |_progress| {}).await?;
    let left = |tx: &tenantry::ReadTx<'_>| {
        Ok::<u64, tenantry::Error>(sqlite::connection(tx).query_row(
            "SELECT count(*) FROM orders",
            [],
            |row| row.get(0),
        )?)
    };
    assert_eq!(store.read(left).await?, 0);

    // An error says what SQLite said.
    let mistake = |tx: &mut tenantry::WriteTx<'_>| {
        sqlite::connection(tx).execute_batch("DELETE FROM nowhere")?;
        Ok::<_, tenantry::Error>(())
    };
    let error = store.write(mistake).await.unwrap_err();
    assert_eq!(error.to_string(), "the database refused a statement: no such table: nowhere");
    store.close().await
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    Ok(block_on(run(dir.path()))?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_runs() {
        super::main().unwrap();
    }
}
