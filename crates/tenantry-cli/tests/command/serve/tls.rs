//! TLS, as an operator sets it up.

use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;

use super::Service;
use crate::Session;

fn write_certificate(session: &Session) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    session.write("cert.pem", cert.pem());
    session.write("key.pem", signing_key.serialize_pem());
}

/// Returns whether curl reaches the service and trusts its certificate by the one in a file.
fn is_trusted(session: &Session, service: &Service, certificate: &Path) -> bool {
    let port = service.address.rsplit_once(':').unwrap().1;
    let mut curl = session.in_dir("curl");
    curl.args(["--silent", "--fail", "--cacert"])
        .arg(certificate)
        .arg(format!("https://localhost:{port}/livez"));
    curl.output().unwrap().status.success()
}

#[test]
fn a_hangup_reloads_the_certificate_and_ends_nothing() {
    let session = Session::new();
    write_certificate(&session);
    let arguments = ["--listen", "0.0.0.0:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let mut service = Service::start(&session, &arguments);
    assert!(service.address.starts_with("https://"), "{}", service.address);
    let (old, new) = (session.path("old.pem"), session.path("cert.pem"));
    std::fs::copy(&new, &old).unwrap();
    assert!(is_trusted(&session, &service, &new));

    service.signal(Signal::HUP);
    service.await_line("the certificate hasn't changed");
    session.write("cert.pem", "no certificate");
    service.signal(Signal::HUP);
    let reason = service.await_line("the certificate that is in use stays in use: ");
    assert_eq!(reason, "the file of the certificate holds none in PEM");
    assert!(is_trusted(&session, &service, &old));

    write_certificate(&session);
    service.signal(Signal::HUP);
    service.await_line("reloaded the certificate");
    assert!(is_trusted(&session, &service, &new) && !is_trusted(&session, &service, &old));
    service.end();
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let session = Session::new();
    write_certificate(&session);
    let serve = |key: &str| session.run(&["serve", "--tls-cert", "cert.pem", "--tls-key", key]);
    let (code, _, stderr) = serve("missing.pem");
    assert_eq!(code, 1);
    assert!(stderr.contains("missing.pem: No such file"), "{stderr}");
    let (code, _, stderr) = serve("cert.pem");
    assert_eq!(code, 1);
    assert!(stderr.contains("the file of the key holds no private key"), "{stderr}");
    let (code, ..) = session.run(&["serve", "--tls-cert", "cert.pem"]);
    assert_eq!(code, 2);
    assert!(!session.path("data").exists(), "a store was created all the same");
}
