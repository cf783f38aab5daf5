//! What traffic one policy allows that another does not: sets of (interface, direction, services,
//! addresses), exact, whatever the rules look like that say so.
//!
//! An interface is known by its name. What its groups allow is a set of points, services × remote
//! addresses; the difference of two such sets is computed rule by rule (`excess`), once for each
//! pair of group sets that interfaces have, and said in as few lines as are readable (`traffic`).
//! Which addresses are the interface's own counts too (`holdings`): where they change, all that
//! it allows is lost at those that go and gained at those that come.
//!
//! A difference is about rules. Whether an interface refuses what no rule allows (`enforce`) is
//! said apart. What the rules have no part in is not seen here: connections that live on, tracked
//! or not, and what a gateway's configuration lets pass.
//!
//! ```text
//!  peers     addresses of groups, lists and prefixes, the same ones with the same number
//!  rules     pieces: span of services × peer, by group and direction
//!  excess    pieces of one side − pieces of the other → slices
//!  traffic   slices → lines
//!  holdings  who owns which local addresses, and what of it moved
//!  text      lines and summary
//! ```
//!
//! Work and memory are bounded (`budget`): a comparison that would pass the bound ends with an
//! error, never with part of an answer.

mod axis;
mod budget;
mod excess;
mod holdings;
mod peers;
mod ranges;
mod rules;
mod text;
mod traffic;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

pub use self::axis::ServiceText;
pub use self::budget::DiffError;
pub use self::holdings::Place;
pub use self::text::{Brief, Line, LineKind};
pub use self::traffic::Traffic;

use self::budget::Budget;
use self::holdings::{Holdings, Split, split};
use self::peers::Peers;
use self::rules::Rules;
use super::{GroupIndex, Interface, InterfaceLink, Policy};
use crate::sync::Arc;
use crate::types::Direction;

/// All that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The two allow the same traffic.
    pub same: bool,
    /// How many interfaces gain traffic.
    pub gaining: usize,
    /// How many lose some.
    pub losing: usize,
    /// How many begin or cease to refuse what no rule allows.
    pub enforcement: usize,
    /// What differs; interfaces with the same differences together, in the new policy's order,
    /// those that are gone last.
    pub changes: Vec<InterfaceChange>,
    /// Changes that were left out to be brief; 0 in a whole answer.
    pub more_changes: usize,
}

/// What differs for some interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceChange {
    /// Whom this is about.
    pub interfaces: Vec<Subject>,
    /// Interfaces that were left out to be brief; 0 in a whole answer.
    pub more_interfaces: usize,
    /// Whether they are there on both sides.
    pub presence: Presence,
    /// Whether what no rule allows is refused.
    pub enforcement: Enforcement,
    /// The groups that are not enforced, on the side where there are any (the new one, if on both).
    pub unenforced: Vec<String>,
    /// What the new policy's rules allow and the old one's do not.
    pub gained: Vec<Traffic>,
    /// What the old policy's rules allow and the new one's do not.
    pub lost: Vec<Traffic>,
    /// Gained traffic that was left out to be brief; 0 in a whole answer.
    pub more_gained: usize,
    /// Lost traffic, likewise.
    pub more_lost: usize,
}

/// An interface, or some of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Which of its addresses are meant; null: all, which are the same on both sides.
    pub places: Option<Vec<Place>>,
    /// Places that were left out to be brief; 0 in a whole answer.
    pub more_places: usize,
}

/// On which side the addresses that a change is about belong to the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// On both.
    Both,
    /// In the new policy alone.
    New,
    /// In the old policy alone.
    Old,
}

/// Whether what no rule allows is refused, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// It is.
    On,
    /// It is not: everything passes, whatever the rules say.
    Off,
    /// From now on it is; what no rule allows passed before.
    Starts,
    /// From now on it is not: everything passes.
    Ends,
}

/// One of the two policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }
}

/// Names are compared without regard to case.
fn lower(name: &str) -> String {
    name.to_lowercase()
}

/// Says what traffic the new policy allows that the old one does not, and the reverse.
///
/// # Errors
/// Where the exact answer would take too much work or memory.
pub fn diff(old: &Policy, new: &Policy) -> Result<Diff, DiffError> {
    compare([old, new], Budget::new())
}

fn compare(policies: [&Policy; 2], budget: Budget) -> Result<Diff, DiffError> {
    let mut comparison = Comparison {
        policies,
        peers: Peers::new(policies),
        rules: Rules::new(policies),
        budget,
        group_sets: HashMap::new(),
        lists: HashMap::new(),
        changes: Changes::default(),
    };
    comparison.interfaces()?;
    Ok(comparison.changes.into_diff())
}

/// Lines, each list of them once.
type Lines = Arc<[Traffic]>;

