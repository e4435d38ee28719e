//! Makes what the runs need: stores of any size, files to import, and the account of where the
//! bytes are.

use std::fs::File;
use std::io::{BufWriter, Write};

use bench_protocol::{Job, created_at, email, id, last_login_at, scatter, schema};
use futures_lite::future::block_on;
use tenantry::sqlite::rusqlite::{Connection, Result};
use tenantry::{Store, Timestamp};

use crate::raw;

pub(crate) fn run(job: &Job) {
    match job.workload.as_str() {
        "store" => store(job).expect("a store"),
        "csv" => csv(job, 0..job.rows, "users").expect("files"),
        "csv-more" => csv(job, job.rows..2 * job.rows, "more").expect("files"),
        "schema" => println!("{}", schema()),
        "bytes" => bytes(job).expect("an account"),
        workload => panic!("no such workload: {workload}"),
    }
}

/// A store of the product's own, with the users put in as an import would, but with a page cache
/// that holds all of them.
fn store(job: &Job) -> Result<()> {
    block_on(async { Store::open(&job.data).await?.close().await }).expect("an empty store");
    let mut conn = Connection::open(job.database())?;
    conn.execute_batch(
        "PRAGMA cache_size = -4000000; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0",
    )?;
    let tx = conn.transaction()?;
    for number in 0..job.rows {
        raw::insert_prepared(&tx, number)?;
    }
    tx.commit()?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(TRUNCATE)")
}

/// The users as Tenantry imports them, and as the shell does: there with ids of 16 characters,
/// since CSV has no blobs, keys made already, and times as numbers.
fn csv(job: &Job, numbers: std::ops::Range<u64>, name: &str) -> std::io::Result<()> {
    let file =
        |suffix| File::create(job.data.join(format!("{name}-{suffix}.csv"))).map(BufWriter::new);
    let (mut ours, mut shell) = (file("tenantry")?, file("shell")?);
    writeln!(ours, "id,email,created_at,last_login_at,updated_at,version")?;
    for number in numbers {
        let (address, seq) = (email(number), number + 1);
        let (created, login) = (created_at(number), last_login_at(number));
        let time = |us| Timestamp::from_unix_us(us).expect("a time");
        let uuid = uuid::Uuid::from_bytes(id(number));
        writeln!(ours, "{uuid},{address},{},{},{},1", time(created), time(login), time(created))?;
        let (id, key) = (scatter(number), address.to_ascii_lowercase());
        writeln!(shell, "{seq},{id:016x},{key},{address},{created},{login},{created},1")?;
    }
    ours.flush()?;
    shell.flush()
}

/// A line of JSON for each B-tree: its pages, and how much of them is content, its management, and
/// empty.
fn bytes(job: &Job) -> Result<()> {
    let conn = Connection::open(job.database())?;
    let mut trees = conn.prepare(
        "SELECT name, count(*), sum(pgsize), sum(payload), sum(unused), sum(ncell) FROM dbstat GROUP BY name ORDER BY 3 DESC",
    )?;
    let mut rows = trees.query([])?;
    while let Some(row) = rows.next()? {
        let [pages, bytes, payload, unused, cells] =
            [1, 2, 3, 4, 5].map(|at| row.get::<_, i64>(at).unwrap_or(0));
        let name: String = row.get(0)?;
        println!(
            "{{\"name\":\"{name}\",\"pages\":{pages},\"bytes\":{bytes},\"payload\":{payload},\"unused\":{unused},\"cells\":{cells}}}"
        );
    }
    // What each column takes in a row (<https://sqlite.org/fileformat2.html#record_format>); the
    // key of the table stands outside.
    let mut columns = conn.prepare("SELECT name FROM pragma_table_info('users') WHERE pk = 0")?;
    for name in columns.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        let average = format!(
            "SELECT avg(CASE typeof({name}) WHEN 'null' THEN 0 WHEN 'integer' THEN
                CASE WHEN {name} IN (0, 1) THEN 0 WHEN abs({name}) < 1 << 7 THEN 1 WHEN abs({name}) < 1 << 15 THEN 2
                WHEN abs({name}) < 1 << 23 THEN 3 WHEN abs({name}) < 1 << 31 THEN 4 WHEN abs({name}) < 1 << 47 THEN 6 ELSE 8 END
                ELSE length(CAST({name} AS BLOB)) END) FROM users"
        );
        let bytes: f64 = conn.query_row(&average, [], |row| row.get(0))?;
        println!("{{\"column\":\"{name}\",\"bytes\":{bytes:.1}}}");
    }
    Ok(())
}
