//! Parses times as people type them: a time, a date, or a duration before now.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo};
use tenantry::Timestamp;
use tenantry_exchange::printable;

use crate::failure::{Exit, Failure};
use crate::human;

/// Parses a time, or a date as its first moment in UTC.
pub(crate) fn time(text: &str) -> Result<Timestamp, Failure> {
    let as_day = || format!("{text}T00:00:00Z").parse::<Timestamp>();
    // The error is that of a date for a date, and that of a time for a time.
    let is_day = !text.contains(['T', 't']);
    text.parse::<Timestamp>().or_else(|error| if is_day { as_day() } else { Err(error) }).map_err(
        |error| {
            Failure::new(
                Exit::Invalid,
                format!(
                    "\"{}\": {error}; a date such as 2026-11-23 is accepted too",
                    printable(text)
                ),
            )
        },
    )
}

/// Returns the time that is this long before now. A day has 24 hours, and a month or year is one
/// of the calendar: two years ago is the same date.
pub(crate) fn ago(text: &str) -> Result<Timestamp, Failure> {
    let span: Option<Span> = text.parse().ok().filter(|span: &Span| !span.is_negative());
    let span = span.ok_or_else(|| {
        Failure::new(
            Exit::Invalid,
            format!("{text:?} is not a duration such as 180d, 36h, 2w or 2y"),
        )
    })?;
    let now = jiff::Timestamp::from_microsecond(human::now().as_unix_us())
        .map(|now| now.to_zoned(TimeZone::UTC));
    let then =
        now.and_then(|now| now.checked_sub(span)).map(|then| then.timestamp().as_microsecond());
    // Longer ago than the calendar goes back.
    Ok(then.ok().and_then(|us| Timestamp::from_unix_us(us).ok()).unwrap_or(Timestamp::MIN))
}

/// Parses a duration.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    let span: Option<Span> = text.parse().ok();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let length = length.and_then(|length| Duration::try_from(length).ok());
    length.ok_or_else(|| {
        Failure::new(Exit::Invalid, format!("{text:?} is not a duration such as 180d, 36h or 2w"))
    })
}
