//! Requests that are performed once, however often they are sent: the header `Idempotency-Key`
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use serde::Serialize;
use tenantry::RequestKey;

use crate::auth::Caller;
use crate::problem::{Problem, Type};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key that a client sent with a request, if it sent one.
pub(crate) struct Key(Option<Sent>);

struct Sent {
    /// Keys of different callers are different ones. A token keeps its name when it is rotated.
    caller: String,
    key: String,
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let (Ok(key), None) = (value.to_str(), values.next()) else {
            let detail = "Idempotency-Key isn't one text of visible ASCII characters";
            return Err(Problem::new(Type::InvalidParameter, detail));
        };
        let caller =
            parts.extensions.get::<Caller>().map(|caller| caller.name.clone()).unwrap_or_default();
        Ok(Self(Some(Sent { caller, key: key.to_owned() })))
    }
}

impl Key {
    /// Returns the key for an operation with these arguments, which make another one of it.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if the key isn't acceptable.
    pub(crate) fn of(
        self,
        operation: &str,
        arguments: &impl Serialize,
    ) -> Result<Option<RequestKey>, Problem> {
        let Some(Sent { caller, key }) = self.0 else { return Ok(None) };
        let arguments = serde_json::to_vec(arguments).map_err(|_| {
            Problem::new(Type::InvalidBody, "the body can't be compared with another")
        })?;
        Ok(Some(RequestKey::new(&caller, &key, &[operation.as_bytes(), &arguments])?))
    }
}
