//! Finding, creating, migrating and connecting to the database file.
//!
//! An existing file is looked at through a read-only connection first, so that one that isn't ours, or is newer
//! than this program, is refused without a byte of it changed. Only if it needs work (it is missing, empty, older or was
//! never opened to the end) is the lock taken that keeps other processes out, and the look taken again. A new database is
//! made under another name, and renamed when it is whole.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use uuid::Uuid;

use super::connect::{Role, connect, connect_to_look, open_reader};
use super::error::of_schema;
use super::error::{is_left_in_transaction, is_without_shared_memory, with_quota_as_full};
use super::files::{has_content, sync_dir, with_suffix};
use super::place::{self, Access, Lock, Watch};
use super::retired;
use super::upgrade::{self, SCHEMA_VERSION, Upgrade, migrate, upgrade};
use super::wait::LOCK_POLL;
use crate::options::Options;
use crate::storage::{Marker, Ownership, Storage, Ways, file_error};
use crate::{Ambient, Durability, Error, ErrorKind, Result, failpoint};

/// 'Tnry', as V1 of the schema sets it.
const APPLICATION_ID: i32 = 0x546E_7279;
/// What that schema has to have. These are prepared and never run: what fails to be is damaged, and would make each statement
/// look like a mistake.
const SCHEMA: [&str; 7] = [
    "SELECT seq, id, email, email_folded, email_key, deleted_at, deletion_seq, skeleton, created_at, last_login_at,
     updated_at, version, storage_path, has_directory FROM users",
    "SELECT id, email, email_key, created_at, last_login_at, updated_at, version FROM tenantry_living_users",
    "SELECT id, storage_path FROM tenantry_retired_users",
    "SELECT digest, is_whole FROM tenantry_retired_paths",
    "SELECT only_row, id, is_marked, log_syncs, last_deletion FROM tenantry_store",
    "SELECT seq, user_id, action, path, name, recorded_at FROM tenantry_intents",
    "SELECT user_id, measured_at, files, apparent_bytes, allocated_bytes, unreadable FROM tenantry_usage",
];
/// Older ones can lose a committed transaction: <https://sqlite.org/wal.html#walresetbug>.
const OLDEST_SQLITE: i32 = 3_051_003;
/// What SQLite's log takes: <https://sqlite.org/wal.html>, section 2.2.
const NO_SHARED_MEMORY: &str = "processes can't share memory through a file (mmap)";

/// A store that is open: the connection that writes, if that is possible, and the directories.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) storage: Result<Storage>,
    pub(super) access: Access,
    pub(super) created: bool,
    pub(super) upgraded: Option<Upgrade>,
    /// To be given up when the connection is closed.
    pub(super) lock: Option<Lock>,
}

/// What opening a store came to.
pub(crate) struct Outcome {
    pub(crate) created: bool,
    pub(crate) upgraded: Option<Upgrade>,
    pub(crate) read_only: bool,
}

/// Opens the connection that writes and the directories, after creating or migrating what needs it.
pub(super) fn open_writer(options: &Options, ambient: &dyn Ambient, watch: &Watch) -> Result<Opened> {
    refuse_old_sqlite(rusqlite::version_number())?;
    place::ignore_size_signal();
    if !options.allow_network_fs {
        place::refuse_network_fs(&options.data_dir)?;
    }
    let deadline = Instant::now() + options.busy_timeout;
    let mut made_dirs = Vec::new();
    loop {
        let found = look_at(options)?;
        let access = place::access(&options.database())?;
        match found {
            Found::Nothing if !options.create_if_missing => return Err(store_missing()),
            Found::Current => {}
            _ if access == Access::Read => {
                return Err(Error::new(
                    ErrorKind::ReadOnly,
                    "the file system is read-only, and the store has to be created, upgraded or opened for the first time",
                ));
            }
            Found::Nothing => {
                Storage::refuse_other_than_directories(&options.data_dir)?;
                made_dirs.extend(create_data_dir(&options.data_dir)?);
            }
            Found::Older | Found::Unmarked => {}
        }
        let alone = found != Found::Current;
        if let Some(lock) = Lock::try_take(options, alone, access)? {
            let opened = open_locked(options, ambient, access, alone, lock).inspect_err(|_| {
                // Without a store they are empty; otherwise they stay.
                made_dirs.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
            })?;
            watch.begin();
            return Ok(opened);
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorKind::Busy,
                match found {
                    Found::Older => "other programs have the store open, and it has to be upgraded: stop them first",
                    Found::Unmarked => {
                        "other programs have the store open, and its directories were never set up: stop them first"
                    }
                    _ => "another process is creating or upgrading the store: try again",
                },
            ));
        }
        thread::sleep(LOCK_POLL);
    }
}

/// An embedder may link another SQLite than the one that comes with Tenantry.
pub(super) fn refuse_old_sqlite(version: i32) -> Result<()> {
    if version >= OLDEST_SQLITE {
        return Ok(());
    }
    let message = "the program is linked with an SQLite older than 3.51.3, which can lose what was committed";
    Err(Error::new(ErrorKind::Incompatible, message))
}

