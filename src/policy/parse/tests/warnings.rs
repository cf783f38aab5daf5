//! What is valid and likely not meant: a warning, located.

use super::problems::{Case, group, interface, list, rule};
use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_thing_that_is_likely_not_meant_is_a_located_warning() {
    let cases: Vec<Case> = vec![
        (
            "icmp of IPv6",
            rule("{ protocol = \"icmp\", from = [\"::/0\"] }"),
            (4, 1),
            "the rule never matches",
        ),
        (
            "icmpv6 of IPv4",
            rule("{ protocol = 58, from = [\"10.0.0.0/8\", \"0.0.0.0/0\"] }"),
            (4, 1),
            "write protocol = \"icmp\"",
        ),
        (
            "type -1",
            rule("{ protocol = 1, type = -1, code = 3, from = \"self\" }"),
            (4, 35),
            "code 3 is ignored",
        ),
        (
            "host bits",
            rule("{ protocol = 6, from = [\"10.0.0.1/8\"] }"),
            (4, 25),
            "10.0.0.1/8 has host bits; 10.0.0.0/8 is used (write 10.0.0.0/8, or 10.0.0.1/32",
        ),
        (
            "port twice",
            rule("{ protocol = 6, ports = [80, 80], from = \"self\" }"),
            (4, 30),
            "the group has this rule already",
        ),
        (
            "peer twice",
            rule("{ protocol = 6, from = [\"self\", \"group:web\"] }"),
            (4, 33),
            "the group has this rule already",
        ),
        (
            "rule twice",
            rule("{ protocol = 6, from = \"self\" },\n{ protocol = \"tcp\", from = \"self\" }"),
            (5, 1),
            "the group has this rule already",
        ),
        (
            "no description",
            "[security_groups.web]\n".into(),
            (1, 18),
            "the security group `web` has no description",
        ),
        (
            "empty description",
            "[security_groups.web]\ndescription = \"\"\n".into(),
            (1, 18),
            "has no description",
        ),
        (
            "empty name",
            group("").replace("web", "launch-wizard-3"),
            (1, 18),
            "says nothing about its purpose",
        ),
        (
            "entry twice",
            list("[\"::/0\", \"::/0\"]"),
            (2, 20),
            "::/0 is in the list already",
        ),
        (
            "group twice",
            group("[interfaces.i]\naddresses = \"10.0.0.1\"\ngroups = [\"web\", \"WEB\"]"),
            (5, 18),
            "the group `WEB` is named twice",
        ),
        (
            "everything",
            interface("addresses = \"0.0.0.0/0\""),
            (2, 13),
            "owns 0.0.0.0/0, every address",
        ),
    ];
    for (name, text, wanted, part) in cases {
        let checked =
            read(&text, KnownLinks::Unknown).unwrap_or_else(|report| panic!("{name}: {report}"));
        let problems = checked.warnings.problems();
        assert_eq!(problems.len(), 1, "{name}: {}", checked.warnings);
        assert_eq!(
            (problems[0].line, problems[0].column),
            wanted,
            "{name}: {}",
            problems[0]
        );
        assert!(
            problems[0].to_string().contains(part),
            "{name}: {}",
            problems[0]
        );
    }
}

#[test]
fn families_that_may_match_are_no_warning() {
    for entry in [
        "{ protocol = \"icmp\", from = [\"::/0\", \"0.0.0.0/0\"] }",
        "{ protocol = \"icmp\", from = [\"self\"] }",
        "{ protocol = \"tcp\", from = [\"::/0\"] }",
    ] {
        let checked = read(&rule(entry), KnownLinks::Unknown).unwrap();
        assert!(checked.warnings.is_empty(), "{}", checked.warnings);
    }
}
