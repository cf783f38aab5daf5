//! Security groups.

use ipnet::{Ipv4Net, Ipv6Net};

use super::context::{Context, DEFAULT_GROUP, Entry};
use super::names::read_description;
use super::rule::{RuleReader, derive_rule_id};
use crate::document::{Diagnostic, Table, Text, Value, quoted};
use crate::policy::id::derive;
use crate::policy::{GroupIndex, Peer, Rule, SecurityGroup, Service};
use crate::types::{Direction, GroupId, RuleId};

const KEYS: [&str; 5] = ["id", "description", "enforce", "ingress", "egress"];

/// What `default` is described as where the document does not have it.
const DEFAULT_DESCRIPTION: &str = "default security group";

/// Reads all groups; `default` is the last where the document does not have it.
pub(super) fn read_groups<'d>(
    entries: &[Entry<'d>],
    context: &mut Context<'d, '_>,
) -> Vec<SecurityGroup> {
    let mut rules_count = 0;
    let mut groups = Vec::with_capacity(entries.len() + 1);
    for (index, (name, value)) in (0..).map(GroupIndex).zip(entries) {
        groups.extend(read_group(index, name, value, &mut rules_count, context));
    }
    let has_default = entries
        .iter()
        .any(|(name, _)| name.text.eq_ignore_ascii_case(DEFAULT_GROUP));
    if !has_default {
        groups.push(default_group(context));
    }
    groups
}

fn read_group<'d>(
    index: GroupIndex,
    name: &Text<'d>,
    value: &Value<'d>,
    rules_count: &mut usize,
    context: &mut Context<'d, '_>,
) -> Option<SecurityGroup> {
    let table = value.table(context.diagnostics)?;
    let what = format!("security group {}", quoted(name.text));
    table.allow(&what, &KEYS, context.diagnostics);
    let id = context.id_of(&table, GroupId::PREFIX, name.text);
    let description = read_description(&table, context.diagnostics);
    warn_of_no_description(name, &table, context);
    let enforce = table
        .value("enforce")
        .and_then(|value| value.boolean(context.diagnostics))
        .unwrap_or(true);
    let mut read = |direction: Direction, context: &mut Context<'d, '_>| {
        let reader = RuleReader {
            group: index,
            group_name: name.text,
            direction,
            count: rules_count,
        };
        let entries = table.value(direction.name())?;
        Some(reader.read(&entries, context))
    };
    let ingress = read(Direction::Ingress, context).unwrap_or_default();
    let egress = read(Direction::Egress, context);
    Some(SecurityGroup {
        name: name.text.into(),
        id: GroupId(id),
        description,
        enforce,
        ingress,
        egress: egress.unwrap_or_else(|| allow_all_out(name.text, context)),
    })
}

fn warn_of_no_description(name: &Text<'_>, table: &Table<'_>, context: &mut Context<'_, '_>) {
    let empty = table
        .value("description")
        .is_none_or(|value| value.as_string().is_some_and(|text| text.text.is_empty()));
    if empty {
        let warning = Diagnostic::warning(format!(
            "the security group {} has no description",
            quoted(name.text)
        ));
        let warning = warning
            .at(name.span.clone())
            .help("write description = \"what its members do\"")
            .kind("security groups have no description");
        context.diagnostics.push(warning);
    }
}

/// "By default, security groups start with outbound rules that allow all traffic to leave the
/// resource": Amazon VPC user guide, "Security group rules".
fn allow_all_out(group_name: &str, context: &Context<'_, '_>) -> Vec<Rule> {
    let peers = [
        Peer::Cidr4(Ipv4Net::default()),
        Peer::Cidr6(Ipv6Net::default()),
    ];
    peers
        .map(|peer| allow_all(group_name, Direction::Egress, peer, context))
        .into()
}

/// The group that AWS makes for each VPC: its members may talk to each other, and to anyone.
fn default_group(context: &Context<'_, '_>) -> SecurityGroup {
    let own = Peer::Group(context.default_group());
    SecurityGroup {
        name: DEFAULT_GROUP.into(),
        id: GroupId(derive(GroupId::PREFIX, &[DEFAULT_GROUP])),
        description: Some(DEFAULT_DESCRIPTION.into()),
        enforce: true,
        ingress: vec![allow_all(DEFAULT_GROUP, Direction::Ingress, own, context)],
        egress: allow_all_out(DEFAULT_GROUP, context),
    }
}

fn allow_all(
    group_name: &str,
    direction: Direction,
    peer: Peer,
    context: &Context<'_, '_>,
) -> Rule {
    let service = Service::All;
    Rule {
        id: RuleId(derive_rule_id(
            group_name, direction, &service, &peer, context,
        )),
        service,
        peer,
        description: None,
    }
}
