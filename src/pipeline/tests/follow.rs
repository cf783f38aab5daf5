//! What follows another packet: fragments, ICMP errors, connections judged again.

use super::*;
use crate::conntrack::{RELATED_PER_SECOND, Release};

const UDP: &str = r#"
[security_groups.dns]
description = "name servers"
ingress = [{ protocol = "udp", ports = 53, from = ["192.0.2.0/24", "2001:db8:f::/48"] }]
egress = []
[interfaces.dns-1]
addresses = ["10.0.0.1", "2001:db8::1"]
groups = ["dns"]
"#;

fn query() -> FrameBuilder {
    build::v4("192.0.2.9", "10.0.0.1").udp(4000, 53)
}

impl World {
    /// Sends bytes; `None` where they wait.
    fn bytes(&mut self, side: PortSide, bytes: &[u8]) -> Option<Verdict> {
        let original_len = u32::try_from(bytes.len()).unwrap();
        let arrival = Arrival {
            link: LinkId(0),
            side,
            original_len,
        };
        let place = Place {
            config: &self.config,
            steering: None,
        };
        self.batch.clear();
        self.batch
            .push(bytes, arrival, &place, &self.shard, Origin::Queue);
        self.batch
            .run(&place, &mut self.shard, &self.snapshot, self.now);
        match self.batch.fates().next() {
            Some(Fate::Judged(outcome)) => Some(outcome.verdict),
            Some(Fate::Hold(_)) => None,
            other => panic!("{other:?}"),
        }
    }
}

const RULE: Option<Verdict> = Some(Verdict::Pass(PassReason::Rule));
const TRACKED: Option<Verdict> = Some(Verdict::Pass(PassReason::Tracked));

#[test]
fn fragments_in_order_follow_the_first_by_both_families() {
    for datagram in [
        query(),
        build::v6("2001:db8:f::9", "2001:db8::1").udp(4000, 53),
    ] {
        let mut world = World::new(UDP);
        let pieces = datagram.payload_len(100).fragments(7, 48);
        assert_eq!(world.bytes(Outside, &pieces[0]), RULE, "it opens the flow");
        for piece in &pieces[1..] {
            assert_eq!(world.bytes(Outside, piece), TRACKED);
        }
    }
}

#[test]
fn fragments_of_what_no_rule_allows_are_dropped_by_that_reason() {
    let mut world = World::new(UDP);
    let other_port = build::v4("192.0.2.9", "10.0.0.1")
        .udp(4000, 54)
        .payload_len(100);
    for piece in other_port.fragments(7, 48) {
        let verdict = world.bytes(Outside, &piece);
        assert_eq!(verdict, Some(Verdict::Drop(DropReason::NoRule)));
    }
}

#[test]
fn early_fragments_wait_and_pass_once_the_first_has() {
    let mut world = World::new(UDP);
    let pieces = query().payload_len(100).fragments(7, 48);
    assert_eq!(world.bytes(Outside, &pieces[2]), None);
    assert_eq!(world.bytes(Outside, &pieces[1]), None);
    assert_eq!(world.bytes(Outside, &pieces[0]), RULE);
    let mut retried = 0;
    while let Some((_, release)) = world.shard.pop_released() {
        assert_eq!(release, Release::Retry);
        retried += 1;
    }
    assert_eq!(retried, 2);
    assert_eq!(world.bytes(Outside, &pieces[2]), TRACKED);
    assert_eq!(world.bytes(Outside, &pieces[1]), TRACKED);
}

#[test]
fn fragments_between_hosts_of_the_link_pass_like_their_first() {
    let policy = UDP.replace("egress = []", "");
    let mut world = World::new(&policy.replace("\"10.0.0.1\",", "\"10.0.0.1\", \"10.0.0.2\","));
    // Such packets have no entry: what comes back is no reply.
    let datagram = build::v4("10.0.0.1", "10.0.0.2").protocol(47);
    for piece in datagram.payload_len(100).fragments(7, 48) {
        assert_eq!(world.bytes(Inside, &piece), RULE);
    }
}

