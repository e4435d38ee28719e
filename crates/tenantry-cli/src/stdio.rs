//! Standard output and standard error, through which the command prints everything.
//!
//! A failure to write a message is ignored: standard error may be full or closed, and the command
//! still does its work. A failure to write output is an error, because the caller wants the output.
//! The macros of the standard library panic in both cases, so `clippy.toml` bans them.

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
macro_rules! report {
    ($($argument:tt)*) => { $crate::stdio::report_line(::std::format_args!($($argument)*)) };
}
pub(crate) use report;

/// Writes a line to standard error in one call, so that lines of several processes don't mix.
pub(crate) fn report_line(line: fmt::Arguments<'_>) {
    let _ = anstream::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes a question to standard error, and flushes it.
pub(crate) fn ask(question: &str) -> io::Result<()> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()
}

/// Opens standard output, and strips colours if they aren't wanted there.
///
/// Each write reports the error of the system call. The handle of the standard library reports
/// success on a descriptor that isn't open for writing, and holds the last line back until the
/// process ends.
pub(crate) fn stdout() -> Result<AutoStream<File>, Failure> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    descriptor
        .map(|descriptor| AutoStream::auto(File::from(descriptor)))
        .map_err(|error| failure(&error))
}

/// Writes a text to standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    stdout()?.write_all(text.as_ref()).map_err(|error| failure(&error))
}

/// Converts a failure to write to standard output.
pub(crate) fn failure(error: &io::Error) -> Failure {
    Failure::io("standard output", error)
}

/// Standard error for the log. Every write succeeds, since the subscriber would report a failure on
/// standard error, and panic.
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

/// Returns the path of a file that is read once and sequentially. `-` is standard input.
pub(crate) fn input(named: &Path) -> &Path {
    if named == Path::new("-") { Path::new("/dev/stdin") } else { named }
}

/// Refuses a stream that can be read only once: standard input, a pipe, a socket or a device.
pub(crate) fn refuse_stream(named: &Path, what_is: &str) -> Result<(), Failure> {
    let is_stream = |metadata: Metadata| !metadata.is_file() && !metadata.is_dir();
    if named == Path::new("-") || fs::metadata(named).is_ok_and(is_stream) {
        let message = format!(
            "{what_is} read twice: name a file instead of {}",
            printable(&named.to_string_lossy())
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(())
}

/// How many bytes a ready pipe accepts without blocking (PIPE_BUF of Linux).
const READY_BYTES: usize = 4096;

/// A file whose writes may block, such as a pipe without a reader.
///
/// A signal interrupts a blocked write. A non-blocking file is waited for.
pub(crate) struct InterruptibleFile {
    file: File,
    /// Whether the file is a regular one, which is always ready.
    is_regular: bool,
}

impl InterruptibleFile {
    pub(crate) fn new(file: File) -> Self {
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self { file, is_regular }
    }

    /// Waits until a write doesn't block.
    fn wait(&self) -> io::Result<()> {
        let tick = Timespec::try_from(interrupt::TICK).ok();
        loop {
            if interrupt::code().is_some() {
                return Err(interrupt::interrupted());
            }
            match rustix::event::poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], tick.as_ref())
            {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for InterruptibleFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_regular {
            return self.file.write(bytes);
        }
        loop {
            self.wait()?;
            match self.file.write(&bytes[..bytes.len().min(READY_BYTES)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
