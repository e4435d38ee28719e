//! Errors as problems (RFC 9457).

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tenantry::{ErrorClass, ErrorKind, UserId};
use utoipa::ToSchema;

/// The media type of problems (RFC 9457, section 3).
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, as a machine reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// An error of the store.
    Store(ErrorKind),
    /// The body isn't the JSON that the endpoint expects.
    InvalidBody,
    /// A parameter or a header isn't what the endpoint expects.
    InvalidParameter,
    NotJson,
    BodyTooLarge,
    BodyTimeout,
    Unauthorized,
    MissingScope,
    /// The caller reaches one user, and the request isn't about one.
    BeyondReach,
    /// A token makes too many requests.
    TooManyRequests,
    /// There is no such resource.
    NoRoute,
    MethodNotAllowed,
    /// The condition of an `If-Match` is required and missing.
    PreconditionRequired,
    /// The request names a host that isn't ours.
    Misdirected,
    UriTooLong,
    /// The request took too long, and may have been done.
    Timeout,
    /// Too many requests are being served.
    Overloaded,
    /// A condition on a file isn't met.
    PreconditionFailed,
    RangeNotSatisfiable,
    /// A directory is where a file was expected, or a file where a directory was.
    NotAFile,
    /// A symbolic link, a special file or another file system is on the path.
    RefusedFile,
    /// The body isn't the one whose digest was sent.
    DigestMismatch,
    /// The user's files would exceed the limit of a user.
    UserFull,
    /// The disk or a quota of the file system is full.
    InsufficientStorage,
    /// A handler panicked.
    Panicked,
}

