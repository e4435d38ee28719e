//! Tokens: who is known by them, what they reach, and what they never show.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use tenantry::{NewToken, Scope, Scopes};
use tenantry_http::{Caller, Options};

use crate::scopes::{ID, call, routes};
use crate::support::{Api, Clock};

fn only(scope: Scope) -> Scopes {
    [scope].into_iter().collect()
}

fn any_but(name: &str) -> Scopes {
    Scope::ALL
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::Admin && scope.name() != name)
        .collect()
}

/// CVE-2026-121454 (Padloc): any bearer that wasn't empty passed. CVE-2025-4210 (Casdoor): a route
/// beside the filter.
#[tokio::test]
async fn no_route_is_reached_with_a_token_that_is_not_valid() {
    let clock = Arc::new(Clock::default());
    let api = Api::with_clock(Options::default(), Arc::clone(&clock)).await;
    let day = Duration::from_secs(24 * 3_600);
    let short = api.token(NewToken { lifetime: day, ..new("short", Scopes::all()) }).await;
    let revoked = api.token(new("revoked", Scopes::all())).await;
    let valid = api.token(new("valid", Scopes::all())).await;
    api.store.revoke_token("revoked").await.unwrap();
    clock.forward(day);
    // Of the form of a secret, and of another store.
    let unknown = Api::new().await.token(new("other", Scopes::all())).await;
    let mistyped = format!("{}A", &valid[..valid.len() - 1]);
    let mistyped =
        if mistyped == valid { format!("{}B", &valid[..valid.len() - 1]) } else { mistyped };
    let cut_off = &valid[..valid.len() - 1];
    let twice = format!("{valid}, {valid}");
    for bearer in [
        &*short,
        &revoked,
        &unknown,
        &mistyped,
        cut_off,
        &twice,
        "Bearer ",
        "Bearer",
        "Bearer x",
        "Basic eDp4",
        "",
    ] {
        for (method, path, _) in routes() {
            let reply = call(&api, None, &method, &path, &[("authorization", bearer)]).await;
            assert_eq!(
                (reply.status, reply.problem()),
                (StatusCode::UNAUTHORIZED, "unauthorized"),
                "{method} {path}"
            );
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    for (method, path, _) in routes() {
        let reply = call(&api, None, &method, &path, &[("authorization", &valid)]).await;
        assert!(![401, 403].contains(&reply.status.as_u16()), "{method} {path}: {reply:?}");
    }
}

fn new(name: &str, scopes: Scopes) -> NewToken {
    NewToken::new(name, scopes)
}

/// CVE-2026-46425 (Budibase): authenticated, but no role checked.
#[tokio::test]
async fn a_token_without_the_scope_of_a_route_is_refused_with_the_name_of_the_scope() {
    let api = Api::new().await;
    for (number, (method, path, scopes)) in routes().into_iter().enumerate() {
        let bearer = api.token(new(&format!("without-{number}"), any_but(&scopes[0]))).await;
        let refused = call(&api, None, &method, &path, &[("authorization", &bearer)]).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::FORBIDDEN, "missing-scope"),
            "{method} {path}"
        );
        assert!(refused.json["detail"].as_str().unwrap().contains(&scopes[0]));
        let bearer =
            api.token(new(&format!("with-{number}"), only(scopes[0].parse().unwrap()))).await;
        let reached = call(&api, None, &method, &path, &[("authorization", &bearer)]).await;
        assert!(
            ![401, 403, 405].contains(&reached.status.as_u16()),
            "{method} {path}: {reached:?}"
        );
    }
}

