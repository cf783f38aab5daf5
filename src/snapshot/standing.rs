//! Whether a connection still stands on the addresses that it was admitted for.

use super::{InterfaceRef, Snapshot};
use crate::packet::{Address, End, FlowKey};
use crate::types::{Generation, InterfaceSlot};

/// Whose the ends of a connection were when it was judged last.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeat<'a> {
    /// Its link, VLAN and addresses.
    pub key: &'a FlowKey,
    /// Which end is the interface's.
    pub inside: End,
    /// The interface.
    pub interface: InterfaceSlot,
    /// Low half of the generation that it was judged by.
    pub judged_low: u32,
}

impl Snapshot {
    /// The interface that a connection is of, if it still stands: in every generation since it was
    /// judged, the address at its inside end was that interface's, and the one at its far end
    /// nobody's on its link. An address that left and is back ends it all the same.
    #[must_use]
    pub fn seat(&self, flow: &FlowSeat<'_>) -> Option<InterfaceRef> {
        let FlowKey { link, vlan, .. } = *flow.key;
        let (inside, _) = flow.key.end(flow.inside);
        let (far, _) = flow.key.end(flow.inside.opposite());
        // Nobody owns a group or the broadcast, whatever prefix it lies in.
        let is_owned = |address: &Address| !address.is_multicast_or_broadcast();
        let owner = |address| self.interface_of(link, vlan, address);
        let interface = Some(inside).filter(is_owned).and_then(owner)?;
        let far = Some(far).filter(is_owned);
        if self.slot(interface) != Some(flow.interface) || far.and_then(owner).is_some() {
            return None;
        }
        let judged = self.generation_of(flow.judged_low);
        let is_changed = |address| self.changes.since(link, vlan, address) > judged;
        let is_lost =
            judged < self.changes.last() && (is_changed(inside) || far.is_some_and(is_changed));
        (!is_lost).then_some(interface)
    }

    /// The last generation that changed whose any address is: what was judged by it, or later, has
    /// lost nothing.
    #[must_use]
    pub fn owners_changed(&self) -> Generation {
        self.changes.last()
    }

    /// The generation up to this one that has this low half.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
    fn generation_of(&self, low: u32) -> Generation {
        let behind = (self.generation.0 as u32).wrapping_sub(low);
        Generation(self.generation.0.saturating_sub(u64::from(behind)))
    }
}
