//! A worker's queues and the ways that frames and chunks take from them.

use super::chunks::ChunkHomes;
use super::exchange::{Errand, Exchange, Handover, PieceHandover};
use crate::conntrack::{FragmentedFlow, Ticket, WAITING_MAX};
use crate::pipeline::BATCH_MAX;
use crate::port::{ChunkAddr, Frame, Port};
use crate::sync::Arc;
use crate::telemetry::Tally;
use crate::types::{DropReason, LinkId, PortSide, WorkerId};

/// One queue of one port, owned by this worker.
#[derive(Debug)]
pub struct OwnQueue<P> {
    /// The link.
    pub link: LinkId,
    /// Which of its ports.
    pub side: PortSide,
    /// Number of the queue in the device.
    pub queue: u32,
    /// Whether frames come in by it.
    pub receives: bool,
    /// Whether frames may leave by it.
    pub transmits: bool,
    /// The queue itself.
    pub port: P,
}

/// For each link and side, who has a transmit queue for those that have none of their own.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// `senders[link][side]`: workers with a transmit queue there, in order.
    pub senders: Vec<[Vec<WorkerId>; 2]>,
}

/// A frame in a worker's hands, between receive and its end.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) frame: Frame,
    pub(super) link: LinkId,
    pub(super) side: PortSide,
}

/// How a worker sends by one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// By its own queue at this position.
    Own(usize),
    /// By a worker that has one.
    Via(WorkerId),
    /// Nobody has one.
    Nowhere,
}

/// A worker's queues, its free chunks, and its ways to the other workers.
#[derive(Debug)]
pub struct Lanes<P> {
    id: WorkerId,
    pub(super) queues: Vec<OwnQueue<P>>,
    routes: Vec<[Route; 2]>,
    homes: Vec<ChunkHomes>,
    /// Free chunks of which this worker is the home, by link; their capacity is all of them.
    pub(super) free: Vec<Vec<ChunkAddr>>,
    exchange: Arc<Exchange>,
    /// Chunks that one flush of a queue, and the return ring, bring home at most in a turn: as many
    /// as a turn can send or hand over, or those on their way would become ever more.
    homecoming_max: usize,
    /// Workers to ring at the end of the turn.
    ring: Vec<bool>,
    /// Fragments that wait for the first of their datagram, by ticket.
    waiting: Vec<Option<Held>>,
    /// Workers that chunks were returned to in this turn.
    returned: Vec<bool>,
    pub(super) tally: Tally,
}

/// Bursts that a turn takes from the inbox at most: what another worker may receive from so many
/// queues in its turn. Fewer would drop frames on their way to a worker that has time for them;
/// more would let its own receive rings run over.
pub(super) const INBOX_BURSTS_PER_TURN_MAX: usize = 8;

/// Fragments that may wait at a worker at least, however few chunks there are.
const WAITING_MIN: usize = 4;

/// Chunks that one refill of a queue moves at most, in a turn.
const REFILL_PER_TURN_MAX: usize = 256;

impl<P: Port> Lanes<P> {
    /// The lanes of worker `id`. `free` are the chunks that it is the home of, by link.
    #[must_use]
    pub fn new(
        id: WorkerId,
        queues: Vec<OwnQueue<P>>,
        routes: &Routes,
        homes: Vec<ChunkHomes>,
        free: Vec<Vec<ChunkAddr>>,
        exchange: Arc<Exchange>,
    ) -> Self {
        let routes = routes.senders.iter().enumerate().map(|(link, sides)| {
            PortSide::ALL.map(|side| {
                let own = queues.iter().position(|queue| {
                    queue.transmits && queue.link.index() == link && queue.side == side
                });
                let senders = sides.get(side.index()).map_or(&[][..], Vec::as_slice);
                // Spread those without a queue over those with one.
                let via = senders.iter().cycle().nth(id.index());
                match (own, via) {
                    (Some(own), _) => Route::Own(own),
                    (None, Some(&via)) => Route::Via(via),
                    (None, None) => Route::Nowhere,
                }
            })
        });
        let routes = routes.collect();
        let ring = vec![false; exchange.workers()];
        let bursts = queues.len().saturating_add(INBOX_BURSTS_PER_TURN_MAX);
        Self {
            homecoming_max: bursts.saturating_mul(BATCH_MAX),
            id,
            queues,
            routes,
            homes,
            free,
            exchange,
            returned: ring.clone(),
            ring,
            waiting: (0..WAITING_MAX).map(|_| None).collect(),
            tally: Tally::default(),
        }
    }

