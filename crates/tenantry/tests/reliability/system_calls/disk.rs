//! A disk that keeps what it was asked to keep, and of the rest whatever it likes.
//!
//! The rules are those of POSIX at their strictest, which no file system makes full use of:
//!
//! - A file's content is on the disk after an `fsync` of the file, a name after an `fsync` of its
//!   directory. Until then each write may be there, a part of it, or nothing, and each change of a
//!   directory or not.
//! - Changes of the same name keep their order.
//! - A rename is there as a whole or not at all. It is certain when both directories were synced
//!   since.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tenantry_testkit::random::Random;

use super::steps::{Name, Object, Step, TOP, overwrite};

/// What a disk writes as a whole.
const SECTOR: u64 = 512;

/// Which of the pending changes have come to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    OnlySynced,
    All,
    /// As of a file system that keeps a journal of names alone.
    Names,
    Contents,
    /// All contents, and of the names this change alone, with what has to go before it.
    Only(usize),
    /// All but this change of names.
    Without(usize),
    /// Any, by this seed.
    Any(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, octets: Arc<Vec<u8>> },
    Truncate { length: u64 },
    Mode(u32),
}

#[derive(Clone, Debug, Default)]
struct Thing {
    is_dir: bool,
    mode: u32,
    content: Arc<Vec<u8>>,
    entries: BTreeMap<String, Object>,
    /// Of itself; those of its entries are the disk's.
    pending: Vec<Change>,
}

/// A change of directories that isn't certain yet.
#[derive(Clone, Debug)]
struct Move {
    /// What is at which name then.
    sets: Vec<(Name, Option<Object>)>,
    /// The directories that it takes to sync.
    unsynced: BTreeSet<Object>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    things: Vec<Thing>,
    moves: Vec<Move>,
}

impl Disk {
    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::NewFile { object, mode } => self.new_thing(*object, false, *mode),
            Step::NewDir { object, mode } => self.new_thing(*object, true, *mode),
            Step::Write { file, at, octets } => {
                self.things[*file]
                    .pending
                    .push(Change::Write { at: *at, octets: Arc::clone(octets) });
            }
            Step::Truncate { file, length } => {
                self.things[*file].pending.push(Change::Truncate { length: *length })
            }
            Step::Mode { object, mode } => self.things[*object].pending.push(Change::Mode(*mode)),
            Step::Link { name, object } => self.move_to(vec![(name.clone(), Some(*object))]),
            Step::Unlink { name } => self.move_to(vec![(name.clone(), None)]),
            Step::Rename { from, to, object } => {
                self.move_to(vec![(from.clone(), None), (to.clone(), Some(*object))]);
            }
            Step::Sync { object, .. } => self.sync(*object),
            Step::SyncAll => (0..self.things.len()).for_each(|object| self.sync(object)),
            Step::Answered => {}
        }
    }

    fn new_thing(&mut self, object: Object, is_dir: bool, mode: u32) {
        assert_eq!(object, self.things.len());
        self.things.push(Thing { is_dir, mode, ..Thing::default() });
    }

    fn move_to(&mut self, sets: Vec<(Name, Option<Object>)>) {
        let unsynced = sets.iter().map(|((dir, _), _)| *dir).collect();
        self.moves.push(Move { sets, unsynced });
    }

    fn sync(&mut self, object: Object) {
        let thing = &mut self.things[object];
        for change in std::mem::take(&mut thing.pending) {
            apply(thing, &change);
        }
        for step in &mut self.moves {
            step.unsynced.remove(&object);
        }
        let certain = self.with_those_before(|step| step.unsynced.is_empty());
        let mut certain = certain.into_iter();
        let (kept, pending) =
            std::mem::take(&mut self.moves).into_iter().partition(|_| certain.next().unwrap());
        self.moves = pending;
        let kept: Vec<Move> = kept;
        for step in &kept {
            carry_out(&mut self.things, step);
        }
    }

    /// Which of the moves are there, if these are, asked from the last to the first: what came
    /// before at the same name is there too.
    fn with_those_before(&self, mut is_there: impl FnMut(&Move) -> bool) -> Vec<bool> {
        let mut names: BTreeSet<&Name> = BTreeSet::new();
        let mut chosen = vec![false; self.moves.len()];
        for (index, step) in self.moves.iter().enumerate().rev() {
            let is_needed = step.sets.iter().any(|(name, _)| names.contains(name));
            // Asked in any case, so that dice fall alike.
            let is_chosen = is_there(step);
            if is_needed || is_chosen {
                chosen[index] = true;
                names.extend(step.sets.iter().map(|(name, _)| name));
            }
        }
        chosen
    }

    /// How many changes of names aren't certain.
    pub(super) fn uncertain(&self) -> usize {
        self.moves.len()
    }

    /// What is found on the disk if the power fails now.
    pub(super) fn image(&self, variant: Variant) -> Image {
        let mut dice = Random::new(match variant {
            Variant::Any(seed) => seed,
            _ => 0,
        });
        let mut things = self.things.clone();
        // Sometimes nearly all, sometimes hardly anything.
        let odds = 1 + dice.below(7);
        let chosen = match variant {
            Variant::OnlySynced | Variant::Contents => vec![false; self.moves.len()],
            Variant::All | Variant::Names => vec![true; self.moves.len()],
            Variant::Only(this) | Variant::Without(this) => {
                let mut index = self.moves.len();
                self.with_those_before(|_| {
                    index -= 1;
                    (index == this) == matches!(variant, Variant::Only(_))
                })
            }
            Variant::Any(_) => self.with_those_before(|_| dice.below(8) < odds),
        };
        for (step, _) in self.moves.iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen) {
            carry_out(&mut things, step);
        }
        let odds = 1 + dice.below(7);
        for thing in things.iter_mut().filter(|thing| !thing.pending.is_empty()) {
            for mut change in std::mem::take(&mut thing.pending) {
                let is_kept = match variant {
                    Variant::OnlySynced | Variant::Names => false,
                    Variant::All | Variant::Contents | Variant::Only(_) | Variant::Without(_) => {
                        true
                    }
                    Variant::Any(_) => dice.below(8) < odds,
                };
                if let (Variant::Any(_), Change::Write { at, octets }) = (variant, &mut change)
                    && dice.below(4) == 0
                {
                    tear(*at, octets, &mut dice);
                }
                if is_kept {
                    apply(thing, &change);
                }
            }
        }
        let mut image = Image::default();
        image.take_in(&things, TOP, "");
        image
    }
}

