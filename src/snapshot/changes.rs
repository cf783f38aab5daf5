//! Since when each address has been whose it is, or nobody's. A connection that was judged before
//! has lost its ground meanwhile, also where the address is back by now.
//!
//! What changed is kept until every worker has gone through its table since (`worker`): no entry is
//! left by then that it could end. So this is small, however often interfaces come and go.

use super::interval::IntervalMap;
use crate::packet::{Address, VlanTags};
use crate::types::{Generation, LinkId};

/// In a VLAN's table: as in frames of any VLAN.
pub(crate) const AS_ANYWHERE: u32 = u32::MAX;
/// Too long ago to matter; the position of generation 0.
pub(crate) const FORGOTTEN: u32 = 0;

/// Positions in [`Changes::generations`], by address.
#[derive(Clone, Debug)]
pub(crate) struct ChangeTable {
    pub(crate) v4: IntervalMap<u32>,
    pub(crate) v6: IntervalMap<u128>,
}

impl ChangeTable {
    /// The same for all addresses.
    pub(crate) fn uniform(value: u32) -> Self {
        Self {
            v4: IntervalMap::uniform(value),
            v6: IntervalMap::uniform(value),
        }
    }

    fn find(&self, address: Address) -> Option<u32> {
        match address {
            Address::V4(bits) => self.v4.find(bits),
            Address::V6(bits) => self.v6.find(bits),
        }
    }

    fn bytes(&self) -> usize {
        self.v4.bytes().saturating_add(self.v6.bytes())
    }
}

/// Changes on one link.
#[derive(Clone, Debug)]
pub(crate) struct LinkChanges {
    /// In frames without a VLAN, and of those that are not in `vlans`.
    pub(crate) any_vlan: ChangeTable,
    /// By VLAN id, ascending: where it is not as in `any_vlan`.
    pub(crate) vlans: Box<[(u16, ChangeTable)]>,
}

impl LinkChanges {
    fn find(&self, vlan: VlanTags, address: Address) -> Option<u32> {
        let own = self.vlan(vlan.outer).and_then(|table| table.find(address));
        own.filter(|position| *position != AS_ANYWHERE)
            .or_else(|| self.any_vlan.find(address))
    }

    /// The table of a VLAN that has one.
    pub(crate) fn vlan(&self, vlan: Option<u16>) -> Option<&ChangeTable> {
        let vlan = vlan?;
        let at = self.vlans.binary_search_by_key(&vlan, |(id, _)| *id).ok()?;
        self.vlans.get(at).map(|(_, table)| table)
    }
}

/// Changes of who owns what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Generations that changed something, ascending, after generation 0. Empty as long as nothing
    /// was ever remembered.
    pub(crate) generations: Box<[Generation]>,
    /// By [`LinkId`].
    pub(crate) links: Box<[LinkChanges]>,
}

impl Changes {
    /// Since which generation an address has had the owner that it has; 0 where nobody needs to
    /// know any more.
    pub(crate) fn since(&self, link: LinkId, vlan: VlanTags, address: Address) -> Generation {
        let link = self.links.get(link.index());
        let position = link.and_then(|link| link.find(vlan, address));
        let at = position.and_then(|position| self.generations.get(position as usize));
        at.copied().unwrap_or_default()
    }

    /// The last generation that changed whose any address is.
    pub(crate) fn last(&self) -> Generation {
        self.generations.last().copied().unwrap_or_default()
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let of_link = |link: &LinkChanges| {
            let vlans = link.vlans.iter().map(|(_, table)| table.bytes());
            vlans.fold(
                link.any_vlan
                    .bytes()
                    .saturating_add(size_of_val(&*link.vlans)),
                usize::saturating_add,
            )
        };
        let links = self.links.iter().map(of_link);
        links.fold(size_of_val(&*self.generations), usize::saturating_add)
    }
}