    /// Receives up to `limit` frames from the queue at `index` into `held`.
    pub(super) fn receive(&mut self, index: usize, limit: usize, held: &mut Vec<Held>) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if !queue.receives {
            return;
        }
        let (link, side) = (queue.link, queue.side);
        let tally = &mut self.tally;
        let bad = queue.port.receive(limit, |frame| {
            tally.rx_packets = tally.rx_packets.wrapping_add(1);
            tally.rx_bytes = tally.rx_bytes.wrapping_add(u64::from(frame.len()));
            held.push(Held { frame, link, side });
        });
        if bad > 0 {
            tally.rx_packets = tally.rx_packets.wrapping_add(bad as u64);
            tally.drop_many(DropReason::BadDescriptor, bad as u64);
        }
    }

    /// Takes up to `limit` frames from the inbox; those to send leave at once, the others go to
    /// `held`. Returns how many it took.
    pub(super) fn take_inbox(&mut self, limit: usize, held: &mut Vec<Held>) -> usize {
        let mut taken = 0_usize;
        while taken < limit {
            let inbox = self.exchange.inbox(self.id);
            let Some(Handover {
                frame,
                link,
                side,
                errand,
            }) = inbox.and_then(|inbox| inbox.frames.pop())
            else {
                break;
            };
            taken = taken.saturating_add(1);
            let received = Held { frame, link, side };
            match errand {
                Errand::Judge => held.push(received),
                Errand::Send => self.send(received),
            }
        }
        if taken > 0
            && let Some(counters) = self.exchange.counters(self.id)
        {
            counters.take_waiting(taken as u64);
        }
        taken
    }

    /// Sends a frame that passes out of the other port of its link.
    pub(super) fn send(&mut self, held: Held) {
        let route = self.routes.get(held.link.index());
        let route = route
            .and_then(|sides| sides.get(held.side.opposite().index()))
            .copied();
        match route.unwrap_or(Route::Nowhere) {
            Route::Own(index) => {
                let Some(queue) = self.queues.get_mut(index) else {
                    return;
                };
                let bytes = u64::from(held.frame.len());
                match queue.port.transmit(held.frame) {
                    Ok(()) => {
                        self.tally.tx_packets = self.tally.tx_packets.wrapping_add(1);
                        self.tally.tx_bytes = self.tally.tx_bytes.wrapping_add(bytes);
                    }
                    Err((frame, reason)) => self.drop(Held { frame, ..held }, reason),
                }
            }
            Route::Via(worker) => self.hand_over(worker, held, Errand::Send),
            Route::Nowhere => self.drop(held, DropReason::TxFull),
        }
    }

    /// Gives a frame to another worker.
    pub(super) fn hand_over(&mut self, worker: WorkerId, held: Held, errand: Errand) {
        let Held { frame, link, side } = held;
        let handover = Handover {
            frame,
            link,
            side,
            errand,
        };
        match self.exchange.give(worker, handover) {
            Ok(()) => {
                self.tally.handed_over = self.tally.handed_over.wrapping_add(1);
                if let Some(ring) = self.ring.get_mut(worker.index()) {
                    *ring = true;
                }
            }
            Err(Handover {
                frame, link, side, ..
            }) => self.drop(Held { frame, link, side }, DropReason::HandoverFull),
        }
    }

    /// Gives a fragment to the owner of its flow.
    #[cold]
    #[inline(never)]
    pub(super) fn hand_over_piece(&mut self, worker: WorkerId, held: Held, flow: FragmentedFlow) {
        let exchange = Arc::clone(&self.exchange);
        let Some(inbox) = exchange.inbox(worker) else {
            return self.drop(held, DropReason::HandoverFull);
        };
        inbox.counters.add_waiting();
        match inbox.pieces.push(PieceHandover { held, flow }) {
            Ok(()) => {
                self.tally.handed_over = self.tally.handed_over.wrapping_add(1);
                if let Some(ring) = self.ring.get_mut(worker.index()) {
                    *ring = true;
                }
            }
            Err(PieceHandover { held, .. }) => {
                inbox.counters.take_waiting(1);
                self.drop(held, DropReason::HandoverFull);
            }
        }
    }

    /// Takes up to `limit` fragments whose flows are this worker's; returns how many.
    pub(super) fn take_pieces(
        &mut self,
        limit: usize,
        held: &mut Vec<Held>,
        flows: &mut Vec<FragmentedFlow>,
    ) -> usize {
        let Some(inbox) = self.exchange.inbox(self.id) else {
            return 0;
        };
        let mut taken = 0_usize;
        while taken < limit {
            let Some(piece) = inbox.pieces.pop() else {
                break;
            };
            taken = taken.saturating_add(1);
            held.push(piece.held);
            flows.push(piece.flow);
        }
        if taken > 0 {
            inbox.counters.take_waiting(taken as u64);
        }
        taken
    }

    /// Keeps a fragment until its ticket is released.
    #[cold]
    #[inline(never)]
    pub(super) fn hold(&mut self, ticket: Ticket, held: Held) {
        if let Some(counters) = self.exchange.counters(self.id) {
            counters.add_waiting();
        }
        let Some(place) = self.waiting.get_mut(ticket.index()) else {
            return self.end_wait(held);
        };
        // Of many that wait, the one that has waited longest gives way.
        if let Some(former) = place.replace(held) {
            self.end_wait(former);
        }
    }

    /// How many fragments may wait here, so that those of all workers together leave the queues of
    /// every chunk's home seven eighths of its chunks to receive into.
    pub(super) fn waiting_max(&self) -> usize {
        let homes = self.homes.iter().map(ChunkHomes::chunks_per_home);
        let chunks = homes.min().unwrap_or(usize::MAX);
        let parts = self.exchange.workers().saturating_mul(8);
        let each = chunks.checked_div(parts).unwrap_or(WAITING_MIN);
        each.clamp(WAITING_MIN, WAITING_MAX)
    }

    /// Takes back the fragment of a ticket.
    pub(super) fn take_held(&mut self, ticket: Ticket) -> Option<Held> {
        let held = self.waiting.get_mut(ticket.index())?.take()?;
        if let Some(counters) = self.exchange.counters(self.id) {
            counters.take_waiting(1);
        }
        Some(held)
    }

    fn end_wait(&mut self, held: Held) {
        if let Some(counters) = self.exchange.counters(self.id) {
            counters.take_waiting(1);
        }
        self.drop(held, DropReason::Fragment);
    }

    /// Ends a frame here, counted.
    pub(super) fn drop(&mut self, held: Held, reason: DropReason) {
        self.tally.drop(reason);
        let addr = held.frame.addr();
        let chunk = self
            .homes
            .get(held.link.index())
            .map(|homes| homes.chunk_of(addr));
        if let Some(chunk) = chunk {
            let mut homecoming = Homecoming {
                id: self.id,
                homes: &self.homes,
                free: &mut self.free,
                exchange: &self.exchange,
                returned: &mut self.returned,
            };
            homecoming.recycle(held.link, chunk);
        }
    }

    /// Ends a turn: transmits what was queued, brings chunks home, fills the receive side, and
    /// rings those that were given something.
    pub(super) fn finish_turn(&mut self) {
        let Self {
            id,
            queues,
            homes,
            free,
            exchange,
            homecoming_max,
            ring,
            returned,
            ..
        } = self;
        let mut homecoming = Homecoming {
            id: *id,
            homes,
            free,
            exchange,
            returned,
        };
        for queue in queues.iter_mut() {
            let link = queue.link;
            queue.port.flush(*homecoming_max, |chunk| {
                homecoming.recycle(link, chunk);
            });
        }
        if let Some(inbox) = exchange.inbox(*id) {
            for _ in 0..*homecoming_max {
                let Some((link, chunk)) = inbox.returns.pop() else {
                    break;
                };
                if let Some(free) = free.get_mut(link.index()) {
                    free.push(chunk);
                }
            }
        }
        refill(queues, free, REFILL_PER_TURN_MAX);
        for (index, (ring, returned)) in ring.iter_mut().zip(returned).enumerate() {
            let worker = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
            let (is_given, is_returned) = (std::mem::take(ring), std::mem::take(returned));
            if is_given || is_returned && exchange.lacks_chunks(worker) {
                exchange.wake(worker);
            }
        }
    }

    /// Fills the receive side as far as chunks and rings go; before the first turn.
    pub fn prefill(&mut self) {
        refill(&mut self.queues, &mut self.free, usize::MAX);
    }

    /// Whether something waits that a sleeper would have to be woken for.
    pub(super) fn has_work(&mut self) -> bool {
        let waits = |inbox: &super::exchange::Inbox| {
            !inbox.frames.is_empty()
                || !inbox.pieces.is_empty()
                || !inbox.returns.is_empty()
                || !inbox.commands.is_empty()
        };
        self.exchange.inbox(self.id).is_some_and(waits)
            || self.queues.iter_mut().any(|queue| queue.port.has_work())
    }

    pub(super) fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// This worker's id.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Free chunks of one link at home here, for tests that count them all.
    #[must_use]
    pub fn free_chunks(&self, link: LinkId) -> usize {
        self.free.get(link.index()).map_or(0, Vec::len)
    }

    /// The worker's queues, for tests that drive ports without a kernel.
    pub fn queues_mut(&mut self) -> &mut [OwnQueue<P>] {
        &mut self.queues
    }
}