/// Cuts a write at the boundary of a sector.
fn tear(at: u64, octets: &mut Arc<Vec<u8>>, dice: &mut Random) {
    let sectors = (at + octets.len() as u64).div_ceil(SECTOR) - at / SECTOR;
    let end = (at / SECTOR + dice.below(sectors.max(1))) * SECTOR;
    let kept = end.saturating_sub(at).min(octets.len() as u64);
    Arc::make_mut(octets).truncate(kept as usize);
}

fn apply(thing: &mut Thing, change: &Change) {
    match change {
        Change::Write { at, octets } => overwrite(Arc::make_mut(&mut thing.content), *at, octets),
        Change::Truncate { length } => {
            Arc::make_mut(&mut thing.content).resize(*length as usize, 0)
        }
        Change::Mode(mode) => thing.mode = *mode,
    }
}

fn carry_out(things: &mut [Thing], step: &Move) {
    for ((dir, name), object) in &step.sets {
        match object {
            Some(object) => drop(things[*dir].entries.insert(name.clone(), *object)),
            None => drop(things[*dir].entries.remove(name)),
        }
    }
}

/// A path, its mode and what a file holds; `None` for a directory.
type Entry = (String, u32, Option<Arc<Vec<u8>>>);

/// A tree of files as it is found after a power cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// Each directory before what is in it.
    entries: Vec<Entry>,
}

impl Image {
    fn take_in(&mut self, things: &[Thing], dir: Object, above: &str) {
        for (name, object) in &things[dir].entries {
            let thing = &things[*object];
            let path = format!("{above}{name}");
            let content = (!thing.is_dir).then(|| Arc::clone(&thing.content));
            self.entries.push((path.clone(), thing.mode, content));
            if thing.is_dir {
                self.take_in(things, *object, &format!("{path}/"));
            }
        }
    }

