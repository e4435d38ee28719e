//! The rows against the directories.

use std::convert::Infallible;
use std::iter;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tenantry::Scope;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::ARCHIVE_TIMEOUT;
use crate::problem::{self, Problem};
use crate::service::{Service, scoped_stream};
use crate::transfers::{Ended, hold};

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped_stream(Scope::Check, routes!(check))
}

/// The last line.
#[derive(Serialize)]
struct Summary {
    findings: usize,
    users: u64,
    trashed: u64,
    directories: u64,
    orphaned: u64,
}

/// Check the store
///
/// Compares the rows with the directories, and has SQLite check the database. JSON Lines: a finding
/// each (`kind`, `user`, `path`, `detail`), and a last line with the counts: `findings`, `users`,
/// `trashed`, `directories`, `orphaned`. The first line comes when the check is done.
#[utoipa::path(
    get, path = "/v1/check", tag = "store",
    responses((status = 200, description = "Findings, and the counts", body = String, content_type = "application/jsonl"),
        (status = "default", body = problem::Body))
)]
async fn check(State(service): State<Service>) -> Result<Response, Problem> {
    let permit = Arc::new(service.transfers.begin()?);
    let ended = Ended::when_dropped();
    let flag = ended.flag();
    let of_thread = Arc::clone(&permit);
    let progress = move |_: tenantry::Progress| {
        // The thread takes its place until it has ended, even after the client has gone.
        let _permit = &of_thread;
        flag.flow()
    };
    let report = tenantry::check_with_progress(service.store.data_dir(), progress).await?;
    let summary = Summary {
        findings: report.findings.len(),
        users: report.users,
        trashed: report.trashed,
        directories: report.directories,
        orphaned: report.orphaned,
    };
    let findings = report.findings.into_iter().map(|finding| line(&finding));
    let lines = findings.chain(iter::once_with(move || line(&summary))).map(Ok::<_, Infallible>);
    let body = hold(Body::from_stream(stream::iter(lines)), permit, ARCHIVE_TIMEOUT);
    Ok(([(CONTENT_TYPE, "application/jsonl")], body).into_response())
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // None of them has a key that isn't text, which is all that could fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
