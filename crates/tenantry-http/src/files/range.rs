//! The range of a request (RFC 9110, section 14).

/// Which bytes of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All of them.
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    /// None: the range begins after the end.
    Unsatisfiable,
}

/// Reads a `Range` for a file of this length. A header of another unit or form is ignored, as is
/// one of several ranges: they are a way to have much sent many times.
pub(super) fn range(value: &str, length: u64) -> Range {
    let Some((first, last)) =
        value.trim().strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Range::Whole;
    };
    match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => match suffix.min(length) {
            0 => Range::Unsatisfiable,
            suffix => Range::Part(length - suffix, length),
        },
        (Some(first), None) if last.is_empty() => part(first, length, length),
        (Some(first), Some(last)) if first <= last => {
            part(first, last.saturating_add(1).min(length), length)
        }
        _ => Range::Whole,
    }
}

fn part(first: u64, end: u64, length: u64) -> Range {
    if first < length { Range::Part(first, end) } else { Range::Unsatisfiable }
}

/// Reads digits. A number that is too large is larger than any file.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_its_last_byte_or_with_the_file() {
        for (value, expected) in [
            ("bytes=0-0", Range::Part(0, 1)),
            ("bytes=0-9", Range::Part(0, 10)),
            ("bytes=3-5", Range::Part(3, 6)),
            ("bytes=3-", Range::Part(3, 10)),
            ("bytes=9-", Range::Part(9, 10)),
            ("bytes=9-99999999999999999999999", Range::Part(9, 10)),
            ("bytes=0-18446744073709551615", Range::Part(0, 10)),
            ("bytes=-3", Range::Part(7, 10)),
            ("bytes=-99", Range::Part(0, 10)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=10-12", Range::Unsatisfiable),
            ("bytes=99999999999999999999999-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
        ] {
            assert_eq!(range(value, 10), expected, "{value}");
        }
        assert_eq!(range("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(range("bytes=-1", 0), Range::Unsatisfiable);
    }

    #[test]
    fn a_range_of_another_form_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=0--1",
            "bytes=1-2-3",
        ] {
            assert_eq!(range(value, 10), Range::Whole, "{value}");
        }
    }
}
