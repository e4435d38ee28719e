//! The router of all endpoints, and the document that describes them.

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustix::process::geteuid;
use tenantry::Store;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::authenticate;
use crate::problem::{Problem, Type, finish};
use crate::service::{BEARER, Service};
use crate::{api, health};

/// How the API behaves where a service has a choice.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Whether a change of a user must name the version that it changes, with `If-Match`.
    pub require_if_match: bool,
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
    let service = Service { store, require_if_match: options.require_if_match };
    let (api, document) = described().split_for_parts();
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let api = api
        .route("/v1/openapi.json", get(move || describe(document)))
        .fallback(async || Problem::new(Type::NoRoute, "there is no such resource"))
        .layer(from_fn_with_state(geteuid().as_raw(), authenticate));
    Router::new()
        .merge(health::routes())
        .fallback_service(api.with_state(service.clone()))
        .with_state(service)
        .layer(CatchPanicLayer::custom(|_| {
            Problem::new(Type::Panicked, "the request met a mistake in the service").into_response()
        }))
        .layer(from_fn(finish))
        // No cache on the way may keep what is personal.
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
}

/// Returns the description of the API as an OpenAPI 3.1 document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

fn described() -> OpenApiRouter<Service> {
    let mut routes = OpenApiRouter::with_openapi(Document::openapi())
        .merge(api::users::routes())
        .merge(api::trash::routes())
        .merge(api::usage::routes())
        .merge(api::status::routes());
    let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = routes.get_openapi_mut().components.get_or_insert_default();
    components.add_security_scheme(BEARER, scheme);
    routes
}

async fn describe(document: Bytes) -> Response {
    ([("content-type", "application/vnd.oai.openapi+json;version=3.1")], document).into_response()
}
