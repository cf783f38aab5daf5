//! The atomics and shared pointers of code that threads share: std's, or loom's under `--cfg loom`.

pub use std::sync::Arc;
pub use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence,
};
