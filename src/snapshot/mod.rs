//! The compiled, immutable policy that workers read, and the cell that publishes it.
//!
//! A verdict on a miss takes a few lookups, each in a flat table:
//!
//! ```text
//! interface ─► program of its groups and the direction
//! remote address ─► class ─► keys ─► steps of each key in the program  ┐
//! protocol and port ───────────────────────────────────────────────────┴► the lowest rule
//! ```
//!
//! `classes` holds the address side, one table for all programs; `program` the rules; `owners` says
//! whose an address is, `changes` since when. Range lookups of addresses are one structure,
//! `interval`. Nothing here is derived from traffic, nothing allocates, and the cost of a question
//! is bounded by constants and by the depth of trees, not by the number of rules.
//!
//! The rule that is reported is the lowest that allows the packet: first by the groups' position in
//! the policy, then by the rules' position in the group.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod cell;
pub(crate) mod changes;
pub(crate) mod classes;
mod info;
pub(crate) mod interval;
pub(crate) mod owners;
pub(crate) mod paged;
pub(crate) mod program;
pub(crate) mod sets;
mod standing;
#[cfg(test)]
mod tests;

use std::fmt;

pub use cell::{Generational, NotLive, Publisher, SnapshotReader};
pub use info::{GroupInfo, InterfaceInfo, RuleInfo, SnapshotStats};
pub use standing::FlowSeat;

use self::changes::Changes;
use self::classes::AddressClasses;
use self::owners::Owners;
use self::paged::Paged;
use self::sets::GroupSet;
use crate::packet::{Address, End, FlowKey, VlanTags};
use crate::sync::Arc;
use crate::types::{Direction, FlowLimits, Generation, InterfaceSlot, LinkId, RuleSlot, protocol};

/// An interface inside one snapshot; means nothing in another one. (It is the interface's slot.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceRef(pub(crate) u32);

impl InterfaceRef {
    /// The stable number of the interface.
    #[inline]
    #[must_use]
    pub fn slot(self) -> InterfaceSlot {
        InterfaceSlot(self.0)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a policy is asked about one packet at one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The end that is not the interface: source of ingress, destination of egress.
    pub remote: Address,
    /// IP protocol.
    pub protocol: u8,
    /// TCP and UDP: the destination port. ICMP and ICMPv6: type in the high byte, code in the low
    /// one. Other protocols: anything, it is not read.
    pub service: u16,
}

impl Question {
    /// What the packet asked that opened a flow. `inside` is the interface's end, `query_code` the
    /// ICMP code of the query, where it is one.
    #[must_use]
    pub fn of_opener(key: &FlowKey, opener: End, inside: End, query_code: u8) -> Self {
        let (remote, _) = key.end(inside.opposite());
        let (_, asked_port) = key.end(opener.opposite());
        let service = match key.protocol {
            // Of a query the answering end's port is the type. Without one (ICMP of the other
            // family, which is a protocol like any other) the question reads no service.
            protocol::ICMP | protocol::ICMPV6 => asked_port << 8 | u16::from(query_code),
            _ => asked_port,
        };
        Self {
            remote,
            protocol: key.protocol,
            service,
        }
    }
}

/// The rules' answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A rule allows the packet.
    Allow {
        /// The lowest that does.
        rule: RuleSlot,
        /// A rule for any address allows it, and the other direction is open for any address on all
        /// ports of the protocol: the flow needs no tracking.
        untracked: bool,
    },
    /// No rule allows it, but a group of the interface is in audit mode.
    Unenforced,
    /// No rule allows it.
    Deny,
}

/// Of a slot without an interface.
pub(crate) const NO_SET: u32 = u32::MAX;

/// A compiled policy. Made by `crate::compile`, published by [`Publisher`].
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) generation: Generation,
    pub(crate) owners: Owners,
    pub(crate) changes: Arc<Changes>,
    pub(crate) classes: AddressClasses,
    /// The set of groups of each interface, by slot; [`NO_SET`] where there is none.
    pub(crate) set_of: Paged<u32>,
    pub(crate) sets: Paged<GroupSet>,
    /// By slot.
    pub(crate) interfaces: Paged<Option<Arc<InterfaceInfo>>>,
    /// By slot.
    pub(crate) rules: Paged<Option<Arc<RuleInfo>>>,
    /// Interfaces with limits of their own, in order of their slots.
    pub(crate) limits: Arc<[(InterfaceSlot, FlowLimits)]>,
    pub(crate) stats: SnapshotStats,
}

