//! See `etcd_charm::fuzzing::treefile`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etcd_charm::fuzzing::treefile(data));
