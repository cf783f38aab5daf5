//! The four rings of an AF_XDP socket: single-producer, single-consumer, shared with the kernel.
//!
//! Two layers. A cursor is arithmetic alone: free-running `u32` indexes that wrap, and a cached
//! view of the other side's. A ring adds the memory: it loads and stores the shared indexes with
//! the orderings that the kernel pairs with, and copies items in and out.
//!
//! ```text
//!   we produce: fill, TX              we consume: RX, completion
//!   reserve ─ push… ─ submit          peek ─ pop… ─ release
//! ```
//!
//! The other side is untrusted: an index that makes no sense yields at most `size` items, and an
//! item's place is masked, so that no read or write leaves the ring.
#![expect(unsafe_code, reason = "memory shared with the kernel")]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use std::fmt;
use std::ptr::NonNull;

use super::abi::{Descriptor, RingOffset};
use super::sys::Mapping;
use crate::sync::{Arc, AtomicU32, Ordering};

/// Items of a ring: what it holds is copied as it is.
pub(super) trait Item: Copy + Send + 'static {}
impl Item for u64 {}
impl Item for Descriptor {}

/// Index arithmetic of a producer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProducerCursor {
    /// Index of the next item to write.
    next: u32,
    /// The consumer's index as last seen.
    consumer: u32,
    size: u32,
}

impl ProducerCursor {
    fn new(index: u32, size: u32) -> Self {
        Self {
            next: index,
            consumer: index,
            size,
        }
    }

    /// Slots that are free as far as is known; none if the consumer's index makes no sense.
    #[inline]
    fn free(self) -> u32 {
        self.size
            .saturating_sub(self.next.wrapping_sub(self.consumer))
    }

    /// Items written that the consumer has not taken as far as is known.
    #[inline]
    fn pending(self) -> u32 {
        self.next.wrapping_sub(self.consumer).min(self.size)
    }

    /// The slot to write next, if one is free.
    #[inline]
    fn advance(&mut self) -> Option<u32> {
        if self.free() == 0 {
            return None;
        }
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        Some(index)
    }
}

/// Index arithmetic of a consumer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerCursor {
    /// Index of the next item to read.
    next: u32,
    /// The producer's index as last seen.
    producer: u32,
    size: u32,
}

impl ConsumerCursor {
    fn new(index: u32, size: u32) -> Self {
        Self {
            next: index,
            producer: index,
            size,
        }
    }

    /// Items that are there as far as is known; never more than the ring has slots.
    #[inline]
    fn available(self) -> u32 {
        self.producer.wrapping_sub(self.next).min(self.size)
    }

    /// The slot to read next, if one is there.
    #[inline]
    fn advance(&mut self) -> Option<u32> {
        if self.available() == 0 {
            return None;
        }
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        Some(index)
    }
}

/// Where a ring's words and slots are.
struct RingMemory<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    mask: u32,
    /// Keeps the pointers above valid; dropped with the ring.
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointers lead into a mapping that lives as long as this value, and a ring has one
// owner, so moving it to another thread moves the only user of our side.
unsafe impl<T: Item> Send for RingMemory<T> {}

