//! Reads `policy.toml`: names first, so that rules and interfaces may refer to what comes later,
//! then groups, prefix lists and interfaces, each in a file of its own.
//!
//! A document is read to its end whatever is wrong with it; a part that cannot be read is left
//! out of the result, which is thrown away when anything was wrong.

mod context;
mod group;
mod interface;
mod lookup;
mod names;
mod prefix;
mod rule;
mod service;

use self::context::Context;
pub(super) use self::lookup::PolicyNames;
use self::rule::RuleReader;
use super::{GroupIndex, Policy, Rule};
use crate::document::{self, Checked, Diagnostic, Diagnostics, Report, Source, Table};
use crate::sync::Arc;
use crate::types::Direction;

/// Keys at the top of the file; a gateway file has none of them.
pub const KEYS: [&str; 3] = ["security_groups", "prefix_lists", "interfaces"];

/// What is known about the links that a policy may name.
#[derive(Clone, Copy, Debug)]
pub enum KnownLinks<'a> {
    /// Nothing: the policy is looked at alone. An interface that names no link then is behind
    /// [`InterfaceLink::Only`](super::InterfaceLink::Only).
    Unknown,
    /// All of them. Each interface then has its link by name, also where there is one link and it
    /// may be left out.
    Names(&'a [String]),
}

/// Reads and checks a policy.
///
/// # Errors
/// With all problems of the document, if it has any that refuse it.
pub fn parse(source: &Source, links: KnownLinks<'_>) -> Result<Checked<Policy>, Report> {
    let mut diagnostics = Diagnostics::new();
    let document = document::read(source, &mut diagnostics);
    let policy = read_policy(&document.root(), links, &mut diagnostics);
    let failed = diagnostics.has_errors();
    let report = Report::new(source, diagnostics.into_sorted());
    if failed {
        return Err(report);
    }
    Ok(Checked {
        value: policy,
        warnings: report,
        notes: Report::new(source, Vec::new()),
    })
}

/// Refuses a policy without any interface: half of a file that is just being written is valid TOML,
/// and would cut off every host.
///
/// # Errors
/// If it has none.
pub fn refuse_empty(source: &Source, policy: &Policy) -> Result<(), Report> {
    if policy.has_interfaces() {
        return Ok(());
    }
    let problem = Diagnostic::error("the policy has no interface, so it would cut off every host")
        .help("add an [interfaces.NAME] table, or say --allow-empty if this is meant");
    Err(Report::new(source, vec![problem]))
}

fn read_policy(root: &Table<'_>, links: KnownLinks<'_>, diagnostics: &mut Diagnostics) -> Policy {
    root.allow("the policy", &KEYS, diagnostics);
    let mut tables = KEYS.map(|key| {
        let table = root.table(key, diagnostics);
        table.map(|table| table.entries()).unwrap_or_default()
    });
    let [groups, prefix_lists, interfaces] = tables.each_mut().map(std::mem::take);
    let mut context = Context::new(links, diagnostics);
    context.name_groups(&groups);
    context.name_prefix_lists(&prefix_lists);
    context.name_interfaces(&interfaces);
    let policy = Policy {
        groups: shared(group::read_groups(&groups, &mut context)),
        prefix_lists: shared(prefix::read_prefix_lists(&prefix_lists, &mut context)),
        interfaces: shared(interface::read_interfaces(&interfaces, &mut context)),
    };
    context.refuse_ids_used_twice(&policy);
    policy
}

/// Where a lone rule entry goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RulePlace<'a> {
    /// Its group, and what that is called.
    pub(super) group: (GroupIndex, &'a str),
    /// Its direction.
    pub(super) direction: Direction,
    /// Rules of the whole policy without it.
    pub(super) rules_count: usize,
}

/// Reads a rule entry that stands alone, in a policy whose groups and prefix lists are known; the
/// rules that it expands to.
pub(super) fn parse_rules(
    source: &Source,
    place: RulePlace<'_>,
    groups: &PolicyNames,
    prefix_lists: &PolicyNames,
) -> Result<Checked<Vec<Rule>>, Report> {
    let mut diagnostics = Diagnostics::new();
    let document = document::read_value(source, &mut diagnostics);
    let entry = document.value();
    let mut context = Context::of_policy(groups, prefix_lists, &mut diagnostics);
    let mut count = place.rules_count;
    let (group, group_name) = place.group;
    let reader = RuleReader {
        group,
        group_name,
        direction: place.direction,
        count: &mut count,
    };
    let rules = reader.read_one(&entry, &mut context);
    let failed = diagnostics.has_errors();
    let report = Report::new(source, diagnostics.into_sorted());
    if failed {
        return Err(report);
    }
    Ok(Checked {
        value: rules,
        warnings: report,
        notes: Report::new(source, Vec::new()),
    })
}

fn shared<T>(parts: Vec<T>) -> Vec<Arc<T>> {
    parts.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests;
