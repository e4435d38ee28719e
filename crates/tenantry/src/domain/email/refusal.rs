//! The errors of addresses, which say what is wrong and where.

use std::borrow::Cow;

use crate::{Error, ErrorKind};

pub(super) fn refuse(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidEmail, message)
}

pub(super) fn refuse_at(number: usize, c: char, reason: &str) -> Error {
    refuse(format!("character {number} of the address is {reason} (U+{:04X})", u32::from(c)))
}

pub(super) fn too_long() -> Error {
    refuse("the address is longer than 254 bytes")
}
