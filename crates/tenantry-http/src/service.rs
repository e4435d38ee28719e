//! What the endpoints have in common: the store, and the scope that each requires.

use axum::middleware::from_fn_with_state;
use tenantry::Store;
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::auth::{Scope, authorize};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) require_if_match: bool,
}

/// The name of the security scheme in the document.
pub(crate) const BEARER: &str = "token";

/// Returns a route that requires a scope, which the document names too.
pub(crate) fn scoped(scope: Scope, route: UtoipaMethodRouter<Service>) -> OpenApiRouter<Service> {
    let mut routes = OpenApiRouter::new().routes(route).route_layer(from_fn_with_state(scope, authorize));
    for path in routes.get_openapi_mut().paths.paths.values_mut() {
        let methods = [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
        for operation in methods.into_iter().flatten() {
            operation.security = Some(vec![SecurityRequirement::new(BEARER, [scope.name()])]);
        }
    }
    routes
}
