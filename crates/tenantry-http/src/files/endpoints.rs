//! The endpoints of files.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json as JsonBody;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rustix::io::Errno;
use serde::Deserialize;
use tenantry::cap_std::fs::Dir;
use tenantry::{ListQuery, Scope, Timestamp, UsageChange, UserId};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::beneath::{failed, is, no_such_file, open, open_parent, remove, require_file, stat};
use super::conditions::{Conditions, State};
use super::digest::Expected;
use super::download::Download;
use super::header::make_download;
use super::list::{FilePage, list as list_entries};
use super::path::FilePath;
use super::quota::Reservation;
use super::range::{Range, range};
use super::receive::{receive, to_its_end, too_large};
use super::upload::{Complete, Upload, Written, change, freed};
use super::work::Elsewhere;
use super::{Files, dir, existing_dir};
use crate::body::{Binary, Id, Parameters, default_limit};
use crate::problem::{self, Problem, Type};
use crate::service::{Service, scoped, scoped_stream};

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped_stream(Scope::FilesRead, routes!(get))
        .merge(scoped(Scope::FilesRead, routes!(list)))
        .merge(scoped_stream(Scope::FilesWrite, routes!(put)))
        .merge(scoped(Scope::FilesWrite, routes!(delete)))
}

/// How to list a directory.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParameters {
    /// How many entries a page holds at most.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    limit: usize,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Return a file, or list a directory
///
/// A path that ends in `/` names a directory: see the listing of the user's own. Else the file is
/// returned, always as a download. One range of it can be asked for; several are ignored.
#[utoipa::path(
    get, path = "/v1/users/{id}/files/{*path}", tag = "files",
    params(
        ("id" = String, Path, format = "uuid"),
        ("path" = String, Path, description = "The segments, each percent-encoded, joined by `/`"),
        ListParameters,
        ("Range" = Option<String>, Header), ("If-Range" = Option<String>, Header),
        ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)
    ),
    responses(
        (status = 200, description = "The file, or a page of the directory", content(
            (inline(Binary) = "application/octet-stream"), (FilePage = "application/json")
        )),
        (status = 206, description = "A part of the file", body = inline(Binary), content_type = "application/octet-stream"),
        (status = 304, description = "The client has this file"),
        (status = "default", body = problem::Body)
    )
)]
async fn get(
    path: FilePath,
    Shared(service): Shared<Service>,
    Id(id): Id,
    method: Method,
    headers: HeaderMap,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    if path.is_dir {
        return list_dir(service, id, path, parameters).await;
    }
    let (above, name) = path.of_file()?;
    let (conditions, store, opened_name) =
        (Conditions::of(&headers)?, service.store.clone(), name.to_owned());
    let (file, stat) = service
        .files
        .run(move || {
            let dir = existing_dir(&store, id)?.ok_or_else(no_such_file)?;
            open(&dir, &above, &opened_name)
        })
        .await?;
    let state = State::of(&stat);
    if conditions.check_read(&state)? {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        state.add_to(response.headers_mut());
        return Ok(response);
    }
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    let part =
        headers.get(RANGE).filter(|_| method == Method::GET).and_then(|range| range.to_str().ok());
    let part = match part {
        Some(value) if state.is_in_range(&headers, SystemTime::from(Timestamp::now())) => {
            range(value, length)
        }
        _ => Range::Whole,
    };
    let (status, offset, end) = match part {
        Range::Whole => (StatusCode::OK, 0, length),
        Range::Part(first, end) => (StatusCode::PARTIAL_CONTENT, first, end),
        Range::Unsatisfiable => return Ok(unsatisfiable(length)),
    };
    let download = Download { file: Arc::new(file), stat, offset, end };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        download.into_body(Arc::clone(&service.files))
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    make_download(headers, name);
    state.add_to(headers);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - offset));
    if status == StatusCode::PARTIAL_CONTENT {
        add_content_range(headers, &format!("bytes {offset}-{}/{length}", end - 1));
    }
    Ok(response)
}

fn unsatisfiable(length: u64) -> Response {
    let detail = format!("the range begins after the end of the file, which has {length} bytes");
    let mut response = Problem::new(Type::RangeNotSatisfiable, detail).into_response();
    add_content_range(response.headers_mut(), &format!("bytes */{length}"));
    response
}

fn add_content_range(headers: &mut HeaderMap, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(CONTENT_RANGE, value);
    }
}

