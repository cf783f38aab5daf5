//! `portcullis run`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config;
use crate::document::{Report, Source, Style};
use crate::gateway::{self, StartOptions};
use crate::policy::{self, KnownLinks};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/portcullis/gateway.toml"
    )]
    config: PathBuf,
    /// Accept a policy without any interface
    #[arg(long)]
    allow_empty: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let style = Style::for_stderr();
    let drawn = |report: Report| Failure::message(report.render(style));
    let config = config::load(&arguments.config).map_err(drawn)?;
    say(&config.warnings, style);
    say(&config.notes, style);
    let config = config.value;
    let source = Source::read(&config.policy).map_err(drawn)?;
    let links = config.link_names();
    let policy = policy::parse(&source, KnownLinks::Names(&links)).map_err(drawn)?;
    say(&policy.warnings, style);
    if !arguments.allow_empty {
        policy::refuse_empty(&source, &policy.value).map_err(drawn)?;
    }
    let filter =
        EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A reader of the log that goes away costs the log. Said on stderr, as is the default, it
        // would be a panic, and cost the gateway.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let options = StartOptions {
        allow_empty: arguments.allow_empty,
    };
    gateway::run(&config, policy.value, &options)?;
    Ok(())
}

fn say(report: &Report, style: Style) {
    if !report.is_empty() {
        // A gateway runs without anybody who reads its log.
        let _unheard = writeln!(io::stderr(), "{}", report.render(style));
    }
}
