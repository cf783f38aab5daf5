//! The whole decision, packet by packet, on policies as users write them.

mod attacks;
mod draft;
mod follow;
mod leave;
mod oracle;
mod random;
mod story;

use std::time::Duration;

use super::*;
use crate::clock::Tick;
use crate::compile::Compiler;
use crate::conntrack::{HeldSlots, Shard, ShardConfig};
use crate::packet::build::{self, FrameBuilder};
use crate::snapshot::Snapshot;
use crate::types::PortSide::{Inside, Outside};
use crate::types::{
    Direction, DropReason, Generation, LinkId, PassReason, PortSide, Verdict, WorkerId,
};

/// A gateway of one worker whose wires are function calls.
struct World {
    compiler: Compiler,
    snapshot: Snapshot,
    shard: Shard,
    config: PipelineConfig,
    batch: Batch,
    now: Tick,
}

impl World {
    fn new(policy: &str) -> Self {
        Self::with_flows(policy, 1024)
    }

    fn with_flows(policy: &str, max_flows: u32) -> Self {
        let mut compiler = Compiler::new();
        let snapshot = compiler.compile_text(policy, Generation(1));
        let shard = ShardConfig::new(max_flows, [1, 2]);
        Self {
            compiler,
            snapshot,
            shard: Shard::new(&shard, Tick(0)),
            config: PipelineConfig::default(),
            batch: Batch::default(),
            now: Tick::from_seconds(1),
        }
    }

    fn apply(&mut self, policy: &str) {
        let generation = self.snapshot.generation().next();
        self.snapshot = self.compiler.compile_text(policy, generation);
    }

    fn send(&mut self, side: PortSide, frame: &FrameBuilder) -> Resolved {
        let bytes = frame.build();
        let original_len = u32::try_from(bytes.len()).unwrap();
        let arrival = Arrival {
            link: LinkId(0),
            side,
            original_len,
        };
        self.shard.expire(self.now);
        self.batch.clear();
        let place = Place {
            config: &self.config,
            steering: None,
        };
        self.batch
            .push(&bytes, arrival, &place, &self.shard, Origin::Queue);
        self.batch
            .run(&place, &mut self.shard, &self.snapshot, self.now);
        match self.batch.fates().next() {
            Some(Fate::Judged(outcome)) => outcome.resolve(&self.shard),
            Some(Fate::Hold(_)) => Resolved::FRAGMENT,
            other => panic!("one worker judges everything: {other:?}"),
        }
    }

    #[track_caller]
    fn passes(&mut self, side: PortSide, frame: &FrameBuilder, reason: PassReason) {
        assert_eq!(self.send(side, frame).verdict, Verdict::Pass(reason));
    }

    #[track_caller]
    fn drops(&mut self, side: PortSide, frame: &FrameBuilder, reason: DropReason) {
        assert_eq!(self.send(side, frame).verdict, Verdict::Drop(reason));
    }
}

const WEB: &str = r#"
[security_groups.web]
description = "web servers"
ingress = [
  { protocol = "tcp", ports = 80, from = ["192.0.2.0/24", "2001:db8:f::/48"] },
  { protocol = "icmp", type = 8, code = 0, from = ["192.0.2.0/24"] },
]
egress = []
[interfaces.web-1]
addresses = ["10.0.0.1", "2001:db8::1"]
groups = ["web"]
"#;

fn request() -> FrameBuilder {
    build::v4("192.0.2.9", "10.0.0.1").tcp(40_000, 80)
}

/// The SYN-ACK to a SYN of sequence number 0.
fn accepted(request: &FrameBuilder) -> FrameBuilder {
    let reply = request.clone().reversed().syn().ack();
    reply.sequence(500).acknowledgment(1)
}