/// List the user's directory
///
/// By name, in the order of bytes. An entry that stays is on exactly one page, whatever changes
/// meanwhile. Other directories are listed by their paths, which end in `/`.
#[utoipa::path(
    get, path = "/v1/users/{id}/files/", tag = "files",
    params(("id" = String, Path, format = "uuid"), ListParameters),
    responses((status = 200, body = FilePage), (status = "default", body = problem::Body))
)]
async fn list(
    path: FilePath,
    Shared(service): Shared<Service>,
    Id(id): Id,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    list_dir(service, id, path, parameters).await
}

async fn list_dir(
    service: Service,
    id: UserId,
    path: FilePath,
    parameters: ListParameters,
) -> Result<Response, Problem> {
    let limit = parameters.limit;
    if !(1..=ListQuery::MAX_LIMIT).contains(&limit) {
        let detail = format!("limit isn't within 1 and {}", ListQuery::MAX_LIMIT);
        return Err(Problem::new(Type::InvalidParameter, detail));
    }
    let store = service.store.clone();
    let listed = service.files.run(move || {
        let Some(dir) = existing_dir(&store, id)? else {
            // The user's own directory is made with its first file.
            return if path.segments.is_empty() {
                Ok(FilePage::default())
            } else {
                Err(no_such_file())
            };
        };
        let dir = open_parent(&dir, &path.segments.join("/")).map_err(failed)?;
        list_entries(&dir, parameters.cursor.as_deref(), limit).map_err(failed)
    });
    Ok(JsonBody(listed.await?).into_response())
}

/// Write a file
///
/// The name has the whole old content until it has the whole new one, also after a crash. Missing
/// directories on the path are made. A `Content-Digest` or `Repr-Digest` (RFC 9530; sha-256,
/// sha-512) is verified before anything is changed.
#[utoipa::path(
    put, path = "/v1/users/{id}/files/{*path}", tag = "files",
    params(
        ("id" = String, Path, format = "uuid"), ("path" = String, Path),
        ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header),
        ("Content-Digest" = Option<String>, Header)
    ),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "The file is new", headers(("ETag", description = "The entity tag"))),
        (status = 204, description = "The file was replaced", headers(("ETag", description = "The entity tag"))),
        (status = "default", body = problem::Body)
    )
)]
async fn put(
    path: FilePath,
    Shared(service): Shared<Service>,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    for coding in [CONTENT_ENCODING, CONTENT_RANGE] {
        if headers.contains_key(&coding) {
            return Err(Problem::new(
                Type::InvalidParameter,
                format!("{coding} isn't supported: send the whole file"),
            ));
        }
    }
    let (above, name) = path.of_file()?;
    let target = Target { id, above, name: name.to_owned(), conditions: Conditions::of(&headers)? };
    let digests = Expected::of(&headers)?;
    let length = http_body::Body::size_hint(&body).exact();
    if length.is_some_and(|length| length > service.files.file_bytes_max) {
        return Err(too_large(service.files.file_bytes_max));
    }
    let store = service.store.clone();
    let (target, root, upload, replaced) = service
        .files
        .run(move || {
            let root = dir(&store, id)?;
            let old = target.stat(&root)?;
            let upload = Upload::begin(&root, &target.above, digests).map_err(failed)?;
            Ok((target, root, Elsewhere::new(upload), old))
        })
        .await?;
    let mut reservation = service
        .files
        .user_bytes_max
        .map(|limit| Reservation::new(&service.files.quotas, &service.store, id, limit, replaced));
    if let (Some(reservation), Some(length)) = (&mut reservation, length) {
        reservation.grow(length, true).await?;
    }
    let limit = service.files.file_bytes_max;
    let upload = receive(&service.files, body, upload, limit, reservation.as_mut()).await?;
    // Into the trash, a file would not be restored from by anyone who asked for it.
    service.store.get(id).await?.ok_or_else(Problem::no_user)?;
    let written = to_its_end(commit(service, target, root, upload, reservation)).await?;
    let status = if written.is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let mut response = status.into_response();
    written.state.add_to(response.headers_mut());
    Ok(response)
}

/// The file that a request changes.
struct Target {
    id: UserId,
    above: String,
    name: String,
    conditions: Conditions,
}

