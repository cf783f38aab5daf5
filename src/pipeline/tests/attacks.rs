//! What somebody with a packet generator on either side, or a policy that changes at a bad moment,
//! might get through.

use super::*;

/// Two hosts of one link, and one outside that the second lets in.
const PAIR: &str = r#"
[security_groups.client]
description = "asks"
ingress = []
egress = [
  { protocol = "udp", ports = 53, to = ["10.0.0.0/24"] },
  { protocol = "tcp", ports = 80, to = ["10.0.0.0/24"] },
]
[interfaces.a]
addresses = ["10.0.0.1"]
groups = ["client"]
[interfaces.b]
addresses = ["10.0.0.2"]
groups = ["client"]
"#;

#[test]
fn nobody_outside_can_answer_for_a_registered_host() {
    let mut world = World::new(PAIR);
    let query = build::v4("10.0.0.1", "10.0.0.2").udp(5000, 53);
    world.passes(Inside, &query, PassReason::Rule);
    world.drops(Outside, &query.clone().reversed(), DropReason::Spoofed);
    world.passes(Inside, &query, PassReason::Rule);
    // Nor does its own answer ride on the question: it is judged as it leaves.
    world.drops(Inside, &query.reversed(), DropReason::NoRule);
}

#[test]
fn a_flow_ends_when_its_far_end_is_registered_on_this_link() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    let moved = format!("{WEB}[interfaces.x]\naddresses = [\"192.0.2.9\"]\ngroups = [\"web\"]\n");
    world.apply(&moved);
    world.drops(Outside, &request().ack(), DropReason::Spoofed);
}

#[test]
fn a_flow_whose_ends_change_sides_stands_in_nobodys_way() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.apply(
        r#"
[security_groups.out]
description = "asks"
ingress = []
egress = [{ protocol = "tcp", ports = 80, to = ["10.0.0.0/24"] }]
[interfaces.x]
addresses = ["192.0.2.9"]
groups = ["out"]
"#,
    );
    world.passes(Inside, &request().syn(), PassReason::Rule);
    world.passes(Outside, &accepted(&request()), PassReason::Tracked);
}

#[test]
fn multicast_from_outside_is_nobodys_even_inside_of_a_prefix() {
    let mut world = World::new(&WEB.replace(
        r#"addresses = ["10.0.0.1", "2001:db8::1"]"#,
        r#"addresses = ["224.0.0.0/3", "f000::/4"]"#,
    ));
    for frame in [
        build::v4("192.0.2.9", "239.1.2.3").tcp(1, 80),
        build::v4("192.0.2.9", "255.255.255.255").tcp(1, 80),
        build::v6("2001:db8:f::9", "ff02::1").tcp(1, 80),
    ] {
        world.drops(Outside, &frame.syn(), DropReason::Unregistered);
    }
}

#[test]
fn a_query_of_another_code_is_another_question() {
    let mut world = World::new(WEB);
    let ping = |code| build::v4("192.0.2.9", "10.0.0.1").icmp(8, code, [0, 7, 0, 1]);
    let pong = |code| build::v4("10.0.0.1", "192.0.2.9").icmp(0, code, [0, 7, 0, 1]);
    world.passes(Outside, &ping(0), PassReason::Rule);
    world.drops(Outside, &ping(9), DropReason::NoRule);
    world.passes(Outside, &ping(0), PassReason::Tracked);
    world.passes(Inside, &pong(0), PassReason::Tracked);
    world.apply(&WEB.replace("type = 8, code = 0", "type = 8"));
    world.passes(Outside, &ping(9), PassReason::Rule);
    world.passes(Outside, &ping(9), PassReason::Tracked);
    // Hosts answer with the query's code or with 0.
    world.passes(Inside, &pong(9), PassReason::Tracked);
    world.passes(Inside, &pong(0), PassReason::Tracked);
}

#[test]
fn an_unenforced_flow_that_a_rule_allows_by_now_goes_on_as_tracked() {
    let mut world = World::new(&WEB.replace("egress = []", "egress = []\nenforce = false"));
    let ssh = build::v4("192.0.2.9", "10.0.0.1").tcp(1, 22);
    world.passes(Outside, &ssh.clone().syn(), PassReason::Unenforced);
    world.apply(&WEB.replace("ports = 80", "ports = [80, 22]"));
    world.passes(Inside, &accepted(&ssh), PassReason::Tracked);
    world.passes(
        Outside,
        &ssh.ack().sequence(1).acknowledgment(501),
        PassReason::Tracked,
    );
}

#[test]
fn an_unenforced_query_is_judged_again_with_its_own_code() {
    let mut world = World::new(&WEB.replace("egress = []", "egress = []\nenforce = false"));
    let ping = build::v4("192.0.2.9", "10.0.0.1").icmp(8, 9, [0, 7, 0, 1]);
    world.passes(Outside, &ping, PassReason::Unenforced);
    world.apply(WEB);
    let pong = build::v4("10.0.0.1", "192.0.2.9").icmp(0, 9, [0, 7, 0, 1]);
    world.drops(Inside, &pong, DropReason::NoRule);
}

#[test]
fn an_exempt_address_is_a_service_outside_and_no_cloak_for_hosts_inside() {
    let mut world = World::new(WEB);
    let service = "169.254.169.254/32".parse().unwrap();
    world.config.exempt = ExemptRules::new(vec![service], vec![], vec![]);
    let query = build::v4("10.0.0.1", "169.254.169.254").udp(9, 80);
    world.passes(Inside, &query, PassReason::Exempt);
    world.passes(Outside, &query.clone().reversed(), PassReason::Exempt);
    let cloaked = build::v4("169.254.169.254", "203.0.113.5").udp(9, 80);
    world.drops(Inside, &cloaked, DropReason::Unregistered);
    world.drops(Outside, &query, DropReason::Spoofed);
}

