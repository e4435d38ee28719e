//! Walking the files of a user: measuring them, and removing them.
//!
//! Their names and their nesting are whatever the application, or somebody through it, has made. So nothing here
//! recurses, holds a descriptor for each level, or makes a path of names: the walk holds one directory open at a time and the
//! removal two, whatever the depth.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::beneath::{self, Mounts, entries, errno, is_dir, open_dir, shown};
use super::in_place;

/// After how many files progress is reported.
const PROGRESS_FILES: u64 = 1_000;
/// How many of the files that could not be removed are named.
const NAMED_MAX: usize = 100;

/// How often a directory is read that never gets empty, because somebody goes on filling it. The usual one is read twice; a
/// chain of nested ones is moved up link by link, which may take a pass for each.
const PASSES_MAX: usize = 100_000;

pub(super) const REMOVE_FILE: &str = "remove: a file";
pub(super) const REMOVE_DIR: &str = "remove: a directory";
const MAKE_ACCESSIBLE: &str = "remove: change a mode";

/// What a directory holds, as far as it could be walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) files: u64,
    pub(crate) apparent_bytes: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) unreadable: u64,
}

/// What a walk comes by.
pub(super) enum Visit<'v> {
    /// Something in the directory `dir`, whose path below the top is `above`.
    Entry { dir: &'v OwnedFd, above: &'v Path, name: &'v CStr, stat: &'v Stat },
    /// A directory that can't be entered, be it for want of permission or because a file system is mounted on it.
    Unreadable { above: &'v Path, name: &'v CStr },
}

/// A directory on the way from the top to where the walk is.
struct Level {
    identity: Identity,
    /// What is still to be entered.
    dirs: Vec<CString>,
}

impl Level {
    /// Visits what is in a directory. `None` if it may be opened but not entered: then nothing in it can be looked at, and
    /// there is no way back up from it.
    fn visit(
        dir: &OwnedFd,
        above: &Path,
        visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        // Unlike `fstat`, this takes the right to enter it.
        let itself = match fs::statat(dir, c".", AtFlags::empty()) {
            Err(Errno::ACCESS) => return Ok(None),
            itself => itself?,
        };
        let mut level = Self { identity: identity(&itself), dirs: Vec::new() };
        for entry in entries(dir)? {
            let (name, _) = entry?;
            let Some(stat) = beneath::stat(dir, &*name)? else { continue };
            visit(Visit::Entry { dir, above, name: &name, stat: &stat })?;
            if is_dir(&stat) {
                level.dirs.push(name);
            }
        }
        Ok(Some(level))
    }
}

/// Walks over everything beneath a directory, each directory before what is in it. What disappears meanwhile isn't met.
pub(super) fn walk(top: OwnedFd, visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut above = PathBuf::new();
    let mut levels = Vec::new();
    match Level::visit(&top, &above, visit)? {
        Some(level) => levels.push(level),
        None => visit(Visit::Unreadable { above: &above, name: c"." })?,
    }
    let mut here = top;
    while let Some(this) = levels.last_mut() {
        if let Some(name) = this.dirs.pop() {
            match open_dir(&here, &*name, Mounts::Refuse) {
                Ok(dir) => {
                    above.push(shown(&name));
                    match Level::visit(&dir, &above, visit) {
                        // It was removed since it was opened.
                        Err(error) if errno(&error) == Some(Errno::NOENT) => drop(above.pop()),
                        level => match level? {
                            Some(level) => {
                                levels.push(level);
                                here = dir;
                            }
                            None => {
                                above.pop();
                                visit(Visit::Unreadable { above: &above, name: &name })?;
                            }
                        },
                    }
                }
                Err(error) => match errno(&error) {
                    // It has gone, or has become something else.
                    Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                    Some(Errno::ACCESS | Errno::PERM | Errno::XDEV) => {
                        visit(Visit::Unreadable { above: &above, name: &name })?;
                    }
                    _ => return Err(error),
                },
            }
            continue;
        }
        levels.pop();
        above.pop();
        if let Some(parent) = levels.last() {
            here = up(&here, parent.identity)?;
        }
    }
    Ok(())
}

