//! Limits of the service, each with its reason.

use std::time::Duration;

/// The size of the head of a request, in bytes. Browsers and clients send less than 4 KiB, proxies
/// forward up to 8; hyper needs at least 8 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
/// The number of headers of a request. Proxies add a dozen to those of a client.
pub(crate) const HEADERS_MAX: usize = 64;
/// The size of a URL, in bytes: what proxies and browsers support (RFC 9110, section 4.1).
pub(crate) const URI_BYTES_MAX: usize = 8 << 10;
/// The size of a JSON body, in bytes. The largest value, a user's attributes, has at most 16 KiB.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;
/// How deep a JSON body may be nested. The deepest that an endpoint takes has 10 levels.
pub(crate) const JSON_DEPTH_MAX: usize = 32;
/// The number of connections, unless the operator chooses another. Each takes a descriptor, and
/// most systems allow a process 1,024 of them at least.
pub(crate) const CONNECTIONS_MAX: usize = 1_024;
/// The number of TCP connections that the system keeps for us before they are accepted.
pub(crate) const BACKLOG: u32 = 1_024;
/// The number of requests at once on one HTTP/2 connection. RFC 9113 recommends at least 100
/// (section 6.5.2).
pub(crate) const STREAMS_MAX: u32 = 100;
/// The number of requests at once that work with the store: as many as share a commit.
pub(crate) const REQUESTS_MAX: usize = 256;
/// How much of large responses may wait to be read, in KiB: 80 pages of 1,000 users.
pub(crate) const UNREAD_KIB_MAX: usize = 24 << 10;
/// A response of so many bytes is none of these. One fits into a socket as a whole.
pub(crate) const SMALL_RESPONSE_MAX: u64 = 64 << 10;
/// How long a request waits for its turn, if so many others run.
pub(crate) const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, and a connection may be without one: a
/// client that sends byte by byte must not hold a connection for ever. hyper doesn't tell the two
/// apart, so this is what a pool of connections needs.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take for a TLS handshake: four packets.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the body of a request as a whole. 64 KiB in this time are 17
/// kbit/s.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take until the head of its response. The store has answered long before,
/// but for measurements and purges of directories with millions of files.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of requests of one token in a second, unless the service sets another: more than two
/// cores serve, so that it binds where a client that runs wild would take a large machine from the
/// others.
pub(crate) const REQUESTS_PER_TOKEN: u32 = 100_000;
/// How long a client may leave a part of a response unread.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may pause in a body of any length, such as a file.
pub(crate) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length of an uploaded file, in bytes, unless the service is told otherwise: a disk must not
/// be filled by one request.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;
/// The length of a file of users to import, in bytes: some ten million.
pub(crate) const IMPORT_BYTES_MAX: u64 = 1 << 30;
/// The length of a user's archive, in bytes. It is on the disk before it is read, and a body that
/// never ends must end before the disk does.
pub(crate) const ARCHIVE_BYTES_MAX: u64 = 64 << 30;
/// How many exports, checks and backups run at once. Each holds a thread, and the first two keep
/// the log of the database from being cut back.
pub(crate) const TRANSFERS_MAX: usize = 4;
/// How long an export may take: a client that reads slowly keeps the log from being cut back.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How many imports of users and archives are received or read at once. Each is on the disk before
/// it is read, and may take an hour to come.
pub(crate) const IMPORTS_MAX: usize = 8;
/// How long the response of an archive, a backup or a check may take: a client that reads slowly
/// keeps others from theirs. 64 GiB in this time are 25 Mbit/s.
pub(crate) const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);
/// How long requests that run may take to end after the service was told to. systemd waits 90 s.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the store may take for an empty transaction before the service counts as not ready.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How old an answer about readiness may be, so that callers without a token cost no more than ten
/// transactions a second.
pub(crate) const READY_AGE_MAX: Duration = Duration::from_millis(100);
/// How long a request for changes may wait for one. Proxies close what is silent for a minute.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the users on a page of changes are together, in bytes, before the page ends. A page of
/// 1,000 changes of users with 16 KiB of attributes would have 16 MiB.
pub(crate) const CHANGES_BYTES: usize = 1 << 20;
/// The same of what a stream of changes writes at once: as much as a socket takes as a whole.
pub(crate) const EVENTS_BYTES: usize = 64 << 10;
/// How often a stream of changes says where it is, if there are none: so that a proxy doesn't take
/// it for dead, and its client doesn't fall behind what is kept.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);
/// How long a stream of changes lasts. The client connects again, with the token that it has then.
pub(crate) const EVENTS_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How often a stream of changes asks whether its token still holds while there are no changes: a
/// look-up in memory for each stream.
pub(crate) const TOKEN_INTERVAL: Duration = Duration::from_secs(1);
/// How often the files of the certificate are compared with those that are in use.
pub(crate) const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);