impl Target {
    /// Checks what has the name now, and returns how many bytes become free when it is replaced.
    fn stat(&self, root: &Dir) -> Result<u64, Problem> {
        let parent = match open_parent(root, &self.above) {
            Ok(parent) => parent,
            Err(error) if is(&error, Errno::NOENT) => {
                self.conditions.check_change(None)?;
                return Ok(0);
            }
            Err(error) => return Err(failed(error)),
        };
        let old = stat(&parent, &self.name)?;
        old.as_ref().map_or(Ok(()), require_file)?;
        self.conditions.check_change(old.as_ref().map(State::of).as_ref())?;
        Ok(freed(old.as_ref()))
    }
}

/// An upload whose content is on the disk, and the file that it is to be.
struct Commit {
    target: Target,
    root: Dir,
    complete: Complete,
}

/// What became of an upload that was to get its name.
enum Named {
    Written(Written),
    /// Nothing was changed: what has the name frees no more than so many bytes.
    FreesLess(Elsewhere<Box<Commit>>, u64),
}

impl Commit {
    /// Gives the upload its name, unless less becomes free than was reckoned with.
    fn name(self: Box<Self>, files: &Files, replaced: u64) -> Result<Named, Problem> {
        let Target { id, above, name, conditions } = &self.target;
        let _lock = files.lock(*id, above, name);
        if replaced > 0 {
            let freed = self.target.stat(&self.root)?;
            if freed < replaced {
                return Ok(Named::FreesLess(Elsewhere::new(self), freed));
            }
        }
        Ok(Named::Written(self.complete.name(&self.root, above, name, conditions)?))
    }
}

/// Gives an upload its name, and counts it.
async fn commit(
    service: Service,
    target: Target,
    root: Dir,
    upload: Elsewhere<Upload>,
    mut reservation: Option<Reservation>,
) -> Result<Written, Problem> {
    let id = target.id;
    let mut commit = service
        .files
        .run(move || {
            let complete = upload.into_inner().ok_or_else(no_such_file)?.finish()?;
            Ok(Elsewhere::new(Box::new(Commit { target, root, complete })))
        })
        .await?;
    // It ends, since each time less becomes free than the time before.
    loop {
        let changing = service.files.quotas.changing(id).await;
        let files = Arc::clone(&service.files);
        let replaced = reservation.as_ref().map_or(0, Reservation::replaced);
        let named = service
            .files
            .run(move || commit.into_inner().ok_or_else(no_such_file)?.name(&files, replaced));
        match named.await? {
            Named::Written(written) => {
                count(&service, id, written.change).await;
                // After the count, so that the room isn't given to two.
                drop(reservation);
                return Ok(written);
            }
            Named::FreesLess(again, freed) => {
                commit = again;
                // A reservation keeps changes away while it grows.
                drop(changing);
                if let Some(reservation) = &mut reservation {
                    reservation.replace(freed).await?;
                }
            }
        }
    }
}

/// Adds a change to what the user's directory held when it was measured.
async fn count(service: &Service, id: UserId, change: UsageChange) {
    // The file is there, or gone, all the same; the next measurement finds out.
    if let Err(error) = service.store.adjust_usage(id, change).await {
        tracing::warn!(kind = error.kind().name(), user = %id, "a change of a user's files wasn't counted: {error}");
    }
}

/// Remove a file
///
/// A directory is left even if this was the last file in it.
#[utoipa::path(
    delete, path = "/v1/users/{id}/files/{*path}", tag = "files",
    params(
        ("id" = String, Path, format = "uuid"), ("path" = String, Path),
        ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)
    ),
    responses((status = 204, description = "The file is gone"), (status = "default", body = problem::Body))
)]
async fn delete(
    path: FilePath,
    Shared(service): Shared<Service>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (above, name) = path.of_file()?;
    let target = Target { id, above, name: name.to_owned(), conditions: Conditions::of(&headers)? };
    to_its_end(remove_file(service, target)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove_file(service: Service, target: Target) -> Result<(), Problem> {
    let id = target.id;
    let _changing = service.files.quotas.changing(id).await;
    let (files, store) = (Arc::clone(&service.files), service.store.clone());
    let removed = service.files.run(move || {
        let root = existing_dir(&store, id)?.ok_or_else(no_such_file)?;
        let parent = open_parent(&root, &target.above).map_err(failed)?;
        let _lock = files.lock(id, &target.above, &target.name);
        let old = stat(&parent, &target.name)?.ok_or_else(no_such_file)?;
        require_file(&old)?;
        target.conditions.check_change(Some(&State::of(&old)))?;
        remove(&parent, &target.name)?;
        Ok(change(None, Some(&old)))
    });
    count(&service, id, removed.await?).await;
    Ok(())
}
