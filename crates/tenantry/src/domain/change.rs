//! The change feed: what happened to which user, in the order of the commits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Actor, Error, ErrorKind, Result, Timestamp, UserId};

/// What happened to a user. Serialized in snake case.
///
/// There may be others in a later version: a consumer that meets a kind it doesn't know reads the
/// user as they are now.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// The user was created, or imported.
    Created,
    /// The user got other values.
    Updated,
    /// The user can't sign in from now on.
    Suspended,
    /// The user can sign in again.
    Resumed,
    /// The user was moved to the trash.
    Deleted,
    /// The user came back from the trash, or the user or some of their files out of a backup.
    Restored,
    /// The user is gone for good.
    Purged,
    /// The user got a directory that existed.
    Adopted,
    /// The user logged in. Only in the feed of a store that [is set
    /// to](crate::Store::set_logins_in_changes).
    LoggedIn,
}

impl ChangeKind {
    /// All kinds. The place of each, plus one, is its number in the database, which never changes:
    /// new kinds are appended.
    pub(crate) const ALL: [Self; 9] = [
        Self::Created,
        Self::Updated,
        Self::Deleted,
        Self::Restored,
        Self::Purged,
        Self::Adopted,
        Self::Suspended,
        Self::Resumed,
        Self::LoggedIn,
    ];

    /// Returns the name of this kind in snake case, as `logged_in`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Deleted => "deleted",
            Self::Restored => "restored",
            Self::Purged => "purged",
            Self::Adopted => "adopted",
            Self::LoggedIn => "logged_in",
        }
    }

    /// Returns the place in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Created => 0,
            Self::Updated => 1,
            Self::Deleted => 2,
            Self::Restored => 3,
            Self::Purged => 4,
            Self::Adopted => 5,
            Self::Suspended => 6,
            Self::Resumed => 7,
            Self::LoggedIn => 8,
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A committed change of a user.
///
/// It holds no address and nothing else of the user but the id, so a purge leaves nothing to erase
/// in the feed. Who needs the user reads them by the id, as they are now.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The place behind this change, from which a consumer goes on.
    pub cursor: ChangesCursor,
    /// The number of the change. They follow the order of the commits, without gaps.
    pub seq: u64,
    /// When the transaction made the change. The clock may jump: the order is that of `seq`.
    pub at: Timestamp,
    /// What happened.
    pub kind: ChangeKind,
    /// To whom.
    pub user_id: UserId,
    /// The version that the user had after the change; for a purge, the last one.
    pub version: u64,
    /// Who did it.
    pub actor: Actor,
}

/// A page of the change feed.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangePage {
    /// The changes, in the order of the commits.
    pub changes: Vec<Change>,
    /// Where to go on: behind the last of these changes or, if there is none, where the page began.
    pub cursor: ChangesCursor,
    /// Whether more changes follow already.
    pub more: bool,
}

impl ChangePage {
    /// The most changes that a page can hold: it is in memory as a whole.
    pub const MAX_LIMIT: usize = 1_000;
    /// How many changes a page holds unless a service's caller says otherwise.
    pub const DEFAULT_LIMIT: usize = 500;

    pub(crate) fn check_limit(limit: usize) -> Result<()> {
        if !(1..=Self::MAX_LIMIT).contains(&limit) {
            return Err(Error::new(
                ErrorKind::InvalidQuery,
                "the limit of a page is 1 to 1000 changes",
            ));
        }
        Ok(())
    }
}

/// A page of the changes of one user, the newest first.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The changes, the newest first.
    pub changes: Vec<Change>,
    /// Where the next page begins, or `None` if the feed holds no older change of the user.
    pub next_cursor: Option<ChangesCursor>,
}

/// A place in the change feed, between two changes.
///
/// Its text is opaque, and is kept by the consumer. It holds which store it is of and a digest of
/// the change before it. So a cursor fails with [`ErrorKind::CursorExpired`], instead of skipping
/// changes in silence, if it is of another store, if the change before it is no longer kept, and if
/// the store went back in time meanwhile: because a backup or a snapshot was put in its place, or
/// because of a power cut with [`Durability::Normal`](crate::Durability::Normal).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangesCursor {
    store: u32,
    check: u32,
    seq: i64,
}

/// The format of a cursor, so that a later one can be distinguished, also from those of listings.
const CURSOR_PREFIX: &str = "c1-";
/// Two numbers of 4 bytes and one of 8, in hexadecimal digits.
const CURSOR_DIGITS: usize = 32;

impl ChangesCursor {
    /// The number of the change before it.
    pub(crate) fn seq(self) -> i64 {
        self.seq
    }

    pub(crate) fn is_of(self, feed: FeedId) -> bool {
        self.store == feed.store
    }
}

