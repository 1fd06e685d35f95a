#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tailcask_fuzz::targets::command(data));
