//! Long chains of small changes: what is compiled from the policy before answers like what is
//! compiled from nothing, and like the oracle, in every step.

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::policy::{PrefixEntry, PrefixList, PrefixListIndex, SecurityGroup};
use crate::types::{FlowLimits, GroupId, PrefixListId};

/// One small change; what it is about is chosen among what is there.
#[derive(Clone, Debug)]
enum Step {
    AddRule(Index, bool, Index, Service, Index, IpNet),
    RemoveRule(Index, bool, Index),
    Enforce(Index),
    RenameGroup(Index),
    AddGroup(Index),
    RemoveGroup(Index),
    AddEntry(Index, IpNet),
    RemoveEntry(Index, Index),
    AddList(Index, IpNet),
    RemoveList(Index),
    AddInterface(Index, Index, IpNet, usize, Option<u16>),
    RemoveInterface(Index),
    Address(Index, IpNet),
    Member(Index, Index),
    Limit(Index, Option<u32>),
    SwapInterfaces(Index, Index),
    /// The same content without a shared pointer, as from a file that is read again.
    ReadAgain,
    /// Slots that left are released.
    Release,
    /// A policy that cannot be compiled is tried.
    Fail(Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let net = worlds::net;
    let vlan = proptest::sample::select(vec![None, None, Some(7)]);
    prop_oneof![
        8 => (index(), any::<bool>(), index(), worlds::service(), index(), net())
            .prop_map(|(g, d, at, s, p, n)| Step::AddRule(g, d, at, s, p, n)),
        4 => (index(), any::<bool>(), index()).prop_map(|(g, d, r)| Step::RemoveRule(g, d, r)),
        1 => index().prop_map(Step::Enforce),
        1 => index().prop_map(Step::RenameGroup),
        2 => index().prop_map(Step::AddGroup),
        1 => index().prop_map(Step::RemoveGroup),
        3 => (index(), net()).prop_map(|(l, n)| Step::AddEntry(l, n)),
        2 => (index(), index()).prop_map(|(l, e)| Step::RemoveEntry(l, e)),
        1 => (index(), net()).prop_map(|(l, n)| Step::AddList(l, n)),
        1 => index().prop_map(Step::RemoveList),
        5 => (index(), index(), net(), 0..4_usize, vlan)
            .prop_map(|(at, g, n, l, v)| Step::AddInterface(at, g, n, l, v)),
        3 => index().prop_map(Step::RemoveInterface),
        3 => (index(), net()).prop_map(|(i, n)| Step::Address(i, n)),
        4 => (index(), index()).prop_map(|(i, g)| Step::Member(i, g)),
        1 => (index(), proptest::option::of(0..3_u32)).prop_map(|(i, n)| Step::Limit(i, n)),
        1 => (index(), index()).prop_map(|(a, b)| Step::SwapInterfaces(a, b)),
        1 => Just(Step::ReadAgain),
        2 => Just(Step::Release),
        2 => (index(), any::<bool>()).prop_map(|(i, early)| Step::Fail(i, early)),
    ]
}

/// A policy that steps change.
struct Chain {
    policy: Policy,
    /// For ids that were never there before.
    next: u32,
}

impl Chain {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::AddRule(group, ingress, at, service, peer, net) => {
                let made = rule(self.number(), *service, self.peer(*peer, *net));
                let group = Arc::make_mut(pick(&mut self.policy.groups, *group));
                let rules = if *ingress {
                    &mut group.ingress
                } else {
                    &mut group.egress
                };
                rules.insert(at.index(rules.len() + 1), made);
            }
            Step::RemoveRule(group, ingress, which) => {
                let group = Arc::make_mut(pick(&mut self.policy.groups, *group));
                let rules = if *ingress {
                    &mut group.ingress
                } else {
                    &mut group.egress
                };
                if !rules.is_empty() {
                    rules.remove(which.index(rules.len()));
                }
            }
            Step::Enforce(group) => {
                let group = Arc::make_mut(pick(&mut self.policy.groups, *group));
                group.enforce = !group.enforce;
            }
            Step::RenameGroup(group) => {
                let name = format!("renamed-{}", self.number());
                Arc::make_mut(pick(&mut self.policy.groups, *group)).name = name.into();
            }
            Step::AddGroup(at) => self.add_group(*at),
            Step::RemoveGroup(group) => self.remove_group(*group),
            Step::AddEntry(list, net) => {
                let entries =
                    &mut Arc::make_mut(pick(&mut self.policy.prefix_lists, *list)).entries;
                entries.push(entry(*net));
            }
            Step::RemoveEntry(list, which) => {
                let entries =
                    &mut Arc::make_mut(pick(&mut self.policy.prefix_lists, *list)).entries;
                if !entries.is_empty() {
                    entries.remove(which.index(entries.len()));
                }
            }
            Step::AddList(at, net) => self.add_list(*at, *net),
            Step::RemoveList(list) => self.remove_list(*list),
            step => self.take_interface_step(step),
        }
    }

    fn add_interface(
        &mut self,
        at: Index,
        group: Index,
        net: IpNet,
        link: usize,
        vlan: Option<u16>,
    ) {
        let number = self.number();
        let group = group.index(self.policy.groups.len()) as u32;
        let link = ["a", "a", "b"].get(link);
        let interface = Interface {
            name: format!("i{number}").into(),
            id: InterfaceId(format!("eni-{number}").into()),
            addresses: vec![net],
            groups: vec![GroupIndex(group)],
            link: link.map_or(InterfaceLink::Elsewhere, |name| {
                InterfaceLink::Named((*name).into())
            }),
            vlan,
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: FlowLimits {
                max_flows: number.is_multiple_of(3).then_some(number),
                new_per_second: None,
            },
        };
        let at = at.index(self.policy.interfaces.len() + 1);
        self.policy.interfaces.insert(at, Arc::new(interface));
    }

    fn take_interface_step(&mut self, step: &Step) {
        match step {
            Step::AddInterface(at, group, net, link, vlan) => {
                self.add_interface(*at, *group, *net, *link, *vlan);
            }
            Step::RemoveInterface(which) if self.policy.interfaces.len() > 1 => {
                let at = which.index(self.policy.interfaces.len());
                self.policy.interfaces.remove(at);
            }
            Step::Address(which, net) => {
                let interface = Arc::make_mut(pick(&mut self.policy.interfaces, *which));
                match interface
                    .addresses
                    .iter()
                    .position(|address| address == net)
                {
                    Some(position) if interface.addresses.len() > 1 => {
                        interface.addresses.remove(position);
                    }
                    Some(_) => {}
                    None => interface.addresses.push(*net),
                }
            }
            Step::Limit(interface, rate) => {
                let interface = Arc::make_mut(pick(&mut self.policy.interfaces, *interface));
                interface.limits.new_per_second = *rate;
            }
            Step::Member(which, group) => {
                let group = GroupIndex(group.index(self.policy.groups.len()) as u32);
                let interface = Arc::make_mut(pick(&mut self.policy.interfaces, *which));
                match interface.groups.iter().position(|found| *found == group) {
                    Some(position) if interface.groups.len() > 1 => {
                        interface.groups.remove(position);
                    }
                    Some(_) => {}
                    None => interface.groups.push(group),
                }
            }
            Step::SwapInterfaces(a, b) => {
                let count = self.policy.interfaces.len();
                self.policy.interfaces.swap(a.index(count), b.index(count));
            }
            Step::ReadAgain => {
                let groups = self.policy.groups.iter();
                self.policy.groups = groups.map(|part| Arc::new((**part).clone())).collect();
                let lists = self.policy.prefix_lists.iter();
                self.policy.prefix_lists = lists.map(|part| Arc::new((**part).clone())).collect();
                let interfaces = self.policy.interfaces.iter();
                self.policy.interfaces =
                    interfaces.map(|part| Arc::new((**part).clone())).collect();
            }
            _ => {}
        }
        self.settle_owners();
    }

    /// A group anywhere, which the policy's positions make room for.
    fn add_group(&mut self, at: Index) {
        let number = self.number();
        let at = at.index(self.policy.groups.len() + 1);
        self.policy.groups.insert(
            at,
            Arc::new(SecurityGroup {
                name: format!("g{number}").into(),
                id: GroupId(format!("sg-{number}").into()),
                description: None,
                enforce: true,
                ingress: Vec::new(),
                egress: Vec::new(),
            }),
        );
        self.move_groups(|group| {
            Some(if (group as usize) < at {
                group
            } else {
                group + 1
            })
        });
    }

    fn remove_group(&mut self, group: Index) {
        if self.policy.groups.len() > 1 {
            let gone = group.index(self.policy.groups.len());
            self.policy.groups.remove(gone);
            let gone = gone as u32;
            self.move_groups(|group| match group.cmp(&gone) {
                std::cmp::Ordering::Less => Some(group),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(group - 1),
            });
        }
    }

    fn move_groups(&mut self, to: impl Fn(u32) -> Option<u32>) {
        self.move_peers(|peer| match peer {
            Peer::Group(group) => to(group.0).map(|group| Peer::Group(GroupIndex(group))),
            other => Some(other),
        });
        for interface in &mut self.policy.interfaces {
            let groups = &mut Arc::make_mut(interface).groups;
            *groups = groups
                .iter()
                .filter_map(|group| to(group.0).map(GroupIndex))
                .collect();
            if groups.is_empty() {
                groups.push(GroupIndex(0));
            }
        }
    }

    fn add_list(&mut self, at: Index, net: IpNet) {
        let number = self.number();
        let at = at.index(self.policy.prefix_lists.len() + 1);
        self.policy.prefix_lists.insert(
            at,
            Arc::new(PrefixList {
                name: format!("l{number}").into(),
                id: PrefixListId(format!("pl-{number}").into()),
                entries: vec![entry(net)],
            }),
        );
        self.move_lists(|list| Some(if (list as usize) < at { list } else { list + 1 }));
    }

    fn remove_list(&mut self, list: Index) {
        if self.policy.prefix_lists.len() > 1 {
            let gone = list.index(self.policy.prefix_lists.len());
            self.policy.prefix_lists.remove(gone);
            let gone = gone as u32;
            self.move_lists(|list| match list.cmp(&gone) {
                std::cmp::Ordering::Less => Some(list),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(list - 1),
            });
        }
    }

    fn move_lists(&mut self, to: impl Fn(u32) -> Option<u32>) {
        self.move_peers(|peer| match peer {
            Peer::PrefixList(list) => {
                to(list.0).map(|list| Peer::PrefixList(PrefixListIndex(list)))
            }
            other => Some(other),
        });
    }

    /// Rules whose peer goes, go with it. Groups that name nothing moved stay shared.
    fn move_peers(&mut self, to: impl Fn(Peer) -> Option<Peer>) {
        for group in &mut self.policy.groups {
            let all = |rules: &[Rule]| rules.iter().all(|rule| to(rule.peer) == Some(rule.peer));
            if all(&group.ingress) && all(&group.egress) {
                continue;
            }
            let group = Arc::make_mut(group);
            for rules in [&mut group.ingress, &mut group.egress] {
                rules.retain(|rule| to(rule.peer).is_some());
                for rule in rules {
                    rule.peer = to(rule.peer).unwrap();
                }
            }
        }
    }

    /// What validation refuses: two owners of one prefix in one place.
    fn settle_owners(&mut self) {
        let mut taken = std::collections::HashSet::new();
        for interface in &mut self.policy.interfaces {
            let place = (interface.link.clone(), interface.vlan);
            let fresh = |net: &IpNet| (place.clone(), *net);
            if interface
                .addresses
                .iter()
                .any(|net| taken.contains(&fresh(net)))
            {
                let addresses = &mut Arc::make_mut(interface).addresses;
                addresses.retain(|net| !taken.contains(&fresh(net)));
            }
            taken.extend(interface.addresses.iter().map(fresh));
        }
    }

    fn peer(&self, which: Index, net: IpNet) -> Peer {
        let groups = self.policy.groups.len();
        let lists = self.policy.prefix_lists.len();
        match which.index(2 * (groups + lists)) {
            at if at < groups => Peer::Group(GroupIndex(at as u32)),
            at if at < groups + lists => Peer::PrefixList(PrefixListIndex((at - groups) as u32)),
            _ => match net {
                IpNet::V4(net) => Peer::Cidr4(net),
                IpNet::V6(net) => Peer::Cidr6(net),
            },
        }
    }

    /// A policy that is refused: by a rule's id that is there twice, or by an address.
    fn spoiled(&self, which: Index, early: bool) -> Policy {
        let mut spoiled = self.policy.clone();
        let twice = |number| rule(number, Service::All, semantics::cidr("10.0.0.3/32"));
        let group = Arc::make_mut(pick(&mut spoiled.groups, which));
        group.ingress.push(twice(1_000_000));
        if early {
            group.egress.push(twice(1_000_000));
            return spoiled;
        }
        let owner = |name: &str| Interface {
            name: name.into(),
            id: InterfaceId(name.into()),
            addresses: vec!["10.0.0.240/28".parse().unwrap()],
            groups: vec![GroupIndex(0)],
            link: InterfaceLink::Named("b".into()),
            vlan: Some(9),
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: FlowLimits::default(),
        };
        spoiled
            .interfaces
            .remove(which.index(spoiled.interfaces.len()));
        spoiled
            .interfaces
            .extend([owner("one"), owner("other")].map(Arc::new));
        spoiled
    }
}

