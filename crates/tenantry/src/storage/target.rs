//! The directory, new or empty, into which a backup is restored.
//!
//! Everything is unpacked in a hidden stage within the directory itself. So it may be a mounted
//! volume, and its parent need not be writable. Once all is complete and synced, the parts are
//! moved up: `storage/` first, whose marker keeps other processes from creating a store there, and
//! the database last. A crash leaves no store that opens, or the whole store. The next restore into
//! the directory recognizes and removes its leftovers.

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::beneath::{Mounts, entries, open_dir, remove_file, rename, sync};
use super::errors::{errno, file_error};
use super::layout::{EngineFiles, PRIVATE_FILE, STORAGE};
use super::marker::Marker;
use super::ownership::Ownership;
use super::remove::{never_ends, remove_if};
use super::stat::{is_dir, stat};
use crate::failpoint::reach;
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = ".tenantry-restore-";
/// In the stage: the future data directory. The stage itself stays with this process, so that no
/// other user reaches the content.
const DATA: &str = "data";
/// In the stage: the id of the store and the names of the parts, one a line. Written before the
/// first one is moved up.
const NOTE: &str = "parts";
/// No store has so many parts.
const NOTE_BYTES_MAX: u64 = 64 << 10;
/// Every new ext4 volume has this directory.
const LOST_AND_FOUND: &[u8] = b"lost+found";
const TAKE_BACK: &str = "restore a backup: take a part back";
const REMOVE_LOCK: &str = "restore a backup: remove the lock file";

/// The future data directory. Its content is removed when this is dropped, unless it was
/// [placed](Self::place).
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    files: EngineFiles,
    dir: OwnedFd,
    /// Whether the restore has made the directory.
    is_new: bool,
    stage: CString,
    /// The stage, locked.
    staged: OwnedFd,
    /// The data directory in the stage.
    data: OwnedFd,
    /// Whether the content stays.
    is_kept: bool,
}

