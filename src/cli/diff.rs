//! `portcullis diff OLD NEW`: what traffic one policy allows that the other does not.
//!
//! Exit codes are those of diff(1): 0 the same, 1 different, 2 trouble, so that a script can tell a
//! policy that differs from one that cannot be read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Failure, print_json};
use crate::document::{Source, Style};
use crate::policy::{self, Brief, Diff, KnownLinks, LineKind, Policy};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The policy file to begin with
    old: PathBuf,
    /// The policy file to compare it to
    new: PathBuf,
    /// Print JSON, with every interface and address
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (old, new) = match (read(&arguments.old), read(&arguments.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(old), Err(new)) => return Err(Failure::Trouble(format!("{old}{new}"))),
        (Err(bad), _) | (_, Err(bad)) => return Err(Failure::Trouble(bad)),
    };
    let mut diff = policy::diff(&old, &new).map_err(|error| Failure::Trouble(error.to_string()))?;
    if arguments.json {
        print_json(&diff)?;
    } else {
        let mut out = io::stdout().lock();
        diff.shorten(Brief::READABLE);
        write(&diff, Style::for_stdout(), &mut out)?;
        writeln!(out, "{}", diff.summary())?;
    }
    if diff.same {
        Ok(())
    } else {
        Err(Failure::Silent)
    }
}

/// Reads a policy; what is wrong with it as people read it.
fn read(path: &Path) -> Result<Policy, String> {
    let style = Style::for_stderr();
    let source = Source::read(path).map_err(|report| report.render(style))?;
    let checked =
        policy::parse(&source, KnownLinks::Unknown).map_err(|report| report.render(style))?;
    Ok(checked.value)
}

/// Writes what differs: green what is gained, red what is lost.
pub(super) fn write(diff: &Diff, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let is_colored = matches!(style, Style::Graphical { color: true, .. });
    for line in diff.lines() {
        let color = match line.kind {
            LineKind::Gained => Some(32),
            LineKind::Lost => Some(31),
            LineKind::Enforcement => Some(33),
            LineKind::Interfaces | LineKind::More => None,
        };
        match color.filter(|_| is_colored) {
            Some(color) => writeln!(out, "\x1b[{color}m{}\x1b[0m", line.text)?,
            None => writeln!(out, "{}", line.text)?,
        }
    }
    Ok(())
}
