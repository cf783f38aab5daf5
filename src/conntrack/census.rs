//! Which slots of rules and interfaces flows name, so that the others can be used again.

use super::shard::Shard;
use crate::types::{InterfaceSlot, RuleSlot};

/// Slots in one word of a set.
const WORD: u32 = u64::BITS;

/// Slots that some flow names, of those below the limits that it was made for.
#[derive(Clone, Debug, Default)]
pub struct HeldSlots {
    rules: Box<[u64]>,
    interfaces: Box<[u64]>,
}

impl HeldSlots {
    /// None yet; takes all its memory here.
    #[must_use]
    pub fn new(rules_limit: RuleSlot, interfaces_limit: InterfaceSlot) -> Self {
        let words = |limit: u32| vec![0; limit.div_ceil(WORD) as usize].into();
        Self {
            rules: words(rules_limit.0),
            interfaces: words(interfaces_limit.0),
        }
    }

    /// Whether a rule's slot is named, or was beyond the limit.
    #[must_use]
    pub fn has_rule(&self, slot: RuleSlot) -> bool {
        has(&self.rules, slot.0)
    }

    /// Whether an interface's slot is named, or was beyond the limit.
    #[must_use]
    pub fn has_interface(&self, slot: InterfaceSlot) -> bool {
        has(&self.interfaces, slot.0)
    }
}

fn has(words: &[u64], slot: u32) -> bool {
    let word = words.get((slot / WORD) as usize);
    word.is_none_or(|word| word & bit(slot) != 0)
}

#[inline]
fn mark(words: &mut [u64], slot: u32) {
    if let Some(word) = words.get_mut((slot / WORD) as usize) {
        *word |= bit(slot);
    }
}

#[inline]
fn bit(slot: u32) -> u64 {
    1_u64.wrapping_shl(slot % WORD)
}

impl Shard {
    /// Marks what the flows name in at most `slots_max` slots of the table from `cursor` on (0 to
    /// begin with); where to go on, until there is nothing left. Flows past their deadline count
    /// until they are taken back, since their share of an interface is given back then.
    pub fn mark_held(&self, cursor: u32, slots_max: u32, held: &mut HeldSlots) -> Option<u32> {
        let used = self.table.used();
        let end = cursor.saturating_add(slots_max).min(used);
        for slot in cursor..end {
            let entry = self.table.entry(slot);
            let Some(entry) = entry.filter(|entry| entry.state.is_some()) else {
                continue;
            };
            if let Some(interface) = self.interfaces.slot(entry.interface) {
                mark(&mut held.interfaces, interface);
            }
            if let Some(rule) = self.rules.slot(entry.rule) {
                mark(&mut held.rules, rule);
            }
        }
        (end < used).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_beyond_the_limit_count_as_held() {
        let mut held = HeldSlots::new(RuleSlot(65), InterfaceSlot(0));
        for slot in [0, 63, 64, 65, 1000] {
            mark(&mut held.rules, slot);
        }
        let found: Vec<u32> = (0..70).filter(|s| held.has_rule(RuleSlot(*s))).collect();
        assert_eq!(found, [0, 63, 64, 65]);
        assert!(held.has_rule(RuleSlot(128)) && held.has_rule(RuleSlot(u32::MAX)));
        assert!(held.has_interface(InterfaceSlot(0)));
    }
}
