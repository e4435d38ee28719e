//! Who makes a request, and what they may do.

use std::net::SocketAddr;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::body;
use crate::limits::{BODY_TIMEOUT, REQUEST_TIMEOUT};
use crate::problem::{Problem, Type};
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

/// What a route requires and a caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum Scope {
    /// Reads users.
    #[serde(rename = "users:read")]
    UsersRead,
    /// Creates and changes users, and records logins.
    #[serde(rename = "users:write")]
    UsersWrite,
    /// Moves users to the trash, and restores them.
    #[serde(rename = "users:delete")]
    UsersDelete,
    /// Purges users from the trash.
    #[serde(rename = "users:purge")]
    UsersPurge,
    /// Reads users' files.
    #[serde(rename = "files:read")]
    FilesRead,
    /// Writes and removes users' files.
    #[serde(rename = "files:write")]
    FilesWrite,
    /// Imports users, with their files or without.
    #[serde(rename = "import")]
    Import,
    /// Exports users, with their files or without, and the whole store.
    #[serde(rename = "export")]
    Export,
    /// Reads the state of the store.
    #[serde(rename = "check")]
    Check,
    /// Reads figures of the service and of the store.
    #[serde(rename = "metrics")]
    Metrics,
}

impl Scope {
    const ALL: [Self; 10] = [
        Self::UsersRead,
        Self::UsersWrite,
        Self::UsersDelete,
        Self::UsersPurge,
        Self::FilesRead,
        Self::FilesWrite,
        Self::Import,
        Self::Export,
        Self::Check,
        Self::Metrics,
    ];

    /// Returns whether requests with this scope change nothing.
    fn is_read(self) -> bool {
        matches!(self, Self::UsersRead | Self::Check | Self::Metrics)
    }

    /// Returns the name of the scope, such as `users:read`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::UsersDelete => "users:delete",
            Self::UsersPurge => "users:purge",
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::Import => "import",
            Self::Export => "export",
            Self::Check => "check",
            Self::Metrics => "metrics",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Returns the set of all scopes.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Returns whether the set has a scope.
    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u16 != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u16))
    }
}

/// Who makes a request. An application that nests the [router](crate::router) and authenticates
/// requests itself adds one to their extensions before they reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name under which changes are attributed: no address and nothing else personal.
    pub name: String,
    /// What they may do.
    pub scopes: Scopes,
}

impl Caller {
    /// Returns the caller with every scope that a process of this user is.
    #[must_use]
    pub fn operator(uid: u32) -> Self {
        Self { name: format!("socket:{uid}"), scopes: Scopes::all() }
    }
}

/// Refuses a request of no known caller. It is a layer on the root of the API, so that no route can
/// be reached beside it (CVE-2025-4210).
pub(crate) async fn authenticate(State(owner): State<u32>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    if request.extensions().get::<Caller>().is_none() {
        match request.extensions().get::<Peer>() {
            Some(Peer::Unix { uid }) if *uid == owner || *uid == 0 => {
                let caller = Caller::operator(*uid);
                request.extensions_mut().insert(caller);
            }
            _ => {
                let was_given = request.headers().contains_key(AUTHORIZATION);
                let detail = if was_given { "the credentials are not valid" } else { "the request has no credentials" };
                return with_route(Problem::new(Type::Unauthorized, detail).into_response(), route);
            }
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
#[derive(Clone, Copy)]
pub(crate) struct Required {
    pub(crate) scope: Scope,
    /// Whether a request waits for a [turn](Turns), and has to end in [`REQUEST_TIMEOUT`].
    pub(crate) takes_turns: bool,
}

/// Refuses a request of a caller who lacks the scope of the route. Those of others wait for their
/// turn, which nobody without a token takes from them, and nobody whose body is still to come.
pub(crate) async fn authorize(State(required): State<Required>, request: Request, next: Next) -> Response {
    let scope = required.scope;
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.scopes.has(scope) => {}
        _ => {
            return Problem::new(Type::MissingScope, format!("the scope {} is required", scope.name())).into_response();
        }
    }
    let turns = request.extensions().get::<Turns>().filter(|_| required.takes_turns).cloned();
    let Some(turns) = turns else { return next.run(request).await };
    let (request, turn) = match ready(request, &turns).await {
        Ok(ready) => ready,
        Err(problem) => return problem.into_response(),
    };
    let Ok(response) = timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let detail = format!("the request took longer than {seconds} seconds; a change may have been made");
        return Problem::new(Type::Timeout, detail).into_response();
    };
    drop(turn);
    // A change was made already, and isn't refused any more.
    if scope.is_read() { turns.admit(response) } else { response }
}

/// Waits for the body of a request, and then for its turn.
async fn ready(request: Request, turns: &Turns) -> Result<(Request, OwnedSemaphorePermit), Problem> {
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
    use super::*;

    #[test]
    fn a_set_has_the_scopes_that_it_was_made_of_and_no_others() {
        for scope in Scope::ALL {
            let one: Scopes = [scope].into_iter().collect();
            for other in Scope::ALL {
                assert_eq!(one.has(other), scope == other);
            }
            assert!(Scopes::all().has(scope) && !Scopes::default().has(scope));
        }
    }

    #[test]
    fn a_scope_is_serialized_as_its_name() {
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
    }
}
