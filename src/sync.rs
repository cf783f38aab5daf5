//! The atomics and shared pointers of code that threads share: std's.
//!
//! tests/loom.rs compiles the files whose protocols are proved there (the snapshot's publication
//! cell, the workers' doorbell) with a `crate::sync` of loom's instead. The library itself always
//! has std's, which statics and words shared with the kernel need.

pub use std::sync::Arc;
pub use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence,
};
