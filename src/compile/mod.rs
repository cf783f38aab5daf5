//! `Policy` → `Snapshot`: numbers everything, splits addresses and services into classes, and lays
//! out the tables that `crate::snapshot` describes. Runs on the control side; sees no packet.
//!
//! The compiler keeps what a policy came to (`world`). The next policy is compared with it (`plan`)
//! and changes what depends on what differs: rules their groups' programs (`group_sets`,
//! `programs`), prefixes the classes of the addresses inside of them (`peers`, `prefixes`,
//! `class_sets`), interfaces the owners of their addresses (`ownership`) and since when they own
//! (`history`). All tables are in pages
//! that the snapshots share, so a change of one rule among a million copies a few pages.

mod class_sets;
mod error;
mod group_sets;
mod groups;
mod history;
mod limits;
mod names;
mod numbering;
#[cfg(test)]
pub(crate) mod oracle;
mod ownership;
mod peers;
mod plan;
mod prefixes;
mod programs;
mod registry;
pub mod sample;
mod slab;
mod steps;
mod world;

pub use error::{CompileError, Part, RULES_MAX, TABLE_BYTES_MAX};

use self::error::Bounds;
use self::history::History;
use self::numbering::Numbers;
use self::world::World;
use crate::policy::Policy;
use crate::snapshot::Snapshot;
use crate::snapshot::owners::Owners;
use crate::sync::Arc;
use crate::types::{Generation, InterfaceSlot, LinkId, RuleSlot};

/// Compiles policies one after the other: keeps the numbers of their rules and interfaces stable,
/// and shares with the snapshot before what did not change.
#[derive(Clone, Debug)]
pub struct Compiler {
    numbers: Numbers,
    world: World,
    /// Since when the addresses of the last policy are whose they are.
    history: Option<History>,
    /// Changes of owners up to here concern no connection any more.
    swept: Generation,
    bounds: Bounds,
}

