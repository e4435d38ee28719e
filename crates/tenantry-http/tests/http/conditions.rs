//! Conditional requests: entity tags, `If-None-Match`, `If-Match`.

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use tenantry_http::Options;

use crate::support::Api;

#[tokio::test]
async fn a_client_that_has_the_user_gets_304_until_they_log_in() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let tag = created.header("etag").unwrap().to_owned();
    let known = api.call(Method::GET, &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((known.status, known.header("etag")), (StatusCode::NOT_MODIFIED, Some(&*tag)));
    api.call(Method::POST, &format!("{path}/login"), &[], "").await;
    let changed = api.call(Method::GET, &path, &[("if-none-match", &tag)], "").await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_ne!(changed.header("etag"), Some(&*tag));
}

#[tokio::test]
async fn a_login_fails_no_condition_on_the_version() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let tag = created.header("etag").unwrap().to_owned();
    api.call(Method::POST, &format!("{path}/login"), &[], "").await;
    let patch = r#"{"email":"ada@example.org"}"#;
    let changed = api.call(Method::PATCH, &path, &[("if-match", &tag)], patch).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    let again = api
        .call(Method::PATCH, &path, &[("if-match", &tag)], r#"{"email":"ada@example.net"}"#)
        .await;
    assert_eq!(
        (again.status, again.problem()),
        (StatusCode::PRECONDITION_FAILED, "version-mismatch")
    );
    assert_eq!(again.json["current_version"], 2);
    let delete = api.call(Method::DELETE, &path, &[("if-match", &tag)], "").await;
    assert_eq!(
        (delete.status, &delete.json["current_version"]),
        (StatusCode::PRECONDITION_FAILED, &2.into())
    );
    let one_of = api.call(Method::DELETE, &path, &[("if-match", "\"1\", \"2.abc\"")], "").await;
    assert_eq!(one_of.status, StatusCode::OK);
}

#[tokio::test]
async fn of_racing_changes_of_one_version_exactly_one_succeeds() {
    let api = Api::new().await;
    let (path, _) = api.create("ada@example.com").await;
    let mut tag = "\"1\"".to_owned();
    for round in 0..5 {
        let changes = (0..64).map(|racer| {
            let (api, path, tag) = (&api, &path, &tag);
            let patch = format!(r#"{{"email":"ada+{round}.{racer}@example.com"}}"#);
            async move { api.call(Method::PATCH, path, &[("if-match", tag)], &patch).await }
        });
        let replies = join_all(changes).await;
        let winners: Vec<_> =
            replies.iter().filter(|reply| reply.status == StatusCode::OK).collect();
        let losers =
            replies.iter().filter(|reply| reply.status == StatusCode::PRECONDITION_FAILED).count();
        assert_eq!((winners.len(), losers), (1, 63));
        tag = winners[0].header("etag").unwrap().to_owned();
    }
}

#[tokio::test]
async fn a_service_may_require_conditions() {
    let mut options = Options::default();
    options.require_if_match = true;
    let api = Api::with(options).await;
    let (path, _) = api.create("ada@example.com").await;
    for method in [Method::PATCH, Method::DELETE] {
        let body = if method == Method::PATCH { "{}" } else { "" };
        let without = api.call(method.clone(), &path, &[], body).await;
        assert_eq!(
            (without.status, without.problem()),
            (StatusCode::PRECONDITION_REQUIRED, "precondition-required")
        );
        let with = api.call(method, &path, &[("if-match", "*")], body).await;
        assert_eq!(with.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_condition_that_is_no_list_of_tags_is_400() {
    let api = Api::new().await;
    let (path, _) = api.create("ada@example.com").await;
    let reply = api.call(Method::PATCH, &path, &[("if-match", "1")], "{}").await;
    assert_eq!((reply.status, reply.problem()), (StatusCode::BAD_REQUEST, "invalid-parameter"));
    let reply = api.call(Method::GET, &path, &[("if-none-match", "1")], "").await;
    assert_eq!((reply.status, reply.problem()), (StatusCode::BAD_REQUEST, "invalid-parameter"));
}
