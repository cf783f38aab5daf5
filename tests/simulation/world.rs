//! The world of one seed, and what has to hold in it after every step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::conntrack::{FlowView, Fragments, TcpPickup, WAITING_MAX};
use portcullis::packet::{FlowKey, Parsed};
use portcullis::port::FrameMemory;
use portcullis::snapshot::Publisher;
use portcullis::telemetry::CounterView;
use portcullis::types::{DropReason, Generation, PassReason, PortSide, Verdict};
use portcullis::worker::{FlowPage, WorkerCommand};

use crate::count_allocations;
use crate::model::{Manners, Model, Seen, Verdicts};
use crate::pieces::{First, Home, Placed};
use crate::policies::{self, LINKS};
use crate::quota::Quota;
use crate::random::Random;
use crate::rig::{CHUNK_SIZE, Rig, link_id, worker_id};
use crate::rules::Version;
use crate::shape::Shape;
use crate::traffic::{Coming, Origin, Traffic};

/// A sleeper wakes by itself after this.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Snapshots that slow workers may hold back before no more are published.
const FORMER_MAX: usize = 4;

/// Bursts that a turn takes from its inbox.
const INBOX_BURSTS_PER_TURN_MAX: usize = 8;
/// Steps of a run: many times what the frames of one take.
const STEPS_MAX: u64 = 200_000;

/// Link and chunk: what a frame is known by while it is in the gateway.
pub(crate) type Place = (usize, u64);

/// A frame in the gateway's hands.
struct Guest {
    coming: Coming,
    /// What is right for it, once it was judged.
    verdicts: Option<Verdicts>,
    has_left: bool,
}

/// What is under way to a worker.
#[derive(Clone, Copy)]
enum Errand {
    Judge(Place),
    /// Judged by a worker without queues.
    Send,
}

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) handed_over: u64,
    pub(crate) passed: [u64; PassReason::COUNT],
    pub(crate) dropped: [u64; DropReason::COUNT],
    pub(crate) finished: u64,
    pub(crate) given_up: u64,
    pub(crate) generations: u64,
    pub(crate) sleeps: u64,
    pub(crate) ended: u64,
    /// Pieces of datagrams that came before their first, and pieces that passed.
    pub(crate) waited: u64,
    pub(crate) pieces_passed: u64,
    /// New flows beyond an interface's number, and beyond its rate.
    pub(crate) limited: [u64; 2],
}

/// How a frame comes to a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Queue,
    /// Another worker found that it is this one's, or it waited here.
    Given,
}

/// What one turn did with frames, in its order.
struct Turn {
    worker: usize,
    judged: Vec<Place>,
    right: Vec<Verdicts>,
    /// What it offered to each other worker: frames, and pieces of flows.
    offered: Vec<Vec<Place>>,
    pieces: Vec<Vec<(Place, First)>>,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) shape: Shape,
    now: Tick,
    rig: Rig,
    compiler: Compiler,
    publisher: Publisher,
    /// The document in force.
    document: String,
    version: Version,
    model: Model,
    traffic: Traffic,
    guests: HashMap<Place, Guest>,
    inboxes: Vec<VecDeque<Errand>>,
    piece_inboxes: Vec<VecDeque<(Place, First)>>,
    homes: Vec<Home>,
    waited: u64,
    pieces_passed: u64,
    /// Since when each worker sleeps.
    asleep: Vec<Option<Tick>>,
    views: Vec<CounterView>,
    sleeps: u64,
    /// Connections that ended because their address left, and no packet told.
    ended: u64,
    steps: u64,
    tape_left: bool,
}