fn entry(cidr: IpNet) -> PrefixEntry {
    PrefixEntry {
        cidr,
        description: None,
    }
}

fn pick<T>(list: &mut [T], which: Index) -> &mut T {
    let at = which.index(list.len());
    &mut list[at]
}

/// Everything that a snapshot says about a policy, without slots.
fn content(snapshot: &Snapshot) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut rules: Vec<_> = snapshot
        .rules()
        .map(|rule| {
            let group = rule.group.as_ref().clone();
            let texts = (rule.service.clone(), rule.peer.clone());
            (rule.id.clone(), group, rule.direction, texts)
        })
        .collect();
    rules.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut interfaces: Vec<_> = snapshot
        .interfaces()
        .map(|(_, info)| {
            let groups: Vec<_> = info.groups.iter().map(|group| (**group).clone()).collect();
            (
                info.id.clone(),
                info.name.clone(),
                groups,
                info.link,
                info.vlan,
            )
        })
        .collect();
    interfaces.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    (rules, interfaces)
}

/// An interface's place in a snapshot, by its id.
fn place(snapshot: &Snapshot, id: &InterfaceId) -> InterfaceRef {
    let found = snapshot.interfaces().find(|(_, info)| info.id == *id);
    found.expect("it is in the policy").0
}

