//! The path of a file in a URL.
//!
//! It is divided at `/` first and each segment is percent-decoded once after that, so a `/` that
//! was encoded is never a separator: it is refused, as is every segment that leads elsewhere.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tenantry::ErrorKind;

use crate::problem::{Problem, Type};

/// The length of a name, in bytes: what Linux's file systems allow (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// The length of a whole path, in bytes: what the kernel takes (`PATH_MAX`, with a zero).
const PATH_BYTES_MAX: usize = 4_095;
/// How many segments of the URL come before the path: `/v1/users/{id}/files/`.
const SEGMENTS_BEFORE: usize = 5;
/// The beginning of the names of uploads that aren't complete.
pub(super) const HIDDEN: &str = ".tenantry-upload-";

/// A path of safe segments, each of which is the name of an entry and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath {
    pub(super) segments: Vec<String>,
    /// Whether it ends in `/`, or is empty, and so names a directory.
    pub(super) is_dir: bool,
}

impl FilePath {
    /// Returns the path above the last segment, which is empty for the user's directory itself, and
    /// the last segment.
    ///
    /// # Errors
    ///
    /// `InvalidPath` if the path names a directory.
    pub(super) fn of_file(&self) -> Result<(String, &str), Problem> {
        match self.segments.split_last() {
            Some((name, above)) if !self.is_dir => Ok((above.join("/"), name)),
            _ => Err(invalid("the path names a directory: it ends in /")),
        }
    }

    fn parse(raw: &str) -> Result<Self, Problem> {
        let (raw, is_dir) = match raw.strip_suffix('/') {
            Some(raw) => (raw, true),
            None => (raw, raw.is_empty()),
        };
        if raw.is_empty() && is_dir {
            return Ok(Self { segments: Vec::new(), is_dir });
        }
        let segments: Vec<String> = raw.split('/').map(segment).collect::<Result<_, _>>()?;
        if segments.iter().map(|segment| segment.len() + 1).sum::<usize>() > PATH_BYTES_MAX {
            return Err(invalid("the path is longer than 4095 bytes"));
        }
        Ok(Self { segments, is_dir })
    }
}

impl<S: Sync> FromRequestParts<S> for FilePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Not the router's parameter, which is decoded as a whole.
        match parts.uri.path().splitn(SEGMENTS_BEFORE + 1, '/').nth(SEGMENTS_BEFORE) {
            // A lone slash after that of the route is an empty segment.
            Some("/") | None => Err(invalid("a segment of the path is empty")),
            Some(raw) => Self::parse(raw),
        }
    }
}

/// Decodes and checks a segment.
fn segment(raw: &str) -> Result<String, Problem> {
    let decoded = decode(raw)
        .ok_or_else(|| invalid("a % in the path isn't followed by two hexadecimal digits"))?;
    let name =
        String::from_utf8(decoded).map_err(|_| invalid("a segment of the path isn't UTF-8"))?;
    let reason = match &*name {
        "" => "a segment of the path is empty",
        "." | ".." => "a segment of the path is . or ..",
        _ if name.contains(['/', '\0']) => "a segment of the path holds a / or a zero byte",
        _ if name.len() > NAME_BYTES_MAX => "a segment of the path is longer than 255 bytes",
        _ if is_hidden(name.as_bytes()) => {
            "names that begin with .tenantry-upload- are the service's own"
        }
        _ => return Ok(name),
    };
    Err(invalid(reason))
}

/// Returns whether a name is that of an upload which isn't complete, whatever its case: some file
/// systems ignore it.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.get(..HIDDEN.len()).is_some_and(|start| start.eq_ignore_ascii_case(HIDDEN.as_bytes()))
}

fn decode(raw: &str) -> Option<Vec<u8>> {
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            _ => byte,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Type::Store(ErrorKind::InvalidPath), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(raw: &str) -> Option<Vec<String>> {
        FilePath::parse(raw).ok().map(|path| path.segments)
    }

    #[test]
    fn a_path_is_decoded_once_and_divided_before() {
        assert_eq!(segments("a/b%20c/d.txt").unwrap(), ["a", "b c", "d.txt"]);
        assert_eq!(segments("%2541").unwrap(), ["%41"]);
        assert_eq!(segments("%252e%252e/x").unwrap(), ["%2e%2e", "x"]);
        assert_eq!(segments("...").unwrap(), ["..."]);
        assert_eq!(segments("").unwrap(), [""; 0]);
        assert_eq!(segments("caf%C3%A9").unwrap(), ["caf\u{e9}"]);
        assert_eq!(segments(&"x".repeat(255)).unwrap()[0].len(), 255);
        assert!(FilePath::parse("a/").unwrap().is_dir && !FilePath::parse("a").unwrap().is_dir);
    }

    /// CVE-2026-48777, CVE-2026-44542, CVE-2025-53829: a path that was checked before it was
    /// normalized.
    #[test]
    fn a_segment_that_leads_elsewhere_is_refused() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2_048);
        for raw in [
            "..",
            "a/..",
            "../a",
            ".",
            "a/./b",
            "%2e%2e",
            "%2E./a",
            ".%2e",
            "a%2fb",
            "a%2Fb",
            "%2f",
            "a//b",
            "a//",
            "a%00b",
            "%00",
            "%ff",
            "%c3",
            "%",
            "%2",
            "%zz",
            "%+1",
            ".tenantry-upload-1",
            ".Tenantry-Upload-1/x",
            "%2etenantry-upload-1",
            &long,
            &deep,
        ] {
            assert_eq!(segments(raw), None, "{raw}");
        }
    }
}
