//! What differs between two policies, for people.
//!
//! Names tell what is the same: a group that is renamed is one that goes and one that comes, as it
//! is for whatever refers to it. A rule is what it allows; its description and id can change.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Interface, InterfaceLink, Policy, PrefixEntry, PrefixList, SecurityGroup};
use crate::types::Direction;

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only the new policy has it.
    Added,
    /// Only the old policy has it.
    Removed,
    /// Both have it, and it is not the same.
    Changed,
}

/// One difference between two policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Change {
    /// How it differs.
    pub kind: ChangeKind,
    /// What, as in ``rule of `web`: ingress tcp 80, 0.0.0.0/0``.
    pub what: String,
}

/// `+`, `-` or `~`, and what.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {}", self.what)
    }
}

/// Lists what the new policy adds, removes and changes: groups with their rules, prefix lists,
/// interfaces. Order alone is no change.
#[must_use]
pub fn changes(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut list = Vec::new();
    compare(
        &old.groups,
        &new.groups,
        |group: &SecurityGroup| lower(&group.name),
        |kind, group| {
            let rules = group.ingress.len() + group.egress.len();
            let noun = if rules == 1 { "rule" } else { "rules" };
            change(
                kind,
                format!("security group `{}`, {rules} {noun}", group.name),
            )
        },
        |old_group, new_group| compare_groups(old, old_group, new, new_group),
        &mut list,
    );
    compare(
        &old.prefix_lists,
        &new.prefix_lists,
        |prefix_list: &PrefixList| lower(&prefix_list.name),
        |kind, prefix_list| {
            let (name, count) = (&prefix_list.name, prefix_list.entries.len());
            let noun = if count == 1 { "entry" } else { "entries" };
            change(kind, format!("prefix list `{name}`, {count} {noun}"))
        },
        compare_prefix_lists,
        &mut list,
    );
    compare(
        &old.interfaces,
        &new.interfaces,
        |interface: &Interface| lower(&interface.name),
        |kind, interface| {
            let addresses = joined(&interface.addresses);
            change(kind, format!("interface `{}`, {addresses}", interface.name))
        },
        |old_interface, new_interface| compare_interfaces(old, old_interface, new, new_interface),
        &mut list,
    );
    list
}

/// 64 hexadecimal digits that stand for all that the policy says, its order and texts included;
/// equal policies have equal ones. For use within one version of the program.
#[must_use]
pub fn content_id(policy: &Policy) -> String {
    use fmt::Write as _;

    /// Feeds what is written to the hash, so that the text is never whole in memory.
    struct Feed(Sha256);
    impl fmt::Write for Feed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }

    let mut feed = Feed(Sha256::new());
    // The derived form names every field and quotes every text, so no two policies look alike. A
    // hash takes all that is written.
    let written = write!(feed, "{policy:?}");
    debug_assert!(written.is_ok(), "a hash refuses nothing");
    feed.0
        .finalize()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Compares two lists by key: what comes in the new one's order, then what goes in the old one's.
fn compare<T, P: Borrow<T>, K: Hash + Eq>(
    old: &[P],
    new: &[P],
    key: impl Fn(&T) -> K,
    one_sided: impl Fn(ChangeKind, &T) -> Change,
    both: impl Fn(&T, &T) -> Vec<Change>,
    list: &mut Vec<Change>,
) {
    let mut left: HashMap<K, &T> = old
        .iter()
        .map(Borrow::borrow)
        .map(|item| (key(item), item))
        .collect();
    for item in new.iter().map(Borrow::borrow) {
        match left.remove(&key(item)) {
            // Shared parts say the same: see share.rs.
            Some(before) if std::ptr::eq(before, item) => {}
            Some(before) => list.extend(both(before, item)),
            None => list.push(one_sided(ChangeKind::Added, item)),
        }
    }
    for item in old
        .iter()
        .map(Borrow::borrow)
        .filter(|item| left.contains_key(&key(item)))
    {
        list.push(one_sided(ChangeKind::Removed, item));
    }
}