impl Snapshot {
    /// A snapshot that owns no address and allows nothing.
    #[must_use]
    pub fn empty(generation: Generation) -> Self {
        Self {
            generation,
            owners: Owners::nobody(),
            changes: Arc::default(),
            classes: AddressClasses::empty(),
            set_of: Paged::default(),
            sets: Paged::default(),
            interfaces: Paged::default(),
            rules: Paged::default(),
            limits: Arc::from([]),
            stats: SnapshotStats::default(),
        }
    }

    /// The interface that owns an address in frames with these tags on a link: the longest match;
    /// at equal length one of the outer VLAN before one without a VLAN.
    #[inline]
    #[must_use]
    pub fn interface_of(
        &self,
        link: LinkId,
        vlan: VlanTags,
        address: Address,
    ) -> Option<InterfaceRef> {
        self.owners.find(link, vlan, address)
    }

    /// Whether the interface's groups allow a packet.
    #[inline]
    #[must_use]
    pub fn decide(
        &self,
        interface: InterfaceRef,
        direction: Direction,
        question: &Question,
    ) -> Decision {
        let set = self.set_of.get(interface.index());
        let Some(set) = set.and_then(|set| self.sets.get(*set as usize)) else {
            debug_assert!(false, "an interface of another snapshot");
            return Decision::Deny;
        };
        set.decide(direction, question, self.classes.keys_of(question.remote))
    }

    /// Whether what is allowed in a direction for any address is not tracked, for packets like
    /// this: the other direction is open. Where it is not, [`Self::decide`] never says `untracked`.
    #[inline]
    #[must_use]
    pub fn may_be_untracked(
        &self,
        interface: InterfaceRef,
        direction: Direction,
        question: &Question,
    ) -> bool {
        let set = self.set_of.get(interface.index());
        let set = set.and_then(|set| self.sets.get(*set as usize));
        set.is_some_and(|set| set.is_open(direction.reversed(), question))
    }

    /// Its version.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Names of an interface; `None` only for one of another snapshot.
    #[must_use]
    pub fn interface(&self, interface: InterfaceRef) -> Option<&InterfaceInfo> {
        self.interfaces.get(interface.index())?.as_deref()
    }

    /// The interface with a stable number, if it is still in the policy.
    #[inline]
    #[must_use]
    pub fn interface_by_slot(&self, slot: InterfaceSlot) -> Option<InterfaceRef> {
        let interface = InterfaceRef(slot.0);
        let set = self.set_of.get(interface.index())?;
        (*set != NO_SET).then_some(interface)
    }

    /// All interfaces, in the order of their slots.
    pub fn interfaces(&self) -> impl Iterator<Item = (InterfaceRef, &InterfaceInfo)> {
        let interfaces = self.interfaces.iter().flatten();
        interfaces.map(|info| (InterfaceRef(info.slot.0), &**info))
    }

    /// The owners of an address on every link and in every VLAN, the longest match first; for the
    /// control side.
    #[must_use]
    pub fn owners_anywhere(&self, address: Address) -> Vec<InterfaceRef> {
        self.owners.find_anywhere(address)
    }

    /// Names of a rule, if it is still in the policy.
    #[must_use]
    pub fn rule(&self, slot: RuleSlot) -> Option<&RuleInfo> {
        self.rules.get(slot.0 as usize)?.as_deref()
    }

    /// All rules, in the order of their slots.
    pub fn rules(&self) -> impl Iterator<Item = &RuleInfo> {
        self.rules.iter().flatten().map(|rule| &**rule)
    }

    /// Interfaces with limits of their own, in the order of their slots.
    #[must_use]
    pub fn limits(&self) -> &[(InterfaceSlot, FlowLimits)] {
        &self.limits
    }

    /// How large it is.
    #[must_use]
    pub fn stats(&self) -> SnapshotStats {
        self.stats
    }

    /// Bytes of the tables; programs and names not counted.
    pub(crate) fn table_bytes(&self) -> usize {
        [
            size_of::<Self>(),
            self.owners.bytes(),
            self.changes.bytes(),
            self.classes.bytes(),
            self.set_of.bytes(),
            self.sets.bytes(),
            self.interfaces.bytes(),
            self.rules.bytes(),
            size_of_val(&*self.limits),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

impl fmt::Debug for Snapshot {
    /// Its size, not its content: tables of a million entries help nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Generational for Snapshot {
    fn generation(&self) -> Generation {
        self.generation
    }
}
