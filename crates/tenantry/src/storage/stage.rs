//! Where the files of a user who is imported lie until the user is there.
//!
//! A stage, `.tenantry-import-NAME` in the data directory, becomes the user's directory as it is, by one rename. Whoever fills
//! it holds a lock on it. One that nobody holds and no intent is about is what a crash left, and is removed by the next import.

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
use super::remove::remove_if;
use super::stat::{is_at, is_dir, stat};
use super::unpack::Unpacker;
use crate::thread::on_thread;
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = ".tenantry-import-";
const RETURN: &str = "return-";
const BESIDE: &str = "beside-";

/// What becomes of a stage. Its name says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It becomes the directory of a new user.
    New,
    /// What is in it goes into the directory of a user, beside what is there.
    Beside,
    /// The same after the directory was moved back from the trash.
    Return,
}

/// What a stage of this name is for, if it is one.
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

/// Whether a stage may have this name. It stands in intents, and a database may come from a backup that somebody has made.
pub(crate) fn is_stage(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.contains(['/', '\0'])
}

/// A stage that is being filled. It is removed when this is dropped, unless it was handed over.
#[derive(Debug)]
pub(crate) struct Stage {
    name: String,
    data: OwnedFd,
    owner: Ownership,
    /// The stage itself, with the lock on it, until it is removed.
    dir: Mutex<Option<OwnedFd>>,
    is_handed_over: AtomicBool,
}

impl Stage {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// From now on an intent may be about it, so it isn't removed any more.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::SeqCst);
    }

    /// Removes it with all that is in it. There is certainly no such intent.
    pub(crate) fn remove(&self) {
        // The removal takes the lock itself.
        self.unlock();
        if let Err(error) = remove(&self.data, &self.name, &|_| Ok(true)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the files of an import could not be removed");
        }
    }

    /// Removes what is left of it after the operation that was to see to it has ended, with this failure or none. Not if it is still
    /// to be seen to.
    pub(crate) async fn settle(self: Arc<Self>, failure: Option<&Error>) -> Result<()> {
        match failure.map(Error::kind) {
            // It is about to be moved; or it is where the database is gone to, with the intent.
            Some(ErrorKind::Unfinished | ErrorKind::Replaced) => Ok(()),
            // There may be an intent that nobody can see before the store is opened again. Until then the lock has to keep
            // other imports from taking the stage for one that was left, so it is never given up.
            Some(ErrorKind::OutcomeUnknown) => {
                std::mem::forget(self);
                Ok(())
            }
            // No intent is about it.
            _ => on_thread(move || self.remove()).await,
        }
    }

    /// Lets go of the lock. To close the descriptor isn't enough: a child process that is just being started has it, too.
    fn unlock(&self) {
        if let Some(dir) = self.dir.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fs::flock(&dir, FlockOperation::Unlock);
        }
    }

    /// What writes files into it.
    pub(crate) fn unpack(&self) -> Result<Unpacker> {
        // A descriptor of its own: one that is only cloned would hold the lock as well.
        let dir = open_dir(&self.data, &*self.name, Mounts::Refuse).map_err(refused)?;
        // Whose numbers the archive's owners are isn't known here.
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
    /// Makes an empty one in a data directory, and locks it. `None` if it is removed all the time.
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
                // Another import has taken it for one that was left.
                Err(error) if errno(&error) == Some(Errno::NOENT) => continue,
                dir => dir?,
            };
            match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                Err(error) => {
                    // Without locks nobody could tell it from one that a crash has left.
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
            return Ok(Some(Self { name, data, owner, dir, is_handed_over: AtomicBool::new(false) }));
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
        let stage = Stage::make(&self.data, self.owner, new_name, "import: make a stage").map_err(refused)?;
        stage.ok_or_else(|| blocked("the place for the files of an import is removed all the time"))
    }

    /// Removes the stages that crashes have left. `is_needed` says whether an intent is about one.
    pub(crate) fn clear_stages(&self, is_needed: &dyn Fn(&str) -> Result<bool>) -> Result<()> {
        // Nobody has the lock any more, so whether there is an intent is settled. What it was about may just have been
        // moved to its place: so in this order.
        let may_go = |name: &str, dir: &OwnedFd| {
            Ok(!is_needed(name).map_err(io::Error::other)? && is_at(&self.data, name, dir)?)
        };
        clear(&self.data, &is_stage, &may_go).map_err(refused)
    }
}

/// Removes the directories with such names that nobody has a lock on, if they may go.
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

/// Removes a stage, unless it is in use.
pub(super) fn remove(data: &OwnedFd, name: &str, may_go: &dyn Fn(&OwnedFd) -> io::Result<bool>) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    let removal = remove_if(data, &name, may_go, &|_| {})?;
    removal.left.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}
