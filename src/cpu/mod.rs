//! What depends on the processor and its memory: prefetch, compares of several numbers at once,
//! pages that are there. A leaf; `unsafe` is allowed here.
#![expect(unsafe_code, reason = "these have no safe form in std")]

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

/// A bit for each of the ten numbers that equals `wanted`; the first in bit 0.
#[must_use]
#[inline]
pub fn matching(numbers: &[u16; 10], wanted: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: SSE2 is part of every x86_64.
        unsafe { matching_sse2(numbers, wanted) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let bits = numbers.iter().zip(0_u32..);
        bits.fold(0, |mask, (number, at)| {
            mask | u32::from(*number == wanted) << at
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn matching_sse2(numbers: &[u16; 10], wanted: u16) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_set1_epi16,
    };
    let [.., a, b] = *numbers;
    // SAFETY: unaligned, and inside of the array: 16 of its 20 bytes.
    let eight = unsafe { _mm_loadu_si128(numbers.as_ptr().cast::<__m128i>()) };
    let two = _mm_cvtsi32_si128((u32::from(b) << 16 | u32::from(a)).cast_signed());
    let wanted = _mm_set1_epi16(wanted.cast_signed());
    let equal = _mm_packs_epi16(_mm_cmpeq_epi16(eight, wanted), _mm_cmpeq_epi16(two, wanted));
    // The second vector has zeros beyond its two numbers.
    _mm_movemask_epi8(equal).cast_unsigned() & 0x3ff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_bit() {
        for mask in 0..1024_u32 {
            for wanted in [0, 1, 0x7fff, 0x8000, u16::MAX] {
                let numbers = std::array::from_fn(|at| match mask >> at & 1 {
                    1 => wanted,
                    _ => wanted ^ 0x0101,
                });
                assert_eq!(matching(&numbers, wanted), mask);
            }
        }
        assert_eq!(matching(&[0; 10], 7), 0);
        assert_eq!(matching(&[0; 10], 0), 0x3ff);
    }
}
