//! What differences look like. That they are exact, the compiler's tests hold to its oracle.

use super::*;
use crate::policy::of_text as policy;

const BASE: &str = r#"
[security_groups.web]
ingress = [
  { protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },
  { protocol = "tcp", ports = 22, from = ["prefix-list:admins"] },
]
egress = []
[security_groups.lb]
ingress = []
egress = []
[security_groups.db]
ingress = [ { protocol = "tcp", ports = 5432, from = ["group:web", "group:lb"] } ]
egress = []
[prefix_lists.admins]
entries = ["198.51.100.0/24", "2001:db8:1::/48"]
[interfaces.web-1]
addresses = ["10.0.0.1", "2001:db8::1"]
groups = ["web"]
[interfaces.web-2]
addresses = ["10.0.0.2"]
groups = ["web"]
[interfaces.db-1]
addresses = ["10.0.1.1"]
groups = ["db"]
[interfaces.lb-1]
addresses = ["10.0.2.1"]
groups = ["lb"]
"#;

/// What changes from one text to the other; the reverse has to say the same with other signs.
fn said(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (policy(old), policy(new));
    let there = diff(&old, &new).unwrap();
    let back = diff(&new, &old).unwrap();
    assert_eq!((there.gaining, there.losing), (back.losing, back.gaining));
    let traffic = |diff: &Diff, gained: bool| {
        let mut list = Vec::new();
        for change in &diff.changes {
            let lines = if gained { &change.gained } else { &change.lost };
            for subject in &change.interfaces {
                list.extend(lines.iter().map(|line| format!("{subject:?} {line:?}")));
            }
        }
        list.sort();
        list
    };
    assert_eq!(traffic(&there, true), traffic(&back, false));
    assert_eq!(traffic(&there, false), traffic(&back, true));
    let lines = there.lines().into_iter().map(|line| line.text);
    lines.chain([there.summary()]).collect()
}

/// What changes when a part of the base is replaced.
#[track_caller]
fn edited(from: &str, to: &str) -> Vec<String> {
    assert_eq!(BASE.matches(from).count(), 1, "{from}");
    said(BASE, &BASE.replace(from, to))
}

#[test]
fn the_same_traffic_by_other_rules_is_no_difference() {
    let same = ["the same traffic is allowed"];
    assert_eq!(said(BASE, BASE), same);
    // Split, repeated, renamed, in another order, with other texts.
    let split = r#"{ protocol = "tcp", ports = [443, 80, "80-80"], from = ["::/1", "8000::/1",
        "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"], description = "d" },"#;
    assert_eq!(
        edited(
            r#"{ protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },"#,
            split
        ),
        same
    );
    let renamed = BASE
        .replace("admins", "office")
        .replace("group:lb", "10.0.2.1/32");
    assert_eq!(said(BASE, &renamed), same);
    assert_eq!(
        edited(
            r#"["group:web", "group:lb"]"#,
            r#"["group:lb", "group:web"]"#
        ),
        same
    );
}

#[test]
fn a_port_that_comes_is_said_for_all_interfaces_of_the_group() {
    assert_eq!(
        edited("[80, 443]", "[80, \"8000-8080\", 443]"),
        [
            "web-1, web-2",
            "  + ingress tcp 8000-8080 from any",
            "2 interfaces gain traffic, 0 interfaces lose some",
        ]
    );
}

#[test]
fn what_a_wider_rule_had_already_is_not_gained() {
    assert_eq!(
        edited(
            "ports = 22, from = [\"prefix-list:admins\"]",
            "from = [\"198.51.100.0/25\"]"
        ),
        [
            "web-1, web-2",
            "  + ingress tcp 0-21, 23-79, 81-442, 444-65535 from 198.51.100.0/25",
            "  - ingress tcp 22 from 198.51.100.128/25, 2001:db8:1::/48",
            "2 interfaces gain traffic, 2 interfaces lose some",
        ]
    );
}

#[test]
fn whole_groups_and_lists_are_called_by_their_names() {
    assert_eq!(
        edited(
            "from = [\"group:web\", \"group:lb\"]",
            "from = [\"prefix-list:admins\", \"10.0.2.1/32\"]"
        ),
        [
            "db-1",
            "  + ingress tcp 5432 from prefix-list:admins",
            "  - ingress tcp 5432 from group:web",
            "1 interface gains traffic, 1 interface loses some",
        ]
    );
    assert_eq!(
        edited(
            "from = [\"group:web\", \"group:lb\"]",
            "from = [\"10.0.0.2/32\", \"10.9.0.0/16\"]"
        ),
        [
            "db-1",
            "  + ingress tcp 5432 from 10.9.0.0/16",
            "  - ingress tcp 5432 from group:lb, 10.0.0.1, 2001:db8::1",
            "1 interface gains traffic, 1 interface loses some",
        ]
    );
}

