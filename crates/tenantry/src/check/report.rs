//! The result of a check.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::UserId;

/// A difference between a store and its directories, or damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The kind of difference or damage.
    pub kind: FindingKind,
    /// The user concerned, if it concerns one.
    pub user: Option<UserId>,
    /// The path concerned, relative to the data directory, if it concerns one. Bytes that aren't
    /// UTF-8 are serialized as `\xff`.
    #[serde(serialize_with = "serialize_path")]
    pub path: Option<PathBuf>,
    /// Details for a person, without an address.
    pub detail: String,
}

/// The kinds of [`Finding`]. Serialized and displayed in snake case: `directory_lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The database and `storage/` belong to different stores. The check ends here.
    IdentityDiffers,
    /// `storage/`, or the marker in it with the store's id, is missing; it may not be mounted. The
    /// check doesn't inspect the directories then.
    IdentityMissing,
    /// SQLite's [integrity check](https://sqlite.org/pragma.html#pragma_integrity_check) reports
    /// damage, or an index doesn't agree with its table.
    DatabaseDamaged,
    /// A row refers to another row that doesn't exist.
    ReferenceDangling,
    /// A user's key isn't the key of their address.
    KeyDiffers,
    /// A user's storage path isn't valid, or equals or lies within the path of another user.
    PathOverlaps,
    /// A user's directory was made and is missing.
    DirectoryLost,
    /// A user's directory exists at the path that is derived from their id, but their row says that
    /// it doesn't.
    DirectoryUnrecorded,
    /// A directory exists at the path that was chosen for a user who hasn't
    /// [adopted](crate::Store::adopt) it.
    DirectoryUnadopted,
    /// An orphan in `storage/`: no row refers to it.
    DirectoryOrphaned,
    /// A symbolic link, or another entry that isn't a directory, is on the way to a user's
    /// directory.
    PathBlocked,
    /// A directory of the store is accessible to other users of the system, or not to its owner.
    WrongMode,
    /// A directory or file of the store has another owner than the store.
    WrongOwner,
    /// A crash or a failure has left an intent that isn't done.
    IntentUnfinished,
    /// The directory of a user in the trash was made and is missing.
    TrashLost,
    /// An orphan in `trash/`: no user in the trash has this id.
    TrashOrphaned,
}

impl FindingKind {
    /// Returns how a [repair](crate::repair) fixes this kind, or `None` if it doesn't.
    #[must_use]
    pub fn repair(self) -> Option<&'static str> {
        match self {
            Self::IntentUnfinished => Some("finish it"),
            Self::DirectoryUnrecorded => Some("record it"),
            Self::DirectoryOrphaned | Self::TrashOrphaned => Some("move it to quarantine"),
            Self::WrongMode => Some("set the mode to 0700"),
            Self::WrongOwner => Some("as root, give it to the owner"),
            _ => None,
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Finding {
    /// Whether a directory that another process moves during the check could explain it.
    pub(super) fn may_be_a_move(&self) -> bool {
        use FindingKind::{
            DirectoryLost, DirectoryOrphaned, DirectoryUnrecorded, TrashLost, TrashOrphaned,
        };
        matches!(
            self.kind,
            DirectoryLost | TrashLost | DirectoryUnrecorded | DirectoryOrphaned | TrashOrphaned
        )
    }
}

/// The result of a [check](crate::check).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// All differences and damage; empty for a store without any.
    pub findings: Vec<Finding>,
    /// The number of users outside the trash.
    pub users: u64,
    /// The number of users in the trash.
    pub trashed: u64,
    /// The number of directories, orphans included.
    pub directories: u64,
    /// The number of orphans. One that holds directories counts as that many: they may belong to as
    /// many users.
    pub orphaned: u64,
}

impl CheckReport {
    pub(super) fn add(
        &mut self,
        kind: FindingKind,
        user: Option<UserId>,
        path: Option<PathBuf>,
        detail: impl Into<String>,
    ) {
        self.findings.push(Finding { kind, user, path, detail: detail.into() });
    }

    pub(super) fn has(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }
}

fn serialize_path<S: Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    path.as_deref().map(shown).serialize(serializer)
}

/// Formats a path as text, with escapes for bytes that aren't UTF-8.
fn shown(path: &Path) -> String {
    path.to_str()
        .map_or_else(|| path.as_os_str().as_bytes().escape_ascii().to_string(), ToOwned::to_owned)
}
