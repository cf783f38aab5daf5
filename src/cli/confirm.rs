//! `portcullis confirm`.

use std::io::{self, Write};

use super::{AskArguments, Failure};
use crate::control::{Command, Confirmed};

pub(super) fn run(arguments: &AskArguments) -> Result<(), Failure> {
    let Some(Confirmed { generation, saved }) = arguments.ask(&Command::Confirm)? else {
        return Ok(());
    };
    let saved = if saved { " and saved" } else { "" };
    writeln!(
        io::stdout().lock(),
        "generation {generation} is confirmed{saved}"
    )?;
    Ok(())
}
