//! The places between two steps of an operation at which a crash is tested.
//!
//! Each step that changes the file system or commits passes a point first, so that a test can end the process there, and can
//! list the points that an operation passes. In a program there is nothing of this: the function is empty.

#[cfg(not(all(test, feature = "archives")))]
#[inline(always)]
pub(crate) fn reach(_name: &'static str) {}

/// Whether a test has this rename fail as the file systems do that move a directory only within a part of themselves.
#[cfg(not(all(test, feature = "archives")))]
#[inline(always)]
pub(crate) fn is_rename_refused(_name: &'static str) -> bool {
    false
}

#[cfg(all(test, feature = "archives"))]
pub(crate) use crate::lifecycle_tests::{is_rename_refused, reach};
