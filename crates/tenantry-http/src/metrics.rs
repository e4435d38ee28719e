//! Figures of the service, and all figures as the text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::StatusCode;

use crate::exposition::{Kind, Text};
use crate::refusal::Refusal;

/// The upper bounds of the histogram of durations, in microseconds. A read takes less than the
/// first, and a write as long as a disk takes for `fsync`: 0.1 to 20 ms.
const DURATIONS_US: [u64; 12] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000, 10_000_000,
];

/// The label of requests that reach no route. Their paths are as many as clients invent.
const NO_ROUTE: &str = "none";

/// What a service has done since it started. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Figures>);

#[derive(Debug, Default)]
struct Figures {
    requests_running: AtomicI64,
    connections_open: AtomicI64,
    connections: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
    by_route: RwLock<BTreeMap<Arc<str>, Methods>>,
}

/// The methods by which a route was requested.
type Methods = BTreeMap<&'static str, Arc<Route>>;

/// The requests of one method to one route.
#[derive(Debug, Default)]
struct Route {
    /// By bucket; the last has no bound.
    durations: [AtomicU64; DURATIONS_US.len() + 1],
    sum_us: AtomicU64,
    /// By status: there are few.
    statuses: RwLock<BTreeMap<u16, AtomicU64>>,
}

/// Counts something that goes on, until it is dropped.
pub(crate) struct Gauge {
    metrics: Metrics,
    which: fn(&Figures) -> &AtomicI64,
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.which)(&self.metrics.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    fn gauge(&self, which: fn(&Figures) -> &AtomicI64) -> Gauge {
        which(&self.0).fetch_add(1, Ordering::Relaxed);
        Gauge { metrics: self.clone(), which }
    }

    pub(crate) fn count_connection(&self) -> Gauge {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        self.gauge(|figures| &figures.connections_open)
    }

    pub(crate) fn begin_request(&self) -> Gauge {
        self.gauge(|figures| &figures.requests_running)
    }

    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        self.0.refusals[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request whose response begins. Returns the name of the route.
    pub(crate) fn end_request(
        &self,
        running: Gauge,
        method: &'static str,
        path: Option<&MatchedPath>,
        status: StatusCode,
        took: Duration,
    ) -> Arc<str> {
        drop(running);
        let (path, route) = self.route(method, path.map_or(NO_ROUTE, MatchedPath::as_str));
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATIONS_US.partition_point(|bound| *bound < us);
        route.durations[bucket].fetch_add(1, Ordering::Relaxed);
        route.sum_us.fetch_add(us, Ordering::Relaxed);
        let statuses = route.statuses.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = statuses.get(&status.as_u16()) {
            count.fetch_add(1, Ordering::Relaxed);
            return path;
        }
        drop(statuses);
        let mut statuses = route.statuses.write().unwrap_or_else(PoisonError::into_inner);
        statuses.entry(status.as_u16()).or_default().fetch_add(1, Ordering::Relaxed);
        path
    }

    fn route(&self, method: &'static str, path: &str) -> (Arc<str>, Arc<Route>) {
        let routes = self.0.by_route.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, methods)) = routes.get_key_value(path)
            && let Some(route) = methods.get(method)
        {
            return (Arc::clone(path), Arc::clone(route));
        }
        drop(routes);
        let path: Arc<str> = path.into();
        let mut routes = self.0.by_route.write().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry(Arc::clone(&path)).or_default().entry(method).or_default();
        (path, Arc::clone(route))
    }

    /// Returns these figures and those of the store in the
    /// [text format](https://prometheus.io/docs/instrumenting/exposition_formats/).
    pub(crate) fn text(&self, store: &tenantry::Metrics) -> Result<String, fmt::Error> {
        let mut text = Text::new();
        self.write(&mut text)?;
        write_store(&mut text, store)?;
        Ok(text.into_string())
    }

    fn write(&self, text: &mut Text) -> fmt::Result {
        let read = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed).max(0).unsigned_abs();
        let figures = &self.0;
        text.family("tenantry_build_info", Kind::Gauge, "The version of the service.")?;
        text.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
        text.single(
            "tenantry_http_connections",
            Kind::Gauge,
            "Connections that are open.",
            read(&figures.connections_open),
        )?;
        text.single(
            "tenantry_http_connections_accepted_total",
            Kind::Counter,
            "Connections that were accepted.",
            figures.connections.load(Ordering::Relaxed),
        )?;
        text.single(
            "tenantry_http_requests_in_flight",
            Kind::Gauge,
            "Requests whose response hasn't begun.",
            read(&figures.requests_running),
        )?;
        let help = "Requests that were refused for their credentials, by the reason.";
        text.family("tenantry_http_refusals_total", Kind::Counter, help)?;
        for refusal in Refusal::ALL {
            let count = figures.refusals[refusal as usize].load(Ordering::Relaxed);
            text.sample("", &[("reason", refusal.name())], count)?;
        }
        let routes = figures.by_route.read().unwrap_or_else(PoisonError::into_inner);
        let routes = || {
            routes
                .iter()
                .flat_map(|(path, methods)| methods.iter().map(move |method| (path, method)))
        };
        text.family(
            "tenantry_http_requests_total",
            Kind::Counter,
            "Requests by route and status.",
        )?;
        for (path, (method, route)) in routes() {
            let statuses = route.statuses.read().unwrap_or_else(PoisonError::into_inner);
            for (status, count) in statuses.iter() {
                let labels =
                    [("method", *method), ("route", &**path), ("status", &status.to_string())];
                text.sample("", &labels, count.load(Ordering::Relaxed))?;
            }
        }
        let help = "Time from the head of a request to that of its response.";
        text.family("tenantry_http_request_duration_seconds", Kind::Histogram, help)?;
        for (path, (method, route)) in routes() {
            route.write_durations(text, method, path)?;
        }
        Ok(())
    }
}

