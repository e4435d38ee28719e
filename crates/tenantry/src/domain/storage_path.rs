use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use arrayvec::ArrayString;
use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::fmt::Hyphenated;

use crate::domain::email::fold;
use crate::{Error, ErrorKind, Result, UserId};

/// No segment of a storage path may begin with this.
pub(crate) const COPY_PREFIX: &str = ".tenantry-copy-";

/// Where a user's files live, relative to the storage directory of the store.
///
/// A path is UTF-8 in normalization form C, at most 512 bytes, and made of segments divided by
/// single slashes: no empty segment, no `.` or `..`, none longer than 255 bytes (what file systems
/// allow), no control characters. It doesn't begin or end with a slash.
///
/// By default it is [derived](StoragePath::derived) from the user's id and sharded over two levels
/// of 256 directories, so that none grows huge. Paths whose first segment is two hexadecimal digits
/// are reserved for that: so a path that a caller chose can never collide with one that is derived
/// later. Those that begin with `.tenantry` are reserved for the store's own files.
///
/// # Examples
///
/// ```
/// use tenantry::StoragePath;
///
/// let path: StoragePath = "customers/ada".parse()?;
/// assert_eq!(path.as_str(), "customers/ada");
/// assert!("../etc".parse::<StoragePath>().is_err());
/// # Ok::<(), tenantry::Error>(())
/// ```
#[derive(Clone)]
pub struct StoragePath(Text);

/// The bytes of a derived path: two digits and a slash for each level, and the id.
const DERIVED_BYTES: usize = 6 + Hyphenated::LENGTH;

#[derive(Clone)]
enum Text {
    /// Every user who is read has one, so it is made without formatting and without an allocation.
    Derived(ArrayString<DERIVED_BYTES>),
    Chosen(Box<str>),
}

impl StoragePath {
    /// The longest path, in bytes.
    pub const MAX_BYTES: usize = 512;
    /// The longest segment, in bytes: `NAME_MAX` of the usual file systems.
    pub const MAX_SEGMENT_BYTES: usize = 255;

    /// Returns the path that a user has by default: `3f/a2/3fa2b1c4-…` for the id `3fa2b1c4-…`.
    #[must_use]
    pub fn derived(id: UserId) -> Self {
        let mut name = [0; Hyphenated::LENGTH];
        let name: &str = id.as_uuid().as_hyphenated().encode_lower(&mut name);
        let mut path = ArrayString::new();
        for part in [&name[..2], "/", &name[2..4], "/", name] {
            path.push_str(part);
        }
        Self(Text::Derived(path))
    }

    /// Returns the path as text, with `/` between segments.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Derived(path) => path,
            Text::Chosen(path) => path,
        }
    }

    /// Returns whether the path lies where only derived paths or the store's own files may.
    pub(crate) fn is_reserved(&self) -> bool {
        let first = self.as_str().split('/').next().unwrap_or_default();
        let is_shard = first.len() == 2 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
        let begins_with = |segment: &str, prefix: &str| {
            segment.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        // Beside any user's directory there may be a copy on its way.
        let is_work = self.as_str().split('/').any(|segment| begins_with(segment, COPY_PREFIX));
        is_shard || is_work || begins_with(first, ".tenantry")
    }

    /// Returns whether derived paths lie below this path: `3f` or `3f/a2`.
    pub(crate) fn is_above_derived(path: &str) -> bool {
        let is_shard = |name: &str| {
            name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match path.split_once('/') {
            None => is_shard(path),
            Some((first, second)) => is_shard(first) && is_shard(second),
        }
    }

    /// Returns whether a file system that ignores case and normalization takes one path, or the
    /// first directory in which they differ, for that of the other.
    pub(crate) fn is_spelled_otherwise(one: &str, other: &str) -> bool {
        let differing = one.split('/').zip(other.split('/')).find(|(one, other)| one != other);
        differing.is_some_and(|(one, other)| Self::folded(one) == Self::folded(other))
    }

    /// Returns a path without the differences that a file system may ignore. It removes too many of
    /// them rather than too few.
    pub(crate) fn folded(path: &str) -> String {
        if path.is_ascii() {
            return path.to_ascii_lowercase();
        }
        let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
        let seen: String = path.chars().filter(|char| !ignorable.contains(*char)).collect();
        fold(&ComposingNormalizerBorrowed::new_nfkc().normalize(&seen).to_uppercase())
    }

    /// Returns the form that this name has in a storage path, or `None` if it has that form.
    pub(crate) fn normalized(name: &str) -> Option<String> {
        let normalizer = ComposingNormalizerBorrowed::new_nfc();
        (!normalizer.is_normalized(name)).then(|| normalizer.normalize(name).into_owned())
    }

    /// Returns the path itself and every directory above it, the topmost first.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = &str> {
        Self::lineage_of(self.as_str())
    }

    /// Returns the same for a path as text.
    pub(crate) fn lineage_of(path: &str) -> impl Iterator<Item = &str> {
        let ends = path.match_indices('/').map(|(index, _)| index).chain([path.len()]);
        ends.map(|end| &path[..end])
    }
}

