//! The change feed: a page, a long poll and a stream of it; and the history of a user.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonBody};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tenantry::{
    Change, ChangePage, ChangesCursor, Follow, HistoryPage, ListQuery, Scope, Store, User,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Bearer;
use crate::body::{Id, Parameters, default_limit};
use crate::drain::Drain;
use crate::limits::{
    BOOKMARK_INTERVAL, CHANGES_BYTES, EVENTS_BYTES, EVENTS_TIMEOUT, TOKEN_INTERVAL, WAIT_MAX,
};
use crate::problem::{self, Problem, Type};
use crate::service::{Service, scoped, scoped_stream};

/// The place behind the last event that a client of the stream has got.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps a proxy such as nginx from holding events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How many changes are written at once at most, since each may bring a user along.
const EVENTS_AT_ONCE: usize = 100;

pub(crate) fn routes() -> OpenApiRouter<Service> {
    scoped_stream(Scope::ChangesRead, routes!(changes))
        .merge(scoped(Scope::ChangesRead, routes!(history)))
}

/// Which changes, and how long to wait for them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ChangesParameters {
    /// The place to go on behind: the `cursor` of a page or a change, or the `changes_cursor` of a
    /// list. Without it the oldest change that is kept comes first.
    #[param(value_type = Option<String>)]
    after: Option<ChangesCursor>,
    /// How many changes a page holds at most.
    #[serde(default = "default_changes")]
    #[param(default = 500, minimum = 1, maximum = 1000)]
    limit: usize,
    /// How many seconds to wait if there is no change yet.
    #[serde(default)]
    #[param(default = 0, minimum = 0, maximum = 60)]
    wait: u64,
    /// What to add to each change.
    #[param(inline)]
    include: Option<Include>,
}

fn default_changes() -> usize {
    ChangePage::DEFAULT_LIMIT
}

/// What a change can bring along.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Include {
    /// The user as they are now, or null if they don't live.
    User,
}

/// A change, with the user if that is asked for.
#[derive(Serialize, ToSchema)]
struct Event {
    #[serde(flatten)]
    change: Change,
    /// The user as they are now, null if they don't live. Only with `include=user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Option<User>>,
}

impl Event {
    /// Returns how long the user is as JSON. What a change has beside it is short.
    fn user_bytes(&self) -> Result<usize, Problem> {
        let Some(user) = &self.user else { return Ok(0) };
        // The memory of one of them at a time.
        Ok(serde_json::to_vec(user)
            .map_err(std::io::Error::from)
            .map_err(tenantry::Error::from)?
            .len())
    }
}

/// A page of changes.
#[derive(Serialize, ToSchema)]
struct EventPage {
    /// The changes, in the order of the commits.
    changes: Vec<Event>,
    /// Where to go on, even if there are no changes.
    #[schema(value_type = String)]
    cursor: ChangesCursor,
    /// Whether more changes follow already.
    more: bool,
}

/// Return or stream the changes of users
///
/// Every committed change is there once, in the order of the commits. With `wait`, the response
/// comes as soon as there is a change. With `Accept: text/event-stream` it is a stream of
/// Server-Sent Events without end: an event `change` each, and `bookmark` now and then, whose ids
/// are cursors. `Last-Event-ID` wins over `after`. A cursor that can't be followed from is 410:
/// list the users again.
#[utoipa::path(
    get, path = "/v1/changes", tag = "changes",
    params(ChangesParameters, ("Last-Event-ID" = Option<String>, Header)),
    responses(
        (status = 200, description = "A page, or a stream", content(
            (EventPage = "application/json"), (String = "text/event-stream")
        )),
        (status = "default", body = problem::Body)
    )
)]
async fn changes(
    State(service): State<Service>,
    bearer: Option<Extension<Bearer>>,
    headers: HeaderMap,
    Parameters(parameters): Parameters<ChangesParameters>,
) -> Result<Response, Problem> {
    let bearer = bearer.map(|Extension(bearer)| bearer);
    let after = last_event_id(&headers)?.or(parameters.after);
    if wants_events(&headers) {
        // Before the stream, so that a cursor that has expired is a status.
        service.store.changes(after.as_ref(), 1).await?;
        return Ok(events(&service, bearer, after, parameters.include));
    }
    if parameters.wait > WAIT_MAX.as_secs() {
        let detail = format!("wait: at most {} seconds", WAIT_MAX.as_secs());
        return Err(Problem::new(Type::InvalidParameter, detail));
    }
    let mut page = service.store.changes(after.as_ref(), parameters.limit).await?;
    let waits = page.changes.is_empty() && parameters.wait > 0;
    if waits {
        let mut follow = service.store.follow(Some(page.cursor));
        tokio::select! {
            change = follow.next() => drop(change.transpose()?),
            () = sleep(Duration::from_secs(parameters.wait)) => {}
            () = service.drain.wait() => {}
        }
        page = service.store.changes(Some(&page.cursor), parameters.limit).await?;
    }
    let page = with_users(&service.store, page, parameters.include).await?;
    // After all of it was read, so that it shows nothing of after a revocation.
    if let Some(bearer) = bearer.filter(|_| waits) {
        bearer.check().await?;
    }
    Ok(JsonBody(page).into_response())
}

