//! Policies of a seed: documents of a few groups, rules and interfaces from a small world, so that
//! what one allows the next often does not.

use std::fmt::Write;

use portcullis::document::Source;
use portcullis::policy::{self, KnownLinks, Policy};

use crate::random::Random;

pub(crate) const LINKS: [&str; 3] = ["alpha", "beta", "gamma"];
/// Protected hosts of each link.
pub(crate) const HOSTS: usize = 5;

const GROUPS: [&str; 4] = ["web", "data", "open", "lax"];

/// The addresses of a protected host: the fourth octet counts from 1.
pub(crate) fn host(link: usize, host: usize) -> [String; 2] {
    [
        format!("10.0.{link}.{}", host + 1),
        format!("2001:db8:{link}::{}", host + 1),
    ]
}

/// A document for that many links.
pub(crate) fn document(random: &mut Random, links: usize) -> String {
    let mut text = String::from(
        "[prefix_lists.admins]\nentries = [\"198.51.100.0/24\", \"2001:db8:f::/64\"]\n\
         [prefix_lists.everybody]\nentries = [\"0.0.0.0/0\"]\n",
    );
    for name in GROUPS {
        let is_lax = name == "lax" && random.once_in(3);
        write!(text, "[security_groups.{name}]\ndescription = \"{name}\"\n").unwrap();
        writeln!(text, "enforce = {}", !is_lax).unwrap();
        writeln!(
            text,
            "ingress = [{}]",
            rules(random, "from", name == "open")
        )
        .unwrap();
        if !random.once_in(3) {
            writeln!(text, "egress = [{}]", rules(random, "to", false)).unwrap();
        }
    }
    for (link, link_name) in LINKS.iter().enumerate().take(links) {
        for index in 0..HOSTS {
            if random.once_in(8) {
                continue;
            }
            let addresses = host(link, index);
            let groups = match random.below(6) {
                0 => "\"web\", \"data\"".to_owned(),
                1 => "\"open\"".to_owned(),
                2 if random.once_in(3) => "\"lax\"".to_owned(),
                _ => format!("\"{}\"", random.pick(&GROUPS[..3])),
            };
            // Sometimes the other host's address, so that addresses move between interfaces.
            let name = if random.once_in(10) {
                index + HOSTS
            } else {
                index
            };
            // And sometimes the interface is on the other link, if there is one.
            let link_name = match random.once_in(16) {
                true => LINKS[links - 1 - link],
                false => link_name,
            };
            let vlan = if random.once_in(12) {
                "vlan = 20\n"
            } else {
                ""
            };
            write!(
                text,
                "[interfaces.{}-{name}]\naddresses = [\"{}\", \"{}\"]\n\
                 groups = [{groups}]\nlink = \"{link_name}\"\n{vlan}",
                LINKS[link], addresses[0], addresses[1],
            )
            .unwrap();
        }
    }
    text
}

fn rules(random: &mut Random, peer_key: &str, is_open: bool) -> String {
    const SERVICES: [&str; 12] = [
        "protocol = \"tcp\", ports = 80",
        "protocol = \"tcp\", ports = [22, 443]",
        "protocol = \"tcp\", ports = \"8000-8080\"",
        "protocol = \"tcp\"",
        "protocol = \"udp\", ports = 53",
        "protocol = \"udp\", ports = \"1-60000\"",
        "protocol = \"udp\"",
        "protocol = \"all\"",
        "protocol = 47",
        "protocol = \"tcp\", ports = 443",
        "protocol = \"icmp\", type = 8",
        "protocol = \"icmpv6\", type = 128",
    ];
    const PEERS: [&str; 9] = [
        "0.0.0.0/0",
        "::/0",
        "192.0.2.0/24",
        "192.0.2.1/32",
        "2001:db8:f::/48",
        "group:web",
        "self",
        "prefix-list:admins",
        "prefix-list:everybody",
    ];
    let mut rules = Vec::new();
    if is_open {
        rules.push(format!(
            "{{ protocol = \"tcp\", ports = 80, {peer_key} = [\"0.0.0.0/0\", \"::/0\"] }}"
        ));
    }
    for _ in 0..random.below(5) {
        let service = random.below(SERVICES.len());
        // ICMP of one family with an address of the other is refused.
        let peer = match service {
            10 => random.pick(&["0.0.0.0/0", "192.0.2.0/24"]),
            11 => random.pick(&["::/0", "2001:db8:f::/48"]),
            _ => random.pick(&PEERS),
        };
        rules.push(format!(
            "{{ {}, {peer_key} = [\"{peer}\"] }}",
            SERVICES[service]
        ));
    }
    rules.join(", ")
}

/// Reads a document as the gateway does.
pub(crate) fn read(text: &str, links: usize) -> Policy {
    let names: Vec<String> = LINKS[..links].iter().map(|&name| name.to_owned()).collect();
    let source = Source::new("policy.toml", text);
    match policy::parse(&source, KnownLinks::Names(&names)) {
        Ok(checked) => checked.value,
        Err(report) => panic!("{report}\n{text}"),
    }
}
