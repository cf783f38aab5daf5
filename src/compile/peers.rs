//! The address side: which peers rules name, and which of them each address belongs to.

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::error::{CompileError, TABLE_BYTES_MAX};
use super::sweep::{Span, Spans, sweep};
use crate::packet::Family;
use crate::policy::{GroupIndex, Peer, Policy};
use crate::snapshot::classes::AddressClasses;
use crate::snapshot::interval::{INTERVALS_MAX, IntervalMap, Point};

/// Number of a peer inside one compilation.
pub(super) type PeerId = u32;

/// What a peer's prefixes come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// It is, or as a prefix list has, 0.0.0.0/0.
    pub(super) any_v4: bool,
    /// It is, or as a prefix list has, ::/0.
    pub(super) any_v6: bool,
    /// There is a prefix beside these, so addresses are of a class with this peer.
    pub(super) listed: bool,
}

impl Reach {
    /// It holds every address of a family.
    pub(super) fn is_any(self, family: Family) -> bool {
        match family {
            Family::V4 => self.any_v4,
            Family::V6 => self.any_v6,
        }
    }
}

/// The distinct peers of the rules that are in use.
#[derive(Debug, Default)]
pub(super) struct Peers {
    ids: HashMap<Peer, PeerId>,
    reaches: Vec<Reach>,
    spans: Spans,
}

impl Peers {
    /// The number of a peer; its prefixes are read from the policy when it is first met.
    pub(super) fn id(&mut self, peer: Peer, policy: &Policy, members: &Members) -> PeerId {
        if let Some(id) = self.ids.get(&peer) {
            return *id;
        }
        // Bounded by the number of rules, which the compiler checked.
        let id = u32::try_from(self.reaches.len()).unwrap_or(u32::MAX);
        let mut reach = Reach::default();
        let spans = &mut self.spans;
        // A group is never "any", even if a member owns a whole family.
        let may_be_any = !matches!(peer, Peer::Group(_));
        let mut add = |net: IpNet| match (net, net.prefix_len()) {
            (IpNet::V4(_), 0) if may_be_any => reach.any_v4 = true,
            (IpNet::V6(_), 0) if may_be_any => reach.any_v6 = true,
            _ => {
                reach.listed = true;
                spans.push(net, id);
            }
        };
        match peer {
            Peer::Cidr4(net) => add(net.into()),
            Peer::Cidr6(net) => add(net.into()),
            Peer::Group(group) => members.addresses(policy, group).for_each(add),
            Peer::PrefixList(list) => {
                let entries = &policy.prefix_list(list).entries;
                entries.iter().for_each(|entry| add(entry.cidr));
            }
        }
        self.ids.insert(peer, id);
        self.reaches.push(reach);
        id
    }

    /// What a peer's prefixes come to.
    pub(super) fn reach(&self, id: PeerId) -> Reach {
        self.reaches[id as usize]
    }

    /// The table of classes; one of more than `keys_max` peers gets a key of its own.
    pub(super) fn classes(&mut self, keys_max: usize) -> Result<Classes, CompileError> {
        let mut sets = ClassSets::new(self.reaches.len(), keys_max);
        let v4 = map(&mut self.spans.v4, &mut sets)?;
        let v6 = map(&mut self.spans.v6, &mut sets)?;
        Ok(Classes {
            table: AddressClasses::new(v4, v6, sets.keys),
            wide: sets.wide,
        })
    }
}

/// The address side, compiled.
#[derive(Debug)]
pub(super) struct Classes {
    /// Address → keys.
    pub(super) table: AddressClasses,
    /// Keys that stand for several peers.
    pub(super) wide: WideKeys,
}

/// Keys that stand for all peers of a class together.
#[derive(Debug, Default)]
pub(super) struct WideKeys {
    /// The peers of each.
    peers: Vec<(u32, Box<[PeerId]>)>,
    /// Positions in `peers` by peer.
    by_peer: HashMap<PeerId, Vec<usize>>,
}

impl WideKeys {
    /// The keys that hold at least one of these peers, each once, and all peers of each.
    pub(super) fn of(&self, peers: impl Iterator<Item = PeerId>) -> Vec<(u32, &[PeerId])> {
        if self.peers.is_empty() {
            return Vec::new();
        }
        let positions: HashSet<usize> = peers
            .filter_map(|peer| self.by_peer.get(&peer))
            .flatten()
            .copied()
            .collect();
        let mut positions: Vec<_> = positions.into_iter().collect();
        positions.sort_unstable();
        let key = |position: usize| (self.peers[position].0, &*self.peers[position].1);
        positions.into_iter().map(key).collect()
    }

