//! Users in the trash.

use axum::Json as JsonBody;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tenantry::{
    Cursor, Email, ErrorKind, Purge, Scope, Timestamp, TrashPage, TrashQuery, TrashedUser, User,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::users::tagged;
use crate::body::{Id, Json, Parameters, default_limit};
use crate::once::Key;
use crate::problem::{self, Problem};
use crate::service::{Acting, Service, scoped};

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped(Scope::UsersRead, routes!(list))
        .merge(scoped(Scope::UsersRead, routes!(get)))
        .merge(scoped(Scope::UsersDelete, routes!(restore)))
        .merge(scoped(Scope::UsersPurge, routes!(purge)))
}

/// Which users in the trash to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TrashParameters {
    /// How many users a page holds at most.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    limit: usize,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Deleted before this moment.
    #[param(value_type = Option<String>, format = "date-time")]
    deleted_before: Option<Timestamp>,
}

/// List the trash in the order of deletion
#[utoipa::path(
    get, path = "/v1/trash", tag = "trash", params(TrashParameters),
    responses((status = 200, body = TrashPage), (status = "default", body = problem::Body))
)]
async fn list(
    Acting(service): Acting,
    Parameters(list): Parameters<TrashParameters>,
) -> Result<Response, Problem> {
    let query =
        TrashQuery { limit: list.limit, cursor: list.cursor, deleted_before: list.deleted_before };
    Ok(JsonBody(service.store.list_trash(&query).await?).into_response())
}

/// Return a user in the trash
#[utoipa::path(
    get, path = "/v1/trash/{id}", tag = "trash", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = TrashedUser), (status = "default", body = problem::Body))
)]
async fn get(Acting(service): Acting, Id(id): Id) -> Result<Response, Problem> {
    let trashed = service.store.get_trashed(id).await?.ok_or_else(not_in_trash)?;
    Ok(JsonBody(trashed).into_response())
}

fn not_in_trash() -> Problem {
    Problem::new(
        problem::Type::Store(ErrorKind::NotFound),
        "there is no user with this id in the trash",
    )
}

/// How to restore a user.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Restore {
    /// Another address, if the old one is taken.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "email")]
    email: Option<Email>,
}

/// Restore a user from the trash
///
/// They get back their id, their files and their place in the order of creation.
#[utoipa::path(
    post, path = "/v1/trash/{id}/restore", tag = "trash", params(("id" = String, Path, format = "uuid"), ("Idempotency-Key" = Option<String>, Header)), request_body = Restore,
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn restore(
    Acting(service): Acting,
    Id(id): Id,
    key: Key,
    Json(restore): Json<Restore>,
) -> Result<Response, Problem> {
    let user = match key.of("restore", &(id, &restore.email))? {
        None => service.store.restore(id, restore.email).await?,
        Some(key) => service.store.once(key).restore(id, restore.email).await?,
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// What a purge destroyed.
#[derive(Serialize, ToSchema)]
#[schema(as = Purged)]
struct PurgedBody {
    /// How many users were destroyed: 0 if files are left, or if another process is purging the
    /// user.
    users: u64,
    /// How many files were removed.
    files: u64,
    /// How many files could not be removed. Then the user stays in the trash, and can be purged
    /// again.
    left: usize,
    /// Whether the database was rewritten, so that no trace of the user is left in it.
    erased: bool,
}

/// Purge a user from the trash
///
/// Destroys their files and every trace of their row. There is no way back.
#[utoipa::path(
    delete, path = "/v1/trash/{id}", tag = "trash", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = PurgedBody), (status = "default", body = problem::Body))
)]
async fn purge(Acting(service): Acting, Id(id): Id) -> Result<Response, Problem> {
    let purged = service.store.purge(Purge::User(id), |_| {}).await?;
    let body = PurgedBody {
        users: purged.users,
        files: purged.files,
        left: purged.left.len(),
        erased: purged.not_erased.is_none(),
    };
    Ok(JsonBody(body).into_response())
}