#[test]
fn a_reply_passes_where_no_rule_would_let_it() {
    let mut world = World::new(WEB);
    let reply = request().reversed();
    world.drops(Inside, &reply.clone().syn(), DropReason::NoRule);
    world.passes(Outside, &request().syn().sequence(100), PassReason::Rule);
    let syn_ack = reply.syn().ack().sequence(500).acknowledgment(101);
    world.passes(Inside, &syn_ack, PassReason::Tracked);
}

#[test]
fn the_outcome_names_interface_direction_and_rule() {
    let mut world = World::new(WEB);
    let outcome = world.send(Outside, &request().syn());
    assert_eq!(outcome.direction, Some(Direction::Ingress));
    let interface = world
        .snapshot
        .interface_by_slot(outcome.interface.unwrap())
        .unwrap();
    assert_eq!(&*world.snapshot.interface(interface).unwrap().name, "web-1");
    assert_eq!(
        &*world
            .snapshot
            .rule(outcome.rule.unwrap())
            .unwrap()
            .group
            .name,
        "web"
    );
    let reply = world.send(Inside, &accepted(&request()));
    assert_eq!(reply.direction, Some(Direction::Egress));
    assert_eq!(
        reply.rule, outcome.rule,
        "the rule that admitted the connection"
    );
}

#[test]
fn the_port_and_the_address_of_a_rule_both_count() {
    let mut world = World::new(WEB);
    world.drops(
        Outside,
        &build::v4("192.0.2.9", "10.0.0.1").tcp(1, 81).syn(),
        DropReason::NoRule,
    );
    let stranger = build::v4("198.51.100.1", "10.0.0.1").tcp(1, 80).syn();
    world.drops(Outside, &stranger, DropReason::NoRule);
    world.drops(
        Outside,
        &build::v4("192.0.2.9", "10.0.0.1").udp(1, 80),
        DropReason::NoRule,
    );
    let v6 = build::v6("2001:db8:f::9", "2001:db8::1").tcp(1, 80).syn();
    world.passes(Outside, &v6, PassReason::Rule);
}

#[test]
fn who_is_not_registered_or_on_the_wrong_side_is_dropped() {
    let mut world = World::new(WEB);
    let unknown = build::v4("10.0.0.2", "192.0.2.9").tcp(1, 80).syn();
    world.drops(Inside, &unknown, DropReason::Unregistered);
    let nobody = build::v4("192.0.2.9", "10.0.0.2").tcp(1, 80).syn();
    world.drops(Outside, &nobody, DropReason::Unregistered);
    let spoofed = build::v4("10.0.0.1", "10.0.0.7").tcp(1, 80).syn();
    world.drops(Outside, &spoofed, DropReason::Spoofed);
    let group = build::v4("192.0.2.9", "224.0.0.251").udp(5353, 5353);
    world.drops(Outside, &group, DropReason::Unregistered);
}

#[test]
fn a_spoofed_packet_of_a_live_flow_is_spoofed() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    let reply = accepted(&request());
    world.drops(Outside, &reply, DropReason::Spoofed);
    world.drops(Inside, &request().ack(), DropReason::Unregistered);
    world.passes(Inside, &reply, PassReason::Tracked);
}

#[test]
fn unregistered_frames_pass_where_the_link_says_so() {
    let mut world = World::new(WEB);
    world.config.links = vec![LinkRules {
        unregistered: Unregistered::Pass,
    }];
    let unknown = build::v4("10.0.0.2", "192.0.2.9").tcp(1, 80).syn();
    world.passes(Inside, &unknown, PassReason::Unregistered);
    world.drops(
        Outside,
        &build::v4("10.0.0.1", "10.0.0.2").tcp(1, 2).syn(),
        DropReason::Spoofed,
    );
    world.drops(Outside, &request().reversed().syn(), DropReason::Spoofed);
    world.passes(
        Inside,
        &build::arp(2, "10.0.0.2", "10.0.0.9"),
        PassReason::Exempt,
    );
}

