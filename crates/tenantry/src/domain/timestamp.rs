use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// A moment in UTC with microsecond precision, from [`MIN`](Timestamp::MIN) to
/// [`MAX`](Timestamp::MAX).
///
/// It is written as RFC 3339 with six decimals and `Z`, so that the texts sort as the moments do.
/// It is read from RFC 3339 with any offset; digits beyond the microsecond are refused unless they
/// are zero (and not more than nine in all), because dropping them would change the value in
/// silence.
///
/// # Examples
///
/// ```
/// use tenantry::Timestamp;
///
/// let moment: Timestamp = "2026-11-23T08:30:00+01:00".parse()?;
/// assert_eq!(moment.to_string(), "2026-11-23T07:30:00.000000Z");
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    unix_us: i64,
}

impl Timestamp {
    /// The start of the year 1.
    pub const MIN: Self = Self { unix_us: -62_135_596_800_000_000 };
    /// 9999-12-30T22:00:00.000000Z: as far as times can be shown in every time zone before RFC 3339
    /// ends.
    pub const MAX: Self = Self { unix_us: 253_402_207_200_000_000 };

    /// Returns the moment this many microseconds after 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidTimestamp`] outside [`MIN`](Self::MIN) to [`MAX`](Self::MAX).
    pub fn from_unix_us(unix_us: i64) -> Result<Self> {
        let timestamp = Self { unix_us };
        if timestamp < Self::MIN || timestamp > Self::MAX {
            return Err(Error::new(ErrorKind::InvalidTimestamp, OUT_OF_RANGE));
        }
        Ok(timestamp)
    }

    /// Returns the microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn as_unix_us(self) -> i64 {
        self.unix_us
    }

    /// Returns the time of the system's clock, cut to microseconds.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "it is for embedders: the store itself takes the time from `Ambient`"
    )]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns this moment plus `duration`, or `None` beyond [`MAX`](Self::MAX).
    #[must_use]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let us = i64::try_from(duration.as_micros()).ok()?;
        Self::from_unix_us(self.unix_us.checked_add(us)?).ok()
    }

    /// Returns this moment less `duration`, or `None` before [`MIN`](Self::MIN).
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        let us = i64::try_from(duration.as_micros()).ok()?;
        Self::from_unix_us(self.unix_us.checked_sub(us)?).ok()
    }

    /// Returns the time from `earlier` to this moment, or `None` if `earlier` is later.
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Option<Duration> {
        u64::try_from(self.unix_us - earlier.unix_us).ok().map(Duration::from_micros)
    }

    /// Returns this moment less `duration`, but not before [`MIN`](Self::MIN).
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let us = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self { unix_us: self.unix_us.saturating_sub(us) }.max(Self::MIN)
    }

    /// How far a clock may have been ahead of today's, and its times still say how old something
    /// is. Those of a clock that was ahead by years would keep what is kept for days for as long.
    pub(crate) const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

    /// Returns this moment plus `duration`, but not after [`MAX`](Self::MAX).
    pub(crate) fn saturating_add(self, duration: Duration) -> Self {
        let us = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self { unix_us: self.unix_us.saturating_add(us) }.min(Self::MAX)
    }
}

/// Cut to microseconds; a clock set before the year 1 or after 9999 yields the nearest moment that
/// is in range.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let unix_us = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        };
        Self { unix_us }.clamp(Self::MIN, Self::MAX)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(moment: Timestamp) -> Self {
        let from_epoch = Duration::from_micros(moment.unix_us.unsigned_abs());
        if moment.unix_us < 0 {
            Self::UNIX_EPOCH - from_epoch
        } else {
            Self::UNIX_EPOCH + from_epoch
        }
    }
}

/// Cut to microseconds, and brought into the range of this type.
#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for Timestamp {
    fn from(moment: jiff::Timestamp) -> Self {
        Self { unix_us: cut(moment.as_nanosecond()) }.clamp(Self::MIN, Self::MAX)
    }
}

#[cfg(feature = "jiff")]
impl From<Timestamp> for jiff::Timestamp {
    fn from(moment: Timestamp) -> Self {
        // The range of this type is within jiff's.
        Self::from_microsecond(moment.unix_us).unwrap_or_default()
    }
}

/// Cut to microseconds, and brought into the range of this type.
#[cfg(feature = "chrono")]
impl From<chrono::DateTime<chrono::Utc>> for Timestamp {
    fn from(moment: chrono::DateTime<chrono::Utc>) -> Self {
        Self { unix_us: moment.timestamp_micros() }.clamp(Self::MIN, Self::MAX)
    }
}

#[cfg(feature = "chrono")]
impl From<Timestamp> for chrono::DateTime<chrono::Utc> {
    fn from(moment: Timestamp) -> Self {
        // The range of this type is within chrono's.
        Self::from_timestamp_micros(moment.unix_us).unwrap_or_default()
    }
}

