//! Users as files: import and export.
//!
//! An import is received as a whole before any of it is done, so a body that breaks off changes
//! nothing, and a slow client keeps no other away from the store. An export is sent while it is
//! read, of one moment.

use std::fs::File;
use std::io::{self, Write};
use std::thread;
use std::time::Instant;

use axum::Json as JsonBody;
use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tenantry::{Scope, Store, UserId, WriteTx};
use tenantry_exchange::{
    Chunk, ConfusableUser, Error, Format, Importer, Rejection, RowReader, Tally, UserWriter,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{Parameters, content_type};
use crate::files::{attachment, spool, to_its_end};
use crate::limits::{EXPORT_TIMEOUT, IMPORT_BYTES_MAX};
use crate::problem::{self, Problem, Type};
use crate::service::{Acting, Service, scoped_stream};
use crate::transfers::Ended;

/// How many rejected rows, and how many confusable users, a response names: what a person looks at.
const NAMED_MAX: usize = 100;
/// The size of a part of an export.
const PART_BYTES: usize = 64 << 10;
/// How many parts of an export wait for the client.
const PARTS_MAX: usize = 2;

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped_stream(Scope::Import, routes!(import))
        .merge(scoped_stream(Scope::Export, routes!(export)))
}

/// What to do with a row about a user who exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OnConflict {
    /// Import nothing at all if any row is rejected.
    #[default]
    Fail,
    /// Leave the user as they are.
    Skip,
    /// Change the user.
    Update,
}

/// What to do with a row whose address looks like that of another user.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OnConfusable {
    /// Create the user, and report both.
    #[default]
    Warn,
    /// Reject the row.
    Refuse,
    /// Create the user without a check.
    Ignore,
}

/// How to import.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ImportParameters {
    #[serde(default)]
    #[param(inline)]
    on_conflict: OnConflict,
    #[serde(default)]
    #[param(inline)]
    on_confusable: OnConfusable,
    /// Whether to undo everything in the end, and only report what would be done.
    #[serde(default)]
    dry_run: bool,
}

impl ImportParameters {
    fn importer(&self) -> Importer {
        let on_conflict = match self.on_conflict {
            OnConflict::Fail => tenantry::OnConflict::Fail,
            OnConflict::Skip => tenantry::OnConflict::Skip,
            OnConflict::Update => tenantry::OnConflict::Update,
        };
        let on_confusable = match self.on_confusable {
            OnConfusable::Warn => tenantry_exchange::OnConfusable::Warn,
            OnConfusable::Refuse => tenantry_exchange::OnConfusable::Refuse,
            OnConfusable::Ignore => tenantry_exchange::OnConfusable::Ignore,
        };
        Importer::new(on_conflict).on_confusable(on_confusable)
    }
}

/// A row that was rejected.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Reject {
    /// The line of the file.
    line: u64,
    /// The index in a JSON array, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<u64>,
    /// The kind of error, as in the type of a problem.
    kind: String,
    reason: String,
}

impl From<Rejection> for Reject {
    fn from(rejection: Rejection) -> Self {
        let kind = rejection.kind.name().replace('_', "-");
        Self {
            line: rejection.row.line,
            element: rejection.row.element,
            kind,
            reason: rejection.reason,
        }
    }
}

/// A user who was created with an address that looks like that of another.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Confusable {
    /// The line of the file.
    line: u64,
    /// The other user.
    #[schema(value_type = String, format = "uuid")]
    other: UserId,
}

impl From<ConfusableUser> for Confusable {
    fn from(confusable: ConfusableUser) -> Self {
        Self { line: confusable.line, other: confusable.other.id }
    }
}

/// What an import did, or would have done.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
struct Imported {
    dry_run: bool,
    created: u64,
    updated: u64,
    unchanged: u64,
    skipped: u64,
    rejected: u64,
    confusable: u64,
    /// The first 100 rows that were rejected.
    rejects: Vec<Reject>,
    /// The first 100 users whose addresses look like those of others.
    confusables: Vec<Confusable>,
}

impl Imported {
    /// Takes what an importer has found out since the last time.
    fn take(&mut self, importer: &mut Importer) {
        let Tally { created, updated, unchanged, skipped, rejected, confusables, .. } =
            importer.tally();
        (self.created, self.updated, self.unchanged, self.skipped) =
            (created, updated, unchanged, skipped);
        (self.rejected, self.confusable) = (rejected, confusables);
        let room = NAMED_MAX.saturating_sub(self.rejects.len());
        self.rejects.extend(importer.take_rejected().into_iter().take(room).map(Reject::from));
        let room = NAMED_MAX.saturating_sub(self.confusables.len());
        self.confusables
            .extend(importer.take_confusables().into_iter().take(room).map(Confusable::from));
    }

