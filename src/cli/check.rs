//! `portcullis check FILE…`: validates gateway and policy files.
//!
//! What a file is shows in its content, since people name files as they like. A gateway file brings
//! the policy that it names along, which then is checked against the links that there are. A policy
//! is compiled too: what a gateway would refuse for its size is refused here in the same words.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::compile::Compiler;
use crate::config::{self, Config};
use crate::control::links_of;
use crate::document::{self, Diagnostic, Diagnostics, Report, Source, Style};
use crate::policy::{self, KnownLinks, Policy};
use crate::types::Generation;

/// Whether all files were good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of them.
    Good,
    /// At least one was not.
    Bad,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Gateway,
    Policy,
}

/// Checks the files one after the other: problems and warnings as they are found, then a line for
/// each good file.
///
/// # Errors
/// If the output cannot be written.
pub(super) fn run(files: &[PathBuf], style: Style, out: &mut dyn Write) -> io::Result<Outcome> {
    let mut outcome = Outcome::Good;
    for file in files {
        let checked = match Source::read(file) {
            Ok(source) => check(&source, style, out)?,
            Err(report) => bad(&report, style, out)?,
        };
        if checked == Outcome::Bad {
            outcome = Outcome::Bad;
        }
    }
    Ok(outcome)
}

fn check(source: &Source, style: Style, out: &mut dyn Write) -> io::Result<Outcome> {
    match file_kind(source) {
        Ok(FileKind::Policy) => check_policy(source, KnownLinks::Unknown, style, out),
        Ok(FileKind::Gateway) => check_gateway(source, style, out),
        Err(report) => bad(&report, style, out),
    }
}

/// Tells the two kinds of files apart by their keys.
fn file_kind(source: &Source) -> Result<FileKind, Report> {
    let mut diagnostics = Diagnostics::new();
    let document = document::read(source, &mut diagnostics);
    let entries = document.root().entries();
    let first_of = |keys: &[&str]| {
        entries
            .iter()
            .find(|(name, _)| keys.contains(&name.text))
            .map(|(name, _)| name.clone())
    };
    let problem = match (first_of(&config::KEYS), first_of(&policy::KEYS)) {
        (Some(_), None) => return Ok(FileKind::Gateway),
        (None, Some(_)) => return Ok(FileKind::Policy),
        (Some(gateway), Some(policy)) => Diagnostic::error(format!(
            "the file has `{}` of a gateway file and `{}` of a policy",
            gateway.text, policy.text
        ))
        .at(policy.span)
        .help("put the two into files of their own; the gateway file names the other")
        .related(gateway.span, "this is of a gateway file"),
        (None, None) if diagnostics.has_errors() => {
            return Err(Report::new(source, diagnostics.into_sorted()));
        }
        (None, None) if entries.is_empty() => Diagnostic::error("the file says nothing").help(
            "a gateway file has `policy` and [[link]], a policy has [security_groups] and \
             [interfaces]",
        ),
        (None, None) => unknown_kind(&entries, &mut diagnostics),
    };
    diagnostics.push(problem);
    Err(Report::new(source, diagnostics.into_sorted()))
}

/// Nothing in the file is known: a misspelled key may be what tells.
fn unknown_kind(
    entries: &[(document::Text<'_>, document::Value<'_>)],
    diagnostics: &mut Diagnostics,
) -> Diagnostic {
    let known = policy::KEYS.iter().chain(&config::KEYS).copied();
    let first = entries.first().map(|(name, _)| name.clone());
    let problem = Diagnostic::error("the file is neither a gateway file nor a policy");
    match first {
        Some(name) => {
            let help = document::alternatives(name.text, known, diagnostics);
            problem.at(name.span).label("not known").help(help)
        }
        None => problem,
    }
}

