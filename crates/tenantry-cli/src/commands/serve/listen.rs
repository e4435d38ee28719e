//! Where the service listens, and for how many.

use std::env;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tenantry_http::{Listener, Tls};

use super::systemd::Inherited;
use crate::args::{Address, Serve};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::stdio::report;

/// The name of the socket in the runtime directory or, without one, in the data directory.
const SOCKET: &str = "tenantry.sock";
/// The number of connections without `--max-connections`.
const CONNECTIONS: u64 = 1_024;
/// The descriptors that the process needs besides those of connections: for the store, its readers,
/// the directories of users in use, and the listeners.
const OTHER_DESCRIPTORS: u64 = 128;

/// What the service listens on.
pub(super) struct Listeners {
    pub(super) service: Vec<Listener>,
    pub(super) operations: Vec<Listener>,
}

/// Refuses arguments that would put the store on a network unprotected.
pub(super) fn check(args: &Serve, inherited: &[Inherited]) -> Result<(), Failure> {
    if args.insecure_http || args.tls_cert.is_some() {
        return Ok(());
    }
    let inherited = inherited.iter().filter_map(Inherited::address);
    let named =
        args.listen.iter().chain(&args.metrics_listen).filter_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        });
    match named.chain(inherited).find(|address| !is_local(address)) {
        None => Ok(()),
        Some(address) => Err(Failure::new(
            Exit::Usage,
            format!(
                "other machines can reach {address}, and nothing would be encrypted: name a certificate with \
                 --tls-cert, listen on 127.0.0.1 behind a proxy that encrypts, or allow it with --insecure-http"
            ),
        )),
    }
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Returns how many connections to serve at once, and raises the limit of open files for them.
pub(super) fn connections_max(named: Option<u32>) -> Result<usize, Failure> {
    let limit = getrlimit(Resource::Nofile);
    let (wanted, most) = (named.map_or(CONNECTIONS, u64::from), limit.maximum.unwrap_or(u64::MAX));
    let needed = wanted + OTHER_DESCRIPTORS;
    if named.is_some() && needed > most {
        let message = format!(
            "--max-connections {wanted} needs {needed} open files, and the system allows {most}"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    if limit.current.is_some_and(|current| current < needed) {
        // Without it, connections wait until others end.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(needed.min(most)), ..limit });
    }
    let possible = wanted.min(most.saturating_sub(OTHER_DESCRIPTORS)).max(1);
    Ok(usize::try_from(possible).unwrap_or(usize::MAX))
}

/// Listens on what was inherited and named or, without either, on the default socket.
pub(super) fn listen(
    dir: &DataDir,
    args: &Serve,
    inherited: Vec<Inherited>,
    tls: Option<Tls>,
) -> Result<Listeners, Failure> {
    let encrypted = |listener: Listener| match &tls {
        Some(tls) if listener.address().is_some() => listener.with_tls(tls.clone()),
        _ => listener,
    };
    let mut service = Vec::new();
    for socket in inherited {
        service.push(encrypted(socket.listener()?));
    }
    for address in &args.listen {
        service.push(encrypted(bind(address)?));
    }
    if service.is_empty() {
        service.push(bind(&default_address(dir))?);
    }
    let mut operations = Vec::new();
    if let Some(address) = &args.metrics_listen {
        let listener = bind(address)?;
        // What watches on this machine needs no certificate for 127.0.0.1.
        let is_local = listener.address().is_none_or(|address| is_local(&address));
        let listener = if is_local { listener } else { encrypted(listener) };
        report!("metrics on {listener}");
        operations.push(listener);
    }
    Ok(Listeners { service, operations })
}

fn bind(address: &Address) -> Result<Listener, Failure> {
    let failed = |what: &dyn Display, error| Failure::io(what, &error);
    match address {
        Address::Unix(path) => Listener::unix(path).map_err(|error| failed(&path.display(), error)),
        Address::Tcp(address) => Listener::tcp(*address).map_err(|error| failed(address, error)),
    }
}

/// Returns the socket where systemd wants those of a service (`RuntimeDirectory=`), or else in the
/// data directory.
fn default_address(dir: &DataDir) -> Address {
    let runtime = env::var_os("RUNTIME_DIRECTORY").filter(|dirs| !dirs.is_empty());
    let runtime: Option<PathBuf> = runtime.and_then(|dirs| env::split_paths(&dirs).next());
    Address::Unix(runtime.unwrap_or_else(|| dir.data_dir().to_owned()).join(SOCKET))
}
