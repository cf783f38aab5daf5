//! Datagrams in pieces, said slowly: which bytes of each have passed, byte by byte, and which
//! frames wait for a first piece. One of these stands beside each worker.
//!
//! It keeps the gateway's own bounds (places, tickets, the pace of its sweep), since whose place is
//! taken in a flood is a matter of those; what may pass is told from the bytes alone.

use std::collections::HashMap;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::conntrack::{Fragments, WAITING_MAX};
use portcullis::packet::{
    Address, End, FlowHasher, FlowKey, Fragment, IpPacket, Transport, VlanTags,
};
use portcullis::types::PortSide;

use crate::model::Seen;
use crate::world::Place;

/// Buckets of datagrams, and places of each.
const BUCKETS: u64 = 1024;
const WAYS: usize = 4;
/// Pieces that wait for one first piece.
const WAITING_PER_DATAGRAM_MAX: usize = 8;
/// Runs of bytes of one datagram that may have passed.
const RUNS_MAX: usize = 4;
/// The sweep: nanoseconds of a bucket, and buckets of a turn.
const BUCKET_NS: u64 = 500_000_000 / BUCKETS;
const SWEPT_PER_TURN_MAX: u64 = 256;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What names a datagram on its side of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    link: usize,
    side: PortSide,
    vlan: VlanTags,
    ends: (Address, Address),
    /// IPv4 alone.
    protocol: Option<u8>,
    id: u32,
}

/// The first piece: whose flow it is, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) flow: Option<(FlowKey, End)>,
    protocol: u8,
    transport: Transport,
}

impl First {
    /// A piece with the header of the first.
    pub(crate) fn complete(&self, piece: &IpPacket) -> IpPacket {
        IpPacket {
            protocol: self.protocol,
            transport: self.transport,
            ..*piece
        }
    }
}

#[derive(Debug)]
struct Datagram {
    name: Name,
    deadline: Tick,
    first: Option<First>,
    is_over: bool,
    end: Option<usize>,
    /// Which bytes have passed.
    passed: Vec<bool>,
    waiting: Vec<Place>,
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    /// It is judged like this one.
    Follows(First),
    Waits,
    Refused,
}

/// The datagrams whose home is one worker.
#[derive(Debug)]
pub(crate) struct Home {
    hasher: FlowHasher,
    buckets: HashMap<u64, [Option<Datagram>; WAYS]>,
    /// Frames that need not wait any longer, and whether their first piece has come.
    released: Vec<(Place, bool)>,
    /// Frames that wait, or are released and not taken.
    pub(crate) held: usize,
    swept: u64,
    next: u64,
}

