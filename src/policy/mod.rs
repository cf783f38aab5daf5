//! The policy document: model, reading with located errors, validation, ids, differences.

mod changes;
mod diff;
mod edit;
mod id;
mod model;
mod nearest;
mod parse;
mod share;

pub use changes::{Change, ChangeKind, changes, content_id};
pub use diff::{
    Brief, Diff, DiffError, Enforcement, InterfaceChange, Line, LineKind, Place, Presence,
    ServiceText, Subject, Traffic, diff,
};
pub use edit::{AddedRules, EditError, EditedRule, RuleEditor};
pub use model::{
    Count, GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, Policy, PortRange, PrefixEntry,
    PrefixList, PrefixListIndex, Rule, SecurityGroup, Service,
};
pub use nearest::{Asked, Differing, Field, MISSES_MAX, Miss, nearest_misses};
pub use parse::{KEYS, KnownLinks, parse, refuse_empty};
pub use share::share;

/// The policy that a text without mistakes says.
#[cfg(test)]
pub(crate) fn of_text(text: &str) -> Policy {
    let source = crate::document::Source::new("policy.toml", text);
    let checked = parse(&source, KnownLinks::Unknown);
    checked.unwrap_or_else(|report| panic!("{report}")).value
}