/// Gives free chunks to the receive queues, at most `limit` to each. Where chunks are few, every
/// queue of a link gets an even share of them, so that none goes without.
fn refill<P: Port>(queues: &mut [OwnQueue<P>], free: &mut [Vec<ChunkAddr>], limit: usize) {
    for (link, free) in free.iter_mut().enumerate() {
        let receives = |queue: &&mut OwnQueue<P>| queue.receives && queue.link.index() == link;
        let mut waiting = queues.iter_mut().filter(receives).count();
        for queue in queues.iter_mut().filter(receives) {
            let share = free.len().div_ceil(waiting.max(1));
            queue.port.refill(|| free.pop(), share.min(limit));
            waiting = waiting.saturating_sub(1);
        }
    }
}

/// Where chunks go from the hands of one worker.
struct Homecoming<'a> {
    id: WorkerId,
    homes: &'a [ChunkHomes],
    free: &'a mut [Vec<ChunkAddr>],
    exchange: &'a Exchange,
    returned: &'a mut [bool],
}

impl Homecoming<'_> {
    /// Brings a chunk to the free list of its home.
    fn recycle(&mut self, link: LinkId, chunk: ChunkAddr) {
        let homes = self.homes.get(link.index());
        let Some(home) = homes.map(|homes| homes.home(chunk)) else {
            return;
        };
        if home == self.id {
            if let Some(free) = self.free.get_mut(link.index()) {
                debug_assert!(free.len() < free.capacity(), "a chunk came home twice");
                free.push(chunk);
            }
            return;
        }
        let Some(inbox) = self.exchange.inbox(home) else {
            return;
        };
        // The ring has room for every chunk of its home, so none is ever lost here.
        let returned = inbox.returns.push((link, chunk));
        debug_assert!(
            returned.is_ok(),
            "more chunks on their way home than there are"
        );
        if let Some(returned) = self.returned.get_mut(home.index()) {
            *returned = true;
        }
    }
}
