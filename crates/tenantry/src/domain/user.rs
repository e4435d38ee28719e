use serde::{Deserialize, Serialize};

use crate::{
    Attributes, Email, Error, ErrorKind, ExternalId, Name, Result, Set, StoragePath, Timestamp,
    UserId,
};

/// One account of the application, which is one tenant of it.
///
/// Serialized, it has these field names; times are RFC 3339 in UTC, and what a user lacks is
/// `null`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// Who the user is, for good: never changed, and never given to another user.
    pub id: UserId,
    /// The address as the person wrote it. Mail goes to this one, not to anything derived from it.
    pub email: Email,
    /// When the account was created.
    pub created_at: Timestamp,
    /// When the user last logged in, or `None` if never. It only moves forward.
    pub last_login_at: Option<Timestamp>,
    /// Where the user's files live. Never given to another user, not even after a
    /// purge.
    pub storage_path: StoragePath,
    /// When the account was last changed. A login doesn't change the account.
    pub updated_at: Timestamp,
    /// 1 when the account is created, and one more with every change of it. A login isn't a change.
    pub version: u64,
    /// When the user was [suspended](crate::Store::suspend), or `None` if they may sign in.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
    /// The id that another system has for the user. It isn't a key: several users may have the
    /// same.
    #[serde(default)]
    pub external_id: Option<ExternalId>,
    /// What people call the user.
    #[serde(default)]
    pub name: Option<Name>,
    /// Whatever else the application keeps with the user.
    #[serde(default)]
    pub attributes: Option<Attributes>,
}

impl User {
    /// The highest version: what a JSON number holds exactly (RFC 8259, section 6).
    pub const MAX_VERSION: u64 = (1 << 53) - 1;
    /// How many users [`Store::confusables`](crate::Store::confusables) returns at most: enough to
    /// name them.
    pub const CONFUSABLES_MAX: usize = 10;

    pub(crate) fn check_version(version: u64) -> Result<()> {
        if !(1..=Self::MAX_VERSION).contains(&version) {
            return Err(Error::new(
                ErrorKind::InvalidUser,
                "the version is not within 1 and 9007199254740991",
            ));
        }
        Ok(())
    }
}

/// A user to be created: an address, and whatever else is to have a value other than its default.
///
/// All but the address is for those who bring users from somewhere else.
///
/// ```
/// use tenantry::NewUser;
///
/// let storage_path = Some("customers/ada".parse()?);
/// let new = NewUser { storage_path, ..NewUser::new("ada@example.com".parse()?) };
/// # Ok::<(), tenantry::Error>(())
/// ```
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The address.
    pub email: Email,
    /// The id. By default a random one.
    pub id: Option<UserId>,
    /// The storage path. By default the one [derived](StoragePath::derived) from the id.
    pub storage_path: Option<StoragePath>,
    /// When the account was created. By default now.
    pub created_at: Option<Timestamp>,
    /// When the user last logged in. By default never.
    pub last_login_at: Option<Timestamp>,
    /// When the account was last changed. By default `created_at`.
    pub updated_at: Option<Timestamp>,
    /// The version, from 1 to [`User::MAX_VERSION`]. By default 1.
    pub version: Option<u64>,
    /// Since when the user is suspended. By default they aren't.
    pub suspended_at: Option<Timestamp>,
    /// The id that another system has for the user. By default none.
    pub external_id: Option<ExternalId>,
    /// What people call the user. By default nothing.
    pub name: Option<Name>,
    /// Whatever else the application keeps with the user. By default nothing.
    pub attributes: Option<Attributes>,
}

impl NewUser {
    /// A user with this address and everything else by default.
    #[must_use]
    pub fn new(email: Email) -> Self {
        Self {
            email,
            id: None,
            storage_path: None,
            created_at: None,
            last_login_at: None,
            updated_at: None,
            version: None,
            suspended_at: None,
            external_id: None,
            name: None,
            attributes: None,
        }
    }

    /// Fails if a value is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.version.map_or(Ok(()), User::check_version)
    }

    /// Returns the user with this id, who is created at this time unless another is given.
    pub(crate) fn to_user(&self, id: UserId, now: Timestamp) -> User {
        // Without `..`, here and below, so that a new field can't be forgotten.
        let Self {
            email,
            id: _,
            storage_path,
            created_at,
            last_login_at,
            updated_at,
            version,
            suspended_at,
            external_id,
            name,
            attributes,
        } = self;
        let created_at = created_at.unwrap_or(now);
        User {
            id,
            email: email.clone(),
            created_at,
            last_login_at: *last_login_at,
            storage_path: storage_path.clone().unwrap_or_else(|| StoragePath::derived(id)),
            updated_at: updated_at.unwrap_or(created_at),
            version: version.unwrap_or(1),
            suspended_at: *suspended_at,
            external_id: external_id.clone(),
            name: name.clone(),
            attributes: attributes.clone(),
        }
    }

    /// Returns an update to the values of this row that can change. Values that it lacks are left.
    pub(crate) fn to_update(&self) -> UserUpdate {
        fn to<T: Clone>(value: Option<&T>) -> Set<T> {
            value.map_or(Set::Leave, |value| Set::To(value.clone()))
        }
        UserUpdate {
            email: Some(self.email.clone()),
            external_id: to(self.external_id.as_ref()),
            name: to(self.name.as_ref()),
            attributes: to(self.attributes.as_ref()),
            expected_version: None,
        }
    }

    /// A user with all values of one who was in a store.
    pub(crate) fn as_it_was(user: &User) -> Self {
        let User {
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
        } = user.clone();
        Self {
            email,
            id: Some(id),
            storage_path: Some(storage_path),
            created_at: Some(created_at),
            last_login_at,
            updated_at: Some(updated_at),
            version: Some(version),
            suspended_at,
            external_id,
            name,
            attributes,
        }
    }
}