impl World {
    pub(crate) fn new(seed: u64, frames_max: u32) -> Self {
        let mut random = Random::new(seed);
        let shape = Shape::new(&mut random, seed);
        let now = Tick::from_seconds(1);
        let text = policies::document(&mut random, shape.links);
        let policy = policies::read(&text, shape.links);
        let mut compiler = Compiler::new();
        let first = Generation(1);
        let snapshot = compiler.compile(&policy, &LINKS[..shape.links], first);
        let (publisher, readers) = Publisher::new(Arc::new(snapshot.unwrap()), shape.workers);
        let rig = Rig::new(&mut random, &shape, frames_max, readers, now);
        let traffic = Traffic::new(&mut random, shape.links);
        let workers = usize::from(shape.workers);
        let manners = Manners {
            unregistered: shape.unregistered.clone(),
            exempt: shape.exempt.clone(),
            is_syn_only: shape.tcp_pickup == TcpPickup::SynOnly,
            icmp_errors: shape.icmp_errors,
            on_rule_removed: shape.on_rule_removed,
        };
        let quota = Quota::new(shape.max_flows, shape.per_interface, workers);
        // An eighth of what a worker receives into, over all workers.
        let chunks = shape.chunks as usize / usize::from(shape.with_queues);
        let tickets = (chunks / (8 * workers)).clamp(4, WAITING_MAX);
        Self {
            homes: rig
                .seeds
                .iter()
                .map(|seed| Home::new(*seed, tickets))
                .collect(),
            piece_inboxes: vec![VecDeque::new(); workers],
            waited: 0,
            pieces_passed: 0,
            random,
            shape,
            now,
            rig,
            compiler,
            publisher,
            document: text,
            version: Version::new(first, policy, None),
            model: Model::new(manners, quota),
            traffic,
            guests: HashMap::new(),
            inboxes: vec![VecDeque::new(); workers],
            asleep: vec![None; workers],
            views: vec![CounterView::default(); workers],
            sleeps: 0,
            ended: 0,
            steps: 0,
            tape_left: true,
        }
    }

    /// Steps until the tapes of frames are at their end; what happened.
    pub(crate) fn run(mut self) -> Summary {
        while self.tape_left {
            self.step();
            assert!(self.steps < STEPS_MAX, "frames get stuck somewhere");
        }
        self.summary()
    }

    fn step(&mut self) {
        self.steps += 1;
        self.pass_time();
        self.traffic.pass(&mut self.random, self.now.0);
        for _ in 0..self.random.below(12) {
            self.arrive();
        }
        let worker = self.choose_worker();
        match self.asleep[worker] {
            Some(since) => self.maybe_wake(worker, since),
            None => self.turn(worker),
        }
        if self.asleep[worker].is_none() && self.random.once_in(4) {
            self.end_departed(worker);
        }
        for worker in 0..usize::from(self.shape.with_queues) {
            if !self.random.once_in(3) {
                self.take(worker);
            }
        }
        if self.random.once_in(120) && self.publisher.former_count() < FORMER_MAX {
            self.publish();
        }
        self.publisher.retire();
        self.check();
        if self.steps.is_multiple_of(128) {
            self.check_shares();
        }
    }

    fn pass_time(&mut self) {
        let nanoseconds = match self.random.below(4000) {
            0 => 1_000_000_000 * u64::from(self.random.number(700)),
            1..20 => 1_000_000 * u64::from(self.random.number(40_000)),
            _ => 1000 * u64::from(self.random.number(2000)),
        };
        self.now = self.now + Duration::from_nanos(nanoseconds);
        if self.steps.is_multiple_of(512) {
            self.model.forget(self.now);
        }
    }

    fn choose_worker(&mut self) -> usize {
        let worker = self.random.below(self.rig.workers.len());
        let is_slow = self.shape.slow.map(usize::from) == Some(worker);
        // Slow where there is another one to take its turn; else all is slow.
        match is_slow && !self.random.once_in(20) {
            true => self.random.below(self.rig.workers.len()),
            false => worker,
        }
    }

    /// A frame comes in by any queue of its port, if that has a chunk for it.
    fn arrive(&mut self) {
        let Some(coming) = self.traffic.arrive(&mut self.random) else {
            return;
        };
        let worker = self.random.below(usize::from(self.shape.with_queues));
        let memory = Arc::clone(&self.rig.memories[coming.link]);
        let wire = self.rig.port(worker, coming.link, coming.side);
        let wire = wire.behind.inner_mut();
        let Some(chunk) = wire.fill.pop_front() else {
            return; // Lost in the kernel, before us.
        };
        let Some(frame) = memory.write(chunk, &coming.bytes) else {
            wire.fill.push_front(chunk);
            self.tape_left = false;
            return;
        };
        wire.incoming.push_back(frame);
        let guest = Guest {
            verdicts: None,
            has_left: false,
            coming,
        };
        self.guests.insert((guest.coming.link, chunk.0), guest);
    }