/// Groups of an interface on each side; none where it does not own the addresses.
type GroupSets = [Vec<GroupIndex>; 2];

/// The comparison under way.
struct Comparison<'p> {
    policies: [&'p Policy; 2],
    peers: Peers<'p>,
    rules: Rules<'p>,
    budget: Budget,
    /// What is gained and lost, by groups.
    group_sets: HashMap<GroupSets, [Lines; 2]>,
    lists: HashMap<Lines, ()>,
    changes: Changes,
}

impl<'p> Comparison<'p> {
    fn interfaces(&mut self) -> Result<(), DiffError> {
        let [old, new] = self.policies;
        let one_link = has_one_link(self.policies);
        let old_holdings = Holdings::new(old, one_link, &mut self.budget)?;
        let new_holdings = Holdings::new(new, one_link, &mut self.budget)?;
        let mut by_name: HashMap<String, u32> = HashMap::with_capacity(old.interfaces.len());
        by_name.extend(old.interfaces.iter().map(|one| lower(&one.name)).zip(0..));
        for (index, interface) in (0..).zip(&new.interfaces) {
            let before = by_name.remove(&lower(&interface.name));
            let old_side = before.map(|before| (&old_holdings, before));
            let parts = split(old_side, Some((&new_holdings, index)), &mut self.budget)?;
            let before = before.map(|before| &*old.interfaces[before as usize]);
            self.interface(before, Some(interface), parts)?;
        }
        let mut gone: Vec<u32> = by_name.into_values().collect();
        gone.sort_unstable();
        for index in gone {
            let parts = split(Some((&old_holdings, index)), None, &mut self.budget)?;
            self.interface(Some(&old.interfaces[index as usize]), None, parts)?;
        }
        Ok(())
    }

    /// Says what differs for the interfaces of one name, which own these parts.
    fn interface(
        &mut self,
        old: Option<&Interface>,
        new: Option<&Interface>,
        parts: Split,
    ) -> Result<(), DiffError> {
        let Some(name) = new.or(old).map(|interface| &*interface.name) else {
            return Ok(());
        };
        let (kept, left, arrived) = match parts {
            Split::Same { is_nothing: true } => return Ok(()),
            Split::Same { is_nothing: false } => (None, Vec::new(), Vec::new()),
            Split::Moved {
                kept,
                left,
                arrived,
            } => (Some(kept), left, arrived),
        };
        if kept.as_ref().is_none_or(|kept| !kept.is_empty()) {
            self.part(name, [old, new], kept, Presence::Both)?;
        }
        if !left.is_empty() {
            self.part(name, [old, None], Some(left), Presence::Old)?;
        }
        if !arrived.is_empty() {
            self.part(name, [None, new], Some(arrived), Presence::New)?;
        }
        Ok(())
    }

    fn part(
        &mut self,
        name: &str,
        sides: [Option<&Interface>; 2],
        places: Option<Vec<Place>>,
        presence: Presence,
    ) -> Result<(), DiffError> {
        let groups = sides.map(|side| {
            let mut groups = side.map_or_else(Vec::new, |interface| interface.groups.clone());
            groups.sort_unstable();
            groups
        });
        let [old_audit, new_audit] =
            [Side::Old, Side::New].map(|side| self.unenforced(side, &groups[side as usize]));
        let enforcement = match (presence, old_audit.is_empty(), new_audit.is_empty()) {
            (_, true, true) => Enforcement::On,
            (Presence::Both, false, false) => Enforcement::Off,
            // All that it refuses now, or refused, it does not have on the other side at all.
            (_, true, false) => Enforcement::Ends,
            (_, false, _) => Enforcement::Starts,
        };
        let unenforced = if new_audit.is_empty() {
            old_audit
        } else {
            new_audit
        };
        let [gained, lost] = self.lines(groups)?;
        let kind = Kind {
            presence,
            enforcement,
            unenforced,
            gained,
            lost,
        };
        let subject = Subject {
            name: name.to_owned(),
            places,
            more_places: 0,
        };
        self.changes.add(kind, subject);
        Ok(())
    }

    /// Names of those groups that are not enforced.
    fn unenforced(&self, side: Side, groups: &[GroupIndex]) -> Vec<String> {
        let policy = self.policies[side as usize];
        let groups = groups.iter().map(|index| policy.group(*index));
        let names = groups
            .filter(|group| !group.enforce)
            .map(|group| group.name.to_string());
        names.collect()
    }

