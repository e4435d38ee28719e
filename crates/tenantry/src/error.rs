//! The one error type of the crate.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The one error type, in three depths: [`kind`](Error::kind) for the program, `Display` for a
/// person (one line, no address, no value of a row, no path of the machine) and
/// [`source`](std::error::Error::source) for the log.
///
/// An error is cheap to clone, because every caller in a group gets the failure of its transaction.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// As a [`UserId`](crate::UserId), whose file knows this one.
    pub(crate) taken_by: Option<Uuid>,
}

/// The kinds of [`Error`]. Each says what a caller may conclude about the data.
///
/// Unless a kind says otherwise, the operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user, the directory or the backup that an operation is about doesn't exist. (A lookup of
    /// a user returns `None` instead.)
    NotFound,
    /// There is no store in this data directory, and it wasn't to be created.
    StoreMissing,
    /// Another user has this address, or one with the same canonical key.
    EmailTaken,
    /// Another user has, or a deleted user had, this id.
    IdTaken,
    /// The storage path equals, contains or lies inside a path that another user has or a deleted
    /// user had.
    PathTaken,
    /// The user was changed since the caller read them.
    VersionMismatch {
        /// The version that the user has now.
        current: u64,
    },
    /// A value differs from one that is fixed once a user exists (id, time of creation, storage
    /// path).
    Immutable,
    /// The text isn't an acceptable email address; the message says what is wrong, and where.
    InvalidEmail,
    /// The text isn't a UUID of version 4.
    InvalidId,
    /// The text isn't an acceptable storage path; the message says what is wrong.
    InvalidPath,
    /// The text isn't an RFC 3339 timestamp, or is out of range.
    InvalidTimestamp,
    /// The text isn't a cursor of this store.
    InvalidCursor,
    /// The text is no acceptable name of an [`Actor`](crate::Actor).
    InvalidActor,
    /// The change feed can't be followed from this cursor: changes behind it are no longer kept, or
    /// it is of another store or of a state that the store doesn't have any more. List the users
    /// again, and follow from there.
    CursorExpired,
    /// A limit or a filter of a listing is out of range.
    InvalidQuery,
    /// A value of a user isn't acceptable (the version, the external id, the name or the
    /// attributes); the message says which, and what is wrong.
    InvalidUser,
    /// A name, a scope or a lifetime of a token isn't acceptable.
    InvalidToken,
    /// Another token has, or had, this name.
    TokenExists,
    /// The key of a request isn't acceptable.
    InvalidKey,
    /// Another request was made with this key.
    KeyReused,
    /// A constraint of the application's own tables refused the change.
    Constraint,
    /// Another process held the write lock for too long, or too many callers wait (backpressure).
    /// Nothing was done: try again.
    Busy,
    /// The commit failed while it was made durable: whether the change exists is known once the
    /// store is opened again. Check before you repeat it.
    OutcomeUnknown,
    /// The disk or the quota is full. Writes succeed again when there is space.
    Full,
    /// The store can't be written: its file or its file system is read-only.
    ReadOnly,
    /// The process lacks a permission to read or write a file or directory.
    PermissionDenied,
    /// An operation on a file failed. After a failure during a write, the store refuses further
    /// writes until it is opened again.
    Io,
    /// The database, or the archive that is read, is damaged.
    Corrupt,
    /// The file isn't a Tenantry store, or one that this version can't use. It was not changed.
    Incompatible,
    /// The data directory lies on a network file system, which was not
    /// [allowed](crate::Builder::allow_network_fs).
    NetworkFileSystem,
    /// The database's files were removed or replaced while the store was open, so it refuses
    /// further writes. Earlier writes went to the removed files.
    Replaced,
    /// The user's directory was made once and is missing now: a backup may have it.
    StorageLost,
    /// A symbolic link, a mount or something else that isn't a directory is on the path of a user's
    /// directory, or the target of its move exists.
    StorageBlocked,
    /// The storage directory as a whole is missing or isn't that of this store: it may not be
    /// mounted. Operations on rows alone still work.
    StorageUnavailable,
    /// A user's directory holds files that the operation would leave behind, or there is something
    /// in a directory into which a backup is to be restored.
    NotEmpty,
    /// There is a file of that name already.
    Exists,
    /// Over 10 % of the directories are orphans, which suggests the wrong database.
    /// [`RepairOptions::even_if_many`](crate::RepairOptions::even_if_many) allows the repair.
    TooManyOrphans,
    /// The change was committed, but its intent could not be executed in the file system yet. The
    /// next operation on the user and the next opening try again. An operation that can't go on
    /// before such an intent of an earlier change is executed fails in the same way: then it did
    /// nothing itself.
    Unfinished,
    /// The caller has ended the operation, through its progress callback. Nothing was done, except
    /// by a [purge](crate::Store::purge).
    Cancelled,
    /// The store was closed.
    Closed,
    /// A mistake in Tenantry or in the SQL of a caller's closure.
    Internal,
    /// The user is [suspended](crate::Store::suspend), so they don't sign in. Nothing was recorded.
    Suspended,
}

