//! `tenantry serve`: the store over HTTP, until a signal ends it.

mod listen;
mod signals;
mod systemd;

use tenantry::Store;
use tenantry_http::{Options, Server, Tls, operations, router};
use tokio::runtime::Runtime;

use crate::args::Serve;
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::interrupt::{self, Interrupt};
use crate::session;
use crate::stdio::report;
use listen::Listeners;
use signals::{Ends, Reloads};

/// Serves the store until SIGTERM or SIGINT, and then lets the requests that run come to their end.
/// A second signal ends the process at once. SIGHUP reloads the certificate or, without one, is a
/// signal as the others.
pub(super) fn run(dir: &DataDir, args: &Serve) -> Result<(), Failure> {
    // Before there are threads, since it changes the environment.
    let inherited = systemd::listeners()?;
    listen::check(args, &inherited)?;
    let connections_max = listen::connections_max(args.max_connections)?;
    if args.tls_cert.is_some() {
        interrupt::release_hangup();
    }
    let runtime = Runtime::new()
        .map_err(|error| Failure::io("starting the threads of the service", &error))?;
    let interrupt = Interrupt::listen();
    let served = runtime.block_on(async {
        // Before anything is opened, so that no signal is missed.
        let mut ends = Ends::listen(args.tls_cert.is_none())?;
        let tls = load(args)?;
        let reloads = tls.clone().map(Reloads::listen).transpose()?;
        let store = dir.open_or_create().await?;
        let serving = async {
            // After the store exists, since the default socket is in its directory.
            let listeners = listen::listen(dir, args, inherited, tls)?;
            let has_ended = serve(&store, args, listeners, connections_max, &mut ends).await;
            // The signal did what it is for.
            interrupt.heed();
            Ok(has_ended)
        };
        let ended = tokio::select! {
            ended = serving => ended,
            () = signals::reload(reloads) => Ok(false),
            () = systemd::watchdog(&store) => Ok(false),
        };
        session::finish(&store, ended).await
    });
    // Whatever doesn't end by itself must not keep the process.
    runtime.shutdown_background();
    if served? {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        "requests were cut off that took longer than 30 seconds to end",
    ))
}

fn load(args: &Serve) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    Tls::load(certificate, key)
        .map(Some)
        .map_err(|error| Failure::io("--tls-cert, --tls-key", &error))
}

/// Serves the store until a signal. Returns whether all requests ended by themselves.
async fn serve(
    store: &Store,
    args: &Serve,
    listeners: Listeners,
    connections_max: usize,
    ends: &mut Ends,
) -> bool {
    let mut options = Options::default();
    options.require_if_match = args.require_if_match;
    options.max_file = args.max_file.0;
    options.max_user_bytes = args.max_user_bytes.map(|size| size.0);
    options.public_url.clone_from(&args.public_url);
    options.trusted_proxies.clone_from(&args.trusted_proxy);
    options.allowed_origins.clone_from(&args.allow_origin);
    let server = Server::new(router(store.clone(), &options), &options)
        .connections_max(connections_max)
        .operations(listeners.operations, operations(store.clone(), &options));
    for listener in &listeners.service {
        report!("listening on {listener}");
    }
    systemd::notify_ready();
    let end = async {
        ends.next().await;
        systemd::notify_stopping();
    };
    server.serve(listeners.service, end).await
}
