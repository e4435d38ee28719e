//! Limits of the service, each with its reason.

use std::time::Duration;

/// The size of the head of a request, in bytes. Browsers and clients send less than 4 KiB, proxies
/// forward up to 8; hyper needs at least 8 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
/// The number of headers of a request. Proxies add a dozen to those of a client.
pub(crate) const HEADERS_MAX: usize = 64;
/// The size of a JSON body, in bytes. The largest value, a user's attributes, has at most 16 KiB.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;
/// The number of connections. Each takes a descriptor and at most 100 KiB while it is served.
pub(crate) const CONNECTIONS_MAX: usize = 1_024;
/// The number of requests at once on one HTTP/2 connection: what browsers expect at least (RFC
/// 9113, section 6.5.2).
pub(crate) const STREAMS_MAX: u32 = 100;
/// How long a client may take for the head of a request, and a connection may be idle before it: a
/// client that sends byte by byte must not hold a connection for ever.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the body of a request as a whole. 64 KiB in this time are 9
/// kbit/s.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests that run may take to end after the service was told to. systemd waits 90 s.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the store may take for an empty transaction before the service counts as not ready.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(1);
