//! Removing a directory with everything in it.
//!
//! There are two ways. The usual one moves nested directories up to the top, where their turn
//! comes. The other one works [in place] from the inside out: for file systems on which a directory
//! can't be moved to the top, and for directories that a comparison has to recognize after a crash.
//! Neither recurses, nor holds a descriptor per level.
//!
//! [in place]: remove_in_place

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, FlockOperation, Mode};
use rustix::io::Errno;

use super::beneath::{self, Mounts, entries, open_dir, shown};
use super::errors::errno;
use super::layout::PRIVATE;
use super::stat::{Identity, identity, is_dir, stat};
use super::walk::{PROGRESS_FILES, up};

/// At most this many files that couldn't be removed are named.
const NAMED_MAX: usize = 100;

/// Number of times that a directory is read, in case another program keeps adding entries. The
/// usual one is read twice; a chain of nested ones may take a pass per link.
const PASSES_MAX: usize = 100_000;

pub(super) const REMOVE_FILE: &str = "remove: a file";
const REMOVE_DIR: &str = "remove: a directory";
const MAKE_ACCESSIBLE: &str = "remove: change a mode";

/// The result of a removal.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Number of files, and of everything else that isn't a directory, that were removed.
    pub(crate) files: u64,
    /// Entries that could not be removed, with the reasons; at most [`NAMED_MAX`].
    pub(crate) left: Vec<(PathBuf, io::Error)>,
    /// Whether another process is removing the same directory.
    pub(crate) is_elsewhere: bool,
    /// Whether the caller has ended it.
    pub(crate) is_ended: bool,
}

/// Gets the number of files that a removal has removed so far, and may end it.
pub(crate) type OnRemoved<'p> = &'p dyn Fn(u64) -> ControlFlow<()>;

/// Never ends a removal.
pub(crate) fn never_ends(_files: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Removal {
    pub(crate) fn is_complete(&self) -> bool {
        self.left.is_empty() && !self.is_elsewhere && !self.is_ended
    }

    /// Counts a file that was removed.
    pub(super) fn count(&mut self, progress: OnRemoved<'_>) {
        self.files += 1;
        if self.files.is_multiple_of(PROGRESS_FILES) {
            self.is_ended |= progress(self.files).is_break();
        }
    }

    /// Adds an entry that can't be removed.
    pub(super) fn leave(&mut self, path: PathBuf, error: io::Error) {
        if self.left.len() < NAMED_MAX {
            self.left.push((path, error));
        }
    }
}

/// Removes a directory with everything in it. Removes symbolic links themselves, and enters no
/// mount.
///
/// A directory is emptied from its parent: its files are removed, and its directories moved up to
/// the top, where their turn comes. So no depth is too deep. After a crash another removal
/// continues with whatever is left.
pub(super) fn remove(at: impl AsFd, name: &CStr, progress: OnRemoved<'_>) -> io::Result<Removal> {
    remove_if(at, name, &|_| Ok(true), progress)
}

/// Removes it if `may_go` agrees, once the directory is locked.
pub(super) fn remove_if(
    at: impl AsFd,
    name: &CStr,
    may_go: &dyn Fn(&OwnedFd) -> io::Result<bool>,
    progress: OnRemoved<'_>,
) -> io::Result<Removal> {
    let mut removal = Removal::default();
    let top = match open_accessible(&at, name) {
        Ok(top) => top,
        Err(error) => match errno(&error) {
            Some(Errno::NOENT) => return Ok(removal),
            Some(Errno::LOOP | Errno::NOTDIR) => {
                match beneath::remove_file(&at, name, REMOVE_FILE) {
                    Ok(()) => removal.files = 1,
                    Err(error) => removal.left.push((PathBuf::new(), error)),
                }
                return Ok(removal);
            }
            _ => {
                removal.left.push((PathBuf::new(), error));
                return Ok(removal);
            }
        },
    };
    // Held as long as the descriptor is open, and so released when the process ends.
    if let Err(Errno::WOULDBLOCK) = fs::flock(&top, FlockOperation::NonBlockingLockExclusive) {
        removal.is_elsewhere = true;
        return Ok(removal);
    }
    if !may_go(&top)? {
        return Ok(removal);
    }
    let mut emptier = Emptier { top, origins: HashMap::new(), moved: 0, removal, progress };
    if let Err(error) = emptier.run() {
        emptier.leave(PathBuf::new(), error);
    }
    let mut removal = emptier.removal;
    match beneath::remove_dir(&at, name, REMOVE_DIR) {
        Ok(()) => {}
        Err(error) if errno(&error) == Some(Errno::NOENT) => {}
        Err(_) if removal.is_ended || !removal.left.is_empty() => {}
        Err(error) => removal.left.push((PathBuf::new(), error)),
    }
    Ok(removal)
}

struct Emptier<'p> {
    top: OwnedFd,
    /// The original paths of directories that were moved up.
    origins: HashMap<CString, PathBuf>,
    moved: u64,
    removal: Removal,
    progress: OnRemoved<'p>,
}

