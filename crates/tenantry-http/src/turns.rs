//! How many requests work with the store at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{REQUESTS_MAX, TURN_TIMEOUT};
use crate::problem::{Problem, Type};

/// The turns of all requests. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

/// The turn of one request, in the extensions of its response. It ends when the response was read.
#[derive(Clone)]
pub(crate) struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS_MAX)))
    }

    /// Waits for a turn.
    pub(crate) async fn wait(&self) -> Result<Turn, Problem> {
        let permit = timeout(TURN_TIMEOUT, Arc::clone(&self.0).acquire_owned()).await;
        match permit {
            Ok(Ok(permit)) => Ok(Turn { _permit: Arc::new(permit) }),
            _ => Err(Problem::new(Type::Overloaded, "too many other requests are being served")),
        }
    }
}
