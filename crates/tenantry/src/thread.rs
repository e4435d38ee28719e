//! Work that takes long, away from the callers' threads.

use futures_channel::oneshot;

use crate::{Error, ErrorKind, Result};

/// Runs what takes long on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let failed = |message| Error::new(ErrorKind::Internal, message);
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new()
        .name("tenantry-files".to_owned())
        .spawn(move || {
            // Whoever no longer waits doesn't want to know.
            let _ = answer.send(work());
        })
        .map_err(|error| Error::new(ErrorKind::Io, "a thread can't be started").with_source(error))?;
    answered.await.map_err(|_| failed("a panic on the thread that works on files"))
}
