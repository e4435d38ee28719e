use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Error, ErrorKind, Result, Scopes, Timestamp, UserId};

/// A token: the right of whoever bears its secret to use the store through a service.
///
/// Its name stands for it in the store's records of who did what. So a name is never given to
/// another token, even after a revocation. (That of a token of one user is free after the purge of
/// that user.)
/// A token that was rotated has several secrets, each of which is listed as a token of this name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Token {
    /// The number of the token in the store, which is never given out again.
    pub number: i64,
    /// The name by which operators know it.
    pub name: String,
    /// What its bearer may do.
    pub scopes: Scopes,
    /// The one user whom it reaches, or `None` for all.
    pub user_id: Option<UserId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// From when on it isn't valid.
    pub expires_at: Timestamp,
    /// When it was last used, to within an hour, or `None` if never.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Who created it.
    pub created_by: String,
}

impl Token {
    /// How many characters a name has at most: it stands in the record of every change.
    pub const NAME_LENGTH_MAX: usize = 64;
    /// How long a token is valid unless it is said. Every token ends: one that was forgotten is one
    /// that is never missed.
    pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3_600);
    /// How long the secrets before stay valid after a rotation unless it is said: time to put the
    /// new one everywhere.
    pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3_600);
    /// The names of the fields, in their order.
    pub const FIELDS: [&'static str; 9] = [
        "number",
        "name",
        "scopes",
        "user_id",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
        "created_by",
    ];

    /// Returns how long the token is valid from its creation.
    pub(crate) fn lifetime(&self) -> Duration {
        self.expires_at.duration_since(self.created_at).unwrap_or_default()
    }
}

/// A token to be created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewToken {
    /// The name: 1 to [`Token::NAME_LENGTH_MAX`] characters, which are ASCII letters, digits, `.`,
    /// `_` and `-`. The first is a letter or digit.
    pub name: String,
    /// What its bearer may do: at least one scope.
    pub scopes: Scopes,
    /// The one user whom it reaches; `None` for all.
    pub user_id: Option<UserId>,
    /// How long it is valid; [`Token::DEFAULT_LIFETIME`] by default.
    pub lifetime: Duration,
    /// Who creates it, as text of at most 128 bytes; `library` by default.
    pub created_by: String,
}

/// How long the text is that says who created a token: room for any name with a prefix.
const CREATED_BY_LENGTH_MAX: usize = 128;
/// Names that say who did something without a token, so that no token can pass for it.
const RESERVED_NAMES: [&str; 2] = ["library", "command"];

impl NewToken {
    /// Returns a token of this name and these scopes, which reaches all users.
    pub fn new(name: impl Into<String>, scopes: Scopes) -> Self {
        Self {
            name: name.into(),
            scopes,
            user_id: None,
            lifetime: Token::DEFAULT_LIFETIME,
            created_by: "library".to_owned(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::InvalidToken, message));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins_well = self.name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins_well
            || self.name.len() > Token::NAME_LENGTH_MAX
            || !self.name.bytes().all(is_plain)
        {
            return invalid(
                "the name of a token has 1 to 64 letters, digits, \".\", \"_\" and \"-\", and begins with a letter or digit",
            );
        }
        if RESERVED_NAMES.contains(&self.name.to_ascii_lowercase().as_str()) {
            return invalid(
                "the names \"library\" and \"command\" stand for what is done without a token",
            );
        }
        if self.scopes.is_empty() {
            return invalid("the token has no scope");
        }
        if self.lifetime.is_zero() {
            return invalid("the token would expire at once");
        }
        if self.created_by.is_empty() || self.created_by.len() > CREATED_BY_LENGTH_MAX {
            return invalid("who creates the token is named by 1 to 128 bytes");
        }
        Ok(())
    }
}

/// What begins the text of a secret, by which scanners of source code recognise it.
const PREFIX: &str = "tnt_";
/// How many characters 32 bytes have in base64url.
const RANDOM_LENGTH: usize = 43;
/// How many characters a checksum of 4 bytes has.
const CHECKSUM_LENGTH: usize = 6;
const CHECKED_LENGTH: usize = PREFIX.len() + RANDOM_LENGTH;
const SECRET_LENGTH: usize = CHECKED_LENGTH + CHECKSUM_LENGTH;

/// The secret of a token: `tnt_`, 43 characters of base64url (32 random bytes), and 6 characters of
/// a checksum (CRC-32), by which a mistyped one is refused without a look-up.
///
/// The store keeps a digest of it alone, so it is shown once, when it is created. `Debug` shows no
/// more than the end of its checksum. It isn't wiped from memory: it was received or is sent in
/// buffers that aren't either.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(String);

