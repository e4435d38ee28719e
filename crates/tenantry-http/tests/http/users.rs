//! Users: create, find, list, change, delete, sign in.

use axum::http::{Method, StatusCode};

use crate::support::Api;

#[tokio::test]
async fn a_user_is_created_and_found_by_id_and_by_address_in_any_spelling() {
    let api = Api::new().await;
    let (path, created) = api.create("Ada@Example.com").await;
    assert_eq!(created.header("etag"), Some("\"1\""));
    let found = api.get(&path).await;
    assert_eq!((found.status, &found.json), (StatusCode::OK, &created.json));
    let found = api.post("/v1/users:lookup", r#"{"email":"ADA@example.COM"}"#).await;
    assert_eq!((found.status, &found.json), (StatusCode::OK, &created.json));
    let missing = api.post("/v1/users:lookup", r#"{"email":"bob@example.com"}"#).await;
    assert_eq!((missing.status, missing.problem()), (StatusCode::NOT_FOUND, "not-found"));
}

#[tokio::test]
async fn a_second_user_with_the_address_is_a_conflict_that_names_the_first() {
    let api = Api::new().await;
    let (_, created) = api.create("ada@example.com").await;
    let second = api.post("/v1/users", r#"{"email":"ADA@example.com"}"#).await;
    assert_eq!((second.status, second.problem()), (StatusCode::CONFLICT, "email-taken"));
    assert_eq!(second.json["taken_by"], created.json["id"]);
    assert_eq!(api.store.count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_list_is_followed_to_its_end_without_a_repeat_or_a_gap() {
    let api = Api::new().await;
    for number in 0..7 {
        api.create(&format!("user{number}@example.com")).await;
    }
    let mut emails = Vec::new();
    let mut path = "/v1/users?limit=3".to_owned();
    loop {
        let page = api.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        let users = page.json["users"].as_array().unwrap();
        emails.extend(users.iter().map(|user| user["email"].as_str().unwrap().to_owned()));
        match page.json["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/users?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..7).map(|number| format!("user{number}@example.com")).collect();
    assert_eq!(emails, expected);
}

#[tokio::test]
async fn a_search_takes_what_may_be_an_address_in_its_body() {
    let api = Api::new().await;
    api.create("ada@example.com").await;
    api.create("bob@example.com").await;
    let found = api.post("/v1/users:search", r#"{"filter":{"email_prefix":"AD"}}"#).await;
    assert_eq!(found.json["users"].as_array().unwrap().len(), 1);
    assert_eq!(found.json["users"][0]["email"], "ada@example.com");
    let in_url = api.get("/v1/users?email_prefix=ad").await;
    assert_eq!((in_url.status, in_url.problem()), (StatusCode::BAD_REQUEST, "invalid-parameter"));
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_keeps_the_rest() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let patch = r#"{"email":"ada@example.org"}"#;
    let changed = api
        .call(Method::PATCH, &path, &[("content-type", "application/merge-patch+json")], patch)
        .await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(
        (&changed.json["email"], &changed.json["version"]),
        (&"ada@example.org".into(), &2.into())
    );
    assert_eq!(changed.json["created_at"], created.json["created_at"]);
    let nothing = api.call(Method::PATCH, &path, &[], "{}").await;
    assert_eq!((nothing.status, &nothing.json), (StatusCode::OK, &changed.json));
    let removed = api.call(Method::PATCH, &path, &[], r#"{"email":null}"#).await;
    assert_eq!((removed.status, removed.problem()), (StatusCode::BAD_REQUEST, "invalid-body"));
}

#[tokio::test]
async fn a_patch_distinguishes_what_is_missing_from_null() {
    let api = Api::new().await;
    let new = r#"{"email":"ada@example.com","external_id":"00u1","name":"Ada","attributes":{ "b": 1.50, "a": 2 }}"#;
    let created = api.post("/v1/users", new).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    // The order of the keys and the digits are those of the request.
    assert!(created.text.contains(r#""attributes":{"b":1.50,"a":2}"#), "{}", created.text);
    let path = format!("/v1/users/{}", created.json["id"].as_str().unwrap());
    let patch = r#"{"name":null,"attributes":{"c":[]}}"#;
    let changed = api.call(Method::PATCH, &path, &[], patch).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(changed.json["name"], serde_json::Value::Null);
    assert_eq!(changed.json["external_id"], "00u1");
    assert_eq!(changed.json["attributes"], serde_json::json!({ "c": [] }), "they are not merged");
    assert_eq!(changed.json["version"], 2);
    let found = api.post("/v1/users:search", r#"{"filter":{"external_id":"00u1"}}"#).await;
    assert_eq!(found.json["users"][0], changed.json);
    for patch in [
        r#"{"name":""}"#,
        r#"{"attributes":[]}"#,
        r#"{"attributes":{"a":1,"a":2}}"#,
        r#"{"external_id":7}"#,
    ] {
        let refused = api.call(Method::PATCH, &path, &[], patch).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::BAD_REQUEST, "invalid-body"),
            "{patch}"
        );
    }
    assert_eq!(api.get(&path).await.json, changed.json);
}

#[tokio::test]
async fn a_suspended_user_is_forbidden_to_sign_in_and_listed_as_suspended() {
    let api = Api::new().await;
    let (path, _) = api.create("ada@example.com").await;
    api.create("bob@example.com").await;
    let suspended =
        api.call(Method::POST, &format!("{path}/suspend"), &[("if-match", "\"1\"")], "").await;
    assert_eq!((suspended.status, suspended.header("etag")), (StatusCode::OK, Some("\"2\"")));
    let again = api.call(Method::POST, &format!("{path}/suspend"), &[], "").await;
    assert_eq!(again.json, suspended.json);
    let sign_in = api.post("/v1/sign-in", r#"{"email":"ada@example.com"}"#).await;
    assert_eq!((sign_in.status, sign_in.problem()), (StatusCode::FORBIDDEN, "suspended"));
    let login = api.call(Method::POST, &format!("{path}/login"), &[], "").await;
    assert_eq!((login.status, login.problem()), (StatusCode::FORBIDDEN, "suspended"));
    for (filter, expected) in [("true", "ada@example.com"), ("false", "bob@example.com")] {
        let page = api.get(&format!("/v1/users?suspended={filter}")).await;
        let users = page.json["users"].as_array().unwrap();
        assert_eq!((users.len(), &users[0]["email"]), (1, &expected.into()));
    }
    let stale =
        api.call(Method::POST, &format!("{path}/resume"), &[("if-match", "\"1\"")], "").await;
    assert_eq!(
        (stale.status, stale.problem()),
        (StatusCode::PRECONDITION_FAILED, "version-mismatch")
    );
    let resumed = api.call(Method::POST, &format!("{path}/resume"), &[], "").await;
    assert_eq!(
        (&resumed.json["suspended_at"], &resumed.json["version"]),
        (&serde_json::Value::Null, &3.into())
    );
    let sign_in = api.post("/v1/sign-in", r#"{"email":"ada@example.com"}"#).await;
    assert_eq!(sign_in.status, StatusCode::OK);
}

#[tokio::test]
async fn a_sign_in_creates_once_and_a_login_keeps_the_version() {
    let api = Api::new().await;
    let first = api.post("/v1/sign-in", r#"{"email":"ada@example.com"}"#).await;
    assert_eq!((first.status, &first.json["is_new"]), (StatusCode::CREATED, &true.into()));
    let second = api.post("/v1/sign-in", r#"{"email":"ADA@example.com"}"#).await;
    assert_eq!((second.status, &second.json["is_new"]), (StatusCode::OK, &false.into()));
    assert_eq!(second.json["user"]["id"], first.json["user"]["id"]);
    let path = format!("/v1/users/{}/login", first.json["user"]["id"].as_str().unwrap());
    let login = api.call(Method::POST, &path, &[], "").await;
    assert_eq!((login.status, &login.json["version"]), (StatusCode::OK, &1.into()));
}

#[tokio::test]
async fn the_usage_of_a_user_is_measured_and_kept() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let never = api.get(&format!("{path}/usage")).await;
    assert_eq!((never.status, never.problem()), (StatusCode::NOT_FOUND, "not-found"));
    let id = created.json["id"].as_str().unwrap().parse().unwrap();
    api.store.directory(id).await.unwrap().write("notes.txt", "four").unwrap();
    let measured = api.call(Method::POST, &format!("{path}/usage:measure"), &[], "").await;
    assert_eq!((measured.status, &measured.json["apparent_bytes"]), (StatusCode::OK, &4.into()));
    let kept = api.get(&format!("{path}/usage")).await;
    assert_eq!(kept.json, measured.json);
    let largest = api.get("/v1/usage?top=5").await;
    assert_eq!(largest.json["usages"][0]["user"]["id"], created.json["id"]);
    assert_eq!(api.get("/v1/usage?top=0").await.problem(), "invalid-parameter");
}

#[tokio::test]
async fn the_status_is_that_of_the_store() {
    let api = Api::new().await;
    api.create("ada@example.com").await;
    let status = api.get("/v1/status").await;
    assert_eq!((status.status, &status.json["user_count"]), (StatusCode::OK, &1.into()));
    assert_eq!(status.json["read_only"], false);
}
