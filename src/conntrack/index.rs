//! From a hash to entry numbers: a fixed array of buckets, each one cache line.
//!
//! A key has two candidate buckets. It goes to its primary while that has room, else to the other,
//! as a *guest*; the primary then counts one more `overflow`, and only while that is not zero do
//! lookups read the second bucket. Removing clears the slot and the count: there are no
//! tombstones, and nothing degrades with churn.
//!
//! When both are full, one resident of either moves to its own other bucket if that has room
//! (one step of a cuckoo table, never a chain). The other bucket follows from the bucket and the
//! tag alone, so no entry is read for it. Only when none can move is the insert refused.

use super::flow::FlowIndex;
use super::hit::Candidate;
use crate::cpu::{matching, prefetch, present};

/// Slots of a bucket: 10 × (2 + 4) bytes and 4 bytes of bookkeeping fill a cache line.
const SLOTS: usize = 10;

/// Flows for each bucket when the table is full: 80 % of the slots. One in 14 flows is then a
/// guest, and one miss in four reads a second bucket; half full, next to none.
const FLOWS_PER_BUCKET: u32 = 8;

/// Buckets beyond that, so that small tables have room whatever the hash does.
const BUCKETS_SPARE: u32 = 8;

/// Marks a free slot; tags of keys are never zero.
const TAG_FREE: u16 = 0;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    /// Bit `i`: slot `i` holds a guest.
    guests: u16,
    /// Keys whose primary this is that live in their secondary.
    overflow: u16,
    entries: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self {
        tags: [TAG_FREE; SLOTS],
        guests: 0,
        overflow: 0,
        entries: [0; SLOTS],
    };

    /// A bit for each free slot.
    #[inline]
    fn free(&self) -> u32 {
        matching(&self.tags, TAG_FREE)
    }

    /// Calls `visit` with the entries under `tag` until it says yes.
    #[inline]
    fn find(&self, tag: u16, mut visit: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut matches = matching(&self.tags, tag);
        // One bit for each slot at most.
        while matches != 0 {
            let entry = *self.entries.get(matches.trailing_zeros() as usize)?;
            if visit(entry) {
                return Some(entry);
            }
            matches &= matches.wrapping_sub(1);
        }
        None
    }

    /// Puts an entry into a free slot, if there is one.
    #[inline]
    fn put(&mut self, tag: u16, entry: u32, is_guest: bool) -> bool {
        let free = self.free();
        if free == 0 {
            return false;
        }
        let slot = free.trailing_zeros() as usize;
        if let (Some(to_tag), Some(to_entry)) =
            (self.tags.get_mut(slot), self.entries.get_mut(slot))
        {
            (*to_tag, *to_entry) = (tag, entry);
            self.guests = (self.guests & !bit(slot)) | if is_guest { bit(slot) } else { 0 };
        }
        true
    }

    /// Frees the slot that holds `entry`, if one does.
    #[inline]
    fn take(&mut self, tag: u16, entry: u32) -> bool {
        let mut matches = matching(&self.tags, tag);
        // One bit for each slot at most.
        while matches != 0 {
            let slot = matches.trailing_zeros() as usize;
            if self.entries.get(slot) == Some(&entry)
                && let Some(tag) = self.tags.get_mut(slot)
            {
                *tag = TAG_FREE;
                self.guests &= !bit(slot);
                return true;
            }
            matches &= matches.wrapping_sub(1);
        }
        false
    }

    /// Tag, entry and whether it is a guest.
    fn slot(&self, slot: usize) -> Option<(u16, u32, bool)> {
        let tag = *self.tags.get(slot)?;
        Some((tag, *self.entries.get(slot)?, self.guests & bit(slot) != 0))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "slots are under 16")]
fn bit(slot: usize) -> u16 {
    1u16.wrapping_shl(slot as u32)
}

/// Both candidate buckets of a key are full and nobody in them can move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The buckets.
#[derive(Debug)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    /// Length of `buckets`.
    count: u32,
    /// Buckets touched.
    #[cfg(test)]
    steps: std::cell::Cell<u32>,
}

/// Where a key may be.
#[derive(Clone, Copy)]
struct Place {
    primary: u32,
    secondary: u32,
    tag: u16,
}

