//! Which interface owns an address on a link: longest match, VLAN interfaces in their VLAN only.

use std::cmp::Reverse;

use super::InterfaceRef;
use super::interval::IntervalMap;
use crate::packet::{Address, VlanTags};
use crate::sync::Arc;
use crate::types::LinkId;

/// VLAN ids of 802.1Q: 12 bits.
pub(crate) const VLAN_IDS: usize = 4096;
/// Bits of an interface's index inside a packed [`Owner`].
const INTERFACE_BITS: u32 = 24;
/// Most interfaces of a snapshot.
pub(crate) const INTERFACES_MAX: usize = (1 << INTERFACE_BITS) - 1;

/// The owner of an interval: prefix length and interface in one number. The longer prefix is the
/// greater number; no owner is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u32);

impl Owner {
    /// Nobody.
    pub(crate) const NONE: Self = Self(0);

    /// An interface that owns by a prefix of this length.
    pub(crate) fn new(interface: InterfaceRef, prefix_len: u8) -> Self {
        // Length and one, so that an owner by a /0 is not 0.
        let rank = u32::from(prefix_len).wrapping_add(1);
        Self(rank.wrapping_shl(INTERFACE_BITS) | interface.0)
    }

    /// The owner in a VLAN: of one for all frames and one for that VLAN's, that with the longer
    /// prefix; at equal length the VLAN's own.
    #[inline]
    pub(crate) fn in_vlan(wide: Self, narrow: Self) -> Self {
        if narrow.rank() >= wide.rank() {
            narrow
        } else {
            wide
        }
    }

    pub(crate) fn rank(self) -> u32 {
        self.0 >> INTERFACE_BITS
    }

    pub(crate) fn interface(self) -> Option<InterfaceRef> {
        let index = self.0 & ((1 << INTERFACE_BITS) - 1);
        (self != Self::NONE).then_some(InterfaceRef(index))
    }
}

/// Owners in one place: a link's untagged interfaces, or those of one VLAN of it.
#[derive(Clone, Debug)]
pub(crate) struct OwnerTable {
    pub(crate) v4: IntervalMap<u32>,
    pub(crate) v6: IntervalMap<u128>,
}

impl OwnerTable {
    /// A table without an owner.
    pub(crate) fn nobody() -> Self {
        Self {
            v4: IntervalMap::uniform(Owner::NONE.0),
            v6: IntervalMap::uniform(Owner::NONE.0),
        }
    }

    #[inline]
    fn find(&self, address: Address) -> Owner {
        let value = match address {
            Address::V4(bits) => self.v4.find(bits),
            Address::V6(bits) => self.v6.find(bits),
        };
        value.map_or(Owner::NONE, Owner)
    }

    fn bytes(&self) -> usize {
        self.v4.bytes().saturating_add(self.v6.bytes())
    }
}

/// Owners of one link.
#[derive(Clone, Debug)]
pub(crate) struct LinkOwners {
    /// Interfaces without a VLAN own in all frames.
    pub(crate) any_vlan: OwnerTable,
    /// Position in `vlans` by outer VLAN id, or `u16::MAX`; `None` if no interface names a VLAN.
    pub(crate) vlan_positions: Option<Box<[u16]>>,
    /// Owners by VLAN.
    pub(crate) vlans: Box<[OwnerTable]>,
}

impl LinkOwners {
    /// A link without an interface.
    pub(crate) fn nobody() -> Self {
        Self {
            any_vlan: OwnerTable::nobody(),
            vlan_positions: None,
            vlans: Box::default(),
        }
    }

    #[inline]
    fn find(&self, vlan: VlanTags, address: Address) -> Owner {
        let wide = self.any_vlan.find(address);
        let narrow = self
            .vlan_table(vlan)
            .map_or(Owner::NONE, |table| table.find(address));
        Owner::in_vlan(wide, narrow)
    }

    #[inline]
    fn vlan_table(&self, vlan: VlanTags) -> Option<&OwnerTable> {
        self.table_of(vlan.outer?)
    }

    /// The table of a VLAN, if an interface names it.
    #[inline]
    pub(crate) fn table_of(&self, vlan: u16) -> Option<&OwnerTable> {
        let positions = self.vlan_positions.as_ref()?;
        let position = positions.get(usize::from(vlan))?;
        self.vlans.get(usize::from(*position))
    }

    /// The VLANs that interfaces name, ascending.
    pub(crate) fn named_vlans(&self) -> impl Iterator<Item = u16> {
        let positions = self.vlan_positions.iter().flatten();
        let named = (0..).zip(positions).filter(|(_, at)| **at != u16::MAX);
        named.map(|(vlan, _)| vlan)
    }
}

/// Owners of all links, by [`LinkId`]. Shared with the compiler, which compares the next ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pub(crate) links: Arc<[LinkOwners]>,
}

impl Owners {
    /// The owner of an address in a frame with these tags on a link.
    #[inline]
    pub(crate) fn find(
        &self,
        link: LinkId,
        vlan: VlanTags,
        address: Address,
    ) -> Option<InterfaceRef> {
        self.links
            .get(link.index())?
            .find(vlan, address)
            .interface()
    }

    /// The owners of an address on every link and in every VLAN, each once, longest match first.
    pub(crate) fn find_anywhere(&self, address: Address) -> Vec<InterfaceRef> {
        let mut found: Vec<(Reverse<u32>, InterfaceRef)> = self
            .links
            .iter()
            .flat_map(|link| std::iter::once(&link.any_vlan).chain(&link.vlans))
            .filter_map(|table| {
                let owner = table.find(address);
                Some((Reverse(owner.rank()), owner.interface()?))
            })
            .collect();
        found.sort_unstable();
        // One that is found twice is one table's only, so it is found by the same prefix.
        found.dedup();
        found.into_iter().map(|(_, interface)| interface).collect()
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let of_link = |link: &LinkOwners| {
            let positions = link.vlan_positions.as_deref().map_or(0, size_of_val);
            let vlans: usize = link.vlans.iter().map(OwnerTable::bytes).sum();
            link.any_vlan
                .bytes()
                .saturating_add(positions)
                .saturating_add(vlans)
                .saturating_add(size_of_val(&*link.vlans))
        };
        self.links.iter().map(of_link).sum()
    }
}
