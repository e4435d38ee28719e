use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ChangesCursor, Error, ErrorKind, ExternalId, Result, Timestamp, User};

/// Which users to list, how many at a time, and from where on.
///
/// By default users are listed in the order in which they were created in this store, so that a
/// page never repeats or skips a user, whatever happens between two pages. It isn't always the
/// order of `created_at`, which an import sets and which follows a clock that may jump.
///
/// # Examples
///
/// ```
/// use tenantry::{Filter, ListQuery};
///
/// let query = ListQuery {
///     limit: 100,
///     filter: Filter { email_prefix: Some("ada".into()), ..Filter::default() },
///     ..ListQuery::default()
/// };
/// ```
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    /// How many users a page holds at most: 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: usize,
    /// Where the page before this one ended: its [`next_cursor`](Page::next_cursor). `None` begins
    /// at the beginning.
    pub cursor: Option<Cursor>,
    /// Which users to list.
    #[serde(deserialize_with = "from_object")]
    pub filter: Filter,
    /// The order of the users.
    pub order: Order,
}

/// Reads a filter from an object alone. Derived, it would come from a list of its fields' values
/// too, by their order in this file.
fn from_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
    let object = serde_json::Map::deserialize(deserializer)?;
    Filter::deserialize(serde_json::Value::Object(object)).map_err(D::Error::custom)
}

/// The order in which users are listed.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// The order of creation.
    #[default]
    Creation,
    /// The last login or, of users who never logged in, the creation; those come first who have
    /// been away longest.
    ///
    /// No index has this order, since every login would have to change it: each page walks all
    /// users, whatever its size. A user who logs in between two pages moves to the end, and so may
    /// be listed again.
    LastLogin,
}

impl ListQuery {
    /// How many users a page holds unless the query says otherwise.
    pub const DEFAULT_LIMIT: usize = 50;
    /// The most users a page can hold: it is in memory as a whole.
    pub const MAX_LIMIT: usize = 1_000;

    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=Self::MAX_LIMIT).contains(&self.limit) {
            return Err(Error::new(
                ErrorKind::InvalidQuery,
                "the limit of a page is 1 to 1000 users",
            ));
        }
        self.cursor.map_or(Ok(()), |cursor| cursor.check(self.order))
    }
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            limit: Self::DEFAULT_LIMIT,
            cursor: None,
            filter: Filter::default(),
            order: Order::default(),
        }
    }
}

/// Conditions that a listed user meets, all of them. `None`, an empty text and `never_logged_in:
/// false` are no condition.
///
/// `Debug` leaves out the texts, which may be personal data.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The address begins with this text, both folded as keys are. The labels of a domain that
    /// isn't ASCII may be in Unicode or be `xn--…`, and the text may end within one. Served from an
    /// index.
    pub email_prefix: Option<String>,
    /// The address contains this text, both as they are or folded as keys are, with the labels of
    /// the domain in Unicode or as `xn--…`.
    pub email_contains: Option<String>,
    /// Created at this moment or later.
    pub created_after: Option<Timestamp>,
    /// Created before this moment.
    pub created_before: Option<Timestamp>,
    /// Not logged in since this moment: the last login was before it or, for users who never logged
    /// in, the creation.
    pub inactive_since: Option<Timestamp>,
    /// Never logged in at all.
    pub never_logged_in: bool,
    /// Suspended, or with `false` not suspended.
    pub suspended: Option<bool>,
    /// Another system has exactly this id for the user. Served from an index.
    pub external_id: Option<ExternalId>,
}

impl Filter {
    /// Returns whether there is no condition, so that every user meets it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tenantry::Filter;
    ///
    /// assert!(Filter { email_prefix: Some(String::new()), ..Filter::default() }.is_empty());
    /// assert!(!Filter { suspended: Some(false), ..Filter::default() }.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Without `..`, so that a new condition can't be forgotten here.
        let Self {
            email_prefix,
            email_contains,
            created_after,
            created_before,
            inactive_since,
            never_logged_in,
            suspended,
            external_id,
        } = self;
        email_prefix.as_deref().is_none_or(str::is_empty)
            && email_contains.as_deref().is_none_or(str::is_empty)
            && [created_after, created_before, inactive_since].into_iter().all(Option::is_none)
            && !never_logged_in
            && suspended.is_none()
            && external_id.is_none()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("created_after", &self.created_after)
            .field("created_before", &self.created_before)
            .field("inactive_since", &self.inactive_since)
            .field("never_logged_in", &self.never_logged_in)
            .field("suspended", &self.suspended)
            .finish_non_exhaustive()
    }
}

/// A page of a listing.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The users, in the order of creation.
    pub users: Vec<User>,
    /// Where the next page begins, or `None` if no user is left that meets the filter.
    pub next_cursor: Option<Cursor>,
    /// The place in the change feed from which to follow what happens to these users: see
    /// [`Store::changes`](crate::Store::changes). For a listing of several pages it is that of the
    /// first.
    pub changes_cursor: ChangesCursor,
}

