//! The one place that every change of a user passes.

use crate::engine::Tx;
use crate::{ChangeKind, Error, ErrorKind, Result, Timestamp, User, UserId};

/// Records a change of a user, who is given as they are after it: once for each change, whatever it
/// took.
///
/// It is written into the feed at once, so whatever undoes the change undoes that too: a savepoint
/// of the operation's or of an embedder's, or the end of the transaction.
pub(super) fn record_change(tx: &mut Tx<'_>, user: &User, kind: ChangeKind) -> Result<()> {
    tx.insert_change(user.id, user.version, kind, false)
}

/// Records that a user, who had this version, is gone for good.
pub(super) fn record_purge(tx: &mut Tx<'_>, id: UserId, version: u64) -> Result<()> {
    tx.insert_change(id, version, ChangeKind::Purged, false)
}

/// Records that a user, or some of their files, came back out of a backup.
pub(super) fn record_brought_back(tx: &mut Tx<'_>, user: &User) -> Result<()> {
    tx.insert_change(user.id, user.version, ChangeKind::Restored, true)
}

/// Gives a user, who is about to be changed, the version and the time of the change.
pub(super) fn next_version(user: &mut User, now: Timestamp) -> Result<()> {
    if user.version >= User::MAX_VERSION {
        return Err(Error::new(
            ErrorKind::InvalidUser,
            "the user has the highest version there is",
        ));
    }
    // The clock may have been set back; the time of the last change isn't.
    user.updated_at = user.updated_at.max(now);
    user.version += 1;
    Ok(())
}