/// The class of an error, from which exit codes and HTTP statuses follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The subject of the request doesn't exist (404).
    NotFound,
    /// What the request refers to existed once, and doesn't any more (410).
    Gone,
    /// The request contradicts what exists (409).
    Conflict,
    /// A value of the request isn't acceptable, whatever exists (400).
    Invalid,
    /// The request differs from an earlier one that it says it repeats (422).
    Unprocessable,
    /// A condition that the request named doesn't hold (412).
    Precondition,
    /// Nothing was done, and the same request may succeed after a pause (503 with `Retry-After`).
    /// Or the caller has ended it.
    Busy,
    /// The store can't do this until an operator has changed something (503).
    Unavailable,
    /// The process lacks a permission, or the store can only be read (403 or 500, as the service
    /// sees it). Or the user is suspended (403).
    Denied,
    /// The database or an archive is damaged, or not one that this version can use (500).
    Corrupt,
    /// Everything else: a failing disk, a mistake in Tenantry (500).
    Internal,
}

impl ErrorKind {
    pub(crate) const COUNT: usize = Self::NAMES.len();

    /// The names by [`index`](Self::index).
    pub(crate) const NAMES: [&'static str; 42] = [
        "not_found",
        "store_missing",
        "email_taken",
        "id_taken",
        "path_taken",
        "version_mismatch",
        "immutable",
        "invalid_email",
        "invalid_id",
        "invalid_path",
        "invalid_timestamp",
        "invalid_cursor",
        "invalid_query",
        "invalid_user",
        "constraint",
        "busy",
        "outcome_unknown",
        "full",
        "read_only",
        "permission_denied",
        "io",
        "corrupt",
        "incompatible",
        "network_file_system",
        "replaced",
        "storage_lost",
        "storage_blocked",
        "storage_unavailable",
        "not_empty",
        "exists",
        "too_many_orphans",
        "unfinished",
        "cancelled",
        "closed",
        "internal",
        "suspended",
        "invalid_token",
        "token_exists",
        "invalid_actor",
        "cursor_expired",
        "invalid_key",
        "key_reused",
    ];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::NotFound => 0,
            Self::StoreMissing => 1,
            Self::EmailTaken => 2,
            Self::IdTaken => 3,
            Self::PathTaken => 4,
            Self::VersionMismatch { .. } => 5,
            Self::Immutable => 6,
            Self::InvalidEmail => 7,
            Self::InvalidId => 8,
            Self::InvalidPath => 9,
            Self::InvalidTimestamp => 10,
            Self::InvalidCursor => 11,
            Self::InvalidQuery => 12,
            Self::InvalidUser => 13,
            Self::Constraint => 14,
            Self::Busy => 15,
            Self::OutcomeUnknown => 16,
            Self::Full => 17,
            Self::ReadOnly => 18,
            Self::PermissionDenied => 19,
            Self::Io => 20,
            Self::Corrupt => 21,
            Self::Incompatible => 22,
            Self::NetworkFileSystem => 23,
            Self::Replaced => 24,
            Self::StorageLost => 25,
            Self::StorageBlocked => 26,
            Self::StorageUnavailable => 27,
            Self::NotEmpty => 28,
            Self::Exists => 29,
            Self::TooManyOrphans => 30,
            Self::Unfinished => 31,
            Self::Cancelled => 32,
            Self::Closed => 33,
            Self::Internal => 34,
            Self::Suspended => 35,
            Self::InvalidToken => 36,
            Self::TokenExists => 37,
            Self::InvalidActor => 38,
            Self::CursorExpired => 39,
            Self::InvalidKey => 40,
            Self::KeyReused => 41,
        }
    }

    /// Returns the name of this kind in snake case, as `email_taken`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Returns the class of this kind.
    #[must_use]
    pub fn class(self) -> ErrorClass {
        match self {
            Self::NotFound | Self::StoreMissing => ErrorClass::NotFound,
            Self::CursorExpired => ErrorClass::Gone,
            Self::EmailTaken
            | Self::IdTaken
            | Self::PathTaken
            | Self::Immutable
            | Self::NotEmpty
            | Self::Exists
            | Self::Constraint
            | Self::TokenExists => ErrorClass::Conflict,
            Self::VersionMismatch { .. } => ErrorClass::Precondition,
            Self::InvalidEmail
            | Self::InvalidId
            | Self::InvalidPath
            | Self::InvalidTimestamp
            | Self::InvalidCursor
            | Self::InvalidActor
            | Self::InvalidQuery
            | Self::InvalidUser
            | Self::InvalidToken
            | Self::InvalidKey => ErrorClass::Invalid,
            Self::KeyReused => ErrorClass::Unprocessable,
            Self::Busy | Self::Cancelled => ErrorClass::Busy,
            Self::Full
            | Self::NetworkFileSystem
            | Self::Replaced
            | Self::StorageUnavailable
            | Self::Unfinished
            | Self::Closed => ErrorClass::Unavailable,
            Self::ReadOnly | Self::PermissionDenied | Self::Suspended => ErrorClass::Denied,
            Self::Corrupt | Self::Incompatible => ErrorClass::Corrupt,
            Self::OutcomeUnknown
            | Self::Io
            | Self::StorageLost
            | Self::StorageBlocked
            | Self::TooManyOrphans
            | Self::Internal => ErrorClass::Internal,
        }
    }
}

