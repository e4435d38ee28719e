//! How much space users take.

use axum::Json as JsonBody;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tenantry::{ErrorKind, Scope, Usage, User};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{Id, Parameters};
use crate::problem::{self, Problem, Type};
use crate::service::{Acting, Service, scoped};

/// The most users that a list of the largest holds.
const TOP_MAX: usize = 1_000;

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped(Scope::UsersRead, routes!(get))
        .merge(scoped(Scope::UsersRead, routes!(top)))
        .merge(scoped(Scope::UsersWrite, routes!(measure)))
}

/// Return what a user's directory held when it was last measured
#[utoipa::path(
    get, path = "/v1/users/{id}/usage", tag = "usage", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = Usage), (status = "default", body = problem::Body))
)]
async fn get(Acting(service): Acting, Id(id): Id) -> Result<Response, Problem> {
    match service.store.usage(id).await? {
        Some(usage) => Ok(JsonBody(usage).into_response()),
        None => Err(Problem::new(
            Type::Store(ErrorKind::NotFound),
            "the user's directory was never measured",
        )),
    }
}

/// Measure a user's directory
#[utoipa::path(
    post, path = "/v1/users/{id}/usage:measure", tag = "usage", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = Usage), (status = "default", body = problem::Body))
)]
async fn measure(Acting(service): Acting, Id(id): Id) -> Result<Response, Problem> {
    Ok(JsonBody(service.store.measure_usage(id, |_| {}).await?).into_response())
}

/// How many of the largest users to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TopParameters {
    #[serde(default = "default_top")]
    #[param(default = 20, minimum = 1, maximum = 1000)]
    top: usize,
}

fn default_top() -> usize {
    20
}

/// A user and what their directory held.
#[derive(Serialize, ToSchema)]
struct UserUsage {
    user: User,
    usage: Usage,
}

/// The users who take most space, the largest first.
#[derive(Serialize, ToSchema)]
struct Largest {
    usages: Vec<UserUsage>,
}

/// List the users who take most space
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(TopParameters),
    responses((status = 200, body = Largest), (status = "default", body = problem::Body))
)]
async fn top(
    Acting(service): Acting,
    Parameters(top): Parameters<TopParameters>,
) -> Result<Response, Problem> {
    if !(1..=TOP_MAX).contains(&top.top) {
        return Err(Problem::new(
            Type::InvalidParameter,
            format!("top isn't within 1 and {TOP_MAX}"),
        ));
    }
    let usages = service.store.top_usage(top.top).await?;
    let usages = usages.into_iter().map(|(user, usage)| UserUsage { user, usage }).collect();
    Ok(JsonBody(Largest { usages }).into_response())
}
