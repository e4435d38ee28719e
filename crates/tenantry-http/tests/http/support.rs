//! A store with its API, and requests to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tenantry::{Ambient, NewToken, Store, Timestamp, UserId};
use tenantry_http::{Caller, Listener, Options, Scopes, Server, router};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// A clock that is ahead of the system's as far as it was set.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn forward(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::now().checked_add(Duration::from_secs(self.0.load(Ordering::Relaxed))).unwrap()
    }

    #[allow(clippy::disallowed_methods, reason = "it stands for the randomness of the system")]
    fn new_id(&self) -> UserId {
        uuid::Uuid::new_v4().try_into().unwrap()
    }
}

/// A store in a temporary directory, with its API.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    pub(crate) options: Options,
    router: Router,
}

/// What the API returned.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The last segment of the problem's type.
    pub(crate) fn problem(&self) -> &str {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.json["status"], self.status.as_u16());
        assert_eq!(self.json["request_id"].as_str(), self.header("x-request-id"));
        self.json["type"].as_str().unwrap().strip_prefix("/problems/").unwrap()
    }
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self::with_clock(options, Arc::new(Clock::default())).await
    }

    pub(crate) async fn with_clock(options: Options, clock: Arc<Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::builder(dir.path()).ambient(clock).open().await.unwrap();
        let router = router(store.clone(), &options);
        Self { store, dir, options, router }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Makes a request as a caller with every scope.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let caller = Caller::new("test", Scopes::all());
        self.call_as(Some(caller), method, path, headers, body).await
    }

    pub(crate) async fn call_as(
        &self,
        caller: Option<Caller>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        let has_type = headers.iter().any(|(name, _)| *name == "content-type");
        if !body.is_empty() && !has_type {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let text = String::from_utf8_lossy(&body).into_owned();
        Reply { status: parts.status, headers: parts.headers, json, text }
    }

    /// Creates a token, and returns what its bearer sends.
    pub(crate) async fn token(&self, new: NewToken) -> String {
        let (_, secret) = self.store.create_token(new).await.unwrap();
        format!("Bearer {}", secret.as_str())
    }

    /// Makes a request with a token.
    pub(crate) async fn call_with(
        &self,
        bearer: &str,
        method: Method,
        path: &str,
        body: &str,
    ) -> Reply {
        self.call_as(None, method, path, &[("authorization", bearer)], body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.call(Method::POST, path, &[], body).await
    }

    /// Creates a user, and returns the path and the reply.
    pub(crate) async fn create(&self, email: &str) -> (String, Reply) {
        let reply = self.post("/v1/users", &format!(r#"{{"email":"{email}"}}"#)).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        (reply.header("location").unwrap().to_owned(), reply)
    }
}

/// A server on a unix socket.
pub(crate) struct Running {
    pub(crate) socket: PathBuf,
    pub(crate) end: oneshot::Sender<()>,
    pub(crate) served: JoinHandle<bool>,
}

pub(crate) fn serve(api: &Api) -> Running {
    let socket = api.dir.path().join("test.sock");
    let listener = Listener::unix(&socket).unwrap();
    let (end, ended) = oneshot::channel();
    let server = Server::new(api.router(), &api.options);
    let served = tokio::spawn(server.serve(vec![listener], async { drop(ended.await) }));
    Running { socket, end, served }
}

/// Sends a text, and returns all that comes until the server closes the connection.
pub(crate) async fn exchange(socket: &Path, text: &str) -> String {
    exchange_on(UnixStream::connect(socket).await.unwrap(), text).await
}

/// As [`exchange`], on a connection.
pub(crate) async fn exchange_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    text: &str,
) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A connection that is cut off is over as well; what came before counts.
    while stream.read_buf(&mut reply).await.is_ok_and(|length| length > 0) {}
    String::from_utf8(reply).unwrap()
}
