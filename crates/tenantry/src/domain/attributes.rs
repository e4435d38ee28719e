//! Other data of an application or an identity provider about a user: a JSON object.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Error, ErrorKind, Result};

/// A JSON object with whatever an application keeps with a user. The store doesn't interpret it.
///
/// It is kept as it was given: the order of the keys, the digits of numbers and the escapes of
/// strings stay. Only space between the tokens is removed, so that it is one line. It has at most
/// 16 KiB then and is nested at most 8 deep, itself included. An object with two equal keys is
/// refused, because programs disagree on which of them counts ([RFC 8259, section
/// 4](https://www.rfc-editor.org/rfc/rfc8259#section-4)), and so is a string that isn't Unicode.
///
/// Two are equal if their texts are. Serialized it is the object itself, for which the format has
/// to be JSON by [`serde_json`].
///
/// # Examples
///
/// ```
/// use tenantry::Attributes;
///
/// let attributes: Attributes = r#"{ "plan": "pro", "seats": 1.50 }"#.parse()?;
/// assert_eq!(attributes.as_str(), r#"{"plan":"pro","seats":1.50}"#);
/// let value: serde_json::Value = serde_json::from_str(attributes.as_str())?;
/// assert_eq!(value["plan"], "pro");
/// assert!("[1]".parse::<Attributes>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Attributes(Box<RawValue>);

impl Attributes {
    /// The longest text: enough for what identity providers send, and a few pages of a database.
    pub const MAX_BYTES: usize = 16 << 10;
    /// How deep objects and arrays may be nested, the outermost included.
    pub const MAX_DEPTH: usize = 8;

