//! Addresses and interfaces that leave, and come back.

use super::*;
use crate::conntrack::FlowHead;
use crate::packet::FlowKey;
use crate::snapshot::FlowSeat;

/// Two interfaces; `web-1` is the one that leaves.
const PAIR: &str = r#"
[security_groups.web]
description = "web servers"
ingress = [{ protocol = "tcp", ports = 80, from = ["192.0.2.0/24"] }]
egress = []
[security_groups.lax]
description = "tried out"
ingress = []
egress = []
enforce = false
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
[interfaces.web-2]
addresses = ["10.0.0.2"]
groups = ["web"]
[interfaces.lax-1]
addresses = ["10.0.0.3"]
groups = ["lax"]
"#;

impl World {
    /// A world that is at a generation.
    fn at(policy: &str, generation: u64) -> Self {
        let mut world = Self::new(policy);
        world.compiler = Compiler::new();
        world.snapshot = world.compiler.compile_text(policy, Generation(generation));
        world
    }

    /// Opens a connection to each interface's address.
    fn open_all(&mut self) {
        for (target, reason) in [
            ("10.0.0.1", PassReason::Rule),
            ("10.0.0.2", PassReason::Rule),
            ("10.0.0.3", PassReason::Unenforced),
        ] {
            self.passes(Outside, &to(target).syn(), reason);
        }
    }

    fn weed(&mut self) {
        let snapshot = &self.snapshot;
        let mut stands = |key: &FlowKey, head: &FlowHead| {
            let seat = FlowSeat {
                key,
                inside: head.inside_end(),
                interface: head.interface,
                judged_low: head.generation_low,
            };
            snapshot.seat(&seat).is_some()
        };
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = self.shard.weed(from, 1, self.now, &mut stands);
        }
    }
}

fn to(target: &str) -> FrameBuilder {
    build::v4("192.0.2.9", target).tcp(40_000, 80)
}

/// Policies that take 10.0.0.1 from `web-1`, each in another way.
fn without() -> Vec<String> {
    vec![
        PAIR.replace("\"10.0.0.1\"", "\"10.0.0.7\""),
        PAIR.replace("interfaces.web-1", "interfaces.web-9"),
        PAIR.replace("[\"10.0.0.1\"]", "[\"10.0.0.1\"]\nvlan = 20"),
        PAIR.replace("[\"10.0.0.1\"]", "[\"10.0.0.1\"]\nlink = \"none\""),
        PAIR.replace("[\"10.0.0.1\"]", "[\"10.0.0.0/24\"]")
            .replace("\"10.0.0.2\"", "\"10.0.0.2\", \"10.0.0.1\""),
    ]
}

#[test]
fn a_connection_ends_though_its_address_is_back_before_its_next_packet() {
    for away in without() {
        // Entries hold 24 bits of a generation, and heads 32.
        for first in [1, (1 << 24) - 2, (1 << 32) - 2, (1 << 32) + (1 << 24) - 1] {
            let mut world = World::at(PAIR, first);
            world.open_all();
            world.apply(&away);
            world.apply(PAIR);
            let reply = accepted(&to("10.0.0.1"));
            world.drops(Inside, &reply, DropReason::NoRule);
            world.passes(Inside, &accepted(&to("10.0.0.2")), PassReason::Tracked);
            // It begins anew, as any other.
            world.passes(Outside, &to("10.0.0.1").syn(), PassReason::Rule);
            world.passes(Inside, &reply, PassReason::Tracked);
        }
    }
}

#[test]
fn what_has_no_more_packets_is_found_slot_by_slot() {
    for away in without() {
        let mut world = World::at(PAIR, 1);
        world.open_all();
        world.apply(&away);
        world.weed();
        assert_eq!(world.shard.len(), 2, "one has left");
        world.apply(PAIR);
        world.weed();
        assert_eq!(world.shard.len(), 2, "the others have not");
        assert_eq!(world.shard.stats().ended, 1);
        world.passes(Inside, &accepted(&to("10.0.0.2")), PassReason::Tracked);
    }
}