impl Home {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self {
            hasher: FlowHasher::new(seed),
            buckets: HashMap::new(),
            released: Vec::new(),
            held: 0,
            swept: 0,
            next: 0,
        }
    }

    pub(crate) fn admit(
        &mut self,
        place: Place,
        seen: Seen<'_>,
        packet: &IpPacket,
        now: Tick,
    ) -> Placed {
        let (id, from, len, is_last) = match packet.fragment {
            Fragment::Whole => panic!("no piece of anything"),
            Fragment::First { id, len } => (id, 0, len, false),
            Fragment::Later {
                id,
                offset,
                len,
                more,
            } => (id, offset, len, !more),
        };
        let bytes = usize::from(from)..usize::from(from) + usize::from(len);
        let key = Fragments::home_key(seen.link_id(), seen.side, packet).unwrap();
        let name = Name::new(seen, packet, id);
        let bucket = self.hasher.hash(&key) % BUCKETS;
        let way = self.way(bucket, name, now);
        let slot = &mut self.buckets.get_mut(&bucket).unwrap()[way];
        let datagram = slot.as_mut().unwrap();
        if datagram.is_over {
            return Placed::Refused;
        }
        if from == 0 {
            if datagram.first.is_some() {
                datagram.end_it(&mut self.released);
                return Placed::Refused;
            }
            datagram.first = Some(First {
                flow: FlowKey::of(seen.link_id(), packet),
                protocol: packet.protocol,
                transport: packet.transport,
            });
        }
        let Some(first) = datagram.first else {
            let is_full = datagram.waiting.len() == WAITING_PER_DATAGRAM_MAX;
            if is_full || self.held == WAITING_MAX {
                return Placed::Refused;
            }
            datagram.waiting.push(place);
            self.held += 1;
            return Placed::Waits;
        };
        if !datagram.pass(bytes, is_last) {
            datagram.end_it(&mut self.released);
            return Placed::Refused;
        }
        let waiting = datagram.waiting.drain(..).map(|place| (place, true));
        self.released.extend(waiting);
        if datagram.is_whole() {
            *slot = None;
        }
        Placed::Follows(first)
    }

    /// Who need not wait any longer, and whether it is asked about again.
    pub(crate) fn pop_released(&mut self) -> Option<(Place, bool)> {
        let popped = self.released.pop()?;
        self.held -= 1;
        Some(popped)
    }

    /// Ends datagrams whose time is over, at the pace of the gateway.
    pub(crate) fn expire(&mut self, now: Tick) {
        let since = self.swept.max(now.0.saturating_sub(BUCKET_NS * BUCKETS));
        let count = ((now.0 - since) / BUCKET_NS).min(SWEPT_PER_TURN_MAX);
        self.swept = since + count * BUCKET_NS;
        if self.buckets.values().flatten().all(Option::is_none) {
            return;
        }
        for _ in 0..count {
            let ways = self.buckets.get_mut(&self.next);
            self.next = (self.next + 1) % BUCKETS;
            for slot in ways.into_iter().flatten() {
                if let Some(ended) = slot.take_if(|datagram| datagram.deadline <= now) {
                    let waiting = ended.waiting.into_iter().map(|place| (place, false));
                    self.released.extend(waiting);
                }
            }
        }
    }

    /// The way of a datagram, made where there is none.
    fn way(&mut self, bucket: u64, name: Name, now: Tick) -> usize {
        let ways = self.buckets.entry(bucket).or_default();
        let is_it = |slot: &Option<Datagram>| {
            let found = slot.as_ref();
            found.is_some_and(|datagram| datagram.name == name && datagram.deadline > now)
        };
        if let Some(way) = ways.iter().position(is_it) {
            return way;
        }
        let ends = |way: &usize| {
            ways[*way]
                .as_ref()
                .map_or(Tick(0), |former| former.deadline)
        };
        let way = (0..WAYS).min_by_key(ends).unwrap();
        if let Some(former) = ways[way].take() {
            let waiting = former.waiting.into_iter().map(|place| (place, false));
            self.released.extend(waiting);
        }
        ways[way] = Some(Datagram {
            name,
            deadline: now + TIMEOUT,
            first: None,
            is_over: false,
            end: None,
            passed: Vec::new(),
            waiting: Vec::new(),
        });
        way
    }
}

impl Name {
    fn new(seen: Seen<'_>, packet: &IpPacket, id: u32) -> Self {
        let ends = (packet.addresses.source(), packet.addresses.destination());
        let is_v4 = matches!(ends.0, Address::V4(_));
        Self {
            link: seen.link,
            side: seen.side,
            vlan: packet.vlan,
            ends,
            protocol: is_v4.then_some(packet.protocol),
            id,
        }
    }
}

impl Datagram {
    /// Notes that bytes pass, if they may.
    fn pass(&mut self, bytes: std::ops::Range<usize>, is_last: bool) -> bool {
        self.passed.resize(self.passed.len().max(bytes.end), false);
        let is_overlap = self.passed[bytes.clone()].contains(&true);
        let is_past_end = self.end.is_some_and(|end| is_last || bytes.end > end);
        let is_end_inside = is_last && self.passed[bytes.end..].contains(&true);
        if is_overlap || is_past_end || is_end_inside {
            return false;
        }
        if is_last {
            self.end = Some(bytes.end);
        }
        self.passed[bytes].fill(true);
        let runs = self.passed.split(|has_passed| !has_passed);
        runs.filter(|run| !run.is_empty()).count() <= RUNS_MAX
    }

    fn is_whole(&self) -> bool {
        self.end
            .is_some_and(|end| self.passed[..end].iter().all(|has_passed| *has_passed))
    }

    fn end_it(&mut self, released: &mut Vec<(Place, bool)>) {
        self.is_over = true;
        self.first = None;
        released.extend(self.waiting.drain(..).map(|place| (place, false)));
    }
}
