//! A store with its API, and requests to it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tenantry::Store;
use tenantry_http::{Caller, Options, Scopes, router};
use tower::ServiceExt;

/// A store in a temporary directory, with its API.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    router: Router,
}

/// What the API returned.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
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
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let router = router(store.clone(), &options);
        Self { store, dir, router }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Makes a request as a caller with every scope.
    pub(crate) async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let caller = Caller { name: "test".to_owned(), scopes: Scopes::all() };
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
        if !body.is_empty() {
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
        Reply { status: parts.status, headers: parts.headers, json }
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