    fn summary(&self) -> String {
        let Self { created, updated, unchanged, skipped, rejected, .. } = self;
        format!(
            "{created} created, {updated} updated, {unchanged} unchanged, {skipped} skipped, {rejected} rejected"
        )
    }
}

/// Import users
///
/// From CSV (`text/csv`) or JSON Lines (`application/jsonl`, `application/x-ndjson`,
/// `application/json` for an array), as the command does. With `on_conflict=fail` and for a dry run
/// the whole file is one transaction; otherwise each 1,000 rows are.
#[utoipa::path(
    post, path = "/v1/import", tag = "transfer", params(ImportParameters),
    request_body(content((String = "text/csv"), (String = "application/jsonl"))),
    responses((status = 200, body = Imported), (status = "default", body = problem::Body))
)]
async fn import(
    Acting(service): Acting,
    Parameters(parameters): Parameters<ImportParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let format = match content_type(&headers).as_deref() {
        Some("text/csv") => Format::Csv,
        Some("application/jsonl" | "application/x-ndjson" | "application/x-jsonlines") => {
            Format::Jsonl
        }
        Some("application/json") => Format::Json,
        _ => {
            return Err(Problem::new(
                Type::NotJson,
                "the body must be text/csv or application/jsonl",
            ));
        }
    };
    let permit = service.transfers.begin_import()?;
    let spooled = spool(&service.files, &service.store, body, IMPORT_BYTES_MAX).await?;
    let importer = parameters.importer();
    let chunks = read(spooled.into_file().map_err(Error::Io)?, format, permit)?;
    let store = service.store;
    let imported = if parameters.dry_run || parameters.on_conflict == OnConflict::Fail {
        in_one_transaction(&store, importer, chunks, parameters.dry_run).await?
    } else {
        to_its_end(async move { chunk_by_chunk(&store, importer, chunks).await }).await?
    };
    Ok(JsonBody(imported).into_response())
}

type Chunks = Receiver<tenantry_exchange::Result<Chunk>>;