#[test]
fn a_member_that_comes_is_gained_where_its_group_is_the_source() {
    let more = "[interfaces.web-3]\naddresses = [\"10.0.0.3\"]\ngroups = [\"web\"]\n";
    assert_eq!(
        said(BASE, &format!("{BASE}{more}")),
        [
            "db-1",
            "  + ingress tcp 5432 from 10.0.0.3",
            "web-3 (10.0.0.3), new",
            "  + ingress tcp 22 from prefix-list:admins",
            "  + ingress tcp 80, 443 from any",
            "2 interfaces gain traffic, 0 interfaces lose some",
        ]
    );
    let elsewhere = format!("{BASE}{more}link = \"none\"\n");
    assert_eq!(
        said(BASE, &elsewhere),
        [
            "db-1",
            "  + ingress tcp 5432 from 10.0.0.3",
            "1 interface gains traffic, 0 interfaces lose some",
        ],
        "it is behind no link, so nothing is allowed to it"
    );
}

#[test]
fn families_and_protocols_are_kept_apart() {
    let any = "{ protocol = \"all\", from = [\"0.0.0.0/0\", \"::/0\"] }";
    let web = r#"{ protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },"#;
    let common = r#"{ protocol = "tcp", from = ["0.0.0.0/0", "::/0"] },
        { protocol = "udp", from = ["0.0.0.0/0", "::/0"] },
        { protocol = "icmp", from = ["0.0.0.0/0", "::/0"] },
        { protocol = "icmpv6", from = ["0.0.0.0/0", "::/0"] },"#;
    let (all, common) = (
        BASE.replace(web, &format!("{any},")),
        BASE.replace(web, common),
    );
    assert_eq!(
        said(&all, &common)[1..4],
        [
            "  - ingress icmp from ::/0",
            "  - ingress icmpv6 from 0.0.0.0/0",
            "  - ingress other protocols from any",
        ]
    );
}

#[test]
fn an_interface_that_moves_loses_its_old_place_and_gains_the_new_one() {
    let rules = |sign: &str| {
        ["tcp 22 from prefix-list:admins", "tcp 80, 443 from any"]
            .map(|rule| format!("  {sign} ingress {rule}"))
    };
    let web_2 = "addresses = [\"10.0.0.2\"]\n";
    let lines = edited(web_2, "addresses = [\"10.0.0.7\"]\n");
    assert_eq!(lines[0], "web-2 (10.0.0.2), gone");
    assert_eq!(lines[1..3], rules("-"));
    assert_eq!(lines[3], "web-2 (10.0.0.7), new");
    assert_eq!(lines[4..6], rules("+"));
    assert_eq!(
        lines[6..],
        [
            "db-1",
            "  + ingress tcp 5432 from 10.0.0.7",
            "  - ingress tcp 5432 from 10.0.0.2",
            "2 interfaces gain traffic, 2 interfaces lose some"
        ]
    );
    let lines = edited(web_2, "addresses = [\"10.0.0.2\"]\nvlan = 20\n");
    assert_eq!(lines[0], "web-2 (10.0.0.2 but in VLAN 20), gone");
    assert_eq!(lines[1..3], rules("-"));
    assert_eq!(lines.len(), 4);
    let with_link = |name: &str| {
        let other = ["web-1", "db-1", "lb-1"]
            .iter()
            .fold(BASE.to_owned(), |text, interface| {
                let heading = format!("[interfaces.{interface}]\n");
                text.replace(&heading, &format!("{heading}link = \"a\"\n"))
            });
        other.replace(web_2, &format!("{web_2}link = \"{name}\"\n"))
    };
    assert_eq!(said(BASE, &with_link("a")).len(), 1, "the only link, named");
    let lines = said(&with_link("a"), &with_link("b"));
    assert_eq!(lines[0], "web-2 (10.0.0.2 of link a), gone");
    assert_eq!(lines[3], "web-2 (10.0.0.2 of link b), new");
}

#[test]
fn addresses_inside_of_another_interface_are_taken_from_it() {
    let around = "[interfaces.around]\naddresses = [\"10.0.0.0/30\"]\ngroups = [\"web\"]\n";
    let with = format!("{BASE}{around}");
    let without = with.replace(
        "[interfaces.web-2]\naddresses = [\"10.0.0.2\"]\ngroups = [\"web\"]\n",
        "",
    );
    let lines = said(&with, &without);
    assert_eq!(lines[0], "around (10.0.0.2), new");
    assert_eq!(lines[3], "web-2 (10.0.0.2), gone");
    assert_eq!(lines.len(), 7, "the group still has the address");
}

