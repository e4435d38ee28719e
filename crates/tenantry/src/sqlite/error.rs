//! SQLite's result codes as kinds of errors: matched by code, never by text.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::ffi;
use rusqlite::{Connection, ErrorCode};

use crate::{Error, ErrorKind};

/// By SQLite's result code (<https://sqlite.org/rescode.html>): `Busy`, `Full`, `ReadOnly`, `Io`,
/// `Corrupt`, `Constraint`, and `Internal` for what only a mistake in the SQL can cause. So a
/// closure that runs SQL of its own can use `?` on it. The message says what SQLite said of a
/// mistake in a statement, such as *no such table: notes*.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, message) = describe(&error);
        let message = match said(&error) {
            Some(said) => Cow::Owned(format!("{message}: {said}")),
            None => Cow::Borrowed(message),
        };
        Self::new(kind, message).with_source(error)
    }
}

/// The longest text of SQLite's in a message, in characters: its texts about names and types are
/// shorter.
const SAID_MAX: usize = 200;

/// Returns the text of SQLite or rusqlite about a mistake in a statement, if it says more than the
/// code and holds no values of rows: which table, column, parameter or type.
fn said(error: &rusqlite::Error) -> Option<String> {
    let said = match error {
        rusqlite::Error::SqliteFailure(failure, Some(said)) => {
            // The text of a trigger is the application's, and may hold values. That of a foreign
            // key adds nothing.
            let is_told = !matches!(
                failure.extended_code,
                ffi::SQLITE_CONSTRAINT_TRIGGER | ffi::SQLITE_CONSTRAINT_FOREIGNKEY
            );
            let is_statement_error =
                matches!(failure.code, ErrorCode::ConstraintViolation | ErrorCode::Unknown);
            (is_told && is_statement_error).then(|| said.clone())
        }
        rusqlite::Error::SqlInputError { error, msg, .. } if error.code == ErrorCode::Unknown => {
            Some(msg.clone())
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::InvalidColumnIndex(..)
        | rusqlite::Error::InvalidColumnName(..)
        | rusqlite::Error::InvalidParameterName(..)
        | rusqlite::Error::InvalidParameterCount(..)
        | rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::ExecuteReturnedResults
        | rusqlite::Error::MultipleStatement => Some(error.to_string()),
        _ => None,
    }?;
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(line.chars().take(SAID_MAX).collect())
}

fn describe(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    let code = match error {
        rusqlite::Error::SqliteFailure(failure, _) => failure,
        rusqlite::Error::SqlInputError { error, .. } => error,
        // A column holds what the schema rules out.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => {
            return (ErrorKind::Corrupt, "a row of the database is damaged");
        }
        _ => {
            return (
                ErrorKind::Internal,
                "a statement was used in a way that the database doesn't allow",
            );
        }
    };
    match code.code {
        // The file beside the database that readers need can't be extended: a file system tells so
        // in no other way.
        ErrorCode::SystemIoFailure if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => (
            ErrorKind::Full,
            "the disk is full: there is no room for the file beside the database that readers need",
        ),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (ErrorKind::Busy, "another process is writing to the store: try again")
        }
        ErrorCode::DiskFull => (ErrorKind::Full, "the disk is full: nothing was written"),
        ErrorCode::ReadOnly => (ErrorKind::ReadOnly, "the store can't be written: it is read-only"),
        ErrorCode::PermissionDenied => {
            (ErrorKind::PermissionDenied, "no permission to use the store's files")
        }
        ErrorCode::CannotOpen => (ErrorKind::Io, "the database file can't be opened"),
        ErrorCode::SystemIoFailure => (ErrorKind::Io, "an operation on the store's files failed"),
        ErrorCode::OutOfMemory => (ErrorKind::Io, "the database ran out of memory"),
        ErrorCode::DatabaseCorrupt => (ErrorKind::Corrupt, "the database is damaged"),
        ErrorCode::NotADatabase => {
            (ErrorKind::Corrupt, "the file is not a database, or its first page is damaged")
        }
        ErrorCode::ConstraintViolation => (
            ErrorKind::Constraint,
            "a constraint refused the change: another table refers to the row, or a value is out of range",
        ),
        ErrorCode::AuthorizationForStatementDenied => (
            ErrorKind::Internal,
            "a closure may neither end its transaction nor change Tenantry's own tables or settings",
        ),
        _ => (ErrorKind::Internal, "the database refused a statement"),
    }
}