/// Reads the rows of a file, a chunk ahead of the store. It is on a thread of its own, since a
/// transaction waits for it: behind other work that waits for the store it might never begin. The
/// import keeps its place as long as its file.
fn read(file: File, format: Format, permit: OwnedSemaphorePermit) -> Result<Chunks, Error> {
    let (sender, receiver) = channel(1);
    let thread = thread::Builder::new().name("tenantry-import".to_owned());
    thread.spawn(move || {
        let _permit = permit;
        let mut reader = match RowReader::new(format, file) {
            Ok(reader) => reader,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            let chunk = reader.next_chunk();
            let is_last = chunk.as_ref().is_ok_and(|chunk| chunk.end.is_some()) || chunk.is_err();
            // Without a receiver, the import has ended.
            if sender.blocking_send(chunk).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Returns the problem of an import that can't go on.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => error.into(),
            Error::Io(error) => tenantry::Error::from(error).into(),
            Error::Rejected(rejection) => {
                let kind = Type::Store(rejection.kind);
                let reject = Reject::from(*rejection);
                Self::new(
                    kind,
                    format!("line {}: {}; nothing was imported", reject.line, reject.reason),
                )
            }
            // A line and a reason, without anything of the file.
            error => Self::new(Type::InvalidBody, error.to_string()),
        }
    }
}

/// Why a transaction was rolled back.
enum Rollback {
    DryRun(Box<Imported>),
    /// The client went away.
    Ended,
    Failed(Error),
}

impl From<Error> for Rollback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<tenantry::Error> for Rollback {
    fn from(error: tenantry::Error) -> Self {
        Self::Failed(error.into())
    }
}

async fn in_one_transaction(
    store: &Store,
    importer: Importer,
    chunks: Chunks,
    dry_run: bool,
) -> Result<Imported, Problem> {
    let ended = Ended::when_dropped();
    let seen = ended.flag();
    let written = store.write(move |tx| {
        let imported = write_all(tx, importer, chunks, || seen.is_set())?;
        if dry_run { Err(Rollback::DryRun(Box::new(imported))) } else { Ok(imported) }
    });
    match written.await {
        Ok(imported) => Ok(imported),
        Err(Rollback::DryRun(imported)) => Ok(Imported { dry_run, ..*imported }),
        // Nobody reads it.
        Err(Rollback::Ended) => Err(Problem::new(Type::InvalidBody, "the client went away")),
        Err(Rollback::Failed(error)) => Err(error.into()),
    }
}

fn write_all(
    tx: &mut WriteTx<'_>,
    mut importer: Importer,
    mut chunks: Chunks,
    is_ended: impl Fn() -> bool,
) -> Result<Imported, Rollback> {
    let mut imported = Imported::default();
    loop {
        if is_ended() {
            return Err(Rollback::Ended);
        }
        let mut chunk = chunks.blocking_recv().ok_or_else(unread)??;
        let end = chunk.end.take();
        importer.write(tx, chunk)?;
        imported.take(&mut importer);
        if let Some(end) = end {
            end?;
            break;
        }
    }
    importer.finish(tx)?;
    imported.take(&mut importer);
    Ok(imported)
}

async fn chunk_by_chunk(
    store: &Store,
    mut importer: Importer,
    mut chunks: Chunks,
) -> Result<Imported, Problem> {
    let mut imported = Imported::default();
    let end = loop {
        let mut chunk = match chunks.recv().await.ok_or_else(unread).and_then(|chunk| chunk) {
            Ok(chunk) => chunk,
            Err(error) => break Err(error),
        };
        let end = chunk.end.take();
        let written = store.write(move |tx| {
            importer.write(tx, chunk)?;
            Ok::<_, Error>(importer)
        });
        importer = written.await.map_err(|error| so_far(error, &imported))?;
        imported.take(&mut importer);
        if let Some(end) = end {
            break end;
        }
    };
    // Rows that wait for others are good, whatever comes after them.
    let written = store.write(move |tx| {
        importer.finish(tx)?;
        Ok::<_, Error>(importer)
    });
    importer = written.await.map_err(|error| so_far(error, &imported))?;
    imported.take(&mut importer);
    end.map_err(|error| so_far(error, &imported))?;
    Ok(imported)
}

fn unread() -> Error {
    Error::Io(io::Error::other("the file could not be read to its end"))
}

/// Returns the problem of an import of which a part is done.
fn so_far(error: Error, imported: &Imported) -> Problem {
    let problem = Problem::from(error);
    let detail = format!("{}; before that: {}", problem.detail(), imported.summary());
    problem.with_detail(detail)
}

/// Export all users
///
/// As CSV for `Accept: text/csv`, else as JSON Lines. The users are of one moment. If the export
/// can't be completed, the connection is broken off.
#[utoipa::path(
    get, path = "/v1/export", tag = "transfer", params(("Accept" = Option<String>, Header)),
    responses(
        (status = 200, description = "The users", content((String = "application/jsonl"), (String = "text/csv"))),
        (status = "default", body = problem::Body)
    )
)]
async fn export(Acting(service): Acting, headers: HeaderMap) -> Result<Response, Problem> {
    let permit = service.transfers.begin()?;
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (format, media, name) = match accept.contains("text/csv") {
        true => (Format::Csv, "text/csv; charset=utf-8", "users.csv"),
        false => (Format::Jsonl, "application/jsonl", "users.jsonl"),
    };
    let (sender, mut parts) = channel(PARTS_MAX);
    let store = service.store.clone();
    tokio::spawn(async move {
        let failed = sender.clone();
        if let Err(error) =
            write_users(&store, format, PartWriter { sender, part: Vec::new() }).await
        {
            let _ = failed.send(Err(error)).await;
        }
    });
    // What fails at once has a status.
    let first = parts.recv().await.transpose()?;
    let mut response = body(first, parts, permit).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CONTENT_DISPOSITION, attachment(name));
    Ok(response)
}

fn body(
    first: Option<Bytes>,
    parts: Receiver<Result<Bytes, Error>>,
    permit: OwnedSemaphorePermit,
) -> Body {
    Body::from_stream(unfold((first, parts, permit), |(first, mut parts, permit)| async move {
        let part = match first {
            Some(first) => Ok(first),
            None => parts.recv().await?,
        };
        let part = part.map_err(|error| {
            tracing::warn!("an export was broken off: {error}");
            io::Error::other(error)
        });
        Some((part, (None, parts, permit)))
    }))
}

async fn write_users(store: &Store, format: Format, writer: PartWriter) -> Result<(), Error> {
    let began = Instant::now();
    store
        .read(move |tx| {
            let mut writer = UserWriter::new(format, writer)?;
            tenantry_exchange::export(tx, &mut writer, |_| {
                if began.elapsed() < EXPORT_TIMEOUT {
                    return Ok(());
                }
                Err(Error::Io(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client reads too slowly",
                )))
            })?;
            writer.finish()?;
            Ok(())
        })
        .await
}

/// Sends what is written in parts, and waits while the client doesn't read.
struct PartWriter {
    sender: Sender<Result<Bytes, Error>>,
    part: Vec<u8>,
}

impl PartWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = Bytes::from(std::mem::take(&mut self.part));
        self.sender.blocking_send(Ok(part)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::transfers::Transfers;

    #[tokio::test]
    async fn an_export_that_fails_midway_ends_with_an_error() {
        let (sender, parts) = channel(PARTS_MAX);
        sender.send(Ok(Bytes::from("part"))).await.unwrap();
        sender.send(Err(Error::Io(io::Error::other("the disk is gone")))).await.unwrap();
        drop(sender);
        let body = body(None, parts, Transfers::default().begin().unwrap());
        assert!(body.collect().await.is_err());
    }
}
