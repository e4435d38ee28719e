use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{Error, ErrorKind, Result, SignIn, User, UserId};

/// The key of a request that is made once, however often it is sent: see
/// [`Store::once`](crate::Store::once).
///
/// Keys of different callers are different ones. Of the key and of the request the store keeps
/// digests alone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    pub(crate) key: [u8; 32],
    pub(crate) request: [u8; 32],
}

impl RequestKey {
    /// How long a key is at most, in bytes. A UUID has 36 characters.
    pub const LENGTH_MAX: usize = 255;
    /// How long the result of a request is kept: a client that was cut off has tried again by then.
    pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);

    /// Returns a key that a caller chose, for a request of which the parts are whatever makes it
    /// another one: as a rule the operation and its arguments.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if the key isn't 1 to 255 visible ASCII characters.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::RequestKey;
    ///
    /// let key = RequestKey::new("billing", "8e03978e-40d5", &[b"create", b"ada@example.com"])?;
    /// # Ok::<(), tenantry::Error>(())
    /// ```
    pub fn new(caller: &str, key: &str, request: &[&[u8]]) -> Result<Self> {
        if key.is_empty()
            || key.len() > Self::LENGTH_MAX
            || !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let message = "the key of a request has 1 to 255 visible ASCII characters";
            return Err(Error::new(ErrorKind::InvalidKey, message));
        }
        Ok(Self { key: digest(&[caller.as_bytes(), key.as_bytes()]), request: digest(request) })
    }
}

/// The digest of parts, of which each has its length before it, so that none passes into the next.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestKey").finish_non_exhaustive()
    }
}

/// A result that is kept for a request which is sent again: [`User`] and [`SignIn`].
pub trait Kept: Serialize + DeserializeOwned + sealed::Sealed {
    /// Returns the user whom the result is about, with whose purge it goes.
    #[doc(hidden)]
    fn user_id(&self) -> UserId;
}

impl Kept for User {
    fn user_id(&self) -> UserId {
        self.id
    }
}

impl Kept for SignIn {
    fn user_id(&self) -> UserId {
        self.user.id
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::User {}
    impl Sealed for crate::SignIn {}
}

/// What the store keeps of a request.
#[derive(Debug)]
pub(crate) struct KeptRequest {
    pub(crate) request: [u8; 32],
    /// The result in JSON.
    pub(crate) reply: String,
}

/// A request that is performed once, with how its result is kept.
pub(crate) struct Once<R> {
    pub(crate) key: RequestKey,
    pub(crate) write: fn(&R) -> serde_json::Result<String>,
    pub(crate) read: fn(&str) -> serde_json::Result<R>,
    pub(crate) user_id: fn(&R) -> UserId,
}

impl<R: Kept> Once<R> {
    pub(crate) fn new(key: RequestKey) -> Self {
        let (write, read) =
            (|reply: &R| serde_json::to_string(reply), |json: &str| serde_json::from_str(json));
        Self { key, write, read, user_id: R::user_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_its_caller_and_a_request_of_its_parts() {
        let key = |caller, key, request| RequestKey::new(caller, key, request).unwrap();
        let ada = key("a", "bc", &[b"x", b"y"]);
        assert_eq!(ada, key("a", "bc", &[b"x", b"y"]));
        assert_ne!(ada.key, key("ab", "c", &[]).key);
        assert_ne!(ada.request, key("a", "bc", &[b"xy"]).request);
        assert_ne!(ada.request, key("a", "bc", &[b"x", b"z"]).request);
        assert!(!format!("{ada:?}").contains("bc"));
    }

    #[test]
    fn a_key_is_visible_ascii_of_a_limited_length() {
        let long = "x".repeat(RequestKey::LENGTH_MAX);
        for good in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", "\"quoted\"", &long] {
            assert!(RequestKey::new("a", good, &[]).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "é", "a\n", "\0", &format!("{long}x")] {
            assert_eq!(
                RequestKey::new("a", bad, &[]).unwrap_err().kind(),
                ErrorKind::InvalidKey,
                "{bad}"
            );
        }
    }
}