/// A place in an order, between two users ([keyset
/// pagination](https://use-the-index-luke.com/no-offset)).
///
/// Its text is opaque, and is kept to be passed back, for the same order.
///
/// It stays valid across restarts, upgrades and changes to the data, even after the user that it
/// points behind is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    after_seq: i64,
    /// In the order of logins, the time of the last login or of the creation, in microseconds.
    after_login: Option<i64>,
}

impl Cursor {
    pub(crate) fn after(seq: i64) -> Self {
        Self { after_seq: seq, after_login: None }
    }

    /// Returns the place behind a user with this login in the order of logins.
    pub(crate) fn after_login(login: i64, seq: i64) -> Self {
        Self { after_seq: seq, after_login: Some(login) }
    }

    pub(crate) fn seq(self) -> i64 {
        self.after_seq
    }

    pub(crate) fn login(self) -> Option<i64> {
        self.after_login
    }

    /// Fails if the place is one in another order.
    pub(crate) fn check(self, order: Order) -> Result<()> {
        if self.after_login.is_some() != (order == Order::LastLogin) {
            return Err(Error::new(ErrorKind::InvalidCursor, "a cursor of another order"));
        }
        Ok(())
    }
}

/// Writes the number of the format and then the place, so that a later format can be distinguished.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after_login {
            None => write!(f, "1-{:016x}", self.after_seq),
            Some(login) => write!(f, "2-{login:016x}-{:016x}", self.after_seq),
        }
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidCursor`].
impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let place = match text.split_once('-') {
            Some(("1", seq)) => number(seq).map(Self::after),
            Some(("2", place)) => place
                .split_once('-')
                // A time before 1970 has the digits of the two's complement.
                .and_then(|(login, seq)| Some((bits(login)?.cast_signed(), number(seq)?)))
                .map(|(login, seq)| Self::after_login(login, seq)),
            _ => None,
        };
        place.ok_or_else(|| Error::new(ErrorKind::InvalidCursor, "not a cursor of this store"))
    }
}

/// Parses the place of a user in the order of creation.
fn number(digits: &str) -> Option<i64> {
    bits(digits).and_then(|bits| i64::try_from(bits).ok())
}

fn bits(digits: &str) -> Option<u64> {
    let is_hex =
        digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_an_object_and_never_from_a_list() {
        let query: ListQuery =
            serde_json::from_str(r#"{"filter":{"never_logged_in":true}}"#).unwrap();
        assert!(query.filter.never_logged_in);
        assert!(serde_json::from_str::<ListQuery>(r#"{"filter":[null,null]}"#).is_err());
        assert!(serde_json::from_str::<ListQuery>(r#"{"filter":{"nothing":true}}"#).is_err());
    }

    #[test]
    fn a_query_is_read_from_json_in_part_and_an_unknown_filter_is_refused() {
        let json = r#"{"cursor":"1-000000000000002a","filter":{"never_logged_in":true}}"#;
        let query: ListQuery = serde_json::from_str(json).unwrap();
        assert_eq!((query.limit, query.cursor), (50, Some(Cursor::after(42))));
        assert!(query.filter.never_logged_in);
        let again = serde_json::to_string(&query).unwrap();
        assert_eq!(serde_json::from_str::<ListQuery>(&again).unwrap(), query);
        assert!(serde_json::from_str::<ListQuery>(r#"{"filter":{"never_logged":true}}"#).is_err());
        assert!(serde_json::from_str::<ListQuery>(r#"{"cursor":"42"}"#).is_err());
    }

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is_read_as_one() {
        for seq in [0, 1, 42, i64::MAX] {
            let cursor = Cursor::after(seq);
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for login in [i64::MIN, -1, 0, i64::MAX] {
            let cursor = Cursor::after_login(login, 42);
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for text in [
            "2--000000000000002a",
            "2-000000000000002a-8000000000000000",
            "2-2a-2a",
            "1-000000000000002a-000000000000002a",
        ] {
            assert_eq!(
                text.parse::<Cursor>().unwrap_err().kind(),
                ErrorKind::InvalidCursor,
                "{text}"
            );
        }
        for text in [
            "",
            "1-",
            "42",
            "1-000000000000002A",
            "2-000000000000002a",
            "1-8000000000000000",
            "1-+00000000000002a",
        ] {
            assert_eq!(
                text.parse::<Cursor>().unwrap_err().kind(),
                ErrorKind::InvalidCursor,
                "{text}"
            );
        }
    }

    #[test]
    fn a_cursor_of_another_order_is_refused() {
        let query =
            |cursor, order| ListQuery { cursor: Some(cursor), order, ..ListQuery::default() };
        let (created, login) = (Cursor::after(1), Cursor::after_login(1, 1));
        query(created, Order::Creation).check().unwrap();
        query(login, Order::LastLogin).check().unwrap();
        for query in [query(login, Order::Creation), query(created, Order::LastLogin)] {
            assert_eq!(query.check().unwrap_err().kind(), ErrorKind::InvalidCursor);
        }
    }

    #[test]
    fn a_limit_out_of_range_is_refused_and_not_corrected() {
        for limit in [0, 1_001, usize::MAX] {
            let query = ListQuery { limit, ..ListQuery::default() };
            assert_eq!(query.check().unwrap_err().kind(), ErrorKind::InvalidQuery);
        }
        assert_eq!(ListQuery::default().limit, 50);
    }
}