impl Index {
    /// An index that holds `max_flows` entries.
    pub(super) fn new(max_flows: u32) -> Self {
        let count = max_flows
            .div_ceil(FLOWS_PER_BUCKET)
            .saturating_add(BUCKETS_SPARE);
        Self {
            buckets: present(Bucket::EMPTY, count as usize),
            count,
            #[cfg(test)]
            steps: std::cell::Cell::default(),
        }
    }

    /// Asks for the primary bucket.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.bucket(self.primary(hash)) {
            prefetch(bucket);
        }
    }

    /// Asks for the secondary bucket, should a key of this hash live there; the primary should be
    /// near.
    #[inline]
    pub(super) fn prefetch_second(&self, hash: u64) {
        let primary = self.primary(hash);
        if self
            .bucket(primary)
            .is_some_and(|bucket| bucket.overflow != 0)
            && let Some(second) = self.bucket(self.other(primary, tag(hash)))
        {
            prefetch(second);
        }
    }

    /// First entry in the primary bucket under the hash's tag; the bucket should be near. If there
    /// is none, it asks for the second bucket, should that count.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Candidate {
        let primary = self.primary(hash);
        let Some(bucket) = self.bucket(primary) else {
            return Candidate::None;
        };
        match bucket.find(tag(hash), |_| true) {
            Some(slot) => Candidate::Entry(FlowIndex(slot)),
            // It may be in the second one, or else would have to go there.
            None if bucket.overflow != 0 || bucket.free() == 0 => {
                let may_have_it = bucket.overflow != 0;
                if let Some(second) = self.bucket(self.other(primary, tag(hash))) {
                    prefetch(second);
                }
                match may_have_it {
                    true => Candidate::Second,
                    false => Candidate::None,
                }
            }
            None => Candidate::None,
        }
    }

    /// First entry in the second bucket under the hash's tag.
    #[inline]
    pub(super) fn second_candidate(&self, hash: u64) -> Option<u32> {
        let second = self.other(self.primary(hash), tag(hash));
        self.bucket(second)?.find(tag(hash), |_| true)
    }

    /// The entry under this hash that `is_match` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_match: impl FnMut(u32) -> bool) -> Option<u32> {
        let primary = self.primary(hash);
        let bucket = self.bucket(primary)?;
        let found = bucket.find(tag(hash), &mut is_match);
        if found.is_some() || bucket.overflow == 0 {
            return found;
        }
        let secondary = self.other(primary, tag(hash));
        self.bucket(secondary)?.find(tag(hash), is_match)
    }

    /// Adds an entry that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, entry: u32) -> Result<(), NoRoom> {
        let place = self.place(hash);
        if self.put_primary(place, entry).is_ok() || self.put_guest(place, entry).is_ok() {
            return Ok(());
        }
        if self.make_room(place.primary) {
            return self.put_primary(place, entry);
        }
        if self.make_room(place.secondary) {
            return self.put_guest(place, entry);
        }
        Err(NoRoom)
    }

    /// Removes an entry; whether it was there.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) -> bool {
        let place = self.place(hash);
        let bucket = self.bucket_mut(place.primary);
        if bucket.is_some_and(|bucket| bucket.take(place.tag, entry)) {
            return true;
        }
        let bucket = self.bucket_mut(place.secondary);
        let is_taken = bucket.is_some_and(|bucket| bucket.take(place.tag, entry));
        if is_taken && let Some(bucket) = self.bucket_mut(place.primary) {
            bucket.overflow = bucket.overflow.saturating_sub(1);
        }
        is_taken
    }

    /// Bytes that the buckets take.
    pub(super) fn bytes(&self) -> usize {
        self.buckets.len().saturating_mul(size_of::<Bucket>())
    }

    fn put_primary(&mut self, place: Place, entry: u32) -> Result<(), NoRoom> {
        let bucket = self.bucket_mut(place.primary).ok_or(NoRoom)?;
        let is_put = bucket.put(place.tag, entry, false);
        if is_put { Ok(()) } else { Err(NoRoom) }
    }

    fn put_guest(&mut self, place: Place, entry: u32) -> Result<(), NoRoom> {
        let host = self.bucket_mut(place.primary).ok_or(NoRoom)?;
        let overflow = host.overflow.checked_add(1).ok_or(NoRoom)?;
        let bucket = self.bucket_mut(place.secondary).ok_or(NoRoom)?;
        if !bucket.put(place.tag, entry, true) {
            return Err(NoRoom);
        }
        if let Some(host) = self.bucket_mut(place.primary) {
            host.overflow = overflow;
        }
        Ok(())
    }

    /// Moves one resident of a full bucket to its other bucket; whether one could.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, from: u32) -> bool {
        for slot in 0..SLOTS {
            let Some((tag, entry, is_guest)) = self.bucket(from).and_then(|b| b.slot(slot)) else {
                continue;
            };
            let to = self.other(from, tag);
            if to == from || self.bucket(to).is_none_or(|b| b.free() == 0) {
                continue;
            }
            if let Some(bucket) = self.bucket_mut(from) {
                bucket.take(tag, entry);
            }
            let place = Place {
                primary: if is_guest { to } else { from },
                secondary: if is_guest { from } else { to },
                tag,
            };
            let moved = if is_guest {
                if let Some(home) = self.bucket_mut(to) {
                    home.overflow = home.overflow.saturating_sub(1);
                }
                self.put_primary(place, entry)
            } else {
                self.put_guest(place, entry)
            };
            if moved.is_err() {
                // Only a primary with 65,535 guests elsewhere refuses: back to where it was.
                if let Some(bucket) = self.bucket_mut(from) {
                    bucket.put(tag, entry, is_guest);
                }
                continue;
            }
            return true;
        }
        false
    }

    fn place(&self, hash: u64) -> Place {
        let primary = self.primary(hash);
        let tag = tag(hash);
        Place {
            primary,
            secondary: self.other(primary, tag),
            tag,
        }
    }

    #[inline]
    fn primary(&self, hash: u64) -> u32 {
        scale(hash >> 32, self.count)
    }

    /// The other candidate of a key in `bucket`; its own inverse. Now and then it is the same.
    #[inline]
    fn other(&self, bucket: u32, tag: u16) -> u32 {
        // Fibonacci hashing spreads the tag over 32 bits.
        let sum = scale(
            u64::from(u32::from(tag).wrapping_mul(0x9e37_79b1)),
            self.count,
        );
        if sum >= bucket {
            sum.wrapping_sub(bucket)
        } else {
            sum.wrapping_add(self.count).wrapping_sub(bucket)
        }
    }

    #[inline]
    fn bucket(&self, number: u32) -> Option<&Bucket> {
        #[cfg(test)]
        self.steps.update(|steps| steps + 1);
        self.buckets.get(number as usize)
    }

    #[inline]
    fn bucket_mut(&mut self, number: u32) -> Option<&mut Bucket> {
        #[cfg(test)]
        self.steps.update(|steps| steps + 1);
        self.buckets.get_mut(number as usize)
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(TAG_FREE.wrapping_add(1))
}

