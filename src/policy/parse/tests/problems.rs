//! One document for each kind of problem, with its place.

use super::elsewhere::others;
use super::*;

/// Name, document, place (line, column) and a part of message and remedy.
pub(super) type Case = (&'static str, String, (u32, u32), &'static str);

/// A group with one entry of ingress, which stands in line 4 from column 1.
pub(super) fn rule(entry: &str) -> String {
    format!(
        "[security_groups.web]\ndescription = \"d\"\ningress = [\n{entry}\n]\n\
         [prefix_lists.admins]\nentries = [\"192.0.2.0/24\"]\n"
    )
}

fn egress(entry: &str) -> String {
    rule(entry).replace("ingress", "egress")
}

/// A group whose lines after the description begin in line 3.
pub(super) fn group(lines: &str) -> String {
    format!("[security_groups.web]\ndescription = \"d\"\n{lines}\n")
}

/// An interface whose lines begin in line 2.
pub(super) fn interface(lines: &str) -> String {
    format!("[interfaces.i]\n{lines}\n")
}

/// An interface with an address, whose lines begin in line 3.
pub(super) fn addressed(lines: &str) -> String {
    interface(&format!("addresses = [\"10.0.0.1\"]\n{lines}"))
}

pub(super) fn list(entries: &str) -> String {
    format!("[prefix_lists.admins]\nentries = {entries}\n")
}

