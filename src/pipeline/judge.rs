//! The verdict for one packet: hit or miss, the interface, the rules, the new entry.

use super::exempt::{ExemptRules, Exemption};
use super::outcome::{Arrival, Outcome};
use crate::clock::Tick;
use crate::conntrack::{
    Admission, FlowClass, FlowHash, FlowHead, FlowIndex, NewFlow, OpenError, Shard, Track,
};
use crate::packet::{Address, ArpPacket, End, FlowKey, IpPacket, Transport, VlanTags};
use crate::snapshot::{Decision, FlowSeat, InterfaceRef, Question, Snapshot};
use crate::types::{Direction, DropReason, LinkId, PassReason, PortSide, RuleSlot, Verdict};

/// What frames of or to hosts that no interface names become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unregistered {
    /// Dropped.
    #[default]
    Drop,
    /// Passed, unjudged.
    Pass,
}

/// What one link's configuration says to the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkRules {
    /// `unregistered`.
    pub unregistered: Unregistered,
}

/// What ICMP errors about a connection become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcmpErrors {
    /// They pass with the connection that they quote.
    #[default]
    Related,
    /// The rules are asked, as of any packet.
    Rules,
}

/// What becomes of a tracked connection when the rule that admitted it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRuleRemoved {
    /// It lives on, as in AWS.
    #[default]
    Keep,
    /// At its next packet it is judged again as it was opened.
    Revalidate,
}

/// What the configuration says to the pipeline.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {
    /// `icmp_errors`.
    pub icmp_errors: IcmpErrors,
    /// `on_rule_removed`.
    pub on_rule_removed: OnRuleRemoved,
    /// By [`LinkId`].
    pub links: Vec<LinkRules>,
    /// `[exempt]`.
    pub exempt: ExemptRules,
}

impl PipelineConfig {
    pub(super) fn is_exempt(&self, packet: &IpPacket, side: PortSide) -> bool {
        self.exempt.ip(packet, side) == Exemption::Exempt
    }

    fn unregistered(&self, link: LinkId) -> Unregistered {
        self.links
            .get(link.index())
            .map_or(Unregistered::Drop, |rules| rules.unregistered)
    }
}

/// The question that a packet asks of the rules of the interface that sends or receives it.
#[must_use]
pub fn question_of(packet: &IpPacket, direction: Direction) -> Question {
    let remote = match direction {
        Direction::Ingress => packet.addresses.source(),
        Direction::Egress => packet.addresses.destination(),
    };
    let service = match packet.transport {
        Transport::Tcp(ref tcp) => tcp.destination_port,
        Transport::Udp {
            destination_port, ..
        } => destination_port,
        Transport::Icmp { kind, code, .. } => u16::from_be_bytes([kind, code]),
        Transport::Other => 0,
    };
    Question {
        remote,
        protocol: packet.protocol,
        service,
    }
}

/// Why a packet of a flow with an entry passes.
#[inline]
pub(super) fn reason_of(class: FlowClass) -> PassReason {
    match class {
        FlowClass::Tracked => PassReason::Tracked,
        FlowClass::Untracked => PassReason::Untracked,
        FlowClass::Unenforced => PassReason::Unenforced,
    }
}

/// What the rules say, and for which flow: a reply of an untracked flow is judged as its opener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruling {
    pub(super) class: FlowClass,
    rule: Option<RuleSlot>,
    /// Direction of the flow's opener at the interface.
    direction: Direction,
    opener: End,
}

impl Ruling {
    fn reason(self) -> PassReason {
        match self.class {
            FlowClass::Tracked => PassReason::Rule,
            FlowClass::Untracked => PassReason::Untracked,
            FlowClass::Unenforced => PassReason::Unenforced,
        }
    }
}

/// Whose the ends of a packet are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owners {
    source: Option<InterfaceRef>,
    destination: Option<InterfaceRef>,
}