fn check_policy(
    source: &Source,
    links: KnownLinks<'_>,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<Outcome> {
    match policy::parse(source, links) {
        Ok(checked) => {
            write_report(&checked.warnings, style, out)?;
            if let Err(report) = compile(source, &checked.value, links, Compiler::new()) {
                return bad(&report, style, out);
            }
            write_report(&warn_of_empty(source, &checked.value), style, out)?;
            writeln!(
                out,
                "{}: OK, {}",
                source.name(),
                policy_summary(&checked.value)
            )?;
            Ok(Outcome::Good)
        }
        Err(report) => bad(&report, style, out),
    }
}

/// Compiles a policy for these links, or for those that it names.
fn compile(
    source: &Source,
    policy: &Policy,
    links: KnownLinks<'_>,
    mut compiler: Compiler,
) -> Result<(), Report> {
    let links = match links {
        KnownLinks::Names(names) => names.to_vec(),
        KnownLinks::Unknown => links_of(policy),
    };
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    match compiler.compile(policy, &links, Generation(1)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Report::new(
            source,
            vec![Diagnostic::error(error.to_string())],
        )),
    }
}

/// A policy without interfaces is good as a document, and still no gateway takes it just so.
fn warn_of_empty(source: &Source, policy: &Policy) -> Report {
    let warning = Diagnostic::warning("the policy has no interface")
        .help("add [interfaces.NAME], else a gateway refuses it without --allow-empty");
    let warning = (!policy.has_interfaces()).then_some(warning);
    Report::new(source, warning.into_iter().collect())
}

/// Checks a gateway file, and, once its links are known, the policy that it names.
fn check_gateway(source: &Source, style: Style, out: &mut dyn Write) -> io::Result<Outcome> {
    let checked = match config::parse(source) {
        Ok(checked) => checked,
        Err(report) => return bad(&report, style, out),
    };
    write_report(&checked.warnings, style, out)?;
    write_report(&checked.notes, style, out)?;
    let config = checked.value;
    writeln!(out, "{}: OK, {}", source.name(), config_summary(&config))?;
    let links = config.link_names();
    match read_policy_of(source, &config.policy) {
        Ok(policy) => check_policy(&policy, KnownLinks::Names(&links), style, out),
        Err(report) => bad(&report, style, out),
    }
}

/// Reads the policy of a gateway file; where it cannot be read, the gateway file's line that names
/// it is what has to be mended.
fn read_policy_of(gateway: &Source, path: &Path) -> Result<Source, Report> {
    Source::read(path).map_err(|report| {
        let mut diagnostics = Diagnostics::new();
        let document = document::read(gateway, &mut diagnostics);
        let unreadable = report.diagnostics().iter().all(|one| one.span.is_none());
        match document.root().value("policy") {
            Some(value) if unreadable => {
                let problem = Diagnostic::error(format!("the policy cannot be used: {report}"))
                    .at(value.span())
                    .help("name a file that is there; the path is relative to this file");
                Report::new(gateway, vec![problem])
            }
            Some(_) | None => report,
        }
    })
}

fn policy_summary(policy: &Policy) -> String {
    let count = policy.count();
    format!(
        "policy with {}, {}, {}",
        counted(count.groups, "group"),
        counted(count.rules, "rule"),
        counted(count.interfaces, "interface")
    )
}