impl TokenSecret {
    pub(crate) fn new(random: [u8; 32]) -> Self {
        let mut text = PREFIX.to_owned() + &base64url(&random);
        let checksum = base64url(&crc32(text.as_bytes()).to_be_bytes());
        text.push_str(&checksum);
        Self(text)
    }

    /// Returns the secret as its bearer sends it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the digest of a text, if that has the form of a secret.
    pub(crate) fn digest_of(text: &str) -> Option<TokenDigest> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if text.len() != SECRET_LENGTH || !text.starts_with(PREFIX) || !text.bytes().all(is_plain) {
            return None;
        }
        let (checked, checksum) = text.split_at(CHECKED_LENGTH);
        (base64url(&crc32(checked.as_bytes()).to_be_bytes()) == checksum).then(|| digest(text))
    }

    pub(crate) fn digest(&self) -> TokenDigest {
        digest(&self.0)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}…{}", &self.0[SECRET_LENGTH - 4..])
    }
}

/// The SHA-256 of a secret. That has 256 random bits, so a slow hash would add nothing.
pub(crate) type TokenDigest = [u8; 32];

fn digest(text: &str) -> TokenDigest {
    Sha256::digest(text.as_bytes()).into()
}

/// Encodes bytes as base64url without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

/// The CRC-32 of ISO-HDLC, as in zip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xEDB8_8320 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

/// Whose secret a text is: see [`Store::authenticate`](crate::Store::authenticate).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication {
    /// That of a token which is valid.
    Valid(Arc<Token>),
    /// That of a token which has expired.
    Expired(Arc<Token>),
    /// That of a token which was revoked.
    Revoked(Arc<Token>),
    /// That of no token.
    Unknown,
    /// The text doesn't have the form of a secret, or its checksum is wrong.
    Malformed,
}

impl Authentication {
    /// Returns what a token's secret is worth at a time.
    pub(crate) fn at(token: Arc<Token>, now: Timestamp) -> Self {
        if token.revoked_at.is_some() {
            Self::Revoked(token)
        } else if token.expires_at <= now {
            Self::Expired(token)
        } else {
            Self::Valid(token)
        }
    }

    /// Returns the token, if it is valid.
    #[must_use]
    pub fn token(self) -> Option<Arc<Token>> {
        match self {
            Self::Valid(token) => Some(token),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    #[test]
    fn the_checksum_and_the_encoding_are_the_usual_ones() {
        // The check value of the catalogue of CRCs, and test vectors of RFC 4648.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xFB, 0xFF]), "-_8");
    }

    #[test]
    fn a_secret_with_any_other_character_is_malformed() {
        let secret = TokenSecret::new(*b"0123456789abcdef0123456789abcdef");
        let text = secret.as_str();
        assert_eq!(text.len(), 53);
        assert_eq!(TokenSecret::digest_of(text), Some(secret.digest()));
        for at in 0..text.len() {
            for other in ["A", "b", "_", "0", "é", "\0"] {
                let mistyped = text[..at].to_owned() + other + &text[at + 1..];
                assert!(
                    mistyped == text || TokenSecret::digest_of(&mistyped).is_none(),
                    "{mistyped}"
                );
            }
        }
        for malformed in
            ["", "tnt_", &text[1..], &text[..52], &format!("{text} "), &text.to_uppercase()]
        {
            assert_eq!(TokenSecret::digest_of(malformed), None);
        }
    }

    #[test]
    fn a_secret_is_debugged_as_its_end() {
        let secret = TokenSecret::new([7; 32]);
        let shown = format!("{secret:?}");
        assert_eq!(shown, format!("tnt_…{}", &secret.as_str()[49..]));
    }

    #[test]
    fn names_are_short_plain_and_nothing_elses() {
        let scopes: Scopes = [Scope::UsersRead].into_iter().collect();
        for name in ["a", "billing-2", "Backup.daily_1", "0", &"x".repeat(64)] {
            assert!(NewToken::new(name, scopes).check().is_ok(), "{name}");
        }
        let long = "x".repeat(65);
        for name in [
            "",
            "-a",
            ".a",
            "a b",
            "a:b",
            "ada@example.com",
            "é",
            "a\n",
            "library",
            "Command",
            &long,
        ] {
            assert_eq!(
                NewToken::new(name, scopes).check().unwrap_err().kind(),
                ErrorKind::InvalidToken,
                "{name}"
            );
        }
        assert!(NewToken::new("a", Scopes::default()).check().is_err());
        assert!(
            NewToken { lifetime: Duration::ZERO, ..NewToken::new("a", scopes) }.check().is_err()
        );
        assert!(
            NewToken { created_by: "x".repeat(129), ..NewToken::new("a", scopes) }.check().is_err()
        );
    }
}
