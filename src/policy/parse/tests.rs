//! What a policy may say and what becomes of it: rules, peers, defaults, ids.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::document::Severity;
use crate::policy::{
    GroupIndex, IcmpMatch, InterfaceLink, Peer, PortRange, PrefixListIndex, Service,
};
use crate::types::FlowLimits;

mod elsewhere;
mod problems;
mod warnings;

/// The example of the documentation, with all that a policy can say.
const EXAMPLE: &str = include_str!("../../../configs/policy.toml");

fn read(text: &str, links: KnownLinks<'_>) -> Result<Checked<Policy>, Report> {
    parse(&Source::new("p.toml", text), links)
}

fn good(text: &str) -> Policy {
    read(text, KnownLinks::Unknown)
        .unwrap_or_else(|report| panic!("{text}\n{report}"))
        .value
}

/// Rules of the first group, as text.
fn ingress(rule: &str) -> Vec<String> {
    let policy = good(&format!(
        "[security_groups.web]\ndescription = \"d\"\ningress = [{rule}]\n\
         [security_groups.db]\ndescription = \"d\"\n[prefix_lists.admins]\nentries = []\n"
    ));
    let rules = &policy.groups[0].ingress;
    rules
        .iter()
        .map(|rule| format!("{} from {}", rule.service, policy.peer_text(rule.peer)))
        .collect()
}

#[test]
fn the_example_is_read_as_it_is_meant() {
    let checked = read(EXAMPLE, KnownLinks::Names(&["uplink".to_owned()])).unwrap();
    assert!(checked.warnings.is_empty(), "{}", checked.warnings);
    let policy = checked.value;
    let names: Vec<&str> = policy.groups.iter().map(|group| &*group.name).collect();
    assert_eq!(names, ["lb-sg", "web-server-sg", "db-sg", "default"]);
    let web = &policy.groups[1];
    assert_eq!(web.description.as_deref(), Some("Public web tier"));
    assert!(web.enforce);
    let rules: Vec<String> = web
        .ingress
        .iter()
        .map(|rule| format!("{} {}", rule.service, policy.peer_text(rule.peer)))
        .collect();
    assert_eq!(
        rules,
        [
            "tcp 80 0.0.0.0/0",
            "tcp 80 ::/0",
            "tcp 443 0.0.0.0/0",
            "tcp 443 ::/0",
            "tcp 22 prefix-list:admins",
            "tcp 8000-8080 group:lb-sg",
            "icmp type 8 code 0 10.0.0.0/8",
            "icmpv6 type 128 code 0 2001:db8::/32",
        ]
    );
    assert_eq!(
        web.ingress[3].description.as_deref(),
        Some("web from anywhere")
    );
    assert_eq!(web.ingress[5].description, None);
    let all_out: Vec<String> = web
        .egress
        .iter()
        .map(|rule| format!("{} {}", rule.service, policy.peer_text(rule.peer)))
        .collect();
    assert_eq!(all_out, ["all 0.0.0.0/0", "all ::/0"]);
    let db = &policy.groups[2];
    assert_eq!(db.ingress[1].peer, Peer::Group(GroupIndex(2)));
    assert_eq!(db.egress.len(), 1);
    let admins = &policy.prefix_lists[0];
    assert_eq!(admins.entries[1].cidr.to_string(), "2001:db8:1::/48");
    assert_eq!(admins.entries[1].description.as_deref(), Some("branch"));
    let db_1 = &policy.interfaces[1];
    assert_eq!(db_1.link, InterfaceLink::Named("uplink".into()));
    assert_eq!(
        (db_1.vlan, db_1.groups.as_slice()),
        (Some(20), &[GroupIndex(2)][..])
    );
    assert_eq!(db_1.vpc_id.as_deref(), Some("vpc-0123456789abcdef0"));
    assert_eq!(policy.interfaces[2].link, InterfaceLink::Elsewhere);
    assert_eq!(
        policy.interfaces[0].addresses[1].to_string(),
        "2001:db8::10/128"
    );
    assert_eq!(policy.count().interfaces, 3);
}

#[test]
fn every_policy_in_configs_is_good() {
    for (name, links) in [
        ("policy.toml", &["uplink".to_owned()][..]),
        (
            "demo/policy.toml",
            &["demo".to_owned(), "data".to_owned()][..],
        ),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("configs")
            .join(name);
        let source = Source::read(&path).unwrap();
        let checked = parse(&source, KnownLinks::Names(links));
        let checked = checked.unwrap_or_else(|report| panic!("{report}"));
        assert!(checked.warnings.is_empty(), "{}", checked.warnings);
        assert!(refuse_empty(&source, &checked.value).is_ok());
    }
}

