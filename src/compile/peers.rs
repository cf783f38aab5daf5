//! The address side: which peers rules name, and which of them each address belongs to.

use hashbrown::{HashMap, HashSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::class_sets::{ClassSets, WideKeys};
use super::error::{Bounds, CompileError};
use super::prefixes::BothPrefixes;
use crate::packet::Family;
use crate::snapshot::classes::AddressClasses;
use crate::snapshot::interval::INTERVALS_MAX;

/// Number of a peer while some rule names it.
pub(super) type PeerId = u32;
/// Number of a group while it is in the policy.
pub(super) type GroupNo = u32;
/// Number of a prefix list while it is in the policy.
pub(super) type ListNo = u32;

/// A peer by what does not move when the policy changes elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerKey {
    Cidr4(Ipv4Net),
    Cidr6(Ipv6Net),
    Group(GroupNo),
    List(ListNo),
}

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

#[derive(Clone, Debug)]
struct PeerState {
    key: PeerKey,
    /// A group for each rule that names it.
    users: Vec<GroupNo>,
    /// How many prefixes it has: 0.0.0.0/0, ::/0, others.
    counts: [usize; 3],
    /// What programs were told.
    reach: Reach,
}

/// The distinct peers of the rules that are in use, and the classes of addresses by them.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    ids: HashMap<PeerKey, PeerId>,
    states: Vec<PeerState>,
    free: Vec<PeerId>,
    /// Peers that lost their last rule in this change, if it did not get another one.
    idle: Vec<PeerId>,
    /// Peers whose prefixes changed.
    touched: HashSet<PeerId>,
    prefixes: BothPrefixes,
    classes: AddressClasses,
    sets: ClassSets,
}

impl Peers {
    /// None; a class of more peers than it may have keys gets a key of its own.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            ids: HashMap::new(),
            states: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            touched: HashSet::new(),
            prefixes: BothPrefixes::default(),
            classes: AddressClasses::empty(),
            sets: ClassSets::new(bounds),
        }
    }

    /// A rule of a group names a peer. If it is the first, its prefixes are asked for.
    pub(super) fn acquire(
        &mut self,
        key: PeerKey,
        user: GroupNo,
        prefixes: impl FnOnce(&mut dyn FnMut(IpNet)),
    ) -> PeerId {
        if let Some(id) = self.ids.get(&key) {
            let users = &mut self.states[*id as usize].users;
            users.push(user);
            self.sets.weigh(*id, users.len());
            return *id;
        }
        let state = PeerState {
            key,
            users: vec![user],
            counts: [0; 3],
            reach: Reach::default(),
        };
        let id = if let Some(id) = self.free.pop() {
            self.states[id as usize] = state;
            id
        } else {
            self.states.push(state);
            // Bounded by the number of rules, which the compiler checked.
            u32::try_from(self.states.len() - 1).unwrap_or(u32::MAX)
        };
        self.ids.insert(key, id);
        self.sets.weigh(id, 1);
        prefixes(&mut |net| self.add(id, net));
        // The rules that name it are new: their programs are made anyway.
        let state = &mut self.states[id as usize];
        state.reach = reach(state.counts);
        id
    }

    /// A rule of a group does not name a peer any more.
    pub(super) fn release(&mut self, id: PeerId, user: GroupNo) {
        let users = &mut self.states[id as usize].users;
        if let Some(position) = users.iter().rposition(|found| *found == user) {
            users.swap_remove(position);
        }
        self.sets.weigh(id, users.len());
        if users.is_empty() {
            self.idle.push(id);
        }
    }

    /// The number of a peer that some rule names.
    pub(super) fn find(&self, key: PeerKey) -> Option<PeerId> {
        self.ids.get(&key).copied()
    }

    /// A peer has one more prefix.
    pub(super) fn add(&mut self, id: PeerId, net: IpNet) {
        let state = &mut self.states[id as usize];
        let kind = kind(state.key, net);
        state.counts[kind] += 1;
        if kind == LISTED {
            self.prefixes.add(net, id);
        }
        self.touched.insert(id);
    }

    /// A peer has one prefix less.
    pub(super) fn remove(&mut self, id: PeerId, net: IpNet) {
        let state = &mut self.states[id as usize];
        let kind = kind(state.key, net);
        state.counts[kind] -= 1;
        if kind == LISTED {
            self.prefixes.remove(net, id);
        }
        self.touched.insert(id);
    }

    /// Peers that no rule names any more; the caller removes their prefixes, then they are gone.
    pub(super) fn take_idle(&mut self) -> Vec<(PeerId, PeerKey)> {
        let mut idle = std::mem::take(&mut self.idle);
        idle.sort_unstable();
        idle.dedup();
        idle.retain(|id| self.states[*id as usize].users.is_empty());
        for id in &idle {
            self.ids.remove(&self.states[*id as usize].key);
            self.free.push(*id);
        }
        idle.into_iter()
            .map(|id| (id, self.states[id as usize].key))
            .collect()
    }

    /// Computes the classes anew where prefixes came or went. Returns the groups whose programs
    /// have to be made anew for it, though their rules are the same.
    pub(super) fn flush(&mut self) -> Result<HashSet<GroupNo>, CompileError> {
        let mut changed = HashSet::new();
        for id in std::mem::take(&mut self.touched) {
            let state = &mut self.states[id as usize];
            let reach = reach(state.counts);
            if reach != state.reach {
                state.reach = reach;
                changed.insert(id);
            }
        }
        if self.prefixes.is_changed() {
            let v4 = self.prefixes.v4.flush(0, &mut self.sets)?;
            let v6 = self.prefixes.v6.flush(0, &mut self.sets)?;
            let too_many = CompileError::TooManyIntervals {
                limit: INTERVALS_MAX,
            };
            let patched = self.classes.v4.patched(v4, &mut self.sets);
            self.classes.v4 = patched.ok_or_else(|| too_many.clone())?;
            let patched = self.classes.v6.patched(v6, &mut self.sets);
            self.classes.v6 = patched.ok_or(too_many)?;
            changed.extend(self.sets.finish());
            self.classes.keys = self.sets.table().clone();
        }
        let users = |id: PeerId| self.states[id as usize].users.iter().copied();
        Ok(changed.into_iter().flat_map(users).collect())
    }

    /// What a peer's prefixes come to.
    pub(super) fn reach(&self, id: PeerId) -> Reach {
        self.states[id as usize].reach
    }

    /// Keys that stand for several peers.
    pub(super) fn wide(&self) -> &WideKeys {
        self.sets.wide()
    }

    /// Address → keys.
    pub(super) fn classes(&self) -> &AddressClasses {
        &self.classes
    }
}

/// Place of "others" in the counts of prefixes.
const LISTED: usize = 2;

fn kind(key: PeerKey, net: IpNet) -> usize {
    match (net, net.prefix_len(), key) {
        // A group is never "any", even if a member owns a whole family.
        (_, _, PeerKey::Group(_)) => LISTED,
        (IpNet::V4(_), 0, _) => 0,
        (IpNet::V6(_), 0, _) => 1,
        _ => LISTED,
    }
}

fn reach(counts: [usize; 3]) -> Reach {
    let [any_v4, any_v6, listed] = counts.map(|count| count != 0);
    Reach {
        any_v4,
        any_v6,
        listed,
    }
}
