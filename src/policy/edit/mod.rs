//! Changes of single rules: what a change looks at and copies is its group, not the policy.
//!
//! An editor keeps two indexes beside the policy: by id, to find a rule that goes, and by what a
//! rule allows, to refuse one that is there already. They hold hashes, 16 bytes a rule each; what
//! they find is compared with the rule itself.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::parse::{PolicyNames, RulePlace, parse_rules};
use super::{GroupIndex, Peer, Policy, Rule, SecurityGroup, Service};
use crate::document::{Checked, Problem, Report, Source, nearest, quoted};
use crate::sync::Arc;
use crate::types::{Direction, GroupId, RuleId};

/// Most names and ids that are compared with one that nothing has.
const NEAREST_MAX: usize = 10_000;

/// One rule that came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedRule {
    /// Its id.
    pub id: RuleId,
    /// The name of its group.
    pub group: Box<str>,
    /// Its direction.
    pub direction: Direction,
    /// What it allows, as in `tcp 443, 10.0.0.0/8`.
    pub text: String,
}

/// Why a policy is not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EditError {
    /// No group has this name or id.
    #[error("there is no security group {}{}", quoted(.name), .meant)]
    NoGroup {
        /// What was given.
        name: String,
        /// What is likely meant; may be empty.
        meant: String,
    },
    /// No rule has this id.
    #[error("there is no rule {}{}", quoted(.id), .meant)]
    NoRule {
        /// What was given.
        id: String,
        /// What is likely meant; may be empty.
        meant: String,
    },
    /// One id is given twice.
    #[error("the rule {0} is named twice")]
    Twice(RuleId),
    /// The same as `InvalidPermission.Duplicate` of the EC2 API: the group has the rule.
    #[error(
        "the security group `{}` has this rule already (InvalidPermission.Duplicate): {}, {} {}",
        .0.group, .0.id, .0.direction.name(), .0.text
    )]
    Duplicate(Box<EditedRule>),
    /// Another rule has the id.
    #[error(
        "the id {} is that of another rule: {} {} of `{}`; leave `id` out, or choose another",
        .0.id, .0.direction.name(), .0.text, .0.group
    )]
    IdTaken(Box<EditedRule>),
    /// The entry cannot be read.
    #[error("the rule cannot be read")]
    Entry(Report),
}

/// Rules that came, and what is likely not meant about them.
#[derive(Clone, Debug)]
pub struct AddedRules {
    /// In the order of the entry's services and peers.
    pub rules: Vec<EditedRule>,
    /// Warnings about the entry.
    pub warnings: Vec<Problem>,
}

/// A policy and what is needed to change single rules of it.
#[derive(Clone, Debug)]
pub struct RuleEditor {
    policy: Arc<Policy>,
    groups: PolicyNames,
    prefix_lists: PolicyNames,
    group_ids: HashMap<GroupId, GroupIndex>,
    by_id: RuleIndex,
    by_content: RuleIndex,
    rules_count: usize,
    /// A word that nothing has may be looked for once more.
    may_search: Cell<bool>,
}

