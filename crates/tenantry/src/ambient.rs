use std::time::SystemTime;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Error, ErrorKind, Result, Timestamp, UserId};

/// The source of the time and of new ids.
///
/// A program needn't choose one; a test passes its own to
/// [`Builder::ambient`](crate::Builder::ambient) and so sets the time. The store calls it on its
/// writer thread and, for listings by age, on the callers' threads.
pub trait Ambient: Send + Sync {
    /// Returns the current time. It may jump in either direction: the store only shows it.
    fn now(&self) -> Timestamp;

    /// Returns an id that can't be guessed and was never returned before.
    fn new_id(&self) -> UserId;

    /// 32 bytes that nobody can guess, for the secret of a token. From the operating system unless
    /// a test has its own.
    ///
    /// # Errors
    ///
    /// `Io` if the operating system has none.
    fn random(&self) -> Result<[u8; 32]> {
        let mut bytes = [0; 32];
        // Up to 256 bytes come whole (<https://man7.org/linux/man-pages/man2/getrandom.2.html>).
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(length) if length == bytes.len() => Ok(bytes),
            Ok(_) => Err(Error::new(ErrorKind::Io, "the system returned too few random bytes")),
            Err(error) => {
                Err(Error::new(ErrorKind::Io, "the system has no random bytes").with_source(error))
            }
        }
    }
}

/// The clock and the randomness of the operating system.
pub(crate) struct SystemAmbient;

#[allow(clippy::disallowed_methods, reason = "this is the one source of time and randomness")]
impl Ambient for SystemAmbient {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn new_id(&self) -> UserId {
        UserId::from_random(uuid::Uuid::new_v4())
    }
}
