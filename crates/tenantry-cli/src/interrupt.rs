//! The signals that end a command: Ctrl-C (SIGINT), the polite end (SIGTERM), a terminal that went
//! away (SIGHUP).
//!
//! Each ends the command with 128 and its number, as shells report it. Most commands end at once,
//! because what is on the disk is whole at every moment. One that has something to clear away or to
//! report [listens](Interrupt::listen): the first signal asks it to stop where that is safe, and
//! the second ends it at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::failure::{Exit, Failure};

/// What shells add to the number of the signal that ended a process.
const CODE_BASE: i32 = 128;

static SIGNALS: OnceLock<Signals> = OnceLock::new();

struct Signals {
    /// Whether the next signal ends the process within its handler.
    ends_at_once: Arc<AtomicBool>,
    /// The number of the signal that was caught last, or 0.
    caught: Arc<AtomicUsize>,
    /// How many parts of the command listen.
    listening: Mutex<usize>,
}

impl Signals {
    fn listening(&self) -> MutexGuard<'_, usize> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signals() -> &'static Signals {
    SIGNALS.get_or_init(|| Signals {
        ends_at_once: Arc::new(AtomicBool::new(true)),
        caught: Arc::new(AtomicUsize::new(0)),
        listening: Mutex::new(0),
    })
}

/// Sees to it that each signal ends the process with its code. A file that becomes larger than the
/// process may make one (`ulimit -f`) is a failure to write, as a full disk is: by itself SIGXFSZ
/// would end the process in the middle.
pub(crate) fn install() -> Result<(), Failure> {
    let signals = signals();
    flag::register(SIGXFSZ, Arc::default()).map_err(|error| Failure::io("listening for signals", &error))?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup` ignores it for the program that it starts.
        if signal == SIGHUP && is_ignored(signal) {
            continue;
        }
        let number = usize::try_from(signal).unwrap_or_default();
        // In this order, so that it is the second signal which ends a command that listens.
        flag::register_usize(signal, Arc::clone(&signals.caught), number)
            .and_then(|_| {
                flag::register_conditional_shutdown(signal, CODE_BASE + signal, Arc::clone(&signals.ends_at_once))
            })
            .and_then(|_| flag::register(signal, Arc::clone(&signals.ends_at_once)))
            .map_err(|error| Failure::io("listening for signals", &error))?;
    }
    Ok(())
}

/// Returns whether the process was started with the signal ignored. A process that can't tell takes
/// it for not ignored.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal - 1) & 1 == 1
}

/// Returns the exit code that belongs to the signal which a command was asked to stop by.
pub(crate) fn code() -> Option<u8> {
    match signals().caught.load(Ordering::Relaxed) {
        0 => None,
        number => u8::try_from(number).ok()?.checked_add(CODE_BASE as u8),
    }
}

/// A command that listens: as long as there is one of it, the first signal is only noted.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<Listening>);

struct Listening(&'static Signals);

impl Interrupt {
    pub(crate) fn listen() -> Self {
        let signals = signals();
        let mut listening = signals.listening();
        *listening += 1;
        // A second signal still ends what had begun to listen before the first.
        if *listening == 1 && signals.caught.load(Ordering::Relaxed) == 0 {
            signals.ends_at_once.store(false, Ordering::Relaxed);
        }
        Self(Arc::new(Listening(signals)))
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.0.caught.load(Ordering::Relaxed) != 0
    }

    /// Fails if the command was asked to stop.
    pub(crate) fn go_on(&self) -> Result<(), Failure> {
        if self.is_requested() { Err(Failure::new(Exit::Interrupted, "interrupted")) } else { Ok(()) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listening = self.0.listening();
        *listening -= 1;
        if *listening == 0 {
            self.0.ends_at_once.store(true, Ordering::Relaxed);
        }
    }
}

/// The failure of input or output that was given up because of a signal.
pub(crate) fn stopped() -> io::Error {
    io::Error::other("interrupted")
}

/// How often whoever waits for something else asks for a signal.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Does what may wait for somebody else, such as opening a named pipe, until a signal ends the
/// waiting.
pub(crate) fn unless_stopped<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = channel();
    // It goes with the process if nobody waits for it any more.
    thread::Builder::new().name("tenantry-open".to_owned()).spawn(move || sender.send(work()))?;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) if code().is_some() => return Err(stopped()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("a thread ended early")),
        }
    }
}
