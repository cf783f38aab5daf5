//! Rules: an entry of several ports and peers expands to one rule for each pair.

use std::collections::HashMap;

use ipnet::IpNet;

use super::context::Context;
use super::names::read_description;
use super::prefix::{canonical, no_prefix};
use super::service::read_services;
use crate::document::{Diagnostic, Span, Table, Text, Value, quoted};
use crate::policy::id::derive;
use crate::policy::{GroupIndex, Peer, Rule, Service};
use crate::types::{Direction, RuleId};

/// Most rules of a policy. An entry of many ports and many peers multiplies them, so a short file
/// could ask for more than memory holds.
const RULES_MAX: usize = 1_000_000;

/// Keys of an entry. `from` and `to` are told apart later, with a better remedy.
const KEYS: [&str; 8] = [
    "protocol",
    "ports",
    "type",
    "code",
    "from",
    "to",
    "description",
    "id",
];

/// Reads the rules of one direction of one group.
pub(super) struct RuleReader<'a> {
    /// The group that has the rules, which is what `self` means.
    pub(super) group: GroupIndex,
    /// Its name.
    pub(super) group_name: &'a str,
    /// The direction.
    pub(super) direction: Direction,
    /// Rules of the whole policy up to here.
    pub(super) count: &'a mut usize,
}

/// Rules of one direction of one group, and where each was first.
#[derive(Default)]
struct Rules {
    list: Vec<Rule>,
    places: HashMap<(Service, Peer), Span>,
}

