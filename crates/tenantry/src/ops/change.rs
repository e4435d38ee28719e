//! The one place that every change of a user passes.

use crate::domain::change::Change;
use crate::engine::Tx;
use crate::{Error, ErrorKind, Result, Timestamp, User, UserId};

/// Records a change of a user that this transaction has made: once for each, whatever it took.
///
/// It counts when the transaction is committed. A change that an operation takes back by failing
/// doesn't count.
pub(super) fn record_change(tx: &mut Tx<'_>, id: UserId, change: Change) {
    tx.note_change(id, change);
}

/// Gives a user, who is about to be changed, the version and the time of the change.
pub(super) fn next_version(user: &mut User, now: Timestamp) -> Result<()> {
    if user.version >= User::MAX_VERSION {
        return Err(Error::new(ErrorKind::InvalidUser, "the user has the highest version there is"));
    }
    // The clock may have been set back; the time of the last change isn't.
    user.updated_at = user.updated_at.max(now);
    user.version += 1;
    Ok(())
}
