//! Users and stores as files: import, export, archives, backups, check.

use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::task::Poll;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use futures_util::stream;
use http_body_util::BodyExt;
use tenantry_http::{Caller, Scopes};
use tower::ServiceExt;

use crate::files::Ada;
use crate::support::{Api, Reply};

async fn response(
    api: &Api,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body.into()).unwrap();
    request.extensions_mut().insert(Caller::new("test", Scopes::all()));
    api.router().oneshot(request).await.unwrap()
}

async fn import(api: &Api, parameters: &str, kind: &str, body: &str) -> Reply {
    api.call(Method::POST, &format!("/v1/import{parameters}"), &[("content-type", kind)], body)
        .await
}

async fn bytes(response: Response) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

/// The names in the data directory, where nothing of a transfer may be left.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn count(api: &Api) -> u64 {
    api.store.count().await.unwrap()
}

#[tokio::test]
async fn users_are_imported_from_csv_json_lines_and_json() {
    let api = Api::new().await;
    let names_before = names(api.dir.path());
    for (kind, body) in [
        ("text/csv; charset=utf-8", "email,name\nada@example.com,Ada\nbob@example.com,\n"),
        (
            "application/jsonl",
            "{\"email\":\"carol@example.com\"}\n{\"email\":\"dave@example.com\"}\n",
        ),
        ("application/json", r#"[{"email":"eve@example.com"},{"email":"frank@example.com"}]"#),
    ] {
        let reply = import(&api, "", kind, body).await;
        assert_eq!(
            (reply.status, &reply.json["created"]),
            (StatusCode::OK, &2.into()),
            "{reply:?}"
        );
        assert_eq!(
            (&reply.json["rejects"], &reply.json["dry_run"]),
            (&serde_json::json!([]), &false.into())
        );
    }
    assert_eq!((count(&api).await, names(api.dir.path())), (6, names_before));
    let found = api.post("/v1/users:lookup", r#"{"email":"ada@example.com"}"#).await;
    assert_eq!(found.json["name"], "Ada");
    let kind = import(&api, "", "application/pdf", "x").await;
    assert_eq!(
        (kind.status, kind.problem()),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type")
    );
    let unknown = import(&api, "?on_conflict=replace", "text/csv", "email\n").await;
    assert_eq!(unknown.problem(), "invalid-parameter");
}

#[tokio::test]
async fn a_rejected_row_fails_the_import_unless_conflicts_are_skipped() {
    let api = Api::new().await;
    api.create("ada@example.com").await;
    let file = "email\nbob@example.com\nno address\nada@example.com\n";
    let failed = import(&api, "", "text/csv", file).await;
    assert_eq!((failed.status, failed.problem()), (StatusCode::BAD_REQUEST, "invalid-user"));
    assert!(failed.json["detail"].as_str().unwrap().starts_with("line 3: "), "{failed:?}");
    let taken = import(&api, "", "text/csv", "email\nbob@example.com\nada@example.com\n").await;
    assert_eq!((taken.status, taken.problem()), (StatusCode::CONFLICT, "email-taken"));
    assert_eq!(count(&api).await, 1);
    let skipped = import(&api, "?on_conflict=skip", "text/csv", file).await;
    assert_eq!(
        (skipped.status, &skipped.json["created"], &skipped.json["skipped"]),
        (StatusCode::OK, &1.into(), &1.into())
    );
    assert_eq!(
        (&skipped.json["rejected"], &skipped.json["rejects"][0]["line"]),
        (&1.into(), &3.into())
    );
    assert_eq!(skipped.json["rejects"][0]["kind"], "invalid-user");
    let updated =
        import(&api, "?on_conflict=update", "text/csv", "email,name\nada@example.com,Ada\n").await;
    assert_eq!((&updated.json["updated"], count(&api).await), (&1.into(), 2));
}

#[tokio::test]
async fn a_dry_run_reports_what_an_import_would_do_and_does_nothing() {
    let api = Api::new().await;
    api.create("ada@example.com").await;
    let file = "email\nbob@example.com\nada@example.com\nno address\n";
    let dry = import(&api, "?dry_run=true&on_conflict=skip", "text/csv", file).await;
    assert_eq!((dry.status, count(&api).await), (StatusCode::OK, 1));
    let mut real = import(&api, "?on_conflict=skip", "text/csv", file).await;
    real.json["dry_run"] = true.into();
    assert_eq!((dry.json, count(&api).await), (real.json, 2));
}

#[tokio::test]
async fn many_rejected_rows_are_all_counted_and_the_first_are_named() {
    let api = Api::new().await;
    let file = format!("email\n{}ada@example.com\n", "secret@@example.com\n".repeat(2_500));
    for parameters in ["?on_conflict=skip&dry_run=true", "?on_conflict=skip"] {
        let reply = import(&api, parameters, "text/csv", &file).await;
        assert_eq!((&reply.json["rejected"], &reply.json["created"]), (&2_500.into(), &1.into()));
        let rejects = reply.json["rejects"].as_array().unwrap();
        assert_eq!(
            (rejects.len(), &rejects[0]["line"], &rejects[99]["line"]),
            (100, &2.into(), &101.into())
        );
        assert!(!reply.text.contains("secret"));
    }
}

#[tokio::test]
async fn a_user_whose_address_looks_like_another_is_named_or_refused() {
    let api = Api::new().await;
    let (_, copy) = api.create("copy@example.com").await;
    // In Cyrillic letters.
    let file = "email\n\u{441}\u{43e}\u{440}\u{443}@example.com\n";
    let refused = import(&api, "?on_conflict=skip&on_confusable=refuse", "text/csv", file).await;
    assert_eq!(refused.json["rejected"], 1);
    let warned = import(&api, "", "text/csv", file).await;
    assert_eq!((&warned.json["created"], &warned.json["confusable"]), (&1.into(), &1.into()));
    assert_eq!(
        warned.json["confusables"],
        serde_json::json!([{"line": 2, "other": copy.json["id"]}])
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_imports_nothing_and_leaves_nothing() {
    let api = Api::new().await;
    let names_before = names(api.dir.path());
    for parameters in ["", "?on_conflict=skip", "?on_conflict=update", "?dry_run=true"] {
        let rows = "email\nada@example.com\n".to_owned() + &"x@example.com\n".repeat(50_000);
        let parts = [Ok(rows), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let body = Body::from_stream(stream::iter(parts));
        let path = format!("/v1/import{parameters}");
        let reply =
            response(&api, Method::POST, &path, &[("content-type", "text/csv")], body).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!((count(&api).await, names(api.dir.path())), (0, names_before));
}

/// Each is on the disk before it is read, and their number was that of the connections.
#[tokio::test]
async fn imports_beyond_the_limit_are_refused_until_one_is_over() {
    const ROUTES: [(&str, &str); 2] =
        [("/v1/import", "text/csv"), ("/v1/archives", "application/zstd")];
    let api = Api::new().await;
    let mut unsent = Vec::new();
    for number in 0..8 {
        let (path, media) = ROUTES[number % 2];
        let (begin, begun) = tokio::sync::oneshot::channel();
        let body = Body::from_stream(stream::once(async {
            begin.send(()).unwrap();
            std::future::pending::<io::Result<Vec<u8>>>().await
        }));
        let mut request = Request::post(path).header("content-type", media).body(body).unwrap();
        request.extensions_mut().insert(Caller::new("test", Scopes::all()));
        unsent.push(tokio::spawn(api.router().oneshot(request)));
        begun.await.unwrap();
    }
    for (path, media) in ROUTES {
        let refused = api.call(Method::POST, path, &[("content-type", media)], "email\n").await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            "{path}"
        );
    }
    // A client that goes away ends its import.
    let gone = unsent.pop().unwrap();
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let imported = import(&api, "", "text/csv", "email\nada@example.com\n").await;
    assert_eq!(imported.json["created"], 1);
}

#[tokio::test]
async fn a_file_that_is_malformed_in_the_middle_reports_what_was_imported_before() {
    let api = Api::new().await;
    let good: String =
        (0..1_500).map(|number| format!("{{\"email\":\"u{number}@example.com\"}}\n")).collect();
    let file = format!("[{}, nothing", good.trim_end().replace('\n', ","));
    let failed = import(&api, "", "application/json", &file).await;
    assert_eq!(
        (failed.status, failed.problem(), count(&api).await),
        (StatusCode::BAD_REQUEST, "invalid-body", 0)
    );
    let failed = import(&api, "?on_conflict=skip", "application/json", &file).await;
    assert_eq!(
        (failed.status, failed.problem(), count(&api).await),
        (StatusCode::BAD_REQUEST, "invalid-body", 1_500)
    );
    assert!(
        failed.json["detail"].as_str().unwrap().contains("before that: 1500 created"),
        "{failed:?}"
    );
    let header = import(&api, "?on_conflict=skip", "text/csv", "nothing\n").await;
    assert_eq!(header.problem(), "invalid-body");
}

#[tokio::test]
async fn an_export_is_imported_as_it_was() {
    let (api, other) = (Api::new().await, Api::new().await);
    import(
        &api,
        "",
        "text/csv",
        "email,name,external_id\nada@example.com,Ada,1\n=bob@example.com,\"B,\"\"ob\"\"\",\n",
    )
    .await;
    for (accept, kind) in [
        ("text/csv", "text/csv; charset=utf-8"),
        ("application/jsonl", "application/jsonl"),
        ("*/*", "application/jsonl"),
    ] {
        let export = response(&api, Method::GET, "/v1/export", &[("accept", accept)], "").await;
        assert_eq!(export.headers()["content-type"], kind);
        assert!(
            export.headers()["content-disposition"].to_str().unwrap().starts_with("attachment; ")
        );
        let text = String::from_utf8(bytes(export).await).unwrap();
        let imported = import(&other, "?on_conflict=update", kind, &text).await;
        assert_eq!(
            (imported.status, &imported.json["rejected"]),
            (StatusCode::OK, &0.into()),
            "{imported:?}"
        );
        let all = async |api: &Api| api.get("/v1/users").await.json["users"].clone();
        assert_eq!(all(&api).await, all(&other).await);
    }
    assert_eq!(
        bytes(response(&Api::new().await, Method::GET, "/v1/export", &[], "").await).await,
        b""
    );
}

async fn with_many_users() -> Api {
    let api = Api::new().await;
    let rows: String = (0..5_000).map(|number| format!("u{number}@example.com\n")).collect();
    assert_eq!(
        import(&api, "", "text/csv", &format!("email\n{rows}")).await.json["created"],
        5_000
    );
    api
}

#[tokio::test]
async fn an_export_is_of_one_moment_however_slowly_it_is_read() {
    let api = with_many_users().await;
    let mut body =
        response(&api, Method::GET, "/v1/export", &[("accept", "text/csv")], "").await.into_body();
    let mut text = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    api.create("late@example.com").await;
    text.extend(body.collect().await.unwrap().to_bytes());
    let text = String::from_utf8(text).unwrap();
    assert_eq!((text.lines().count(), text.contains("late@")), (5_001, false));
}

#[tokio::test]
async fn exports_beyond_the_limit_are_refused_until_one_is_over() {
    let api = with_many_users().await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut body = response(&api, Method::GET, "/v1/export", &[], "").await.into_body();
        body.frame().await.unwrap().unwrap();
        unread.push(body);
    }
    for path in ["/v1/export", "/v1/check", "/v1/backup"] {
        let refused = api.get(path).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            "{path}"
        );
    }
    // A client that goes away ends its export.
    unread.pop();
    assert_eq!(response(&api, Method::GET, "/v1/export", &[], "").await.status(), StatusCode::OK);
    drop(unread);
    // No export holds the store.
    api.store.close().await.unwrap();
    assert_eq!(api.get("/v1/export").await.problem(), "closed");
}

/// Their places were free when their first byte was sent, so any number of them took the disk.
#[tokio::test]
async fn archives_and_checks_take_their_place_until_they_are_read() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "hello").await;
    let archive = format!("{}/archive", ada.path);
    for path in [&*archive, "/v1/backup", "/v1/check"] {
        let mut unread = Vec::new();
        for _ in 0..4 {
            let response = response(&ada.api, Method::GET, path, &[], "").await;
            assert_eq!(response.status(), StatusCode::OK);
            unread.push(response);
        }
        let refused = ada.api.get(path).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            "{path}"
        );
        let read = bytes(unread.pop().unwrap()).await;
        assert!(!read.is_empty());
        assert_eq!(response(&ada.api, Method::GET, path, &[], "").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_user_moves_with_their_files_to_another_store() {
    let (ada, other) = (Ada::new().await, Api::new().await);
    ada.put("letters/notes.txt", "hello").await;
    let names_before = (names(ada.api.dir.path()), names(other.dir.path()));
    let path = format!("{}/archive", ada.path);
    let export = response(&ada.api, Method::GET, &path, &[], "").await;
    assert_eq!(
        (export.status(), &export.headers()["tenantry-left-out"]),
        (StatusCode::OK, &"0".parse().unwrap())
    );
    assert_eq!(export.headers()["content-type"], "application/zstd");
    let length: usize = export.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let archive = bytes(export).await;
    assert_eq!(archive.len(), length);
    let kind = [("content-type", "application/zstd")];
    let imported = response(&other, Method::POST, "/v1/archives", &kind, archive.clone()).await;
    assert_eq!(
        (imported.status(), &imported.headers()["location"]),
        (StatusCode::CREATED, &ada.path.parse().unwrap())
    );
    let json: serde_json::Value = serde_json::from_slice(&bytes(imported).await).unwrap();
    assert_eq!(
        (&json["files"], &json["bytes"], &json["user"]["email"]),
        (&1.into(), &5.into(), &"ada@example.com".into())
    );
    assert_eq!((names(ada.api.dir.path()), names(other.dir.path())), names_before);
    let files = other.store.directory(ada.id()).await.unwrap();
    assert_eq!(files.read_to_string("letters/notes.txt").unwrap(), "hello");
    let again = response(&other, Method::POST, "/v1/archives", &kind, archive.clone()).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    ada.api.store.delete(ada.id()).await.unwrap();
    assert_eq!(ada.api.get(&path).await.problem(), "not-found");

    // What isn't a whole archive is the client's mistake, and imports nothing.
    let empty = Api::new().await;
    let half = archive[..archive.len() / 2].to_vec();
    for body in [half, b"nothing".to_vec(), Vec::new()] {
        let reply = response(&empty, Method::POST, "/v1/archives", &kind, body).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
    }
    let other_kind = response(&empty, Method::POST, "/v1/archives", &[], archive).await;
    assert_eq!(other_kind.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        (count(&empty).await, names(empty.dir.path()).len()),
        (0, names(Api::new().await.dir.path()).len())
    );
}

#[tokio::test]
async fn a_backup_is_restored_with_users_and_files() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "hello").await;
    let names_before = names(ada.api.dir.path());
    let backup = response(&ada.api, Method::GET, "/v1/backup", &[], "").await;
    assert_eq!(
        (backup.status(), &backup.headers()["tenantry-left-out"]),
        (StatusCode::OK, &"0".parse().unwrap())
    );
    assert_eq!(names(ada.api.dir.path()), names_before);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.tar.zst");
    std::fs::write(&file, bytes(backup).await).unwrap();
    let restored = tenantry::restore_backup(&file, dir.path().join("data"), |_| {}).await.unwrap();
    assert_eq!(restored.report.findings, []);
    let store = tenantry::Store::open(dir.path().join("data")).await.unwrap();
    assert_eq!(
        store.directory(ada.id()).await.unwrap().read_to_string("notes.txt").unwrap(),
        "hello"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_archive_and_nothing_is_left() {
    let ada = Ada::new().await;
    ada.put("large", vec![7; 20_000_000]).await;
    let names_before = names(ada.api.dir.path());
    for path in [format!("{}/archive", ada.path), "/v1/backup".to_owned()] {
        {
            let mut request = std::pin::pin!(response(&ada.api, Method::GET, &path, &[], ""));
            // Until the archive is being written.
            while names(ada.api.dir.path()) == names_before {
                let poll =
                    poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_pending()));
                assert!(poll.await, "it was too fast");
                tokio::task::yield_now().await;
            }
        }
        while names(ada.api.dir.path()) != names_before {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_check_reports_findings_and_then_the_counts() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "hello").await;
    let check = async || {
        let response = response(&ada.api, Method::GET, "/v1/check", &[], "").await;
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"application/jsonl".parse().unwrap())
        );
        let text = String::from_utf8(bytes(response).await).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let counts = |findings: u64, directories: u64, orphaned: u64| serde_json::json!({"findings": findings, "users": 1, "trashed": 0, "directories": directories, "orphaned": orphaned});
    assert_eq!(check().await, [counts(0, 1, 0)]);
    std::fs::create_dir(ada.api.dir.path().join("storage/orphan")).unwrap();
    let lines = check().await;
    assert_eq!(
        (lines.len(), &lines[0]["kind"], &lines[0]["path"]),
        (2, &"directory_orphaned".into(), &"storage/orphan".into())
    );
    assert_eq!(lines[1], counts(1, 2, 1));
}
