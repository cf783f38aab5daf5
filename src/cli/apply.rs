//! `portcullis apply`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Failure, SocketArguments, diff, print_json};
use crate::control::{Applied, ApplyRequest, Client, ClientError, Command, Confirmation};
use crate::document::{Problem, Source, Style};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The policy file
    policy: PathBuf,
    /// Change nothing; say what would change, traffic gained and lost, and how many live flows it
    /// would end or no longer admit
    #[arg(long)]
    dry_run: bool,
    /// Replace the gateway's configured policy file too
    #[arg(long, conflicts_with = "dry_run")]
    save: bool,
    /// Go back by itself unless `portcullis confirm` comes within this time; `--save` then waits
    /// for it too
    #[arg(long, value_name = "TIME", value_parser = parse_wait, conflicts_with = "dry_run")]
    confirm_within: Option<Duration>,
    /// How long to wait until every worker uses it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Accept a policy without any interface
    #[arg(long)]
    allow_empty: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let source =
        Source::read(&arguments.policy).map_err(|report| Failure::message(report.to_string()))?;
    let request = ApplyRequest {
        name: source.name().to_owned(),
        text: source.text().to_owned(),
        dry_run: arguments.dry_run,
        save: arguments.save,
        timeout_ms: millis(arguments.timeout),
        allow_empty: arguments.allow_empty,
        confirm_within_ms: arguments.confirm_within.map(millis),
    };
    let mut client = arguments.socket.connect()?;
    let applied: Applied = ask(&mut client, &Command::Apply(request))?;
    say(&applied.warnings)?;
    if arguments.json {
        return print_json(&applied);
    }
    let mut out = io::stdout().lock();
    if arguments.dry_run {
        write_dry_run(&applied, &mut out)?;
    } else {
        let what = if applied.unchanged {
            "in force already"
        } else {
            "in force"
        };
        let Applied {
            generation,
            microseconds,
            ..
        } = applied;
        writeln!(
            out,
            "generation {generation} {what} on every worker after {microseconds} µs"
        )?;
        if let Some(confirmation) = &applied.confirmation {
            writeln!(out, "{}", waits(confirmation))?;
        }
    }
    Ok(())
}

/// What would change in the document, in traffic, and for live flows.
fn write_dry_run(applied: &Applied, out: &mut dyn Write) -> io::Result<()> {
    for change in &applied.changes {
        writeln!(out, "{change}")?;
    }
    match (&applied.traffic, &applied.traffic_error) {
        (Some(diff), _) => {
            diff::write(diff, Style::for_stdout(), out)?;
            writeln!(out, "{}", diff.summary())?;
        }
        (None, Some(error)) => writeln!(out, "{error}")?,
        (None, None) => {}
    }
    let count = applied.changes.len();
    let ended = applied.ended_flows.unwrap_or(0);
    let refused = applied.refused_flows.unwrap_or(0);
    writeln!(
        out,
        "{count} changes; {ended} live flows would end, the rules would no longer admit {refused} \
         others"
    )
}

/// Asks for a change; says what is wrong with its document.
pub(super) fn ask<T: DeserializeOwned>(
    client: &mut Client,
    command: &Command,
) -> Result<T, Failure> {
    match client.request(command) {
        Ok(done) => Ok(done),
        Err(ClientError::Refused(refusal)) => {
            say(&refusal.problems)?;
            Err(Failure::message(refusal.message))
        }
        Err(error) => Err(error.into()),
    }
}

/// What people are told of a change that waits.
pub(super) fn waits(confirmation: &Confirmation) -> String {
    let Confirmation {
        generation,
        rollback_to,
        left_ms,
        deadline,
        saves,
    } = confirmation;
    let saves = if *saves { "; then it is saved too" } else { "" };
    let seconds = left_ms.div_ceil(1000);
    format!(
        "generation {generation} waits for `portcullis confirm` until {deadline} ({seconds} s)\
         {saves}; else {rollback_to} comes back"
    )
}

pub(super) fn say(problems: &[Problem]) -> Result<(), Failure> {
    let mut err = io::stderr().lock();
    for problem in problems {
        writeln!(err, "{problem}")?;
    }
    Ok(())
}

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a time that is not zero.
fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("nobody confirms in no time; write 60s".to_owned()),
        time => Ok(time),
    }
}

/// Reads `5s`, `500ms`, `2m` or plain seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_bad| format!("`{text}` is no time; write 5s"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        unit => Err(format!(
            "`{unit}` is no unit of time; there are ms, s, m and h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "5 s", "-1s", "5d", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_wait("0s").is_err());
        assert_eq!(parse_wait("60s"), Ok(Duration::from_secs(60)));
    }
}