    /// A sleeper wakes when it is rung, when a frame waits (its sockets), or by itself.
    fn maybe_wake(&mut self, worker: usize, since: Tick) {
        let mut waits = self.is_rung(worker);
        for queue in self.rig.workers[worker].lanes_mut().queues_mut() {
            waits |= !queue.port.behind.inner().incoming.is_empty();
        }
        if waits || self.now.since(since) >= SLEEP_MAX {
            self.rig.workers[worker].end_sleep();
            self.asleep[worker] = None;
        }
    }

    fn is_rung(&self, worker: usize) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let doorbell = self.rig.exchange.doorbell(worker_id(worker)).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(doorbell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    /// A turn of a worker, and everything that may be said of it.
    fn turn(&mut self, worker: usize) {
        let before = self.waiting();
        let now = self.now;
        let turned = &mut self.rig.workers[worker];
        let mut handled = 0;
        let allocations = count_allocations(|| {
            handled = turned.turn(now);
            turned.store_counters();
        });
        assert_eq!(allocations, 0, "a turn allocates");
        let after = self.waiting();
        let uses = self.publisher.generations()[worker].1;
        assert_eq!(uses, self.version.generation, "its turn began with it");

        let old = std::mem::take(&mut self.views[worker]);
        let new = self.view(worker);
        let mut turn = Turn {
            worker,
            judged: Vec::new(),
            right: Vec::new(),
            offered: vec![Vec::new(); after.len()],
            pieces: vec![Vec::new(); after.len()],
        };
        let received = self.received(worker);
        assert_eq!(
            new.tally.rx_packets - old.tally.rx_packets,
            received.len() as u64
        );
        for place in received {
            self.meet(place, Way::Queue, &mut turn);
        }
        let errands = self.take_inboxes(&mut turn);
        if let Err(wrong) = check_verdicts(&old, &new, &turn.right) {
            self.explain(worker, &turn.judged);
            self.explain_flows(worker, &turn.judged);
            panic!("step {}, worker {worker}: {wrong}", self.steps);
        }
        let pieces: usize = turn.pieces.iter().map(Vec::len).sum();
        let pushed = self.pushed(&before, &after, turn);
        let delta = |of: fn(&CounterView) -> u64| of(&new) - of(&old);
        let passed = delta(|view| view.tally.passed.iter().sum());
        let sent = delta(|view| view.tally.tx_packets);
        let tx_full = delta(|view| view.tally.dropped[DropReason::TxFull.index()]);
        let refused = delta(|view| view.tally.dropped[DropReason::HandoverFull.index()]);
        if worker < usize::from(self.shape.with_queues) {
            assert_eq!(passed + errands, sent + tx_full, "what passes is sent");
        } else {
            assert_eq!(passed, pushed + refused, "what passes is given on");
        }
        let handed_over = delta(|view| view.tally.handed_over);
        assert_eq!(handed_over, pushed + pieces as u64);
        assert!(new.gauges.flows <= u64::from(self.shape.max_flows), "flows");
        self.views[worker] = new;
        if handled == 0 && self.shape.sleeps && self.random.once_in(2) {
            self.sleep(worker);
        }
    }

    fn sleep(&mut self, worker: usize) {
        if self.rig.workers[worker].begin_sleep() {
            self.asleep[worker] = Some(self.now);
            self.sleeps += 1;
        }
    }

    /// The frames that a worker received in its turn.
    fn received(&mut self, worker: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for queue in self.rig.workers[worker].lanes_mut().queues_mut() {
            let link = queue.link.index();
            let chunk = |addr: u64| addr / u64::from(CHUNK_SIZE) * u64::from(CHUNK_SIZE);
            let received = queue.port.received.drain(..);
            places.extend(received.map(|addr| (link, chunk(addr))));
        }
        places
    }

    /// What a worker does with what others gave it and with pieces that need not wait any longer;
    /// how many frames it only sends.
    fn take_inboxes(&mut self, turn: &mut Turn) -> u64 {
        let worker = turn.worker;
        let mut errands = 0;
        for _ in 0..self.shape.burst * INBOX_BURSTS_PER_TURN_MAX {
            match self.inboxes[worker].pop_front() {
                Some(Errand::Judge(place)) => self.meet(place, Way::Given, turn),
                Some(Errand::Send) => errands += 1,
                None => break,
            }
        }
        for _ in 0..self.shape.burst {
            let Some((place, first)) = self.piece_inboxes[worker].pop_front() else {
                break;
            };
            self.judge_piece(place, &first, turn);
        }
        let mut again = Vec::new();
        for _ in 0..self.shape.burst {
            match self.homes[worker].pop_released() {
                Some((place, true)) => again.push(place),
                Some((place, false)) => {
                    self.judged(place, Verdicts::drop(DropReason::Fragment), turn);
                }
                None => break,
            }
        }
        for place in again {
            self.meet(place, Way::Given, turn);
        }
        self.homes[worker].expire(self.now);
        errands
    }

    /// What is right for a frame that a worker has in hand, or whose it is instead.
    fn meet(&mut self, place: Place, way: Way, turn: &mut Turn) {
        let worker = turn.worker;
        let Some(piece) = self.model.piece(seen(&self.guests[&place].coming)) else {
            return match self.owner(place) {
                Some(owner) if owner != worker && way == Way::Queue => {
                    turn.offered[owner].push(place);
                }
                _ => self.judge(place, turn),
            };
        };
        let coming = seen(&self.guests[&place].coming);
        let home = Fragments::home_key(coming.link_id(), coming.side, &piece).unwrap();
        let home = self.rig.steering.owner(&home);
        if let Some(home) = home.filter(|home| home.index() != worker && way == Way::Queue) {
            return turn.offered[home.index()].push(place);
        }
        match self.homes[worker].admit(place, coming, &piece, self.now) {
            Placed::Waits(displaced) => {
                self.waited += 1;
                if let Some(former) = displaced {
                    self.judged(former, Verdicts::drop(DropReason::Fragment), turn);
                }
            }
            Placed::Refused => self.judged(place, Verdicts::drop(DropReason::Fragment), turn),
            Placed::Follows(first) => {
                let owner = first
                    .flow
                    .and_then(|(key, _)| self.rig.steering.owner(&key));
                match owner.map(|owner| owner.index()) {
                    Some(owner) if owner != worker => turn.pieces[owner].push((place, first)),
                    _ => self.judge_piece(place, &first, turn),
                }
            }
        }
    }

    /// Whose a whole frame's flow is, or the flow that it quotes; nobody's if it has none.
    fn owner(&self, place: Place) -> Option<usize> {
        let coming = &self.guests[&place].coming;
        let Parsed::Ip(packet) = seen(coming).parsed() else {
            return None;
        };
        if self.model.is_exempt(&packet, coming.side) {
            return None;
        }
        let key = match FlowKey::of(link_id(coming.link), &packet) {
            Some((key, _)) => key,
            None => seen(coming).quoted(self.shape.icmp_errors)?.1,
        };
        self.rig.steering.owner(&key).map(|owner| owner.index())
    }

    /// Moves what a worker gave to others into their model inboxes; how many whole frames.
    fn pushed(&mut self, before: &[u64], after: &[u64], turn: Turn) -> u64 {
        let mut total = 0;
        let given = turn.offered.into_iter().zip(turn.pieces);
        for (other, (offered, pieces)) in given.enumerate() {
            if other == turn.worker {
                continue;
            }
            let count = after[other] - before[other];
            let count = count.checked_sub(pieces.len() as u64);
            let count = count.expect("there is room for pieces");
            self.piece_inboxes[other].extend(pieces);
            total += count;
            let inbox = &mut self.inboxes[other];
            if turn.worker >= usize::from(self.shape.with_queues) {
                inbox.extend((0..count).map(|_| Errand::Send));
                continue;
            }
            let taken = offered.iter().take(usize::try_from(count).unwrap());
            inbox.extend(taken.map(|place| Errand::Judge(*place)));
            assert!(
                count == offered.len() as u64 || inbox.len() == self.shape.inbox_frames,
                "refused with room"
            );
        }
        total
    }

    fn judge(&mut self, place: Place, turn: &mut Turn) {
        let seen = seen(&self.guests[&place].coming);
        let right = self.model.judge(&self.version, seen, turn.worker, self.now);
        self.judged(place, right, turn);
    }

    fn judge_piece(&mut self, place: Place, first: &First, turn: &mut Turn) {
        let seen = seen(&self.guests[&place].coming);
        let right = self
            .model
            .judge_piece(&self.version, seen, first, turn.worker, self.now);
        self.judged(place, right, turn);
    }

    /// Notes what is right for a frame that is judged now.
    fn judged(&mut self, place: Place, right: Verdicts, turn: &mut Turn) {
        let guest = self.guests.get_mut(&place).unwrap();
        assert!(guest.verdicts.is_none(), "judged twice");
        guest.verdicts = Some(right);
        turn.judged.push(place);
        turn.right.push(right);
    }

    /// Says what a worker judged in a turn that went wrong.
    fn explain(&self, worker: usize, judged: &[Place]) {
        eprintln!("generation {}, at {:?}", self.version.generation, self.now);
        for place in judged {
            let Guest {
                coming, verdicts, ..
            } = &self.guests[place];
            let owner = self.owner(*place);
            eprintln!("worker {worker}, owner {owner:?}, {:?}", coming.side);
            eprintln!("  {:?}", seen(coming).parsed());
            eprintln!("  {:?} {verdicts:?}", coming.origin);
        }
    }

    /// What a worker's table has of those flows.
    fn explain_flows(&mut self, worker: usize, judged: &[Place]) {
        let keys: Vec<FlowKey> = judged
            .iter()
            .filter_map(|place| {
                let coming = &self.guests[place].coming;
                let Parsed::Ip(packet) = seen(coming).parsed() else {
                    return None;
                };
                Some(FlowKey::of(link_id(coming.link), &packet)?.0)
            })
            .collect();
        self.each_flow(worker, |flow| {
            if keys.contains(&flow.key) {
                eprintln!("{flow:?}");
            }
        });
    }

    /// A worker's live flows.
    fn flows(&mut self, worker: usize) -> Vec<FlowView> {
        let mut flows = Vec::new();
        self.each_flow(worker, |flow| flows.push(*flow));
        flows
    }

    /// No interface has more than its part of a worker's table, or got it faster than it may.
    fn check_shares(&mut self) {
        let limit = self.shape.per_interface;
        for worker in 0..self.rig.workers.len() {
            let mut counts: HashMap<_, [u32; 2]> = HashMap::new();
            for flow in self.flows(worker) {
                let [all, young] = counts.entry(flow.head.interface).or_default();
                *all += 1;
                // Others may begin again in the entry that they have.
                let is_young = flow.age < Duration::from_millis(900);
                *young += u32::from(is_young && flow.key.protocol == 17);
            }
            for [all, young] in counts.into_values() {
                assert!(limit.max_flows == 0 || all <= limit.max_flows, "{all}");
                // Those of a second at once, and what the second brings.
                let most = limit.new_per_second.saturating_mul(2);
                assert!(most == 0 || young <= most, "{young} in a second");
            }
        }
    }

    /// The wires of a worker take some of what was sent; it must be right that it was.
    fn take(&mut self, worker: usize) {
        for link in 0..self.shape.links {
            for side in PortSide::ALL {
                let count = self.random.below(20);
                let memory = Arc::clone(&self.rig.memories[link]);
                let wire = self.rig.port(worker, link, side).behind.inner_mut();
                let frames: Vec<_> = wire.sent.drain(..count.min(wire.sent.len())).collect();
                for frame in frames {
                    let size = u64::from(CHUNK_SIZE);
                    let chunk = frame.addr() / size * size;
                    let wire = self.rig.port(worker, link, side).behind.inner_mut();
                    wire.completed.push_back(portcullis::port::ChunkAddr(chunk));
                    let origin = self.leaves((link, chunk), side, memory.bytes(&frame));
                    self.traffic.deliver(&mut self.random, origin, self.now.0);
                }
            }
        }
    }

    fn leaves(&mut self, place: Place, side: PortSide, bytes: &[u8]) -> Origin {
        let guest = self.guests.get_mut(&place).unwrap();
        let coming = &guest.coming;
        assert!(!guest.has_left, "sent twice: {coming:?}");
        assert_eq!(coming.side.opposite(), side, "the wrong port: {coming:?}");
        assert_eq!(coming.bytes, bytes, "changed on the way");
        let verdicts = guest.verdicts.expect("sent without a verdict");
        assert!(verdicts.may_pass(), "forbidden, and passed: {coming:?}");
        guest.has_left = true;
        let origin = coming.origin;
        self.pieces_passed += u64::from(self.model.piece(seen(coming)).is_some());
        origin
    }

    /// Puts another policy in force; sometimes for no longer than it takes to take it back.
    fn publish(&mut self) {
        let former = self.document.clone();
        let next = policies::document(&mut self.random, self.shape.links);
        self.publish_document(next);
        if self.random.once_in(3) {
            self.publish_document(former);
        }
    }

    fn publish_document(&mut self, text: String) {
        let policy = policies::read(&text, self.shape.links);
        let generation = self.version.generation.next();
        let links = &LINKS[..self.shape.links];
        self.compiler.forget_changes(self.rig.exchange.swept());
        let snapshot = self.compiler.compile(&policy, links, generation).unwrap();
        self.publisher.publish(Arc::new(snapshot));
        self.document = text;
        self.version = Version::new(generation, policy, Some(&self.version));
        self.model.publish(&self.version);
        let awake = |worker: &usize| self.asleep[*worker].is_none();
        let expected: Vec<_> = (0..self.asleep.len())
            .filter(awake)
            .map(worker_id)
            .collect();
        assert_eq!(self.publisher.stragglers(), expected, "who has yet to turn");
    }

    /// A worker goes through some of its table for connections that have lost their address.
    fn end_departed(&mut self, worker: usize) {
        let before = self.view(worker).gauges.flows;
        let (now, turned) = (self.now, &mut self.rig.workers[worker]);
        let mut is_under_way = false;
        let allocations = count_allocations(|| {
            is_under_way = turned.end_departed(now);
            turned.store_counters();
        });
        assert_eq!(allocations, 0, "it allocates");
        self.views[worker].gauges = self.view(worker).gauges;
        self.ended += before - self.views[worker].gauges.flows;
        let swept = self.rig.workers[worker].swept();
        let current = self.publisher.current();
        if !is_under_way {
            assert!(swept >= current.owners_changed(), "it is not through");
            for key in self.flows_of(worker) {
                assert!(self.model.may_have(&key), "over, and in the table: {key:?}");
            }
        }
    }

    /// The keys of the flows that a worker has.
    fn flows_of(&mut self, worker: usize) -> Vec<FlowKey> {
        let mut keys = Vec::new();
        self.each_flow(worker, |flow| keys.push(flow.key));
        keys
    }

    fn each_flow(&mut self, worker: usize, mut visit: impl FnMut(&FlowView)) {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let (reply, answer) = crossbeam::channel::bounded(1);
            let command = WorkerCommand::Flows(FlowPage::new(from), reply);
            self.rig
                .exchange
                .command(worker_id(worker), command)
                .unwrap();
            self.rig.workers[worker].answer_commands(self.now);
            let page = answer.recv().unwrap();
            page.rows.iter().for_each(&mut visit);
            cursor = page.next;
        }
    }

