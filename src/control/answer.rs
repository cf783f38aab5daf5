//! What answers are made of: JSON lines, refusals and their texts.

use std::time::Duration;

use serde::Serialize;

use super::command::Refusal;
use crate::document::Report;
use crate::policy::Change;

/// How long what nobody waits for (SIGHUP, file watch, going back by itself) waits for the workers
/// before it says that one is late.
pub(super) const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One answer as a line of JSON, or a refusal; nothing in force has changed then, unless it says
/// that a worker is late.
pub type Answer = Result<String, Refusal>;

/// Straight to text: a tree of values takes ten times the memory of what it says.
pub(super) fn answer<T: Serialize>(value: &T) -> Answer {
    let text = serde_json::to_string(value);
    text.map_err(|error| Refusal::new(format!("the answer could not be written: {error}")))
}

pub(super) fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

/// The refusal of a document.
pub(super) fn refused(report: &Report) -> Refusal {
    let count = report.errors_count();
    let plural = if count == 1 { "" } else { "s" };
    Refusal {
        message: format!("refused, the policy in force stays: {count} error{plural}"),
        problems: report.problems(),
    }
}

/// An error with its sources, on one line.
pub(super) fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // Bound: error chains are as deep as our error types nest.
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
