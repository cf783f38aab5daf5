//! Interfaces: whose addresses they are, and where.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::KnownLinks;
use super::context::{Context, Entry};
use super::prefix::{canonical, no_prefix};
use crate::document::{Diagnostic, Span, Table, Text, Value, alternatives, quoted};
use crate::policy::{GroupIndex, Interface, InterfaceLink};
use crate::types::{FlowLimits, InterfaceId};

const KEYS: [&str; 9] = [
    "id",
    "addresses",
    "groups",
    "link",
    "vlan",
    "vpc_id",
    "subnet_id",
    "instance_id",
    "limits",
];

/// Keys of an interface's `limits`, as in `per_interface` of the gateway file.
const LIMIT_KEYS: [&str; 2] = ["max_flows", "new_per_second"];

/// The word for an interface that is behind no link.
const LINK_NONE: &str = "none";

/// VLAN ids that a tag may have: 0 is no VLAN and 4095 is reserved (IEEE 802.1Q, table 9-2).
const VLAN_RANGE: std::ops::RangeInclusive<u16> = 1..=4094;

/// Longest id of a VPC, subnet or instance, which flow logs print between spaces.
const FOREIGN_ID_BYTES_MAX: usize = 255;

/// An address where it stands in the document.
struct Place<'d> {
    interface: &'d str,
    span: Span,
    prefix: IpNet,
    link: InterfaceLink,
    vlan: Option<u16>,
}

/// Reads all interfaces.
pub(super) fn read_interfaces<'d>(
    entries: &[Entry<'d>],
    context: &mut Context<'d, '_>,
) -> Vec<Interface> {
    let mut places: Vec<Place<'d>> = Vec::with_capacity(entries.len());
    let interfaces: Vec<Interface> = entries
        .iter()
        .filter_map(|(name, value)| read_interface(name, value, &mut places, context))
        .collect();
    refuse_addresses_used_twice(&places, context);
    refuse_links_left_out(&places, context);
    interfaces
}

fn read_interface<'d>(
    name: &Text<'d>,
    value: &Value<'d>,
    places: &mut Vec<Place<'d>>,
    context: &mut Context<'d, '_>,
) -> Option<Interface> {
    let table = value.table(context.diagnostics)?;
    let what = format!("interface {}", quoted(name.text));
    table.allow(&what, &KEYS, context.diagnostics);
    let id = context.id_of(&table, InterfaceId::PREFIX, name.text);
    let addresses = read_addresses(&table, &what, context);
    let groups = read_groups(&table, context);
    let link = read_link(name, &table, context);
    let vlan = read_vlan(&table, context);
    let interface = Interface {
        name: name.text.into(),
        id: InterfaceId(id),
        addresses: addresses.iter().map(|(prefix, _)| *prefix).collect(),
        groups,
        link: link.clone()?,
        vlan,
        vpc_id: read_foreign_id(&table, "vpc_id", context),
        subnet_id: read_foreign_id(&table, "subnet_id", context),
        instance_id: read_foreign_id(&table, "instance_id", context),
        limits: read_limits(&table, &what, context),
    };
    places.extend(addresses.into_iter().map(|(prefix, span)| Place {
        interface: name.text,
        span,
        prefix,
        link: interface.link.clone(),
        vlan,
    }));
    Some(interface)
}

fn read_addresses<'d>(
    table: &Table<'d>,
    what: &str,
    context: &mut Context<'d, '_>,
) -> Vec<(IpNet, Span)> {
    let help = "write addresses = [\"10.0.1.10\"]";
    let Some(value) = table.required("addresses", what, help, context.diagnostics) else {
        return Vec::new();
    };
    let items = value.one_or_many();
    if items.is_empty() {
        let problem = Diagnostic::error("`addresses` is empty, so the interface owns nothing")
            .at(value.span())
            .help(help);
        context.diagnostics.push(problem);
    }
    items
        .iter()
        .filter_map(|item| {
            let Some(text) = item.as_string() else {
                item.wrong("a string, or a list of strings", context.diagnostics);
                return None;
            };
            Some((read_address(&text, context)?, text.span))
        })
        .collect()
}

/// An address or a prefix that a host can have.
fn read_address(text: &Text<'_>, context: &mut Context<'_, '_>) -> Option<IpNet> {
    let prefix = match (text.text.parse::<IpAddr>(), text.text.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (Err(_), Ok(prefix)) => canonical(prefix, &text.span, context.diagnostics),
        (Err(_), Err(_)) => {
            let problem = no_prefix(text.text).help("write an address or a prefix: \"10.0.1.10\"");
            context.diagnostics.push(problem.at(text.span.clone()));
            return None;
        }
    };
    if let Some(why) = no_host_has(prefix) {
        let problem = Diagnostic::error(format!("no host has {prefix}: {why}"))
            .at(text.span.clone())
            .help("write the address that the interface sends from");
        context.diagnostics.push(problem);
        return None;
    }
    if prefix.prefix_len() == 0 {
        let warning = Diagnostic::warning(format!(
            "the interface owns {prefix}, every address that no other interface names"
        ));
        let help = "write the addresses that it has";
        context
            .diagnostics
            .push(warning.at(text.span.clone()).help(help));
    }
    Some(prefix)
}

