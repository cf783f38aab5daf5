//! One turn of the loop: inhale, judge, exhale.

use super::census::CensusTask;
use super::departures::Departures;
use super::exchange::Errand;
use super::lanes::{Held, INBOX_BURSTS_PER_TURN_MAX, Lanes};
use crate::clock::Tick;
use crate::conntrack::Shard;
use crate::conntrack::{FragmentedFlow, Release};
use crate::pipeline::{Arrival, BATCH_MAX, Batch, Fate, Origin, PipelineConfig, Place, Steering};
use crate::port::{FrameMemory, Port};
use crate::snapshot::{Snapshot, SnapshotReader};
use crate::sync::Arc;
use crate::telemetry::Gauges;
use crate::types::{DropReason, Generation, Verdict};

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerSetup<P, M> {
    /// Queues and ways.
    pub lanes: Lanes<P>,
    /// The memory of each link's frames.
    pub memories: Vec<Arc<M>>,
    /// This worker's connections.
    pub shard: Shard,
    /// Where the policy in force is read.
    pub reader: SnapshotReader,
    /// What the configuration says to the pipeline.
    pub config: Arc<PipelineConfig>,
    /// Which flows are whose.
    pub steering: Steering,
    /// Frames of one burst, 1 to [`BATCH_MAX`].
    pub burst: usize,
}

/// One worker: everything that its turns touch.
#[derive(Debug)]
pub struct Worker<P, M> {
    pub(super) lanes: Lanes<P>,
    memories: Vec<Arc<M>>,
    pub(super) shard: Shard,
    pub(super) reader: SnapshotReader,
    config: Arc<PipelineConfig>,
    steering: Steering,
    burst: usize,
    batch: Batch,
    held: Vec<Held>,
    flows: Vec<FragmentedFlow>,
    departures: Departures,
    census: CensusTask,
    /// The generation whose limits the shard keeps.
    limits_of: Generation,
}

impl<P: Port, M: FrameMemory> Worker<P, M> {
    /// A worker that has not begun. Takes its scratch memory here, once.
    #[must_use]
    pub fn new(setup: WorkerSetup<P, M>) -> Self {
        let WorkerSetup {
            lanes,
            memories,
            mut shard,
            reader,
            config,
            steering,
            burst,
        } = setup;
        shard.limit_waiting(lanes.waiting_max());
        Self {
            lanes,
            memories,
            shard,
            reader,
            config,
            steering,
            burst: burst.clamp(1, BATCH_MAX),
            batch: Batch::default(),
            held: Vec::with_capacity(BATCH_MAX),
            flows: Vec::with_capacity(BATCH_MAX),
            departures: Departures::default(),
            census: CensusTask::default(),
            limits_of: Generation::default(),
        }
    }

    /// One turn over all queues and the inbox; returns how many frames it handled.
    pub fn turn(&mut self, now: Tick) -> usize {
        let mut handled = 0_usize;
        let snapshot = self.reader.load();
        if snapshot.generation() != self.limits_of {
            self.limits_of = snapshot.generation();
            let shards = u32::try_from(self.lanes.exchange().workers()).unwrap_or(u32::MAX);
            self.shard.limit_interfaces(snapshot.limits(), shards);
        }
        let mut stages = Stages {
            batch: &mut self.batch,
            shard: &mut self.shard,
            snapshot,
            place: Place {
                config: &self.config,
                steering: Some((&self.steering, self.lanes.id())),
            },
            memories: &self.memories,
            now,
        };
        for index in 0..self.lanes.queues.len() {
            self.lanes.receive(index, self.burst, &mut self.held);
            handled = handled.saturating_add(self.held.len());
            stages.burst(&mut self.lanes, &mut self.held, |_| Origin::Queue);
        }
        for _ in 0..INBOX_BURSTS_PER_TURN_MAX {
            let taken = self.lanes.take_inbox(self.burst, &mut self.held);
            stages.burst(&mut self.lanes, &mut self.held, |_| Origin::Steered);
            handled = handled.saturating_add(taken);
            if taken < self.burst {
                break;
            }
        }
        let flows = &mut self.flows;
        handled = handled.saturating_add(self.lanes.take_pieces(self.burst, &mut self.held, flows));
        stages.burst(&mut self.lanes, &mut self.held, |index| {
            flows
                .get(index)
                .map_or(Origin::Steered, |flow| Origin::Piece(*flow))
        });
        flows.clear();
        handled =
            handled.saturating_add(stages.release(&mut self.lanes, &mut self.held, self.burst));
        stages.burst(&mut self.lanes, &mut self.held, |_| Origin::Steered);
        self.lanes.finish_turn();
        self.shard.expire(now);
        handled
    }

    /// Answers what the control side asks; returns how many requests there were.
    pub fn answer_commands(&mut self, now: Tick) -> usize {
        let inbox = self.lanes.exchange().inbox(self.lanes.id());
        // One a turn: a page of flows costs the path no more than a burst.
        let Some(command) = inbox.and_then(|inbox| inbox.commands.pop()) else {
            return 0;
        };
        command.execute(&mut self.shard, &mut self.census, now);
        1
    }

