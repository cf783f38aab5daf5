//! Questions, and what is answered.

use super::*;
use crate::compile::Compiler;
use crate::document::Source;
use crate::policy::{Field, KnownLinks, parse};
use crate::types::Generation;

#[test]
fn only_questions_are_answered() {
    let check = |from: &str, to: &str, protocol: u8, kind: Option<u8>| {
        let request = ExplainRequest {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            kind,
            code: None,
        };
        request.check()
    };
    assert_eq!(check("10.0.0.1", "10.0.0.2:80", 6, None), Ok(80));
    assert_eq!(check("10.0.0.1", "10.0.0.2", 1, None), Ok(0x0800));
    assert_eq!(check("::1", "::2", 58, Some(129)), Ok(0x8100));
    assert_eq!(check("::1", "::2", 47, None), Ok(0));
    for (from, to, protocol, kind, word) in [
        ("10.0.0.1", "10.0.0.2", 6, None, "10.0.0.2:443"),
        ("::1", "::2", 17, None, "[::2]:443"),
        ("::1", "10.0.0.2:80", 6, None, "different families"),
        ("10.0.0.1", "10.0.0.2:80", 6, Some(8), "--type"),
        ("10.0.0.1", "10.0.0.2:80", 1, None, "no ports"),
        ("10.0.0.1", "10.0.0.2", 58, None, "say icmp"),
    ] {
        let error = check(from, to, protocol, kind).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

const POLICY: &str = r#"
[security_groups.web]
description = "web servers"
ingress = [
  { protocol = "tcp", ports = "80-443", from = ["10.7.0.0/16"] },
  { protocol = "tcp", ports = [9000, 22], from = ["10.9.0.0/16"] },
  { protocol = "udp", ports = 53, from = ["group:web"] },
  { protocol = "tcp", ports = 25, from = ["prefix-list:mail"] },
]
egress = [{ protocol = "tcp", ports = 8080, to = ["10.7.0.0/16"] }]
[security_groups.trial]
description = "being tried"
enforce = false
ingress = []
egress = []
[prefix_lists.mail]
entries = ["192.0.2.0/24", "198.51.100.7/32"]
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
[interfaces.web-2]
addresses = ["10.0.0.2"]
groups = ["web", "trial"]
[interfaces.db-9]
addresses = ["10.0.9.9"]
groups = ["trial"]
link = "none"
"#;

fn ask(from: &str, to: &str, protocol: u8) -> Explanation {
    let source = Source::new("test.toml", POLICY);
    let policy = parse(&source, KnownLinks::Unknown).unwrap().value;
    let snapshot = Compiler::new()
        .compile(&policy, &["link"], Generation(1))
        .unwrap();
    let request = ExplainRequest {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        protocol,
        kind: None,
        code: None,
    };
    explain(&policy, &snapshot, &request).unwrap()
}

/// The misses as `text: what differs; what differs`.
fn misses(step: &Step) -> Vec<String> {
    let line = |miss: &Miss| {
        let differs: Vec<&str> = miss.differs.iter().map(|one| &*one.detail).collect();
        format!("{} {}: {}", miss.direction, miss.text, differs.join("; "))
    };
    step.nearest_misses.iter().map(line).collect()
}

#[test]
fn a_refusal_names_the_rules_that_come_nearest() {
    let said = ask("10.7.3.1:5000", "10.0.0.1:8080", protocol::TCP).decisive;
    assert_eq!((&*said.verdict, &*said.reason), ("deny", "no-rule"));
    assert_eq!(
        misses(&said),
        [
            "ingress tcp 80-443 from 10.7.0.0/16: port 8080 is not in 80-443",
            "egress tcp 8080 to 10.7.0.0/16: it is an egress rule",
            "ingress tcp 9000 from 10.9.0.0/16: port 8080 is not 9000; 10.7.3.1 is not in \
             10.9.0.0/16",
            "ingress tcp 25 from prefix-list:mail: port 8080 is not 25; 10.7.3.1 is in no entry \
             of `mail`; the nearest is 192.0.2.0/24",
            "ingress tcp 22 from 10.9.0.0/16: port 8080 is not 22; 10.7.3.1 is not in 10.9.0.0/16",
        ]
    );
    let fields: Vec<Field> = said.nearest_misses[2]
        .differs
        .iter()
        .map(|d| d.field)
        .collect();
    assert_eq!(fields, [Field::Port, Field::Address]);
    assert_eq!(said.nearest_misses[0].group, "web");
    assert!(said.nearest_misses[0].rule.starts_with("sgr-"));
    assert_eq!((said.would_be, said.unenforced_groups), (None, Vec::new()));
}

#[test]
fn members_and_protocols_that_are_missed_are_named() {
    let said = ask("10.0.1.9:5000", "10.0.0.1:53", protocol::UDP).decisive;
    assert_eq!(
        misses(&said)[0],
        "ingress udp 53 from group:web: members of group `web`: 10.0.1.9 is not one of them; the \
         nearest is web-1 (10.0.0.1)"
    );
    let said = ask("10.7.0.9:5000", "10.0.0.1:80", protocol::UDP).decisive;
    assert_eq!(
        misses(&said)[0],
        "ingress tcp 80-443 from 10.7.0.0/16: protocol is udp, not tcp"
    );
    let said = ask("10.7.0.9", "10.0.0.1", protocol::ICMP).decisive;
    assert_eq!(
        misses(&said)[0],
        "ingress tcp 80-443 from 10.7.0.0/16: it wants port 80-443; protocol is icmp, not tcp"
    );
}

#[test]
fn what_passes_for_want_of_enforcement_alone_says_so_and_what_it_would_be() {
    let said = ask("10.7.3.1:5000", "10.0.0.2:8080", protocol::TCP).decisive;
    assert_eq!((&*said.verdict, &*said.reason), ("allow", "unenforced"));
    assert_eq!(said.would_be.as_deref(), Some("no-rule"));
    assert_eq!(said.unenforced_groups, ["trial"]);
    assert!(
        said.detail
            .ends_with("it passes only because group `trial` is not enforced"),
        "{}",
        said.detail
    );
    assert!(misses(&said)[0].contains("port 8080 is not in 80-443"));
    let said = ask("10.7.3.1:5000", "10.0.0.2:80", protocol::TCP).decisive;
    assert_eq!((&*said.reason, said.would_be), ("rule", None));
    assert!(said.nearest_misses.is_empty());
}

#[test]
fn each_step_between_two_registered_ends_has_its_own_misses() {
    let said = ask("10.0.0.1:5000", "10.0.0.2:8443", protocol::TCP);
    let [egress, ingress] = said.steps.as_slice() else {
        panic!("{said:?}");
    };
    assert!(misses(egress)[0].starts_with("egress tcp 8080 to 10.7.0.0/16: port 8443"));
    assert!(misses(ingress)[0].starts_with("ingress tcp 9000 from 10.9.0.0/16"));
    assert!(said.notes[0].contains("spoofed"), "{:?}", said.notes);
}

#[test]
fn what_nobody_behind_a_link_owns_says_who_has_it() {
    let detail = |from: &str, to: &str| ask(from, to, protocol::TCP).decisive.detail;
    let said = detail("10.0.9.9:1", "192.0.2.1:80");
    assert!(said.contains("db-9 has one of them"), "{said}");
    let said = detail("192.0.2.9:1", "192.0.2.1:80");
    assert!(said.contains("would have to name one of them"), "{said}");
}
