use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Cursor, Error, ErrorKind, ListQuery, Result, Timestamp, User, UserId};

/// A deleted user, who can be restored until they are purged.
///
/// Serialized, it has the fields of the [`User`] and then these two.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrashedUser {
    /// The user as they were when they were deleted. Another user may have the address by now.
    #[serde(flatten)]
    pub user: User,
    /// When the user was deleted.
    pub deleted_at: Timestamp,
    /// Whether a purge of the user has begun. Then some files may be gone, and the user can't be
    /// restored.
    pub is_being_purged: bool,
}

impl TrashedUser {
    /// How many users [`Store::find_in_trash`](crate::Store::find_in_trash) returns at most: users
    /// who come and go may have left any number.
    pub const OF_ONE_ADDRESS_MAX: usize = 100;
}

/// Which page of the trash [`Store::list_trash`](crate::Store::list_trash) returns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrashQuery {
    /// How many users a page holds at most: 1 to [`ListQuery::MAX_LIMIT`].
    pub limit: usize,
    /// Where to go on; the beginning if there is none.
    pub cursor: Option<Cursor>,
    /// Only users who were deleted before this moment.
    pub deleted_before: Option<Timestamp>,
}

impl TrashQuery {
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=ListQuery::MAX_LIMIT).contains(&self.limit) {
            return Err(Error::new(ErrorKind::InvalidQuery, "the limit of a page is 1 to 1000 users"));
        }
        Ok(())
    }
}

impl Default for TrashQuery {
    fn default() -> Self {
        Self { limit: ListQuery::DEFAULT_LIMIT, cursor: None, deleted_before: None }
    }
}

/// A page of the trash, in the order of deletion.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrashPage {
    /// The users.
    pub users: Vec<TrashedUser>,
    /// Where the next page begins, or `None` if this is the last.
    pub next_cursor: Option<Cursor>,
}

/// Whom [`Store::purge`](crate::Store::purge) destroys for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge {
    /// One user in the trash.
    User(UserId),
    /// All users who were deleted before this moment.
    DeletedBefore(Timestamp),
}

/// The result of a purge.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Purged {
    /// How many users are gone for good.
    pub users: u64,
    /// How many files were removed.
    pub files: u64,
    /// Files that could not be removed, at most 100 for each user. Their users stay in the trash,
    /// and can only be purged.
    pub left: Vec<LeftFile>,
    /// How many users another process is purging, which are left to it.
    pub elsewhere: u64,
    /// Why the database could not be rewritten yet, for example during a long read. Until then,
    /// traces of the users may be left in it. The next purge tries again, and so does the next
    /// opening.
    pub not_erased: Option<Error>,
}

impl Purged {
    pub(crate) fn leave(&mut self, user: UserId, path: PathBuf, error: std::io::Error) {
        self.left.push(LeftFile { user, path, error });
    }
}

/// A file that a purge could not remove.
///
/// `Debug` leaves out its path, which is the application's data.
#[non_exhaustive]
pub struct LeftFile {
    /// The user whose file it is.
    pub user: UserId,
    /// Where it was in the user's directory, or empty for that directory as a whole. The rest of
    /// the directory is in `trash/`, named by the user's id.
    pub path: PathBuf,
    /// Why it could not be removed.
    pub error: std::io::Error,
}

impl fmt::Debug for LeftFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftFile").field("user", &self.user).field("error", &self.error).finish_non_exhaustive()
    }
}

/// The size of a user's directory when it was measured.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// How many files there were, and whatever else isn't a directory. One with several names
    /// counts once.
    pub files: u64,
    /// The sum of their lengths, in bytes.
    pub apparent_bytes: u64,
    /// The space that they and the directories take on the disk, in bytes.
    pub allocated_bytes: u64,
    /// How many directories could not be entered, because of their permissions or because another
    /// file system is mounted on them: what they hold isn't counted.
    pub unreadable: u64,
    /// When the measurement began.
    pub measured_at: Timestamp,
}

impl Usage {
    /// Returns the figures of a directory that doesn't exist.
    pub(crate) fn empty(measured_at: Timestamp) -> Self {
        Self { files: 0, apparent_bytes: 0, allocated_bytes: 0, unreadable: 0, measured_at }
    }
}
