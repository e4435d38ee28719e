//! Users' files: what is written, what is read, and what never is.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::BodyExt;
use tenantry_http::{Caller, Options, Scopes};
use tower::ServiceExt;

use crate::support::Api;

/// A user with files, and requests on them.
pub(crate) struct Ada {
    pub(crate) api: Api,
    /// The path of the user in URLs.
    pub(crate) path: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What could be read of it.
    pub(crate) body: Result<Bytes, String>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn tag(&self) -> String {
        self.header("etag").unwrap().to_owned()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.body.as_ref().unwrap()).unwrap()
    }

    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

impl Ada {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let api = Api::with(options).await;
        let (path, _) = api.create("ada@example.com").await;
        Self { api, path }
    }

    pub(crate) async fn response(
        &self,
        method: Method,
        file: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> axum::response::Response {
        let mut request =
            Request::builder().method(method).uri(format!("{}/files/{file}", self.path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).unwrap();
        let caller = Caller::new("test", Scopes::all());
        request.extensions_mut().insert(caller);
        self.api.router().oneshot(request).await.unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        file: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let (parts, body) = self.response(method, file, headers, body).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.map_err(|error| error.to_string());
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, file: &str) -> Answer {
        self.call(Method::GET, file, &[], "").await
    }

    pub(crate) async fn put(&self, file: &str, content: impl Into<Body>) -> Answer {
        self.call(Method::PUT, file, &[], content).await
    }

    pub(crate) async fn delete(&self, file: &str) -> Answer {
        self.call(Method::DELETE, file, &[], "").await
    }

    pub(crate) fn id(&self) -> tenantry::UserId {
        self.path.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// The directory on the disk.
    pub(crate) async fn dir(&self) -> PathBuf {
        self.api.store.directory_path(self.id()).await.unwrap()
    }

    pub(crate) async fn usage(&self) -> u64 {
        self.api.store.usage(self.id()).await.unwrap().unwrap().apparent_bytes
    }
}

/// A body that comes in parts, the length of which isn't announced.
fn parts(parts: impl IntoIterator<Item = Vec<u8>, IntoIter: Send + 'static>) -> Body {
    Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)))
}

