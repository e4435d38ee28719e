//! How many requests work with the store at once, and how much of what they return waits to be
//! read.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{REQUESTS_MAX, SMALL_RESPONSE_MAX, TURN_TIMEOUT, UNREAD_KIB_MAX};
use crate::problem::{Problem, Type};

/// The turns of all requests. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    working: Arc<Semaphore>,
    /// A permit for each KiB.
    unread: Arc<Semaphore>,
}

/// The room of a large response, in its extensions. It is free again when the response was read.
#[derive(Clone)]
pub(crate) struct Room {
    _permits: Arc<OwnedSemaphorePermit>,
}

impl Room {
    /// Returns a part of the response that keeps the room until it was written: hyper lets go of a
    /// body before that.
    pub(crate) fn hold(&self, data: Bytes) -> Bytes {
        Bytes::from_owner(Held { data, _room: self.clone() })
    }
}

struct Held {
    data: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            working: Arc::new(Semaphore::new(REQUESTS_MAX)),
            unread: Arc::new(Semaphore::new(UNREAD_KIB_MAX)),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        match timeout(TURN_TIMEOUT, Arc::clone(&self.working).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::new(Type::Overloaded, "too many other requests are being served")),
        }
    }

    /// Takes the room of a large response or, if clients that don't read have all of it, returns a
    /// refusal in its place.
    pub(crate) fn admit(&self, mut response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or_default();
        if size <= SMALL_RESPONSE_MAX {
            return response;
        }
        let kib = u32::try_from(size >> 10).unwrap_or(u32::MAX).min(UNREAD_KIB_MAX as u32);
        match Arc::clone(&self.unread).try_acquire_many_owned(kib) {
            Ok(permits) => {
                response.extensions_mut().insert(Room { _permits: Arc::new(permits) });
                response
            }
            Err(_) => Problem::new(Type::Overloaded, "too many large responses wait to be read")
                .into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn large_responses_beyond_the_limit_are_refused_and_small_ones_are_not() {
        let turns = Turns::new();
        let large = || turns.admit(vec![0_u8; 1 << 20].into_response());
        let held: Vec<_> = (0..UNREAD_KIB_MAX / 1024).map(|_| large()).collect();
        assert!(held.iter().all(|response| response.status() == StatusCode::OK));
        assert_eq!(large().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(turns.admit("small".into_response()).status(), StatusCode::OK);
        drop(held);
        assert_eq!(large().status(), StatusCode::OK);
    }

    #[test]
    fn a_response_larger_than_all_room_takes_all_of_it() {
        let turns = Turns::new();
        let response = turns.admit(vec![0_u8; (UNREAD_KIB_MAX + 1) << 10].into_response());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            turns.admit(vec![0_u8; 1 << 20].into_response()).status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_turn_and_not_for_ever() {
        let turns = Turns::new();
        let mut taken = Vec::new();
        for _ in 0..REQUESTS_MAX {
            taken.push(turns.wait().await.unwrap());
        }
        let refused = turns.wait().await.unwrap_err();
        assert_eq!(refused.kind(), Type::Overloaded);
        let response = refused.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        let waiting = turns.wait();
        taken.pop();
        assert!(waiting.await.is_ok());
    }
}
