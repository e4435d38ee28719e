//! An archive while it is made.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::archive::{Body, Manifest, PATH_OCTETS_MAX, unwritable};
use super::reading::Met;
use crate::storage::{Item, Ownership, PRIVATE_FILE};
use crate::{Error, ErrorKind, Result};

/// How many files that were left out are named.
const LEFT_OUT_NAMED_MAX: usize = 100;

pub(super) struct Making<'p> {
    pub(super) body: Body,
    pub(super) left_out: Vec<(PathBuf, String)>,
    /// Of what was left out, named or not.
    pub(super) count: u64,
    /// Of what ought not to have been.
    pub(super) incomplete: u64,
    met: Met,
    progress: &'p dyn Fn(u64, u64),
}

impl<'p> Making<'p> {
    /// What is written goes into temporary files in this directory.
    pub(super) fn new(dir: &Path, progress: &'p dyn Fn(u64, u64)) -> Result<Self> {
        let body = Body::new(dir).map_err(unwritable)?;
        Ok(Self { body, left_out: Vec::new(), count: 0, incomplete: 0, met: Met::default(), progress })
    }

    pub(super) fn take(&mut self, item: Item<'_>) -> Result<()> {
        match &item {
            // Some file systems list a name twice if it is removed and made again meanwhile, and no reader takes anything twice.
            Item::Directory { path, .. } if !self.met.insert(path, true) => return Ok(()),
            Item::File { path, .. } if !self.met.insert(path, false) => return Ok(()),
            _ => {}
        }
        match item {
            Item::LeftOut { path, why, ought_to_be_in } => self.leave_out(path, why, ought_to_be_in),
            Item::Directory { path, .. } | Item::File { path, .. } if path.as_os_str().len() > PATH_OCTETS_MAX => {
                self.leave_out(path, "the path is too long for an archive".to_owned(), true);
            }
            Item::Directory { path, mode } => self.body.directory(&path, mode).map_err(unwritable)?,
            Item::File { path, mode, modified_at, content, octets } => {
                self.body.file(&path, mode, modified_at, content, octets).map_err(unwritable)?;
                (self.progress)(self.body.files, self.body.bytes);
            }
        }
        Ok(())
    }

    pub(super) fn leave_out(&mut self, path: PathBuf, why: String, ought_to_be_in: bool) {
        self.count += 1;
        self.incomplete += u64::from(ought_to_be_in);
        if self.left_out.len() < LEFT_OUT_NAMED_MAX {
            self.left_out.push((path, why));
        }
    }
}

/// Writes the archive under a temporary name that begins so, and gives it its own when it is on the disk. Answers its size.
pub(super) fn finish<M: Manifest>(body: Body, manifest: &M, file: &Path, prefix: &str) -> Result<u64> {
    let dir = parent(file);
    let mut output = tempfile::Builder::new().prefix(prefix).tempfile_in(dir).map_err(unwritable)?;
    // The umask may have taken away what its owner needs.
    Ownership::default().give_file(output.as_file(), PRIVATE_FILE).map_err(unwritable)?;
    body.finish(manifest, output.as_file_mut()).map_err(unwritable)?;
    output.as_file().sync_all().map_err(unwritable)?;
    let archive_bytes = output.as_file().metadata().map_err(unwritable)?.len();
    output.persist_noclobber(file).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => unwritable(failed.error),
    })?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| {
        // Whether the name lasts is not known, and whoever tries again would be told that it is there.
        let _ = std::fs::remove_file(file);
        unwritable(error)
    })?;
    Ok(archive_bytes)
}

/// Before anything is done for it. Whoever comes first meanwhile is met at the end.
pub(super) fn refuse_existing(file: &Path) -> Result<()> {
    if std::fs::symlink_metadata(file).is_ok() { Err(exists()) } else { Ok(()) }
}

fn exists() -> Error {
    Error::new(ErrorKind::Exists, "there is a file of that name already")
}

/// A temporary directory that nobody else can look into, whatever the umask is.
pub(super) fn private_dir(prefix: &str, beside: &Path) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let dir =
        builder.prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(beside).map_err(unwritable)?;
    Ownership::default().give_private_dir(dir.path()).map_err(unwritable)?;
    Ok(dir)
}

/// The directory in which a file is, or is to be.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;

    /// XFS lists a name twice that is removed and made again while the directory is read. The archive could never be read.
    #[test]
    fn what_a_file_system_lists_twice_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut making = Making::new(dir.path(), &|_, _| {}).unwrap();
        for _ in 0..2 {
            making.take(Item::Directory { path: "files".into(), mode: 0o700 }).unwrap();
            let content = Content { size: 5, blake3: String::new() };
            let octets = &mut &b"hello"[..];
            let file = Item::File { path: "files/lock".into(), mode: 0o600, modified_at: 0, content, octets };
            making.take(file).unwrap();
        }
        assert_eq!((making.body.files, making.body.bytes, making.count), (1, 5, 0));
    }
}
