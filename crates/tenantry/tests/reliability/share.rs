//! How many cases a harness runs, and what it says of them in the end.

/// `short` in `cargo test`, `long` with `TENANTRY_LONG=1`, for nights.
pub(crate) fn share(short: u64, long: u64) -> u64 {
    if std::env::var_os("TENANTRY_LONG").is_some_and(|value| value == "1") { long } else { short }
}

/// Prints the figures of a harness, as `docs/reliability.md` quotes them.
pub(crate) fn report(promise: &str, figures: impl std::fmt::Display) {
    println!("reliability: {promise}: {figures}");
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of these, if there are any.
    pub(crate) fn index(&mut self, length: usize) -> Option<usize> {
        (length > 0).then(|| usize::try_from(self.below(length as u64)).unwrap())
    }
}
