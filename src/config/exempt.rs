//! Reads `[exempt]`: what passes before anything else is asked, so each entry is checked for being
//! far wider than it looks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::section::Section;
use super::{Exempt, ExemptPort, PortProtocol};
use crate::document::{Diagnostic, Diagnostics, Table, Text, Value, quoted};

/// Most entries of each list: each is asked for every packet.
const ITEMS_MAX: usize = 1_024;

/// Ethertypes begin here; what is less is the length of an 802.3 frame.
const ETHERTYPE_MIN: u16 = 0x0600;

/// Ethertypes that cannot be exempt, and why.
const ETHERTYPES_REFUSED: [(u16, &str); 4] = [
    (0x0800, "IPv4 itself: no rule would be asked any more"),
    (0x86dd, "IPv6 itself: no rule would be asked any more"),
    (0x8100, "a VLAN tag: what is behind it decides"),
    (0x88a8, "a VLAN tag: what is behind it decides"),
];

/// ARP, whose claims are checked where it is not listed.
const ETHERTYPE_ARP: u16 = 0x0806;

/// Reads the table.
pub(super) fn read_exempt(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Exempt {
    let keys = ["addresses", "ports", "ethertypes"];
    let mut section = Section::open(root, "exempt", &keys, diagnostics);
    let mut exempt = Exempt::default();
    for item in items(&mut section, "addresses") {
        let text = item.string(section.diagnostics());
        if let Some(prefix) = text.and_then(|text| read_address(&text, section.diagnostics())) {
            push_once(&mut exempt.addresses, prefix);
        }
    }
    for item in items(&mut section, "ports") {
        let text = item.string(section.diagnostics());
        if let Some(port) = text.and_then(|text| read_port(&text, section.diagnostics())) {
            push_once(&mut exempt.ports, port);
        }
    }
    for item in items(&mut section, "ethertypes") {
        let ethertype = read_ethertype(&item, section.diagnostics());
        if let Some(ethertype) = ethertype {
            push_once(&mut exempt.ethertypes, ethertype);
        }
    }
    exempt
}

/// The items of a list; too many are refused, since each costs every packet.
fn items<'d>(section: &mut Section<'d, '_>, key: &str) -> Vec<Value<'d>> {
    let mut items = section.items(key);
    if let Some(extra) = items.get(ITEMS_MAX) {
        let problem = Diagnostic::error(format!(
            "`{key}` has {} entries; {ITEMS_MAX} is the most",
            items.len()
        ));
        let help = "join addresses into prefixes, or let rules say what passes";
        section
            .diagnostics()
            .push(problem.at(extra.span()).help(help));
        items.truncate(ITEMS_MAX);
    }
    items
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn read_address(text: &Text<'_>, diagnostics: &mut Diagnostics) -> Option<IpNet> {
    if let Ok(address) = text.text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    let Ok(prefix) = text.text.parse::<IpNet>() else {
        let problem = Diagnostic::error(format!(
            "{} is neither an address nor a prefix",
            quoted(text.text)
        ));
        let help = "write it as \"169.254.169.254\" or \"192.0.2.0/24\"";
        diagnostics.push(problem.at(text.span.clone()).help(help));
        return None;
    };
    let warning = if prefix.prefix_len() == 0 {
        Some("every address is exempt, so no rule is asked for this family any more".to_owned())
    } else if prefix.trunc() != prefix {
        Some(format!(
            "{prefix} has host bits set; {} is meant",
            prefix.trunc()
        ))
    } else {
        None
    };
    if let Some(warning) = warning {
        let help = "write just what has to pass, as \"169.254.169.254\"";
        diagnostics.push(
            Diagnostic::warning(warning)
                .at(text.span.clone())
                .help(help),
        );
    }
    Some(prefix.trunc())
}

fn read_port(text: &Text<'_>, diagnostics: &mut Diagnostics) -> Option<ExemptPort> {
    let parsed = text.text.split_once(':').and_then(|(protocol, port)| {
        let protocol = match protocol {
            "tcp" => PortProtocol::Tcp,
            "udp" => PortProtocol::Udp,
            _ => return None,
        };
        // `u16` alone would take a sign too.
        let port = port
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(port)?;
        let port = port.parse().ok()?;
        Some(ExemptPort { protocol, port })
    });
    if parsed.is_none() {
        let problem = Diagnostic::error(format!(
            "{} is not a protocol and a port",
            quoted(text.text)
        ));
        let help = "write it as \"udp:123\" or \"tcp:443\", with a port from 0 to 65535";
        diagnostics.push(problem.at(text.span.clone()).help(help));
    }
    parsed
}

fn read_ethertype(item: &Value<'_>, diagnostics: &mut Diagnostics) -> Option<u16> {
    let number = item.integer(diagnostics)?;
    let ethertype = u16::try_from(number)
        .ok()
        .filter(|one| *one >= ETHERTYPE_MIN);
    let Some(ethertype) = ethertype else {
        let message = format!("an ethertype is from 0x0600 to 0xffff, not {number}");
        let problem = Diagnostic::error(message).at(item.span());
        diagnostics.push(problem.help("write it as 0x88cc"));
        return None;
    };
    let refused = ETHERTYPES_REFUSED.iter().find(|(one, _)| *one == ethertype);
    if let Some((_, why)) = refused {
        let problem = Diagnostic::error(format!("0x{ethertype:04x} is {why}")).at(item.span());
        let help = "leave it out, and let rules or `addresses` say what passes";
        diagnostics.push(problem.help(help));
        return None;
    }
    if ethertype == ETHERTYPE_ARP {
        let warning = Diagnostic::warning("ARP is let through unchecked")
            .at(item.span())
            .help("leave 0x0806 out: honest ARP passes anyway");
        diagnostics.push(warning);
    }
    Some(ethertype)
}