#[test]
fn arp_and_advertisements_speak_only_for_their_own_addresses() {
    let mut world = World::new(WEB);
    world.passes(
        Inside,
        &build::arp(1, "10.0.0.1", "10.0.0.9"),
        PassReason::Exempt,
    );
    world.passes(
        Inside,
        &build::arp(2, "10.0.0.1", "10.0.0.9"),
        PassReason::Exempt,
    );
    world.passes(
        Inside,
        &build::arp(2, "169.254.3.4", "10.0.0.9"),
        PassReason::Exempt,
    );
    world.drops(
        Inside,
        &build::arp(2, "10.0.0.9", "10.0.0.1"),
        DropReason::Spoofed,
    );
    world.drops(
        Inside,
        &build::arp(1, "10.0.0.9", "10.0.0.9"),
        DropReason::Spoofed,
    );
    world.passes(
        Outside,
        &build::arp(2, "10.0.0.9", "10.0.0.1"),
        PassReason::Exempt,
    );
    let advertises = |target: &str| {
        build::v6("fe80::1", "ff02::1")
            .hop_limit(255)
            .neighbor(136, target)
    };
    world.passes(Inside, &advertises("2001:db8::1"), PassReason::Exempt);
    world.passes(Inside, &advertises("fe80::1"), PassReason::Exempt);
    world.drops(Inside, &advertises("2001:db8::2"), DropReason::Spoofed);
    world.passes(Outside, &advertises("2001:db8::2"), PassReason::Exempt);
}

#[test]
fn neighbor_discovery_is_exempt_with_hop_limit_255_only() {
    let mut world = World::new(WEB);
    let solicit = build::v6("2001:db8::1", "ff02::1:ff00:9").neighbor(135, "2001:db8::9");
    world.passes(Inside, &solicit.clone().hop_limit(255), PassReason::Exempt);
    world.drops(Inside, &solicit.hop_limit(64), DropReason::NoRule);
    let router = build::v6("fe80::9", "ff02::1")
        .hop_limit(255)
        .icmp(134, 0, [0; 4]);
    world.passes(Outside, &router.clone().payload_len(12), PassReason::Exempt);
    world.drops(Inside, &router.payload_len(12), DropReason::Unregistered);
}

#[test]
fn dhcp_is_exempt_from_client_inside_and_server_outside_only() {
    let mut world = World::new(WEB);
    world.passes(Inside, &build::dhcp_client(1), PassReason::Exempt);
    world.drops(Outside, &build::dhcp_client(1), DropReason::Unregistered);
    world.passes(
        Outside,
        &build::dhcp_server(2, "10.0.0.254"),
        PassReason::Exempt,
    );
    world.drops(
        Inside,
        &build::dhcp_server(2, "10.0.0.254"),
        DropReason::Unregistered,
    );
}

#[test]
fn listed_exemptions_come_before_the_rules() {
    let mut world = World::new(WEB);
    let metadata = build::v4("10.0.0.1", "169.254.169.254").tcp(1, 80).syn();
    let ntp = build::v4("10.0.0.1", "203.0.113.5").udp(9000, 123);
    world.drops(Inside, &metadata, DropReason::NoRule);
    world.drops(Inside, &ntp, DropReason::NoRule);
    world.drops(
        Outside,
        &build::ethernet(0x88cc, &[0; 46]),
        DropReason::NotIp,
    );
    let port = ExemptPort {
        protocol: PortProtocol::Udp,
        port: 123,
    };
    let address = "169.254.169.254/32".parse().unwrap();
    world.config.exempt = ExemptRules::new(vec![address], vec![port], vec![0x88cc]);
    world.passes(Inside, &metadata, PassReason::Exempt);
    world.passes(Inside, &ntp, PassReason::Exempt);
    world.passes(Outside, &ntp.reversed(), PassReason::Exempt);
    world.drops(
        Outside,
        &build::v4("192.0.2.9", "10.0.0.1").udp(9, 123),
        DropReason::NoRule,
    );
    world.passes(
        Outside,
        &build::ethernet(0x88cc, &[0; 46]),
        PassReason::Exempt,
    );
}

