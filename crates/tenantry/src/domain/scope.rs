use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

macro_rules! scopes {
    ($($(#[doc = $doc:literal])+ $scope:ident = $name:literal,)+) => {
        /// What the bearer of a [`Token`](crate::Token) may do. This is the list of all scopes; a
        /// service declares which of them each of its routes requires.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Scope {
            $($(#[doc = $doc])+ $scope,)+
        }

        impl Scope {
            /// All scopes.
            pub const ALL: &'static [Self] = &[$(Self::$scope),+];

            /// Returns the name of the scope, such as `users:read`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$scope => $name,)+
                }
            }
        }
    };
}

scopes! {
    /// Reads users, the trash and usages.
    UsersRead = "users:read",
    /// Creates and changes users, records logins and measures usages.
    UsersWrite = "users:write",
    /// Moves users to the trash, and restores them.
    UsersDelete = "users:delete",
    /// Purges users from the trash.
    UsersPurge = "users:purge",
    /// Reads users' files.
    FilesRead = "files:read",
    /// Creates, changes and deletes users' files.
    FilesWrite = "files:write",
    /// Reads the changes of users.
    ChangesRead = "changes:read",
    /// Imports users.
    Import = "import",
    /// Exports users, with their files.
    Export = "export",
    /// Backs up the whole store: users, files, the trash and tokens.
    Backup = "backup",
    /// Reads the state of the store, and checks it.
    Check = "check",
    /// Creates, lists and revokes tokens.
    Tokens = "tokens",
    /// Reads the figures of the service.
    Metrics = "metrics",
    /// Provisions users by SCIM.
    Scim = "scim",
    /// Does everything, including what later versions add.
    Admin = "admin",
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidToken`] if there is no scope of this name.
impl FromStr for Scope {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|scope| scope.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scope| scope.name()).collect();
            Error::new(
                ErrorKind::InvalidToken,
                format!("there is no such scope: the scopes are {}", names.join(", ")),
            )
        })
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of scopes. Its text has their names, separated by spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u32);

impl Scopes {
    /// Returns the set that allows everything: [`Scope::Admin`].
    #[must_use]
    pub fn all() -> Self {
        Self::from_iter([Scope::Admin])
    }

    /// Returns whether the set allows what a scope stands for. [`Scope::Admin`] allows everything.
    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (bit(scope) | bit(Scope::Admin)) != 0
    }

    /// Returns whether the set has no scope.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the scopes that the set was made of.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.0 & bit(*scope) != 0)
    }
}

fn bit(scope: Scope) -> u32 {
    1 << scope as u32
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | bit(scope)))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Scope::name).collect();
        f.write_str(&names.join(" "))
    }
}

/// # Errors
///
/// Fails as a [`Scope`] does.
impl FromStr for Scopes {
    type Err = Error;

    fn from_str(names: &str) -> Result<Self> {
        names.split(' ').filter(|name| !name.is_empty()).map(str::parse).collect()
    }
}

/// As a list of names.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Scope>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_scopes_that_it_was_made_of_and_no_others_but_admin_has_all() {
        for &scope in Scope::ALL {
            let one: Scopes = [scope].into_iter().collect();
            for &other in Scope::ALL {
                assert_eq!(one.has(other), scope == other || scope == Scope::Admin);
            }
            assert!(Scopes::all().has(scope) && !Scopes::default().has(scope));
            assert_eq!(one.iter().collect::<Vec<_>>(), [scope]);
        }
    }

    #[test]
    fn a_set_is_read_from_what_it_is_written_as() {
        let set: Scopes = Scope::ALL.iter().copied().collect();
        assert_eq!(set.to_string().parse::<Scopes>().unwrap(), set);
        assert_eq!(
            serde_json::from_str::<Scopes>(&serde_json::to_string(&set).unwrap()).unwrap(),
            set
        );
        let one: Scopes = [Scope::UsersRead, Scope::Export].into_iter().collect();
        assert_eq!(one.to_string(), "users:read export");
        assert_eq!(serde_json::to_value(one).unwrap(), serde_json::json!(["users:read", "export"]));
        assert_eq!("users:reed".parse::<Scopes>().unwrap_err().kind(), ErrorKind::InvalidToken);
        assert!("".parse::<Scopes>().unwrap().is_empty());
    }

    #[test]
    fn every_scope_has_a_bit_and_a_name_of_its_own() {
        assert!(Scope::ALL.len() <= 32);
        for scope in Scope::ALL {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b':';
            assert!(scope.name().bytes().all(is_plain));
            assert_eq!(scope.name().parse::<Scope>().unwrap(), *scope);
        }
    }
}
