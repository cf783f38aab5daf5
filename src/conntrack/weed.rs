//! Ends flows that have lost what they rest on, a few slots at a time.

use super::flow::{FlowHead, FlowIndex};
use super::shard::Shard;
use super::timer::Beat;
use crate::clock::Tick;
use crate::packet::FlowKey;

impl Shard {
    /// Ends the live flows for which `stands` says no, in at most `slots_max` slots from `cursor`
    /// on (0 to begin with); where to go on, until there is nothing left.
    pub fn weed(
        &mut self,
        cursor: u32,
        slots_max: u32,
        now: Tick,
        stands: &mut dyn FnMut(&FlowKey, &FlowHead) -> bool,
    ) -> Option<u32> {
        let beat = Beat::of(now);
        let used = self.table.used();
        let end = cursor.saturating_add(slots_max).min(used);
        for slot in cursor..end {
            let is_live = self.table.entry(slot).is_some_and(|e| e.is_live(beat));
            // What is past its deadline cannot come back; the timers take it.
            let Some(key) = self.table.key(slot).filter(|_| is_live) else {
                continue;
            };
            let index = FlowIndex(slot);
            if !stands(&key, &self.head(index)) {
                self.end(index);
            }
        }
        (end < used).then_some(end)
    }
}