/// Why no host has any address of the prefix. A wide prefix may have such addresses among others.
fn no_host_has(prefix: IpNet) -> Option<&'static str> {
    let first = prefix.network();
    let last = prefix.broadcast();
    let all = |test: fn(&IpAddr) -> bool| test(&first) && test(&last);
    if prefix.prefix_len() == prefix.max_prefix_len() && first.is_unspecified() {
        Some("it is the unspecified address")
    } else if all(IpAddr::is_loopback) {
        Some("it is loopback")
    } else if all(IpAddr::is_multicast) {
        Some("it is multicast")
    } else if matches!(first, IpAddr::V4(first) if first.is_broadcast()) {
        Some("it is the broadcast address")
    } else if matches!(first, IpAddr::V6(first) if first.to_ipv4_mapped().is_some())
        && prefix.prefix_len() >= 96
    {
        Some("it is IPv4 written as IPv6, which is never on a wire")
    } else {
        None
    }
}

/// Groups without repetitions; `default` where none is named.
fn read_groups<'d>(table: &Table<'d>, context: &mut Context<'d, '_>) -> Vec<GroupIndex> {
    let items = table
        .value("groups")
        .map(|value| value.one_or_many())
        .unwrap_or_default();
    let mut groups: Vec<GroupIndex> = Vec::with_capacity(items.len());
    let mut places: HashMap<GroupIndex, Span> = HashMap::new();
    for item in &items {
        let Some(text) = item.as_string() else {
            item.wrong("a string, or a list of strings", context.diagnostics);
            continue;
        };
        let Some(group) = context.group(text.text, &text.span) else {
            continue;
        };
        if let Some(first) = places.get(&group) {
            let message = format!("the group {} is named twice", quoted(text.text));
            let warning = Diagnostic::warning(message)
                .at(text.span)
                .label("again here")
                .help("remove one of the two")
                .related(first.clone(), "first here");
            context.diagnostics.push(warning);
            continue;
        }
        places.insert(group, text.span);
        groups.push(group);
    }
    if items.is_empty() {
        groups.push(context.default_group());
    }
    groups
}

/// The link; none if it is none of those that are known.
fn read_link<'d>(
    name: &Text<'d>,
    table: &Table<'d>,
    context: &mut Context<'d, '_>,
) -> Option<InterfaceLink> {
    let Some(value) = table.value("link") else {
        return link_left_out(name, context);
    };
    let text = value.string(context.diagnostics)?;
    if text.text == LINK_NONE {
        return Some(InterfaceLink::Elsewhere);
    }
    let KnownLinks::Names(links) = context.links else {
        if !text.text.is_empty() {
            return Some(InterfaceLink::Named(text.text.into()));
        }
        let problem = Diagnostic::error("the name of the link is empty").at(text.span);
        let help = "write the name of a [[link]] of the gateway file";
        context.diagnostics.push(problem.help(help));
        return None;
    };
    if links.iter().any(|link| link == text.text) {
        return Some(InterfaceLink::Named(text.text.into()));
    }
    let known = links.iter().map(String::as_str);
    let help = alternatives(text.text, known.chain([LINK_NONE]), context.diagnostics);
    let message = format!("the gateway has no link {}", quoted(text.text));
    let problem = Diagnostic::error(message).at(text.span).help(help);
    context.diagnostics.push(problem);
    None
}

fn link_left_out(name: &Text<'_>, context: &mut Context<'_, '_>) -> Option<InterfaceLink> {
    let KnownLinks::Names(links) = context.links else {
        return Some(InterfaceLink::Only);
    };
    if let [link] = links {
        return Some(InterfaceLink::Named(link.as_str().into()));
    }
    let message = format!(
        "the interface {} names no link, and the gateway has {}",
        quoted(name.text),
        links.len()
    );
    let known: Vec<String> = links.iter().map(|link| quoted(link)).collect();
    let help = format!("write link = \"…\", one of {}", known.join(", "));
    context
        .diagnostics
        .missing(Diagnostic::error(message).at(name.span.clone()).help(help));
    None
}

fn read_vlan<'d>(table: &Table<'d>, context: &mut Context<'d, '_>) -> Option<u16> {
    let value = table.value("vlan")?;
    let number = value.integer(context.diagnostics)?;
    let vlan = u16::try_from(number)
        .ok()
        .filter(|vlan| VLAN_RANGE.contains(vlan));
    if vlan.is_none() {
        let problem = Diagnostic::error(format!("a VLAN id is from 1 to 4094, not {number}"))
            .at(value.span())
            .help("remove `vlan` for frames without a tag");
        context.diagnostics.push(problem);
    }
    vlan
}

