//! Memory that is there before it is needed: the first write to a page that is not is a fault, a
//! pause of about a microsecond for a page of 4 KiB and of a hundred for one of 2 MiB.
#![expect(unsafe_code, reason = "madvise has no safe form in std")]

use std::hint::black_box;

/// Advice is not worth a system call for less than one huge page.
const ADVISED_BYTES_MIN: usize = 2 << 20;

/// So many copies of a value in memory that is there: every page has been written to, on huge pages
/// where the kernel has them, which spare most TLB misses of random access.
#[must_use]
pub fn present<T: Copy>(value: T, count: usize) -> Vec<T> {
    let mut values = Vec::<T>::with_capacity(count);
    let (start, bytes) = (values.as_ptr().addr(), size_of::<T>().saturating_mul(count));
    advise(start, bytes, libc::MADV_HUGEPAGE);
    // The compiler must not know a zero: for zeros it would ask for pages that are not there yet.
    values.resize(count, black_box(value));
    // What is not on huge pages by now never will be: moving it there later halts who uses it.
    advise(start, bytes, libc::MADV_NOHUGEPAGE);
    values
}

/// So many default values in memory that is taken but not there until it is written to, 4 KiB at a
/// time: for what few need. All of `T`'s default must be zero bits, or it is there at once.
#[must_use]
pub fn untouched<T: Copy + Default>(count: usize) -> Vec<T> {
    let values = vec![T::default(); count];
    let bytes = size_of::<T>().saturating_mul(count);
    advise(values.as_ptr().addr(), bytes, libc::MADV_NOHUGEPAGE);
    values
}

/// Tells the kernel how to back the whole pages of a range. It is a wish: who does not get it runs
/// slower, not wrong.
fn advise(start: usize, bytes: usize, advice: libc::c_int) {
    if bytes < ADVISED_BYTES_MIN {
        return;
    }
    // SAFETY: reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = usize::try_from(page).ok().filter(|page| *page > 0) else {
        return;
    };
    let first = start.next_multiple_of(page);
    let len = start.saturating_add(bytes).saturating_sub(first) / page * page;
    let address = std::ptr::without_provenance_mut::<libc::c_void>(first);
    // SAFETY: both pieces of advice that are given here change how pages are backed, never what
    // they hold, and the range lies inside an allocation of the caller's.
    unsafe { libc::madvise(address, len, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of a vector's memory that are there, and all its whole pages.
    fn resident<T>(values: &[T]) -> (usize, usize) {
        let first = values.as_ptr().addr().next_multiple_of(4096);
        let pages = (values.as_ptr_range().end.addr() - first) / 4096;
        let mut there = vec![0u8; pages];
        let address = std::ptr::without_provenance_mut::<libc::c_void>(first);
        // SAFETY: `there` has a byte for each page of the range.
        let result = unsafe { libc::mincore(address, pages * 4096, there.as_mut_ptr()) };
        assert_eq!(result, 0);
        (there.iter().filter(|flags| *flags & 1 != 0).count(), pages)
    }

    #[test]
    fn present_memory_is_there_and_untouched_is_not() {
        let zeros = present(0u16, 8 << 20);
        let (there, pages) = resident(&zeros);
        assert_eq!(there, pages);
        assert!(zeros.iter().all(|zero| *zero == 0));
        // Larger than anything that the allocator would have kept from before.
        let later = untouched::<[u64; 4]>(1 << 21);
        let (there, pages) = resident(&later);
        assert!(there < pages / 100, "{there} of {pages}");
        assert_eq!((later.len(), later.last()), (1 << 21, Some(&[0; 4])));
    }
}