/// Each problem of groups and rules that refuses a document.
#[expect(clippy::too_many_lines, reason = "a table")]
fn errors() -> Vec<Case> {
    let case = |name, text: String, line, column, part| (name, text, (line, column), part);
    vec![
        case(
            "top key",
            "[security_group.a]\n".into(),
            1,
            2,
            "did you mean `security_groups`?",
        ),
        case(
            "top type",
            "interfaces = 3\n".into(),
            1,
            14,
            "`interfaces` must be a table",
        ),
        case(
            "syntax",
            "[security_groups.a\n".into(),
            1,
            19,
            "not valid TOML",
        ),
        case(
            "key twice",
            group("egress = []\negress = []"),
            4,
            1,
            "`egress` is defined twice",
        ),
        case(
            "table twice",
            "[interfaces.i]\n[interfaces.i]\n".into(),
            2,
            13,
            "defined twice",
        ),
        case("NUL", "\0".into(), 1, 1, "NUL byte"),
        // Groups.
        case(
            "group key",
            group("ingres = []"),
            3,
            1,
            "did you mean `ingress`?",
        ),
        case(
            "group type",
            "security_groups.web = 1\n".into(),
            1,
            23,
            "`web` must be a table",
        ),
        case(
            "name like id",
            "[security_groups.sg-web]\n".into(),
            1,
            18,
            "begins like an id",
        ),
        case(
            "name of é",
            "[security_groups.\"caf\u{e9}\"]\n".into(),
            1,
            18,
            "the character `é`",
        ),
        case(
            "empty name",
            "[security_groups.\"\"]\n".into(),
            1,
            18,
            "is empty",
        ),
        case(
            "space",
            "[security_groups.\"a b \"]\n".into(),
            1,
            18,
            "ends with a space",
        ),
        case(
            "long name",
            format!("[security_groups.{}]\n", "x".repeat(256)),
            1,
            18,
            "has 256 characters; 255 is the most",
        ),
        case(
            "name twice",
            "[security_groups.Web]\n[security_groups.web]\n".into(),
            2,
            18,
            "is there twice: case does not tell names apart",
        ),
        case(
            "enforce",
            group("enforce = \"yes\""),
            3,
            11,
            "`enforce` must be true or false",
        ),
        case(
            "description type",
            "[security_groups.web]\ndescription = 1\n".into(),
            2,
            15,
            "`description` must be a string",
        ),
        case(
            "description characters",
            "[security_groups.web]\ndescription = \"it's\"\n".into(),
            2,
            15,
            "the description has the character `'`",
        ),
        case(
            "long description",
            format!(
                "[security_groups.web]\ndescription = \"{}\"\n",
                "x".repeat(256)
            ),
            2,
            15,
            "the description has 256 characters",
        ),
        case(
            "rules type",
            group("ingress = \"all\""),
            3,
            11,
            "`ingress` must be an array",
        ),
        case(
            "rule type",
            rule("\"all\""),
            4,
            1,
            "`ingress` must be a table",
        ),
        // Ids.
        case(
            "id prefix",
            group("id = \"pl-01234567\""),
            3,
            6,
            "is no id: `sg-`",
        ),
        case(
            "id digits",
            group("id = \"sg-0123456\""),
            3,
            6,
            "8 or 17 digits",
        ),
        case(
            "id case",
            group("id = \"sg-0123456A\""),
            3,
            6,
            "8 or 17 digits",
        ),
        case("id type", group("id = 7"), 3, 6, "`id` must be a string"),
        case(
            "id twice",
            "[security_groups.ab]\nid = \"sg-01234567\"\n[security_groups.cd]\n\
             id = \"sg-01234567\"\n"
                .into(),
            4,
            6,
            "given twice",
        ),
        case(
            "id of several",
            rule("{ protocol = \"tcp\", ports = [1, 2], from = \"self\", id = \"sgr-01234567\" }"),
            4,
            57,
            "the entry is 2 rules",
        ),
        // Rules.
        case(
            "rule key",
            rule("{ protocol = \"tcp\", form = \"self\" }"),
            4,
            21,
            "`form`",
        ),
        case(
            "no protocol",
            rule("{ from = \"self\" }"),
            4,
            1,
            "has no `protocol`",
        ),
        case(
            "protocol word",
            rule("{ protocol = \"tpc\", from = \"self\" }"),
            4,
            14,
            "`tcp`?",
        ),
        case(
            "protocol upper",
            rule("{ protocol = \"TCP\", from = \"self\" }"),
            4,
            14,
            "`tcp`?",
        ),
        case(
            "protocol string",
            rule("{ protocol = \"47\", from = \"self\" }"),
            4,
            14,
            "protocol = 47",
        ),
        case(
            "protocol -1",
            rule("{ protocol = -1, from = \"self\" }"),
            4,
            14,
            "write \"all\"",
        ),
        case(
            "protocol 256",
            rule("{ protocol = 256, from = \"self\" }"),
            4,
            14,
            "from 0 to 255",
        ),
        case(
            "protocol type",
            rule("{ protocol = [], from = \"self\" }"),
            4,
            14,
            "not an array",
        ),
        case(
            "ports of icmp",
            rule("{ protocol = \"icmp\", ports = 1, from = \"self\" }"),
            4,
            30,
            "this protocol has no ports",
        ),
        case(
            "ports of all",
            rule("{ protocol = \"all\", ports = 1, from = \"self\" }"),
            4,
            29,
            "no ports",
        ),
        case(
            "ports of 47",
            rule("{ protocol = 47, ports = 1, from = \"self\" }"),
            4,
            26,
            "no ports",
        ),
        case(
            "type of tcp",
            rule("{ protocol = 6, type = 1, from = \"self\" }"),
            4,
            24,
            "have a type",
        ),
        case(
            "code of tcp",
            rule("{ protocol = 6, code = 1, from = \"self\" }"),
            4,
            24,
            "have a code",
        ),
        case(
            "code alone",
            rule("{ protocol = \"icmp\", code = 0, from = \"self\" }"),
            4,
            29,
            "a code means nothing without its type",
        ),
        case(
            "type 256",
            rule("{ protocol = 1, type = 256, from = \"self\" }"),
            4,
            24,
            "0 to 255",
        ),
        case(
            "type -2",
            rule("{ protocol = 1, type = -2, from = \"self\" }"),
            4,
            24,
            "0 to 255",
        ),
        case(
            "type type",
            rule("{ protocol = 1, type = \"8\", from = \"self\" }"),
            4,
            24,
            "an integer",
        ),
        case(
            "port 65536",
            rule("{ protocol = 6, ports = 65536, from = \"self\" }"),
            4,
            25,
            "65535",
        ),
        case(
            "port -1",
            rule("{ protocol = 6, ports = -1, from = \"self\" }"),
            4,
            25,
            "remove `ports`",
        ),
        case(
            "port word",
            rule("{ protocol = 6, ports = \"http\", from = \"self\" }"),
            4,
            25,
            "`http`",
        ),
        case(
            "port sign",
            rule("{ protocol = 6, ports = \"+1\", from = \"self\" }"),
            4,
            25,
            "`+1`",
        ),
        case(
            "half range",
            rule("{ protocol = 6, ports = \"1-\", from = \"self\" }"),
            4,
            25,
            "`1-`",
        ),
        case(
            "three ends",
            rule("{ protocol = 6, ports = \"1-2-3\", from = \"self\" }"),
            4,
            25,
            "`1-2-3`",
        ),
        case(
            "list item",
            rule("{ protocol = 6, ports = [1, true], from = \"self\" }"),
            4,
            29,
            "a port",
        ),
        case(
            "no ports",
            rule("{ protocol = 6, ports = [], from = \"self\" }"),
            4,
            25,
            "is empty",
        ),
        case(
            "range reversed",
            rule("{ protocol = 6, ports = \"9-1\", from = \"self\" }"),
            4,
            25,
            "the range 9-1 ends before it begins (write \"1-9\")",
        ),
        // Peers.
        case(
            "no from",
            rule("{ protocol = \"all\" }"),
            4,
            1,
            "the ingress rule has no `from`",
        ),
        case(
            "no to",
            egress("{ protocol = \"all\" }"),
            4,
            1,
            "the egress rule has no `to`",
        ),
        case(
            "empty from",
            rule("{ protocol = \"all\", from = [] }"),
            4,
            28,
            "allows nobody",
        ),
        case(
            "from type",
            rule("{ protocol = \"all\", from = 1 }"),
            4,
            28,
            "`from` must be a string",
        ),
        case(
            "from item",
            rule("{ protocol = \"all\", from = [1] }"),
            4,
            29,
            "`from` must be a string",
        ),
        case(
            "to in",
            rule("{ protocol = \"all\", to = \"self\" }"),
            4,
            21,
            "no `to` (write `from`)",
        ),
        case(
            "from out",
            egress("{ protocol = \"all\", from = \"self\" }"),
            4,
            21,
            "write `to`",
        ),
        case(
            "group",
            rule("{ protocol = \"all\", from = \"group:wbe\" }"),
            4,
            28,
            "did you mean `web`?",
        ),
        case(
            "list",
            rule("{ protocol = \"all\", from = \"prefix-list:admin\" }"),
            4,
            28,
            "there is no prefix list `admin` (did you mean `admins`?)",
        ),
        case(
            "bare 4",
            rule("{ protocol = \"all\", from = \"10.0.0.1\" }"),
            4,
            28,
            "write 10.0.0.1/32",
        ),
        case(
            "bare 6",
            rule("{ protocol = \"all\", from = \"fd00::1\" }"),
            4,
            28,
            "write fd00::1/128",
        ),
        case(
            "bare any",
            rule("{ protocol = \"all\", from = \"0.0.0.0\" }"),
            4,
            28,
            "write 0.0.0.0/0",
        ),
        case(
            "any",
            rule("{ protocol = \"all\", from = \"any\" }"),
            4,
            28,
            "\"0.0.0.0/0\" and",
        ),
        case(
            "length",
            rule("{ protocol = \"all\", from = \"10.0.0.0/33\" }"),
            4,
            28,
            "from 0 to 32",
        ),
        case(
            "octet",
            rule("{ protocol = \"all\", from = \"10.0.0.256/8\" }"),
            4,
            28,
            "is no prefix",
        ),
        case(
            "bare name",
            rule("{ protocol = \"all\", from = \"web\" }"),
            4,
            28,
            "write `group:web`",
        ),
        case(
            "wrong word",
            rule("{ protocol = \"all\", from = \"sg:admins\" }"),
            4,
            28,
            "write `prefix-list:admins`",
        ),
        case(
            "by id",
            rule("{ protocol = \"all\", from = \"sg-01234567\" }"),
            4,
            28,
            "by name",
        ),
        case(
            "Self",
            rule("{ protocol = \"all\", from = \"Self\" }"),
            4,
            28,
            "write `self`",
        ),
    ]
}

