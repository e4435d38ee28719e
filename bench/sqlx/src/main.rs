//! sqlx with its pool, as its documentation shows it: statements are prepared once a connection and
//! kept.

use std::time::Duration;

use bench_protocol::{Caller, Job, email, id, now_us, schema};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

#[derive(sqlx::FromRow)]
#[allow(dead_code, reason = "what is read is to be there, and not looked at")]
struct User {
    id: Vec<u8>,
    email_key: String,
    email: String,
    created_at: i64,
    last_login_at: Option<i64>,
    updated_at: i64,
    version: i64,
    storage_path: Option<String>,
}

async fn create(pool: &SqlitePool, number: u64) -> sqlx::Result<()> {
    let (address, now) = (email(number), now_us());
    sqlx::query(
        "INSERT INTO users (id, email_folded, email, created_at, updated_at, version) VALUES (?1, ?2, ?3, ?4, ?4, 1)",
    )
    .bind(&id(number)[..])
    .bind(Some(address.to_ascii_lowercase()).filter(|key| *key != address))
    .bind(address)
    .bind(now)
    .execute(pool)
    .await?;
    Ok(())
}

async fn get_by_id(pool: &SqlitePool, number: u64) -> sqlx::Result<User> {
    let sql = "SELECT id, email_key, email, created_at, last_login_at, updated_at, version, storage_path FROM users WHERE id = ?1 AND deleted_at IS NULL";
    sqlx::query_as(sql).bind(&id(number)[..]).fetch_one(pool).await
}

async fn get_by_email(pool: &SqlitePool, number: u64) -> sqlx::Result<User> {
    let sql = "SELECT id, email_key, email, created_at, last_login_at, updated_at, version, storage_path FROM users WHERE email_key = ?1 AND deleted_at IS NULL";
    sqlx::query_as(sql).bind(email(number).to_ascii_lowercase()).fetch_one(pool).await
}

async fn call(workload: &str, pool: &SqlitePool, caller: &mut Caller) -> sqlx::Result<()> {
    match workload {
        "create" => create(pool, caller.new_user()).await,
        "get-by-id" => get_by_id(pool, caller.pick()).await.map(drop),
        "get-by-email" => get_by_email(pool, caller.pick()).await.map(drop),
        workload => panic!("no such workload: {workload}"),
    }
}

async fn run(job: Job) -> sqlx::Result<()> {
    std::fs::create_dir_all(&job.data)?;
    let options = SqliteConnectOptions::new()
        .filename(job.database())
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(Duration::from_secs(60))
        .connect_with(options)
        .await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema())).execute(&pool).await?;
    let sqlite: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&pool).await?;

    let spawn = |number| {
        let (pool, workload, mut caller) = (pool.clone(), job.workload.clone(), job.caller(number));
        tokio::spawn(async move {
            while caller.goes_on() {
                call(&workload, &pool, &mut caller).await.expect("done");
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
async fn main() -> sqlx::Result<()> {
    run(Job::from_args()).await
}
