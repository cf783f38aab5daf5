//! One turn of the loop: inhale, judge, exhale.

use super::exchange::Errand;
use super::lanes::{Held, INBOX_BURSTS_PER_TURN_MAX, Lanes};
use crate::clock::Tick;
use crate::conntrack::Shard;
use crate::pipeline::{Arrival, BATCH_MAX, Batch, Fate, PipelineConfig, Steering};
use crate::port::{FrameMemory, Port};
use crate::snapshot::{Snapshot, SnapshotReader};
use crate::sync::Arc;
use crate::telemetry::Gauges;
use crate::types::Verdict;

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
}

impl<P: Port, M: FrameMemory> Worker<P, M> {
    /// A worker that has not begun. Takes its scratch memory here, once.
    #[must_use]
    pub fn new(setup: WorkerSetup<P, M>) -> Self {
        let WorkerSetup {
            lanes,
            memories,
            shard,
            reader,
            config,
            steering,
            burst,
        } = setup;
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
        }
    }

    /// One turn over all queues and the inbox; returns how many frames it handled.
    pub fn turn(&mut self, now: Tick) -> usize {
        let mut handled = 0_usize;
        let snapshot = self.reader.load();
        let mut stages = Stages {
            batch: &mut self.batch,
            shard: &mut self.shard,
            snapshot,
            config: &self.config,
            steering: &self.steering,
            memories: &self.memories,
            now,
        };
        for index in 0..self.lanes.queues.len() {
            self.lanes.receive(index, self.burst, &mut self.held);
            handled = handled.saturating_add(self.held.len());
            stages.burst(&mut self.lanes, &mut self.held, Origin::Queue);
        }
        for _ in 0..INBOX_BURSTS_PER_TURN_MAX {
            let taken = self.lanes.take_inbox(self.burst, &mut self.held);
            stages.burst(&mut self.lanes, &mut self.held, Origin::Inbox);
            handled = handled.saturating_add(taken);
            if taken < self.burst {
                break;
            }
        }
        self.lanes.finish_turn();
        self.shard.expire(now);
        handled
    }

    /// Answers what the control side asks; returns how many requests there were.
    pub fn answer_commands(&mut self, now: Tick) -> usize {
        let exchange = Arc::clone(self.lanes.exchange());
        let Some(inbox) = exchange.inbox(self.lanes.id()) else {
            return 0;
        };
        // One a turn: a page of flows costs the path no more than a burst.
        let Some(command) = inbox.commands.pop() else {
            return 0;
        };
        command.execute(&mut self.shard, now);
        1
    }

    /// Publishes this worker's counts.
    pub fn store_counters(&self) {
        let stats = self.shard.stats();
        let gauges = Gauges {
            flows: u64::from(stats.flows),
            refused: stats.refused,
            evicted: stats.evicted,
            picked_up: stats.picked_up,
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

/// Where the frames of a burst come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Queue,
    /// Steered here already: judged here whatever steering says.
    Inbox,
}

struct Stages<'a, M> {
    batch: &'a mut Batch,
    shard: &'a mut Shard,
    snapshot: &'a Snapshot,
    config: &'a PipelineConfig,
    steering: &'a Steering,
    memories: &'a [Arc<M>],
    now: Tick,
}

impl<M: FrameMemory> Stages<'_, M> {
    fn burst<P: Port>(&mut self, lanes: &mut Lanes<P>, held: &mut Vec<Held>, origin: Origin) {
        if held.is_empty() {
            return;
        }
        self.batch.clear();
        let steering = (origin == Origin::Queue).then_some((self.steering, lanes.id()));
        for frame in held.iter() {
            if let Some(memory) = self.memories.get(frame.link.index())
                && let Some(first) = memory.bytes(&frame.frame).first()
            {
                crate::cpu::prefetch(first);
            }
        }
        for Held { frame, link, side } in held.iter() {
            let bytes = self
                .memories
                .get(link.index())
                .map_or(&[][..], |m| m.bytes(frame));
            let arrival = Arrival {
                link: *link,
                side: *side,
                original_len: frame.len(),
            };
            self.batch.push(bytes, arrival, self.config, steering);
        }
        self.batch
            .run(self.config, self.shard, self.snapshot, self.now);
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
            }
        }
    }
}
