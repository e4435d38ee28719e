//! Waiting for other processes.

use std::thread;
use std::time::{Duration, Instant};

use crate::{ErrorKind, Result};

/// How long to sleep between two looks at a lock that another process holds. Short and even,
/// because a waiter that backs off is locked out by a busy one.
pub(super) const LOCK_POLL: Duration = Duration::from_millis(1);

/// Tries until another process isn't in the way any more, or the time is over. SQLite's own waiting
/// backs off to steps of 100 ms, in which it hardly ever meets the short gaps that a busy writer
/// leaves.
pub(super) fn wait_while_busy(deadline: Instant, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => thread::sleep(LOCK_POLL),
            ended => return ended,
        }
    }
}
