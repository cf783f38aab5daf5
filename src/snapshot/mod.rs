//! The compiled, immutable policy that workers read, and the cell that publishes it.
//!
//! A verdict on a miss takes three lookups and a few ANDs:
//!
//! ```text
//! interface ─► program of its groups and the direction
//! remote address ─► class ─► keys ─► rows of the program   ┐
//! protocol and port ──────────────► row of the program     ┴► AND ─► lowest bit ─► rule
//! ```
//!
//! `classes` holds the address side, one table for all programs; `program` the service side and
//! the rows (`rows`); `owners` says whose an address is, `changes` since when. All range lookups
//! are one structure, `interval`. Nothing here is derived from traffic, nothing allocates, and the
//! cost of a question is bounded by constants and by the depth of trees, not by the number of
//! rules.
//!
//! The order of rules, for the one that is reported when several allow a packet: the narrowest
//! service first (fewest ports or ICMP codes; `all` last), equal services by the groups' position
//! in the policy, then by the rules' position in the group.
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
pub(crate) mod key_map;
pub(crate) mod owners;
pub(crate) mod program;
pub(crate) mod rows;
mod standing;
#[cfg(test)]
mod tests;

use std::fmt;

pub use cell::{Generational, NotLive, Publisher, SnapshotReader};
pub use info::{GroupInfo, InterfaceInfo, RuleInfo, SnapshotStats};
pub use standing::FlowSeat;

use self::changes::Changes;
use self::classes::AddressClasses;
use self::key_map::KeyMap;
use self::owners::Owners;
use self::program::{OpenTransports, Program};
use crate::packet::{Address, VlanTags};
use crate::sync::Arc;
use crate::types::{Direction, FlowLimits, Generation, InterfaceSlot, LinkId, RuleSlot};

/// An interface inside one snapshot; means nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceRef(pub(crate) u32);

impl InterfaceRef {
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

/// The rules' answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A rule allows the packet.
    Allow {
        /// The first that does.
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

/// What a verdict needs of an interface; nearly three to a cache line.
#[derive(Clone, Debug)]
pub(crate) struct InterfaceEntry {
    pub(crate) ingress: Arc<Program>,
    pub(crate) egress: Arc<Program>,
    /// What egress lets through everywhere, beside the ingress program that asks for it.
    pub(crate) open_for_ingress: OpenTransports,
    /// The other way round.
    pub(crate) open_for_egress: OpenTransports,
    /// What no rule allows passes.
    pub(crate) audit: bool,
    /// Its stable number, for the entry that the verdict opens.
    pub(crate) slot: InterfaceSlot,
}

const _: () = assert!(size_of::<InterfaceEntry>() == 24);

/// A compiled policy. Made by `crate::compile`, published by [`Publisher`].
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) generation: Generation,
    pub(crate) owners: Owners,
    pub(crate) changes: Arc<Changes>,
    pub(crate) classes: AddressClasses,
    pub(crate) entries: Box<[InterfaceEntry]>,
    pub(crate) interfaces: Box<[InterfaceInfo]>,
    /// Interface slot → position in `entries` and `interfaces`.
    pub(crate) interface_slots: KeyMap,
    /// In order of their slots.
    pub(crate) rules: Box<[Arc<RuleInfo>]>,
    /// Interfaces with limits of their own, in order of their slots.
    pub(crate) limits: Box<[(InterfaceSlot, FlowLimits)]>,
    pub(crate) stats: SnapshotStats,
}

impl Snapshot {
    /// A snapshot that owns no address and allows nothing.
    #[must_use]
    pub fn empty(generation: Generation) -> Self {
        Self {
            generation,
            owners: Owners::default(),
            changes: Arc::default(),
            classes: AddressClasses::empty(),
            entries: Box::default(),
            interfaces: Box::default(),
            interface_slots: KeyMap::default(),
            rules: Box::default(),
            limits: Box::default(),
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
        let Some(entry) = self.entries.get(interface.index()) else {
            debug_assert!(false, "an interface of another snapshot");
            return Decision::Deny;
        };
        let (program, open) = match direction {
            Direction::Ingress => (&entry.ingress, entry.open_for_ingress),
            Direction::Egress => (&entry.egress, entry.open_for_egress),
        };
        match program.find(question, self.classes.keys_of(question.remote)) {
            Some(found) => {
                let wanted = OpenTransports::bit(question.remote.family(), question.protocol);
                Decision::Allow {
                    rule: found.rule,
                    untracked: found.by_any_address && open.meets(wanted),
                }
            }
            None if entry.audit => Decision::Unenforced,
            None => Decision::Deny,
        }
    }

    /// Its version.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The stable number of an interface.
    #[inline]
    #[must_use]
    pub fn slot(&self, interface: InterfaceRef) -> Option<InterfaceSlot> {
        self.entries.get(interface.index()).map(|entry| entry.slot)
    }

    /// Names of an interface; `None` only for one of another snapshot.
    #[must_use]
    pub fn interface(&self, interface: InterfaceRef) -> Option<&InterfaceInfo> {
        self.interfaces.get(interface.index())
    }

    /// The interface with a stable number, if it is still in the policy.
    #[inline]
    #[must_use]
    pub fn interface_by_slot(&self, slot: InterfaceSlot) -> Option<InterfaceRef> {
        self.interface_slots.find(slot.0).map(InterfaceRef)
    }

    /// All interfaces, in the policy's order.
    pub fn interfaces(&self) -> impl Iterator<Item = (InterfaceRef, &InterfaceInfo)> {
        (0..).map(InterfaceRef).zip(&self.interfaces)
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
        let position = self
            .rules
            .binary_search_by_key(&slot, |rule| rule.slot)
            .ok()?;
        self.rules.get(position).map(|rule| &**rule)
    }

    /// All rules, in the order of their slots.
    pub fn rules(&self) -> impl Iterator<Item = &RuleInfo> {
        self.rules.iter().map(|rule| &**rule)
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

    /// Bytes of everything but the programs, which interfaces share.
    pub(crate) fn bytes_without_programs(&self) -> usize {
        let rules: usize = self.rules.iter().map(|rule| rule.bytes()).sum();
        let interfaces: usize = self.interfaces.iter().map(InterfaceInfo::bytes).sum();
        [
            size_of::<Self>(),
            self.owners.bytes(),
            self.changes.bytes(),
            self.classes.bytes(),
            size_of_val(&*self.entries),
            self.interface_slots.bytes(),
            size_of_val(&*self.rules),
            size_of_val(&*self.limits),
            rules,
            interfaces,
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
