//! A batch of packets and its stages.

use super::follow::Quote;
use super::judge::{IcmpErrors, Judge, PipelineConfig};
use super::outcome::{Arrival, Fate, Outcome, PieceIndex};
use super::steer::Steering;
use crate::clock::Tick;
use crate::conntrack::{FlowHash, FragmentFate, FragmentedFlow, Fragments, Shard};
use crate::packet::{End, FlowKey, Fragment, IpPacket, Parsed, is_icmp_error, parse, parse_quoted};
use crate::snapshot::Snapshot;
use crate::types::{DropReason, PassReason, Verdict, WorkerId};

/// Most packets of one batch.
pub const BATCH_MAX: usize = 64;

/// Most flows that wait for an answer and give way to new ones in one batch. A batch with more new
/// flows than this on a full table is a flood that comes faster than it can be served. To refuse
/// costs a fraction of what it costs to displace and forward, and that time goes to the rest: on
/// veth at 2 million SYNs a second established flows keep 1.1 times what they do behind a bare
/// forwarder, which was 0.87 without a limit (1.5 with 32). The price: four of five new connections
/// are in by their first SYN, nearly all were without.
pub const DISPLACEMENTS_MAX: u32 = 40;

const ETHERTYPE_ARP: u16 = 0x0806;

/// Where packets are judged.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What the configuration says to the pipeline.
    pub config: &'a PipelineConfig,
    /// Which flows are whose, and who judges here; `None` where one worker has them all.
    pub steering: Option<(&'a Steering, WorkerId)>,
}

impl Place<'_> {
    /// Whose a key is, where it is another worker's.
    fn elsewhere(&self, key: &FlowKey) -> Option<WorkerId> {
        let (steering, here) = self.steering?;
        steering.owner(key).filter(|&owner| owner != here)
    }
}

/// How a packet came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From one of its queues.
    Queue,
    /// Another worker found that it is this one's to judge.
    Steered,
    /// It is a fragment, and its home worker knows the flow.
    Piece(FragmentedFlow),
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

#[derive(Debug)]
struct Item {
    arrival: Arrival,
    parsed: Parsed,
    stage: Stage,
}

/// Up to [`BATCH_MAX`] packets, by value: nothing of their bytes is kept after [`Batch::push`].
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
    /// Flows of the batch's fragments; few, so that other packets do not carry their size.
    pieces: Vec<FragmentedFlow>,
    /// What the batch's ICMP errors quote.
    quotes: Vec<Quote>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            items: Vec::with_capacity(BATCH_MAX),
            pieces: Vec::with_capacity(BATCH_MAX),
            quotes: Vec::with_capacity(BATCH_MAX),
        }
    }
}

impl Batch {
    /// Empties it for the next turn.
    pub fn clear(&mut self) {
        self.items.clear();
        self.pieces.clear();
        self.quotes.clear();
    }

    /// How many packets it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Parses a packet into the batch; does nothing when it is full.
    pub fn push(&mut self, bytes: &[u8], arrival: Arrival, place: &Place<'_>, origin: Origin) {
        if self.items.len() >= BATCH_MAX {
            debug_assert!(false, "a batch is pushed only as far as it holds");
            return;
        }
        let exempt_types = &place.config.exempt;
        let parsed = parse(bytes, arrival.original_len as usize);
        let stage = match &parsed {
            Parsed::Malformed(_) => done(DropReason::Malformed),
            Parsed::NotIp { ethertype } if exempt_types.has_ethertype(*ethertype) => exempt(),
            Parsed::NotIp { .. } => done(DropReason::NotIp),
            // Listed, it passes whatever it claims.
            Parsed::Arp(_) if exempt_types.has_ethertype(ETHERTYPE_ARP) => exempt(),
            Parsed::Arp(_) => Stage::Stateless,
            Parsed::Ip(packet) if place.config.is_exempt(packet, arrival.side) => exempt(),
            Parsed::Ip(packet) => match FlowKey::of(arrival.link, packet) {
                Some((key, from)) if packet.fragment == Fragment::Whole => {
                    first_stage(key, from, place, origin)
                }
                _ => self.rare_stage(packet, bytes, arrival, place, origin),
            },
        };
        self.items.push(Item {
            arrival,
            parsed,
            stage,
        });
    }

    /// The first stage of what is no whole packet of a flow: fragments, ICMP that is no query.
    #[cold]
    #[inline(never)]
    fn rare_stage(
        &mut self,
        packet: &IpPacket,
        bytes: &[u8],
        arrival: Arrival,
        place: &Place<'_>,
        origin: Origin,
    ) -> Stage {
        if packet.fragment != Fragment::Whole {
            if let Origin::Piece(flow) = origin {
                return Stage::Piece(self.add_piece(flow));
            }
            let home = Fragments::home_key(arrival.link, arrival.side, packet);
            let elsewhere = home.and_then(|key| place.elsewhere(&key));
            return match elsewhere.filter(|_| origin == Origin::Queue) {
                Some(worker) => Stage::Done(Fate::HandOver(worker)),
                None => Stage::Fragment,
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
                self.quotes.push(Quote { packet, key, from });
                Stage::Error(position(self.quotes.len()))
            }
        }
    }