#[test]
fn services_are_read_in_every_form() {
    let cases = [
        ("protocol = \"tcp\"", "tcp 0-65535"),
        ("protocol = 6, ports = 80", "tcp 80"),
        ("protocol = 17, ports = \"53\"", "udp 53"),
        ("protocol = \"udp\", ports = \" 5 - 7 \"", "udp 5-7"),
        ("protocol = \"tcp\", ports = \"0-65535\"", "tcp 0-65535"),
        ("protocol = \"tcp\", ports = 0", "tcp 0"),
        ("protocol = \"icmp\"", "icmp"),
        ("protocol = 1, type = 3", "icmp type 3"),
        ("protocol = 1, type = 3, code = -1", "icmp type 3"),
        ("protocol = 1, type = -1, code = -1", "icmp"),
        ("protocol = 1, code = -1", "icmp"),
        (
            "protocol = 58, type = 128, code = 0",
            "icmpv6 type 128 code 0",
        ),
        ("protocol = \"all\"", "all"),
        ("protocol = 47", "protocol 47"),
        ("protocol = 0", "protocol 0"),
    ];
    for (service, wanted) in cases {
        let found = ingress(&format!("{{ {service}, from = [\"self\"] }}"));
        assert_eq!(found, [format!("{wanted} from group:web")], "{service}");
    }
}

#[test]
fn an_entry_expands_to_a_rule_for_each_port_and_peer() {
    let rule = "{ protocol = \"tcp\", ports = [1, \"3-4\"], from = [\"10.0.0.0/8\", \
                \"GROUP:x\", \"::/0\"] }";
    let text = format!("[security_groups.web]\ningress = [{rule}]\n");
    assert!(
        read(&text, KnownLinks::Unknown).is_err(),
        "the leading word is in lower case"
    );
    let rule = "{ protocol = \"tcp\", ports = [1, \"3-4\"], from = [\"10.0.0.0/8\", \
                \"group:DB\", \"prefix-list:Admins\"] }";
    assert_eq!(
        ingress(rule),
        [
            "tcp 1 from 10.0.0.0/8",
            "tcp 1 from group:db",
            "tcp 1 from prefix-list:admins",
            "tcp 3-4 from 10.0.0.0/8",
            "tcp 3-4 from group:db",
            "tcp 3-4 from prefix-list:admins",
        ]
    );
}

#[test]
fn absent_and_empty_egress_are_not_the_same() {
    let policy = good("[security_groups.a]\n[security_groups.b]\negress = []\n");
    assert_eq!(policy.groups[0].egress.len(), 2);
    assert_eq!(policy.groups[0].ingress.len(), 0);
    assert!(policy.groups[1].egress.is_empty());
}

#[test]
fn the_default_group_is_there_and_used() {
    let policy = good("[interfaces.i]\naddresses = \"10.0.0.1\"\n");
    let default = &policy.groups[0];
    assert_eq!(&*default.name, "default");
    assert_eq!(default.ingress.len(), 1);
    assert_eq!(default.ingress[0].service, Service::All);
    assert_eq!(default.ingress[0].peer, Peer::Group(GroupIndex(0)));
    assert_eq!(default.egress.len(), 2);
    assert_eq!(policy.interfaces[0].groups, [GroupIndex(0)]);
    assert_eq!(policy.interfaces[0].link, InterfaceLink::Only);

    let own = good(
        "[security_groups.a]\n[security_groups.Default]\negress = []\n\
         [interfaces.i]\naddresses = [\"10.0.0.1\"]\ngroups = []\n",
    );
    assert_eq!(
        own.groups.len(),
        2,
        "the document's own is not joined by another"
    );
    assert_eq!(own.interfaces[0].groups, [GroupIndex(1)]);
    assert!(own.groups[1].ingress.is_empty());
}

#[test]
fn names_with_odd_characters_are_found() {
    let policy = good(
        "[security_groups.\"a:b [x] $*\"]\ndescription = \"d\"\n\
         ingress = [{ protocol = \"all\", from = \"group:A:B [X] $*\" }]\n",
    );
    assert_eq!(policy.groups[0].ingress[0].peer, Peer::Group(GroupIndex(0)));
}

