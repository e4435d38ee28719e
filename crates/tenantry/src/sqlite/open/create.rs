//! Creates the data directory and the database.

use std::path::{Path, PathBuf};

use super::connect::{Role, connect};
use super::upgrade::migrate;
use crate::data_dir::network_fs;
use crate::options::Options;
use crate::sqlite::error::{is_without_shared_memory, with_quota_as_full};
use crate::sqlite::files::{ENGINE_FILES, database_in, has_content, sync_dir, with_suffix};
use crate::storage::{AccessMethods, Marker, Ownership, file_error};
use crate::{Error, ErrorKind, Result, failpoint};

/// A requirement of the WAL (<https://sqlite.org/wal.html>, section 2.2).
const NO_SHARED_MEMORY: &str = "processes can't share memory through a file (mmap)";
/// The name of the database until it is complete.
const NEW_DATABASE: &str = "tenantry.db.new";

/// Creates the database under another name, and renames it once it is complete, so that a kill or a
/// full disk never leaves half of one. Removes the leftovers of an earlier attempt.
pub(crate) fn create(options: &Options) -> Result<()> {
    for suffix in ["-wal", "-journal"] {
        // SQLite would take it for the WAL of the new database. And it may hold data that exists
        // nowhere else.
        if has_content(&database_in(&options.data_dir), suffix) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "tenantry.db is missing or empty, but its log tenantry.db{suffix} is there: bring back both, or move the log away"
                ),
            ));
        }
    }
    if marker(options)? != Marker::Missing {
        return Err(Error::new(
            ErrorKind::Incompatible,
            "tenantry.db is missing, but storage/ belongs to a store: bring back its database, or move storage/ and trash/ away",
        ));
    }
    let unfit = |error: Error| network_fs::unfit(&options.data_dir, &error);
    AccessMethods::probe(&options.data_dir, ENGINE_FILES).map_err(|error| match error.kind() {
        ErrorKind::Incompatible => unfit(error),
        _ => error,
    })?;
    let path = options.data_dir.join(NEW_DATABASE);
    remove_database(&path)?;
    let failed = |error| file_error(error, "the database file can't be created");
    let created = create_at(&path, options).and_then(|()| {
        failpoint::reach("create: name the database");
        std::fs::rename(&path, database_in(&options.data_dir)).map_err(failed)
    });
    if created.is_err() {
        // No caller relies on it, and it takes space.
        let _ = remove_database(&path);
    }
    created
        .map_err(|error| match is_without_shared_memory(&error) {
            true => unfit(Error::new(ErrorKind::Incompatible, NO_SHARED_MEMORY).with_source(error)),
            false => error,
        })
        .and_then(|()| sync_dir(&options.data_dir))
}

/// Makes a durable database of one file, without a WAL.
fn create_at(path: &Path, options: &Options) -> Result<()> {
    failpoint::reach("create: make the database");
    // Private; SQLite gives its WAL the same mode. This descriptor is closed before SQLite opens
    // one.
    Ownership::for_store(&options.data_dir, ENGINE_FILES)
        .and_then(|owner| owner.make_file(path))
        .map_err(|error| file_error(error, "the database file can't be created"))?;
    let mut conn = connect(path, options, Role::Writer)?;
    let journal_mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if journal_mode != "wal" {
        return Err(network_fs::unfit(
            &options.data_dir,
            &Error::new(ErrorKind::Incompatible, NO_SHARED_MEMORY),
        ));
    }
    failpoint::reach("create: fill the database");
    let filled = migrate(&mut conn).and_then(|()| {
        // Closing would do this too, but not report a failure.
        Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?)
    });
    let is_incomplete: bool = filled.map_err(|error| with_quota_as_full(&conn, error))?;
    conn.close().map_err(|(_, error)| error)?;
    if is_incomplete || with_suffix(path, "-wal").exists() {
        return Err(Error::new(ErrorKind::Io, "the new database could not be completed"));
    }
    Ok(())
}

fn remove_database(path: &Path) -> Result<()> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        match std::fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error(
                    error,
                    "what was left of an earlier creation can't be removed",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the data directory and the missing ones above it, all private and durable. Returns those
/// that it has made, the innermost first.
pub(crate) fn create_data_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| file_error(error, "the data directory can't be created");
    let is_missing =
        |dir: &&Path| !dir.as_os_str().is_empty() && std::fs::symlink_metadata(dir).is_err();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    // One by one: the umask may deny the permissions that the next one needs.
    let mut made_dirs = Vec::new();
    for dir in missing.iter().rev() {
        failpoint::reach("create: make the data directory");
        match Ownership::make_dir_like_parent(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => {
                made.map_err(failed)?;
                made_dirs.insert(0, dir.to_path_buf());
            }
        }
    }
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(made_dirs)
}

/// Returns the store to which `storage/` belongs, if the database doesn't say.
pub(crate) fn marker(options: &Options) -> Result<Marker> {
    Marker::in_data_dir(&options.data_dir)
        .map_err(|error| file_error(error, "the marker in storage/ can't be read"))
}
