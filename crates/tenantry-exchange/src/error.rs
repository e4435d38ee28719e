use std::fmt;
use std::io;

use crate::row::Rejection;

/// [`std::result::Result`] with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Reports why a file of users couldn't be read, written or imported.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file is malformed, and nothing can be read from this line on.
    Invalid {
        /// The line, counted from 1.
        line: u64,
        /// The reason, without control characters.
        reason: String,
    },
    /// The header of a CSV file doesn't fit the [`Columns`](crate::Columns).
    Header {
        /// The line, counted from 1.
        line: u64,
        /// The reason, without control characters.
        reason: String,
    },
    /// A mapping of [`Columns`](crate::Columns) is ambiguous, or names a field that doesn't exist.
    Mapping(String),
    /// Reading or writing failed.
    Io(io::Error),
    /// A row was rejected, which ends an import with
    /// [`OnConflict::Fail`](tenantry::OnConflict::Fail).
    Rejected(Box<Rejection>),
    /// The store failed, for a reason that isn't one of a single row.
    Store(tenantry::Error),
}

impl Error {
    pub(crate) fn invalid(line: u64, reason: impl Into<String>) -> Self {
        Self::Invalid { line, reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { line, reason } | Self::Header { line, reason } => {
                write!(f, "line {line}: {reason}")
            }
            Self::Mapping(reason) => f.write_str(reason),
            Self::Io(error) => error.fmt(f),
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Invalid { .. } | Self::Header { .. } | Self::Mapping(_) | Self::Rejected(_) => {
                None
            }
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<tenantry::Error> for Error {
    fn from(error: tenantry::Error) -> Self {
        Self::Store(error)
    }
}

/// Returns the I/O error behind the failure of a CSV writer.
///
/// `From` would change its kind, and the kind distinguishes a broken pipe from a full disk.
pub(crate) fn csv_io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        kind => io::Error::other(format!("{kind:?}")),
    }
}

/// Converts a failure to read: `InvalidData` is the content of the file, the rest is I/O.
pub(crate) fn read_failure(error: io::Error, line: u64) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::invalid(line, error.to_string()),
        _ => Error::Io(error),
    }
}