impl Emptier<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut stuck = HashSet::new();
        for _ in 0..PASSES_MAX {
            // A directory that is moved up during the reading may be listed or not, so it is read
            // until nothing is new.
            let mut met_new = false;
            for entry in entries(&self.top)? {
                let (name, kind) = entry?;
                if stuck.contains(&name) {
                    continue;
                }
                met_new = true;
                let origin = self.origins.get(&name).cloned().unwrap_or_else(|| shown(&name));
                let is_removed = match kind {
                    FileType::Directory | FileType::Unknown => self.remove_dir(&name, &origin)?,
                    _ => self.remove_file(None, &name, || origin.clone()),
                };
                self.origins.remove(&name);
                if !is_removed {
                    stuck.insert(name);
                }
                if self.removal.is_ended {
                    return Ok(());
                }
            }
            if !met_new {
                return Ok(());
            }
        }
        Err(io::Error::other("another program keeps adding files"))
    }

    /// Empties and removes a directory of the top one. Returns whether it doesn't exist any more.
    fn remove_dir(&mut self, name: &CStr, origin: &Path) -> io::Result<bool> {
        // Most directories are empty already.
        if beneath::remove_dir(&self.top, name, REMOVE_DIR).is_ok() {
            return Ok(true);
        }
        let dir = match open_accessible(&self.top, name) {
            Ok(dir) => dir,
            Err(error) => {
                return Ok(match errno(&error) {
                    Some(Errno::NOENT) => true,
                    Some(Errno::LOOP | Errno::NOTDIR) => {
                        self.remove_file(None, name, || origin.to_owned())
                    }
                    _ => self.leave(origin.to_owned(), error),
                });
            }
        };
        let mut is_emptied = true;
        let mut met: HashSet<CString> = HashSet::new();
        for _ in 0..PASSES_MAX {
            let mut met_new = false;
            for entry in entries(&dir)? {
                let (child, kind) = entry?;
                // Entries that can't be removed stay, and are tried once.
                if met.contains(&child) {
                    continue;
                }
                met_new = true;
                let of_child = || origin.join(shown(&child));
                let is_gone = match kind {
                    FileType::Directory | FileType::Unknown => {
                        self.move_up(&dir, &child, &of_child)?
                    }
                    _ => self.remove_file(Some(&dir), &child, of_child),
                };
                if !is_gone {
                    is_emptied = false;
                    met.insert(child);
                }
                if self.removal.is_ended {
                    return Ok(false);
                }
            }
            if !met_new {
                break;
            }
        }
        let Err(error) = beneath::remove_dir(&self.top, name, REMOVE_DIR) else { return Ok(true) };
        Ok(match errno(&error) {
            Some(Errno::NOENT) => true,
            // The entries in the way were reported.
            Some(Errno::NOTEMPTY | Errno::EXIST) if !is_emptied => false,
            _ => self.leave(origin.to_owned(), error),
        })
    }

    /// Moves a nested directory to the top. Returns whether it isn't in its place any more.
    fn move_up(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        origin: &dyn Fn() -> PathBuf,
    ) -> io::Result<bool> {
        if beneath::remove_dir(dir, name, REMOVE_DIR).is_ok() {
            return Ok(true);
        }
        let mut was_made_accessible = false;
        loop {
            self.moved += 1;
            // An application's file, or an interrupted removal, may have the same name.
            let new_name = CString::new(format!("moved-{}", self.moved))?;
            let Err(error) =
                beneath::rename(dir, name, &self.top, &*new_name, "remove: move a directory up")
            else {
                self.origins.insert(new_name, origin());
                return Ok(true);
            };
            match errno(&error) {
                Some(Errno::EXIST) => {}
                Some(Errno::NOENT) => return Ok(true),
                // Directories of overlayfs's lower layer, of another project quota or of another
                // subvolume can't be moved.
                Some(Errno::XDEV) => {
                    return remove_in_place(dir, name, &origin(), &mut self.removal, self.progress);
                }
                // Moving a directory writes its `..`.
                Some(Errno::ACCESS)
                    if !was_made_accessible
                        && beneath::make_private(dir, name, MAKE_ACCESSIBLE).is_ok() =>
                {
                    was_made_accessible = true;
                }
                _ => return Ok(self.leave(origin(), error)),
            }
        }
    }

    /// Removes an entry that isn't a directory. Returns whether it doesn't exist any more.
    fn remove_file(
        &mut self,
        dir: Option<&OwnedFd>,
        name: &CStr,
        origin: impl Fn() -> PathBuf,
    ) -> bool {
        match beneath::remove_file(dir.unwrap_or(&self.top), name, REMOVE_FILE) {
            Ok(()) => {
                self.removal.count(self.progress);
                true
            }
            Err(error) if errno(&error) == Some(Errno::NOENT) => true,
            Err(error) => self.leave(origin(), error),
        }
    }

    fn leave(&mut self, origin: PathBuf, error: io::Error) -> bool {
        self.removal.leave(origin, error);
        false
    }
}

