//! Formats values for people: ages, rounded sizes, and empty cells for usual values.

use std::collections::BTreeMap;
use std::time::SystemTime;

use indicatif::HumanBytes;
use serde_json::value::RawValue;
use tenantry::{StoragePath, Timestamp, UserId};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Returns the time that ages refer to.
#[allow(clippy::disallowed_methods, reason = "the clock of the command; the store has its own")]
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// The members of a record, each as it is written in JSON.
pub(crate) type Record = BTreeMap<String, Box<RawValue>>;

/// The precision of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rendering {
    /// As in every other format.
    Exact,
    /// A selected column of a table: ages and sizes.
    Selected,
    /// A default column of a table: ages and sizes, and empty cells for usual values.
    Brief,
    /// A line of a record, which has room: times with their ages.
    Full,
}

/// Formats one field of a record. Times and sizes are recognized by their names, which end in `_at`
/// and `_bytes` everywhere.
pub(crate) fn text(record: &Record, field: &str, rendering: Rendering, now: Timestamp) -> String {
    let value = record.get(field).map(|value| plain(value)).unwrap_or_default();
    match rendering {
        Rendering::Exact => return value,
        Rendering::Brief if is_default(record, field, &value) => return String::new(),
        _ => {}
    }
    let time = Some(&value).filter(|_| field.ends_with("_at")).and_then(|text| text.parse().ok());
    let size = Some(&value)
        .filter(|_| field == "bytes" || field.ends_with("_bytes"))
        .and_then(|text| text.parse().ok());
    match (time, size) {
        (Some(time), _) if rendering == Rendering::Full => with_age(time, now),
        (Some(time), _) => age(time, now),
        (_, Some(bytes)) => HumanBytes(bytes).to_string(),
        _ => value,
    }
}

/// Formats a time to the second with its age.
pub(crate) fn time_with_age(time: Timestamp) -> String {
    with_age(time, now())
}

fn with_age(time: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", to_the_second(time), age(time, now))
}

/// Formats a value as a plain text: a string without its quotes, a list of strings with spaces
/// between them, and `null` as nothing.
pub(crate) fn plain(value: &RawValue) -> String {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
        Some(b'[') => serde_json::from_str::<Vec<String>>(json)
            .map_or_else(|_| json.to_owned(), |texts| texts.join(" ")),
        _ if json == "null" => String::new(),
        _ => json.to_owned(),
    }
}

/// Returns whether a value is the usual one, which a table leaves out.
fn is_default(record: &Record, field: &str, value: &str) -> bool {
    match field {
        "storage_path" => {
            let id: Option<UserId> = record.get("id").and_then(|id| plain(id).parse().ok());
            id.is_some_and(|id| value == StoragePath::derived(id).as_str())
        }
        "is_being_purged" => value == "false",
        "unreadable" => value == "0",
        _ => false,
    }
}

/// Formats a time without its fraction: `2026-11-23T07:30:00Z`.
fn to_the_second(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// Formats the age of a time: `3 days ago`, or `in 3 days` after the clock was set back.
pub(crate) fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_unix_us().saturating_sub(time.as_unix_us()) / 1_000_000;
    let length = seconds.saturating_abs();
    let days = length / DAY;
    let (count, unit) = match (length, days) {
        _ if length < MINUTE => return "just now".to_owned(),
        _ if length < HOUR => (length / MINUTE, "minute"),
        (_, ..2) => (length / HOUR, "hour"),
        (_, ..60) => (days, "day"),
        (_, ..730) => (days * 12 / 365, "month"),
        _ => (days / 365, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    if seconds < 0 {
        format!("in {count} {unit}{plural}")
    } else {
        format!("{count} {unit}{plural} ago")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_have_the_largest_fitting_unit() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (time, age_in_words) in [
            ("2026-11-23T12:00:00Z", "just now"),
            ("2026-11-23T11:59:00.000001Z", "just now"),
            ("2026-11-23T11:59:00Z", "1 minute ago"),
            ("2026-11-23T11:00:01Z", "59 minutes ago"),
            ("2026-11-23T11:00:00Z", "1 hour ago"),
            ("2026-11-21T12:00:01Z", "47 hours ago"),
            ("2026-11-21T12:00:00Z", "2 days ago"),
            ("2026-09-25T12:00:00Z", "59 days ago"),
            ("2026-09-24T12:00:00Z", "1 month ago"),
            ("2025-11-23T12:00:00Z", "12 months ago"),
            ("2024-11-24T12:00:00Z", "23 months ago"),
            ("2024-11-23T12:00:00Z", "2 years ago"),
            ("0001-01-01T00:00:00Z", "2027 years ago"),
            ("2026-11-23T12:00:59Z", "just now"),
            ("2026-11-23T12:01:00Z", "in 1 minute"),
            ("2026-11-26T12:00:00Z", "in 3 days"),
        ] {
            assert_eq!(age(time.parse().unwrap(), now), age_in_words, "{time}");
        }
    }

    #[test]
    fn a_value_is_formatted_by_the_name_of_its_field() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let id = "3fa2b1c4-0000-4000-8000-000000000001";
        let record = json!({
            "id": id,
            "storage_path": format!("3f/a2/{id}"),
            "created_at": "2026-11-20T12:00:00.000001Z",
            "last_login_at": null,
            "wal_bytes": 81_920,
            "version": 2,
            "bytes": 1_024,
            "unreadable": 0,
            "is_being_purged": false,
        });
        let raw = |record: serde_json::Value| {
            serde_json::from_str::<Record>(&record.to_string()).unwrap()
        };
        let record = raw(record);
        let text_of = |field, rendering| text(&record, field, rendering, now);
        assert_eq!(text_of("created_at", Rendering::Exact), "2026-11-20T12:00:00.000001Z");
        assert_eq!(text_of("created_at", Rendering::Selected), "2 days ago");
        assert_eq!(text_of("created_at", Rendering::Full), "2026-11-20T12:00:00Z (2 days ago)");
        assert_eq!(text_of("last_login_at", Rendering::Full), "");
        assert_eq!(text_of("wal_bytes", Rendering::Exact), "81920");
        assert_eq!(text_of("wal_bytes", Rendering::Brief), "80.00 KiB");
        assert_eq!(text_of("bytes", Rendering::Selected), "1.00 KiB");
        assert_eq!(text_of("version", Rendering::Brief), "2");
        assert_eq!(
            (text_of("unreadable", Rendering::Brief), text_of("unreadable", Rendering::Selected)),
            ("".into(), "0".into())
        );
        assert_eq!(
            (
                text_of("is_being_purged", Rendering::Brief),
                text_of("is_being_purged", Rendering::Selected)
            ),
            ("".into(), "false".into())
        );
        assert_eq!(
            (
                text_of("storage_path", Rendering::Brief),
                text_of("storage_path", Rendering::Selected)
            ),
            ("".into(), format!("3f/a2/{id}"))
        );
        let unusual = json!({ "id": id, "storage_path": "customers/ada", "unreadable": 3, "is_being_purged": true });
        let unusual = raw(unusual);
        let unusual = |field| text(&unusual, field, Rendering::Brief, now);
        assert_eq!(unusual("storage_path"), "customers/ada");
        assert_eq!(
            (unusual("unreadable"), unusual("is_being_purged")),
            ("3".into(), "true".into())
        );
    }
}
