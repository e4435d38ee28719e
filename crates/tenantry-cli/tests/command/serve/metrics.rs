//! The figures, and what is made of them by Prometheus and Grafana.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use super::{Service, exchange, local};
use crate::{Session, missing};

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(name)
}

/// Returns the figures of a service that has done something.
fn figures(session: &Session) -> String {
    let mut service = Service::start(session, &["--metrics-listen", "127.0.0.1:0"]);
    let socket = service.socket();
    assert_eq!(
        local(&socket, "POST", "/v1/users", r#"{"email":"ada@example.com"}"#).unwrap().0,
        201
    );
    assert_eq!(
        local(&socket, "POST", "/v1/users", r#"{"email":"ADA@example.com"}"#).unwrap().0,
        409
    );
    assert_eq!(local(&socket, "GET", "/v1/users", "").unwrap().0, 200);
    let text = scrape(&service.metrics.take().unwrap());
    service.end();
    text
}

/// Returns what is at /metrics of an address such as `http://127.0.0.1:9090`.
pub(super) fn scrape(address: &str) -> String {
    let stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    let reply = exchange(stream, "GET", "/metrics", "").unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

/// Returns the names of figures, without the endings of a histogram.
fn names(text: &str) -> BTreeSet<String> {
    let name = Regex::new("tenantry_(?:http|store|build)_[a-z_]+").unwrap();
    let found = name.find_iter(text).map(|found| found.as_str());
    found.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

fn promtool() -> Option<Command> {
    if Command::new("promtool").arg("--version").output().is_err() {
        missing("checking figures and alerts needs `promtool` (prometheus)");
        return None;
    }
    Some(Command::new("promtool"))
}

#[test]
fn promtool_accepts_the_figures() {
    let Some(mut promtool) = promtool() else { return };
    let text = figures(&Session::new());
    let mut check = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{text}");
    // No address of a user is in them.
    assert!(!text.contains('@'), "{text}");
}

#[test]
fn the_alerts_and_the_dashboard_use_figures_that_exist() {
    let Some(mut promtool) = promtool() else { return };
    let session = Session::new();
    let exported = names(&figures(&session));
    let alerts = std::fs::read_to_string(contrib("prometheus/alerts.yml")).unwrap();
    let dashboard = std::fs::read_to_string(contrib("grafana/tenantry.json")).unwrap();
    for (text, least) in [(&alerts, 5), (&dashboard, 12)] {
        let used = names(text);
        assert!(
            used.len() >= least && used.is_subset(&exported),
            "{:?}",
            used.difference(&exported)
        );
    }
    // The kinds of errors that an alert names exist.
    let kinds = Regex::new("kind=~?\"([a-z_|]+)\"").unwrap();
    let source = std::fs::read_to_string(contrib("../crates/tenantry/src/error.rs")).unwrap();
    for kind in
        kinds.captures_iter(&alerts).flat_map(|found| found.get(1).unwrap().as_str().split('|'))
    {
        assert!(source.contains(&format!("\"{kind}\"")), "no error has the name {kind}");
    }
    // promtool knows rules, and not dashboards: each expression of one becomes a rule.
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, target) in targets.enumerate() {
        let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        rules.push_str(&format!("      - record: panel{number}\n        expr: '{expression}'\n"));
    }
    let rules = session.write("dashboard.yml", rules);
    let output = promtool
        .args(["check", "rules"])
        .arg(contrib("prometheus/alerts.yml"))
        .arg(rules)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Figures of twenty minutes, and the alerts that are to be there in the end.
const COURSE: &str = r#"
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: up{job="tenantry", instance="down"}
        values: 1x10 0x10
      - series: up{job="tenantry", instance="well"}
        values: 1x20
      - series: tenantry_store_errors_total{instance="full", kind="full"}
        values: 0x15 1x5
      - series: tenantry_store_errors_total{instance="well", kind="email_taken"}
        values: 0+100x20
      - series: tenantry_http_requests_total{instance="failing", status="500"}
        values: 0+2x20
      - series: tenantry_http_requests_total{instance="failing", status="200"}
        values: 0+98x20
      - series: tenantry_http_requests_total{instance="well", status="404"}
        values: 0+100x20
      - series: tenantry_http_request_duration_seconds_bucket{instance="slow", le="0.5"}
        values: 0+90x20
      - series: tenantry_http_request_duration_seconds_bucket{instance="slow", le="2.5"}
        values: 0+100x20
      - series: tenantry_http_request_duration_seconds_bucket{instance="slow", le="+Inf"}
        values: 0+100x20
      - series: tenantry_store_open_intents{instance="stuck"}
        values: 1x20
      - series: tenantry_store_open_intents{instance="well"}
        values: 0 1 0 1 0x16
    alert_rule_test:
"#;

#[test]
fn alerts_are_raised_by_what_they_are_about_and_by_nothing_else() {
    let Some(mut promtool) = promtool() else { return };
    let session = Session::new();
    session.write("alerts.yml", std::fs::read(contrib("prometheus/alerts.yml")).unwrap());
    let mut course = COURSE.to_owned();
    for (alert, labels) in [
        ("TenantryDown", r#"severity: critical, job: tenantry, instance: down"#),
        ("TenantryWritesFail", "severity: critical, instance: full, kind: full"),
        ("TenantryErrors", "severity: warning, instance: failing"),
        ("TenantrySlow", "severity: warning, instance: slow"),
        ("TenantryOpenIntents", "severity: warning, instance: stuck"),
        ("TenantryBusy", ""),
        ("TenantryLogGrows", ""),
    ] {
        course.push_str(&format!(
            "      - eval_time: 18m\n        alertname: {alert}\n        exp_alerts:"
        ));
        match labels {
            "" => course.push_str(" []\n"),
            _ => {
                let text = std::fs::read_to_string(contrib("prometheus/alerts.yml")).unwrap();
                let (_, rule) = text.split_once(alert).unwrap();
                let (_, summary) = rule.split_once("summary: ").unwrap();
                let summary = summary.lines().next().unwrap().replace("{{ $labels.kind }}", "full");
                course.push_str(&format!(
                    "\n          - exp_labels: {{{labels}}}\n            exp_annotations: {{summary: \"{summary}\"}}\n"
                ));
            }
        }
    }
    let course = session.write("course.yml", course);
    let output = promtool.args(["test", "rules"]).arg(course).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
