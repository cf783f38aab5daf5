//! Requests and answers about versions of the policy and changes of single rules, as data.

use serde::{Deserialize, Serialize};

use crate::document::Problem;
use crate::types::Direction;

/// Rules to add to a group of the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleAddRequest {
    /// The group's name or id.
    pub group: String,
    /// Which of its lists.
    pub direction: Direction,
    /// An entry as it stands in a policy file: `{ protocol = "tcp", … }`.
    pub entry: String,
    /// How long to wait until every worker uses it, milliseconds.
    pub timeout_ms: u64,
}

/// Rules to remove from the policy in force, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleRemoveRequest {
    /// Their ids.
    pub ids: Vec<String>,
    /// How long to wait until every worker uses it, milliseconds.
    pub timeout_ms: u64,
}

/// A version to go back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its generation, as the history lists it; absent: the version before the one in force.
    #[serde(default)]
    pub generation: Option<u64>,
    /// How long to wait until every worker uses it, milliseconds.
    pub timeout_ms: u64,
}

/// A rule that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its id.
    pub id: String,
    /// Its group's name.
    pub group: String,
    /// Its direction.
    pub direction: Direction,
    /// What it allows, as in `tcp 443, 10.0.0.0/8`.
    pub rule: String,
}

/// What became of a `rule add` or `rule remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChanged {
    /// The generation that has the change.
    pub generation: u64,
    /// The rules that came or went.
    pub rules: Vec<RuleRow>,
    /// Microseconds until it was live on every worker.
    pub microseconds: u64,
    /// Warnings about the entry.
    pub warnings: Vec<Problem>,
}

/// A change that goes back by itself unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Its generation.
    pub generation: u64,
    /// The generation whose content comes back.
    pub rollback_to: u64,
    /// Milliseconds that are left.
    pub left_ms: u64,
    /// Until when, RFC 3339; the gateway goes by its monotonic clock.
    pub deadline: String,
    /// Whether the policy file is replaced once it is confirmed.
    pub saves: bool,
}

/// What was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The generation that stays.
    pub generation: u64,
    /// Whether the policy file was replaced.
    pub saved: bool,
}

/// What became of a `rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The generation in force.
    pub generation: u64,
    /// The generation whose content it has.
    pub content_of: u64,
    /// The content was in force already.
    pub unchanged: bool,
    /// Microseconds until it was live on every worker.
    pub microseconds: u64,
    /// What changes, a line each.
    pub changes: Vec<String>,
}

/// The versions that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub versions: Vec<VersionRow>,
    /// The change that waits to be confirmed: the newest.
    pub confirmation: Option<Confirmation>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its generation; the last one of a run of rule changes.
    pub generation: u64,
    /// The first generation of a run; else the same.
    pub first_generation: u64,
    /// When it came into force, RFC 3339; the last change of a run.
    pub time: String,
    /// `file`, `apply`, `rule-add`, `rule-remove`, `rule-changes` (both), `rollback` or
    /// `auto-rollback`.
    pub source: String,
    /// The document of an `apply`; the generation whose content a rollback brought back.
    pub detail: Option<String>,
    /// Things that came with it; null until they are counted, and for the first version.
    pub added: Option<usize>,
    /// Things that went.
    pub removed: Option<usize>,
    /// Things that are not the same.
    pub changed: Option<usize>,
    /// Rules of all groups.
    pub rules: usize,
    /// Groups.
    pub groups: usize,
    /// Interfaces.
    pub interfaces: usize,
    /// Whether it is the one in force.
    pub in_force: bool,
}