impl<T: Item> RingMemory<T> {
    /// Finds the words of a ring of `size` slots in its mapping; `None` if they do not fit in it,
    /// are not aligned, or `size` is no power of two.
    fn new(mapping: Arc<Mapping>, offset: &RingOffset, size: u32) -> Option<Self> {
        let slots_len = usize::try_from(size).ok()?.checked_mul(size_of::<T>())?;
        let word = |at: u64| place::<AtomicU32>(&mapping, at, size_of::<AtomicU32>());
        Some(Self {
            producer: word(offset.producer)?,
            consumer: word(offset.consumer)?,
            flags: word(offset.flags)?,
            slots: place::<T>(&mapping, offset.desc, slots_len)?,
            mask: size.is_power_of_two().then(|| size.wrapping_sub(1))?,
            _mapping: mapping,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside of the mapping (`new`), which lives as long as `self`; both
        // sides access it atomically only.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The slot of an index, for reading or writing by the side whose turn it is.
    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        let place = (index & self.mask) as usize;
        // SAFETY: `place` is below the slot count, and `new` checked that all slots fit.
        unsafe { self.slots.add(place) }
    }

    #[inline]
    fn write(&mut self, index: u32, item: T) {
        // SAFETY: in bounds and aligned (`slot`). The consumer does not read a slot before
        // `submit` moves the producer index past it, so nobody else uses it now.
        unsafe { self.slot(index).write(item) }
    }

    #[inline]
    fn read(&self, index: u32) -> T {
        // SAFETY: in bounds and aligned (`slot`); any bytes are an item. The producer does not
        // write a slot again before `release` moves the consumer index past it.
        unsafe { self.slot(index).read() }
    }

    /// Whether the kernel asks to be woken.
    #[inline]
    fn needs_wakeup(&self) -> bool {
        // Relaxed: a hint that is looked at again every turn while something is pending.
        self.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A pointer to `len` bytes at offset `at` of a mapping, if they lie inside and are aligned.
fn place<T>(mapping: &Mapping, at: u64, len: usize) -> Option<NonNull<T>> {
    let at = usize::try_from(at).ok()?;
    if at.checked_add(len)? > mapping.len() {
        return None;
    }
    // SAFETY: `at` is inside of the mapping, checked above.
    let pointer = unsafe { mapping.base().add(at) }.cast::<T>();
    pointer.is_aligned().then_some(pointer)
}

/// A ring that we fill: fill ring and TX ring.
pub(super) struct ProducerRing<T> {
    memory: RingMemory<T>,
    cursor: ProducerCursor,
    /// What the shared producer index says.
    submitted: u32,
}

impl<T: Item> ProducerRing<T> {
    /// A ring of `size` slots in a mapping, from wherever its indexes stand.
    pub(super) fn new(mapping: Arc<Mapping>, offset: &RingOffset, size: u32) -> Option<Self> {
        let memory = RingMemory::new(mapping, offset, size)?;
        // Relaxed: only we write this index, and we have not yet.
        let index = memory.producer().load(Ordering::Relaxed);
        let mut ring = Self {
            memory,
            cursor: ProducerCursor::new(index, size),
            submitted: index,
        };
        ring.refresh();
        Some(ring)
    }

    /// How many of `wanted` items can be pushed now. Looks at the shared index only if what is
    /// known does not suffice.
    #[inline]
    pub(super) fn reserve(&mut self, wanted: u32) -> u32 {
        if self.cursor.free() < wanted {
            self.refresh();
        }
        self.cursor.free().min(wanted)
    }

    /// Writes an item into the next free slot; the other side sees it after [`Self::submit`].
    ///
    /// # Errors
    /// Gives the item back if no slot is known to be free.
    #[inline]
    pub(super) fn push(&mut self, item: T) -> Result<(), T> {
        let Some(index) = self.cursor.advance() else {
            return Err(item);
        };
        self.memory.write(index, item);
        Ok(())
    }

    /// Shows all pushed items to the other side.
    #[inline]
    pub(super) fn submit(&mut self) {
        if self.submitted != self.cursor.next {
            self.submitted = self.cursor.next;
            // Release: pairs with the consumer's acquire load, which then sees the items.
            self.memory
                .producer()
                .store(self.submitted, Ordering::Release);
        }
    }

    /// Items that the other side has not taken yet, by the shared index.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        if self.cursor.pending() > 0 {
            self.refresh();
        }
        self.cursor.pending()
    }

    /// Whether the kernel asks to be woken for this ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }

    #[inline]
    fn refresh(&mut self) {
        // Acquire: pairs with the consumer's release store; its reads of the slots are done.
        self.cursor.consumer = self.memory.consumer().load(Ordering::Acquire);
    }
}

/// A ring that we empty: RX ring and completion ring.
pub(super) struct ConsumerRing<T> {
    memory: RingMemory<T>,
    cursor: ConsumerCursor,
    /// What the shared consumer index says.
    released: u32,
}

impl<T: Item> ConsumerRing<T> {
    /// A ring of `size` slots in a mapping, from wherever its indexes stand.
    pub(super) fn new(mapping: Arc<Mapping>, offset: &RingOffset, size: u32) -> Option<Self> {
        let memory = RingMemory::new(mapping, offset, size)?;
        // Relaxed: only we write this index, and we have not yet.
        let index = memory.consumer().load(Ordering::Relaxed);
        Some(Self {
            memory,
            cursor: ConsumerCursor::new(index, size),
            released: index,
        })
    }

    /// How many items up to `limit` can be popped now. Looks at the shared index only if what is
    /// known does not suffice.
    #[inline]
    pub(super) fn peek(&mut self, limit: u32) -> u32 {
        if self.cursor.available() < limit {
            // Acquire: pairs with the producer's release store; the items are written.
            self.cursor.producer = self.memory.producer().load(Ordering::Acquire);
        }
        self.cursor.available().min(limit)
    }

    /// Reads the next item that a peek has found.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        let index = self.cursor.advance()?;
        Some(self.memory.read(index))
    }

    /// Gives the popped slots back to the other side.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.released != self.cursor.next {
            self.released = self.cursor.next;
            // Release: pairs with the producer's acquire load; our reads of the slots are done.
            self.memory
                .consumer()
                .store(self.released, Ordering::Release);
        }
    }

    /// Whether items wait, by the shared index; takes nothing.
    #[inline]
    pub(super) fn has_items(&self) -> bool {
        // Acquire: as in `peek`, so that a peek after this sees them too.
        self.memory.producer().load(Ordering::Acquire) != self.cursor.next
    }
}

impl<T> fmt::Debug for ProducerRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerRing")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ConsumerRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerRing")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
