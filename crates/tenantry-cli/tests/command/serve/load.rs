//! Everything at once that clients may do to hold a service up, and the memory that it takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::metrics::scrape;
use super::{Service, local};
use crate::{Session, wait_until};

/// What docs/operating.md names: the most memory that a service takes under all of this.
pub(super) const MEMORY_MAX_KIB: u64 = 150 << 10;

/// Connections of each kind, which take a descriptor in this process too.
struct Numbers {
    idle: u64,
    heads: u64,
    bodies: u64,
    unread: u64,
}

impl Numbers {
    fn new() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(u64::MAX);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        // The service has as many, and some of its own.
        let wanted = if std::env::var_os("TENANTRY_LONG").is_some() { 10_000 } else { 3_000 };
        let idle = wanted.min(most.saturating_sub(1_200));
        Self { idle, heads: 300, bodies: 200, unread: 300 }
    }

    fn sum(&self) -> u64 {
        self.idle + self.heads + self.bodies + self.unread
    }
}

/// Returns the most memory that a process had, in KiB.
pub(super) fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// A user for a page that is as long as there are.
fn fill(session: &Session) {
    let mut file = String::from("email\n");
    for number in 0..1_000 {
        file.push_str(&format!("user{number}@example.com\n"));
    }
    session.write("users.csv", file);
    session.output(&["import", "users.csv"]);
}

#[test]
fn slow_idle_and_greedy_clients_together_neither_stop_nor_swell_the_service() {
    let session = Session::new();
    fill(&session);
    let numbers = Numbers::new();
    let most = (numbers.sum() + 50).to_string();
    let mut service = Service::start(
        &session,
        &[
            "--listen",
            "unix:t.sock",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--max-connections",
            &most,
        ],
    );
    let tcp = service.await_line("listening on http://");
    let (socket, metrics) = (service.socket(), service.metrics.take().unwrap());

    let mut held: Vec<Box<dyn Read>> = Vec::new();
    for _ in 0..numbers.idle {
        held.push(Box::new(TcpStream::connect(&tcp).unwrap()));
    }
    for _ in 0..numbers.heads {
        let mut stream = TcpStream::connect(&tcp).unwrap();
        write!(
            stream,
            "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: {}",
            "x".repeat(12 << 10)
        )
        .unwrap();
        held.push(Box::new(stream));
    }
    for _ in 0..numbers.bodies {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let head = "POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n";
        write!(stream, "{head}{}", " ".repeat(60 << 10)).unwrap();
        held.push(Box::new(stream));
    }
    for _ in 0..numbers.unread {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"GET /v1/users?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        held.push(Box::new(stream));
    }
    // Those that were closed for their idleness meanwhile were served as well.
    let accepted = || {
        let text = scrape(&metrics);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("tenantry_http_connections_accepted_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    wait_until("all connections are accepted", || accepted() >= numbers.sum());
    // Those who behave are served meanwhile.
    assert_eq!(local(&socket, "GET", "/livez", "").unwrap().0, 200);
    assert_eq!(
        local(&socket, "POST", "/v1/sign-in", r#"{"email":"ada@example.com"}"#).unwrap().0,
        201
    );
    assert_eq!(local(&socket, "GET", "/v1/users?limit=50", "").unwrap().0, 200);
    // Large responses wait for those that nobody reads.
    wait_until("a large response is refused", || {
        let (status, problem) = local(&socket, "GET", "/v1/users?limit=1000", "").unwrap();
        status == 503 && problem["type"] == "/problems/overloaded"
    });
    let memory = memory_kib(service.child.id());
    assert!(memory <= MEMORY_MAX_KIB, "{memory} KiB");
    drop(held);
    service.end();
}