    /// Ends connections that a change of the policy took the address of, a few slots of the table
    /// at a time; whether there is more to do.
    pub fn end_departed(&mut self, now: Tick) -> bool {
        let snapshot = self.reader.load();
        self.departures.step(&mut self.shard, snapshot, now)
    }

    /// Finds out what its flows name, where the control side asks for it, a few slots of the table
    /// at a time; whether there was anything to do.
    pub fn take_census(&mut self, now: Tick) -> bool {
        let used = self.reader.load().generation();
        self.census.step(&self.shard, used, now)
    }

    /// The generation up to which it has ended every connection that lost its address.
    #[must_use]
    pub fn swept(&self) -> Generation {
        self.departures.swept()
    }

    /// Goes to sleep unless there is work; whether it sleeps. From here on it counts as up to date
    /// and whoever gives it work rings; [`Self::end_sleep`] comes before the next turn.
    pub fn begin_sleep(&mut self) -> bool {
        let exchange = Arc::clone(self.lanes.exchange());
        let Some(inbox) = exchange.inbox(self.lanes.id()) else {
            return false;
        };
        inbox.doorbell.raise();
        if self.lanes.has_work() {
            inbox.doorbell.lower();
            return false;
        }
        self.reader.begin_sleep();
        true
    }

    /// Is awake again.
    pub fn end_sleep(&mut self) {
        self.reader.end_sleep();
        if let Some(inbox) = self.lanes.exchange().inbox(self.lanes.id()) {
            inbox.doorbell.lower();
        }
    }

    /// Publishes this worker's counts.
    pub fn store_counters(&self) {
        let stats = self.shard.stats();
        let gauges = Gauges {
            flows: u64::from(stats.flows),
            refused: stats.refused,
            evicted: stats.evicted,
            picked_up: stats.picked_up,
            limited: stats.limited,
            available: u64::from(stats.allowance_available()),
            evicted_by: stats.evicted_by.by_kind(),
            swept: self.swept().0,
        };
        if let Some(counters) = self.lanes.exchange().counters(self.lanes.id()) {
            counters.store(&self.lanes.tally, &gauges);
        }
    }

    /// The worker's queues and ways.
    pub fn lanes_mut(&mut self) -> &mut Lanes<P> {
        &mut self.lanes
    }
}

struct Stages<'a, M> {
    batch: &'a mut Batch,
    shard: &'a mut Shard,
    snapshot: &'a Snapshot,
    place: Place<'a>,
    memories: &'a [Arc<M>],
    now: Tick,
}

impl<M: FrameMemory> Stages<'_, M> {
    /// Judges what is held and does what is to be done with it. `origin_of` says, by position,
    /// where it comes from.
    fn burst<P: Port>(
        &mut self,
        lanes: &mut Lanes<P>,
        held: &mut Vec<Held>,
        origin_of: impl Fn(usize) -> Origin,
    ) {
        if held.is_empty() {
            return;
        }
        self.batch.clear();
        for frame in held.iter() {
            if let Some(memory) = self.memories.get(frame.link.index())
                && let Some(first) = memory.bytes(&frame.frame).first()
            {
                crate::cpu::prefetch(first);
            }
        }
        for (index, Held { frame, link, side }) in held.iter().enumerate() {
            let memory = self.memories.get(link.index());
            let bytes = memory.map_or(&[][..], |memory| memory.bytes(frame));
            let arrival = Arrival {
                link: *link,
                side: *side,
                original_len: frame.len(),
            };
            self.batch
                .push(bytes, arrival, &self.place, self.shard, origin_of(index));
        }
        self.batch
            .run(&self.place, self.shard, self.snapshot, self.now);
        for (frame, fate) in held.drain(..).zip(self.batch.fates()) {
            match fate {
                Fate::Judged(outcome) => match outcome.verdict {
                    Verdict::Pass(reason) => {
                        lanes.tally.pass(reason);
                        lanes.send(frame);
                    }
                    Verdict::Drop(reason) => lanes.drop(frame, reason),
                },
                Fate::HandOver(owner) => lanes.hand_over(owner, frame, Errand::Judge),
                Fate::HandOverPiece(owner, piece) => match self.batch.piece(piece) {
                    Some(flow) => lanes.hand_over_piece(owner, frame, *flow),
                    None => lanes.drop(frame, DropReason::Fragment),
                },
                Fate::Hold(ticket) => lanes.hold(ticket, frame),
            }
        }
    }

    /// Takes up to `limit` fragments that waited and need not any longer: those to be asked about
    /// again go to `held`. Returns how many it took.
    fn release<P: Port>(
        &mut self,
        lanes: &mut Lanes<P>,
        held: &mut Vec<Held>,
        limit: usize,
    ) -> usize {
        let mut taken = 0_usize;
        while taken < limit {
            let Some((ticket, release)) = self.shard.pop_released() else {
                break;
            };
            taken = taken.saturating_add(1);
            match (lanes.take_held(ticket), release) {
                (Some(frame), Release::Retry) => held.push(frame),
                (Some(frame), Release::Drop) => lanes.drop(frame, DropReason::Fragment),
                (None, _) => {}
            }
        }
        taken
    }
}