/// Slots that nothing else may have while they are not released.
#[derive(Default)]
struct Slots {
    rules: std::collections::HashMap<u32, RuleId>,
    interfaces: std::collections::HashMap<u32, InterfaceId>,
}

impl Slots {
    fn check(&mut self, snapshot: &Snapshot) -> Result<(), TestCaseError> {
        for rule in snapshot.rules() {
            let known = self
                .rules
                .entry(rule.slot.0)
                .or_insert_with(|| rule.id.clone());
            prop_assert_eq!(&*known, &rule.id, "a slot that somebody may hold");
        }
        for (_, info) in snapshot.interfaces() {
            let known = self
                .interfaces
                .entry(info.slot.0)
                .or_insert_with(|| info.id.clone());
            prop_assert_eq!(&*known, &info.id, "a slot that somebody may hold");
        }
        Ok(())
    }

    fn release(&mut self, left: &LeftSlots) {
        for slot in &left.rules {
            assert!(self.rules.remove(&slot.0).is_some());
        }
        for slot in &left.interfaces {
            assert!(self.interfaces.remove(&slot.0).is_some());
        }
    }
}

fn run(
    policy: Policy,
    steps: &[Step],
    questions: &[Question],
    keys_max: usize,
) -> Result<(), TestCaseError> {
    let mut chain = Chain { policy, next: 1000 };
    let mut compiler = Compiler::with_class_keys(keys_max);
    let mut slots = Slots::default();
    let mut generation = Generation(1);
    let mut former: Option<(Policy, Snapshot)> = None;
    for step in std::iter::once(&Step::ReadAgain).chain(steps) {
        match step {
            Step::Fail(which, early) => {
                let spoiled = chain.spoiled(*which, *early);
                let refused = compiler.compile(&spoiled, &worlds::LINKS, generation);
                prop_assert!(refused.is_err());
            }
            Step::Release => {
                let left = compiler.left_slots(generation);
                compiler.release(&left);
                slots.release(&left);
            }
            step => chain.take(step),
        }
        generation = generation.next();
        let policy = &chain.policy;
        let snapshot = compiler
            .compile(policy, &worlds::LINKS, generation)
            .unwrap();
        slots.check(&snapshot)?;
        let anew = Compiler::with_class_keys(keys_max)
            .compile(policy, &worlds::LINKS, generation)
            .unwrap();
        prop_assert_eq!(content(&snapshot), content(&anew));
        let mut stats = snapshot.stats();
        stats.bytes = anew.stats().bytes;
        prop_assert_eq!(stats, anew.stats());
        same_owners(&snapshot, policy)?;
        same_limits(&snapshot, policy)?;
        same_answers(&snapshot, policy, questions)?;
        // The snapshot before, which workers may still read, says what it said.
        if let Some((policy, snapshot)) = former.replace((policy.clone(), snapshot)) {
            same_owners(&snapshot, &policy)?;
            same_answers(&snapshot, &policy, &questions[..questions.len() / 4])?;
        }
    }
    Ok(())
}

