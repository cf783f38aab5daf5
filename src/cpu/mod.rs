//! What depends on the processor and its memory: prefetch, pages that are there. A leaf; `unsafe`
//! is allowed here.
#![expect(unsafe_code, reason = "prefetch has no safe form in std")]

mod memory;

pub use memory::{present, untouched};

/// Asks for the cache line at `target` to be brought near; has no other effect.
#[inline]
pub fn prefetch<T>(target: &T) {
    let pointer = std::ptr::from_ref(target).cast::<i8>();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of every x86_64; a prefetch never faults, and the pointer comes from
        // a reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer) }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: `prfm` only hints; it reads no memory architecturally and clobbers nothing.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) pointer,
                options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = pointer;
}
