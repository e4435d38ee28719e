use std::time::SystemTime;

use crate::{Timestamp, UserId};

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
