//! `portcullis replay`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Failure;
use crate::clock::Tick;
use crate::compile::Compiler;
use crate::config::{self, Config};
use crate::conntrack::Shard;
use crate::control::links_of;
use crate::document::{Source, Style};
use crate::gateway::{pipeline_config, shard_config};
use crate::pipeline::{LinkRules, PipelineConfig, Resolved};
use crate::policy::{self, KnownLinks};
use crate::port::{Capture, CaptureWriter, CapturedFrame};
use crate::replay::{LinkDevices, Replay};
use crate::snapshot::Snapshot;
use crate::types::{Generation, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The policy file
    #[arg(long, value_name = "POLICY")]
    policy: PathBuf,
    /// The capture: pcap or pcapng, Ethernet
    #[arg(long, value_name = "IN")]
    pcap: PathBuf,
    /// Write the frames that pass to this pcap file
    #[arg(long, value_name = "OUT.pcap")]
    allowed: Option<PathBuf>,
    /// Write a verdict for each frame to this file, a JSON object a line; - is stdout
    #[arg(long, value_name = "OUT.jsonl")]
    verdicts: Option<PathBuf>,
    /// Take links, conntrack and exempt settings from this gateway file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One line of `--verdicts`.
#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    time: String,
    interface: Option<&'a str>,
    direction: Option<&'a str>,
    verdict: &'a str,
    reason: &'a str,
    rule: Option<&'a str>,
    group: Option<&'a str>,
}

/// What `replay` is run with.
struct Setting {
    snapshot: Snapshot,
    pipeline: PipelineConfig,
    conntrack: config::Conntrack,
    devices: Vec<LinkDevices>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let setting = read_setting(arguments)?;
    // A capture is replayed alike each time: the secret that shards need against attackers who
    // see their own packets' fate is of no use here.
    let shard = Shard::new(&shard_config(&setting.conntrack, 1, [0x5eed, 1]), Tick(0));
    let mut replay = Replay::new(
        &setting.pipeline,
        &setting.snapshot,
        shard,
        &setting.devices,
    );
    let capture = Capture::open(&arguments.pcap)?;
    spare_inputs(arguments)?;
    let allowed = match &arguments.allowed {
        Some(path) => Some(CaptureWriter::new(BufWriter::new(create(path)?))?),
        None => None,
    };
    let verdicts = match &arguments.verdicts {
        Some(path) => Some(open_verdicts(path)?),
        None => None,
    };
    let mut sink = Sink {
        snapshot: &setting.snapshot,
        allowed,
        verdicts,
        totals: BTreeMap::new(),
        count: 0,
        failed: None,
    };
    for frame in capture {
        replay.judge(frame?, &mut |frame, outcome| sink.take(frame, outcome));
        sink.fail()?;
    }
    replay.finish(&mut |frame, outcome| sink.take(frame, outcome));
    sink.fail()?;
    let Sink {
        allowed,
        verdicts,
        totals,
        count,
        ..
    } = sink;
    if let Some(mut out) = verdicts {
        out.flush()?;
    }
    if let Some(writer) = allowed {
        writer.finish()?;
    }
    // With the verdicts on stdout the summary would be among them.
    if arguments.verdicts.as_deref() == Some(Path::new("-")) {
        write_summary(&mut io::stderr().lock(), count, &totals, &replay)?;
    } else {
        write_summary(&mut io::stdout().lock(), count, &totals, &replay)?;
    }
    Ok(())
}

/// Where verdicts go.
struct Sink<'a> {
    snapshot: &'a Snapshot,
    allowed: Option<CaptureWriter<BufWriter<File>>>,
    verdicts: Option<Box<dyn Write>>,
    totals: BTreeMap<(&'static str, &'static str), u64>,
    count: u64,
    /// The first failure; nothing is written after it.
    failed: Option<Failure>,
}

impl Sink<'_> {
    fn take(&mut self, frame: &CapturedFrame, outcome: &Resolved) {
        let key = (outcome.verdict.name(), outcome.verdict.reason());
        *self.totals.entry(key).or_default() += 1;
        self.count += 1;
        if self.failed.is_none()
            && let Err(failure) = self.write(frame, outcome)
        {
            self.failed = Some(failure);
        }
    }

    fn write(&mut self, frame: &CapturedFrame, outcome: &Resolved) -> Result<(), Failure> {
        if let (Some(writer), Verdict::Pass(_)) = (&mut self.allowed, outcome.verdict) {
            writer.write(frame)?;
        }
        if let Some(out) = &mut self.verdicts {
            serde_json::to_writer(&mut *out, &line(frame, outcome, self.snapshot))?;
            out.write_all(b"\n")?;
        }
        progress(self.count)?;
        Ok(())
    }

    fn fail(&mut self) -> Result<(), Failure> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