/// A body that breaks off.
fn broken_off() -> Body {
    let parts = [Ok(vec![b'x'; 300_000]), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
    Body::from_stream(stream::iter(parts))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_written_replaced_read_and_removed() {
    let ada = Ada::new().await;
    let created = ada.put("letters/2026/notes.txt", "hello").await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let read = ada.get("letters/2026/notes.txt").await;
    assert_eq!((read.status, read.text(), read.tag()), (StatusCode::OK, "hello", created.tag()));
    assert_eq!(
        (read.header("content-length"), read.header("accept-ranges")),
        (Some("5"), Some("bytes"))
    );
    let head = ada.call(Method::HEAD, "letters/2026/notes.txt", &[], "").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.text()),
        (StatusCode::OK, Some("5"), "")
    );
    let replaced = ada.put("letters/2026/notes.txt", "hallo").await;
    assert_eq!(replaced.status, StatusCode::NO_CONTENT);
    assert_ne!(replaced.tag(), created.tag());
    let read = ada.get("letters/2026/notes.txt").await;
    assert_eq!((read.text(), read.tag()), ("hallo", replaced.tag()));
    let removed = ada.delete("letters/2026/notes.txt").await;
    assert_eq!((removed.status, removed.text()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(ada.get("letters/2026/notes.txt").await.problem(), "not-found");
    assert_eq!(ada.delete("letters/2026/notes.txt").await.problem(), "not-found");
    // The directories stay.
    assert_eq!(ada.get("letters/2026/").await.json()["entries"], serde_json::json!([]));
}

#[tokio::test]
async fn a_large_file_comes_back_as_it_was_sent() {
    let ada = Ada::new().await;
    let content: Vec<u8> =
        (0..1_000_003_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let chunks: Vec<Vec<u8>> = content.chunks(7_919).map(<[u8]>::to_vec).collect();
    assert_eq!(ada.put("large", parts(chunks)).await.status, StatusCode::CREATED);
    assert!(ada.get("large").await.body.unwrap() == content);
    let range = ada.call(Method::GET, "large", &[("range", "bytes=100000-900000")], "").await;
    assert!(range.body.unwrap() == content[100_000..=900_000]);
    assert_eq!(ada.put("empty", "").await.status, StatusCode::CREATED);
    let empty = ada.get("empty").await;
    assert_eq!(
        (empty.status, empty.text(), empty.header("content-length")),
        (StatusCode::OK, "", Some("0"))
    );
}

/// CVE-2021-37794, CVE-2026-30948, CVE-2026-105694, GHSA-hr5w-cwwq-2v4m, GHSA-954h-jrpm-72pm: what
/// users upload was shown inline on the origin of the application.
#[tokio::test]
async fn a_file_is_always_an_attachment_in_a_sandbox() {
    let ada = Ada::new().await;
    for name in ["page.html", "image.svg", "script.js"] {
        ada.put(name, "<script>alert(1)</script>").await;
        for (range, status) in [("", StatusCode::OK), ("bytes=0-7", StatusCode::PARTIAL_CONTENT)] {
            let read =
                ada.call(Method::GET, name, &[("range", range), ("accept", "text/html")], "").await;
            assert_eq!(read.status, status);
            assert_eq!(
                read.header("content-disposition"),
                Some(&*format!("attachment; filename=\"{name}\""))
            );
            for (header, value) in [
                ("content-type", "application/octet-stream"),
                ("x-content-type-options", "nosniff"),
                ("content-security-policy", "sandbox; default-src 'none'"),
                ("cross-origin-resource-policy", "same-origin"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(read.header(header), Some(value), "{header}");
            }
        }
    }
}

/// CVE-2021-32679: a name that wasn't escaped in the header (RFC 8187).
#[tokio::test]
async fn a_hostile_name_stays_within_its_parameter() {
    let ada = Ada::new().await;
    for (name, value) in [
        (
            "a%22%3B%20filename%3D%22b.exe",
            "attachment; filename=\"a_; filename=_b.exe\"; filename*=UTF-8''a%22%3B%20filename%3D%22b.exe",
        ),
        ("a%0D%0ASet-Cookie:%20b", r#"attachment; filename="aSet-Cookie: b""#),
        ("%E2%80%AEtxt.exe", r#"attachment; filename="txt.exe""#),
        ("caf%C3%A9", "attachment; filename=\"caf_\"; filename*=UTF-8''caf%C3%A9"),
    ] {
        assert_eq!(ada.put(name, "x").await.status, StatusCode::CREATED);
        assert_eq!(ada.get(name).await.header("content-disposition"), Some(value));
    }
}

#[tokio::test]
async fn one_range_is_sent_and_several_are_ignored() {
    let ada = Ada::new().await;
    let tag = ada.put("digits", "0123456789").await.tag();
    for (range, status, content, text) in [
        ("bytes=0-0", 206, Some("bytes 0-0/10"), "0"),
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=5-99", 206, Some("bytes 5-9/10"), "56789"),
        ("bytes=0-1,3-4", 200, None, "0123456789"),
        ("lines=1-2", 200, None, "0123456789"),
    ] {
        let read = ada.call(Method::GET, "digits", &[("range", range)], "").await;
        assert_eq!(
            (read.status.as_u16(), read.header("content-range"), read.text()),
            (status, content, text)
        );
        assert_eq!(read.header("content-length").unwrap(), text.len().to_string());
    }
    let beyond = ada.call(Method::GET, "digits", &[("range", "bytes=10-")], "").await;
    assert_eq!(
        (beyond.status, beyond.problem().as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "range-not-satisfiable")
    );
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    for (condition, status) in [(&*tag, 206), ("\"other\"", 200), (&*format!("W/{tag}"), 200)] {
        let read = ada
            .call(Method::GET, "digits", &[("range", "bytes=2-4"), ("if-range", condition)], "")
            .await;
        assert_eq!(read.status.as_u16(), status, "{condition}");
    }
    let head = ada.call(Method::HEAD, "digits", &[("range", "bytes=2-4")], "").await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, Some("10")));
}

#[tokio::test]
async fn a_client_that_has_the_file_gets_304_until_it_changes() {
    let ada = Ada::new().await;
    let tag = ada.put("notes.txt", "one").await.tag();
    let modified = ada.get("notes.txt").await.header("last-modified").unwrap().to_owned();
    for header in [
        ("if-none-match", &*tag),
        ("if-none-match", &*format!("W/{tag}")),
        ("if-modified-since", &*modified),
    ] {
        let known = ada.call(Method::GET, "notes.txt", &[header], "").await;
        assert_eq!(
            (known.status, known.tag(), known.text()),
            (StatusCode::NOT_MODIFIED, tag.clone(), "")
        );
    }
    let other = ada.call(Method::GET, "notes.txt", &[("if-match", "\"other\"")], "").await;
    assert_eq!(
        (other.status, other.problem().as_str()),
        (StatusCode::PRECONDITION_FAILED, "precondition-failed")
    );
    ada.put("notes.txt", "two").await;
    let changed = ada.call(Method::GET, "notes.txt", &[("if-none-match", &tag)], "").await;
    assert_eq!((changed.status, changed.text()), (StatusCode::OK, "two"));
}

/// The kernel's clock for files doesn't move for milliseconds, and a number of an inode is given
/// out again.
#[tokio::test]
async fn contents_of_one_length_in_quick_succession_have_different_tags() {
    let ada = Ada::new().await;
    let mut tags = std::collections::HashSet::new();
    for number in 0..50 {
        assert!(tags.insert(ada.put("notes.txt", format!("{number:02}")).await.tag()), "{number}");
    }
}

#[tokio::test]
async fn a_condition_that_fails_leaves_the_file() {
    let ada = Ada::new().await;
    let absent = ada.call(Method::PUT, "notes.txt", &[("if-match", "*")], "one").await;
    assert_eq!(absent.problem(), "precondition-failed");
    let created = ada.call(Method::PUT, "notes.txt", &[("if-none-match", "*")], "one").await;
    assert_eq!(created.status, StatusCode::CREATED);
    let old = created.tag();
    let exists = ada.call(Method::PUT, "notes.txt", &[("if-none-match", "*")], "two").await;
    assert_eq!(
        (exists.status, exists.problem().as_str()),
        (StatusCode::PRECONDITION_FAILED, "precondition-failed")
    );
    let weak =
        ada.call(Method::PUT, "notes.txt", &[("if-match", &format!("W/{old}"))], "two").await;
    assert_eq!(weak.problem(), "precondition-failed");
    assert_eq!(ada.get("notes.txt").await.text(), "one");
    let replaced = ada.call(Method::PUT, "notes.txt", &[("if-match", &old)], "two").await;
    assert_eq!(replaced.status, StatusCode::NO_CONTENT);
    let stale = ada.call(Method::DELETE, "notes.txt", &[("if-match", &old)], "").await;
    assert_eq!(stale.problem(), "precondition-failed");
    let removed = ada.call(Method::DELETE, "notes.txt", &[("if-match", &replaced.tag())], "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let malformed = ada.call(Method::PUT, "notes.txt", &[("if-match", "one")], "x").await;
    assert_eq!(
        (malformed.status, malformed.problem().as_str()),
        (StatusCode::BAD_REQUEST, "invalid-parameter")
    );
}

#[tokio::test]
async fn of_racing_uploads_with_one_condition_exactly_one_succeeds() {
    let ada = Ada::new().await;
    let mut condition = ("if-none-match", "*".to_owned());
    for round in 0..5 {
        let uploads = (0..16).map(|racer| {
            let (ada, condition) = (&ada, &condition);
            let headers = [(condition.0, condition.1.clone())];
            async move {
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                ada.call(Method::PUT, "raced.txt", &headers, format!("{round} {racer}")).await
            }
        });
        let replies = join_all(uploads).await;
        let winners: Vec<_> = (0..16).filter(|racer| replies[*racer].status.is_success()).collect();
        let losers =
            replies.iter().filter(|reply| reply.status == StatusCode::PRECONDITION_FAILED).count();
        assert_eq!((winners.len(), losers), (1, 15), "{replies:?}");
        let read = ada.get("raced.txt").await;
        assert_eq!(read.text(), format!("{round} {}", winners[0]));
        condition = ("if-match", replies[winners[0]].tag());
        assert_eq!(read.tag(), condition.1);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_the_old_file_and_nothing_else() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "old").await;
    for file in ["notes.txt", "new/file.txt"] {
        let broken = ada.put(file, broken_off()).await;
        assert_eq!(
            (broken.status, broken.problem().as_str()),
            (StatusCode::BAD_REQUEST, "invalid-body")
        );
    }
    assert_eq!(ada.get("notes.txt").await.text(), "old");
    assert_eq!(names(&ada.dir().await), ["notes.txt"]);
}

/// The same over a connection: the client goes away in the middle of the body.
#[tokio::test]
async fn a_client_that_disconnects_leaves_the_old_file_and_nothing_else() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "old").await;
    let running = crate::support::serve(&ada.api);
    let head = format!(
        "PUT {}/files/notes.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf",
        ada.path
    );
    let mut stream = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    let mut reply = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut reply).await;
    assert!(!String::from_utf8_lossy(&reply).starts_with("HTTP/1.1 2"), "{reply:?}");
    running.end.send(()).unwrap();
    running.served.await.unwrap();
    assert_eq!(ada.get("notes.txt").await.text(), "old");
    assert_eq!(names(&ada.dir().await), ["notes.txt"]);
}

#[tokio::test]
async fn a_digest_that_differs_leaves_the_old_file() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "old").await;
    // SHA-256 and SHA-512 of "hello".
    let sha256 = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    let sha512 = "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";
    for header in [("content-digest", sha256), ("repr-digest", sha512)] {
        let differs = ada.call(Method::PUT, "notes.txt", &[header], "other").await;
        assert_eq!(
            (differs.status, differs.problem().as_str()),
            (StatusCode::BAD_REQUEST, "digest-mismatch")
        );
    }
    assert_eq!((ada.get("notes.txt").await.text(), names(&ada.dir().await).len()), ("old", 1));
    let unknown = format!("md5=:AAAA:, {sha256}, {sha512}");
    let same = ada.call(Method::PUT, "notes.txt", &[("content-digest", &unknown)], "hello").await;
    assert_eq!((same.status, ada.get("notes.txt").await.text()), (StatusCode::NO_CONTENT, "hello"));
    for malformed in ["sha-256", "sha-256=:AAAA:", "sha-256=LPJN", "sha-256=:\u{21}:"] {
        let reply = ada.call(Method::PUT, "notes.txt", &[("content-digest", malformed)], "x").await;
        assert_eq!(reply.problem(), "invalid-parameter", "{malformed}");
    }
}

