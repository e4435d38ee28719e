//! Files of the service's own, without a name: what must be complete before it is worked on, and
//! archives that must be complete before they are sent.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use rustix::fs::fstat;
use tenantry::{Store, Timestamp};
use uuid::Uuid;

use super::Files;
use super::beneath::failed;
use super::download::Download;
use super::receive::{receive, too_large};
use super::work::Elsewhere;
use crate::problem::Problem;

/// The beginning of the name that an archive has in the data directory for the moment between its
/// completion and its opening.
const PREFIX: &str = ".tenantry-download-";
/// How old an archive of this name is at least that a crash has left. It has the name for
/// microseconds.
const LEFT_AFTER: Duration = Duration::from_secs(60 * 60);

/// A body that was received as a whole, in a file without a name.
#[derive(Debug)]
pub(crate) struct Spool(Elsewhere<File>);

/// Receives a body into a file without a name in the data directory: there is room for what the
/// store is to take, and nothing of it is left even if the process is killed.
pub(crate) async fn spool(
    files: &Files,
    store: &Store,
    body: Body,
    bytes_max: u64,
) -> Result<Spool, Problem> {
    if http_body::Body::size_hint(&body).exact().is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let dir = directory(store);
    let file =
        files.run(move || Ok(Elsewhere::new(tempfile::tempfile_in(dir).map_err(failed)?))).await?;
    Ok(Spool(receive(files, body, file, bytes_max, None).await?))
}

impl Spool {
    /// Returns the file, at its beginning.
    pub(crate) fn into_file(self) -> io::Result<File> {
        let mut file = self.0.into_inner().ok_or(io::ErrorKind::NotFound)?;
        file.rewind()?;
        Ok(file)
    }

    /// Returns a path to the file, which exists as long as `self`.
    pub(crate) fn path(&mut self) -> io::Result<PathBuf> {
        let file = self.0.get_mut().ok_or(io::ErrorKind::NotFound)?;
        Ok(format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }
}

/// An archive that is complete, in a file without a name.
#[derive(Debug)]
pub(crate) struct Finished(File);

impl Finished {
    /// Returns a path for a new archive. Removes what a crash left.
    pub(crate) fn path(store: &Store) -> PathBuf {
        let dir = directory(store);
        if let Err(error) = remove_leftovers(&dir) {
            tracing::debug!("what a download left can't be removed: {error}");
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the name of a temporary file is no id of the store"
        )]
        let id = Uuid::new_v4();
        dir.join(format!("{PREFIX}{id}"))
    }

    /// Opens a new archive, and removes its name.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path);
        fs::remove_file(path)?;
        Ok(Self(file?))
    }

    pub(crate) fn into_body(self, files: &Arc<Files>) -> Result<(u64, Body), Problem> {
        let stat = fstat(&self.0).map_err(|error| failed(error.into()))?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        let download = Download { file: Arc::new(self.0), stat, offset: 0, end: length };
        Ok((length, download.into_body(Arc::clone(files))))
    }
}

/// Returns the data directory or, if that can't be written to, the system's for temporary files.
fn directory(store: &Store) -> PathBuf {
    if store.is_read_only() { std::env::temp_dir() } else { store.data_dir().to_owned() }
}

fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let now = SystemTime::from(Timestamp::now());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Of a link, the link's own.
        let modified = entry.metadata()?.modified()?;
        if now.duration_since(modified).is_ok_and(|age| age >= LEFT_AFTER) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_is_removed_and_what_is_being_opened_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, other] =
            ["old", "new", ""].map(|name| dir.path().join(format!("{PREFIX}{name}")));
        let other = other.with_file_name("other");
        for path in [&old, &new, &other] {
            fs::write(path, "").unwrap();
        }
        let long_ago = SystemTime::UNIX_EPOCH;
        for path in [&old, &other] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        remove_leftovers(dir.path()).unwrap();
        assert!(!old.exists() && new.exists() && other.exists());
    }
}
