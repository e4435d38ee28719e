//! An application that keeps its own database by SeaORM and its users by Tenantry, in one process.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::entity::prelude::*;
use sea_orm::{Database, Schema};
use tenantry::Store;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "orders")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub user_id: Vec<u8>,
    pub item: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_of_sea_orm_and_a_store_work_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("orders.db").display());
    let orders = Database::connect(url).await.unwrap();
    let store = Store::open(dir.path().join("users")).await.unwrap();

    let create = Schema::new(orders.get_database_backend()).create_table_from_entity(Entity);
    orders.execute(&create).await.unwrap();
    let ada = store.sign_in("ada@example.com".parse().unwrap()).await.unwrap().user;
    let key = ada.id.as_uuid().as_bytes().to_vec();
    let order = ActiveModel { id: NotSet, user_id: Set(key.clone()), item: Set("tea".to_owned()) };
    let order = order.insert(&orders).await.unwrap();

    let found = Entity::find().filter(Column::UserId.eq(key)).one(&orders).await.unwrap();
    assert_eq!(found, Some(order));
    assert_eq!(store.get(ada.id).await.unwrap(), Some(ada));
    assert_eq!(store.count().await.unwrap(), 1);

    orders.close().await.unwrap();
    store.close().await.unwrap();
}
