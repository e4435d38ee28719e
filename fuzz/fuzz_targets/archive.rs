#![no_main]

use std::sync::OnceLock;

use tenantry_fuzz::properties::{Archives, archive};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static ARCHIVES: OnceLock<Archives> = OnceLock::new();
    archive(ARCHIVES.get_or_init(Archives::new), input);
});