/// Adds up what lies beneath a directory.
pub(super) fn measure(top: OwnedFd, progress: &dyn Fn(u64)) -> io::Result<Measured> {
    let mut measured = Measured { allocated_bytes: allocated(&fs::fstat(&top)?), ..Measured::default() };
    let mut linked = HashSet::new();
    walk(top, &mut |visit| {
        match visit {
            Visit::Unreadable { .. } => measured.unreadable += 1,
            Visit::Entry { stat, .. } if is_dir(stat) => measured.allocated_bytes += allocated(stat),
            // A file with several names counts once.
            Visit::Entry { stat, .. } if stat.st_nlink > 1 && !linked.insert(identity(stat)) => {}
            Visit::Entry { stat, .. } => {
                measured.files += 1;
                measured.apparent_bytes += u64::try_from(stat.st_size).unwrap_or_default();
                measured.allocated_bytes += allocated(stat);
                if measured.files.is_multiple_of(PROGRESS_FILES) {
                    progress(measured.files);
                }
            }
        }
        Ok(())
    })?;
    Ok(measured)
}

/// Whether a name is that of this directory.
pub(super) fn is_at(at: impl AsFd, name: impl Arg, dir: &OwnedFd) -> io::Result<bool> {
    let found = beneath::stat(at, name)?;
    Ok(found.is_some_and(|found| fs::fstat(dir).is_ok_and(|dir| identity(&dir) == identity(&found))))
}

/// The device and the number of a file or directory.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Opens the directory above, which is where the walk came from, or else somebody has moved this one: then there is no
/// way back.
pub(super) fn up(dir: &OwnedFd, parent: Identity) -> io::Result<OwnedFd> {
    let up = fs::openat(dir, c"..", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if identity(&fs::fstat(&up)?) != parent {
        return Err(io::Error::other("a directory was moved while it was walked through"));
    }
    Ok(up)
}

fn allocated(stat: &Stat) -> u64 {
    // In blocks of 512 bytes, whatever those of the file system are.
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// What a removal came to.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// How many files, and whatever else isn't a directory, were removed.
    pub(crate) files: u64,
    /// What could not be removed, and why: the first of it.
    pub(crate) left: Vec<(PathBuf, io::Error)>,
    /// Whether another process was found removing the same, which was left to it.
    pub(crate) is_elsewhere: bool,
}

impl Removal {
    pub(crate) fn is_complete(&self) -> bool {
        self.left.is_empty() && !self.is_elsewhere
    }

    /// Counts a file that was removed.
    pub(super) fn count(&mut self, progress: &dyn Fn(u64)) {
        self.files += 1;
        if self.files.is_multiple_of(PROGRESS_FILES) {
            progress(self.files);
        }
    }

    /// Names what can't be removed.
    pub(super) fn leave(&mut self, path: PathBuf, error: io::Error) {
        if self.left.len() < NAMED_MAX {
            self.left.push((path, error));
        }
    }
}

/// Removes a directory with everything in it. Links are removed themselves, and other file systems not entered.
///
/// A directory that isn't empty is emptied from within its parent: its files are removed, and the directories
/// in it moved up to the top, where their turn comes. So no depth is too deep. Nothing that a crash interrupts makes a difference:
/// another removal goes on with whatever there is.
pub(super) fn remove(at: impl AsFd, name: &CStr, progress: &dyn Fn(u64)) -> io::Result<Removal> {
    remove_if(at, name, &|_| Ok(true), progress)
}

/// The same if, once nobody else has the lock on the directory, it may go.
pub(super) fn remove_if(
    at: impl AsFd,
    name: &CStr,
    may_go: &dyn Fn(&OwnedFd) -> io::Result<bool>,
    progress: &dyn Fn(u64),
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
    // Held for as long as the descriptor is open, and so not beyond the end of the process.
    if let Err(Errno::WOULDBLOCK) = fs::flock(&top, FlockOperation::NonBlockingLockExclusive) {
        removal.is_elsewhere = true;
        return Ok(removal);
    }
    if !may_go(&top)? {
        return Ok(removal);
    }
    let mut emptying = Emptying { top, origins: HashMap::new(), moved: 0, removal, progress };
    if let Err(error) = emptying.run() {
        emptying.leave(PathBuf::new(), error);
    }
    let mut removal = emptying.removal;
    match beneath::remove_dir(&at, name, REMOVE_DIR) {
        Ok(()) => {}
        Err(error) if errno(&error) == Some(Errno::NOENT) => {}
        Err(_) if !removal.left.is_empty() => {}
        Err(error) => removal.left.push((PathBuf::new(), error)),
    }
    Ok(removal)
}

struct Emptying<'p> {
    top: OwnedFd,
    /// Where the directories that were moved up come from.
    origins: HashMap<CString, PathBuf>,
    moved: u64,
    removal: Removal,
    progress: &'p dyn Fn(u64),
}

