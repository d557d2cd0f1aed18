//! See `etcd_charm::fuzzing::v2`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etcd_charm::fuzzing::v2(data));