#[tokio::test]
async fn a_coded_or_partial_upload_is_refused() {
    let ada = Ada::new().await;
    for header in [("content-encoding", "gzip"), ("content-range", "bytes 0-1/2")] {
        let reply = ada.call(Method::PUT, "notes.txt", &[header], "x").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::BAD_REQUEST, "invalid-parameter")
        );
    }
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused_whether_its_length_is_announced_or_not() {
    let mut options = Options::default();
    options.max_file = 1_000_000;
    let ada = Ada::with(options).await;
    let announced = ada.put("file", vec![b'x'; 1_000_001]).await;
    assert_eq!(
        (announced.status, announced.problem().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
    // A body that never ends.
    let endless = ada.put("file", parts(std::iter::repeat(vec![b'x'; 60_000]))).await;
    assert_eq!(endless.problem(), "body-too-large");
    assert_eq!(names(&ada.dir().await), [""; 0]);
    assert_eq!(ada.put("file", vec![b'x'; 1_000_000]).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_user_has_no_more_than_their_limit() {
    let mut options = Options::default();
    options.max_user_bytes = Some(1_000);
    let ada = Ada::with(options).await;
    // What is there already counts.
    ada.api.store.directory(ada.id()).await.unwrap().write("before", [0; 400]).unwrap();
    assert_eq!(ada.put("one", vec![1; 600]).await.status, StatusCode::CREATED);
    assert_eq!(ada.usage().await, 1_000);
    for body in [Body::from("x"), parts([b"x".to_vec()])] {
        let full = ada.put("two", body).await;
        assert_eq!(
            (full.status, full.problem().as_str()),
            (StatusCode::INSUFFICIENT_STORAGE, "user-full")
        );
    }
    // What is replaced doesn't count.
    assert_eq!(ada.put("one", vec![2; 500]).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ada.put("two", parts([vec![3; 60], vec![3; 40]])).await.status, StatusCode::CREATED);
    assert_eq!(ada.put("three", "x").await.problem(), "user-full");
    ada.delete("before").await;
    assert_eq!(ada.usage().await, 600);
    assert_eq!(ada.put("three", vec![4; 400]).await.status, StatusCode::CREATED);
    let measured = ada.api.store.measure_usage(ada.id(), |_| {}).await.unwrap();
    assert_eq!((measured.apparent_bytes, measured.files), (1_000, 3));
}

#[tokio::test]
async fn racing_uploads_together_stay_within_the_limit() {
    let mut options = Options::default();
    options.max_user_bytes = Some(100_000);
    let ada = Ada::with(options).await;
    for round in 0..5 {
        let uploads = (0..20).map(|racer| {
            let ada = &ada;
            let body = if racer % 2 == 0 {
                Body::from(vec![1; 10_000])
            } else {
                parts(vec![vec![1; 1_000]; 10])
            };
            async move { ada.put(&format!("{round}-{racer}"), body).await.status }
        });
        let statuses = join_all(uploads).await;
        let written = statuses.iter().filter(|status| **status == StatusCode::CREATED).count();
        // No more than fit, and, since what is reserved is given back, no fewer in the end.
        assert!((1..=10).contains(&written), "{statuses:?}");
        assert_eq!(ada.usage().await, written as u64 * 10_000);
        let measured = ada.api.store.measure_usage(ada.id(), |_| {}).await.unwrap();
        assert_eq!(measured.apparent_bytes, written as u64 * 10_000);
        for racer in 0..20 {
            ada.delete(&format!("{round}-{racer}")).await;
        }
        assert_eq!(ada.usage().await, 0);
    }
}

#[tokio::test]
async fn usage_is_kept_up_to_date_once_it_was_measured() {
    let ada = Ada::new().await;
    ada.put("one", vec![1; 10_000]).await;
    assert_eq!(ada.api.store.usage(ada.id()).await.unwrap(), None);
    ada.api.store.measure_usage(ada.id(), |_| {}).await.unwrap();
    ada.put("two", vec![1; 5_000]).await;
    ada.put("one", vec![1; 100_000]).await;
    ada.delete("two").await;
    let kept = ada.api.store.usage(ada.id()).await.unwrap().unwrap();
    let measured = ada.api.store.measure_usage(ada.id(), |_| {}).await.unwrap();
    let figures =
        |usage: tenantry::Usage| (usage.files, usage.apparent_bytes, usage.allocated_bytes);
    assert_eq!(figures(kept), figures(measured));
}

#[tokio::test]
async fn a_directory_is_not_a_file_and_a_file_is_not_a_directory() {
    let ada = Ada::new().await;
    ada.put("dir/file", "x").await;
    for (method, path) in [
        (Method::GET, "dir"),
        (Method::PUT, "dir"),
        (Method::DELETE, "dir"),
        (Method::PUT, "dir/file/a"),
        (Method::GET, "dir/file/a"),
        (Method::DELETE, "dir/file/a"),
        (Method::GET, "dir/file/"),
    ] {
        let reply = ada.call(method.clone(), path, &[], "").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::CONFLICT, "not-a-file"),
            "{method} {path}"
        );
    }
    for (method, path) in [(Method::PUT, "dir/"), (Method::DELETE, "dir/"), (Method::PUT, "new/")] {
        let reply = ada.call(method.clone(), path, &[], "").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::BAD_REQUEST, "invalid-path"),
            "{method} {path}"
        );
    }
    assert_eq!(ada.call(Method::PUT, "", &[], "x").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

/// CVE-2026-55498: a symbolic link led out of what was shared.
#[tokio::test]
async fn no_link_is_followed_not_even_one_that_stays_within() {
    let ada = Ada::new().await;
    ada.put("dir/file", "x").await;
    let (dir, outside) = (ada.dir().await, tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink("dir", dir.join("within")).unwrap();
    symlink("dir/file", dir.join("alias")).unwrap();
    symlink(outside.path(), dir.join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.join("secret")).unwrap();
    symlink(outside.path().join("new"), dir.join("dangling")).unwrap();
    symlink("/proc/self/root", dir.join("magic")).unwrap();
    for path in
        ["within/file", "alias", "out/secret", "secret", "dangling", "out/new", "magic/etc/passwd"]
    {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            let reply = ada.call(method.clone(), path, &[], "").await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (StatusCode::FORBIDDEN, "refused-file"),
                "{method} {path}"
            );
        }
    }
    for path in ["within/", "out/"] {
        assert_eq!(ada.get(path).await.problem(), "refused-file");
    }
    assert_eq!(names(outside.path()), ["secret"]);
    assert_eq!(ada.get("").await.json()["entries"][0]["type"], "other");
}

#[tokio::test]
async fn a_special_file_is_refused_and_holds_nobody_up() {
    let ada = Ada::new().await;
    let dir = ada.dir().await;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    for path in ["fifo", "socket"] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let reply = ada.call(method.clone(), path, &[], "").await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (StatusCode::FORBIDDEN, "refused-file"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(names(&dir), ["fifo", "socket"]);
}

/// CVE-2026-48777, CVE-2026-44542, GHSA-273v-9h7x-p68v, CVE-2025-53829, CVE-2026-6815: paths that
/// were joined and normalized. CVE-2026-35605: paths compared as texts, by a prefix.
#[tokio::test]
async fn a_path_that_leads_elsewhere_is_refused_by_every_method() {
    let ada = Ada::new().await;
    let mut new = tenantry::NewUser::new("bob@example.com".parse().unwrap());
    new.storage_path = Some("customers/bob".parse().unwrap());
    let bob = ada.api.store.create(new).await.unwrap();
    let mut new = tenantry::NewUser::new("bobby@example.com".parse().unwrap());
    new.storage_path = Some("customers/bobby".parse().unwrap());
    let bobby = ada.api.store.create(new).await.unwrap();
    ada.api.store.directory(bobby.id).await.unwrap().write("secret", "secret").unwrap();
    let ada = Ada { path: format!("/v1/users/{}", bob.id), ..ada };
    let long = "x".repeat(256);
    for path in [
        "..",
        "../bobby/secret",
        "..%2fbobby%2fsecret",
        "%2e%2e/bobby/secret",
        "%2E%2E/bobby/secret",
        "a/../../bobby/secret",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "/a",
        "/",
        "//",
        "a//",
        "%2fetc/passwd",
        "a%2fb",
        "a%00",
        "%00",
        "%ff",
        "%c3%28",
        "%zz",
        "%",
        &long,
        ".tenantry-upload-1",
        "%2etenantry-upload-1/x",
    ] {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            let reply = ada.call(method.clone(), path, &[], "x").await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (StatusCode::BAD_REQUEST, "invalid-path"),
                "{method} {path}"
            );
        }
    }
    // Decoded once.
    assert_eq!(ada.put("%252e%252e", "x").await.status, StatusCode::CREATED);
    assert_eq!(names(&ada.dir().await), ["%2e%2e"]);
    assert_eq!(ada.get(&"x".repeat(255)).await.problem(), "not-found");
}

