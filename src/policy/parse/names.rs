//! Names and descriptions: which characters they have, and whether they say anything.
//!
//! "Up to 255 characters in length. Allowed characters are a-z, A-Z, 0-9, spaces, and
//! ._-:/()#,@[]+=&;{}!$*" and "cannot start with sg-": EC2 API reference, `CreateSecurityGroup`.

use crate::document::{Diagnostic, Diagnostics, Table, Text, quoted};
use crate::types::{GroupId, InterfaceId, PrefixListId};

/// Longest name or description.
const LEN_MAX: usize = 255;

/// Characters of names and descriptions beside letters, digits and space.
const SPECIAL: &str = "._-:/()#,@[]+=&;{}!$*";

/// Words that say nothing of a group's purpose, alone or with a number.
const EMPTY_WORDS: [&str; 16] = [
    "sg",
    "secgroup",
    "security-group",
    "securitygroup",
    "group",
    "test",
    "testing",
    "tmp",
    "temp",
    "new",
    "foo",
    "bar",
    "my-sg",
    "launch-wizard",
    "example",
    "untitled",
];

/// What has a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A security group.
    Group,
    /// A prefix list.
    PrefixList,
    /// An interface.
    Interface,
}

impl Kind {
    /// The word in messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Group => "security group",
            Self::PrefixList => "prefix list",
            Self::Interface => "interface",
        }
    }

    /// What its ids begin with, so that no name may.
    fn id_prefix(self) -> &'static str {
        match self {
            Self::Group => GroupId::PREFIX,
            Self::PrefixList => PrefixListId::PREFIX,
            Self::Interface => InterfaceId::PREFIX,
        }
    }
}

/// Reports a name that cannot be one.
pub(super) fn check_name(name: &Text<'_>, kind: Kind, diagnostics: &mut Diagnostics) {
    let noun = kind.noun();
    let quoted = quoted(name.text);
    let problem = if name.text.is_empty() {
        Diagnostic::error(format!("the name of a {noun} is empty")).help("give it a name")
    } else if name.text.starts_with(kind.id_prefix()) {
        let prefix = kind.id_prefix();
        Diagnostic::error(format!("the name {quoted} of a {noun} begins like an id")).help(format!(
            "choose a name without `{prefix}`; an id is written as id = \"…\""
        ))
    } else if name.text.starts_with(' ') || name.text.ends_with(' ') {
        Diagnostic::error(format!("the name {quoted} begins or ends with a space"))
            .help("remove the space")
    } else if let Some(wrong) = wrong_characters(name.text) {
        Diagnostic::error(format!("the name {quoted} {wrong}")).help(allowed())
    } else {
        return;
    };
    diagnostics.push(problem.at(name.span.clone()));
}

/// The description of a table, checked; an empty one is none.
pub(super) fn read_description(
    table: &Table<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Box<str>> {
    let text = table.string("description", diagnostics)?;
    if let Some(wrong) = wrong_characters(text.text) {
        let problem = Diagnostic::error(format!("the description {wrong}"));
        diagnostics.push(problem.at(text.span).help(allowed()));
        return None;
    }
    (!text.text.is_empty()).then(|| text.text.into())
}

/// Whether a group's name says nothing about what it is for.
pub(super) fn names_nothing(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_joint = |character: char| " ._-#".contains(character);
    let is_number = |character: char| character.is_ascii_digit() || is_joint(character);
    let word = name
        .trim_end_matches(is_number)
        .trim_start_matches(is_joint);
    let word = word.replace([' ', '_', '.'], "-");
    word.len() <= 1 || EMPTY_WORDS.contains(&word.as_str())
}

/// What is wrong with the characters of a name or description.
fn wrong_characters(text: &str) -> Option<String> {
    let is_allowed = |character: char| {
        character.is_ascii_alphanumeric() || character == ' ' || SPECIAL.contains(character)
    };
    if let Some(wrong) = text.chars().find(|character| !is_allowed(*character)) {
        return Some(format!("has the character {}", quoted(&wrong.to_string())));
    }
    (text.len() > LEN_MAX).then(|| format!("has {} characters; {LEN_MAX} is the most", text.len()))
}

fn allowed() -> String {
    format!("allowed are at most {LEN_MAX} of a-z, A-Z, 0-9, space and {SPECIAL}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_told_from_names_that_do() {
        for name in [
            "sg1",
            "sg 2",
            "test",
            "Test-12",
            "group-2",
            "launch-wizard-3",
            "a",
            "x1",
            "42",
            "security_group_7",
            "foo",
            "-",
            "my sg",
        ] {
            assert!(names_nothing(name), "{name}");
        }
        for name in [
            "web",
            "db",
            "default",
            "web-1",
            "test-runners",
            "lb",
            "sg-less",
            "ci",
        ] {
            assert!(!names_nothing(name), "{name}");
        }
    }
}