fn write_summary(
    out: &mut impl Write,
    count: u64,
    totals: &BTreeMap<(&str, &str), u64>,
    replay: &Replay<'_>,
) -> io::Result<()> {
    writeln!(out, "{count} frames")?;
    for ((verdict, reason), number) in totals {
        writeln!(out, "  {verdict:<5} {reason:<12} {number}")?;
    }
    let stats = replay.shard().stats();
    writeln!(
        out,
        "{} flows at the end, {} refused",
        stats.flows, stats.refused
    )
}

/// Long captures show that they are under way.
fn progress(count: u64) -> io::Result<()> {
    const EVERY: u64 = 1_000_000;
    if count.is_multiple_of(EVERY) && io::stderr().is_terminal() {
        write!(io::stderr(), "\r{} M frames", count / EVERY)?;
    }
    Ok(())
}

fn line<'a>(frame: &CapturedFrame, outcome: &Resolved, snapshot: &'a Snapshot) -> Line<'a> {
    let interface = outcome
        .interface
        .and_then(|slot| snapshot.interface_by_slot(slot));
    let interface = interface.and_then(|interface| snapshot.interface(interface));
    let rule = outcome.rule.and_then(|slot| snapshot.rule(slot));
    Line {
        index: frame.index,
        time: rfc3339(frame),
        interface: interface.map(|interface| &*interface.name),
        direction: outcome.direction.map(crate::types::Direction::name),
        verdict: outcome.verdict.name(),
        reason: outcome.verdict.reason(),
        rule: rule.map(|rule| rule.id.as_str()),
        group: rule.map(|rule| &*rule.group.name),
    }
}

/// `2026-11-23T12:00:00.000000000Z`, always nine digits.
fn rfc3339(frame: &CapturedFrame) -> String {
    let seconds = i64::try_from(frame.time.as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let nanoseconds = frame.time.subsec_nanos();
    format!("{}.{nanoseconds:09}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

fn open_verdicts(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    Ok(Box::new(BufWriter::new(create(path)?)))
}

/// Refuses to write over what is read, or to write two things to one file.
fn spare_inputs(arguments: &Arguments) -> Result<(), Failure> {
    let identity = |path: &Path| {
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        found.map(|found| (found.dev(), found.ino()))
    };
    let outputs = [&arguments.allowed, &arguments.verdicts];
    let outputs: Vec<&PathBuf> = outputs.into_iter().flatten().collect();
    let mut taken = vec![identity(&arguments.pcap), identity(&arguments.policy)];
    taken.extend(arguments.config.iter().map(|path| identity(path)));
    for path in &outputs {
        let own = identity(path);
        if own.is_some() && taken.contains(&own) {
            let path = path.display();
            return Err(Failure::Usage(format!(
                "{path} is read, or written to, already: name another file"
            )));
        }
        taken.push(own);
    }
    match outputs.as_slice() {
        [one, other] if one == other => Err(Failure::Usage(format!(
            "{} cannot have both the frames and the verdicts",
            one.display()
        ))),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    let failed = |error| Failure::message(format!("cannot write {}: {error}", path.display()));
    File::create(path).map_err(failed)
}

fn read_setting(arguments: &Arguments) -> Result<Setting, Failure> {
    let style = Style::for_stderr();
    let drawn = |report: crate::document::Report| Failure::message(report.render(style));
    let config: Option<Config> = match &arguments.config {
        Some(path) => Some(config::load(path).map_err(drawn)?.value),
        None => None,
    };
    let source = Source::read(&arguments.policy).map_err(drawn)?;
    let known = config.as_ref().map(Config::link_names);
    let known_links = known
        .as_ref()
        .map_or(KnownLinks::Unknown, |names| KnownLinks::Names(names));
    let policy = policy::parse(&source, known_links).map_err(drawn)?.value;
    let links = known.unwrap_or_else(|| links_of(&policy));
    let names: Vec<&str> = links.iter().map(String::as_str).collect();
    let snapshot = Compiler::new().compile(&policy, &names, Generation(1))?;
    let pipeline = config.as_ref().map_or_else(
        || PipelineConfig {
            links: vec![LinkRules::default(); links.len()],
            ..Default::default()
        },
        pipeline_config,
    );
    let devices = config.as_ref().map_or_else(Vec::new, |config| {
        let pair = |link: &config::Link| LinkDevices {
            names: [link.inside.clone(), link.outside.clone()],
        };
        config.links.iter().map(pair).collect()
    });
    let conntrack = config.map_or_else(config::Conntrack::default, |config| config.conntrack);
    Ok(Setting {
        snapshot,
        pipeline,
        conntrack,
        devices,
    })
}
