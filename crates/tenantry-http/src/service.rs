//! What the endpoints have in common: the store, and the scope that each requires.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use tenantry::{Scope, Store};
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::auth::{Caller, Required, authorize};
use crate::drain::Drain;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::transfers::Transfers;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) require_if_match: bool,
    /// Of which streams hear that the service ends.
    pub(crate) drain: Drain,
    pub(crate) metrics: Metrics,
    pub(crate) files: Arc<Files>,
    pub(crate) transfers: Transfers,
}

/// The service as handlers have it that change users: what they change is attributed to the caller.
pub(crate) struct Acting(pub(crate) Service);

impl FromRequestParts<Service> for Acting {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Infallible> {
        let actor = parts.extensions.get::<Caller>().map(Caller::actor).unwrap_or_default();
        Ok(Self(Service { store: service.store.as_actor(actor), ..service.clone() }))
    }
}

/// The name of the security scheme in the document.
pub(crate) const BEARER: &str = "token";

/// Returns a route that requires a scope, which the document names too. A body of its requests is
/// JSON.
pub(crate) fn scoped(scope: Scope, route: UtoipaMethodRouter<Service>) -> OpenApiRouter<Service> {
    with_required(scope, true, route)
}

/// Returns a route as [`scoped`], whose requests may take as long as they want and hold up no
/// others: those that wait for changes, or whose body is a stream.
pub(crate) fn scoped_stream(
    scope: Scope,
    route: UtoipaMethodRouter<Service>,
) -> OpenApiRouter<Service> {
    with_required(scope, false, route)
}

fn with_required(
    scope: Scope,
    takes_turns: bool,
    route: UtoipaMethodRouter<Service>,
) -> OpenApiRouter<Service> {
    let routes = OpenApiRouter::new().routes(route);
    let path = routes.get_openapi().paths.paths.keys().next().cloned().unwrap_or_default();
    let required = Required::new(scope, &path, takes_turns);
    let mut routes = routes.route_layer(from_fn_with_state(required, authorize));
    for path in routes.get_openapi_mut().paths.paths.values_mut() {
        let methods =
            [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
        for operation in methods.into_iter().flatten() {
            operation.security = Some(vec![SecurityRequirement::new(BEARER, [scope.name()])]);
        }
    }
    routes
}
