//! The signals that end a command: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was closed).
//!
//! Each ends the command with 128 plus its number, as shells report it. Most commands end at once,
//! because the data on the disk is consistent at any time. A command that has to clean up or to
//! report [listens](Interrupt::listen): the first signal requests a stop at a safe point, and the
//! second one ends the process at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::unregister;
use signal_hook::{SigId, flag};

use crate::failure::{Exit, Failure};

/// The offset that shells add to the number of the signal that ended a process.
const CODE_BASE: i32 = 128;

static SIGNALS: OnceLock<Signals> = OnceLock::new();

struct Signals {
    /// Whether the next signal ends the process within its handler.
    ends_at_once: Arc<AtomicBool>,
    /// The number of the last signal, or 0.
    caught: Arc<AtomicUsize>,
    /// How many listeners there are.
    listening: Mutex<usize>,
    /// The handlers of SIGHUP.
    hangup: Mutex<Vec<SigId>>,
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
        hangup: Mutex::default(),
    })
}

/// Installs the handlers, so that each signal ends the process with its code. SIGXFSZ is ignored: a
/// file over the limit of `ulimit -f` is a failed write, as on a full disk, and doesn't kill the
/// process.
pub(crate) fn install() -> Result<(), Failure> {
    let signals = signals();
    flag::register(SIGXFSZ, Arc::default())
        .map_err(|error| Failure::io("listening for signals", &error))?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup` starts a program with SIGHUP ignored.
        if signal == SIGHUP && is_ignored(signal) {
            continue;
        }
        let number = usize::try_from(signal).unwrap_or_default();
        let handlers = handlers(signals, signal, number)
            .map_err(|error| Failure::io("listening for signals", &error))?;
        if signal == SIGHUP {
            signals.hangup.lock().unwrap_or_else(PoisonError::into_inner).extend(handlers);
        }
    }
    Ok(())
}

fn handlers(signals: &Signals, signal: i32, number: usize) -> io::Result<[SigId; 3]> {
    // In this order, so that the second signal ends a command that listens.
    Ok([
        flag::register_usize(signal, Arc::clone(&signals.caught), number)?,
        flag::register_conditional_shutdown(
            signal,
            CODE_BASE + signal,
            Arc::clone(&signals.ends_at_once),
        )?,
        flag::register(signal, Arc::clone(&signals.ends_at_once))?,
    ])
}

/// Gives SIGHUP another meaning than the end: nothing of it happens from now on.
pub(crate) fn release_hangup() {
    for handler in signals().hangup.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        unregister(handler);
    }
}

/// Returns whether the process was started with the signal ignored. Without /proc it returns
/// `false`.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask =
        ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal - 1) & 1 == 1
}

/// Returns the exit code of the signal that requested a stop.
pub(crate) fn code() -> Option<u8> {
    match signals().caught.load(Ordering::Relaxed) {
        0 => None,
        number => u8::try_from(number).ok()?.checked_add(CODE_BASE as u8),
    }
}

/// A listener. While one exists, the first signal is only recorded.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<Listener>);

struct Listener(&'static Signals);

impl Interrupt {
    pub(crate) fn listen() -> Self {
        let signals = signals();
        let mut listening = signals.listening();
        *listening += 1;
        // After a first signal, the next one must still end the process.
        if *listening == 1 && signals.caught.load(Ordering::Relaxed) == 0 {
            signals.ends_at_once.store(false, Ordering::Relaxed);
        }
        Self(Arc::new(Listener(signals)))
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.0.caught.load(Ordering::Relaxed) != 0
    }

    /// Forgets the signal after the command did what it requests. A further one still ends the
    /// process at once.
    pub(crate) fn heed(&self) {
        self.0.0.caught.store(0, Ordering::Relaxed);
    }

    /// Fails if a signal requested a stop.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_requested() {
            Err(Failure::new(Exit::Interrupted, "interrupted"))
        } else {
            Ok(())
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listening = self.0.listening();
        *listening -= 1;
        if *listening == 0 {
            self.0.ends_at_once.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns the error of input or output that a signal interrupted.
pub(crate) fn interrupted() -> io::Error {
    io::Error::other("interrupted")
}

/// How often a thread that waits for something else checks for a signal.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Runs work that may block, such as opening a named pipe, until a signal interrupts the wait.
pub(crate) fn until_signal<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = channel();
    // After a signal the thread ends with the process.
    thread::Builder::new().name("tenantry-open".to_owned()).spawn(move || sender.send(work()))?;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) if code().is_some() => return Err(interrupted()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("a thread ended early"));
            }
        }
    }
}
