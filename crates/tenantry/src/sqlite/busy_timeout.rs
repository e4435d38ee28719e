//! The busy timeout: waits for locks of other processes.

use std::thread;
use std::time::{Duration, Instant};

use crate::{ErrorKind, Result};

/// The pause between two attempts to take a lock that another process holds. Short and even,
/// because a waiter that backs off is starved by one that doesn't.
pub(super) const LOCK_POLL: Duration = Duration::from_millis(1);

/// Retries `attempt` while it is `Busy`, until `deadline`. SQLite's own busy handler backs off to
/// steps of 100 ms, which hardly ever meet the short gaps that a busy writer leaves.
pub(super) fn wait_while_busy(
    deadline: Instant,
    mut attempt: impl FnMut() -> Result<()>,
) -> Result<()> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                thread::sleep(LOCK_POLL)
            }
            ended => return ended,
        }
    }
}
