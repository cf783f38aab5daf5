//! Classes: which peers an address belongs to. Each set of peers is there once, while some interval
//! of addresses has it.

use std::cmp::Reverse;

use hashbrown::{HashMap, HashSet};

use super::error::{Bounds, CompileError, Part};
use super::peers::PeerId;
use super::prefixes::Values;
use crate::snapshot::classes::{CLASS_KEYS_MAX, ClassKeys, NO_KEY, NO_KEYS};
use crate::snapshot::interval::CountValues;
use crate::snapshot::paged::Paged;
use crate::sync::Arc;

/// Keys from here up stand for several peers of a class together; below are the peers.
const WIDE_KEYS_FIRST: u32 = 1 << 31;

/// About what a class takes in the maps that find it, and a key in a set of keys.
const IN_MAP_BYTES: usize = 64;
const IN_SET_BYTES: usize = 16;

/// Number of a class: the value of an address.
type ClassId = u32;

#[derive(Clone, Debug)]
struct Class {
    peers: Arc<[PeerId]>,
    /// Intervals that have it.
    uses: u32,
    /// The key of those of its peers that have none of their own here.
    wide: Option<u32>,
}

impl Class {
    fn of(peers: Arc<[PeerId]>, wide: Option<u32>) -> Self {
        Self {
            peers,
            uses: 0,
            wide,
        }
    }
}

/// All classes of a snapshot, and of the next one while it is made.
#[derive(Clone, Debug)]
pub(super) struct ClassSets {
    classes: Vec<Class>,
    ids: HashMap<Arc<[PeerId]>, ClassId>,
    free: Vec<ClassId>,
    /// Keys by class, as lookups read them.
    table: Paged<ClassKeys>,
    /// Class and one more peer → class; of one flush, since classes go.
    steps: HashMap<(ClassId, PeerId), ClassId>,
    /// Came, or lost an interval, in this flush: may be unused at its end.
    touched: Vec<ClassId>,
    wide: WideKeys,
    /// How many rules name each peer.
    weights: Vec<u32>,
    bounds: Bounds,
    /// What all classes take.
    bytes: usize,
}

impl Default for ClassSets {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl ClassSets {
    /// The class without peers alone.
    pub(super) fn new(bounds: Bounds) -> Self {
        let nobody: Arc<[PeerId]> = Arc::from([]);
        let mut table = Paged::default();
        table.set(0, NO_KEYS, &NO_KEYS);
        Self {
            classes: vec![Class::of(Arc::clone(&nobody), None)],
            ids: HashMap::from([(nobody, 0)]),
            free: Vec::new(),
            table,
            steps: HashMap::new(),
            touched: Vec::new(),
            wide: WideKeys {
                next: WIDE_KEYS_FIRST,
                ..WideKeys::default()
            },
            weights: Vec::new(),
            bounds: Bounds {
                class_keys: bounds.class_keys.min(CLASS_KEYS_MAX),
                ..bounds
            },
            bytes: 0,
        }
    }

    /// Keys by class.
    pub(super) fn table(&self) -> &Paged<ClassKeys> {
        &self.table
    }

    /// Keys that stand for several peers.
    pub(super) fn wide(&self) -> &WideKeys {
        &self.wide
    }

    /// So many rules name a peer.
    pub(super) fn weigh(&mut self, peer: PeerId, rules: usize) {
        let place = peer as usize;
        if place >= self.weights.len() {
            self.weights.resize(place + 1, 0);
        }
        self.weights[place] = u32::try_from(rules).unwrap_or(u32::MAX);
    }

    /// Ends a flush: forgets what no interval has. Returns the peers of the wide keys that came.
    pub(super) fn finish(&mut self) -> HashSet<PeerId> {
        self.steps.clear();
        for id in std::mem::take(&mut self.touched) {
            let class = &mut self.classes[id as usize];
            if class.uses != 0 || class.peers.is_empty() {
                continue;
            }
            let class = std::mem::replace(class, Class::of(Arc::from([]), None));
            self.bytes -= class_bytes(class.peers.len(), self.bounds.class_keys);
            if let Some(key) = class.wide {
                self.wide.remove(key);
            }
            self.ids.remove(&class.peers);
            self.free.push(id);
        }
        std::mem::take(&mut self.wide.fresh)
    }