impl Error {
    /// Creates an error. People read `message`: one line, without personal data.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None, taken_by: None }
    }

    /// Adds the cause, which is for logs only.
    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Returns the kind, for the program to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the class of the error, from which an exit code or an HTTP status follows.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::{Email, ErrorClass};
    ///
    /// fn status(error: &tenantry::Error) -> u16 {
    ///     match error.class() {
    ///         ErrorClass::NotFound => 404,
    ///         ErrorClass::Conflict => 409,
    ///         ErrorClass::Invalid => 400,
    ///         ErrorClass::Precondition => 412,
    ///         ErrorClass::Busy | ErrorClass::Unavailable => 503,
    ///         _ => 500,
    ///     }
    /// }
    ///
    /// assert_eq!(status(&"not an address".parse::<Email>().unwrap_err()), 400);
    /// ```
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.kind.class()
    }

    /// Returns whether nothing was done and the same call may succeed after a pause.
    ///
    /// That is so for [`ErrorKind::Busy`] alone. [`ErrorKind::OutcomeUnknown`] is *not* retryable
    /// in this sense: the first attempt may have succeeded.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Busy
    }

    /// Returns whether this concerns the values of one user, and in a batch no other.
    pub(crate) fn is_row_error(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::EmailTaken
                | ErrorKind::IdTaken
                | ErrorKind::PathTaken
                | ErrorKind::NotFound
                | ErrorKind::VersionMismatch { .. }
                | ErrorKind::InvalidPath
                | ErrorKind::InvalidUser
                | ErrorKind::Constraint
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_the_name_that_it_has_in_the_source_and_an_index_of_its_own() {
        for (kind, name) in [
            (ErrorKind::NotFound, "not_found"),
            (ErrorKind::VersionMismatch { current: 7 }, "version_mismatch"),
            (ErrorKind::NetworkFileSystem, "network_file_system"),
            (ErrorKind::Internal, "internal"),
            (ErrorKind::Suspended, "suspended"),
        ] {
            assert_eq!(kind.name(), name);
        }
        assert_eq!(ErrorKind::KeyReused.index() + 1, ErrorKind::COUNT);
    }
}