/// The interface that a packet is judged at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party {
    pub(super) interface: InterfaceRef,
    pub(super) direction: Direction,
    /// It goes from inside to a host that is registered on this link itself.
    is_local: bool,
}

impl Party {
    /// An interface whose packet comes from, or goes to, outside.
    pub(super) const fn of(interface: InterfaceRef, direction: Direction) -> Self {
        Self {
            interface,
            direction,
            is_local: false,
        }
    }

    /// Whether what a packet of this end begins is a flow that can have an entry. Two kinds cannot:
    /// - To a host that is registered on this link itself. What comes back from outside is
    ///   spoofed, and what comes back from inside is that host's egress: nothing is a reply.
    /// - Seen first by a reply, which only untracked flows let pass: states and counters are told
    ///   from the opener's packets. Untracked flows need no entry.
    pub(super) fn has_entry(&self, from: End, ruling: Ruling) -> bool {
        ruling.opener == from && !self.is_local
    }
}

/// What the policy says of a packet that no entry vouches for, whatever came before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruled {
    party: Party,
    ruling: Ruling,
}

/// One packet's surroundings.
pub(super) struct Judge<'a> {
    pub(super) config: &'a PipelineConfig,
    pub(super) shard: &'a mut Shard,
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Tick,
}

impl Judge<'_> {
    /// A packet of a flow that this worker owns.
    pub(super) fn flow(
        &mut self,
        packet: &IpPacket,
        arrival: Arrival,
        key: &FlowKey,
        from: End,
        hash: FlowHash,
    ) -> Outcome {
        match self.find(key, hash) {
            Some(index) => self.hit(index, packet, arrival, from),
            None => self.miss(packet, arrival, key, from, hash),
        }
    }

    /// The entry of a flow, held against the policy in force; one that does not stand is ended.
    #[inline]
    pub(super) fn find(&mut self, key: &FlowKey, hash: FlowHash) -> Option<FlowIndex> {
        let index = self.shard.find(key, hash, self.now)?;
        let head = self.shard.head(index);
        if !self.is_current(&head) && !self.refresh(index, &head, key, head.inside_end()) {
            self.shard.end(index);
            return None;
        }
        Some(index)
    }

    /// A packet of a flow that has an entry.
    #[inline]
    pub(super) fn hit(
        &mut self,
        index: FlowIndex,
        packet: &IpPacket,
        arrival: Arrival,
        from: End,
    ) -> Outcome {
        let head = self.shard.head(index);
        if (from == head.inside_end()) != (arrival.side == PortSide::Inside) {
            // The right numbers on the wrong port. Of a flow with an entry one end is registered
            // here and the other is not, so this is spoofed or unregistered.
            return self.stateless(packet, arrival);
        }
        let length = arrival.original_len;
        let verdict = match self.shard.track(index, packet, from, length, self.now) {
            Track::Pass => Verdict::Pass(reason_of(head.class)),
            Track::Invalid => Verdict::Drop(DropReason::Invalid),
            Track::Reopen => return self.reopen(index, packet, arrival, from),
        };
        Outcome::of_flow(verdict, arrival.side, index)
    }

    /// A packet that no entry is asked about: it is judged by the rules and opens none.
    #[cold]
    #[inline(never)]
    pub(super) fn stateless(&mut self, packet: &IpPacket, arrival: Arrival) -> Outcome {
        match self.config.exempt.ip(packet, arrival.side) {
            Exemption::Exempt => return Outcome::bare(Verdict::Pass(PassReason::Exempt)),
            Exemption::SpeaksFor(address) => return self.speaks_for(address, packet.vlan, arrival),
            Exemption::None => {}
        }
        let party = match self.party(packet, arrival) {
            Ok(party) => party,
            Err(outcome) => return outcome,
        };
        // Without a flow there is no opener to tell apart; either end serves.
        match self.rule(party, packet, End::Low) {
            Some(ruling) => self.outcome(party, ruling),
            None => self.denied(party, DropReason::NoRule),
        }
    }

    /// An ARP packet.
    pub(super) fn arp(&mut self, arp: &ArpPacket, arrival: Arrival) -> Outcome {
        match ExemptRules::arp(arp, arrival.side) {
            Exemption::SpeaksFor(address) => self.speaks_for(address, arp.vlan, arrival),
            Exemption::Exempt | Exemption::None => Outcome::bare(Verdict::Pass(PassReason::Exempt)),
        }
    }

    /// Whoever speaks for an address from inside has to own it. Where unregistered hosts may be
    /// inside, an address that nobody owns is theirs to speak for.
    fn speaks_for(&self, address: Address, vlan: VlanTags, arrival: Arrival) -> Outcome {
        let is_owned = self.owner(arrival.link, vlan, address).is_some();
        if is_owned || self.config.unregistered(arrival.link) == Unregistered::Pass {
            return Outcome::bare(Verdict::Pass(PassReason::Exempt));
        }
        Outcome::drop(DropReason::Spoofed)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn miss(
        &mut self,
        packet: &IpPacket,
        arrival: Arrival,
        key: &FlowKey,
        from: End,
        hash: FlowHash,
    ) -> Outcome {
        let owners = self.owners(packet, arrival.link);
        let ruled = match self.ruled(owners, packet, arrival, from) {
            Ok(ruled) => ruled,
            Err(outcome) => return outcome,
        };
        let length = arrival.original_len;
        self.begin(&ruled, packet, from, |shard, flow, now| {
            shard.open(key, hash, flow, packet, length, now)
        })
    }

    /// What the policy says of a packet that no entry vouches for, or the verdict on one that it
    /// does not let through. The snapshot alone decides: it may be asked ahead of its turn.
    #[inline]
    pub(super) fn ruled(
        &self,
        owners: Owners,
        packet: &IpPacket,
        arrival: Arrival,
        from: End,
    ) -> Result<Ruled, Outcome> {
        let party = self.party_of(owners, arrival)?;
        match self.rule(party, packet, from) {
            Some(ruling) => Ok(Ruled { party, ruling }),
            None => Err(self.denied(party, DropReason::NoRule)),
        }
    }

    /// Asks for what [`Self::begin`] will read.
    #[inline]
    pub(super) fn prefetch(&self, ruled: &Ruled) {
        let slot = ruled.party.interface.slot();
        self.shard.prefetch_interface(slot);
    }

    /// A packet that the policy lets through begins a flow, where it may; `open` opens it.
    #[inline]
    pub(super) fn begin(
        &mut self,
        ruled: &Ruled,
        packet: &IpPacket,
        from: End,
        open: impl FnOnce(&mut Shard, &NewFlow, Tick) -> Result<FlowIndex, OpenError>,
    ) -> Outcome {
        let Ruled { party, ruling } = *ruled;
        let needs_entry = ruling.class == FlowClass::Tracked;
        match self.shard.admission(packet) {
            Admission::Refuse if needs_entry => return self.denied(party, DropReason::Invalid),
            Admission::PassOnly | Admission::Refuse => {}
            Admission::Open if !party.has_entry(from, ruling) => {}
            Admission::Open => {
                let Some(flow) = self.new_flow(party, ruling) else {
                    return self.denied(party, DropReason::NoRule);
                };
                if let Err(error) = open(self.shard, &flow, self.now)
                    && needs_entry
                {
                    let reason = match error {
                        OpenError::Full => DropReason::TableFull,
                        OpenError::Limit => DropReason::Limit,
                    };
                    return self.denied(party, reason);
                }
            }
        }
        self.outcome(party, ruling)
    }

    /// A closed connection's entry meets a packet that may open it anew.
    #[cold]
    #[inline(never)]
    fn reopen(
        &mut self,
        index: FlowIndex,
        packet: &IpPacket,
        arrival: Arrival,
        from: End,
    ) -> Outcome {
        let owners = self.owners(packet, arrival.link);
        let Ruled { party, ruling } = match self.ruled(owners, packet, arrival, from) {
            Ok(ruled) => ruled,
            Err(outcome) => return outcome,
        };
        match self.shard.admission(packet) {
            Admission::Open if !party.has_entry(from, ruling) => {}
            Admission::Open => {
                let Some(flow) = self.new_flow(party, ruling) else {
                    return self.denied(party, DropReason::NoRule);
                };
                self.shard
                    .reopen(index, &flow, packet, arrival.original_len, self.now);
            }
            Admission::PassOnly | Admission::Refuse if ruling.class == FlowClass::Tracked => {
                return self.denied(party, DropReason::Invalid);
            }
            Admission::PassOnly | Admission::Refuse => {}
        }
        self.outcome(party, ruling)
    }

    /// The interface that owns an address. Nobody owns a group or the broadcast, even where it lies
    /// inside of a prefix that somebody owns (contract, "Direction").
    pub(super) fn owner(
        &self,
        link: LinkId,
        vlan: VlanTags,
        address: Address,
    ) -> Option<InterfaceRef> {
        if address.is_multicast_or_broadcast() {
            return None;
        }
        self.snapshot.interface_of(link, vlan, address)
    }

    /// Whose the ends of a packet are. Both are asked at once, whichever counts: the processor
    /// follows the two side by side.
    #[inline]
    pub(super) fn owners(&self, packet: &IpPacket, link: LinkId) -> Owners {
        let addresses = &packet.addresses;
        Owners {
            source: self.owner(link, packet.vlan, addresses.source()),
            destination: self.owner(link, packet.vlan, addresses.destination()),
        }
    }

    /// The interface that is judged (contract, "Direction"), or the verdict where there is none.
    pub(super) fn party(&self, packet: &IpPacket, arrival: Arrival) -> Result<Party, Outcome> {
        self.party_of(self.owners(packet, arrival.link), arrival)
    }

    #[inline]
    fn party_of(&self, owners: Owners, arrival: Arrival) -> Result<Party, Outcome> {
        let Owners {
            source,
            destination,
        } = owners;
        let found = match (arrival.side, source) {
            (PortSide::Inside, source) => source.map(|owner| Party {
                is_local: destination.is_some(),
                ..Party::of(owner, Direction::Egress)
            }),
            (PortSide::Outside, Some(owner)) => {
                let party = Party::of(owner, Direction::Ingress);
                return Err(self.denied(party, DropReason::Spoofed));
            }
            (PortSide::Outside, None) => {
                destination.map(|owner| Party::of(owner, Direction::Ingress))
            }
        };
        found.ok_or_else(|| {
            Outcome::bare(match self.config.unregistered(arrival.link) {
                Unregistered::Drop => Verdict::Drop(DropReason::Unregistered),
                Unregistered::Pass => Verdict::Pass(PassReason::Unregistered),
            })
        })
    }

    /// What the rules say of a packet that no entry vouches for.
    pub(super) fn rule(&self, party: Party, packet: &IpPacket, from: End) -> Option<Ruling> {
        let Party {
            interface,
            direction,
            ..
        } = party;
        let question = question_of(packet, direction);
        let opener = from;
        let (class, rule) = match self.snapshot.decide(interface, direction, &question) {
            Decision::Allow {
                rule,
                untracked: true,
            } => (FlowClass::Untracked, Some(rule)),
            Decision::Allow {
                rule,
                untracked: false,
            } => {
                if let Some(ruling) = self.untracked_reply(party, packet, from) {
                    return Some(ruling);
                }
                (FlowClass::Tracked, Some(rule))
            }
            Decision::Unenforced => (FlowClass::Unenforced, None),
            Decision::Deny => return None,
        };
        Some(Ruling {
            class,
            rule,
            direction,
            opener,
        })
    }

    /// Whether a packet is the reply of an untracked flow that the other end opened. Such a flow
    /// may have no entry, and its reason is `untracked` all the same. A SYN opens, never replies.
    fn untracked_reply(&self, party: Party, packet: &IpPacket, from: End) -> Option<Ruling> {
        let Party {
            interface,
            direction,
            ..
        } = party;
        let service = match packet.transport {
            Transport::Tcp(ref tcp) if !tcp.flags.is_open() => tcp.source_port,
            Transport::Udp { source_port, .. } => source_port,
            _ => return None,
        };
        let opened = direction.reversed();
        let question = Question {
            service,
            ..question_of(packet, direction)
        };
        if !self.snapshot.may_be_untracked(interface, opened, &question) {
            return None;
        }
        match self.snapshot.decide(interface, opened, &question) {
            Decision::Allow {
                rule,
                untracked: true,
            } => Some(Ruling {
                class: FlowClass::Untracked,
                rule: Some(rule),
                direction: opened,
                opener: from.opposite(),
            }),
            _ => None,
        }
    }

    fn is_current(&self, head: &FlowHead) -> bool {
        // The low half tells apart the generations that an entry can live through.
        head.generation_low == generation_low(self.snapshot)
    }

    /// Holds an entry of an older generation against this one; `false` ends it.
    ///
    /// One end has to have been the same interface's ever since, and the other nobody's on this
    /// link ([`Snapshot::seat`]). A tracked flow then lives on, or is judged again as it was opened
    /// (`revalidate`). An untracked one has to be untracked by now too. An unenforced one becomes
    /// what the rules make of its opener by now: policies are tried in audit mode, and the
    /// connections of that time are not cut when it ends.
    #[cold]
    #[inline(never)]
    fn refresh(
        &mut self,
        index: FlowIndex,
        head: &FlowHead,
        key: &FlowKey,
        inside_end: End,
    ) -> bool {
        let seat = FlowSeat {
            key,
            inside: inside_end,
            interface: head.interface,
            judged_low: head.generation_low,
        };
        let Some(interface) = self.snapshot.seat(&seat) else {
            return false;
        };
        let decide = || {
            let question =
                Question::of_opener(key, head.opener, head.inside_end(), head.query_code);
            self.snapshot.decide(interface, head.direction, &question)
        };
        let keeps = self.config.on_rule_removed == OnRuleRemoved::Keep;
        let (class, rule) = match head.class {
            FlowClass::Tracked if keeps => (FlowClass::Tracked, head.rule),
            was => match (was, decide()) {
                (_, Decision::Allow { rule, untracked }) if untracked => {
                    (FlowClass::Untracked, Some(rule))
                }
                (FlowClass::Tracked | FlowClass::Unenforced, Decision::Allow { rule, .. }) => {
                    (FlowClass::Tracked, Some(rule))
                }
                (FlowClass::Tracked | FlowClass::Unenforced, Decision::Unenforced) => {
                    (FlowClass::Unenforced, None)
                }
                _ => return false,
            },
        };
        self.shard
            .restamp(index, self.snapshot.generation(), class, rule);
        true
    }

    fn new_flow(&self, party: Party, ruling: Ruling) -> Option<NewFlow> {
        Some(NewFlow {
            interface: party.interface.slot(),
            rule: ruling.rule,
            generation: self.snapshot.generation(),
            class: ruling.class,
            direction: ruling.direction,
            opener: ruling.opener,
        })
    }

    pub(super) fn outcome(&self, party: Party, ruling: Ruling) -> Outcome {
        let verdict = Verdict::Pass(ruling.reason());
        let slot = Some(party.interface.slot());
        Outcome::of_interface(verdict, slot, party.direction, ruling.rule)
    }

    pub(super) fn denied(&self, party: Party, reason: DropReason) -> Outcome {
        let verdict = Verdict::Drop(reason);
        let slot = Some(party.interface.slot());
        Outcome::of_interface(verdict, slot, party.direction, None)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what entries store"
)]
fn generation_low(snapshot: &Snapshot) -> u32 {
    snapshot.generation().0 as u32
}
