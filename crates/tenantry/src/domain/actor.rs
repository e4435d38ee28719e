use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// Who changes users: the name of a program, a token or a command, which stands in each
/// [`Change`](crate::Change).
///
/// It has 1 to [`MAX_LENGTH`](Self::MAX_LENGTH) visible ASCII characters, of which none is `@`: a
/// change is kept after the user is purged, so no address may stand in it. The default is
/// `library`.
///
/// # Examples
///
/// ```
/// use tenantry::Actor;
///
/// let actor: Actor = "token:billing".parse()?;
/// assert_eq!(actor.as_str(), "token:billing");
/// assert_eq!(Actor::default().as_str(), "library");
/// assert!("ada@example.com".parse::<Actor>().is_err());
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Actor(
    /// `None` is the library itself, which is most often the case and costs nothing.
    Option<Arc<str>>,
);

impl Actor {
    /// The longest name, in characters: room for a token's name with a prefix, and short enough to
    /// stand in every change.
    pub const MAX_LENGTH: usize = 64;
    const LIBRARY: &str = "library";

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::LIBRARY)
    }

    /// Returns the name as it is stored: NULL for the library itself.
    pub(crate) fn stored(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidActor`].
impl FromStr for Actor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == Self::LIBRARY {
            return Ok(Self::default());
        }
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
        if !is_visible || text.is_empty() || text.len() > Self::MAX_LENGTH {
            let message = "the name of an actor has 1 to 64 visible ASCII characters, without @";
            return Err(Error::new(ErrorKind::InvalidActor, message));
        }
        Ok(Self(Some(text.into())))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Actor({self})")
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_has_a_short_visible_name_that_is_no_address() {
        for name in ["a", "command:1000", "token:web/7", &"x".repeat(64)] {
            assert_eq!(name.parse::<Actor>().unwrap().to_string(), name);
        }
        for bad in
            ["", " ", "a b", "ada@example.com", "a\n", "b\u{fc}ro", "\u{202e}", &"x".repeat(65)]
        {
            assert_eq!(
                bad.parse::<Actor>().unwrap_err().kind(),
                ErrorKind::InvalidActor,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_name_of_the_library_is_the_default_and_needs_no_room() {
        let library: Actor = "library".parse().unwrap();
        assert_eq!((&library, library.stored()), (&Actor::default(), None));
        assert_eq!(serde_json::from_str::<Actor>("\"library\"").unwrap(), library);
    }
}
