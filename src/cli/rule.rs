//! `portcullis rule`.

use std::io::{self, Write};
use std::time::Duration;

use super::apply::{ask, millis, parse_duration, say};
use super::{Failure, SocketArguments, print_json};
use crate::control::{Command, RuleAddRequest, RuleChanged, RuleRemoveRequest};
use crate::types;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Add the rules of an entry to a group; in force until the policy file changes
    Add(AddArguments),
    /// Remove rules by their ids, all or none; in force until the policy file changes
    Remove(RemoveArguments),
}

/// Toward or away from the interfaces of the group.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArguments {
    /// The group, by name or id
    group: String,
    /// Which of its rules
    direction: Direction,
    /// An entry as it stands in a policy file: '{ protocol = "tcp", ports = 443, from = "::/0" }'
    entry: String,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArguments {
    /// Ids of rules
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, clap::Args)]
struct CommonArguments {
    /// How long to wait until every worker uses it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(verb: &Verb) -> Result<(), Failure> {
    let (sign, command, common) = match verb {
        Verb::Add(arguments) => {
            let request = RuleAddRequest {
                group: arguments.group.clone(),
                direction: match arguments.direction {
                    Direction::Ingress => types::Direction::Ingress,
                    Direction::Egress => types::Direction::Egress,
                },
                entry: arguments.entry.clone(),
                timeout_ms: millis(arguments.common.timeout),
            };
            ('+', Command::RuleAdd(request), &arguments.common)
        }
        Verb::Remove(arguments) => {
            let request = RuleRemoveRequest {
                ids: arguments.ids.clone(),
                timeout_ms: millis(arguments.common.timeout),
            };
            ('-', Command::RuleRemove(request), &arguments.common)
        }
    };
    let done: RuleChanged = ask(&mut common.socket.connect()?, &command)?;
    say(&done.warnings)?;
    if common.json {
        return print_json(&done);
    }
    let mut out = io::stdout().lock();
    for rule in &done.rules {
        let direction = rule.direction.name();
        let (id, group, text) = (&rule.id, &rule.group, &rule.rule);
        writeln!(out, "{sign} {id} `{group}` {direction} {text}")?;
    }
    let (generation, time) = (done.generation, done.microseconds);
    writeln!(
        out,
        "generation {generation} in force on every worker after {time} µs"
    )?;
    Ok(())
}
