//! What is to be done in the file system, and doing it.
//!
//! A row and a directory can't change in one step. So the transaction that changes the row records an *intent*: what
//! is to become of the directory. When it is committed, the writer's thread does that, waits for the disk, and removes
//! the intent in a second transaction; only then is the caller answered. A crash in between leaves the intent, and whoever
//! opens the store next does what it says. All of it can be done twice.
//!
//! An intent is acted on in a write transaction, so under the lock of the whole database: two processes never act on the
//! same one. The exceptions take long and have locks of their own: removing the files of a purge (`flock` on `trash/`
//! and on the directory), and erasing (SQLite's lock).
//!
//! What is acted on has to be on the disk before: a power cut must not leave a moved directory without its intent. Where
//! commits don't wait for the disk (`Durability::Normal`, here or in another process), one more does that first.
//!
//! A user has at most one intent. Every operation on a user's directory begins with [`settle`].

use std::cell::{Cell, RefCell};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;
use uuid::Uuid;

use super::directory::{self, Directory};
use super::owners;
use super::users::damaged;
use super::values::blob;
use crate::storage::{Storage, is_stage};
use crate::{Error, ErrorKind, Result, StoragePath, Timestamp, UserId};

/// What a transaction has to do with directories.
pub(super) struct Directories<'s> {
    pub(super) storage: &'s Result<Storage>,
    /// Up to which number intents of earlier transactions are certainly on the disk, so that they may be acted on in this one.
    on_disk: i64,
    /// The intents that were recorded in this transaction, to be acted on when it is committed.
    pub(super) recorded: RefCell<Vec<i64>>,
    /// Those of earlier transactions that were met, to be acted on likewise.
    pub(super) met: RefCell<Vec<i64>>,
    /// Whether an operation has met one of either, and so has to wait for the next transaction.
    pub(super) is_too_early: Cell<bool>,
}

impl<'s> Directories<'s> {
    pub(super) fn new(storage: &'s Result<Storage>, on_disk: i64) -> Self {
        Self { storage, on_disk, recorded: RefCell::default(), met: RefCell::default(), is_too_early: Cell::new(false) }
    }

    pub(super) fn storage(&self) -> Result<&'s Storage> {
        self.storage.as_ref().map_err(Error::clone)
    }
}

/// What an intent is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a user's directory.
    Make(UserId),
    /// Move a user's directory to the trash.
    Trash(UserId),
    /// Move it back, or where it belongs from the stage in which an import has put it.
    Restore { user: UserId, stage: Option<String> },
    /// Remove the files of a user in the trash, then the row.
    Purge(UserId),
    /// Remove the directory that a user had before an adoption, or put it into quarantine if it isn't empty.
    Discard { user: UserId, path: StoragePath, name: String },
    /// Move a path within the data directory, which belongs to nobody, into quarantine.
    Quarantine { path: PathBuf, name: String },
    /// Rewrite the database, so that nothing of purged rows is left in it.
    Erase,
}

impl Action {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Make(_) => "make",
            Self::Trash(_) => "trash",
            Self::Restore { .. } => "restore",
            Self::Purge(_) => "purge",
            Self::Discard { .. } => "discard",
            Self::Quarantine { .. } => "quarantine",
            Self::Erase => "erase",
        }
    }

    pub(crate) fn user(&self) -> Option<UserId> {
        match self {
            Self::Make(user) | Self::Trash(user) | Self::Purge(user) => Some(*user),
            Self::Restore { user, .. } | Self::Discard { user, .. } => Some(*user),
            Self::Quarantine { .. } | Self::Erase => None,
        }
    }

    /// What it is about if not a user, as a path within the data directory.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Discard { path, .. } => Some(Storage::relative(path)),
            Self::Quarantine { path, .. } => Some(path.clone()),
            _ => None,
        }
    }

    /// Whether it is done in a transaction, as opposed to those that take long.
    pub(super) fn is_quick(&self) -> bool {
        !matches!(self, Self::Purge(_) | Self::Erase)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) seq: i64,
    pub(crate) action: Action,
    pub(crate) recorded_at: Timestamp,
}

