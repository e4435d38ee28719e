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
//! let service = router(store.clone(), &Options::default());
//! let socket = Listener::unix("/run/example/tenantry.sock".as_ref())?;
//! Server::new(service).serve(vec![socket], std::future::pending()).await;
//! # Ok(()) }
//! ```
//!
//! # Who may do what
//!
//! A request is made by a [`Caller`], who has [scopes](Scope). Every route declares the scope that
//! it requires; there is no way to add one that doesn't. On a unix socket the kernel says which
//! user connects: the user of this process and root have every scope. Everyone else is
//! refused.
//!
//! # Errors
//!
//! Every error is a problem (RFC 9457): `type` is stable, `status` follows from
//! [`tenantry::ErrorClass`] alone, and no address or other personal data is in it.

#![warn(clippy::too_many_lines)]

mod api;
mod auth;
mod body;
mod etag;
mod health;
mod limits;
mod listener;
mod problem;
mod routes;
mod server;
mod service;

pub use auth::{Caller, Peer, Scope, Scopes};
pub use listener::Listener;
pub use routes::{Options, openapi, router};
pub use server::Server;
