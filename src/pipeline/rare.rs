//! What is not common: fragments, ICMP, other protocols, ARP, malformed frames. Kept in full, apart
//! from the batch's other packets.

use super::batch::{BATCH_MAX, Origin, Place, Pushed, position};
use super::follow::Quote;
use super::judge::{IcmpErrors, Judge};
use super::outcome::{Arrival, Fate, Outcome, PieceIndex};
use crate::clock::Tick;
use crate::conntrack::{FlowHash, FragmentFate, FragmentedFlow, Fragments, Shard};
use crate::packet::{
    ArpPacket, Brief, End, FlowKey, Fragment, IpPacket, Parsed, is_icmp_error, parse, parse_quoted,
};
use crate::types::{DropReason, PassReason, Verdict};

const ETHERTYPE_ARP: u16 = 0x0806;

/// The rare packets of a batch.
#[derive(Debug)]
pub(super) struct Rare {
    items: Vec<Item>,
    /// Flows of the batch's fragments.
    pieces: Vec<FragmentedFlow>,
    /// What the batch's ICMP errors quote.
    quotes: Vec<Quote>,
}

#[derive(Debug)]
struct Item {
    arrival: Arrival,
    kind: Kind,
}

/// What it is, and what is known of it.
#[derive(Debug)]
enum Kind {
    Arp(ArpPacket),
    Ip(IpPacket, Stage),
}

/// Where a packet is in the pipeline.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Its verdict needs the snapshot, but no connection.
    Stateless,
    /// It belongs to a flow of this worker.
    Flow(FlowKey, End, FlowHash),
    /// A fragment whose home is here; its flow is to be found.
    Fragment,
    /// A fragment whose flow is this worker's and known.
    Piece(PieceIndex),
    /// An ICMP error about the packet at this position of the quotes.
    Error(u8),
    /// Done.
    Done(Fate),
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            items: Vec::with_capacity(BATCH_MAX),
            pieces: Vec::with_capacity(BATCH_MAX),
            quotes: Vec::with_capacity(BATCH_MAX),
        }
    }
}