#[test]
fn nobody_outside_opens_a_connection_by_an_exempt_source_port() {
    let mut world = World::new(WEB);
    let port = ExemptPort {
        protocol: PortProtocol::Tcp,
        port: 443,
    };
    world.config.exempt = ExemptRules::new(vec![], vec![port], vec![]);
    let out = build::v4("10.0.0.1", "203.0.113.5").tcp(9000, 443);
    world.passes(Inside, &out.clone().syn(), PassReason::Exempt);
    world.passes(Outside, &accepted(&out), PassReason::Exempt);
    let attack = build::v4("203.0.113.5", "10.0.0.1").tcp(443, 22);
    world.drops(Outside, &attack.clone().syn(), DropReason::NoRule);
    // SYN with other bits opens a connection at some hosts.
    world.drops(Outside, &attack.flags(0x02 | 0x40), DropReason::NoRule);
}

#[test]
fn fragments_of_igmp_are_fragments() {
    let mut world = World::new(WEB);
    let report = build::v4("10.0.0.1", "224.0.0.22").protocol(2);
    let report = report.payload_len(16);
    world.passes(Inside, &report, PassReason::Exempt);
    let first = report.clone().fragment(1, 0, true);
    world.drops(Inside, &first, DropReason::NoRule);
    let later = report.fragment(1, 16, false);
    world.drops(Inside, &later, DropReason::NoRule);
}

#[test]
fn arp_is_unchecked_where_its_ethertype_is_listed() {
    let mut world = World::new(WEB);
    let foreign = build::arp(2, "10.0.0.9", "10.0.0.1");
    world.drops(Inside, &foreign, DropReason::Spoofed);
    world.config.exempt = ExemptRules::new(vec![], vec![], vec![0x0806]);
    world.passes(Inside, &foreign, PassReason::Exempt);
}

#[test]
fn a_reply_of_an_untracked_flow_opens_no_entry_under_its_name() {
    let mut world = World::new(OPEN);
    let reply = request().reversed().ack().sequence(7).acknowledgment(3);
    world.passes(Inside, &reply, PassReason::Untracked);
    assert!(world.shard.is_empty());
    world.passes(Outside, &request().syn(), PassReason::Untracked);
    assert_eq!(world.shard.len(), 1);
}

/// A world whose table has room for one established connection and `room` others, and the batch.
fn full_world(room: u16) -> World {
    let mut world = World::with_flows(WEB, u32::from(room) + 1);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    world.passes(Outside, &request().ack(), PassReason::Tracked);
    for port in 0..room {
        world.passes(Outside, &stranger(port).syn(), PassReason::Rule);
    }
    world
}

fn stranger(port: u16) -> FrameBuilder {
    build::v4("192.0.2.8", "10.0.0.1").tcp(port, 80)
}

/// How many of so many new connections in one batch are let in.
fn let_in(world: &mut World, ports: std::ops::Range<u16>) -> u64 {
    world.batch.clear();
    let place = Place {
        config: &world.config,
        steering: None,
    };
    for port in ports {
        let bytes = stranger(port).syn().build();
        let arrival = Arrival {
            link: LinkId(0),
            side: Outside,
            original_len: u32::try_from(bytes.len()).unwrap(),
        };
        world
            .batch
            .push(&bytes, arrival, &place, &world.shard, Origin::Queue);
    }
    world
        .batch
        .run(&place, &mut world.shard, &world.snapshot, world.now);
    let fates: Vec<_> = world.batch.fates().collect();
    let verdict = |fate: &&Fate| match fate {
        Fate::Judged(outcome) => outcome.verdict,
        other => panic!("{other:?}"),
    };
    let full = Verdict::Drop(DropReason::TableFull);
    let (refused, passed): (Vec<_>, Vec<_>) = fates.iter().partition(|fate| verdict(fate) == full);
    for fate in &passed {
        assert_eq!(verdict(fate), Verdict::Pass(PassReason::Rule));
    }
    assert_eq!(refused.len() + passed.len(), fates.len());
    passed.len() as u64
}

#[test]
fn a_flood_that_fills_batches_displaces_no_more_than_a_part_of_each_does() {
    let most = u64::from(DISPLACEMENTS_MAX);
    let mut world = full_world(100);
    for round in 1..=20 {
        let first = round * 1_000;
        assert_eq!(let_in(&mut world, first..first + 64), most, "{round}");
        // What a slower flood brings in a batch all gets in.
        assert_eq!(let_in(&mut world, first + 100..first + 140), 40);
    }
    let stats = world.shard.stats();
    assert_eq!(stats.evicted_by.unanswered, 20 * (most + 40));
    assert_eq!(
        (stats.evicted, stats.refused),
        (20 * (most + 40), 20 * (64 - most))
    );
    world.passes(Outside, &request().ack(), PassReason::Tracked);
}

#[test]
fn closed_flows_and_free_room_are_taken_without_that_limit() {
    let mut world = full_world(100);
    for port in 0..100 {
        let refusal = stranger(port).reversed().rst().acknowledgment(1);
        world.passes(Inside, &refusal, PassReason::Tracked);
    }
    assert_eq!(let_in(&mut world, 1_000..1_064), 64);
    assert_eq!(world.shard.stats().evicted_by.tombstones, 64);
    let mut world = World::with_flows(WEB, 64);
    assert_eq!(let_in(&mut world, 1_000..1_064), 64);
}