fn same_limits(snapshot: &Snapshot, policy: &Policy) -> Result<(), TestCaseError> {
    let limited = policy.interfaces.iter().filter(|i| !i.limits.is_empty());
    let mut expected: Vec<_> = limited
        .map(|interface| (place(snapshot, &interface.id).slot(), interface.limits))
        .collect();
    expected.sort_unstable_by_key(|(slot, _)| *slot);
    prop_assert_eq!(snapshot.limits(), &*expected);
    Ok(())
}

fn same_owners(snapshot: &Snapshot, policy: &Policy) -> Result<(), TestCaseError> {
    for (link, name) in worlds::LINKS.iter().enumerate() {
        for outer in [None, Some(7)] {
            let vlan = VlanTags { outer, inner: None };
            for address in worlds::addresses() {
                let owner = snapshot.interface_of(LinkId(link as u8), vlan, address);
                let owner = owner.map(|found| snapshot.interface(found).unwrap().id.clone());
                let expected = oracle::owner(policy, name, vlan, address);
                prop_assert_eq!(owner, expected.map(|interface| interface.id.clone()));
            }
        }
    }
    Ok(())
}

fn same_answers(
    snapshot: &Snapshot,
    policy: &Policy,
    questions: &[Question],
) -> Result<(), TestCaseError> {
    for (position, interface) in policy.interfaces.iter().enumerate() {
        let at = place(snapshot, &interface.id).0 as usize;
        for question in questions {
            for direction in both() {
                agree_at(policy, snapshot, (position, at), direction, question)?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_chain_of_small_changes_answers_like_a_policy_compiled_from_nothing(
        policy in worlds::policy(),
        steps in proptest::collection::vec(step(), 1..40),
        questions in proptest::collection::vec(worlds::question(), 16),
        keys_max in proptest::sample::select(vec![0, 1, 2, CLASS_KEYS_MAX]),
    ) {
        run(policy, &steps, &questions, keys_max)?;
    }
}
