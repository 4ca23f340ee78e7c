#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ailo_fuzz::check("stage", data));