#[tokio::test]
async fn an_unknown_user_and_one_in_the_trash_have_no_files() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "x").await;
    ada.api.store.delete(ada.id()).await.unwrap();
    let unknown = Ada {
        path: "/v1/users/3fa2b1c4-0000-4000-8000-000000000001".to_owned(),
        ..Ada::new().await
    };
    for ada in [&ada, &unknown] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            assert_eq!(ada.call(method, "notes.txt", &[], "y").await.problem(), "not-found");
        }
        assert_eq!(ada.get("").await.problem(), "not-found");
    }
}

#[tokio::test]
async fn an_upload_of_a_user_who_is_deleted_meanwhile_is_refused() {
    let ada = Ada::new().await;
    ada.put("notes.txt", "old").await;
    let (store, id) = (ada.api.store.clone(), ada.id());
    let body = Body::from_stream(stream::once(async move {
        store.delete(id).await.unwrap();
        Ok::<_, Infallible>("new")
    }));
    assert_eq!(ada.put("notes.txt", body).await.problem(), "not-found");
    let in_trash = ada.api.dir.path().join("trash").join(id.to_string());
    assert_eq!(
        (names(&in_trash), fs::read_to_string(in_trash.join("notes.txt")).unwrap()),
        (vec!["notes.txt".to_owned()], "old".to_owned())
    );
}

