//! Email addresses, and the keys by which two of them are the same.

mod characters;
mod domain_part;
mod local_part;
mod refusal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::characters::{fold, nfc, why_unreadable};
use self::characters::{is_control, split};
use self::domain_part::{domain_key, label_start, refuse_domain};
pub(crate) use self::domain_part::{is_label_separator, to_ascii};
use self::local_part::{check_local, local_key};
use self::refusal::{refuse, too_long};
use crate::domain::confusable;
use crate::{Error, Result};

/// An email address, as the person wrote it, with the canonical key by which two addresses are the
/// same.
///
/// Parsing is the only way to make one, so whatever holds an `Email` holds a checked one. Accepted
/// is the dot-atom form of RFC 5321 and RFC 5322 with the UTF-8 local parts of RFC 6531: no quoted
/// local parts, comments, routes or IP addresses. A domain may have a single label
/// (`ada@localhost`). The local part is at most 64 bytes long and the address at most 254, both in
/// normalization form C (NFC), in which the address is kept.
///
/// Parsing refuses what people can't see or distinguish: control, space, invisible, bidirectional
/// and unassigned characters anywhere, domain labels that only pretend to be IDNA (`xn--…`), and
/// names, subaddresses (what follows the first `+`) and labels of the domain that are not at the
/// level *highly restrictive* of [UTS 39, section 5.2](https://www.unicode.org/reports/tr39/), each
/// by itself: those that mix scripts, and those that hold characters outside of its profile for
/// identifiers, such as symbols, phonetic letters and the letters of scripts that are little used.
/// So are digits of several number systems in one of these, and combining marks that can't be seen.
/// A label of the domain must be valid in [IDNA 2008](https://www.rfc-editor.org/rfc/rfc5892) as
/// well, and must not look like one in ASCII while it is of another script, unless the rest of the
/// domain shows the script (`хор.рф`). The zero width joiners are accepted where the script needs
/// them, and make no difference to the key of a local part.
///
/// The **key** is the local part in NFKC and case folded, and the domain in the ASCII form of [UTS
/// 46](https://www.unicode.org/reports/tr46/). Dots and plus tags count: what a provider makes of
/// them is the provider's affair. An address of ASCII characters has itself in lower case as its
/// key.
///
/// `Display` gives the address; `Debug` doesn't, so that no address gets into a log by accident.
///
/// # Examples
///
/// ```
/// use tenantry::Email;
///
/// let email: Email = "Ada@Bücher.example".parse()?;
/// assert_eq!(email.as_str(), "Ada@Bücher.example");
/// assert_eq!(email.key(), "ada@xn--bcher-kva.example");
///
/// let error = "ada@exa mple.com".parse::<Email>().unwrap_err();
/// assert_eq!(error.to_string(), "character 8 of the address is a space (U+0020)");
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email {
    address: String,
    /// `None` where the address is its own key, which is the usual case and then costs nothing.
    key: Option<String>,
}

impl Email {
    /// The longest local part, in bytes (RFC 5321, section 4.5.3.1.1).
    pub const MAX_LOCAL_BYTES: usize = 64;
    /// The longest address, in bytes (RFC 5321, section 4.5.3.1.3, with erratum 1690 to RFC 3696).
    pub const MAX_BYTES: usize = 254;

    /// Returns the address as the person wrote it, in NFC. Mail goes to this one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// Returns the canonical key: two addresses with the same key belong to the same user.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.address)
    }

    /// Returns the key if it isn't the address itself.
    pub(crate) fn folded(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Takes an address from the database, or returns `None` for one that was never parsed.
    ///
    /// It was parsed on its way in, and isn't again: its key must not change when a later version
    /// knows a newer Unicode. But another program may have written to the file, so control
    /// characters, which could do harm where the address is shown, are refused.
    pub(crate) fn from_stored(address: &str, key: &str) -> Option<Self> {
        let is_plausible = |text: &str| {
            // Without a branch, so that several bytes are inspected at once.
            let (ats, has_control) =
                text.bytes().fold((0_usize, false), |(ats, has_control), byte| {
                    (ats + usize::from(byte == b'@'), has_control | byte.is_ascii_control())
                });
            ats == 1 && !has_control && (text.is_ascii() || !text.chars().any(is_control))
        };
        let key_differs = key != address;
        (is_plausible(address) && (!key_differs || is_plausible(key)))
            .then(|| Self { address: address.to_owned(), key: key_differs.then(|| key.to_owned()) })
    }

    /// Parses an address that a store has accepted before, maybe of a version that knew fewer
    /// look-alikes.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidEmail`](crate::ErrorKind::InvalidEmail) if no version can
    /// have accepted it.
    pub(crate) fn parse_accepted(input: &str) -> Result<Self> {
        Self::parse(input, Confusables::Accepted)
    }

    fn parse(input: &str, confusables: Confusables) -> Result<Self> {
        // Normalization never shortens a text to less than a third of its bytes, so that no more
        // than this needs a look, however long the input is.
        if input.len() > 4 * Self::MAX_BYTES {
            return Err(too_long());
        }
        let (local_input, domain_input) = split(input)?;
        let address = nfc(input);
        let (Some((local, domain)), false) =
            (address.split_once('@'), address.len() > Self::MAX_BYTES)
        else {
            return Err(too_long());
        };
        if local.len() > Self::MAX_LOCAL_BYTES {
            return Err(refuse("the part before the @ is longer than 64 bytes"));
        }
        let local_key = local_key(local, local_input)?;
        let domain_start = local_input.chars().count() + 2;
        let domain_key =
            domain_key(domain).map_err(|()| refuse_domain(domain_input, domain_start))?;
        if confusables == Confusables::Refused {
            check_local(local, &local_key, local_input)?;
            confusable::check_domain(&domain_key).map_err(|(index, reason)| {
                let start = label_start(domain_input, index, domain_start);
                refuse(format!("the label of the domain that begins at character {start} {reason}"))
            })?;
        }

        let key_differs = local_key != local || domain_key != domain;
        let key = key_differs.then(|| [&*local_key, "@", &*domain_key].concat());
        Ok(Self { address: address.into_owned(), key })
    }
}

/// Whether parsing refuses an address that looks like another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confusables {
    Refused,
    Accepted,
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidEmail`](crate::ErrorKind::InvalidEmail).
impl FromStr for Email {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self> {
        Self::parse(input, Confusables::Refused)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

impl AsRef<str> for Email {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<String> for Email {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// # Errors
///
/// Fails as parsing does.
impl TryFrom<&str> for Email {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(value: Email) -> Self {
        value.as_str().to_owned()
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