impl Type {
    fn status(self) -> StatusCode {
        match self {
            // Of its class the one that is about the request, not about the service.
            Self::Store(ErrorKind::Suspended) => StatusCode::FORBIDDEN,
            Self::Store(kind) => match kind.class() {
                ErrorClass::NotFound => StatusCode::NOT_FOUND,
                ErrorClass::Gone => StatusCode::GONE,
                ErrorClass::Conflict => StatusCode::CONFLICT,
                ErrorClass::Invalid => StatusCode::BAD_REQUEST,
                ErrorClass::Precondition => StatusCode::PRECONDITION_FAILED,
                ErrorClass::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
                // The service lacks a permission, not the client.
                ErrorClass::Busy | ErrorClass::Unavailable | ErrorClass::Denied => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::InvalidBody | Self::InvalidParameter => StatusCode::BAD_REQUEST,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MissingScope | Self::BeyondReach => StatusCode::FORBIDDEN,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NotAFile => StatusCode::CONFLICT,
            Self::RefusedFile => StatusCode::FORBIDDEN,
            Self::DigestMismatch => StatusCode::BAD_REQUEST,
            Self::UserFull | Self::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The last segment of the `type`: the name of the kind of error, with hyphens.
    fn name(self) -> String {
        let name = match self {
            Self::Store(kind) => return kind.name().replace('_', "-"),
            Self::InvalidBody => "invalid-body",
            Self::InvalidParameter => "invalid-parameter",
            Self::NotJson => "unsupported-media-type",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTimeout => "body-timeout",
            Self::Unauthorized => "unauthorized",
            Self::MissingScope => "missing-scope",
            Self::BeyondReach => "beyond-reach",
            Self::TooManyRequests => "too-many-requests",
            Self::NoRoute => "no-route",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::PreconditionRequired => "precondition-required",
            Self::Misdirected => "misdirected-request",
            Self::UriTooLong => "uri-too-long",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::PreconditionFailed => "precondition-failed",
            Self::RangeNotSatisfiable => "range-not-satisfiable",
            Self::NotAFile => "not-a-file",
            Self::RefusedFile => "refused-file",
            Self::DigestMismatch => "digest-mismatch",
            Self::UserFull => "user-full",
            Self::InsufficientStorage => "insufficient-storage",
            Self::Panicked => "internal",
        };
        name.to_owned()
    }
}

/// An error of a request. It becomes the body of the response when the request's id is known.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Type,
    detail: String,
    current_version: Option<u64>,
    taken_by: Option<UserId>,
    /// After how many seconds the request may succeed.
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(kind: Type, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            current_version: None,
            taken_by: None,
            retry_after: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn kind(&self) -> Type {
        self.kind
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the same problem with other words for people.
    pub(crate) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(crate) fn version_mismatch(current: u64) -> Self {
        let kind = Type::Store(ErrorKind::VersionMismatch { current });
        let detail = format!("the user's version is {current}, which If-Match doesn't name");
        Self { current_version: Some(current), ..Self::new(kind, detail) }
    }

    pub(crate) fn too_many_requests(retry_after: u64) -> Self {
        let detail = format!(
            "the token makes too many requests: the next one is allowed in {retry_after} s"
        );
        Self { retry_after: Some(retry_after), ..Self::new(Type::TooManyRequests, detail) }
    }

    /// Removes what the problem says of other users.
    pub(crate) fn forget_others(&mut self) {
        self.taken_by = None;
    }

    pub(crate) fn no_user() -> Self {
        Self::new(Type::Store(ErrorKind::NotFound), "there is no user with this id")
    }

    fn headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        match self.kind {
            Type::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The only class of which the same request may succeed. `OutcomeUnknown` isn't in it.
            Type::Store(kind) if kind.class() == ErrorClass::Busy => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Type::Overloaded => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

impl From<tenantry::Error> for Problem {
    fn from(error: tenantry::Error) -> Self {
        let kind = error.kind();
        let current_version = match kind {
            ErrorKind::VersionMismatch { current } => Some(current),
            _ => None,
        };
        let class = error.class();
        let is_of_service = matches!(
            class,
            ErrorClass::Internal
                | ErrorClass::Corrupt
                | ErrorClass::Unavailable
                | ErrorClass::Denied
        );
        if is_of_service && kind != ErrorKind::Suspended {
            let causes =
                std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            tracing::error!(
                kind = kind.name(),
                cause = causes.last().map(tracing::field::display),
                "{error}"
            );
        }
        let taken_by = error.taken_by();
        Self { current_version, taken_by, ..Self::new(Type::Store(kind), error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        self.headers(&mut response);
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of every response that reports an error (RFC 9457), of the type
/// `application/problem+json`.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body<'a> {
    /// What went wrong: `/problems/` and a stable name.
    #[schema(example = "/problems/email-taken")]
    r#type: String,
    /// The meaning of the status.
    title: &'a str,
    /// The status of the response.
    status: u16,
    /// What went wrong this time. It is for people, and may change.
    detail: &'a str,
    /// The id of the request, as in the header `X-Request-Id`.
    request_id: &'a str,
    /// The version that the user has, if a condition on it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_version: Option<u64>,
    /// The user who has the address, the id or the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    taken_by: Option<UserId>,
}

/// Gives a response that reports an error the problem as its body.
pub(crate) fn conclude(response: &mut Response, request_id: &HeaderValue) {
    if response.extensions().get::<Problem>().is_none() {
        // What the router itself refuses.
        let refused = match response.status() {
            StatusCode::NOT_FOUND if has_no_body(response) => Some(Type::NoRoute),
            StatusCode::METHOD_NOT_ALLOWED => Some(Type::MethodNotAllowed),
            _ => None,
        };
        if let Some(kind) = refused {
            let detail = match kind {
                Type::NoRoute => "there is no such resource",
                _ => "the resource doesn't support this method",
            };
            response.extensions_mut().insert(Problem::new(kind, detail));
        }
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return };
    let status = response.status();
    let body = Body {
        r#type: format!("/problems/{}", problem.kind.name()),
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail: &problem.detail,
        request_id: request_id.to_str().unwrap_or_default(),
        current_version: problem.current_version,
        taken_by: problem.taken_by,
    };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.remove(CONTENT_LENGTH);
    *response.body_mut() = body.into();
}

fn has_no_body(response: &Response) -> bool {
    !response.headers().contains_key(CONTENT_TYPE)
}