#[test]
fn changes_of_rules_groups_and_other_addresses_end_nothing() {
    let mut world = World::at(PAIR, 1);
    world.open_all();
    for same in [
        PAIR.replace("ports = 80", "ports = 443"),
        PAIR.replace("groups = [\"web\"]", "groups = [\"lax\"]"),
        PAIR.replace("[\"10.0.0.1\"]", "[\"10.0.0.1\", \"10.0.0.8\"]"),
        PAIR.replace("[\"10.0.0.1\"]", "[\"10.0.0.0/30\"]"),
        format!("{PAIR}[interfaces.new]\naddresses = [\"10.0.0.9\"]\ngroups = [\"web\"]\n"),
        format!("{PAIR}[interfaces.new]\naddresses = [\"192.0.2.9\"]\nvlan = 20\n"),
        PAIR.to_owned(),
    ] {
        world.apply(&same);
        world.weed();
        assert_eq!(world.shard.len(), 3);
    }
    world.passes(Inside, &accepted(&to("10.0.0.1")), PassReason::Tracked);
}

#[test]
fn a_far_end_that_was_registered_meanwhile_ends_the_connection() {
    let registered =
        format!("{PAIR}[interfaces.new]\naddresses = [\"192.0.2.9\"]\ngroups = [\"web\"]\n");
    let mut world = World::at(PAIR, 1);
    world.open_all();
    world.apply(&registered);
    world.apply(PAIR);
    world.drops(Inside, &accepted(&to("10.0.0.1")), DropReason::NoRule);
    world.weed();
    assert!(world.shard.is_empty());
}

#[test]
fn a_connection_that_was_judged_since_has_lost_nothing() {
    let mut world = World::at(PAIR, 1);
    world.apply(&without()[0]);
    world.apply(PAIR);
    world.open_all();
    world.apply(&PAIR.replace("ports = 80", "ports = 443"));
    world.weed();
    world.passes(Inside, &accepted(&to("10.0.0.1")), PassReason::Tracked);
    // Each packet vouches for what was before it.
    world.apply(&PAIR.replace("10.0.0.2", "10.0.0.7"));
    world.passes(
        Outside,
        &to("10.0.0.1").ack().sequence(1),
        PassReason::Tracked,
    );
    world.drops(Outside, &to("10.0.0.2").ack(), DropReason::Unregistered);
}

#[test]
fn an_error_about_a_connection_that_lost_its_address_is_not_related() {
    let mut world = World::at(PAIR, 1);
    world.open_all();
    for target in ["10.0.0.1", "10.0.0.2"] {
        world.passes(Inside, &accepted(&to(target)), PassReason::Tracked);
    }
    world.apply(&without()[0]);
    world.apply(PAIR);
    for (target, expected) in [
        ("10.0.0.1", Verdict::Drop(DropReason::NoRule)),
        ("10.0.0.2", Verdict::Pass(PassReason::Related)),
    ] {
        let quoted = accepted(&to(target));
        let error = build::v4("203.0.113.1", target).icmp_error(3, 3, &quoted);
        assert_eq!(world.send(Outside, &error).verdict, expected);
    }
}

#[test]
fn a_group_address_inside_of_a_prefix_is_nobodys_all_along() {
    let policy = PAIR.replace(
        "egress = []",
        "egress = [{ protocol = \"udp\", to = [\"224.0.0.0/4\"] }]",
    );
    let mut world = World::at(&policy, 1);
    let announce = build::v4("10.0.0.1", "239.1.2.3").udp(5000, 5000);
    world.passes(Inside, &announce, PassReason::Rule);
    let wide =
        format!("{policy}[interfaces.new]\naddresses = [\"224.0.0.0/3\"]\ngroups = [\"web\"]\n");
    world.apply(&wide);
    world.passes(Inside, &announce, PassReason::Tracked);
    world.apply(&policy);
    world.weed();
    world.passes(Inside, &announce, PassReason::Tracked);
}
