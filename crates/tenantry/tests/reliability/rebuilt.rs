//! The disk as a power cut leaves it: put together from what was recorded until then, in every way
//! that SQLite's documentation allows (<https://sqlite.org/atomiccommit.html>, section 2, and
//! <https://sqlite.org/psow.html>).

use std::collections::BTreeMap;

use tenantry_testkit::random::Random;

use crate::vfs::Event;

/// What a disk writes whole or not.
const SECTOR: usize = 512;

/// The files by their names.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Which of the writes that nobody waited for have reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// None.
    Synced,
    /// All.
    Everything,
    /// Any of them.
    Subset,
    /// Any sectors of them. Where a file has grown there may be anything.
    Torn,
    /// All before the last one, and some sectors of that.
    LastTorn,
}

/// A disk that doesn't do what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Honest,
    /// As if nobody had ever waited for a file.
    IgnoresSync,
    /// As if nobody had ever waited for the database file, though for its log.
    IgnoresSyncOfDatabase,
    /// As if nobody had ever waited for a directory.
    IgnoresSyncDir,
    /// What it failed to write is never written, though the next sync succeeds: the system holds it
    /// for written. (<https://lwn.net/Articles/752063/>)
    ForgetsWhatFailed,
    /// The same of some of it, by chance.
    ForgetsSomeOfWhatFailed,
}

#[derive(Default)]
struct File {
    /// What is certainly there.
    synced: Vec<u8>,
    /// The numbers of the events that may be there or not.
    pending: Vec<usize>,
}

/// The record, replayed up to some event.
pub(crate) struct Replay<'r> {
    record: &'r [Event],
    disk: Disk,
    /// Until which event it does what it says.
    honest_until: usize,
    rng: Random,
    at: usize,
    /// The number of the last event that changed what can be on the disk.
    last: usize,
    files: BTreeMap<u32, File>,
    names: BTreeMap<String, u32>,
    /// The numbers of the events that change names and may be there or not.
    pending_names: Vec<usize>,
    is_marked: bool,
}

impl<'r> Replay<'r> {
    /// Of a record that begins with these files.
    pub(crate) fn new(
        base: &Files,
        record: &'r [Event],
        disk: Disk,
        honest_until: usize,
        seed: u64,
    ) -> Self {
        let mut replay = Self {
            record,
            disk,
            honest_until,
            rng: Random::new(seed),
            at: 0,
            last: 0,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            pending_names: Vec::new(),
            is_marked: false,
        };
        // As the VFS numbers them.
        for (number, (name, content)) in (0..).zip(base) {
            replay.names.insert(name.clone(), number);
            replay.files.insert(number, File { synced: content.clone(), pending: Vec::new() });
        }
        replay
    }

    /// The number of the next event.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Whether `storage/` has its marker.
    pub(crate) fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// Goes on to before the next event that changes what can be on the disk; `false` if there is
    /// none.
    pub(crate) fn advance(&mut self) -> bool {
        let before = self.at;
        while let Some(event) = self.record.get(self.at) {
            if !matches!(event, Event::Ran | Event::Answered) {
                if self.at > before {
                    return true;
                }
                self.last = self.at;
            }
            self.apply(event);
            self.at += 1;
        }
        self.at > before
    }