#[test]
fn each_problem_is_located_and_has_a_remedy() {
    let mut wrong = String::new();
    for (name, text, wanted, part) in [errors(), others()].concat() {
        let report = read(&text, KnownLinks::Unknown).expect_err(name);
        let problems = report.problems();
        let found = problems
            .iter()
            .any(|one| (one.line, one.column) == wanted && one.to_string().contains(part));
        let helpful = problems.iter().all(|one| !one.help.is_empty());
        // One mistake, one error.
        if !found || !helpful || report.errors_count() != 1 {
            wrong += &format!("{name}: wanted {wanted:?} {part}\n{text}\n{report}\n\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn problems_with_known_links_are_located() {
    let links = ["uplink".to_owned(), "backbone".to_owned()];
    for (text, part) in [
        (
            addressed("link = \"uplnk\""),
            "p.toml:3:8: error: the gateway has no link `uplnk`",
        ),
        (addressed("link = \"uplnk\""), "did you mean `uplink`?"),
        (addressed("link = \"nnoe\""), "did you mean `none`?"),
        (
            addressed(""),
            "p.toml:1:13: error: the interface `i` names no link",
        ),
        (addressed(""), "one of `uplink`, `backbone`"),
    ] {
        let report = read(&text, KnownLinks::Names(&links)).unwrap_err();
        assert!(report.to_string().contains(part), "{report}");
        assert_eq!(report.errors_count(), 1);
    }
}

#[test]
fn an_id_that_is_derived_for_another_is_refused() {
    let other = good("[security_groups.web]\n").groups[0].id.clone();
    let text = format!("[security_groups.web]\n[security_groups.db]\nid = \"{other}\"\n");
    let report = read(&text, KnownLinks::Unknown).unwrap_err();
    assert!(
        report.to_string().contains("p.toml:3:6: error: the id sg-"),
        "{report}"
    );
    let own = format!("[security_groups.web]\nid = \"{other}\"\n");
    assert_eq!(
        good(&own).groups[0].id,
        other,
        "its own derived id may be written"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "[security_groups.web]\n\
        ingress = [{ protocol = \"tcpp\", form = [\"self\"] }, { protocol = 6, ports = 70000, \
        from = [\"group:no\", \"10.0.0.1\"] }]\n\
        [interfaces.i]\naddresses = [\"127.0.0.1\"]\nvlan = 9999\n";
    let report = read(text, KnownLinks::Unknown).unwrap_err();
    assert_eq!(report.errors_count(), 7, "{report}");
}

#[test]
fn what_broken_syntax_swallows_is_not_missed() {
    let text = "[security_groups.web\ningress = []\n[interfaces.i]\ngroups = [\"web\"]\n\
        addresses = [\"10.0.0.1\"]\n";
    let report = read(text, KnownLinks::Unknown).unwrap_err();
    for problem in report.problems() {
        assert!(problem.message.contains("not valid TOML"), "{report}");
    }
}
