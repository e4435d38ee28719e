//! Who makes a request, and what they may do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tenantry::{Actor, Authentication, Scope, Scopes, Store, Token, UserId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::body;
use crate::limits::{BODY_TIMEOUT, REQUEST_TIMEOUT};
use crate::metrics::Metrics;
use crate::network::{self, Network};
use crate::problem::{Problem, Type};
use crate::rate::RateLimit;
use crate::refusal::Refusal;
use crate::turns::Turns;

/// The other end of a connection, as the kernel names it. The [server](crate::Server) adds it to
/// the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A process on this machine, of the user with this number.
    Unix {
        /// The number of the user, by `SO_PEERCRED`.
        uid: u32,
    },
    /// An address, from which nothing follows.
    Tcp(SocketAddr),
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: Peer,
    /// The address of this machine that the client connected to.
    pub(crate) local: Option<IpAddr>,
}

/// Who makes a request. An application that nests the [router](crate::router) and authenticates
/// requests itself adds one to their extensions before they reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// The name under which changes are attributed: no address and nothing else personal.
    pub name: String,
    /// What they may do.
    pub scopes: Scopes,
    /// The one user whom they reach, or `None` for all.
    pub user_id: Option<UserId>,
}

impl Caller {
    /// Returns a caller who reaches all users.
    #[must_use]
    pub fn new(name: impl Into<String>, scopes: Scopes) -> Self {
        Self { name: name.into(), scopes, user_id: None }
    }

    /// Returns the same caller, who reaches one user, their files and nothing else.
    #[must_use]
    pub fn with_user(self, user_id: UserId) -> Self {
        Self { user_id: Some(user_id), ..self }
    }

    /// Returns the caller as changes name them. What isn't allowed in that name becomes `_`.
    pub(crate) fn actor(&self) -> Actor {
        let allowed = |c: char| if c.is_ascii_graphic() && c != '@' { c } else { '_' };
        let name: String = self.name.chars().map(allowed).take(Actor::MAX_LENGTH).collect();
        name.parse().unwrap_or_default()
    }

    /// Returns the caller with every scope that a process of this user is.
    #[must_use]
    pub fn operator(uid: u32) -> Self {
        Self::new(format!("socket:{uid}"), Scopes::all())
    }
}

impl From<&Token> for Caller {
    fn from(token: &Token) -> Self {
        Self { name: token.name.clone(), scopes: token.scopes, user_id: token.user_id }
    }
}

/// What it takes to know a caller.
#[derive(Clone)]
pub(crate) struct Authenticator {
    store: Store,
    /// The user who runs the service, and who needs no token on the socket.
    owner: u32,
    rate: Arc<RateLimit>,
    metrics: Metrics,
    trusted_proxies: Arc<[Network]>,
}

impl Authenticator {
    pub(crate) fn new(
        store: Store,
        owner: u32,
        rate_per_token: u32,
        metrics: Metrics,
        trusted_proxies: &[Network],
    ) -> Self {
        let rate = Arc::new(RateLimit::new(rate_per_token));
        Self { store, owner, rate, metrics, trusted_proxies: trusted_proxies.into() }
    }

    /// Identifies who makes a request, and returns the token by which it knows them, if any.
    /// Credentials count even where none are needed.
    async fn caller(
        &self,
        peer: Option<Peer>,
        headers: &HeaderMap,
    ) -> Result<(Caller, Option<Bearer>), Problem> {
        let client = || peer_name(peer, headers, &self.trusted_proxies);
        let refuse = |refusal: Refusal, token: Option<&Token>, retry_after| {
            Err(self.refuse(refusal, token, &client(), retry_after))
        };
        if !headers.contains_key(AUTHORIZATION) {
            return match peer {
                Some(Peer::Unix { uid }) if uid == self.owner || uid == 0 => {
                    Ok((Caller::operator(uid), None))
                }
                _ => refuse(Refusal::Missing, None, 0),
            };
        }
        let Some(secret) = bearer(headers) else { return refuse(Refusal::Malformed, None, 0) };
        let token = self.token(secret, client).await?;
        match self.rate.take(token.number) {
            Ok(()) => {
                let (authenticator, secret) = (self.clone(), secret.into());
                let bearer = Bearer { authenticator, secret, client: client() };
                Ok((Caller::from(&*token), Some(bearer)))
            }
            Err(seconds) => refuse(Refusal::TooMany, Some(&token), seconds),
        }
    }