    fn add_piece(&mut self, flow: FragmentedFlow) -> PieceIndex {
        self.pieces.push(flow);
        PieceIndex(position(self.pieces.len()))
    }

    /// Judges all packets of the batch, in order.
    pub fn run(&mut self, place: &Place<'_>, shard: &mut Shard, snapshot: &Snapshot, now: Tick) {
        for index in 0..self.items.len() {
            let Some(item) = self.items.get_mut(index) else {
                continue;
            };
            match &mut item.stage {
                Stage::Flow(key, _, hash) => {
                    *hash = shard.hash(key);
                    shard.prefetch_bucket(*hash);
                }
                Stage::Fragment => self.find_flow(index, place, shard, now),
                _ => {}
            }
        }
        for item in &self.items {
            if let Stage::Flow(_, _, hash) = item.stage {
                shard.prefetch_entry(hash);
            }
        }
        shard.limit_displacements(DISPLACEMENTS_MAX);
        let mut judge = Judge {
            config: place.config,
            shard,
            snapshot,
            now,
        };
        for item in &mut self.items {
            let outcome = match (&item.parsed, item.stage) {
                (_, Stage::Done(_)) => continue,
                (Parsed::Ip(packet), Stage::Flow(key, from, hash)) => {
                    judge.flow(packet, item.arrival, &key, from, hash)
                }
                (Parsed::Ip(packet), Stage::Piece(PieceIndex(at))) => {
                    match self.pieces.get(usize::from(at)) {
                        Some(flow) => judge.piece(packet, item.arrival, flow),
                        None => Outcome::drop(DropReason::Fragment),
                    }
                }
                (Parsed::Ip(packet), Stage::Error(at)) => match self.quotes.get(usize::from(at)) {
                    Some(quote) => judge.error(packet, item.arrival, quote),
                    None => judge.stateless(packet, item.arrival),
                },
                (Parsed::Ip(packet), Stage::Stateless) => judge.stateless(packet, item.arrival),
                (Parsed::Ip(_), Stage::Fragment) => Outcome::drop(DropReason::Fragment),
                (Parsed::Arp(arp), _) => judge.arp(arp, item.arrival),
                (Parsed::NotIp { .. }, _) => Outcome::drop(DropReason::NotIp),
                (Parsed::Malformed(_), _) => Outcome::drop(DropReason::Malformed),
            };
            item.stage = Stage::Done(Fate::Judged(outcome));
        }
    }

    /// Asks the home's table whose piece a fragment is.
    #[cold]
    #[inline(never)]
    fn find_flow(&mut self, index: usize, place: &Place<'_>, shard: &mut Shard, now: Tick) {
        let Some(Item {
            arrival,
            parsed: Parsed::Ip(packet),
            ..
        }) = self.items.get(index)
        else {
            return;
        };
        let stage = match shard.admit_fragment(arrival.link, arrival.side, packet, now) {
            FragmentFate::Drop => done(DropReason::Fragment),
            FragmentFate::Wait(ticket) => Stage::Done(Fate::Hold(ticket)),
            FragmentFate::Known(flow) => {
                let owner = flow.key.and_then(|(key, _)| place.elsewhere(&key));
                let piece = self.add_piece(flow);
                match owner {
                    Some(owner) => Stage::Done(Fate::HandOverPiece(owner, piece)),
                    None => Stage::Piece(piece),
                }
            }
        };
        if let Some(item) = self.items.get_mut(index) {
            item.stage = stage;
        }
    }

    /// What is to be done with each packet, in the order of [`Batch::push`], after [`Batch::run`].
    pub fn fates(&self) -> impl Iterator<Item = Fate> + '_ {
        self.items.iter().map(|item| match item.stage {
            Stage::Done(fate) => fate,
            // Before `run` nothing is judged; a caller that forgot it must not forward.
            _ => Fate::Judged(Outcome::drop(DropReason::Invalid)),
        })
    }

    /// The flow of a fragment that is to be handed over.
    #[must_use]
    pub fn piece(&self, index: PieceIndex) -> Option<&FragmentedFlow> {
        self.pieces.get(usize::from(index.0))
    }
}

/// Position of the last of `len` things, of which there are at most [`BATCH_MAX`].
fn position(len: usize) -> u8 {
    u8::try_from(len.saturating_sub(1)).unwrap_or(u8::MAX)
}

fn exempt() -> Stage {
    let verdict = Verdict::Pass(PassReason::Exempt);
    Stage::Done(Fate::Judged(Outcome::bare(verdict)))
}

fn done(reason: DropReason) -> Stage {
    Stage::Done(Fate::Judged(Outcome::drop(reason)))
}

/// The first stage of a whole packet of a flow.
#[inline]
fn first_stage(key: FlowKey, from: End, place: &Place<'_>, origin: Origin) -> Stage {
    match place.elsewhere(&key) {
        Some(owner) if origin == Origin::Queue => Stage::Done(Fate::HandOver(owner)),
        _ => Stage::Flow(key, from, FlowHash::default()),
    }
}
