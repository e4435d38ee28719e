//! The content of a file: its length and its hash.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: u64,
    /// BLAKE3, in hexadecimal digits.
    pub(crate) blake3: String,
}

/// A reader that computes the hash of everything that is read.
pub(crate) struct HashingReader<R> {
    input: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    pub(crate) fn content(&self) -> Content {
        Content { size: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// A reader that records its failure, to distinguish that from a failure to write.
pub(crate) struct RecordingReader<R> {
    input: R,
    failure: Option<io::Error>,
}

impl<R: Read> RecordingReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, failure: None }
    }

    /// Returns the failure to read.
    pub(crate) fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}

impl<R: Read> Read for RecordingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}

/// A reader from the beginning of a file, independent of the position of its descriptor.
pub(crate) struct AtOffset<'f> {
    file: &'f File,
    offset: u64,
}

impl<'f> AtOffset<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for AtOffset<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