    /// Returns the token whose secret a text is, if it is valid now.
    async fn token(
        &self,
        secret: &str,
        client: impl Fn() -> String,
    ) -> Result<Arc<Token>, Problem> {
        let (refusal, token) = match self.store.authenticate(secret).await? {
            Authentication::Valid(token) => return Ok(token),
            Authentication::Expired(token) => (Refusal::Expired, Some(token)),
            Authentication::Revoked(token) => (Refusal::Revoked, Some(token)),
            Authentication::Malformed => (Refusal::Malformed, None),
            _ => (Refusal::Unknown, None),
        };
        Err(self.refuse(refusal, token.as_deref(), &client(), 0))
    }

    fn refuse(
        &self,
        refusal: Refusal,
        token: Option<&Token>,
        client: &str,
        retry_after: u64,
    ) -> Problem {
        self.metrics.count_refusal(refusal);
        refusal.log(token, client);
        refusal.problem(retry_after)
    }
}

/// The token by which the caller of a request is known, in the extensions of the request. A
/// response that lasts asks whether it still holds. A caller on a socket has none, nor has one whom
/// the application authenticated.
#[derive(Clone)]
pub(crate) struct Bearer {
    authenticator: Authenticator,
    secret: Arc<str>,
    /// What the log calls the client.
    client: String,
}

impl Bearer {
    /// Fails if the token isn't valid any more.
    pub(crate) async fn check(&self) -> Result<(), Problem> {
        self.authenticator.token(&self.secret, || self.client.clone()).await.map(drop)
    }
}

/// Returns what the log calls the client: the user on a socket, or the address, behind proxies that
/// are trusted.
pub(crate) fn peer_name(peer: Option<Peer>, headers: &HeaderMap, trusted: &[Network]) -> String {
    match peer {
        Some(Peer::Unix { uid }) => format!("socket:{uid}"),
        Some(Peer::Tcp(address)) => network::client(address.ip(), headers, trusted).to_string(),
        None => "unknown".to_owned(),
    }
}

/// Returns the bearer token of a request (RFC 6750, section 2.1), if it has exactly one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start_matches(' '))
}

/// Refuses a request of no known caller. It is a layer on the root of the API, so that no route can
/// be reached beside it (CVE-2025-4210).
pub(crate) async fn authenticate(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    if request.extensions().get::<Caller>().is_none() {
        let peer = request.extensions().get::<Peer>().copied();
        match authenticator.caller(peer, request.headers()).await {
            Ok((caller, bearer)) => {
                request.extensions_mut().insert(caller);
                if let Some(bearer) = bearer {
                    request.extensions_mut().insert(bearer);
                }
            }
            Err(problem) => return with_route(problem.into_response(), route),
        }
    }
    with_route(next.run(request).await, route)
}

/// Adds the route to a response, since what is outside of the router doesn't know it.
fn with_route(mut response: Response, route: Option<MatchedPath>) -> Response {
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// What a route requires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Required {
    pub(crate) scope: Scope,
    /// Whether the path names the user whom the request is about.
    is_of_user: bool,
    /// Whether a request waits for a [turn](Turns), and has to end in [`REQUEST_TIMEOUT`].
    takes_turns: bool,
}

impl Required {
    /// Returns what a route with this path requires.
    pub(crate) fn new(scope: Scope, path: &str, takes_turns: bool) -> Self {
        let below_user = path.strip_prefix("/v1/users/{id}");
        let is_of_user = below_user.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        Self { scope, is_of_user, takes_turns }
    }
}