#[tokio::test]
async fn reading_makes_no_directory() {
    let ada = Ada::new().await;
    let list = ada.get("").await.json();
    assert_eq!(list, serde_json::json!({"entries": [], "next_cursor": null, "unnamable": 0}));
    assert_eq!(ada.get("dir/").await.problem(), "not-found");
    assert_eq!(ada.get("notes.txt").await.problem(), "not-found");
    assert_eq!(ada.delete("notes.txt").await.problem(), "not-found");
    assert_eq!(ada.api.store.users_with_directory().await.unwrap(), []);
}

/// An application may have the API below a path of its own.
#[tokio::test]
async fn a_nested_router_finds_the_path_of_a_file() {
    let ada = Ada::new().await;
    ada.put("dir/notes%20.txt", "hello").await;
    let router = axum::Router::new().nest("/api/users", ada.api.router());
    let request = Request::get(format!("/api/users{}/files/dir/notes%20.txt", ada.path));
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Caller::new("test", Scopes::all()));
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn a_listing_is_followed_to_its_end_in_the_order_of_names() {
    let ada = Ada::new().await;
    let dir = ada.dir().await;
    let mut expected: Vec<String> = (0..25).map(|number| format!("f{number}&=\u{e9}")).collect();
    expected.iter().for_each(|name| fs::write(dir.join(name), name).unwrap());
    fs::create_dir(dir.join("a dir")).unwrap();
    expected.push("a dir".to_owned());
    expected.sort();
    fs::write(dir.join(std::os::unix::ffi::OsStrExt::from_bytes(b"\xff") as &std::ffi::OsStr), "")
        .unwrap();
    for limit in [1, 7, 25, 26, 27] {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = ada.get(&format!("?limit={limit}{cursor}")).await.json();
            let entries = page["entries"].as_array().unwrap();
            assert!(entries.len() <= limit && page["unnamable"] == 1);
            found.extend(entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            // A path can hold every character that a query can't.
            let encoded: String = next.bytes().map(|byte| format!("%{byte:02x}")).collect();
            cursor = format!("&cursor={encoded}");
        }
        assert_eq!(found, expected, "{limit}");
    }
    let entries = ada.get("?limit=2").await.json()["entries"].clone();
    assert_eq!(
        (&entries[0]["type"], &entries[0]["bytes"]),
        (&"directory".into(), &serde_json::Value::Null)
    );
    let file = ada.get("f0&=%C3%A9").await;
    assert_eq!(
        (&entries[1]["type"], entries[1]["etag"].as_str()),
        (&"file".into(), file.header("etag"))
    );
    for limit in ["0", "1001", "x"] {
        assert_eq!(ada.get(&format!("?limit={limit}")).await.problem(), "invalid-parameter");
    }
}

