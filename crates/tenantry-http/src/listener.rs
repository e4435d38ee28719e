//! Where the service accepts connections.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::auth::{Ends, Peer};
use crate::limits::BACKLOG;
use crate::stream::Stream;
use crate::tls::Tls;

/// A place where connections are accepted. `Display` writes it as a client names it:
/// `unix:/run/tenantry.sock` or `http://127.0.0.1:8080`.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Socket {
    /// With the path, if it has one.
    Unix {
        socket: UnixListener,
        path: Option<PathBuf>,
        /// Unless it was inherited.
        _file: Option<SocketFile>,
    },
    Tcp {
        socket: TcpListener,
        address: SocketAddr,
    },
}

impl Listener {
    /// Listens on a unix socket that its owner alone can connect to (0600).
    ///
    /// A socket that a killed process left is replaced. The socket appears under its name with its
    /// rights, since it is bound in a directory of its own and renamed.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process listens there; `AlreadyExists` if the name is of something
    /// else than a socket; those of making it.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the name is of something else than a socket",
                ));
            }
            Ok(_) => match StdUnixStream::connect(path) {
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another process listens on this socket",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
        let parent =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = tempfile::Builder::new().prefix(".tenantry-").tempdir_in(parent)?;
        let bound = dir.path().join("s");
        let socket = UnixListener::bind(&bound)?;
        fs::set_permissions(&bound, fs::Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(&bound)?;
        fs::rename(&bound, path)?;
        let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
        Ok(Self {
            socket: Socket::Unix { socket, path: Some(path.to_owned()), _file: Some(file) },
            tls: None,
        })
    }

    /// Listens on a unix socket that another program has opened, such as systemd. Its file isn't
    /// removed in the end.
    ///
    /// # Errors
    ///
    /// Those of system calls on it.
    pub fn from_unix(socket: StdUnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self {
            socket: Socket::Unix { socket: UnixListener::from_std(socket)?, path, _file: None },
            tls: None,
        })
    }

    /// Listens on a TCP address. With port 0 the system chooses one, which
    /// [`address`](Self::address) returns.
    ///
    /// # Errors
    ///
    /// Those of binding, such as `AddrInUse`.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A service that starts anew has the port at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: Socket::Tcp { socket, address }, tls: None })
    }

    /// Listens on a TCP socket that another program has opened, such as systemd.
    ///
    /// # Errors
    ///
    /// Those of system calls on it.
    pub fn from_tcp(socket: StdTcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: Socket::Tcp { socket, address }, tls: None })
    }

    /// Encrypts the connections.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns the TCP address, with the port that was bound, or `None` for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self.socket {
            Socket::Unix { .. } => None,
            Socket::Tcp { address, .. } => Some(address),
        }
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<(Box<dyn Stream>, Ends)> {
        match &self.socket {
            Socket::Unix { socket, .. } => {
                let (stream, _) = socket.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Box::new(stream), Ends { peer: Peer::Unix { uid }, local: None }))
            }
            Socket::Tcp { socket, .. } => {
                let (stream, peer) = socket.accept().await?;
                // A response is written as a whole: no part of it waits for an acknowledgement.
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?.ip().to_canonical();
                Ok((Box::new(stream), Ends { peer: Peer::Tcp(peer), local: Some(local) }))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match &self.socket {
            Socket::Unix { path: Some(path), .. } => write!(f, "unix:{}", path.display()),
            Socket::Unix { path: None, .. } => f.write_str("unix:"),
            Socket::Tcp { address, .. } => write!(f, "{scheme}://{address}"),
        }
    }
}

/// The file of a unix socket, which is removed in the end.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The device and the number of the file.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another service may have replaced the socket by now.
        let is_own = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
