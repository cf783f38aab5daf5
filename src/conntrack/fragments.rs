//! Datagrams in pieces: the first fragment has the ports, the others follow it.
//!
//! All fragments of a datagram meet in one table, that of its home worker. The first one leaves
//! there what its flow is; later ones are told it. One that comes early waits, its frame in the
//! worker's hands and its place here, until the first comes or the time is over.
//!
//! ```text
//!  first ──► known (flow) ─────────────► later: this flow
//!  later ──► waiting (places 1..8) ─ first comes ─► retry each
//!                                  └ time is over ─► drop each
//!  overlap, second first, past the end ──► poisoned: all dropped until the time is over
//! ```
//!
//! What is known of a datagram is which bytes of it passed (RFC 5722: a fragment that overlaps
//! ends the datagram; RFC 1858, RFC 3128: nor may one be overwritten). When all of them have, the
//! datagram is forgotten, and its id may begin anew.
//!
//! Memory is fixed. A datagram has one bucket of [`WAYS`] places, by a keyed hash; when all are
//! taken, the one that would end first gives way, with whatever waits for it. So a flood of
//! fragments costs other fragmented datagrams their place and no packet besides, and nobody
//! chooses whose: fragments of one datagram come within a round trip of each other, and a place is
//! lost only after as many others as the table holds.

use std::time::Duration;

use crate::clock::Tick;
use crate::cpu::present;
use crate::packet::{Addresses, FlowKey, Fragment, IpPacket, VlanTags};
use crate::types::{LinkId, PortSide};

use super::flow::FragmentedFlow;
use super::rings::{Ring, Rings};

/// Places of a bucket.
const WAYS: usize = 4;
/// Buckets: 1,024 datagrams at a time, for a third of a byte each flow of a million.
const BUCKETS: usize = 256;
/// Separate stretches of a datagram that may have passed; one that comes in more pieces out of
/// order ends. In order there is one.
const STRETCHES_MAX: usize = 4;
/// Fragments that wait for one first fragment: a datagram of 12 KB over Ethernet.
const WAITING_PER_DATAGRAM_MAX: usize = 8;
/// Frames that wait at one worker, of all datagrams.
pub const WAITING_MAX: usize = 256;
/// Buckets that one turn looks at, at most, for datagrams whose time is over; each place of them is
/// some lines that are far.
const EXPIRE_PER_TURN_MAX: usize = 16;
/// Nanoseconds of one bucket's turn in the sweep, so that it comes round in half a second.
const BUCKET_NS: u64 = 500_000_000 / BUCKETS as u64;
const SWEEP_NS: u64 = BUCKET_NS * BUCKETS as u64;
/// Turns after which every datagram has been looked at.
pub const FRAGMENT_SWEEP_TURNS: usize = BUCKETS / EXPIRE_PER_TURN_MAX;

/// What names a datagram: RFC 791 §3.2 (addresses, protocol, id), RFC 8200 §4.5 (addresses, id).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DatagramKey {
    link: LinkId,
    /// Where it came from: nobody on one side touches what a host of the other sends, whatever
    /// addresses he writes. That they are spoofed is found later, when the flow is judged.
    side: PortSide,
    vlan: VlanTags,
    addresses: Addresses,
    /// IPv4 only; 0 in IPv6.
    protocol: u8,
    id: u32,
}

/// A place for a frame that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u16);

