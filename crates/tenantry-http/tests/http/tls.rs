//! TLS, with certificates made for the test and curl as the client.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tenantry_http::{Listener, Server, Tls};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::Api;

/// Makes a certificate of its own for `localhost`, and writes it and its key.
fn write_certificate(dir: &Path) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
}

/// A server with TLS on a port of this machine.
struct Served {
    api: Api,
    tls: Tls,
    port: u16,
}

async fn serve() -> Served {
    let api = Api::new().await;
    write_certificate(api.dir.path());
    let tls = Tls::load(&api.dir.path().join("cert.pem"), &api.dir.path().join("key.pem")).unwrap();
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap().with_tls(tls.clone());
    let port = listener.address().unwrap().port();
    assert_eq!(listener.to_string(), format!("https://127.0.0.1:{port}"));
    tokio::spawn(
        Server::new(api.router(), &api.options).serve(vec![listener], std::future::pending()),
    );
    Served { api, tls, port }
}

impl Served {
    /// Gets /livez, and trusts the certificate that is in a file. Returns the version of HTTP and
    /// the status, or curl's exit code.
    async fn get(&self, trusted: &Path, option: &'static str) -> Result<String, i32> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            option,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{response_code}",
        ]);
        curl.arg("--cacert").arg(trusted).arg(format!("https://localhost:{}/livez", self.port));
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(output.status.code().unwrap())
        }
    }
}

/// curl's code for a certificate that isn't trusted.
const UNTRUSTED: Result<String, i32> = Err(60);

#[tokio::test]
async fn http_1_and_http_2_are_negotiated() {
    let served = serve().await;
    let certificate = served.api.dir.path().join("cert.pem");
    assert_eq!(served.get(&certificate, "--http1.1").await, Ok("1.1 200".to_owned()));
    assert_eq!(served.get(&certificate, "--http2").await, Ok("2 200".to_owned()));
}

#[tokio::test]
async fn a_new_certificate_is_used_after_a_reload() {
    let served = serve().await;
    let dir = served.api.dir.path();
    let old = dir.join("old.pem");
    fs::copy(dir.join("cert.pem"), &old).unwrap();
    assert!(!served.tls.reload().unwrap(), "nothing has changed");
    write_certificate(dir);
    assert!(served.get(&old, "--http2").await.is_ok());
    assert!(served.tls.reload().unwrap());
    assert_eq!(served.get(&old, "--http2").await, UNTRUSTED);
    assert_eq!(served.get(&dir.join("cert.pem"), "--http2").await, Ok("2 200".to_owned()));
}

#[tokio::test]
async fn a_broken_certificate_leaves_the_one_in_use() {
    let served = serve().await;
    let dir = served.api.dir.path();
    let old = dir.join("old.pem");
    fs::copy(dir.join("cert.pem"), &old).unwrap();
    let key = fs::read(dir.join("key.pem")).unwrap();
    // The new certificate without its key, as between two files that are written one by one.
    write_certificate(dir);
    let new_key = fs::read(dir.join("key.pem")).unwrap();
    for (name, content) in
        [("key.pem", &key[..]), ("key.pem", b""), ("cert.pem", b"no certificate")]
    {
        fs::write(dir.join(name), content).unwrap();
        let error = served.tls.reload().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        assert!(served.get(&old, "--http2").await.is_ok());
        fs::write(dir.join("key.pem"), &new_key).unwrap();
    }
    fs::remove_file(dir.join("cert.pem")).unwrap();
    let error = served.tls.reload().unwrap_err();
    assert!(error.to_string().contains("cert.pem"), "{error}");
    assert!(served.get(&old, "--http2").await.is_ok());
}

/// The certificate of a renewal is used without a signal.
#[tokio::test]
async fn a_certificate_whose_files_change_is_reloaded() {
    let served = serve().await;
    let dir = served.api.dir.path();
    write_certificate(dir);
    let watching = served.tls.clone();
    let watch = tokio::spawn(async move { watching.watch().await });
    let certificate = dir.join("cert.pem");
    let begin = std::time::Instant::now();
    while served.get(&certificate, "--http2").await == UNTRUSTED {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never happened");
    }
    assert_eq!(served.get(&certificate, "--http2").await, Ok("2 200".to_owned()));
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_cut_off() {
    let served = serve().await;
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut rest = Vec::new();
    while stream.read_buf(&mut rest).await.is_ok_and(|length| length > 0) {}
    // By the clock of the runtime.
    assert!(begin.elapsed() < Duration::from_secs(60));
}
