//! A small fixed hash table from numbers to numbers with a bounded probe.
//!
//! Keys are ids that the compiler hands out (never taken from packets), so no traffic chooses where
//! they fall; the table is grown until no key is further than [`PROBES_MAX`] from its home.

/// Most slots that one lookup reads; two cache lines.
const PROBES_MAX: usize = 16;
/// Marks a free slot; never a key.
const FREE: u32 = u32::MAX;
/// Times the table may double before the keys are called impossible.
const DOUBLINGS_MAX: u32 = 16;

/// Numbers to numbers.
///
/// The default one is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyMap {
    /// (key, value) pairs; a power of two and `PROBES_MAX` more, so that no probe wraps around.
    slots: Box<[(u32, u32)]>,
    /// Right shift of the hash that leaves the home slot.
    shift: u32,
}

impl KeyMap {
    /// A map of these pairs; keys are distinct. `None` if a key is `u32::MAX`, or the keys cannot
    /// be placed (no set of distinct keys is known that cannot).
    pub(crate) fn new(pairs: &[(u32, u32)]) -> Option<Self> {
        let bits = pairs
            .len()
            .saturating_mul(2)
            .next_power_of_two()
            .trailing_zeros();
        (0..DOUBLINGS_MAX).find_map(|more| Self::with_bits(pairs, bits.saturating_add(more)))
    }

    fn with_bits(pairs: &[(u32, u32)], bits: u32) -> Option<Self> {
        let len = 1_usize.checked_shl(bits)?.checked_add(PROBES_MAX)?;
        let mut map = Self {
            slots: vec![(FREE, 0); len].into(),
            shift: 64_u32.checked_sub(bits)?,
        };
        for &(key, value) in pairs.iter().filter(|(key, _)| *key != FREE) {
            let home = map.home(key);
            let slot = map
                .slots
                .get_mut(home..home.checked_add(PROBES_MAX)?)?
                .iter_mut()
                .find(|(used, _)| *used == FREE)?;
            *slot = (key, value);
        }
        Some(map)
    }

    /// The value of a key.
    #[inline]
    pub(crate) fn find(&self, key: u32) -> Option<u32> {
        for &(used, value) in self.slots.get(self.home(key)..)?.iter().take(PROBES_MAX) {
            if used == FREE {
                return None;
            }
            if used == key {
                return Some(value);
            }
        }
        None
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Fibonacci hashing: consecutive ids spread evenly.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the shift leaves the slot bits only"
    )]
    fn home(&self, key: u32) -> usize {
        u64::from(key)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .checked_shr(self.shift)
            .unwrap_or(0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        for count in [0_u32, 1, 2, 3, 17, 1000, 50_000] {
            for stride in [1_u32, 2, 64, 4096] {
                let pairs: Vec<_> = (0..count).map(|i| (i * stride, i + 1)).collect();
                let map = KeyMap::new(&pairs).unwrap();
                for (key, value) in &pairs {
                    assert_eq!(map.find(*key), Some(*value));
                    if stride > 1 {
                        assert_eq!(map.find(key + 1), None);
                    }
                }
                assert_eq!(map.find(count * stride), None);
                assert_eq!(map.find(u32::MAX), None);
            }
        }
    }
}
