//! `tenantry serve`: the service as an operator starts and ends it.

mod files;
mod load;
mod metrics;
mod systemd;
mod tls;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Session, wait_until};

/// A service that runs. It is killed if the test ends before it.
pub(super) struct Service {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Where it listens first.
    address: String,
    /// Where its figures are.
    metrics: Option<String>,
    dir: PathBuf,
}

impl Service {
    /// Starts the service, and waits until it listens.
    pub(super) fn start(session: &Session, arguments: &[&str]) -> Self {
        let mut command = session.tenantry(&["serve"]);
        command.args(arguments);
        Self::spawn(session, command)
    }

    pub(super) fn spawn(session: &Session, mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let dir = session.dir.path().to_owned();
        let mut service = Self { child, stderr, address: String::new(), metrics: None, dir };
        service.address = service.await_line("listening on ");
        service
    }

    /// Waits for a line on standard error, and returns what follows its beginning.
    fn await_line(&mut self, beginning: &str) -> String {
        self.find(beginning, |line| line.strip_prefix(beginning).map(str::to_owned))
    }

    /// Waits for a line on standard error with a text.
    fn await_text(&mut self, text: &str) {
        self.find(text, |line| line.contains(text).then_some(()));
    }

    fn find<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let mut lines = String::new();
        loop {
            let begin = lines.len();
            let length = self.stderr.read_line(&mut lines).unwrap();
            assert!(length > 0, "it ended without {what:?}: {lines}");
            let line = lines[begin..].trim_end();
            if let Some(address) = line.strip_prefix("metrics on ") {
                self.metrics = Some(address.to_owned());
            }
            if let Some(found) = wanted(line) {
                return found;
            }
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join(self.address.strip_prefix("unix:").unwrap())
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end. Returns the exit status, and what else is on standard error.
    fn wait(&mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }

    /// Ends it by SIGTERM.
    pub(super) fn end(mut self) {
        self.signal(Signal::TERM);
        let (status, rest) = self.wait();
        assert_eq!(status.code(), Some(0), "{rest}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a request over a connection of its own. Returns the status and the body, or nothing if the
/// service went away before it answered.
fn request(
    stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> Option<(u16, Value)> {
    let reply = exchange(stream, method, path, body)?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// As [`request`], and returns the whole response.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Option<String> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let entity =
        format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(format!("{head}{entity}").as_bytes()).ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    Some(String::from_utf8(reply).unwrap())
}

pub(super) fn local(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    request(UnixStream::connect(socket).ok()?, method, path, body)
}

/// The session of docs/http.md, by a person who has curl alone.
#[test]
fn a_person_with_curl_creates_finds_changes_deletes_restores_and_writes_a_file() {
    let session = Session::new();
    let service = Service::start(&session, &["--data-dir", "app"]);
    assert_eq!(service.socket(), session.path("app/tenantry.sock"));
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, script) = document.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```\n").unwrap();
    let output = session.in_dir("bash").args(["-euc", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for part in [
        r#""email":"ada@example.com""#,
        r#""email":"ada@example.org""#,
        r#""type":"/problems/version-mismatch""#,
        r#""current_version":2"#,
        "too late\n",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!printed.contains("ada@example.net") && printed.ends_with("hello\n"), "{printed}");
    let restored = session.output(&["--data-dir", "app", "user", "get", "ada@example.org"]);
    assert!(restored.contains(r#""version":2"#), "{restored}");
    service.end();
}

#[test]
fn a_signal_ends_the_service_with_exit_code_0_and_removes_its_socket() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let session = Session::new();
        let mut service = Service::start(&session, &["--listen", "unix:other.sock"]);
        let socket = service.socket();
        assert_eq!(socket, session.path("other.sock"));
        assert_eq!(local(&socket, "GET", "/readyz", "").unwrap().0, 200);
        service.signal(signal);
        let (status, rest) = service.wait();
        assert_eq!((status.code(), &*rest), (Some(0), ""), "{signal:?}");
        assert!(!socket.exists());
    }
}

#[test]
fn a_second_signal_ends_a_service_that_drains() {
    let session = Session::new();
    let mut service = Service::start(&session, &[]);
    // A request whose body never comes keeps the service from ending.
    let mut stream = UnixStream::connect(service.socket()).unwrap();
    let head = "POST /v1/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n";
    stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    service.signal(Signal::TERM);
    wait_until("the service accepts no more connections", || {
        UnixStream::connect(service.socket()).is_err()
    });
    service.signal(Signal::TERM);
    assert_eq!(service.wait().0.code(), Some(143));
}

#[test]
fn a_second_service_on_the_same_socket_is_refused() {
    let session = Session::new();
    let service = Service::start(&session, &[]);
    let (code, _, stderr) = session.run(&["serve"]);
    assert_eq!(
        (code, &*stderr),
        (1, "error: data/tenantry.sock: another process listens on this socket\n")
    );
    assert_eq!(local(&service.socket(), "GET", "/livez", "").unwrap().0, 200);
    service.end();
}

#[test]
fn the_socket_is_in_the_runtime_directory_of_a_service() {
    let session = Session::new();
    let runtime = tempfile::tempdir().unwrap();
    let mut command = session.tenantry(&["serve"]);
    command.env("RUNTIME_DIRECTORY", format!("{}:/nowhere", runtime.path().display()));
    let service = Service::spawn(&session, command);
    assert_eq!(service.socket(), runtime.path().join("tenantry.sock"));
    service.end();
}

#[test]
fn checks_and_backups_disregard_the_socket_in_the_data_directory() {
    let session = Session::new();
    let service = Service::start(&session, &[]);
    assert_eq!(
        local(&service.socket(), "POST", "/v1/users", r#"{"email":"ada@example.com"}"#).unwrap().0,
        201
    );
    let (code, _, stderr) = session.run(&["check"]);
    assert_eq!((code, &*stderr), (0, "all is well: 1 user, 0 in the trash, 0 directories\n"));
    session.output(&["backup", "create", "backup.tar.zst"]);
    session.output(&["backup", "restore", "backup.tar.zst", "--into", "restored"]);
    assert!(service.socket().exists() && !session.path("restored/tenantry.sock").exists());
    service.end();
}

/// Another user's processes have no token, whatever the rights of the socket are.
#[test]
fn another_user_on_the_socket_is_refused() {
    if !super::is_root("to be another user") {
        return;
    }
    let session = Session::new();
    let service = Service::start(&session, &[]);
    let open = |path: &Path, mode: &str| {
        assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    };
    open(session.dir.path(), "755");
    open(&session.path("data"), "755");
    open(&service.socket(), "666");
    let curl = |user: u32| {
        let mut command = session.in_dir("setpriv");
        command.args([
            "--reuid",
            &user.to_string(),
            "--clear-groups",
            "curl",
            "--silent",
            "--unix-socket",
        ]);
        let output =
            command.arg(service.socket()).arg("http://localhost/v1/users").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = curl(65534);
    assert!(refused.contains("/problems/unauthorized"), "{refused}");
    let accepted = curl(0);
    assert!(accepted.contains(r#""users":[]"#), "{accepted}");
    service.end();
}

#[test]
fn nobody_is_known_on_tcp_without_a_token() {
    let session = Session::new();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let service = Service::start(&session, &["--listen", listen]);
        let address = service.address.strip_prefix("http://").unwrap();
        let get = |path| request(TcpStream::connect(address).unwrap(), "GET", path, "").unwrap();
        assert_eq!(get("/livez").0, 200);
        let (status, problem) = get("/v1/users");
        assert_eq!((status, problem["type"].as_str()), (401, Some("/problems/unauthorized")));
        service.end();
    }
}

#[test]
fn an_address_that_other_machines_reach_is_refused_without_encryption() {
    let session = Session::new();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let (code, _, stderr) =
            session.run(&["serve", "--listen", "127.0.0.1:0", "--listen", listen]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(&format!("other machines can reach {listen}")), "{stderr}");
        assert!(!session.path("data").exists(), "a store was created all the same");
    }
    Service::start(&session, &["--listen", "0.0.0.0:0", "--insecure-http"]).end();
    let (code, _, stderr) = session.run(&["serve", "--listen", "localhost"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("expected unix:PATH or IP:PORT"), "{stderr}");
}

#[test]
fn more_connections_than_the_system_allows_are_refused() {
    let session = Session::new();
    let serve = |limit: &str, arguments: &str| {
        let mut command = session.in_dir("bash");
        command.args(["-c", &format!("ulimit {limit}; exec tenantry serve {arguments}")]);
        command
    };
    let refused = serve("-n 200", "--max-connections 100").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let expected = "--max-connections 100 needs 228 open files, and the system allows 200";
    assert!(String::from_utf8(refused.stderr).unwrap().contains(expected));
    assert!(!session.path("data").exists(), "a store was created all the same");
    // Without a number, there are as many as possible, and a low limit is raised.
    Service::spawn(&session, serve("-n 200", "")).end();
    Service::spawn(&session, serve("-Sn 200", "--max-connections 1000")).end();
}

#[test]
fn the_log_has_a_line_for_each_request_and_no_address() {
    let session = Session::new();
    let mut service = Service::start(&session, &["-v"]);
    assert_eq!(
        local(&service.socket(), "POST", "/v1/users", r#"{"email":"ada@example.com"}"#).unwrap().0,
        201
    );
    service.signal(Signal::TERM);
    let (_, log) = service.wait();
    assert!(log.contains("route=\"/v1/users\" status=201") && !log.contains('@'), "{log}");
    // Without -v only warnings are there.
    let mut service = Service::start(&session, &[]);
    assert_eq!(local(&service.socket(), "GET", "/v1/users", "").unwrap().0, 200);
    std::fs::remove_file(session.path("data/tenantry.db")).unwrap();
    assert_eq!(local(&service.socket(), "GET", "/readyz", "").unwrap().0, 503);
    service.signal(Signal::TERM);
    let (_, log) = service.wait();
    assert!(log.contains("not ready") && !log.contains("route="), "{log}");
}

#[test]
fn a_killed_service_has_every_user_that_it_answered_for() {
    const CALLERS: usize = 8;
    const ANSWERS_BEFORE_KILL: u64 = 300;
    let session = Session::new();
    let mut service = Service::start(&session, &[]);
    let socket = service.socket();
    let answered = Mutex::new(BTreeSet::new());
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (socket, answered, count) = (&socket, &answered, &count);
            scope.spawn(move || {
                for number in 0.. {
                    let email = format!("user{caller}-{number}@example.com");
                    let body = format!(r#"{{"email":"{email}"}}"#);
                    let Some((status, _)) = local(socket, "POST", "/v1/users", &body) else {
                        return;
                    };
                    assert_eq!(status, 201);
                    answered.lock().unwrap().insert(email);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("enough users are created", || {
            count.load(Ordering::Relaxed) >= ANSWERS_BEFORE_KILL
        });
        service.signal(Signal::KILL);
    });
    service.wait();
    let exported = session.output(&["export", "-", "--to", "jsonl"]);
    let exported = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let exported: BTreeSet<String> =
        exported.map(|user| user["email"].as_str().unwrap().to_owned()).collect();
    let answered = answered.into_inner().unwrap();
    assert!(
        answered.is_subset(&exported),
        "lost: {:?}",
        answered.difference(&exported).collect::<Vec<_>>()
    );
    // The socket that it left doesn't keep the next one from starting.
    assert!(socket.exists());
    Service::start(&session, &[]).end();
}
