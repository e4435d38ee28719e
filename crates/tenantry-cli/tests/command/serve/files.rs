//! Users' files through the service as a process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::{MEMORY_MAX_KIB, memory_kib};
use super::{Service, exchange, local};
use crate::Session;

/// How many downloads wait for clients that don't read, and how many uploads for clients that
/// don't send.
const DOWNLOADS: usize = 1_000;
const UPLOADS: usize = 300;
/// More than a socket holds, so that the service has begun with a body of which this was sent.
const BEYOND_A_SOCKET: usize = 512 << 10;

/// There are fewer threads for file work than downloads, and as chunks they would take more memory
/// than there may be.
#[test]
fn a_thousand_unread_downloads_and_paused_uploads_keep_the_memory_flat() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let session = Session::new();
    let service =
        Service::start(&session, &["--listen", "unix:t.sock", "--max-connections", "1400"]);
    let socket = service.socket();
    let (status, user) =
        local(&socket, "POST", "/v1/users", r#"{"email":"ada@example.com"}"#).unwrap();
    assert_eq!(status, 201);
    let files = format!("/v1/users/{}/files", user["id"].as_str().unwrap());
    let connect = || UnixStream::connect(&socket).unwrap();
    let large = "x".repeat(4 << 20);
    let put = exchange(connect(), "PUT", &format!("{files}/large"), &large).unwrap();
    assert!(put.starts_with("HTTP/1.1 201 "), "{put}");

    let mut held = Vec::new();
    for _ in 0..DOWNLOADS {
        let mut stream = connect();
        write!(stream, "GET {files}/large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        held.push(stream);
    }
    for stream in &mut held {
        let mut begun = [0; 15];
        stream.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200 OK");
    }
    for number in 0..UPLOADS {
        let mut stream = connect();
        write!(
            stream,
            "PUT {files}/{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&large.as_bytes()[..BEYOND_A_SOCKET]).unwrap();
        held.push(stream);
    }
    // Those who behave are served meanwhile.
    assert_eq!(local(&socket, "PUT", &format!("{files}/small"), "hello").unwrap().0, 201);
    assert!(exchange(connect(), "GET", &format!("{files}/small"), "").unwrap().ends_with("hello"));
    let memory = memory_kib(service.child.id());
    assert!(memory <= MEMORY_MAX_KIB, "{memory} KiB");
    drop(held);
    service.end();
}
