//! Which rules' peers an address belongs to: one table for all programs of a snapshot.
//!
//! Every prefix, prefix list and group membership that some rule names splits the address space;
//! addresses that belong to the same peers are one class. A class is a short list of *keys*. A key
//! stands for one peer or, in the rare class of more than [`CLASS_KEYS_MAX`] peers, for all of
//! them together; the programs keep a row for each key that concerns them. One table for all keeps
//! memory linear in the prefixes: a group of 100,000 members that 10,000 programs refer to is
//! stored once.

use super::interval::IntervalMap;
use crate::packet::Address;

/// Most keys of one class: what bounds the rows that one question reads.
pub(crate) const CLASS_KEYS_MAX: usize = 8;

/// Address → keys.
#[derive(Clone, Debug)]
pub(crate) struct AddressClasses {
    v4: IntervalMap<u32>,
    v6: IntervalMap<u128>,
    /// For each class its count of keys, then the keys; values of the maps are offsets in here.
    keys: Box<[u32]>,
}

impl AddressClasses {
    /// Every address is of the class without keys.
    pub(crate) fn empty() -> Self {
        Self::new(
            IntervalMap::uniform(0),
            IntervalMap::uniform(0),
            Vec::from([0]),
        )
    }

    /// Takes the parts over; each value of the maps is an offset into `keys`, where the number of
    /// keys stands before them.
    pub(crate) fn new(v4: IntervalMap<u32>, v6: IntervalMap<u128>, keys: Vec<u32>) -> Self {
        Self {
            v4,
            v6,
            keys: keys.into(),
        }
    }

    /// The keys of an address's class.
    #[inline]
    pub(crate) fn keys_of(&self, address: Address) -> &[u32] {
        let offset = match address {
            Address::V4(bits) => self.v4.find(bits),
            Address::V6(bits) => self.v6.find(bits),
        };
        offset.map_or(&[], |offset| self.keys_at(offset))
    }

    #[inline]
    fn keys_at(&self, offset: u32) -> &[u32] {
        let Some((count, keys)) = self
            .keys
            .get(offset as usize..)
            .and_then(<[u32]>::split_first)
        else {
            return &[];
        };
        keys.get(..*count as usize).unwrap_or_default()
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.v4
            .bytes()
            .saturating_add(self.v6.bytes())
            .saturating_add(size_of_val(&*self.keys))
    }
}