/// Opens a directory to empty it. Gives its owner the permissions for that if they are missing.
pub(super) fn open_accessible(at: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    match open_dir(&at, name, Mounts::Refuse) {
        Err(error) if errno(&error) == Some(Errno::ACCESS) => {
            beneath::make_private(&at, name, MAKE_ACCESSIBLE)?;
            open_dir(&at, name, Mounts::Refuse)
        }
        Ok(dir) => {
            let mode = Mode::from_raw_mode(fs::fstat(&dir)?.st_mode);
            if !mode.contains(PRIVATE) {
                // If this fails, the removal of an entry will report it.
                crate::failpoint::reach(MAKE_ACCESSIBLE);
                let _ = fs::fchmod(&dir, PRIVATE);
            }
            Ok(dir)
        }
        opened => opened,
    }
}

/// A directory between the top and the current one.
struct Level {
    identity: Identity,
    /// Its name in the directory above.
    name: CString,
    /// Directories that are still to be entered.
    dirs: Vec<CString>,
    /// Whether an entry couldn't be removed, which was reported.
    is_stuck: bool,
}

/// Removes a directory with everything in it, from the inside out. Returns whether it doesn't exist
/// any more. `origin` is its path in reports.
pub(super) fn remove_in_place(
    at: &OwnedFd,
    name: &CStr,
    origin: &Path,
    removal: &mut Removal,
    progress: OnRemoved<'_>,
) -> io::Result<bool> {
    let mut removing = InPlaceRemoval { removal, progress, path: origin.to_owned() };
    let Some(top) = removing.enter(at, name) else { return Ok(!removing.is_left(at, name)?) };
    remove_from(at, name, top, removing)
}

/// Removes a directory that is open. What is at its name by then is removed only if it is an empty
/// directory.
pub(super) fn remove_opened(
    at: &OwnedFd,
    name: &CStr,
    top: OwnedFd,
    removal: &mut Removal,
) -> io::Result<bool> {
    remove_from(
        at,
        name,
        top,
        InPlaceRemoval { removal, progress: &never_ends, path: PathBuf::new() },
    )
}

fn remove_from(
    at: &OwnedFd,
    name: &CStr,
    top: OwnedFd,
    mut removing: InPlaceRemoval<'_>,
) -> io::Result<bool> {
    let mut levels = vec![removing.empty(&top, name)?];
    let mut here = top;
    while let Some(level) = levels.last_mut() {
        if removing.removal.is_ended {
            return Ok(false);
        }
        if let Some(name) = level.dirs.pop() {
            removing.path.push(shown(&name));
            match removing.enter(&here, &name) {
                Some(dir) => {
                    levels.push(removing.empty(&dir, &name)?);
                    here = dir;
                }
                None => {
                    level.is_stuck |= removing.is_left(&here, &name)?;
                    removing.path.pop();
                }
            }
            continue;
        }
        let Some(left) = levels.pop() else { break };
        let parent = levels.last().map(|parent| up(&here, parent.identity)).transpose()?;
        let is_gone =
            !left.is_stuck && removing.remove_dir(parent.as_ref().unwrap_or(at), &left.name);
        let (Some(above), Some(parent)) = (levels.last_mut(), parent) else { return Ok(is_gone) };
        above.is_stuck |= !is_gone;
        here = parent;
        removing.path.pop();
    }
    Ok(true)
}

struct InPlaceRemoval<'r> {
    removal: &'r mut Removal,
    progress: OnRemoved<'r>,
    /// The path of the current directory, as it is reported.
    path: PathBuf,
}