#[test]
fn host_bits_are_cleared_and_duplicates_are_found_after_that() {
    let text = "[security_groups.web]\ndescription = \"d\"\ningress = [\n\
         { protocol = \"all\", from = [\"10.1.2.3/8\"] },\n\
         { protocol = \"all\", from = [\"10.0.0.0/8\"], description = \"again\" },\n]\n";
    let checked = read(text, KnownLinks::Unknown).unwrap();
    assert_eq!(checked.value.groups[0].ingress.len(), 1);
    let report = checked.warnings.to_string();
    assert!(report.contains("p.toml:4:29: warning: 10.1.2.3/8 has host bits; 10.0.0.0/8 is used"));
    assert!(
        report.contains("p.toml:5:1: warning: the group has this rule already"),
        "{report}"
    );
    assert!(report.contains("p.toml:4:1: note: first here"), "{report}");
}

#[test]
fn links_are_resolved_when_they_are_known() {
    let text = "[interfaces.i]\naddresses = \"10.0.0.1\"\n";
    let link = |text: &str, links: &[&str]| {
        let links: Vec<String> = links.iter().map(ToString::to_string).collect();
        let checked = read(text, KnownLinks::Names(&links));
        checked.map(|checked| checked.value.interfaces[0].link.clone())
    };
    assert_eq!(
        link(text, &["a"]).unwrap(),
        InterfaceLink::Named("a".into())
    );
    assert!(link(text, &["a", "b"]).is_err());
    let named = format!("{text}link = \"b\"\n");
    assert_eq!(
        link(&named, &["a", "b"]).unwrap(),
        InterfaceLink::Named("b".into())
    );
    assert!(link(&named, &["a"]).is_err());
    let none = format!("{text}link = \"none\"\n");
    assert_eq!(link(&none, &["a", "b"]).unwrap(), InterfaceLink::Elsewhere);
}

#[test]
fn one_address_may_have_an_owner_in_each_link_and_vlan() {
    let two = |one: &str, other: &str| {
        format!(
            "[interfaces.i]\naddresses = \"10.0.0.1\"\n{one}\n\
             [interfaces.j]\naddresses = \"10.0.0.1/32\"\n{other}\n"
        )
    };
    good(&two("link = \"a\"", "link = \"b\""));
    good(&two("vlan = 1", "vlan = 2"));
    good(&two("vlan = 1", ""));
    good(&two("link = \"none\"", "link = \"b\""));
    assert!(read(&two("", ""), KnownLinks::Unknown).is_err());
    assert!(read(&two("link = \"a\"", ""), KnownLinks::Unknown).is_err());
    assert!(read(&two("link = \"a\"", "link = \"a\""), KnownLinks::Unknown).is_err());
    let nested = "[interfaces.i]\naddresses = [\"10.0.0.0/8\", \"10.1.0.0/16\", \"10.0.0.0\"]\n";
    assert_eq!(good(nested).interfaces[0].addresses.len(), 3);
}

#[test]
fn a_policy_without_interfaces_is_good_and_refused() {
    let source = Source::new("p.toml", "");
    let checked = parse(&source, KnownLinks::Unknown).unwrap();
    let report = refuse_empty(&source, &checked.value).unwrap_err();
    assert!(report.to_string().contains("--allow-empty"));
}

#[test]
fn given_ids_are_kept() {
    let policy = good(
        "[security_groups.web]\nid = \"sg-0123abcd\"\n\
         ingress = [{ protocol = \"all\", from = \"self\", id = \"sgr-0123456789abcdef0\" }]\n\
         [prefix_lists.l]\nid = \"pl-01234567\"\nentries = []\n\
         [interfaces.i]\nid = \"eni-01234567\"\naddresses = \"10.0.0.1\"\n",
    );
    assert_eq!(policy.groups[0].id.as_str(), "sg-0123abcd");
    assert_eq!(
        policy.groups[0].ingress[0].id.as_str(),
        "sgr-0123456789abcdef0"
    );
    assert_eq!(policy.prefix_lists[0].id.as_str(), "pl-01234567");
    assert_eq!(policy.interfaces[0].id.as_str(), "eni-01234567");
}

#[test]
fn derived_ids_never_change() {
    // Users write these into their own files: the values may never change.
    let policy = good(EXAMPLE);
    let group = &policy.groups[1];
    assert_eq!(group.id.as_str(), "sg-84a4675ef1f464056");
    assert_eq!(group.ingress[0].id.as_str(), "sgr-cf8e6f1e710749358");
    assert_eq!(group.ingress[4].id.as_str(), "sgr-0ca6a250d3fd670f0");
    assert_eq!(policy.prefix_lists[0].id.as_str(), "pl-e4a1f4a0ba7d9805f");
    assert_eq!(policy.interfaces[0].id.as_str(), "eni-1d80f79ef7bfedad5");
}

