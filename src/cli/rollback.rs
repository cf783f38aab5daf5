//! `portcullis rollback`.

use std::io::{self, Write};
use std::time::Duration;

use super::apply::{millis, parse_duration};
use super::{Failure, SocketArguments, print_json};
use crate::control::{Command, RollbackRequest, RolledBack};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The version's generation, as `history` lists it; without one the version before the one in
    /// force
    generation: Option<u64>,
    /// How long to wait until every worker uses it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let command = Command::Rollback(RollbackRequest {
        generation: arguments.generation,
        timeout_ms: millis(arguments.timeout),
    });
    let done: RolledBack = arguments.socket.connect()?.request(&command)?;
    if arguments.json {
        return print_json(&done);
    }
    let mut out = io::stdout().lock();
    for change in &done.changes {
        writeln!(out, "{change}")?;
    }
    let RolledBack {
        generation,
        content_of,
        unchanged,
        microseconds,
        ..
    } = done;
    if unchanged {
        writeln!(out, "generation {generation} is in force already")?;
    } else {
        writeln!(
            out,
            "generation {generation}, as {content_of} was, in force on every worker after \
             {microseconds} µs"
        )?;
    }
    Ok(())
}
