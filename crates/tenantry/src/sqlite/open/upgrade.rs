//! Migrations, and what is kept of a store from before them.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};

use super::connect::connect_read_only;
use super::write_image::write_image_of;
use crate::options::Options;
use crate::sqlite::files::{ENGINE_FILES, sync_dir};
use crate::storage::{Ownership, file_error};
use crate::{Ambient, Error, ErrorKind, Result, failpoint};

pub(crate) mod embedded {
    refinery::embed_migrations!("src/sqlite/migrations");
}

/// The schema version that the newest migration leaves in `user_version`.
pub(crate) const SCHEMA_VERSION: i32 = 7;
const MIGRATIONS_TABLE: &str = "tenantry_migrations";
/// In the data directory.
const SNAPSHOTS: &str = "backups";

/// The upgrade of a store of an older version when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgrade {
    /// The version of the schema before.
    pub from: u32,
    /// The version of the schema now.
    pub to: u32,
    /// The database as it was before, unless that was
    /// [declined](crate::Builder::snapshot_before_upgrade).
    pub snapshot: Option<PathBuf>,
}

/// Runs all pending migrations, with their record, in one transaction: a crash leaves the old
/// schema or the new one.
pub(crate) fn migrate(conn: &mut Connection) -> Result<()> {
    // Version 3 gives another table the name of `users`, which must not affect references to it
    // (<https://sqlite.org/lang_altertable.html#otheralter>). Within the transaction the first
    // pragma would have no effect.
    conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON")?;
    let migrated = run_migrations(conn);
    let restored = conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA legacy_alter_table = OFF");
    migrated.and(restored.map_err(Error::from))
}

fn run_migrations(conn: &mut Connection) -> Result<()> {
    conn.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {MIGRATIONS_TABLE} (
            version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_on TEXT NOT NULL, checksum TEXT NOT NULL
        ) STRICT"
    ))?;
    let mut runner = embedded::migrations::runner().set_grouped(true);
    runner.set_migration_table_name(MIGRATIONS_TABLE);
    let Err(error) = runner.run(conn) else { return Ok(()) };
    Err(match cause(&error) {
        Some(failure) if failure.kind() == ErrorKind::Constraint => {
            let message = "the rows of the store contradict each other, so that it can't be upgraded: two users have one id \
                           or storage path, or a value is out of range";
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        }
        Some(failure) => Error::new(failure.kind(), failure.to_string()).with_source(error),
        None => Error::new(ErrorKind::Corrupt, "the record of the store's migrations is damaged")
            .with_source(error),
    })
}

/// Returns SQLite's error, if it caused the failure of a migration.
fn cause(error: &refinery::Error) -> Option<Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = error.downcast_ref() {
            return Some(rusqlite::Error::SqliteFailure(*failure, None).into());
        }
        source = error.source();
    }
    None
}

/// Brings an existing store, which no other process has open, to the schema of this program.
pub(crate) fn upgrade(
    conn: &mut Connection,
    options: &Options,
    ambient: &dyn Ambient,
) -> Result<Upgrade> {
    let version = |conn: &Connection| conn.query_row("PRAGMA user_version", [], |row| row.get(0));
    let from = version(conn)?;
    refuse_other_references(conn)?;
    let snapshot = if options.snapshot_before_upgrade {
        let taken = take_snapshot(conn, options, ambient).map_err(|error| {
            let message = format!(
                "no snapshot could be taken before the upgrade, and nothing was changed: {error}"
            );
            Error::new(error.kind(), message).with_source(error)
        });
        Some(taken?)
    } else {
        None
    };
    failpoint::reach("upgrade: change the schema");
    if let Err(error) = migrate(conn) {
        // Nothing was changed, and another attempt makes another snapshot.
        if let Some(snapshot) = &snapshot {
            let _ = std::fs::remove_file(snapshot);
        }
        return Err(error);
    }
    tracing::info!(from, to = SCHEMA_VERSION, "upgraded the store");
    Ok(Upgrade { from, to: version(conn)?, snapshot })
}

/// Refuses a store in which an application's table refers to another column of `users` than those
/// that stay unique: from version 3 on an address is unique among the living alone.
pub(crate) fn refuse_other_references(conn: &Connection) -> Result<()> {
    let found = conn.query_row(
        "SELECT object.name FROM sqlite_schema AS object, pragma_foreign_key_list(object.name) AS reference
         WHERE object.type = 'table' AND reference.\"table\" = 'users' COLLATE NOCASE
         AND reference.\"to\" COLLATE NOCASE NOT IN ('id', 'seq')",
        [],
        |row| row.get::<_, String>(0),
    );
    let Some(table) = found.optional()? else { return Ok(()) };
    let message = format!(
        "the table {table} refers to another column of users than id, which the upgrade doesn't allow: change its foreign key; nothing was changed"
    );
    Err(Error::new(ErrorKind::Incompatible, message))
}

/// Copies the present database to `backups/`, and verifies the copy. It has a temporary name until
/// it is complete and durable.
fn take_snapshot(conn: &Connection, options: &Options, ambient: &dyn Ambient) -> Result<PathBuf> {
    let failed = |error| file_error(error, "the snapshot can't be written");
    let dir = options.data_dir.join(SNAPSHOTS);
    failpoint::reach("upgrade: make a directory for snapshots");
    let owner = Ownership::for_store(&options.data_dir, ENGINE_FILES).map_err(failed)?;
    match owner.make_private_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.map_err(failed)?,
    }
    sync_dir(&options.data_dir)?;
    // As in an RFC 3339 timestamp, but without what some file systems don't take in a name.
    let time = ambient.now().to_string().replace([':', '-'], "");
    let path = dir.join(format!("before-v{SCHEMA_VERSION}-{time}.db"));
    let unfinished = dir.join("unfinished.db");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let written = write_image_of(conn, &unfinished, owner)
        .and_then(|()| verify(conn, &unfinished))
        .and_then(|()| {
            // No other process has it open, and SQLite has closed it.
            File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
            failpoint::reach("upgrade: name the snapshot");
            std::fs::rename(&unfinished, &path).map_err(failed)
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    sync_dir(&dir)?;
    Ok(path)
}

/// Verifies that an image is intact and holds as much as the database that it was made of.
fn verify(conn: &Connection, image: &Path) -> Result<()> {
    let image = connect_read_only(image)?;
    let found: String = image.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    let mut is_good = found == "ok";
    for sql in ["PRAGMA user_version", "SELECT count(*) FROM users"] {
        let of = |conn: &Connection| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        is_good &= of(conn)? == of(&image)?;
    }
    if !is_good {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "what was written can't be read back, or the database is damaged",
        ));
    }
    Ok(())
}
