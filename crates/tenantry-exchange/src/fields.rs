//! The fields of a row as they are in the file, and the user that they make.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tenantry::{ErrorKind, NewUser, User};

use crate::columns::{Columns, Omissions, cut, may_be_address};
use crate::printable;

/// How many fields a user has.
pub(crate) const COUNT: usize = User::FIELDS.len();
/// The index in [`User::FIELDS`] of the address, the one field that a file must have.
pub(crate) const EMAIL: usize = position("email");
/// The fields whose spaces at the beginning and at the end are part of them.
const WITH_SPACES: [usize; 2] = [position("storage_path"), position("external_id")];
/// The one field that is a number in JSON.
const VERSION: usize = position("version");
/// The one field that is an object in JSON, kept as it is written there.
const ATTRIBUTES: usize = position("attributes");

/// Returns the index of a field. A name that isn't one doesn't compile.
const fn position(name: &str) -> usize {
    let mut index = 0;
    while !is_same(User::FIELDS[index].as_bytes(), name.as_bytes()) {
        index += 1;
    }
    index
}

/// Compares two names, as `==` can't in a constant.
const fn is_same(name: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < name.len() && index < other.len() && name[index] == other[index] {
        index += 1;
    }
    index == name.len() && index == other.len()
}

/// The fields of a row. They are parsed one by one, so that an error names its field.
#[derive(Default)]
pub(crate) struct Fields<'row> {
    /// The texts of [`User::FIELDS`] that the row has.
    pub(crate) texts: [Option<Cow<'row, str>>; COUNT],
}

impl Fields<'_> {
    pub(crate) fn into_user(self) -> Result<NewUser, String> {
        let texts: [Option<&str>; COUNT] = std::array::from_fn(|field| {
            let text = self.texts[field].as_deref()?;
            let text = if WITH_SPACES.contains(&field) { text } else { trimmed(text) };
            // An empty text isn't a value, but an empty address isn't a missing one.
            (field == EMAIL || !text.is_empty()).then_some(text)
        });
        NewUser::from_field_texts(&texts).map_err(|invalid| {
            let name = invalid.field;
            let position = User::FIELDS.iter().position(|field| *field == name);
            let text = position.and_then(|field| texts[field]).unwrap_or_default();
            if text.contains('\0') {
                format!("{name}: a NUL byte, which text can't contain: the file is damaged or isn't text")
            } else if invalid.error.kind() == ErrorKind::InvalidTimestamp && text.parse::<f64>().is_ok() {
                format!("{name}: a number, not an RFC 3339 time such as 2026-11-23T07:30:00Z")
            } else {
                invalid.to_string()
            }
        })
    }
}

/// Returns a text without the spaces around it. A line end is kept: it is more than a slip, since a
/// quote may be misplaced.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() && c != '\n')
}

/// Returns the reason why a text isn't UTF-8, if it isn't.
pub(crate) fn not_utf8(bytes: &[u8]) -> Option<String> {
    let error = std::str::from_utf8(bytes).err()?;
    let byte = bytes[error.valid_up_to()];
    // From 0xC0 on, where the letters are, Windows-1252 equals Latin-1.
    Some(match byte {
        0xC0.. => format!(
            "not UTF-8 (0x{byte:02X}, in Windows-1252 {}): save the file as UTF-8",
            char::from(byte)
        ),
        _ => format!("not UTF-8 (0x{byte:02X}): save the file as UTF-8"),
    })
}

/// Parses a user from a JSON object, and counts ignored keys.
pub(crate) fn parse_object(
    text: &[u8],
    columns: &Columns,
    omissions: &mut Omissions,
) -> Result<NewUser, String> {
    if let Some(reason) = not_utf8(text) {
        return Err(reason);
    }
    let kind = match text.trim_ascii_start().first() {
        Some(b'{') => None,
        Some(b'[') => Some("a JSON array where a JSON object is needed"),
        _ => Some("not a JSON object; if the file is CSV, name its format"),
    };
    if let Some(reason) = kind {
        return Err(reason.to_owned());
    }
    if serde_json::from_slice::<IgnoredAny>(text).is_err_and(|error| error.is_eof()) {
        return Err(
            "the JSON object isn't complete; outside an array, each object must be on one line"
                .to_owned(),
        );
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let fields = Object { columns, omissions }
        .deserialize(&mut json)
        .and_then(|fields| json.end().map(|()| fields));
    let fields = fields.map_err(|error| {
        // serde names lines and columns of the object, which aren't those of the file.
        let error = error.to_string();
        let reason = error.split(" at line ").next().unwrap_or_default();
        format!("not a user as a JSON object: {}", printable(reason))
    })?;
    fields.into_user()
}

/// Returns the address in a JSON object that isn't a user, or an empty text.
pub(crate) fn address_in(text: &[u8], columns: &Columns) -> String {
    let json: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let mut members = json.as_object().into_iter().flatten();
    let email = members
        .find(|(name, _)| columns.field(name) == Some(EMAIL))
        .and_then(|(_, value)| value.as_str());
    email.unwrap_or_default().to_owned()
}

/// Deserializes the members of an object as fields.
struct Object<'a> {
    columns: &'a Columns,
    omissions: &'a mut Omissions,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Fields<'de>, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        let mut is_present = [false; COUNT];
        while let Some(Text(name)) = members.next_key()? {
            let Some(field) = self.columns.field(&name) else {
                if !self.columns.ignores_unknown() {
                    let expected = User::FIELDS.map(|field| format!("`{field}`")).join(", ");
                    if may_be_address(&name) {
                        return Err(A::Error::custom(format_args!(
                            "an unknown field, expected one of {expected}"
                        )));
                    }
                    return Err(A::Error::custom(format_args!(
                        "unknown field `{}`, expected one of {expected}",
                        cut(&name)
                    )));
                }
                members.next_value::<IgnoredAny>()?;
                self.omissions.ignore(&name);
                continue;
            };
            if std::mem::replace(&mut is_present[field], true) {
                return Err(A::Error::custom(format_args!(
                    "duplicate field `{}`",
                    User::FIELDS[field]
                )));
            }
            let value = match field {
                ATTRIBUTES => members
                    .next_value::<Option<&'de RawValue>>()
                    .map(|json| json.map(|json| json.get().into())),
                VERSION => members
                    .next_value::<Option<u64>>()
                    .map(|version| version.map(|n| n.to_string().into())),
                _ => members
                    .next_value::<Option<Text<'de>>>()
                    .map(|text| text.map(|Text(text)| text)),
            };
            fields.texts[field] = value.map_err(|error| {
                A::Error::custom(format_args!("{}: {error}", User::FIELDS[field]))
            })?;
        }
        Ok(fields)
    }
}

/// A text, borrowed unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
