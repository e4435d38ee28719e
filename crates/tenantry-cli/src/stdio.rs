//! Standard output and standard error. All that the command prints passes through here.
//!
//! A message that can't be written changes nothing: standard error may be full or closed, and what
//! was asked for is done all the same. Output that can't be written is a failure, because somebody
//! asked for it. The macros of the standard library panic in both cases, so `clippy.toml` bans
//! them.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anstream::AutoStream;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tenantry_exchange::printable;

use crate::failure::{Exit, Failure};
use crate::interrupt;

/// Writes a line to standard error, formatted as by `format!`.
macro_rules! tell {
    ($($argument:tt)*) => { $crate::stdio::tell_line(::std::format_args!($($argument)*)) };
}
pub(crate) use tell;

/// Writes a line to standard error, as one piece, so that lines of several processes don't mix.
pub(crate) fn tell_line(line: fmt::Arguments<'_>) {
    let _ = anstream::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes a question to standard error, which has to be seen before it can be answered.
pub(crate) fn ask(question: &str) -> io::Result<()> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()
}

/// Opens standard output, without colours if they aren't wanted there.
///
/// Each write fails as the system's call fails: the standard library's own handle takes a
/// descriptor that isn't open for writing for a successful write, and keeps the last line until the
/// process ends.
pub(crate) fn stdout() -> Result<AutoStream<File>, Failure> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    descriptor.map(|descriptor| AutoStream::auto(File::from(descriptor))).map_err(|error| failure(&error))
}

/// Writes a text to standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    stdout()?.write_all(text.as_ref()).map_err(|error| failure(&error))
}

/// The failure to write to standard output.
pub(crate) fn failure(error: &io::Error) -> Failure {
    Failure::io("standard output", error)
}

/// Standard error for the log, whose every write succeeds: the subscriber would report a failure
/// where it failed, and panic.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the path of a file to read once, from its beginning to its end: `-` is standard input.
pub(crate) fn input(named: &Path) -> &Path {
    if named == Path::new("-") { Path::new("/dev/stdin") } else { named }
}

/// Refuses to read something twice that can be read only once: standard input, a pipe, a socket, a
/// device.
pub(crate) fn refuse_stream(named: &Path, what_is: &str) -> Result<(), Failure> {
    let is_stream = |metadata: Metadata| !metadata.is_file() && !metadata.is_dir();
    if named == Path::new("-") || fs::metadata(named).is_ok_and(is_stream) {
        let message = format!("{what_is} read twice: name a file instead of {}", printable(&named.to_string_lossy()));
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(())
}

/// How many octets a pipe takes without delay once it is ready (PIPE_BUF of Linux).
const READY_OCTETS: usize = 4096;

/// A file that may make its writer wait, such as a pipe that nobody reads. A signal that a command
/// listens for ends the wait, and one that was set to be non-blocking is waited for.
pub(crate) struct Patient {
    file: File,
    /// Whether it is a regular file, which is always ready.
    is_regular: bool,
}

impl Patient {
    pub(crate) fn new(file: File) -> Self {
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self { file, is_regular }
    }

    /// Waits until something can be written, or writing can only fail.
    fn wait(&self) -> io::Result<()> {
        let tick = Timespec::try_from(interrupt::TICK).ok();
        loop {
            if interrupt::code().is_some() {
                return Err(interrupt::stopped());
            }
            match rustix::event::poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], tick.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_regular {
            return self.file.write(bytes);
        }
        loop {
            self.wait()?;
            match self.file.write(&bytes[..bytes.len().min(READY_OCTETS)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
