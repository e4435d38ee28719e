//! The service as its clients see it.

mod conditions;
mod problems;
mod scopes;
mod server;
mod support;
mod trash;
mod users;