#[test]
fn a_rule_keeps_its_id_whatever_else_changes() {
    let rule = good(EXAMPLE).groups[1].ingress[5].id.clone();
    let edits = [
        (
            "{ protocol = \"tcp\", ports = \"8000-8080\", from = [\"group:lb-sg\"] },",
            "{ protocol = 6, ports = [\"8000-8080\"], from = \"group:LB-SG\", \
               description = \"x\" },",
        ),
        (
            "{ protocol = \"tcp\", ports = [80, 443], from = [\"0.0.0.0/0\", \"::/0\"], \
          description = \"web from anywhere\" },",
            "",
        ),
        (
            "[security_groups.web-server-sg]",
            "[security_groups.Web-Server-SG]",
        ),
        (
            "[prefix_lists.admins]",
            "[security_groups.more]\n[prefix_lists.admins]",
        ),
    ];
    for (old, new) in edits {
        let text = EXAMPLE.replace(old, new);
        assert_ne!(text, EXAMPLE, "{old}");
        let policy = good(&text);
        let group = &policy.groups[1];
        let kept = group.ingress.iter().find(|one| one.id == rule);
        assert_eq!(kept.unwrap().service.to_string(), "tcp 8000-8080", "{new}");
    }
}

#[test]
fn rules_that_differ_have_ids_that_differ() {
    let policy = good(EXAMPLE);
    let mut ids: Vec<&str> = policy
        .groups
        .iter()
        .flat_map(|group| group.ingress.iter().chain(&group.egress))
        .map(|rule| rule.id.as_str())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn too_many_rules_are_refused_before_they_are_made() {
    let ports: Vec<String> = (0..2_000).map(|port| port.to_string()).collect();
    let peers: Vec<String> = (0..2_000)
        .map(|index| format!("\"10.{}.{}.0/24\"", index / 256, index % 256))
        .collect();
    let entry = format!(
        "{{ protocol = \"tcp\", ports = [{}], from = [{}] }}",
        ports.join(","),
        peers.join(",")
    );
    let text = format!("[security_groups.web]\ningress = [{entry},\n{entry}]\n");
    let report = read(&text, KnownLinks::Unknown).unwrap_err();
    assert_eq!(report.errors_count(), 1);
    assert!(report.to_string().contains("there are over 1000000 rules"));
}

#[test]
fn many_warnings_of_a_kind_are_one_line() {
    let text: String = (0..50)
        .map(|index| format!("[security_groups.web{index}x]\n"))
        .collect();
    let checked = read(&text, KnownLinks::Unknown).unwrap();
    assert_eq!(
        checked.warnings.to_string(),
        "p.toml:1:18: warning: 50 security groups have no description; the first: the security \
         group `web0x` has no description (write description = \"what its members do\")"
    );
}

/// Parts that a mutated policy is made of.
const PARTS: &[&str] = &[
    "[security_groups.",
    "[prefix_lists.",
    "[interfaces.",
    "a]\n",
    "default]\n",
    "ingress = [",
    "egress = []\n",
    "{ protocol = ",
    "\"tcp\"",
    "\"icmp\"",
    "-1",
    "ports = ",
    "\"1-2\"",
    "]\n",
    "from = ",
    "to = ",
    "\"self\"",
    "\"group:a\"",
    "\"10.0.0.1/8\"",
    ", ",
    " }",
    "type = 3",
    "addresses = ",
    "\"10.0.0.1\"",
    "link = \"none\"\n",
    "vlan = 7\n",
    "id = \"sg-01234567\"\n",
    "entries = [",
    "\"::/0\"",
    "\0",
    "\u{feff}",
    "é",
    "\"",
    "[",
    "\n",
];

fn any_text() -> impl Strategy<Value = String> {
    let parts = proptest::collection::vec(proptest::sample::select(PARTS), 0..40);
    prop_oneof![any::<String>(), parts.prop_map(|parts| parts.concat())]
}

/// A good policy with pieces cut out, doubled or put elsewhere.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..4_usize,
        any_text(),
    );
    proptest::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (from, to, what, other) in edits {
            let (from, to) = (from.index(text.len() + 1), to.index(text.len() + 1));
            let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 40));
            let piece: Vec<char> = text[from..to].to_vec();
            match what {
                0 => drop(text.drain(from..to)),
                1 => drop(text.splice(from..from, piece)),
                2 => drop(text.splice(from..to, other.chars())),
                _ => text.reverse(),
            }
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any_text(), mutated()]) {
        for links in [KnownLinks::Unknown, KnownLinks::Names(&["uplink".to_owned()])] {
            match read(&text, links) {
                Ok(checked) => prop_assert_eq!(checked.warnings.errors_count(), 0),
                Err(report) => {
                    prop_assert!(report.errors_count() > 0);
                    for problem in report.problems() {
                        prop_assert!(problem.line > 0 && !problem.message.is_empty());
                        prop_assert!(
                            problem.severity != Severity::Error || !problem.help.is_empty()
                        );
                    }
                }
            }
        }
    }

    /// Ids do not depend on the order of groups, nor on what else there is.
    #[test]
    fn ids_are_stable(
        order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        keep in 1..6_usize,
    ) {
        let group = |index: usize| format!(
            "[security_groups.tier-x{index}]\ningress = [{{ protocol = \"tcp\", ports = {index}, \
             from = [\"self\", \"10.0.0.0/8\"] }}]\n"
        );
        let all = good(&(0..6).map(group).collect::<String>());
        let some = good(&order.iter().take(keep).map(|index| group(*index)).collect::<String>());
        for group in &some.groups {
            let same = all.groups.iter().find(|other| other.name == group.name).unwrap();
            prop_assert_eq!(&same.id, &group.id);
            let ids = |rules: &[crate::policy::Rule]| -> Vec<String> {
                rules.iter().map(|rule| rule.id.to_string()).collect()
            };
            prop_assert_eq!(ids(&same.ingress), ids(&group.ingress));
            prop_assert_eq!(ids(&same.egress), ids(&group.egress));
        }
    }

    /// What is read is what a slow reading of the same numbers gives.
    #[test]
    fn ranges_are_read_as_written(from in any::<u16>(), to in any::<u16>()) {
        let text = format!(
            "[security_groups.web]\ningress = [{{ protocol = \"tcp\", ports = \"{from}-{to}\", \
             from = \"self\" }}]\n"
        );
        match read(&text, KnownLinks::Unknown) {
            Ok(checked) => {
                let service = checked.value.groups[0].ingress[0].service;
                prop_assert_eq!(service, Service::Tcp(PortRange { from, to }));
                prop_assert!(from <= to);
            }
            Err(_) => prop_assert!(from > to),
        }
    }
}