impl Rare {
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.pieces.clear();
        self.quotes.clear();
    }

    /// Parses a frame and takes it, unless it is common or there is nothing more to do with it.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        arrival: Arrival,
        place: &Place<'_>,
        origin: Origin,
    ) -> Pushed {
        let exempt_types = &place.config.exempt;
        let parsed = parse(bytes, arrival.original_len as usize);
        let kind = match parsed {
            Parsed::Malformed(_) => return Pushed::Done(dropped(DropReason::Malformed)),
            Parsed::NotIp { ethertype } if exempt_types.has_ethertype(ethertype) => {
                return Pushed::Done(exempt());
            }
            Parsed::NotIp { .. } => return Pushed::Done(dropped(DropReason::NotIp)),
            // Listed, it passes whatever it claims.
            Parsed::Arp(_) if exempt_types.has_ethertype(ETHERTYPE_ARP) => {
                return Pushed::Done(exempt());
            }
            Parsed::Arp(arp) => Kind::Arp(arp),
            Parsed::Ip(packet) if place.config.is_exempt(&packet, arrival.side) => {
                return Pushed::Done(exempt());
            }
            Parsed::Ip(packet) => {
                if let Some((brief, beside)) = Brief::of(arrival.link, &packet) {
                    return Pushed::Common(brief, beside);
                }
                let stage = self.first_stage(&packet, bytes, arrival, place, origin);
                Kind::Ip(packet, stage)
            }
        };
        if let Kind::Ip(_, Stage::Done(fate)) = kind {
            return Pushed::Done(fate);
        }
        let at = position(self.items.len());
        self.items.push(Item { arrival, kind });
        Pushed::Rare(at)
    }

    fn first_stage(
        &mut self,
        packet: &IpPacket,
        bytes: &[u8],
        arrival: Arrival,
        place: &Place<'_>,
        origin: Origin,
    ) -> Stage {
        if packet.fragment != Fragment::Whole {
            return self.fragment_stage(packet, arrival, place, origin);
        }
        if let Some((key, from)) = FlowKey::of(arrival.link, packet) {
            return match place.elsewhere(&key).filter(|_| origin == Origin::Queue) {
                Some(owner) => Stage::Done(Fate::HandOver(owner)),
                None => Stage::Flow(key, from, FlowHash::default()),
            };
        }
        let wanted = place.config.icmp_errors == IcmpErrors::Related && is_icmp_error(packet);
        let quoted = if wanted {
            parse_quoted(bytes, arrival.original_len as usize)
        } else {
            None
        };
        let Some(packet) = quoted else {
            return Stage::Stateless;
        };
        let Some((key, from)) = FlowKey::of(arrival.link, &packet) else {
            return Stage::Stateless;
        };
        match place.elsewhere(&key).filter(|_| origin == Origin::Queue) {
            Some(worker) => Stage::Done(Fate::HandOver(worker)),
            None => {
                let at = position(self.quotes.len());
                self.quotes.push(Quote { packet, key, from });
                Stage::Error(at)
            }
        }
    }

    fn fragment_stage(
        &mut self,
        packet: &IpPacket,
        arrival: Arrival,
        place: &Place<'_>,
        origin: Origin,
    ) -> Stage {
        if let Origin::Piece(flow) = origin {
            return Stage::Piece(add_piece(&mut self.pieces, flow));
        }
        let home = Fragments::home_key(arrival.link, arrival.side, packet);
        let elsewhere = home.and_then(|key| place.elsewhere(&key));
        match elsewhere.filter(|_| origin == Origin::Queue) {
            Some(worker) => Stage::Done(Fate::HandOver(worker)),
            None => Stage::Fragment,
        }
    }

    /// Asks for what the verdicts will read, and finds whose pieces the fragments are.
    #[inline]
    pub(super) fn prepare(&mut self, place: &Place<'_>, shard: &mut Shard, now: Tick) {
        if !self.items.is_empty() {
            self.prepare_all(place, shard, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn prepare_all(&mut self, place: &Place<'_>, shard: &mut Shard, now: Tick) {
        for Item { arrival, kind } in &mut self.items {
            let Kind::Ip(packet, stage) = kind else {
                continue;
            };
            match stage {
                Stage::Flow(key, _, hash) => {
                    *hash = shard.hash(key);
                    shard.prefetch_bucket(*hash);
                }
                Stage::Fragment => {
                    let fate = shard.admit_fragment(arrival.link, arrival.side, packet, now);
                    *stage = placed(&mut self.pieces, fate, place);
                }
                _ => {}
            }
        }
        for item in &self.items {
            if let Kind::Ip(_, Stage::Flow(_, _, hash)) = item.kind {
                shard.prefetch_entry(hash);
            }
        }
    }

    /// The fate of the packet at a position.
    #[cold]
    #[inline(never)]
    pub(super) fn judge(&self, at: u8, judge: &mut Judge<'_>) -> Fate {
        let Some(Item { arrival, kind }) = self.items.get(usize::from(at)) else {
            return dropped(DropReason::Invalid);
        };
        let (packet, stage) = match kind {
            Kind::Arp(arp) => return Fate::Judged(judge.arp(arp, *arrival)),
            Kind::Ip(packet, stage) => (packet, *stage),
        };
        Fate::Judged(match stage {
            Stage::Done(fate) => return fate,
            Stage::Flow(key, from, hash) => judge.flow(packet, *arrival, &key, from, hash),
            Stage::Piece(PieceIndex(at)) => match self.pieces.get(usize::from(at)) {
                Some(flow) => judge.piece(packet, *arrival, flow),
                None => Outcome::drop(DropReason::Fragment),
            },
            Stage::Error(at) => match self.quotes.get(usize::from(at)) {
                Some(quote) => judge.error(packet, *arrival, quote),
                None => judge.stateless(packet, *arrival),
            },
            Stage::Stateless => judge.stateless(packet, *arrival),
            Stage::Fragment => Outcome::drop(DropReason::Fragment),
        })
    }

    /// The flow of a fragment that is to be handed over.
    pub(super) fn piece(&self, index: PieceIndex) -> Option<&FragmentedFlow> {
        self.pieces.get(usize::from(index.0))
    }
}

/// What the home's table knows of a fragment.
fn placed(pieces: &mut Vec<FragmentedFlow>, fate: FragmentFate, place: &Place<'_>) -> Stage {
    match fate {
        FragmentFate::Drop => Stage::Done(dropped(DropReason::Fragment)),
        FragmentFate::Wait(ticket) => Stage::Done(Fate::Hold(ticket)),
        FragmentFate::Known(flow) => {
            let owner = flow.key.and_then(|(key, _)| place.elsewhere(&key));
            let piece = add_piece(pieces, flow);
            match owner {
                Some(owner) => Stage::Done(Fate::HandOverPiece(owner, piece)),
                None => Stage::Piece(piece),
            }
        }
    }
}

fn add_piece(pieces: &mut Vec<FragmentedFlow>, flow: FragmentedFlow) -> PieceIndex {
    let at = position(pieces.len());
    pieces.push(flow);
    PieceIndex(at)
}

fn exempt() -> Fate {
    Fate::Judged(Outcome::bare(Verdict::Pass(PassReason::Exempt)))
}

fn dropped(reason: DropReason) -> Fate {
    Fate::Judged(Outcome::drop(reason))
}
