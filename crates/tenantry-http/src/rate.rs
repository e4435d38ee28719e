//! How many requests a token may make: the generic cell rate algorithm (ITU-T I.371), which keeps
//! one number for each token and needs no lock to change it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How many tokens are kept that made requests lately. Each takes about 50 bytes.
const TOKENS_MAX: usize = 16_384;
const NANOS: u64 = 1_000_000_000;

pub(crate) struct RateLimit {
    /// How long a request counts, in nanoseconds; 0 without a limit.
    interval: u64,
    began: Instant,
    /// When the requests of a token so far will have been paid for, in nanoseconds after `began`.
    paid_at: RwLock<HashMap<i64, AtomicU64>>,
}

impl RateLimit {
    /// Allows so many requests of a token in any second; any number if it is 0.
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = NANOS.checked_div(per_second.into()).unwrap_or(0);
        Self { interval, began: Instant::now(), paid_at: RwLock::default() }
    }

    /// Counts a request of a token. Otherwise returns after how many whole seconds the next one is
    /// allowed.
    pub(crate) fn take(&self, token: i64) -> Result<(), u64> {
        self.take_at(token, self.began.elapsed())
    }

    fn take_at(&self, token: i64, now: Duration) -> Result<(), u64> {
        if self.interval == 0 {
            return Ok(());
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        if let Some(paid_at) =
            self.paid_at.read().unwrap_or_else(PoisonError::into_inner).get(&token)
        {
            return self.pay(paid_at, now);
        }
        let mut tokens = self.paid_at.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, paid_at| *paid_at.get_mut() > now);
        }
        self.pay(tokens.entry(token).or_default(), now)
    }

    /// A token may be ahead of what is paid for by a second.
    fn pay(&self, paid_at: &AtomicU64, now: u64) -> Result<(), u64> {
        let update = |paid_at: u64| {
            let next = paid_at.max(now).saturating_add(self.interval);
            (next <= now.saturating_add(NANOS)).then_some(next)
        };
        match paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(_) => Ok(()),
            Err(paid_at) => Err((paid_at.saturating_add(self.interval))
                .saturating_sub(now + NANOS)
                .div_ceil(NANOS)
                .max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_token_makes_so_many_requests_in_a_second_and_then_has_to_wait() {
        let limit = RateLimit::new(10);
        for _ in 0..10 {
            assert_eq!(limit.take_at(1, at(0)), Ok(()));
        }
        assert_eq!(limit.take_at(1, at(0)), Err(1));
        assert_eq!(limit.take_at(1, at(99)), Err(1));
        // Another one isn't concerned.
        assert_eq!(limit.take_at(2, at(0)), Ok(()));
        // Every tenth of a second pays for one more.
        assert_eq!(limit.take_at(1, at(100)), Ok(()));
        assert_eq!(limit.take_at(1, at(100)), Err(1));
        for _ in 0..10 {
            assert_eq!(limit.take_at(1, at(5_000)), Ok(()));
        }
        assert_eq!(limit.take_at(1, at(5_000)), Err(1));
    }

    #[test]
    fn without_a_limit_any_number_is_allowed() {
        let limit = RateLimit::new(0);
        assert!((0..100_000).all(|_| limit.take_at(1, at(0)).is_ok()));
    }

    #[test]
    fn tokens_that_rest_are_forgotten_when_there_are_many() {
        let limit = RateLimit::new(1_000);
        let count = i64::try_from(TOKENS_MAX).unwrap();
        for token in 0..count {
            limit.take_at(token, at(0)).unwrap();
        }
        limit.take_at(count, at(10)).unwrap();
        assert_eq!(limit.paid_at.read().unwrap().len(), 1);
    }
}
