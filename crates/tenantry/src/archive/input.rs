//! Reading an archive from a file or a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::progress::{Monitor, MonitoredReader};

/// How long to wait for input before the callback is called again. A person takes that for at once.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Standard input. If it is a socket, it can't be opened by this name.
const STDIN: &str = "/dev/stdin";

/// An archive that is read. It may come from a pipe that stays empty for hours.
pub(super) struct Input {
    file: MonitoredReader<File>,
    /// Whether reading may block.
    is_slow: bool,
}

impl Input {
    /// Opens a file, and a named pipe without waiting for a writer.
    pub(super) fn open(path: &Path, monitor: &Monitor) -> io::Result<Self> {
        let non_blocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(non_blocking).open(path) {
            Err(error)
                if error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
                    && path == Path::new(STDIN) =>
            {
                File::from(io::stdin().as_fd().try_clone_to_owned()?)
            }
            file => file?,
        };
        let kind = file.metadata()?.file_type();
        Ok(Self { file: monitor.reader(file), is_slow: !kind.is_file() && !kind.is_dir() })
    }

    /// Waits until input can be read, or reading fails.
    fn wait(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(&self.file.input, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => self.file.monitor.check().map_err(io::Error::other)?,
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
