//! How much a user's files may take.
//!
//! The limit is compared with what was measured and adjusted since, and with what uploads of this
//! process are about to add. A user who was never measured is measured once. So if files come and
//! go through one process of the service alone, the limit is exact. What other programs write
//! counts when the user is next measured, and several processes may together exceed the limit by
//! what is on its way in them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use tenantry::{Store, UserId};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::problem::{Problem, Type};

/// How much more is reserved at a time for an upload of unknown length.
const STEP_BYTES: u64 = 1 << 20;
/// The number of locks that all users share: more than the threads that do file work.
const LOCKS: usize = 64;

/// What uploads are about to add to each user's files.
#[derive(Debug)]
pub(super) struct Quotas {
    reserved: Mutex<HashMap<UserId, u64>>,
    /// Shared by changes of a user's files, from the change until it is counted; exclusive for a
    /// check, so that it counts each change once.
    locks: [RwLock<()>; LOCKS],
    hasher: RandomState,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            reserved: Mutex::default(),
            locks: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::default(),
        }
    }
}

impl Quotas {
    /// Keeps checks of a user's limit away until the guard is dropped.
    pub(super) async fn changing(&self, id: UserId) -> RwLockReadGuard<'_, ()> {
        self.lock(id).read().await
    }

    fn lock(&self, id: UserId) -> &RwLock<()> {
        // Smaller than their number, so it fits.
        &self.locks[(self.hasher.hash_one(id) % LOCKS as u64) as usize]
    }

    /// Changes what is reserved for a user, and returns the sum.
    fn change(&self, id: UserId, change: impl FnOnce(u64) -> u64) -> u64 {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = change(reserved.get(&id).copied().unwrap_or_default());
        match sum {
            0 => reserved.remove(&id),
            _ => reserved.insert(id, sum),
        };
        sum
    }
}

/// What one upload is about to add to a user's files.
#[derive(Debug)]
pub(super) struct Reservation {
    quotas: Arc<Quotas>,
    store: Store,
    id: UserId,
    limit: u64,
    /// The length of the file that the upload replaces.
    replaced: u64,
    /// The length of the upload, as far as it is known.
    length: u64,
    bytes: u64,
}

impl Reservation {
    pub(super) fn new(
        quotas: &Arc<Quotas>,
        store: &Store,
        id: UserId,
        limit: u64,
        replaced: u64,
    ) -> Self {
        let (quotas, store) = (Arc::clone(quotas), store.clone());
        Self { quotas, store, id, limit, replaced, length: 0, bytes: 0 }
    }

    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Reserves what is missing if the upload replaces a file of another length than it began with.
    ///
    /// # Errors
    ///
    /// As [`Reservation::grow`].
    pub(super) async fn replace(&mut self, replaced: u64) -> Result<(), Problem> {
        self.replaced = replaced;
        self.grow(self.length, true).await
    }

    /// Reserves room for a file of this length, which it may exceed later unless that is final.
    ///
    /// # Errors
    ///
    /// `UserFull` if the user's files would exceed the limit, and those of the store.
    pub(super) async fn grow(&mut self, length: u64, is_final: bool) -> Result<(), Problem> {
        self.length = self.length.max(length);
        let needed = length.saturating_sub(self.replaced);
        if needed <= self.bytes {
            return Ok(());
        }
        let ahead = needed.saturating_add(STEP_BYTES);
        if !is_final && self.reserve(ahead).await? || self.reserve(needed).await? {
            return Ok(());
        }
        let detail = format!("the user's files would take more than {} bytes", self.limit);
        Err(Problem::new(Type::UserFull, detail))
    }

    async fn reserve(&mut self, bytes: u64) -> Result<bool, Problem> {
        let more = bytes.saturating_sub(self.bytes);
        let _lock = self.quotas.lock(self.id).write().await;
        let used = match self.store.usage(self.id).await? {
            Some(usage) => usage,
            None => self.store.measure_usage(self.id, |_| {}).await?,
        };
        let fits = |sum: u64| used.apparent_bytes.saturating_add(sum) <= self.limit;
        let mut is_reserved = false;
        self.quotas.change(self.id, |sum| {
            let wanted = sum.saturating_add(more);
            is_reserved = fits(wanted);
            if is_reserved { wanted } else { sum }
        });
        if is_reserved {
            self.bytes += more;
        }
        Ok(is_reserved)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quotas.change(self.id, |sum| sum.saturating_sub(self.bytes));
    }
}
