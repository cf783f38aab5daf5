//! Reads the `[[link]]` tables.

use std::collections::HashMap;

use super::section::Section;
use super::{CopyMode, Link, OnExit, Unregistered, XdpMode};
use crate::document::{Diagnostic, Diagnostics, Span, Table, Text, Value, quoted};
use crate::types::LinkId;

/// Longest name of a link.
const NAME_BYTES_MAX: usize = 64;

/// Longest name of a device: the kernel's `IFNAMSIZ` with its end (netdevice(7)).
const DEVICE_BYTES_MAX: usize = 15;

/// What means "behind no link" in a policy, and so is no name of one.
const NAME_OF_NONE: &str = "none";

/// Remedy where there is no link at all.
const EXAMPLE: &str =
    "add one: [[link]] with name = \"uplink\", inside = \"eth1\", outside = \"eth2\"";

/// Reads all links, in file order.
pub(super) fn read_links(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Vec<Link> {
    let Some(value) = root.required("link", "the gateway file", EXAMPLE, diagnostics) else {
        return Vec::new();
    };
    if value.as_table().is_some() {
        let problem =
            Diagnostic::error("a link is written with two brackets: there may be several")
                .at(value.span())
                .help("write [[link]] instead of [link]");
        diagnostics.push(problem);
        return Vec::new();
    }
    let items = value.array(diagnostics).unwrap_or_default();
    if items.is_empty() && value.as_array().is_some() {
        let problem = Diagnostic::error("there is no link").at(value.span());
        diagnostics.push(problem.help(EXAMPLE));
    }
    if let Some(extra) = items.get(LinkId::COUNT_MAX) {
        let problem = Diagnostic::error(format!(
            "there are {} links; {} is the most",
            items.len(),
            LinkId::COUNT_MAX
        ));
        diagnostics.push(
            problem
                .at(extra.span())
                .help("run a second gateway for the others"),
        );
    }
    let mut unique = Unique::default();
    items
        .iter()
        .filter_map(|item| read_link(item, &mut unique, diagnostics))
        .collect()
}

/// Names that have been used, with their places.
#[derive(Default)]
struct Unique {
    names: HashMap<String, Span>,
    devices: HashMap<String, Span>,
}

fn read_link(item: &Value<'_>, unique: &mut Unique, diagnostics: &mut Diagnostics) -> Option<Link> {
    let keys = [
        "name",
        "inside",
        "outside",
        "xdp_mode",
        "zero_copy",
        "unregistered",
        "on_exit",
    ];
    let table = item.table(diagnostics)?;
    let mut section = Section::new(Some(table), "[[link]]", &keys, diagnostics);
    let name = read_name(&mut section, unique);
    let inside = read_device(&mut section, "inside", unique);
    let outside = read_device(&mut section, "outside", unique);
    let xdp_mode = [
        ("auto", XdpMode::Auto),
        ("native", XdpMode::Native),
        ("generic", XdpMode::Generic),
    ];
    let zero_copy = [
        ("auto", CopyMode::Auto),
        ("require", CopyMode::Require),
        ("off", CopyMode::Off),
    ];
    let unregistered = [("drop", Unregistered::Drop), ("pass", Unregistered::Pass)];
    let on_exit = [("closed", OnExit::Closed), ("open", OnExit::Open)];
    let xdp_mode = section.choice("xdp_mode", &xdp_mode, XdpMode::Auto);
    let zero_copy = section.choice("zero_copy", &zero_copy, CopyMode::Auto);
    let unregistered = section.choice("unregistered", &unregistered, Unregistered::Drop);
    let on_exit = section.choice("on_exit", &on_exit, OnExit::Closed);
    if xdp_mode == XdpMode::Generic && zero_copy == CopyMode::Require {
        let span = section.value("zero_copy").map(|value| value.span());
        let problem = Diagnostic::error("the generic XDP mode cannot do without a copy")
            .at(span.unwrap_or_default())
            .help("write zero_copy = \"auto\", or xdp_mode = \"native\"");
        section.diagnostics().push(problem);
    }
    Some(Link {
        name: name?,
        inside: inside?,
        outside: outside?,
        xdp_mode,
        zero_copy,
        unregistered,
        on_exit,
    })
}

fn read_name(section: &mut Section<'_, '_>, unique: &mut Unique) -> Option<String> {
    let value = section.required("name", "write name = \"uplink\", which policies refer to")?;
    let text = value.string(section.diagnostics())?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let problem = if text.text.eq_ignore_ascii_case(NAME_OF_NONE) {
        Diagnostic::error("a link cannot be called \"none\": in a policy that means no link")
            .help("choose another name")
    } else if text.text.is_empty()
        || text.text.len() > NAME_BYTES_MAX
        || !text.text.bytes().all(allowed)
    {
        Diagnostic::error(format!(
            "{} is no name of a link: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_' and '-'",
            quoted(text.text)
        ))
        .help("choose a name of these characters")
    } else {
        let key = text.text.to_ascii_lowercase();
        return once(&mut unique.names, key, &text, "link", section.diagnostics());
    };
    section.diagnostics().push(problem.at(text.span));
    None
}

fn read_device(section: &mut Section<'_, '_>, key: &str, unique: &mut Unique) -> Option<String> {
    let help = format!("write {key} = \"eth1\", a device of `ip link`");
    let value = section.required(key, &help)?;
    let text = value.string(section.diagnostics())?;
    // What the kernel's dev_valid_name() takes.
    let refused = |byte: u8| byte == b'/' || byte == b':' || byte <= b' ' || byte == 0x7f;
    let wrong = text.text.is_empty()
        || text.text.len() > DEVICE_BYTES_MAX
        || [".", ".."].contains(&text.text)
        || text.text.bytes().any(refused);
    if wrong {
        let problem = Diagnostic::error(format!(
            "{} is no name of a device: 1 to {DEVICE_BYTES_MAX} bytes without '/', ':' and spaces",
            quoted(text.text)
        ));
        let help = "see the names with `ip link`";
        section.diagnostics().push(problem.at(text.span).help(help));
        return None;
    }
    let device = text.text.to_owned();
    once(
        &mut unique.devices,
        device,
        &text,
        "device",
        section.diagnostics(),
    )
}

/// The text, if nothing before it had the same key.
fn once(
    used: &mut HashMap<String, Span>,
    key: String,
    text: &Text<'_>,
    what: &str,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    if let Some(first) = used.get(&key) {
        let help = match what {
            "device" => "each end of each link is a device of its own",
            _ => "give each link a name of its own",
        };
        let name = quoted(text.text);
        let problem = Diagnostic::error(format!("the {what} {name} is used twice"))
            .at(text.span.clone())
            .label("again here")
            .help(help)
            .related(first.clone(), "first here");
        diagnostics.push(problem);
        return None;
    }
    used.insert(key, text.span.clone());
    Some(text.text.to_owned())
}
