//! Reads `[flow_log]` and `[metrics]`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::section::Section;
use super::{FlowLog, Metrics};
use crate::document::{Diagnostic, Diagnostics, Table, alternatives, quoted};

/// Fields that a flow log's format may have: AWS's of versions 2 to 5 that a gateway can know, and
/// three of our own.
const FLOW_LOG_FIELDS: [&str; 27] = [
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
    "vpc-id",
    "subnet-id",
    "instance-id",
    "tcp-flags",
    "type",
    "pkt-srcaddr",
    "pkt-dstaddr",
    "region",
    "az-id",
    "flow-direction",
    "rule-id",
    "group-id",
    "reject-reason",
];

/// Reads `[flow_log]`, if it is there.
pub(super) fn read_flow_log(
    root: &Table<'_>,
    base: &Path,
    diagnostics: &mut Diagnostics,
) -> Option<FlowLog> {
    let keys = ["path", "format", "aggregation_interval"];
    let mut section = Section::open(root, "flow_log", &keys, diagnostics);
    section.not_active_at_all("[flow_log]");
    section.required("path", "write path = \"/var/log/portcullis/flow.log\"");
    let path = section.path("path", base);
    let format = read_flow_log_format(&mut section);
    let minute = Duration::from_secs(60);
    let aggregation_interval = section.duration("aggregation_interval", 60..=600, minute);
    if ![60, 600].contains(&aggregation_interval.as_secs()) {
        let span = section
            .value("aggregation_interval")
            .map(|value| value.span());
        let problem = Diagnostic::error("`aggregation_interval` is \"60s\" or \"600s\"")
            .at(span.unwrap_or_default())
            .help("AWS knows these two");
        section.diagnostics().push(problem);
    }
    Some(FlowLog {
        path: path?,
        format,
        aggregation_interval,
    })
}

fn read_flow_log_format(section: &mut Section<'_, '_>) -> String {
    let Some(text) = section.string("format") else {
        return "default".to_owned();
    };
    if text.text == "default" {
        return text.text.to_owned();
    }
    if text.text.trim().is_empty() {
        let problem = Diagnostic::error("the flow log's `format` is empty")
            .at(text.span.clone())
            .help("write \"default\", or fields such as \"${srcaddr} ${dstaddr} ${action}\"");
        section.diagnostics().push(problem);
    }
    for field in text.text.split_whitespace() {
        let name = field
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'));
        if name.is_some_and(|name| FLOW_LOG_FIELDS.contains(&name)) {
            continue;
        }
        let known = FLOW_LOG_FIELDS.iter().copied();
        let help = alternatives(name.unwrap_or(field), known, section.diagnostics());
        let problem = Diagnostic::error(format!(
            "{} is no field of a flow log; fields are written as ${{name}}",
            quoted(field)
        ));
        section
            .diagnostics()
            .push(problem.at(text.span.clone()).help(help));
    }
    text.text.to_owned()
}

/// Reads `[metrics]`, if it is there.
pub(super) fn read_metrics(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Option<Metrics> {
    let mut section = Section::open(root, "metrics", &["listen"], diagnostics);
    section.not_active_at_all("[metrics]");
    section.required("listen", "write listen = \"127.0.0.1:9464\"");
    let text = section.string("listen")?;
    if let Ok(listen) = text.text.parse::<SocketAddr>() {
        return Some(Metrics { listen });
    }
    let problem = Diagnostic::error(format!(
        "{} is not an address and a port",
        quoted(text.text)
    ));
    let help = "write it as \"127.0.0.1:9464\" or \"[::1]:9464\"";
    section.diagnostics().push(problem.at(text.span).help(help));
    None
}
