//! See `fuzzing::pickle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| modelship_model_store::fuzzing::pickle(data));
