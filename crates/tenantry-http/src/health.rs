//! Health: whether the process runs, and whether it can do its work. It needs no token.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tenantry::Error;

use crate::limits::READY_TIMEOUT;
use crate::service::Service;

pub(crate) fn routes() -> Router<Service> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(ready))
}

/// Reports whether the store accepts writes, by an empty transaction.
async fn ready(State(service): State<Service>) -> (StatusCode, &'static str) {
    let written = service.store.write(|_tx| Ok::<_, Error>(()));
    match tokio::time::timeout(READY_TIMEOUT, written).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n"),
        Ok(Err(error)) => {
            tracing::warn!(kind = error.kind().name(), "not ready: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "the store accepts no writes\n")
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store doesn't respond\n"),
    }
}
