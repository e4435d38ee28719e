//! Serving connections: how many, for how long, and until when.
//!
//! It is hyper-util's server and not `axum::serve`, which sets no limit for the head of a request:
//! a client that sends it byte by byte would hold its connection for ever.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use futures_util::future::{Either, join_all, select};
use futures_util::pin_mut;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::limits::{CONNECTIONS_MAX, DRAIN_TIMEOUT, HEAD_BYTES_MAX, HEAD_TIMEOUT, HEADERS_MAX, STREAMS_MAX};
use crate::listener::Listener;

/// How long to wait after a failed accept, such as one without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server of HTTP/1.1 and HTTP/2 with limits.
#[derive(Debug)]
pub struct Server {
    service: Router,
}

impl Server {
    /// Makes a server of a router.
    #[must_use]
    pub fn new(service: Router) -> Self {
        Self { service }
    }

    /// Serves connections until `end` completes, and then the requests that run already, for at
    /// most 30 seconds. Connections beyond 1,024 wait to be accepted.
    ///
    /// Returns whether all requests ended by themselves.
    pub async fn serve(self, listeners: Vec<Listener>, end: impl Future<Output = ()>) -> bool {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        {
            let accepting =
                listeners.into_iter().map(|listener| accept(listener, &self.service, &graceful, &connections));
            let (accepting, end) = (join_all(accepting), end);
            pin_mut!(accepting, end);
            // The sockets are closed with this block, so that a successor may listen there.
            select(end, accepting).await;
        }
        let drained = graceful.shutdown();
        let limit = tokio::time::sleep(DRAIN_TIMEOUT);
        pin_mut!(drained, limit);
        matches!(select(drained, limit).await, Either::Left(_))
    }
}

async fn accept(listener: Listener, service: &Router, graceful: &GracefulShutdown, connections: &Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(connections).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of the connection alone, or of the process: then others end in a while.
                if !is_of_connection(&error) {
                    tracing::warn!("a connection can't be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let service = service.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(peer);
            service.clone().oneshot(request)
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32);
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop(permit);
        });
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
