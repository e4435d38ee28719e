//! The end of the service, of which its parts hear.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether the service is ending. Clones share it.
#[derive(Clone, Debug)]
pub struct Drain(Arc<watch::Sender<bool>>);

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Drain {
    /// Begins the end: the service counts as not ready, connections end with the request that they
    /// have, and streams are told.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Returns whether the service is ending.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the end to begin.
    pub async fn wait(&self) {
        // It fails only without a sender, which is here.
        let _ = self.0.subscribe().wait_for(|has_begun| *has_begun).await;
    }
}
