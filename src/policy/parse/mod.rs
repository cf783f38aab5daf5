//! Reads `policy.toml`.

use super::Policy;
use crate::document::{Checked, Diagnostic, Report, Source};

/// What is known about the links that a policy may name.
#[derive(Clone, Copy, Debug)]
pub enum KnownLinks<'a> {
    /// Nothing: the policy is looked at alone.
    Unknown,
    /// All of them.
    Names(&'a [String]),
}

/// Reads and checks a policy.
///
/// # Errors
/// With all problems of the document, if it has any that refuse it.
pub fn parse(source: &Source, links: KnownLinks<'_>) -> Result<Checked<Policy>, Report> {
    let _ = links;
    Err(Report::new(source, vec![Diagnostic::error("not yet read")]))
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