#[test]
fn a_type_of_all_has_a_code_of_all() {
    let policy = good(
        "[security_groups.web]\ningress = [{ protocol = \"icmp\", type = -1, code = 3, \
         from = [\"prefix-list:l\"] }]\n[prefix_lists.l]\nentries = []\n",
    );
    let rule = &policy.groups[0].ingress[0];
    let all = IcmpMatch {
        kind: None,
        code: None,
    };
    assert_eq!(rule.service, Service::Icmp(all));
    assert_eq!(rule.peer, Peer::PrefixList(PrefixListIndex(0)));
}

#[test]
fn an_interface_has_the_limits_that_it_names() {
    let limits = |text: &str| {
        let text = format!("[interfaces.web-1]\naddresses = [\"10.0.0.1\"]\n{text}");
        good(&text).interfaces[0].limits
    };
    let own = |max_flows, new_per_second| FlowLimits {
        max_flows,
        new_per_second,
    };
    assert_eq!(limits(""), own(None, None));
    assert_eq!(limits("limits = {}"), own(None, None));
    assert_eq!(limits("limits.max_flows = 500"), own(Some(500), None));
    let both = "limits = { max_flows = 0, new_per_second = 50 }";
    assert_eq!(limits(both), own(Some(0), Some(50)));
}

#[test]
fn more_limits_than_workers_have_room_for_are_refused_once() {
    let text = |count: usize| {
        let interface = |number| {
            format!(
                "[interfaces.i{number}]\naddresses = [\"10.0.{}.{}\"]\n\
                 limits = {{ max_flows = 1 }}\n",
                number / 256,
                number % 256
            )
        };
        (0..count).map(interface).collect::<String>()
    };
    good(&text(FlowLimits::INTERFACES_MAX));
    let refused = read(&text(FlowLimits::INTERFACES_MAX + 2), KnownLinks::Unknown);
    let report = refused.unwrap_err();
    assert_eq!(report.errors_count(), 1);
    assert!(
        report.to_string().contains("more than 4096 interfaces"),
        "{report}"
    );
}
