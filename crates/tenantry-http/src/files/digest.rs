//! Digests of an upload (RFC 9530).

use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::problem::{Problem, Type};

const HEADER_COUNT: usize = 2;
/// Both are the same of an upload, which is a whole representation without a coding.
const HEADERS: [HeaderName; HEADER_COUNT] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("repr-digest")];

/// Digests that a client announced, and what is hashed to compare with them.
#[derive(Debug, Default)]
pub(super) struct Expected {
    sha256: Algorithm<Sha256>,
    sha512: Algorithm<Sha512>,
}

/// The digests of one algorithm, and the one hasher that they are compared with.
#[derive(Debug, Default)]
struct Algorithm<D> {
    hasher: D,
    /// That of each of the [`HEADERS`].
    expected: [Option<Vec<u8>>; HEADER_COUNT],
}

impl Expected {
    /// Reads the digests of a request. Those of other algorithms are ignored, as RFC 9530 has it.
    /// Of several of one algorithm in one dictionary the last counts (RFC 9651, section 4.2.2).
    ///
    /// # Errors
    ///
    /// `InvalidParameter` if a digest isn't of the length of its algorithm, or no dictionary of
    /// digests.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut expected = Self::default();
        for (header, name) in HEADERS.iter().enumerate() {
            for value in headers.get_all(name) {
                let read = value.to_str().ok().and_then(|members| {
                    members.split(',').try_for_each(|member| expected.insert(header, member.trim()))
                });
                read.ok_or_else(|| {
                    let detail = format!("{name} isn't a dictionary of digests");
                    Problem::new(Type::InvalidParameter, detail)
                })?;
            }
        }
        Ok(expected)
    }

    /// Takes a member of a header's dictionary. Returns `None` if it isn't one of a digest.
    fn insert(&mut self, header: usize, member: &str) -> Option<()> {
        let (algorithm, digest) = member.split_once('=')?;
        let digest = STANDARD.decode(digest.strip_prefix(':')?.strip_suffix(':')?).ok()?;
        match algorithm {
            "sha-256" => self.sha256.insert(header, digest),
            "sha-512" => self.sha512.insert(header, digest),
            _ => Some(()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
    }

    /// Compares the digests of all that was hashed.
    pub(super) fn verify(self) -> Result<(), Problem> {
        if self.sha256.matches() && self.sha512.matches() {
            return Ok(());
        }
        Err(Problem::new(
            Type::DigestMismatch,
            "the body isn't the one whose digest was sent; nothing was written",
        ))
    }
}

impl<D: Digest> Algorithm<D> {
    fn insert(&mut self, header: usize, digest: Vec<u8>) -> Option<()> {
        let expected = self.expected.get_mut(header)?;
        *expected = Some(digest).filter(|digest| digest.len() == <D as Digest>::output_size());
        expected.as_ref().map(|_| ())
    }

    fn update(&mut self, bytes: &[u8]) {
        if self.expected.iter().any(Option::is_some) {
            self.hasher.update(bytes);
        }
    }

    fn matches(self) -> bool {
        let digest = self.hasher.finalize();
        self.expected.iter().flatten().all(|expected| expected[..] == digest[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(content: &str) -> String {
        format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(content)))
    }

    /// Each member had a hasher of its own: a header of 15 KiB made an upload cost 290 times as
    /// much, and had to match in each of them.
    #[test]
    fn the_last_digest_of_an_algorithm_counts_in_each_of_the_two_headers() {
        let (right, wrong) = (member("body"), member("another"));
        let other = format!("sha-512=:{}:", STANDARD.encode(Sha512::digest("body")));
        let [content, repr] = &HEADERS;
        for (members, is_expected) in [
            (vec![(content, format!("{wrong}, {right}"))], true),
            (vec![(content, wrong.clone()), (content, right.clone())], true),
            (vec![(content, format!("{wrong}, {other}, {right}"))], true),
            (vec![(content, format!("{right}, {wrong}"))], false),
            (vec![(content, format!("{wrong}, {other}"))], false),
            (vec![(content, right.clone()), (repr, right.clone())], true),
            (vec![(content, right.clone()), (repr, wrong.clone())], false),
            (vec![(content, wrong.clone()), (repr, right.clone())], false),
            (vec![], true),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &members {
                headers.append(HeaderName::clone(name), value.parse().unwrap());
            }
            let mut expected = Expected::of(&headers).unwrap();
            expected.update(b"bo");
            expected.update(b"dy");
            assert_eq!(expected.verify().is_ok(), is_expected, "{members:?}");
        }
    }
}