    fn add(&mut self, key: u32, peers: &[PeerId]) {
        for peer in peers {
            self.by_peer
                .entry(*peer)
                .or_default()
                .push(self.peers.len());
        }
        self.peers.push((key, peers.into()));
    }
}

/// Sets of peers, each once. A set is named by the offset of its keys.
#[derive(Debug)]
struct ClassSets {
    keys: Vec<u32>,
    sets: HashMap<u32, Box<[PeerId]>>,
    offsets: HashMap<Box<[PeerId]>, u32>,
    /// Set and one more peer → set.
    steps: HashMap<(u32, PeerId), u32>,
    wide: WideKeys,
    next_wide_key: usize,
    keys_max: usize,
}

impl ClassSets {
    fn new(peers: usize, keys_max: usize) -> Self {
        // The set without peers: no keys, offset 0.
        Self {
            keys: vec![0],
            sets: HashMap::from([(0, Box::default())]),
            offsets: HashMap::from([(Box::default(), 0)]),
            steps: HashMap::new(),
            wide: WideKeys::default(),
            next_wide_key: peers,
            keys_max,
        }
    }

    /// The set of a prefix that these spans name, inside of the set around it.
    fn enter<K>(&mut self, around: u32, same: &[Span<K>]) -> Result<u32, CompileError> {
        if let [span] = same {
            if let Some(set) = self.steps.get(&(around, span.label)) {
                return Ok(*set);
            }
            let set = self.union(around, same)?;
            self.steps.insert((around, span.label), set);
            return Ok(set);
        }
        self.union(around, same)
    }

    fn union<K>(&mut self, around: u32, same: &[Span<K>]) -> Result<u32, CompileError> {
        let mut set = self.sets[&around].to_vec();
        set.extend(same.iter().map(|span| span.label));
        set.sort_unstable();
        set.dedup();
        if let Some(offset) = self.offsets.get(&*set) {
            return Ok(*offset);
        }
        let offset = small(self.keys.len())?;
        if set.len() <= self.keys_max {
            self.keys.push(small(set.len())?);
            self.keys.extend_from_slice(&set);
        } else {
            let key = small(self.next_wide_key)?;
            self.next_wide_key += 1;
            self.keys.extend([1, key]);
            self.wide.add(key, &set);
        }
        let set: Box<[PeerId]> = set.into();
        self.sets.insert(offset, set.clone());
        self.offsets.insert(set, offset);
        Ok(offset)
    }
}

fn map<K: Point>(
    spans: &mut [Span<K>],
    sets: &mut ClassSets,
) -> Result<IntervalMap<K>, CompileError> {
    sweep(spans, 0, |around, same| sets.enter(around, same))?
        .finish()
        .ok_or(CompileError::TooManyIntervals {
            limit: INTERVALS_MAX,
        })
}

/// A number that has to fit 32 bits, short of the one that marks free slots.
fn small(number: usize) -> Result<u32, CompileError> {
    u32::try_from(number)
        .ok()
        .filter(|number| *number < u32::MAX)
        .ok_or(CompileError::TooLarge {
            limit: TABLE_BYTES_MAX,
        })
}

/// Interfaces by group.
#[derive(Debug)]
pub(super) struct Members {
    interfaces: Vec<Vec<usize>>,
}

impl Members {
    /// Of every group of a policy.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut interfaces = vec![Vec::new(); policy.groups.len()];
        for (index, interface) in policy.interfaces.iter().enumerate() {
            for group in &interface.groups {
                interfaces[group.0 as usize].push(index);
            }
        }
        Self { interfaces }
    }

    /// Whether a group has any.
    pub(super) fn any(&self, group: GroupIndex) -> bool {
        !self.interfaces[group.0 as usize].is_empty()
    }

    /// Registered addresses of a group's members, wherever they are.
    fn addresses(&self, policy: &Policy, group: GroupIndex) -> impl Iterator<Item = IpNet> {
        self.interfaces[group.0 as usize]
            .iter()
            .flat_map(|index| policy.interfaces[*index].addresses.iter().copied())
    }
}