#[test]
fn enforcement_is_said_apart_from_traffic() {
    let tried = BASE.replace(
        "[security_groups.db]\n",
        "[security_groups.db]\nenforce = false\n",
    );
    assert_eq!(
        said(BASE, &tried),
        [
            "db-1",
            "  ! everything passes from now on: group `db` is not enforced",
            "0 interfaces gain traffic, 0 interfaces lose some, 1 interface changes enforcement",
        ]
    );
    assert_eq!(
        said(&tried, BASE)[1],
        "  ! what no rule allows is refused from now on: group `db` was not enforced"
    );
    let other = tried.replace("5432", "5433");
    assert_eq!(
        said(&tried, &other),
        [
            "db-1",
            "  ! everything passes before and after: group `db` is not enforced; the rules would \
             differ by",
            "  + ingress tcp 5433 from group:lb, group:web",
            "  - ingress tcp 5432 from group:lb, group:web",
            "1 interface gains traffic, 1 interface loses some",
        ]
    );
    let gone = tried.replace(
        "[interfaces.db-1]\naddresses = [\"10.0.1.1\"]\ngroups = [\"db\"]\n",
        "",
    );
    let lines = said(&tried, &gone);
    assert_eq!(lines[0], "db-1 (10.0.1.1), gone");
    assert_eq!(
        lines[1],
        "  ! everything passed: group `db` is not enforced"
    );
}

#[test]
fn the_default_group_is_a_group() {
    let alone = "[interfaces.a]\naddresses = [\"10.0.0.1\"]\n";
    let two = format!("{alone}[interfaces.b]\naddresses = [\"10.0.0.2\"]\n");
    assert_eq!(
        said(alone, &two),
        [
            "a",
            "  + ingress all from 10.0.0.2",
            "b (10.0.0.2), new",
            "  + ingress all from group:default",
            "  + egress all to any",
            "2 interfaces gain traffic, 0 interfaces lose some",
        ]
    );
}

#[test]
fn a_brief_answer_counts_what_it_leaves_out() {
    let more: String = (3..40)
        .map(|i| {
            format!("[interfaces.web-{i}]\naddresses = [\"10.0.0.{i}\"]\ngroups = [\"web\"]\n")
        })
        .collect();
    let old = policy(&format!("{BASE}{more}"));
    let ports: Vec<_> = (0..40).map(|i| (9000 + 2 * i).to_string()).collect();
    let text = BASE.replace("443]", &format!("443, {}]", ports.join(", ")));
    let new = policy(&format!("{text}{more}"));
    let mut diff = diff(&old, &new).unwrap();
    let summary = diff.summary();
    diff.shorten(Brief {
        changes: 1,
        interfaces: 2,
        lines: 1,
        items: 3,
    });
    let lines: Vec<_> = diff.lines().into_iter().map(|line| line.text).collect();
    assert_eq!(
        lines,
        [
            "web-1, web-2 and 37 more",
            "  + ingress tcp 9000, 9002, 9004 and 37 more from any"
        ]
    );
    assert_eq!(diff.summary(), summary);
    let again: Diff = serde_json::from_str(&serde_json::to_string(&diff).unwrap()).unwrap();
    assert_eq!(again, diff);
}

#[test]
fn what_would_cost_too_much_is_refused_whole() {
    let (old, new) = (
        policy(BASE),
        policy(&BASE.replace("[80, 443]", "[81, 444]")),
    );
    let compare = |work, kept| compare([&old, &new], Budget::with(work, kept));
    assert_eq!(
        compare(20, 1000).unwrap_err(),
        DiffError::TooMuchWork { limit: 20 }
    );
    assert_eq!(
        compare(10_000, 3).unwrap_err(),
        DiffError::TooManyRanges { limit: 3 }
    );
    assert!(!compare(10_000, 1000).unwrap().same);
}

/// Where the work of a comparison depends on what differs, not on what there is.
#[test]
fn a_small_change_of_a_large_policy_is_little_work() {
    use crate::compile::sample;
    let size = sample::Size {
        rules: 10_000,
        interfaces: 10_000,
    };
    let old = sample::policy(size, 1);
    let mut new = old.clone();
    // A group of a tier, the group that reaches everything, and an interface.
    for index in [10, 1] {
        let group = Arc::make_mut(&mut new.groups[index]);
        group.ingress.remove(0);
    }
    new.interfaces.pop();
    let budget = || Budget::with(3_000_000, 10_000);
    let forth = compare([&old, &new], budget()).unwrap();
    assert!(
        forth.losing > 100 && forth.gaining == 0,
        "{}",
        forth.summary()
    );
    let back = compare([&new, &old], budget()).unwrap();
    assert_eq!((forth.losing, forth.gaining), (back.gaining, back.losing));
    let same = compare([&old, &old.clone()], Budget::with(200_000, 0)).unwrap();
    assert!(same.same);
}
