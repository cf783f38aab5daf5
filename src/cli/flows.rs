//! `portcullis flows`.

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;

use super::{Failure, SocketArguments};
use crate::control::{Command, Endpoint, FlowList, FlowRow, FlowsRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only flows of this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Only flows with this address at either end
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// At most so many; 0 = all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// End the flows that are listed: their next packets are judged as first ones
    #[arg(long)]
    end: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut client = arguments.socket.connect()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut request = FlowsRequest {
        interface: arguments.interface.clone(),
        address: arguments.address,
        limit: arguments.limit,
        from: None,
        end: arguments.end,
    };
    let mut count = 0_usize;
    // Printed as it comes: a full table is more than memory should hold. Bound: each answer's
    // `next` is further on.
    loop {
        let list: FlowList = client.request(&Command::Flows(request.clone()))?;
        if count == 0 && request.from.is_none() {
            begin(&mut out, arguments.json)?;
        }
        for row in &list.flows {
            if arguments.json {
                write_json(&mut out, row, count)?;
            } else {
                write_row(&mut out, row)?;
            }
            count += 1;
        }
        let left = arguments.limit.saturating_sub(count);
        if list.next.is_none() || (arguments.limit != 0 && left == 0) {
            break;
        }
        request.limit = left;
        request.from = list.next;
    }
    if arguments.json {
        writeln!(out, "{}]", if count == 0 { "" } else { "\n" })?;
    }
    out.flush()?;
    if !arguments.json {
        let what = if arguments.end {
            "flows ended"
        } else {
            "flows"
        };
        writeln!(io::stderr(), "{count} {what}")?;
    }
    Ok(())
}

fn begin(out: &mut impl Write, json: bool) -> io::Result<()> {
    if json {
        return write!(out, "[");
    }
    writeln!(
        out,
        "{:<8} {:<16} {:<8} {:<46} {:<46} {:<12} {:>7} {:>10} {:>10}",
        "PROTO",
        "INTERFACE",
        "OPENED",
        "SOURCE",
        "DESTINATION",
        "STATE",
        "AGE s",
        "PACKETS",
        "REPLIES"
    )
}

/// One element of a JSON array, after `index` others.
fn write_json(out: &mut impl Write, row: &FlowRow, index: usize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(row)?;
    let comma = if index == 0 { "" } else { "," };
    write!(out, "{comma}\n  {}", text.replace('\n', "\n  "))?;
    Ok(())
}

fn write_row(out: &mut impl Write, row: &FlowRow) -> io::Result<()> {
    let source = Endpoint {
        address: row.source,
        port: Some(row.source_port),
    };
    let destination = Endpoint {
        address: row.destination,
        port: Some(row.destination_port),
    };
    writeln!(
        out,
        "{:<8} {:<16} {:<8} {:<46} {:<46} {:<12} {:>7.0} {:>10} {:>10}",
        row.protocol,
        row.interface.as_deref().unwrap_or("-"),
        row.direction,
        source.to_string(),
        destination.to_string(),
        row.state,
        row.age_seconds,
        row.packets,
        row.reply_packets
    )
}
