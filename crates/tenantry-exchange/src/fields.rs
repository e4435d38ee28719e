//! The fields of a row as they are in the file, and the user that they make.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tenantry::{Email, NewUser, Timestamp};

use crate::columns::{Columns, PassedOver, cut};
use crate::{FIELDS, printable};

const ID: usize = 0;
pub(crate) const EMAIL: usize = 1;
const CREATED_AT: usize = 2;
const LAST_LOGIN_AT: usize = 3;
const STORAGE_PATH: usize = 4;
const UPDATED_AT: usize = 5;
const VERSION: usize = 6;

/// The fields of a row. They are parsed one by one, so that what is wrong is reported with the name
/// of its field.
#[derive(Default)]
pub(crate) struct Fields<'row> {
    /// The values of [`FIELDS`], as far as there are any.
    pub(crate) values: [Option<Cow<'row, str>>; FIELDS.len()],
}

impl Fields<'_> {
    pub(crate) fn into_user(self) -> Result<NewUser, String> {
        let email = self.values[EMAIL].as_deref().ok_or("email: missing")?;
        let email: Email = parse(EMAIL, trimmed(email))?;
        // Spaces around a value are no part of it, but they may be of a path. An empty value is
        // none.
        let value = |field: usize| self.values[field].as_deref().map(trimmed).filter(|value| !value.is_empty());
        let time = |field| value(field).map(|value| parse_time(field, value)).transpose();
        let path = self.values[STORAGE_PATH].as_deref().filter(|path| !path.is_empty());
        Ok(NewUser {
            id: value(ID).map(|id| parse(ID, id)).transpose()?,
            storage_path: path.map(|path| parse(STORAGE_PATH, path)).transpose()?,
            created_at: time(CREATED_AT)?,
            last_login_at: time(LAST_LOGIN_AT)?,
            updated_at: time(UPDATED_AT)?,
            version: value(VERSION).map(|version| parse(VERSION, version)).transpose()?,
            ..NewUser::new(email)
        })
    }
}

/// Returns a value without the spaces around it. A line end is more than a slip: a quote may be out
/// of place.
fn trimmed(value: &str) -> &str {
    value.trim_matches(|c: char| c.is_whitespace() && c != '\n')
}

fn parse<T: FromStr<Err: fmt::Display>>(field: usize, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| {
        let name = FIELDS[field];
        match value.contains('\0') {
            true => format!("{name}: a NUL octet, which no text has: the file is damaged, or isn't text"),
            false => format!("{name}: {error}"),
        }
    })
}

fn parse_time(field: usize, value: &str) -> Result<Timestamp, String> {
    parse(field, value).map_err(|reason| {
        let name = FIELDS[field];
        if value.parse::<f64>().is_ok() {
            format!("{name}: a number, not an RFC 3339 time such as 2026-11-23T07:30:00Z")
        } else {
            reason
        }
    })
}

/// Returns what is wrong with octets that aren't UTF-8, if they aren't.
pub(crate) fn not_utf8(octets: &[u8]) -> Option<String> {
    let error = std::str::from_utf8(octets).err()?;
    let octet = octets[error.valid_up_to()];
    // Where the letters are, Windows-1252 and Latin-1 are the same.
    Some(match octet {
        0xC0.. => format!("not UTF-8 (0x{octet:02X}, in Windows-1252 {}): save the file as UTF-8", char::from(octet)),
        _ => format!("not UTF-8 (0x{octet:02X}): save the file as UTF-8"),
    })
}

/// Reads a user from a JSON object. Keys that are ignored are counted.
pub(crate) fn parse_object(text: &[u8], columns: &Columns, passed_over: &mut PassedOver) -> Result<NewUser, String> {
    if let Some(reason) = not_utf8(text) {
        return Err(reason);
    }
    let kind = match text.trim_ascii_start().first() {
        Some(b'{') => None,
        Some(b'[') => Some("a JSON array where a JSON object is needed"),
        _ => Some("not a JSON object; if the file is CSV, its format has to be named"),
    };
    if let Some(reason) = kind {
        return Err(reason.to_owned());
    }
    if serde_json::from_slice::<IgnoredAny>(text).is_err_and(|error| error.is_eof()) {
        return Err(
            "the JSON object isn't complete; without an array around them, each object is on one line".to_owned()
        );
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let fields = Object { columns, passed_over }.deserialize(&mut json).and_then(|fields| json.end().map(|()| fields));
    let fields = fields.map_err(|error| {
        // It names lines and columns of the object, which are not those of the file.
        let error = error.to_string();
        let reason = error.split(" at line ").next().unwrap_or_default();
        format!("not a user as a JSON object: {}", printable(reason))
    })?;
    fields.into_user()
}

/// Returns the address in a JSON object that is no user, as far as there is one.
pub(crate) fn address_in(text: &[u8], columns: &Columns) -> String {
    let json: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let mut members = json.as_object().into_iter().flatten();
    let email = members.find(|(name, _)| columns.field(name) == Some(EMAIL)).and_then(|(_, value)| value.as_str());
    email.unwrap_or_default().to_owned()
}

/// Reads the members of an object as fields.
struct Object<'a> {
    columns: &'a Columns,
    passed_over: &'a mut PassedOver,
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
        let mut is_there = [false; FIELDS.len()];
        while let Some(Text(name)) = members.next_key()? {
            let Some(field) = self.columns.field(&name) else {
                if !self.columns.ignores_unknown() {
                    let expected = FIELDS.map(|field| format!("`{field}`")).join(", ");
                    return Err(A::Error::custom(format_args!(
                        "unknown field `{}`, expected one of {expected}",
                        cut(&name)
                    )));
                }
                members.next_value::<IgnoredAny>()?;
                self.passed_over.ignore(&name);
                continue;
            };
            if std::mem::replace(&mut is_there[field], true) {
                return Err(A::Error::custom(format_args!("duplicate field `{}`", FIELDS[field])));
            }
            let value = match field {
                VERSION => members.next_value::<Option<u64>>().map(|version| version.map(|n| n.to_string().into())),
                _ => members.next_value::<Option<Text<'de>>>().map(|text| text.map(|Text(text)| text)),
            };
            fields.values[field] =
                value.map_err(|error| A::Error::custom(format_args!("{}: {error}", FIELDS[field])))?;
        }
        Ok(fields)
    }
}

/// A text that is borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
