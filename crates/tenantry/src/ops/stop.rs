//! Why an operation has no result.

use crate::{Error, ErrorKind};

/// Why an operation has no result. It is an error for `?`, so no rule can forget to hand it on.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(Error),
    /// The operation depends on an intent that can't be executed in this transaction, and is run
    /// again after it. What it did has to be undone.
    Later,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// For a caller that can't run the operation again.
impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(error) => error,
            Stop::Later => Self::new(
                ErrorKind::Unfinished,
                "the transaction has already changed the place of the user's directory: go on in another one",
            ),
        }
    }
}

pub(super) fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user")
}

pub(super) fn not_in_trash() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user in the trash")
}
