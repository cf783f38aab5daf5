//! Slots of a policy's rules and interfaces.

use super::error::{CompileError, RULES_MAX};
use super::groups::Difference;
use super::plan::{Before, Plan};
use super::registry::{NoNumber, Registry};
use crate::policy::{Interface, Policy, Rule, SecurityGroup};
use crate::snapshot::owners::INTERFACES_MAX;
use crate::types::{Direction, Generation, InterfaceId, RuleId};

/// Numbers of rules and interfaces.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) rules: Registry<RuleId>,
    pub(super) interfaces: Registry<InterfaceId>,
}

/// What became of the numbers.
#[derive(Debug)]
pub(super) struct Renumbered {
    /// Where the rules of each group of the plan differ, by direction.
    pub(super) rules: Vec<[Difference; 2]>,
    /// Slots that no rule has any more.
    pub(super) rules_leaving: Vec<u32>,
    /// Slots that no interface has any more.
    pub(super) interfaces_leaving: Vec<u32>,
}

impl Numbers {
    /// None given yet.
    pub(super) fn new() -> Self {
        // As many as fit an owner.
        let interfaces = u32::try_from(INTERFACES_MAX).unwrap_or(u32::MAX);
        Self::with_limits(u32::MAX, interfaces)
    }

    /// None given yet, and so many to give.
    pub(super) fn with_limits(rules: u32, interfaces: u32) -> Self {
        Self {
            rules: Registry::new(rules),
            interfaces: Registry::new(interfaces),
        }
    }

    /// The slot of an interface.
    pub(super) fn interface(&self, interface: &Interface) -> Option<u32> {
        self.interfaces.number(&interface.id)
    }

    /// Puts what was assigned in force.
    pub(super) fn commit(&mut self, generation: Generation) {
        self.rules.commit(generation);
        self.interfaces.commit(generation);
    }

    /// Takes back what was assigned.
    pub(super) fn abandon(&mut self) {
        self.rules.abandon();
        self.interfaces.abandon();
    }

    /// Numbers what the plan says; to be committed or abandoned.
    pub(super) fn assign(
        &mut self,
        before: &Before,
        policy: &Policy,
        plan: &Plan,
    ) -> Result<Renumbered, CompileError> {
        check_interfaces(policy.interfaces.len())?;
        if plan.all {
            check_rules(policy.count().rules)?;
            self.rules.take_all();
            self.interfaces.take_all();
        }
        let old = |position: usize| before.groups.get(position).filter(|_| !plan.all);
        let mut rules = Vec::with_capacity(plan.groups.len());
        for position in &plan.groups {
            let differing = match old(*position) {
                Some((old, _)) => differing(old, &policy.groups[*position]),
                None => [Difference::default(); 2],
            };
            if let Some((old, _)) = old(*position) {
                inner(old, differing).for_each(|rule| self.rules.take(&rule.id));
            }
            rules.push(differing);
        }
        for (position, differing) in plan.groups.iter().zip(&rules) {
            for rule in inner(&policy.groups[*position], *differing) {
                self.rules.give(&rule.id).map_err(|error| match error {
                    NoNumber::Twice => CompileError::DuplicateRule(rule.id.clone()),
                    NoNumber::Exhausted => CompileError::SlotsExhausted,
                })?;
            }
        }
        check_rules(self.rules.len())?;
        if !plan.all {
            for position in &plan.interfaces.taken {
                self.interfaces.take(&before.interfaces[*position].0.id);
            }
        }
        for position in &plan.interfaces.given {
            let id = &policy.interfaces[*position].id;
            self.interfaces.give(id).map_err(|error| match error {
                NoNumber::Twice => CompileError::DuplicateInterface(id.clone()),
                NoNumber::Exhausted => CompileError::SlotsExhausted,
            })?;
        }
        Ok(Renumbered {
            rules,
            rules_leaving: self.rules.leaving().collect(),
            interfaces_leaving: self.interfaces.leaving().collect(),
        })
    }
}

fn differing(before: &SecurityGroup, after: &SecurityGroup) -> [Difference; 2] {
    [
        Difference::of(&before.ingress, &after.ingress),
        Difference::of(&before.egress, &after.egress),
    ]
}

fn inner(group: &SecurityGroup, differing: [Difference; 2]) -> impl Iterator<Item = &Rule> {
    let [ingress, egress] = differing;
    let ingress = ingress.inner(group.rules(Direction::Ingress));
    ingress
        .iter()
        .chain(egress.inner(group.rules(Direction::Egress)))
}

fn check_interfaces(count: usize) -> Result<(), CompileError> {
    match count {
        0..=INTERFACES_MAX => Ok(()),
        count => Err(CompileError::TooManyInterfaces {
            count,
            limit: INTERFACES_MAX,
        }),
    }
}

fn check_rules(count: usize) -> Result<(), CompileError> {
    match count {
        0..=RULES_MAX => Ok(()),
        count => Err(CompileError::TooManyRules { count }),
    }
}
