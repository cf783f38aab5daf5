//! `Policy` → `Snapshot`: numbers everything, splits addresses and services into classes, and lays
//! out the tables that `crate::snapshot` describes. Runs on the control side; sees no packet.

mod error;
mod history;
#[cfg(test)]
pub(crate) mod oracle;
mod ownership;
mod peers;
mod programs;
mod registry;
mod rows;
pub mod sample;
mod sweep;

use hashbrown::HashMap;

pub use error::{CompileError, RULES_MAX, TABLE_BYTES_MAX};

use self::history::History;
use self::peers::{Members, Peers, WideKeys};
use self::programs::NumberedRule;
use self::registry::{Assigned, Registry};
use crate::policy::{GroupIndex, IcmpMatch, Interface, Peer, Policy, PortRange, Rule, Service};
use crate::snapshot::changes::Changes;
use crate::snapshot::classes::CLASS_KEYS_MAX;
use crate::snapshot::key_map::KeyMap;
use crate::snapshot::owners::INTERFACES_MAX;
use crate::snapshot::program::Program;
use crate::snapshot::{
    GroupInfo, InterfaceEntry, InterfaceInfo, RuleInfo, Snapshot, SnapshotStats,
};
use crate::sync::Arc;
use crate::types::{
    Direction, FlowLimits, Generation, InterfaceId, InterfaceSlot, LinkId, RuleId, RuleSlot,
};

/// Compiles policies and keeps the numbers of their rules and interfaces stable from one to the
/// next.
#[derive(Clone, Debug)]
pub struct Compiler {
    rules: Registry<RuleId>,
    interfaces: Registry<InterfaceId>,
    /// The last policy, and since when its addresses are whose they are.
    history: Option<History>,
    /// Changes of owners up to here concern no connection any more.
    swept: Generation,
    class_keys_max: usize,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// A compiler that has seen no policy.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rules: Registry::new(),
            interfaces: Registry::new(),
            history: None,
            swept: Generation::default(),
            class_keys_max: CLASS_KEYS_MAX,
        }
    }

    /// Forgets which addresses changed hands in generations up to this one: every worker has ended
    /// the connections that lost their address by then.
    pub fn forget_changes(&mut self, swept: Generation) {
        self.swept = self.swept.max(swept);
    }

    /// Compiles a policy for a gateway with these links, in the order of their ids.
    ///
    /// A rule or interface that the policy compiled before had too keeps its slot; one that comes,
    /// or comes back, has a slot that nothing had before. So it is with the addresses of an
    /// interface: one that comes back is its own since now.
    ///
    /// # Errors
    /// If the policy does not fit the gateway's links, contradicts itself, or passes a limit. The
    /// compiler is then as it was.
    pub fn compile(
        &mut self,
        policy: &Policy,
        link_names: &[&str],
        generation: Generation,
    ) -> Result<Snapshot, CompileError> {
        check_limits(policy, link_names)?;
        let links = policy
            .interfaces
            .iter()
            .map(|interface| ownership::link_of(interface, link_names))
            .collect::<Result<Vec<_>, _>>()?;
        // A policy that names no link has one all the same.
        let owners = ownership::owners(policy, &links, link_names.len().max(1))?;

        let mut rule_numbers = self.rules.begin(policy.count().rules);
        let mut rule_slot = |rule: &Rule| match self.rules.assign(&mut rule_numbers, &rule.id)? {
            Assigned::Fresh(number) => Ok(RuleSlot(number)),
            Assigned::Twice => Err(CompileError::DuplicateRule(rule.id.clone())),
        };
        let mut builder = Builder::new(policy, &mut rule_slot)?;
        let classes = builder.peers.classes(self.class_keys_max)?;
        let programs = builder.programs(&classes.wide)?;

        let mut interface_numbers = self.interfaces.begin(policy.interfaces.len());
        let mut interfaces = Vec::with_capacity(policy.interfaces.len());
        for (interface, link) in policy.interfaces.iter().zip(links) {
            let assigned = self
                .interfaces
                .assign(&mut interface_numbers, &interface.id)?;
            let Assigned::Fresh(number) = assigned else {
                return Err(CompileError::DuplicateInterface(interface.id.clone()));
            };
            let groups = Arc::clone(&programs.of(interface).groups);
            interfaces.push(interface_info(
                interface,
                InterfaceSlot(number),
                groups,
                link,
            ));
        }
        let slots: Arc<[InterfaceSlot]> = interfaces.iter().map(|info| info.slot).collect();
        let changes = match &self.history {
            Some(history) => history.next(&owners, &slots, generation, self.swept)?,
            None => Changes::default(),
        };
        let history = History {
            owners: owners.clone(),
            slots,
            changes: Arc::new(changes),
        };
        let entries = policy.interfaces.iter().zip(&interfaces);
        let entries = entries.map(|(interface, info)| programs.of(interface).entry(info.slot));
        let snapshot = Snapshot {
            generation,
            owners,
            changes: Arc::clone(&history.changes),
            classes: classes.table,
            interface_slots: slot_map(&interfaces)?,
            entries: entries.collect(),
            interfaces: interfaces.into(),
            rules: builder.rule_infos(),
            limits: own_limits(policy, &history.slots),
            stats: SnapshotStats::default(),
        };
        let snapshot = with_stats(snapshot, policy, &programs)?;
        self.rules.commit(rule_numbers);
        self.interfaces.commit(interface_numbers);
        self.history = Some(history);
        Ok(snapshot)
    }
}

