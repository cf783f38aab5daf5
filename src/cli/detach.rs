//! `portcullis detach`.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Failure;
use crate::af_xdp::detach;
use crate::config;
use crate::document::Style;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Names of links
    #[arg(value_name = "LINK", required_unless_present = "all")]
    links: Vec<String>,
    /// Every link of the gateway file
    #[arg(long, conflicts_with = "links")]
    all: bool,
    /// The gateway file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/portcullis/gateway.toml"
    )]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let style = Style::for_stderr();
    let config = config::load(&arguments.config)
        .map_err(|report| Failure::message(report.render(style)))?
        .value;
    for wanted in &arguments.links {
        if !config.links.iter().any(|link| link.name == *wanted) {
            let known = config.link_names().join(", ");
            return Err(Failure::message(format!(
                "no link is called `{wanted}`: there are {known}"
            )));
        }
    }
    let mut out = io::stdout().lock();
    let mut failed = false;
    for link in &config.links {
        if !arguments.all && !arguments.links.contains(&link.name) {
            continue;
        }
        for device in [&link.inside, &link.outside] {
            match detach(device, &config.state_dir) {
                Ok(done) => {
                    let program = if done.program {
                        "detached"
                    } else {
                        "had no program of ours"
                    };
                    let restored = match done.restored.as_slice() {
                        [] => String::new(),
                        settings => format!("; put back: {}", settings.join(", ")),
                    };
                    writeln!(out, "{}: {device} {program}{restored}", link.name)?;
                }
                Err(error) => {
                    writeln!(io::stderr(), "portcullis: {}: {device}: {error}", link.name)?;
                    failed = true;
                }
            }
        }
    }
    if failed { Err(Failure::Silent) } else { Ok(()) }
}