/// Scales 32 bits to `0..count`.
#[inline]
fn scale(bits: u64, count: u32) -> u32 {
    (bits.wrapping_mul(u64::from(count)) >> 32) as u32
}

#[cfg(test)]
impl Index {
    /// Every entry with the bucket's claim about it checked: the number of entries.
    pub(super) fn check(&self, hash_of: impl Fn(u32) -> u64) -> u32 {
        let mut overflow = std::collections::HashMap::<u32, u16>::new();
        let mut entries = 0;
        for (number, bucket) in self.buckets.iter().enumerate() {
            for slot in 0..SLOTS {
                let (found, entry, is_guest) = bucket.slot(slot).unwrap();
                if found == TAG_FREE {
                    assert!(!is_guest);
                    continue;
                }
                entries += 1;
                let place = self.place(hash_of(entry));
                assert_eq!(found, place.tag);
                let home = if is_guest {
                    place.secondary
                } else {
                    place.primary
                };
                assert_eq!(home as usize, number);
                if is_guest {
                    *overflow.entry(place.primary).or_default() += 1;
                }
            }
        }
        for (number, bucket) in self.buckets.iter().enumerate() {
            let expected = overflow.get(&u32::try_from(number).unwrap());
            assert_eq!(bucket.overflow, expected.copied().unwrap_or(0));
        }
        entries
    }

    /// Entries that live in their secondary bucket, and buckets that have lost some.
    pub(super) fn spill(&self) -> (u32, usize) {
        let guests = self.buckets.iter().map(|b| b.guests.count_ones()).sum();
        let open = self.buckets.iter().filter(|b| b.overflow != 0).count();
        (guests, open)
    }

    /// Buckets touched since this was asked last.
    pub(super) fn count_steps(&self) -> u32 {
        self.steps.take()
    }

    pub(super) fn buckets_count(&self) -> usize {
        self.buckets.len()
    }
}
