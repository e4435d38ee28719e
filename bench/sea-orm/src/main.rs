//! SeaORM with its entities, over sqlx and its pool.

use std::time::Duration;

use bench_protocol::{Caller, Job, email, id, now_us, schema};
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ActiveValue::Set, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, entity::prelude::*,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub seq: i64,
    pub id: Vec<u8>,
    pub email_key: String,
    pub email: String,
    pub created_at: i64,
    pub last_login_at: Option<i64>,
    pub updated_at: i64,
    pub version: i64,
    pub storage_path: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

async fn create(db: &DatabaseConnection, number: u64) -> Result<(), DbErr> {
    let (address, now) = (email(number), now_us());
    let user = ActiveModel {
        id: Set(id(number).to_vec()),
        email_key: Set(address.to_ascii_lowercase()),
        email: Set(address),
        created_at: Set(now),
        updated_at: Set(now),
        version: Set(1),
        ..Default::default()
    };
    user.insert(db).await.map(drop)
}

async fn call(workload: &str, db: &DatabaseConnection, caller: &mut Caller) -> Result<(), DbErr> {
    let found = match workload {
        "create" => return create(db, caller.new_user()).await,
        "get-by-id" => Entity::find().filter(Column::Id.eq(id(caller.pick()).to_vec())).one(db).await?,
        "get-by-email" => {
            let key = email(caller.pick()).to_ascii_lowercase();
            Entity::find().filter(Column::EmailKey.eq(key)).one(db).await?
        }
        workload => panic!("no such workload: {workload}"),
    };
    found.map(drop).ok_or(DbErr::RecordNotFound(workload.to_owned()))
}

async fn run(job: Job) -> Result<(), DbErr> {
    std::fs::create_dir_all(&job.data).expect("a directory");
    let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", job.database().display()));
    options.sqlx_logging(false).acquire_timeout(Duration::from_secs(60)).map_sqlx_sqlite_opts(|options| {
        options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30))
    });
    let db = Database::connect(options).await?;
    db.execute_unprepared(&schema()).await?;
    let version = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, "SELECT sqlite_version()");
    let sqlite: String = db.query_one_raw(version).await?.expect("a row").try_get_by_index(0)?;

    let spawn = |number| {
        let (db, workload, mut caller) = (db.clone(), job.workload.clone(), job.caller(number));
        tokio::spawn(async move {
            while caller.goes_on() {
                call(&workload, &db, &mut caller).await.expect("done");
            }
            caller
        })
    };
    let tasks: Vec<_> = (0..job.callers).map(spawn).collect();
    let mut callers = Vec::new();
    for task in tasks {
        callers.push(task.await.expect("a caller failed"));
    }
    job.report(callers, 1, &sqlite, "");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), DbErr> {
    run(Job::from_args()).await
}