/// Cut to microseconds, and brought into the range of this type.
#[cfg(feature = "time")]
impl From<time::OffsetDateTime> for Timestamp {
    fn from(moment: time::OffsetDateTime) -> Self {
        Self { unix_us: cut(moment.unix_timestamp_nanos()) }.clamp(Self::MIN, Self::MAX)
    }
}

#[cfg(feature = "time")]
impl From<Timestamp> for time::OffsetDateTime {
    fn from(moment: Timestamp) -> Self {
        // The range of this type is within that of the crate.
        Self::from_unix_timestamp_nanos(i128::from(moment.unix_us) * 1_000)
            .unwrap_or(Self::UNIX_EPOCH)
    }
}

/// Returns whole microseconds: the last one before the moment, as chrono has it.
#[cfg(any(feature = "jiff", feature = "time"))]
fn cut(unix_ns: i128) -> i64 {
    let unix_us = unix_ns.div_euclid(1_000);
    i64::try_from(unix_us).unwrap_or(if unix_us < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_microsecond(self.unix_us).map_err(|_| fmt::Error)?;
        write!(f, "{moment:.6}")
    }
}

/// Fails with [`ErrorKind::InvalidTimestamp`].
impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |message| Error::new(ErrorKind::InvalidTimestamp, message);
        if !has_rfc3339_form(text) {
            return Err(refuse(match text {
                _ if has_far_year(text) => OUT_OF_RANGE,
                _ if is_leap_second(text) => "a leap second, which can't be stored",
                _ => "not an RFC 3339 time such as 2026-11-23T07:30:00Z",
            }));
        }
        let moment: jiff::Timestamp = text.parse().map_err(|error| {
            // The last day of 9999 is beyond what can be parsed. A year before, the same days
            // exist.
            let year_before = text
                .strip_prefix("9999-")
                .map(|rest| format!("9998-{rest}").parse::<jiff::Timestamp>());
            let message = if matches!(year_before, Some(Ok(_))) {
                OUT_OF_RANGE
            } else {
                "there is no such time"
            };
            refuse(message).with_source(error)
        })?;
        if moment.subsec_nanosecond() % 1_000 != 0 {
            return Err(Error::new(
                ErrorKind::InvalidTimestamp,
                "the time is finer than a microsecond",
            ));
        }
        Self::from_unix_us(moment.as_microsecond())
    }
}

const OUT_OF_RANGE: &str = "the time is not between 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z";

/// Whether a text is a time of a year with a sign, or of more than four digits, which RFC 3339
/// doesn't have.
fn has_far_year(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']);
    let digits = unsigned.unwrap_or(text).bytes().take_while(u8::is_ascii_digit).count();
    let rest = &unsigned.unwrap_or(text)[digits..];
    (digits > 4 || (digits == 4 && unsigned.is_some())) && has_rfc3339_form(&format!("2000{rest}"))
}

/// Whether a text is a time whose second is the sixtieth, which there is on some days in UTC.
fn is_leap_second(text: &str) -> bool {
    text.get(16..19) == Some(":60") && text.replacen(":60", ":59", 1).parse::<Timestamp>().is_ok()
}

