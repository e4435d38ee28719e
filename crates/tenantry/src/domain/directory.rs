//! Where a user's directory is, and whose a directory is, as the rows say.

use crate::{StoragePath, UserId};

/// Where a user's directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: StoragePath,
    /// Whether it was ever made.
    pub(crate) has_directory: bool,
}

/// Whose a path below `storage/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    User {
        id: UserId,
        has_directory: bool,
    },
    /// A user in the trash has the path, whose directory is in the trash as well.
    Trashed(UserId),
    /// The path lies above one that a user has or had.
    Above,
    Nobody,
}
