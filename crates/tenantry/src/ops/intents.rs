//! Intents: recorded changes of the file system, and their execution.
//!
//! A row and a directory can't change in one step. So the transaction that changes the row records
//! an *intent*: what is to become of the directory. After the commit, the writer executes it, waits
//! for the disk, and removes the intent in a second transaction; only then does the caller get its
//! result. A crash in between leaves the intent, and the next process that opens the store executes
//! it. All of it is idempotent.
//!
//! An intent is executed in a write transaction, so under the lock of the whole database: two
//! processes never execute the same one. The exceptions take long and have locks of their own:
//! removing the files of a purge (`flock` on `trash/` and on the directory), and erasing (the lock
//! of the engine).
//!
//! An intent is durable before it is executed: a power cut must not leave a moved directory without
//! its intent. Where commits don't wait for the disk (`Durability::Normal`, here or in another
//! process), one more commit does that first.
//!
//! A user has at most one intent. Every operation on a user's directory begins with [`settle`].

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::paths::is_orphan;
use super::stop::Stop;
use crate::domain::directory::Directory;
use crate::domain::intent::{Action, Intent};
use crate::engine::Tx;
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result, StoragePath, Timestamp, UserId};

/// The state of the intent about a user.
#[derive(Debug)]
pub(crate) enum Settled {
    /// There is none any more.
    Clear,
    /// A purge has begun, which only goes on.
    Purging(Intent),
    /// The intent can't be executed in this transaction, but after it.
    Later,
}

/// Finishes what an earlier transaction intended for this user, if there is anything. A purge
/// stays.
pub(crate) fn settle(tx: &mut Tx<'_>, user: UserId) -> Result<Settled> {
    let Some(intent) = tx.intent_of(user)? else { return Ok(Settled::Clear) };
    if matches!(intent.action, Action::Purge(_)) {
        return Ok(Settled::Purging(intent));
    }
    if !tx.is_durable(&intent) {
        if !tx.is_recorded_here(&intent) {
            tx.encounter_intent(&intent);
        }
        return Ok(Settled::Later);
    }
    tx.storage()?;
    execute(tx, &intent).map_err(|error| unfinished(&intent.action, error))?;
    Ok(Settled::Clear)
}

/// Settles, and returns the purge that has begun, if one has.
pub(super) fn settle_or_stop(tx: &mut Tx<'_>, user: UserId) -> Result<Option<Intent>, Stop> {
    match settle(tx, user)? {
        Settled::Clear => Ok(None),
        Settled::Purging(intent) => Ok(Some(intent)),
        Settled::Later => Err(Stop::Later),
    }
}

/// Executes a quick intent, and removes it. If that fails, the rows are as they were.
pub(crate) fn execute(tx: &mut Tx<'_>, intent: &Intent) -> Result<()> {
    let storage = tx.storage()?;
    match &intent.action {
        Action::Make(user) => {
            storage.make(&path_of(tx.directory(*user)?)?)?;
            tx.set_has_directory(*user)?;
        }
        Action::Trash(user) => storage.to_trash(*user, &path_of(tx.trashed_directory(*user)?)?)?,
        Action::Restore { user, stage } => {
            storage.restore(*user, &path_of(tx.directory(*user)?)?, stage.as_deref())?;
        }
        Action::Discard { path, name, .. } => {
            if !storage.discard(path)? {
                let path = Storage::relative(path);
                storage.quarantine(
                    &path,
                    name,
                    &note(&path, "left behind by an adoption", intent.recorded_at),
                )?;
            }
        }
        // It may have found an owner since.
        Action::Quarantine { path, .. } if !is_orphan(tx, storage, path)? => {}
        Action::Quarantine { path, name } => {
            storage.quarantine(
                path,
                name,
                &note(path, "belonged to no user", intent.recorded_at),
            )?;
        }
        Action::Purge(_) | Action::Erase => return Ok(()),
    }
    tx.remove_intent(intent.seq)
}

/// Returns the storage path of the user whom an intent is about.
fn path_of(directory: Option<Directory>) -> Result<StoragePath> {
    let path = directory.map(|directory| directory.path);
    path.ok_or_else(|| Error::new(ErrorKind::Corrupt, "an intent is about a user who isn't there"))
}

/// Returns the path within the data directory that an intent is about, unless it is about a user's
/// present one.
pub(crate) fn path_about(action: &Action) -> Option<PathBuf> {
    match action {
        Action::Discard { path, .. } => Some(Storage::relative(path)),
        Action::Quarantine { path, .. } => Some(path.clone()),
        _ => None,
    }
}

/// Returns the text of `note.json`, which goes into quarantine with a directory.
fn note(path: &Path, why: &str, at: Timestamp) -> String {
    let bytes = path.as_os_str().as_bytes();
    let from = std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.escape_ascii().to_string(), ToOwned::to_owned);
    format!("{}\n", json!({ "from": from, "why": why, "moved_at": at }))
}

/// Returns a name in quarantine that nothing has: the time, and something random.
pub(super) fn quarantine_name(tx: &Tx<'_>) -> String {
    let when: String = tx.now().to_string().chars().take(19).filter(|char| *char != ':').collect();
    let random = tx.new_id().to_string();
    format!("{when}Z-{}", &random[..8])
}

/// Returns the error for an operation whose intent was recorded and couldn't be executed.
pub(crate) fn unfinished(action: &Action, error: Error) -> Error {
    let message = match action {
        // Without a directory nothing is half done.
        Action::Make(_) => return error,
        Action::Trash(_) => {
            "the user is in the trash, but their directory could not be moved there yet"
        }
        Action::Restore { stage: None, .. } => {
            "the user is restored, but their directory could not be moved back yet"
        }
        Action::Restore { stage: Some(_), .. } => {
            "the user is imported, but their files could not be moved in place yet"
        }
        Action::Discard { .. } => {
            "the directory was adopted, but the one before could not be removed yet"
        }
        Action::Quarantine { .. } => "it could not be moved to quarantine yet",
        Action::Purge(_) => "not all files could be removed yet",
        Action::Erase => {
            "the users are purged, but traces may be left in the database until it could be rewritten"
        }
    };
    Error::new(ErrorKind::Unfinished, format!("{message}: {error}; the next opening tries again"))
        .with_source(error)
}
