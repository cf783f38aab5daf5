//! `portcullis confirm`.

use std::io::{self, Write};

use super::{Failure, SocketArguments, print_json};
use crate::control::{Command, Confirmed};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let confirmed: Confirmed = arguments.socket.connect()?.request(&Command::Confirm)?;
    if arguments.json {
        return print_json(&confirmed);
    }
    let Confirmed { generation, saved } = confirmed;
    let saved = if saved { " and saved" } else { "" };
    writeln!(
        io::stdout().lock(),
        "generation {generation} is confirmed{saved}"
    )?;
    Ok(())
}