    /// What is gained and lost by groups.
    fn lines(&mut self, groups: GroupSets) -> Result<[Lines; 2], DiffError> {
        if let Some(lines) = self.group_sets.get(&groups) {
            return Ok(lines.clone());
        }
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for direction in [Direction::Ingress, Direction::Egress] {
            self.direction(&groups, direction, &mut gained, &mut lost)?;
        }
        let lines = [gained, lost].map(|list| self.shared(list.into()));
        self.group_sets.insert(groups, lines.clone());
        Ok(lines)
    }

    fn direction(
        &mut self,
        groups: &GroupSets,
        direction: Direction,
        gained: &mut Vec<Traffic>,
        lost: &mut Vec<Traffic>,
    ) -> Result<(), DiffError> {
        let Self {
            peers,
            rules,
            budget,
            ..
        } = self;
        let [old, new] = groups;
        let old = rules.contents(Side::Old, old, direction, peers, budget)?;
        let new = rules.contents(Side::New, new, direction, peers, budget)?;
        if old == new {
            return Ok(());
        }
        let old = rules.pieces(&old, budget)?;
        let new = rules.pieces(&new, budget)?;
        for (more, base, list) in [(&new, &old, gained), (&old, &new, lost)] {
            let slices = excess::excess(more, base, peers, budget)?;
            list.extend(traffic::traffic(slices, direction, peers, budget)?);
        }
        Ok(())
    }

    fn shared(&mut self, lines: Lines) -> Lines {
        match self.lists.get_key_value(&lines) {
            Some((same, ())) => Arc::clone(same),
            None => {
                self.lists.insert(Arc::clone(&lines), ());
                lines
            }
        }
    }
}

/// Whether every interface that is behind a link is behind the same one. A policy may leave the
/// name of an only link out, so a name and none are the same where there is no other name.
fn has_one_link(policies: [&Policy; 2]) -> bool {
    let interfaces = policies.iter().flat_map(|policy| &policy.interfaces);
    let names: HashSet<&str> = interfaces
        .filter_map(|interface| match &interface.link {
            InterfaceLink::Named(name) => Some(&**name),
            InterfaceLink::Only | InterfaceLink::Elsewhere => None,
        })
        .collect();
    names.len() <= 1
}

/// What makes interfaces alike.
#[derive(Clone)]
struct Kind {
    presence: Presence,
    enforcement: Enforcement,
    unenforced: Vec<String>,
    gained: Lines,
    lost: Lines,
}

impl Kind {
    fn is_change(&self) -> bool {
        let changes_enforcement =
            matches!(self.enforcement, Enforcement::Starts | Enforcement::Ends);
        changes_enforcement || !self.gained.is_empty() || !self.lost.is_empty()
    }
}

/// A kind by where its lines lie: each list of lines is there once.
type KindKey = (Presence, Enforcement, Vec<String>, [*const Traffic; 2]);

/// Changes so far.
#[derive(Default)]
struct Changes {
    at: HashMap<KindKey, usize>,
    list: Vec<(Kind, Vec<Subject>)>,
}

impl Changes {
    fn add(&mut self, kind: Kind, subject: Subject) {
        if !kind.is_change() {
            return;
        }
        let lines = [kind.gained.as_ptr(), kind.lost.as_ptr()];
        let key = (
            kind.presence,
            kind.enforcement,
            kind.unenforced.clone(),
            lines,
        );
        let at = *self.at.entry(key).or_insert_with(|| {
            self.list.push((kind, Vec::new()));
            self.list.len() - 1
        });
        self.list[at].1.push(subject);
    }

    fn into_diff(self) -> Diff {
        // An interface whose addresses move is in several changes.
        let count = |wanted: &dyn Fn(&Kind) -> bool| {
            let meant = self.list.iter().filter(|(kind, _)| wanted(kind));
            let names = meant.flat_map(|(_, subjects)| subjects.iter().map(|one| &*one.name));
            names.collect::<HashSet<&str>>().len()
        };
        let is_change =
            |enforcement| matches!(enforcement, Enforcement::Starts | Enforcement::Ends);
        Diff {
            same: self.list.is_empty(),
            gaining: count(&|kind| !kind.gained.is_empty()),
            losing: count(&|kind| !kind.lost.is_empty()),
            enforcement: count(&|kind| is_change(kind.enforcement)),
            more_changes: 0,
            changes: self
                .list
                .into_iter()
                .map(|(kind, interfaces)| change(kind, interfaces))
                .collect(),
        }
    }
}

fn change(kind: Kind, interfaces: Vec<Subject>) -> InterfaceChange {
    InterfaceChange {
        interfaces,
        more_interfaces: 0,
        presence: kind.presence,
        enforcement: kind.enforcement,
        unenforced: kind.unenforced,
        gained: kind.gained.to_vec(),
        lost: kind.lost.to_vec(),
        more_gained: 0,
        more_lost: 0,
    }
}

#[cfg(test)]
mod tests;
