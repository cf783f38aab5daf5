//! The verdict for packets that follow another: fragments after their first, and ICMP errors after
//! the packet that they quote.

use super::judge::{Judge, Party};
use super::outcome::{Arrival, Outcome};
use crate::conntrack::{Admission, FlowClass, FragmentedFlow};
use crate::packet::{End, FlowKey, Fragment, IpPacket};
use crate::types::{Direction, DropReason, PassReason, PortSide, Verdict};

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    pub(super) packet: IpPacket,
    pub(super) key: FlowKey,
    /// Who sent it: whom the error is for.
    pub(super) from: End,
}

impl Judge<'_> {
    /// A fragment whose flow is known: judged like the first of its datagram, by the same flow or
    /// the same question. What it moves of the flow is the table's to know.
    #[cold]
    #[inline(never)]
    pub(super) fn piece(
        &mut self,
        packet: &IpPacket,
        arrival: Arrival,
        flow: &FragmentedFlow,
    ) -> Outcome {
        let packet = &IpPacket {
            protocol: flow.protocol,
            transport: flow.transport,
            ..*packet
        };
        if self.config.exempt.exempts_piece(packet, arrival.side) {
            return Outcome::bare(Verdict::Pass(PassReason::Exempt));
        }
        let Some((key, from)) = flow.key else {
            return self.stateless(packet, arrival);
        };
        let hash = self.shard.hash(&key);
        let is_first = matches!(packet.fragment, Fragment::First { .. });
        match self.find(&key, hash) {
            Some(index) => self.hit(index, packet, arrival, from),
            None if is_first => self.miss(packet, arrival, &key, from, hash),
            None => self.orphan(packet, arrival, from, flow.admission),
        }
    }

    /// A later fragment of a flow that has no entry. If its first one passed without (`PassOnly`,
    /// or rules that need none), so does it; if that one needed an entry, there was no room.
    fn orphan(
        &mut self,
        packet: &IpPacket,
        arrival: Arrival,
        from: End,
        admission: Admission,
    ) -> Outcome {
        let party = match self.party(packet, arrival) {
            Ok(party) => party,
            Err(outcome) => return outcome,
        };
        let Some(ruling) = self.rule(party, packet, from) else {
            return self.denied(party, DropReason::NoRule);
        };
        let needs_entry = ruling.class == FlowClass::Tracked;
        match admission {
            // Between hosts of the link: its first one opened nothing either.
            Admission::Open if !party.has_entry(from, ruling) => self.outcome(party, ruling),
            Admission::Open if needs_entry => self.denied(party, DropReason::Fragment),
            Admission::Refuse if needs_entry => self.denied(party, DropReason::Invalid),
            _ => self.outcome(party, ruling),
        }
    }

    /// An ICMP error. It passes where the packet that it quotes is of a live connection (or would
    /// pass untracked), it goes to who sent that packet, and the budget is kept; else the rules
    /// are asked. It opens and refreshes nothing.
    #[cold]
    #[inline(never)]
    pub(super) fn error(&mut self, packet: &IpPacket, arrival: Arrival, quote: &Quote) -> Outcome {
        let party = match self.party(packet, arrival) {
            Ok(party) => party,
            Err(outcome) => return outcome,
        };
        let is_for_sender = packet.addresses.destination() == quote.packet.addresses.source();
        if is_for_sender && self.relates(arrival, quote) && self.shard.spend_related(self.now) {
            let verdict = Verdict::Pass(PassReason::Related);
            let slot = Some(party.interface.slot());
            return Outcome::of_interface(verdict, slot, party.direction, None);
        }
        self.stateless(packet, arrival)
    }

    /// Whether a quoted packet belongs to a live connection, seen from where the error came.
    fn relates(&mut self, arrival: Arrival, quote: &Quote) -> bool {
        let Quote { packet, key, from } = quote;
        // What an error from outside quotes came from inside, and the other way round.
        let was_from_inside = arrival.side == PortSide::Outside;
        let hash = self.shard.hash(key);
        if let Some(index) = self.find(key, hash) {
            let head = self.shard.head(index);
            if (*from == head.inside_end()) != was_from_inside {
                return false;
            }
            if self.shard.can_relate(index, packet, *from, self.now) {
                return true;
            }
            if head.class == FlowClass::Tracked {
                return false;
            }
        }
        let (inside, direction) = if was_from_inside {
            (packet.addresses.source(), Direction::Egress)
        } else {
            (packet.addresses.destination(), Direction::Ingress)
        };
        let owner = self.owner(arrival.link, packet.vlan, inside);
        let party = owner.map(|owner| Party::of(owner, direction));
        let ruling = party.and_then(|party| self.rule(party, packet, *from));
        ruling.is_some_and(|ruling| ruling.class == FlowClass::Untracked)
    }
}
