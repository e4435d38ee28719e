//! What every request meets first and every response last: its id, the log, the figures, and the
//! checks that need no route.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use crate::auth::{Peer, peer_name};
use crate::host::{self, PublicUrl};
use crate::limits::URI_BYTES_MAX;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::problem::{Problem, Type, conclude};
use crate::turns::Turns;

/// The header that names a request: taken over from the client, or made here.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The length of a request id that is taken over. A UUID has 36 characters, a trace id 32.
const REQUEST_ID_LENGTH_MAX: usize = 64;
/// The header by which a client names the trace that its request is a part of (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What [`observe`] needs.
pub(crate) struct Observer {
    pub(crate) metrics: Metrics,
    pub(crate) turns: Turns,
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) trusted_proxies: Vec<Network>,
}

pub(crate) async fn observe(
    State(observer): State<Arc<Observer>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begin = Instant::now();
    let running = observer.metrics.begin_request();
    let id = request.headers().get(&REQUEST_ID).filter(|id| is_acceptable(id)).cloned();
    let id = id.unwrap_or_else(new_id);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    request.extensions_mut().insert(observer.turns.clone());
    let method = name(request.method());
    let span = span(&observer, &request, method, &id);
    // Of routes that need no credentials; those of the API add it to the response.
    let outer_route = request.extensions().get::<MatchedPath>().cloned();
    let response = async {
        match check(&request, observer.public_url.as_ref()) {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    let mut response = response.instrument(span.clone()).await;
    conclude(&mut response, &id);
    if let Some(url) = &observer.public_url {
        add_to_location(url, &mut response);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    // No cache on the way may keep what is personal, and no browser guess what it is.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let route = response.extensions_mut().remove::<MatchedPath>().or(outer_route);
    let took = begin.elapsed();
    let route =
        observer.metrics.end_request(running, method, route.as_ref(), response.status(), took);
    let _entered = span.entered();
    tracing::info!(
        route = &*route,
        status = response.status().as_u16(),
        took_us = took.as_micros() as u64,
        "request"
    );
    response
}

/// The span of a request: nothing of its URL, since that may hold what nobody knows.
fn span(observer: &Observer, request: &Request, method: &'static str, id: &HeaderValue) -> Span {
    let id = id.to_str().unwrap_or_default();
    let span = info_span!("request", id, method, peer = Empty, trace = Empty, parent = Empty);
    if span.is_disabled() {
        return span;
    }
    let peer = request.extensions().get::<Peer>().copied();
    span.record("peer", peer_name(peer, request.headers(), &observer.trusted_proxies));
    if let Some((trace, parent)) = trace_context(request.headers()) {
        span.record("trace", trace).record("parent", parent);
    }
    span
}

/// Returns the ids of the trace and of the span that made the request.
fn trace_context(headers: &HeaderMap) -> Option<(&str, &str)> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    let mut parts = line.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|byte| byte != b'0');
    // A later version may have more parts.
    let is_known = version == "00" && parts.next().is_none()
        || is_hex(version, 2) && !["00", "ff"].contains(&version);
    (is_known && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2))
        .then_some((trace, parent))
}

fn check(request: &Request, public_url: Option<&PublicUrl>) -> Result<(), Problem> {
    host::check(request, public_url)?;
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > URI_BYTES_MAX {
        let detail = format!("the URL is longer than {URI_BYTES_MAX} bytes");
        return Err(Problem::new(Type::UriTooLong, detail));
    }
    Ok(())
}

/// Makes the location a whole URL, of the configured one alone.
fn add_to_location(url: &PublicUrl, response: &mut Response) {
    let path = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let Some(path) = path.filter(|path| path.starts_with('/')) else { return };
    if let Ok(location) = HeaderValue::try_from(format!("{}{path}", url.as_str())) {
        response.headers_mut().insert(LOCATION, location);
    }
}

/// Returns the method as a value of a label, of which there must be few.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn is_acceptable(id: &HeaderValue) -> bool {
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_safe)
}

#[allow(clippy::disallowed_methods, reason = "the id of a request is no id of the store")]
fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let id = Uuid::new_v4();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer))
        .unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_over_if_it_is_well_formed() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(TRACEPARENT, text.parse().unwrap())]);
            trace_context(&headers).map(|(trace, parent)| (trace.to_owned(), parent.to_owned()))
        };
        let expected = Some((trace.to_owned(), parent.to_owned()));
        assert_eq!(of(&format!("00-{trace}-{parent}-01")), expected);
        assert_eq!(of(&format!("cc-{trace}-{parent}-01-more")), expected);
        for malformed in [
            "",
            "00",
            &format!("00-{trace}-{parent}-01-more"),
            &format!("ff-{trace}-{parent}-01"),
            &format!("00-{}-{parent}-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{}-{parent}-01", trace.to_uppercase()),
            &format!("00-{trace}1-{parent}-01"),
            &format!("00-{trace}-{parent}-1"),
        ] {
            assert_eq!(of(malformed), None, "{malformed}");
        }
        let twice = HeaderValue::try_from(format!("00-{trace}-{parent}-01")).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, twice.clone());
        headers.append(TRACEPARENT, twice);
        assert_eq!(trace_context(&headers), None);
    }
}