fn compare_groups(
    old: &Policy,
    old_group: &SecurityGroup,
    new: &Policy,
    new_group: &SecurityGroup,
) -> Vec<Change> {
    let mut fields = Fields::new(format!("security group `{}`", new_group.name));
    fields.compare("name", &old_group.name, &new_group.name);
    fields.compare("id", &old_group.id, &new_group.id);
    fields.compare_optional(
        "description",
        &old_group.description,
        &new_group.description,
    );
    fields.compare("enforce", &old_group.enforce, &new_group.enforce);
    let mut list = fields.into_changes();
    for direction in [Direction::Ingress, Direction::Egress] {
        let texts = |policy: &Policy, group: &SecurityGroup| -> Vec<RuleText> {
            let rules = group.rules(direction);
            let rules = rules.iter().map(|rule| RuleText {
                text: format!("{}, {}", rule.service, policy.peer_text(rule.peer)),
                id: rule.id.to_string(),
                description: rule.description.clone(),
            });
            rules.collect()
        };
        let what = |rule: &RuleText| {
            format!(
                "rule of `{}`: {} {}",
                new_group.name,
                direction.name(),
                rule.text
            )
        };
        compare(
            &texts(old, old_group),
            &texts(new, new_group),
            |rule: &RuleText| lower(&rule.text),
            |kind, rule| change(kind, what(rule)),
            |before, after| {
                let mut fields = Fields::new(what(after));
                fields.compare("id", &before.id, &after.id);
                fields.compare_optional("description", &before.description, &after.description);
                fields.into_changes()
            },
            &mut list,
        );
    }
    list
}

/// A rule by what it allows, with names for indexes, which differ between policies.
struct RuleText {
    text: String,
    id: String,
    description: Option<Box<str>>,
}

fn compare_prefix_lists(old: &PrefixList, new: &PrefixList) -> Vec<Change> {
    let mut fields = Fields::new(format!("prefix list `{}`", new.name));
    fields.compare("name", &old.name, &new.name);
    fields.compare("id", &old.id, &new.id);
    let mut list = fields.into_changes();
    let what = |cidr| format!("entry of prefix list `{}`: {cidr}", new.name);
    compare(
        &old.entries,
        &new.entries,
        |entry: &PrefixEntry| entry.cidr,
        |kind, entry| change(kind, what(entry.cidr)),
        |before, after| {
            let mut fields = Fields::new(what(after.cidr));
            fields.compare_optional("description", &before.description, &after.description);
            fields.into_changes()
        },
        &mut list,
    );
    list
}

fn compare_interfaces(
    old_policy: &Policy,
    old: &Interface,
    new_policy: &Policy,
    new: &Interface,
) -> Vec<Change> {
    let groups = |policy: &Policy, interface: &Interface| {
        let indexes = interface.groups.iter();
        let names = indexes.map(|index| policy.group(*index).name.to_string());
        names.collect::<Vec<String>>().join(", ")
    };
    let link = |interface: &Interface| match &interface.link {
        InterfaceLink::Named(name) => name.to_string(),
        InterfaceLink::Only => "the only one".to_owned(),
        InterfaceLink::Elsewhere => "none".to_owned(),
    };
    let mut fields = Fields::new(format!("interface `{}`", new.name));
    fields.compare("name", &old.name, &new.name);
    fields.compare("id", &old.id, &new.id);
    fields.compare(
        "addresses",
        &joined(&old.addresses),
        &joined(&new.addresses),
    );
    fields.compare("groups", &groups(old_policy, old), &groups(new_policy, new));
    fields.compare("link", &link(old), &link(new));
    fields.compare_optional("vlan", &old.vlan, &new.vlan);
    fields.compare_optional("vpc_id", &old.vpc_id, &new.vpc_id);
    fields.compare_optional("subnet_id", &old.subnet_id, &new.subnet_id);
    fields.compare_optional("instance_id", &old.instance_id, &new.instance_id);
    for (name, old, new) in [
        ("max_flows", old.limits.max_flows, new.limits.max_flows),
        (
            "new_per_second",
            old.limits.new_per_second,
            new.limits.new_per_second,
        ),
    ] {
        let text = |limit: Option<u32>| limit.map(|limit| limit.to_string().into_boxed_str());
        fields.compare_optional(name, &text(old), &text(new));
    }
    fields.into_changes()
}

/// Differences of the fields of one thing, which become one change.
struct Fields {
    what: String,
    differences: Vec<String>,
}

impl Fields {
    fn new(what: String) -> Self {
        Self {
            what,
            differences: Vec::new(),
        }
    }

    fn compare<T: PartialEq + fmt::Display>(&mut self, name: &str, old: &T, new: &T) {
        if old != new {
            self.differences.push(format!("{name} {old} -> {new}"));
        }
    }

    fn compare_optional<T: PartialEq + fmt::Display>(
        &mut self,
        name: &str,
        old: &Option<T>,
        new: &Option<T>,
    ) {
        let text = |value: &Option<T>| {
            let some = value.as_ref();
            some.map_or_else(|| "none".to_owned(), |value| format!("\"{value}\""))
        };
        self.compare(name, &text(old), &text(new));
    }