/// Whether a text looks like `date-time` of RFC 3339, section 5.6. The parser reads more than that:
/// ISO 8601's short forms, names of time zones, and leap seconds, which it changes into the second
/// before.
fn has_rfc3339_form(text: &str) -> bool {
    let is_like = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                _ => byte.eq_ignore_ascii_case(&form),
            })
    };
    let Some((date_time, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let has_digits = !rest.starts_with('.') || rest.len() > offset.len() + 1;
    is_like(date_time, "0000-00-00T00:00:00")
        && !date_time.ends_with("60")
        && has_digits
        && (is_like(offset, "Z") || is_like(offset, "+00:00") || is_like(offset, "-00:00"))
        && offset.get(1..3).is_none_or(|hours| hours <= "23")
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_a_fixed_width_and_sort_as_the_moments_do() {
        let texts: Vec<String> = [
            Timestamp::MIN,
            Timestamp::from_unix_us(-1).unwrap(),
            Timestamp::from_unix_us(0).unwrap(),
            Timestamp::from_unix_us(1_700_000_000_100_000).unwrap(),
            Timestamp::MAX,
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        assert_eq!(texts[0], "0001-01-01T00:00:00.000000Z");
        assert_eq!(texts[1], "1969-12-31T23:59:59.999999Z");
        assert_eq!(texts[3], "2023-11-14T22:13:20.100000Z");
        assert_eq!(texts[4], "9999-12-30T22:00:00.000000Z");
        assert!(texts.is_sorted());
        assert!(texts.iter().all(|text| text.len() == 27));
    }

    #[test]
    fn a_text_is_read_back_as_the_same_moment() {
        for us in [Timestamp::MIN.unix_us, -1, 0, 1, 1_700_000_000_123_456, Timestamp::MAX.unix_us]
        {
            let moment = Timestamp::from_unix_us(us).unwrap();
            assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }

    #[test]
    fn what_would_change_in_silence_is_refused() {
        for text in [
            "2026-01-01T00:00:00.1234567Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00+01",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:00[Europe/Berlin]",
            "2026-06-30T23:59:60Z",
            "2026-02-29T00:00:00Z",
            "20260101T000000Z",
            "+002026-01-01T00:00:00Z",
            "-000001-01-01T00:00:00Z",
            "now",
            "",
            "\u{fc}",
        ] {
            assert_eq!(
                text.parse::<Timestamp>().unwrap_err().kind(),
                ErrorKind::InvalidTimestamp,
                "{text}"
            );
        }
        for text in [
            "2026-01-01T00:00:00.123456000Z",
            "2026-01-01t00:00:00.1z",
            "2026-01-01T00:00:00-23:59",
        ] {
            assert!(text.parse::<Timestamp>().is_ok(), "{text}");
        }
        assert!(Timestamp::from_unix_us(i64::MAX).is_err());
    }

    #[test]
    fn a_moment_is_the_same_in_the_standard_library() {
        for us in [Timestamp::MIN.unix_us, -1, 0, 1, 1_700_000_000_123_456, Timestamp::MAX.unix_us]
        {
            let moment = Timestamp::from_unix_us(us).unwrap();
            assert_eq!(Timestamp::from(SystemTime::from(moment)), moment);
        }
        let later =
            Timestamp::from_unix_us(7).unwrap().checked_add(Duration::from_micros(5)).unwrap();
        assert_eq!(later.as_unix_us(), 12);
        assert_eq!(later.checked_sub(Duration::from_micros(13)).unwrap().as_unix_us(), -1);
        assert_eq!(
            later.duration_since(Timestamp::from_unix_us(10).unwrap()),
            Some(Duration::from_micros(2))
        );
        assert_eq!(later.duration_since(Timestamp::from_unix_us(13).unwrap()), None);
        assert_eq!(Timestamp::MAX.checked_add(Duration::from_micros(1)), None);
        assert_eq!(Timestamp::MIN.checked_sub(Duration::from_micros(1)), None);
        assert_eq!(Timestamp::MIN.checked_sub(Duration::MAX), None);
        assert!(Timestamp::now() > later);
    }

    #[cfg(all(feature = "jiff", feature = "chrono", feature = "time"))]
    #[test]
    fn a_moment_is_the_same_in_other_crates() {
        for us in [Timestamp::MIN.unix_us, -1, 0, 1, 1_700_000_000_123_456, Timestamp::MAX.unix_us]
        {
            let moment = Timestamp::from_unix_us(us).unwrap();
            let in_jiff = jiff::Timestamp::from(moment);
            let in_chrono = chrono::DateTime::from(moment);
            let in_time = time::OffsetDateTime::from(moment);
            assert_eq!(in_jiff.as_microsecond(), us);
            assert_eq!(in_chrono.timestamp_micros(), us);
            assert_eq!(in_time.unix_timestamp_nanos(), i128::from(us) * 1_000);
            assert_eq!(Timestamp::from(in_jiff), moment);
            assert_eq!(Timestamp::from(in_chrono), moment);
            assert_eq!(Timestamp::from(in_time), moment);
        }
        assert_eq!(Timestamp::from(jiff::Timestamp::from_nanosecond(-1).unwrap()).unix_us, -1);
        assert_eq!(
            Timestamp::from(time::OffsetDateTime::from_unix_timestamp_nanos(-1).unwrap()).unix_us,
            -1
        );
        assert_eq!(Timestamp::from(chrono::DateTime::from_timestamp_nanos(-1)).unix_us, -1);
        assert_eq!(Timestamp::from(jiff::Timestamp::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from(chrono::DateTime::<chrono::Utc>::MIN_UTC), Timestamp::MIN);
    }

    #[test]
    fn a_time_that_is_none_says_why() {
        let none = "there is no such time";
        for (text, reason) in [
            ("9999-12-30T22:00:00.000001Z", OUT_OF_RANGE),
            ("9999-12-31T23:59:59Z", OUT_OF_RANGE),
            ("0000-12-31T23:59:59Z", OUT_OF_RANGE),
            ("-0001-01-01T00:00:00Z", OUT_OF_RANGE),
            ("+12026-01-01T00:00:00+01:00", OUT_OF_RANGE),
            ("12026-01-01T00:00:00Z", OUT_OF_RANGE),
            ("9999-02-29T00:00:00Z", none),
            ("2026-02-29T00:00:00Z", none),
            ("2026-01-01T24:00:00Z", none),
            ("2016-12-31T23:59:60Z", "a leap second, which can't be stored"),
            ("2016-13-31T23:59:60Z", "not an RFC 3339 time such as 2026-11-23T07:30:00Z"),
            ("2026-01-01", "not an RFC 3339 time such as 2026-11-23T07:30:00Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap_err().to_string(), reason, "{text}");
        }
    }

    #[test]
    fn a_clock_far_off_is_brought_into_range() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        assert_eq!(Timestamp::from(far), Timestamp::MAX);
        let past = SystemTime::UNIX_EPOCH - Duration::from_secs(100_000_000_000);
        assert_eq!(Timestamp::from(past), Timestamp::MIN);
    }
}