    fn union(&mut self, around: ClassId, labels: &[PeerId]) -> Result<ClassId, CompileError> {
        let mut peers = self.classes[around as usize].peers.to_vec();
        peers.extend_from_slice(labels);
        peers.sort_unstable();
        peers.dedup();
        if let Some(id) = self.ids.get(&*peers) {
            return Ok(*id);
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None => small(self.classes.len()).ok_or(self.bounds.exceeded(Part::Addresses))?,
        };
        self.bytes += class_bytes(peers.len(), self.bounds.class_keys);
        if self.bytes > self.bounds.bytes {
            return Err(self.bounds.exceeded(Part::Addresses));
        }
        let mut keys = NO_KEYS;
        let mut wide = None;
        if peers.len() <= self.bounds.class_keys {
            keys[..peers.len()].copy_from_slice(&peers);
        } else {
            // The fewest rules are merged: what many rules name is not copied for each class.
            let weight = |peer: &PeerId| self.weights.get(*peer as usize).copied();
            let mut by_weight = peers.clone();
            by_weight.sort_by_key(|peer| Reverse(weight(peer)));
            let own = self.bounds.class_keys.saturating_sub(1);
            keys[..own].copy_from_slice(&by_weight[..own]);
            let key = self.wide.add(&by_weight[own..])?;
            keys[own] = key;
            wide = Some(key);
        }
        self.table.set(id as usize, keys, &NO_KEYS);
        let peers: Arc<[PeerId]> = peers.into();
        self.ids.insert(Arc::clone(&peers), id);
        let class = Class::of(peers, wide);
        match self.classes.get_mut(id as usize) {
            Some(place) => *place = class,
            None => self.classes.push(class),
        }
        self.touched.push(id);
        Ok(id)
    }
}

impl<K> Values<K, CompileError> for ClassSets {
    fn enter(
        &mut self,
        around: u32,
        _prefix: (K, u8),
        labels: &[u32],
    ) -> Result<u32, CompileError> {
        let [label] = labels else {
            return self.union(around, labels);
        };
        if let Some(class) = self.steps.get(&(around, *label)) {
            return Ok(*class);
        }
        let class = self.union(around, labels)?;
        self.steps.insert((around, *label), class);
        Ok(class)
    }
}

impl CountValues for ClassSets {
    fn come(&mut self, value: u32) {
        self.classes[value as usize].uses += 1;
    }

    fn go(&mut self, value: u32) {
        let class = &mut self.classes[value as usize];
        // Pages that a change copies go and come again: the count may touch zero in between.
        class.uses = class.uses.saturating_sub(1);
        if class.uses == 0 {
            self.touched.push(value);
        }
    }
}

/// Keys that stand for several peers of a class together. A number is never used again, so that a
/// program which still has steps for one that went finds no other under it.
#[derive(Clone, Debug, Default)]
pub(super) struct WideKeys {
    peers: HashMap<u32, Box<[PeerId]>>,
    by_peer: HashMap<PeerId, HashSet<u32>>,
    /// Peers of the keys that came in this flush.
    fresh: HashSet<PeerId>,
    next: u32,
}

impl WideKeys {
    /// The keys that hold at least one of these peers, each once, and all peers of each.
    pub(super) fn of(&self, peers: impl Iterator<Item = PeerId>) -> Vec<(u32, &[PeerId])> {
        if self.peers.is_empty() {
            return Vec::new();
        }
        let keys: HashSet<u32> = peers
            .filter_map(|peer| self.by_peer.get(&peer))
            .flatten()
            .copied()
            .collect();
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        let of_key = |key| Some((key, &**self.peers.get(&key)?));
        keys.into_iter().filter_map(of_key).collect()
    }

    fn add(&mut self, peers: &[PeerId]) -> Result<u32, CompileError> {
        let key = self.next;
        if key == NO_KEY {
            return Err(CompileError::SlotsExhausted);
        }
        self.next += 1;
        for peer in peers {
            self.by_peer.entry(*peer).or_default().insert(key);
        }
        self.fresh.extend(peers);
        self.peers.insert(key, peers.into());
        Ok(key)
    }

    fn remove(&mut self, key: u32) {
        for peer in self.peers.remove(&key).unwrap_or_default() {
            if let Some(keys) = self.by_peer.get_mut(&peer) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_peer.remove(&peer);
                }
            }
        }
    }
}

/// About what a class of so many peers takes, here and in the table.
fn class_bytes(peers: usize, keys_max: usize) -> usize {
    // A key for several peers is in a set of each of them.
    let together = peers.checked_sub(keys_max).map_or(0, |more| more + 1);
    let own = size_of::<Class>() + size_of::<ClassKeys>() + IN_MAP_BYTES;
    own + peers * size_of::<PeerId>() + together * (size_of::<PeerId>() + IN_SET_BYTES)
}

/// A number that has to fit 32 bits.
fn small(number: usize) -> Option<u32> {
    u32::try_from(number)
        .ok()
        .filter(|number| *number < u32::MAX)
}
