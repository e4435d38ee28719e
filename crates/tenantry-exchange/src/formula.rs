//! Prevents [formula injection](https://owasp.org/www-community/attacks/CSV_Injection), also called
//! CSV injection: a field that a spreadsheet would run as a formula.

use std::borrow::Cow;

/// The characters with which a formula begins. Some spreadsheets treat the full-width forms like
/// those of ASCII.
const FORMULA_STARTS: [char; 11] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{FF1D}', '\u{FF0B}', '\u{FF0D}', '\u{FF20}'];

/// Escapes a value for a CSV file, with an apostrophe before a formula.
///
/// An address may begin with `+`, with `=` or with an apostrophe, and an import must recover it. So
/// a value gets one more apostrophe if it has the first character of a formula after any number of
/// apostrophes.
///
/// # Examples
///
/// ```
/// assert_eq!(tenantry_exchange::escape_formula("=1+1"), "'=1+1");
/// assert_eq!(tenantry_exchange::escape_formula("'=1+1"), "''=1+1");
/// assert_eq!(tenantry_exchange::escape_formula("'ada@example.com"), "'ada@example.com");
/// ```
#[must_use]
pub fn escape_formula(value: &str) -> Cow<'_, str> {
    if looks_like_formula(value) { Cow::Owned(format!("'{value}")) } else { Cow::Borrowed(value) }
}

/// Reverses [`escape_formula`].
pub(crate) fn unescape_formula(value: &str) -> &str {
    value.strip_prefix('\'').filter(|rest| looks_like_formula(rest)).unwrap_or(value)
}

fn looks_like_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(FORMULA_STARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_injection_is_escaped_and_unescaped() {
        for value in [
            "=1+1",
            "+ada@example.com",
            "-a@b",
            "@x",
            "'+ada@example.com",
            "''=x",
            "\tx",
            "\rx",
            "\nx",
            "\u{ff1d}1",
            "\u{ff0b}1",
            "\u{ff0d}1",
            "\u{ff20}x",
            "'\u{ff1d}1",
        ] {
            let safe = escape_formula(value);
            assert!(safe.starts_with('\''), "{value}");
            assert_eq!(unescape_formula(&safe), value);
        }
        for value in ["ada@example.com", "'ada@example.com", "''", "", "a=b"] {
            assert_eq!(escape_formula(value), value);
            assert_eq!(unescape_formula(value), value);
        }
    }
}
