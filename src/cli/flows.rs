//! `portcullis flows`.

use std::io::{self, Write};
use std::net::IpAddr;

use super::{Failure, SocketArguments, print_json};
use crate::control::{Command, Endpoint, FlowRow, FlowsRequest};

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
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let request = FlowsRequest {
        interface: arguments.interface.clone(),
        address: arguments.address,
        limit: arguments.limit,
    };
    let rows: Vec<FlowRow> = arguments
        .socket
        .connect()?
        .request(&Command::Flows(request))?;
    if arguments.json {
        return print_json(&rows);
    }
    let mut out = io::stdout().lock();
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
    )?;
    for row in &rows {
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
        )?;
    }
    writeln!(io::stderr(), "{} flows", rows.len())?;
    Ok(())
}