fn read_limits<'d>(table: &Table<'d>, what: &str, context: &mut Context<'d, '_>) -> FlowLimits {
    let Some(limits) = table.table("limits", context.diagnostics) else {
        return FlowLimits::default();
    };
    limits.allow(
        &format!("the limits of {what}"),
        &LIMIT_KEYS,
        context.diagnostics,
    );
    let mut read = |key| {
        let value = limits.value(key)?;
        let number = value.integer(context.diagnostics)?;
        let limit = u32::try_from(number).ok();
        if limit.is_none() {
            let message = format!("`{key}` is from 0 to {}, not {number}", u32::MAX);
            let problem = Diagnostic::error(message).at(value.span());
            let help = "0 is no limit; without the key the gateway's per_interface holds";
            context.diagnostics.push(problem.help(help));
        }
        limit
    };
    let [max_flows, new_per_second] = LIMIT_KEYS.map(&mut read);
    let limits_read = FlowLimits {
        max_flows,
        new_per_second,
    };
    if !limits_read.is_empty() {
        context.limited_interfaces += 1;
        if context.limited_interfaces == FlowLimits::INTERFACES_MAX + 1 {
            let message = format!(
                "more than {} interfaces have limits of their own",
                FlowLimits::INTERFACES_MAX
            );
            let problem = Diagnostic::error(message).at(limits.span());
            let help = "set what most of them have in per_interface of the gateway file";
            context.diagnostics.push(problem.help(help));
        }
    }
    limits_read
}

/// An id that flow logs print as it is, so it has no space.
fn read_foreign_id<'d>(
    table: &Table<'d>,
    key: &str,
    context: &mut Context<'d, '_>,
) -> Option<Box<str>> {
    let text = table.string(key, context.diagnostics)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    if (1..=FOREIGN_ID_BYTES_MAX).contains(&text.text.len()) && text.text.bytes().all(allowed) {
        return Some(text.text.into());
    }
    let problem = Diagnostic::error(format!(
        "`{key}` is not 1 to 255 of a-z, A-Z, 0-9 and ._:/-"
    ))
    .at(text.span)
    .help("flow logs print it between spaces: write it as AWS does, without any");
    context.diagnostics.push(problem);
    None
}

/// An address has one owner in each VLAN of each link. Prefixes in each other are fine, since the
/// longest match owns.
fn refuse_addresses_used_twice(places: &[Place<'_>], context: &mut Context<'_, '_>) {
    // Looked at alone, a policy that leaves a link out speaks of a gateway with one link, so the
    // named one is the same.
    let one_link = places.iter().any(|place| place.link == InterfaceLink::Only);
    let mut owners: HashMap<(InterfaceLink, Option<u16>, IpNet), &Place<'_>> = HashMap::new();
    for place in places {
        let link = match &place.link {
            InterfaceLink::Named(_) if one_link => InterfaceLink::Only,
            link => link.clone(),
        };
        let key = (link, place.vlan, place.prefix);
        let Some(first) = owners.get(&key) else {
            owners.insert(key, place);
            continue;
        };
        let (one, other) = (quoted(first.interface), quoted(place.interface));
        let (message, help) = if place.interface == first.interface {
            (
                format!("{} is twice an address of {one}", place.prefix),
                "remove one of the two".to_owned(),
            )
        } else {
            (
                format!("{} is an address of both {one} and {other}", place.prefix),
                "give it to one of them, or say which link or vlan each is in".to_owned(),
            )
        };
        let problem = Diagnostic::error(message)
            .at(place.span.clone())
            .label("again here")
            .help(help)
            .related(first.span.clone(), "first here");
        context.diagnostics.push(problem);
    }
}

/// Looked at alone, a policy shows that there are several links when it names several.
fn refuse_links_left_out(places: &[Place<'_>], context: &mut Context<'_, '_>) {
    let mut named = places.iter().filter_map(|place| match &place.link {
        InterfaceLink::Named(name) => Some(name),
        InterfaceLink::Only | InterfaceLink::Elsewhere => None,
    });
    let Some(first) = named.next() else {
        return;
    };
    let Some(second) = named.find(|name| *name != first) else {
        return;
    };
    let mut last = None;
    for place in places
        .iter()
        .filter(|place| place.link == InterfaceLink::Only)
    {
        if last == Some(place.interface) {
            continue;
        }
        last = Some(place.interface);
        let message = format!(
            "the interface {} names no link, and there are several",
            quoted(place.interface)
        );
        let help = format!(
            "write link = \"…\", as {} or {}",
            quoted(first),
            quoted(second)
        );
        let problem = Diagnostic::error(message).at(place.span.clone());
        context.diagnostics.missing(problem.help(help));
    }
}
