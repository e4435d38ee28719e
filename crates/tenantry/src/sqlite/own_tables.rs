//! Migrations of the tables that an application keeps in the store's file.

use rusqlite::{Connection, OptionalExtension, params};

use super::connection;
use crate::{Error, ErrorKind, Result, WriteTx};

/// The longest name of an application's migrations, in octets: far more than a name has.
const NAME_MAX: usize = 64;

/// Executes the missing migrations of an application's own tables, and returns how many those were.
///
/// `PRAGMA user_version` belongs to Tenantry, and a library for migrations wants a connection of
/// its own. This function runs within a transaction of the store: the migrations that are missing
/// are executed in order, with the record of them, and all of it lasts or none does. Each is SQL of
/// one or more statements, and can do what [`connection`] allows. To add one, append it to the
/// list; never change or remove one that was released.
///
/// They are recorded in the table `NAME_migrations`, where `name` is the application's (or a
/// library's): ASCII letters, digits and `_`, beginning with a letter, but not with `tenantry_` or
/// `sqlite_`.
///
/// # Errors
///
/// `InvalidQuery` for another name. `Incompatible` if the list is shorter than the record, as when
/// an older program opens the store, or if a migration's SQL has changed since it was executed.
/// Otherwise those of the SQL, as [`Error`] has them from a `rusqlite::Error`.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// use tenantry::{Store, sqlite};
///
/// const MIGRATIONS: &[&str] = &[
///     "CREATE TABLE notes (
///         user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
///         text TEXT NOT NULL
///     ) STRICT",
///     "CREATE INDEX notes_by_user ON notes (user_id)",
/// ];
///
/// let store = Store::open(dir.path().join("data")).await?;
/// assert_eq!(store.write(|tx| sqlite::migrate(tx, "shop", MIGRATIONS)).await?, 2);
/// assert_eq!(store.write(|tx| sqlite::migrate(tx, "shop", MIGRATIONS)).await?, 0);
/// # store.close().await?;
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub fn migrate(tx: &mut WriteTx<'_>, name: &str, migrations: &[&str]) -> Result<usize> {
    check_name(name)?;
    let (now, conn) = (tx.now(), connection(tx));
    let table = format!("{name}_migrations");
    conn.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {table} (
            version INTEGER NOT NULL PRIMARY KEY, digest BLOB NOT NULL, applied_at INTEGER NOT NULL
        ) STRICT"
    ))?;
    refuse_newer(conn, &table, migrations.len())?;
    let mut executed = 0;
    for (version, sql) in (1_i64..).zip(migrations) {
        let digest = blake3::hash(sql.as_bytes());
        let find = format!("SELECT digest FROM {table} WHERE version = ?1");
        let recorded =
            conn.query_row(&find, [version], |row| row.get::<_, Vec<u8>>(0)).optional()?;
        match recorded {
            Some(recorded) if recorded == digest.as_bytes() => continue,
            Some(_) => return Err(refused(name, version, "has changed since it was executed")),
            None => {}
        }
        conn.execute_batch(sql)?;
        let record = format!("INSERT INTO {table} VALUES (?1, ?2, ?3)");
        conn.execute(&record, params![version, digest.as_bytes(), now])?;
        executed += 1;
    }
    Ok(executed)
}

fn check_name(name: &str) -> Result<()> {
    let is_word = name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
    let begins_well = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    let is_reserved = ["tenantry", "sqlite"].iter().any(|word| {
        let start = name.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
            && matches!(name.as_bytes().get(word.len()), None | Some(b'_'))
    });
    if is_word && begins_well && !is_reserved && name.len() <= NAME_MAX {
        return Ok(());
    }
    let message = format!(
        "a name of migrations has at most {NAME_MAX} letters, digits and underscores, begins with a letter, and isn't \
         reserved"
    );
    Err(Error::new(ErrorKind::InvalidQuery, message))
}

/// Refuses a database that knows more migrations than the program.
fn refuse_newer(conn: &Connection, table: &str, known: usize) -> Result<()> {
    let newest = format!("SELECT coalesce(max(version), 0) FROM {table}");
    let newest: i64 = conn.query_row(&newest, [], |row| row.get(0))?;
    if u64::try_from(newest).is_ok_and(|newest| newest > known as u64) {
        let message = format!(
            "the tables of the application are at version {newest}, and the program knows {known}"
        );
        return Err(Error::new(ErrorKind::Incompatible, message));
    }
    Ok(())
}

fn refused(name: &str, version: i64, what: &str) -> Error {
    Error::new(ErrorKind::Incompatible, format!("migration {version} of {name} {what}"))
}