/// Opens the store under the lock. What changes more than rows is done alone; then the lock is shared.
fn open_locked(
    options: &Options,
    ambient: &dyn Ambient,
    access: Access,
    alone: bool,
    lock: Option<Lock>,
) -> Result<Opened> {
    // Whoever had the lock before may have done what was to be done.
    let found = if alone { look_at(options)? } else { Found::Current };
    if found == Found::Nothing {
        create(options).inspect_err(|_| lock.iter().for_each(|lock| lock.remove_if_new(&options.data_dir)))?;
    }
    let mut conn = connect(&options.database(), options, Role::Writer)?;
    let upgraded = if found == Found::Older {
        let upgraded = upgrade(&mut conn, options, ambient);
        Some(upgraded.map_err(|error| with_quota_as_full(&conn, error))?)
    } else {
        None
    };
    // What is done here in the file system relies on what was committed before it, which has to wait for the disk.
    let storage = open_storage(&mut conn, options, ambient).map_err(|error| with_quota_as_full(&conn, error));
    let storage = match storage {
        // What needs no directories works without them.
        Err(error) if error.kind() == ErrorKind::StorageUnavailable => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the users' directories can't be used");
            Err(error)
        }
        storage => Ok(storage?),
    };
    if options.durability == Durability::Normal && access == Access::Write {
        conn.execute_batch("PRAGMA synchronous = NORMAL")?;
    }
    if let (true, Some(lock)) = (alone, &lock) {
        lock.share()?;
    }
    // A newer program may have had the lock since the store was looked at.
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        return Err(Error::new(ErrorKind::Incompatible, "a newer tenantry is upgrading the store"));
    }
    Ok(Opened { conn, storage, access, created: found == Found::Nothing, upgraded, lock })
}

/// Opens the directories of the store. The first time, when nobody else has it open, the store gets its id and `storage/`
/// its marker.
fn open_storage(conn: &mut Connection, options: &Options, ambient: &dyn Ambient) -> Result<Storage> {
    let store_id = match identity(conn)? {
        Some((store_id, true)) => return Storage::open(&options.data_dir, store_id, true),
        Some((store_id, false)) => store_id,
        None if marker(options)? != Marker::Missing => {
            return Err(Error::new(
                ErrorKind::Incompatible,
                "the database is older than storage/, which belongs to a store: if it is this one, remove storage/.tenantry-store",
            ));
        }
        None => {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let store_id = ambient.new_id().as_uuid();
            tx.execute(
                "INSERT INTO tenantry_store (only_row, id, is_marked, last_deletion)
                 SELECT 1, ?1, 0, coalesce(max(deletion_seq), 0) FROM users",
                [store_id.as_bytes()],
            )?;
            retired::retire_paths_of_v1(&tx)?;
            failpoint::reach("open: record the id of the store");
            tx.commit()?;
            store_id
        }
    };
    let storage = Storage::open(&options.data_dir, store_id, false)?;
    failpoint::reach("open: record that there is a marker");
    conn.execute("UPDATE tenantry_store SET is_marked = 1", [])?;
    Ok(storage)
}

/// Which store `storage/` belongs to, where the database doesn't say.
fn marker(options: &Options) -> Result<Marker> {
    Storage::marker_in(&options.data_dir)
        .map_err(|error| file_error(error, "it can't be told whether storage/ belongs to a store"))
}

/// The store's id, and whether `storage/` has it; `None` if the store was never opened to the end.
pub(super) fn identity(conn: &Connection) -> Result<Option<(Uuid, bool)>> {
    let found = conn.query_row("SELECT id, is_marked FROM tenantry_store", [], |row| {
        Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?))
    });
    Ok(found.optional()?)
}

/// Makes sure that there is a store, and that it needs no upgrade.
pub(super) fn check_current(options: &Options) -> Result<()> {
    match look_at(options)? {
        Found::Current => Ok(()),
        Found::Nothing => Err(store_missing()),
        Found::Unmarked => Ok(()),
        Found::Older => Err(Error::new(
            ErrorKind::Incompatible,
            "the store is of an older version: open it once to upgrade it, with any other command",
        )),
    }
}

fn store_missing() -> Error {
    Error::new(ErrorKind::StoreMissing, "there is no store at this place")
}

/// Writes an image of the database as it is now to a file that isn't there yet.
pub(super) fn write_image(
    options: &Options,
    image: &Path,
    (steps, is_to_end): (i32, impl FnMut() -> bool + Send + 'static),
) -> Result<()> {
    let mut conn = open_reader(options)?;
    conn.progress_handler(steps, Some(is_to_end))?;
    conn.execute_batch("PRAGMA query_only = OFF")?;
    upgrade::write_image(&conn, image, Ownership::default()).map_err(|error| with_quota_as_full(&conn, error))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file, or one that holds nothing.
    Nothing,
    Older,
    /// Its directories were never set up: the first opening didn't come to its end.
    Unmarked,
    Current,
}

/// Tells what the database file is, without changing it.
fn look_at(options: &Options) -> Result<Found> {
    let incompatible = |message| Err(Error::new(ErrorKind::Incompatible, message));
    place::refuse_links(&options.data_dir)?;
    let path = options.database();
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return incompatible("tenantry.db is not a file".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return incompatible("the data directory is not a directory".to_owned());
        }
        Err(error) => return Err(file_error(error, "the database file can't be reached")),
    }
    let conn = connect_to_look(&path)?;
    identify(&conn, options).map_err(|error| with_quota_as_full(&conn, error))
}

