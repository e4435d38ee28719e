//! The server: its socket, its limits, its end.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tenantry_http::Listener;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Api, exchange, serve};

#[tokio::test]
async fn the_owner_of_the_process_needs_no_token_on_the_socket() {
    let api = Api::new().await;
    let running = serve(&api);
    assert_eq!(std::fs::metadata(&running.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let reply =
        exchange(&running.socket, "GET /v1/users HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
    assert!(
        reply.starts_with("HTTP/1.1 200 OK\r\n")
            && reply.contains(r#"{"users":[],"next_cursor":null,"changes_cursor":"c1-"#),
        "{reply}"
    );
    running.end.send(()).unwrap();
    assert!(running.served.await.unwrap());
    assert!(!running.socket.exists());
}

#[tokio::test]
async fn a_socket_of_a_killed_process_is_replaced_and_one_in_use_is_not() {
    let api = Api::new().await;
    let path = api.dir.path().join("test.sock");
    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let running = serve(&api);
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    running.end.send(()).unwrap();
    running.served.await.unwrap();
    std::fs::write(&path, "of somebody else").unwrap();
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"of somebody else");
    let left = std::fs::read_dir(api.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".tenantry-")));
}

/// A client that sends the head byte by byte (slow loris).
#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    let api = Api::new().await;
    let running = serve(&api);
    let before = tokio::time::Instant::now();
    let reply = exchange(&running.socket, "GET /v1/users HTTP/1.1\r\nHost").await;
    assert!(!reply.contains("200"), "{reply}");
    // By the clock of the runtime, which jumps while everything waits.
    assert!(before.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused() {
    let api = Api::new().await;
    let running = serve(&api);
    let long =
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(17 << 10));
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(64));
    for text in [long, many] {
        let reply = exchange(&running.socket, &text).await;
        assert!(reply.starts_with("HTTP/1.1 431 "), "{}", &reply[..reply.len().min(200)]);
    }
}

#[tokio::test]
async fn requests_that_run_are_ended_before_the_service_is() {
    let api = Api::new().await;
    let running = serve(&api);
    // Half a request runs already: its body is still to come.
    let body = r#"{"email":"ada@example.com"}"#;
    let mut stream = UnixStream::connect(&running.socket).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    );
    stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut stream = tokio::task::spawn_blocking(move || {
        let mut reply = [0; 25];
        // The server asks for the body when the handler waits for it.
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    })
    .await
    .unwrap();
    running.end.send(()).unwrap();
    while running.socket.exists() {
        tokio::task::yield_now().await;
    }
    stream.write_all(body.as_bytes()).unwrap();
    let reply = tokio::task::spawn_blocking(move || {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    });
    assert!(reply.await.unwrap().starts_with("HTTP/1.1 201 Created\r\n"));
    assert!(running.served.await.unwrap());
    assert_eq!(api.store.count().await.unwrap(), 1);
}

/// Connections without a request, of which some had one and some never did, don't delay the end.
#[tokio::test]
async fn idle_connections_end_with_the_service() {
    let api = Api::new().await;
    let running = serve(&api);
    let mut silent = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    let mut half = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut kept = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"ok\n") {
        assert_ne!(kept.read_buf(&mut reply).await.unwrap(), 0);
    }
    running.end.send(()).unwrap();
    assert!(running.served.await.unwrap());
    for stream in [&mut silent, &mut half, &mut kept] {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_are_cut_off_with_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("test.sock");
    let listener = Listener::unix(&socket).unwrap();
    let (began, mut begins) = tokio::sync::mpsc::channel(1);
    let never = async move || {
        began.send(()).await.unwrap();
        std::future::pending::<()>().await;
    };
    let router = axum::Router::new().route("/", axum::routing::get(never));
    let server = tenantry_http::Server::new(router, &tenantry_http::Options::default());
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let end = async { begins.recv().await.unwrap() };
    assert!(!server.serve(vec![listener], end).await, "a request that never ends has ended");
    // A successor may listen there.
    assert!(!socket.exists());
}
