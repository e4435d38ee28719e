use std::time::SystemTime;

use crate::{Timestamp, UserId};

/// Where a store gets the time and new ids from: the one place through which either comes in.
///
/// A program never needs to say anything about it; a test hands its own to
/// [`Builder::ambient`](crate::Builder::ambient) and so decides what time it is. The store calls it
/// on its writer thread and, for listings by age, on the callers' threads.
pub trait Ambient: Send + Sync {
    /// The time now. It may jump in either direction: the store only relies on it for what it
    /// shows.
    fn now(&self) -> Timestamp;

    /// An id that nobody can guess and that was never returned before.
    fn new_id(&self) -> UserId;
}

/// The clock and the randomness of the operating system.
pub(crate) struct SystemAmbient;

#[allow(clippy::disallowed_methods, reason = "this is the one place that they are kept out of the others for")]
impl Ambient for SystemAmbient {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn new_id(&self) -> UserId {
        UserId::from_random(uuid::Uuid::new_v4())
    }
}