impl RuleEditor {
    /// An editor of a policy; looks at all of it, once.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        let mut editor = Self {
            groups: PolicyNames::new(policy.groups.iter().map(|group| &*group.name)),
            prefix_lists: PolicyNames::new(policy.prefix_lists.iter().map(|list| &*list.name)),
            group_ids: HashMap::new(),
            by_id: RuleIndex::default(),
            by_content: RuleIndex::default(),
            rules_count: policy.count().rules,
            may_search: Cell::new(true),
            policy: Arc::clone(&policy),
        };
        for (index, group) in (0..).map(GroupIndex).zip(&policy.groups) {
            editor.group_ids.insert(group.id.clone(), index);
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in group.rules(direction) {
                    editor.note(index, direction, rule);
                }
            }
        }
        editor
    }

    /// Lets the next name or id that nothing has be compared with what there is. That takes
    /// milliseconds, which one of many wrong changes has, and not each.
    pub fn allow_search(&mut self) {
        self.may_search.set(true);
    }

    /// The policy as it is now.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Adds the rules of an entry to a group that is given by name or id.
    ///
    /// # Errors
    /// See [`EditError`]; nothing has changed then.
    pub fn add(
        &mut self,
        group: &str,
        direction: Direction,
        entry: &Source,
    ) -> Result<AddedRules, EditError> {
        let index = self.find_group(group)?;
        let place = RulePlace {
            group: (index, &self.policy.group(index).name),
            direction,
            rules_count: self.rules_count,
        };
        let Checked {
            value: rules,
            warnings,
            ..
        } = parse_rules(entry, place, &self.groups, &self.prefix_lists)
            .map_err(EditError::Entry)?;
        for rule in &rules {
            if let Some(same) = self.find_same(index, direction, rule) {
                let same = self.edited(index, direction, same);
                return Err(EditError::Duplicate(Box::new(same)));
            }
            if let Some((index, direction, position)) = self.find_rule(rule.id.as_str()) {
                let other = &self.policy.group(index).rules(direction)[position];
                let other = self.edited(index, direction, other);
                return Err(EditError::IdTaken(Box::new(other)));
            }
        }
        let described = rules.iter().map(|rule| self.edited(index, direction, rule));
        let added = AddedRules {
            rules: described.collect(),
            warnings: warnings.problems(),
        };
        for rule in &rules {
            self.note(index, direction, rule);
        }
        self.rules_count += rules.len();
        self.rules_mut(index, direction).extend(rules);
        Ok(added)
    }

    /// Removes rules by their ids, all or none.
    ///
    /// # Errors
    /// See [`EditError`]; nothing has changed then.
    pub fn remove(&mut self, ids: &[String]) -> Result<Vec<EditedRule>, EditError> {
        let mut removed: Vec<EditedRule> = Vec::with_capacity(ids.len());
        let mut seen = hashbrown::HashSet::with_capacity(ids.len());
        for id in ids {
            let (index, direction, position) = self.find_rule(id).ok_or_else(|| {
                let rules = self.policy.groups.iter().flat_map(|group| {
                    let rules = group.ingress.iter().chain(&group.egress);
                    rules.map(|rule| rule.id.as_str())
                });
                EditError::NoRule {
                    id: id.clone(),
                    meant: self.meant(id, rules),
                }
            })?;
            let rule = &self.policy.group(index).rules(direction)[position];
            if !seen.insert(id) {
                return Err(EditError::Twice(rule.id.clone()));
            }
            removed.push(self.edited(index, direction, rule));
        }
        for id in ids {
            // Positions move as rules go.
            let Some((index, direction, position)) = self.find_rule(id) else {
                continue;
            };
            let rule = self.rules_mut(index, direction).remove(position);
            let content = self.content_hash(index, direction, &rule);
            self.by_content.remove(content, index);
            let id = self.by_id.hash(rule.id.as_str());
            self.by_id.remove(id, index);
            self.rules_count -= 1;
        }
        Ok(removed)
    }

    fn meant<'a>(&self, word: &str, known: impl Iterator<Item = &'a str>) -> String {
        if !self.may_search.replace(false) {
            return String::new();
        }
        nearest(word, known.take(NEAREST_MAX)).map_or_else(String::new, |found| {
            format!("; did you mean {}?", quoted(found))
        })
    }

    fn find_group(&self, name: &str) -> Result<GroupIndex, EditError> {
        let by_name = self.groups.find(&name.to_ascii_lowercase());
        let by_id = || self.group_ids.get(&GroupId(name.into())).copied();
        by_name.map(GroupIndex).or_else(by_id).ok_or_else(|| {
            let ids = self.group_ids.keys().map(GroupId::as_str);
            let known = self.groups.iter().chain(ids);
            EditError::NoGroup {
                name: name.to_owned(),
                meant: self.meant(name, known),
            }
        })
    }

    /// Where the rule of an id is: its group, direction and position.
    fn find_rule(&self, id: &str) -> Option<(GroupIndex, Direction, usize)> {
        let hash = self.by_id.hash(id);
        self.by_id.groups(hash).find_map(|index| {
            let group = self.policy.group(index);
            [Direction::Ingress, Direction::Egress]
                .into_iter()
                .find_map(|direction| {
                    let mut rules = group.rules(direction).iter();
                    let position = rules.position(|rule| rule.id.as_str() == id)?;
                    Some((index, direction, position))
                })
        })
    }

    /// The rule of a group that allows the same.
    fn find_same(&self, index: GroupIndex, direction: Direction, rule: &Rule) -> Option<&Rule> {
        let hash = self.content_hash(index, direction, rule);
        let mut groups = self.by_content.groups(hash);
        groups.find(|found| *found == index)?;
        let same = |other: &&Rule| (other.service, other.peer) == (rule.service, rule.peer);
        self.policy.group(index).rules(direction).iter().find(same)
    }

    fn content_hash(&self, index: GroupIndex, direction: Direction, rule: &Rule) -> u64 {
        let content: (GroupIndex, Direction, Service, Peer) =
            (index, direction, rule.service, rule.peer);
        self.by_content.hash(&content)
    }

    fn note(&mut self, index: GroupIndex, direction: Direction, rule: &Rule) {
        let content = self.content_hash(index, direction, rule);
        self.by_content.insert(content, index);
        let id = self.by_id.hash(rule.id.as_str());
        self.by_id.insert(id, index);
    }

    /// The rules of a group, which is copied once if another policy has it too.
    fn rules_mut(&mut self, index: GroupIndex, direction: Direction) -> &mut Vec<Rule> {
        let policy = Arc::make_mut(&mut self.policy);
        let group: &mut SecurityGroup = Arc::make_mut(&mut policy.groups[index.0 as usize]);
        match direction {
            Direction::Ingress => &mut group.ingress,
            Direction::Egress => &mut group.egress,
        }
    }

    fn edited(&self, index: GroupIndex, direction: Direction, rule: &Rule) -> EditedRule {
        EditedRule {
            id: rule.id.clone(),
            group: self.policy.group(index).name.clone(),
            direction,
            text: format!("{}, {}", rule.service, self.policy.peer_text(rule.peer)),
        }
    }
}

/// Groups by a hash of what is in them.
#[derive(Clone, Debug, Default)]
struct RuleIndex {
    table: HashTable<(u64, GroupIndex)>,
    hasher: DefaultHashBuilder,
}

impl RuleIndex {
    fn hash<T: Hash + ?Sized>(&self, value: &T) -> u64 {
        self.hasher.hash_one(value)
    }

    fn insert(&mut self, hash: u64, index: GroupIndex) {
        self.table
            .insert_unique(hash, (hash, index), |(hash, _)| *hash);
    }

    fn remove(&mut self, hash: u64, index: GroupIndex) {
        if let Ok(entry) = self.table.find_entry(hash, |found| *found == (hash, index)) {
            entry.remove();
        }
    }

    /// Groups that something of the hash is in.
    fn groups(&self, hash: u64) -> impl Iterator<Item = GroupIndex> {
        let found = self.table.iter_hash(hash);
        found
            .filter(move |(other, _)| *other == hash)
            .map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests;
