//! Where the service accepts connections.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::auth::Peer;

/// A place where connections are accepted.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// The device and the number of the socket's file, which is removed in the end.
    file: (u64, u64),
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
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = tempfile::Builder::new().prefix(".tenantry-").tempdir_in(parent)?;
        let bound = dir.path().join("s");
        let socket = UnixListener::bind(&bound)?;
        fs::set_permissions(&bound, fs::Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(&bound)?;
        fs::rename(&bound, path)?;
        Ok(Self { socket, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.socket.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Peer::Unix { uid }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another service may have replaced the socket by now.
        let is_own = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
