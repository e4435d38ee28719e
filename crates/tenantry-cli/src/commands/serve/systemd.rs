//! What systemd gives a service, and wants to hear from it (sd_listen_fds(3), sd_notify(3)).
//!
//! Without systemd nothing of it happens.

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tenantry::{Error, ErrorKind, Store};
use tenantry_http::Listener;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;
use crate::stdio::report;

/// A socket that was opened for this process.
pub(super) enum Inherited {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Inherited {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    pub(super) fn listener(self) -> Result<Listener, Failure> {
        let listener = match self {
            Self::Unix(socket) => Listener::from_unix(socket),
            Self::Tcp(socket) => Listener::from_tcp(socket),
        };
        listener.map_err(|error| Failure::io("a socket that was inherited", &error))
    }
}

/// Returns the sockets of `$LISTEN_FDS`.
pub(super) fn listeners() -> Result<Vec<Inherited>, Failure> {
    let mut inherited = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..inherited.len() {
        if let Ok(Some(socket)) = inherited.take_unix_listener(index) {
            listeners.push(Inherited::Unix(socket));
            continue;
        }
        let socket = inherited.take_tcp_listener(index);
        let socket = socket
            .map_err(|error| Failure::io(format_args!("socket {index} of $LISTEN_FDS"), &error))?;
        listeners.extend(socket.map(Inherited::Tcp));
    }
    Ok(listeners)
}

pub(super) fn notify_ready() {
    notify(NotifyState::Ready);
}

pub(super) fn notify_stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        report!("$NOTIFY_SOCKET: {error}");
    }
}

/// Notifies the watchdog, if it is on, as long as the store responds. It never completes.
pub(super) async fn watchdog(store: &Store) {
    let Some(within) = sd_notify::watchdog_enabled() else { return pending().await };
    // Two failures aren't enough for a restart.
    let pause = within / 3;
    loop {
        match response(store, pause).await {
            Ok(()) => notify(NotifyState::Watchdog),
            Err(reason) => tracing::warn!("the watchdog isn't notified: {reason}"),
        }
        sleep(pause).await;
    }
}

/// Fails if the store is in a state that a restart would end.
async fn response(store: &Store, within: Duration) -> Result<(), String> {
    match timeout(within, store.write(|_tx| Ok::<_, Error>(()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if !is_mended_by_restart(error.kind()) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the store doesn't respond".to_owned()),
    }
}

fn is_mended_by_restart(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Busy | ErrorKind::Full | ErrorKind::ReadOnly | ErrorKind::PermissionDenied
    )
}
