//! What a request holds besides its head: a JSON body, a query, the id of a user in the path.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tenantry::{ListQuery, UserId};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type as SchemaType};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::limits::{BODY_BYTES_MAX, BODY_TIMEOUT, JSON_DEPTH_MAX};
use crate::problem::{Problem, Type};

/// The bytes of a file, in the document. A generator would make a list of numbers of `Vec<u8>`.
pub(crate) struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new().schema_type(SchemaType::String);
        RefOr::T(bytes.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).build().into())
    }
}

impl ToSchema for Binary {}

/// How long the name of an unknown field is at most that a problem repeats: twice the longest name
/// of a field.
const FIELD_NAME_MAX: usize = 64;

/// A JSON body. A merge patch (RFC 7396) is one too.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        // A form of another origin can't send this type without being asked first (CORS).
        if !is_json(&request) {
            let detail = "the body must be of the type application/json";
            return Err(Problem::new(Type::NotJson, detail));
        }
        let bytes = read(request.into_body(), BODY_TIMEOUT).await?;
        if depth(&bytes) > JSON_DEPTH_MAX {
            let detail = format!("the body is nested more than {JSON_DEPTH_MAX} levels deep");
            return Err(Problem::new(Type::InvalidBody, detail));
        }
        // Serde would read an array as the fields in their order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::new(Type::InvalidBody, "expected a JSON object"));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            invalid(&path, error.inner())
        })?;
        json.end().map_err(|error| invalid(".", &error))?;
        Ok(Self(value))
    }
}

fn is_json(request: &Request) -> bool {
    let essence = content_type(request.headers());
    matches!(essence.as_deref(), Some("application/json" | "application/merge-patch+json"))
}

/// Returns the type of a body, without its parameters and in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// Reads a whole body, within the limits of its length and of the time it may take.
pub(crate) async fn read(body: Body, timeout: Duration) -> Result<Bytes, Problem> {
    let limited = Limited::new(body, BODY_BYTES_MAX).collect();
    let collected = tokio::time::timeout(timeout, limited).await.map_err(|_| {
        let detail = format!("the body took longer than {} seconds", timeout.as_secs());
        Problem::new(Type::BodyTimeout, detail)
    })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            Err(Problem::new(Type::BodyTooLarge, detail))
        }
        Err(_) => Err(Problem::new(Type::InvalidBody, "the body ended early")),
    }
}

/// Returns how deep a text of JSON is nested: brackets outside of strings. Of other texts it
/// returns some number.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_string,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The problem of a body that can't be read as what is expected. It names the place, and no value
/// of the body, since that may be an address.
fn invalid(path: &str, error: &serde_json::Error) -> Problem {
    let place = format!("line {} column {}", error.line(), error.column());
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    let detail = match error.classify() {
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
            format!("the body isn't JSON: {reason} at {place}")
        }
        _ => {
            format!("{} ({place})", without_value(path, reason))
        }
    };
    Problem::new(Type::InvalidBody, detail)
}

/// Returns what is wrong with the value at a path. serde's messages quote the value that is of a
/// wrong type, `invalid type: string "…", expected u64`, and the name of a field that isn't one,
/// which is also a path.
fn without_value(path: &str, reason: &str) -> String {
    if let Some((_, named)) = reason.split_once("unknown field `") {
        return unknown_field(named);
    }
    let is_plain =
        path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.[]?".contains(&byte));
    let field = if is_plain && path != "." { format!("{path}: ") } else { String::new() };
    let quotes = ["invalid type: ", "invalid value: ", "unknown variant "];
    match reason.rsplit_once(", expected ") {
        Some((_, expected)) if quotes.iter().any(|quote| reason.starts_with(quote)) => {
            format!("{field}expected {expected}")
        }
        _ => format!("{field}{reason}"),
    }
}

/// Returns what is said of a field that isn't one: its name if that can be the name of a field, as
/// what was mistyped, and not if it may be an address.
fn unknown_field(named: &str) -> String {
    // The last, since the name may hold the same.
    let end = ["`, expected ", "`, there are no fields"].iter().filter_map(|end| named.rfind(end));
    let (name, rest) = end.max().map_or(("", ""), |end| (&named[..end], &named[end + 1..]));
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_plain && (1..=FIELD_NAME_MAX).contains(&name.len()) {
        format!("unknown field `{name}`{rest}")
    } else {
        format!("an unknown field{rest}")
    }
}

/// The parameters of a query.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Query(value) = Query::try_from_uri(&parts.uri).map_err(|rejection| {
            let reason = rejection.to_string();
            let reason = reason.trim_start_matches("Failed to deserialize query string: ");
            let (field, reason) = match reason.split_once(": ") {
                Some((field, reason)) if !field.contains(' ') => (field, reason),
                _ => (".", reason),
            };
            Problem::new(Type::InvalidParameter, without_value(field, reason))
        })?;
        Ok(Self(value))
    }
}

