//! The domain of an address: its key, and why it has none.

use std::borrow::Cow;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use super::refusal::refuse;
use crate::Error;

/// Returns the domain in the ASCII form of UTS 46, if it has one and isn't an IP address.
pub(super) fn domain_key(domain: &str) -> Result<Cow<'_, str>, ()> {
    let ascii = to_ascii(domain)?;
    if ends_in_number(&ascii) { Err(()) } else { Ok(ascii) }
}

pub(crate) fn to_ascii(domain: &str) -> Result<Cow<'_, str>, ()> {
    Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| ())
}

/// Returns whether browsers take the domain for an IPv4 address:
/// <https://url.spec.whatwg.org/#ends-in-a-number-checker>.
fn ends_in_number(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    let hex = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns why a domain has no key, as it was given. Its first character has the number `start`.
pub(super) fn refuse_domain(domain: &str, start: usize) -> Error {
    for (index, label) in domain.split(is_label_separator).enumerate() {
        if to_ascii(label).is_err() {
            let what = if label.is_empty() { "is empty" } else { "is not valid" };
            let start = label_start(domain, index, start);
            return refuse(format!(
                "the label of the domain that begins at character {start} {what}"
            ));
        }
    }
    match to_ascii(domain) {
        Ok(_) => refuse(
            "the domain ends in a number: an IP address in place of a domain is not accepted",
        ),
        Err(()) => {
            refuse("the domain is not valid: it is longer than 253 characters in its ASCII form")
        }
    }
}

/// Returns the number of the first character of a label, where that of the domain is `start`.
pub(super) fn label_start(domain: &str, index: usize, start: usize) -> usize {
    domain
        .split(is_label_separator)
        .take(index)
        .fold(start, |start, label| start + label.chars().count() + 1)
}

/// Returns whether IDNA takes this for the full stop of ASCII
/// ([UTS 46, section 4.5](https://www.unicode.org/reports/tr46/#Implementation_Notes)).
pub(crate) fn is_label_separator(c: char) -> bool {
    matches!(c, '.' | '\u{3002}' | '\u{FF0E}' | '\u{FF61}')
}