/// A policy's groups with everything numbered.
struct Builder<'p> {
    policy: &'p Policy,
    groups: Vec<Arc<GroupInfo>>,
    /// Rules of each group by direction, those of groups without an interface left out.
    rules: Vec<[Vec<NumberedRule>; 2]>,
    infos: Vec<Arc<RuleInfo>>,
    peers: Peers,
}

impl<'p> Builder<'p> {
    fn new(
        policy: &'p Policy,
        rule_slot: &mut dyn FnMut(&Rule) -> Result<RuleSlot, CompileError>,
    ) -> Result<Self, CompileError> {
        let members = Members::of(policy);
        let mut builder = Self {
            policy,
            groups: Vec::with_capacity(policy.groups.len()),
            rules: Vec::with_capacity(policy.groups.len()),
            infos: Vec::with_capacity(policy.count().rules),
            peers: Peers::default(),
        };
        for (index, group) in (0..).map(GroupIndex).zip(&policy.groups) {
            let info = Arc::new(GroupInfo {
                name: group.name.clone(),
                id: group.id.clone(),
                enforce: group.enforce,
            });
            let mut numbered = [Vec::new(), Vec::new()];
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in group.rules(direction) {
                    let slot = rule_slot(rule)?;
                    builder.infos.push(Arc::new(RuleInfo {
                        slot,
                        id: rule.id.clone(),
                        group: Arc::clone(&info),
                        direction,
                        service: service_text(rule.service),
                        peer: peer_text(policy, rule.peer),
                    }));
                    if members.any(index) {
                        numbered[direction as usize].push(NumberedRule {
                            service: rule.service,
                            peer: builder.peers.id(rule.peer, policy, &members),
                            slot,
                        });
                    }
                }
            }
            builder.groups.push(info);
            builder.rules.push(numbered);
        }
        Ok(builder)
    }

    /// The programs of every set of groups that an interface has.
    fn programs(&self, wide: &WideKeys) -> Result<Programs, CompileError> {
        let mut programs = Programs::default();
        for interface in &self.policy.interfaces {
            let set = group_set(interface);
            if programs.by_set.contains_key(&set) {
                continue;
            }
            let mut build = |direction: Direction| {
                let of_group = |group: &GroupIndex| &self.rules[group.0 as usize];
                let rules: Vec<_> = set
                    .iter()
                    .flat_map(|group| of_group(group)[direction as usize].iter().copied())
                    .collect();
                let bytes_max = TABLE_BYTES_MAX.saturating_sub(programs.bytes);
                let program = programs::build(&rules, &self.peers, wide, bytes_max)?;
                programs.bytes += program.bytes();
                Ok::<_, CompileError>(Arc::new(program))
            };
            let pair = ProgramPair {
                ingress: build(Direction::Ingress)?,
                egress: build(Direction::Egress)?,
                groups: set
                    .iter()
                    .map(|group| Arc::clone(&self.groups[group.0 as usize]))
                    .collect(),
            };
            programs.by_set.insert(set, pair);
        }
        Ok(programs)
    }

    /// In the order of slots.
    fn rule_infos(mut self) -> Box<[Arc<RuleInfo>]> {
        self.infos.sort_unstable_by_key(|rule| rule.slot);
        self.infos.into()
    }
}

/// Programs by set of groups.
#[derive(Default)]
struct Programs {
    by_set: HashMap<Box<[GroupIndex]>, ProgramPair>,
    bytes: usize,
}

impl Programs {
    fn of(&self, interface: &Interface) -> &ProgramPair {
        &self.by_set[&group_set(interface)]
    }
}

/// Both programs of a set of groups.
struct ProgramPair {
    ingress: Arc<Program>,
    egress: Arc<Program>,
    groups: Arc<[Arc<GroupInfo>]>,
}