/// CVE-2026-67330 (better-auth): a token's reach was a name that others could take.
#[tokio::test]
async fn a_token_of_one_user_reaches_them_and_nothing_else() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let (other_path, other) = api.create("bob@example.com").await;
    let id = created.json["id"].as_str().unwrap();
    // Named as if it were another's.
    let name = other.json["id"].as_str().unwrap();
    let user_id = Some(id.parse().unwrap());
    let bearer = api.token(NewToken { user_id, ..new(name, Scopes::all()) }).await;
    for (method, template, _) in routes() {
        let is_of_user =
            template.strip_prefix("/v1/users/").is_some_and(|rest| rest.starts_with(ID));
        let reply = call(&api, None, &method, &template, &[("authorization", &bearer)]).await;
        let expected = if is_of_user { (404, "not-found") } else { (403, "beyond-reach") };
        assert_eq!((reply.status.as_u16(), reply.problem()), expected, "{method} {template}");
        // One who exists is refused with the same words as one who doesn't.
        let of_other = template.replace(ID, other.json["id"].as_str().unwrap());
        let refused = call(&api, None, &method, &of_other, &[("authorization", &bearer)]).await;
        assert_eq!(
            (refused.status, &refused.json["detail"]),
            (reply.status, &reply.json["detail"])
        );
        if is_of_user && method != Method::DELETE {
            let own = template.replace(ID, id);
            let reached = call(&api, None, &method, &own, &[("authorization", &bearer)]).await;
            let is_told_apart = reached.json["detail"] != reply.json["detail"];
            assert!(
                ![401, 403].contains(&reached.status.as_u16()) && is_told_apart,
                "{method} {own}: {reached:?}"
            );
        }
    }
    assert_eq!(api.get(&other_path).await.json, other.json);
    let changed =
        api.call_with(&bearer, Method::PATCH, &path, r#"{"email":"ada@example.org"}"#).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
}

#[tokio::test]
async fn a_token_of_one_user_is_not_told_who_has_an_address() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let (_, other) = api.create("bob@example.com").await;
    let user_id = created.json["id"].as_str().unwrap().parse().unwrap();
    let bearer =
        api.token(NewToken { user_id: Some(user_id), ..new("ada", only(Scope::UsersWrite)) }).await;
    let patch = r#"{"email":"bob@example.com"}"#;
    let refused = api.call_with(&bearer, Method::PATCH, &path, patch).await;
    assert_eq!((refused.status, refused.problem()), (StatusCode::CONFLICT, "email-taken"));
    assert!(refused.json.get("taken_by").is_none(), "{refused:?}");
    let all = api.token(new("all", only(Scope::UsersWrite))).await;
    let told = api.call_with(&all, Method::PATCH, &path, patch).await;
    assert_eq!(told.json["taken_by"], other.json["id"]);
    // The same for a caller of an application's own.
    let caller = Caller::new("ada", Scopes::all()).with_user(user_id);
    let refused = api.call_as(Some(caller), Method::PATCH, &path, &[], patch).await;
    assert!(
        refused.status == StatusCode::CONFLICT && refused.json.get("taken_by").is_none(),
        "{refused:?}"
    );
}

