//! What clients can't do to the server: hold it up, or fill it.
//!
//! The clock of the runtime jumps while everything waits, so no test waits for a limit. It may jump
//! while the store works too, which is why requests to the store are made before it is stopped.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::support::{Api, exchange, serve};

/// Returns whether the server closes the connection within so many seconds, without reading.
async fn is_closed_within(stream: &UnixStream, seconds: u64) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        tokio::time::advance(Duration::from_secs(1)).await;
        // What the server has to do at that moment.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        match stream.try_write(b"x") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return true,
            _ => {}
        }
    }
    false
}

/// hyper doesn't look at the clock before the first byte.
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_byte_is_closed() {
    let api = Api::new().await;
    let running = serve(&api);
    for begin in ["", "PRI * HT"] {
        let before = Instant::now();
        assert_eq!(exchange(&running.socket, begin).await, "");
        assert!(before.elapsed() < Duration::from_secs(90), "{begin}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_cut_off() {
    let api = Api::new().await;
    let running = serve(&api);
    let head = "POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = exchange(&running.socket, &format!("{head}1\r\n{{\r\n")).await;
    assert!(
        reply.starts_with("HTTP/1.1 408 ") && reply.contains("/problems/body-timeout"),
        "{reply}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let api = Api::new().await;
    // More than a socket holds.
    for number in 0..1_000 {
        api.store
            .create(tenantry::NewUser::new(format!("user{number}@example.com").parse().unwrap()))
            .await
            .unwrap();
    }
    let running = serve(&api);
    let mut stream = UnixStream::connect(&running.socket).await.unwrap();
    stream.write_all(b"GET /v1/users?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    tokio::time::pause();
    assert!(is_closed_within(&stream, 90).await);
}

/// With a window of 0 the client takes nothing of a response, and its connection is alive by its
/// answers to pings.
#[tokio::test]
async fn an_http2_client_that_opens_no_window_is_cut_off() {
    let api = Api::new().await;
    let running = serve(&api);
    let mut stream = UnixStream::connect(&running.socket).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // SETTINGS with INITIAL_WINDOW_SIZE = 0.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    // HEADERS of stream 1, at its end: GET http://x/
    let headers = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 1, b'x'];
    stream.write_all(&[&preface[..], &settings[..], &headers[..]].concat()).await.unwrap();
    // The head of the response comes, without the body.
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.unwrap();
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let kind = frame[3];
        assert_ne!(kind, 0, "a body was sent");
        if kind == 1 {
            break;
        }
    }
    tokio::time::pause();
    let begin = Instant::now();
    // Sooner than its pings are missed.
    let mut rest = Vec::new();
    while stream.read_buf(&mut rest).await.is_ok_and(|length| length > 0) {}
    assert!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_url_beyond_the_limit_is_refused() {
    let api = Api::new().await;
    let reply = api.get(&format!("/v1/users?cursor={}", "x".repeat(8 << 10))).await;
    assert_eq!((reply.status, reply.problem()), (StatusCode::URI_TOO_LONG, "uri-too-long"));
    let reply = api.get(&format!("/v1/users?cursor={}", "x".repeat(8_000))).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

/// As many connections as the limit are served, and the next one when one of them ends.
#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let api = Api::new().await;
    let socket = api.dir.path().join("test.sock");
    let listener = tenantry_http::Listener::unix(&socket).unwrap();
    let server = tenantry_http::Server::new(api.router(), &api.options).connections_max(2);
    tokio::spawn(server.serve(vec![listener], std::future::pending()));
    let get = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let answered = async |stream: &mut UnixStream| {
        let mut reply = Vec::new();
        while !reply.ends_with(b"ok\n") {
            assert_ne!(stream.read_buf(&mut reply).await.unwrap(), 0);
        }
        assert!(reply.starts_with(b"HTTP/1.1 200 OK"));
    };
    let ask = async |stream: &mut UnixStream| {
        stream.write_all(get).await.unwrap();
        answered(stream).await;
    };
    let mut first = UnixStream::connect(&socket).await.unwrap();
    let mut second = UnixStream::connect(&socket).await.unwrap();
    ask(&mut first).await;
    ask(&mut second).await;
    let mut third = UnixStream::connect(&socket).await.unwrap();
    third.write_all(get).await.unwrap();
    // The others are served on, and nobody has accepted the third.
    ask(&mut first).await;
    ask(&mut second).await;
    assert_eq!(third.try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    answered(&mut third).await;
}
