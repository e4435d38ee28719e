//! Long operations: how many run at once, and how they hear that the client has gone.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::TRANSFERS_MAX;
use crate::problem::{Problem, Type};

/// The long operations that run. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Transfers(Arc<Semaphore>);

impl Default for Transfers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TRANSFERS_MAX)))
    }
}

impl Transfers {
    /// Begins an operation, which lasts until the permit is dropped.
    ///
    /// # Errors
    ///
    /// `Overloaded` if so many run already: one that begins ends within seconds or hours.
    pub(crate) fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        permit.map_err(|_| {
            Problem::new(Type::Overloaded, "too many exports, checks and backups are running")
        })
    }
}

/// Sets its flags when it is dropped with the request that it belongs to.
#[derive(Debug)]
pub(crate) struct Ended(Flag);

/// Whether the request is over.
#[derive(Clone, Debug)]
pub(crate) struct Flag(Arc<AtomicBool>);

impl Ended {
    pub(crate) fn when_dropped() -> Self {
        Self(Flag(Arc::new(AtomicBool::new(false))))
    }

    pub(crate) fn flag(&self) -> Flag {
        self.0.clone()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns what a callback of progress returns.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_ends_when_its_request_is_dropped() {
        let ended = Ended::when_dropped();
        let flag = ended.flag();
        assert_eq!(flag.flow(), ControlFlow::Continue(()));
        drop(ended);
        assert_eq!(flag.flow(), ControlFlow::Break(()));
    }
}
