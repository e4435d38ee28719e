//! Living users.

use axum::Json as JsonBody;
use axum::http::header::{ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tenantry::{
    Attributes, Cursor, Email, Error, ErrorKind, ExternalId, Filter, ListQuery, Name, NewUser,
    Order, Page, RequestKey, Scope, Set, SignIn, Timestamp, User, UserId, UserUpdate, WriteTx,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{Id, Json, Parameters, default_limit};
use crate::etag::{self, IfMatch};
use crate::once::Key;
use crate::problem::{self, Problem};
use crate::service::{Acting, Service, scoped};

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped(Scope::UsersRead, routes!(list))
        .merge(scoped(Scope::UsersRead, routes!(search)))
        .merge(scoped(Scope::UsersRead, routes!(lookup)))
        .merge(scoped(Scope::UsersRead, routes!(get)))
        .merge(scoped(Scope::UsersWrite, routes!(create)))
        .merge(scoped(Scope::UsersWrite, routes!(update)))
        .merge(scoped(Scope::UsersWrite, routes!(suspend)))
        .merge(scoped(Scope::UsersWrite, routes!(resume)))
        .merge(scoped(Scope::UsersWrite, routes!(record_login)))
        .merge(scoped(Scope::UsersWrite, routes!(sign_in)))
        .merge(scoped(Scope::UsersDelete, routes!(delete)))
}

/// Returns a user with the entity tag that conditional requests use.
pub(crate) fn tagged(status: StatusCode, user: &User) -> Response {
    (status, [(ETAG, etag::of(user))], JsonBody(user)).into_response()
}

/// Which users to list. Texts that may be personal aren't among the parameters, since URLs end up
/// in logs: `POST /v1/users:search` takes them in its body.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParameters {
    /// How many users a page holds at most.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    limit: usize,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Created at this moment or later.
    #[param(value_type = Option<String>, format = "date-time")]
    created_after: Option<Timestamp>,
    /// Created before this moment.
    #[param(value_type = Option<String>, format = "date-time")]
    created_before: Option<Timestamp>,
    /// Not logged in since this moment.
    #[param(value_type = Option<String>, format = "date-time")]
    inactive_since: Option<Timestamp>,
    /// Only users who never logged in.
    #[serde(default)]
    never_logged_in: bool,
    /// The order: `creation`, or `last_login` for those first who have been away longest.
    #[serde(default)]
    #[param(inline, default = "creation")]
    order: Order,
    /// Only users who are suspended, or with `false` who aren't.
    suspended: Option<bool>,
}

/// List users in the order of creation
///
/// Following `next_cursor` neither skips nor repeats a user, whatever changes meanwhile.
#[utoipa::path(
    get, path = "/v1/users", tag = "users", params(ListParameters),
    responses((status = 200, body = Page), (status = "default", body = problem::Body))
)]
async fn list(
    Acting(service): Acting,
    Parameters(list): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let query = ListQuery {
        limit: list.limit,
        cursor: list.cursor,
        order: list.order,
        filter: Filter {
            created_after: list.created_after,
            created_before: list.created_before,
            inactive_since: list.inactive_since,
            never_logged_in: list.never_logged_in,
            suspended: list.suspended,
            ..Filter::default()
        },
    };
    Ok(JsonBody(service.store.list(&query).await?).into_response())
}

/// Search users
///
/// As a list, with the beginning or a fragment of the address, or the external id, as further
/// conditions.
#[utoipa::path(
    post, path = "/v1/users:search", tag = "users", request_body = ListQuery,
    responses((status = 200, body = Page), (status = "default", body = problem::Body))
)]
async fn search(
    Acting(service): Acting,
    Json(query): Json<ListQuery>,
) -> Result<Response, Problem> {
    Ok(JsonBody(service.store.list(&query).await?).into_response())
}

/// An address, in any spelling.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Address {
    #[schema(value_type = String, format = "email", example = "ada@example.com")]
    email: Email,
}

