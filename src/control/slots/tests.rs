//! Rules and interfaces come and go by far more than there are slots, while flows outlive them,
//! workers are late, and people list flows by snapshots of their own.

use std::collections::HashMap;
use std::fmt::Write;

use super::*;
use crate::conntrack::{FlowClass, FlowView, NewFlow, Shard, ShardConfig};
use crate::packet::{Addresses, FlowKey, Fragment, IpPacket, Transport, VlanTags};
use crate::policy::{self, Policy};
use crate::snapshot::{Decision, Question, RuleInfo, Snapshot};
use crate::sync::Arc;
use crate::types::{Direction, LinkId};

const WORKERS: u16 = 2;
const RULES: u32 = 120;
const INTERFACES: u32 = 60;
const STEPS: u32 = 20_000;

/// Who a flow was admitted by: ids of a rule and an interface, of which none comes twice.
type Admitted = (String, String);

struct World {
    random: u64,
    now: Tick,
    compiler: Compiler,
    slots: SlotReturns,
    /// Numbers of the rules and the interfaces of the policy; each is used once.
    rules: Vec<u32>,
    interfaces: Vec<u32>,
    next: u32,
    snapshots: Vec<Arc<Snapshot>>,
    workers: Vec<Worker>,
    admitted: HashMap<FlowKey, Admitted>,
    /// Somebody who lists flows by it.
    listing: Option<Arc<Snapshot>>,
    returned: usize,
    named: [usize; 2],
}

struct Worker {
    shard: Shard,
    snapshot: Arc<Snapshot>,
    census: Option<(Box<Census>, crossbeam::channel::Sender<Box<Census>>)>,
}

fn policy(rules: &[u32], interfaces: &[u32]) -> Policy {
    let mut text =
        "[security_groups.web]\ndescription = \"\"\negress = []\ningress = [\n".to_owned();
    for port in rules {
        writeln!(
            text,
            "{{ protocol = \"udp\", ports = {port}, from = [\"0.0.0.0/0\"] }},"
        )
        .unwrap();
    }
    text.push_str("]\n");
    for number in interfaces {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        let name = format!("[interfaces.i{number}]");
        writeln!(
            text,
            "{name}\naddresses = [\"{address}\"]\ngroups = [\"web\"]"
        )
        .unwrap();
    }
    policy::of_text(&text)
}