    fn apply(&mut self, event: &Event) {
        let disk = if self.at < self.honest_until { Disk::Honest } else { self.disk };
        match event {
            Event::Create { file, .. } => {
                self.files.entry(*file).or_default();
                self.pending_names.push(self.at);
            }
            Event::Rename { .. } | Event::Remove { .. } => self.pending_names.push(self.at),
            Event::Write { file, .. } | Event::Truncate { file, .. } => {
                self.files.get_mut(file).unwrap().pending.push(self.at);
            }
            Event::Sync { .. } if disk == Disk::IgnoresSync => {}
            Event::Sync { file, .. }
                if disk == Disk::IgnoresSyncOfDatabase
                    && self.names.get("tenantry.db") == Some(file) => {}
            Event::Sync { file, before } => {
                let file = self.files.get_mut(file).unwrap();
                let (done, left): (Vec<usize>, Vec<usize>) =
                    file.pending.iter().partition(|number| *number < before);
                file.pending = left;
                for number in done {
                    apply_whole(&mut file.synced, &self.record[number]);
                }
            }
            Event::SyncFailed { file, before } => {
                let rng = &mut self.rng;
                self.files.get_mut(file).unwrap().pending.retain(|number| match disk {
                    _ if number >= before => true,
                    Disk::ForgetsWhatFailed => false,
                    Disk::ForgetsSomeOfWhatFailed => rng.below(2) == 0,
                    _ => true,
                });
            }
            Event::SyncDir { .. } if disk == Disk::IgnoresSyncDir => {}
            Event::SyncDir { dir, before } => {
                let pending = std::mem::take(&mut self.pending_names);
                for number in pending {
                    if number < *before && dir_of(&self.record[number]) == dir {
                        apply_name(&mut self.names, &self.record[number]);
                    } else {
                        self.pending_names.push(number);
                    }
                }
            }
            Event::Marked => self.is_marked = true,
            Event::Ran | Event::Answered => {}
        }
    }

    /// What a power cut now leaves.
    pub(crate) fn cut(&mut self, variant: Variant) -> Files {
        let mut names = self.names.clone();
        for number in &self.pending_names {
            let is_there = match variant {
                Variant::Synced => false,
                Variant::Everything | Variant::LastTorn => true,
                Variant::Subset | Variant::Torn => self.rng.below(2) == 0,
            };
            if is_there {
                apply_name(&mut names, &self.record[*number]);
            }
        }
        names
            .into_iter()
            .map(|(name, number)| {
                let file = &self.files[&number];
                let mut content = file.synced.clone();
                for number in &file.pending {
                    let event = &self.record[*number];
                    match variant {
                        Variant::Synced => {}
                        Variant::Subset if self.rng.below(2) == 0 => {}
                        Variant::Torn => apply_torn(&mut content, event, &mut self.rng),
                        Variant::LastTorn if *number == self.last => {
                            apply_torn(&mut content, event, &mut self.rng)
                        }
                        Variant::Everything | Variant::Subset | Variant::LastTorn => {
                            apply_whole(&mut content, event)
                        }
                    }
                }
                (name, content)
            })
            .collect()
    }
}

/// The directory of the name that an event changes.
fn dir_of(event: &Event) -> &str {
    match event {
        Event::Create { name, .. } | Event::Remove { name } | Event::Rename { to: name, .. } => {
            name.rsplit_once('/').map_or("", |(dir, _)| dir)
        }
        _ => "",
    }
}

fn apply_name(names: &mut BTreeMap<String, u32>, event: &Event) {
    match event {
        Event::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Event::Remove { name } => {
            names.remove(name);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        _ => {}
    }
}

fn apply_whole(content: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, data, .. } => write_at(content, *offset, data),
        Event::Truncate { len, .. } => content.resize(*len, 0),
        _ => {}
    }
}

fn apply_torn(content: &mut Vec<u8>, event: &Event, rng: &mut Random) {
    let Event::Write { offset, data, .. } = event else {
        if rng.below(2) == 0 {
            apply_whole(content, event);
        }
        return;
    };
    let synced = content.len();
    let mut at = *offset;
    while at < offset + data.len() {
        let end = (at / SECTOR * SECTOR + SECTOR).min(offset + data.len());
        match rng.below(8) {
            0..4 => write_at(content, at, &data[at - offset..end - offset]),
            // The file has grown, but what belongs there isn't written.
            4 if at >= synced => {
                let garbage = rng.any().to_le_bytes();
                write_at(content, at, &garbage.repeat(SECTOR / garbage.len())[..end - at]);
            }
            _ => {}
        }
        at = end;
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}