impl Target {
    /// Opens or makes the directory, and makes a stage in it.
    ///
    /// # Errors
    ///
    /// `NotEmpty` if it isn't empty; `Busy` if another restore into it is under way.
    pub(crate) fn open(path: &Path, files: EngineFiles) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| unusable(path, error))?;
        let failed = |error| unusable(&path, error);
        let (dir, is_new) = match open_top(&path) {
            Ok(dir) => (dir, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (make(&path).map_err(failed)?, true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(not_empty()),
            Err(error) => return Err(failed(error)),
        };
        let staged =
            clear(&dir, &path, files).and_then(|()| make_stage(&dir, &path, files).map_err(failed));
        match staged {
            Ok((stage, staged, data)) => {
                Ok(Self { path, files, dir, is_new, stage, staged, data, is_kept: false })
            }
            Err(error) => {
                if is_new {
                    let _ = remove_made(&path);
                }
                Err(error)
            }
        }
    }

    /// Returns the data directory in the stage.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.stage_dir().join(DATA)
    }

    fn stage_dir(&self) -> PathBuf {
        self.path.join(&*self.stage.to_string_lossy())
    }

    /// Returns the failure to write into the directory.
    pub(crate) fn unusable(&self, error: io::Error) -> Error {
        unusable(&self.path, error)
    }

    /// Moves the parts of the store with this id to their places, and syncs them.
    ///
    /// # Errors
    ///
    /// `NotEmpty` if another program has put something into the directory since.
    pub(crate) fn place(mut self, store_id: Uuid) -> Result<()> {
        let parts = self.prepare(store_id).map_err(|error| self.unusable(error))?;
        // Keeps other processes from creating a store here.
        let _lock = self.lock().map_err(|error| self.move_failure(error))?;
        let mut moved = 0;
        let placed = self.refuse_others().and_then(|()| {
            self.move_up(&parts, &mut moved).map_err(|error| self.move_failure(error))
        });
        // If that fails as well, the next restore continues.
        self.is_kept = placed.is_ok() || self.take_back(&parts[..moved]).is_err();
        if placed.is_ok() {
            self.remove_stage();
        }
        placed
    }

    /// Writes the note, and returns the parts.
    fn prepare(&self, store_id: Uuid) -> io::Result<Vec<CString>> {
        let parts = self.parts()?;
        self.write_note(store_id, &parts)?;
        Ok(parts)
    }

    /// Returns the failure to move a part to a name that may exist.
    fn move_failure(&self, error: io::Error) -> Error {
        match errno(&error) {
            Some(Errno::EXIST | Errno::NOTEMPTY) => not_empty(),
            _ => self.unusable(error),
        }
    }

    /// Returns the parts in the order in which they are moved.
    fn parts(&self) -> io::Result<Vec<CString>> {
        let mut parts = Vec::new();
        for entry in entries(&self.data)? {
            let (name, _) = entry?;
            // The lock file is made again.
            if name.to_bytes() != self.files.lock.as_bytes() {
                parts.push(name);
            }
        }
        let rank = |name: &CString| match name.to_bytes() {
            name if name == STORAGE.as_bytes() => 0,
            name if name == self.files.database.as_bytes() => 2,
            _ => 1,
        };
        parts.sort_by_key(|name| (rank(name), name.clone()));
        Ok(parts)
    }

    fn write_note(&self, store_id: Uuid, parts: &[CString]) -> io::Result<()> {
        reach("restore a backup: write the note");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut note = File::from(fs::openat(&self.staged, NOTE, flags, PRIVATE_FILE)?);
        writeln!(note, "{store_id}")?;
        for part in parts {
            note.write_all(part.to_bytes())?;
            note.write_all(b"\n")?;
        }
        note.sync_all()?;
        // Files that SQLite has removed must not reappear beside the database after a power cut:
        // neither its WAL nor the journal of the switch to WAL.
        sync(&self.data, "restore a backup: sync the data directory")?;
        sync(&self.staged, "restore a backup: sync the stage")
    }

    /// Makes the lock file of the store, and locks it against a creation.
    fn lock(&self) -> io::Result<File> {
        reach("restore a backup: make the lock file");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = File::from(fs::openat(&self.dir, self.files.lock, flags, PRIVATE_FILE)?);
        let given = Ownership::for_store_at(&self.dir, self.files)
            .and_then(|owner| owner.give_file(&lock, PRIVATE_FILE));
        match given.and_then(|()| Ok(fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?)) {
            // Another process is creating a store.
            Err(error) if errno(&error) == Some(Errno::WOULDBLOCK) => Err(Errno::EXIST.into()),
            Err(error) => {
                let _ = remove_file(&self.dir, self.files.lock, REMOVE_LOCK);
                Err(error)
            }
            Ok(()) => Ok(lock),
        }
    }

    /// Fails if another program has put anything into the directory.
    fn refuse_others(&self) -> Result<()> {
        for entry in names(&self.dir, &self.path)? {
            if entry != self.stage && entry.to_bytes() != self.files.lock.as_bytes() {
                return Err(not_empty());
            }
        }
        Ok(())
    }

    /// Moves the parts up, and counts them.
    fn move_up(&self, parts: &[CString], moved: &mut usize) -> io::Result<()> {
        let sync_both = || {
            sync(&self.dir, "restore a backup: sync the directory")?;
            sync(&self.data, "restore a backup: sync the data directory")
        };
        for part in parts {
            if part.to_bytes() == self.files.database.as_bytes() {
                // The database makes the others a store.
                sync_both()?;
            }
            rename(&self.data, &**part, &self.dir, &**part, "restore a backup: move a part")?;
            *moved += 1;
        }
        sync_both()
    }

    /// Moves these parts back into the stage, the last one first, and removes the lock file.
    fn take_back(&self, parts: &[CString]) -> io::Result<()> {
        for part in parts.iter().rev() {
            rename(&self.dir, &**part, &self.data, &**part, TAKE_BACK)?;
        }
        remove_file(&self.dir, self.files.lock, REMOVE_LOCK)
    }

    /// Removes the stage with everything in it.
    fn remove_stage(&self) {
        // The removal takes the lock itself.
        let _ = fs::flock(&self.staged, FlockOperation::Unlock);
        let removed = remove_if(&self.dir, &self.stage, &|_| Ok(true), &never_ends);
        if !removed.is_ok_and(|removal| removal.is_complete()) {
            reach("restore a backup: remove the stage");
            if let Err(error) = std::fs::remove_dir_all(self.stage_dir()) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the stage of a restore could not be removed"
                );
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.remove_stage();
        if self.is_new {
            let _ = remove_made(&self.path);
        }
    }
}

fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes the directory, and syncs its name.
fn make(path: &Path) -> io::Result<OwnedFd> {
    reach("restore a backup: make the directory");
    if path.is_symlink() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "a symbolic link that leads to nothing",
        ));
    }
    Ownership::make_dir_like_parent(path)?;
    let made = sync_above(path).and_then(|()| open_top(path));
    if made.is_err() {
        let _ = remove_made(path);
    }
    made
}

fn sync_above(path: &Path) -> io::Result<()> {
    sync(open_top(path.parent().unwrap_or(path))?, "restore a backup: sync the directory above")
}

/// Removes a directory that the restore has made, if it is empty.
fn remove_made(path: &Path) -> io::Result<()> {
    reach("restore a backup: remove the directory");
    std::fs::remove_dir(path)
}

/// Makes and locks a stage, and makes the data directory in it.
fn make_stage(
    dir: &OwnedFd,
    path: &Path,
    files: EngineFiles,
) -> io::Result<(CString, OwnedFd, OwnedFd)> {
    let mut builder = tempfile::Builder::new();
    let made =
        builder.prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(path)?;
    Ownership::default().give_private_dir(made.path())?;
    let name = made.path().file_name().unwrap_or_default();
    let stage = CString::new(name.as_encoded_bytes())?;
    let staged = open_dir(dir, &*stage, Mounts::Refuse)?;
    fs::flock(&staged, FlockOperation::NonBlockingLockExclusive)?;
    Ownership::for_store_at(dir, files)?.make_private_dir(&made.path().join(DATA))?;
    let data = open_dir(&staged, DATA, Mounts::Refuse)?;
    // `Target` removes it from here on.
    let _ = made.keep();
    Ok((stage, staged, data))
}