/// Find the user with an address
#[utoipa::path(
    post, path = "/v1/users:lookup", tag = "users", request_body = Address,
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn lookup(
    Acting(service): Acting,
    Json(address): Json<Address>,
) -> Result<Response, Problem> {
    match service.store.get_by_email(&address.email).await? {
        Some(user) => Ok(tagged(StatusCode::OK, &user)),
        None => Err(Problem::new(
            problem::Type::Store(ErrorKind::NotFound),
            "there is no user with this address",
        )),
    }
}

/// Create a user
#[utoipa::path(
    post, path = "/v1/users", tag = "users", params(("Idempotency-Key" = Option<String>, Header)), request_body = NewUser,
    responses(
        (status = 201, body = User, headers(("Location", description = "The path of the user"), ("ETag", description = "The version"))),
        (status = "default", body = problem::Body)
    )
)]
async fn create(
    Acting(service): Acting,
    key: Key,
    Json(new): Json<NewUser>,
) -> Result<Response, Problem> {
    let user = match key.of("create", &new)? {
        None => service.store.create(new).await?,
        Some(key) => service.store.once(key).create(new).await?,
    };
    let mut response = tagged(StatusCode::CREATED, &user);
    let path = format!("/v1/users/{}", user.id);
    response.headers_mut().insert(
        LOCATION,
        HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/v1/users")),
    );
    Ok(response)
}

/// Return a user
#[utoipa::path(
    get, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = User), (status = 304, description = "The client has this version"), (status = "default", body = problem::Body))
)]
async fn get(Acting(service): Acting, Id(id): Id, headers: HeaderMap) -> Result<Response, Problem> {
    let user = service.store.get(id).await?.ok_or_else(Problem::no_user)?;
    let tag = etag::of(&user);
    if etag::is_known(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(tagged(StatusCode::OK, &user))
}

/// What to change of a user. A field that is missing stays as it is, and `null` removes it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = "email")]
    email: Option<Email>,
    #[serde(default)]
    #[schema(value_type = Option<ExternalId>)]
    external_id: Set<ExternalId>,
    #[serde(default)]
    #[schema(value_type = Option<Name>)]
    name: Set<Name>,
    /// The attributes as a whole: they aren't merged.
    #[serde(default)]
    #[schema(value_type = Option<Attributes>)]
    attributes: Set<Attributes>,
}

/// Reads a field that may be missing but not `null`: by a merge patch that would remove it.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Email>, D::Error> {
    Email::deserialize(deserializer).map(Some)
}

