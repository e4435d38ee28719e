//! Headers that keep a file from being anything but a download.

use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Adds what makes a browser save the file, whatever is in it, and never run it on this origin.
pub(super) fn make_download(headers: &mut HeaderMap, name: &str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(CONTENT_DISPOSITION, attachment(name));
}

/// Returns the `Content-Disposition` of a download with this name ([RFC
/// 6266](https://www.rfc-editor.org/rfc/rfc6266), the name as by [RFC
/// 8187](https://www.rfc-editor.org/rfc/rfc8187)). It is the only place where a name becomes part
/// of a header (CVE-2021-32679).
pub(crate) fn attachment(name: &str) -> HeaderValue {
    let name: String = name.chars().filter(|c| !is_control(*c)).collect();
    let is_plain =
        |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%' | '/') || c == ' ';
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut value = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    value.push(char::from(byte))
                }
                _ => value.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// Returns whether a character controls a terminal, or the direction in which a name is shown: by
/// these `annexe.exe` is shown as something harmless.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2021-32679: a name that wasn't escaped in the header.
    #[test]
    fn a_name_never_leaves_its_parameter() {
        for (name, value) in [
            ("notes.txt", r#"attachment; filename="notes.txt""#),
            ("my notes.txt", r#"attachment; filename="my notes.txt""#),
            (
                "a\"; filename=\"b.exe",
                "attachment; filename=\"a_; filename=_b.exe\"; filename*=UTF-8''a%22%3B%20filename%3D%22b.exe",
            ),
            ("a\r\nSet-Cookie: x=1", r#"attachment; filename="aSet-Cookie: x=1""#),
            ("x\u{202e}txt.exe", r#"attachment; filename="xtxt.exe""#),
            ("caf\u{e9}\\", "attachment; filename=\"caf__\"; filename*=UTF-8''caf%C3%A9%5C"),
            ("100%41", "attachment; filename=\"100_41\"; filename*=UTF-8''100%2541"),
            ("\u{7f}\u{85}", r#"attachment; filename="""#),
        ] {
            assert_eq!(attachment(name), value, "{name:?}");
        }
    }
}
