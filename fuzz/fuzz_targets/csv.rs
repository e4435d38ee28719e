#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    tenantry_fuzz::row_properties::csv(tenantry_fuzz::empty_store(), input);
});
