//! Work on a user's files that keeps no executor from its other tasks.

use std::io;

use cap_std::fs::Dir;
use tracing::instrument;

use super::Store;
use crate::{Error, ErrorKind, Result, UserId};

impl Store {
    /// Runs a closure on the files of a user, on a thread for blocking work.
    ///
    /// The methods of a [`Dir`] are blocking file calls. This is [`directory`](Store::directory)
    /// for asynchronous code: the closure runs on one of the threads of the
    /// [`blocking`](https://docs.rs/blocking) crate, which are started as they are needed and
    /// shared by the whole process, and the caller waits without holding a thread. A closure that
    /// runs already goes on if the future is dropped.
    ///
    /// A failure of the closure becomes an error by `From<io::Error>`, which has a table of the
    /// kinds. To return an error type of the application's, return `Ok(Result<…>)`.
    ///
    /// # Errors
    ///
    /// Those of [`directory`](Store::directory), and those of the closure. A panic in the closure
    /// reaches the caller.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, ada: tenantry::User) -> tenantry::Result<()> {
    /// store.with_directory(ada.id, |files| files.write("notes.txt", "hello")).await?;
    /// let notes = store.with_directory(ada.id, |files| files.read_to_string("notes.txt")).await?;
    /// assert_eq!(notes, "hello");
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn with_directory<T: Send + 'static>(
        &self,
        id: UserId,
        work: impl FnOnce(&Dir) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = self.directory(id).await?;
        Ok(blocking::unblock(move || work(&files)).await?)
    }
}

/// The failure of a file operation of the application's within a user's directory.
///
/// | operation | kind |
/// |---|---|
/// | on a file that doesn't exist | `NotFound` |
/// | that makes a file which exists | `Exists` |
/// | on a path that leads out of the directory, by `..` or a symbolic link | `InvalidPath` |
/// | on a full disk, or beyond a quota or a limit of a file's size | `Full` |
/// | without the permission | `PermissionDenied` |
/// | that writes on a read-only file system | `ReadOnly` |
/// | that fails otherwise | `Io` |
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let (kind, message) = match error.kind() {
            io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file in the user's directory"),
            io::ErrorKind::AlreadyExists => (ErrorKind::Exists, "the user's directory has a file of this name already"),
            // cap-std makes this one itself, so it has no code of the system's.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                (ErrorKind::InvalidPath, "the path leads out of the user's directory")
            }
            io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, "no permission to use the user's file"),
            io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::ReadOnly, "the user's files can only be read"),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                (ErrorKind::Full, "there is no room for the user's file")
            }
            _ => (ErrorKind::Io, "an operation on the user's file failed"),
        };
        Self::new(kind, message).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_system_has_the_kind_that_says_what_to_do() {
        let of = |errno| Error::from(io::Error::from_raw_os_error(errno)).kind();
        assert_eq!(of(libc::ENOENT), ErrorKind::NotFound);
        assert_eq!(of(libc::EEXIST), ErrorKind::Exists);
        assert_eq!(of(libc::EACCES), ErrorKind::PermissionDenied);
        assert_eq!(of(libc::EROFS), ErrorKind::ReadOnly);
        assert_eq!(of(libc::ENOSPC), ErrorKind::Full);
        assert_eq!(of(libc::EDQUOT), ErrorKind::Full);
        assert_eq!(of(libc::EFBIG), ErrorKind::Full);
        assert_eq!(of(libc::EIO), ErrorKind::Io);
    }
}
