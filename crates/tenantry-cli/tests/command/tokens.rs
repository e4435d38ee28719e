//! `tenantry token`, beside a service that knows its clients by what it makes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::Session;
use super::serve::Service;

/// Requests the list of users with a token, and returns the status.
fn list_users(service: &Service, secret: &str) -> u16 {
    let mut stream = UnixStream::connect(service.socket()).unwrap();
    let head = "GET /v1/users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    stream
        .write_all(format!("{head}Authorization: Bearer {}\r\n\r\n", secret.trim_end()).as_bytes())
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The service looked the token up a moment before, and is told nothing.
#[test]
fn a_revocation_by_the_command_holds_at_once_in_a_service_that_runs() {
    let session = Session::new();
    let service = Service::start(&session, &[]);
    for round in 0..5 {
        let name = format!("client-{round}");
        let secret = session.output(&["token", "create", &name, "--scope", "users:read"]);
        assert_eq!(list_users(&service, &secret), 200);
        let rotated = session.output(&["token", "rotate", &name, "--overlap", "0s"]);
        assert_eq!((list_users(&service, &secret), list_users(&service, &rotated)), (401, 200));
        session.output(&["token", "revoke", &name]);
        assert_eq!(list_users(&service, &rotated), 401);
    }
    let purging = session.output(&["token", "create", "purging", "--scope", "users:purge"]);
    assert_eq!(list_users(&service, &purging), 403);
    session.output(&["token", "revoke", "--all", "--yes"]);
    assert_eq!(list_users(&service, &purging), 401);
    service.end();
}

#[test]
fn a_secret_is_alone_on_standard_output_and_in_nothing_else() {
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    let (code, secret, said) =
        session.run(&["token", "create", "billing", "--scope", "users:read", "-vvv"]);
    assert_eq!((code, secret.len(), secret.ends_with('\n')), (0, 54, true), "{said}");
    let random = &secret[4..47];
    assert!(!said.contains(random) && said.contains("created the token billing"), "{said}");
    for format in ["table", "wide", "json", "jsonl", "csv"] {
        let list = session.output(&["token", "list", "-o", format]);
        assert!(list.contains("billing") && !list.contains(random), "{list}");
    }
}