macro_rules! columns {
    () => {
        "seq, action, user_id, path, name, recorded_at"
    };
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Intent> {
    let user = || Ok::<_, rusqlite::Error>(UserId::from_random(Uuid::from_bytes(row.get(2)?)));
    let path = || row.get::<_, Vec<u8>>(3);
    // It becomes the name of a directory, and the database may come from a backup that somebody has made.
    let name = || {
        let name: String = row.get(4)?;
        if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) {
            let error = Error::new(ErrorKind::Corrupt, "an intent has a name that no file can have");
            return Err(damaged(4, Type::Text, error));
        }
        Ok(name)
    };
    let action = match row.get_ref(1)?.as_str()? {
        "make" => Action::Make(user()?),
        "trash" => Action::Trash(user()?),
        "restore" => {
            let stage: Option<String> = row.get(4)?;
            if stage.as_ref().is_some_and(|stage| !is_stage(stage)) {
                let error =
                    Error::new(ErrorKind::Corrupt, "an intent is about the stage of an import that can't be one");
                return Err(damaged(4, Type::Text, error));
            }
            Action::Restore { user: user()?, stage }
        }
        "purge" => Action::Purge(user()?),
        "discard" => {
            let path = String::from_utf8(path()?).map_err(|error| damaged(3, Type::Blob, error))?;
            let path = path.parse().map_err(|error: Error| damaged(3, Type::Blob, error))?;
            Action::Discard { user: user()?, path, name: name()? }
        }
        "quarantine" => {
            let path = path()?;
            // Path traversal: what is moved lies beneath the data directory. Compared as bytes, since a foreign
            // directory's name need not be UTF-8 and `Path` overlooks `.` and doubled slashes.
            let is_beneath = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
            if !path.split(|byte| *byte == b'/').all(is_beneath) {
                return Err(damaged(3, Type::Blob, "not a path beneath the data directory"));
            }
            Action::Quarantine { path: std::ffi::OsString::from_vec(path).into(), name: name()? }
        }
        "erase" => Action::Erase,
        _ => return Err(damaged(1, Type::Text, "no action that this version knows")),
    };
    let recorded_at = Timestamp::from_unix_us(row.get(5)?).map_err(|error| damaged(5, Type::Integer, error))?;
    Ok(Intent { seq: row.get(0)?, action, recorded_at })
}

