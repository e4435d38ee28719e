//! Entity tags and conditions on them (RFC 9110, sections 8.8.3 and 13).
//!
//! The tag of a user is `"VERSION.LOGIN"`: the version, and the last login in base 36, since a
//! login changes what a GET returns but isn't a change of the user. `If-Match` compares the version
//! alone, so a login never makes a change fail; `If-None-Match` compares all of it.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tenantry::{Timestamp, User};

use crate::problem::{Problem, Type};

/// Returns the entity tag of a user.
pub(crate) fn of(user: &User) -> HeaderValue {
    let login = user.last_login_at.map(base36).unwrap_or_default();
    let dot = if login.is_empty() { "" } else { "." };
    let tag = format!("\"{}{dot}{login}\"", user.version);
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Microseconds since 1970 in base 36, by which times before it are distinct too.
fn base36(time: Timestamp) -> String {
    let mut rest = time.as_unix_us().cast_unsigned();
    let mut digits = Vec::new();
    while rest > 0 || digits.is_empty() {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize]);
        rest /= 36;
    }
    digits.reverse();
    String::from_utf8_lossy(&digits).into_owned()
}

/// The condition of an `If-Match`: which versions a user may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// There is no condition, or it is that the user exists.
    Any,
    /// One of these. Tags of another form match no user.
    Versions(Vec<u64>),
}

impl IfMatch {
    /// Reads the condition of a request.
    ///
    /// # Errors
    ///
    /// `InvalidParameter` if the header isn't a list of entity tags; `PreconditionRequired` if
    /// there is none and one is required.
    pub(crate) fn of(headers: &HeaderMap, is_required: bool) -> Result<Self, Problem> {
        let Some(tags) = tags(headers, &IF_MATCH)? else {
            if is_required {
                return Err(Problem::new(
                    Type::PreconditionRequired,
                    "an If-Match with the user's ETag is required",
                ));
            }
            return Ok(Self::Any);
        };
        let Tags::Some(tags) = tags else { return Ok(Self::Any) };
        // A weak tag never matches strongly (RFC 9110, section 13.1.1).
        let strong = tags.iter().filter(|tag| !tag.is_weak);
        Ok(Self::Versions(
            strong.filter_map(|tag| tag.opaque.split('.').next()?.parse().ok()).collect(),
        ))
    }

    pub(crate) fn allows(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// Returns whether a client has a resource of this tag already.
pub(crate) fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> Result<bool, Problem> {
    Ok(match tags(headers, &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::Some(tags)) => {
            tags.iter().any(|known| tag.as_bytes().trim_ascii() == known.quoted().as_bytes())
        }
    })
}

/// The entity tags of a condition.
#[derive(Debug)]
pub(crate) enum Tags {
    /// `*`: whatever exists.
    Any,
    Some(Vec<Tag>),
}

impl Tags {
    /// Returns whether one of them is this strong tag, and is strong itself (RFC 9110, section
    /// 8.8.3.2). `tag` comes without its quotes.
    pub(crate) fn matches_strongly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Some(tags) => tags.iter().any(|known| !known.is_weak && known.opaque == tag),
        }
    }

    /// Returns whether one of them is this tag, be it weak or strong.
    pub(crate) fn matches_weakly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Some(tags) => tags.iter().any(|known| known.opaque == tag),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tag {
    is_weak: bool,
    opaque: String,
}

impl Tag {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.opaque)
    }
}

/// Reads a list of entity tags, or `*`, of one header that may be repeated.
pub(crate) fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let malformed =
        || Problem::new(Type::InvalidParameter, format!("{name} isn't a list of entity tags"));
    let mut found: Option<Tags> = None;
    for value in headers.get_all(name) {
        let mut rest = value.to_str().map_err(|_| malformed())?.trim();
        if rest == "*" && found.is_none() {
            found = Some(Tags::Any);
            continue;
        }
        let Tags::Some(list) = found.get_or_insert(Tags::Some(Vec::new())) else {
            return Err(malformed());
        };
        loop {
            let is_weak = rest.starts_with("W/");
            rest =
                rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"').ok_or_else(malformed)?;
            let (opaque, after) = rest.split_once('"').ok_or_else(malformed)?;
            if !opaque.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte)) {
                return Err(malformed());
            }
            list.push(Tag { is_weak, opaque: opaque.to_owned() });
            rest = after.trim_start();
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(',').ok_or_else(malformed)?.trim_start();
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn if_match(values: &[&str]) -> Option<IfMatch> {
        IfMatch::of(&headers(IF_MATCH, values), false).ok()
    }

    #[test]
    fn if_match_names_versions_and_heeds_no_login() {
        let versions = |versions: &[u64]| Some(IfMatch::Versions(versions.to_vec()));
        assert_eq!(if_match(&[]), Some(IfMatch::Any));
        assert_eq!(if_match(&["*"]), Some(IfMatch::Any));
        assert_eq!(if_match(&["\"7\""]), versions(&[7]));
        assert_eq!(if_match(&["\"7.kx3f9\""]), versions(&[7]));
        assert_eq!(if_match(&["\"7\" , \"8.a\"", "\"9\""]), versions(&[7, 8, 9]));
        assert_eq!(if_match(&["W/\"7\", \"seven\", \"\""]), versions(&[]));
        for malformed in ["7", "\"7", "\"7\" \"8\"", "\"7\",", "", "*, \"7\"", "\"a b\""] {
            assert_eq!(if_match(&[malformed]), None, "{malformed}");
        }
        assert_eq!(if_match(&["*", "\"7\""]), None);
    }

    #[test]
    fn a_required_condition_that_is_missing_is_a_problem_of_its_own() {
        assert!(IfMatch::of(&HeaderMap::new(), true).is_err());
        assert_eq!(IfMatch::of(&headers(IF_MATCH, &["*"]), true).unwrap(), IfMatch::Any);
    }

    #[test]
    fn if_none_match_compares_weakly_and_whole() {
        let tag = HeaderValue::from_static("\"7.a\"");
        let is_known = |values: &[&str]| is_known(&headers(IF_NONE_MATCH, values), &tag).unwrap();
        assert!(!is_known(&[]) && !is_known(&["\"7\""]) && !is_known(&["\"7.b\""]));
        assert!(
            is_known(&["*"])
                && is_known(&["\"7.a\""])
                && is_known(&["W/\"7.a\""])
                && is_known(&["\"1\", \"7.a\""])
        );
    }
}
