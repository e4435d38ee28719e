//! Receiving a body of any length.

use std::future::Future;
use std::io::Write;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;

use super::Files;
use super::beneath::failed;
use super::quota::Reservation;
use super::work::{Elsewhere, Room};
use crate::limits::BODY_IDLE_TIMEOUT;
use crate::problem::{Problem, Type};

/// Writes a body into a file as it comes.
pub(super) async fn receive<W: Write + Send + 'static>(
    files: &Files,
    mut body: Body,
    mut target: Elsewhere<W>,
    bytes_max: u64,
    mut reservation: Option<&mut Reservation>,
) -> Result<Elsewhere<W>, Problem> {
    let is_length_known = http_body::Body::size_hint(&body).exact().is_some();
    let mut received = 0_u64;
    let mut chunk: Option<(Room, Vec<u8>)> = None;
    while let Some(data) = next_data(&mut body).await? {
        received = received.saturating_add(data.len() as u64);
        if received > bytes_max {
            return Err(too_large(bytes_max));
        }
        if let Some(reservation) = &mut reservation {
            reservation.grow(received, is_length_known).await?;
        }
        let (room, bytes) = chunk.get_or_insert_with(|| (files.work.room(), Vec::new()));
        bytes.extend_from_slice(&data);
        if bytes.len() >= room.bytes {
            target = write(files, target, chunk.take()).await?;
        }
    }
    write(files, target, chunk).await
}

async fn write<W: Write + Send + 'static>(
    files: &Files,
    mut target: Elsewhere<W>,
    chunk: Option<(Room, Vec<u8>)>,
) -> Result<Elsewhere<W>, Problem> {
    let Some((room, bytes)) = chunk else { return Ok(target) };
    files
        .run(move || {
            let _room = room;
            target.get_mut().map_or(Ok(()), |target| target.write_all(&bytes)).map_err(failed)?;
            Ok(target)
        })
        .await
}

/// Returns the next bytes of a body, or `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = tokio::time::timeout(BODY_IDLE_TIMEOUT, body.frame()).await.map_err(|_| {
            let detail =
                format!("nothing of the body came for {} seconds", BODY_IDLE_TIMEOUT.as_secs());
            Problem::new(Type::BodyTimeout, detail)
        })?;
        match frame.map(|frame| frame.map(|frame| frame.into_data())) {
            None => return Ok(None),
            Some(Ok(Ok(data))) => return Ok(Some(data)),
            // Trailers.
            Some(Ok(Err(_))) => {}
            Some(Err(_)) => return Err(Problem::new(Type::InvalidBody, "the body ended early")),
        }
    }
}

pub(super) fn too_large(bytes_max: u64) -> Problem {
    Problem::new(Type::BodyTooLarge, format!("the body is longer than {bytes_max} bytes"))
}

/// Runs a change to its end even if the client doesn't wait for it.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(change).await.unwrap_or_else(|error| {
        tracing::error!("a change failed: {error}");
        Err(Problem::new(Type::Panicked, "the request met a mistake in the service"))
    })
}
