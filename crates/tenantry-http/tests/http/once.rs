//! Requests with an `Idempotency-Key`: performed once, however often they are sent.

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use tenantry::{NewToken, Scopes};
use tenantry_http::Caller;

use crate::support::{Api, Reply};

const ADA: &str = r#"{"email":"ada@example.com"}"#;
const BOB: &str = r#"{"email":"bob@example.com"}"#;

async fn post(api: &Api, key: &str, path: &str, body: &str) -> Reply {
    api.call(Method::POST, path, &[("idempotency-key", key)], body).await
}

#[track_caller]
fn assert_same(first: &Reply, again: &Reply) {
    assert!(first.status.is_success(), "{first:?}");
    assert_eq!((first.status, &first.json), (again.status, &again.json));
    assert_eq!(
        (first.header("etag"), first.header("location")),
        (again.header("etag"), again.header("location"))
    );
}

#[tokio::test]
async fn a_request_that_is_sent_again_gets_the_same_response() {
    let api = Api::new().await;
    let first = post(&api, "k1", "/v1/users", ADA).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_same(&first, &post(&api, "k1", "/v1/users", ADA).await);
    // However the body is written.
    assert_same(
        &first,
        &post(&api, "k1", "/v1/users", r#" { "email" : "ada@example.com" } "#).await,
    );
    assert_eq!(api.store.count().await.unwrap(), 1);
    let without = api.post("/v1/users", ADA).await;
    assert_eq!(without.problem(), "email-taken");
}

#[tokio::test]
async fn every_post_that_changes_a_user_is_performed_once() {
    let api = Api::new().await;
    let first = post(&api, "k1", "/v1/sign-in", ADA).await;
    assert_eq!((first.status, &first.json["is_new"]), (StatusCode::CREATED, &true.into()));
    assert_same(&first, &post(&api, "k1", "/v1/sign-in", ADA).await);
    let id = first.json["user"]["id"].as_str().unwrap();
    let user = format!("/v1/users/{id}");
    for verb in ["login", "suspend", "resume"] {
        let path = format!("{user}/{verb}");
        let first = post(&api, verb, &path, "").await;
        assert_same(&first, &post(&api, verb, &path, "").await);
    }
    // The version isn't the one of the condition any more.
    let suspend = async || {
        let headers = [("idempotency-key", "k2"), ("if-match", "\"3\"")];
        api.call(Method::POST, &format!("{user}/suspend"), &headers, "").await
    };
    let first = suspend().await;
    assert_eq!(first.json["version"], 4, "{first:?}");
    assert_same(&first, &suspend().await);
    api.call(Method::DELETE, &user, &[], "").await;
    let restore = format!("/v1/trash/{id}/restore");
    let first = post(&api, "k3", &restore, "{}").await;
    assert_same(&first, &post(&api, "k3", &restore, "{}").await);
}

#[tokio::test]
async fn another_request_with_the_key_is_422() {
    let api = Api::new().await;
    let (path, _) = api.create("eve@example.com").await;
    post(&api, "k1", "/v1/users", ADA).await;
    let login = format!("{path}/login");
    for (path, body) in [("/v1/users", BOB), ("/v1/sign-in", ADA), (&*login, "")] {
        let refused = post(&api, "k1", path, body).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::UNPROCESSABLE_ENTITY, "key-reused"),
            "{path}"
        );
    }
    assert_eq!(api.store.count().await.unwrap(), 2);
}

#[tokio::test]
async fn a_key_that_is_not_acceptable_is_400() {
    let api = Api::new().await;
    for key in ["", "a b", "\u{e9}", &"x".repeat(256)] {
        let refused = post(&api, key, "/v1/users", ADA).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{key}: {refused:?}");
    }
    let headers = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let twice = api.call(Method::POST, "/v1/users", &headers, ADA).await;
    assert_eq!((twice.status, twice.problem()), (StatusCode::BAD_REQUEST, "invalid-parameter"));
    assert_eq!(api.store.count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_failure_is_evaluated_again() {
    let api = Api::new().await;
    let (path, _) = api.create("ada@example.com").await;
    assert_eq!(post(&api, "k1", "/v1/users", ADA).await.problem(), "email-taken");
    api.call(Method::DELETE, &path, &[], "").await;
    assert_eq!(post(&api, "k1", "/v1/users", ADA).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn requests_that_come_at_once_create_one_user() {
    let api = Api::new().await;
    let replies = join_all((0..64).map(|_| post(&api, "k1", "/v1/users", ADA))).await;
    replies.iter().for_each(|reply| assert_same(&replies[0], reply));
    assert_eq!(api.store.count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_key_is_of_its_caller_even_after_a_rotation_and_of_nobody_else() {
    let api = Api::new().await;
    let first = api.token(NewToken::new("billing", Scopes::all())).await;
    let send = async |bearer: &str| {
        let headers = [("authorization", bearer), ("idempotency-key", "k1")];
        api.call_as(None::<Caller>, Method::POST, "/v1/users", &headers, ADA).await
    };
    let created = send(&first).await;
    let (_, second) = api
        .store
        .rotate_token("billing", tenantry::Token::DEFAULT_OVERLAP, "library")
        .await
        .unwrap();
    assert_same(&created, &send(&format!("Bearer {}", second.as_str())).await);
    let other = api.token(NewToken::new("backup", Scopes::all())).await;
    assert_eq!(send(&other).await.problem(), "email-taken");
}
