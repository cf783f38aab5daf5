//! Fuzzes the policy document.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target is a binary of its own")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::policy(data));
