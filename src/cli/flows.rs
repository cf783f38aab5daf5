//! `portcullis flows`.

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::time::Duration;

use super::apply::parse_duration;
use super::explain::parse_protocol;
use super::{Failure, SocketArguments};
use crate::conntrack::FlowState;
use crate::control::{Command, Endpoint, FlowFilter, FlowList, FlowRow, FlowsRequest, PeerPrefix};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// At most so many; 0 = all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// End the flows that match: their next packets are judged as first ones
    #[arg(long)]
    end: bool,
    /// With --end and without a filter: end every flow
    #[arg(long, requires = "end")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

/// Which flows; all that is given has to hold.
#[derive(Debug, clap::Args)]
struct FilterArguments {
    /// Only flows of this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Only flows that a rule of this group admitted
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only flows with this address at either end
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Only flows whose other end, seen from the interface, is in here
    #[arg(long, value_name = "IP|CIDR")]
    peer: Option<PeerPrefix>,
    /// Only TCP and UDP flows with this port at either end
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Only flows of tcp, udp, icmp, icmpv6 or a protocol's number
    #[arg(long, value_name = "P", value_parser = parse_protocol)]
    protocol: Option<u8>,
    /// Only flows in this state
    #[arg(long, value_parser = FlowState::ALL.map(FlowState::name))]
    state: Option<String>,
    /// Only flows that were opened so long ago, or longer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Only flows that were opened less long ago
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    younger_than: Option<Duration>,
}

impl FilterArguments {
    fn filter(&self) -> FlowFilter {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        FlowFilter {
            interface: self.interface.clone(),
            group: self.group.clone(),
            address: self.address,
            peer: self.peer,
            port: self.port,
            protocol: self.protocol,
            state: self.state.clone(),
            older_than_ms: self.older_than.map(millis),
            younger_than_ms: self.younger_than.map(millis),
        }
    }
}

impl Arguments {
    fn request(&self) -> Result<FlowsRequest, Failure> {
        let filter = self.filter.filter();
        match (filter.is_empty(), self.end, self.all) {
            (true, true, false) => {
                let wanted = "--end wants a filter that says which flows, or --all";
                Err(Failure::Usage(wanted.to_owned()))
            }
            (false, _, true) => {
                let wanted = "--all goes with no filter: the filter says which flows";
                Err(Failure::Usage(wanted.to_owned()))
            }
            _ => Ok(FlowsRequest {
                filter,
                limit: self.limit,
                from: None,
                end: self.end,
                all: self.all,
            }),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut request = arguments.request()?;
    let mut client = arguments.socket.connect()?;
    let mut out = BufWriter::new(io::stdout().lock());
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
    if arguments.end {
        writeln!(io::stderr(), "{count} flows ended")?;
    } else if !arguments.json {
        writeln!(io::stderr(), "{count} flows")?;
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
