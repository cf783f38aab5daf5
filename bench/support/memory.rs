//! An allocator that knows how many bytes are in use, for benchmarks of memory.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Measuring;

/// Bytes in use.
static LIVE: AtomicU64 = AtomicU64::new(0);
/// The most of them while [`peak_bytes`] runs.
static PEAK: AtomicU64 = AtomicU64::new(0);

fn took(layout: Layout) {
    let size = layout.size() as u64;
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout);
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout);
        // SAFETY: the caller's layout is passed on. (Without this, memory that is taken but not
        // used would be written to.)
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: `alloc` had the pointer from the same allocator with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static MEASURING: Measuring = Measuring;

/// Bytes in use.
pub(crate) fn live_bytes() -> u64 {
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes that were in use while `work` ran.
pub(crate) fn peak_bytes(work: impl FnOnce()) -> u64 {
    PEAK.store(live_bytes(), Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed)
}
