//! An application that keeps its own database by sqlx and its users by Tenantry, in one process.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tenantry::Store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_sqlx_and_a_store_work_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        SqliteConnectOptions::new().filename(dir.path().join("orders.db")).create_if_missing(true);
    let orders = SqlitePool::connect_with(options).await.unwrap();
    let store = Store::open(dir.path().join("users")).await.unwrap();

    sqlx::query("CREATE TABLE orders (user_id BLOB NOT NULL, item TEXT NOT NULL) STRICT")
        .execute(&orders)
        .await
        .unwrap();
    let ada = store.sign_in("ada@example.com".parse().unwrap()).await.unwrap().user;
    let insert = sqlx::query("INSERT INTO orders VALUES (?1, 'tea')")
        .bind(ada.id.as_uuid().as_bytes().to_vec());
    insert.execute(&orders).await.unwrap();

    // Each has its own file, and each is served by the one SQLite that is linked.
    let row = sqlx::query("SELECT user_id, item, sqlite_version() FROM orders")
        .fetch_one(&orders)
        .await
        .unwrap();
    assert_eq!(row.get::<Vec<u8>, _>(0), ada.id.as_uuid().as_bytes());
    assert_eq!(row.get::<String, _>(1), "tea");
    assert_eq!(row.get::<String, _>(2), tenantry::sqlite::rusqlite::version());
    assert_eq!(store.get(ada.id).await.unwrap(), Some(ada));
    assert_eq!(store.count().await.unwrap(), 1);

    orders.close().await;
    store.close().await.unwrap();
}