impl Emptying<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut stuck = HashSet::new();
        for _ in 0..PASSES_MAX {
            // What is moved up while the directory is read may be met or not: read it until nothing is new.
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
            }
            if !met_new {
                return Ok(());
            }
        }
        Err(io::Error::other("files are added to it all the time"))
    }

    /// Empties and removes a directory in the top one, and says whether it has gone.
    fn remove_dir(&mut self, name: &CStr, origin: &Path) -> io::Result<bool> {
        // Without a look into it: most often it is empty.
        if beneath::remove_dir(&self.top, name, REMOVE_DIR).is_ok() {
            return Ok(true);
        }
        let dir = match open_accessible(&self.top, name) {
            Ok(dir) => dir,
            Err(error) => {
                return Ok(match errno(&error) {
                    Some(Errno::NOENT) => true,
                    Some(Errno::LOOP | Errno::NOTDIR) => self.remove_file(None, name, || origin.to_owned()),
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
                // What is left stays; everything else is met once.
                if met.contains(&child) {
                    continue;
                }
                met_new = true;
                let of_child = || origin.join(shown(&child));
                let is_gone = match kind {
                    FileType::Directory | FileType::Unknown => self.move_up(&dir, &child, &of_child)?,
                    _ => self.remove_file(Some(&dir), &child, of_child),
                };
                if !is_gone {
                    is_emptied = false;
                    met.insert(child);
                }
            }
            if !met_new {
                break;
            }
        }
        let Err(error) = beneath::remove_dir(&self.top, name, REMOVE_DIR) else { return Ok(true) };
        Ok(match errno(&error) {
            Some(Errno::NOENT) => true,
            // What is in the way was named.
            Some(Errno::NOTEMPTY | Errno::EXIST) if !is_emptied => false,
            _ => self.leave(origin.to_owned(), error),
        })
    }

    /// Moves a directory within another one to the top, and says whether it has gone from where it was.
    fn move_up(&mut self, dir: &OwnedFd, name: &CStr, origin: &dyn Fn() -> PathBuf) -> io::Result<bool> {
        if beneath::remove_dir(dir, name, REMOVE_DIR).is_ok() {
            return Ok(true);
        }
        let mut was_made_accessible = false;
        loop {
            self.moved += 1;
            // A name of the file's own may be the same, or one that an interrupted removal left.
            let new_name = CString::new(format!("moved-{}", self.moved))?;
            let Err(error) = beneath::rename(dir, name, &self.top, &*new_name, "remove: move a directory up") else {
                self.origins.insert(new_name, origin());
                return Ok(true);
            };
            match errno(&error) {
                Some(Errno::EXIST) => {}
                Some(Errno::NOENT) => return Ok(true),
                // Directories of overlayfs's lower layer, of another project quota or of another subvolume stay where they
                // are.
                Some(Errno::XDEV) => {
                    return in_place::remove(dir, name, &origin(), &mut self.removal, self.progress);
                }
                // To move a directory is to write its "..".
                Some(Errno::ACCESS)
                    if !was_made_accessible && beneath::make_private(dir, name, MAKE_ACCESSIBLE).is_ok() =>
                {
                    was_made_accessible = true;
                }
                _ => return Ok(self.leave(origin(), error)),
            }
        }
    }

    /// Removes what isn't a directory, and says whether it has gone.
    fn remove_file(&mut self, dir: Option<&OwnedFd>, name: &CStr, origin: impl Fn() -> PathBuf) -> bool {
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

/// Opens a directory to empty it, and gives its owner the right to if that is missing.
pub(super) fn open_accessible(at: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    match open_dir(&at, name, Mounts::Refuse) {
        Err(error) if errno(&error) == Some(Errno::ACCESS) => {
            beneath::make_private(&at, name, MAKE_ACCESSIBLE)?;
            open_dir(&at, name, Mounts::Refuse)
        }
        Ok(dir) => {
            let mode = Mode::from_raw_mode(fs::fstat(&dir)?.st_mode);
            if !mode.contains(beneath::PRIVATE) {
                // If that isn't allowed, what it takes will be.
                crate::failpoint::reach(MAKE_ACCESSIBLE);
                let _ = fs::fchmod(&dir, beneath::PRIVATE);
            }
            Ok(dir)
        }
        opened => opened,
    }
}