#[test]
fn a_tracked_flow_outlives_its_rule_but_not_its_interface() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.apply(&WEB.replace("ports = 80", "ports = 443"));
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    world.passes(Outside, &request().ack(), PassReason::Tracked);
    let other = build::v4("192.0.2.9", "10.0.0.1").tcp(40_001, 80).syn();
    world.drops(Outside, &other, DropReason::NoRule);
    world.apply(&WEB.replace("10.0.0.1", "10.0.0.3"));
    world.drops(Outside, &request().ack(), DropReason::Unregistered);
    world.apply(WEB);
    world.drops(Inside, &request().reversed().ack(), DropReason::NoRule);
}

#[test]
fn an_address_that_moves_to_another_interface_takes_no_flow_along() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.apply(&WEB.replace("interfaces.web-1", "interfaces.web-2"));
    world.drops(Inside, &accepted(&request()), DropReason::NoRule);
}

const OPEN: &str = r#"
[security_groups.open]
description = "open to all"
ingress = [{ protocol = "tcp", ports = 80, from = ["0.0.0.0/0"] }]
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["open"]
"#;

#[test]
fn an_untracked_flow_is_cut_at_once_when_its_rule_goes() {
    let mut world = World::new(OPEN);
    world.passes(Outside, &request().syn(), PassReason::Untracked);
    world.passes(Inside, &accepted(&request()), PassReason::Untracked);
    world.passes(Outside, &request().ack(), PassReason::Untracked);
    world.apply(&OPEN.replace("ports = 80", "ports = 81"));
    world.drops(Outside, &request().ack(), DropReason::NoRule);
}

#[test]
fn an_untracked_flow_needs_no_room_in_the_table() {
    let mut world = World::with_flows(OPEN, 1);
    let connection = build::v4("10.0.0.1", "192.0.2.77").tcp(50_000, 443);
    let outbound = connection.clone().syn();
    world.passes(Inside, &outbound, PassReason::Rule);
    world.passes(Outside, &accepted(&connection), PassReason::Tracked);
    let last = connection.ack().sequence(1).acknowledgment(501);
    world.passes(Inside, &last, PassReason::Tracked);
    let second = build::v4("10.0.0.1", "192.0.2.78").tcp(50_000, 443).syn();
    world.drops(Inside, &second, DropReason::TableFull);
    world.passes(Outside, &request().syn(), PassReason::Untracked);
    world.passes(Inside, &accepted(&request()), PassReason::Untracked);
    world.passes(Inside, &outbound.reversed().reversed(), PassReason::Tracked);
}

#[test]
fn no_tombstone_stops_an_untracked_flow() {
    let mut world = World::new(OPEN);
    world.passes(
        Outside,
        &request().syn().sequence(10),
        PassReason::Untracked,
    );
    world.passes(
        Inside,
        &request().reversed().rst().ack().acknowledgment(11),
        PassReason::Untracked,
    );
    world.passes(
        Outside,
        &request().ack().sequence(11),
        PassReason::Untracked,
    );
}

#[test]
fn a_closed_tracked_connection_stays_closed_until_a_new_syn() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn().sequence(10), PassReason::Rule);
    let refused = request().reversed().rst().ack().acknowledgment(11);
    world.passes(Inside, &refused, PassReason::Tracked);
    world.drops(Outside, &request().ack().sequence(11), DropReason::Invalid);
    world.passes(Outside, &request().syn().sequence(9000), PassReason::Rule);
}

