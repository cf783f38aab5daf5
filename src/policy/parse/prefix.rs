//! Prefixes in CIDR form, and the lists of them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::context::{Context, Entry};
use super::names::read_description;
use crate::document::{Diagnostic, Diagnostics, Span, Text, Value, quoted};
use crate::policy::{PrefixEntry, PrefixList};
use crate::types::PrefixListId;

/// Reads all prefix lists.
pub(super) fn read_prefix_lists<'d>(
    entries: &[Entry<'d>],
    context: &mut Context<'d, '_>,
) -> Vec<PrefixList> {
    entries
        .iter()
        .filter_map(|(name, value)| read_prefix_list(name, value, context))
        .collect()
}

fn read_prefix_list<'d>(
    name: &Text<'d>,
    value: &Value<'d>,
    context: &mut Context<'d, '_>,
) -> Option<PrefixList> {
    let table = value.table(context.diagnostics)?;
    let what = format!("prefix list {}", quoted(name.text));
    table.allow(&what, &["id", "entries"], context.diagnostics);
    let help = "write entries = [\"192.0.2.0/24\", …]";
    let items = table
        .required("entries", &what, help, context.diagnostics)
        .and_then(|entries| entries.array(context.diagnostics))
        .unwrap_or_default();
    let id = context.id_of(&table, PrefixListId::PREFIX, name.text);
    Some(PrefixList {
        name: name.text.into(),
        id: PrefixListId(id),
        entries: read_entries(&items, context.diagnostics),
    })
}

fn read_entries(items: &[Value<'_>], diagnostics: &mut Diagnostics) -> Vec<PrefixEntry> {
    let mut first: std::collections::HashMap<IpNet, Span> = std::collections::HashMap::new();
    let mut entries = Vec::with_capacity(items.len());
    for item in items {
        let Some(entry) = read_entry(item, diagnostics) else {
            continue;
        };
        if let Some(first) = first.get(&entry.cidr) {
            let warning = Diagnostic::warning(format!("{} is in the list already", entry.cidr))
                .at(item.span())
                .label("again here")
                .help("remove one of the two")
                .kind("entries of prefix lists are there already")
                .related(first.clone(), "first here");
            diagnostics.push(warning);
            continue;
        }
        first.insert(entry.cidr, item.span());
        entries.push(entry);
    }
    entries
}

/// A prefix, or a table of a prefix and its description.
fn read_entry(item: &Value<'_>, diagnostics: &mut Diagnostics) -> Option<PrefixEntry> {
    if let Some(text) = item.as_string() {
        return Some(PrefixEntry {
            cidr: read_prefix(&text, diagnostics)?,
            description: None,
        });
    }
    let Some(table) = item.as_table() else {
        item.wrong(
            "a prefix such as \"192.0.2.0/24\", or { cidr = …, description = … }",
            diagnostics,
        );
        return None;
    };
    let what = "an entry of a prefix list";
    table.allow(what, &["cidr", "description"], diagnostics);
    let description = read_description(&table, diagnostics);
    let cidr = table
        .required("cidr", what, "write cidr = \"192.0.2.0/24\"", diagnostics)?
        .string(diagnostics)?;
    Some(PrefixEntry {
        cidr: read_prefix(&cidr, diagnostics)?,
        description,
    })
}

/// A prefix; host bits are cleared with a warning, an address alone is refused.
pub(super) fn read_prefix(text: &Text<'_>, diagnostics: &mut Diagnostics) -> Option<IpNet> {
    match text.text.parse::<IpNet>() {
        Ok(prefix) => Some(canonical(prefix, &text.span, diagnostics)),
        Err(_) => {
            diagnostics.push(no_prefix(text.text).at(text.span.clone()));
            None
        }
    }
}

/// The prefix without host bits.
pub(super) fn canonical(prefix: IpNet, span: &Span, diagnostics: &mut Diagnostics) -> IpNet {
    let canonical = prefix.trunc();
    if canonical != prefix {
        let address = IpNet::from(prefix.addr());
        let warning = Diagnostic::warning(format!("{prefix} has host bits; {canonical} is used"))
            .at(span.clone())
            .label("host bits")
            .help(format!(
                "write {canonical}, or {address} for the one address"
            ))
            .kind("prefixes have host bits");
        diagnostics.push(warning);
    }
    canonical
}

/// Says why a text is no prefix.
pub(super) fn no_prefix(text: &str) -> Diagnostic {
    if let Ok(address) = text.parse::<IpAddr>() {
        let help = match address {
            _ if address.is_unspecified() => format!("write {address}/0 for every address"),
            IpAddr::V4(_) => format!("write {address}/32"),
            IpAddr::V6(_) => format!("write {address}/128"),
        };
        return Diagnostic::error(format!("{address} is an address without a prefix length"))
            .help(help);
    }
    let address = text
        .split_once('/')
        .map(|(address, _)| address.parse::<IpAddr>());
    if let Some(Ok(address)) = address {
        let most = if address.is_ipv4() { 32 } else { 128 };
        return Diagnostic::error(format!("{} has no prefix length that exists", quoted(text)))
            .help(format!("write a length from 0 to {most} after the slash"));
    }
    Diagnostic::error(format!("{} is no prefix", quoted(text)))
        .help("write an IPv4 or IPv6 prefix such as 192.0.2.0/24 or 2001:db8::/32")
}
