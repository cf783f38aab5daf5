//! Which rules' peers an address belongs to: one table for all programs of a snapshot.
//!
//! Every prefix, prefix list and group membership that some rule names splits the address space;
//! addresses that belong to the same peers are one class. A class is a short list of *keys*. A key
//! stands for one peer or, in the rare class of more than [`CLASS_KEYS_MAX`] peers, for those of
//! them together that the fewest rules name; the programs keep steps for each key that concerns
//! them. One table for all keeps
//! memory linear in the prefixes: a group of 100,000 members that 10,000 programs refer to is
//! stored once.

use super::interval::IntervalMap;
use super::paged::Paged;
use crate::packet::Address;

/// Most keys of one class: what bounds the steps that one question reads.
pub(crate) const CLASS_KEYS_MAX: usize = 16;
/// Fills the keys of a class up; never a key.
pub(crate) const NO_KEY: u32 = u32::MAX;
/// The class without keys; its number is 0.
pub(crate) const NO_KEYS: ClassKeys = [NO_KEY; CLASS_KEYS_MAX];

/// The keys of a class, those that it has in front: a cache line.
pub(crate) type ClassKeys = [u32; CLASS_KEYS_MAX];

/// Address → keys.
#[derive(Clone, Debug)]
pub(crate) struct AddressClasses {
    /// Addresses to classes, by number.
    pub(crate) v4: IntervalMap<u32>,
    pub(crate) v6: IntervalMap<u128>,
    /// The keys of each class.
    pub(crate) keys: Paged<ClassKeys>,
}

impl AddressClasses {
    /// Every address is of the class without keys.
    pub(crate) fn empty() -> Self {
        Self {
            v4: IntervalMap::uniform(0),
            v6: IntervalMap::uniform(0),
            keys: Paged::default(),
        }
    }

    /// The keys of an address's class.
    #[inline]
    pub(crate) fn keys_of(&self, address: Address) -> &ClassKeys {
        let class = match address {
            Address::V4(bits) => self.v4.find(bits),
            Address::V6(bits) => self.v6.find(bits),
        };
        class
            .and_then(|class| self.keys.get(class as usize))
            .unwrap_or(&NO_KEYS)
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.v4
            .bytes()
            .saturating_add(self.v6.bytes())
            .saturating_add(self.keys.bytes())
    }
}
