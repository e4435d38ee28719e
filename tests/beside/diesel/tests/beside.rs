//! An application that keeps its own database by Diesel and its users by Tenantry, in one process.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use futures_lite::future::block_on;
use tenantry::Store;

diesel::table! {
    orders (id) {
        id -> BigInt,
        user_id -> Binary,
        item -> Text,
    }
}

#[test]
fn a_connection_of_diesel_and_a_store_work_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.db");
    let mut own = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let store = block_on(Store::open(dir.path().join("users"))).unwrap();

    let create = "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id BLOB NOT NULL, item TEXT NOT NULL) STRICT";
    own.batch_execute(create).unwrap();
    let ada = block_on(store.sign_in("ada@example.com".parse().unwrap())).unwrap().user;
    let key = ada.id.as_uuid().as_bytes().to_vec();
    let order = (orders::user_id.eq(&key), orders::item.eq("tea"));
    diesel::insert_into(orders::table).values(order).execute(&mut own).unwrap();

    let found: Vec<(Vec<u8>, String)> =
        orders::table.select((orders::user_id, orders::item)).load(&mut own).unwrap();
    assert_eq!(found, [(key, "tea".to_owned())]);
    assert_eq!(block_on(store.get(ada.id)).unwrap(), Some(ada));
    assert_eq!(block_on(store.count()).unwrap(), 1);

    block_on(store.close()).unwrap();
}