/// Writes the number of the format, the store, the digest and the place.
impl fmt::Display for ChangesCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CURSOR_PREFIX}{:08x}{:08x}{:016x}", self.store, self.check, self.seq)
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidCursor`].
impl FromStr for ChangesCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits =
            text.strip_prefix(CURSOR_PREFIX).filter(|digits| digits.len() == CURSOR_DIGITS);
        let digits =
            digits.filter(|digits| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        let parsed = digits.and_then(|digits| {
            let (store, rest) = digits.split_at(8);
            let (check, seq) = rest.split_at(8);
            let half = |digits| u32::from_str_radix(digits, 16).ok();
            Some(Self {
                store: half(store)?,
                check: half(check)?,
                seq: i64::from_str_radix(seq, 16).ok()?,
            })
        });
        parsed.ok_or_else(|| Error::new(ErrorKind::InvalidCursor, "not a cursor of a change feed"))
    }
}

impl Serialize for ChangesCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChangesCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which feed cursors are of: the store, and when its feed began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeedId {
    /// The first bytes of the store's id.
    pub(crate) store: u32,
    /// A random number from when the feed began, so that one that began anew (since an older store
    /// was upgraded twice) is another.
    pub(crate) epoch: u32,
}

impl FeedId {
    /// Returns the place before the first change that there ever was.
    pub(crate) fn beginning(self) -> ChangesCursor {
        ChangesCursor { store: self.store, check: self.epoch, seq: 0 }
    }

    /// Returns the place behind a change with these values.
    pub(crate) fn after(self, seq: i64, change: &NewChange) -> ChangesCursor {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.epoch.to_be_bytes());
        hasher.update(&seq.to_be_bytes());
        hasher.update(&change.at.as_unix_us().to_be_bytes());
        hasher.update(change.kind.name().as_bytes());
        hasher.update(change.user_id.as_uuid().as_bytes());
        hasher.update(&change.version.to_be_bytes());
        let mut check = [0; 4];
        hasher.finalize_xof().fill(&mut check);
        ChangesCursor { store: self.store, check: u32::from_be_bytes(check), seq }
    }

    /// Returns the change with its number, as consumers get it.
    pub(crate) fn number(self, seq: i64, change: NewChange, actor: Actor) -> Change {
        let cursor = self.after(seq, &change);
        let NewChange { at, kind, user_id, version } = change;
        Change {
            cursor,
            seq: u64::try_from(seq).unwrap_or_default(),
            at,
            kind,
            user_id,
            version,
            actor,
        }
    }
}

/// What a change is, without its number and who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewChange {
    pub(crate) at: Timestamp,
    pub(crate) kind: ChangeKind,
    pub(crate) user_id: UserId,
    pub(crate) version: u64,
}

/// Returns the error of a cursor from which the feed can't be followed.
pub(crate) fn cursor_expired(why: &'static str) -> Error {
    Error::new(ErrorKind::CursorExpired, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_change() -> NewChange {
        NewChange {
            at: Timestamp::from_unix_us(1_700_000_000_000_000).unwrap(),
            kind: ChangeKind::Created,
            user_id: "3fa2b1c4-0000-4000-8000-000000000001".parse().unwrap(),
            version: 1,
        }
    }

    #[test]
    fn a_kind_has_its_own_number_and_the_name_that_it_has_in_json() {
        for (index, kind) in ChangeKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn a_changes_cursor_is_read_back_and_nothing_else_is_read_as_one() {
        let feed = FeedId { store: 0xffff_ffff, epoch: 7 };
        for cursor in
            [feed.beginning(), feed.after(1, &new_change()), feed.after(i64::MAX, &new_change())]
        {
            assert_eq!(cursor.to_string().parse::<ChangesCursor>().unwrap(), cursor);
        }
        let text = feed.beginning().to_string();
        for bad in [
            "",
            "c1-",
            "1-000000000000002a",
            &text[1..],
            &text.to_uppercase(),
            &text.replace("-f", "-+"),
        ] {
            assert_eq!(
                bad.parse::<ChangesCursor>().unwrap_err().kind(),
                ErrorKind::InvalidCursor,
                "{bad}"
            );
        }
        let negative = format!("c1-{}8000000000000000", "0".repeat(16));
        assert_eq!(negative.parse::<ChangesCursor>().unwrap_err().kind(), ErrorKind::InvalidCursor);
    }

    #[test]
    fn a_cursor_depends_on_every_value_of_the_change_before_it() {
        let feed = FeedId { store: 1, epoch: 2 };
        let cursor = feed.after(3, &new_change());
        let others = [
            feed.after(4, &new_change()),
            FeedId { epoch: 3, ..feed }.after(3, &new_change()),
            feed.after(3, &NewChange { at: Timestamp::MIN, ..new_change() }),
            feed.after(3, &NewChange { kind: ChangeKind::Deleted, ..new_change() }),
            feed.after(3, &NewChange { version: 2, ..new_change() }),
            feed.after(
                3,
                &NewChange {
                    user_id: "3fa2b1c4-0000-4000-8000-000000000002".parse().unwrap(),
                    ..new_change()
                },
            ),
        ];
        for other in others {
            assert_ne!(other.check, cursor.check);
        }
    }
}
