//! Serving connections: how many, for how long, and until when.
//!
//! It is hyper-util's server and not `axum::serve`, which sets no limit for the head of a request:
//! a client that sends it byte by byte would hold its connection for ever.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::auth::Ends;
use crate::connection;
use crate::drain::Drain;
use crate::limits::{CONNECTIONS_MAX, DRAIN_TIMEOUT};
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::routes::Options;
use crate::stream::Stream;
use crate::tls::Tls;

/// How long to wait after a failed accept, such as one without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The number of connections to the listeners of operations: those of a few programs that watch.
const OPERATIONS_CONNECTIONS_MAX: usize = 32;

/// A server of HTTP/1.1 and HTTP/2 with limits.
#[derive(Debug)]
pub struct Server {
    service: Router,
    operations: Option<(Vec<Listener>, Router)>,
    connections_max: usize,
    drain: Drain,
    metrics: Metrics,
}

impl Server {
    /// Makes a server of a router that was made with the same options.
    #[must_use]
    pub fn new(service: Router, options: &Options) -> Self {
        Self {
            service,
            operations: None,
            connections_max: CONNECTIONS_MAX,
            drain: options.drain.clone(),
            metrics: options.metrics.clone(),
        }
    }

    /// Serves [`operations`](crate::operations) on listeners of their own, even while the service
    /// ends.
    #[must_use]
    pub fn operations(mut self, listeners: Vec<Listener>, router: Router) -> Self {
        self.operations = Some((listeners, router));
        self
    }

    /// Sets how many connections are served at once; the others wait to be accepted. Without it,
    /// these are 1,024.
    #[must_use]
    pub fn connections_max(mut self, number: usize) -> Self {
        self.connections_max = number;
        self
    }

    /// Serves connections until `end` completes, and then the requests that run already, for at
    /// most 30 seconds.
    ///
    /// Returns whether all requests ended by themselves.
    pub async fn serve(self, listeners: Vec<Listener>, end: impl Future<Output = ()>) -> bool {
        let (running, mut drained) = mpsc::channel::<()>(1);
        let service = Site {
            router: self.service,
            connections: Arc::new(Semaphore::new(self.connections_max)),
            drain: self.drain.clone(),
            metrics: self.metrics.clone(),
            running,
        };
        let (unwatched, _never) = mpsc::channel::<()>(1);
        let (operations_listeners, router) = self.operations.unwrap_or_default();
        let operations = Site {
            router,
            connections: Arc::new(Semaphore::new(OPERATIONS_CONNECTIONS_MAX)),
            drain: Drain::default(),
            metrics: self.metrics,
            running: unwatched,
        };
        let mut operated = pin!(accept_all(operations_listeners, &operations));
        {
            // The sockets are closed with this block, so that a successor may listen there.
            let accepted = pin!(accept_all(listeners, &service));
            tokio::select! {
                () = end => {}
                () = accepted => {}
                () = operated.as_mut() => {}
            }
        }
        self.drain.begin();
        drop(service);
        let has_ended = tokio::select! {
            // There is no sender any more when the last connection has ended.
            _ = drained.recv() => true,
            () = sleep(DRAIN_TIMEOUT) => false,
            () = operated => false,
        };
        operations.drain.begin();
        has_ended
    }
}

/// What is served on some listeners.
struct Site {
    router: Router,
    connections: Arc<Semaphore>,
    drain: Drain,
    metrics: Metrics,
    /// Held by each connection.
    running: mpsc::Sender<()>,
}

/// Accepts connections on all listeners. It never completes.
async fn accept_all(listeners: Vec<Listener>, site: &Site) {
    join_all(listeners.iter().map(|listener| accept(listener, site))).await;
    std::future::pending().await
}

async fn accept(listener: &Listener, site: &Site) {
    loop {
        let Ok(permit) = Arc::clone(&site.connections).acquire_owned().await else { return };
        let (stream, ends) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of the connection alone, or of the process: then others end in a while.
                if !is_of_connection(&error) {
                    tracing::warn!("a connection can't be accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let counted = site.metrics.count_connection();
        let (router, drain, running) =
            (site.router.clone(), site.drain.clone(), site.running.clone());
        let tls = listener.tls();
        tokio::spawn(async move {
            match tls {
                None => connection::serve(stream, ends, router, drain).await,
                // The state of TLS is large, and of no use to connections without it.
                Some(tls) => Box::pin(serve_encrypted(tls, stream, ends, router, drain)).await,
            }
            drop((counted, running, permit));
        });
    }
}

async fn serve_encrypted(
    tls: Tls,
    stream: Box<dyn Stream>,
    ends: Ends,
    router: Router,
    drain: Drain,
) {
    let handshake = tokio::select! {
        handshake = tls.handshake(stream) => handshake,
        () = drain.wait() => return,
    };
    match handshake {
        Ok(stream) => connection::serve(stream, ends, router, drain).await,
        Err(error) => tracing::debug!("a TLS handshake failed: {error}"),
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
