//! See `etcd_charm::fuzzing::requests`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etcd_charm::fuzzing::requests(data));