impl Route {
    fn write_durations(&self, text: &mut Text, method: &str, path: &str) -> fmt::Result {
        let counts = self.durations.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut before = 0;
        for (count, bound) in counts.iter().zip(DURATIONS_US) {
            before += count;
            let bound = seconds(bound);
            text.sample("_bucket", &[("method", method), ("route", path), ("le", &bound)], before)?;
        }
        let all = counts.iter().sum::<u64>();
        text.sample("_bucket", &[("method", method), ("route", path), ("le", "+Inf")], all)?;
        let labels = [("method", method), ("route", path)];
        text.sample("_sum", &labels, seconds(self.sum_us.load(Ordering::Relaxed)))?;
        text.sample("_count", &labels, all)
    }
}

/// Returns microseconds as seconds, without rounding.
fn seconds(us: u64) -> String {
    let mut text = String::new();
    // It fails for no string.
    let _ = write!(text, "{}.{:06}", us / 1_000_000, us % 1_000_000);
    let length = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(length);
    text
}

/// Writes everything of [`tenantry::Metrics`].
fn write_store(text: &mut Text, store: &tenantry::Metrics) -> fmt::Result {
    use Kind::{Counter, Gauge};
    for (name, kind, help, value) in [
        (
            "queue_depth",
            Gauge,
            "Writes that are queued, and callers that wait for a place.",
            store.queue_depth,
        ),
        ("commits_total", Counter, "Transactions that were committed.", store.commits),
        (
            "groups_total",
            Counter,
            "Groups of writes that shared a transaction.",
            store.groups.count,
        ),
        ("group_writes_total", Counter, "Writes in these groups.", store.groups.writes),
        ("group_writes_max", Gauge, "The size of the largest group.", store.groups.largest),
        ("readers_in_use", Gauge, "Connections that read.", store.readers_in_use),
        ("followers", Gauge, "Streams that follow the change feed.", store.followers),
        ("wal_bytes", Gauge, "The size of the write-ahead log.", store.wal_bytes),
        (
            "checkpoints_total",
            Counter,
            "Steps that moved pages from the log to the database.",
            store.checkpoints,
        ),
    ] {
        text.single(&format!("tenantry_store_{name}"), kind, help, value)?;
    }
    if let Some(open) = store.open_intents {
        let help = "Changes of the file system that are recorded and not executed.";
        text.single("tenantry_store_open_intents", Gauge, help, open)?;
    }
    for (name, help, seq) in [
        ("oldest_change", "The number of the oldest change in the feed.", store.oldest_change),
        ("newest_change", "The number of the newest change in the feed.", store.newest_change),
    ] {
        if let Some(seq) = seq {
            text.single(&format!("tenantry_store_{name}"), Gauge, help, seq)?;
        }
    }
    for (name, help, us) in [
        ("writer_busy_seconds_total", "How long the writer's thread worked.", store.writer_busy_us),
        ("checkpoint_seconds_total", "How long the checkpoints took.", store.checkpoint_us),
    ] {
        text.family(&format!("tenantry_store_{name}"), Counter, help)?;
        text.sample("", &[], seconds(us))?;
    }
    write_labelled(text, store)
}

/// Writes the figures that there are several of.
fn write_labelled(text: &mut Text, store: &tenantry::Metrics) -> fmt::Result {
    use Kind::Counter;
    let help = "Groups of writes by their size, up to and including the bound.";
    text.family("tenantry_store_groups_by_size_total", Counter, help)?;
    for (bound, count) in &store.groups.by_size {
        text.sample("", &[("size_max", &bound.to_string())], count)?;
    }
    text.family(
        "tenantry_store_errors_total",
        Counter,
        "Operations that failed, by kind of error.",
    )?;
    for (kind, count) in &store.errors {
        text.sample("", &[("kind", kind)], count)?;
    }
    text.family("tenantry_store_changes_total", Counter, "Changes of users, by kind.")?;
    for (kind, count) in &store.changes {
        text.sample("", &[("kind", kind)], count)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_are_written_as_seconds_without_rounding() {
        for (us, expected) in
            [(0, "0"), (1, "0.000001"), (250, "0.00025"), (2_500_000, "2.5"), (10_000_000, "10")]
        {
            assert_eq!(seconds(us), expected);
        }
    }

    #[test]
    fn a_request_is_in_the_bucket_of_its_duration_and_all_larger_ones() {
        let metrics = Metrics::default();
        for us in [250, 251, 11_000_000] {
            let running = metrics.begin_request();
            metrics.end_request(running, "GET", None, StatusCode::OK, Duration::from_micros(us));
        }
        let text = metrics.text(&tenantry::Metrics::default()).unwrap();
        let labels = r#"method="GET",route="none""#;
        for (sample, value) in [
            (format!(r#"_duration_seconds_bucket{{{labels},le="0.00025"}}"#), "1"),
            (format!(r#"_duration_seconds_bucket{{{labels},le="0.0005"}}"#), "2"),
            (format!(r#"_duration_seconds_bucket{{{labels},le="10"}}"#), "2"),
            (format!(r#"_duration_seconds_bucket{{{labels},le="+Inf"}}"#), "3"),
            (format!(r#"_duration_seconds_sum{{{labels}}}"#), "11.000501"),
            (format!(r#"_requests_total{{{labels},status="200"}}"#), "3"),
        ] {
            assert!(text.contains(&format!("{sample} {value}\n")), "{sample} {value}: {text}");
        }
    }
}