/// A write that ran into a quota or the size limit of a file failed because of a full disk,
/// whatever SQLite calls it: it takes only `ENOSPC` for that, and not even that if a file can't be
/// made. To be asked before the connection is used again.
pub(super) fn with_quota_as_full(conn: &Connection, error: Error) -> Error {
    let message = match extended_code(&error) {
        Some(ffi::SQLITE_IOERR_WRITE) => {
            #[allow(unsafe_code, reason = "rusqlite has no safe interface to this function")]
            // SAFETY: the handle belongs to a connection that is borrowed, and the function only
            // reads a number from it.
            let errno = unsafe { ffi::sqlite3_system_errno(conn.handle()) };
            match errno {
                libc::EDQUOT => "the disk quota is used up: nothing was written",
                libc::EFBIG => "a file may grow no further (ulimit): nothing was written",
                _ => return error,
            }
        }
        // The number is by then that of a second attempt, to open what could not be made.
        Some(ffi::SQLITE_CANTOPEN)
            if conn.path().is_some_and(|path| has_no_room(Path::new(path))) =>
        {
            "the disk is full: there is no room for another file"
        }
        _ => return error,
    };
    Error::new(ErrorKind::Full, message).with_source(error)
}

/// Whether a commit failed after it had written the log, because there was no room for the file
/// beside it that readers need.
pub(super) fn is_shared_memory_failure(error: &Error) -> bool {
    extended_code(error) == Some(ffi::SQLITE_IOERR_SHMSIZE)
}

/// Whether the file system doesn't let processes share memory through a file.
pub(super) fn is_without_shared_memory(error: &Error) -> bool {
    matches!(
        extended_code(error),
        Some(ffi::SQLITE_IOERR_SHMMAP | ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMLOCK)
    )
}

/// Whether a trigger gave up the statement, perhaps with
/// [RAISE(FAIL)](https://sqlite.org/lang_createtrigger.html#the_raise_function), which keeps what
/// was done before.
pub(super) fn is_trigger_failure(error: &Error) -> bool {
    extended_code(error) == Some(ffi::SQLITE_CONSTRAINT_TRIGGER)
}

fn extended_code(error: &Error) -> Option<i32> {
    failure_behind(error).map(|failure| failure.extended_code)
}

/// The failure of SQLite's that is behind an error, if there is one.
fn failure_behind(error: &Error) -> Option<&ffi::Error> {
    let mut sources =
        std::iter::successors(std::error::Error::source(error), |source| source.source());
    let source = sources.find_map(|source| source.downcast_ref::<rusqlite::Error>());
    source.and_then(rusqlite::Error::sqlite_error)
}

/// Whether no file can be made beside this one. Some file systems don't count their files, and say
/// that there may be none.
fn has_no_room(file: &Path) -> bool {
    let found = rustix::fs::statvfs(file.parent().unwrap_or(file));
    found.is_ok_and(|found| found.f_bavail == 0 || (found.f_favail == 0 && found.f_files > 0))
}

/// Whether a UNIQUE constraint, or that of a primary key, refused the statement.
pub(super) fn is_unique_violation(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error().map(|failure| failure.extended_code),
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
    )
}

/// Whether a read-only connection can't read because the database has to be rolled back first.
pub(super) fn is_left_in_transaction(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|failure| failure.extended_code == ffi::SQLITE_READONLY_ROLLBACK)
}

/// How far the failure of an operation reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Concerns the operation alone.
    Local,
    /// Concerns its transaction: SQLite may have rolled it back already
    /// (<https://sqlite.org/lang_transaction.html>, section 3).
    Transaction,
    /// Concerns the files: how much of the transaction is on the disk isn't known.
    Files,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        if error.kind() == ErrorKind::Replaced {
            return Self::Files;
        }
        match failure_behind(error).map(|failure| failure.code) {
            // A directory can't be made without space. This isn't SQLite's error, and the
            // transaction goes on.
            Some(_) if error.kind() == ErrorKind::Full => Self::Transaction,
            Some(
                ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase,
            ) => Self::Files,
            Some(ErrorCode::OutOfMemory | ErrorCode::CannotOpen) => Self::Transaction,
            _ => Self::Local,
        }
    }
}

/// Turns "no such table" and the like into `Corrupt`: SQLite reports a plain SQL error, but an
/// intact store always has these tables.
pub(crate) fn schema_failure(error: impl Into<Error>) -> Error {
    match error.into() {
        error if error.kind() == ErrorKind::Internal => {
            Error::new(ErrorKind::Corrupt, "the schema of the database is damaged")
                .with_source(error)
        }
        error => error,
    }
}
