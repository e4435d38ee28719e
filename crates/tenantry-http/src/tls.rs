//! TLS: the certificate, and its replacement while the service runs.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::limits::{CERTIFICATE_INTERVAL, HANDSHAKE_TIMEOUT};
use crate::stream::Stream;

/// A certificate with its key, from files. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// The contents of the files that it was made of.
    pem: Pem,
}

#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads a certificate, with the chain that certifies it, and its private key, both in PEM.
    ///
    /// # Errors
    ///
    /// `InvalidData` if they aren't in PEM, or the key isn't that of the certificate; those of
    /// reading.
    pub fn load(certificate: &Path, key: &Path) -> io::Result<Self> {
        let pem = Pem::read(certificate, key)?;
        let current = RwLock::new(Current { config: pem.config()?, pem });
        Ok(Self(Arc::new(Inner {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current,
        })))
    }

    /// Reads the files again, and uses them for new connections. Returns whether they have changed.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the certificate that is in use stays in use then.
    pub fn reload(&self) -> io::Result<bool> {
        let pem = Pem::read(&self.0.certificate, &self.0.key)?;
        if self.0.current.read().unwrap_or_else(PoisonError::into_inner).pem == pem {
            return Ok(false);
        }
        let current = Current { config: pem.config()?, pem };
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(true)
    }

    /// Reloads the files once a minute if they have changed, and reports that to the log. It never
    /// completes.
    pub async fn watch(&self) {
        let mut interval = interval(CERTIFICATE_INTERVAL);
        let mut reported = None;
        loop {
            interval.tick().await;
            let tls = self.clone();
            let Ok(reloaded) = tokio::task::spawn_blocking(move || tls.reload()).await else {
                continue;
            };
            match reloaded {
                Ok(has_changed) => {
                    reported = None;
                    if has_changed {
                        tracing::info!("the certificate has changed and is in use");
                    }
                }
                // Once, and not each minute.
                Err(error) => {
                    let error = error.to_string();
                    if reported.as_ref() != Some(&error) {
                        tracing::warn!("the certificate that is in use stays in use: {error}");
                        reported = Some(error);
                    }
                }
            }
        }
    }

    /// Performs the handshake of a connection.
    pub(crate) async fn handshake<S: Stream>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config =
            Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner).config);
        let accepted = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
        accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.0.certificate).finish_non_exhaustive()
    }
}

impl Pem {
    fn read(certificate: &Path, key: &Path) -> io::Result<Self> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        Ok(Self { certificate: read(certificate)?, key: read(key)? })
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let chain =
            CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let chain =
            chain.map_err(|error| invalid(&format!("the certificate isn't in PEM: {error}")))?;
        if chain.is_empty() {
            return Err(invalid("the file of the certificate holds none in PEM"));
        }
        // The reason could quote the file.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| invalid("the file of the key holds no private key in PEM"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = config
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| invalid(&format!("the certificate and the key: {error}")))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
