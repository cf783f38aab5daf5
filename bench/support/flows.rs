//! Packets and flows by number, for what asks the connection table alone.
#![expect(clippy::expect_used, reason = "a benchmark may end")]

use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::conntrack::{FlowClass, NewFlow, Shard, ShardConfig, Timeouts};
use portcullis::packet::{Addresses, End, FlowKey, Fragment, IpPacket, Transport, VlanTags};
use portcullis::types::{Direction, Generation, InterfaceSlot, LinkId, RuleSlot, protocol};

/// Bytes of a frame, as they are counted.
pub(crate) const FRAME_LEN: u32 = 64;

/// A table whose UDP flows live so long.
pub(crate) fn shard(max_flows: u32, udp_seconds: u64) -> Shard {
    let config = ShardConfig {
        timeouts: Timeouts {
            udp: Duration::from_secs(udp_seconds),
            udp_stream: Duration::from_secs(432_000),
            ..Timeouts::default()
        },
        ..ShardConfig::new(max_flows, [11, 12])
    };
    Shard::new(&config, Tick(0))
}

/// A packet of a transport, to one server.
pub(crate) fn packet(protocol: u8, transport: Transport, source: u32) -> IpPacket {
    IpPacket {
        vlan: VlanTags::default(),
        addresses: Addresses::V4 {
            source,
            destination: 0xc000_0201,
        },
        protocol,
        hop_limit: 64,
        fragment: Fragment::Whole,
        transport,
    }
}

/// The datagram of a flow.
pub(crate) fn udp(number: u32) -> IpPacket {
    let transport = Transport::Udp {
        source_port: 1024 + (number & 7) as u16,
        destination_port: 53,
    };
    packet(protocol::UDP, transport, 0x0a00_0000 + (number >> 3))
}

/// Its key, and which end sent it.
pub(crate) fn key(packet: &IpPacket) -> (FlowKey, End) {
    FlowKey::of(LinkId(0), packet).expect("tracked")
}

/// Opens the flow of a packet; whether there was room.
pub(crate) fn open(shard: &mut Shard, packet: &IpPacket, now: Tick) -> bool {
    let (key, opener) = key(packet);
    let hash = shard.hash(&key);
    let new = NewFlow {
        interface: InterfaceSlot(1),
        rule: Some(RuleSlot(1)),
        generation: Generation(1),
        class: FlowClass::Tracked,
        direction: Direction::Ingress,
        opener,
    };
    let opened = shard.open(&key, hash, &new, packet, FRAME_LEN, now);
    opened.is_ok()
}