    /// Returns the object as JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Returns the object that the store has accepted before. It is only made sure that it is JSON
    /// on one line, since it goes into documents as it is.
    pub(crate) fn from_stored(text: &str) -> Option<Self> {
        if !text.starts_with('{') || memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
            return None;
        }
        RawValue::from_string(text.to_owned()).ok().map(Self)
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidUser`]. The message says what is wrong, without any of the text.
impl FromStr for Attributes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not_json = |error| refuse(format!("the attributes aren't JSON: {error}"));
        let json: &RawValue = serde_json::from_str(text).map_err(not_json)?;
        if !json.get().starts_with('{') {
            return Err(refuse("the attributes aren't a JSON object"));
        }
        let compact = compact(json.get())?;
        if compact.len() > Self::MAX_BYTES {
            return Err(refuse("the attributes are longer than 16 KiB"));
        }
        RawValue::from_string(compact).map(Self).map_err(not_json)
    }
}

fn refuse(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidUser, message)
}

/// Removes the space between the tokens of an object, and checks what JSON leaves open. Outside of
/// its strings JSON is ASCII.
fn compact(json: &str) -> Result<String> {
    let mut compact = String::with_capacity(json.len().min(Attributes::MAX_BYTES));
    // The objects with their keys, and the arrays, that are open.
    let mut open: Vec<Option<HashSet<Cow<'_, str>>>> = Vec::new();
    let mut is_key_next = false;
    let mut rest = json;
    while let Some(first) = rest.bytes().next() {
        let (token, after) = rest.split_at(if first == b'"' { string_length(rest) } else { 1 });
        rest = after;
        match first {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'{' | b'[' => {
                is_key_next = first == b'{';
                open.push(is_key_next.then(HashSet::new));
                if open.len() > Attributes::MAX_DEPTH {
                    return Err(refuse("the attributes are nested deeper than 8 levels"));
                }
            }
            b'}' | b']' => drop(open.pop()),
            b',' => is_key_next = matches!(open.last(), Some(Some(_))),
            b':' => is_key_next = false,
            b'"' => {
                let string = decode(token)?;
                if let (true, Some(Some(keys))) = (is_key_next, open.last_mut())
                    && !keys.insert(string)
                {
                    return Err(refuse("an object in the attributes has two equal keys"));
                }
            }
            _ => {}
        }
        compact.push_str(token);
    }
    Ok(compact)
}

/// Returns the length of the string at the beginning of a text, quotes included.
fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        // The character after a backslash, all of which are ASCII.
        at += 2;
    }
    text.len()
}

/// Returns the text of a string of JSON. Half of a surrogate pair has none.
fn decode(token: &str) -> Result<Cow<'_, str>> {
    if token.contains('\\') {
        let decoded = serde_json::from_str(token).map(Cow::Owned);
        return decoded.map_err(|_| refuse("a string in the attributes isn't Unicode"));
    }
    Ok(Cow::Borrowed(token.trim_matches('"')))
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<&str> for Attributes {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<&Value> for Attributes {
    type Error = Error;

    fn try_from(value: &Value) -> Result<Self> {
        value.to_string().parse()
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Leaves out the text, which is personal data.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attributes(…)")
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Attributes {}

impl Hash for Attributes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        json.get().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Attributes> {
        text.parse()
    }

    #[test]
    fn attributes_are_kept_as_given_without_the_space_between_tokens() {
        for (text, kept) in [
            ("{}", "{}"),
            (" { } ", "{}"),
            (r#"{"b":1,"a":2}"#, r#"{"b":1,"a":2}"#),
            (
                "{ \"a\" :\r\n[ 1.50 , 1e400,\t-0, true , null ] }",
                r#"{"a":[1.50,1e400,-0,true,null]}"#,
            ),
            (r#"{"a":" \u00e9 \" , \\","\\":"b\/c"}"#, r#"{"a":" \u00e9 \" , \\","\\":"b\/c"}"#),
            (r#"{"é":"\ud83d\ude00 : { "}"#, r#"{"é":"\ud83d\ude00 : { "}"#),
            (r#"{"a":{"a":["a","a"]},"b":{"a":1}}"#, r#"{"a":{"a":["a","a"]},"b":{"a":1}}"#),
        ] {
            let attributes = parse(text).unwrap();
            assert_eq!(attributes.as_str(), kept);
            assert_eq!(serde_json::to_string(&attributes).unwrap(), kept);
            assert_eq!(serde_json::from_str::<Attributes>(text).unwrap(), attributes);
            assert_eq!(Attributes::from_stored(kept).unwrap(), attributes);
        }
    }

    #[test]
    fn what_is_no_object_or_ambiguous_is_refused_without_being_quoted() {
        for (text, said) in [
            ("", "aren't JSON"),
            ("{\"secret\"", "aren't JSON"),
            ("{'secret':1}", "aren't JSON"),
            ("{} secret", "aren't JSON"),
            ("[\"secret\"]", "aren't a JSON object"),
            ("\"{}\"", "aren't a JSON object"),
            ("null", "aren't a JSON object"),
            (r#"{"secret":1,"secret":2}"#, "two equal keys"),
            (r#"{"a":[{"secret":1,"secre\u0074":2}]}"#, "two equal keys"),
            (r#"{"a":"\ud83d"}"#, "isn't Unicode"),
            (r#"{"\udc00":1}"#, "isn't Unicode"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUser, "{text}");
            assert!(
                error.to_string().contains(said) && !error.to_string().contains("secret"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_length_and_the_depth_have_limits() {
        let nested = |depth: usize| {
            format!("{}{{}}{}", "{\"a\":[".repeat((depth - 1) / 2), "]}".repeat((depth - 1) / 2))
        };
        assert!(parse(&nested(7)).is_ok());
        assert!(parse(&format!("{{\"a\":{}}}", nested(7))).is_ok());
        assert!(parse(&nested(9)).unwrap_err().to_string().contains("nested"));
        let long = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        assert_eq!(
            parse(&long(Attributes::MAX_BYTES)).unwrap().as_str().len(),
            Attributes::MAX_BYTES
        );
        assert!(
            parse(&long(Attributes::MAX_BYTES + 1)).unwrap_err().to_string().contains("16 KiB")
        );
        // Only what is kept counts.
        assert!(
            parse(&format!("{}{}", " ".repeat(Attributes::MAX_BYTES), long(Attributes::MAX_BYTES)))
                .is_ok()
        );
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn a_value_becomes_attributes_if_it_is_an_object() {
        let value = serde_json::json!({ "a": [1, "b"] });
        assert_eq!(Attributes::try_from(&value).unwrap().as_str(), r#"{"a":[1,"b"]}"#);
        assert!(Attributes::try_from(&Value::Null).is_err());
        assert_eq!(format!("{:?}", parse("{\"a\":1}").unwrap()), "Attributes(…)");
    }

    #[test]
    fn a_stored_text_that_would_break_a_document_is_noticed() {
        for text in ["", "{", "[]", "{}}", "{\n}", " {}", "{\"a\":\r1}"] {
            assert_eq!(Attributes::from_stored(text), None, "{text:?}");
        }
    }
}
