//! What a caller is told of an archive while it is made or read, and how the caller ends that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

/// After how many octets the caller is asked again: a fraction of a second of work.
const OCTETS_BETWEEN: u64 = 1 << 20;
/// How long input is waited for until the caller is asked again: what a person takes for at once.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// After how many steps of SQLite's virtual machine the caller is asked again.
pub(super) const STEPS_BETWEEN: i32 = 100_000;
/// Where standard input is, which can't be opened by that name if it is a socket.
const STDIN: &str = "/dev/stdin";

/// What a callback for progress may return: nothing, or a [`ControlFlow`] that says whether to go on.
pub trait Reply {
    /// Whether it can end anything. If it can, the callback is called also while the figures stay the same.
    const CAN_END: bool;

    /// Returns whether to go on.
    fn flow(self) -> ControlFlow<()>;
}

impl Reply for () {
    const CAN_END: bool = false;

    fn flow(self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Reply for ControlFlow<()> {
    const CAN_END: bool = true;

    fn flow(self) -> ControlFlow<()> {
        self
    }
}

/// The caller's callback, asked again and again: also within a large file, and while input is waited for.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

struct State {
    progress: Box<dyn Fn(u64, u64) -> ControlFlow<()> + Send>,
    can_end: bool,
    files: u64,
    bytes: u64,
    /// Once the caller wants no more, everything fails.
    is_stopped: bool,
}

impl Watch {
    pub(super) fn new<R: Reply>(progress: impl Fn(u64, u64) -> R + Send + 'static) -> Self {
        let progress = Box::new(move |files, bytes| progress(files, bytes).flow());
        Self(Arc::new(Mutex::new(State { progress, can_end: R::CAN_END, files: 0, bytes: 0, is_stopped: false })))
    }

    /// For callers who aren't told anything.
    pub(super) fn silent() -> Self {
        Self::new(|_, _| {})
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports how much is done, and fails if the caller wants no more.
    pub(super) fn report(&self, files: u64, bytes: u64) -> Result<()> {
        let is_stopped = {
            let mut state = self.state();
            (state.files, state.bytes) = (files, bytes);
            state.is_stopped |= (state.progress)(files, bytes).is_break();
            state.is_stopped
        };
        if is_stopped { Err(stopped()) } else { Ok(()) }
    }

    /// Fails if the caller wants no more.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }

    /// Asks the caller.
    pub(super) fn is_stopped(&self) -> bool {
        let mut state = self.state();
        if state.can_end && !state.is_stopped {
            state.is_stopped = (state.progress)(state.files, state.bytes).is_break();
        }
        state.is_stopped
    }

    /// Says of what failed after the caller wanted no more that this is why.
    pub(super) fn ended<T>(&self, result: Result<T>) -> Result<T> {
        let is_stopped = self.state().is_stopped;
        result.map_err(|error| if is_stopped { stopped() } else { error })
    }

    /// Passes octets on until the caller wants no more.
    pub(super) fn over<R: Read>(&self, input: R) -> Watched<R> {
        Watched { input, watch: self.clone(), octets: 0 }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "the caller has ended the operation")
}

pub(super) struct Watched<R> {
    input: R,
    watch: Watch,
    /// Since the caller was asked.
    octets: u64,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.octets >= OCTETS_BETWEEN {
            self.octets = 0;
            self.watch.go_on().map_err(io::Error::other)?;
        }
        let count = self.input.read(buffer)?;
        self.octets += count as u64;
        Ok(count)
    }
}

/// An archive that is read. It may be a pipe into which nothing is written for hours.
pub(super) struct Input {
    file: Watched<File>,
    /// Whether it has to be waited for.
    is_slow: bool,
}

impl Input {
    /// Doesn't wait for whoever writes into a named pipe: that comes with reading.
    pub(super) fn open(path: &Path, watch: &Watch) -> io::Result<Self> {
        let non_blocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(non_blocking).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && path == Path::new(STDIN) => {
                File::from(io::stdin().as_fd().try_clone_to_owned()?)
            }
            file => file?,
        };
        let kind = file.metadata()?.file_type();
        Ok(Self { file: watch.over(file), is_slow: !kind.is_file() && !kind.is_dir() })
    }

    /// Waits until there is something to read, or reading can only fail.
    fn wait(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(&self.file.input, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => self.file.watch.go_on().map_err(io::Error::other)?,
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_slow {
                self.wait()?;
            }
            match self.file.read(buffer) {
                // Another reader of the same pipe was faster.
                Err(error) if self.is_slow && error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}
