//! The failure of a command: one line on standard error and an exit code.

use std::fmt;
use std::io;

use tenantry::{ErrorClass, ErrorKind};

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Invalid = 5,
    Busy = 6,
    Unusable = 7,
    Denied = 8,
    /// Interrupted by a signal. The process exits with 128 plus its number.
    Interrupted = 130,
}

impl Exit {
    /// Returns the exit code for an error of the store.
    pub(crate) fn from_kind(kind: ErrorKind) -> Self {
        match kind.class() {
            ErrorClass::NotFound | ErrorClass::Gone => Self::NotFound,
            ErrorClass::Conflict | ErrorClass::Precondition | ErrorClass::Unprocessable => {
                Self::Conflict
            }
            ErrorClass::Invalid => Self::Invalid,
            ErrorClass::Busy => Self::Busy,
            // The store is usable once there is space, or has done its work.
            ErrorClass::Unavailable if matches!(kind, ErrorKind::Full | ErrorKind::Unfinished) => {
                Self::Failure
            }
            ErrorClass::Unavailable | ErrorClass::Corrupt => Self::Unusable,
            ErrorClass::Denied => Self::Denied,
            _ => Self::Failure,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// A message with the failure, its cause and advice.
    Message { exit: Exit, message: String },
    /// The failure was reported before.
    Silent(Exit),
    /// The reader of the output has gone, which isn't an error.
    BrokenPipe,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Message { exit, message: message.into() }
    }

    /// Adds the outcome for the data to the message.
    pub(crate) fn with_outcome(self, what: &str) -> Self {
        match self {
            Self::Message { exit, message } => {
                Self::Message { exit, message: format!("{message}; {what}") }
            }
            Self::Silent(_) | Self::BrokenPipe => self,
        }
    }

    /// Puts the name of one of several subjects before the message.
    pub(crate) fn with_subject(self, which: &str) -> Self {
        match self {
            Self::Message { exit, message } => {
                Self::Message { exit, message: format!("{which}: {message}") }
            }
            Self::Silent(_) | Self::BrokenPipe => self,
        }
    }

    /// Converts a failure to read or write `what`.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::new(Exit::Failure, format!("{what}: {error}"))
    }
}

impl From<tenantry::Error> for Failure {
    fn from(error: tenantry::Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::EmailTaken => "`tenantry user get EMAIL` shows who has it",
            ErrorKind::IdTaken => "leave out --id for a random one",
            ErrorKind::PathTaken | ErrorKind::InvalidPath => {
                "choose another path, or leave it out for a derived one"
            }
            ErrorKind::VersionMismatch { .. } => {
                "read the user again, then repeat with the current version"
            }
            ErrorKind::StorageLost => {
                "`tenantry check` shows its path: restore it from a backup, or create an empty directory there"
            }
            ErrorKind::StorageBlocked => "`tenantry check` shows what is in the way",
            ErrorKind::StorageUnavailable => "`tenantry check` says what is missing",
            ErrorKind::TooManyOrphans => {
                "make sure that this is the right database, then repeat with --even-if-many"
            }
            ErrorKind::Suspended => "`tenantry user resume USER` lets them sign in again",
            ErrorKind::TokenExists => "`tenantry token list` shows it",
            ErrorKind::Constraint => "remove what refers to the user first",
            ErrorKind::OutcomeUnknown => {
                "check with `tenantry user get` before you repeat the command; an import can be repeated with --on-conflict skip"
            }
            ErrorKind::Full => "make space, then repeat",
            ErrorKind::ReadOnly => "mount the file system writable",
            ErrorKind::PermissionDenied => "run the command as the owner of the data directory",
            ErrorKind::NetworkFileSystem => "--allow-network-fs overrides this at your own risk",
            ErrorKind::Replaced => {
                "stop the program, and inspect the data directory before you start it again"
            }
            ErrorKind::Io => "check the disk and the system's log",
            ErrorKind::Corrupt => "stop using the store, and restore a backup into a new directory",
            ErrorKind::Internal => "please report this",
            ErrorKind::Cancelled => return Self::new(Exit::Interrupted, "interrupted"),
            _ => return Self::new(Exit::from_kind(error.kind()), error.to_string()),
        };
        // The cause helps an operator. A conflict, invalid input or a missing user has no deeper
        // one.
        let mut cause = String::new();
        if !matches!(Exit::from_kind(error.kind()), Exit::Conflict | Exit::Invalid | Exit::NotFound)
        {
            let causes =
                std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            if let Some(root) = causes.last() {
                cause = format!(" ({root})");
            }
        }
        Self::new(Exit::from_kind(error.kind()), format!("{error}{cause}; {advice}"))
    }
}

impl From<tenantry_exchange::Error> for Failure {
    fn from(error: tenantry_exchange::Error) -> Self {
        use tenantry_exchange::Error;
        match error {
            Error::Store(error) => error.into(),
            Error::Io(error) => Self::io("reading the file", &error),
            Error::Rejected(rejection) => Self::new(
                Exit::from_kind(rejection.kind),
                format!(
                    "{rejection}; nothing was imported: correct the line, or import the others with --on-conflict skip"
                ),
            ),
            Error::Header { .. } => Self::new(
                Exit::Invalid,
                format!(
                    "{error}; --map FIELD=COLUMN maps a column with another name, --ignore-unknown ignores the columns \
                     that aren't fields"
                ),
            ),
            Error::Mapping(reason) => Self::new(Exit::Usage, format!("--map: {reason}")),
            error => Self::new(Exit::Invalid, error.to_string()),
        }
    }
}
