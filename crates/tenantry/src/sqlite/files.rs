//! The files of a database, by their names.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::storage::file_error;
use crate::{Result, failpoint};

/// The path of a file that belongs to the database file at `path`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn has_content(path: &Path, suffix: &str) -> bool {
    std::fs::metadata(with_suffix(path, suffix)).is_ok_and(|metadata| metadata.len() > 0)
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    failpoint::reach("create: sync a directory");
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| file_error(error, "a directory of the store can't be synchronised"))
}
