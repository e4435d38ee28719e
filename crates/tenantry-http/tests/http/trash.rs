//! The trash: delete, list, restore, purge.

use axum::http::{Method, StatusCode};

use crate::support::Api;

#[tokio::test]
async fn a_deleted_user_is_restored_as_they_were() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let id = created.json["id"].as_str().unwrap();
    let deleted = api.call(Method::DELETE, &path, &[], "").await;
    assert_eq!((deleted.status, &deleted.json), (StatusCode::OK, &created.json));
    assert_eq!(api.get(&path).await.problem(), "not-found");
    let trash = api.get("/v1/trash").await;
    assert_eq!(trash.json["users"][0]["id"], id);
    let trashed = api.get(&format!("/v1/trash/{id}")).await;
    assert_eq!((trashed.status, &trashed.json["is_being_purged"]), (StatusCode::OK, &false.into()));
    let restored = api.post(&format!("/v1/trash/{id}/restore"), "{}").await;
    assert_eq!((restored.status, &restored.json["id"]), (StatusCode::OK, &id.into()));
    assert_eq!(api.get(&format!("/v1/trash/{id}")).await.problem(), "not-found");
}

#[tokio::test]
async fn a_restore_asks_for_another_address_if_the_old_one_is_taken() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let id = created.json["id"].as_str().unwrap();
    api.call(Method::DELETE, &path, &[], "").await;
    let (_, other) = api.create("ada@example.com").await;
    let taken = api.post(&format!("/v1/trash/{id}/restore"), "{}").await;
    assert_eq!((taken.status, taken.problem()), (StatusCode::CONFLICT, "email-taken"));
    assert_eq!(taken.json["taken_by"], other.json["id"]);
    let restored =
        api.post(&format!("/v1/trash/{id}/restore"), r#"{"email":"ada@example.org"}"#).await;
    assert_eq!(
        (restored.status, &restored.json["email"]),
        (StatusCode::OK, &"ada@example.org".into())
    );
}

#[tokio::test]
async fn a_purge_destroys_the_user_and_their_files() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let id = created.json["id"].as_str().unwrap();
    api.store.directory(id.parse().unwrap()).await.unwrap().write("notes.txt", "four").unwrap();
    let living = api.call(Method::DELETE, &format!("/v1/trash/{id}"), &[], "").await;
    assert_eq!((living.status, living.problem()), (StatusCode::NOT_FOUND, "not-found"));
    api.call(Method::DELETE, &path, &[], "").await;
    let purged = api.call(Method::DELETE, &format!("/v1/trash/{id}"), &[], "").await;
    assert_eq!(purged.status, StatusCode::OK, "{purged:?}");
    assert_eq!(purged.json, serde_json::json!({"users": 1, "files": 1, "left": 0, "erased": true}));
    assert!(!api.dir.path().join("trash").join(id).exists());
}
