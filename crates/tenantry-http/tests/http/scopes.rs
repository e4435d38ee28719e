//! Who may do what: a walk of all routes.

use axum::http::{Method, StatusCode};
use tenantry_http::{Caller, Scope, Scopes, openapi};

use crate::support::{Api, Reply};

/// The id of no user.
pub(crate) const ID: &str = "3fa2b1c4-0000-4000-8000-000000000001";

/// All routes with the scopes that the document names: method, path, scopes.
pub(crate) fn routes() -> Vec<(Method, String, Vec<String>)> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if !operation.is_object() {
                continue;
            }
            let scopes = operation["security"][0]["token"].as_array().cloned().unwrap_or_default();
            let scopes = scopes.iter().map(|scope| scope.as_str().unwrap().to_owned()).collect();
            routes.push((method, path.replace("{id}", ID), scopes));
        }
    }
    assert!(routes.len() >= 15, "{routes:?}");
    routes
}

/// What generators of clients refuse a document for.
#[test]
fn the_document_describes_each_response_and_says_that_errors_are_problems() {
    let document = serde_json::to_value(openapi()).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    let mut responses = 0;
    for operation in
        operations.map(|(_, operation)| operation).filter(|operation| operation.is_object())
    {
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(
                response["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{operation}"
            );
            if status == "default" {
                let types: Vec<_> = response["content"].as_object().unwrap().keys().collect();
                assert_eq!(types, ["application/problem+json"], "{operation}");
            }
            responses += 1;
        }
    }
    assert!(responses >= 40, "{responses}");
}

pub(crate) async fn call(
    api: &Api,
    caller: Option<Caller>,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Reply {
    let body = if *method == Method::GET || *method == Method::DELETE { "" } else { "{}" };
    api.call_as(caller, method.clone(), path, headers, body).await
}

#[tokio::test]
async fn every_route_declares_one_scope() {
    for (method, path, scopes) in routes() {
        assert_eq!(scopes.len(), 1, "{method} {path}");
    }
}

/// CVE-2025-4210, CVE-2026-121454: routes beside the authorization, and any token taken for a valid
/// one.
#[tokio::test]
async fn no_route_is_reached_without_valid_credentials() {
    let api = Api::new().await;
    for (method, path, _) in routes() {
        for header in
            [&[][..], &[("authorization", "Bearer x")], &[("authorization", "Basic eDp4")]]
        {
            let reply = call(&api, None, &method, &path, header).await;
            assert_eq!(
                (reply.status, reply.problem()),
                (StatusCode::UNAUTHORIZED, "unauthorized"),
                "{method} {path}"
            );
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    for path in ["/v1/openapi.json", "/v1/nothing", "/", "/v1/users/"] {
        let reply = call(&api, None, &Method::GET, path, &[]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// CVE-2026-46425: authenticated, but no role checked.
#[tokio::test]
async fn every_route_is_refused_without_its_scope_and_reached_with_it() {
    let api = Api::new().await;
    for (method, path, scopes) in routes() {
        let needed = &scopes[0];
        let with = |keep: bool| {
            let scopes: Scopes = Scope::ALL
                .iter()
                .copied()
                .filter(|scope| *scope != Scope::Admin && (scope.name() == needed) == keep)
                .collect();
            Some(Caller::new("test", scopes))
        };
        let refused = call(&api, with(false), &method, &path, &[]).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::FORBIDDEN, "missing-scope"),
            "{method} {path}"
        );
        assert!(refused.json["detail"].as_str().unwrap().contains(needed));
        let reached = call(&api, with(true), &method, &path, &[]).await;
        let statuses =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
        assert!(!statuses.contains(&reached.status), "{method} {path}: {reached:?}");
    }
}

#[tokio::test]
async fn health_needs_no_credentials() {
    let api = Api::new().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(call(&api, None, &Method::GET, path, &[]).await.status, StatusCode::OK);
    }
    api.store.close().await.unwrap();
    assert_eq!(call(&api, None, &Method::GET, "/livez", &[]).await.status, StatusCode::OK);
    // An answer about the store is good for a moment.
    while call(&api, None, &Method::GET, "/readyz", &[]).await.status
        != StatusCode::SERVICE_UNAVAILABLE
    {
        tokio::task::yield_now().await;
    }
}