/// Records what is to be done. The writer acts on it after the commit. (Of a purge it only sees to it that the intent is on the
/// disk; its caller removes the files.)
pub(super) fn record(conn: &Connection, directories: &Directories<'_>, action: &Action, now: Timestamp) -> Result<()> {
    let (path, name) = match action {
        Action::Discard { path, name, .. } => (Some(path.as_str().as_bytes()), Some(name)),
        Action::Quarantine { path, name } => (Some(path.as_os_str().as_bytes()), Some(name)),
        Action::Restore { stage, .. } => (None, stage.as_ref()),
        _ => (None, None),
    };
    conn.prepare_cached(
        "INSERT INTO tenantry_intents (action, user_id, path, name, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![action.name(), action.user().map(blob), path, name, now.as_unix_us()])?;
    directories.recorded.borrow_mut().push(conn.last_insert_rowid());
    Ok(())
}

/// Finishes what an earlier transaction intended for this user, if there is anything. A purge stays. If that can't be done in
/// this transaction, it is done after it, and the operation has come too early.
pub(super) fn settle(conn: &Connection, directories: &Directories<'_>, user: UserId) -> Result<Option<Intent>> {
    let Some(intent) = of_user(conn, user)? else { return Ok(None) };
    if matches!(intent.action, Action::Purge(_)) {
        return Ok(Some(intent));
    }
    let is_of_this_transaction = directories.recorded.borrow().contains(&intent.seq);
    if is_of_this_transaction || intent.seq > directories.on_disk {
        if !is_of_this_transaction {
            directories.met.borrow_mut().push(intent.seq);
        }
        directories.is_too_early.set(true);
        return Err(Error::new(
            ErrorKind::Unfinished,
            "the transaction has already changed the place of the user's directory: go on in another one",
        ));
    }
    act(conn, directories.storage()?, &intent).map_err(|error| unfinished(&intent.action, error))?;
    Ok(None)
}

pub(super) fn of_user(conn: &Connection, user: UserId) -> Result<Option<Intent>> {
    let mut statement =
        conn.prepare_cached(concat!("SELECT ", columns!(), " FROM tenantry_intents WHERE user_id = ?1"))?;
    Ok(statement.query_row([blob(user)], from_row).optional()?)
}

pub(super) fn get(conn: &Connection, seq: i64) -> Result<Option<Intent>> {
    let mut statement = conn.prepare_cached(concat!("SELECT ", columns!(), " FROM tenantry_intents WHERE seq = ?1"))?;
    Ok(statement.query_row([seq], from_row).optional()?)
}

/// Whether there are intents that [`settle`] may act on.
pub(super) fn are_any_quick(conn: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM tenantry_intents WHERE action NOT IN ('purge', 'erase')";
    Ok(conn.prepare_cached(sql)?.exists([])?)
}

/// Whether an intent is about this stage of an import.
pub(super) fn is_about_stage(conn: &Connection, stage: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM tenantry_intents WHERE action = 'restore' AND name = ?1";
    Ok(conn.prepare_cached(sql)?.exists([stage])?)
}

/// The number of the last intent, 0 if there is none.
pub(super) fn last(conn: &Connection) -> Result<i64> {
    let mut statement = conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM tenantry_intents")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Stands for the intent to erase in a list of numbers. There is one at the most, but its number changes.
pub(super) const ERASE: i64 = -1;

pub(super) fn erase(conn: &Connection) -> Result<Option<Intent>> {
    let mut statement =
        conn.prepare_cached(concat!("SELECT ", columns!(), " FROM tenantry_intents WHERE action = 'erase'"))?;
    Ok(statement.query_row([], from_row).optional()?)
}

/// All intents, in the order in which they were recorded.
pub(super) fn all(conn: &Connection) -> Result<Vec<Intent>> {
    let mut statement = conn.prepare_cached(concat!("SELECT ", columns!(), " FROM tenantry_intents ORDER BY seq"))?;
    let intents = statement.query_map([], from_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(intents)
}

/// Does in the file system what a quick intent says, and removes it. If that fails, the rows are as they were.
pub(super) fn act(conn: &Connection, storage: &Storage, intent: &Intent) -> Result<()> {
    match &intent.action {
        Action::Make(user) => {
            storage.make(&path_of(directory::directory(conn, *user)?)?)?;
            conn.prepare_cached("UPDATE users SET has_directory = 1 WHERE id = ?1")?.execute([blob(*user)])?;
        }
        Action::Trash(user) => {
            storage.to_trash(*user, &path_of(directory::trashed_directory(conn, *user)?)?)?;
        }
        Action::Restore { user, stage } => {
            storage.restore(*user, &path_of(directory::directory(conn, *user)?)?, stage.as_deref())?;
        }
        Action::Discard { path, name, .. } => {
            if !storage.discard(path)? {
                let path = Storage::relative(path);
                storage.quarantine(&path, name, &note(&path, "left behind by an adoption", intent.recorded_at))?;
            }
        }
        // It may have found an owner since.
        Action::Quarantine { path, .. } if !owners::belongs_to_nobody(conn, storage, path)? => {}
        Action::Quarantine { path, name } => {
            storage.quarantine(path, name, &note(path, "belonged to no user", intent.recorded_at))?;
        }
        Action::Purge(_) | Action::Erase => return Ok(()),
    }
    remove(conn, intent.seq)
}

/// The storage path of the user whom an intent is about.
fn path_of(directory: Option<Directory>) -> Result<StoragePath> {
    let path = directory.map(|directory| directory.path);
    path.ok_or_else(|| Error::new(ErrorKind::Corrupt, "an intent is about a user who isn't there"))
}

pub(super) fn remove(conn: &Connection, seq: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM tenantry_intents WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

/// What is to be told of something in quarantine.
fn note(path: &std::path::Path, why: &str, at: Timestamp) -> String {
    let bytes = path.as_os_str().as_bytes();
    let from = std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), ToOwned::to_owned);
    format!("{}\n", json!({ "from": from, "why": why, "moved_at": at }))
}

/// The failure to do what was recorded, for whoever wanted it.
pub(super) fn unfinished(action: &Action, error: Error) -> Error {
    let message = match action {
        // Without a directory nothing is half done.
        Action::Make(_) => return error,
        Action::Trash(_) => "the user is in the trash, but their directory could not be moved there yet",
        Action::Restore { stage: None, .. } => "the user is restored, but their directory could not be moved back yet",
        Action::Restore { stage: Some(_), .. } => {
            "the user is imported, but their files could not be moved in place yet"
        }
        Action::Discard { .. } => "the directory was adopted, but the one before could not be removed yet",
        Action::Quarantine { .. } => "it could not be moved to quarantine yet",
        Action::Purge(_) => "not all files could be removed yet",
        Action::Erase => "the users are purged, but traces may be left in the database until it could be rewritten",
    };
    Error::new(ErrorKind::Unfinished, format!("{message}: {error}; it is tried again when the store is opened"))
        .with_source(error)
}
