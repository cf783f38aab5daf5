//! Workers over ports without a kernel: every frame ends once, every chunk comes home.

use super::*;
use crate::clock::Tick;
use crate::compile::Compiler;
use crate::conntrack::{HeldSlots, Shard, ShardConfig};
use crate::packet::build;
use crate::pipeline::{LinkRules, PipelineConfig, Steering};
use crate::port::{ChunkAddr, MemoryFrames, MemoryPort};
use crate::snapshot::{Publisher, Snapshot};
use crate::sync::Arc;
use crate::telemetry::CounterView;
use crate::types::{DropReason, Generation, InterfaceSlot, LinkId, PortSide, RuleSlot, WorkerId};

const CHUNK_SIZE: u32 = 256;
const LINK: LinkId = LinkId(0);

const POLICY: &str = r#"
[security_groups.web]
description = "web servers"
ingress = [{ protocol = "udp", ports = "1-60000", from = ["192.0.2.0/24"] }]
egress = []
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
"#;

/// Workers that are turned by hand. Frames are written into chunks of the outside fill queue.
struct Rig {
    workers: Vec<Worker<MemoryPort, MemoryFrames>>,
    exchange: Arc<Exchange>,
    chunks: usize,
    /// Of what arrives.
    frame_len: u32,
    publisher: Publisher,
    compiler: Compiler,
    now: Tick,
}

/// The shape of a rig; one worker with room for all, if not told.
struct Shape {
    workers: u16,
    /// Which of them have queues.
    with_queues: u16,
    chunks: u32,
    inbox_frames: usize,
    transmit_max: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            workers: 1,
            with_queues: 1,
            chunks: 512,
            inbox_frames: 64,
            transmit_max: 512,
        }
    }
}

/// All traffic of a test: the frames are written before the memory is shared.
fn rig(shape: &Shape, frames: &[Vec<u8>]) -> Rig {
    let mut compiler = Compiler::new();
    let snapshot = compiler.compile_text(POLICY, Generation(1));
    let (publisher, readers) = Publisher::new(Arc::new(snapshot), shape.workers);
    let mut memory = MemoryFrames::new(shape.chunks, CHUNK_SIZE);
    // Every chunk holds one of the frames; what a chunk holds is what arrives in it.
    let all: Vec<ChunkAddr> = memory.chunks().collect();
    for (chunk, bytes) in all.iter().zip(frames.iter().cycle()) {
        drop_handle(memory.write(*chunk, bytes));
    }
    let memory = Arc::new(memory);
    let receivers: Vec<WorkerId> = (0..shape.with_queues).map(WorkerId).collect();
    let homes = ChunkHomes::new(shape.chunks, CHUNK_SIZE, receivers.clone());
    let mut at_home = vec![Vec::new(); usize::from(shape.workers)];
    for chunk in all {
        at_home[homes.home(chunk).index()].push(chunk);
    }
    let counts: Vec<usize> = at_home.iter().map(Vec::len).collect();
    let exchange = Arc::new(Exchange::new(&counts, shape.inbox_frames).unwrap());
    let routes = Routes {
        senders: vec![[receivers.clone(), receivers]],
    };
    let config = Arc::new(PipelineConfig {
        links: vec![LinkRules::default()],
        ..PipelineConfig::default()
    });
    let steering = Steering::new([5, 6], shape.workers);
    let mut workers = Vec::new();
    for ((index, reader), free) in readers.into_iter().enumerate().zip(at_home) {
        let id = WorkerId(u16::try_from(index).unwrap());
        let queues = if id.0 < shape.with_queues {
            queues(shape)
        } else {
            Vec::new()
        };
        let homes = vec![homes.clone()];
        let lanes = Lanes::new(
            id,
            queues,
            &routes,
            homes,
            vec![free],
            Arc::clone(&exchange),
        );
        let mut worker = Worker::new(WorkerSetup {
            lanes,
            memories: vec![Arc::clone(&memory)],
            shard: shard(u64::from(id.0)),
            reader,
            config: Arc::clone(&config),
            steering: steering.clone(),
            burst: 64,
        });
        worker.lanes_mut().prefill();
        workers.push(worker);
    }
    Rig {
        workers,
        exchange,
        chunks: shape.chunks as usize,
        frame_len: u32::try_from(frames[0].len()).unwrap(),
        publisher,
        compiler,
        now: Tick::from_seconds(1),
    }
}

