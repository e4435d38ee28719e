//! Files that a command writes, and what it mustn't write over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure};
use crate::place::Place;

/// A file that appears under its name when it is whole, and only for its owner. What isn't a regular file, such as a
/// named pipe or a device, is written into as it is.
pub(crate) enum Target {
    Replacement { file: NamedTempFile, path: PathBuf },
    AsItIs { file: File },
}

impl Target {
    /// Begins to write the file at `path`. It may be neither of the store's own files nor `source`, from which is read.
    pub(crate) fn create(named: &Path, place: &Place, source: Option<&Path>) -> Result<Self, Failure> {
        let name = named.display();
        // A link is followed, not replaced.
        let path = fs::canonicalize(named).unwrap_or_else(|_| named.to_owned());
        let existing = fs::metadata(&path).ok();
        if place.is_of_store(&path) {
            return Err(Failure::new(Exit::Usage, format!("{name} is a file of the store; choose another")));
        }
        let is_same = |other: &Path| match (&existing, fs::metadata(other)) {
            (Some(this), Ok(other)) => (this.dev(), this.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        if source.is_some_and(is_same) {
            return Err(Failure::new(Exit::Usage, format!("{name} is the file to read; choose another")));
        }
        if existing.is_some_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(&path).map_err(|error| Failure::io(name, &error))?;
            return Ok(Self::AsItIs { file });
        }
        let file = NamedTempFile::new_in(directory_of(&path)).map_err(|error| {
            // The library's own message names the temporary file.
            Failure::new(Exit::Failure, format!("{name}: can't be created there: {}", error.kind()))
        })?;
        Ok(Self::Replacement { file, path })
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Replacement { file, .. } => file.as_file_mut(),
            Self::AsItIs { file } => file,
        }
    }

    /// Makes the file last, under its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let (file, path) = match self {
            Self::AsItIs { .. } => return Ok(()),
            Self::Replacement { file, path } => (file, path),
        };
        let failed = |error| Failure::io(path.display(), &error);
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        File::open(directory_of(&path)).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl io::Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
