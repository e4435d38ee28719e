use serde::{Deserialize, Serialize};

/// Names the way that a child takes in its environment.
const WAY: &str = "TENANTRY_TEST_WAY";

/// A way in which directories are opened and moved. The kernel and the file system choose it; tests
/// choose it by refusing calls at failpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Way {
    /// `openat2`, and a rename that replaces nothing.
    #[default]
    AtOnce,
    /// A walk from segment to segment, and a rename onto an empty directory.
    InSteps,
    /// A copy, since the rename fails with `EXDEV`.
    Copied,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::AtOnce, Self::InSteps, Self::Copied];

    /// The variable of the environment by which a child takes this way, if it calls
    /// [`take_from_environment`].
    pub fn variable(self) -> (&'static str, String) {
        (WAY, serde_json::to_string(&self).unwrap())
    }
}

/// Whether this build has failpoints. If not, a person is told; CI fails.
pub fn has_failpoints() -> bool {
    let has_failpoints = cfg!(debug_assertions);
    if !has_failpoints {
        crate::support::skipped("failpoints need a debug build");
    }
    has_failpoints
}

/// Takes the way that the environment names, in this process and for good, and returns it.
pub fn take_from_environment() -> Way {
    let Ok(way) = std::env::var(WAY) else { return Way::AtOnce };
    let way = serde_json::from_str(&way).unwrap();
    take(way);
    way
}

#[cfg(debug_assertions)]
pub use with_failpoints::take;

/// Fails: there is only one way without failpoints.
#[cfg(not(debug_assertions))]
pub fn take(way: Way) {
    assert_eq!(way, Way::AtOnce, "this build has no failpoints");
}

#[cfg(debug_assertions)]
mod with_failpoints {
    use tenantry::failpoint::{Hooks, Refusal, install};

    use super::Way;

    impl Way {
        /// Returns whether a call is refused on this way.
        pub fn refuses(self, refusal: Refusal, point: &'static str) -> bool {
            match refusal {
                Refusal::Openat2 | Refusal::NoReplace => self == Self::InSteps,
                // Those stay within one directory, or are of what was just made beside the target.
                Refusal::Rename => {
                    let is_near =
                        ["create: ", "open: ", "copy: "].iter().any(|near| point.starts_with(near));
                    self == Self::Copied && !is_near
                }
            }
        }
    }

    struct Taken(Way);

    impl Hooks for Taken {
        fn reach(&self, _: &'static str) {}

        fn is_refused(&self, refusal: Refusal, point: &'static str) -> bool {
            self.0.refuses(refusal, point)
        }
    }

    /// Takes a way in this process, for good. Called again, it changes nothing.
    pub fn take(way: Way) {
        install(Taken(way));
    }
}
