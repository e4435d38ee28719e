//! Health, which needs no token: whether the process runs, and whether it can do its work. And the
//! figures, which need one but on a listener of their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tenantry::{Error, Scope, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::drain::Drain;
use crate::limits::{READY_AGE_MAX, READY_TIMEOUT};
use crate::problem::{self, Problem, Type};
use crate::service::{Service, scoped};

/// The type of the text that Prometheus reads.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the routes of health.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(store: Store, drain: Drain) -> Router<S> {
    let readiness = Readiness { store, drain, last: Arc::default() };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(async move || readiness.response().await))
}

/// Returns the route of the figures, for callers with a scope.
pub(crate) fn scoped_metrics() -> OpenApiRouter<Service> {
    scoped(Scope::Metrics, routes!(metrics))
}

/// Returns the route of the figures, for everybody.
pub(crate) fn open_metrics() -> Router<Service> {
    Router::new().route("/metrics", get(metrics))
}

/// Return the figures of the service and of the store, as Prometheus reads them
#[utoipa::path(
    get, path = "/metrics", tag = "store",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = problem::Body))
)]
async fn metrics(State(service): State<Service>) -> Result<Response, Problem> {
    let text = service.metrics.text(&service.store.metrics());
    let text = text.map_err(|_| Problem::new(Type::Panicked, "the figures can't be written"))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}

/// Whether the service can do its work.
#[derive(Clone)]
struct Readiness {
    store: Store,
    drain: Drain,
    /// The last answer of the store.
    last: Arc<Mutex<Option<(Instant, Answer)>>>,
}

type Answer = Result<(), &'static str>;

impl Readiness {
    async fn response(&self) -> (StatusCode, &'static str) {
        let answer =
            if self.drain.has_begun() { Err("the service is ending\n") } else { self.ask().await };
        match answer {
            Ok(()) => (StatusCode::OK, "ok\n"),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }

    /// Returns whether the store accepts writes, by an empty transaction: one at a time, for all
    /// who ask.
    async fn ask(&self) -> Answer {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < READY_AGE_MAX
        {
            return answer;
        }
        let written = self.store.write(|_tx| Ok::<_, Error>(()));
        let answer = match tokio::time::timeout(READY_TIMEOUT, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(kind = error.kind().name(), "not ready: {error}");
                Err("the store accepts no writes\n")
            }
            Err(_) => Err("the store doesn't respond\n"),
        };
        *last = Some((Instant::now(), answer));
        answer
    }
}