    fn view(&self, worker: usize) -> CounterView {
        let counters = self.rig.exchange.counters(worker_id(worker));
        counters.unwrap().view()
    }

    /// Frames in each inbox.
    fn waiting(&self) -> Vec<u64> {
        let workers = 0..self.rig.workers.len();
        workers.map(|worker| self.view(worker).in_flight).collect()
    }

    /// What holds whatever happened.
    fn check(&mut self) {
        let summary = self.summary();
        let waiting = self.waiting();
        let dropped: u64 = summary.dropped.iter().sum();
        let in_flight: u64 = waiting.iter().sum();
        assert_eq!(
            summary.received,
            summary.sent + dropped + in_flight,
            "received = sent + dropped + in flight"
        );
        for (worker, asleep) in self.asleep.iter().enumerate() {
            let work = self.inboxes[worker].len() + self.piece_inboxes[worker].len();
            let is_woken = asleep.is_none() || work == 0 || self.is_rung(worker);
            assert!(is_woken, "worker {worker} sleeps over work");
            let inbox = (work + self.homes[worker].held) as u64;
            assert_eq!(waiting[worker], inbox, "each hand-over arrives once");
        }
        self.check_chunks(in_flight);
    }

    /// Every chunk is somewhere, once.
    fn check_chunks(&mut self, in_flight: u64) {
        let mut count = usize::try_from(in_flight).unwrap();
        let mut visible = HashSet::new();
        let is_thorough = self.steps.is_multiple_of(16);
        for (id, worker) in self.rig.workers.iter_mut().enumerate() {
            count += self.rig.exchange.returning(worker_id(id));
            for link in 0..self.shape.links {
                count += worker.lanes_mut().free_chunks(link_id(link));
            }
            for queue in worker.lanes_mut().queues_mut() {
                let wire = queue.port.behind.inner();
                count += queue.port.behind.chunks_held();
                count += wire.incoming.len() + wire.sent.len();
                count += wire.completed.len() + wire.fill.len();
                if is_thorough {
                    let frames = wire.incoming.iter().chain(&wire.sent);
                    let free = wire.completed.iter().chain(&wire.fill);
                    let addrs = frames
                        .map(|frame| frame.addr())
                        .chain(free.map(|chunk| chunk.0));
                    for addr in addrs {
                        let chunk = addr / u64::from(CHUNK_SIZE);
                        assert!(visible.insert((queue.link, chunk)), "a chunk twice");
                    }
                }
            }
        }
        let all = self.shape.links * self.shape.chunks as usize;
        assert_eq!(count, all, "chunks");
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary {
            finished: self.traffic.finished,
            given_up: self.traffic.given_up,
            generations: self.version.generation.0,
            sleeps: self.sleeps,
            waited: self.waited,
            pieces_passed: self.pieces_passed,
            ended: self.ended,
            ..Summary::default()
        };
        for view in &self.views {
            summary.received += view.tally.rx_packets;
            summary.sent += view.tally.tx_packets;
            summary.handed_over += view.tally.handed_over;
            for (sum, count) in summary.passed.iter_mut().zip(view.tally.passed) {
                *sum += count;
            }
            for (sum, count) in summary.dropped.iter_mut().zip(view.tally.dropped) {
                *sum += count;
            }
        }
        let limited = summary.dropped[DropReason::Limit.index()];
        summary.limited = match self.shape.per_interface.max_flows {
            0 => [0, limited],
            _ => [limited, 0],
        };
        summary
    }
}

