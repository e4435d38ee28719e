//! The places between two steps of an operation at which a crash is tested.
//!
//! Each step that changes the file system or commits passes a point first, so that a test can end the process there, and can
//! list the points that an operation passes. In a program there is nothing of this: the function is empty.

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn reach(_name: &'static str) {}

#[cfg(test)]
pub(crate) use crate::lifecycle_tests::reach;
