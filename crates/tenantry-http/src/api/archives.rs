//! Archives: one user out and in, and backups of the whole store.
//!
//! The manifest of an archive is at its beginning and is known at its end. So an archive is
//! complete in a file without a name before it is sent, and received as a whole before it is read.

use std::path::PathBuf;

use axum::Json as JsonBody;
use axum::body::Body;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tenantry::{BackupOptions, Error, ErrorKind, Scope, Store, User};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{Binary, Id, content_type};
use crate::etag;
use crate::files::{Finished, attachment, spool, to_its_end};
use crate::limits::{ARCHIVE_BYTES_MAX, ARCHIVE_TIMEOUT};
use crate::problem::{self, Problem, Type};
use crate::service::{Acting, Service, scoped_stream};
use crate::transfers::{Ended, Flag, hold};

/// How many entries could not be archived. They are missing in the archive.
const LEFT_OUT: HeaderName = HeaderName::from_static("tenantry-left-out");
/// The type of an archive: tar in zstd.
const MEDIA: &str = "application/zstd";

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped_stream(Scope::Export, routes!(export))
        .merge(scoped_stream(Scope::Import, routes!(import)))
        .merge(scoped_stream(Scope::Backup, routes!(backup)))
}

/// Return an archive of a user
///
/// Their row and their files, as tar in zstd, which `POST /v1/archives` and the command import. The
/// header `Tenantry-Left-Out` is the number of entries that could not be archived.
#[utoipa::path(
    get, path = "/v1/users/{id}/archive", tag = "transfer", params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, body = inline(Binary), content_type = "application/zstd",
            headers(("Tenantry-Left-Out" = u64, description = "How many entries could not be archived"))),
        (status = "default", body = problem::Body)
    )
)]
async fn export(Acting(service): Acting, Id(id): Id) -> Result<Response, Problem> {
    let name = format!("{id}.tar.zst");
    let made = made(&service, move |store, path, flag| {
        let made =
            async move { Ok(store.export_user(id, path, move |_| flag.flow()).await?.incomplete) };
        made.boxed()
    });
    send(&service, made.await?, &name)
}

/// Back up the whole store
///
/// The database as of one moment, and the files of all users, as tar in zstd, which the command
/// verifies and restores. The header `Tenantry-Left-Out` is the number of entries that could not be
/// archived.
#[utoipa::path(
    get, path = "/v1/backup", tag = "transfer",
    responses(
        (status = 200, body = inline(Binary), content_type = "application/zstd",
            headers(("Tenantry-Left-Out" = u64, description = "How many entries could not be archived"))),
        (status = "default", body = problem::Body)
    )
)]
async fn backup(Acting(service): Acting) -> Result<Response, Problem> {
    let made = made(&service, |store, path, flag| {
        let options = BackupOptions::default();
        async move { Ok(store.create_backup(path, options, move |_| flag.flow()).await?.incomplete) }.boxed()
    });
    send(&service, made.await?, "tenantry-backup.tar.zst")
}

/// An archive that is complete.
struct Made {
    archive: Finished,
    /// How many entries could not be archived.
    left_out: u64,
    permit: OwnedSemaphorePermit,
}

/// Makes an archive. If the client goes away, it ends, and nothing is left of it.
async fn made<M>(service: &Service, make: M) -> Result<Made, Problem>
where
    M: FnOnce(Store, PathBuf, Flag) -> BoxFuture<'static, tenantry::Result<u64>> + Send + 'static,
{
    let permit = service.transfers.begin()?;
    let ended = Ended::when_dropped();
    let (service, flag) = (service.clone(), ended.flag());
    to_its_end(async move {
        let store = service.store.clone();
        let path = service.files.run(move || Ok(Finished::path(&store))).await?;
        let left_out = make(service.store, path.clone(), flag).await?;
        let archive = service.files.run(move || Ok(Finished::open(&path))).await?;
        // What goes on after the client has gone takes its place until it has ended.
        Ok(Made { archive: archive.map_err(Error::from)?, left_out, permit })
    })
    .await
}

fn send(service: &Service, made: Made, name: &str) -> Result<Response, Problem> {
    let (length, body) = made.archive.into_body(&service.files)?;
    let mut response = hold(body, made.permit, ARCHIVE_TIMEOUT).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA));
    headers.insert(CONTENT_DISPOSITION, attachment(name));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(LEFT_OUT, HeaderValue::from(made.left_out));
    Ok(response)
}

/// A user who was imported from an archive.
#[derive(Serialize, ToSchema)]
struct ImportedArchive {
    user: User,
    /// How many files there are.
    files: u64,
    /// The sum of their lengths.
    bytes: u64,
    /// How many entries are missing in the archive, since they could not be archived.
    left_out: u64,
    /// How many extended attributes and ACLs could not be set.
    attributes_lost: u64,
}

/// Import a user from an archive
///
/// With the same id, address, storage path, times and files. All of it or nothing.
#[utoipa::path(
    post, path = "/v1/archives", tag = "transfer",
    request_body(content = inline(Binary), content_type = "application/zstd"),
    responses(
        (status = 201, body = ImportedArchive, headers(("Location", description = "The path of the user"))),
        (status = "default", body = problem::Body)
    )
)]
async fn import(
    Acting(service): Acting,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if content_type(&headers).as_deref() != Some(MEDIA) {
        return Err(Problem::new(Type::NotJson, "the body must be of the type application/zstd"));
    }
    let permit = service.transfers.begin_import()?;
    let mut archive = spool(&service.files, &service.store, body, ARCHIVE_BYTES_MAX).await?;
    let store = service.store.clone();
    // Whether the user was imported isn't known to a client who goes away, as after every write.
    let imported = to_its_end(async move {
        let path = archive.path().map_err(Error::from)?;
        let imported = store.import_user(path, |_| {}).await;
        drop(archive);
        drop(permit);
        imported.map_err(refused)
    });
    let imported = imported.await?;
    let manifest = imported.manifest;
    let location = HeaderValue::try_from(format!("/v1/users/{}", manifest.user.id));
    let tag = etag::of(&manifest.user);
    let body = ImportedArchive {
        user: manifest.user,
        files: manifest.files,
        bytes: manifest.bytes,
        left_out: manifest.left_out,
        attributes_lost: imported.incomplete,
    };
    let mut response = (StatusCode::CREATED, [(ETAG, tag)], JsonBody(body)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Returns the problem of an archive that can't be imported: what is damaged is the client's.
fn refused(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Incompatible => {
            Problem::new(Type::InvalidBody, format!("the archive can't be read: {error}"))
        }
        _ => error.into(),
    }
}
