//! Large arrays in large pages, where the kernel has them: a random access to a table of many
//! megabytes then costs its cache miss alone, not a walk of the page tables as well.

/// Size of a large page of x86-64 and of most other processors.
pub const LARGE_PAGE: usize = 2 << 20;

/// `len` copies of a value, in large pages if the array is as large as several of them.
#[must_use]
pub fn vec_in_large_pages<T: Clone>(value: T, len: usize) -> Vec<T> {
    let mut items: Vec<T> = Vec::with_capacity(len);
    wish_for_large_pages(items.spare_capacity_mut());
    items.resize(len, value);
    items
}

/// Asks for large pages where an array is as large as several of them, for what has not been
/// touched of it. Only a wish: what the kernel cannot give is made of small pages.
pub fn wish_for_large_pages<T>(room: &mut [T]) {
    let bytes = size_of_val(room);
    if bytes < 2 * LARGE_PAGE {
        return;
    }
    let from = room.as_mut_ptr().cast::<u8>();
    // Whole pages inside of the array, which the allocator shares with nobody.
    let before = from.align_offset(LARGE_PAGE);
    let len = bytes.saturating_sub(before) / LARGE_PAGE * LARGE_PAGE;
    let first = from.wrapping_add(before).cast();
    // SAFETY: the range lies inside of `room`, and the advice changes how it is backed, never what
    // is in it. A refusal is no error here.
    let _refused: i32 = unsafe { libc::madvise(first, len, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_is_what_was_asked_for_whatever_its_size() {
        for len in [0, 1, 1000, LARGE_PAGE, LARGE_PAGE + 7] {
            let items = vec_in_large_pages(7_u64, len);
            assert_eq!(items.len(), len);
            assert!(items.iter().all(|item| *item == 7));
        }
    }
}
