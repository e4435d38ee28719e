//! What a file holds: its length and its hash.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: u64,
    /// BLAKE3, in hexadecimal digits.
    pub(crate) blake3: String,
}

/// Passes octets on and computes their hash.
pub(crate) struct Hashed<R> {
    input: R,
    hasher: blake3::Hasher,
    octets: u64,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, hasher: blake3::Hasher::new(), octets: 0 }
    }

    pub(crate) fn content(&self) -> Content {
        Content { size: self.octets, blake3: self.hasher.finalize().to_hex().to_string() }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.octets += count as u64;
        Ok(count)
    }
}
