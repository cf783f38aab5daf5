//! What carries commands out; shared by the control threads.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::answer::{Answer, LIVE_TIMEOUT, answer, full, refused, texts};
use super::command::{Applied, ApplyRequest, Command, Refusal};
use super::deadlines::Deadlines;
use super::explain::explain;
use super::flows;
use super::publish::{Intent, PolicyState, PublishError, Published, View};
use super::rule_changes::{RuleChange, RuleChanges};
use super::status::{ConntrackStatus, LinkStatus, SnapshotStatus, Status, WorkerStatus};
use super::versions::{Origin, Tally};
use crate::clock::{MonotonicClock, Tick};
use crate::document::{Checked, Problem, Report, Source};
use crate::policy::{self, Brief, Change, KnownLinks, Policy};
use crate::snapshot::Snapshot;
use crate::sync::Arc;
use crate::types::{Generation, WorkerId};
use crate::worker::Exchange;

/// What a controller controls.
pub struct ControllerSetup {
    /// The policy in force.
    pub state: PolicyState,
    /// The workers.
    pub exchange: Arc<Exchange>,
    /// Core of each worker.
    pub cores: Vec<usize>,
    /// The configured policy file.
    pub policy_path: PathBuf,
    /// Whether a policy without any interface may come into force from the file.
    pub allow_empty: bool,
    /// How many versions of the policy are kept.
    pub history: usize,
    /// Room for flows, over all shards.
    pub max_flows: u64,
    /// Asks the devices.
    pub links: Box<dyn Fn() -> Vec<LinkStatus> + Send + Sync>,
    /// The gateway's clock.
    pub clock: MonotonicClock,
}

/// Carries commands out; shared by the control threads.
pub struct Controller {
    pub(super) setup: ControllerSetup,
    pub(super) rules: RuleChanges,
    pub(super) deadlines: Deadlines,
    started: Tick,
    /// The policy file as `apply --save` left it.
    saved: Mutex<Option<FileVersion>>,
}

/// Why the policy file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadCause {
    /// The gateway has begun to watch it: what was written since the start is not missed.
    Start,
    /// It was written or replaced.
    File,
    /// SIGHUP.
    Signal,
}

