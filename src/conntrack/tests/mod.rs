//! The shard as a whole. Scripts: one TCP connection a test. Random: against the oracle.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "numbers are cut on purpose, and a failure names its seed"
)]

mod attack;
mod bounds;
mod full;
mod hit;
mod hosts;
mod lifetime;
mod occupancy;
mod random;
mod sequence;
mod tcp_script;

use std::collections::HashMap;
use std::time::Duration;

use super::give_way::Yields;
use super::numbers::Narrow;
use super::traffic::Weight;
use super::*;
use crate::clock::Tick;
use crate::packet::{
    Addresses, End, FlowKey, Fragment, IpPacket, TcpFlags, TcpHeader, Transport, VlanTags,
};
use crate::types::{Direction, Generation, InterfaceSlot, LinkId, RuleSlot, protocol};

impl Shard {
    /// Panics unless slots, free list, index, timers, classes, shares and counters agree.
    fn check(&mut self) {
        self.table.check();
        let (mut live, mut heavy, mut ruled, mut yielding) = (0, 0, 0, 0);
        let mut interfaces = HashMap::new();
        for slot in 0..self.table.used() {
            let entry = self.table.entry(slot).unwrap();
            assert_eq!(self.give_way.class(slot), entry.yields());
            if entry.state.is_some() {
                live += 1;
                heavy += usize::from(entry.weight() == Weight::Heavy);
                ruled += u32::from(entry.rule != Narrow::NONE);
                yielding += u32::from(entry.yields().is_some());
                let interface = self.interfaces.slot(entry.interface).unwrap();
                *interfaces.entry(interface).or_insert(0) += 1;
                let deadline = self.timers.near_lap(entry.deadline_low());
                self.timers.check(slot, deadline);
            }
        }
        assert_eq!(self.timers.filed(), live);
        assert_eq!(self.records.held(), heavy);
        assert_eq!(self.rules.names(), ruled);
        assert_eq!(self.give_way.count(), yielding);
        assert_eq!(self.interfaces.names() as usize, live);
        if self.shares.is_counting() {
            for (interface, flows) in interfaces {
                let interface = InterfaceSlot(interface);
                assert_eq!(self.shares.flows(interface), flows);
                let listed = self.shares.yielding(interface);
                for (slot, class) in listed
                    .iter()
                    .zip(Yields::ALL)
                    .flat_map(|(slots, class)| slots.iter().map(move |slot| (*slot, class)))
                {
                    let entry = self.table.entry(slot).unwrap();
                    assert_eq!(entry.yields(), Some(class));
                    assert_eq!(self.interfaces.slot(entry.interface), Some(interface.0));
                }
                yielding -= listed.iter().map(Vec::len).sum::<usize>() as u32;
            }
            // A number that comes later lists what begins from then on.
            if self.shares.lists_all() {
                assert_eq!(yielding, 0, "some are in no list");
            }
        }
        let stats = self.stats();
        let ended = stats.expired + stats.ended + stats.evicted;
        assert_eq!(stats.opened - stats.reopened, ended + live as u64);
        let by = stats.evicted_by;
        let evicted = by.untracked + by.tombstones + by.unanswered + by.half_open;
        assert_eq!(stats.evicted, evicted);
    }
}

/// Splitmix64: small, seeded, good enough to choose test steps.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

fn config(max_flows: u32) -> ShardConfig {
    ShardConfig {
        max_flows,
        per_interface: PerInterface::default(),
        timeouts: Timeouts::default(),
        tcp_pickup: TcpPickup::Rules,
        tcp_strict: false,
        seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
    }
}

fn packet(addresses: Addresses, protocol: u8, transport: Transport) -> IpPacket {
    IpPacket {
        vlan: VlanTags::default(),
        addresses,
        protocol,
        hop_limit: 64,
        fragment: Fragment::Whole,
        transport,
    }
}

fn v4(source: u32, destination: u32) -> Addresses {
    Addresses::V4 {
        source,
        destination,
    }
}

fn udp(source: (u32, u16), destination: (u32, u16)) -> IpPacket {
    let transport = Transport::Udp {
        source_port: source.1,
        destination_port: destination.1,
    };
    packet(v4(source.0, destination.0), protocol::UDP, transport)
}

fn segment(flags: u8, sequence: u32, acknowledgment: u32) -> TcpHeader {
    TcpHeader {
        source_port: 40_000,
        destination_port: 443,
        sequence,
        acknowledgment,
        flags: TcpFlags(flags),
        window: 65_535,
        window_scale: None,
        payload_len: 0,
    }
}

fn new_flow(opener: End) -> NewFlow {
    NewFlow {
        interface: InterfaceSlot(7),
        rule: Some(RuleSlot(3)),
        generation: Generation(1 << 40 | 5),
        class: FlowClass::Tracked,
        direction: Direction::Egress,
        opener,
    }
}

fn key_of(packet: &IpPacket) -> (FlowKey, End) {
    FlowKey::of(LinkId(1), packet).unwrap()
}

/// Opens a flow with its first packet.
fn open(shard: &mut Shard, packet: &IpPacket, now: Tick) -> Result<FlowIndex, OpenError> {
    let (key, from) = key_of(packet);
    let hash = shard.hash(&key);
    shard.open(&key, hash, &new_flow(from), packet, 60, now)
}

fn find(shard: &Shard, packet: &IpPacket, now: Tick) -> Option<FlowIndex> {
    let (key, _) = key_of(packet);
    shard.find(&key, shard.hash(&key), now)
}

fn track(shard: &mut Shard, packet: &IpPacket, now: Tick) -> Option<Track> {
    let index = find(shard, packet, now)?;
    Some(shard.track(index, packet, key_of(packet).1, 60, now))
}

fn view(shard: &Shard, packet: &IpPacket, now: Tick) -> Option<FlowView> {
    let index = find(shard, packet, now)?;
    let mut found = None;
    let after = shard.scan(index.number(), 1, now, &mut |view| found = Some(view));
    assert!(after.is_none_or(|after| after == index.number() + 1));
    found
}

fn seconds(seconds: u64) -> Tick {
    Tick::from_seconds(seconds)
}