/// A crash between the two names of an upload leaves the hidden one.
#[tokio::test]
async fn what_a_crashed_upload_left_is_hidden_and_removed_and_one_that_runs_is_not() {
    let ada = Ada::new().await;
    let dir = ada.dir().await;
    let [left, held] = [1, 2].map(|number| dir.join(format!(".tenantry-upload-{number}")));
    fs::write(&left, "half").unwrap();
    let file = File::create(&held).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let list = ada.get("").await.json();
    assert_eq!(list["entries"], serde_json::json!([]));
    assert!(!left.exists() && held.exists());
    drop(file);
    ada.get("").await;
    assert!(!held.exists());
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_changed_while_it_is_sent_ends_with_an_error() {
    let ada = Ada::new().await;
    let dir = ada.dir().await;
    type Change = fn(&Path);
    let changes: [(Change, bool); 4] = [
        (|path| File::options().write(true).open(path).unwrap().set_len(200_000).unwrap(), false),
        (|path| fs::write(path, vec![2; 1_000_000]).unwrap(), false),
        // The client has the old file as a whole.
        (|path| fs::remove_file(path).unwrap(), true),
        (|path| fs::rename(path, path.with_file_name("other")).unwrap(), true),
    ];
    for (change, is_whole) in changes {
        fs::write(dir.join("large"), vec![1; 1_000_000]).unwrap();
        let mut body = ada.response(Method::GET, "large", &[], "").await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        change(&dir.join("large"));
        let rest = body.collect().await.map(|rest| rest.to_bytes());
        match rest {
            Ok(rest) => {
                assert!(
                    is_whole
                        && first.len() + rest.len() == 1_000_000
                        && rest.iter().all(|byte| *byte == 1)
                )
            }
            Err(error) => assert!(!is_whole, "{error}"),
        }
    }
}

/// There are fewer threads for file work than downloads that nobody reads.
#[tokio::test]
async fn a_client_that_does_not_read_holds_no_thread() {
    let ada = Ada::new().await;
    ada.put("large", vec![1; 1_000_000]).await;
    let mut unread = Vec::new();
    for _ in 0..100 {
        let mut body = ada.response(Method::GET, "large", &[], "").await.into_body();
        body.frame().await.unwrap().unwrap();
        unread.push(body);
    }
    ada.put("small", "x").await;
    assert_eq!(ada.get("small").await.text(), "x");
    for body in unread {
        assert!(body.collect().await.unwrap().to_bytes().len() < 1_000_000);
    }
}
