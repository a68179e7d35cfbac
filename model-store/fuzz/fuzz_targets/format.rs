//! See `fuzzing::format`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| modelship_model_store::fuzzing::format(data));