/// Adds the users to a page if they are asked for, and ends the page early if they are large.
async fn with_users(
    store: &Store,
    page: ChangePage,
    include: Option<Include>,
) -> Result<EventPage, Problem> {
    let ChangePage { changes, mut cursor, mut more, .. } = page;
    let mut events = Vec::with_capacity(changes.len());
    let mut bytes = 0;
    let mut changes = changes.into_iter();
    while let Some(change) = changes.next() {
        let event = event(store, change, include).await?;
        bytes += event.user_bytes()?;
        let place = event.change.cursor;
        events.push(event);
        if bytes >= CHANGES_BYTES && changes.len() > 0 {
            (cursor, more) = (place, true);
            break;
        }
    }
    Ok(EventPage { changes: events, cursor, more })
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<ChangesCursor>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else { return Ok(None) };
    let cursor = id.to_str().ok().and_then(|id| id.parse().ok());
    cursor.map(Some).ok_or_else(|| {
        Problem::new(Type::InvalidParameter, "Last-Event-ID: not a cursor of a change feed")
    })
}

fn wants_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| {
        value.split(',').any(|range| range.trim_start().starts_with("text/event-stream"))
    })
}

async fn event(
    store: &Store,
    change: Change,
    include: Option<Include>,
) -> Result<Event, tenantry::Error> {
    let user = match include {
        Some(Include::User) => Some(store.get(change.user_id).await?),
        None => None,
    };
    Ok(Event { change, user })
}

/// A stream of events that is being written.
struct Events {
    store: Store,
    bearer: Option<Bearer>,
    follow: Follow,
    include: Option<Include>,
    bookmarks: Interval,
    checks: Interval,
    end: Instant,
    drain: Drain,
    has_begun: bool,
}

fn events(
    service: &Service,
    bearer: Option<Bearer>,
    after: Option<ChangesCursor>,
    include: Option<Include>,
) -> Response {
    let events = Events {
        store: service.store.clone(),
        bearer,
        follow: service.store.follow(after),
        include,
        bookmarks: every(BOOKMARK_INTERVAL),
        checks: every(TOKEN_INTERVAL),
        end: Instant::now() + EVENTS_TIMEOUT,
        drain: service.drain.clone(),
        has_begun: false,
    };
    let body = Body::from_stream(unfold(events, |mut events| async move {
        let text = events.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), events))
    }));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Events {
    /// Waits for what is to be written next. Returns `None` at the end of the stream, after which a
    /// client connects again with the last id.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some("retry: 2000\n\n".to_owned());
        }
        loop {
            let text = tokio::select! {
                biased;
                () = self.drain.wait() => None,
                () = sleep_until(self.end) => None,
                change = self.follow.next() => self.batch(change?.ok()?).await,
                _ = self.bookmarks.tick() => {
                    let cursor = self.follow.cursor()?;
                    Some(format!(
                        "event: bookmark\nid: {cursor}\ndata: {{\"cursor\":\"{cursor}\"}}\n\n"
                    ))
                }
                _ = self.checks.tick(), if self.bearer.is_some() => Some(String::new()),
            }?;
            // After all of it was read, so that it shows nothing of after a revocation.
            if let Some(bearer) = &self.bearer {
                bearer.check().await.ok()?;
            }
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Returns a change, with those that are there already.
    async fn batch(&mut self, first: Change) -> Option<String> {
        let mut text = String::new();
        let mut next = Some(first);
        let mut count = 0;
        while let Some(change) = next.take() {
            let cursor = change.cursor;
            let event = event(&self.store, change, self.include).await.ok()?;
            let json = serde_json::to_string(&event).ok()?;
            text.push_str(&format!("event: change\nid: {cursor}\ndata: {json}\n\n"));
            count += 1;
            if count < EVENTS_AT_ONCE && text.len() < EVENTS_BYTES {
                let ready =
                    poll_fn(|context| Poll::Ready(pin!(self.follow.next()).poll(context))).await;
                match ready {
                    Poll::Ready(Some(Ok(change))) => next = Some(change),
                    // The next call meets the end of the stream again.
                    _ => break,
                }
            }
        }
        Some(text)
    }
}

/// Which changes of a user.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryParameters {
    /// How many changes a page holds at most.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    limit: usize,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<ChangesCursor>,
}

const _: () =
    assert!(ChangePage::MAX_LIMIT == ListQuery::MAX_LIMIT, "the document names one limit");

/// Return the changes of a user, the newest first
///
/// Also of a user who was purged. It goes through the feed, so it takes time in proportion to the
/// changes that are kept.
#[utoipa::path(
    get, path = "/v1/users/{id}/history", tag = "changes",
    params(("id" = String, Path, format = "uuid"), HistoryParameters),
    responses((status = 200, body = HistoryPage), (status = "default", body = problem::Body))
)]
async fn history(
    State(service): State<Service>,
    Id(id): Id,
    Parameters(parameters): Parameters<HistoryParameters>,
) -> Result<Response, Problem> {
    let page = service.store.history(id, parameters.cursor.as_ref(), parameters.limit).await?;
    Ok(JsonBody(page).into_response())
}
