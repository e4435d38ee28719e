//! What SQLite itself allows: one connection a thread, cached statements, nothing checked that
//! SQLite doesn't check.

use bench_protocol::{Caller, Job, PRAGMAS, created_at, email, id, last_login_at, now_us, schema};
use tenantry::sqlite::rusqlite::{self, Connection, OptionalExtension, Result, Row, params};

/// How many rows are in a transaction of the bound for writing.
const BULK_ROWS: u64 = 10_000;

macro_rules! columns {
    () => {
        "id, email_folded, email, created_at, last_login_at, updated_at, version, storage_path"
    };
}

/// A user as a program wants to have one.
#[allow(dead_code, reason = "what is read is to be there, and not looked at")]
pub(crate) struct User {
    id: [u8; 16],
    /// The key, unless that is the address.
    email_folded: Option<String>,
    email: String,
    created_at: i64,
    last_login_at: Option<i64>,
    updated_at: i64,
    version: i64,
    storage_path: Option<String>,
}

fn from_row(row: &Row<'_>) -> Result<User> {
    Ok(User {
        id: row.get(0)?,
        email_folded: row.get(1)?,
        email: row.get(2)?,
        created_at: row.get(3)?,
        last_login_at: row.get(4)?,
        updated_at: row.get(5)?,
        version: row.get(6)?,
        storage_path: row.get(7)?,
    })
}

pub(crate) fn open(job: &Job) -> Connection {
    std::fs::create_dir_all(&job.data).expect("a directory");
    let conn = Connection::open(job.database()).expect("a database");
    conn.execute_batch(PRAGMAS).expect("the settings");
    conn.execute_batch(&schema()).expect("the tables");
    conn
}

pub(crate) fn insert(conn: &Connection, number: u64) -> Result<()> {
    insert_at(conn, number, now_us(), None)
}

fn insert_at(conn: &Connection, number: u64, now: i64, login: Option<i64>) -> Result<()> {
    let address = email(number);
    let sql =
        concat!("INSERT INTO users (", columns!(), ") VALUES (?1, ?2, ?3, ?4, ?5, ?4, 1, NULL)");
    conn.prepare_cached(sql)?.execute(params![
        id(number),
        folded(&address),
        address,
        now,
        login
    ])?;
    Ok(())
}

fn folded(address: &str) -> Option<String> {
    Some(address.to_ascii_lowercase()).filter(|key| key != address)
}

/// The user with this number, with all columns, as a prepared database holds them.
pub(crate) fn insert_prepared(conn: &Connection, number: u64) -> Result<()> {
    insert_at(conn, number, created_at(number), Some(last_login_at(number)))
}

pub(crate) fn sign_in(conn: &Connection, number: u64) -> Result<User> {
    let sql = concat!(
        "UPDATE users SET last_login_at = ?2 WHERE email_key = ?1 AND deleted_at IS NULL RETURNING ",
        columns!()
    );
    conn.prepare_cached(sql)?
        .query_row(params![email(number).to_ascii_lowercase(), now_us()], from_row)
}

pub(crate) fn get_by_id(conn: &Connection, number: u64) -> Result<Option<User>> {
    let sql = concat!("SELECT ", columns!(), " FROM users WHERE id = ?1 AND deleted_at IS NULL");
    conn.prepare_cached(sql)?.query_row([id(number)], from_row).optional()
}

pub(crate) fn get_by_email(conn: &Connection, number: u64) -> Result<Option<User>> {
    let sql =
        concat!("SELECT ", columns!(), " FROM users WHERE email_key = ?1 AND deleted_at IS NULL");
    conn.prepare_cached(sql)?.query_row([email(number).to_ascii_lowercase()], from_row).optional()
}

fn page(conn: &Connection, after: i64) -> Result<Vec<User>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM users WHERE seq > ?1 AND deleted_at IS NULL ORDER BY seq LIMIT 101"
    );
    let mut users: Vec<User> =
        conn.prepare_cached(sql)?.query_map([after], from_row)?.collect::<Result<_>>()?;
    users.truncate(100);
    Ok(users)
}

fn bulk(conn: &Connection, caller: &mut Caller) -> Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = conn.prepare_cached(
        "INSERT INTO users (id, email_folded, email, created_at, updated_at, version) VALUES (?1, ?2, ?3, ?4, ?4, 1)",
    )?;
    for _ in 0..BULK_ROWS {
        let number = caller.new_user();
        let address = email(number);
        insert.execute(params![id(number), folded(&address), address, now_us()])?;
    }
    conn.execute_batch("COMMIT")
}

pub(crate) fn run(job: &Job) {
    let work: fn(&Connection, &mut Caller) = match job.workload.as_str() {
        "create" => |conn, caller| insert(conn, caller.new_user()).expect("created"),
        "create-bulk" => |conn, caller| bulk(conn, caller).expect("created"),
        "get-by-id" => {
            |conn, caller| drop(get_by_id(conn, caller.pick()).expect("read").expect("found"))
        }
        "get-by-email" => {
            |conn, caller| drop(get_by_email(conn, caller.pick()).expect("read").expect("found"))
        }
        "page-first" => |conn, _| assert_eq!(page(conn, 0).expect("read").len(), 100),
        "page-10000" => |conn, _| assert_eq!(page(conn, 999_900).expect("read").len(), 100),
        workload => panic!("no such workload: {workload}"),
    };
    let callers = job.threads(|| {
        let conn = open(job);
        move |caller| work(&conn, caller)
    });
    let each = match job.workload.as_str() {
        "create-bulk" => BULK_ROWS,
        "page-first" | "page-10000" => 100,
        _ => 1,
    };
    job.report(callers, each, rusqlite::version(), "");
}