#[test]
fn fragments_follow_a_first_one_whose_port_is_exempt_and_its_service_only() {
    const EXEMPT: Option<Verdict> = Some(Verdict::Pass(PassReason::Exempt));
    let mut world = World::new(UDP);
    let port = |protocol| ExemptPort {
        protocol,
        port: 500,
    };
    let ports = vec![port(PortProtocol::Udp), port(PortProtocol::Tcp)];
    world.config.exempt = ExemptRules::new(Vec::new(), ports, Vec::new());
    let asked = build::v4("10.0.0.1", "203.0.113.5").udp(500, 500);
    let asked6 = build::v6("2001:db8::1", "2001:db8:99::5").udp(9000, 500);
    for datagram in [asked.clone(), asked6] {
        for piece in datagram.clone().payload_len(100).fragments(7, 48) {
            assert_eq!(world.bytes(Inside, &piece), EXEMPT);
        }
        let pieces = datagram.reversed().payload_len(100).fragments(8, 48);
        assert_eq!(world.bytes(Outside, &pieces[1]), None, "it is early");
        assert_eq!(world.bytes(Outside, &pieces[0]), EXEMPT);
        assert_eq!(world.bytes(Outside, &pieces[1]), EXEMPT);
        assert_eq!(world.bytes(Outside, &pieces[2]), EXEMPT);
    }
    assert!(world.shard.is_empty(), "they are no flows");
    // Exempt or not, nothing may be written over.
    let pieces = asked.payload_len(100).fragments(9, 48);
    assert_eq!(world.bytes(Inside, &pieces[0]), EXEMPT);
    let again = world.bytes(Inside, &pieces[0]);
    assert_eq!(again, Some(Verdict::Drop(DropReason::Fragment)));
    // Who asks for a host inside is no service, whatever port it asks from.
    let opens = build::v4("203.0.113.5", "10.0.0.1").tcp(500, 22).syn();
    for piece in opens.payload_len(100).fragments(10, 48) {
        let verdict = world.bytes(Outside, &piece);
        assert_eq!(verdict, Some(Verdict::Drop(DropReason::NoRule)));
    }
}

#[test]
fn a_fragmented_reply_passes_where_no_rule_would_let_it() {
    let mut world = World::new(UDP);
    world.passes(Outside, &query(), PassReason::Rule);
    for piece in query().reversed().payload_len(2000).fragments(9, 1480) {
        assert_eq!(world.bytes(Inside, &piece), TRACKED);
    }
}

#[test]
fn a_fragment_from_the_wrong_port_is_spoofed() {
    let mut world = World::new(UDP);
    let pieces = query().payload_len(100).fragments(7, 48);
    assert_eq!(world.bytes(Outside, &pieces[0]), RULE);
    let reply = query().reversed().payload_len(100).fragments(9, 48);
    let spoofed = Some(Verdict::Drop(DropReason::Spoofed));
    assert_eq!(world.bytes(Outside, &reply[0]), spoofed);
    assert_eq!(world.bytes(Outside, &reply[1]), spoofed);
}

#[test]
fn fragments_move_no_tcp_state() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    // A reset in two pieces, exactly where the receiver expects it.
    let reset = request().rst().sequence(1).payload_len(100);
    for piece in reset.fragments(5, 48) {
        assert_eq!(world.bytes(Outside, &piece), TRACKED);
    }
    world.passes(Outside, &request().ack().sequence(1), PassReason::Tracked);
}

#[test]
fn later_fragments_do_not_pass_where_the_first_found_no_room() {
    let mut world = World::with_flows(UDP, 1);
    world.passes(Outside, &query(), PassReason::Rule);
    // Answered, it gives way to nobody.
    world.passes(Inside, &query().reversed(), PassReason::Tracked);
    let other = build::v4("192.0.2.10", "10.0.0.1")
        .udp(4000, 53)
        .payload_len(100);
    let pieces = other.fragments(7, 48);
    let full = Some(Verdict::Drop(DropReason::TableFull));
    assert_eq!(world.bytes(Outside, &pieces[0]), full);
    let fragment = Some(Verdict::Drop(DropReason::Fragment));
    assert_eq!(world.bytes(Outside, &pieces[1]), fragment);
}

#[test]
fn a_flood_of_early_fragments_stops_nothing_else() {
    let mut world = World::new(UDP);
    for id in 0..20_000 {
        let piece = query().payload_len(100).fragment(id, 48, false);
        world.bytes(Outside, &piece.build());
        while world.shard.pop_released().is_some() {}
    }
    world.passes(Outside, &query(), PassReason::Rule);
    let pieces = query().payload_len(100).fragments(50_000, 48);
    assert_eq!(world.bytes(Outside, &pieces[0]), TRACKED);
    assert_eq!(world.bytes(Outside, &pieces[1]), TRACKED);
}

/// Port unreachable, from `router` to whoever sent `quoted`.
fn unreachable(router: &str, receiver: &str, quoted: &FrameBuilder) -> FrameBuilder {
    build::v4(router, receiver).icmp_error(3, 3, quoted)
}

