//! The name of a user, and the id that
//! another system has for them.

use std::fmt;
use std::str::FromStr;

use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// The name by which people call a user, as a page or a mail shows it.
///
/// It is a text of 1 to 256 characters as it was given, but for the spaces around it. It has a
/// visible character, no control characters, no line separators, and none of the characters that
/// reorder a line ([bidirectional embeddings, overrides and
/// isolates](https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings)). It isn't
/// unique.
///
/// # Examples
///
/// ```
/// use tenantry::Name;
///
/// let name: Name = " Ada Lovelace ".parse()?;
/// assert_eq!(name.as_str(), "Ada Lovelace");
/// assert!("Ada\u{202e}ecalevoL".parse::<Name>().is_err());
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// The id that another system, such as an identity provider, has for a user.
///
/// It is a text of 1 to 256 characters as it was given, spaces included, without control
/// characters. It identifies no user in the store: several users may have the same, and nothing is
/// looked up by it but in a [filter](crate::Filter::external_id)
/// ([CVE-2025-41115](https://nvd.nist.gov/vuln/detail/CVE-2025-41115)).
///
/// # Examples
///
/// ```
/// use tenantry::ExternalId;
///
/// let id: ExternalId = "00u1a2b3c4".parse()?;
/// assert_eq!(id.as_str(), "00u1a2b3c4");
/// assert!("".parse::<ExternalId>().is_err());
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(Box<str>);

impl Name {
    /// The most characters: what identity providers send at most.
    pub const MAX_CHARACTERS: usize = 256;
}

impl ExternalId {
    /// The most characters: what identity providers send at most.
    pub const MAX_CHARACTERS: usize = 256;
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidUser`].
impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Before the spaces are removed: a line end is more than a slip.
        if text.chars().any(char::is_control) {
            return Err(refuse("the name has a control character"));
        }
        if text.chars().any(reorders_or_ends_line) {
            return Err(refuse("the name has a character that reorders or ends a line"));
        }
        let text = text.trim();
        if !is_visible(text) {
            return Err(refuse("the name has no visible character"));
        }
        if text.chars().nth(Self::MAX_CHARACTERS).is_some() {
            return Err(refuse("the name is longer than 256 characters"));
        }
        Ok(Self(text.into()))
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidUser`].
impl FromStr for ExternalId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(refuse("the external id is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(refuse("the external id has a control character"));
        }
        if text.chars().nth(Self::MAX_CHARACTERS).is_some() {
            return Err(refuse("the external id is longer than 256 characters"));
        }
        Ok(Self(text.into()))
    }
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidUser, message)
}

/// Returns whether a character embeds, overrides or isolates a direction, or separates lines.
fn reorders_or_ends_line(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn is_visible(text: &str) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    text.chars().any(|c| !c.is_whitespace() && (c.is_ascii() || !ignorable.contains(c)))
}

macro_rules! text_of_a_user {
    ($type:ty, $name:literal) => {
        impl $type {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the value that the store has accepted before, unless it can't be one.
            pub(crate) fn from_stored(text: &str) -> Option<Self> {
                let is_plausible = !text.is_empty() && !text.chars().any(char::is_control);
                is_plausible.then(|| Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Leaves out the text, which is personal data.
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($name, "(…)"))
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        /// # Errors
        ///
        /// Fails as parsing does.
        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self> {
                text.parse()
            }
        }

        /// # Errors
        ///
        /// Fails as parsing does.
        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0.into()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_of_a_user!(Name, "Name");
text_of_a_user!(ExternalId, "ExternalId");

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<Name> {
        text.parse()
    }

    fn external_id(text: &str) -> Result<ExternalId> {
        text.parse()
    }

    #[test]
    fn a_name_is_kept_as_given_without_the_spaces_around_it() {
        for text in [
            "Ada",
            "ada  lovelace",
            "O'Neil-Smith, Jr.",
            "\u{5e9}\u{5dc}\u{200f}",
            "e\u{301}",
            "=1+1",
            "\u{1f600}",
        ] {
            assert_eq!(name(text).unwrap().as_str(), text);
            assert_eq!(name(&format!("\u{a0} {text}\u{3000}")).unwrap().as_str(), text);
        }
        let longest = "\u{1f600}".repeat(Name::MAX_CHARACTERS);
        assert_eq!(name(&format!(" {longest} ")).unwrap().as_str(), longest);
    }

    #[test]
    fn a_name_that_is_invisible_or_reorders_a_line_is_refused() {
        let too_long = "x".repeat(Name::MAX_CHARACTERS + 1);
        for text in [
            "",
            " ",
            "\u{a0}\u{200b}\u{ad}",
            "a\nb",
            "a\n",
            "a\0",
            "\u{85}a",
            "a\u{202e}b",
            "\u{2067}a",
            "a\u{2028}",
            &too_long,
        ] {
            assert_eq!(name(text).unwrap_err().kind(), ErrorKind::InvalidUser, "{text:?}");
        }
    }

    #[test]
    fn an_external_id_is_kept_byte_for_byte() {
        for text in
            ["1", " 1 ", "\u{202e}", "00u1-\u{e9}", &"\u{e9}".repeat(ExternalId::MAX_CHARACTERS)]
        {
            assert_eq!(external_id(text).unwrap().as_str(), text);
        }
        for text in ["", "a\tb", "a\n", "\0", "\u{9f}", &"x".repeat(ExternalId::MAX_CHARACTERS + 1)]
        {
            assert_eq!(external_id(text).unwrap_err().kind(), ErrorKind::InvalidUser, "{text:?}");
        }
    }

    #[test]
    fn what_people_are_called_is_not_in_debug_output() {
        assert_eq!(
            format!("{:?} {:?}", name("Ada").unwrap(), external_id("1").unwrap()),
            "Name(…) ExternalId(…)"
        );
    }

    #[test]
    fn a_stored_text_that_no_program_of_ours_wrote_is_noticed() {
        for text in ["", "a\nb", "\u{9b}2J"] {
            assert_eq!(
                (Name::from_stored(text), ExternalId::from_stored(text)),
                (None, None),
                "{text:?}"
            );
        }
        // Rules may become stricter.
        assert!(Name::from_stored("\u{202e}").is_some());
    }
}
