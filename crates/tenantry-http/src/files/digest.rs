//! Digests of an upload (RFC 9530).

use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::problem::{Problem, Type};

/// Both are the same of an upload, which is a whole representation without a coding.
const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("repr-digest")];

/// Digests that a client announced, and what is hashed to compare with them.
#[derive(Debug, Default)]
pub(super) struct Expected {
    sha256: Vec<([u8; 32], Sha256)>,
    sha512: Vec<([u8; 64], Sha512)>,
}

impl Expected {
    /// Reads the digests of a request. Those of other algorithms are ignored, as RFC 9530 has it.
    ///
    /// # Errors
    ///
    /// `InvalidParameter` if a digest isn't of the length of its algorithm, or no dictionary of
    /// digests.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut expected = Self::default();
        for name in &HEADERS {
            let malformed = || {
                Problem::new(
                    Type::InvalidParameter,
                    format!("{name} isn't a dictionary of digests"),
                )
            };
            for value in headers.get_all(name) {
                for member in value.to_str().map_err(|_| malformed())?.split(',') {
                    let (algorithm, digest) =
                        member.trim().split_once('=').ok_or_else(malformed)?;
                    let digest =
                        digest.strip_prefix(':').and_then(|digest| digest.strip_suffix(':'));
                    let digest =
                        STANDARD.decode(digest.ok_or_else(malformed)?).map_err(|_| malformed())?;
                    match algorithm {
                        "sha-256" => {
                            expected
                                .sha256
                                .push((digest.try_into().map_err(|_| malformed())?, Sha256::new()));
                        }
                        "sha-512" => {
                            expected
                                .sha512
                                .push((digest.try_into().map_err(|_| malformed())?, Sha512::new()));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(expected)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
        self.sha512.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
    }

    /// Compares the digests of all that was hashed.
    pub(super) fn verify(self) -> Result<(), Problem> {
        let is_256 =
            self.sha256.into_iter().all(|(digest, hasher)| hasher.finalize()[..] == digest);
        let is_512 =
            self.sha512.into_iter().all(|(digest, hasher)| hasher.finalize()[..] == digest);
        if is_256 && is_512 {
            return Ok(());
        }
        Err(Problem::new(
            Type::DigestMismatch,
            "the body isn't the one whose digest was sent; nothing was written",
        ))
    }
}
