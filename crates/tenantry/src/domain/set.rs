use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The effect of an update on a value that a user may lack.
///
/// In JSON, as in a merge patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)): a member that
/// is missing leaves the value, `null` clears it, and anything else is the new value.
///
/// # Examples
///
/// ```
/// use tenantry::{Set, UserUpdate};
///
/// let (name, external_id) = (Set::To("Ada".parse()?), Set::Clear);
/// let update = UserUpdate { name, external_id, ..UserUpdate::default() };
/// let same: UserUpdate = serde_json::from_str(r#"{"name":"Ada","external_id":null}"#)?;
/// assert_eq!(same, update);
/// assert_eq!(same.attributes, Set::Leave);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Set<T> {
    /// Leaves the value as it is.
    #[default]
    Leave,
    /// Removes the value.
    Clear,
    /// Replaces the value.
    To(T),
}

impl<T> Set<T> {
    /// Returns whether the value stays as it is.
    #[must_use]
    pub fn is_leave(&self) -> bool {
        matches!(self, Self::Leave)
    }
}

impl<T: Clone + PartialEq> Set<T> {
    /// Changes a value, and returns whether it is another one than before.
    pub(crate) fn apply(&self, value: &mut Option<T>) -> bool {
        let new = match self {
            Self::Leave => return false,
            Self::Clear => None,
            Self::To(new) => Some(new),
        };
        let is_change = value.as_ref() != new;
        if is_change {
            *value = new.cloned();
        }
        is_change
    }
}

/// `None` clears.
impl<T> From<Option<T>> for Set<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::To)
    }
}

/// A field that may be left as it is has to be skipped: `skip_serializing_if = "Set::is_leave"`.
impl<T: Serialize> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Leave | Self::Clear => serializer.serialize_none(),
            Self::To(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::from)
    }
}