/// Returns the names in the directory, without `lost+found`.
fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<CString>> {
    let list = || {
        let mut names = Vec::new();
        for entry in entries(dir)? {
            let (name, _) = entry?;
            let is_superfluous = name.to_bytes() == LOST_AND_FOUND
                && stat(dir, &*name)?.is_some_and(|found| is_dir(&found));
            if !is_superfluous {
                names.push(name);
            }
        }
        Ok(names)
    };
    list().map_err(|error| unusable(path, error))
}

/// Removes the leftovers of interrupted restores. Fails without removing anything if the directory
/// has other entries.
fn clear(dir: &OwnedFd, path: &Path, files: EngineFiles) -> Result<()> {
    let failed = |error| unusable(path, error);
    let (stages, others): (Vec<_>, Vec<_>) = names(dir, path)?
        .into_iter()
        .partition(|name| name.to_bytes().starts_with(PREFIX.as_bytes()));
    let mut explained: Vec<CString> = Vec::new();
    for stage in &stages {
        let staged = open_dir(dir, &**stage, Mounts::Refuse).map_err(failed)?;
        explained.extend(moved_up(dir, &staged, files).map_err(failed)?);
    }
    if others.iter().any(|other| !explained.contains(other)) {
        return Err(not_empty());
    }
    for stage in &stages {
        let removal =
            remove_if(dir, stage, &|staged| undo(dir, staged, files).map(|()| true), &never_ends);
        let removal = removal.map_err(failed)?;
        if removal.is_elsewhere {
            return Err(Error::new(
                ErrorKind::Busy,
                "another restore into the directory is under way",
            ));
        }
        if let Some((_, error)) = removal.left.into_iter().next() {
            return Err(failed(error));
        }
    }
    if names(dir, path)?.is_empty() { Ok(()) } else { Err(not_empty()) }
}

/// Returns the names of parts that an interrupted restore has moved up from its stage.
fn moved_up(dir: &OwnedFd, staged: &OwnedFd, files: EngineFiles) -> io::Result<Vec<CString>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut note = Vec::new();
    match fs::openat(staged, NOTE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        file => drop(File::from(file?).take(NOTE_BYTES_MAX).read_to_end(&mut note)?),
    }
    // Nothing was moved before the note was synced. After a power cut it may have any content until
    // then, zeros for example, which name no part.
    let note = String::from_utf8_lossy(&note);
    let data = open_dir(staged, DATA, Mounts::Refuse)?;
    let mut lines = note.lines();
    let store_id = lines.next().and_then(|line| line.parse().ok());
    // A store whose database is in its place may have been used since.
    if stat(&data, files.database)?.is_none() || stat(dir, files.database)?.is_some() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for part in lines.filter(|part| !part.is_empty() && !part.contains(['/', '\0'])) {
        let has_moved = stat(&data, part)?.is_none() && stat(dir, part)?.is_some();
        let is_ours = part != STORAGE
            || store_id.is_some_and(|id| Some(Marker::Id(id)) == marker_of(dir).ok());
        if has_moved && is_ours {
            found.push(CString::new(part)?);
        }
    }
    // The lock file is made before anything is moved, and always empty.
    if stat(dir, files.lock)?.is_some_and(|lock| !is_dir(&lock) && lock.st_size == 0) {
        found.push(CString::new(files.lock)?);
    }
    Ok(found)
}

fn marker_of(dir: &OwnedFd) -> io::Result<Marker> {
    Marker::read(&open_dir(dir, STORAGE, Mounts::Refuse)?)
}

/// Moves the parts of an interrupted restore back into its stage.
fn undo(dir: &OwnedFd, staged: &OwnedFd, files: EngineFiles) -> io::Result<()> {
    let parts = moved_up(dir, staged, files)?;
    if parts.is_empty() {
        return Ok(());
    }
    let data = open_dir(staged, DATA, Mounts::Refuse)?;
    for part in parts {
        if part.to_bytes() == files.lock.as_bytes() {
            remove_file(dir, &*part, REMOVE_LOCK)?;
        } else {
            rename(dir, &*part, &data, &*part, TAKE_BACK)?;
        }
    }
    Ok(())
}

fn not_empty() -> Error {
    Error::new(
        ErrorKind::NotEmpty,
        "a backup is restored into a directory that is new or empty, and this one isn't",
    )
}

fn unusable(path: &Path, error: io::Error) -> Error {
    file_error(error, format!("the target directory {} can't be used", path.display()))
}