/// Slots of rules and interfaces that left the policy, and that nothing else has yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftSlots {
    /// Of rules.
    pub rules: Vec<RuleSlot>,
    /// Of interfaces.
    pub interfaces: Vec<InterfaceSlot>,
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
        Self::with_bounds(Bounds::default())
    }

    /// One with so few slots that they have to be used again.
    #[cfg(test)]
    pub(crate) fn with_slots(rules: u32, interfaces: u32) -> Self {
        let numbers = Numbers::with_limits(rules, interfaces);
        Self {
            numbers,
            ..Self::new()
        }
    }

    /// One whose compiled form may take so many bytes.
    #[cfg(test)]
    pub(crate) fn with_bytes(bytes: usize) -> Self {
        Self::with_bounds(Bounds {
            bytes,
            ..Bounds::default()
        })
    }

    /// One that gives an address class at most so many keys.
    #[cfg(test)]
    fn with_class_keys(class_keys: usize) -> Self {
        Self::with_bounds(Bounds {
            class_keys,
            ..Bounds::default()
        })
    }

    fn with_bounds(bounds: Bounds) -> Self {
        Self {
            numbers: Numbers::new(),
            world: World::new(bounds, &[]),
            history: None,
            swept: Generation::default(),
            bounds,
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
    /// or comes back, has a slot that nothing had before or that was released. So it is with the
    /// addresses of an interface: one that comes back is its own since now. Parts that the
    /// policy shares by pointer with the one before are not looked at, unless groups or prefix
    /// lists moved to other positions.
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
        if link_names.len() > LinkId::COUNT_MAX {
            let count = link_names.len();
            return Err(CompileError::TooManyLinks { count });
        }
        let links = self.world.before().links.iter().map(|name| &**name);
        if !links.eq(link_names.iter().copied()) {
            // A gateway's links stay while it runs.
            let world = World::new(self.bounds, link_names);
            let before = std::mem::replace(&mut self.world, world);
            return self
                .change(policy, link_names, generation)
                .inspect_err(|_| self.world = before);
        }
        self.change(policy, link_names, generation)
    }

    fn change(
        &mut self,
        policy: &Policy,
        link_names: &[&str],
        generation: Generation,
    ) -> Result<Snapshot, CompileError> {
        let change = self.world.plan(policy, link_names, &mut self.numbers);
        let change = change.inspect_err(|_| self.numbers.abandon())?;
        let (history, swept) = (&self.history, self.swept);
        let changes = |owners: &Owners| match history {
            Some(history) => history.next(owners, generation, swept),
            None => Ok(Arc::default()),
        };
        match self.world.apply(change, &self.numbers, generation, changes) {
            Ok(snapshot) => {
                self.history = Some(History::of(&snapshot));
                self.numbers.commit(generation);
                Ok(snapshot)
            }
            Err(error) => {
                self.numbers.abandon();
                self.restore();
                Err(error)
            }
        }
    }

    /// Compiles the policy before again, since one that does not fit spoiled what it came to. This
    /// takes as long as a whole policy takes, after what is found last only: two owners of one
    /// address, and tables that are too large.
    fn restore(&mut self) {
        let policy = self.world.before().policy();
        let links = self.world.before().links.clone();
        let links: Vec<&str> = links.iter().map(|name| &**name).collect();
        self.world = World::new(self.bounds, &links);
        if policy == Policy::default() {
            return;
        }
        let again = self.world.plan(&policy, &links, &mut self.numbers);
        let again = again.and_then(|change| {
            let generation = Generation::default();
            let changes = |_: &Owners| Ok(Arc::default());
            self.world.apply(change, &self.numbers, generation, changes)
        });
        match again {
            Ok(snapshot) => {
                self.numbers.commit(Generation::default());
                if let Some(history) = &mut self.history {
                    history.is_again(&snapshot.owners);
                }
            }
            // It was compiled before. If it cannot be again, the next policy begins anew.
            Err(_) => {
                self.numbers.abandon();
                self.world = World::new(self.bounds, &links);
            }
        }
    }

    /// Slots that left the policy with this generation or an earlier one. Once nobody has a
    /// snapshot of a generation before, and no connection holds them, they can be
    /// [released](Self::release).
    #[must_use]
    pub fn left_slots(&self, generation: Generation) -> LeftSlots {
        let rules = self.numbers.rules.left(generation);
        let interfaces = self.numbers.interfaces.left(generation);
        LeftSlots {
            rules: rules.map(RuleSlot).collect(),
            interfaces: interfaces.map(InterfaceSlot).collect(),
        }
    }

    /// How many slots of rules and interfaces left the policy and were not released yet.
    #[must_use]
    pub fn left_count(&self) -> usize {
        self.numbers.rules.left_count() + self.numbers.interfaces.left_count()
    }

    /// Nothing ever had these slots, or any beyond.
    #[must_use]
    pub fn slot_limits(&self) -> (RuleSlot, InterfaceSlot) {
        let rules = self.numbers.rules.never_used();
        let interfaces = self.numbers.interfaces.never_used();
        (RuleSlot(rules), InterfaceSlot(interfaces))
    }

    /// Nobody holds these slots any more: rules and interfaces to come may have them. Slots that
    /// are in use, or were released before, are passed over.
    pub fn release(&mut self, slots: &LeftSlots) {
        let rules = slots.rules.iter().map(|slot| slot.0);
        self.numbers.rules.release(rules);
        let interfaces = slots.interfaces.iter().map(|slot| slot.0);
        self.numbers.interfaces.release(interfaces);
    }
}

#[cfg(test)]
impl Compiler {
    /// Compiles what a text says, for a gateway with one link.
    pub(crate) fn compile_text(&mut self, text: &str, generation: Generation) -> Snapshot {
        let policy = crate::policy::of_text(text);
        self.compile(&policy, &["link"], generation).unwrap()
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;