/// Refuses a request of a caller who lacks the scope of the route, or doesn't reach the user. Those
/// of others wait for their turn, which nobody without a token takes from them, and nobody whose
/// body is still to come.
pub(crate) async fn authorize(
    State(required): State<Required>,
    request: Request,
    next: Next,
) -> Response {
    let scope = required.scope;
    let user_id = match request.extensions().get::<Caller>() {
        Some(caller) if caller.scopes.has(scope) => caller.user_id,
        _ => {
            return Problem::new(
                Type::MissingScope,
                format!("the scope {} is required", scope.name()),
            )
            .into_response();
        }
    };
    let Some(user_id) = user_id else { return run(required, request, next).await };
    // Of a caller who reaches one user and must learn nothing of the others.
    if !required.is_of_user {
        return Problem::new(Type::BeyondReach, "the token reaches one user alone").into_response();
    }
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    // The one id that the endpoint acts on (CVE-2026-15630).
    let named = params.ok().and_then(|params| {
        let id = params.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.parse::<UserId>());
        id?.ok()
    });
    if named != Some(user_id) {
        return Problem::no_user().into_response();
    }
    let mut response = run(required, Request::from_parts(parts, body), next).await;
    if let Some(problem) = response.extensions_mut().get_mut::<Problem>() {
        problem.forget_others();
    }
    response
}

async fn run(required: Required, request: Request, next: Next) -> Response {
    let turns = request.extensions().get::<Turns>().filter(|_| required.takes_turns).cloned();
    let Some(turns) = turns else { return next.run(request).await };
    let (request, turn) = match ready(request, &turns).await {
        Ok(ready) => ready,
        Err(problem) => return problem.into_response(),
    };
    let Ok(response) = timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let detail =
            format!("the request took longer than {seconds} seconds; a change may have been made");
        return Problem::new(Type::Timeout, detail).into_response();
    };
    drop(turn);
    // A change was made already, and isn't refused any more.
    if is_read(required.scope) { turns.admit(response) } else { response }
}

/// Returns whether requests with this scope change nothing.
fn is_read(scope: Scope) -> bool {
    matches!(
        scope,
        Scope::UsersRead | Scope::FilesRead | Scope::ChangesRead | Scope::Check | Scope::Metrics
    )
}

/// Waits for the body of a request, and then for its turn.
async fn ready(
    request: Request,
    turns: &Turns,
) -> Result<(Request, OwnedSemaphorePermit), Problem> {
    let request = if request.body().is_end_stream() {
        request
    } else {
        let (head, body) = request.into_parts();
        Request::from_parts(head, body::read(body, BODY_TIMEOUT).await?.into())
    };
    Ok((request, turns.wait().await?))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderValue, StatusCode};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_request_has_one_bearer_token() {
        for good in ["Bearer abc", "bearer abc", "BEARER   abc"] {
            assert_eq!(bearer(&headers(&[good])), Some("abc"));
        }
        for bad in [&["Basic abc"][..], &["Bearer"], &["abc"], &["Bearer abc", "Bearer abc"], &[]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn a_route_is_of_a_user_if_its_path_names_them() {
        for (path, is_of_user) in [
            ("/v1/users/{id}", true),
            ("/v1/users/{id}/usage:measure", true),
            ("/v1/users/{id}/files/{*path}", true),
            ("/v1/users", false),
            ("/v1/users/{id}:batch", false),
            ("/v1/trash/{id}", false),
        ] {
            assert_eq!(
                Required::new(Scope::UsersRead, path, true).is_of_user,
                is_of_user,
                "{path}"
            );
        }
    }

    /// A request whose handler never returns ends, unless its route may take as long as it wants.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_a_problem() {
        let never = async || std::future::pending::<()>().await;
        for takes_turns in [true, false] {
            let required = Required::new(Scope::UsersRead, "/", takes_turns);
            let router = Router::new()
                .route("/", get(never))
                .route_layer(from_fn_with_state(required, authorize));
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(Turns::new());
            request.extensions_mut().insert(Caller::new("test", Scopes::all()));
            let response = timeout(REQUEST_TIMEOUT * 2, router.oneshot(request)).await;
            let status = response.ok().map(|response| response.unwrap().status());
            assert_eq!(status, takes_turns.then_some(StatusCode::GATEWAY_TIMEOUT));
        }
    }
}