/// CVE-2026-15630 (Casdoor): authorized on the id of the query, acted on that of the body.
#[tokio::test]
async fn the_one_id_that_counts_is_that_of_the_path() {
    let api = Api::new().await;
    let (path, created) = api.create("ada@example.com").await;
    let (_, other) = api.create("bob@example.com").await;
    let (id, other_id) = (created.json["id"].as_str().unwrap(), other.json["id"].as_str().unwrap());
    let user_id = Some(id.parse().unwrap());
    let bearer = api.token(NewToken { user_id, ..new("ada", Scopes::all()) }).await;
    let body = format!(r#"{{"id":"{other_id}","email":"eve@example.com"}}"#);
    let refused = api.call_with(&bearer, Method::PATCH, &path, &body).await;
    assert_eq!((refused.status, refused.problem()), (StatusCode::BAD_REQUEST, "invalid-body"));
    let with_query = format!("/v1/users/{other_id}?id={id}");
    let refused =
        api.call_with(&bearer, Method::PATCH, &with_query, r#"{"email":"eve@example.com"}"#).await;
    assert_eq!((refused.status, refused.problem()), (StatusCode::NOT_FOUND, "not-found"));
    assert_eq!(api.get(&format!("/v1/users/{other_id}")).await.json, other.json);
}

/// What is logged by all threads, since a subscriber of one thread alone isn't heard reliably while
/// others run.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// CVE-2026-43640 (Bitwarden): a key was shown again.
#[tokio::test]
async fn a_secret_is_shown_once_and_never_logged() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log).init();
    let api = Api::new().await;
    let (token, secret) = api.store.create_token(new("billing", Scopes::all())).await.unwrap();
    let bearer = format!("Bearer {}", secret.as_str());
    assert_eq!(api.call_with(&bearer, Method::GET, "/v1/status", "").await.status, StatusCode::OK);
    api.store.revoke_token("billing").await.unwrap();
    assert_eq!(
        api.call_with(&bearer, Method::GET, "/v1/status", "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let mistyped = bearer.replace("tnt_", "tnt-");
    assert_eq!(
        api.call_with(&mistyped, Method::GET, "/v1/status", "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    assert!(log.contains("request refused") && log.contains(r#"reason="revoked""#), "{log}");
    assert!(
        log.contains(&format!("token=\"{}\"", token.number)) && log.contains("token=\"unknown\""),
        "{log}"
    );
    let random = &secret.as_str()[4..47];
    let list = serde_json::to_string(&api.store.tokens().await.unwrap()).unwrap();
    for shown in [&log, &list, &format!("{token:?} {secret:?}")] {
        assert!(!shown.contains(random) && !shown.contains(&random[..8]), "{shown}");
    }
}

#[tokio::test]
async fn a_revocation_and_a_rotation_hold_at_once() {
    let api = Api::new().await;
    let before = api.token(new("billing", only(Scope::Check))).await;
    let status =
        async |bearer: &str| api.call_with(bearer, Method::GET, "/v1/status", "").await.status;
    assert_eq!(status(&before).await, StatusCode::OK);
    let (_, after) =
        api.store.rotate_token("billing", Duration::from_secs(60), "library").await.unwrap();
    let after = format!("Bearer {}", after.as_str());
    assert_eq!((status(&before).await, status(&after).await), (StatusCode::OK, StatusCode::OK));
    let (_, last) = api.store.rotate_token("billing", Duration::ZERO, "library").await.unwrap();
    let last = format!("Bearer {}", last.as_str());
    assert_eq!(
        (status(&before).await, status(&after).await),
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED)
    );
    assert_eq!(status(&last).await, StatusCode::OK);
    api.store.revoke_token("billing").await.unwrap();
    assert_eq!(status(&last).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_makes_too_many_requests_has_to_wait_whole_seconds() {
    let mut options = Options::default();
    options.requests_per_token = 1;
    let api = Api::with(options).await;
    let bearer = api.token(new("eager", Scopes::all())).await;
    let mut refused = None;
    // However long each takes, some come within the second.
    for _ in 0..10_000 {
        let reply = api.call_with(&bearer, Method::GET, "/v1/status", "").await;
        if reply.status != StatusCode::OK {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "too-many-requests")
    );
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let figures = api.get("/metrics").await.text;
    assert!(figures.contains("tenantry_http_refusals_total{reason=\"too_many\"} 1\n"), "{figures}");
    // Another token isn't concerned.
    let other = api.token(new("other", Scopes::all())).await;
    assert_eq!(api.call_with(&other, Method::GET, "/v1/status", "").await.status, StatusCode::OK);
}

/// The feed is the record of who did what.
#[tokio::test]
async fn a_change_is_attributed_to_the_token_that_made_it() {
    let api = Api::new().await;
    let bearer = api.token(new("billing", Scopes::all())).await;
    let created =
        api.call_with(&bearer, Method::POST, "/v1/users", r#"{"email":"ada@example.com"}"#).await;
    let user = created.header("location").unwrap().to_owned();
    let trashed = user.replace("/v1/users/", "/v1/trash/");
    for (method, path, body) in [
        (Method::POST, format!("{user}/suspend"), ""),
        (Method::POST, format!("{user}/resume"), ""),
        (Method::PATCH, user.clone(), r#"{"email":"ada@example.org"}"#),
        (Method::DELETE, user.clone(), ""),
        (Method::POST, format!("{trashed}/restore"), "{}"),
        (Method::DELETE, user.clone(), ""),
        (Method::DELETE, trashed.clone(), ""),
        (Method::POST, "/v1/sign-in".to_owned(), r#"{"email":"bob@example.com"}"#),
    ] {
        let reply = api.call_with(&bearer, method.clone(), &path, body).await;
        assert!(reply.status.is_success(), "{method} {path}: {reply:?}");
    }
    // A key changes nothing of that, nor does a condition.
    let headers = [("authorization", &*bearer), ("idempotency-key", "k1")];
    api.call_as(None, Method::POST, "/v1/users", &headers, r#"{"email":"cyd@example.com"}"#).await;
    let changes = api.store.changes(None, 100).await.unwrap().changes;
    assert_eq!(changes.len(), 10, "{changes:?}");
    assert!(changes.iter().all(|change| change.actor.as_str() == "billing"), "{changes:?}");
}
