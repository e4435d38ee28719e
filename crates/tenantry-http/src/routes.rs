//! The router of all endpoints, and the document that describes them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustix::process::geteuid;
use tenantry::Store;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{RefOr, Server as DocumentServer};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::{Authenticator, authenticate};
use crate::drain::Drain;
use crate::files::Files;
use crate::host::{Origin, PublicUrl};
use crate::limits::{FILE_BYTES_MAX, REQUESTS_PER_TOKEN};
use crate::metrics::Metrics;
use crate::network::Network;
use crate::observe::{Observer, observe};
use crate::problem::{self, Problem, Type};
use crate::service::{BEARER, Service};
use crate::transfers::Transfers;
use crate::turns::Turns;
use crate::{api, files, health};

/// How the service behaves where there is a choice.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Whether a change of a user must name the version that it changes, with `If-Match`.
    pub require_if_match: bool,
    /// How many requests one token may make in a second before it gets 429; 0 for any number.
    pub requests_per_token: u32,
    /// The URL at which clients reach the service, if it isn't that of a listener.
    pub public_url: Option<PublicUrl>,
    /// Whose `X-Forwarded-For` is believed, for the log.
    pub trusted_proxies: Vec<Network>,
    /// The origins whose pages may read responses in a browser (CORS).
    pub allowed_origins: Vec<Origin>,
    /// What the routers and the server count together.
    pub metrics: Metrics,
    /// The end of the service, of which routers and server hear together.
    pub drain: Drain,
    /// How long an uploaded file may be, in bytes: 1 GiB by default.
    pub max_file: u64,
    /// How long all files of a user may be together, in bytes: without a limit by default.
    pub max_user_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            require_if_match: false,
            requests_per_token: REQUESTS_PER_TOKEN,
            public_url: None,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            metrics: Metrics::default(),
            drain: Drain::default(),
            max_file: FILE_BYTES_MAX,
            max_user_bytes: None,
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Tenantry", description = "The users of a multi-tenant application and the storage that belongs to each of them."),
    components(schemas(crate::problem::Body<'static>))
)]
struct Document;

/// Returns the API of a store.
///
/// Requests of no known [`Caller`](crate::Caller) are refused, except those for health.
pub fn router(store: Store, options: &Options) -> Router {
    let (api, mut document) = described().split_for_parts();
    document.servers =
        options.public_url.as_ref().map(|url| vec![DocumentServer::new(url.as_str())]);
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let owner = geteuid().as_raw();
    let (rate, proxies) = (options.requests_per_token, &options.trusted_proxies);
    let authenticator =
        Authenticator::new(store.clone(), owner, rate, options.metrics.clone(), proxies);
    let api = api
        .route("/v1/openapi.json", get(move || describe(document)))
        .fallback(async || Problem::new(Type::NoRoute, "there is no such resource"))
        .layer(from_fn_with_state(authenticator, authenticate));
    let health = health::routes(store.clone(), options.drain.clone());
    let service = service(store, options);
    finished(health.fallback_service(api.with_state(service.clone())).with_state(service), options)
}

/// Returns health and figures for a listener of their own. They need no token there.
pub fn operations(store: Store, options: &Options) -> Router {
    let routes = health::routes(store.clone(), options.drain.clone()).merge(health::open_metrics());
    finished(routes.with_state(service(store, options)), options)
}

fn service(store: Store, options: &Options) -> Service {
    Service {
        store,
        require_if_match: options.require_if_match,
        drain: options.drain.clone(),
        metrics: options.metrics.clone(),
        files: Arc::new(Files::new(options.max_file, options.max_user_bytes)),
        transfers: Transfers::default(),
    }
}

/// Adds what every request and every response needs.
fn finished(routes: Router, options: &Options) -> Router {
    let observer = Observer {
        metrics: options.metrics.clone(),
        turns: Turns::new(),
        public_url: options.public_url.clone(),
        trusted_proxies: options.trusted_proxies.clone(),
    };
    let mut routes = routes.layer(CatchPanicLayer::custom(|_| {
        Problem::new(Type::Panicked, "the request met a mistake in the service").into_response()
    }));
    if !options.allowed_origins.is_empty() {
        routes = routes.layer(cors(&options.allowed_origins));
    }
    routes.layer(from_fn_with_state(Arc::new(observer), observe))
}

/// Lets the pages of some origins use the API by a token. Browsers send no cookies along.
fn cors(origins: &[Origin]) -> CorsLayer {
    let own = |name| HeaderName::from_static(name);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().map(|origin| origin.as_header().clone())))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_MATCH,
            IF_NONE_MATCH,
            IF_RANGE,
            RANGE,
            own("content-digest"),
            own("idempotency-key"),
            own("last-event-id"),
            own("traceparent"),
            own("x-request-id"),
        ])
        .expose_headers([
            ACCEPT_RANGES,
            CONTENT_DISPOSITION,
            CONTENT_RANGE,
            ETAG,
            LOCATION,
            RETRY_AFTER,
            own("x-request-id"),
        ])
}

/// Returns the description of the API as an OpenAPI 3.1 document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

fn described() -> OpenApiRouter<Service> {
    let mut routes = OpenApiRouter::with_openapi(Document::openapi())
        .merge(api::users::routes())
        .merge(api::changes::routes())
        .merge(api::trash::routes())
        .merge(api::usage::routes())
        .merge(api::status::routes())
        .merge(api::check::routes())
        .merge(api::transfer::routes())
        .merge(api::archives::routes())
        .merge(files::routes())
        .merge(health::scoped_metrics());
    let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    // The document has no sign for a parameter of several segments.
    let paths = &mut routes.get_openapi_mut().paths.paths;
    *paths = std::mem::take(paths)
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    let components = routes.get_openapi_mut().components.get_or_insert_default();
    components.add_security_scheme(BEARER, scheme);
    describe_responses(routes.get_openapi_mut());
    routes
}

/// Describes the responses as the specification demands, here once instead of at each endpoint:
/// errors have the media type of problems (RFC 9457), and each response has a description (OpenAPI
/// 3.1, "Response Object").
fn describe_responses(document: &mut utoipa::openapi::OpenApi) {
    for path in document.paths.paths.values_mut() {
        let methods =
            [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
        for operation in methods.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                let RefOr::T(response) = response else { continue };
                if status == "default" {
                    let bodies = std::mem::take(&mut response.content).into_values();
                    response.content =
                        bodies.map(|body| (problem::MEDIA_TYPE.to_owned(), body)).collect();
                }
                if response.description.is_empty() {
                    let reason = status
                        .parse()
                        .ok()
                        .and_then(|status: StatusCode| status.canonical_reason());
                    response.description = reason.unwrap_or("Why the request failed").to_owned();
                }
            }
        }
    }
}

async fn describe(document: Bytes) -> Response {
    ([("content-type", "application/vnd.oai.openapi+json;version=3.1")], document).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    /// rauthy v0.36.2: a panic that a request could reach ended more than that request.
    #[tokio::test]
    async fn a_panic_is_a_problem_and_nothing_of_it_is_returned() {
        let routes = Router::new()
            .route("/", get(async || -> () { std::panic::panic_any("ada@example.com") }));
        let routes = finished(routes, &Options::default());
        for _ in 0..2 {
            let response = routes.clone().oneshot(Request::new(Body::empty())).await.unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.headers()[CONTENT_TYPE], problem::MEDIA_TYPE);
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("/problems/internal") && !body.contains('@'), "{body}");
        }
    }
}
