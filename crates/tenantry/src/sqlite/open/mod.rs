//! Opens a store: identifies, creates, upgrades and connects to its database.
//!
//! An existing file is identified through a read-only connection first, so that a foreign one, or
//! one that is newer than this program, is refused without a byte of it changed. Only if it needs
//! work (it is missing, empty, older or was never opened to the end) is the lock taken that
//! excludes other processes, and the file identified again.

pub(crate) mod connect;
mod create;
pub(crate) mod identify;
mod image;
pub(crate) mod upgrade;
pub(crate) mod write_image;

use std::thread;
use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior, params};

use self::connect::{Role, connect};
use self::create::{create, create_data_dir, marker};
use self::identify::{StoreState, identify, identity, refuse_old_sqlite, store_missing};
use self::upgrade::{SCHEMA_VERSION, Upgrade, upgrade};
use super::busy_timeout::LOCK_POLL;
use super::error::with_quota_as_full;
use super::files::{ENGINE_FILES, access, database_in};
use super::rows::paths::retire_paths_of_v1;
use crate::data_dir::access::Access;
use crate::data_dir::lock::{Lock, Taken};
use crate::data_dir::network_fs::network_fs;
use crate::data_dir::sigxfsz;
use crate::data_dir::watch::Watch;
use crate::options::Options;
use crate::storage::{Marker, Storage, refuse_other_than_directories};
use crate::{Ambient, Durability, Error, ErrorKind, Result, failpoint};

/// A store that is open: the connection that writes, if that is possible, and the directories.
pub(crate) struct OpenStore {
    pub(crate) conn: Connection,
    pub(crate) storage: Result<Storage>,
    pub(crate) access: Access,
    pub(crate) created: bool,
    pub(crate) upgraded: Option<Upgrade>,
    /// Released when the connection is closed.
    pub(crate) lock: Option<Lock>,
}

/// The result of an opening.
pub(crate) struct OpenReport {
    pub(crate) created: bool,
    pub(crate) upgraded: Option<Upgrade>,
    pub(crate) read_only: bool,
}

/// Opens the connection that writes and the directories, after creating or migrating what needs it.
pub(crate) fn open_writer(
    options: &Options,
    ambient: &dyn Ambient,
    watch: &Watch,
) -> Result<OpenStore> {
    refuse_old_sqlite(rusqlite::version_number())?;
    sigxfsz::ignore();
    refuse_network_fs(options)?;
    let deadline = Instant::now() + options.busy_timeout;
    let mut made_dirs = Vec::new();
    loop {
        let found = identify(options)?;
        let access = access(&database_in(&options.data_dir))?;
        match found {
            StoreState::Nothing if !options.create_if_missing => return Err(store_missing()),
            StoreState::Current => {}
            _ if access == Access::Read => {
                return Err(Error::new(
                    ErrorKind::ReadOnly,
                    "the file system is read-only, and the store has to be created, upgraded or opened for the first time",
                ));
            }
            StoreState::Nothing => {
                refuse_other_than_directories(&options.data_dir)?;
                made_dirs.extend(create_data_dir(&options.data_dir)?);
            }
            StoreState::Older | StoreState::Unmarked => {}
        }
        let alone = found != StoreState::Current;
        let lock = match Lock::try_take(&options.data_dir, ENGINE_FILES, alone, access)? {
            Taken::Locked(lock) => Some(Some(lock)),
            Taken::NotNeeded => Some(None),
            Taken::Blocked => None,
        };
        if let Some(lock) = lock {
            let opened = open_locked(options, ambient, access, alone, lock).inspect_err(|_| {
                // Without a store they are empty, and are removed; others stay.
                made_dirs.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
            })?;
            watch.begin();
            return Ok(opened);
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorKind::Busy,
                match found {
                    StoreState::Older => {
                        "other programs have the store open, and it has to be upgraded: stop them first"
                    }
                    StoreState::Unmarked => {
                        "other programs have the store open, and its directories were never set up: stop them first"
                    }
                    _ => "another process is creating or upgrading the store: try again",
                },
            ));
        }
        thread::sleep(LOCK_POLL);
    }
}

/// Refuses a network file system, on which two machines would write over each other.
fn refuse_network_fs(options: &Options) -> Result<()> {
    if options.allow_network_fs {
        return Ok(());
    }
    let Some(name) = network_fs(&options.data_dir)? else { return Ok(()) };
    let message = format!(
        "the data directory lies on a network file system ({name}), where SQLite's locks and log don't hold and data is lost: move it to a local disk"
    );
    Err(Error::new(ErrorKind::NetworkFileSystem, message))
}

/// Opens the store under the lock. It is exclusive for work that changes more than rows, and shared
/// afterwards.
fn open_locked(
    options: &Options,
    ambient: &dyn Ambient,
    access: Access,
    alone: bool,
    lock: Option<Lock>,
) -> Result<OpenStore> {
    // The process that held the lock before may have done the work.
    let found = if alone { identify(options)? } else { StoreState::Current };
    if found == StoreState::Nothing {
        create(options).inspect_err(|_| lock.iter().for_each(Lock::remove_if_new))?;
    }
    let mut conn = connect(&database_in(&options.data_dir), options, Role::Writer)?;
    let upgraded = if found == StoreState::Older {
        let upgraded = upgrade(&mut conn, options, ambient);
        Some(upgraded.map_err(|error| with_quota_as_full(&conn, error))?)
    } else {
        None
    };
    // Changes of the file system rely on earlier commits, which must be durable before.
    let storage =
        open_storage(&mut conn, options, ambient).map_err(|error| with_quota_as_full(&conn, error));
    let storage = match storage {
        // Operations on rows work without the directories.
        Err(error) if error.kind() == ErrorKind::StorageUnavailable => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the users' directories can't be used"
            );
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
    // A newer program may have held the lock since the store was identified.
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        return Err(Error::new(ErrorKind::Incompatible, "a newer tenantry is upgrading the store"));
    }
    Ok(OpenStore { conn, storage, access, created: found == StoreState::Nothing, upgraded, lock })
}

/// Opens the directories of the store. The first opening, which is exclusive, gives the store its
/// id and `storage/` its marker.
fn open_storage(
    conn: &mut Connection,
    options: &Options,
    ambient: &dyn Ambient,
) -> Result<Storage> {
    let store_id = match identity(conn)? {
        Some((store_id, true)) => {
            return Storage::open(&options.data_dir, ENGINE_FILES, store_id, true);
        }
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
                "INSERT INTO tenantry_store (only_row, id, is_marked, last_deletion, changes_epoch)
                 SELECT 1, ?1, 0, coalesce(max(deletion_seq), 0), ?2 FROM users",
                // The feed begins with the store, whose id is at random.
                params![store_id.as_bytes(), store_id.as_fields().0],
            )?;
            retire_paths_of_v1(&tx)?;
            failpoint::reach("open: record the id of the store");
            tx.commit()?;
            store_id
        }
    };
    let storage = Storage::open(&options.data_dir, ENGINE_FILES, store_id, false)?;
    failpoint::reach("open: record that there is a marker");
    conn.execute("UPDATE tenantry_store SET is_marked = 1", [])?;
    Ok(storage)
}
