//! Intents: changes of the file system that a committed transaction requires. See `ops/intents.rs`.

use std::path::PathBuf;

use crate::{StoragePath, Timestamp, UserId};

/// A change of the file system that is recorded, and to be executed.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) seq: i64,
    pub(crate) action: Action,
    pub(crate) recorded_at: Timestamp,
}

/// The subject of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a user's directory.
    Make(UserId),
    /// Move a user's directory to the trash.
    Trash(UserId),
    /// Move it back from the trash, or to its place from the stage of an import.
    Restore { user: UserId, stage: Option<String> },
    /// Remove the files of a user in the trash, then the row.
    Purge(UserId),
    /// Remove the directory that a user had before an adoption, or move it to quarantine if it
    /// isn't empty.
    Discard { user: UserId, path: StoragePath, name: String },
    /// Move an orphan to quarantine. The path is one within the data directory.
    Quarantine { path: PathBuf, name: String },
    /// Rewrite the database, so that it keeps nothing of purged rows.
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

    /// Returns whether it is executed within a transaction. The others take long.
    pub(crate) fn is_quick(&self) -> bool {
        !matches!(self, Self::Purge(_) | Self::Erase)
    }
}

/// An intent that is to be executed after the commit of the transaction that recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// The one with this number.
    Intent(i64),
    /// The one to erase. There is at most one, whose number changes with each purge.
    Erase,
}
