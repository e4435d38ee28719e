//! Where the rows say that a user's directory is, and to whom a path belongs.

use crate::{StoragePath, UserId};

/// Where a user's directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: StoragePath,
    /// Whether it was ever made.
    pub(crate) has_directory: bool,
}

/// The state of a path below `storage/` according to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathState {
    Owned {
        id: UserId,
        has_directory: bool,
    },
    /// A user in the trash has the path. Their directory is in the trash as well.
    Trashed(UserId),
    /// The path is above one that a user has or had.
    Above,
    /// No row refers to the path or to one below it.
    Orphan,
}