impl Ticket {
    /// For indexing the frames that wait; below [`WAITING_MAX`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The fragments that wait, and the tickets that they wait under.
#[derive(Debug)]
struct Waiting {
    free: Vec<Ticket>,
    released: Vec<(Ticket, Release)>,
    /// Tickets in use and not released, the one given out first at the head.
    queue: Rings,
    longest: Ring,
    /// Where each ticket's datagram is: bucket and way.
    seats: Vec<(usize, usize)>,
    /// How many tickets there are.
    count: usize,
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentFate {
    /// It is a piece of a packet of this flow: to be judged as that.
    Known(FragmentedFlow),
    /// Its first fragment has not come: the frame waits under this ticket. Should one wait there
    /// already, that has waited longest of all, and is dropped.
    Wait(Ticket),
    /// It cannot be placed.
    Drop,
}

/// What to do with a frame that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Its first fragment has come: ask again.
    Retry,
    /// Its time is over, or its datagram has ended.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    key: DatagramKey,
    deadline: Tick,
    flow: Option<FragmentedFlow>,
    /// An overlap was seen: nothing of it passes any more.
    is_poisoned: bool,
    /// Where it ends, once its last fragment has passed.
    end: Option<u32>,
    passed: [Option<Stretch>; STRETCHES_MAX],
    waiting: [Option<Ticket>; WAITING_PER_DATAGRAM_MAX],
}

/// The fragments whose home is one worker. Counts nothing: whoever drops a frame does.
#[derive(Debug)]
pub struct Fragments {
    places: Box<[[Option<Datagram>; WAYS]]>,
    hasher: crate::packet::FlowHasher,
    timeout: Duration,
    waiting: Waiting,
    /// Where the sweep goes on.
    sweep: usize,
    /// Up to when it has swept.
    swept: Tick,
    occupied: usize,
}

impl Fragments {
    /// Takes all the memory that the table will ever use.
    #[must_use]
    pub fn new(timeout: Duration, seed: [u64; 2]) -> Self {
        Self {
            places: present([None; WAYS], BUCKETS).into_boxed_slice(),
            hasher: crate::packet::FlowHasher::new(seed),
            timeout,
            waiting: Waiting::new(),
            sweep: 0,
            swept: Tick(0),
            occupied: 0,
        }
    }

    /// Bytes that it takes, however many flows there are.
    pub(super) fn bytes(&self) -> usize {
        let places = size_of::<[Option<Datagram>; WAYS]>().saturating_mul(self.places.len());
        places.saturating_add(self.waiting.bytes())
    }

    /// Says how many may wait at a time; before any does.
    pub(super) fn limit_waiting(&mut self, count: usize) {
        let Waiting {
            free, count: all, ..
        } = &mut self.waiting;
        debug_assert_eq!(free.len(), *all, "nobody waits yet");
        // The lowest numbers are the last ones of the list.
        let beyond = free.len().saturating_sub(count);
        free.drain(..beyond);
        *all = free.len();
    }

    /// A number that is the same for all fragments of a datagram and spreads datagrams over
    /// workers; `None` for what is no fragment.
    #[must_use]
    pub fn home_key(link: LinkId, side: PortSide, packet: &IpPacket) -> Option<FlowKey> {
        let key = DatagramKey::of(link, side, packet)?;
        Some(key.as_flow_key())
    }

    /// Places a fragment. `flow` is what the first fragment's own headers say; later ones have
    /// none. A packet that is no fragment is dropped: it has no business here.
    pub fn admit(
        &mut self,
        link: LinkId,
        side: PortSide,
        packet: &IpPacket,
        flow: Option<FragmentedFlow>,
        now: Tick,
    ) -> FragmentFate {
        let key = DatagramKey::of(link, side, packet);
        let (Some(key), Some(stretch)) = (key, stretch_of(packet)) else {
            return FragmentFate::Drop;
        };
        let is_last = matches!(packet.fragment, Fragment::Later { more: false, .. });
        let Some((bucket, way)) = self.place(key, now) else {
            return FragmentFate::Drop;
        };
        let Self {
            places, waiting, ..
        } = self;
        let Some(place) = places.get_mut(bucket).and_then(|ways| ways.get_mut(way)) else {
            return FragmentFate::Drop;
        };
        let Some(datagram) = place else {
            return FragmentFate::Drop;
        };
        if datagram.is_poisoned {
            return FragmentFate::Drop;
        }
        if stretch.from == 0 {
            if datagram.flow.is_some() {
                datagram.poison(waiting);
                return FragmentFate::Drop;
            }
            datagram.flow = flow;
        }
        let Some(flow) = datagram.flow else {
            return self.wait(bucket, way);
        };
        if !datagram.pass(stretch, is_last) {
            datagram.poison(waiting);
            return FragmentFate::Drop;
        }
        datagram.release(waiting, Release::Retry);
        if datagram.is_complete() && !datagram.has_waiting() {
            *place = None;
            self.occupied = self.occupied.saturating_sub(1);
        }
        FragmentFate::Known(flow)
    }

    /// The next frame that need not wait any longer; its ticket is free again.
    pub fn pop_released(&mut self) -> Option<(Ticket, Release)> {
        let (ticket, release) = self.waiting.released.pop()?;
        self.waiting.free.push(ticket);
        Some((ticket, release))
    }

