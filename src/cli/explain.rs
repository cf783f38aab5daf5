//! `portcullis explain`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Failure, SocketArguments, print_json};
use crate::compile::Compiler;
use crate::control::{Command, Endpoint, ExplainRequest, Explanation, Step, explain, links_of};
use crate::document::{Source, Style};
use crate::policy::{self, KnownLinks, Miss};
use crate::types::{Generation, protocol};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Who sends: IP, IP:PORT or [IPv6]:PORT
    #[arg(long, value_name = "IP[:PORT]")]
    from: Endpoint,
    /// Who receives, with the port where the protocol has ports
    #[arg(long, value_name = "IP[:PORT]")]
    to: Endpoint,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = parse_protocol)]
    protocol: u8,
    /// ICMP type (default: echo request)
    #[arg(long = "type", value_name = "N")]
    kind: Option<u8>,
    /// ICMP code (default: 0)
    #[arg(long, value_name = "N")]
    code: Option<u8>,
    /// Ask this policy file instead of the running gateway
    #[arg(long, value_name = "POLICY")]
    policy: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments {
        from,
        to,
        protocol,
        kind,
        code,
        ..
    } = *arguments;
    let request = ExplainRequest {
        from,
        to,
        protocol,
        kind,
        code,
    };
    if let Err(wrong) = request.check() {
        return Err(Failure::Usage(wrong));
    }
    let explanation = match &arguments.policy {
        Some(path) => ask_file(path, &request)?,
        None => arguments
            .socket
            .connect()?
            .request(&Command::Explain(request))?,
    };
    if arguments.json {
        return print_json(&explanation);
    }
    print_text(&explanation)
}

fn ask_file(path: &Path, request: &ExplainRequest) -> Result<Explanation, Failure> {
    let style = Style::for_stderr();
    let source = Source::read(path).map_err(|report| Failure::message(report.render(style)))?;
    let checked = policy::parse(&source, KnownLinks::Unknown)
        .map_err(|report| Failure::message(report.render(style)))?;
    let links = links_of(&checked.value);
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let snapshot = Compiler::new().compile(&checked.value, &links, Generation(1))?;
    explain(&checked.value, &snapshot, request).map_err(Failure::message)
}

fn print_text(explanation: &Explanation) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let decisive = &explanation.decisive;
    writeln!(out, "{} ({})", decisive.verdict, decisive.reason)?;
    let steps = match explanation.steps.as_slice() {
        [] => std::slice::from_ref(decisive),
        steps => steps,
    };
    for Step {
        verdict,
        interface,
        direction,
        rule,
        detail,
        nearest_misses,
        ..
    } in steps
    {
        let place = match (interface, direction) {
            (Some(interface), Some(direction)) => format!("{direction} of {interface}: "),
            _ => String::new(),
        };
        let rule = rule
            .as_ref()
            .map_or_else(String::new, |rule| format!(" by {rule}"));
        writeln!(out, "  {place}{verdict}{rule}: {detail}")?;
        write_misses(&mut out, nearest_misses)?;
    }
    for note in &explanation.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

fn write_misses(out: &mut impl Write, misses: &[Miss]) -> io::Result<()> {
    if !misses.is_empty() {
        writeln!(out, "    nearest:")?;
    }
    for Miss {
        rule,
        group,
        direction,
        text,
        differs,
    } in misses
    {
        let differs: Vec<&str> = differs.iter().map(|one| one.detail.as_str()).collect();
        let differs = differs.join("; ");
        writeln!(out, "      {rule} `{group}` {direction} {text}: {differs}")?;
    }
    Ok(())
}

/// Reads a protocol's name or number.
pub(super) fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "icmp" => Ok(protocol::ICMP),
        "icmpv6" => Ok(protocol::ICMPV6),
        number => number.parse().map_err(|_bad| {
            format!("`{number}` is no protocol: tcp, udp, icmp, icmpv6 or 0 to 255")
        }),
    }
}
