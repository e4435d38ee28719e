//! What systemd gives a service, and hears from it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use rustix::process::Signal;

use super::{Service, local, request};
use crate::{Session, wait_until};

/// The socket on which systemd hears of a service.
struct Manager(UnixDatagram);

impl Manager {
    fn new(session: &Session) -> Self {
        let socket = UnixDatagram::bind(session.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    fn hear(&self) -> String {
        let mut message = [0; 256];
        let length = self.0.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim_end().to_owned()
    }
}

#[test]
fn systemd_hears_of_the_start_the_watchdog_and_the_end() {
    let session = Session::new();
    let manager = Manager::new(&session);
    let mut command = session.tenantry(&["serve"]);
    command.env("NOTIFY_SOCKET", session.path("notify")).env("WATCHDOG_USEC", "300000");
    let mut service = Service::spawn(&session, command);
    // The watchdog may be heard of before the start is.
    let first = [manager.hear(), manager.hear()];
    assert!(
        first.contains(&"READY=1".to_owned()) && first.contains(&"WATCHDOG=1".to_owned()),
        "{first:?}"
    );
    for _ in 0..3 {
        assert_eq!(manager.hear(), "WATCHDOG=1");
    }
    // A store that writes nothing more until it is opened again.
    std::fs::remove_file(session.path("data/tenantry.db")).unwrap();
    service.await_text("the watchdog isn't notified");
    service.await_text("the watchdog isn't notified");
    service.signal(Signal::TERM);
    let mut heard = manager.hear();
    while heard == "WATCHDOG=1" {
        heard = manager.hear();
    }
    assert_eq!(heard, "STOPPING=1");
    service.wait();
}

#[test]
fn sockets_that_systemd_opened_are_used() {
    let session = Session::new();
    // As systemd starts a service.
    let script = r#"
import os, socket, sys
tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
tcp.bind(("127.0.0.1", 0)); unix.bind("inherited.sock")
for index, opened in enumerate([tcp, unix]):
    opened.listen()
    os.dup2(opened.fileno(), 10 + index)
for index in range(2):
    os.dup2(10 + index, 3 + index)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])
"#;
    let mut command = session.in_dir("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_tenantry"), "serve"]);
    let mut service = Service::spawn(&session, command);
    let second = service.await_line("listening on unix:");
    let address = service.address.strip_prefix("http://").unwrap();
    assert_eq!(request(TcpStream::connect(address).unwrap(), "GET", "/livez", "").unwrap().0, 200);
    let socket = session.path(&second);
    assert_eq!(local(&socket, "GET", "/v1/users", "").unwrap().0, 200);
    assert!(!session.path("data/tenantry.sock").exists());
    service.end();
    assert!(socket.exists(), "the file of the socket is systemd's");
}

/// Traffic stops before the service does, since whoever asks sees that it isn't ready.
#[test]
fn a_service_that_ends_is_not_ready_and_finishes_what_runs() {
    let session = Session::new();
    let mut service = Service::start(&session, &["--metrics-listen", "unix:metrics.sock"]);
    let metrics = session.path("metrics.sock");
    assert_eq!(local(&metrics, "GET", "/readyz", "").unwrap().0, 200);
    let body = r#"{"email":"ada@example.com"}"#;
    let mut stream = UnixStream::connect(service.socket()).unwrap();
    let head = "POST /v1/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let length = body.len();
    stream
        .write_all(
            format!("{head}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    service.signal(Signal::TERM);
    wait_until("the service isn't ready", || {
        local(&metrics, "GET", "/readyz", "").unwrap().0 == 503
    });
    assert_eq!(local(&metrics, "GET", "/livez", "").unwrap().0, 200);
    wait_until("the service accepts no more connections", || {
        UnixStream::connect(service.socket()).is_err()
    });
    stream.write_all(body.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    assert_eq!(service.wait().0.code(), Some(0));
    assert!(!metrics.exists());
    assert!(session.output(&["user", "list"]).contains("ada@example.com"));
}
