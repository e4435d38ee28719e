//! Blocking file work beside the reactor, and the memory of what is on its way.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};

/// How many threads do file work at once. One that hangs in the file system takes none of them away
/// from the application that embeds the service, whose pool has hundreds.
const WORKERS_MAX: usize = 32;
/// The size of a chunk while there is memory for it: the larger, the fewer the steps of a transfer.
const CHUNK_BYTES: u32 = 128 << 10;
/// The size of a chunk otherwise. A thousand stalled transfers then hold 16 MiB.
const SMALL_CHUNK_BYTES: u32 = 16 << 10;
/// What all large chunks together may hold: those of 256 transfers.
const LARGE_CHUNKS_BYTES_MAX: usize = 32 << 20;

/// The threads and the memory that all transfers share.
#[derive(Debug)]
pub(super) struct Work {
    workers: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            workers: Arc::new(Semaphore::new(WORKERS_MAX)),
            memory: Arc::new(Semaphore::new(LARGE_CHUNKS_BYTES_MAX)),
        }
    }
}

impl Work {
    /// Runs file work on a thread for it. Once it has begun, it goes on even if the caller stops to
    /// wait.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed. If it were, the work would merely not be limited.
        let permit = Arc::clone(&self.workers).acquire_owned().await.ok();
        spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }

    /// Returns room for a chunk: a large one while there is memory, and always a small one.
    pub(super) fn room(&self) -> Room {
        match Arc::clone(&self.memory).try_acquire_many_owned(CHUNK_BYTES) {
            Ok(permit) => Room { bytes: CHUNK_BYTES as usize, _permit: Some(permit) },
            Err(_) => Room { bytes: SMALL_CHUNK_BYTES as usize, _permit: None },
        }
    }
}

/// Room for a chunk in memory.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) bytes: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Returns bytes that take this room until they are dropped.
    pub(super) fn hold(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _room: self })
    }
}

struct Held {
    bytes: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A value that is dropped on a thread for blocking work: to close the last descriptor of a large
/// file without a name is to free its blocks.
#[derive(Debug)]
pub(super) struct Elsewhere<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Elsewhere<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    pub(super) fn into_inner(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send + 'static> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        if let (Some(value), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_small_when_the_memory_is_used_up_and_large_when_it_is_free_again() {
        let work = Work::default();
        let mut held: Vec<Bytes> = Vec::new();
        loop {
            let room = work.room();
            if room.bytes == SMALL_CHUNK_BYTES as usize {
                break;
            }
            held.push(room.hold(vec![1]));
        }
        assert_eq!(held.len(), LARGE_CHUNKS_BYTES_MAX / CHUNK_BYTES as usize);
        held.pop();
        assert_eq!(work.room().bytes, CHUNK_BYTES as usize);
    }
}