/// The part of it that SQLite has in it.
pub(super) fn identify(conn: &Connection, options: &Options) -> Result<Found> {
    let incompatible = |message| Err(Error::new(ErrorKind::Incompatible, message));
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;

    // One snapshot, so that what another process does between two of the looks isn't taken for something else.
    conn.execute_batch("BEGIN")?;
    let application_id: i32 = match conn.query_row("PRAGMA application_id", [], |row| row.get(0)) {
        // A store never has a rollback journal: it is made under another name.
        Err(error) if is_left_in_transaction(&error) => {
            return incompatible("another application has left the database in the middle of a transaction".to_owned());
        }
        application_id => application_id.map_err(of_schema)?,
    };
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(of_schema)?;
    let objects = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let objects = objects.map_err(of_schema)?;
    match (application_id, version) {
        (0, 0) if objects == 0 => Ok(Found::Nothing),
        (APPLICATION_ID, SCHEMA_VERSION) => {
            for columns in SCHEMA {
                conn.prepare(columns).map_err(of_schema)?;
            }
            match identity(conn)? {
                Some((_, true)) => Ok(Found::Current),
                _ => Ok(Found::Unmarked),
            }
        }
        (APPLICATION_ID, _) if (1..SCHEMA_VERSION).contains(&version) => Ok(Found::Older),
        (APPLICATION_ID, ..) if version > SCHEMA_VERSION => incompatible(format!(
            "the store has schema version {version} and this program knows up to {SCHEMA_VERSION}: use a newer tenantry; nothing was changed"
        )),
        (APPLICATION_ID, ..) => incompatible("the store's schema version is missing; nothing was changed".to_owned()),
        _ => incompatible("the database belongs to another application; nothing was changed".to_owned()),
    }
}

/// Makes the database under another name, and gives it its own when it is whole: so there never is half a one, whenever
/// the program ends or the disk is full. What an earlier attempt left is removed.
fn create(options: &Options) -> Result<()> {
    for suffix in ["-wal", "-journal"] {
        // SQLite would take it for the log of the new database. And it may hold what is nowhere else.
        if has_content(&options.database(), suffix) {
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
    let unfit = |error: Error| place::unfit(&options.data_dir, &error);
    Ways::try_all(&options.data_dir).map_err(|error| match error.kind() {
        ErrorKind::Incompatible => unfit(error),
        _ => error,
    })?;
    let path = options.data_dir.join("tenantry.db.new");
    remove_database(&path)?;
    let failed = |error| file_error(error, "the database file can't be created");
    let created = create_at(&path, options).and_then(|()| {
        failpoint::reach("create: name the database");
        std::fs::rename(&path, options.database()).map_err(failed)
    });
    if created.is_err() {
        // Nobody has relied on it, and the space may be wanted.
        let _ = remove_database(&path);
    }
    created
        .map_err(|error| match is_without_shared_memory(&error) {
            true => unfit(Error::new(ErrorKind::Incompatible, NO_SHARED_MEMORY).with_source(error)),
            false => error,
        })
        .and_then(|()| sync_dir(&options.data_dir))
}

/// Makes a database that is one file, without a log, and on the disk.
fn create_at(path: &Path, options: &Options) -> Result<()> {
    failpoint::reach("create: make the database");
    // Readable by nobody else; SQLite gives its log the same mode. This descriptor is closed before SQLite opens one.
    Ownership::of_store(&options.data_dir)
        .and_then(|owner| owner.make_file(path))
        .map_err(|error| file_error(error, "the database file can't be created"))?;
    let mut conn = connect(path, options, Role::Writer)?;
    let journal_mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if journal_mode != "wal" {
        return Err(place::unfit(&options.data_dir, &Error::new(ErrorKind::Incompatible, NO_SHARED_MEMORY)));
    }
    failpoint::reach("create: fill the database");
    let filled = migrate(&mut conn).and_then(|()| {
        // Closing would do this too, but not tell if it failed.
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
                return Err(file_error(error, "what was left of an earlier creation can't be removed"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the data directory and what is missing above it, readable by nobody else, and makes it last. Returns what it has
/// made, the innermost first.
fn create_data_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| file_error(error, "the data directory can't be created");
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && std::fs::symlink_metadata(dir).is_err();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    // One by one: the umask may take away what it takes to make the next.
    let mut made_dirs = Vec::new();
    for dir in missing.iter().rev() {
        failpoint::reach("create: make the data directory");
        match Ownership::make_dir_of_place(dir) {
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