#[test]
fn what_an_audited_group_would_refuse_passes_and_says_so() {
    let audited = WEB.replace("egress = []", "egress = []\nenforce = false");
    let mut world = World::new(&audited);
    let ssh = build::v4("192.0.2.9", "10.0.0.1").tcp(1, 22);
    world.passes(Outside, &ssh.clone().syn(), PassReason::Unenforced);
    world.passes(Inside, &accepted(&ssh), PassReason::Unenforced);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.apply(WEB);
    world.drops(Outside, &ssh.ack(), DropReason::NoRule);
}

#[test]
fn icmp_queries_are_tracked_by_id_and_by_who_asks() {
    let mut world = World::new(WEB);
    let ping = build::v4("192.0.2.9", "10.0.0.1").echo_request(7, 1);
    let pong = build::v4("10.0.0.1", "192.0.2.9").echo_reply(7, 1);
    world.drops(Inside, &pong, DropReason::NoRule);
    world.passes(Outside, &ping, PassReason::Rule);
    world.passes(Inside, &pong, PassReason::Tracked);
    let other = build::v4("10.0.0.1", "192.0.2.9").echo_reply(8, 1);
    world.drops(Inside, &other, DropReason::NoRule);
    let asks_back = build::v4("10.0.0.1", "192.0.2.9").echo_request(7, 1);
    world.drops(Inside, &asks_back, DropReason::NoRule);
}

#[test]
fn flows_end_when_idle() {
    let mut world = World::new(WEB);
    world.passes(
        Outside,
        &build::v4("192.0.2.9", "10.0.0.1").echo_request(7, 1),
        PassReason::Rule,
    );
    world.now = world.now + Duration::from_secs(31);
    let pong = build::v4("10.0.0.1", "192.0.2.9").echo_reply(7, 1);
    world.drops(Inside, &pong, DropReason::NoRule);
}

#[test]
fn vlans_are_flows_of_their_own() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().vlan(20).syn(), PassReason::Rule);
    let reply = accepted(&request());
    world.drops(Inside, &reply.clone().vlan(21), DropReason::NoRule);
    world.drops(Inside, &reply, DropReason::NoRule);
    world.passes(Inside, &accepted(&request()).vlan(20), PassReason::Tracked);
}

#[test]
fn later_fragments_and_broken_frames_are_dropped_by_name() {
    let mut world = World::new(WEB);
    let later = build::v4("192.0.2.9", "10.0.0.1")
        .protocol(17)
        .fragment(9, 64, false);
    world.drops(Outside, &later.payload_len(32), DropReason::Fragment);
    world.drops(Outside, &request().syn().cut_to(40), DropReason::Malformed);
    world.drops(
        Outside,
        &build::ethernet(0x86dd, &[]),
        DropReason::Malformed,
    );
    world.drops(
        Outside,
        &build::ethernet(0x8847, &[0; 60]),
        DropReason::NotIp,
    );
}

#[test]
fn both_directions_of_a_flow_have_one_owner_and_flows_spread_over_all() {
    let world = World::new(WEB);
    let steering = Steering::new([3, 4], 4);
    let mut batch = Batch::default();
    let mut seen = [0_u32; 4];
    for port in 1000..1400 {
        let mut owners = Vec::new();
        for frame in [
            request().tcp(port, 80).syn(),
            request().tcp(port, 80).syn().reversed(),
        ] {
            let bytes = frame.build();
            let original_len = u32::try_from(bytes.len()).unwrap();
            let arrival = Arrival {
                link: LinkId(0),
                side: Outside,
                original_len,
            };
            batch.clear();
            // Worker 99 owns nothing, so that every packet says whose it is.
            let place = Place {
                config: &world.config,
                steering: Some((&steering, WorkerId(99))),
            };
            batch.push(&bytes, arrival, &place, &world.shard, Origin::Queue);
            match batch.fates().next() {
                Some(Fate::HandOver(owner)) => owners.push(owner),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(owners[0], owners[1]);
        seen[owners[0].index()] += 1;
    }
    assert!(
        seen.iter().all(|&count| (60..=140).contains(&count)),
        "{seen:?}"
    );
}
