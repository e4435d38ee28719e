//! The one list of a user's fields by name, and their values as texts: what files and tables hold.

use std::fmt;

use super::user::{NewUser, User};
use crate::{Email, Error, ErrorKind};

/// How many fields a user has.
const COUNT: usize = 11;

impl User {
    /// The names of the fields, in the order in which they are written everywhere: in JSON, in CSV
    /// and in tables.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::User;
    ///
    /// assert_eq!(User::FIELDS[..2], ["id", "email"]);
    /// ```
    pub const FIELDS: [&'static str; COUNT] = [
        "id",
        "email",
        "created_at",
        "last_login_at",
        "storage_path",
        "updated_at",
        "version",
        "suspended_at",
        "external_id",
        "name",
        "attributes",
    ];

    /// Returns the values of [`FIELDS`](Self::FIELDS) as texts, in their order.
    ///
    /// A value that the user lacks is an empty text, as the time of a login that never happened.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::User;
    ///
    /// let ada: User = serde_json::from_str(
    ///     r#"{"id":"3fa2b1c4-0000-4000-8000-000000000001","email":"ada@example.com",
    ///         "created_at":"2026-11-23T14:43:28Z","last_login_at":null,"storage_path":"ada",
    ///         "updated_at":"2026-11-23T14:43:28Z","version":1}"#,
    /// )?;
    /// let texts = ada.field_texts();
    /// assert_eq!((User::FIELDS[1], texts[1].as_str()), ("email", "ada@example.com"));
    /// assert_eq!((User::FIELDS[3], texts[3].as_str()), ("last_login_at", ""));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn field_texts(&self) -> [String; COUNT] {
        // Without `..`, so that a new field can't be forgotten here.
        let Self {
            id,
            email,
            created_at,
            last_login_at,
            storage_path,
            updated_at,
            version,
            suspended_at,
            external_id,
            name,
            attributes,
        } = self;
        [
            id.to_string(),
            email.to_string(),
            created_at.to_string(),
            text(last_login_at.as_ref()),
            storage_path.to_string(),
            updated_at.to_string(),
            version.to_string(),
            text(suspended_at.as_ref()),
            text(external_id.as_ref()),
            text(name.as_ref()),
            text(attributes.as_ref()),
        ]
    }
}

fn text(value: Option<&impl fmt::Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

impl NewUser {
    /// Parses a user from the texts of [`User::FIELDS`], in their order. `None` is the default.
    ///
    /// # Errors
    ///
    /// [`InvalidField`] for the email if it is missing, and otherwise for the first text that isn't
    /// a value of its field.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::{NewUser, User};
    ///
    /// let mut texts = [None; User::FIELDS.len()];
    /// texts[1] = Some("ada@example.com");
    /// assert_eq!(NewUser::from_field_texts(&texts)?.email.as_str(), "ada@example.com");
    /// texts[6] = Some("one");
    /// let invalid = NewUser::from_field_texts(&texts).unwrap_err();
    /// assert_eq!(invalid.to_string(), "version: not a whole number");
    /// # Ok::<(), tenantry::InvalidField>(())
    /// ```
    pub fn from_field_texts(texts: &[Option<&str>; COUNT]) -> Result<Self, InvalidField> {
        let [
            id,
            email,
            created_at,
            last_login_at,
            storage_path,
            updated_at,
            version,
            suspended_at,
            external_id,
            name,
            attributes,
        ] = *texts;
        let missing = || InvalidField {
            field: "email",
            error: Error::new(ErrorKind::InvalidEmail, "missing"),
        };
        let email: Email = parse("email", Some(email.ok_or_else(missing)?))?.ok_or_else(missing)?;
        let number = version.map(|text| {
            text.parse().map_err(|_| Error::new(ErrorKind::InvalidUser, "not a whole number"))
        });
        Ok(Self {
            email,
            id: parse("id", id)?,
            storage_path: parse("storage_path", storage_path)?,
            created_at: parse("created_at", created_at)?,
            last_login_at: parse("last_login_at", last_login_at)?,
            updated_at: parse("updated_at", updated_at)?,
            version: number
                .transpose()
                .map_err(|error| InvalidField { field: "version", error })?,
            suspended_at: parse("suspended_at", suspended_at)?,
            external_id: parse("external_id", external_id)?,
            name: parse("name", name)?,
            attributes: parse("attributes", attributes)?,
        })
    }
}

fn parse<T: std::str::FromStr<Err = Error>>(
    field: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, InvalidField> {
    text.map(|text| text.parse().map_err(|error| InvalidField { field, error })).transpose()
}

/// Reports that a text isn't a value of a field.
///
/// It is displayed as the field's name, a colon and the reason.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InvalidField {
    /// The name, as in [`User::FIELDS`].
    pub field: &'static str,
    /// Why the text is refused.
    pub error: Error,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.error)
    }
}

impl std::error::Error for InvalidField {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn user() -> User {
        let json = serde_json::json!({
            "id": "3fa2b1c4-0000-4000-8000-000000000001",
            "email": "Ada@example.com",
            "created_at": "2026-11-23T14:43:28.534187Z",
            "last_login_at": "2026-11-24T14:43:28.534187Z",
            "storage_path": "customers/ada",
            "updated_at": "2026-11-25T14:43:28.534187Z",
            "version": 2,
            "suspended_at": "2026-11-25T14:43:28.534187Z",
            "external_id": "00u1",
            "name": "Ada",
            "attributes": { "a": [1] },
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn fields_and_their_texts_are_those_of_a_serialized_user() {
        let user = user();
        let json = serde_json::to_string(&user).unwrap();
        let mut end = 0;
        for name in User::FIELDS {
            let found = json[end..]
                .find(&format!("\"{name}\":"))
                .unwrap_or_else(|| panic!("{name} in order: {json}"));
            end += found + 1;
        }
        let Value::Object(object) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
        assert_eq!(object.len(), User::FIELDS.len());
        for (name, text) in User::FIELDS.into_iter().zip(user.field_texts()) {
            let value =
                object[name].as_str().map_or_else(|| object[name].to_string(), ToOwned::to_owned);
            assert_eq!(text, value, "{name}");
        }
        let user = User { last_login_at: None, external_id: None, ..user };
        assert_eq!((&*user.field_texts()[3], &*user.field_texts()[8]), ("", ""));
    }

    #[test]
    fn a_user_is_parsed_from_its_texts_and_a_bad_one_is_named() {
        let user = user();
        let owned = user.field_texts();
        let texts = owned.each_ref().map(|text| Some(text.as_str()));
        assert_eq!(NewUser::from_field_texts(&texts).unwrap(), NewUser::as_it_was(&user));
        for (index, name) in User::FIELDS.into_iter().enumerate() {
            let mut texts = texts;
            // Two dots are a name too.
            texts[index] =
                Some(if matches!(name, "external_id" | "name") { "\u{9b}" } else { ".." });
            let invalid = NewUser::from_field_texts(&texts).unwrap_err();
            assert_eq!(invalid.field, name);
            assert!(invalid.to_string().starts_with(&format!("{name}: ")), "{invalid}");
            texts[index] = None;
            assert_eq!(NewUser::from_field_texts(&texts).is_ok(), name != "email", "{name}");
        }
    }
}