    fn into_changes(self) -> Vec<Change> {
        if self.differences.is_empty() {
            return Vec::new();
        }
        let what = format!("{}: {}", self.what, self.differences.join(", "));
        vec![change(ChangeKind::Changed, what)]
    }
}

fn change(kind: ChangeKind, what: String) -> Change {
    Change { kind, what }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::of_text as policy;

    const EXAMPLE: &str = include_str!("../../configs/policy.toml");

    /// Changes from the example to the example with one text for another.
    fn edited(old: &str, new: &str) -> Vec<String> {
        let text = EXAMPLE.replace(old, new);
        assert_ne!(text, EXAMPLE, "{old}");
        let list = changes(&policy(EXAMPLE), &policy(&text));
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_policy_has_no_changes_and_one_content_id() {
        let (one, other) = (policy(EXAMPLE), policy(&format!("# more\n{EXAMPLE}")));
        assert_eq!(changes(&one, &other), []);
        assert_eq!(content_id(&one), content_id(&other));
        assert_eq!(content_id(&one).len(), 64);
    }

    #[test]
    fn each_kind_of_change_is_named() {
        for (old, new, wanted) in [
            (
                "\"8000-8080\"",
                "8000",
                &[
                    "+ rule of `web-server-sg`: ingress tcp 8000, group:lb-sg",
                    "- rule of `web-server-sg`: ingress tcp 8000-8080, group:lb-sg",
                ][..],
            ),
            (
                "ssh from the office",
                "ssh",
                &[
                    "~ rule of `web-server-sg`: ingress tcp 22, prefix-list:admins: description \
                   \"ssh from the office\" -> \"ssh\"",
                ],
            ),
            (
                "enforce = true",
                "enforce = false",
                &["~ security group `web-server-sg`: enforce true -> false"],
            ),
            (
                "[security_groups.lb-sg]",
                "[security_groups.extra]\negress = []\n[security_groups.lb-sg]",
                &["+ security group `extra`, 0 rules"],
            ),
            (
                "198.51.100.0/24",
                "198.51.100.0/25",
                &[
                    "+ entry of prefix list `admins`: 198.51.100.0/25",
                    "- entry of prefix list `admins`: 198.51.100.0/24",
                ],
            ),
            (
                "branch",
                "home",
                &[
                    "~ entry of prefix list `admins`: 2001:db8:1::/48: description \"branch\" -> \
                   \"home\"",
                ],
            ),
            (
                "vlan = 20",
                "",
                &["~ interface `db-1`: vlan \"20\" -> none"],
            ),
            (
                "groups = [\"db-sg\"]",
                "groups = [\"db-sg\", \"lb-sg\"]",
                &["~ interface `db-1`: groups db-sg -> db-sg, lb-sg"],
            ),
            (
                "link = \"none\"",
                "link = \"uplink\"",
                &["~ interface `lb-1`: link none -> uplink"],
            ),
        ] {
            assert_eq!(edited(old, new), wanted, "{old}");
        }
    }

    #[test]
    fn what_comes_and_goes_is_named_once_each() {
        let list = edited("[interfaces.lb-1]", "[interfaces.lb-2]");
        assert_eq!(
            list,
            [
                "+ interface `lb-2`, 10.0.0.5/32, 10.0.0.6/32",
                "- interface `lb-1`, 10.0.0.5/32, 10.0.0.6/32",
            ]
        );
        let all = changes(&Policy::default(), &policy(EXAMPLE));
        assert_eq!(all.len(), 4 + 1 + 3);
        let none = changes(&policy(EXAMPLE), &Policy::default());
        assert_eq!(none.len(), all.len());
    }

    #[test]
    fn order_is_no_change_though_indexes_move() {
        // The groups move by one, so every index in rules and interfaces is another.
        let list = edited(
            "[security_groups.lb-sg]",
            "[security_groups.a1b2]\negress = []\n[security_groups.lb-sg]",
        );
        assert_eq!(list, ["+ security group `a1b2`, 0 rules"]);
    }

    #[test]
    fn any_difference_gives_another_content_id() {
        let base = content_id(&policy(EXAMPLE));
        for (old, new) in [
            ("vlan = 20", "vlan = 21"),
            ("branch", "home"),
            ("enforce = true", "enforce = false"),
            ("8000-8080", "8000-8081"),
            ("10.0.0.5", "10.0.0.7"),
        ] {
            assert_ne!(
                content_id(&policy(&EXAMPLE.replace(old, new))),
                base,
                "{old}"
            );
        }
    }
}