/// # Errors
///
/// Fails with [`ErrorKind::InvalidPath`].
impl FromStr for StoragePath {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self> {
        let refuse = |message: &'static str| Err(Error::new(ErrorKind::InvalidPath, message));
        if path.is_empty() {
            return refuse("the storage path is empty");
        }
        if path.len() > Self::MAX_BYTES {
            return refuse("the storage path is longer than 512 bytes");
        }
        if path.chars().any(char::is_control) {
            return refuse("the storage path holds a control character");
        }
        if path.starts_with('/') {
            return refuse("the storage path must be relative: it begins with a slash");
        }
        for segment in path.split('/') {
            match segment {
                "" => {
                    return refuse(
                        "the storage path has an empty segment: two slashes in a row or one at the end",
                    );
                }
                "." | ".." => return refuse("the storage path has a segment that is . or .."),
                _ if segment.len() > Self::MAX_SEGMENT_BYTES => {
                    return refuse("a segment of the storage path is longer than 255 bytes");
                }
                _ => {}
            }
        }
        if !ComposingNormalizerBorrowed::new_nfc().is_normalized(path) {
            return refuse("the storage path is not in Unicode normalization form C");
        }
        Ok(Self(Text::Chosen(path.into())))
    }
}

impl fmt::Display for StoragePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StoragePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoragePath").field(&self.as_str()).finish()
    }
}

// By the text: a path that was parsed may be one that is derived.
impl PartialEq for StoragePath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for StoragePath {}

impl PartialOrd for StoragePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StoragePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for StoragePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl AsRef<str> for StoragePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Fails as parsing does.
impl TryFrom<String> for StoragePath {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Fails as parsing does.
impl TryFrom<&str> for StoragePath {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl From<StoragePath> for String {
    fn from(value: StoragePath) -> Self {
        value.as_str().to_owned()
    }
}

impl Serialize for StoragePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for StoragePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_the_storage_directory_or_name_it_twice_is_refused() {
        let long_segment = "a".repeat(256);
        let long_path = ["a".repeat(250), "b".repeat(250), "c".repeat(11)].join("/");
        for path in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/.",
            "./a",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            "e\u{301}",
            &long_segment,
            &long_path,
        ] {
            assert_eq!(
                path.parse::<StoragePath>().unwrap_err().kind(),
                ErrorKind::InvalidPath,
                "{path:?}"
            );
        }
    }

    #[test]
    fn what_is_odd_but_harmless_is_kept_as_it_is() {
        let longest = ["a".repeat(250), "b".repeat(250), "c".repeat(10)].join("/");
        assert_eq!(longest.len(), StoragePath::MAX_BYTES);
        for path in ["a", "...", "a b/c", "..a", "é/ü", "customers/ada", &longest] {
            assert_eq!(path.parse::<StoragePath>().unwrap().as_str(), path);
        }
    }

    #[test]
    fn a_derived_path_is_sharded_valid_and_reserved() {
        let id: UserId = "3fa2b1c4-0000-4000-8000-000000000001".parse().unwrap();
        let path = StoragePath::derived(id);
        assert_eq!(path.as_str(), "3f/a2/3fa2b1c4-0000-4000-8000-000000000001");
        assert_eq!(path.as_str().parse::<StoragePath>().unwrap(), path);
        assert!(path.is_reserved());
        for path in [
            "3f",
            "3F/x",
            "00/a",
            ".tenantry-store",
            ".Tenantry/x",
            "a/.tenantry-copy-x",
            "a/.Tenantry-Copy-x/b",
        ] {
            assert!(path.parse::<StoragePath>().unwrap().is_reserved(), "{path}");
        }
        for path in ["3", "3f0/a", "3g/a", "a/3f", "tenantry", ".tenant", "a/.tenantry"] {
            assert!(!path.parse::<StoragePath>().unwrap().is_reserved(), "{path}");
        }
    }

    #[test]
    fn what_some_file_system_takes_for_the_same_path_is_spelled_otherwise() {
        for (one, other) in [
            ("customers/Bob", "customers/BOB"),
            ("Customers/bob", "customers/ada"),
            ("customers/Bob", "CUSTOMERS"),
            ("é", "É"),
            ("straße", "STRASSE"),
            ("ﬁ", "fi"),
            ("Ａ", "a"),
            ("a\u{200d}b", "ab"),
            ("ı", "I"),
            ("Σας", "σασ"),
        ] {
            assert!(StoragePath::is_spelled_otherwise(one, other), "{one} {other}");
            assert!(StoragePath::is_spelled_otherwise(other, one), "{other} {one}");
        }
        for (one, other) in
            [("a", "b"), ("a/b", "a/c"), ("a", "a"), ("a", "a/b"), ("a/B", "c/b"), ("é", "e")]
        {
            assert!(!StoragePath::is_spelled_otherwise(one, other), "{one} {other}");
        }
    }

    #[test]
    fn the_lineage_goes_from_the_top_to_the_path_itself() {
        let path: StoragePath = "a/b/c".parse().unwrap();
        assert_eq!(path.lineage().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
    }
}