impl ProgramPair {
    fn entry(&self, slot: InterfaceSlot) -> InterfaceEntry {
        InterfaceEntry {
            slot,
            open_for_ingress: self.egress.open,
            open_for_egress: self.ingress.open,
            ingress: Arc::clone(&self.ingress),
            egress: Arc::clone(&self.egress),
            audit: self.groups.iter().any(|group| !group.enforce),
        }
    }
}

/// An interface's groups in the policy's order, each once, so that equal sets are equal.
fn group_set(interface: &Interface) -> Box<[GroupIndex]> {
    let mut set = interface.groups.clone();
    set.sort_unstable();
    set.dedup();
    set.into()
}

fn check_limits(policy: &Policy, link_names: &[&str]) -> Result<(), CompileError> {
    let count = policy.count();
    if link_names.len() > LinkId::COUNT_MAX {
        let count = link_names.len();
        return Err(CompileError::TooManyLinks { count });
    }
    if count.interfaces > INTERFACES_MAX {
        return Err(CompileError::TooManyInterfaces {
            count: count.interfaces,
            limit: INTERFACES_MAX,
        });
    }
    if count.rules > RULES_MAX {
        let count = count.rules;
        return Err(CompileError::TooManyRules { count });
    }
    Ok(())
}

fn interface_info(
    interface: &Interface,
    slot: InterfaceSlot,
    groups: Arc<[Arc<GroupInfo>]>,
    link: Option<LinkId>,
) -> InterfaceInfo {
    InterfaceInfo {
        slot,
        name: interface.name.clone(),
        id: interface.id.clone(),
        groups,
        link,
        vlan: interface.vlan,
        vpc_id: interface.vpc_id.clone(),
        subnet_id: interface.subnet_id.clone(),
        instance_id: interface.instance_id.clone(),
    }
}

/// Interfaces with limits of their own, in order of their slots.
fn own_limits(policy: &Policy, slots: &[InterfaceSlot]) -> Box<[(InterfaceSlot, FlowLimits)]> {
    let limits = policy.interfaces.iter().map(|interface| interface.limits);
    let all = slots.iter().copied().zip(limits);
    let mut own: Vec<_> = all.filter(|(_, limits)| !limits.is_empty()).collect();
    own.sort_unstable_by_key(|(slot, _)| *slot);
    own.into()
}

/// Slots → positions.
fn slot_map(interfaces: &[InterfaceInfo]) -> Result<KeyMap, CompileError> {
    let pairs: Vec<_> = interfaces.iter().map(|info| info.slot.0).zip(0..).collect();
    KeyMap::new(&pairs).ok_or(CompileError::TooLarge {
        limit: TABLE_BYTES_MAX,
    })
}

fn with_stats(
    mut snapshot: Snapshot,
    policy: &Policy,
    programs: &Programs,
) -> Result<Snapshot, CompileError> {
    let count = policy.count();
    let bytes = snapshot.bytes_without_programs() + programs.bytes;
    if bytes > TABLE_BYTES_MAX {
        return Err(CompileError::TooLarge {
            limit: TABLE_BYTES_MAX,
        });
    }
    snapshot.stats = SnapshotStats {
        rules: count.rules,
        groups: count.groups,
        interfaces: count.interfaces,
        programs: programs.by_set.len() * 2,
        bytes,
    };
    Ok(snapshot)
}

/// A service for people: `tcp 443`, `udp`, `icmp type 8 code 0`, `protocol 47`, `all`.
fn service_text(service: Service) -> Box<str> {
    let ports = |name: &str, ports: PortRange| match ports {
        PortRange::ALL => name.to_owned(),
        PortRange { from, to } if from == to => format!("{name} {from}"),
        PortRange { from, to } => format!("{name} {from}-{to}"),
    };
    let icmp = |name: &str, matched: IcmpMatch| match (matched.kind, matched.code) {
        (None, _) => name.to_owned(),
        (Some(kind), None) => format!("{name} type {kind}"),
        (Some(kind), Some(code)) => format!("{name} type {kind} code {code}"),
    };
    let text = match service {
        Service::All => "all".to_owned(),
        Service::Tcp(range) => ports("tcp", range),
        Service::Udp(range) => ports("udp", range),
        Service::Icmp(matched) => icmp("icmp", matched),
        Service::Icmpv6(matched) => icmp("icmpv6", matched),
        Service::Protocol(number) => format!("protocol {number}"),
    };
    text.into()
}

/// A peer as a policy file writes it.
fn peer_text(policy: &Policy, peer: Peer) -> Box<str> {
    let text = match peer {
        Peer::Cidr4(net) => net.to_string(),
        Peer::Cidr6(net) => net.to_string(),
        Peer::Group(group) => format!("group:{}", policy.group(group).name),
        Peer::PrefixList(list) => format!("prefix-list:{}", policy.prefix_list(list).name),
    };
    text.into()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;
