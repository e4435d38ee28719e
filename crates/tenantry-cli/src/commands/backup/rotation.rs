//! Rotation of backups in a directory: their names, and which of them are removed.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use tenantry::Timestamp;

use crate::failure::Failure;
use crate::output::pluralize;
use crate::stdio::report;

/// The name of a backup begins and ends with these, around the time.
const PREFIX: &str = "tenantry-";
const SUFFIX: &str = ".tar.zst";

/// Returns the name of a backup that is made now. Names sort in the order of time.
#[allow(clippy::disallowed_methods, reason = "the clock of the command; the store has its own")]
pub(super) fn name_for_now() -> String {
    let now = Timestamp::from(SystemTime::now()).to_string();
    let time: String = now.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{PREFIX}{time}Z{SUFFIX}")
}

/// Returns whether [`name_for_now`] made this name.
fn is_backup(name: &str) -> bool {
    let time =
        name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)).map(str::as_bytes);
    time.is_some_and(|time| {
        time.len() == 16
            && time.iter().enumerate().all(|(index, byte)| match index {
                8 => *byte == b'T',
                15 => *byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    })
}

/// Removes all but the `keep` newest backups from a directory. The newest is the one that was just
/// made. Backups with a later time are neither pluralize nor removed: the clock was wrong then or
/// is wrong now, and which of the two can't be determined.
pub(super) fn rotate(dir: &Path, keep: u32, made: &str) -> Result<(), Failure> {
    let failed = |error| {
        Failure::io(
            format!("the backup was written, but older ones in {} can't be removed", dir.display()),
            &error,
        )
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.extend(
            entry.map_err(failed)?.file_name().into_string().ok().filter(|name| is_backup(name)),
        );
    }
    let found = names.len();
    names.retain(|name| name.as_str() <= made);
    names.sort_unstable();
    let later = found - names.len();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    for name in names.iter().rev().skip(keep) {
        fs::remove_file(dir.join(name)).map_err(failed)?;
    }
    if later > 0 {
        let later = pluralize(later as u64, "backup");
        report!("kept {later} dated later than the new one; check the system clock");
    }
    Ok(())
}
