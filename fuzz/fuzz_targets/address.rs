#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    tenantry_fuzz::properties::address(input);
});
