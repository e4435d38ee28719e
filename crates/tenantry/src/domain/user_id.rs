use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{Uuid, Variant};

use crate::{Error, ErrorKind, Result};

/// The id of a user: a UUID of version 4 (RFC 9562), so neither guessable nor in any order.
///
/// Its text is the hyphenated lower-case form. It is read from every form that RFC 9562 and its
/// predecessors know (hyphenated or not, upper or lower case, braced, as a URN).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Uuid);

impl UserId {
    /// Takes a UUID of version 4 as an id. The other versions carry times, addresses of machines or
    /// hashes of names, which can be guessed.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::InvalidId`] if the UUID has another version.
    pub fn from_uuid(uuid: Uuid) -> Result<Self> {
        if uuid.get_version_num() != 4 || uuid.get_variant() != Variant::RFC4122 {
            return Err(Error::new(ErrorKind::InvalidId, "the id is not a UUID of version 4"));
        }
        Ok(Self(uuid))
    }

    /// Returns the id as a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// Takes a UUID that is known to be of version 4.
    pub(crate) fn from_random(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// # Errors
///
/// Fails as [`UserId::from_uuid`] does.
impl TryFrom<Uuid> for UserId {
    type Error = Error;

    fn try_from(uuid: Uuid) -> Result<Self> {
        Self::from_uuid(uuid)
    }
}

impl From<UserId> for Uuid {
    fn from(id: UserId) -> Self {
        id.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidId`].
impl FromStr for UserId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let uuid = Uuid::try_parse(text).map_err(|error| {
            Error::new(ErrorKind::InvalidId, "the id is not a UUID").with_source(error)
        })?;
        Self::from_uuid(uuid)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Error {
    /// Returns the error with the user who has the value already.
    pub(crate) fn with_taken_by(mut self, user: UserId) -> Self {
        self.taken_by = Some(user.as_uuid());
        self
    }

    /// Returns the user who has the address, with [`ErrorKind::EmailTaken`].
    #[must_use]
    pub fn taken_by(&self) -> Option<UserId> {
        self.taken_by.map(UserId::from_random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_becomes_an_id_and_the_other_way_round() {
        let uuid = Uuid::from_u128(0x3fa2_b1c4_0000_4000_8000_0000_0000_0001);
        assert_eq!(Uuid::from(UserId::try_from(uuid).unwrap()), uuid);
        assert_eq!(UserId::try_from(Uuid::nil()).unwrap_err().kind(), ErrorKind::InvalidId);
    }

    #[test]
    fn only_random_uuids_are_ids() {
        let text = "3fa2b1c4-0000-4000-8000-000000000001";
        for form in [
            text.to_owned(),
            text.to_uppercase(),
            text.replace('-', ""),
            format!("urn:uuid:{text}"),
        ] {
            assert_eq!(form.parse::<UserId>().unwrap().to_string(), text);
        }
        for bad in [
            "00000000-0000-0000-0000-000000000000",
            "018f3b5c-0000-7000-8000-000000000001",
            "6fa459ea-ee8a-11d2-90d4-00c04fc295ee",
            "3fa2b1c4-0000-4000-c000-000000000001",
            "3fa2b1c4",
            "",
            "ada@example.com",
        ] {
            assert_eq!(bad.parse::<UserId>().unwrap_err().kind(), ErrorKind::InvalidId, "{bad}");
        }
    }
}
