//! What a connection is made of, whatever its socket.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes to and from a peer.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}
