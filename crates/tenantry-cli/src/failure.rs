//! What a command ends with when it can't do what it was asked for: one line on standard error and
//! an exit code.

use std::fmt;
use std::io;

use tenantry::{ErrorClass, ErrorKind};

/// The promised exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Invalid = 5,
    Busy = 6,
    Unusable = 7,
    /// By a signal. The process ends with 128 and its number.
    Interrupted = 130,
}

impl Exit {
    /// Returns the exit code for an error of the store.
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind.class() {
            ErrorClass::NotFound => Self::NotFound,
            ErrorClass::Conflict | ErrorClass::Precondition => Self::Conflict,
            ErrorClass::Invalid => Self::Invalid,
            ErrorClass::Busy => Self::Busy,
            // The store is usable as soon as there is space, and it has done what was asked for.
            ErrorClass::Unavailable if matches!(kind, ErrorKind::Full | ErrorKind::Unfinished) => Self::Failure,
            ErrorClass::Unavailable | ErrorClass::Corrupt => Self::Unusable,
            _ => Self::Failure,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// Says what happened and what to do.
    Told { exit: Exit, message: String },
    /// Was said already.
    Shown(Exit),
    /// Whoever read the output has gone; there is nobody to tell and nothing wrong.
    BrokenPipe,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told { exit, message: message.into() }
    }

    /// The same, with what has become of the data.
    pub(crate) fn saying(self, what: &str) -> Self {
        match self {
            Self::Told { exit, message } => Self::Told { exit, message: format!("{message}; {what}") },
            Self::Shown(_) | Self::BrokenPipe => self,
        }
    }

    /// The same, of one of several.
    pub(crate) fn of(self, which: &str) -> Self {
        match self {
            Self::Told { exit, message } => Self::Told { exit, message: format!("{which}: {message}") },
            Self::Shown(_) | Self::BrokenPipe => self,
        }
    }

    /// The failure of reading or writing `what`.
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
            ErrorKind::PathTaken | ErrorKind::InvalidPath => "choose another path, or leave it out for a derived one",
            ErrorKind::VersionMismatch { .. } => "read the user again, then repeat with the current version",
            ErrorKind::StorageLost => {
                "`tenantry check` shows its path: bring it back from a backup, or make an empty one there"
            }
            ErrorKind::StorageBlocked => "`tenantry check` shows what stands where",
            ErrorKind::StorageUnavailable => "`tenantry check` says what is missing",
            ErrorKind::TooManyOrphans => "make sure that this is the right database, then repeat with --even-if-many",
            ErrorKind::Constraint => "remove what refers to the user first",
            ErrorKind::OutcomeUnknown => {
                "look with `tenantry user get` before you repeat, or repeat an import with --on-conflict skip"
            }
            ErrorKind::Full => "make space, then repeat",
            ErrorKind::ReadOnly => "run it as the owner of the data directory, on a file system that can be written",
            ErrorKind::NetworkFileSystem => "--allow-network-fs overrides this at your own risk",
            ErrorKind::Replaced => "stop the program, and look what is in the data directory before you start it again",
            ErrorKind::Io => "check the disk and the system's log",
            ErrorKind::Corrupt => "stop using it, and restore a backup into a new directory",
            ErrorKind::Internal => "please report this",
            ErrorKind::Cancelled => return Self::new(Exit::Interrupted, "interrupted"),
            _ => return Self::new(Exit::of(error.kind()), error.to_string()),
        };
        // An operator wants to know what the system said; of a conflict there is no more to be
        // said.
        let mut cause = String::new();
        if !matches!(Exit::of(error.kind()), Exit::Conflict | Exit::Invalid | Exit::NotFound) {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            if let Some(root) = causes.last() {
                cause = format!(" ({root})");
            }
        }
        Self::new(Exit::of(error.kind()), format!("{error}{cause}; {advice}"))
    }
}

impl From<tenantry_exchange::Error> for Failure {
    fn from(error: tenantry_exchange::Error) -> Self {
        use tenantry_exchange::Error;
        match error {
            Error::Store(error) => error.into(),
            Error::Io(error) => Self::io("reading the file", &error),
            Error::Rejected(rejection) => Self::new(
                Exit::of(rejection.kind),
                format!(
                    "{rejection}; nothing was imported: correct the line, or import the others with --on-conflict skip"
                ),
            ),
            Error::Header { .. } => Self::new(
                Exit::Invalid,
                format!(
                    "{error}; --map FIELD=COLUMN names a column that is called otherwise, --ignore-unknown drops those \
                     that aren't needed"
                ),
            ),
            Error::Mapping(reason) => Self::new(Exit::Usage, format!("--map: {reason}")),
            error => Self::new(Exit::Invalid, error.to_string()),
        }
    }
}
