//! Errors: what they say, and what they never say.

use axum::http::{Method, StatusCode};

use crate::support::Api;

#[tokio::test]
async fn what_the_router_refuses_is_a_problem_too() {
    let api = Api::new().await;
    assert_eq!(api.get("/v1/nothing").await.problem(), "no-route");
    let method = api.call(Method::PUT, "/v1/users", &[], "").await;
    assert_eq!(
        (method.status, method.problem()),
        (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed")
    );
    assert!(method.header("allow").unwrap().contains("POST"));
}

#[tokio::test]
async fn an_id_of_another_form_is_the_name_of_no_resource() {
    let api = Api::new().await;
    for id in ["1", "..%2Fstatus", "ada@example.com", "3FA2B1C4-0000-1000-8000-000000000001", "%00"]
    {
        let reply = api.get(&format!("/v1/users/{id}")).await;
        assert_eq!((reply.status, reply.problem()), (StatusCode::NOT_FOUND, "no-route"), "{id}");
    }
}

#[tokio::test]
async fn no_problem_quotes_an_address() {
    let api = Api::new().await;
    api.create("secret@example.com").await;
    for (path, body) in [
        ("/v1/users", r#"{"email":"secret@example.com"}"#),
        ("/v1/users", r#"{"email":"secret@@example.com"}"#),
        ("/v1/users", r#"{"email":"secret\u0000@example.com"}"#),
        ("/v1/users", r#"{"id":"secret@example.com","email":"a@example.com"}"#),
        ("/v1/users", r#"{"storage_path":"../secret@example.com","email":"a@example.com"}"#),
        ("/v1/users:search", r#"{"cursor":"secret@example.com"}"#),
        ("/v1/users:search", r#"{"limit":"secret@example.com"}"#),
    ] {
        let reply = api.post(path, body).await;
        assert!(reply.status.is_client_error(), "{body}: {reply:?}");
        assert!(
            !reply.problem().is_empty() && !reply.json.to_string().contains("secret"),
            "{reply:?}"
        );
    }
    let reply = api.get("/v1/users?cursor=secret@example.com").await;
    assert!(
        reply.status == StatusCode::BAD_REQUEST && !reply.json.to_string().contains("secret"),
        "{reply:?}"
    );
    let reply = api.get("/v1/users?limit=secret@example.com").await;
    assert!(
        reply.status == StatusCode::BAD_REQUEST && !reply.json.to_string().contains("secret"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let api = Api::new().await;
    let body = r#"{"email":"ada@example.com"}"#;
    for form in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"] {
        let request = axum::http::Request::post("/v1/users").header("content-type", form);
        let mut request = request.body(axum::body::Body::from(body)).unwrap();
        let caller = tenantry_http::Caller::new("test", tenantry_http::Scopes::all());
        request.extensions_mut().insert(caller);
        let response = tower::ServiceExt::oneshot(api.router(), request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    assert_eq!(api.store.count().await.unwrap(), 0);
}

#[tokio::test]
async fn the_id_of_a_request_is_taken_over_if_it_is_safe() {
    let api = Api::new().await;
    let reply = api.call(Method::GET, "/v1/nothing", &[("x-request-id", "abc-1.2_3")], "").await;
    assert_eq!(reply.json["request_id"], "abc-1.2_3");
    for unsafe_id in ["a b", "a\tb", &"x".repeat(65), ""] {
        let reply = api.call(Method::GET, "/v1/nothing", &[("x-request-id", unsafe_id)], "").await;
        assert_eq!(reply.problem(), "no-route");
        assert_ne!(reply.json["request_id"], unsafe_id);
    }
}

#[tokio::test]
async fn no_response_is_cached_or_guessed_at() {
    let api = Api::new().await;
    let (path, _) = api.create("ada@example.com").await;
    for path in [&*path, "/v1/nothing", "/livez"] {
        let reply = api.get(path).await;
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
}
