//! The shared parts of the examples: the HTTP status of an error, a client for their tests, and the
//! code in docs/embedding.md, which is run as tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use tenantry::{Error, ErrorClass};

/// Returns the HTTP status of an error.
#[must_use]
pub fn status(error: &Error) -> u16 {
    match error.class() {
        ErrorClass::NotFound => 404,
        ErrorClass::Conflict => 409,
        ErrorClass::Invalid => 400,
        ErrorClass::Precondition => 412,
        ErrorClass::Busy | ErrorClass::Unavailable => 503,
        // The cause is for the log of the service.
        _ => 500,
    }
}

/// Sends one request with a body of JSON, and returns the status and the body of the response.
///
/// # Errors
///
/// Fails if the connection does, or if the response has no status.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(server)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the response isn't HTTP");
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok((status, body.to_owned()))
}

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
