//! `portcullis history`.

use std::io::{self, Write};

use super::apply::waits;
use super::{AskArguments, Failure};
use crate::control::{Command, History, VersionRow};

pub(super) fn run(arguments: &AskArguments) -> Result<(), Failure> {
    let Some(history) = arguments.ask::<History>(&Command::History)? else {
        return Ok(());
    };
    let mut out = io::stdout().lock();
    for version in &history.versions {
        write_version(&mut out, version)?;
    }
    if let Some(confirmation) = &history.confirmation {
        writeln!(out, "{}", waits(confirmation))?;
    }
    Ok(())
}

fn write_version(out: &mut impl Write, version: &VersionRow) -> io::Result<()> {
    let run = version.first_generation != version.generation;
    let generations = if run {
        format!("{}-{}", version.first_generation, version.generation)
    } else {
        version.generation.to_string()
    };
    let source = match (version.source.as_str(), &version.detail) {
        ("apply", Some(name)) => format!("apply {name}"),
        ("rollback" | "auto-rollback", Some(to)) => format!("{} to {to}", version.source),
        (source, _) => source.to_owned(),
    };
    let changes = match (version.added, version.removed, version.changed) {
        (Some(added), Some(removed), Some(changed)) => format!("+{added} -{removed} ~{changed}"),
        _ => "-".to_owned(),
    };
    let mark = if version.in_force { '*' } else { ' ' };
    writeln!(
        out,
        "{mark} {generations:<9} {}  {source:<22} {changes:<12} {} rules, {} groups, {} interfaces",
        version.time, version.rules, version.groups, version.interfaces
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_line() {
        let version = VersionRow {
            generation: 9,
            first_generation: 4,
            time: "2026-11-24T10:00:00.000Z".to_owned(),
            source: "rule-add".to_owned(),
            detail: None,
            added: Some(6),
            removed: Some(0),
            changed: Some(0),
            rules: 12,
            groups: 2,
            interfaces: 1,
            in_force: true,
        };
        let mut text = Vec::new();
        write_version(&mut text, &version).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "* 4-9       2026-11-24T10:00:00.000Z  rule-add               +6 -0 ~0     12 rules, \
             2 groups, 1 interfaces\n"
        );
    }
}
