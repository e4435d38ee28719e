//! Failures of the file system as kinds of errors.

use std::borrow::Cow;
use std::io;

use rustix::io::Errno;

use crate::{Error, ErrorKind};

/// Returns the error code of the system.
pub(super) fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// Classifies the failure of an operation on a file outside the users' directories.
pub(crate) fn file_error(error: io::Error, message: impl Into<Cow<'static, str>>) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Io,
    };
    Error::new(kind, message).with_source(error)
}

pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::StorageUnavailable, message)
}

pub(super) fn blocked(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::StorageBlocked, message)
}

/// Classifies the failure of an operation on a user's directory.
pub(super) fn refused(error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    let (kind, message) = match errno(&error) {
        Some(Errno::NOENT) => {
            (ErrorKind::StorageLost, "the user's directory is missing, though it was made")
        }
        Some(Errno::LOOP) => {
            (ErrorKind::StorageBlocked, "a symbolic link is on the way to the user's directory")
        }
        Some(Errno::NOTDIR) => (
            ErrorKind::StorageBlocked,
            "something that isn't a directory is on the way to the user's directory",
        ),
        Some(Errno::XDEV | Errno::BUSY) => (
            ErrorKind::StorageBlocked,
            "a file system is mounted on the user's directory or on the way to it",
        ),
        Some(Errno::EXIST | Errno::NOTEMPTY) => (
            ErrorKind::StorageBlocked,
            "something exists where the user's directory is to be moved",
        ),
        Some(Errno::NOSPC | Errno::DQUOT) => (ErrorKind::Full, "the disk is full"),
        Some(Errno::ROFS) => (ErrorKind::ReadOnly, "the storage directory is read-only"),
        Some(Errno::ACCESS | Errno::PERM) => {
            (ErrorKind::PermissionDenied, "no permission to use the user's directory")
        }
        _ => (ErrorKind::Io, "an operation on the user's directory failed"),
    };
    Error::new(kind, message).with_source(error)
}