fn shard(seed: u64) -> Shard {
    let config = ShardConfig::new(4096, [7, seed]);
    Shard::new(&config, Tick(0))
}

/// A frame's handle is made again when its chunk arrives.
fn drop_handle(frame: crate::port::Frame) {
    drop(frame);
}

fn queues(shape: &Shape) -> Vec<OwnQueue<MemoryPort>> {
    let queue = |side| OwnQueue {
        link: LINK,
        side,
        queue: 0,
        receives: true,
        transmits: true,
        port: MemoryPort {
            transmit_max: shape.transmit_max,
            fill_max: if side == PortSide::Outside {
                usize::MAX
            } else {
                0
            },
            chunk_size: u64::from(CHUNK_SIZE),
            ..MemoryPort::default()
        },
    };
    PortSide::ALL.map(queue).into()
}

impl Rig {
    /// Up to `count` frames arrive outside, in the chunks that worker 0 gave to its fill queue.
    fn arrive(&mut self, worker: usize, count: usize) -> usize {
        self.arrive_at(worker, PortSide::Outside.index(), count)
    }

    /// The same at a queue by its position.
    fn arrive_at(&mut self, worker: usize, queue: usize, count: usize) -> usize {
        let port = &mut self.workers[worker].lanes_mut().queues_mut()[queue].port;
        let mut arrived = 0;
        while arrived < count {
            let Some(chunk) = port.fill.pop_front() else {
                break;
            };
            port.incoming
                .push_back(crate::port::Frame::new(chunk.0, self.frame_len));
            arrived += 1;
        }
        arrived
    }

    fn turn(&mut self) {
        for worker in &mut self.workers {
            worker.turn(self.now);
            worker.store_counters();
        }
    }

    fn settle(&mut self) {
        for _ in 0..64 {
            self.turn();
        }
    }

    fn views(&self) -> Vec<CounterView> {
        let id = |index: usize| WorkerId(u16::try_from(index).unwrap());
        let view = |index| self.exchange.counters(id(index)).unwrap().view();
        (0..self.workers.len()).map(view).collect()
    }

    /// Received = sent + dropped + in flight, and no chunk is lost or doubled.
    #[track_caller]
    fn check_ledger(&mut self) -> (u64, u64, u64) {
        let views = self.views();
        let received: u64 = views.iter().map(|view| view.tally.rx_packets).sum();
        let sent: u64 = views.iter().map(|view| view.tally.tx_packets).sum();
        let dropped: u64 = views.iter().flat_map(|view| view.tally.dropped).sum();
        let in_flight: u64 = views.iter().map(|view| view.in_flight).sum();
        assert_eq!(received, sent + dropped + in_flight);
        let mut chunks: u64 = in_flight;
        for worker in &mut self.workers {
            let id = worker.lanes_mut().id();
            chunks += worker.lanes_mut().free_chunks(LINK) as u64;
            chunks += self.exchange.inbox(id).unwrap().returns.len() as u64;
            for queue in worker.lanes_mut().queues_mut() {
                let MemoryPort {
                    incoming,
                    outgoing,
                    fill,
                    ..
                } = &queue.port;
                chunks += (incoming.len() + outgoing.len() + fill.len()) as u64;
            }
        }
        assert_eq!(chunks, self.chunks as u64, "every chunk is somewhere, once");
        (received, sent, dropped)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.views()
            .iter()
            .map(|view| view.tally.dropped[reason.index()])
            .sum()
    }
}

fn datagrams(count: u16) -> Vec<Vec<u8>> {
    let frame = |port| {
        build::v4("192.0.2.9", "10.0.0.1")
            .udp(port, 53)
            .payload(&[0; 18])
            .build()
    };
    (0..count).map(|index| frame(1000 + index)).collect()
}

