//! The signals of a service.

use std::future::pending;

use signal_hook::consts::SIGHUP;
use tenantry_http::Tls;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::interrupt;
use crate::stdio::report;

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::io("listening for signals", &error))
}

/// The signals that end the service.
pub(super) struct Ends {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if it has another meaning, or if the process was started to ignore it, as by `nohup`.
    hangup: Option<Signal>,
}

impl Ends {
    pub(super) fn listen(with_hangup: bool) -> Result<Self, Failure> {
        let hangup = with_hangup && !interrupt::is_ignored(SIGHUP);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: hangup.then(|| listen(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for a signal.
    pub(super) async fn next(&mut self) {
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

/// What reloads a certificate: SIGHUP, and a change of its files.
pub(super) struct Reloads {
    tls: Tls,
    hangup: Signal,
}

impl Reloads {
    pub(super) fn listen(tls: Tls) -> Result<Self, Failure> {
        Ok(Self { tls, hangup: listen(SignalKind::hangup())? })
    }
}

/// Reloads the certificate, if there is one, until the service ends.
pub(super) async fn reload(reloads: Option<Reloads>) {
    let Some(Reloads { tls, mut hangup }) = reloads else { return pending().await };
    let on_signal = async {
        while hangup.recv().await.is_some() {
            match tls.reload() {
                Ok(true) => report!("reloaded the certificate"),
                Ok(false) => report!("the certificate hasn't changed"),
                Err(error) => report!("the certificate that is in use stays in use: {error}"),
            }
        }
        pending::<()>().await;
    };
    tokio::join!(on_signal, tls.watch());
}
