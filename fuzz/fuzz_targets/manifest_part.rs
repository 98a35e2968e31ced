#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| refloat_fuzz::repository::manifest_part(bytes));