fn config_summary(config: &Config) -> String {
    let workers = match config.workers.cores.len() {
        0 => "default workers".to_owned(),
        count => counted(count, "worker"),
    };
    format!(
        "gateway with {}, {workers}",
        counted(config.links.len(), "link")
    )
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn write_report(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(report.render(style).as_bytes())
}

/// Prints what refuses a file.
fn bad(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<Outcome> {
    write_report(report, style, out)?;
    Ok(Outcome::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MonotonicClock;
    use crate::compile::sample::worst;
    use crate::control::{Intent, Origin, PolicyState};
    use crate::snapshot::Publisher;
    use crate::sync::Arc;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let process = std::process::id();
            let path = std::env::temp_dir().join(format!("portcullis-check-{process}-{name}"));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    const GATEWAY: &str = "policy = \"policy.toml\"\n[[link]]\nname = \"up\"\ninside = \"a\"\n\
        outside = \"b\"\n";

    /// Outcome and output, with the folder taken out of the latter.
    fn check_files(folder: &Folder, files: &[PathBuf]) -> (Outcome, String) {
        let mut out = Vec::new();
        let outcome = run(files, Style::Plain, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        (
            outcome,
            out.replace(&format!("{}/", folder.0.display()), ""),
        )
    }

    #[test]
    fn good_files_have_a_line_each_with_counts() {
        let folder = Folder::new("good");
        let gateway = folder.write("gateway.toml", GATEWAY);
        let policy = folder.write("policy.toml", "[interfaces.i]\naddresses = \"10.0.0.1\"\n");
        assert_eq!(
            check_files(&folder, std::slice::from_ref(&policy)),
            (
                Outcome::Good,
                "policy.toml: OK, policy with 1 group, 3 rules, 1 interface\n".to_owned()
            )
        );
        assert_eq!(
            check_files(&folder, &[gateway, policy]),
            (
                Outcome::Good,
                "gateway.toml: OK, gateway with 1 link, default workers\n\
                 policy.toml: OK, policy with 1 group, 3 rules, 1 interface\n\
                 policy.toml: OK, policy with 1 group, 3 rules, 1 interface\n"
                    .to_owned()
            )
        );
    }

    #[test]
    fn one_bad_file_is_enough_and_the_others_are_checked_too() {
        let folder = Folder::new("bad");
        let bad = folder.write("bad.toml", "[interfaces.i]\naddresses = 3\n");
        let good = folder.write("good.toml", "[security_groups.web]\ndescription = \"d\"\n");
        let (outcome, out) = check_files(&folder, &[bad, good]);
        assert_eq!(outcome, Outcome::Bad);
        assert!(
            out.starts_with("bad.toml:2:13: error: `addresses` must be a string"),
            "{out}"
        );
        assert!(out.contains("good.toml: OK, policy with 2 groups"), "{out}");
    }

    #[test]
    fn warnings_do_not_make_a_file_bad() {
        let folder = Folder::new("warnings");
        let policy = folder.write("p.toml", "[security_groups.web]\n");
        let (outcome, out) = check_files(&folder, &[policy]);
        assert_eq!(outcome, Outcome::Good);
        assert!(
            out.contains("p.toml: warning: the policy has no interface"),
            "{out}"
        );
        assert!(
            out.starts_with("p.toml:1:18: warning: the security group `web`"),
            "{out}"
        );
        assert!(out.contains("p.toml: OK"), "{out}");
    }

    #[test]
    fn the_policy_of_a_gateway_is_checked_against_its_links() {
        let folder = Folder::new("links");
        let gateway = folder.write("gateway.toml", GATEWAY);
        let text = "[interfaces.i]\naddresses = \"10.0.0.1\"\nlink = \"upp\"\n";
        let policy = folder.write("policy.toml", text);
        let (outcome, out) = check_files(&folder, &[gateway]);
        assert_eq!(outcome, Outcome::Bad);
        assert!(
            out.contains("policy.toml:3:8: error: the gateway has no link `upp`"),
            "{out}"
        );
        assert_eq!(
            check_files(&folder, &[policy]).0,
            Outcome::Good,
            "alone it may name any"
        );
    }

    #[test]
    fn a_policy_that_is_not_there_is_reported_where_it_is_named() {
        let folder = Folder::new("absent");
        let gateway = folder.write("gateway.toml", GATEWAY);
        let (outcome, out) = check_files(&folder, &[gateway, folder.0.join("no.toml")]);
        assert_eq!(outcome, Outcome::Bad);
        assert!(
            out.contains("gateway.toml:1:10: error: the policy cannot be used"),
            "{out}"
        );
        assert!(
            out.contains("no.toml: error: cannot read the file"),
            "{out}"
        );
    }

    #[test]
    fn a_file_that_is_neither_is_said_to_be_so() {
        let folder = Folder::new("neither");
        for (text, part) in [
            ("", "f.toml: error: the file says nothing"),
            ("# nothing\n", "f.toml: error: the file says nothing"),
            (
                "a = 1\n",
                "f.toml:1:1: error: the file is neither a gateway file nor a policy",
            ),
            ("[security_group.a]\n", "did you mean `security_groups`?"),
            (
                "policy = \"p\"\n[interfaces.i]\n",
                "`policy` of a gateway file and `interfaces`",
            ),
            ("= 3\n", "not valid TOML"),
        ] {
            let file = folder.write("f.toml", text);
            let (outcome, out) = check_files(&folder, &[file]);
            assert_eq!(outcome, Outcome::Bad, "{text}");
            assert!(out.contains(part), "{text}\n{out}");
        }
    }

    /// A document of the first rules of a policy's first group, on one interface.
    fn document(policy: &Policy) -> String {
        use crate::policy::{Peer, Service};
        use std::fmt::Write;

        let mut text = "[interfaces.i]\naddresses = \"10.0.0.9\"\ngroups = [\"g\"]\n\
                        [security_groups.g]\ndescription = \"d\"\negress = []\ningress = [\n"
            .to_owned();
        for rule in policy.groups[0].ingress.iter().take(1_000) {
            let net = match rule.peer {
                Peer::Cidr4(net) => net.to_string(),
                Peer::Cidr6(net) => net.to_string(),
                _ => panic!("no prefix"),
            };
            let Service::Tcp(ports) = rule.service else {
                panic!("no ports");
            };
            let ports = format!("{}-{}", ports.from, ports.to);
            writeln!(
                text,
                "{{ protocol = \"tcp\", ports = \"{ports}\", from = \"{net}\" }},"
            )
            .unwrap();
        }
        text + "]\n"
    }

    #[test]
    fn what_a_gateway_refuses_for_its_size_is_refused_in_the_same_words() {
        let folder = Folder::new("size");
        for (name, policy) in [
            ("distinct", worst::all_distinct(1_000)),
            ("overlapping", worst::overlapping(1_000)),
            ("deepest", worst::deepest(2, 4)),
            ("every-port", worst::every_port()),
        ] {
            let file = folder.write(&format!("{name}.toml"), &document(&policy));
            let (outcome, out) = check_files(&folder, std::slice::from_ref(&file));
            assert_eq!(outcome, Outcome::Good, "{out}");
            let source = Source::read(&file).unwrap();
            let policy = policy::parse(&source, KnownLinks::Unknown).unwrap().value;
            let small = || Compiler::with_bytes(20_000);
            let refused = compile(&source, &policy, KnownLinks::Unknown, small());
            let refused = refused.unwrap_err().render(Style::Plain);
            let mut compiler = small();
            let empty = compiler.compile(&Policy::default(), &["link"], Generation(1));
            let (publisher, _) = Publisher::new(Arc::new(empty.unwrap()), 0);
            let clock = MonotonicClock::start();
            let links = vec!["link".to_owned()];
            let time = std::time::Duration::ZERO;
            let state = PolicyState::new(Policy::default(), compiler, publisher, links, time);
            let (origin, intent) = (Origin::File, Intent::Change);
            let published = state.publish(policy, origin, intent, Generation(0), &clock);
            let words = published.unwrap_err().to_string();
            assert_eq!(refused, format!("{}: error: {words}\n", source.name()));
            let reason = "the compiled policy would take over 20000 bytes, most of them for its ";
            assert!(words.starts_with(reason), "{words}");
            assert_eq!(state.snapshot().generation(), Generation(1));
        }
    }

    #[test]
    fn every_file_in_configs_is_good() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let mut files = Vec::new();
        for folder in [configs.clone(), configs.join("demo")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                files.extend(
                    path.extension()
                        .is_some_and(|one| one == "toml")
                        .then_some(path),
                );
            }
        }
        assert!(files.len() >= 4);
        let mut out = Vec::new();
        let outcome = run(&files, Style::Plain, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(outcome, Outcome::Good, "{out}");
        assert!(
            out.lines().all(|line| line.contains(": OK, ")),
            "no warnings\n{out}"
        );
    }
}
