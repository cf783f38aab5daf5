//! Each filter against flows that differ in all that can be asked for.

use std::collections::BTreeSet;

use super::*;
use crate::clock::Tick;
use crate::compile::Compiler;
use crate::conntrack::{FlowClass, NewFlow, Shard, ShardConfig};
use crate::packet::build::{self, FrameBuilder};
use crate::packet::{FlowKey, Parsed, parse};
use crate::types::{Direction, Generation, LinkId, RuleSlot};

const POLICY: &str = r#"
[security_groups.web]
ingress = [{ protocol = "all", from = ["192.0.2.0/24"] }]
egress = []
[security_groups.db]
ingress = []
egress = [{ protocol = "all", to = ["::/0"] }]
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
[interfaces.db-1]
addresses = ["2001:db8::1"]
groups = ["db"]
"#;

/// When the flows are looked at, seconds.
const NOW: u64 = 1000;

/// A policy with its flows, each with a letter: `a` UDP and `b` a ping into `web-1`, `c` a SYN
/// without an answer and `d` a UDP flow of no rule out of `db-1`.
struct World {
    snapshot: Snapshot,
    flows: Vec<(char, FlowView)>,
}

impl World {
    fn new() -> Self {
        let snapshot = Compiler::new().compile_text(POLICY, Generation(1));
        let v4 = || build::v4("192.0.2.7", "10.0.0.1");
        let v6 = || build::v6("2001:db8::1", "2001:db8:9::9");
        let rule = |group: &str| {
            let mut rules = snapshot.rules();
            let found = rules.find(|rule| *rule.group.name == *group);
            Some(found.unwrap().slot)
        };
        let (web, db) = (rule("web"), rule("db"));
        let (ingress, egress) = (Direction::Ingress, Direction::Egress);
        let mut world = Self {
            snapshot,
            flows: Vec::new(),
        };
        world.add('a', &v4().udp(5000, 53), ingress, web, 10);
        world.add('b', &v4().echo_request(53, 1), ingress, web, 20);
        world.add('c', &v6().tcp(443, 5000).syn(), egress, db, 29);
        world.add('d', &v6().udp(53, 5001), egress, None, 0);
        world
    }

    /// A flow in a table of its own, opened `age` seconds ago.
    fn add(
        &mut self,
        letter: char,
        frame: &FrameBuilder,
        direction: Direction,
        rule: Option<RuleSlot>,
        age: u64,
    ) {
        let bytes = frame.build();
        let Parsed::Ip(packet) = parse(&bytes, bytes.len()) else {
            panic!("not IP");
        };
        let (key, opener) = FlowKey::of(LinkId(0), &packet).unwrap();
        let name = match direction {
            Direction::Ingress => "web-1",
            Direction::Egress => "db-1",
        };
        let config = ShardConfig::new(4, [1, 2]);
        let opened = Tick::from_seconds(NOW - age);
        let mut shard = Shard::new(&config, opened);
        let new = NewFlow {
            interface: find_interface(&self.snapshot, name).unwrap(),
            rule,
            generation: Generation(1),
            class: FlowClass::Tracked,
            direction,
            opener,
        };
        let hash = shard.hash(&key);
        shard.open(&key, hash, &new, &packet, 60, opened).unwrap();
        let flows = &mut self.flows;
        let now = Tick::from_seconds(NOW);
        shard.scan(0, 4, now, &mut |flow| flows.push((letter, flow)));
    }

    fn matching(&self, filter: &FlowFilter) -> String {
        let matcher = FlowMatcher::new(filter, &self.snapshot).unwrap();
        let meant = self.flows.iter().filter(|(_, flow)| matcher.matches(flow));
        meant.map(|(letter, _)| letter).collect()
    }

    /// The same, of a filter as JSON has it.
    fn asked(&self, json: &str) -> String {
        self.matching(&serde_json::from_str(json).unwrap())
    }
}

#[test]
fn each_filter_alone_picks_its_flows() {
    let world = World::new();
    for (json, meant) in [
        ("{}", "abcd"),
        (r#"{"interface":"web-1"}"#, "ab"),
        (r#"{"interface":"db-1"}"#, "cd"),
        (r#"{"group":"web"}"#, "ab"),
        (r#"{"group":"db"}"#, "c"),
        (r#"{"address":"10.0.0.1"}"#, "ab"),
        (r#"{"address":"2001:db8:9::9"}"#, "cd"),
        (r#"{"peer":"192.0.2.0/24"}"#, "ab"),
        (r#"{"peer":"192.0.2.7"}"#, "ab"),
        (r#"{"peer":"10.0.0.1"}"#, ""),
        (r#"{"peer":"2001:db8::/32"}"#, "cd"),
        (r#"{"peer":"2001:db8::1"}"#, ""),
        (r#"{"peer":"0.0.0.0/0"}"#, "ab"),
        (r#"{"port":53}"#, "ad"),
        (r#"{"port":5000}"#, "ac"),
        (r#"{"protocol":17}"#, "ad"),
        (r#"{"protocol":1}"#, "b"),
        (r#"{"state":"syn-sent"}"#, "c"),
        (r#"{"state":"udp"}"#, "ad"),
        (r#"{"state":"time-wait"}"#, ""),
        (r#"{"older_than_ms":15000}"#, "bc"),
        (r#"{"younger_than_ms":15000}"#, "ad"),
        (r#"{"older_than_ms":0}"#, "abcd"),
        (r#"{"younger_than_ms":0}"#, ""),
    ] {
        assert_eq!(world.asked(json), meant, "{json}");
    }
}

#[test]
fn filters_together_all_have_to_hold() {
    let world = World::new();
    let both = r#"{"interface":"db-1","port":53,"younger_than_ms":5000}"#;
    assert_eq!(world.asked(both), "d");
    assert_eq!(world.asked(r#"{"interface":"web-1","group":"db"}"#), "");
}

#[test]
fn names_that_nobody_has_are_refused() {
    let world = World::new();
    for (json, word) in [
        (r#"{"interface":"web-2"}"#, "`web-2`"),
        (r#"{"group":"wbe"}"#, "`wbe`"),
        (r#"{"state":"half-open"}"#, "syn-sent, syn-received"),
    ] {
        let filter: FlowFilter = serde_json::from_str(json).unwrap();
        let error = FlowMatcher::new(&filter, &world.snapshot).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    for json in [
        r#"{"peer":"10.0.0.0/33"}"#,
        r#"{"peer":"web"}"#,
        r#"{"prot":53}"#,
    ] {
        assert!(serde_json::from_str::<FlowFilter>(json).is_err(), "{json}");
    }
}

#[test]
fn a_filter_reads_as_it_is_written() {
    let filter = FlowFilter {
        peer: Some("10.0.0.0/8".parse().unwrap()),
        state: Some("established".to_owned()),
        older_than_ms: Some(1),
        ..FlowFilter::default()
    };
    let text = serde_json::to_string(&filter).unwrap();
    assert_eq!(serde_json::from_str::<FlowFilter>(&text).unwrap(), filter);
    assert!(!filter.is_empty());
    assert!(serde_json::from_str::<FlowFilter>("{}").unwrap().is_empty());
}

#[test]
fn every_state_can_be_asked_for() {
    let names: BTreeSet<&str> = FlowState::ALL.map(FlowState::name).into();
    assert_eq!(names.len(), FlowState::COUNT);
    for (number, state) in FlowState::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, number);
        assert_eq!(find_state(state.name()), Ok(state));
    }
}
