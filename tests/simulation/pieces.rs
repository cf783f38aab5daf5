//! Datagrams in pieces, said slowly: which bytes of each have passed, byte by byte, and which
//! frames wait for a first piece. One of these stands beside each worker.
//!
//! It keeps the gateway's own bounds (places, tickets, the pace of its sweep), since whose place is
//! taken in a flood is a matter of those; what may pass is told from the bytes alone.

use std::collections::HashMap;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::conntrack::Fragments;
use portcullis::packet::{
    Address, End, FlowHasher, FlowKey, Fragment, IpPacket, Transport, VlanTags,
};
use portcullis::types::PortSide;

use crate::model::Seen;
use crate::world::Place;

/// Buckets of datagrams, and places of each.
const BUCKETS: u64 = 256;
const WAYS: usize = 4;
/// Pieces that wait for one first piece.
const WAITING_PER_DATAGRAM_MAX: usize = 8;
/// Runs of bytes of one datagram that may have passed.
const RUNS_MAX: usize = 4;
/// The sweep: nanoseconds of a bucket, and buckets of a turn.
const BUCKET_NS: u64 = 500_000_000 / BUCKETS;
const SWEPT_PER_TURN_MAX: u64 = 16;
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
    /// In the order in which they are released: whoever comes takes the first seat that is free.
    waiting: [Option<Place>; WAITING_PER_DATAGRAM_MAX],
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    /// It is judged like this one.
    Follows(First),
    /// It waits; where nobody else may, the one that waits longest gives way.
    Waits(Option<Place>),
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
    /// Most of those, and who waits, the longest first; some may have been released since.
    tickets: usize,
    queue: Vec<Place>,
    swept: u64,
    next: u64,
}

impl Home {
    pub(crate) fn new(seed: [u64; 2], tickets: usize) -> Self {
        Self {
            hasher: FlowHasher::new(seed),
            buckets: HashMap::new(),
            released: Vec::new(),
            held: 0,
            tickets,
            queue: Vec::new(),
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
            if !datagram.waiting.contains(&None) {
                return Placed::Refused;
            }
            return self.wait(place, bucket, way);
        };
        if !datagram.pass(bytes, is_last) {
            datagram.end_it(&mut self.released);
            return Placed::Refused;
        }
        datagram.release(true, &mut self.released);
        if datagram.is_whole() {
            *slot = None;
        }
        Placed::Follows(first)
    }

    fn wait(&mut self, place: Place, bucket: u64, way: usize) -> Placed {
        let mut displaced = None;
        if self.held == self.tickets {
            let all = || self.buckets.values().flatten().flatten();
            let waits =
                |place: &Place| all().any(|datagram| datagram.waiting.contains(&Some(*place)));
            let Some(longest) = self.queue.iter().position(waits) else {
                return Placed::Refused;
            };
            let longest = self.queue.drain(..=longest).next_back().unwrap();
            for datagram in self.buckets.values_mut().flatten().flatten() {
                datagram.waiting.iter_mut().for_each(|seat| {
                    seat.take_if(|other| *other == longest);
                });
            }
            self.held -= 1;
            displaced = Some(longest);
        }
        let slot = &mut self.buckets.get_mut(&bucket).unwrap()[way];
        let seats = &mut slot.as_mut().unwrap().waiting;
        *seats.iter_mut().find(|seat| seat.is_none()).unwrap() = Some(place);
        // Its chunk may have waited before, with another frame.
        self.queue.retain(|former| *former != place);
        self.queue.push(place);
        self.held += 1;
        Placed::Waits(displaced)
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
                if let Some(mut ended) = slot.take_if(|datagram| datagram.deadline <= now) {
                    ended.release(false, &mut self.released);
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
        if let Some(mut former) = ways[way].take() {
            former.release(false, &mut self.released);
        }
        ways[way] = Some(Datagram {
            name,
            deadline: now + TIMEOUT,
            first: None,
            is_over: false,
            end: None,
            passed: Vec::new(),
            waiting: [None; WAITING_PER_DATAGRAM_MAX],
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

    fn release(&mut self, again: bool, released: &mut Vec<(Place, bool)>) {
        let seats = self.waiting.iter_mut().filter_map(Option::take);
        released.extend(seats.map(|place| (place, again)));
    }

    fn end_it(&mut self, released: &mut Vec<(Place, bool)>) {
        self.is_over = true;
        self.first = None;
        self.release(false, released);
    }
}