fn seen(coming: &Coming) -> Seen<'_> {
    Seen {
        link: coming.link,
        side: coming.side,
        bytes: &coming.bytes,
    }
}

/// Each verdict was given at least as often as it was the only right one, and at most as often as
/// it was right.
fn check_verdicts(old: &CounterView, new: &CounterView, right: &[Verdicts]) -> Result<(), String> {
    let mut total = 0;
    let passes = PassReason::ALL.iter().map(|&reason| Verdict::Pass(reason));
    let drops = DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason));
    for verdict in passes.chain(drops) {
        let delta = |of: &dyn Fn(&CounterView) -> u64| of(new) - of(old);
        let given = match verdict {
            Verdict::Drop(
                DropReason::TxFull | DropReason::HandoverFull | DropReason::BadDescriptor,
            ) => continue,
            Verdict::Pass(reason) => delta(&|view| view.tally.passed[reason.index()]),
            Verdict::Drop(reason) => delta(&|view| view.tally.dropped[reason.index()]),
        };
        total += given;
        let least = right.iter().filter(|right| right.is_only(verdict)).count() as u64;
        let most = right.iter().filter(|right| right.has(verdict)).count() as u64;
        if given < least || given > most {
            return Err(format!(
                "{verdict:?} {given} times, right {least} to {most} times"
            ));
        }
    }
    match total == right.len() as u64 {
        true => Ok(()),
        false => Err(format!("{total} verdicts for {} frames", right.len())),
    }
}
