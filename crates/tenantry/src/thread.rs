//! Long operations on threads of their own.

use futures_channel::oneshot;

use crate::{Error, ErrorKind, Result};

/// Runs a long operation on a thread of its own. It goes on if the future is dropped.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let failed = |message| Error::new(ErrorKind::Internal, message);
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("tenantry-files".to_owned())
        .spawn(move || {
            // Fails if the caller has dropped the future.
            let _ = sender.send(work());
        })
        .map_err(|error| {
            Error::new(ErrorKind::Io, "a thread can't be started").with_source(error)
        })?;
    result.await.map_err(|_| failed("a panic on the thread that works on files"))
}
