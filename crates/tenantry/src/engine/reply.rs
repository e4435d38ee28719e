//! The way of a result back to its caller.

use std::panic::resume_unwind;
use std::thread;

use futures_channel::oneshot;

use crate::{Error, ErrorKind, Result};

/// The outcome of a run: a result, or a panic, which reaches the caller.
type Run<T, E> = thread::Result<Result<T, E>>;

/// How the run of a job ended, whatever the type of its result.
#[derive(Debug)]
pub(crate) enum Ran {
    Done,
    /// The job depends on what follows this transaction, and has to run again after that.
    Later,
    /// The job failed, with this error or with one of the caller's own.
    Failed(Option<Error>),
    /// Something in it failed that the transaction may not survive, whatever the job made of that.
    Broken(Error),
}

/// Keeps the result of a job until its transaction has ended, and then sends it to the caller.
pub(crate) struct Reply<T, E = Error> {
    run: Option<Run<T, E>>,
    sender: oneshot::Sender<Run<T, E>>,
}

/// The caller's end.
pub(crate) struct Awaited<T, E = Error>(oneshot::Receiver<Run<T, E>>);

/// Returns both ends of the way back.
pub(crate) fn reply<T, E>() -> (Reply<T, E>, Awaited<T, E>) {
    let (sender, receiver) = oneshot::channel();
    (Reply { run: None, sender }, Awaited(receiver))
}

impl<T, E: From<Error>> Reply<T, E> {
    pub(crate) fn keep(&mut self, run: Run<T, E>) {
        self.run = Some(run);
    }

    /// Forgets the result of a run that was undone.
    pub(crate) fn forget(&mut self) {
        self.run = None;
    }

    /// Sends the result if the transaction was committed, and even if not if the job failed with
    /// nothing else in the transaction (`ran_alone`). Otherwise sends the error: in a group, a job
    /// doesn't know better than the transaction, since the address that it found taken may be
    /// undone as well.
    pub(crate) fn send(self, committed: Result<()>, ran_alone: bool) {
        let run = match (self.run, committed) {
            (Some(Err(panic)), _) => Err(panic),
            (Some(Ok(result)), Ok(())) => Ok(result),
            (Some(Ok(Err(error))), Err(_)) if ran_alone => Ok(Err(error)),
            (_, Err(error)) => Ok(Err(error.into())),
            (None, Ok(())) => Ok(Err(cut_off().into())),
        };
        // A caller that no longer waits needs no result.
        let _ = self.sender.send(run);
    }
}

impl<T, E: From<Error>> Awaited<T, E> {
    /// Waits for the result. Resumes a panic of the job.
    pub(crate) async fn result(self) -> Result<T, E> {
        match self.0.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(cut_off().into()),
        }
    }
}

/// Returns the error of a write whose thread panicked.
pub(crate) fn cut_off() -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        "the write was cut off by a panic: look whether it happened",
    )
}