impl InPlaceRemoval<'_> {
    /// Opens a directory. Returns `None` if it was removed or replaced, or can't be opened.
    fn enter(&mut self, at: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
        match open_accessible(at, name) {
            Ok(dir) => Some(dir),
            Err(error) => {
                match errno(&error) {
                    Some(Errno::NOENT) => {}
                    Some(Errno::LOOP | Errno::NOTDIR) => {
                        self.remove_file(at, name, self.path.clone());
                    }
                    _ => self.removal.leave(self.path.clone(), error),
                }
                None
            }
        }
    }

    fn is_left(&self, at: &OwnedFd, name: &CStr) -> io::Result<bool> {
        Ok(stat(at, name)?.is_some())
    }

    /// Removes every entry that isn't a directory.
    fn empty(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<Level> {
        let mut level = Level {
            identity: identity(&fs::fstat(dir)?),
            name: name.to_owned(),
            dirs: Vec::new(),
            is_stuck: false,
        };
        let mut stuck: HashSet<CString> = HashSet::new();
        // A removal during the reading may hide another entry.
        let mut has_removed = true;
        while has_removed {
            has_removed = false;
            level.dirs.clear();
            for entry in entries(dir)? {
                let (name, kind) = entry?;
                let is_directory = match kind {
                    FileType::Unknown => stat(dir, &*name)?.is_some_and(|stat| is_dir(&stat)),
                    kind => kind == FileType::Directory,
                };
                if is_directory {
                    level.dirs.push(name);
                } else if !stuck.contains(&name) {
                    if self.remove_file(dir, &name, self.path.join(shown(&name))) {
                        has_removed = true;
                        if self.removal.is_ended {
                            return Ok(level);
                        }
                    } else {
                        level.is_stuck = true;
                        stuck.insert(name);
                    }
                }
            }
        }
        Ok(level)
    }

    fn remove_file(&mut self, dir: &OwnedFd, name: &CStr, path: PathBuf) -> bool {
        match beneath::remove_file(dir, name, REMOVE_FILE) {
            Ok(()) => self.removal.count(self.progress),
            Err(error) if errno(&error) == Some(Errno::NOENT) => {}
            Err(error) => {
                self.removal.leave(path, error);
                return false;
            }
        }
        true
    }

    fn remove_dir(&mut self, at: &OwnedFd, name: &CStr) -> bool {
        match beneath::remove_dir(at, name, REMOVE_DIR) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(Errno::NOENT) => true,
            Err(error) => {
                self.removal.leave(self.path.clone(), error);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory `top` with more files than are removed between two reports, some of them nested.
    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        for nested in ["a", "b/c"] {
            let nested = dir.path().join("top").join(nested);
            std::fs::create_dir_all(&nested).unwrap();
            for file in 0..PROGRESS_FILES {
                std::fs::write(nested.join(file.to_string()), "").unwrap();
            }
        }
        let opened = std::fs::File::open(dir.path()).unwrap().into();
        (dir, opened)
    }

    /// Once the caller ends it, neither way removes another file. Another removal completes it.
    #[test]
    fn what_another_process_has_removed_first_counts_as_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::File::open(dir.path()).unwrap().into();
        let removal = Removal::default();
        let mut emptier =
            Emptier { top, origins: HashMap::new(), moved: 0, removal, progress: &never_ends };
        assert!(emptier.remove_dir(c"gone", Path::new("gone")).unwrap());
        assert!(emptier.remove_file(None, c"gone", || PathBuf::from("gone")));
        assert!(emptier.removal.is_complete() && emptier.removal.files == 0);
    }

    #[test]
    fn a_removal_ends_at_the_report_at_which_the_caller_ends_it() {
        type Way = fn(&OwnedFd, OnRemoved<'_>) -> Removal;
        let moving: Way = |at, progress| remove(at, c"top", progress).unwrap();
        let in_place: Way = |at, progress| {
            let mut removal = Removal::default();
            remove_in_place(at, c"top", Path::new(""), &mut removal, progress).unwrap();
            removal
        };
        for way in [moving, in_place] {
            let (dir, at) = tree();
            let ended = way(&at, &|_| ControlFlow::Break(()));
            assert_eq!((ended.files, ended.left.len(), ended.is_ended), (PROGRESS_FILES, 0, true));
            assert!(!ended.is_complete());
            let completed = way(&at, &never_ends);
            assert_eq!((completed.files, completed.left.len()), (PROGRESS_FILES, 0));
            assert!(completed.is_complete());
            assert!(!dir.path().join("top").exists());
        }
    }
}
