//! Failpoints: the places between two steps of an operation at which tests crash the process, and
//! calls that tests refuse.
//!
//! Each step that changes the file system or commits reaches a failpoint first, so that a test can
//! end the process there, and can list the failpoints that an operation reaches. They exist in
//! debug builds with the feature `failpoints` alone, which only tests turn on. In any other build
//! these functions are empty.

#[cfg(all(feature = "failpoints", debug_assertions))]
pub use hooks::{Hooks, Refusal, install};
#[cfg(all(feature = "failpoints", debug_assertions))]
pub(crate) use hooks::{is_refused, reach};
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
pub(crate) use nothing::{Refusal, is_refused, reach};

#[cfg(not(all(feature = "failpoints", debug_assertions)))]
mod nothing {
    #[derive(Clone, Copy)]
    pub(crate) enum Refusal {
        Openat2,
        NoReplace,
        Rename,
    }

    #[inline(always)]
    pub(crate) fn reach(_point: &'static str) {}

    #[inline(always)]
    pub(crate) fn is_refused(_refusal: Refusal, _point: &'static str) -> bool {
        false
    }
}

#[cfg(all(feature = "failpoints", debug_assertions))]
mod hooks {
    use std::sync::OnceLock;

    static HOOKS: OnceLock<Box<dyn Hooks>> = OnceLock::new();

    /// A call that a test makes the system refuse.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Refusal {
        /// `openat2`, with `ENOSYS`: as a filter of system calls does.
        Openat2,
        /// `RENAME_NOREPLACE`, with `EINVAL`: as bindfs and mergerfs do.
        NoReplace,
        /// A rename, with `EXDEV`: as file systems do that move a directory only within a part of
        /// themselves.
        Rename,
    }

    /// The action of a test at failpoints.
    pub trait Hooks: Send + Sync {
        /// Is called at each failpoint, before the step.
        fn reach(&self, point: &'static str);
        /// Returns whether a call is refused.
        fn is_refused(&self, refusal: Refusal, point: &'static str) -> bool;
    }

    /// Installs hooks in this process, for good, and returns whether it had none.
    pub fn install(hooks: impl Hooks + 'static) -> bool {
        HOOKS.set(Box::new(hooks)).is_ok()
    }

    pub(crate) fn reach(point: &'static str) {
        if let Some(hooks) = HOOKS.get() {
            hooks.reach(point);
        }
    }

    pub(crate) fn is_refused(refusal: Refusal, point: &'static str) -> bool {
        HOOKS.get().is_some_and(|hooks| hooks.is_refused(refusal, point))
    }
}
