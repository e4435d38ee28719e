//! The limit of a user's files while what has a name changes during an upload.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::stream::{self, StreamExt};
use tenantry_http::Options;
use tokio::sync::oneshot;

use crate::files::{Ada, Answer};

const LIMIT: usize = 1_000;

async fn ada() -> Ada {
    let mut options = Options::default();
    options.max_user_bytes = Some(LIMIT as u64);
    Ada::with(options).await
}

/// Uploads a file of this length, the last byte of which comes after what happens meanwhile.
async fn put_around(ada: &Ada, name: &str, length: usize, meanwhile: impl Future) -> Answer {
    let (begin, begun) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let first = stream::once(async move { Ok::<_, Infallible>(vec![1; length - 1]) });
    let last = stream::once(async move {
        // The file was identified before its body is read, and the part before this one was read.
        begin.send(()).unwrap();
        ended.await.unwrap();
        Ok(vec![1])
    });
    let put = ada.put(name, Body::from_stream(first.chain(last)));
    let (answer, ()) = tokio::join!(put, async {
        begun.await.unwrap();
        meanwhile.await;
        end.send(()).unwrap();
    });
    answer
}

/// The upload was to replace a file as long as itself, so nothing was reserved for it. The file was
/// removed meanwhile, and another took its room: the user had twice their limit.
#[tokio::test]
async fn an_upload_whose_file_was_removed_meanwhile_needs_room_of_its_own() {
    let ada = ada().await;
    assert_eq!(ada.put("a", vec![1; LIMIT]).await.status, StatusCode::CREATED);
    let answer = put_around(&ada, "a", LIMIT, async {
        assert_eq!(ada.delete("a").await.status, StatusCode::NO_CONTENT);
        assert_eq!(ada.put("b", vec![1; LIMIT]).await.status, StatusCode::CREATED);
    });
    let answer = answer.await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::INSUFFICIENT_STORAGE, "user-full")
    );
    assert_eq!(ada.get("a").await.status, StatusCode::NOT_FOUND);
    let measured = ada.api.store.measure_usage(ada.id(), |_| {}).await.unwrap();
    assert_eq!((measured.apparent_bytes, measured.files), (LIMIT as u64, 1));
    // What was refused holds no room.
    ada.delete("b").await;
    assert_eq!(ada.put("c", vec![1; LIMIT]).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_upload_whose_file_was_removed_meanwhile_is_written_if_there_is_room() {
    let ada = ada().await;
    assert_eq!(ada.put("a", vec![1; LIMIT]).await.status, StatusCode::CREATED);
    let answer = put_around(&ada, "a", LIMIT, ada.delete("a")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(ada.usage().await, LIMIT as u64);
    assert_eq!(ada.put("b", "x").await.problem(), "user-full");
}

/// A file with another name stays when one of them is replaced.
#[tokio::test]
async fn a_file_with_another_name_makes_no_room() {
    let ada = ada().await;
    assert_eq!(ada.put("a", vec![1; LIMIT]).await.status, StatusCode::CREATED);
    let dir = ada.dir().await;
    std::fs::hard_link(dir.join("a"), dir.join("other")).unwrap();
    assert_eq!(ada.put("a", vec![2; LIMIT]).await.problem(), "user-full");
    assert_eq!(ada.usage().await, LIMIT as u64);
}