impl RuleReader<'_> {
    /// Reads all entries.
    pub(super) fn read<'d>(
        mut self,
        entries: &Value<'d>,
        context: &mut Context<'d, '_>,
    ) -> Vec<Rule> {
        let mut rules = Rules::default();
        for entry in entries.array(context.diagnostics).unwrap_or_default() {
            if let Some(table) = entry.table(context.diagnostics) {
                self.read_entry(&table, &mut rules, context);
            }
        }
        rules.list
    }

    /// Reads one entry that stands alone.
    pub(super) fn read_one<'d>(
        mut self,
        entry: &Value<'d>,
        context: &mut Context<'d, '_>,
    ) -> Vec<Rule> {
        let mut rules = Rules::default();
        if let Some(table) = entry.table(context.diagnostics) {
            self.read_entry(&table, &mut rules, context);
        }
        rules.list
    }

    fn read_entry<'d>(
        &mut self,
        entry: &Table<'d>,
        rules: &mut Rules,
        context: &mut Context<'d, '_>,
    ) {
        let direction = self.direction.name();
        entry.allow(&format!("an {direction} rule"), &KEYS, context.diagnostics);
        let description = read_description(entry, context.diagnostics);
        let services = unique(read_services(entry, context));
        let peers = unique(self.read_peers(entry, context));
        let mut given_id = context.given_id(entry, RuleId::PREFIX);
        warn_of_families(entry, &services.kept, &peers.kept, context);
        self.warn_of_repeats(&services.repeated, context);
        self.warn_of_repeats(&peers.repeated, context);
        let count = services.kept.len().saturating_mul(peers.kept.len());
        if given_id.is_some() && count > 1 {
            let span = entry.value("id").map(|value| value.span());
            let problem = Diagnostic::error(format!(
                "the entry is {count} rules, and an id stands for one"
            ));
            let help = "remove `id`, or write an entry for each rule";
            let problem = problem.at(span.unwrap_or_default()).help(help);
            context.diagnostics.push(problem);
        }
        *self.count = self.count.saturating_add(count);
        if *self.count > RULES_MAX {
            // Said once: every entry from here on would say it again.
            if self.count.saturating_sub(count) <= RULES_MAX {
                let problem = Diagnostic::error(format!("there are over {RULES_MAX} rules"))
                    .at(entry.span())
                    .help("put addresses into prefix lists and ports into ranges");
                context.diagnostics.push(problem);
            }
            return;
        }
        for (service, _) in &services.kept {
            for (peer, _) in &peers.kept {
                if let Some(first) = rules.places.get(&(*service, *peer)) {
                    context.diagnostics.push(repeated(&entry.span(), first));
                    continue;
                }
                rules.places.insert((*service, *peer), entry.span());
                rules.list.push(Rule {
                    id: RuleId(given_id.take().unwrap_or_else(|| {
                        derive_rule_id(self.group_name, self.direction, service, peer, context)
                    })),
                    service: *service,
                    peer: *peer,
                    description: description.clone(),
                });
            }
        }
    }

    /// The other ends that an entry names, and where.
    fn read_peers<'d>(
        &self,
        entry: &Table<'d>,
        context: &mut Context<'d, '_>,
    ) -> Vec<(Peer, Span)> {
        let (key, other) = match self.direction {
            Direction::Ingress => ("from", "to"),
            Direction::Egress => ("to", "from"),
        };
        let direction = self.direction.name();
        let misplaced = entry
            .entries()
            .into_iter()
            .find(|(name, _)| name.text == other);
        if let Some((name, _)) = &misplaced {
            let problem = Diagnostic::error(format!("an {direction} rule has no `{other}`"))
                .at(name.span.clone())
                .help(format!("write `{key}`"));
            context.diagnostics.push(problem);
        }
        let Some(value) = entry.value(key) else {
            if misplaced.is_none() && !entry.misspells(key, context.diagnostics) {
                let problem = Diagnostic::error(format!("the {direction} rule has no `{key}`"))
                    .at(entry.span())
                    .help(format!(
                        "write {key} = [\"0.0.0.0/0\", \"::/0\"] for any address, or who it is"
                    ));
                context.diagnostics.missing(problem);
            }
            return Vec::new();
        };
        let items = value.one_or_many();
        if items.is_empty() {
            let problem = Diagnostic::error(format!("`{key}` is empty, so the rule allows nobody"))
                .at(value.span())
                .help("name a prefix, `group:NAME`, `prefix-list:NAME` or `self`");
            context.diagnostics.push(problem);
        }
        items
            .iter()
            .filter_map(|item| {
                let Some(text) = item.as_string() else {
                    item.wrong("a string, or a list of strings", context.diagnostics);
                    return None;
                };
                Some((self.read_peer(&text, context)?, text.span))
            })
            .collect()
    }

    fn read_peer(&self, text: &Text<'_>, context: &mut Context<'_, '_>) -> Option<Peer> {
        if text.text == "self" {
            return Some(Peer::Group(self.group));
        }
        if let Some(name) = text.text.strip_prefix("group:") {
            return context.group(name, &text.span).map(Peer::Group);
        }
        if let Some(name) = text.text.strip_prefix("prefix-list:") {
            return context.prefix_list(name, &text.span).map(Peer::PrefixList);
        }
        if let Ok(prefix) = text.text.parse::<IpNet>() {
            return Some(match canonical(prefix, &text.span, context.diagnostics) {
                IpNet::V4(prefix) => Peer::Cidr4(prefix),
                IpNet::V6(prefix) => Peer::Cidr6(prefix),
            });
        }
        let problem = match peer_remedy(text.text, context) {
            None => no_prefix(text.text),
            Some(help) => {
                Diagnostic::error(format!("{} is no peer of a rule", quoted(text.text))).help(help)
            }
        };
        context.diagnostics.push(problem.at(text.span.clone()));
        None
    }

    /// Warns of ports or peers that one entry names twice.
    fn warn_of_repeats(&self, repeated_spans: &[(Span, Span)], context: &mut Context<'_, '_>) {
        for (span, first) in repeated_spans {
            context.diagnostics.push(repeated(span, first));
        }
    }
}

