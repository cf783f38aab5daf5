//! Where the flows lie: parallel arrays of fixed length, a list of free slots through them, and
//! the index that leads from a key to a slot. Knows keys, not time and not protocols.

use super::entry::{Cold, Entry};
use super::flow::FlowIndex;
use super::hit::Candidate;
use super::index::Index;
use crate::cpu::{prefetch, present, untouched};
use crate::packet::{FlowHasher, FlowKey, LongAddresses, PackedKey};

/// Ends the list of free slots.
const NONE: u32 = u32::MAX;

/// The storage of a shard.
#[derive(Debug)]
pub(super) struct Table {
    hasher: FlowHasher,
    index: Index,
    entries: Vec<Entry>,
    colds: Vec<Cold>,
    /// Addresses of IPv6 flows. The pages stay untouched until one uses them, so that IPv4 flows
    /// cost nothing here; a slot's first IPv6 flow waits for its page, once for 128 slots.
    addresses_v6: Vec<LongAddresses>,
    /// First slot of the list of freed ones.
    free_head: u32,
    /// Slots that have ever been in use; all after them are free, and not in the list.
    used: u32,
    len: u32,
}

impl Table {
    /// Room for `capacity` flows.
    pub(super) fn new(capacity: u32, seed: [u64; 2]) -> Self {
        let slots = capacity as usize;
        Self {
            hasher: FlowHasher::new(seed),
            index: Index::new(capacity),
            entries: present(Entry::FREE, slots),
            colds: present(Cold::FREE, slots),
            addresses_v6: untouched(slots),
            free_head: NONE,
            used: 0,
            len: 0,
        }
    }

    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash(key)
    }

    #[inline]
    pub(super) fn hash_packed(&self, key: &PackedKey, beside: &LongAddresses) -> u64 {
        self.hasher.hash_packed(key, beside)
    }

    #[inline]
    pub(super) fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    #[inline]
    pub(super) fn prefetch_second_bucket(&self, hash: u64) {
        self.index.prefetch_second(hash);
    }

    #[inline]
    pub(super) fn prefetch_entry(&self, hash: u64) {
        if let Candidate::Entry(FlowIndex(slot)) = self.index.candidate(hash) {
            self.prefetch_slot(slot);
        }
    }

    /// The likely slot of a hash, asked for with what lies beside it.
    #[inline]
    pub(super) fn candidate(&self, hash: u64, is_v6: bool) -> Candidate {
        let candidate = self.index.candidate(hash);
        if let Candidate::Entry(FlowIndex(slot)) = candidate {
            self.prefetch_whole(slot, is_v6);
        }
        candidate
    }

    /// The same in the second bucket.
    #[inline]
    pub(super) fn second_candidate(&self, hash: u64, is_v6: bool) -> Option<FlowIndex> {
        let slot = self.index.second_candidate(hash)?;
        self.prefetch_whole(slot, is_v6);
        Some(FlowIndex(slot))
    }

    /// Whether what lies beside a key lies beside a slot as well; of IPv4 there is nothing.
    #[inline]
    pub(super) fn is_beside(&self, slot: u32, key: &PackedKey, beside: &LongAddresses) -> bool {
        !key.is_v6() || self.addresses(slot) == *beside
    }

    #[inline]
    fn prefetch_whole(&self, slot: u32, is_v6: bool) {
        self.prefetch_slot(slot);
        if is_v6 && let Some(addresses) = self.addresses_v6.get(slot as usize) {
            prefetch(addresses);
        }
    }

    /// The slot of this key, alive or not.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey, hash: u64) -> Option<u32> {
        let (packed, beside) = PackedKey::of(key);
        self.find_packed(&packed, &beside, hash)
    }

    /// The same of a packed key.
    #[inline]
    pub(super) fn find_packed(
        &self,
        key: &PackedKey,
        beside: &LongAddresses,
        hash: u64,
    ) -> Option<u32> {
        self.index.find(hash, |slot| {
            let entry = self.entry(slot);
            entry.is_some_and(|entry| entry.has_key(key) && self.is_beside(slot, key, beside))
        })
    }

    /// Puts a flow that is not there yet into a free slot, if there is one.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        entry: &Entry,
        cold: Cold,
        beside: &LongAddresses,
    ) -> Option<u32> {
        let slot = self.first_free()?;
        self.index.insert(hash, slot).ok()?;
        let at = slot as usize;
        let (to, to_cold) = (self.entries.get_mut(at)?, self.colds.get_mut(at)?);
        if slot == self.used {
            self.used = self.used.saturating_add(1);
        } else {
            self.free_head = to.next_free();
        }
        *to = *entry;
        *to_cold = cold;
        if entry.is_v6()
            && let Some(addresses) = self.addresses_v6.get_mut(at)
        {
            *addresses = *beside;
        }
        self.len = self.len.saturating_add(1);
        Some(slot)
    }

    /// Asks for the line of a slot.
    #[inline]
    pub(super) fn prefetch_slot(&self, slot: u32) {
        if let Some(entry) = self.entries.get(slot as usize) {
            prefetch(entry);
        }
    }

    /// Asks for the cold part of a slot.
    #[inline]
    pub(super) fn prefetch_cold(&self, slot: u32) {
        if let Some(cold) = self.colds.get(slot as usize) {
            prefetch(cold);
        }
    }

    /// Asks for what a slot's key has outside of its line; the line should be near.
    #[inline]
    pub(super) fn prefetch_addresses(&self, slot: u32) {
        if let Some(addresses) = self.addresses_v6.get(slot as usize)
            && self.entry(slot).is_some_and(Entry::is_v6)
        {
            prefetch(addresses);
        }
    }

    /// Frees a slot, if it is in use; what was in it. `hash` is that of its key.
    pub(super) fn remove(&mut self, slot: u32, hash: u64) -> Option<Entry> {
        let to = self.entries.get_mut(slot as usize)?;
        let entry = *to;
        entry.state?;
        let is_removed = self.index.remove(hash, slot);
        debug_assert!(is_removed, "a flow that the index does not know");
        *to = Entry::free_before(self.free_head);
        self.free_head = slot;
        self.len = self.len.saturating_sub(1);
        Some(entry)
    }

    /// The hash of a slot in use.
    #[inline]
    pub(super) fn hash_of(&self, slot: u32) -> Option<u64> {
        let (key, beside) = self.packed_key(slot)?;
        Some(self.hash_packed(&key, &beside))
    }

    /// The key of a slot in use.
    pub(super) fn key(&self, slot: u32) -> Option<FlowKey> {
        let (key, beside) = self.packed_key(slot)?;
        Some(key.unpack(beside))
    }

    /// The same, packed, and what lies beside it.
    #[inline]
    pub(super) fn packed_key(&self, slot: u32) -> Option<(PackedKey, LongAddresses)> {
        let entry = self.entry(slot)?;
        entry.state?;
        let beside = if entry.is_v6() {
            self.addresses(slot)
        } else {
            [0; 2]
        };
        Some((entry.key(), beside))
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)
    }

    #[inline]
    pub(super) fn pair(&self, slot: u32) -> Option<(&Entry, &Cold)> {
        Some((
            self.entries.get(slot as usize)?,
            self.colds.get(slot as usize)?,
        ))
    }

    #[inline]
    pub(super) fn pair_mut(&mut self, slot: u32) -> Option<(&mut Entry, &mut Cold)> {
        let entry = self.entries.get_mut(slot as usize)?;
        Some((entry, self.colds.get_mut(slot as usize)?))
    }

    /// Slots in use.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Slots that have ever been in use are below this.
    #[inline]
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// All slots.
    pub(super) fn capacity(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Bytes taken, those of IPv6 addresses apart.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let line = size_of::<Entry>().saturating_add(size_of::<Cold>());
        let slots = self.entries.len();
        let bytes = slots
            .saturating_mul(line)
            .saturating_add(self.index.bytes());
        (bytes, slots.saturating_mul(size_of::<LongAddresses>()))
    }

    fn addresses(&self, slot: u32) -> LongAddresses {
        let addresses = self.addresses_v6.get(slot as usize);
        addresses.copied().unwrap_or_default()
    }

    /// The slot that the next flow gets.
    #[inline]
    pub(super) fn first_free(&self) -> Option<u32> {
        if self.free_head != NONE {
            return Some(self.free_head);
        }
        (self.used < self.capacity()).then_some(self.used)
    }
}

#[cfg(test)]
impl Table {
    /// Panics unless slots, free list and index agree.
    pub(super) fn check(&self) {
        let mut free = 0;
        let mut slot = self.free_head;
        while slot != NONE {
            let entry = self.entry(slot).unwrap();
            assert_eq!(entry.state, None, "slot {slot} is free and in use");
            free += 1;
            assert!(free <= self.used, "the free list is a ring");
            slot = entry.next_free();
        }
        assert_eq!(
            free + self.len + (self.capacity() - self.used),
            self.capacity()
        );
        let in_use = self.entries.iter().filter(|entry| entry.state.is_some());
        assert_eq!(in_use.count(), self.len as usize);
        let indexed = self.index.check(|slot| self.hash(&self.key(slot).unwrap()));
        assert_eq!(indexed, self.len);
        for slot in 0..self.used {
            if let Some(key) = self.key(slot) {
                assert_eq!(self.find(&key, self.hash(&key)), Some(slot));
            }
        }
    }

    /// The index, for its statistics.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }
}