fn shard(seed: u64) -> Shard {
    let config = ShardConfig::new(512, [seed, 1]);
    Shard::new(&config, Tick::from_seconds(1))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut compiler = Compiler::with_slots(RULES, INTERFACES);
        let (rules, interfaces) = ((1..8).collect::<Vec<_>>(), (1..6).collect::<Vec<_>>());
        let first = compiler.compile(&policy(&rules, &interfaces), &["a"], Generation(1));
        let first = Arc::new(first.unwrap());
        let worker = |number| Worker {
            shard: shard(number),
            snapshot: Arc::clone(&first),
            census: None,
        };
        Self {
            random: seed,
            now: Tick::from_seconds(1),
            compiler,
            slots: SlotReturns::new(20),
            rules,
            interfaces,
            next: 100,
            workers: (0..u64::from(WORKERS)).map(worker).collect(),
            snapshots: vec![first],
            admitted: HashMap::new(),
            listing: None,
            returned: 0,
            named: [0; 2],
        }
    }

    fn below(&mut self, count: u64) -> usize {
        self.random = self
            .random
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(99);
        usize::try_from((self.random >> 33) % count).unwrap()
    }

    /// One rule or interface is another; `false` where there is no slot for it yet.
    fn change(&mut self) -> bool {
        let is_rule = self.below(3) > 0;
        let (mut rules, mut interfaces) = (self.rules.clone(), self.interfaces.clone());
        let changed = if is_rule { &mut rules } else { &mut interfaces };
        let at = self.below(changed.len() as u64);
        changed[at] = self.next;
        let current = self.snapshots.last().unwrap().generation();
        let policy = policy(&rules, &interfaces);
        let Ok(next) = self.compiler.compile(&policy, &["a"], current.next()) else {
            return false;
        };
        self.next += 1;
        (self.rules, self.interfaces) = (rules, interfaces);
        self.snapshots.push(Arc::new(next));
        true
    }

    fn return_slots(&mut self) {
        let is_held = |snapshot: &Arc<Snapshot>| Arc::strong_count(snapshot) > 1;
        let current = self.snapshots.pop().unwrap();
        self.snapshots.retain(is_held);
        self.snapshots.push(current);
        let generation = |snapshot: Option<&Arc<Snapshot>>| snapshot.unwrap().generation();
        let in_use = InUse {
            current: generation(self.snapshots.last()),
            oldest: generation(self.snapshots.first()),
        };
        let workers = &mut self.workers;
        let mut ask = |worker: WorkerId, command| match command {
            WorkerCommand::Census(census, reply) => {
                workers[worker.index()].census = Some((census, reply));
                Ok(())
            }
            other => Err(other),
        };
        let returned = &mut self.returned;
        self.slots.step(
            &mut self.compiler,
            WORKERS,
            in_use,
            self.now,
            &mut ask,
            &mut |slots| *returned += slots.rules.len() + slots.interfaces.len(),
        );
    }

    /// A worker admits a datagram by the snapshot that it uses.
    fn open(&mut self, at: usize) {
        let (source, ports) = (self.below(1 << 20), self.below(1 << 30));
        let worker = &mut self.workers[at];
        let snapshot = &worker.snapshot;
        let interfaces: Vec<_> = snapshot.interfaces().collect();
        let (interface, info) = interfaces[ports % interfaces.len()];
        // Beside those of the default group.
        let port = |rule: &RuleInfo| rule.service.strip_prefix("udp ")?.parse::<u16>().ok();
        let rules = snapshot
            .rules()
            .filter_map(|rule| Some((rule, port(rule)?)));
        let rules: Vec<_> = rules.collect();
        let (rule, port) = rules[(ports >> 8) % rules.len()];
        let packet = IpPacket {
            vlan: VlanTags::default(),
            addresses: Addresses::V4 {
                source: u32::try_from(0xcb00_7100 + source).unwrap(),
                destination: info.name[1..].parse::<u32>().unwrap() + 0x0a00_0000,
            },
            protocol: 17,
            hop_limit: 64,
            fragment: Fragment::Whole,
            transport: Transport::Udp {
                source_port: 9,
                destination_port: port,
            },
        };
        let question = Question {
            remote: packet.addresses.source(),
            protocol: 17,
            service: port,
        };
        let decision = snapshot.decide(interface, Direction::Ingress, &question);
        let Decision::Allow { rule: slot, .. } = decision else {
            panic!("{decision:?}");
        };
        let (key, opener) = FlowKey::of(LinkId(0), &packet).unwrap();
        let flow = NewFlow {
            interface: interface.slot(),
            rule: Some(slot),
            generation: snapshot.generation(),
            class: FlowClass::Tracked,
            direction: Direction::Ingress,
            opener,
        };
        let hash = worker.shard.hash(&key);
        if worker
            .shard
            .open(&key, hash, &flow, &packet, 60, self.now)
            .is_ok()
        {
            let admitted = (rule.id.to_string(), info.id.to_string());
            self.admitted.insert(key, admitted);
        }
    }

    fn step(&mut self) {
        let at = self.below(WORKERS.into());
        match self.below(16) {
            0..=1 => {
                self.change();
                self.return_slots();
            }
            2 => self.workers[at].snapshot = Arc::clone(self.snapshots.last().unwrap()),
            3..=6 => (0..3).for_each(|_| self.open(at)),
            7 => self.now = self.now.after(Duration::from_secs(2)),
            8 => drop(self.workers[at].shard.expire(self.now)),
            9 if self.listing.is_none() => self.listing = self.snapshots.last().cloned(),
            9 | 10 if self.below(30) == 0 => self.listing = None,
            11..=12 => self.count(at),
            13 => {
                let worker = &mut self.workers[at];
                let mut some = None;
                worker
                    .shard
                    .scan(0, u32::MAX, self.now, &mut |flow| some = Some(flow.index));
                some.inspect(|index| worker.shard.end(*index));
            }
            _ => {}
        }
    }

    /// A worker goes on with its census.
    fn count(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some((mut census, reply)) = worker.census.take() else {
            return;
        };
        census.go_on(&worker.shard, worker.snapshot.generation(), self.now);
        match census.found() {
            Some(_) => reply.send(census).unwrap(),
            None => worker.census = Some((census, reply)),
        }
    }

    /// No snapshot that somebody has names a flow otherwise than it was admitted.
    fn check(&mut self) {
        for worker in &self.workers {
            let mut flows: Vec<FlowView> = Vec::new();
            worker
                .shard
                .scan(0, u32::MAX, self.now, &mut |flow| flows.push(flow));
            let current = self.snapshots.last();
            let known = [Some(&worker.snapshot), current, self.listing.as_ref()];
            for (flow, snapshot) in known
                .into_iter()
                .flatten()
                .flat_map(|known| flows.iter().map(move |flow| (flow, known)))
            {
                let (rule, interface) = &self.admitted[&flow.key];
                let named = flow.head.rule.and_then(|slot| snapshot.rule(slot));
                assert!(named.is_none_or(|named| named.id.as_str() == rule));
                let owner = snapshot.interface_by_slot(flow.head.interface);
                let owner = owner.and_then(|owner| snapshot.interface(owner));
                assert!(owner.is_none_or(|named| named.id.as_str() == interface));
                self.named[usize::from(named.is_none())] += 1;
            }
        }
    }
}

#[test]
fn flows_never_name_a_rule_or_interface_that_did_not_admit_them() {
    let mut world = World::new(1);
    for step in 0..STEPS {
        world.step();
        if step % 16 == 0 {
            world.check();
        }
    }
    let comings = world.next - 100;
    assert!(comings > 15 * RULES, "{comings} came");
    assert!(
        world.returned > 8 * RULES as usize,
        "{} returned",
        world.returned
    );
    assert!(
        world.named[0] > 1000 && world.named[1] > 1000,
        "{:?}",
        world.named
    );
}

#[test]
fn a_slot_waits_until_what_its_interface_opened_no_longer_counts() {
    let mut world = World::new(2);
    while world.slots.asked.is_none() {
        assert!(world.change());
        world.return_slots();
    }
    for at in 0..usize::from(WORKERS) {
        world.workers[at].snapshot = Arc::clone(world.snapshots.last().unwrap());
        world.count(at);
    }
    let found = world.now;
    for (after, is_returned) in [
        (Duration::ZERO, false),
        (SHARE_MEMORY - Duration::from_millis(1), false),
        (SHARE_MEMORY, true),
    ] {
        world.now = found.after(after);
        world.return_slots();
        assert_eq!(world.returned > 0, is_returned, "{after:?} later");
    }
}