/// Says whether a file is still what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl FileVersion {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            len: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("policy", &self.setup.policy_path)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ControllerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerSetup").finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller of a gateway that forwards.
    #[must_use]
    pub fn new(setup: ControllerSetup) -> Self {
        let started = setup.clock.now();
        setup.state.keep_versions(setup.history);
        Self {
            setup,
            rules: RuleChanges::default(),
            deadlines: Deadlines::default(),
            started,
            saved: Mutex::new(None),
        }
    }

    /// Carries commands out in their order, and hands each answer to `respond` before the next
    /// command; changes of rules that follow one another are published and answered together.
    /// What is no command is refused in its place. Ends early where `respond` says that nobody
    /// reads; `false` then.
    pub fn execute_all(
        &self,
        commands: Vec<Result<Command, Refusal>>,
        respond: &mut dyn FnMut(&[Answer]) -> bool,
    ) -> bool {
        let mut changes = Vec::new();
        for command in commands {
            let command = match command.map(RuleChange::of) {
                Ok(Ok(change)) => {
                    changes.push(change);
                    continue;
                }
                Ok(Err(command)) => Ok(command),
                Err(refusal) => Err(refusal),
            };
            if !respond(&self.change_rules(std::mem::take(&mut changes))) {
                return false;
            }
            let answer = command.and_then(|command| self.execute(*command));
            if !respond(&[answer]) {
                return false;
            }
        }
        respond(&self.change_rules(changes))
    }

    fn execute(&self, command: Command) -> Answer {
        match command {
            Command::Status => answer(&self.status()),
            Command::Apply(request) => answer(&self.apply(&request)?),
            Command::Explain(request) => {
                let (policy, snapshot) = self.setup.state.in_force();
                answer(&explain(&policy, &snapshot, &request).map_err(Refusal::new)?)
            }
            Command::Flows(request) => {
                let state = &self.setup.state;
                let page = flows::list(
                    &self.setup.exchange,
                    &state.snapshot(),
                    state.links(),
                    &request,
                );
                answer(&page.map_err(Refusal::new)?)
            }
            Command::RuleAdd(request) => self.change_rule(RuleChange::Add(request)),
            Command::RuleRemove(request) => self.change_rule(RuleChange::Remove(request)),
            Command::Confirm => answer(&self.confirm()?),
            Command::History => answer(&self.history()),
            Command::Rollback(request) => answer(&self.roll_back(request)?),
        }
    }

    /// Reads the configured policy file and puts it in force; what is wrong goes to the log, and
    /// the policy in force stays.
    pub fn reload(&self, cause: ReloadCause) {
        if cause == ReloadCause::File && self.is_as_saved() {
            // `apply --save` wrote it. Another policy may have been applied since.
            return;
        }
        let path = self.setup.policy_path.display();
        let source = match Source::read(&self.setup.policy_path) {
            Ok(source) => source,
            Err(report) => return log_refused(&report),
        };
        let checked = match self.check(&source, self.setup.allow_empty) {
            Ok(checked) => checked,
            Err(report) => return log_refused(&report),
        };
        let ControllerSetup { state, clock, .. } = &self.setup;
        let waited = state.deadline().is_some();
        let published = match self.publish(checked.value, Origin::File, Intent::Settle) {
            Ok(published) => published,
            Err(error) => {
                return warn!(error = full(&error), %path, "policy refused; the one in force stays");
            }
        };
        let generation = published.generation;
        if waited {
            self.deadlines.wake();
            warn!(%generation, %path, "the policy file ends the wait for a confirmation");
        }
        self.note_changes(&published);
        match state.wait_live(generation, LIVE_TIMEOUT, clock) {
            Ok(()) if published.unchanged && cause == ReloadCause::Start => {}
            Ok(()) if published.unchanged => {
                info!(%generation, %path, "the policy file says what is in force already");
            }
            Ok(()) => info!(%generation, %path, "policy in force"),
            Err(late) => warn!(%path, "policy not yet in force everywhere: {late}"),
        }
    }

    fn publish(
        &self,
        policy: Policy,
        origin: Origin,
        intent: Intent,
    ) -> Result<Published, PublishError> {
        let ControllerSetup {
            state,
            exchange,
            clock,
            ..
        } = &self.setup;
        let published = state.publish(policy, origin, intent, exchange.swept(), clock)?;
        self.look_after();
        Ok(published)
    }

    /// What comes after each policy, and holds nobody up.
    pub(super) fn look_after(&self) {
        // Who sleeps may have connections to end, where the policy took their address.
        self.setup.exchange.wake_all();
        self.return_slots();
    }

    /// Lets the slots that nobody holds any more be used again.
    pub(super) fn return_slots(&self) {
        let ControllerSetup {
            state,
            exchange,
            clock,
            ..
        } = &self.setup;
        state.return_slots(exchange, clock, &mut |slots| {
            let (rules, interfaces) = (slots.rules.len(), slots.interfaces.len());
            debug!(rules, interfaces, "slots of former rules are free again");
        });
    }

    fn is_as_saved(&self) -> bool {
        let saved = *self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.is_some() && saved == FileVersion::of(&self.setup.policy_path).ok()
    }

    fn check(&self, source: &Source, allow_empty: bool) -> Result<Checked<Policy>, Report> {
        let links = self.setup.state.links();
        let checked = policy::parse(source, KnownLinks::Names(links))?;
        if !allow_empty {
            policy::refuse_empty(source, &checked.value)?;
        }
        Ok(checked)
    }

    fn apply(&self, request: &ApplyRequest) -> Result<Applied, Refusal> {
        let source = Source::from_bytes(request.name.clone(), request.text.clone().into_bytes())
            .map_err(|report| refused(&report))?;
        let checked = self
            .check(&source, request.allow_empty)
            .map_err(|report| refused(&report))?;
        let warnings = checked.warnings.problems();
        let mut policy = checked.value;
        let ControllerSetup { state, clock, .. } = &self.setup;
        let refuse = |error: PublishError| {
            Refusal::new(format!(
                "refused, the policy in force stays: {}",
                full(&error)
            ))
        };
        let started = clock.now();
        if request.dry_run {
            policy::share(&state.policy(), &mut policy);
            let next = state
                .try_compile(&policy)
                .map_err(|error| refuse(error.into()))?;
            return self.dry_run(&policy, &next, warnings);
        }
        let origin = Origin::Apply(request.name.clone());
        let published = self
            .publish(policy, origin, request.intent())
            .map_err(refuse)?;
        let pending = state.view().pending;
        let pending = pending.filter(|pending| pending.generation == published.generation);
        if pending.is_some() {
            self.deadlines.wake();
        }
        let Published {
            generation,
            unchanged,
            ..
        } = published;
        let timeout = Duration::from_millis(request.timeout_ms);
        if let Err(late) = state.wait_live(generation, timeout, clock) {
            warn!(
                document = request.name,
                "policy not yet in force everywhere: {late}"
            );
            return Err(Refusal::new(late.to_string()));
        }
        let elapsed = clock.now().since(started);
        info!(%generation, document = request.name, "policy applied");
        if request.save && pending.is_none() {
            self.save(generation, request.text.as_bytes())?;
        }
        Ok(Applied {
            generation: generation.0,
            unchanged,
            microseconds: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            changes: texts(&self.note_changes(&published)),
            ended_flows: None,
            refused_flows: None,
            traffic: None,
            traffic_error: None,
            warnings,
            confirmation: self.confirmation(pending.as_ref()),
        })
    }

    /// What a policy would change, given its compiled form.
    fn dry_run(
        &self,
        policy: &Policy,
        next: &Snapshot,
        warnings: Vec<Problem>,
    ) -> Result<Applied, Refusal> {
        let state = &self.setup.state;
        let effects = flows::count_effects(&self.setup.exchange, next).map_err(Refusal::new)?;
        let in_force = state.policy();
        let (traffic, traffic_error) = match policy::diff(&in_force, policy) {
            Ok(mut diff) => {
                diff.shorten(Brief::SHORT);
                (Some(diff), None)
            }
            Err(error) => (None, Some(full(&error))),
        };
        Ok(Applied {
            generation: state.snapshot().generation().0,
            unchanged: true,
            microseconds: 0,
            changes: changes(&in_force, policy),
            ended_flows: Some(effects.ended),
            refused_flows: Some(effects.refused),
            traffic,
            traffic_error,
            warnings,
            confirmation: None,
        })
    }

    /// Notes in the history what a publication changed.
    fn note_changes(&self, published: &Published) -> Vec<Change> {
        let changes = policy::changes(&published.before, &published.policy);
        if !published.unchanged {
            let tally = Tally::of(&changes);
            self.setup.state.note(published.generation, tally);
        }
        changes
    }

    fn change_rule(&self, change: RuleChange) -> Answer {
        let mut answers = self.change_rules(vec![change]);
        let none = || Err(Refusal::new("the change was lost"));
        answers.pop().unwrap_or_else(none)
    }

    /// Replaces the configured policy file by the document of a generation.
    pub(super) fn save(&self, generation: Generation, document: &[u8]) -> Result<(), Refusal> {
        let path = &self.setup.policy_path;
        let replaced = self.setup.state.while_in_force(generation, || {
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            replace(path, document)?;
            *saved = Some(FileVersion::of(path)?);
            Ok(())
        });
        let path = path.display();
        match replaced {
            Some(Ok(())) => {
                info!(%generation, %path, "policy saved");
                Ok(())
            }
            Some(Err(error)) => {
                let error: io::Error = error;
                Err(Refusal::new(format!(
                    "generation {generation} is in force, but {path} cannot be replaced: {error}"
                )))
            }
            None => Err(Refusal::new(format!(
                "generation {generation} was in force, but another policy is by now: {path} is \
                 not replaced"
            ))),
        }
    }

    fn status(&self) -> Status {
        let now = self.setup.clock.now();
        let uptime = now.since(self.started);
        let View {
            generation,
            generations,
            stats,
            compile_time,
            pending,
        } = self.setup.state.view();
        let snapshot = SnapshotStatus {
            rules: stats.rules as u64,
            groups: stats.groups as u64,
            interfaces: stats.interfaces as u64,
            bytes: stats.bytes as u64,
            compile_microseconds: u64::try_from(compile_time.as_micros()).unwrap_or(u64::MAX),
        };
        let mut conntrack = ConntrackStatus::new(self.setup.max_flows);
        let mut workers = Vec::new();
        for (index, &core) in self.setup.cores.iter().enumerate() {
            let worker = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
            let Some(counters) = self.setup.exchange.counters(worker) else {
                continue;
            };
            let view = counters.view();
            conntrack.add(&view.gauges);
            let used = generations.iter().find(|(id, _, _)| *id == worker);
            // A sleeper loads the current one before its next frame.
            let (used, asleep) =
                used.map_or((generation, false), |(_, used, asleep)| (*used, *asleep));
            workers.push(WorkerStatus::new(core, &view, uptime, used, asleep));
        }
        Status {
            generation: generation.0,
            uptime_seconds: uptime.as_secs(),
            workers,
            links: (self.setup.links)(),
            conntrack,
            snapshot,
            confirmation: self.confirmation(pending.as_ref()),
        }
    }
}

impl ApplyRequest {
    fn intent(&self) -> Intent {
        self.confirm_within_ms.map_or(Intent::Change, |within| {
            let document = self.save.then(|| self.text.as_str().into());
            Intent::Stage(Duration::from_millis(within), document)
        })
    }
}

fn changes(before: &Policy, after: &Policy) -> Vec<String> {
    texts(&policy::changes(before, after))
}

/// Replaces a file in one step: readers see the old content or the new.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = target.with_file_name(name);
    let written = write(&temporary, &target, content);
    if written.is_err() {
        // What there is of it is of no use; the error that is told is the first one.
        let _second_error = fs::remove_file(&temporary);
    }
    written?;
    match target.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write(temporary: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.set_permissions(fs::metadata(target)?.permissions())?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, target)
}

fn log_refused(report: &Report) {
    for problem in report.problems() {
        warn!(%problem, "policy refused; the one in force stays");
    }
}
