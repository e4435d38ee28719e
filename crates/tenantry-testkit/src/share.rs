/// `short` in `cargo test`, `long` with `TENANTRY_LONG=1`, for nights.
pub fn share(short: u64, long: u64) -> u64 {
    if std::env::var_os("TENANTRY_LONG").is_some_and(|value| value == "1") { long } else { short }
}

/// Prints the figures of a harness, as `docs/reliability.md` quotes them.
pub fn report(promise: &str, figures: impl std::fmt::Display) {
    println!("reliability: {promise}: {figures}");
}
