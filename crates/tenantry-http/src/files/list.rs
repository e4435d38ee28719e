//! Listing a directory, a page at a time.
//!
//! A directory has no order and may have any number of entries. So each page reads all names and
//! keeps the smallest ones after the cursor: the memory is that of a page, whatever the directory
//! holds, and an entry that stays is on exactly one page, whatever changes beside it.

use std::collections::BinaryHeap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir as Entries, FileType, Stat, statat};
use rustix::io::Errno;
use serde::Serialize;
use tenantry::Timestamp;
use tenantry::cap_std::fs::Dir;
use utoipa::ToSchema;

use super::conditions::State;
use super::path::is_hidden;
use super::upload::remove_leftover;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryType {
    File,
    Directory,
    /// A symbolic link or a special file, which no request reaches.
    Other,
}

/// An entry of a directory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FileEntry)]
pub(super) struct Entry {
    /// The name: a segment of the path, to be percent-encoded.
    name: String,
    r#type: EntryType,
    /// The length of a file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// When the content was last changed.
    #[schema(value_type = String, format = "date-time")]
    modified_at: Timestamp,
    /// The entity tag of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
}

/// A page of the entries of a directory, by name in the order of bytes.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = FilePage)]
pub(super) struct FilePage {
    entries: Vec<Entry>,
    /// Where the next page begins, or `null` if this is the last.
    next_cursor: Option<String>,
    /// How many entries of the whole directory have names that aren't UTF-8. No URL names them, so
    /// they aren't listed.
    unnamable: u64,
}

/// Lists the entries whose names are greater than `after`, at most `limit`. Removes what crashed
/// uploads left.
pub(super) fn list(dir: &Dir, after: Option<&str>, limit: usize) -> io::Result<FilePage> {
    let mut page = FilePage::default();
    // The greatest name is on top. One more than the page shows whether there is another page.
    let mut smallest: BinaryHeap<String> = BinaryHeap::with_capacity(limit + 2);
    for entry in Entries::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if is_hidden(name.to_bytes()) {
            if let Err(error) = remove_leftover(dir, name) {
                tracing::debug!("what an upload left can't be removed: {error}");
            }
            continue;
        }
        let Ok(name) = name.to_str() else {
            page.unnamable += 1;
            continue;
        };
        let is_after = after.is_none_or(|after| name > after);
        let is_small =
            smallest.len() <= limit || smallest.peek().is_some_and(|greatest| name < &**greatest);
        if is_after && is_small {
            smallest.push(name.to_owned());
            if smallest.len() > limit + 1 {
                smallest.pop();
            }
        }
    }
    let has_more = smallest.len() > limit;
    let mut names = smallest.into_sorted_vec();
    names.truncate(limit);
    page.next_cursor = names.last().filter(|_| has_more).cloned();
    for name in names {
        match statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => page.entries.push(entry(name, &stat)),
            // It was removed since.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(page)
}

fn entry(name: String, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryType::File,
        FileType::Directory => EntryType::Directory,
        _ => EntryType::Other,
    };
    let is_file = kind == EntryType::File;
    Entry {
        name,
        r#type: kind,
        bytes: is_file.then(|| u64::try_from(stat.st_size).unwrap_or_default()),
        modified_at: modified(stat).into(),
        etag: is_file.then(|| State::of(stat).etag()),
    }
}

fn modified(stat: &Stat) -> SystemTime {
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
    let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
    let second = if stat.st_mtime < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    second.and_then(|second| second.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}