    /// Represents everything in it.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (path, mode, content) in &self.entries {
            let length = content.as_ref().map_or(u64::MAX, |content| content.len() as u64);
            hasher.update(format!("{path}\0{mode}\0{length}\0").as_bytes());
            hasher.update(content.as_deref().map_or(&[], Vec::as_slice));
        }
        *hasher.finalize().as_bytes()
    }

    /// Makes a real directory of it.
    pub(super) fn write_to(&self, top: &Path) {
        for (path, mode, content) in &self.entries {
            let path = top.join(path);
            match content {
                None => fs::DirBuilder::new().mode(*mode).create(path).unwrap(),
                Some(content) => {
                    use std::io::Write;
                    let mut file = fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(*mode)
                        .open(path)
                        .unwrap();
                    file.write_all(content).unwrap();
                    // Times aren't followed. So a copy and its original have the same.
                    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Object = 1;
    const FILE: Object = 2;

    /// `d/f` holds "old" on the disk.
    fn disk() -> Disk {
        let mut disk = Disk::default();
        let write = Step::Write { file: FILE, at: 0, octets: Arc::new(b"old".to_vec()) };
        for step in [
            Step::NewDir { object: TOP, mode: 0o700 },
            Step::NewDir { object: DIR, mode: 0o700 },
            Step::Link { name: (TOP, "d".to_owned()), object: DIR },
            Step::NewFile { object: FILE, mode: 0o600 },
            Step::Link { name: (DIR, "f".to_owned()), object: FILE },
            write,
            Step::SyncAll,
        ] {
            disk.take(&step);
        }
        disk
    }

    fn sync(object: Object) -> Step {
        Step::Sync { object, path: "any".into() }
    }

    fn found(disk: &Disk, variant: Variant) -> Vec<(String, Option<String>)> {
        let text = |content: Arc<Vec<u8>>| String::from_utf8(content.to_vec()).unwrap();
        disk.image(variant)
            .entries
            .into_iter()
            .map(|(path, _, content)| (path, content.map(text)))
            .collect()
    }

    fn expected(entries: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        entries
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn a_write_is_certain_when_its_file_is_synced() {
        let mut disk = disk();
        disk.take(&Step::Write { file: FILE, at: 2, octets: Arc::new(b"new".to_vec()) });
        let (old, new) = (
            expected(&[("d", None), ("d/f", Some("old"))]),
            expected(&[("d", None), ("d/f", Some("olnew"))]),
        );
        assert_eq!(found(&disk, Variant::OnlySynced), old);
        assert_eq!(found(&disk, Variant::All), new);
        disk.take(&sync(DIR));
        assert_eq!(found(&disk, Variant::OnlySynced), old);
        disk.take(&sync(FILE));
        assert_eq!(found(&disk, Variant::OnlySynced), new);
    }

    #[test]
    fn a_rename_is_never_half_there_and_certain_when_both_directories_are_synced() {
        let mut disk = disk();
        disk.take(&Step::Rename {
            from: (DIR, "f".to_owned()),
            to: (TOP, "g".to_owned()),
            object: FILE,
        });
        let (old, new) = (
            expected(&[("d", None), ("d/f", Some("old"))]),
            expected(&[("d", None), ("g", Some("old"))]),
        );
        disk.take(&sync(TOP));
        assert_eq!(found(&disk, Variant::OnlySynced), old);
        for seed in 0..100 {
            let any = found(&disk, Variant::Any(seed));
            assert!(any == old || any == new, "{any:?}");
        }
        disk.take(&sync(DIR));
        assert_eq!(found(&disk, Variant::OnlySynced), new);
    }

    #[test]
    fn what_is_certain_takes_what_came_before_at_the_same_name_with_it() {
        let mut disk = disk();
        disk.take(&Step::Rename {
            from: (DIR, "f".to_owned()),
            to: (TOP, "g".to_owned()),
            object: FILE,
        });
        assert_eq!(found(&disk, Variant::Only(0)), found(&disk, Variant::All));
        assert_eq!(found(&disk, Variant::Without(0)), found(&disk, Variant::OnlySynced));
        disk.take(&Step::Unlink { name: (TOP, "g".to_owned()) });
        // So that the file isn't at its old place either.
        disk.take(&sync(TOP));
        assert_eq!(found(&disk, Variant::OnlySynced), expected(&[("d", None)]));
    }
}
