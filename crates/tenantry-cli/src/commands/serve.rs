//! `tenantry serve`: the store over HTTP, until a signal ends it.

use std::env;
use std::future::pending;

use signal_hook::consts::SIGHUP;
use tenantry::Store;
use tenantry_http::{Listener, Options, Server, router};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Address, Serve};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::interrupt::{self, Interrupt};
use crate::stdio::report;

/// The name of the socket in the runtime directory or, without one, in the data directory.
const SOCKET: &str = "tenantry.sock";

/// Serves the store until SIGTERM, SIGINT or SIGHUP, and then lets the requests that run come to
/// their end. A second signal ends the process at once.
pub(super) fn run(dir: &DataDir, args: Serve) -> Result<(), Failure> {
    check(&args)?;
    let runtime = Runtime::new().map_err(|error| Failure::io("starting the threads of the service", &error))?;
    let interrupt = Interrupt::listen();
    let served = runtime.block_on(serve(dir, args, &interrupt));
    // Whatever doesn't end by itself must not keep the process.
    runtime.shutdown_background();
    served
}

/// Refuses arguments that would put the store on a network unprotected.
fn check(args: &Serve) -> Result<(), Failure> {
    let is_open = |address: &&Address| matches!(address, Address::Tcp(address) if !address.ip().is_loopback());
    match args.listen.iter().find(is_open) {
        Some(Address::Tcp(address)) if !args.insecure_http => Err(Failure::new(
            Exit::Usage,
            format!(
                "other machines can reach {address}, and nothing would be encrypted: listen on 127.0.0.1 behind a \
                 proxy that encrypts, or allow it with --insecure-http"
            ),
        )),
        _ => Ok(()),
    }
}

async fn serve(dir: &DataDir, args: Serve, interrupt: &Interrupt) -> Result<(), Failure> {
    // Before anything is opened, so that no signal is missed.
    let mut ends = Ends::listen()?;
    let store = dir.open_or_create().await?;
    let ended = serve_store(dir, &store, args, &mut ends).await;
    if ended.is_ok() {
        // The signal did what it is for.
        interrupt.heed();
    }
    store.close().await?;
    if !ended? {
        return Err(Failure::new(Exit::Failure, "requests were cut off that took longer than 30 seconds to end"));
    }
    Ok(())
}

/// Serves the store until a signal. Returns whether all requests ended by themselves.
async fn serve_store(dir: &DataDir, store: &Store, args: Serve, ends: &mut Ends) -> Result<bool, Failure> {
    let listeners = listen(dir, &args)?;
    let mut options = Options::default();
    options.require_if_match = args.require_if_match;
    let server = Server::new(router(store.clone(), &options));
    for listener in &listeners {
        report!("listening on {listener}");
    }
    Ok(server.serve(listeners, ends.next()).await)
}

fn listen(dir: &DataDir, args: &Serve) -> Result<Vec<Listener>, Failure> {
    let default = [default_address(dir)];
    let addresses = if args.listen.is_empty() { &default[..] } else { &args.listen };
    let listen = |address: &Address| match address {
        Address::Unix(path) => Listener::unix(path).map_err(|error| Failure::io(path.display(), &error)),
        Address::Tcp(address) => Listener::tcp(*address).map_err(|error| Failure::io(address, &error)),
    };
    addresses.iter().map(listen).collect()
}

/// Returns the socket where systemd wants those of a service (`RuntimeDirectory=`), or else in the
/// data directory.
fn default_address(dir: &DataDir) -> Address {
    let runtime = env::var_os("RUNTIME_DIRECTORY").filter(|dirs| !dirs.is_empty());
    let runtime = runtime.and_then(|dirs| env::split_paths(&dirs).next());
    Address::Unix(runtime.unwrap_or_else(|| dir.data_dir().to_owned()).join(SOCKET))
}

/// The signals that end the service.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the process was started to ignore it, as by `nohup`.
    hangup: Option<Signal>,
}

impl Ends {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("listening for signals", &error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: if interrupt::is_ignored(SIGHUP) { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    /// Waits for a signal.
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}