/// What is likely meant by a text that is neither a prefix nor has one of the leading words.
fn peer_remedy(text: &str, context: &Context<'_, '_>) -> Option<String> {
    let name = text.split_once(':').map_or(text, |(_, name)| name).trim();
    if text.eq_ignore_ascii_case("self") {
        return Some("write `self`".to_owned());
    }
    if ["any", "all", "*", "anywhere"].contains(&text.to_ascii_lowercase().as_str()) {
        return Some("write \"0.0.0.0/0\" and \"::/0\" for any address".to_owned());
    }
    if context.has_group(name) {
        return Some(format!("write {}", quoted(&format!("group:{name}"))));
    }
    if context.has_prefix_list(name) {
        return Some(format!("write {}", quoted(&format!("prefix-list:{name}"))));
    }
    if text.starts_with("sg-") || text.starts_with("pl-") {
        return Some("refer to it by name, as group:NAME or prefix-list:NAME".to_owned());
    }
    let looks_like_prefix = text.contains('/') || text.parse::<std::net::IpAddr>().is_ok();
    (!looks_like_prefix).then(|| {
        "name a prefix such as 192.0.2.0/24, `group:NAME`, `prefix-list:NAME` or `self`".to_owned()
    })
}

/// Items of a list, without those that are there already.
struct Unique<T> {
    kept: Vec<(T, Span)>,
    /// Where each is again, and where it was first.
    repeated: Vec<(Span, Span)>,
}

fn unique<T: Copy + Eq + std::hash::Hash>(items: Vec<(T, Span)>) -> Unique<T> {
    let mut first: HashMap<T, Span> = HashMap::with_capacity(items.len());
    let mut unique = Unique {
        kept: Vec::with_capacity(items.len()),
        repeated: Vec::new(),
    };
    for (item, span) in items {
        match first.get(&item) {
            Some(first) => unique.repeated.push((span, first.clone())),
            None => {
                first.insert(item, span.clone());
                unique.kept.push((item, span));
            }
        }
    }
    unique
}

fn repeated(span: &Span, first: &Span) -> Diagnostic {
    Diagnostic::warning("the group has this rule already; one is kept")
        .at(span.clone())
        .label("again here")
        .help("remove one of the two")
        .kind("rules are in their group already; one of each is kept")
        .related(first.clone(), "first here")
}

/// `icmp` is IPv4's and `icmpv6` IPv6's: with prefixes of the other family alone, an entry never
/// matches.
fn warn_of_families(
    entry: &Table<'_>,
    services: &[(Service, Span)],
    peers: &[(Peer, Span)],
    context: &mut Context<'_, '_>,
) {
    let (wrong, help): (fn(&Peer) -> bool, &str) = match services.first() {
        Some((Service::Icmp(_), _)) => (
            |peer| matches!(peer, Peer::Cidr6(_)),
            "write protocol = \"icmpv6\", or name IPv4 prefixes",
        ),
        Some((Service::Icmpv6(_), _)) => (
            |peer| matches!(peer, Peer::Cidr4(_)),
            "write protocol = \"icmp\", or name IPv6 prefixes",
        ),
        _ => return,
    };
    if !peers.is_empty() && peers.iter().all(|(peer, _)| wrong(peer)) {
        let warning = Diagnostic::warning(
            "the rule never matches: its protocol and its prefixes are of two families",
        );
        context
            .diagnostics
            .push(warning.at(entry.span()).help(help));
    }
}

/// The id of a rule is that of what it allows in its group, whatever it is described as.
pub(super) fn derive_rule_id(
    group_name: &str,
    direction: Direction,
    service: &Service,
    peer: &Peer,
    context: &Context<'_, '_>,
) -> Box<str> {
    let peer = match peer {
        Peer::Cidr4(prefix) => prefix.to_string(),
        Peer::Cidr6(prefix) => prefix.to_string(),
        Peer::Group(index) => format!("group:{}", context.group_name(*index)),
        Peer::PrefixList(index) => format!("prefix-list:{}", context.prefix_list_name(*index)),
    };
    let parts = [
        &group_name.to_ascii_lowercase(),
        direction.name(),
        &service.to_string(),
        &peer.to_ascii_lowercase(),
    ];
    derive(RuleId::PREFIX, &parts)
}
