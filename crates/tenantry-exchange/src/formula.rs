//! Values that a spreadsheet would run as formulas
//! (<https://owasp.org/www-community/attacks/CSV_Injection>).

use std::borrow::Cow;

/// The characters that make a formula of a field, the full-width forms among them, which some
/// spreadsheets take for the others.
const FORMULA_STARTS: [char; 11] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{FF1D}', '\u{FF0B}', '\u{FF0D}', '\u{FF20}'];

/// Returns a value as it may be in a CSV file: with an apostrophe before what a spreadsheet would
/// take for a formula.
///
/// An address may begin with `+` or `=`, and also with an apostrophe, so what is read has to be
/// told apart: a value gets one more apostrophe if a formula's first character comes after any
/// number of them.
///
/// ```
/// assert_eq!(tenantry_exchange::csv_safe("=1+1"), "'=1+1");
/// assert_eq!(tenantry_exchange::csv_safe("'=1+1"), "''=1+1");
/// assert_eq!(tenantry_exchange::csv_safe("'ada@example.com"), "'ada@example.com");
/// ```
#[must_use]
pub fn csv_safe(value: &str) -> Cow<'_, str> {
    if looks_like_formula(value) { Cow::Owned(format!("'{value}")) } else { Cow::Borrowed(value) }
}

/// Undoes [`csv_safe`].
pub(crate) fn csv_plain(value: &str) -> &str {
    value.strip_prefix('\'').filter(|rest| looks_like_formula(rest)).unwrap_or(value)
}

fn looks_like_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(FORMULA_STARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_run_is_made_safe_and_back() {
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
            let safe = csv_safe(value);
            assert!(safe.starts_with('\''), "{value}");
            assert_eq!(csv_plain(&safe), value);
        }
        for value in ["ada@example.com", "'ada@example.com", "''", "", "a=b"] {
            assert_eq!(csv_safe(value), value);
            assert_eq!(csv_plain(value), value);
        }
    }
}
