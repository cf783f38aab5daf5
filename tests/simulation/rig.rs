//! The gateway without a kernel: workers, ports and memory of a shape.

use std::sync::Arc;

use portcullis::clock::Tick;
use portcullis::conntrack::{Shard, ShardConfig, Timeouts};
use portcullis::pipeline::{LinkRules, PipelineConfig, Steering, Unregistered};
use portcullis::port::{ChunkAddr, FaultPort, FrameTape};
use portcullis::snapshot::SnapshotReader;
use portcullis::types::{LinkId, PortSide, WorkerId};
use portcullis::worker::{ChunkHomes, Exchange, Lanes, OwnQueue, Routes, Worker, WorkerSetup};

use crate::random::Random;
use crate::shape::Shape;
use crate::wire::{SimPort, Wire};

pub(crate) const CHUNK_SIZE: u32 = 2048;

pub(crate) type SimWorker = Worker<SimPort, FrameTape>;

pub(crate) struct Rig {
    pub(crate) workers: Vec<SimWorker>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) memories: Vec<Arc<FrameTape>>,
    pub(crate) steering: Steering,
    /// Secrets of each worker's tables.
    pub(crate) seeds: Vec<[u64; 2]>,
}

pub(crate) fn link_id(link: usize) -> LinkId {
    LinkId(u8::try_from(link).unwrap())
}

pub(crate) fn worker_id(worker: usize) -> WorkerId {
    WorkerId(u16::try_from(worker).unwrap())
}

/// The position of a port among a worker's queues.
pub(crate) fn queue_index(link: usize, side: PortSide) -> usize {
    link * 2 + side.index()
}

impl Rig {
    pub(crate) fn new(
        random: &mut Random,
        shape: &Shape,
        frames_max: u32,
        readers: Vec<SnapshotReader>,
        now: Tick,
    ) -> Self {
        let receivers: Vec<WorkerId> = (0..shape.with_queues).map(WorkerId).collect();
        let tape = || Arc::new(FrameTape::new(shape.chunks, CHUNK_SIZE, frames_max));
        let memories: Vec<_> = (0..shape.links).map(|_| tape()).collect();
        let homes = ChunkHomes::new(shape.chunks, CHUNK_SIZE, receivers.clone());
        let at_home = |worker: WorkerId| -> Vec<ChunkAddr> {
            let mut chunks = Vec::with_capacity(shape.chunks as usize + 1);
            if receivers.contains(&worker) {
                let all = memories[0].chunks();
                chunks.extend(all.filter(|chunk| homes.home(*chunk) == worker));
            }
            chunks
        };
        let ids: Vec<WorkerId> = (0..shape.workers).map(WorkerId).collect();
        let counts: Vec<usize> = ids
            .iter()
            .map(|id| at_home(*id).len() * shape.links)
            .collect();
        let exchange = Arc::new(Exchange::new(&counts, shape.inbox_frames).unwrap());
        let routes = Routes {
            senders: vec![[receivers.clone(), receivers.clone()]; shape.links],
        };
        let rules = |&unregistered: &Unregistered| LinkRules { unregistered };
        let config = Arc::new(PipelineConfig {
            links: shape
                .unregistered
                .iter()
                .map(rules)
                .take(shape.links)
                .collect(),
            exempt: shape.exempt.rules(),
            icmp_errors: shape.icmp_errors,
            on_rule_removed: shape.on_rule_removed,
        });
        let steering = Steering::new([random.next(), random.next()], shape.workers);
        let seed = |_| [random.next(), random.next()];
        let seeds: Vec<_> = (0..shape.workers).map(seed).collect();
        let mut workers = Vec::new();
        for ((id, reader), seed) in ids.into_iter().zip(readers).zip(&seeds) {
            let queues = match receivers.contains(&id) {
                true => queues(random, shape),
                false => Vec::new(),
            };
            let lanes = Lanes::new(
                id,
                queues,
                &routes,
                vec![homes.clone(); shape.links],
                (0..shape.links).map(|_| at_home(id)).collect(),
                Arc::clone(&exchange),
            );
            let mut worker = Worker::new(WorkerSetup {
                lanes,
                memories: memories.clone(),
                shard: shard(*seed, shape, now),
                reader,
                config: Arc::clone(&config),
                steering: steering.clone(),
                burst: shape.burst,
            });
            worker.lanes_mut().prefill();
            workers.push(worker);
        }
        Self {
            workers,
            exchange,
            memories,
            steering,
            seeds,
        }
    }

    /// One port of a worker.
    pub(crate) fn port(&mut self, worker: usize, link: usize, side: PortSide) -> &mut SimPort {
        let queues = self.workers[worker].lanes_mut().queues_mut();
        &mut queues[queue_index(link, side)].port
    }
}

fn queues(random: &mut Random, shape: &Shape) -> Vec<OwnQueue<SimPort>> {
    let chunks = shape.chunks as usize;
    let mut queues = Vec::new();
    for link in 0..shape.links {
        for side in PortSide::ALL {
            let wire = Wire::new(chunks, shape.sent_max, shape.fill_max);
            let seed = random.next();
            queues.push(OwnQueue {
                link: link_id(link),
                side,
                queue: 0,
                receives: true,
                transmits: true,
                port: SimPort {
                    behind: FaultPort::new(wire, shape.faults, u64::from(CHUNK_SIZE), seed),
                    received: Vec::with_capacity(chunks),
                },
            });
        }
    }
    queues
}

fn shard(seed: [u64; 2], shape: &Shape, now: Tick) -> Shard {
    let config = ShardConfig {
        per_interface: shape.per_interface,
        max_flows: shape.max_flows,
        timeouts: Timeouts::default(),
        tcp_pickup: shape.tcp_pickup,
        tcp_strict: shape.tcp_strict,
        seed,
    };
    Shard::new(&config, now)
}
