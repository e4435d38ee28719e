//! How far a long operation has come, and how its caller ends it.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// How many bytes pass between two calls of the callback: a fraction of a second of work.
const BYTES_BETWEEN: u64 = 1 << 20;
/// How many steps of the engine's virtual machine pass between two calls of the callback.
pub(crate) const STEPS_BETWEEN: i32 = 100_000;

/// How far a long operation has come. Counters that the operation doesn't have stay 0.
///
/// The callback runs on the thread that does the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Users whose rows were compared with their directories, users in the trash included; or users
    /// who were changed, or passed over, by an operation on many.
    pub users: u64,
    /// Entries of `storage/` and `trash/` that were compared with the rows.
    pub entries: u64,
    /// Files that were read or written.
    pub files: u64,
    /// The sum of the lengths of these files.
    pub bytes: u64,
}

/// The return value of a progress callback: nothing, or a [`ControlFlow`] that may end the
/// operation.
pub trait ProgressReply {
    /// Whether the callback can end the operation. If so, it is also called while the counters stay
    /// the same.
    const CAN_END: bool;

    /// Returns whether the operation continues.
    fn flow(self) -> ControlFlow<()>;
}

impl ProgressReply for () {
    const CAN_END: bool = false;

    fn flow(self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl ProgressReply for ControlFlow<()> {
    const CAN_END: bool = true;

    fn flow(self) -> ControlFlow<()> {
        self
    }
}

/// The caller's callback, with its latest counters. It is called in the middle of a large file,
/// too, and while input is waited for.
#[derive(Clone)]
pub(crate) struct Monitor(Arc<Mutex<State>>);

struct State {
    callback: Box<dyn Fn(Progress) -> ControlFlow<()> + Send>,
    can_end: bool,
    progress: Progress,
    /// Set once the callback has returned `Break`. Everything fails from then on.
    is_ended: bool,
}

impl Monitor {
    pub(crate) fn new<R: ProgressReply>(callback: impl Fn(Progress) -> R + Send + 'static) -> Self {
        let callback = Box::new(move |progress| callback(progress).flow());
        let (can_end, progress) = (R::CAN_END, Progress::default());
        Self(Arc::new(Mutex::new(State { callback, can_end, progress, is_ended: false })))
    }

    /// Returns a monitor for a caller without a callback.
    pub(crate) fn silent() -> Self {
        Self::new(|_| {})
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports new counters. Fails with `Cancelled` if the caller has ended the operation.
    pub(crate) fn report(&self, progress: Progress) -> Result<()> {
        let is_ended = {
            let mut state = self.state();
            state.progress = progress;
            state.is_ended |= (state.callback)(progress).is_break();
            state.is_ended
        };
        if is_ended { Err(cancelled()) } else { Ok(()) }
    }

    /// Fails with `Cancelled` if the caller has ended the operation.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_ended() { Err(cancelled()) } else { Ok(()) }
    }

    /// Asks the caller again and returns whether the operation has been ended.
    pub(crate) fn is_ended(&self) -> bool {
        let mut state = self.state();
        if state.can_end && !state.is_ended {
            state.is_ended = (state.callback)(state.progress).is_break();
        }
        state.is_ended
    }

    /// Turns a failure after the caller ended the operation into `Cancelled`, which is its cause.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        let is_ended = self.state().is_ended;
        result.map_err(|error| if is_ended { cancelled() } else { error })
    }

    /// Returns a reader that fails once the caller has ended the operation.
    pub(crate) fn reader<R: Read>(&self, input: R) -> MonitoredReader<R> {
        MonitoredReader { input, monitor: self.clone(), bytes: 0 }
    }
}

/// A reader that fails once the caller has ended the operation.
pub(crate) struct MonitoredReader<R> {
    pub(crate) input: R,
    pub(crate) monitor: Monitor,
    /// Bytes since the callback was called.
    bytes: u64,
}

impl<R: Read> Read for MonitoredReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes >= BYTES_BETWEEN {
            self.bytes = 0;
            self.monitor.check().map_err(io::Error::other)?;
        }
        let count = self.input.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the caller has ended the operation")
}