#[test]
fn an_error_about_a_live_flow_passes_to_who_sent_the_quoted_packet() {
    let mut world = World::new(UDP);
    world.passes(Outside, &query(), PassReason::Rule);
    // The server answers, and a router far away cannot deliver it.
    let reply = query().reversed();
    world.passes(Inside, &reply, PassReason::Tracked);
    world.passes(
        Outside,
        &unreachable("203.0.113.1", "10.0.0.1", &reply),
        PassReason::Related,
    );
    // The server has closed the port that the client asked.
    world.passes(
        Inside,
        &unreachable("10.0.0.1", "192.0.2.9", &query()),
        PassReason::Related,
    );
}

#[test]
fn an_error_relates_in_the_right_direction_and_to_live_flows_only() {
    let mut world = World::new(UDP);
    let reply = query().reversed();
    let about_reply = unreachable("203.0.113.1", "10.0.0.1", &reply);
    world.drops(Outside, &about_reply, DropReason::NoRule);
    world.passes(Outside, &query(), PassReason::Rule);
    // It quotes what the client sent, and does not come from where that went.
    let about_query = unreachable("203.0.113.1", "10.0.0.1", &query());
    world.drops(Outside, &about_query, DropReason::NoRule);
    let to_another = unreachable("10.0.0.1", "192.0.2.10", &query());
    world.drops(Inside, &to_another, DropReason::NoRule);
    let unknown = query().tcp(1, 53).syn().reversed();
    world.drops(
        Outside,
        &unreachable("203.0.113.1", "10.0.0.1", &unknown),
        DropReason::NoRule,
    );
    let forged = unreachable("10.0.0.1", "10.0.0.1", &reply);
    world.drops(Outside, &forged, DropReason::Spoofed);
    world.config.icmp_errors = IcmpErrors::Rules;
    world.drops(Outside, &about_reply, DropReason::NoRule);
}

#[test]
fn an_error_neither_refreshes_a_flow_nor_relates_to_a_tombstone() {
    let mut world = World::new(UDP);
    world.passes(Outside, &query(), PassReason::Rule);
    let about_reply = unreachable("203.0.113.1", "10.0.0.1", &query().reversed());
    world.now = world.now + Duration::from_secs(29);
    world.passes(Outside, &about_reply, PassReason::Related);
    world.now = world.now + Duration::from_secs(2);
    world.drops(Outside, &about_reply, DropReason::NoRule);

    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn().sequence(10), PassReason::Rule);
    let accepted = request().reversed().syn().ack().sequence(500);
    world.passes(
        Inside,
        &accepted.clone().acknowledgment(11),
        PassReason::Tracked,
    );
    // Who knows the tuple alone does not spend what honest errors need.
    let forged = unreachable("203.0.113.1", "10.0.0.1", &accepted.clone().sequence(9_000));
    world.drops(Outside, &forged, DropReason::NoRule);
    let about_answer = unreachable("203.0.113.1", "10.0.0.1", &accepted);
    world.passes(Outside, &about_answer, PassReason::Related);
    let refused = request().reversed().rst().sequence(501);
    world.passes(Inside, &refused, PassReason::Tracked);
    world.drops(Outside, &about_answer, DropReason::NoRule);
}

#[test]
fn a_neighbor_inside_sends_no_error_about_what_came_from_inside() {
    let two = format!("{UDP}[interfaces.dns-2]\naddresses = [\"10.0.0.2\"]\ngroups = [\"dns\"]\n");
    let mut world = World::new(&two);
    world.passes(Outside, &query(), PassReason::Rule);
    let reply = query().reversed();
    world.passes(Inside, &reply, PassReason::Tracked);
    // It is to who sent the quoted packet, but that went the other way.
    let neighbor = unreachable("10.0.0.2", "10.0.0.1", &reply);
    world.drops(Inside, &neighbor, DropReason::NoRule);
}

#[test]
fn an_error_about_an_error_or_a_later_fragment_relates_to_nothing() {
    // Everything is open here, so that what is quoted would pass untracked.
    let mut world = World::new(&OPEN.replace("\"tcp\", ports = 80", "\"udp\""));
    let query = build::v4("192.0.2.9", "10.0.0.1").udp(4000, 53);
    world.passes(Outside, &query, PassReason::Untracked);
    let reply = query.reversed();
    let about = |quoted: &FrameBuilder| unreachable("203.0.113.1", "10.0.0.1", quoted);
    world.passes(Outside, &about(&reply), PassReason::Related);
    let error = unreachable("10.0.0.1", "192.0.2.9", &reply);
    world.drops(Outside, &about(&error), DropReason::NoRule);
    let pieces = reply.payload_len(100);
    world.passes(
        Outside,
        &about(&pieces.clone().fragment(7, 0, true)),
        PassReason::Related,
    );
    let later = about(&pieces.fragment(7, 48, false));
    world.drops(Outside, &later, DropReason::NoRule);
}

