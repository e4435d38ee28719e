//! Long operations: how many run at once, and how they hear that the client has gone.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::stream::{StreamExt, unfold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::limits::{IMPORTS_MAX, TRANSFERS_MAX};
use crate::problem::{Problem, Type};

/// The long operations that run. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    outgoing: Arc<Semaphore>,
    imports: Arc<Semaphore>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            outgoing: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            imports: Arc::new(Semaphore::new(IMPORTS_MAX)),
        }
    }
}

impl Transfers {
    /// Begins an operation, which lasts until the permit is dropped.
    ///
    /// # Errors
    ///
    /// `Overloaded` if so many run already: one that begins ends within seconds or hours.
    pub(crate) fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.outgoing).try_acquire_owned();
        permit.map_err(|_| {
            Problem::new(Type::Overloaded, "too many exports, checks and backups are running")
        })
    }

    /// Begins an import, as [`Transfers::begin`].
    pub(crate) fn begin_import(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.imports).try_acquire_owned();
        permit.map_err(|_| Problem::new(Type::Overloaded, "too many imports are running"))
    }
}

/// Returns a body that holds a permit until it was read or dropped, and that breaks off when it
/// wasn't read within this time.
pub(crate) fn hold(body: Body, permit: impl Send + 'static, time: Duration) -> Body {
    let end = Instant::now() + time;
    let parts = Some((body.into_data_stream(), permit));
    Body::from_stream(unfold(parts, move |parts| async move {
        let (mut parts, permit) = parts?;
        // A part that is ready is no reason to go on.
        let next = async {
            if Instant::now() < end { timeout_at(end, parts.next()).await.ok() } else { None }
        };
        match next.await {
            Some(Some(Ok(part))) => Some((Ok(part), Some((parts, permit)))),
            Some(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Some(None) => None,
            None => {
                tracing::warn!("a response was broken off: the client reads too slowly");
                Some((Err(io::ErrorKind::TimedOut.into()), None))
            }
        }
    }))
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

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_in_time_breaks_off_and_gives_its_place_back() {
        let transfers = Transfers::default();
        let mut permits: Vec<_> = (0..TRANSFERS_MAX).map(|_| transfers.begin().unwrap()).collect();
        let parts = ["one", "two", "three"].map(Ok::<_, io::Error>);
        let body = Body::from_stream(futures_util::stream::iter(parts));
        let time = Duration::from_secs(60);
        let mut read = hold(body, permits.pop().unwrap(), time).into_data_stream();
        assert_eq!(read.next().await.unwrap().unwrap(), "one");
        tokio::time::advance(time / 2).await;
        assert_eq!(read.next().await.unwrap().unwrap(), "two");
        assert!(transfers.begin().is_err());
        tokio::time::advance(time).await;
        assert!(read.next().await.unwrap().is_err());
        assert!(transfers.begin().is_ok());
        assert!(read.next().await.is_none());
    }

    #[test]
    fn an_operation_ends_when_its_request_is_dropped() {
        let ended = Ended::when_dropped();
        let flag = ended.flag();
        assert_eq!(flag.flow(), ControlFlow::Continue(()));
        drop(ended);
        assert_eq!(flag.flow(), ControlFlow::Break(()));
    }
}
