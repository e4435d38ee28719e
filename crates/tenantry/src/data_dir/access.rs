//! Determines whether this process may write to the data directory.

use std::path::Path;

use rustix::fs::{self, AtFlags, CWD};
use rustix::io::Errno;

use crate::storage::file_error;
use crate::{Error, ErrorKind, Result};

/// Whether a store can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// It is mounted read-only.
    Read,
}

/// Determines whether this process may write a file and the directory that it is in. The file
/// needn't exist.
///
/// # Errors
///
/// Fails with `PermissionDenied` and one of these messages if the file system can be written, but
/// not by this process.
pub(crate) fn access(file: &Path, no_dir: &'static str, no_file: &'static str) -> Result<Access> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for (path, wanted, message) in [
        (dir, fs::Access::WRITE_OK | fs::Access::EXEC_OK, no_dir),
        (file, fs::Access::READ_OK | fs::Access::WRITE_OK, no_file),
    ] {
        match fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ROFS) => return Ok(Access::Read),
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                return Err(Error::new(ErrorKind::PermissionDenied, message)
                    .with_source(std::io::Error::from(error)));
            }
            Err(error) => {
                return Err(file_error(error.into(), "the data directory can't be reached"));
            }
        }
    }
    Ok(Access::Write)
}

/// Refuses a symbolic link in the place of one of the store's own files, wherever it leads.
///
/// It may lead to a volume that isn't mounted, so that a new file would take its place, or to a
/// foreign file. And a process that reached the same file by another path would hold another lock,
/// and have other directories.
pub(crate) fn refuse_links(data_dir: &Path, names: &[&str]) -> Result<()> {
    let refuse = |name: &str| {
        let message = format!(
            "{name} is a symbolic link, which may lead to what isn't mounted or is another's: put the file itself there, or remove the link; nothing was changed"
        );
        Err(Error::new(ErrorKind::Incompatible, message))
    };
    for name in names {
        match std::fs::symlink_metadata(data_dir.join(name)) {
            Ok(found) if found.is_symlink() => return refuse(name),
            Ok(found) if !found.is_file() => {
                return Err(Error::new(ErrorKind::Incompatible, format!("{name} is not a file")));
            }
            // The opening reports everything else.
            _ => {}
        }
    }
    let is_dangling = std::fs::symlink_metadata(data_dir).is_ok_and(|found| found.is_symlink())
        && !data_dir.exists();
    if is_dangling { refuse("the data directory") } else { Ok(()) }
}