    /// Ends datagrams whose time is over; once a turn.
    pub fn expire(&mut self, now: Tick) {
        // Once round is enough, however long nobody looked.
        let since = self.swept.0.max(now.0.saturating_sub(SWEEP_NS));
        let due = now.0.saturating_sub(since) / BUCKET_NS;
        let count = usize::try_from(due)
            .unwrap_or(usize::MAX)
            .min(EXPIRE_PER_TURN_MAX);
        self.swept = Tick(since.saturating_add((count as u64).saturating_mul(BUCKET_NS)));
        if self.occupied == 0 {
            return;
        }
        for _ in 0..count {
            let bucket = self.sweep;
            self.sweep = bucket.wrapping_add(1) & BUCKETS.wrapping_sub(1);
            let Some(ways) = self.places.get_mut(bucket) else {
                continue;
            };
            for place in ways {
                if let Some(datagram) = place
                    && datagram.deadline <= now
                {
                    datagram.release(&mut self.waiting, Release::Drop);
                    *place = None;
                    self.occupied = self.occupied.saturating_sub(1);
                }
            }
        }
    }

    /// Datagrams that are known or waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.occupied
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Frames that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let Waiting { free, count, .. } = &self.waiting;
        count.saturating_sub(free.len())
    }

    /// Has a frame wait for the first fragment of its datagram. Where all tickets are taken the one
    /// that waits longest gives way: a few lone fragments must not shut all others out.
    fn wait(&mut self, bucket: usize, way: usize) -> FragmentFate {
        let has_room = |datagram: &mut Datagram| datagram.waiting.contains(&None);
        if !self.datagram(bucket, way).is_some_and(has_room) {
            return FragmentFate::Drop;
        }
        let ticket = match self.waiting.free.pop() {
            Some(ticket) => ticket,
            None => match self.displace() {
                Some(ticket) => ticket,
                None => return FragmentFate::Drop,
            },
        };
        self.waiting.take(ticket, (bucket, way));
        let places = self
            .datagram(bucket, way)
            .map(|datagram| &mut datagram.waiting);
        let place = places.and_then(|places| places.iter_mut().find(|place| place.is_none()));
        if let Some(place) = place {
            *place = Some(ticket);
        }
        FragmentFate::Wait(ticket)
    }

    /// Takes the ticket of the fragment that waits longest.
    fn displace(&mut self) -> Option<Ticket> {
        let (ticket, (bucket, way)) = self.waiting.longest()?;
        let places = &mut self.datagram(bucket, way)?.waiting;
        let place = places.iter_mut().find(|place| **place == Some(ticket))?;
        *place = None;
        self.waiting.leave(ticket);
        Some(ticket)
    }

    fn datagram(&mut self, bucket: usize, way: usize) -> Option<&mut Datagram> {
        let ways = self.places.get_mut(bucket)?;
        ways.get_mut(way)?.as_mut()
    }

    /// The place of a datagram, made where there is none.
    fn place(&mut self, key: DatagramKey, now: Tick) -> Option<(usize, usize)> {
        let hash = self.hasher.hash(&key.as_flow_key());
        let bucket = usize::try_from(hash).unwrap_or(0) & BUCKETS.wrapping_sub(1);
        let ways = self.places.get_mut(bucket)?;
        let same = |place: &Option<Datagram>| {
            place
                .as_ref()
                .is_some_and(|datagram| datagram.key == key && datagram.deadline > now)
        };
        if let Some(way) = ways.iter().position(same) {
            return Some((bucket, way));
        }
        // Free ones first, then the one that would end first (an ended one above all).
        let deadline =
            |place: &Option<Datagram>| place.as_ref().map_or(Tick(0), |datagram| datagram.deadline);
        let (way, place) = ways
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, place)| deadline(place))?;
        match place {
            Some(former) => former.release(&mut self.waiting, Release::Drop),
            None => self.occupied = self.occupied.saturating_add(1),
        }
        *place = Some(Datagram::new(key, now.after(self.timeout)));
        Some((bucket, way))
    }
}

impl Waiting {
    fn new() -> Self {
        let tickets = (0..WAITING_MAX).rev();
        let tickets = tickets.map(|number| Ticket(u16::try_from(number).unwrap_or(0)));
        Self {
            free: tickets.collect(),
            released: Vec::with_capacity(WAITING_MAX),
            queue: Rings::new(WAITING_MAX),
            longest: Ring::default(),
            seats: vec![(0, 0); WAITING_MAX],
            count: WAITING_MAX,
        }
    }