#[test]
fn an_error_about_an_untracked_flow_needs_no_entry() {
    let mut world = World::new(OPEN);
    let reply = request().reversed().ack();
    let error = unreachable("203.0.113.1", "10.0.0.1", &reply);
    world.passes(Outside, &error, PassReason::Related);
    assert!(world.shard.is_empty());
}

#[test]
fn related_errors_have_a_budget() {
    let mut world = World::new(UDP);
    world.passes(Outside, &query(), PassReason::Rule);
    let error = unreachable("203.0.113.1", "10.0.0.1", &query().reversed());
    for _ in 0..RELATED_PER_SECOND {
        world.passes(Outside, &error, PassReason::Related);
    }
    world.drops(Outside, &error, DropReason::NoRule);
    world.now = world.now + Duration::from_secs(1);
    world.passes(Outside, &error, PassReason::Related);
}

#[test]
fn revalidated_flows_end_with_their_rule_and_keep_with_another() {
    let mut world = World::new(WEB);
    world.config.on_rule_removed = OnRuleRemoved::Revalidate;
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    // Another rule allows the same.
    world.apply(&WEB.replace("ports = 80", "ports = \"70-90\""));
    world.passes(Inside, &accepted(&request()).ack(), PassReason::Tracked);
    // Judged as it was opened, whoever sends: the reply's own direction allows nothing.
    world.apply(&WEB.replace("ports = 80", "ports = 443"));
    world.drops(Inside, &request().reversed().ack(), DropReason::NoRule);
    world.drops(Outside, &request().ack(), DropReason::NoRule);
}

#[test]
fn a_revalidated_ping_is_judged_by_its_type_and_code() {
    let mut world = World::new(WEB);
    world.config.on_rule_removed = OnRuleRemoved::Revalidate;
    let ping = build::v4("192.0.2.9", "10.0.0.1").echo_request(7, 1);
    let pong = build::v4("10.0.0.1", "192.0.2.9").echo_reply(7, 1);
    world.passes(Outside, &ping, PassReason::Rule);
    world.apply(&WEB.replace("type = 8, code = 0", "type = 8"));
    world.passes(Inside, &pong, PassReason::Tracked);
    world.apply(&WEB.replace("type = 8, code = 0", "type = 8, code = 1"));
    world.drops(Inside, &pong, DropReason::NoRule);
}

#[test]
fn one_request_and_one_response_in_pieces_are_no_stream() {
    let mut world = World::new(UDP);
    let datagram = query().payload_len(100);
    for piece in datagram.fragments(7, 48) {
        world.bytes(Outside, &piece);
    }
    for piece in datagram.reversed().fragments(8, 48) {
        assert_eq!(world.bytes(Inside, &piece), TRACKED);
    }
    let mut state = None;
    let now = world.now;
    let slots = world.shard.capacity();
    world
        .shard
        .scan(0, slots, now, &mut |flow| state = Some(flow.state.name()));
    assert_eq!(state, Some("udp"));
}

#[test]
fn strict_window_holds_for_a_segment_in_pieces() {
    let mut world = World::new(WEB);
    let shard = ShardConfig {
        tcp_strict: true,
        ..ShardConfig::new(16, [1, 2])
    };
    world.shard = Shard::new(&shard, Tick(0));
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    let ack = request().ack().sequence(1).acknowledgment(501);
    world.passes(Outside, &ack, PassReason::Tracked);
    let stray = ack.sequence(2_000_000_000).payload_len(64);
    world.drops(Outside, &stray, DropReason::Invalid);
    for piece in stray.fragments(7, 48) {
        let verdict = world.bytes(Outside, &piece);
        assert_eq!(verdict, Some(Verdict::Drop(DropReason::Invalid)));
    }
}

#[test]
fn syn_ack_that_answers_no_syn_does_not_pass_in_pieces_either() {
    let mut world = World::new(WEB);
    world.passes(Outside, &request().syn(), PassReason::Rule);
    world.passes(Inside, &accepted(&request()), PassReason::Tracked);
    let ack = request().ack().sequence(1).acknowledgment(501);
    world.passes(Outside, &ack, PassReason::Tracked);
    // The host has lost the connection and accepts another one, that no rule was asked about.
    world.passes(Outside, &request().syn().sequence(77), PassReason::Tracked);
    let other = request().reversed().syn().ack().payload_len(64);
    let other = other.sequence(9).acknowledgment(78);
    let pieces = other.fragments(7, 48);
    let verdict = world.bytes(Inside, &pieces[0]);
    assert_eq!(verdict, Some(Verdict::Drop(DropReason::Invalid)));
}