/// Change a user
///
/// A merge patch (RFC 7396), whose members are taken as a whole. With `If-Match`, only if the user
/// has one of these versions; else 412.
#[utoipa::path(
    patch, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path, format = "uuid"), ("If-Match" = Option<String>, Header)),
    request_body = Patch,
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn update(
    Acting(service): Acting,
    Id(id): Id,
    headers: HeaderMap,
    Json(patch): Json<Patch>,
) -> Result<Response, Problem> {
    let Patch { email, external_id, name, attributes } = patch;
    let update = UserUpdate { email, external_id, name, attributes, expected_version: None };
    let user = match IfMatch::of(&headers, service.require_if_match)? {
        // A verb of the store shares its commit with others; a closure has one of its own.
        IfMatch::Any => service.store.update(id, update).await?,
        condition => {
            changed(&service, id, condition, None, move |tx| tx.update(id, &update)).await?
        }
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// Suspend a user
///
/// They can't sign in until they are resumed. One who is suspended stays as they are.
#[utoipa::path(
    post, path = "/v1/users/{id}/suspend", tag = "users", params(("id" = String, Path, format = "uuid"), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn suspend(
    Acting(service): Acting,
    Id(id): Id,
    headers: HeaderMap,
    key: Key,
) -> Result<Response, Problem> {
    let condition = IfMatch::of(&headers, service.require_if_match)?;
    let key = key.of("suspend", &(id, format!("{condition:?}")))?;
    let user = match (condition, key) {
        (IfMatch::Any, None) => service.store.suspend(id).await?,
        (IfMatch::Any, Some(key)) => service.store.once(key).suspend(id).await?,
        (condition, key) => changed(&service, id, condition, key, move |tx| tx.suspend(id)).await?,
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// Let a suspended user sign in again
#[utoipa::path(
    post, path = "/v1/users/{id}/resume", tag = "users", params(("id" = String, Path, format = "uuid"), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn resume(
    Acting(service): Acting,
    Id(id): Id,
    headers: HeaderMap,
    key: Key,
) -> Result<Response, Problem> {
    let condition = IfMatch::of(&headers, service.require_if_match)?;
    let key = key.of("resume", &(id, format!("{condition:?}")))?;
    let user = match (condition, key) {
        (IfMatch::Any, None) => service.store.resume(id).await?,
        (IfMatch::Any, Some(key)) => service.store.once(key).resume(id).await?,
        (condition, key) => changed(&service, id, condition, key, move |tx| tx.resume(id)).await?,
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// Move a user to the trash
///
/// Their address is free at once; their files and their id stay until the purge.
#[utoipa::path(
    delete, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path, format = "uuid"), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn delete(
    Acting(service): Acting,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user = match IfMatch::of(&headers, service.require_if_match)? {
        IfMatch::Any => service.store.delete(id).await?,
        condition => changed(&service, id, condition, None, move |tx| tx.delete(id)).await?,
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// Changes a user in one transaction with the check of the condition.
async fn changed(
    service: &Service,
    id: UserId,
    condition: IfMatch,
    key: Option<RequestKey>,
    change: impl FnOnce(&mut WriteTx<'_>) -> tenantry::Result<User> + Send + 'static,
) -> Result<User, Problem> {
    /// Why the transaction was rolled back.
    enum Refused {
        Version(u64),
        Failed(Error),
    }
    impl From<Error> for Refused {
        fn from(error: Error) -> Self {
            Self::Failed(error)
        }
    }
    let checked = move |tx: &mut WriteTx<'_>| {
        if let Some(user) = tx.get(id)?
            && !condition.allows(user.version)
        {
            return Err(Refused::Version(user.version));
        }
        change(tx).map_err(Refused::Failed)
    };
    let written = service.store.write(move |tx| match key {
        None => checked(tx),
        Some(key) => tx.once(key, checked),
    });
    written.await.map_err(|refused| match refused {
        Refused::Version(current) => Problem::version_mismatch(current),
        Refused::Failed(error) => error.into(),
    })
}

/// Record a login
///
/// The time of the last login becomes now. It isn't a change of the user: the version stays.
#[utoipa::path(
    post, path = "/v1/users/{id}/login", tag = "users", params(("id" = String, Path, format = "uuid"), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = User), (status = "default", body = problem::Body))
)]
async fn record_login(Acting(service): Acting, Id(id): Id, key: Key) -> Result<Response, Problem> {
    let user = match key.of("login", &id)? {
        None => service.store.record_login(id).await?,
        Some(key) => service.store.once(key).record_login(id).await?,
    };
    Ok(tagged(StatusCode::OK, &user))
}

/// Sign in by address
///
/// Records a login of the user with this address, who is created if there is none. The caller must
/// have verified the address.
#[utoipa::path(
    post, path = "/v1/sign-in", tag = "users", params(("Idempotency-Key" = Option<String>, Header)), request_body = Address,
    responses((status = 200, body = SignIn), (status = 201, body = SignIn, description = "The user was created"), (status = "default", body = problem::Body))
)]
async fn sign_in(
    Acting(service): Acting,
    key: Key,
    Json(address): Json<Address>,
) -> Result<Response, Problem> {
    let signed_in = match key.of("sign-in", &address.email)? {
        None => service.store.sign_in(address.email).await?,
        Some(key) => service.store.once(key).sign_in(address.email).await?,
    };
    let status = if signed_in.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let tag = etag::of(&signed_in.user);
    Ok((status, [(ETAG, tag)], JsonBody(signed_in)).into_response())
}
