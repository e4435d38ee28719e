use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    Attributes, Cursor, Email, Error, ErrorKind, ExternalId, ListQuery, Name, Order, Result,
    StoragePath, Timestamp, User, UserId,
};

/// A deleted user, who can be restored until they are purged.
///
/// Serialized, it has the fields of the [`User`] and then these two.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Line")]
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

/// A user in the trash as they are read. A flattened field is read by way of a buffer, from which
/// [`Attributes`] can't be taken as they were written.
#[derive(Deserialize)]
struct Line {
    id: UserId,
    email: Email,
    created_at: Timestamp,
    last_login_at: Option<Timestamp>,
    storage_path: StoragePath,
    updated_at: Timestamp,
    version: u64,
    suspended_at: Option<Timestamp>,
    external_id: Option<ExternalId>,
    name: Option<Name>,
    attributes: Option<Attributes>,
    deleted_at: Timestamp,
    is_being_purged: bool,
}

impl From<Line> for TrashedUser {
    fn from(line: Line) -> Self {
        let user = User {
            id: line.id,
            email: line.email,
            created_at: line.created_at,
            last_login_at: line.last_login_at,
            storage_path: line.storage_path,
            updated_at: line.updated_at,
            version: line.version,
            suspended_at: line.suspended_at,
            external_id: line.external_id,
            name: line.name,
            attributes: line.attributes,
        };
        Self { user, deleted_at: line.deleted_at, is_being_purged: line.is_being_purged }
    }
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
            return Err(Error::new(
                ErrorKind::InvalidQuery,
                "the limit of a page is 1 to 1000 users",
            ));
        }
        self.cursor.map_or(Ok(()), |cursor| cursor.check(Order::Creation))
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
        f.debug_struct("LeftFile")
            .field("user", &self.user)
            .field("error", &self.error)
            .finish_non_exhaustive()
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

/// What was added to a user's directory, or removed from it if negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageChange {
    /// The number of files.
    pub files: i64,
    /// Their lengths, in bytes.
    pub apparent_bytes: i64,
    /// The space that they take on the disk, in bytes.
    pub allocated_bytes: i64,
}

impl Usage {
    /// Returns the figures of a directory that doesn't exist.
    pub(crate) fn empty(measured_at: Timestamp) -> Self {
        Self { files: 0, apparent_bytes: 0, allocated_bytes: 0, unreadable: 0, measured_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_in_the_trash_is_read_from_the_json_that_they_are_written_as() {
        let json = concat!(
            r#"{"id":"3fa2b1c4-0000-4000-8000-000000000001","email":"Ada@example.com","#,
            r#""created_at":"2026-11-23T14:43:28.534187Z","last_login_at":null,"storage_path":"customers/ada","#,
            r#""updated_at":"2026-11-23T14:43:28.534187Z","version":1,"suspended_at":null,"external_id":"00u1","#,
            r#""name":"Ada","attributes":{"b":1.0,"a":[]},"deleted_at":"2026-11-24T14:43:28.534187Z","#,
            r#""is_being_purged":false}"#
        );
        let trashed: TrashedUser = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&trashed).unwrap(), json);
    }
}
