//! Diesel with a pool of r2d2. Diesel keeps the statements of each connection prepared.

use bench_protocol::{Caller, Job, PRAGMAS, email, id, now_us, schema};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Error, Pool};
use diesel::sql_types::Text;
use diesel::{QueryResult, SqliteConnection};

diesel::table! {
    users (seq) {
        seq -> BigInt,
        id -> Binary,
        email_folded -> Nullable<Text>,
        email_key -> Text,
        email -> Text,
        deleted_at -> Nullable<BigInt>,
        created_at -> BigInt,
        last_login_at -> Nullable<BigInt>,
        updated_at -> BigInt,
        version -> BigInt,
        storage_path -> Nullable<Text>,
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(diesel::sqlite::Sqlite))]
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

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    id: &'a [u8],
    email_folded: Option<&'a str>,
    email: &'a str,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

type Connections = Pool<ConnectionManager<SqliteConnection>>;

#[derive(Debug)]
struct Settings;

impl CustomizeConnection<SqliteConnection, Error> for Settings {
    fn on_acquire(&self, conn: &mut SqliteConnection) -> Result<(), Error> {
        conn.batch_execute(PRAGMAS).map_err(Error::QueryError)
    }
}

fn create(conn: &mut SqliteConnection, number: u64) -> QueryResult<()> {
    let (address, now) = (email(number), now_us());
    let (id, key) = (&id(number), address.to_ascii_lowercase());
    let email_folded = Some(&*key).filter(|key| *key != address);
    let new =
        NewUser { id, email_folded, email: &address, created_at: now, updated_at: now, version: 1 };
    conn.immediate_transaction(|conn| diesel::insert_into(users::table).values(new).execute(conn))?;
    Ok(())
}

fn get_by_id(conn: &mut SqliteConnection, number: u64) -> QueryResult<User> {
    users::table.filter(users::id.eq(&id(number)[..])).select(User::as_select()).first(conn)
}

fn get_by_email(conn: &mut SqliteConnection, number: u64) -> QueryResult<User> {
    let key = email(number).to_ascii_lowercase();
    users::table
        .filter(users::email_key.eq(key))
        .filter(users::deleted_at.is_null())
        .select(User::as_select())
        .first(conn)
}

fn call(workload: &str, pool: &Connections, caller: &mut Caller) {
    let conn = &mut pool.get().expect("a connection");
    match workload {
        "create" => create(conn, caller.new_user()).expect("created"),
        "get-by-id" => drop(get_by_id(conn, caller.pick()).expect("found")),
        "get-by-email" => drop(get_by_email(conn, caller.pick()).expect("found")),
        workload => panic!("no such workload: {workload}"),
    }
}

fn main() {
    let job = Job::from_args();
    std::fs::create_dir_all(&job.data).expect("a directory");
    let path = job.database().into_os_string().into_string().expect("a path in UTF-8");
    // The first connection makes it a database with a log, before the others come.
    let mut first = SqliteConnection::establish(&path).expect("a database");
    first.batch_execute(PRAGMAS).expect("the settings");
    first.batch_execute(&schema()).expect("the tables");
    let version = diesel::dsl::sql::<Text>("SELECT sqlite_version()");
    let sqlite: String = version.get_result(&mut first).expect("the version");

    let builder = Pool::builder()
        .max_size(job.callers.min(64) as u32)
        .connection_customizer(Box::new(Settings));
    let pool = builder.build(ConnectionManager::new(path)).expect("a pool");
    let callers = job.threads(|| {
        let (pool, workload) = (pool.clone(), job.workload.clone());
        move |caller| call(&workload, &pool, caller)
    });
    job.report(callers, 1, &sqlite, "");
}