/// Changes to a user. A field that is `None` or [`Leave`](Set::Leave) stays as it is.
///
/// The id, the time of creation and the storage path are fixed once a user exists, logins are
/// [recorded](crate::Store::record_login), and [`suspend`](crate::Store::suspend) and
/// [`resume`](crate::Store::resume) are operations of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserUpdate {
    /// The new address. The same address in another spelling is a change too.
    pub email: Option<Email>,
    /// The id that another system has for the user.
    #[serde(default, skip_serializing_if = "Set::is_leave")]
    pub external_id: Set<ExternalId>,
    /// What people call the user.
    #[serde(default, skip_serializing_if = "Set::is_leave")]
    pub name: Set<Name>,
    /// Whatever else the application keeps with the user, as a whole.
    #[serde(default, skip_serializing_if = "Set::is_leave")]
    pub attributes: Set<Attributes>,
    /// Change the user only if they have this version, else fail with
    /// [`ErrorKind::VersionMismatch`].
    pub expected_version: Option<u64>,
}

impl UserUpdate {
    /// Gives a user the new values, and returns whether one of them is another than before.
    pub(crate) fn apply(&self, user: &mut User) -> bool {
        let Self { email, external_id, name, attributes, expected_version: _ } = self;
        let mut is_change = false;
        if let Some(email) = email.as_ref().filter(|email| **email != user.email) {
            user.email = email.clone();
            is_change = true;
        }
        is_change |= external_id.apply(&mut user.external_id);
        is_change |= name.apply(&mut user.name);
        is_change | attributes.apply(&mut user.attributes)
    }
}

/// The result of [`Store::sign_in`](crate::Store::sign_in).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignIn {
    /// The user, with the login recorded.
    pub user: User,
    /// Whether this sign-in created the user.
    pub is_new: bool,
}

/// The treatment of a row of an import whose address, id or storage path belongs to a user already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Return the conflict as an error.
    Fail,
    /// If a user has the row's id or address, leave them as they are. (A storage path of another
    /// user stays an error, because the row would have no user.)
    Skip,
    /// Give the user the row's address, the name, external id and attributes that the row has, and
    /// the row's last login if it is later. A row with a time of suspension suspends the user. What
    /// the row lacks stays as it is.
    Update,
}

/// The result of a row of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upserted {
    /// A user was created.
    Created,
    /// The existing user was changed.
    Updated,
    /// The existing user had all of the row's values already.
    Unchanged,
    /// The existing user was left as they are.
    Skipped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_from_the_json_that_they_are_written_as() {
        let json = concat!(
            r#"{"id":"3fa2b1c4-0000-4000-8000-000000000001","email":"Ada@example.com","#,
            r#""created_at":"2026-11-23T14:43:28.534187Z","last_login_at":null,"storage_path":"customers/ada","#,
            r#""updated_at":"2026-11-23T14:43:28.534187Z","version":1,"suspended_at":"2026-11-24T14:43:28.534187Z","#,
            r#""external_id":"00u1","name":"Ada","attributes":{"b":1.0,"a":[]}}"#
        );
        let user: User = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&user).unwrap(), json);
        let new: NewUser =
            serde_json::from_str(r#"{"email":"ada@example.com","version":3}"#).unwrap();
        assert_eq!(
            new,
            NewUser { version: Some(3), ..NewUser::new("ada@example.com".parse().unwrap()) }
        );
        assert!(serde_json::from_str::<UserUpdate>(r#"{"mail":"ada@example.com"}"#).is_err());
        assert!(serde_json::from_str::<User>(&json.replace("ada\"", "../ada\"")).is_err());
        // What an earlier version has written.
        let earlier = json.split(",\"suspended_at").next().unwrap().to_owned() + "}";
        assert_eq!(serde_json::from_str::<User>(&earlier).unwrap().name, None);
    }

    #[test]
    fn an_update_distinguishes_what_it_leaves_from_what_it_clears() {
        let new = NewUser {
            name: Some("Ada".parse().unwrap()),
            ..NewUser::new("ada@example.com".parse().unwrap())
        };
        let user =
            new.to_user("3fa2b1c4-0000-4000-8000-000000000001".parse().unwrap(), Timestamp::MIN);
        let apply = |json: &str| {
            let mut user = user.clone();
            let update: UserUpdate = serde_json::from_str(json).unwrap();
            let written = serde_json::to_string(&update).unwrap();
            assert_eq!(serde_json::from_str::<UserUpdate>(&written).unwrap(), update, "{written}");
            let is_change = update.apply(&mut user);
            (is_change, user.name.map(String::from), user.attributes.map(|it| it.to_string()))
        };
        let ada = Some("Ada".to_owned());
        assert_eq!(apply("{}"), (false, ada.clone(), None));
        assert_eq!(
            apply(r#"{"name":"Ada","attributes":null,"email":"ada@example.com"}"#),
            (false, ada.clone(), None)
        );
        assert_eq!(apply(r#"{"name":null}"#), (true, None, None));
        assert_eq!(apply(r#"{"attributes":{"a":1}}"#), (true, ada, Some(r#"{"a":1}"#.into())));
        assert_eq!(apply(r#"{"name":"Bob","external_id":"1"}"#), (true, Some("Bob".into()), None));
    }
}