#[test]
fn one_worker_forwards_and_every_chunk_comes_home() {
    let frames = datagrams(64);
    let shape = Shape {
        chunks: 256,
        transmit_max: 64,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    let mut arrived = 0;
    for _ in 0..1000 {
        arrived += rig.arrive(0, 40) as u64;
        rig.turn();
        rig.check_ledger();
    }
    rig.settle();
    assert_eq!(rig.check_ledger(), (arrived, arrived, 0));
    assert_eq!(arrived, 40_000);
}

#[test]
fn one_sided_hand_over_does_not_starve_the_receiver() {
    // All frames arrive at worker 0; the flows of this test all belong to worker 1.
    let frames = datagrams_of_worker_1(53);
    let shape = Shape {
        workers: 2,
        inbox_frames: 512,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    let mut arrived = 0_u64;
    // As many as it takes to use each chunk two thousand times.
    while arrived < 1_000_000 {
        let now = rig.arrive(0, 64) as u64;
        assert!(now > 0, "starved after {arrived} frames");
        arrived += now;
        rig.turn();
    }
    rig.settle();
    assert_eq!(rig.check_ledger(), (arrived, arrived, 0));
    assert_eq!(rig.views()[0].tally.handed_over, arrived);
    assert_eq!(
        rig.views()[1].tally.handed_over,
        arrived,
        "it has no queue: worker 0 sends"
    );
    assert_eq!(rig.views()[1].gauges.flows, frames.len() as u64);
}

#[test]
fn a_full_inbox_and_a_full_ring_drop_and_count() {
    let frames = datagrams(256);
    let shape = Shape {
        workers: 2,
        inbox_frames: 4,
        transmit_max: 8,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    let arrived = rig.arrive(0, 64) as u64;
    rig.turn();
    rig.check_ledger();
    rig.settle();
    let (received, sent, dropped) = rig.check_ledger();
    assert_eq!(received, arrived);
    assert!(rig.dropped(DropReason::HandoverFull) > 0);
    assert!(rig.dropped(DropReason::TxFull) > 0);
    assert_eq!(
        dropped,
        rig.dropped(DropReason::HandoverFull) + rig.dropped(DropReason::TxFull),
        "nothing is dropped for another reason"
    );
    assert!(sent > 0);
}

#[test]
fn a_new_policy_is_live_after_one_turn_of_each_worker() {
    let shape = Shape {
        workers: 2,
        with_queues: 2,
        chunks: 64,
        transmit_max: 64,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &datagrams(4));
    rig.turn();
    let next = Snapshot::empty(Generation(2));
    rig.publisher.publish(Arc::new(next));
    assert!(rig.publisher.wait_live(std::time::Duration::ZERO).is_err());
    rig.turn();
    assert!(rig.publisher.wait_live(std::time::Duration::ZERO).is_ok());
    let arrived = rig.arrive(0, 8) as u64;
    rig.settle();
    assert_eq!(rig.check_ledger(), (arrived, 0, arrived));
    assert_eq!(rig.dropped(DropReason::Unregistered), arrived);
}

#[test]
fn connections_of_an_interface_that_left_end_without_a_packet_a_few_slots_a_turn() {
    let frames = datagrams(300);
    let mut rig = rig(&Shape::default(), &frames);
    rig.arrive(0, 300);
    rig.settle();
    let flows = |rig: &Rig| rig.views()[0].gauges.flows;
    assert_eq!(flows(&rig), 300);
    let now = Tick::from_seconds(1);
    assert!(!rig.workers[0].end_departed(now), "nothing has left");
    for text in [POLICY.replace("10.0.0.1", "10.0.0.2"), POLICY.to_owned()] {
        let generation = rig.publisher.current().generation().next();
        let next = rig.compiler.compile_text(&text, generation);
        rig.publisher.publish(Arc::new(next));
    }
    let mut left = Vec::new();
    while rig.workers[0].end_departed(now) {
        rig.workers[0].store_counters();
        left.push(flows(&rig));
        assert_eq!(rig.exchange.swept().0, if flows(&rig) == 0 { 3 } else { 0 });
    }
    assert_eq!(left, [172, 44, 0], "so many slots a turn, and not one more");
    assert!(!rig.workers[0].end_departed(now));
}

#[test]
fn what_the_flows_name_is_told_when_asked_for_after_a_walk_of_a_few_slots_a_turn() {
    let frames = datagrams(300);
    let mut rig = rig(&Shape::default(), &frames);
    rig.arrive(0, 300);
    rig.settle();
    let now = Tick::from_seconds(1);
    assert!(!rig.workers[0].take_census(now), "nobody asks");
    let held = HeldSlots::new(RuleSlot(64), InterfaceSlot(64));
    let census = Box::new(Census::new(Generation(1), held));
    let (reply, answer) = crossbeam::channel::bounded(1);
    let asked = WorkerCommand::Census(census, reply);
    rig.exchange.command(WorkerId(0), asked).unwrap();
    rig.workers[0].answer_commands(now);
    let turns = std::iter::repeat_with(|| rig.workers[0].take_census(now));
    assert_eq!(turns.take_while(|worked| *worked).count(), 3);
    let census = answer.try_recv().unwrap();
    let (held, finished) = census.found().unwrap();
    assert_eq!(finished, now);
    let snapshot = rig.publisher.current();
    let (interface, _) = snapshot.interfaces().next().unwrap();
    let named = (0..64).filter(|slot| held.has_interface(InterfaceSlot(*slot)));
    assert_eq!(named.collect::<Vec<_>>(), [interface.slot().0]);
    let rules = (0..64).filter(|slot| held.has_rule(RuleSlot(*slot)));
    assert_eq!(rules.count(), 1);
}

#[test]
fn every_queue_gets_chunks_however_few_there_are() {
    let shape = Shape {
        chunks: 9,
        inbox_frames: 4,
        transmit_max: 8,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &datagrams(1));
    // Both queues would take all nine.
    for queue in rig.workers[0].lanes_mut().queues_mut() {
        queue.port.fill_max = usize::MAX;
    }
    let port = &mut rig.workers[0].lanes_mut().queues_mut()[PortSide::Outside.index()].port;
    let all: Vec<ChunkAddr> = port.fill.drain(..).collect();
    assert_eq!(all.len(), 9);
    rig.workers[0].lanes_mut().free[LINK.index()].extend(all);
    rig.workers[0].lanes_mut().prefill();
    let filled = |rig: &mut Rig, side: PortSide| {
        rig.workers[0].lanes_mut().queues_mut()[side.index()]
            .port
            .fill
            .len()
    };
    assert_eq!(filled(&mut rig, PortSide::Inside), 5);
    assert_eq!(filled(&mut rig, PortSide::Outside), 4);
}

/// Datagrams to a port, of flows that are all worker 1's of two.
fn datagrams_of_worker_1(port: u16) -> Vec<Vec<u8>> {
    let steering = Steering::new([5, 6], 2);
    let frame = |source| {
        build::v4("192.0.2.9", "10.0.0.1")
            .udp(source, port)
            .payload(&[0; 18])
            .build()
    };
    let is_owned = |bytes: &Vec<u8>| {
        let crate::packet::Parsed::Ip(packet) = crate::packet::parse(bytes, bytes.len()) else {
            panic!("a datagram");
        };
        let (key, _) = crate::packet::FlowKey::of(LINK, &packet).unwrap();
        steering.owner(&key) == Some(WorkerId(1))
    };
    (1000..1400).map(frame).filter(is_owned).collect()
}

/// A worker 0 with eight receive queues outside, and a worker 1 without any whose flows all are.
fn wide_rig(port: u16) -> Rig {
    let frames = datagrams_of_worker_1(port);
    let shape = Shape {
        workers: 2,
        chunks: 8192,
        inbox_frames: 2048,
        transmit_max: 2048,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    let lanes = rig.workers[0].lanes_mut();
    let outside = PortSide::Outside.index();
    let given: Vec<ChunkAddr> = lanes.queues_mut()[outside].port.fill.drain(..).collect();
    lanes.free[LINK.index()].extend(given);
    for _ in 1..8 {
        let queue = queues(&shape).remove(outside);
        lanes.queues.push(queue);
    }
    lanes.prefill();
    rig
}

/// Every turn a full burst arrives at each of the eight queues.
fn flood(rig: &mut Rig) -> u64 {
    let mut arrived = 0;
    for turn in 0..100 {
        for queue in 1..9 {
            let now = rig.arrive_at(0, queue, 64);
            assert_eq!(now, 64, "queue {queue} starved in turn {turn}");
            arrived += 64;
        }
        rig.turn();
    }
    rig.settle();
    arrived
}

#[test]
fn a_worker_of_many_queues_loses_nothing_on_the_way_to_another() {
    let mut rig = wide_rig(53);
    let arrived = flood(&mut rig);
    assert_eq!(rig.check_ledger(), (arrived, arrived, 0));
}

#[test]
fn chunks_that_others_drop_come_home_as_fast_as_they_went() {
    let mut rig = wide_rig(60_001);
    let arrived = flood(&mut rig);
    assert_eq!(rig.check_ledger(), (arrived, 0, arrived));
    assert_eq!(rig.dropped(DropReason::NoRule), arrived);
}

#[test]
fn a_sleeper_is_rung_when_its_chunks_wait_for_it() {
    let frames = datagrams_of_worker_1(60_001);
    let shape = Shape {
        workers: 2,
        chunks: 64,
        transmit_max: 64,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    let exchange = Arc::clone(&rig.exchange);
    let doorbell = &exchange.inbox(WorkerId(0)).unwrap().doorbell;
    let is_rung = || rustix::io::read(doorbell, &mut [0; 8]).is_ok();
    // A few chunks are no reason to wake anybody.
    assert_eq!(rig.arrive(0, 8), 8);
    rig.workers[0].turn(rig.now);
    doorbell.raise();
    rig.workers[1].turn(rig.now);
    assert!(!is_rung());
    doorbell.lower();
    // Its fill ring is empty: no frame will wake it.
    assert_eq!(rig.arrive(0, 64), 56);
    rig.workers[0].turn(rig.now);
    assert_eq!(rig.arrive(0, 64), 8);
    rig.workers[0].turn(rig.now);
    doorbell.raise();
    rig.workers[1].turn(rig.now);
    assert!(is_rung());
    doorbell.lower();
    rig.settle();
    assert_eq!(rig.check_ledger(), (72, 0, 72));
}

#[test]
fn fragments_meet_at_their_home_and_are_judged_by_their_flows_owner() {
    let frames: Vec<Vec<u8>> = (0..40_u16)
        .flat_map(|index| {
            let query = build::v4("192.0.2.9", "10.0.0.1").udp(1000 + index, 53);
            let mut pieces = query.payload_len(130).fragments(u32::from(index), 48);
            // The first in the middle: of three, one waits whichever way they come.
            pieces.swap(0, 1);
            pieces
        })
        .collect();
    let count = u32::try_from(frames.len()).unwrap();
    assert_eq!(count, 120);
    let lens: Vec<usize> = frames.iter().map(Vec::len).collect();
    let shape = Shape {
        workers: 2,
        with_queues: 2,
        // So many that all may wait that have to.
        chunks: 8 * count,
        inbox_frames: 256,
        transmit_max: 256,
    };
    let mut rig = rig(&shape, &frames);
    for worker in 0..2_usize {
        let queues = rig.workers[worker].lanes_mut().queues_mut();
        let port = &mut queues[PortSide::Outside.index()].port;
        // Half of the frames come in by each worker.
        let its = worker * 540..worker * 540 + 60;
        let mut rest = Vec::new();
        while let Some(chunk) = port.fill.pop_front() {
            let index = usize::try_from(chunk.0 / u64::from(CHUNK_SIZE)).unwrap();
            if !its.contains(&index) {
                rest.push(chunk);
                continue;
            }
            let len = u32::try_from(lens[index % lens.len()]).unwrap();
            port.incoming
                .push_back(crate::port::Frame::new(chunk.0, len));
        }
        port.fill.extend(rest);
    }
    rig.settle();
    let (received, sent, dropped) = rig.check_ledger();
    assert_eq!((received, sent, dropped), (120, 120, 0));
    let views = rig.views();
    let flows: u64 = views.iter().map(|view| view.gauges.flows).sum();
    assert_eq!(flows, 40, "one flow for each datagram");
    assert!(views.iter().all(|view| view.tally.handed_over > 20));
    assert!(views.iter().all(|view| view.in_flight == 0));
}

#[test]
fn fragments_that_wait_are_in_flight_and_then_dropped() {
    let later = build::v4("192.0.2.9", "10.0.0.1")
        .udp(1000, 53)
        .payload_len(130);
    let frames = vec![later.fragments(1, 48).swap_remove(1)];
    let shape = Shape {
        chunks: 16,
        inbox_frames: 16,
        transmit_max: 16,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    rig.arrive(0, 1);
    rig.turn();
    assert_eq!(rig.views()[0].in_flight, 1);
    rig.now = Tick::from_seconds(100);
    rig.settle();
    rig.settle();
    assert_eq!(rig.views()[0].in_flight, 0);
    assert_eq!(rig.check_ledger(), (1, 0, 1));
    assert_eq!(rig.dropped(DropReason::Fragment), 1);
}

#[test]
fn flows_end_by_their_keys_and_those_that_were_there_are_named() {
    let frames: Vec<Vec<u8>> = (1..=300)
        .map(|port| build::v4("192.0.2.7", "10.0.0.1").udp(5000, port).build())
        .collect();
    let mut rig = rig(&Shape::default(), &frames);
    for _ in 0..5 {
        rig.arrive(0, 60);
        rig.turn();
    }
    let now = rig.now;
    let ask = |rig: &mut Rig, keys: Vec<crate::packet::FlowKey>| {
        let (reply, answer) = crossbeam::channel::bounded(1);
        let command = WorkerCommand::End(keys, reply);
        rig.exchange.command(WorkerId(0), command).unwrap();
        assert_eq!(rig.workers[0].answer_commands(now), 1);
        answer.try_recv().unwrap()
    };
    let mut keys = Vec::new();
    let shard = &rig.workers[0].shard;
    shard.scan(0, 4096, now, &mut |flow| keys.push(flow.key));
    assert_eq!(keys.len(), 300);
    let (first, rest) = keys.split_at(10);
    assert_eq!(ask(&mut rig, first.to_vec()), first);
    // Those have ended, and of the rest no more than one turn has time for.
    let ended = ask(&mut rig, keys.clone());
    assert_eq!(ended, rest[..FLOW_ENDS_MAX - 10]);
    let mut left = Vec::new();
    let shard = &rig.workers[0].shard;
    shard.scan(0, 4096, now, &mut |flow| left.push(flow.key));
    assert_eq!(left, rest[FLOW_ENDS_MAX - 10..]);
}

#[test]
fn fragments_that_wait_do_not_starve_the_queue_that_they_came_by() {
    // Four workers with a queue each and 512 chunks at home, which the configuration allows: all
    // of a home's chunks may wait where workers² × 256 are as many as the link's (by default: with
    // sixteen workers).
    // All fragments are of one pair of hosts, so that all come by one queue.
    let later = |id| {
        let datagram = build::v4("192.0.2.9", "10.0.0.1").udp(1000, 53);
        let mut pieces = datagram.payload_len(130).fragments(id, 48);
        pieces.swap_remove(1)
    };
    let frames: Vec<Vec<u8>> = (0..1024).map(later).collect();
    let shape = Shape {
        workers: 4,
        with_queues: 4,
        chunks: 2048,
        inbox_frames: 4096,
        ..Shape::default()
    };
    let mut rig = rig(&shape, &frames);
    for _ in 0..40 {
        rig.arrive(0, 64);
        rig.turn();
        rig.check_ledger();
    }
    rig.settle();
    let arrived = rig.arrive(0, 64);
    assert!(
        arrived > 0,
        "no chunk left to receive into; {:?} wait",
        rig.views().iter().map(|v| v.in_flight).collect::<Vec<_>>()
    );
}