/// The size of a page whose size no parameter says.
pub(crate) fn default_limit() -> usize {
    ListQuery::DEFAULT_LIMIT
}

/// The id of a user in the path. Any other text is the name of no resource (CVE-2025-48370).
pub(crate) struct Id(pub(crate) UserId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state).await.ok();
        let id = parameters
            .as_ref()
            .and_then(|parameters| parameters.iter().find(|(name, _)| *name == "id"));
        id.and_then(|(_, id)| id.parse().ok()).map(Self).ok_or_else(|| {
            Problem::new(
                Type::NoRoute,
                "there is no such resource: the id isn't a UUID of version 4",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request as HttpRequest;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Value {
        #[allow(dead_code, reason = "read by Debug alone")]
        email: tenantry::Email,
        #[allow(dead_code, reason = "read by Debug alone")]
        version: Option<u64>,
    }

    fn detail(body: &str) -> String {
        let request =
            HttpRequest::builder().header(CONTENT_TYPE, "application/json; charset=utf-8");
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match runtime.block_on(Json::<Value>::from_request(request, &())) {
            Ok(Json(value)) => format!("{value:?}"),
            Err(problem) => format!("{problem:?}"),
        }
    }

    #[test]
    fn a_body_that_is_refused_is_located_and_never_quoted() {
        for (body, said) in [
            ("{", "isn't JSON"),
            ("", "isn't JSON"),
            (r#" ["ada@example.com", 1]"#, "expected a JSON object"),
            (r#"{"email":"secret@example.com"} x"#, "isn't JSON"),
            (
                r#"{"email":"ada@example.com","version":"secret@example.com"}"#,
                "version: expected u64",
            ),
            (r#"{"email":"secret@@example.com"}"#, "email: "),
            (r#"{"email":["secret@example.com"]}"#, "email: expected"),
            (r#"{"email":"ada@example.com","vision":1}"#, "unknown field `vision`"),
            (r#"{"secret@example.com":1}"#, "an unknown field, expected "),
            (r#"{"secret@example.com`, expected ":1}"#, "an unknown field, expected "),
            (r#"{"unknown field `secret@example.com":1}"#, "an unknown field, expected "),
            (r#"{"secret@example.com at line ":1}"#, "an unknown field"),
            (r#"{"secret@example.com: ":1}"#, "an unknown field, expected "),
            (r#"{"version":1}"#, "missing field `email`"),
            (r#"["secret@example.com"]"#, ""),
        ] {
            let detail = detail(body);
            assert!(detail.contains(said) && !detail.contains("secret"), "{body}: {detail}");
        }
    }

    #[test]
    fn a_query_that_is_refused_names_no_unknown_parameter_that_may_be_an_address() {
        for (query, said) in [
            ("email=ada@example.com&vision=1", "unknown field `vision`, expected "),
            ("secret@example.com=1", "an unknown field, expected "),
            ("a+secret@example.com:+b=1", "an unknown field, expected "),
            ("secret@example.com:+b=1", "an unknown field, expected "),
            ("email=ada@example.com&version=secret@example.com", "version: "),
            ("email=secret@@example.com", "email: "),
        ] {
            let (mut parts, ()) =
                HttpRequest::builder().uri(format!("/?{query}")).body(()).unwrap().into_parts();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(Parameters::<Value>::from_request_parts(&mut parts, &()));
            let detail = format!("{:?}", read.map(drop).unwrap_err());
            assert!(detail.contains(said) && !detail.contains("secret"), "{query}: {detail}");
        }
    }

    #[test]
    fn a_body_nested_deeper_than_the_limit_is_refused() {
        let nested = |levels: usize| {
            format!(r#"{{"email":{}"["{}}}"#, "[".repeat(levels), "]".repeat(levels))
        };
        assert!(detail(&nested(JSON_DEPTH_MAX)).contains("nested more than 32"));
        assert!(detail(&nested(JSON_DEPTH_MAX - 1)).contains("email: "));
        // Neither closed brackets nor those in strings count.
        assert!(
            detail(&format!(r#"{{"email":"{}\"{}"}}"#, "[".repeat(40), "{".repeat(40)))
                .contains("email: ")
        );
        let flat = format!(r#"{{"x":[{}[]],"email":1}}"#, "[],".repeat(40));
        assert!(detail(&flat).contains("unknown field"));
    }

    #[test]
    fn a_body_longer_than_the_limit_is_refused() {
        assert!(detail(&format!("{}{{}}", " ".repeat(BODY_BYTES_MAX))).contains("BodyTooLarge"));
        let fits = format!("{}{{}}", " ".repeat(BODY_BYTES_MAX - 2));
        assert!(detail(&fits).contains("missing field"));
    }
}
