//! One connection, from its handshake to its end.
//!
//! hyper limits the time for the head of a request. The rest is watched here: connections without
//! requests, and clients that don't read what they asked for, whether that waits in the socket or,
//! for want of a window, in HTTP/2.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;

use crate::auth::Ends;
use crate::drain::Drain;
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, IDLE_TIMEOUT, STALL_TIMEOUT, STREAMS_MAX};
use crate::stream::Stream;
use crate::turns::Room;

/// Serves the requests of a connection until the client, a limit or `drain` ends it.
pub(crate) async fn serve(stream: impl Stream, ends: Ends, router: Router, drain: Drain) {
    let activity = Activity::new();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let running = activity.begin();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ends.peer);
        request.extensions_mut().insert(ends);
        let response = router.clone().oneshot(request);
        async move {
            let response = response.await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(watched(response, running))
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut is_ending, mut drained) = (false, pin!(drain.wait()));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended early: {error}");
                }
                return;
            }
            () = drained.as_mut(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(activity.next_check()) => match activity.state() {
                State::Active => {}
                State::Idle if !is_ending => {
                    is_ending = true;
                    activity.restart();
                    connection.as_mut().graceful_shutdown();
                }
                State::Idle | State::Stalled => {
                    tracing::debug!("a connection was closed whose client reads nothing");
                    return;
                }
            },
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    builder
}

/// What goes on on a connection.
#[derive(Clone)]
struct Activity(Arc<Mutex<Running>>);

struct Running {
    /// How many requests are being read or answered.
    requests: usize,
    /// When the last of them began or ended.
    changed: Instant,
    /// The responses of which a part waits to be read, and since when.
    unread: HashMap<u64, Instant>,
    /// The number of the next request.
    next: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Active,
    /// Without a request for too long. What is still unread then is in the socket.
    Idle,
    /// With a response that the client doesn't read.
    Stalled,
}

impl Activity {
    fn new() -> Self {
        let running =
            Running { requests: 0, changed: Instant::now(), unread: HashMap::new(), next: 0 };
        Self(Arc::new(Mutex::new(running)))
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Request {
        let mut running = self.lock();
        running.requests += 1;
        running.changed = Instant::now();
        running.next += 1;
        Request { activity: self.clone(), number: running.next }
    }

    fn restart(&self) {
        self.lock().changed = Instant::now();
    }

    /// Returns when the state may be another than `Active`.
    fn next_check(&self) -> Instant {
        let running = self.lock();
        match running.unread.values().min() {
            Some(since) => *since + STALL_TIMEOUT,
            None if running.requests == 0 => running.changed + IDLE_TIMEOUT,
            None => Instant::now() + STALL_TIMEOUT,
        }
    }

    fn state(&self) -> State {
        let (running, now) = (self.lock(), Instant::now());
        if running.unread.values().any(|since| now >= *since + STALL_TIMEOUT) {
            State::Stalled
        } else if running.requests == 0 && now >= running.changed + IDLE_TIMEOUT {
            State::Idle
        } else {
            State::Active
        }
    }
}

/// A request that is being read or answered.
struct Request {
    activity: Activity,
    number: u64,
}

impl Request {
    /// Notes that a part of the response waits to be read.
    fn is_unread(&self) {
        self.activity.lock().unread.insert(self.number, Instant::now());
    }

    /// Notes that all of the response that there is was read.
    fn is_read(&self) {
        self.activity.lock().unread.remove(&self.number);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut running = self.activity.lock();
        running.requests -= 1;
        running.changed = Instant::now();
        running.unread.remove(&self.number);
    }
}

/// The body of a response, of which the connection knows whether it is read.
struct Watched {
    body: Body,
    request: Request,
    room: Option<Room>,
}

fn watched(mut response: Response, request: Request) -> hyper::Response<Watched> {
    request.is_unread();
    let room = response.extensions_mut().remove();
    response.map(|body| Watched { body, request, room })
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            // It is asked for the next one when there is room for it.
            Poll::Ready(_) => self.request.is_unread(),
            Poll::Pending => self.request.is_read(),
        }
        match &self.room {
            Some(room) => frame.map(|frame| {
                frame.map(|frame| frame.map(|frame| frame.map_data(|data| room.hold(data))))
            }),
            None => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
