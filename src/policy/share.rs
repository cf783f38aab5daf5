//! Parts that a policy has in common with the one before are kept once.
//!
//! A part that is shared says the same in both policies: its content is equal, and the groups and
//! prefix lists that its indexes stand for have the same names. So whoever finds one pointer in two
//! policies of a line need not look inside.

use hashbrown::{HashMap, HashSet};

use super::{GroupIndex, Interface, Peer, Policy, PrefixListIndex, SecurityGroup};
use crate::sync::Arc;

/// Replaces the parts of `next` that `before` has too by those of `before`.
pub fn share(before: &Policy, next: &mut Policy) {
    let same_groups = same_positions(&before.groups, &next.groups, |group| &group.name);
    let same_lists = same_positions(&before.prefix_lists, &next.prefix_lists, |list| &list.name);
    let stays = |peer: &Peer| match peer {
        Peer::Cidr4(_) | Peer::Cidr6(_) => true,
        Peer::Group(GroupIndex(index)) => same_groups.contains(index),
        Peer::PrefixList(PrefixListIndex(index)) => same_lists.contains(index),
    };
    share_parts(
        &before.groups,
        &mut next.groups,
        |group| &group.name,
        |group: &SecurityGroup| {
            let mut rules = group.ingress.iter().chain(&group.egress);
            rules.all(|rule| stays(&rule.peer))
        },
    );
    share_parts(
        &before.prefix_lists,
        &mut next.prefix_lists,
        |list| &list.name,
        |_| true,
    );
    share_parts(
        &before.interfaces,
        &mut next.interfaces,
        |interface| &interface.name,
        |interface: &Interface| {
            let mut groups = interface.groups.iter();
            groups.all(|index| same_groups.contains(&index.0))
        },
    );
}

/// Indexes at which both have the same name.
fn same_positions<T>(
    before: &[Arc<T>],
    next: &[Arc<T>],
    name: impl Fn(&T) -> &str,
) -> HashSet<u32> {
    (0..)
        .zip(before.iter().zip(next))
        .filter(|(_, (one, other))| name(one) == name(other))
        .map(|(index, _)| index)
        .collect()
}

fn share_parts<T: PartialEq>(
    before: &[Arc<T>],
    next: &mut [Arc<T>],
    name: impl Fn(&T) -> &str,
    stays: impl Fn(&T) -> bool,
) {
    let known: HashMap<&str, &Arc<T>> = before.iter().map(|part| (name(part), part)).collect();
    for part in next {
        if let Some(same) = known.get(name(part))
            && **same == *part
            && stays(part)
        {
            *part = Arc::clone(same);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::of_text as policy;

    const EXAMPLE: &str = include_str!("../../configs/policy.toml");

    /// Names of groups and interfaces that the edited example has in common with the example.
    fn shared(old: &str, new: &str) -> Vec<String> {
        let before = policy(EXAMPLE);
        let mut next = policy(&EXAMPLE.replacen(old, new, 1));
        let alone = next.clone();
        share(&before, &mut next);
        assert_eq!(next, alone, "the content is what it was");
        let groups = next.groups.iter().filter(|group| {
            let mut before = before.groups.iter();
            before.any(|other| Arc::ptr_eq(group, other))
        });
        let interfaces = next.interfaces.iter().filter(|interface| {
            let mut before = before.interfaces.iter();
            before.any(|other| Arc::ptr_eq(interface, other))
        });
        groups
            .map(|group| group.name.to_string())
            .chain(interfaces.map(|interface| interface.name.to_string()))
            .collect()
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let all = [
            "web-server-sg",
            "lb-sg",
            "db-sg",
            "default",
            "web-1",
            "db-1",
            "lb-1",
        ];
        let mut same = shared("", "# more\n");
        same.sort_unstable();
        let mut wanted = all.map(str::to_owned).to_vec();
        wanted.sort_unstable();
        assert_eq!(same, wanted);
        let without_one = shared("8000-8080", "8000-8081");
        assert_eq!(without_one.len(), all.len() - 1);
        assert!(!without_one.contains(&"web-server-sg".to_owned()));
    }

    #[test]
    fn a_part_whose_indexes_mean_something_else_is_not_shared() {
        // Both groups trade names: the indexes in rules and interfaces are the same numbers.
        let text = |one: &str, other: &str| {
            format!(
                "[security_groups.{one}]\ndescription = \"x\"\ningress = []\n\
                 [security_groups.{other}]\ndescription = \"x\"\ningress = []\n\
                 [security_groups.user]\ndescription = \"x\"\n\
                 ingress = [{{ protocol = \"all\", from = [\"group:a\"], \
                 id = \"sgr-12345678\" }}]\n\
                 [security_groups.swap]\ndescription = \"x\"\n\
                 ingress = [{{ protocol = \"all\", from = [\"group:{one}\"], \
                 id = \"sgr-12345679\" }}]\n\
                 [interfaces.i]\naddresses = [\"10.0.0.1\"]\ngroups = [\"{one}\"]\n"
            )
        };
        let before = policy(&text("a", "b"));
        let mut next = policy(&text("b", "a"));
        share(&before, &mut next);
        let find = |policy: &Policy, name: &str| {
            let mut groups = policy.groups.iter();
            Arc::clone(groups.find(|group| &*group.name == name).unwrap())
        };
        // Equal as numbers, another group by meaning.
        assert_eq!(find(&before, "swap"), find(&next, "swap"));
        assert!(!Arc::ptr_eq(&find(&before, "swap"), &find(&next, "swap")));
        assert_eq!(before.interfaces, next.interfaces);
        assert!(!Arc::ptr_eq(&before.interfaces[0], &next.interfaces[0]));
        assert!(Arc::ptr_eq(&find(&before, "a"), &find(&next, "a")));
    }
}
