//! Work on a user's files that keeps no executor from its other tasks.

use std::fs::File;
use std::io;
use std::path::Path;

use cap_std::fs::Dir;
use tracing::instrument;

use super::Store;
use crate::storage::{open_dir_within, open_file_within};
use crate::{Error, ErrorKind, Result, UserId};

/// Opens a directory beneath a user's directory without following any symbolic link.
///
/// The methods of a [`Dir`] follow links that stay within it. This is for programs that serve paths
/// of strangers: the kernel refuses every link, and every directory on which another file system is
/// mounted, at the moment of opening.
///
/// # Errors
///
/// `ELOOP` if a symbolic link is on the path, `EXDEV` if the path leads out of the directory or
/// into another mount, and those of opening.
///
/// # Examples
///
/// ```
/// # async fn example(store: tenantry::Store, ada: tenantry::User)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let files = store.directory(ada.id).await?;
/// files.create_dir_all("photos/2026")?;
/// let photos = tenantry::open_dir_beneath(&files, "photos/2026")?;
/// # Ok(()) }
/// ```
pub fn open_dir_beneath(dir: &Dir, path: impl AsRef<Path>) -> io::Result<Dir> {
    Ok(Dir::from_std_file(open_dir_within(dir, path.as_ref())?.into()))
}

/// Opens a file beneath a user's directory for reading, without following any symbolic link.
///
/// The file may be of any type, and opening it never waits for another process. So inspect its type
/// before reading: a FIFO, for example, has no content.
///
/// # Errors
///
/// As for [`open_dir_beneath`].
///
/// # Examples
///
/// ```
/// # async fn example(store: tenantry::Store, ada: tenantry::User)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let files = store.directory(ada.id).await?;
/// files.write("notes.txt", "hello")?;
/// let notes = tenantry::open_file_beneath(&files, "notes.txt")?;
/// assert!(notes.metadata()?.is_file());
/// # Ok(()) }
/// ```
pub fn open_file_beneath(dir: &Dir, path: impl AsRef<Path>) -> io::Result<File> {
    Ok(open_file_within(dir, path.as_ref())?.into())
}

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
            io::ErrorKind::NotFound => {
                (ErrorKind::NotFound, "there is no such file in the user's directory")
            }
            io::ErrorKind::AlreadyExists => {
                (ErrorKind::Exists, "the user's directory has a file of this name already")
            }
            // cap-std makes this one itself, so it has no code of the system's.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                (ErrorKind::InvalidPath, "the path leads out of the user's directory")
            }
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::PermissionDenied, "no permission to use the user's file")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                (ErrorKind::ReadOnly, "the user's files can only be read")
            }
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => {
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