    fn take(&mut self, ticket: Ticket, seat: (usize, usize)) {
        self.queue.push(&mut self.longest, u32::from(ticket.0));
        if let Some(place) = self.seats.get_mut(ticket.index()) {
            *place = seat;
        }
    }

    fn longest(&self) -> Option<(Ticket, (usize, usize))> {
        let ticket = Ticket(u16::try_from(self.longest.first()?).ok()?);
        Some((ticket, *self.seats.get(ticket.index())?))
    }

    fn leave(&mut self, ticket: Ticket) {
        self.queue.remove(&mut self.longest, u32::from(ticket.0));
    }

    fn bytes(&self) -> usize {
        let tickets = size_of::<Ticket>().saturating_mul(self.free.capacity());
        let released = size_of::<(Ticket, Release)>().saturating_mul(self.released.capacity());
        let seats = size_of::<(usize, usize)>().saturating_mul(self.seats.capacity());
        [tickets, released, seats, self.queue.bytes()]
            .into_iter()
            .fold(0, usize::saturating_add)
    }
}

impl DatagramKey {
    fn of(link: LinkId, side: PortSide, packet: &IpPacket) -> Option<Self> {
        let id = match packet.fragment {
            Fragment::Whole => return None,
            Fragment::First { id, .. } | Fragment::Later { id, .. } => id,
        };
        let protocol = match packet.addresses {
            Addresses::V4 { .. } => packet.protocol,
            Addresses::V6 { .. } => 0,
        };
        let (vlan, addresses) = (packet.vlan, packet.addresses);
        Some(Self {
            link,
            side,
            vlan,
            addresses,
            protocol,
            id,
        })
    }

    /// The same bits but the side in the form that is hashed; the two directions stay apart.
    fn as_flow_key(self) -> FlowKey {
        FlowKey::of_datagram(self.link, self.vlan, self.addresses, self.protocol, self.id)
    }
}

impl Datagram {
    fn new(key: DatagramKey, deadline: Tick) -> Self {
        Self {
            key,
            deadline,
            flow: None,
            is_poisoned: false,
            end: None,
            passed: [None; STRETCHES_MAX],
            waiting: [None; WAITING_PER_DATAGRAM_MAX],
        }
    }

    /// Notes that a stretch passes; `false` where it may not: it overlaps one that did, passes the
    /// end, sets another end, or leaves too many gaps.
    fn pass(&mut self, stretch: Stretch, is_last: bool) -> bool {
        let passed = || self.passed.iter().flatten();
        if passed().any(|other| stretch.from < other.to && other.from < stretch.to) {
            return false;
        }
        if self.end.is_some_and(|end| is_last || stretch.to > end) {
            return false;
        }
        if is_last {
            if passed().any(|other| other.to > stretch.to) {
                return false;
            }
            self.end = Some(stretch.to);
        }
        self.join(stretch)
    }

    /// Adds a stretch, joined with those that it touches.
    fn join(&mut self, mut stretch: Stretch) -> bool {
        for place in &mut self.passed {
            if let Some(other) = *place {
                if other.to == stretch.from {
                    stretch.from = other.from;
                    *place = None;
                } else if stretch.to == other.from {
                    stretch.to = other.to;
                    *place = None;
                }
            }
        }
        match self.passed.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(stretch);
                true
            }
            None => false,
        }
    }

    fn is_complete(&self) -> bool {
        let whole = self.end.map(|to| Stretch { from: 0, to });
        whole.is_some() && self.passed.contains(&whole)
    }

    fn has_waiting(&self) -> bool {
        self.waiting.iter().any(Option::is_some)
    }

    fn release(&mut self, waiting: &mut Waiting, what: Release) {
        for place in &mut self.waiting {
            if let Some(ticket) = place.take() {
                waiting.leave(ticket);
                // There are as many places as tickets.
                waiting.released.push((ticket, what));
            }
        }
    }

    fn poison(&mut self, waiting: &mut Waiting) {
        self.is_poisoned = true;
        self.flow = None;
        self.release(waiting, Release::Drop);
    }
}

fn stretch_of(packet: &IpPacket) -> Option<Stretch> {
    let (from, len) = match packet.fragment {
        Fragment::Whole => return None,
        Fragment::First { len, .. } => (0, u32::from(len)),
        Fragment::Later { offset, len, .. } => (u32::from(offset), u32::from(len)),
    };
    Some(Stretch {
        from,
        to: from.saturating_add(len),
    })
}

#[cfg(test)]
mod tests;
