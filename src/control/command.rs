//! Everything that may be asked of a running gateway, as data. One JSON object a line on the
//! control socket; `{"ok": …}` or `{"error": …}` comes back.

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use super::flow_filter::FlowFilter;
use super::version_commands::{Confirmation, RollbackRequest, RuleAddRequest, RuleRemoveRequest};
use crate::document::Problem;
use crate::policy::Diff;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Health and counters.
    Status,
    /// Put a policy in force, or say what that would change.
    Apply(ApplyRequest),
    /// What the policy in force says of a packet.
    Explain(ExplainRequest),
    /// Live flows.
    Flows(FlowsRequest),
    /// Add rules to a group of the policy in force.
    RuleAdd(RuleAddRequest),
    /// Remove rules of the policy in force.
    RuleRemove(RuleRemoveRequest),
    /// Keep the change that waits to be confirmed.
    Confirm,
    /// The versions of the policy that are kept.
    History,
    /// Go back to a former version.
    Rollback(RollbackRequest),
}

/// A policy to put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// What errors call the document.
    pub name: String,
    /// The document.
    pub text: String,
    /// Change nothing; say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Replace the configured policy file too.
    #[serde(default)]
    pub save: bool,
    /// How long to wait until every worker uses it, milliseconds.
    pub timeout_ms: u64,
    /// Accept a policy without any interface.
    #[serde(default)]
    pub allow_empty: bool,
    /// Go back by itself unless it is confirmed within so many milliseconds.
    #[serde(default)]
    pub confirm_within_ms: Option<u64>,
}

/// A packet to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Who sends it.
    pub from: Endpoint,
    /// Who receives it.
    pub to: Endpoint,
    /// IP protocol number.
    pub protocol: u8,
    /// ICMP type.
    #[serde(default, rename = "type")]
    pub kind: Option<u8>,
    /// ICMP code.
    #[serde(default)]
    pub code: Option<u8>,
}

/// Which flows to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsRequest {
    /// Only these.
    #[serde(default)]
    pub filter: FlowFilter,
    /// At most so many; 0 = as many as one answer may have.
    #[serde(default)]
    pub limit: usize,
    /// Where to go on: an earlier answer's `next`.
    #[serde(default)]
    pub from: Option<FlowCursor>,
    /// End them, and list those that it ended: their next packets are judged as first ones.
    #[serde(default)]
    pub end: bool,
    /// With `end` and an empty filter: every flow is meant.
    #[serde(default)]
    pub all: bool,
}

/// A place in the tables of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowCursor {
    /// Whose table.
    pub worker: u16,
    /// Slot of that table.
    pub slot: u32,
}

/// What became of an `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation in force (a dry run: before and after).
    pub generation: u64,
    /// The same content was in force already, or nothing was to be changed (a dry run).
    pub unchanged: bool,
    /// Microseconds from the parsed document to live on every worker.
    pub microseconds: u64,
    /// What changes, a line each.
    pub changes: Vec<String>,
    /// Live flows that end with it (a dry run only).
    pub ended_flows: Option<u64>,
    /// Other live flows that the rules would no longer admit (a dry run only). Whether they live on
    /// is up to `on_rule_removed`.
    #[serde(default)]
    pub refused_flows: Option<u64>,
    /// What traffic is gained and lost (a dry run only), shortened.
    #[serde(default)]
    pub traffic: Option<Diff>,
    /// Why that cannot be said (a dry run only).
    #[serde(default)]
    pub traffic_error: Option<String>,
    /// Warnings about the document.
    pub warnings: Vec<Problem>,
    /// It goes back unless it is confirmed.
    #[serde(default)]
    pub confirmation: Option<Confirmation>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// One line.
    pub message: String,
    /// Located problems of a document.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// A refusal of one line.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            problems: Vec::new(),
        }
    }
}
