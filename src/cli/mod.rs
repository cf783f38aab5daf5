//! The command line: one file a command. Results on stdout, progress and errors on stderr; exit
//! code 0 for success, 1 for a refusal or failure, 2 for a usage error.
#![deny(unsafe_code)]

mod apply;
mod check;
mod confirm;
mod detach;
mod diff;
mod explain;
mod flows;
mod history;
mod replay;
mod rollback;
mod rule;
mod run;
mod status;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::control::{Client, ClientError, Command};

/// AWS-style security groups on an AF_XDP wire.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway in the foreground
    Run(run::Arguments),
    /// Take the gateway's XDP programs off ports that no gateway runs
    Detach(detach::Arguments),
    /// Validate gateway and policy files
    Check(CheckArguments),
    /// Put a policy in force on the running gateway
    Apply(apply::Arguments),
    /// Keep the policy that `apply --confirm-within` put in force
    Confirm(AskArguments),
    /// Change single rules of the running gateway's policy
    #[command(subcommand)]
    Rule(rule::Verb),
    /// The versions of the policy that the running gateway keeps
    History(AskArguments),
    /// Go back to a former version of the policy
    Rollback(rollback::Arguments),
    /// Say what traffic one policy allows that the other does not: exit code 0 none, 1 some
    Diff(diff::Arguments),
    /// Say what would become of a packet, and why
    Explain(explain::Arguments),
    /// Run a capture through the pipeline
    Replay(replay::Arguments),
    /// Health and counters of the running gateway
    Status(AskArguments),
    /// Live flows of the running gateway
    Flows(flows::Arguments),
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// Gateway or policy files, told apart by their content
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// How to find the running gateway.
#[derive(Debug, clap::Args)]
struct SocketArguments {
    /// The gateway's control socket
    #[arg(
        long,
        value_name = "PATH",
        env = "PORTCULLIS_SOCKET",
        default_value = "/run/portcullis/control.sock"
    )]
    socket: PathBuf,
}

impl SocketArguments {
    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket)
    }
}

/// What commands take that ask the running gateway one thing.
#[derive(Debug, clap::Args)]
struct AskArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArguments,
}

impl AskArguments {
    /// The answer, to be said to people; `None` where it has been printed as JSON.
    fn ask<T>(&self, command: &Command) -> Result<Option<T>, Failure>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let answer: T = self.socket.connect()?.request(command)?;
        if self.json {
            print_json(&answer)?;
            return Ok(None);
        }
        Ok(Some(answer))
    }
}

/// What a command ends with, when it fails: a line for stderr, or what it has said already.
#[derive(Debug)]
enum Failure {
    /// One line (or a drawn report).
    Message(String),
    /// Arguments that each may be, but not together: as clap says it, exit code 2.
    Usage(String),
    /// One line (or drawn reports) of a command whose exit code 1 is an answer: exit code 2.
    Trouble(String),
    /// Said already; only the exit code is left.
    Silent,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self::Message(text)
    }
}

impl Failure {
    fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Detach(arguments) => detach::run(&arguments),
        Verb::Check(arguments) => check_files(&arguments.files),
        Verb::Apply(arguments) => apply::run(&arguments),
        Verb::Confirm(arguments) => confirm::run(&arguments),
        Verb::Rule(verb) => rule::run(&verb),
        Verb::History(arguments) => history::run(&arguments),
        Verb::Rollback(arguments) => rollback::run(&arguments),
        Verb::Diff(arguments) => diff::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Replay(arguments) => replay::run(&arguments),
        Verb::Status(arguments) => status::run(&arguments),
        Verb::Flows(arguments) => flows::run(&arguments),
        Verb::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Silent) => ExitCode::FAILURE,
        Err(Failure::Usage(text)) => {
            let error = Arguments::command().error(ErrorKind::ArgumentConflict, text);
            // Nobody reads stderr: there is nowhere left to say so.
            let _unheard = error.print();
            ExitCode::from(2)
        }
        Err(Failure::Message(text)) if is_broken_pipe(&text) => ExitCode::SUCCESS,
        Err(Failure::Trouble(text)) => {
            // Nobody reads stderr: there is nowhere left to say so.
            let _unheard = writeln!(io::stderr(), "portcullis: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Message(text)) => {
            // Nobody reads stderr: there is nowhere left to say so.
            let _unheard = writeln!(io::stderr(), "portcullis: {text}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn is_broken_pipe(text: &str) -> bool {
    text == io::Error::from_raw_os_error(32).to_string()
}

fn check_files(files: &[PathBuf]) -> Result<(), Failure> {
    let style = crate::document::Style::for_stdout();
    match check::run(files, style, &mut io::stdout().lock())? {
        check::Outcome::Good => Ok(()),
        check::Outcome::Bad => Err(Failure::Silent),
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "portcullis", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}

/// Writes a value as one JSON document and a line end.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        says_what_it_is(&Arguments::command());
    }

    fn says_what_it_is(parent: &clap::Command) {
        for command in parent.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(
                    argument.get_help().is_some(),
                    "{} {name}",
                    command.get_name()
                );
            }
            says_what_it_is(command);
        }
    }
}
