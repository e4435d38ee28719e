//! The state of the store.

use axum::Json as JsonBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tenantry::Scope;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::problem::{self, Problem};
use crate::service::{Service, scoped};

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped(Scope::Check, routes!(status))
}

/// The state of the store, as `tenantry status` prints it.
#[derive(Serialize, ToSchema)]
struct Status {
    #[schema(value_type = String, format = "uuid")]
    store_id: Uuid,
    schema_version: u32,
    sqlite_version: &'static str,
    journal_mode: String,
    read_only: bool,
    user_count: u64,
    database_bytes: u64,
    wal_bytes: u64,
}

/// Return the state of the store
#[utoipa::path(
    get, path = "/v1/status", tag = "store",
    responses((status = 200, body = Status), (status = "default", body = problem::Body))
)]
async fn status(State(service): State<Service>) -> Result<Response, Problem> {
    let status = service.store.status().await?;
    let body = Status {
        store_id: status.store_id,
        schema_version: status.schema_version,
        sqlite_version: status.sqlite_version,
        journal_mode: status.journal_mode,
        read_only: status.read_only,
        user_count: status.user_count,
        database_bytes: status.database_bytes,
        wal_bytes: status.wal_bytes,
    };
    Ok(JsonBody(body).into_response())
}
