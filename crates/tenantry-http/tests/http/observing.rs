//! What is known of requests afterwards, and by which names the service is reached.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use axum::http::{Method, StatusCode};
use tenantry_http::{Listener, Options, Server, operations};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::support::{Api, exchange, exchange_on, serve};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects what is logged in this thread.
    fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        // With one subscriber alone, a place that logs first in a thread without it is taken for
        // one that nobody listens to. So there is always a second one.
        static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn each_request_has_a_line_without_addresses_and_without_its_url() {
    let api = Api::new().await;
    let (user, _) = api.create("ada@example.com").await;
    let running = serve(&api);
    let (log, _guard) = Log::collect();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let head = format!(
        "GET {user}?secret=ada@example.com HTTP/1.1\r\nHost: secret.example\r\nConnection: close\r\n\
         X-Request-Id: mine\r\nTraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"
    );
    exchange(&running.socket, &head).await;
    exchange(
        &running.socket,
        "PURGE /secret/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let uid = rustix::process::geteuid().as_raw();
    for part in [
        "request{id=\"mine\" method=\"GET\"",
        &format!("peer=\"socket:{uid}\""),
        &format!("trace=\"{trace}\" parent=\"00f067aa0ba902b7\""),
        "route=\"/v1/users/{id}\" status=200 took_us=",
    ] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    assert!(
        lines[1].contains("method=\"other\"") && lines[1].contains("route=\"none\" status=404"),
        "{lines:?}"
    );
    let whole = lines.concat();
    assert!(!whole.contains("secret") && !whole.contains('@') && !whole.contains(&user), "{whole}");
}

/// A server on a TCP port of this machine.
async fn serve_tcp(api: &Api) -> SocketAddr {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(
        Server::new(api.router(), &api.options).serve(vec![listener], std::future::pending()),
    );
    address
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    exchange_on(stream, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")).await
}

/// GHSA-57pm-8jxc-fh3g, as the log shows it.
#[tokio::test]
async fn the_client_behind_a_trusted_proxy_is_the_one_in_the_log() {
    for (trusted, expected) in [(None, "127.0.0.1"), (Some("127.0.0.0/8"), "198.51.100.1")] {
        let mut options = Options::default();
        options.trusted_proxies =
            trusted.into_iter().map(|network| network.parse().unwrap()).collect();
        let api = Api::with(options).await;
        let address = serve_tcp(&api).await;
        let (log, _guard) = Log::collect();
        get(address, "/livez", "Host: localhost\r\nX-Forwarded-For: 192.0.2.66, 198.51.100.1\r\n")
            .await;
        get(
            address,
            "/v1/users",
            "Host: localhost\r\nX-Forwarded-For: 198.51.100.1\r\nAuthorization: Bearer x\r\n",
        )
        .await;
        let lines = log.lines();
        let refused = lines.iter().find(|line| line.contains("request refused")).unwrap();
        for line in [&lines[0], refused] {
            assert!(line.contains(&format!("peer=\"{expected}\"")), "{lines:?}");
        }
    }
}

/// CVE-2025-66414: DNS rebinding. That the names are compared is tested beside the code.
#[tokio::test]
async fn every_route_on_tcp_is_refused_to_other_hosts() {
    let api = Api::new().await;
    let address = serve_tcp(&api).await;
    for path in ["/livez", "/readyz", "/metrics", "/v1/users", "/nothing"] {
        let reply = get(address, path, "Host: evil.example\r\n").await;
        assert!(
            reply.starts_with("HTTP/1.1 421 ") && reply.contains("/problems/misdirected-request"),
            "{reply}"
        );
        let reply = get(address, path, &format!("Host: {address}\r\n")).await;
        assert!(!reply.starts_with("HTTP/1.1 421 "), "{reply}");
    }
}

/// The same by HTTP/2, which names the host in another way.
#[tokio::test]
async fn every_request_of_http2_is_refused_to_other_hosts() {
    let api = Api::new().await;
    let address = serve_tcp(&api).await;
    for (host, expected) in [("evil.example", "2 421"), ("localhost", "2 200")] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--http2-prior-knowledge", "--output", "/dev/null"])
            .args(["--write-out", "%{http_version} %{response_code}", "--connect-to"])
            .args([format!("{host}:80:{address}"), format!("http://{host}/livez")]);
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

/// GHSA-2wmj-46rj-qm2w: links were made from what a request named.
#[tokio::test]
async fn urls_are_made_of_the_configured_one_alone() {
    let forged = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "host=evil.example;proto=http"),
    ];
    for (public, expected) in
        [(None, "/v1/users/"), (Some("https://a.example/t"), "https://a.example/t/v1/users/")]
    {
        let mut options = Options::default();
        options.public_url = public.map(|url| url.parse().unwrap());
        let api = Api::with(options).await;
        let reply =
            api.call(Method::POST, "/v1/users", &forged, r#"{"email":"ada@example.com"}"#).await;
        assert!(reply.header("location").unwrap().starts_with(expected), "{reply:?}");
        let document = api.call(Method::GET, "/v1/openapi.json", &forged, "").await;
        assert_eq!(document.json["servers"][0]["url"].as_str(), public);
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_allowed_only_by_name() {
    let origin = "https://app.example.com";
    let preflight = [
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "if-match"),
    ];
    let mut options = Options::default();
    options.allowed_origins = vec![origin.parse().unwrap()];
    for (options, named, is_allowed) in [
        (Options::default(), origin, false),
        (options.clone(), origin, true),
        (options, "https://evil.example", false),
    ] {
        let api = Api::with(options).await;
        let reply = api.call(Method::GET, "/v1/users", &[("origin", named)], "").await;
        let allowed = is_allowed.then_some(origin);
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{reply:?}");
        assert_eq!(reply.header("access-control-allow-credentials"), None);
        // A browser asks before it sends the token.
        let headers = [&preflight[..], &[("origin", named)]].concat();
        let reply = api.call_as(None, Method::OPTIONS, "/v1/users/x", &headers, "").await;
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{reply:?}");
        if is_allowed {
            assert_eq!(reply.status, StatusCode::OK);
            assert!(reply.header("access-control-allow-methods").unwrap().contains("PATCH"));
            assert!(reply.header("access-control-allow-headers").unwrap().contains("if-match"));
        }
    }
}

#[tokio::test]
async fn figures_name_routes_and_never_paths() {
    let api = Api::new().await;
    let (user, _) = api.create("ada@example.com").await;
    api.get(&user).await;
    api.get("/v1/users/nobody").await;
    api.get("/v1/nothing").await;
    api.get("/livez").await;
    for number in 0..3 {
        api.get(&format!("/{number}")).await;
    }
    let request =
        axum::http::Request::builder().uri("/metrics").body(axum::body::Body::empty()).unwrap();
    let reply = operations(api.store.clone(), &api.options).oneshot(request).await.unwrap();
    assert_eq!(reply.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = axum::body::to_bytes(reply.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for sample in [
        r#"tenantry_http_requests_total{method="POST",route="/v1/users",status="201"} 1"#,
        r#"tenantry_http_requests_total{method="GET",route="/v1/users/{id}",status="200"} 1"#,
        r#"tenantry_http_requests_total{method="GET",route="/v1/users/{id}",status="404"} 1"#,
        r#"tenantry_http_requests_total{method="GET",route="/livez",status="200"} 1"#,
        r#"tenantry_http_requests_total{method="GET",route="none",status="404"} 4"#,
        r#"tenantry_http_request_duration_seconds_count{method="GET",route="/v1/users/{id}"} 2"#,
        "tenantry_http_requests_in_flight 1",
        r#"tenantry_store_changes_total{kind="created"} 1"#,
    ] {
        assert!(text.contains(&format!("{sample}\n")), "{sample}: {text}");
    }
    assert!(!text.contains("nobody") && !text.contains('@'), "{text}");
}

/// Every figure of the store is exported, those that are added later as well.
#[tokio::test]
async fn every_figure_of_the_store_is_exported() {
    let api = Api::new().await;
    api.create("ada@example.com").await;
    let figures = serde_json::to_value(api.store.metrics()).unwrap();
    let reply = api.get("/metrics").await;
    assert_eq!(reply.status, StatusCode::OK);
    for (name, value) in figures.as_object().unwrap() {
        let names: Vec<String> = match (name.as_str(), value) {
            ("groups", groups) => {
                groups.as_object().unwrap().keys().map(|key| format!("groups.{key}")).collect()
            }
            _ => vec![name.clone()],
        };
        for name in names {
            let exported = match name.as_str() {
                "groups.count" => "groups_total",
                "groups.writes" => "group_writes_total",
                "groups.largest" => "group_writes_max",
                "groups.by_size" => "groups_by_size_total",
                "commits" => "commits_total",
                "writer_busy_us" => "writer_busy_seconds_total",
                "checkpoints" => "checkpoints_total",
                "checkpoint_us" => "checkpoint_seconds_total",
                "errors" => "errors_total",
                "changes" => "changes_total",
                gauge => gauge,
            };
            assert!(
                reply.text.contains(&format!("# TYPE tenantry_store_{exported} ")),
                "{name}: {}",
                reply.text
            );
        }
    }
}
