//! A [Tenantry](tenantry) store over HTTP.
//!
//! [`router`] is the JSON API as an [`axum::Router`], for an application that nests it in its own
//! service. [`Server`] serves a router with the limits, the listeners and the orderly end that a
//! service on its own needs.
//!
//! ```no_run
//! # async fn example(store: tenantry::Store) -> std::io::Result<()> {
//! use tenantry_http::{Listener, Options, Server, router};
//!
//! let options = Options::default();
//! let service = router(store.clone(), &options);
//! let socket = Listener::unix("/run/example/tenantry.sock".as_ref())?;
//! Server::new(service, &options).serve(vec![socket], std::future::pending()).await;
//! # Ok(()) }
//! ```
//!
//! # Who may do what
//!
//! A request is made by a [`Caller`], who has [scopes](Scope). Every route declares the scope that
//! it requires; there is no way to add one that doesn't. A client sends the secret of a
//! [token](tenantry::Token) of the store, which has the scopes that it was created with. On a unix
//! socket the kernel says which user connects: the user of this process and root have every scope
//! without a token. Everyone else is refused.
//!
//! # Errors
//!
//! Every error is a problem (RFC 9457): `type` is stable, `status` follows from
//! [`tenantry::ErrorClass`] alone, and no address or other personal data is in it.

// A test may tell a long story.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

mod api;
mod auth;
mod body;
mod connection;
mod drain;
mod etag;
mod exposition;
mod files;
mod health;
mod host;
mod limits;
mod listener;
mod metrics;
mod network;
mod observe;
mod once;
mod problem;
mod rate;
mod refusal;
mod routes;
mod server;
mod service;
mod stream;
mod tls;
mod transfers;
mod turns;

pub use auth::{Caller, Peer};
pub use drain::Drain;
pub use host::{InvalidOrigin, InvalidPublicUrl, Origin, PublicUrl};
pub use listener::Listener;
pub use metrics::Metrics;
pub use network::{InvalidNetwork, Network};
pub use routes::{Options, openapi, operations, router};
pub use server::Server;
pub use tenantry::{Scope, Scopes};
pub use tls::Tls;
