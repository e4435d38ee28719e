//! Tokens that were looked up a moment ago, so that most requests of a client cost no statement.
//!
//! What is kept is a *lease*: it is believed for [`LEASE`] from before it was looked up, by a clock
//! that all processes of a machine share. Whoever revokes a token waits that long after the commit
//! before reporting success. So when a revocation is reported, no process accepts the token any
//! more, whichever process it was made in; and nothing has to be sent from one to the other.
//!
//! Rejected: SQLite's `data_version`, asked for each request. It takes a read transaction, which is
//! two thirds of the cost of the look-up itself (2.4 of 3.4 µs).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::domain::token::TokenDigest;
use crate::{Timestamp, Token};

/// How long a token that was looked up is believed. People don't notice that a revocation takes so
/// long, and a look-up in so many milliseconds costs nothing.
pub(crate) const LEASE: Duration = Duration::from_millis(100);
/// How many tokens are kept: more than a service has clients at once. Each takes about 300 bytes.
const TOKENS_MAX: usize = 4_096;
/// How often it is recorded that a token was used.
const USE_RECORDED_EVERY: Duration = Duration::from_secs(3_600);

#[derive(Default)]
pub(crate) struct TokenCache {
    entries: RwLock<HashMap<TokenDigest, Entry>>,
}

struct Entry {
    token: Arc<Token>,
    looked_up_at: Instant,
    /// When its use was last recorded, or sent to be.
    used_at: Option<Timestamp>,
}

impl Entry {
    fn is_valid(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked_up_at) < LEASE
    }
}

impl TokenCache {
    /// Returns the token of a digest, if it was looked up within the lease.
    pub(crate) fn get(&self, digest: &TokenDigest, now: Instant) -> Option<Arc<Token>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(digest)
            .filter(|entry| entry.is_valid(now))
            .map(|entry| Arc::clone(&entry.token))
    }

    /// Keeps a token whose look-up began at `looked_up_at`. Returns whether its use is to be
    /// recorded.
    pub(crate) fn keep(
        &self,
        digest: TokenDigest,
        token: Arc<Token>,
        looked_up_at: Instant,
        now: Timestamp,
    ) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= TOKENS_MAX && !entries.contains_key(&digest) {
            entries.retain(|_, entry| entry.is_valid(looked_up_at));
            if entries.len() >= TOKENS_MAX {
                entries.clear();
            }
        }
        let before = entries.get(&digest).and_then(|entry| entry.used_at).max(token.last_used_at);
        // The clock may have been set back, and the time of the last use isn't.
        let is_due =
            before.is_none_or(|before| now.duration_since(before) >= Some(USE_RECORDED_EVERY));
        let used_at = if is_due { Some(now) } else { before };
        entries.insert(digest, Entry { token, looked_up_at, used_at });
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scopes;

    fn token(last_used_at: Option<Timestamp>) -> Arc<Token> {
        let name = "a".to_owned();
        let (created_at, expires_at) = (Timestamp::MIN, Timestamp::MAX);
        Arc::new(Token {
            number: 1,
            created_by: name.clone(),
            name,
            scopes: Scopes::all(),
            user_id: None,
            created_at,
            expires_at,
            last_used_at,
            revoked_at: None,
        })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_us(seconds * 1_000_000).unwrap()
    }

    #[test]
    fn a_token_is_believed_for_the_lease_and_no_longer() {
        let (cache, before) = (TokenCache::default(), Instant::now());
        cache.keep([1; 32], token(None), before, at(0));
        assert!(cache.get(&[1; 32], before).is_some());
        assert!(cache.get(&[1; 32], before + LEASE - Duration::from_nanos(1)).is_some());
        assert!(cache.get(&[1; 32], before + LEASE).is_none());
        assert!(cache.get(&[2; 32], before).is_none());
    }

    #[test]
    fn the_use_of_a_token_is_recorded_once_an_hour() {
        let (cache, instant) = (TokenCache::default(), Instant::now());
        let keep = |last_used, now| cache.keep([1; 32], token(last_used), instant, at(now));
        assert!(keep(None, 0));
        assert!(!keep(None, 3_599), "it was sent, and isn't committed yet");
        assert!(keep(Some(at(0)), 3_600));
        assert!(!keep(Some(at(3_600)), 0), "the clock was set back");
        // Recorded by another process.
        assert!(!keep(Some(at(7_000)), 7_300));
    }

    #[test]
    fn there_are_never_more_tokens_than_the_limit() {
        let (cache, before) = (TokenCache::default(), Instant::now());
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        for number in 0..TOKENS_MAX {
            cache.keep(digest(number), token(None), before, at(0));
        }
        let count = || cache.entries.read().unwrap().len();
        assert_eq!(count(), TOKENS_MAX);
        cache.keep(digest(TOKENS_MAX), token(None), before + LEASE, at(0));
        assert_eq!(count(), 1);
    }
}
