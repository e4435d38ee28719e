//! The change feed over HTTP: pages, the long poll, the stream, and who did what.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tenantry::{NewToken, NewUser, Scope, Token};
use tenantry_http::{Caller, Options, Scopes};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::support::{Api, Clock};

fn kinds(page: &Value) -> Vec<&str> {
    page["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["kind"].as_str().unwrap())
        .collect()
}

async fn create(api: &Api, name: &str) {
    let email = format!("{name}@example.com").parse().unwrap();
    api.store.create(NewUser::new(email)).await.unwrap();
}

#[tokio::test]
async fn changes_are_paged_and_carry_the_name_of_the_caller() {
    let api = Api::new().await;
    let cursor = api.get("/v1/users").await.json["changes_cursor"].as_str().unwrap().to_owned();
    let (user, _) = api.create("ada@example.com").await;
    assert_eq!(api.call(Method::DELETE, &user, &[], "").await.status, StatusCode::OK);
    let first = api.get(&format!("/v1/changes?after={cursor}&limit=1")).await.json;
    assert_eq!((kinds(&first), &first["more"]), (vec!["created"], &json!(true)));
    assert_eq!(first["changes"][0]["actor"], "test");
    assert_eq!(first["cursor"], first["changes"][0]["cursor"]);
    let after = first["cursor"].as_str().unwrap();
    let second = api.get(&format!("/v1/changes?after={after}&include=user")).await.json;
    assert_eq!((kinds(&second), &second["more"]), (vec!["deleted"], &json!(false)));
    assert_eq!(second["changes"][0].as_object().unwrap().get("user"), Some(&Value::Null));
    assert!(first["changes"][0].as_object().unwrap().get("user").is_none());
    let history = api.get(&format!("{user}/history?limit=1")).await.json;
    assert_eq!(kinds(&history), ["deleted"]);
    let next = history["next_cursor"].as_str().unwrap();
    let older = api.get(&format!("{user}/history?cursor={next}")).await.json;
    assert_eq!((kinds(&older), &older["next_cursor"]), (vec!["created"], &Value::Null));
}

#[tokio::test]
async fn a_cursor_that_has_expired_is_410_also_for_a_stream() {
    let (api, other) = (Api::new().await, Api::new().await);
    create(&other, "ada").await;
    let foreign = other.store.changes_cursor().await.unwrap();
    let path = format!("/v1/changes?after={foreign}");
    for accept in ["application/json", "text/event-stream"] {
        let reply = api.call(Method::GET, &path, &[("accept", accept)], "").await;
        assert_eq!((reply.status, reply.problem()), (StatusCode::GONE, "cursor-expired"));
    }
    for path in
        ["/v1/changes?after=1-0000000000000001", "/v1/changes?limit=0", "/v1/changes?wait=61"]
    {
        assert_eq!(api.get(path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let scopes: Scopes = [Scope::UsersRead].into_iter().collect();
    let caller = Some(Caller::new("reader", scopes));
    let reply = api.call_as(caller, Method::GET, "/v1/changes", &[], "").await;
    assert_eq!(reply.problem(), "missing-scope");
}

#[tokio::test]
async fn a_long_poll_returns_with_the_change_and_at_the_end_of_the_service() {
    let api = Api::new().await;
    let cursor = api.store.changes_cursor().await.unwrap();
    let path = format!("/v1/changes?after={cursor}&wait=60");
    let (reply, ()) = tokio::join!(api.get(&path), create(&api, "ada"));
    assert_eq!(kinds(&reply.json), ["created"]);
    let after = reply.json["cursor"].as_str().unwrap();
    let path = format!("/v1/changes?after={after}&wait=60");
    let (reply, ()) = tokio::join!(api.get(&path), async { api.options.drain.begin() });
    assert_eq!((kinds(&reply.json), &reply.json["cursor"]), (vec![], &json!(after)));
}

async fn stream(api: &Api, path: &str, last_event_id: &str) -> BodyDataStream {
    let request = Request::get(path).header("last-event-id", last_event_id);
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Caller::new("test", Scopes::all()));
    events(api, request).await
}

/// A stream of the bearer of a token, after its first line.
async fn stream_with(api: &Api, bearer: &str) -> BodyDataStream {
    let request = Request::get("/v1/changes").header("authorization", bearer);
    let mut events = events(api, request.body(Body::empty()).unwrap()).await;
    assert_eq!(next(&mut events).await.unwrap(), "retry: 2000\n\n");
    events
}

async fn events(api: &Api, mut request: Request<Body>) -> BodyDataStream {
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    let response = api.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    response.into_body().into_data_stream()
}

async fn next(stream: &mut BodyDataStream) -> Option<String> {
    let part = stream.next().await?;
    Some(String::from_utf8(part.unwrap().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_an_event_for_each_change_and_bookmarks_and_ends_with_the_service() {
    let api = Api::new().await;
    create(&api, "ada").await;
    let cursor = api.store.changes_cursor().await.unwrap();
    create(&api, "bob").await;
    // The header wins: the parameter would bring Ada too.
    let mut events = stream(&api, "/v1/changes?include=user", &cursor.to_string()).await;
    assert_eq!(next(&mut events).await.unwrap(), "retry: 2000\n\n");
    let event = next(&mut events).await.unwrap();
    let bob = api.store.changes_cursor().await.unwrap();
    assert!(
        event.starts_with(&format!("event: change\nid: {bob}\ndata: {{"))
            && event.ends_with("}\n\n"),
        "{event}"
    );
    assert!(event.contains("\"user\":{") && event.matches("data: ").count() == 1, "{event}");
    // Time passes at once while nothing else is to be done.
    let bookmark = next(&mut events).await.unwrap();
    assert_eq!(bookmark, format!("event: bookmark\nid: {bob}\ndata: {{\"cursor\":\"{bob}\"}}\n\n"));
    api.options.drain.begin();
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_an_hour() {
    let api = Api::new().await;
    let mut events = stream(&api, "/v1/changes", "").await;
    let mut count = 0;
    while next(&mut events).await.is_some() {
        count += 1;
    }
    // The first line, and a bookmark every 15 seconds.
    assert!((200..=241).contains(&count), "{count}");
}

fn reader(lifetime: Duration) -> NewToken {
    let scopes: Scopes = [Scope::ChangesRead].into_iter().collect();
    NewToken { lifetime, ..NewToken::new("reader", scopes) }
}

/// A stream was asked for its token when it began, and went on for an hour after a revocation.
#[tokio::test]
async fn a_stream_shows_nothing_of_after_the_revocation_of_its_token() {
    let api = Api::new().await;
    let bearer = api.token(reader(Token::DEFAULT_LIFETIME)).await;
    let mut events = stream_with(&api, &bearer).await;
    create(&api, "ada").await;
    assert!(next(&mut events).await.unwrap().starts_with("event: change\n"));
    api.store.revoke_token("reader").await.unwrap();
    create(&api, "bob").await;
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_changes_ends_with_its_token_before_the_next_bookmark() {
    let clock = Arc::new(Clock::default());
    let api = Api::with_clock(Options::default(), Arc::clone(&clock)).await;
    let day = Duration::from_secs(24 * 3_600);
    let bearer = api.token(reader(day)).await;
    let mut events = stream_with(&api, &bearer).await;
    assert!(next(&mut events).await.unwrap().starts_with("event: bookmark\n"));
    let bookmark = Instant::now();
    clock.forward(day);
    assert_eq!(next(&mut events).await, None);
    // Of the paused clock, which advances by exactly what is waited for.
    assert!(bookmark.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_long_poll_shows_nothing_of_after_the_revocation_of_its_token() {
    let api = Api::new().await;
    let bearer = api.token(reader(Token::DEFAULT_LIFETIME)).await;
    let cursor = api.store.changes_cursor().await.unwrap();
    let path = format!("/v1/changes?after={cursor}&wait=60");
    // The poll is let in first, since it is polled first.
    let (reply, ()) = tokio::join!(api.call_with(&bearer, Method::GET, &path, ""), async {
        api.store.revoke_token("reader").await.unwrap();
        create(&api, "ada").await;
    });
    assert_eq!((reply.status, reply.problem()), (StatusCode::UNAUTHORIZED, "unauthorized"));
}

/// A thousand users with large attributes on each page took the memory of a thousand requests.
#[tokio::test]
async fn a_page_and_a_batch_with_large_users_end_early_and_lose_nothing() {
    const CHANGES: usize = 100;
    let api = Api::new().await;
    let text = "x".repeat(15 << 10);
    let body = format!(r#"{{"email":"ada@example.com","attributes":{{"text":"{text}"}}}}"#);
    let user = api.post("/v1/users", &body).await.header("location").unwrap().to_owned();
    for number in 1..CHANGES {
        let name = format!(r#"{{"name":"{number}"}}"#);
        assert_eq!(api.call(Method::PATCH, &user, &[], &name).await.status, StatusCode::OK);
    }
    let whole = api.get("/v1/changes?limit=1000").await.json;
    assert_eq!((kinds(&whole).len(), &whole["more"]), (CHANGES, &json!(false)));
    let mut read = Vec::new();
    let mut path = "/v1/changes?limit=1000&include=user".to_owned();
    loop {
        let page = api.get(&path).await;
        assert!(page.text.len() < (1 << 20) + (32 << 10), "{}", page.text.len());
        for change in page.json["changes"].as_array().unwrap() {
            assert_eq!(change["user"]["attributes"]["text"], text);
            read.push(change["cursor"].clone());
        }
        assert_eq!(page.json["cursor"], *read.last().unwrap());
        if page.json["more"] == false {
            break;
        }
        let after = page.json["cursor"].as_str().unwrap();
        path = format!("/v1/changes?limit=1000&include=user&after={after}");
    }
    let cursors =
        whole["changes"].as_array().unwrap().iter().map(|change| change["cursor"].clone());
    assert_eq!(read, cursors.collect::<Vec<_>>());

    let mut events = stream(&api, "/v1/changes?include=user", "").await;
    assert_eq!(next(&mut events).await.unwrap(), "retry: 2000\n\n");
    let mut count = 0;
    while count < CHANGES {
        let batch = next(&mut events).await.unwrap();
        assert!(batch.len() < (64 << 10) + (32 << 10), "{}", batch.len());
        count += batch.matches("event: change\n").count();
    }
    assert_eq!(count, CHANGES);
}
