//! Where the files of an import wait until their user exists.
//!
//! A stage, `.tenantry-import-NAME` in the data directory, becomes the user's directory by one
//! rename. The process that fills it holds a lock on it. A stage without a lock, to which no intent
//! refers, is a leftover of a crash, and is removed by the next import.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, FileType, FlockOperation};
use rustix::io::Errno;

use super::Storage;
use super::beneath::{self, ATTEMPTS_MAX, Mounts, entries, make_dir, open_dir};
use super::errors::{blocked, errno, refused};
use super::ownership::Ownership;
use super::remove::{never_ends, remove_if};
use super::stat::{is_at, is_dir, stat};
use super::unpack::Unpacker;
use crate::thread::on_thread;
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = ".tenantry-import-";
const RETURN: &str = "return-";
const BESIDE: &str = "beside-";

/// The use of a stage, which is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It becomes the directory of a new user.
    New,
    /// Its files go into the directory of a user, beside those that exist.
    Beside,
    /// The same, after the directory was moved back from the trash.
    Return,
}

/// Returns the purpose of a stage of this name, if it is one.
pub(super) fn purpose(name: &str) -> Option<Purpose> {
    let name = name.strip_prefix(PREFIX)?;
    Some(if name.starts_with(RETURN) {
        Purpose::Return
    } else if name.starts_with(BESIDE) {
        Purpose::Beside
    } else {
        Purpose::New
    })
}

/// Returns whether a stage may have this name. Intents hold it, and a database may come from a
/// forged backup.
pub(crate) fn is_stage(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.contains(['/', '\0'])
}

/// A stage that is being filled. It is removed when this is dropped, unless it was handed over.
#[derive(Debug)]
pub(crate) struct Stage {
    name: String,
    data: OwnedFd,
    owner: Ownership,
    /// The stage itself, locked, until it is removed.
    dir: Mutex<Option<OwnedFd>>,
    is_handed_over: AtomicBool,
}

impl Stage {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the stage, since from now on an intent may refer to it.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::SeqCst);
    }

    /// Removes the stage. The caller knows that no intent refers to it.
    pub(crate) fn remove(&self) {
        // The removal takes the lock itself.
        self.unlock();
        if let Err(error) = remove(&self.data, &self.name, &|_| Ok(true)) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the files of an import could not be removed"
            );
        }
    }

    /// Removes the stage after the operation on it has ended with this failure, or none, unless an
    /// intent still needs it.
    pub(crate) async fn settle(self: Arc<Self>, failure: Option<&Error>) -> Result<()> {
        match failure.map(Error::kind) {
            // The intent will move it; or it belongs to the database that was replaced.
            Some(ErrorKind::Unfinished | ErrorKind::Replaced) => Ok(()),
            // There may be an intent that isn't visible before the store is opened again. Until
            // then the lock has to keep other imports from removing the stage as a leftover, so it
            // is never released.
            Some(ErrorKind::OutcomeUnknown) => {
                std::mem::forget(self);
                Ok(())
            }
            // No intent refers to it.
            _ => on_thread(move || self.remove()).await,
        }
    }

    /// Releases the lock. Closing the descriptor isn't enough: a child process that is just being
    /// started has it, too.
    fn unlock(&self) {
        if let Some(dir) = self.dir.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fs::flock(&dir, FlockOperation::Unlock);
        }
    }

    /// Returns a writer of files into it.
    pub(crate) fn unpack(&self) -> Result<Unpacker> {
        // A clone of the descriptor would hold the lock as well.
        let dir = open_dir(&self.data, &*self.name, Mounts::Refuse).map_err(refused)?;
        // The archive's owners may mean other users here.
        Unpacker::new(dir, self.owner, None, "import: write the files")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_handed_over.load(Ordering::SeqCst) {
            self.unlock();
        } else {
            self.remove();
        }
    }
}

impl Stage {
    /// Makes and locks an empty one in a data directory. Returns `None` if another process keeps
    /// removing it.
    pub(super) fn make(
        data: &OwnedFd,
        owner: Ownership,
        new_name: impl Fn() -> String,
        point: &'static str,
    ) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS_MAX {
            let name = new_name();
            if stat(data, &*name)?.is_some() {
                continue;
            }
            let dir = match make_dir(data, &*name, owner, point) {
                // Another import has removed it as a leftover.
                Err(error) if errno(&error) == Some(Errno::NOENT) => continue,
                dir => dir?,
            };
            match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                Err(error) => {
                    // Without locks it couldn't be distinguished from a leftover.
                    let _ = beneath::remove_dir(data, &*name, point);
                    return Err(error.into());
                }
                Ok(()) => {}
            }
            if !is_at(data, &*name, &dir)? {
                continue;
            }
            let data = data.try_clone()?;
            let dir = Mutex::new(Some(dir));
            return Ok(Some(Self {
                name,
                data,
                owner,
                dir,
                is_handed_over: AtomicBool::new(false),
            }));
        }
        Ok(None)
    }
}

impl Storage {
    /// Makes an empty stage.
    pub(crate) fn stage(&self, purpose: Purpose, new_name: impl Fn() -> String) -> Result<Stage> {
        self.check_roots()?;
        let purpose = match purpose {
            Purpose::New => "",
            Purpose::Beside => BESIDE,
            Purpose::Return => RETURN,
        };
        let new_name = || format!("{PREFIX}{purpose}{}", new_name());
        let stage = Stage::make(&self.data, self.owner, new_name, "import: make a stage")
            .map_err(refused)?;
        stage.ok_or_else(|| blocked("another process keeps removing the stage of the import"))
    }

    /// Removes leftover stages. `is_needed` returns whether an intent refers to one.
    pub(crate) fn clear_stages(&self, is_needed: &dyn Fn(&str) -> Result<bool>) -> Result<()> {
        // Nothing has the lock any more, so the intent is either committed or won't be. It may have
        // moved the stage in the meantime, so its name is checked last.
        let may_go = |name: &str, dir: &OwnedFd| {
            Ok(!is_needed(name).map_err(io::Error::other)? && is_at(&self.data, name, dir)?)
        };
        clear(&self.data, &is_stage, &may_go).map_err(refused)
    }
}

/// Removes directories with such names that no process has locked, if `may_go` agrees.
pub(super) fn clear(
    data: &OwnedFd,
    is_stage: &dyn Fn(&str) -> bool,
    may_go: &dyn Fn(&str, &OwnedFd) -> io::Result<bool>,
) -> io::Result<()> {
    for entry in entries(data)? {
        let (name, kind) = entry?;
        let Some(name) = name.to_str().ok().filter(|name| is_stage(name)) else { continue };
        let is_directory = match kind {
            FileType::Unknown => stat(data, name)?.is_some_and(|stat| is_dir(&stat)),
            kind => kind == FileType::Directory,
        };
        if is_directory {
            remove(data, name, &|dir| may_go(name, dir))?;
        }
    }
    Ok(())
}

/// Removes a stage, unless it is locked.
pub(super) fn remove(
    data: &OwnedFd,
    name: &str,
    may_go: &dyn Fn(&OwnedFd) -> io::Result<bool>,
) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    let removal = remove_if(data, &name, may_go, &never_ends)?;
    removal.left.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}
